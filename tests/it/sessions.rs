//! Sessions of browsers on a real node, and what attackers get who have a part of one.

use serde_json::Value;

use crate::process::{Node, fails, run};
use crate::web::{Answer, ask, token};

/// Header of a session's key.
const KEY: &str = "X-Libernet-Session";

/// A browser that is logged in.
pub struct Session {
    pub cookie: String,
    pub key: String,
}

/// Path and query of the address that `libernet web` gives.
fn address(node: &Node) -> String {
    let url = node.json(&["web"])["url"]
        .as_str()
        .expect("text")
        .to_owned();
    let path = url.strip_prefix(&node.http).expect("its own address");
    path.to_owned()
}

/// The cookie and the key of an answer to a login.
fn opened(answer: &Answer) -> Session {
    assert_eq!(answer.status(), 303, "{}", answer.head);
    let cookie = answer.header("set-cookie").expect("a cookie");
    let place = answer.header("location").expect("a place");
    Session {
        cookie: cookie.split(';').next().expect("a pair").to_owned(),
        key: place.strip_prefix("/#key=").expect("the key").to_owned(),
    }
}

/// Logs in.
pub fn log_in(node: &Node) -> Session {
    opened(&ask(node, &format!("GET {}", address(node)), &[], b""))
}

fn status(node: &Node, headers: &[(&str, &str)]) -> u16 {
    ask(node, "POST /api/v1/status", headers, b"{}").status()
}

#[test]
fn a_code_logs_in_once_and_both_secrets_are_needed() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&dir.path().join("data"), &[]);
    let path = address(&node);
    // A browser that looks ahead, and a page of another site, don't use the code up.
    for headers in [
        &[("Sec-Purpose", "prefetch")][..],
        &[
            ("Sec-Fetch-Site", "cross-site"),
            ("Sec-Fetch-Mode", "navigate"),
            ("Sec-Fetch-Dest", "document"),
        ],
    ] {
        assert_eq!(
            ask(&node, &format!("GET {path}"), headers, b"").status(),
            403
        );
    }
    let answer = ask(&node, &format!("GET {path}"), &[], b"");
    let set = answer.header("set-cookie").expect("a cookie").to_owned();
    assert!(
        set.contains("HttpOnly") && set.contains("SameSite=Strict"),
        "{set}"
    );
    assert!(!set.contains("Domain"), "{set}");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let session = opened(&answer);
    let again = ask(&node, &format!("GET {path}"), &[], b"");
    assert_eq!(again.status(), 403, "used up");
    assert_eq!(again.header("set-cookie"), None);
    for wrong in [
        "/login",
        "/login?code=",
        "/login?code=00",
        "/login?code=%00",
    ] {
        assert_eq!(
            ask(&node, &format!("GET {wrong}"), &[], b"").status(),
            403,
            "{wrong}"
        );
    }

    let (cookie, key) = (session.cookie.as_str(), session.key.as_str());
    assert_eq!(status(&node, &[("Cookie", cookie), (KEY, key)]), 200);
    let other = log_in(&node);
    for (headers, expected) in [
        (&[("Cookie", cookie)][..], 401),
        (&[(KEY, key)], 401),
        (&[("Cookie", cookie), (KEY, "")], 401),
        (&[("Cookie", cookie), (KEY, &other.key)], 401),
        (&[("Cookie", cookie), (KEY, key), (KEY, key)], 401),
        (
            &[("Cookie", cookie), ("Cookie", &other.cookie), (KEY, key)],
            401,
        ),
        // A wrong token is not made good by a session.
        (
            &[
                ("Authorization", "Bearer 00"),
                ("Cookie", cookie),
                (KEY, key),
            ],
            401,
        ),
    ] {
        assert_eq!(status(&node, headers), expected, "{headers:?}");
    }
    node.stop();
}

#[test]
fn other_sites_and_pages_of_other_names_do_nothing_with_a_session() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&dir.path().join("data"), &[]);
    let session = log_in(&node);
    let (cookie, key) = (session.cookie.as_str(), session.key.as_str());
    let port = node.http.rsplit(':').next().expect("a port").to_owned();
    // Even one who knew both secrets is refused in a browser, whatever page it is that asks.
    let foreign = [
        "http://example.org".to_owned(),
        "null".to_owned(),
        "http://127.0.0.1:1".to_owned(),
        format!("http://localhost:{port}"),
        format!("http://abcdefgh.localhost:{port}"),
        format!("http://[::1]:{port}"),
    ];
    for origin in &foreign {
        let headers = [("Cookie", cookie), (KEY, key), ("Origin", origin)];
        assert_eq!(status(&node, &headers), 403, "{origin}");
        // A form of another site can't send the header of the key, and is refused before.
        let form = [
            ("Cookie", cookie),
            ("Origin", origin),
            ("Content-Type", "text/plain"),
        ];
        let answer = status(&node, &form);
        assert!(answer == 401 || answer == 403, "{origin}: {answer}");
    }
    for site in ["cross-site", "same-site", "none"] {
        let headers = [("Cookie", cookie), (KEY, key), ("Sec-Fetch-Site", site)];
        assert_eq!(status(&node, &headers), 403, "{site}");
    }
    // What a browser asks before it sends a header of another origin is not granted.
    let preflight = ask(
        &node,
        "OPTIONS /api/v1/status",
        &[
            ("Origin", "http://example.org"),
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", "x-libernet-session"),
        ],
        b"",
    );
    assert_eq!(preflight.status(), 403);
    assert_eq!(preflight.header("access-control-allow-origin"), None);
    // The right page of a browser.
    let own = [
        ("Cookie", cookie),
        (KEY, key),
        ("Origin", node.http.as_str()),
        ("Sec-Fetch-Site", "same-origin"),
    ];
    assert_eq!(status(&node, &own), 200);
    assert_eq!(ask(&node, "POST /logout", &own, b"").status(), 204);
    assert_eq!(status(&node, &own), 401, "logged out");
    node.stop();
}

#[test]
fn stored_pages_on_the_servers_own_address_run_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&dir.path().join("data"), &[]);
    let page = dir.path().join("page.html");
    let script = "<script>fetch('/api/v1/status',{method:'POST'})</script>";
    std::fs::write(&page, script).expect("written");
    let put = node.json(&["put", page.to_str().expect("text")]);
    let url = node.json(&["url", put["link"].as_str().expect("text")]);
    let url = url["url"].as_str().expect("text");
    let path = url.strip_prefix(&node.http).expect("its own address");
    let answer = ask(&node, &format!("GET {path}"), &[], b"");
    // Either it is led to an origin of its own, or nothing in it runs here.
    if answer.status() == 200 {
        let policy = answer.header("content-security-policy").expect("a policy");
        assert!(policy.contains("script-src 'none'"), "{policy}");
        assert!(policy.contains("form-action 'none'"), "{policy}");
        assert!(policy.contains("sandbox"), "{policy}");
    }
    node.stop();
}

#[test]
fn without_a_node_there_is_no_dashboard() {
    let dir = tempfile::tempdir().expect("a directory");
    fails(&run(dir.path(), &["web", "--json"]), 11, "libernet up");
}

#[test]
fn metrics_and_health_are_for_anyone_local_and_name_nobody() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&dir.path().join("data"), &[]);
    let file = dir.path().join("a file with a name");
    std::fs::write(&file, vec![7; 100_000]).expect("written");
    node.json(&["put", file.to_str().expect("text")]);
    let other = Node::start(&dir.path().join("other"), &[&node.addresses[0]]);
    let health = ask(&node, "GET /healthz", &[], b"");
    assert_eq!(health.status(), 200);
    let health: Value = serde_json::from_slice(&health.body).expect("json");
    assert_eq!(health["status"], "ok");
    let metrics = ask(&node, "GET /metrics", &[], b"");
    assert_eq!(metrics.status(), 200);
    let kind = metrics.header("content-type").expect("a type");
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    let text = String::from_utf8(metrics.body).expect("text");
    assert!(text.ends_with("# EOF\n"));
    assert_eq!(text.matches("# EOF").count(), 1);
    for name in [
        "libernet_build_info",
        "libernet_store_pins 1",
        "libernet_store_block_bytes{class=\"pinned\"}",
        "libernet_exchange_served_bytes_total 0",
        "libernet_http_answers_total{class=\"2xx\"}",
        "libernet_worker_failed{worker=\"announce\"} 0",
        "libp2p_swarm_connections_incoming_total",
        "libp2p_kad_",
        "libp2p_ping_",
        "libp2p_identify_received_total",
    ] {
        assert!(text.contains(name), "{name} in {text}");
    }
    for secret in ["a file with a name", &other.peer, &node.peer] {
        assert!(!text.contains(secret), "{secret}");
    }
    other.stop();
    node.stop();
}

#[test]
fn the_token_still_opens_the_api() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&dir.path().join("data"), &[]);
    let token = token(&node);
    assert_eq!(status(&node, &[("Authorization", &token)]), 200);
    node.stop();
}

#[test]
fn the_description_of_the_api_is_what_is_served() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&dir.path().join("data"), &[]);
    let answer = ask(&node, "GET /api/openapi.json", &[], b"");
    assert_eq!(answer.status(), 200);
    let described: Value = serde_json::from_slice(&answer.body).expect("json");
    let version = described["openapi"].as_str().expect("text");
    assert!(version.starts_with("3.1"), "{version}");
    let token = token(&node);
    let mut open = 0;
    for (path, methods) in described["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let line = format!("{} {path}", method.to_uppercase());
            let answer = ask(&node, &line, &[], b"");
            if operation["security"].is_array() {
                open += 1;
                assert!(answer.status() < 401, "{line}: {}", answer.head);
                continue;
            }
            assert_eq!(answer.status(), 401, "{line}");
            let kind = answer.header("content-type");
            assert_eq!(kind, Some("application/problem+json"), "{line}");
            let problem: Value = serde_json::from_slice(&answer.body).expect("json");
            let schema = &described["components"]["schemas"]["Problem"];
            for field in schema["required"].as_array().expect("a list") {
                let field = field.as_str().expect("text");
                assert!(!problem[field].is_null(), "{line}: {field}");
            }
            // With the token each exists: a body that says nothing is refused as such, at most.
            if method == "post" && path != "/api/v1/leave" {
                let answer = ask(&node, &line, &[("Authorization", &token)], b"!");
                assert!(![401, 404, 405].contains(&answer.status()), "{line}");
            }
        }
    }
    assert_eq!(open, 4);
    node.stop();
}

#[test]
fn events_tell_what_happens_to_those_who_may_hear() {
    use std::io::{BufRead, BufReader, Write};
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&dir.path().join("data"), &[]);
    assert_eq!(ask(&node, "GET /api/v1/events", &[], b"").status(), 401);
    let host = node.http.strip_prefix("http://").expect("a URL");
    let mut stream = std::net::TcpStream::connect(host).expect("it listens");
    let head = format!(
        "GET /api/v1/events HTTP/1.1\r\nHost: {host}\r\nAuthorization: {}\r\n\r\n",
        token(&node)
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let mut lines = BufReader::new(stream)
        .lines()
        .map(|line| line.expect("text"));
    let mut wait = |wanted: &str| lines.by_ref().find(|line| line == wanted).is_some();
    assert!(wait("HTTP/1.1 200 OK"));
    assert!(wait("event: status"));
    let other = Node::start(&dir.path().join("other"), &[&node.addresses[0]]);
    assert!(wait("event: peer_connected"));
    other.stop();
    assert!(wait("event: peer_gone"));
    node.stop();
}
