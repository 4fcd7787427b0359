//! What a browser gets.

use super::*;

#[tokio::test]
async fn blocks_by_url() {
    let fixture = Fixture::new(None).await;
    let path = link().id.to_path();
    let whole = fixture.get(&path).await;
    assert_eq!(
        (whole.status.as_u16(), whole.text().as_str()),
        (200, "0123456789")
    );
    assert_eq!(whole.header("content-type"), "application/octet-stream");
    assert!(whole.header("cache-control").contains("immutable"));
    let etag = whole.header("etag").to_owned();
    assert_eq!(etag, format!("\"{}\"", link().id.to_hex()));

    let known = fixture
        .send("GET", &path, &[("if-none-match", &etag)])
        .await;
    assert_eq!((known.status.as_u16(), known.text().as_str()), (304, ""));
    let any = [("if-none-match", "*")];
    let known = fixture.send("GET", &path, &any).await;
    assert_eq!((known.status.as_u16(), known.text().as_str()), (304, ""));
    let head = fixture.send("HEAD", &path, &[("range", "bytes=2-4")]).await;
    assert_eq!(
        (
            head.status.as_u16(),
            head.header("content-length"),
            head.text().as_str()
        ),
        (200, "10", "")
    );
    let part = fixture.send("GET", &path, &[("range", "bytes=2-4")]).await;
    assert_eq!((part.status.as_u16(), part.text().as_str()), (206, "234"));
    assert_eq!(part.header("content-range"), "bytes 2-4/10");
    let beyond = fixture.send("GET", &path, &[("range", "bytes=10-")]).await;
    assert_eq!(
        (beyond.status.as_u16(), beyond.header("content-range")),
        (416, "bytes */10")
    );

    let nowhere = BlockId::from_sha256([1; 32]).to_path();
    let missing = fixture.get(&nowhere).await;
    assert_eq!(missing.status.as_u16(), 504);
    assert_eq!(missing.header("retry-after"), "10");
    assert_eq!(missing.header("content-type"), "application/problem+json");
    let problem = missing.json();
    assert_eq!(
        (&problem["status"], &problem["title"], &problem["detail"]),
        (
            &json!(504),
            &json!("Gateway Timeout"),
            &json!("block is nowhere")
        )
    );
    let error = problem["error"].clone();
    assert_eq!(
        (&error["hint"], &error["tried"][0]["peer"]),
        (&json!("wait"), &json!("12D3"))
    );
    let missing = fixture.send("GET", &nowhere, &any).await;
    assert_eq!(missing.status.as_u16(), 504, "any version of nothing");
    let person = fixture
        .send("GET", &nowhere, &[("accept", "text/html")])
        .await;
    assert!(
        person.text().contains("does not have it"),
        "{}",
        person.text()
    );

    for like in [
        format!("{path}/like"),
        format!("/sha384/like/{}", link().id.to_hex()),
    ] {
        let like = fixture.get(&like).await.json();
        assert_eq!(
            (&like["prefix"], &like["blocks"][0]["path"]),
            (&json!("5a5a"), &json!(path))
        );
    }
}

#[tokio::test]
async fn content_by_url() {
    let fixture = Fixture::new(None).await;
    let root = link().to_path();
    let no_slash = fixture.get(&root).await;
    assert_eq!(
        (no_slash.status.as_u16(), no_slash.header("location")),
        (308, format!("{root}/").as_str())
    );
    let listing = fixture.get(&format!("{root}/")).await;
    assert!(
        listing.text().contains("href=\"./ten.txt\""),
        "{}",
        listing.text()
    );

    let page = fixture.get(&format!("{root}/page.html")).await;
    assert_eq!(
        (page.text().as_str(), page.header("content-type")),
        (HTML, "text/html; charset=utf-8")
    );
    let policy = page.header("content-security-policy");
    assert!(
        policy.contains("script-src 'none'") && policy.contains("sandbox"),
        "{policy}"
    );
    assert!(
        !policy.contains("allow-scripts") && !policy.contains("allow-forms"),
        "{policy}"
    );
    assert_eq!(page.header("cache-control"), "no-store");
    assert!(
        !fixture
            .get(&format!("{root}/doc.pdf"))
            .await
            .header("content-security-policy")
            .contains("sandbox")
    );

    let etag = page.header("etag");
    let known = fixture
        .send(
            "GET",
            &format!("{root}/page.html"),
            &[("if-none-match", etag)],
        )
        .await;
    assert_eq!(known.status.as_u16(), 304);
    for (path, status) in [("page.html", 304), ("sub/", 304), ("nothing", 404)] {
        let path = format!("{root}/{path}");
        let any = fixture.send("GET", &path, &[("if-none-match", "*")]).await;
        assert_eq!(any.status.as_u16(), status, "{path}");
    }
    let part = fixture
        .send("GET", &format!("{root}/ten.txt"), &[("range", "bytes=-3")])
        .await;
    assert_eq!(
        (
            part.status.as_u16(),
            part.text().as_str(),
            part.header("content-length")
        ),
        (206, "789", "3")
    );
    let head = fixture.send("HEAD", &format!("{root}/ten.txt"), &[]).await;
    assert_eq!(
        (head.header("content-length"), head.text().as_str()),
        ("10", "")
    );
    let empty = fixture.get(&format!("{root}/empty")).await;
    assert_eq!(
        (empty.status.as_u16(), empty.header("content-length")),
        (200, "0")
    );

    let symlink = fixture.get(&format!("{root}/link")).await;
    assert_eq!(
        (symlink.status.as_u16(), symlink.header("location")),
        (307, format!("{root}/sub/page.html").as_str())
    );
    assert_eq!(
        fixture.get(&format!("{root}/away")).await.status.as_u16(),
        404
    );
    assert_eq!(
        fixture
            .get(&format!("{root}/nothing"))
            .await
            .status
            .as_u16(),
        404
    );
    assert_eq!(
        fixture
            .get(&format!("{root}/nowhere"))
            .await
            .status
            .as_u16(),
        504
    );
    // What fails later can only break off: the length that was promised never comes.
    assert_eq!(fixture.get(&format!("{root}/broken.txt")).await.body, None);
}

#[tokio::test]
async fn index_files() {
    let root = link().to_path();
    let fixture = Fixture::new(Some("page.html")).await;
    assert_eq!(fixture.get(&format!("{root}/")).await.text(), HTML);
    assert_eq!(fixture.get(&format!("{root}/sub/")).await.text(), HTML);
    assert!(
        fixture
            .get(&format!("{root}/other/"))
            .await
            .text()
            .contains("<h1>other</h1>")
    );
    let nested = Fixture::new(Some("sub/page.html")).await;
    let answer = nested.get(&format!("{root}/")).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("location")),
        (307, format!("{root}/sub/page.html").as_str())
    );
}

#[tokio::test]
async fn several_ranges() {
    let fixture = Fixture::new(None).await;
    let file = format!("{}/ten.txt", link().to_path());
    for path in [link().id.to_path(), file] {
        let asked = [("range", "bytes=0-1,-3")];
        let answer = fixture.send("GET", &path, &asked).await;
        assert_eq!(answer.status.as_u16(), 206, "{path}");
        let kind = answer.header("content-type").to_owned();
        let boundary = kind
            .strip_prefix("multipart/byteranges; boundary=")
            .unwrap_or_else(|| panic!("{kind}"));
        let text = answer.text();
        assert_eq!(answer.header("content-length"), text.len().to_string());
        for part in ["bytes 0-1/10\r\n\r\n01", "bytes 7-9/10\r\n\r\n789"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(text.ends_with(&format!("\r\n--{boundary}--\r\n")), "{text}");
        // Nobody has more sent than there is.
        let many = [("range", "bytes=0-9,0-9")];
        let answer = fixture.send("GET", &path, &many).await;
        assert_eq!((answer.status.as_u16(), answer.text().len()), (200, 10));
    }
    // A part behind the first that can't be had breaks the answer off.
    let broken = format!("{}/broken.txt", link().to_path());
    let asked = [("range", "bytes=0-1,4-7")];
    let answer = fixture.send("GET", &broken, &asked).await;
    assert_eq!((answer.status.as_u16(), answer.body), (206, None));
}

#[tokio::test]
async fn blocks_are_put_by_token_holders_alone() {
    let fixture = Fixture::new(None).await;
    let path = link().id.to_path();
    let token = fixture.shared.options.token.to_header();
    let with: &[(&str, &str)] = &[("authorization", &token)];
    let put = async |path: &str, headers: &[(&str, &str)], body: &'static str| {
        let answer = fixture.send_body("PUT", path, headers, body.into()).await;
        answer.status.as_u16()
    };
    assert_eq!(put(&path, &[], "x").await, 401);
    assert_eq!(put(&path, with, "x").await, 201);
    let other = BlockId::from_sha384([1; 48]).to_path();
    assert_eq!(put(&other, with, "x").await, 422, "not what it names");
    assert_eq!(put(&format!("{path}/like"), with, "x").await, 405);
    assert_eq!(put("/sha384/00", with, "x").await, 404);
    assert_eq!(put("/open/00", with, "x").await, 405);
    let foreign = [("authorization", token.as_str()), ("origin", "null")];
    assert_eq!(put(&path, &foreign, "x").await, 403);
    let large = (crate::block::MAX_BLOCK_BYTES + 1).to_string();
    let large = [
        ("authorization", token.as_str()),
        ("content-length", large.as_str()),
    ];
    assert_eq!(put(&path, &large, "").await, 413);
}

#[tokio::test]
async fn how_a_block_was_used_is_for_token_holders() {
    let fixture = Fixture::new(None).await;
    let path = format!("/api/v1/blocks/{}/stats", link().id);
    assert_eq!(fixture.get(&path).await.status.as_u16(), 401);
    let token = fixture.shared.options.token.to_header();
    let with = [("authorization", token.as_str())];
    let stats = fixture.send("GET", &path, &with).await;
    assert_eq!(stats.status.as_u16(), 200);
    assert_eq!(stats.json()["requested"]["count"], 0);
    let wrong = fixture.send("GET", "/api/v1/blocks/x/stats", &with).await;
    assert_eq!(wrong.status.as_u16(), 400);
}

/// Directories are sorted by what the query says, and an index file does not stand in the way.
#[tokio::test]
async fn listings_are_sorted() {
    let fixture = Fixture::new(Some("page.html")).await;
    let root = link().to_path();
    assert_eq!(fixture.get(&format!("{root}/")).await.text(), HTML);
    let up = fixture.get(&format!("{root}/?sort=size")).await.text();
    let down = fixture.get(&format!("{root}/?sort=size&order=desc")).await;
    let position = |text: &str, name: &str| text.find(name).expect("listed");
    assert!(position(&up, "./sub/") < position(&up, "./ten.txt"));
    let down = down.text();
    assert!(position(&down, "./ten.txt") < position(&down, "./sub/"));
    assert!(down.contains("aria-sort=\"descending\""), "{down}");
}

/// The kind of a file without an extension is told by its content.
#[tokio::test]
async fn content_tells_what_a_name_does_not() {
    let fixture = Fixture::new(None).await;
    let root = link().to_path();
    for (name, kind) in [
        ("README", "text/plain; charset=utf-8"),
        ("picture", "image/png"),
        ("empty", "application/octet-stream"),
    ] {
        for method in ["GET", "HEAD"] {
            let path = format!("{root}/{name}");
            let answer = fixture.send(method, &path, &[]).await;
            assert_eq!(answer.header("content-type"), kind, "{method} {name}");
            let policy = answer.header("content-security-policy");
            assert!(policy.contains("script-src 'none'"), "{policy}");
        }
    }
}

pub(super) const NAVIGATION: [(&str, &str); 3] = [
    ("sec-fetch-site", "none"),
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-dest", "document"),
];

/// Whether the key is anywhere in an answer.
pub(super) fn shows_key(answer: &Answer) -> bool {
    let key = link().key.to_hex();
    let in_headers = answer
        .headers
        .values()
        .any(|value| value.to_str().is_ok_and(|value| value.contains(&*key)));
    in_headers || answer.text().contains(&*key)
}

/// The address that a browser keeps after the first request has no key in it, where host names of
/// bundles don't lead to the server, too.
#[tokio::test]
async fn the_key_leaves_the_address() {
    let mut fixture = Fixture::new(None).await;
    fixture.shared.address = ([127, 0, 0, 2], 4385).into();
    let keyed = link().to_path();
    for (rest, to) in [
        ("/", "/"),
        ("", "/"),
        ("/ten.txt", "/ten.txt"),
        ("/sub/", "/sub/"),
        ("/?skip=7", "/?skip=7"),
        ("/?sort=size&skip=7", "/?sort=size&skip=7"),
    ] {
        let first = fixture
            .send("GET", &format!("{keyed}{rest}"), &NAVIGATION)
            .await;
        assert_eq!(first.status.as_u16(), 303, "{rest}");
        assert_eq!(first.header("cache-control"), "no-store");
        let location = first.header("location").to_owned();
        assert!(
            location.starts_with("/open/") && location.ends_with(to),
            "{location}"
        );
        assert!(!shows_key(&first));
        let second = fixture.send("GET", &location, &NAVIGATION).await;
        assert_eq!(second.status.as_u16(), 200, "{location}");
        assert_eq!(second.header("cache-control"), "no-store");
        assert!(!shows_key(&second));
    }
    // Neither do the addresses that it leads on to.
    let first = fixture.send("GET", &format!("{keyed}/"), &NAVIGATION).await;
    let base = first.header("location").trim_end_matches('/').to_owned();
    for (path, status, to) in [
        ("", 308, "/"),
        ("/link", 307, "/sub/page.html"),
        ("/sub", 308, "/sub/"),
    ] {
        let answer = fixture
            .send("GET", &format!("{base}{path}"), &NAVIGATION)
            .await;
        let location = format!("{base}{to}");
        let found = (answer.status.as_u16(), answer.header("location"));
        assert_eq!(found, (status, location.as_str()));
    }
    // Programs that are no browsers are answered at once, and nothing of it is cached.
    let direct = fixture.get(&format!("{keyed}/ten.txt")).await;
    assert_eq!(direct.text(), "0123456789");
    assert_eq!(direct.header("cache-control"), "no-store");
    let unknown = fixture.get(&format!("/open/{}/", "00".repeat(16))).await;
    assert_eq!(unknown.status.as_u16(), 404);
    assert!(
        unknown.text().contains("open the link again"),
        "{}",
        unknown.text()
    );
}

/// A page of another website that leads here has nothing fetched, whatever the address.
#[tokio::test]
async fn a_link_of_another_website_is_asked_about() {
    let fixture = Fixture::new(None).await;
    let nowhere = BlockId::from_sha256([1; 32]).to_path();
    let keyed = format!("{}/nowhere", link().to_path());
    for path in [nowhere.as_str(), &keyed, &format!("{nowhere}/like")] {
        for site in ["cross-site", "same-site"] {
            let led = [
                ("sec-fetch-site", site),
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "document"),
            ];
            let answer = fixture.send("GET", path, &led).await;
            // A block that is looked for and not found gives another status.
            assert_eq!(answer.status.as_u16(), 403, "{path}");
            assert!(answer.text().contains(&format!("<a href=\"{path}\">")));
            let policy = answer.header("content-security-policy");
            assert!(
                policy.contains("allow-same-origin"),
                "its link is ours: {policy}"
            );
        }
    }
    let ours = [
        ("sec-fetch-site", "same-origin"),
        ("sec-fetch-mode", "cors"),
    ];
    let answer = fixture.send("GET", &nowhere, &ours).await;
    assert_eq!(answer.status.as_u16(), 504, "looked for, and not found");
}
