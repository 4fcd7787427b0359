//! Websites in bundles, as their publisher and a reader use them.

use std::path::Path;

use crate::process::{Node, fails, json, run};

fn write(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().expect("below the root")).expect("made");
    std::fs::write(path, text).expect("written");
}

#[test]
fn a_site_is_checked_mended_published_and_opened() {
    let dir = tempfile::tempdir().expect("a directory");
    let site = dir.path().join("site");
    write(
        &site,
        "index.html",
        "<a href='sub/b.html'>b</a>\n<img src='/a.png'>",
    );
    write(
        &site,
        "sub/b.html",
        "<script src='https://x.org/a.js'></script>",
    );
    write(&site, "a.png", "x");
    let data = dir.path().join("data");
    let path = site.to_str().expect("UTF-8");

    let output = run(&data, &["site", "check", path]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(
        text.contains("index.html:2:11: absolute: img src: '/a.png'"),
        "{text}"
    );
    assert!(
        text.contains("sub/b.html:1:14: external: script src:"),
        "{text}"
    );
    let output = run(&data, &["site", "check", path, "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["problems"][0]["file"], "index.html");
    assert_eq!(report["problems"][0]["line"], 2);
    assert_eq!(report["problems"][0]["column"], 11);
    assert_eq!(report["problems"][0]["kind"], "absolute");
    assert_eq!(report["problems"].as_array().map(Vec::len), Some(2));
    assert!(!data.exists(), "a check leaves no data directory");

    let refused = run(&data, &["site", "publish", path, "--json"]);
    fails(
        &refused,
        1,
        "was not published: 2 references would not work",
    );
    assert!(!data.exists(), "a refused site is not stored");
    let anyway = json(&data, &["site", "publish", path, "--anyway"]);
    assert_eq!(anyway["problems"], 2);
    assert_eq!(anyway["url"], serde_json::Value::Null);

    write(
        &site,
        "index.html",
        "<a href='sub/b.html'>b</a>\n<img src='a.png'>",
    );
    write(&site, "sub/b.html", "<img src=../a.png>");
    let node = Node::start(&data, &[]);
    assert_eq!(
        node.json(&["site", "check", path])["problems"],
        serde_json::json!([])
    );
    let published = node.json(&["site", "publish", path]);
    assert_eq!(published["problems"], 0);
    let link = published["link"].as_str().expect("a link");
    let url = published["url"].as_str().expect("a URL");
    assert!(
        url.starts_with(&node.http) && url.contains("/sha384/"),
        "{url}"
    );
    let opened = node.json(&["site", "open", link]);
    assert_eq!(opened["url"], published["url"]);
    let printed = node.run(&["site", "open", link, "--print"]);
    assert_eq!(String::from_utf8_lossy(&printed.stdout).trim(), url);
    node.stop();
    let nobody = run(&data, &["site", "open", link]);
    fails(&nobody, 11, "no node is running to show the site");
}

#[test]
fn a_path_that_is_no_directory_is_a_usage_error() {
    let dir = tempfile::tempdir().expect("a directory");
    write(dir.path(), "page.html", "");
    let data = dir.path().join("data");
    for command in ["check", "publish"] {
        let file = dir.path().join("page.html");
        let output = run(&data, &["site", command, file.to_str().expect("UTF-8")]);
        fails(&output, 2, "is not a directory");
        let missing = dir.path().join("missing");
        let output = run(&data, &["site", command, missing.to_str().expect("UTF-8")]);
        fails(&output, 1, "could not be read");
    }
}
