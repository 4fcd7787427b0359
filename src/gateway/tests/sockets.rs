//! Bytes on a socket that no client of ours would send.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Sends bytes on a connection of their own; gives what comes until the server ends it.
pub(super) async fn talk(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("accepted");
    // The server may answer and close before it has read all.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of the answer to one request.
async fn status(address: SocketAddr, line: &str, headers: &str) -> u16 {
    let request =
        format!("{line} HTTP/1.1\r\nhost: {address}\r\n{headers}connection: close\r\n\r\n");
    status_of(&talk(address, request.as_bytes()).await)
}

pub(super) fn status_of(answer: &str) -> u16 {
    let word = answer.split(' ').nth(1).unwrap_or_default();
    word.parse().unwrap_or(0)
}

#[tokio::test]
async fn addresses_that_name_nothing() {
    let fixture = Fixture::new(None).await;
    let (_client, server, address) = fixture.serve_at().await;
    let block = link().id.to_path();
    let root = link().to_path();
    for (path, expected) in [
        ("/sha384/zz".to_owned(), 404),
        (format!("{block}0"), 404),
        (block[..block.len() - 1].to_owned(), 404),
        (format!("/sha256/{}", link().id.to_hex()), 404),
        ("/sha384/".to_owned(), 404),
        (format!("{root}/%2e%2e/%2e%2e/etc/passwd"), 404),
        (format!("{root}/../../etc/passwd"), 404),
        (format!("{root}/a%00b"), 404),
        (format!("{root}/a%2fb"), 404),
        (format!("{root}/%c0%ae%c0%ae/x"), 404),
        (format!("{root}/%ff%fe"), 404),
        (format!("{root}/%"), 404),
        (format!("{root}/%zz"), 404),
        (format!("{block}/aes256/00"), 404),
        (format!("/%2e%2e{block}"), 404),
        (format!("//{}", &block[1..]), 404),
        ("/open/%00/".to_owned(), 404),
        ("/ipfs/%00?format=raw".to_owned(), 400),
        ("/api/v1/blocks/%ff/stats".to_owned(), 400),
    ] {
        let found = status(address, &format!("GET {path}"), "").await;
        assert_eq!(found, expected, "{path}");
    }
    // The right key of another link: the node says what it says of damaged content.
    assert_eq!(status(address, &format!("GET {block}"), "").await, 200);
    fixture.stop.cancel();
    server.await.expect("it ends");
}

#[tokio::test]
async fn ranges_that_make_no_sense() {
    let fixture = Fixture::new(None).await;
    let (_client, server, address) = fixture.serve_at().await;
    let get = format!("GET {}", link().id.to_path());
    let many: Vec<String> = (0..5000).map(|n| format!("{n}-{n}")).collect();
    for (range, expected) in [
        ("bytes=0-99999999999999999999".to_owned(), 206),
        ("bytes=99999999999999999999-".to_owned(), 416),
        ("bytes=-0".to_owned(), 416),
        ("bytes=9-0".to_owned(), 200),
        ("bytes=0-0,".repeat(2) + "x", 200),
        (format!("bytes={}", many.join(",")), 200),
        ("bytes=0-,".repeat(16), 200),
        ("octets=0-0".to_owned(), 200),
        ("\u{e9}".to_owned(), 200),
    ] {
        let found = status(address, &get, &format!("range: {range}\r\n")).await;
        assert_eq!(found, expected, "{range:.40}");
    }
    // A head that is larger than any should be.
    let huge = format!("range: bytes={}\r\n", "0-0,".repeat(40_000));
    assert_eq!(status(address, &get, &huge).await, 431);
    fixture.stop.cancel();
    server.await.expect("it ends");
}

#[tokio::test]
async fn foreign_hosts_and_origins() {
    let fixture = Fixture::new(None).await;
    let (_client, server, address) = fixture.serve_at().await;
    let block = link().id.to_path();
    let port = address.port();
    for (host, expected) in [
        (format!("127.0.0.1:{port}"), 200),
        (format!("localhost:{port}"), 200),
        (format!("[::1]:{port}"), 200),
        ("127.0.0.1".to_owned(), 421),
        (format!("example.org:{port}"), 421),
        (format!("192.0.2.1:{port}"), 421),
        (format!("127.0.0.1.example.org:{port}"), 421),
        (format!("user@127.0.0.1:{port}"), 421),
        (String::new(), 421),
    ] {
        let request = format!("GET {block} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let found = status_of(&talk(address, request.as_bytes()).await);
        assert_eq!(found, expected, "{host}");
    }
    for (header, expected) in [
        (format!("origin: http://127.0.0.1:{port}"), 200),
        ("origin: null".to_owned(), 403),
        ("origin: http://example.org".to_owned(), 403),
        (format!("origin: https://127.0.0.1:{port}"), 403),
        ("sec-fetch-site: cross-site".to_owned(), 403),
    ] {
        let found = status(address, &format!("GET {block}"), &format!("{header}\r\n")).await;
        assert_eq!(found, expected, "{header}");
    }
    let post = "content-type: application/x-www-form-urlencoded\r\ncontent-length: 0\r\n";
    assert_eq!(status(address, "POST /api/v1/status", post).await, 401);
    fixture.stop.cancel();
    server.await.expect("it ends");
}

#[tokio::test]
async fn old_clients_pipelines_and_garbage() {
    let fixture = Fixture::new(None).await;
    let (client, server, address) = fixture.serve_at().await;
    let block = link().id.to_path();
    let old = format!("GET {block} HTTP/1.0\r\nhost: {address}\r\n\r\n");
    let answer = talk(address, old.as_bytes()).await;
    assert_eq!(status_of(&answer), 200, "{answer}");
    assert!(answer.ends_with("\r\n\r\n0123456789"), "{answer}");
    let bare = format!("GET {block} HTTP/1.0\r\n\r\n");
    assert_eq!(status_of(&talk(address, bare.as_bytes()).await), 421);
    // Several requests at once are answered one after the other.
    let one = format!("GET {block} HTTP/1.1\r\nhost: {address}\r\n\r\n");
    let last = format!("GET /nothing HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    let answer = talk(address, format!("{one}{one}{last}").as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 2, "{answer}");
    let (blocks, end) = answer.split_once("HTTP/1.1 404 ").expect("the last one");
    assert_eq!(blocks.matches("0123456789").count(), 2, "{answer}");
    assert!(end.contains("problem+json"), "{answer}");
    for garbage in [
        &b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\0\0\0\0\0\0\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let answer = talk(address, garbage).await;
        let found = status_of(&answer);
        assert!(found == 0 || found == 400 || found == 505, "{answer}");
    }
    let ls = Ls {
        link: link(),
        path: "".into(),
        follow: false,
        skip: 0,
        limit: 1,
        timeout_s: 1,
    };
    client.ls(ls).await.expect("it is served after all that");
    fixture.stop.cancel();
    server.await.expect("it ends");
}

/// Heads and bodies that never end are cut at their deadline.
#[tokio::test]
async fn what_never_ends_is_ended() {
    let fixture = Fixture::new(None).await;
    let (_client, server, address) = fixture.serve_at().await;
    // From here on time passes whenever everybody waits.
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let answer = talk(
        address,
        format!("GET / HTTP/1.1\r\nhost: {address}\r\nx").as_bytes(),
    )
    .await;
    assert!(matches!(status_of(&answer), 0 | 408), "{answer}");
    assert!(began.elapsed() >= HEAD_TIMEOUT, "{:?}", began.elapsed());
    fixture.stop.cancel();
    server.await.expect("it ends");
}
