//! Raw blocks, held against the table of the trustless gateway's specification.

use super::*;

const RAW: &str = "application/vnd.ipld.raw";

fn cid(codec: u64) -> String {
    link().id.to_cid_as(codec).to_string()
}

#[tokio::test]
async fn blocks_of_any_codec() {
    let fixture = Fixture::new(None).await;
    for codec in [0x55, 0x70, 0x71, 0x0129] {
        let cid = cid(codec);
        let path = format!("/ipfs/{cid}");
        for (query, accept, is_negotiated) in [
            ("?format=raw", "*/*", false),
            ("", RAW, true),
            ("", "text/html;q=0.5, application/vnd.ipld.raw; q=0.1", true),
            ("?x=1&format=raw", "application/vnd.ipld.car", false),
        ] {
            let asked = [("accept", accept)];
            let answer = fixture.send("GET", &format!("{path}{query}"), &asked).await;
            assert_eq!(
                (answer.status.as_u16(), answer.text().as_str()),
                (200, "0123456789"),
                "{query} {accept}"
            );
            for (name, value) in [
                ("content-type", RAW.to_owned()),
                (
                    "content-disposition",
                    format!("attachment; filename=\"{cid}.bin\""),
                ),
                ("etag", format!("\"{cid}.raw\"")),
                (
                    "cache-control",
                    "public, max-age=29030400, immutable".to_owned(),
                ),
                ("x-ipfs-path", path.clone()),
                ("x-ipfs-roots", cid.clone()),
                ("x-content-type-options", "nosniff".to_owned()),
                ("content-length", "10".to_owned()),
            ] {
                assert_eq!(answer.header(name), value, "{name}");
            }
            let location = match is_negotiated {
                true => format!("{path}?format=raw"),
                false => String::new(),
            };
            assert_eq!(answer.header("content-location"), location);
        }
    }
}

#[tokio::test]
async fn parts_versions_and_heads() {
    let fixture = Fixture::new(None).await;
    let path = format!("/ipfs/{}?format=raw", cid(0x70));
    let etag = format!("\"{}.raw\"", cid(0x70));
    let part = fixture.send("GET", &path, &[("range", "bytes=2-4")]).await;
    assert_eq!((part.status.as_u16(), part.text().as_str()), (206, "234"));
    let beyond = fixture.send("GET", &path, &[("range", "bytes=10-")]).await;
    assert_eq!(beyond.status.as_u16(), 416);
    for known in [etag.as_str(), "*"] {
        let asked = [("if-none-match", known)];
        let answer = fixture.send("GET", &path, &asked).await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (304, ""));
        assert_eq!(answer.header("etag"), etag);
    }
    let head = fixture.send("HEAD", &path, &[]).await;
    assert_eq!(
        (
            head.status.as_u16(),
            head.header("content-length"),
            head.text().as_str()
        ),
        (200, "10", "")
    );
    assert_eq!(head.header("content-type"), RAW);
    let named = format!("{path}&filename=a%20%22%D1%82.bin");
    let named = fixture.get(&named).await;
    assert_eq!(
        named.header("content-disposition"),
        "attachment; filename=\"a __.bin\"; filename*=UTF-8''a%20%22%D1%82.bin"
    );
}

#[tokio::test]
async fn the_probe_and_what_a_cid_holds() {
    let fixture = Fixture::new(None).await;
    for method in ["GET", "HEAD"] {
        for (path, headers) in [
            ("/ipfs/bafkqaaa?format=raw", &[][..]),
            ("/ipfs/bafkqaaa", &[("accept", RAW)][..]),
        ] {
            let answer = fixture.send(method, path, headers).await;
            assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, ""));
            assert_eq!(answer.header("content-type"), RAW);
        }
    }
    // Identity of "hello".
    let hello = fixture.get("/ipfs/bafkqablimvwgy3y?format=raw").await;
    assert_eq!(
        (hello.status.as_u16(), hello.text().as_str()),
        (200, "hello")
    );
}

#[tokio::test]
async fn what_is_not_given_says_why() {
    let fixture = Fixture::new(None).await;
    let good = format!("/ipfs/{}", cid(0x55));
    let nowhere = BlockId::from_sha256([1; 32]).to_cid_as(0x70);
    let nowhere = format!("/ipfs/{nowhere}?format=raw");
    // sha2-512 and BLAKE3 name no blocks here.
    let other = "/ipfs/bafkr4iae4c5tt4yldi76xcpvg3etxykqkvec352im5fqbutolj2xo5yc5e?format=raw";
    for (method, path, headers, status) in [
        ("GET", good.as_str(), &[][..], 400),
        ("GET", &good, &[("accept", "*/*")], 400),
        ("GET", &format!("{good}?format=car"), &[], 406),
        ("GET", &good, &[("accept", "application/vnd.ipld.car")], 406),
        (
            "GET",
            &good,
            &[("accept", "application/vnd.ipld.raw;q=0")],
            400,
        ),
        ("GET", &format!("{good}/a?format=raw"), &[], 400),
        ("GET", "/ipfs/nothing?format=raw", &[], 400),
        ("GET", other, &[], 400),
        (
            "GET",
            &format!("{good}?format=raw"),
            &[("service-worker", "script")],
            400,
        ),
        ("GET", &nowhere, &[], 404),
        ("HEAD", &nowhere, &[], 404),
        ("GET", &nowhere, &[("cache-control", "only-if-cached")], 412),
        (
            "HEAD",
            &nowhere,
            &[("cache-control", "max-age=0, only-if-cached")],
            412,
        ),
        ("POST", &good, &[], 405),
    ] {
        let answer = fixture.send(method, path, headers).await;
        assert_eq!(
            answer.status.as_u16(),
            status,
            "{method} {path} {headers:?}"
        );
        assert_ne!(answer.header("content-type"), RAW);
    }
    let cached = [("cache-control", "only-if-cached"), ("accept", RAW)];
    let answer = fixture.send("GET", &good, &cached).await;
    assert_eq!(answer.status.as_u16(), 200, "it is here");
}
