//! Ways by which a person is told of problems: a command, mail, a webhook, the desktop.
//!
//! Each way has its own time and fails for itself; whoever asks for a delivery learns what became
//! of each. Text from elsewhere (names of sets, errors) is shown with control characters escaped
//! and never becomes a part of a command line, of a header or of an address. Deliberately absent:
//! when something is told ([`book`](super::book)), and TLS: a webhook is plain HTTP.

use std::io::{Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use data_encoding::BASE64;
use futures::FutureExt;
use http_body_util::Full;
use hyper::header;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::book::{Kind, Notice};
use super::{Problem, Severity};
use crate::text::{count, printable};

/// Time that one way may take for a message.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks whether a command has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Most bytes of a command's complaint that are repeated.
const MAX_COMPLAINT_BYTES: u64 = 500;
/// Most problems that one message spells out.
const MAX_TOLD: usize = 20;
/// Longest address of mail, in bytes (RFC 5321, 4.5.3.1.3).
const MAX_ADDRESS_BYTES: usize = 254;
/// Places of the program that hands mail over: by PATH, and where it lies outside of it.
const SENDMAIL: [&str; 3] = ["sendmail", "/usr/sbin/sendmail", "/usr/lib/sendmail"];
/// Variables of the service manager that are no business of a command.
const NOT_PASSED_ON: [&str; 4] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "CREDENTIALS_DIRECTORY",
];

/// Ways that a person has chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ways {
    /// Command line for the shell; empty: none.
    pub command: String,
    /// Address of mail; empty: none.
    pub mail: String,
    /// URL that gets a POST; empty: none.
    pub webhook: String,
    /// Notifications of the desktop.
    pub desktop: bool,
}

/// What became of a message on one way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The way: `command`, `mail`, `webhook` or `desktop`.
    pub way: &'static str,
    /// Why it did not arrive, as far as this machine can tell.
    pub error: Option<String>,
}

impl Ways {
    /// Names of the ways that are chosen.
    pub fn names(&self) -> Vec<&'static str> {
        let chosen = [
            ("command", !self.command.is_empty()),
            ("mail", !self.mail.is_empty()),
            ("webhook", !self.webhook.is_empty()),
            ("desktop", self.desktop),
        ];
        let chosen = chosen.into_iter().filter(|(_, is_chosen)| *is_chosen);
        chosen.map(|(name, _)| name).collect()
    }

    /// Sends a message on each way, all at the same time, each for at most `patience`.
    ///
    /// # Cancel safety
    /// A command that runs goes on until its time is over.
    pub async fn send(
        &self,
        notices: &[Notice],
        machine: &str,
        patience: Duration,
    ) -> Vec<Delivery> {
        let message = Message::of(notices, machine);
        let deadline = Instant::now() + patience;
        let ways = self.names().into_iter().map(|way| {
            let (ways, message) = (self.clone(), message.clone());
            let work = match way {
                "webhook" => async move { post(&ways.webhook, &message).await }.boxed(),
                "desktop" => on_thread(move || show(&message)).boxed(),
                "mail" => on_thread(move || mail(&ways.mail, &message, deadline)).boxed(),
                _ => on_thread(move || command(&ways.command, &message, deadline)).boxed(),
            };
            async move {
                // A command is ended at its deadline, and says so itself a moment later.
                let result = tokio::time::timeout(patience + Duration::from_secs(2), work).await;
                let error = match result {
                    Ok(result) => result.err(),
                    Err(_) => Some(too_slow(patience)),
                };
                Delivery { way, error }
            }
        });
        futures::future::join_all(ways).await
    }
}

fn too_slow(patience: Duration) -> String {
    format!(
        "it did not end within {}",
        count(patience.as_secs(), "second")
    )
}

async fn on_thread(
    work: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Result<(), String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err("it was given up, since the node stops".to_owned()))
}

/// A message in the forms that ways need.
#[derive(Debug, Clone)]
struct Message {
    subject: String,
    body: String,
    worst: Severity,
    json: serde_json::Value,
}

impl Message {
    fn of(notices: &[Notice], machine: &str) -> Self {
        let machine = printable(machine);
        let subject = format!("libernet on {machine}: {}", summary(notices));
        let mut body: String = notices.iter().take(MAX_TOLD).map(paragraph).collect();
        if notices.len() > MAX_TOLD {
            let more = count((notices.len() - MAX_TOLD) as u64, "more");
            body.push_str(&format!("and {}\n\n", more.trim_end_matches('s')));
        }
        body.push_str("`libernet status` on that machine shows what is wrong now.\n");
        let worst = notices.iter().map(|notice| notice.problem.severity).max();
        let json = json!({
            "machine": machine,
            "text": format!("{subject}\n\n{body}"),
            "notices": notices,
        });
        Self {
            subject,
            body,
            worst: worst.unwrap_or(Severity::Notice),
            json,
        }
    }
}

/// A message in a few words.
fn summary(notices: &[Notice]) -> String {
    let of = |kind| notices.iter().filter(move |notice| notice.kind == kind);
    if let [one] = notices {
        return match one.kind {
            Kind::Began => title(&one.problem),
            Kind::Reminder => format!("still: {}", title(&one.problem)),
            Kind::Over => format!("over: {}", title(&one.problem)),
            Kind::Test => "test".to_owned(),
        };
    }
    let (new, old) = (of(Kind::Began).count(), of(Kind::Reminder).count());
    let over = of(Kind::Over).count();
    let mut parts = Vec::new();
    if new > 0 {
        parts.push(count(new as u64, "new problem"));
    }
    if old > 0 {
        parts.push(format!("{} that last", count(old as u64, "problem")));
    }
    if over > 0 {
        parts.push(format!("{over} over"));
    }
    parts.join(", ")
}

/// Kind of a problem and the thing that it is about.
fn title(problem: &Problem) -> String {
    let kind = problem.id.replace('_', " ");
    match problem.subject.as_str() {
        "" => kind,
        subject => format!("{kind}: {}", printable(subject)),
    }
}

fn paragraph(notice: &Notice) -> String {
    let problem = &notice.problem;
    let head = match notice.kind {
        Kind::Began => problem.severity.name().to_uppercase(),
        Kind::Reminder => format!("STILL ({})", problem.severity.name()),
        Kind::Over => "OVER".to_owned(),
        Kind::Test => "TEST".to_owned(),
    };
    let (title, text) = (title(problem), printable(&problem.text));
    let since = problem.since.in_zone(&crate::time::zone());
    let since = since.strftime("%Y-%m-%d %H:%M");
    let advice = match notice.kind {
        Kind::Over => String::new(),
        _ => format!("  -> {}\n", printable(&problem.advice)),
    };
    format!("{head}: {title}\n  {text}\n{advice}  since {since}\n\n")
}

/// Runs a command, with the message on its standard input.
fn command(line: &str, message: &Message, deadline: Instant) -> Result<(), String> {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", line])
        .env("LIBERNET_SUBJECT", &message.subject)
        .env("LIBERNET_SEVERITY", message.worst.name());
    run(command, message.body.as_bytes(), deadline)
        .map_err(|failed| failed.unwrap_or_else(|| "there is no /bin/sh".to_owned()))
}

/// Hands mail over to the system.
fn mail(address: &str, message: &Message, deadline: Instant) -> Result<(), String> {
    let text = format!(
        "To: {address}\nSubject: {}\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\
         Content-Transfer-Encoding: 8bit\nAuto-Submitted: auto-generated\n\n{}",
        encoded(&message.subject),
        message.body
    );
    for program in SENDMAIL {
        let mut command = Command::new(program);
        // -i: a line that is a dot alone does not end the message.
        command.args(["-i", "--", address]);
        match run(command, text.as_bytes(), deadline) {
            Err(None) => {}
            Err(Some(failed)) => return Err(failed),
            Ok(()) => return Ok(()),
        }
    }
    Err("this system has no sendmail; packages such as msmtp-mta or postfix bring one".to_owned())
}

/// A header's text in ASCII (RFC 2047).
fn encoded(text: &str) -> String {
    if text.is_ascii() {
        return text.to_owned();
    }
    // 45 bytes make 60 characters, and an encoded word has 75 at most.
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    for c in text.chars() {
        if word.len() + c.len_utf8() > 45 {
            words.push(std::mem::take(&mut word));
        }
        word.push(c);
    }
    words.push(word);
    let words = words
        .iter()
        .map(|word| format!("=?utf-8?B?{}?=", BASE64.encode(word.as_bytes())));
    words.collect::<Vec<_>>().join("\n ")
}

/// Runs a program until it ends or the deadline comes. Its input and its complaints are files, so
/// that neither can keep it, or this thread, waiting.
///
/// # Errors
/// None when there is no such program, else what went wrong.
fn run(mut command: Command, input: &[u8], deadline: Instant) -> Result<(), Option<String>> {
    let failed = |error: std::io::Error| Some(error.to_string());
    let mut stdin = tempfile::tempfile().map_err(failed)?;
    stdin.write_all(input).map_err(failed)?;
    stdin.rewind().map_err(failed)?;
    let mut complaint = tempfile::tempfile().map_err(failed)?;
    for name in NOT_PASSED_ON {
        command.env_remove(name);
    }
    let mut child = command
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::null())
        .stderr(Stdio::from(complaint.try_clone().map_err(failed)?))
        .process_group(0)
        .spawn()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => None,
            _ => Some(error.to_string()),
        })?;
    let began = Instant::now();
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if Instant::now() < deadline => std::thread::sleep(LOOK_EVERY),
            None => {
                // What the program started goes with it.
                if let Some(group) = i32::try_from(child.id())
                    .ok()
                    .and_then(rustix::process::Pid::from_raw)
                {
                    let _ =
                        rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
                }
                let _ = child.kill();
                let _ = child.wait();
                return Err(Some(too_slow(deadline.saturating_duration_since(began))));
            }
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut said = Vec::new();
    let _ = complaint.rewind();
    let _ = complaint.take(MAX_COMPLAINT_BYTES).read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said);
    Err(Some(match said.trim() {
        "" => format!("it failed: {status}"),
        said => format!("it failed: {status}: {}", printable(said)),
    }))
}

/// Shows the message on the desktop.
fn show(message: &Message) -> Result<(), String> {
    let urgency = match message.worst {
        Severity::Serious => notify_rust::Urgency::Critical,
        Severity::Warning => notify_rust::Urgency::Normal,
        Severity::Notice => notify_rust::Urgency::Low,
    };
    // Desktops read markup in the body (Desktop Notifications Specification, "Markup").
    let body = html_escape::encode_text(&message.body).into_owned();
    let shown = notify_rust::Notification::new()
        .appname("libernet")
        .summary(&message.subject)
        .body(&body)
        .urgency(urgency)
        .show();
    shown
        .map(|_| ())
        .map_err(|error| format!("no desktop takes notifications: {error}"))
}

/// Posts the message as JSON.
async fn post(url: &str, message: &Message) -> Result<(), String> {
    let url = parsed(url)?;
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or(80);
    // An IPv6 address has brackets in URLs, and none for the system.
    let bare = host.trim_matches(['[', ']']).to_owned();
    let stream = TcpStream::connect((bare, port))
        .await
        .map_err(|error| format!("{host}:{port} can't be reached: {error}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("{host}:{port} does not answer: {error}"))?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a webhook ended");
        }
    }));
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let authority = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let request = hyper::Request::post(target)
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, "libernet")
        .body(Full::new(Bytes::from(message.json.to_string())))
        .map_err(|error| error.to_string())?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| format!("{host}:{port} did not answer: {error}"))?;
    match response.status() {
        status if status.is_success() => Ok(()),
        status => Err(format!("{host}:{port} answered {status}")),
    }
}

/// A URL that messages can be posted to.
fn parsed(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("'{text}' is no URL: {error}"))?;
    match url.scheme() {
        "http" if url.host_str().is_some() && url.username().is_empty() => Ok(url),
        "https" => Err(
            "a webhook is plain http; for https set notify_command to a command such as \
             curl --fail --silent --data-binary @- URL"
                .to_owned(),
        ),
        _ => Err("a webhook looks like http://127.0.0.1:8080/path, without a user name".to_owned()),
    }
}

/// Why a webhook's URL can't be used; none when it is empty or can be.
pub fn webhook_problem(url: &str) -> Option<String> {
    (!url.is_empty()).then(|| parsed(url).err()).flatten()
}

/// Why an address of mail can't be used; none when it is empty or can be.
pub fn mail_problem(address: &str) -> Option<String> {
    let is_plain = |c: char| c.is_ascii_graphic() && !"<>,;:\"()[]\\".contains(c);
    let is_usable = address.len() <= MAX_ADDRESS_BYTES
        && !address.starts_with('-')
        && address.chars().all(is_plain);
    (!is_usable).then(|| format!("'{}' is no address of mail", printable(address)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;
    use std::os::unix::fs::PermissionsExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn notice(kind: Kind, subject: &str) -> Notice {
        Notice {
            kind,
            problem: Problem {
                id: "backup_failed".to_owned(),
                subject: subject.to_owned(),
                severity: Severity::Serious,
                text: "the disk\nis gone".to_owned(),
                advice: "bring it back".to_owned(),
                since: Timestamp(1_000_000),
            },
        }
    }

    #[test]
    fn a_message_says_what_is_wrong_and_what_to_do() {
        let one = Message::of(&[notice(Kind::Began, "docs")], "pc\n1");
        assert_eq!(one.subject, "libernet on pc\\u{a}1: backup failed: docs");
        assert!(one.body.starts_with(
            "SERIOUS: backup failed: docs\n  the disk\\u{a}is gone\n  -> bring it back\n  since 1970-01-01"
        ));
        let over = Message::of(&[notice(Kind::Over, "docs")], "pc");
        assert!(!over.body.contains("bring"), "{}", over.body);
        let many: Vec<Notice> = (0..MAX_TOLD + 1)
            .map(|n| notice(Kind::Began, &n.to_string()))
            .collect();
        let many = Message::of(&many, "pc");
        assert!(
            many.subject.ends_with("21 new problems"),
            "{}",
            many.subject
        );
        assert!(many.body.contains("and 1 more\n"), "{}", many.body);
    }

    #[test]
    fn headers_are_ascii_and_addresses_are_no_options() {
        assert_eq!(encoded("plain"), "plain");
        assert_eq!(encoded("ä"), "=?utf-8?B?w6Q=?=");
        for line in encoded(&"ä".repeat(99)).lines() {
            assert!(line.trim().len() <= 75, "{line}");
        }
        for good in ["", "root", "me@example.org", "me+x@example.org"] {
            assert_eq!(mail_problem(good), None, "{good}");
        }
        for bad in [
            "-t",
            "a b",
            "a\nBcc: c",
            "a,b",
            "<a>",
            "ä@b",
            &"a".repeat(255),
        ] {
            assert!(mail_problem(bad).is_some(), "{bad}");
        }
        assert_eq!(webhook_problem(""), None);
        assert_eq!(webhook_problem("http://[::1]:9/x?y"), None);
        assert!(webhook_problem("https://a/").is_some_and(|why| why.contains("curl")));
        for bad in ["x", "ftp://a/", "http://u:p@a/", "file:///etc"] {
            assert!(webhook_problem(bad).is_some(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_command_gets_the_message_and_one_that_fails_or_hangs_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let out = dir.path().join("out");
        let ways = |command: String| Ways {
            command,
            ..Ways::default()
        };
        let notices = [notice(Kind::Began, "docs")];
        let took = ways(format!(
            "(echo \"$LIBERNET_SUBJECT\"; cat) > {}",
            out.display()
        ));
        let done = took.send(&notices, "pc", PATIENCE).await;
        assert_eq!(done.len(), 1);
        assert_eq!((done[0].way, &done[0].error), ("command", &None));
        let text = std::fs::read_to_string(&out).expect("written");
        assert!(text.starts_with("libernet on pc: backup failed: docs\nSERIOUS: "));
        let failed = ways("echo no such host >&2; exit 3".to_owned());
        let done = failed.send(&notices, "pc", PATIENCE).await;
        let error = done[0].error.as_ref().expect("it failed");
        assert!(error.contains("exit status: 3: no such host"), "{error}");
        // Its child holds the same group, and would otherwise go on.
        let hangs = ways("sleep 1000 & sleep 1000".to_owned());
        let done = hangs.send(&notices, "pc", Duration::from_millis(100)).await;
        let error = done[0].error.as_ref().expect("it hangs");
        assert!(error.contains("did not end within"), "{error}");
    }

    #[test]
    fn mail_goes_to_the_program_of_the_system() {
        let dir = tempfile::tempdir().expect("a directory");
        let (program, out) = (dir.path().join("sendmail"), dir.path().join("out"));
        let script = format!("#!/bin/sh\n(echo \"$@\"; cat) > {}\n", out.display());
        std::fs::write(&program, script).expect("written");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("set");
        let message = Message::of(&[notice(Kind::Began, "dö.\n.\ncs")], "pc");
        let text = format!("Subject: {}\n\n{}", encoded(&message.subject), message.body);
        let mut command = Command::new(&program);
        command.args(["-i", "--", "me@example.org"]);
        run(command, text.as_bytes(), Instant::now() + PATIENCE).expect("taken");
        let got = std::fs::read_to_string(&out).expect("written");
        assert!(
            got.starts_with("-i -- me@example.org\nSubject: =?utf-8?B?"),
            "{got}"
        );
        assert!(!got.contains("\n.\n"), "{got}");
        let none = run(Command::new("/no/such"), b"", Instant::now() + PATIENCE);
        assert_eq!(none, Err(None));
    }

    #[tokio::test]
    async fn a_webhook_gets_json_and_its_refusal_is_told() {
        let sink = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let port = sink.local_addr().expect("known").port();
        for (answer, fails) in [("204 No Content", false), ("500 Oh", true)] {
            let ways = Ways {
                webhook: format!("http://127.0.0.1:{port}/hook?key=1"),
                ..Ways::default()
            };
            let notices = [notice(Kind::Began, "docs")];
            let serve = async {
                let (mut stream, _) = sink.accept().await.expect("a call");
                let mut got = Vec::new();
                while !got.ends_with(b"}") {
                    let mut part = [0; 4096];
                    let len = stream.read(&mut part).await.expect("reads");
                    got.extend_from_slice(&part[..len]);
                }
                let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.expect("sent");
                String::from_utf8(got).expect("text")
            };
            let (done, got) = tokio::join!(ways.send(&notices, "pc", PATIENCE), serve);
            assert_eq!(done[0].error.is_some(), fails, "{done:?}");
            assert!(got.starts_with("POST /hook?key=1 HTTP/1.1\r\n"), "{got}");
            let body = got.split("\r\n\r\n").nth(1).expect("a body");
            let value: serde_json::Value = serde_json::from_str(body).expect("JSON");
            assert_eq!(value["notices"][0]["kind"], "began");
            assert_eq!(value["notices"][0]["problem"]["subject"], "docs");
        }
    }
}
