//! Answers and their signatures.

use super::*;
use crate::gateway::sign::{self, BodyCheck, Verified};

fn head(answer: &Answer) -> String {
    let mut text = format!("HTTP/1.1 {}\r\n", answer.status);
    for (name, value) in &answer.headers {
        let value = value.to_str().expect("text");
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text
}

fn verified(answer: &Answer) -> Verified {
    let body = answer.body.clone().expect("whole");
    let peer = libp2p::identity::Keypair::ed25519_from_bytes([7; 32])
        .expect("a key")
        .public()
        .to_peer_id()
        .to_string();
    sign::verify(&head(answer), &body, &peer).expect("signed")
}

#[tokio::test]
async fn every_answer_is_signed() {
    let fixture = Fixture::new(None).await;
    let block = link().id.to_path();
    let root = link().to_path();
    let raw = format!("/ipfs/{}?format=raw", link().id.to_cid_as(0x70));
    for (method, path, headers, body) in [
        ("GET", block.as_str(), &[][..], BodyCheck::Digest),
        (
            "GET",
            &block,
            &[("range", "bytes=0-1,4-5")],
            BodyCheck::Digest,
        ),
        ("GET", &block, &[("if-none-match", "*")], BodyCheck::Digest),
        ("HEAD", &block, &[], BodyCheck::NotCovered),
        ("GET", &raw, &[], BodyCheck::Digest),
        ("GET", "/nothing", &[], BodyCheck::Digest),
        (
            "GET",
            "/sha384/00",
            &[("accept", "text/html")],
            BodyCheck::Digest,
        ),
        ("GET", &block, &[("host", "example.org")], BodyCheck::Digest),
        ("GET", &format!("{root}/"), &[], BodyCheck::Digest),
        (
            "GET",
            &format!("{root}/ten.txt"),
            &[],
            BodyCheck::NotCovered,
        ),
    ] {
        let answer = fixture.send(method, path, headers).await;
        let found = verified(&answer);
        assert_eq!(found.status, answer.status.as_u16(), "{method} {path}");
        assert_eq!(found.body, body, "{method} {path}");
        if path.starts_with(&root) {
            assert!(!head(&answer).contains(&*link().key.to_hex()), "{path}");
            assert!(found.path.contains("/aes256/-/"), "{}", found.path);
        } else {
            assert_eq!(found.path, path);
        }
    }
    let file = fixture.get(&format!("{root}/ten.txt")).await;
    assert_eq!(file.header("libernet-id"), link().id.to_string());
    assert!(verified(&file).covered.contains(&"libernet-id".to_owned()));
}
