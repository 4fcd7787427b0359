//! Bundles at origins of their own, and what attacks them or comes from them.

use super::sockets::{status_of, talk};
use super::urls::{NAVIGATION, shows_key};
use super::*;

/// The host of the scripted bundle.
fn host() -> String {
    format!("{}.localhost:4385", labels::site_label(&link().id))
}

impl Fixture {
    /// Opens the scripted bundle as a browser does; gives where it is sent on to.
    async fn open(&self, rest: &str) -> String {
        let path = format!("{}{rest}", link().to_path());
        let answer = self.send("GET", &path, &NAVIGATION).await;
        assert_eq!(answer.status.as_u16(), 303, "{rest}");
        assert!(!shows_key(&answer));
        answer.header("location").to_owned()
    }

    async fn at_site(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let host = host();
        let mut all = vec![("host", host.as_str())];
        all.extend_from_slice(headers);
        self.send("GET", path, &all).await
    }
}

#[tokio::test]
async fn a_link_leads_to_the_origin_of_its_bundle() {
    let fixture = Fixture::new(None).await;
    for (rest, to) in [
        ("/", "/"),
        ("", "/"),
        ("/ten.txt", "/ten.txt"),
        ("/sub/", "/sub/"),
        ("/?sort=size&skip=7", "/?sort=size&skip=7"),
    ] {
        assert_eq!(fixture.open(rest).await, format!("http://{}{to}", host()));
    }
    let page = fixture.at_site("/page.html", &NAVIGATION).await;
    assert_eq!((page.status.as_u16(), page.text().as_str()), (200, HTML));
    assert!(!shows_key(&page));
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("x-frame-options", "SAMEORIGIN"),
        ("cache-control", "no-store"),
        ("origin-agent-cluster", "?1"),
        ("content-security-policy", guard::SITE),
        ("permissions-policy", guard::ABILITIES),
    ] {
        assert_eq!(page.header(name), value);
    }
    assert!(guard::SITE.starts_with("default-src 'self'"));
    assert!(!page.headers.contains_key("access-control-allow-origin"));
    for (path, status, location) in [
        ("/link", 307, "/sub/page.html"),
        ("/sub", 308, "/sub/"),
        // No address of another host.
        ("//sub", 308, "/sub/"),
        ("/nothing", 404, ""),
        ("/%2e%2e/x", 404, ""),
        ("/a%00b", 404, ""),
    ] {
        let answer = fixture.at_site(path, &[]).await;
        let found = (answer.status.as_u16(), answer.header("location"));
        assert_eq!(found, (status, location), "{path}");
    }
    let part = fixture.at_site("/ten.txt", &[("range", "bytes=-3")]).await;
    assert_eq!((part.status.as_u16(), part.text().as_str()), (206, "789"));
    // A page of the bundle may load its own parts, as a worker too; another site's may not.
    let worker = [
        ("service-worker", "script"),
        ("sec-fetch-site", "same-origin"),
    ];
    assert_eq!(fixture.at_site("/ten.txt", &worker).await.status, 200);
    for site in ["cross-site", "same-site"] {
        let embeds = [("sec-fetch-site", site), ("sec-fetch-mode", "no-cors")];
        assert_eq!(fixture.at_site("/ten.txt", &embeds).await.status, 403);
    }
}

/// An id alone opens nothing, and a forgotten or unknown label is told with what to do.
#[tokio::test]
async fn a_label_that_nobody_opened_is_unknown() {
    let fixture = Fixture::new(None).await;
    // Programs that read with the whole link leave no origin behind.
    let read = fixture.get(&format!("{}/ten.txt", link().to_path())).await;
    assert_eq!(read.status.as_u16(), 200);
    let unknown = fixture.at_site("/ten.txt", &[]).await;
    assert_eq!(unknown.status.as_u16(), 404);
    assert!(unknown.text().contains("libernet url LINK"));
    let person = fixture.at_site("/", &[("accept", "text/html")]).await;
    assert!(person.text().contains("What to do"), "{}", person.text());
    // The key is in neither header, so giving it there opens nothing.
    let referer = format!("http://localhost:4385{}/", link().to_path());
    let answer = fixture.at_site("/ten.txt", &[("referer", &referer)]).await;
    assert_eq!(answer.status.as_u16(), 404);
}

/// What the node's own origin has is not at the origin of a bundle, whoever asks.
#[tokio::test]
async fn an_origin_has_the_bundle_and_nothing_else() {
    let fixture = Fixture::new(None).await;
    fixture.open("/").await;
    let token = fixture.shared.options.token.to_header();
    let (host, block) = (host(), link().id.to_path());
    for path in [
        "/api/v1/status",
        "/api/v1/hello?nonce=00",
        "/waiting/x",
        "/open/x/",
        block.as_str(),
        &link().to_path(),
    ] {
        for method in ["GET", "POST", "PUT"] {
            let with = [("host", host.as_str()), ("authorization", token.as_str())];
            let answer = fixture.send(method, path, &with).await;
            let status = if method == "GET" { 404 } else { 405 };
            assert_eq!(answer.status.as_u16(), status, "{method} {path}");
        }
    }
    // Neither does one of its pages reach the node's origin, with the token or without.
    let origin = format!("http://{host}");
    for target in ["/api/v1/status", block.as_str()] {
        let with = [("origin", origin.as_str()), ("authorization", &token)];
        let answer = fixture.send("POST", target, &with).await;
        assert_eq!(answer.status.as_u16(), 403, "{target}");
    }
    // Nor does a page of another bundle reach this one.
    let other = format!("http://{}.localhost:4385", "a".repeat(52));
    let answer = fixture.at_site("/ten.txt", &[("origin", &other)]).await;
    assert_eq!(answer.status.as_u16(), 403);
}

/// A wrong link to a bundle that is open takes nothing away from its readers.
#[tokio::test]
async fn a_wrong_key_closes_nothing() {
    let fixture = Fixture::new(None).await;
    fixture.open("/").await;
    let mut wrong = link();
    wrong.key = Key::new([1; 32]);
    let path = format!("{}/", wrong.to_path());
    let refused = fixture.send("GET", &path, &NAVIGATION).await;
    assert_eq!(refused.status.as_u16(), 422);
    assert_eq!(fixture.at_site("/ten.txt", &[]).await.status, 200);
}

/// A page that waits has no script at the origin of a bundle, and no events of the node's.
#[tokio::test]
async fn a_page_that_waits_loads_anew() {
    let fixture = Fixture::new(None).await;
    fixture.open("/").await;
    let page = fixture
        .at_site("/nowhere", &[("accept", "text/html")])
        .await;
    assert_eq!(page.status.as_u16(), 504);
    let text = page.text();
    assert!(text.contains("http-equiv=\"refresh\""), "{text}");
    assert!(
        !text.contains("<script") && !text.contains("<noscript"),
        "{text}"
    );
    let policy = page.header("content-security-policy");
    assert!(
        !policy.contains("sandbox"),
        "it could not load anew: {policy}"
    );
    fixture.stop.cancel();
    fixture.shared.searches.end().await;
}

/// Bytes on sockets: names of other sites that lead here, several hosts, hosts in the request line.
#[tokio::test]
async fn hosts_on_a_socket() {
    let fixture = Fixture::new(None).await;
    let (_client, _server, address) = fixture.serve_at().await;
    let port = address.port();
    let label = labels::site_label(&link().id);
    let ours = format!("{label}.localhost:{port}");
    let ask = async |line: &str, headers: &str| {
        let request = format!("{line}\r\n{headers}connection: close\r\n\r\n");
        talk(address, request.as_bytes()).await
    };
    let keyed = format!("GET {}/ten.txt HTTP/1.1", link().to_path());
    let navigation = "sec-fetch-site: none\r\nsec-fetch-mode: navigate\r\n";
    let opened = ask(&keyed, &format!("host: localhost:{port}\r\n{navigation}")).await;
    assert_eq!(status_of(&opened), 303);
    assert!(
        opened.contains(&format!("location: http://{ours}/ten.txt\r\n")),
        "{opened}"
    );
    for (line, headers, status) in [
        ("GET /ten.txt HTTP/1.1", format!("host: {ours}\r\n"), 200),
        ("GET /ten.txt HTTP/1.0", format!("host: {ours}\r\n"), 200),
        (
            "GET /ten.txt HTTP/1.1",
            format!("host: {label}.localhost\r\n"),
            421,
        ),
        (
            "GET /ten.txt HTTP/1.1",
            format!("host: {label}.example.org:{port}\r\n"),
            421,
        ),
        (
            "GET /ten.txt HTTP/1.1",
            format!("host: rebound.example.org:{port}\r\n"),
            421,
        ),
        ("GET /ten.txt HTTP/1.1", format!("host: x.{ours}\r\n"), 421),
        (
            "GET /ten.txt HTTP/1.1",
            format!("host: {ours}\r\nhost: localhost:{port}\r\n"),
            421,
        ),
        ("GET /ten.txt HTTP/1.0", String::new(), 421),
        (
            "GET http://localhost/ten.txt HTTP/1.1",
            format!("host: {ours}\r\n"),
            421,
        ),
        ("POST /ten.txt HTTP/1.1", format!("host: {ours}\r\n"), 405),
        (
            "GET /ten.txt HTTP/1.1",
            format!("host: {ours}\r\norigin: null\r\n"),
            403,
        ),
        (
            "GET / HTTP/1.1",
            format!("host: {}.localhost:{port}\r\n", "a".repeat(52)),
            404,
        ),
    ] {
        let answer = ask(line, &headers).await;
        assert_eq!(status_of(&answer), status, "{line} {headers}: {answer}");
    }
    fixture.stop.cancel();
}
