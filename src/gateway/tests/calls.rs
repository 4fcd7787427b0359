//! What a program asks, from a `Client` through the gateway to the node behind it.

use super::*;

#[derive(Default)]
struct Heard(std::sync::Mutex<(Vec<String>, u64)>);

impl Monitor for Heard {
    fn progress(&self, progress: Progress) {
        self.0.lock().expect("not poisoned").1 = progress.files;
    }
    fn warning(&self, message: &str) {
        self.0
            .lock()
            .expect("not poisoned")
            .0
            .push(message.to_owned());
    }
}

/// Longer than any call takes, on a busy machine too.
const LONG: Duration = Duration::from_secs(90);

fn put_request() -> Put {
    Put {
        path: "/x".into(),
        name: None,
        index_file: None,
        pin: true,
        announce: true,
        private: false,
        like: None,
    }
}

fn cat_request(path: &str) -> Cat {
    Cat {
        link: link(),
        path: path.into(),
        offset: 2,
        len: Some(6),
        timeout_s: 1,
    }
}

#[tokio::test]
async fn calls_travel_with_progress_warnings_and_errors() {
    let fixture = Fixture::new(None).await;
    let (client, server) = fixture.serve().await;
    let heard = Arc::new(Heard::default());
    let error = client
        .put(put_request(), heard.clone())
        .await
        .expect_err("scripted");
    assert_eq!(
        (error.kind, error.hint.as_deref()),
        (ErrorKind::Full, Some("make some"))
    );
    assert_eq!(
        *heard.0.lock().expect("not poisoned"),
        (vec!["one file".to_owned()], 3)
    );

    let ls = |path: &str| Ls {
        link: link(),
        path: path.into(),
        follow: false,
        skip: 0,
        limit: 9,
        timeout_s: 1,
    };
    assert_eq!(client.ls(ls("")).await.expect("listed").entries.len(), 2);
    assert_eq!(
        client.ls(ls("nothing")).await.expect_err("none").kind,
        ErrorKind::Usage
    );
    fixture.stop.cancel();
    server.await.expect("stopped");
}

#[tokio::test]
async fn bytes_travel_in_both_directions() {
    let fixture = Fixture::new(None).await;
    let (client, _server) = fixture.serve().await;
    let bytes: Vec<Bytes> = client
        .cat(cat_request("ten.txt"))
        .await
        .expect("opened")
        .try_collect()
        .await
        .expect("whole");
    assert_eq!(bytes.concat(), b"234567");
    let error = client
        .cat(cat_request("nowhere"))
        .await
        .err()
        .expect("before the first byte");
    assert_eq!(error, not_found());
    let mut stream = client.cat(cat_request("broken.txt")).await.expect("opened");
    assert_eq!(stream.next().await.expect("some").expect("bytes"), "234");
    assert_eq!(
        stream.next().await.expect("more").expect_err("broken.txt"),
        not_found()
    );
    assert!(stream.next().await.is_none());

    let id = link().id;
    let block = client
        .block_get(BlockGet { id, timeout_s: 1 })
        .await
        .expect("there");
    assert_eq!(block, "0123456789");
    let largest = Bytes::from(vec![7; crate::block::MAX_BLOCK_BYTES]);
    assert_eq!(
        client
            .block_put(BlockPut::default(), largest.clone())
            .await
            .expect("fits")
            .bytes,
        largest.len() as u64
    );
    let over = Bytes::from(vec![7; crate::block::MAX_BLOCK_BYTES + 1]);
    let error = client
        .block_put(BlockPut::default(), over)
        .await
        .expect_err("too large");
    assert_eq!(error.kind, ErrorKind::Usage);
    assert!(error.message.contains("2097152"), "{error}");

    let pieces = futures::stream::iter((0..100).map(|_| Ok(Bytes::from(vec![1; 100_000]))));
    let stream = PutStream {
        name: "a name&".to_owned(),
        pin: false,
        announce: true,
        private: true,
    };
    let reply = client
        .put_stream(stream.clone(), pieces.boxed(), Arc::new(Silent))
        .await
        .expect("sent");
    assert_eq!(
        (reply.bytes, reply.unreadable[0].path.as_str()),
        (
            10_000_000,
            "name=a%20name%26&pin=false&announce=true&private=true"
        )
    );
    let failing = futures::stream::iter([
        Ok(Bytes::from_static(b"x")),
        Err(std::io::Error::other("unplugged")),
    ]);
    let error = client
        .put_stream(stream, failing.boxed(), Arc::new(Silent))
        .await
        .expect_err("unplugged");
    assert!(error.message.contains("unplugged"), "{error}");
}

fn get_request() -> Get {
    Get {
        link: link(),
        path: "".into(),
        output: None,
        directory: "/".into(),
        overwrite: Overwrite::Never,
        owners: false,
        pin: false,
        max_bytes: None,
        max_files: None,
        any_size: false,
        timeout_s: 1,
    }
}

#[tokio::test]
async fn dropping_a_call_drops_the_work_behind_it() {
    let fixture = Fixture::new(None).await;
    let (client, _server) = fixture.serve().await;
    let begun = fixture.scripted.begun.clone();
    let call = tokio::spawn(async move { client.get(get_request(), Arc::new(Silent)).await });
    begun.notified().await;
    call.abort();
    tokio::time::timeout(LONG, fixture.scripted.dropped.notified())
        .await
        .expect("the node's work is dropped");
}

#[tokio::test]
async fn stopping_ends_calls_with_an_error() {
    let fixture = Fixture::new(None).await;
    let (client, server) = fixture.serve().await;
    let call = tokio::spawn(async move { client.get(get_request(), Arc::new(Silent)).await });
    fixture.scripted.begun.notified().await;
    fixture.stop.cancel();
    tokio::time::timeout(LONG, server)
        .await
        .expect("it stops")
        .expect("stopped");
    let error = call.await.expect("joined").expect_err("stopped");
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.message.contains("stopping"), "{error}");
}

#[tokio::test]
async fn wrong_requests_are_told_what_is_wrong_without_repeating_them() {
    let fixture = Fixture::new(None).await;
    let gateway = Gateway::bind(([127, 0, 0, 1], 0).into())
        .await
        .expect("a port");
    let address = gateway.address;
    let options = Options {
        token: Token::random(),
        timeout_s: 1,
        signer: None,
        data_dir: None,
    };
    let token = serde_json::to_value(&options.token).expect("json");
    let authorization = format!("Bearer {}", token.as_str().expect("text"));
    tokio::spawn(gateway.serve(fixture.shared.client.clone(), options, fixture.stop.clone()));
    let send = async |call: &str, body: Vec<u8>| -> (u16, String) {
        let stream = TcpStream::connect(address).await.expect("connected");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .expect("http");
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method("POST")
            .uri(format!("/api/v1/{call}"))
            .header("host", address.to_string())
            .header("authorization", &authorization)
            .body(Body::from(body))
            .expect("valid");
        let response = sender.send_request(request).await.expect("answered");
        let status = response.status().as_u16();
        let body = response
            .into_body()
            .collect()
            .await
            .expect("whole")
            .to_bytes();
        driver.abort();
        (status, String::from_utf8(body.to_vec()).expect("text"))
    };
    let (status, text) = send("cat", b"{\"link\":\"libernet:secret\"}".to_vec()).await;
    assert!(status == 400 && !text.contains("secret"), "{status} {text}");
    let (status, text) = send("cat", vec![b' '; (1 << 20) + 1]).await;
    assert!(status == 400 && text.contains("1048576"), "{status} {text}");
    assert_eq!(send("nothing", Vec::new()).await.0, 404);
    assert_eq!(send("put-stream", Vec::new()).await.0, 400);
    assert_eq!(send("put-stream?name=x&pin=maybe", Vec::new()).await.0, 400);
    assert_eq!(send("put-stream?name=x", Vec::new()).await.0, 200);
    assert_eq!(
        send(&format!("put-stream?name={}", "x".repeat(256)), Vec::new())
            .await
            .0,
        400
    );
}
