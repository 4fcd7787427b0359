//! The local HTTP server of a real node, as a browser or another program meets it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::process::{Node, fails, json, run};

/// An answer: its head as it came, and the body.
pub struct Answer {
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn status(&self) -> u16 {
        let word = self.head.split(' ').nth(1).expect("a status");
        word.parse().expect("a number")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        let mut found = lines.filter(|(found, _)| found.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.trim())
    }
}

/// One request on a connection of its own. `HTTP/1.0`, so that the body comes as it is.
pub fn ask(node: &Node, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let host = node.http.strip_prefix("http://").expect("a URL");
    let mut stream = TcpStream::connect(host).expect("it listens");
    let mut request = format!(
        "{line} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    stream.write_all(body).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("a head");
    Answer {
        head: String::from_utf8(answer[..end + 2].to_vec()).expect("text"),
        body: answer[end + 4..].to_vec(),
    }
}

fn get(node: &Node, path: &str) -> Answer {
    ask(node, &format!("GET {path}"), &[], b"")
}

/// The header that opens the API.
pub fn token(node: &Node) -> String {
    let file = std::fs::read(node.data.join("api.json")).expect("the node wrote it");
    let file: Value = serde_json::from_slice(&file).expect("json");
    format!("Bearer {}", file["token"].as_str().expect("a token"))
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[test]
fn blocks_by_hash_and_by_cid() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&dir.path().join("data"), &[]);
    let file = dir.path().join("file");
    std::fs::write(&file, b"a block of another system").expect("written");
    let flags = [
        "block",
        "put",
        utf8(&file),
        "--hash",
        "sha256",
        "--codec",
        "dag-pb",
    ];
    let put = node.json(&flags);
    let cid = text(&put["cid"]);
    // dag-pb, sha2-256.
    assert!(cid.starts_with("bafybei"), "{cid}");
    let raw = get(&node, &format!("/ipfs/{cid}?format=raw"));
    assert_eq!(
        (raw.status(), raw.body.as_slice()),
        (200, &b"a block of another system"[..])
    );
    assert_eq!(raw.header("content-type"), Some("application/vnd.ipld.raw"));
    assert_eq!(raw.header("etag"), Some(format!("\"{cid}.raw\"").as_str()));
    let path = format!("/sha256/{}", text(&put["hex"]));
    assert_eq!(get(&node, &path).body, raw.body);
    // The default names it by SHA2-384.
    let put = node.json(&["block", "put", utf8(&file)]);
    assert_eq!(put["cid"], put["id"]);
    let path = format!("/sha384/{}", text(&put["hex"]));
    assert_eq!(get(&node, &path).body, raw.body);
    let nothing = node.run(&["block", "put", utf8(&file), "--codec", "x"]);
    fails(&nothing, 2, "dag-pb");
    node.stop();
}

#[test]
fn blocks_are_put_by_url() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let (source, node) = (Node::start(&a, &[]), Node::start(&b, &[]));
    let file = dir.path().join("file");
    let bytes = vec![7; 300_000];
    std::fs::write(&file, &bytes).expect("written");
    let put = source.json(&["block", "put", utf8(&file)]);
    let path = format!("/sha384/{}", text(&put["hex"]));
    let line = format!("PUT {path}");
    let token = token(&node);
    let with = [("Authorization", token.as_str())];
    assert_eq!(ask(&node, &line, &[], &bytes).status(), 401);
    assert_eq!(ask(&node, &line, &with, b"other").status(), 422);
    assert_eq!(ask(&node, &line, &with, b"").status(), 400);
    let id = text(&put["id"]);
    assert_eq!(node.json(&["block", "has", id])["has"], false);
    let stored = ask(&node, &line, &with, &bytes);
    assert_eq!(stored.status(), 201, "{}", stored.head);
    assert_eq!(stored.header("location"), Some(path.as_str()));
    assert_eq!(ask(&node, &line, &with, &bytes).status(), 200);
    assert_eq!(get(&node, &path).body, bytes);
    let two = ask(
        &node,
        &format!("GET {path}"),
        &[("Range", "bytes=0-1,-2")],
        b"",
    );
    assert_eq!(two.status(), 206);
    let len = two.header("content-length").expect("a length");
    assert_eq!(len, two.body.len().to_string());
    // What it was used for is kept when it is gone.
    node.json(&["block", "rm", id, "--force"]);
    let stats = ask(&node, &format!("GET /api/v1/blocks/{id}/stats"), &with, b"");
    let stats: Value = serde_json::from_slice(&stats.body).expect("json");
    assert_eq!(
        (&stats["local"], &stats["deleted"]),
        (&false.into(), &true.into())
    );
    assert_eq!(stats["purged"]["count"], 1);
    assert!(stats["requested"]["count"].as_u64() >= Some(2), "{stats}");
    let told = node.json(&["block", "stat", id]);
    assert_eq!(stats["requested"]["count"], told["requested"]["count"]);
    source.stop();
    node.stop();
}

#[test]
fn a_directory_is_opened_with_its_index_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&dir.path().join("data"), &[]);
    let site = dir.path().join("site");
    std::fs::create_dir(&site).expect("made");
    std::fs::write(site.join("home.html"), "<p>home").expect("written");
    let put = node.json(&["put", utf8(&site), "--index", "home.html", "--no-announce"]);
    let link = text(&put["link"]);
    let url = node.json(&["url", link]);
    let path = text(&url["url"]).strip_prefix(&node.http).expect("ours");
    assert_eq!(get(&node, path).body, b"<p>home");
    let file = node.json(&["url", &format!("{link}/home.html")]);
    assert!(text(&file["url"]).ends_with("/home.html"), "{file}");
    // Where none is named, index.html at the root is.
    std::fs::write(site.join("index.html"), "<p>index").expect("written");
    let put = node.json(&["put", utf8(&site), "--no-announce"]);
    let url = node.json(&["url", text(&put["link"])]);
    let path = text(&url["url"]).strip_prefix(&node.http).expect("ours");
    assert_eq!(get(&node, path).body, b"<p>index");
    let sorted = get(&node, &format!("{path}?sort=date"));
    let page = String::from_utf8(sorted.body).expect("text");
    assert!(page.contains("./home.html"), "{page}");
    let sum = node.json(&["block", "stat", text(&put["link"]), "--bundle"]);
    assert_eq!(
        (&sum["blocks"], &sum["local"]),
        (&put["blocks"], &put["blocks"])
    );
    assert!(sum["requested"]["count"].as_u64() > Some(0), "{sum}");
    node.stop();
    let gone = run(&dir.path().join("data"), &["url", link]);
    fails(&gone, 11, "no node runs here");
}

/// Saves an answer as curl does.
fn save(dir: &Path, answer: &Answer) -> [String; 2] {
    let files = [dir.join("headers"), dir.join("body")];
    std::fs::write(&files[0], format!("{}\r\n", answer.head)).expect("written");
    std::fs::write(&files[1], &answer.body).expect("written");
    files.map(|file| utf8(&file).to_owned())
}

#[test]
fn saved_answers_are_verified() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&dir.path().join("data"), &[]);
    let file = dir.path().join("file");
    let bytes: Vec<u8> = (0..600_000u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(&file, &bytes).expect("written");
    let put = node.json(&["put", utf8(&file), "--no-announce"]);
    let url = node.json(&["url", text(&put["link"])]);
    let path = text(&url["url"]).strip_prefix(&node.http).expect("ours");
    let block = node.json(&["block", "put", utf8(&file)]);
    let block = format!("/ipfs/{}?format=raw", text(&block["id"]));
    for (path, body) in [("/", "digest"), (&block, "block"), (path, "not_covered")] {
        let [headers, saved] = save(dir.path(), &get(&node, path));
        let args = ["verify-response", "--headers", &headers, "--body", &saved];
        let found = node.json(&args);
        assert_eq!(
            (&found["key_id"], &found["status"]),
            (&node.peer.as_str().into(), &200.into())
        );
        assert_eq!(found["body"], body, "{path}");
        std::fs::write(&saved, b"another body").expect("written");
        if body == "not_covered" {
            let output = node.run(&args);
            assert!(output.status.success());
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains("says nothing of the bytes"), "{said}");
        } else {
            fails(&node.run(&args), 5, "the body is not what the node signed");
        }
        let head = std::fs::read_to_string(&headers).expect("saved");
        std::fs::write(&headers, head.replace("200 OK", "404 Not Found")).expect("written");
        fails(&node.run(&args), 5, "the signature is wrong");
    }
    let [headers, body] = save(dir.path(), &get(&node, "/"));
    let args = ["verify-response", "--headers", &headers, "--body", &body];
    let empty = dir.path().join("empty");
    fails(&run(&empty, &args), 2, "--peer");
    let named = [&args[..], &["--peer", &node.peer]].concat();
    assert_eq!(json(&empty, &named)["key_id"], node.peer.as_str());
    let stranger = dir.path().join("stranger");
    json(&stranger, &["id"]);
    fails(&run(&stranger, &args), 5, "was signed by");
    node.stop();
}

/// Verifies by the standard alone: the key is read out of the peer id, the rest is the library's.
const CHECK: &str = r#"
import sys
try:
    import http_message_signatures as hms
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
except ImportError as error:
    print(error)
    sys.exit(77)
lines = open(sys.argv[1], newline='').read().split('\r\n')
class Message: pass
message = Message()
message.status_code = int(lines[0].split()[1])
message.headers = dict(line.split(': ', 1) for line in lines[1:] if line)
message.headers = {name.lower(): value for name, value in message.headers.items()}
message.request = None
def key(peer):
    alphabet = '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz'
    number = 0
    for letter in peer:
        number = number * 58 + alphabet.index(letter)
    peer = number.to_bytes(38, 'big')
    assert peer[:6] == bytes([0, 36, 8, 1, 18, 32]), peer
    return Ed25519PublicKey.from_public_bytes(peer[6:])
class Keys(hms.HTTPSignatureKeyResolver):
    def resolve_public_key(self, key_id):
        assert key_id == sys.argv[3], key_id
        return key(key_id)
verifier = hms.HTTPMessageVerifier(signature_algorithm=hms.algorithms.ED25519, key_resolver=Keys())
body = open(sys.argv[2], 'rb').read()
results = verifier.verify(message, body=body)
assert len(results) == 1 and results[0].body == body, results
covered = list(results[0].covered_components)
assert '"@status"' in covered and '"libernet-path"' in covered, covered
print('verified')
"#;

#[test]
fn signatures_hold_for_another_implementation() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&dir.path().join("data"), &[]);
    for path in ["/", "/nothing", "/ipfs/bafkqaaa?format=raw"] {
        let [headers, body] = save(dir.path(), &get(&node, path));
        let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let checked = Command::new(python)
            .args(["-c", CHECK, &headers, &body, &node.peer])
            .output();
        let checked = match checked {
            Ok(checked) if checked.status.code() != Some(77) => checked,
            Ok(missing) => {
                let why = String::from_utf8_lossy(&missing.stdout).into_owned();
                eprintln!("skipped: python3 without http-message-signatures: {why}");
                break;
            }
            Err(error) => {
                eprintln!("skipped: no python3: {error}");
                break;
            }
        };
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(checked.status.success(), "{path}: {said}");
    }
    node.stop();
}
