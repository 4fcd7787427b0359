//! The dashboard of a real node in headless Chromium, driven by clicks over WebDriver.
//!
//! Where Chromium or its driver is missing the tests skip and say so. The browser has a profile of
//! its own, and can reach nothing but this machine: every other name fails to resolve.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::Node;

/// Time that anything on the page may take. Only a test that fails takes so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Views of the dashboard, by their addresses.
const VIEWS: [&str; 10] = [
    "",
    "backups",
    "rings",
    "sharing",
    "transfers",
    "network",
    "store",
    "workers",
    "settings",
    "log",
];

/// A browser and the program that drives it.
struct Browser {
    driver: Child,
    port: u16,
    session: String,
}

impl Browser {
    /// Starts one; none where it is not installed.
    fn start() -> Option<Self> {
        let chromium = ["/usr/bin/chromium", "/usr/bin/chromium-browser"];
        let chromium = chromium.iter().find(|path| Path::new(path).exists());
        let driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let (Some(chromium), Ok(mut driver)) = (chromium, driver) else {
            eprintln!("skipped: chromium and chromedriver are not installed");
            return None;
        };
        let mut lines = BufReader::new(driver.stdout.take().expect("piped")).lines();
        let port = lines.by_ref().find_map(|line| {
            let line = line.expect("text");
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse().ok()
        });
        let mut browser = Self {
            driver,
            port: port.expect("the driver says where it listens"),
            session: String::new(),
        };
        let options = json!({
            "binary": chromium,
            "args": [
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
            ],
        });
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let session = browser.ask("POST", "/session", &wanted);
        browser.session = session["sessionId"].as_str().expect("an id").to_owned();
        Some(browser)
    }

    /// One request to the driver.
    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        let body = body.to_string();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("sent");
        stream.write_all(body.as_bytes()).expect("sent");
        let mut answer = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(answer.read_line(&mut head).expect("a head") > 0, "{head}");
        }
        // The driver keeps connections open whatever it is told.
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse::<usize>().expect("a number"))
        });
        let mut body = vec![0; length.expect("a length")];
        answer.read_exact(&mut body).expect("a body");
        let body = String::from_utf8(body).expect("text");
        assert!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {body}");
        let mut answer: Value = serde_json::from_str(&body).expect("json");
        answer["value"].take()
    }

    fn command(&self, path: &str, body: &Value) -> Value {
        self.ask("POST", &format!("/session/{}{path}", self.session), body)
    }

    fn open(&self, url: &str) {
        self.command("/url", &json!({ "url": url }));
    }

    /// Runs a script in the page and gives what it returns.
    fn run(&self, script: &str, arguments: &[&str]) -> Value {
        let body = json!({ "script": script, "args": arguments });
        self.command("/execute/sync", &body)
    }

    /// Waits until an expression is true in the page.
    fn wait(&self, expression: &str) {
        let begun = Instant::now();
        let script = format!(
            "return new Promise(done => {{ const end = Date.now() + 5000; const look = () => \
             {{ let is; try {{ is = {expression}; }} catch {{}} \
             if (is || Date.now() > end) done(!!is); else setTimeout(look, 50); }}; look(); }});"
        );
        while self.run(&script, &[]) != json!(true) {
            let page = self.run("return document.body.innerText", &[]);
            assert!(begun.elapsed() < PATIENCE, "{expression} in: {page}");
        }
    }

    /// Clicks the last button of that text.
    fn click(&self, text: &str) {
        self.wait(&format!(
            "[...document.querySelectorAll('button')].some(b => b.textContent.trim() === {text:?} \
             && !b.disabled)"
        ));
        let script = "[...document.querySelectorAll('button')].filter(b => b.textContent.trim() \
                      === arguments[0] && !b.disabled).pop().click()";
        self.run(script, &[text]);
    }

    /// Writes into the last field whose label begins so.
    fn write(&self, label: &str, text: &str) {
        let script = "const l = [...document.querySelectorAll('label')].filter(l => \
                      l.textContent.startsWith(arguments[0])).pop(); \
                      document.getElementById(l.htmlFor).value = arguments[1];";
        self.run(script, &[label, text]);
    }

    fn view(&self, path: &str) {
        self.run("location.hash = '#/' + arguments[0]", &[path]);
        let current = format!("#/{path}");
        self.wait(&format!(
            "document.querySelector('nav [aria-current]').getAttribute('href') === {current:?} && \
             document.querySelector('main h1') && !document.querySelector('main .tag.bad')"
        ));
    }

    /// Width, height and colours of the window.
    fn shape(&self, width: u32, height: u32, scheme: &str) {
        let devtools = |command: &str, parameters: Value| {
            let body = json!({ "cmd": command, "params": parameters });
            self.command("/goog/cdp/execute", &body);
        };
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 });
        devtools("Emulation.setDeviceMetricsOverride", size);
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        devtools(
            "Emulation.setEmulatedMedia",
            json!({ "features": [feature] }),
        );
    }

    /// What the console was told since the last time.
    fn console(&self) -> Value {
        self.command("/se/log", &json!({ "type": "browser" }))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends its browser when the session ends.
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
            let head = format!(
                "DELETE /session/{} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
                self.session
            );
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.read(&mut [0; 64]);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn log_in(browser: &Browser, node: &Node) {
    let url = node.json(&["web"])["url"]
        .as_str()
        .expect("text")
        .to_owned();
    browser.open(&url);
    browser.wait("document.querySelector('main h1')");
    let address = browser.run("return location.href", &[]);
    assert!(!address.to_string().contains("key="), "{address}");
}

/// Twelve words by clicks: made, asked back, and a set added and backed up.
fn begin(browser: &Browser, source: &Path) {
    browser.click("Make the words");
    browser.wait("document.querySelectorAll('.words li').length === 12");
    let words = "return [...document.querySelectorAll('.words li')].map(li => li.textContent)";
    let words = browser.run(words, &[]);
    browser.click("I have written them down");
    browser.wait("document.querySelector('main form')");
    let labels = "return [...document.querySelectorAll('label')].map(l => l.textContent)";
    for label in browser.run(labels, &[]).as_array().expect("a list") {
        let label = label.as_str().expect("text");
        if let Some(number) = label.strip_prefix("Word ") {
            let at: usize = number.parse().expect("a number");
            browser.write(label, words[at - 1].as_str().expect("a word"));
        }
    }
    browser.click("Begin");
    browser.wait("location.hash === '#/backups'");
    browser.click("Add a set");
    browser.write("Name", "docs");
    browser.write("Paths", source.to_str().expect("text"));
    browser.click("Add");
    browser.wait("/of which .* new/.test(document.querySelector('dialog').innerText)");
    browser.click("Close");
}

#[test]
fn backing_up_restoring_sharing_and_inviting_by_clicks() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let source = dir.path().join("source");
    std::fs::create_dir(&source).expect("made");
    let odd = "<img src=x onerror=alert(1)>.txt";
    std::fs::write(source.join(odd), b"odd").expect("written");
    std::fs::write(source.join("plain.txt"), vec![b'p'; 50_000]).expect("written");
    let node = Node::start(&dir.path().join("data"), &[]);
    log_in(&browser, &node);
    browser.wait("/Welcome/.test(document.querySelector('h1').textContent)");
    begin(&browser, &source);

    // Into the snapshot and back to the disk.
    browser.wait("document.querySelector('main td a[href*=\"#/backups/\"]')");
    browser.run(
        "document.querySelector('main td a[href*=\"#/backups/\"]').click()",
        &[],
    );
    browser.wait("/Snapshot of/.test(document.querySelector('h1').textContent)");
    browser.click("Restore everything");
    let target = dir.path().join("target");
    browser.write("To the folder", target.to_str().expect("text"));
    browser.click("Restore");
    browser.wait(
        "/restored.*Every byte was checked/.test(document.querySelector('dialog').innerText)",
    );
    browser.click("Close");
    let restored = target.join(source.strip_prefix("/").expect("absolute"));
    assert_eq!(std::fs::read(restored.join(odd)).expect("there"), b"odd");

    // A file that is dropped becomes a link.
    browser.view("sharing");
    browser.run(
        "const files = new DataTransfer(); \
         files.items.add(new File(['dropped'], arguments[0])); \
         document.querySelector('.drop').dispatchEvent(new DragEvent('drop', \
         { dataTransfer: files, bubbles: true, cancelable: true }))",
        &["<b>dropped.txt"],
    );
    browser.wait("/^libernet:/.test(document.querySelector('main pre').textContent)");
    let link = browser.run("return document.querySelector('main pre').textContent", &[]);
    let out = node.run(&["cat", link.as_str().expect("text")]);
    assert_eq!(out.stdout, b"dropped");

    browser.view("rings");
    browser.write("Name", "home");
    browser.click("Make");
    browser.wait("document.querySelector('dialog img.qr').naturalWidth > 0");
    browser.click("Close");
    browser.click("Invite");
    browser.click("Make a code");
    browser.wait("document.querySelector('#invite-code').textContent.length > 20");
    browser.click("Close");
    assert_eq!(node.json(&["ring", "list"])["rings"][0]["ring"], "home");
    assert_eq!(browser.console(), json!([]));
    looks(&browser);
    node.stop();
}

/// Every view at both widths in both colours: nothing wider than the window, nothing said on the
/// console, nothing asked of anybody else.
fn looks(browser: &Browser) {
    for (width, height) in [(1280, 900), (390, 844)] {
        for scheme in ["light", "dark"] {
            browser.shape(width, height, scheme);
            for view in VIEWS {
                browser.view(view);
                let over = "return document.documentElement.scrollWidth - innerWidth";
                let over = browser.run(over, &[]).as_i64().expect("a number");
                assert!(over <= 0, "{view} at {width}: {over} too wide");
                let unnamed = browser.run(
                    "return [...document.querySelectorAll('main input, main select, main textarea')] \
                     .filter(i => !i.labels.length && !i.getAttribute('aria-label')).length",
                    &[],
                );
                assert_eq!(unnamed, 0, "fields without a label in {view}");
            }
        }
    }
    let asked = browser.run(
        "return performance.getEntriesByType('resource').map(one => one.name) \
         .filter(name => !name.startsWith(location.origin) && !name.startsWith('data:'))",
        &[],
    );
    assert_eq!(asked, json!([]));
    assert_eq!(browser.console(), json!([]));
}

#[test]
fn a_browser_that_is_not_logged_in_sees_nothing() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&dir.path().join("data"), &[]);
    browser.open(&node.http);
    browser.wait("/libernet web/.test(document.querySelector('main').innerText)");
    let page = browser.run("return document.documentElement.outerHTML", &[]);
    assert!(!page.to_string().contains(&node.peer));
    log_in(&browser, &node);
    browser.click("Later: I only share files");
    browser.view("settings");
    browser.click("Log out");
    browser.wait("/libernet web/.test(document.querySelector('main').innerText)");
    assert_eq!(browser.run("return localStorage.length", &[]), 0);
    node.stop();
}
