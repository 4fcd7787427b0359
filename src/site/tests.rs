//! Sites with one fault each, and what the check says of them.

use std::path::Path;

use super::*;

struct Site(tempfile::TempDir);

impl Site {
    fn of(files: &[(&str, &str)]) -> Self {
        let site = Self(tempfile::tempdir().expect("a directory"));
        for (name, text) in files {
            let path = site.0.path().join(name);
            std::fs::create_dir_all(path.parent().expect("below the root")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        site
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn check(&self) -> Report {
        check(self.path()).expect("readable")
    }

    /// Kind, line and column of every problem.
    fn problems(&self) -> Vec<(String, u64, u64, &'static str)> {
        let problems = self.check().problems.into_iter();
        problems
            .map(|p| (p.file, p.line, p.column, p.kind.name()))
            .collect()
    }
}

/// Kinds of the problems of a page with this body, beside `a.png`, `sub/b.html` and `s.css`.
fn kinds(body: &str) -> Vec<&'static str> {
    let site = Site::of(&[
        ("index.html", body),
        ("a.png", ""),
        ("sub/b.html", ""),
        ("s.css", ""),
    ]);
    site.problems()
        .into_iter()
        .map(|(_, _, _, kind)| kind)
        .collect()
}

#[test]
fn a_site_that_stands_alone_has_no_problems() {
    let site = Site::of(&[
        (
            "index.html",
            "<!doctype html><html><head><link rel=stylesheet href='css/main.css?v=2'>\
             <link rel=canonical href='https://example.org/'></head><body style='background: \
             url(img/a%20b.png)'><a href='sub/'>x</a><a href='sub/page.html#part'>y</a>\
             <a href='https://example.org'>elsewhere</a><a href='mailto:a@example.org'>m</a>\
             <img src='img/a b.png' srcset='img/a%20b.png 1x, img/c.png 2x'>\
             <img src='data:image/gif;base64,R0lGOD'><a href='#top'>t</a>\
             <form action='sub/page.html'></form></body></html>",
        ),
        (
            "css/main.css",
            "@import 'more.css'; p { background: url( ../img/c.png ) }",
        ),
        (
            "css/more.css",
            "@namespace svg url(http://www.w3.org/2000/svg);",
        ),
        ("img/a b.png", ""),
        ("img/c.png", ""),
        (
            "sub/page.html",
            "<a href='../index.html'>up</a><a href='..'>up</a>",
        ),
        (
            "sub/index.html",
            "<svg><use href='#a'/><rect fill='url(#b)'/></svg>",
        ),
    ]);
    let report = site.check();
    assert_eq!(report.problems, []);
    assert_eq!((report.files, report.read, report.links_out), (7, 5, 3));
}

#[test]
fn every_way_to_load_from_elsewhere_is_found() {
    for body in [
        "<img src='http://x.org/a.png'>",
        "<img src='//x.org/a.png'>",
        "<img src='\\\\x.org/a.png'>",
        "<img srcset='a.png 1x, https://x.org/b.png 2x'>",
        "<video poster='https://x.org/a.png'></video>",
        "<source src='https://x.org/a'>",
        "<script src='https://x.org/a.js'></script>",
        "<link rel=stylesheet href='https://x.org/a.css'>",
        "<link rel='alternate stylesheet' href='https://x.org/a.css'>",
        "<link rel=manifest href='https://x.org/a'>",
        "<link rel=preconnect href='https://x.org'>",
        "<link rel=preload as=image imagesrcset='https://x.org/a 1x'>",
        "<html manifest='https://x.org/a'>",
        "<form action='https://x.org/a'></form>",
        "<button formaction='https://x.org/a'></button>",
        "<iframe src='https://x.org/a'></iframe>",
        "<iframe srcdoc='&lt;img src=\"https://x.org/a\"&gt;'></iframe>",
        "<object data='https://x.org/a'></object>",
        "<embed src='https://x.org/a'>",
        "<body background='https://x.org/a'>",
        "<a href='sub/b.html' ping='https://x.org/a'></a>",
        "<meta http-equiv=Refresh content='0; url=https://x.org/a'>",
        "<p style='background:url(https://x.org/a)'></p>",
        "<p style='background:url(&quot;https://x.org/a&quot;)'></p>",
        "<style>p{background:url(\"https://x.org/a\")}</style>",
        "<style>@media print { p { color: red; background: URL('https://x.org/a') } }</style>",
        "<style>@import \"https://x.org/a\" screen;</style>",
        "<style>@import url(https://x.org/a);</style>",
        "<style>p{background:image-set('https://x.org/a' 1x)}</style>",
        "<style>p{background:u\\72l(https://x.org/a)}</style>",
        "<svg><image href='https://x.org/a'/></svg>",
        "<svg><use xlink:href='https://x.org/a#b'/></svg>",
        "<svg><rect fill='url(https://x.org/a#b)'/></svg>",
        "<IMG SRC=HTTPS://x.org/a>",
        "<img src='&#104;ttps://x.org/a'>",
        "<img src=' \n https://x.org/a'>",
    ] {
        assert_eq!(kinds(body), ["external"], "{body}");
    }
}

#[test]
fn what_loads_nothing_is_no_problem() {
    for body in [
        "<a href='https://x.org/a'></a>",
        "<area href='https://x.org/a'>",
        "<svg><a xlink:href='https://x.org/a'></a></svg>",
        "<!-- <img src='https://x.org/a'> -->",
        "<p data='https://x.org/a' title='https://x.org/a'></p>",
        "<style>p{content:'https://x.org/a'} /* url(https://x.org/a) */</style>",
        "<style>p{background:image-set(url(a.png) type('https://x.org/a'))}</style>",
        "<script>const a = 'https://x.org/a';</script>",
        "<textarea><img src='https://x.org/a'></textarea>",
        "<form action=''></form><img src=''>",
        "<meta http-equiv=refresh content=5>",
        "<meta name=description content='5; url=https://x.org/a'>",
    ] {
        assert_eq!(kinds(body), [""; 0], "{body}");
    }
}

#[test]
fn a_reference_must_name_a_file_as_it_is_spelled_and_by_a_relative_path() {
    for (body, kind) in [
        ("<a href='missing.html'></a>", "missing"),
        ("<a href='sub/a.png'></a>", "missing"),
        ("<img src='A.png'>", "case"),
        ("<a href='Sub/B.HTML'></a>", "case"),
        ("<img src='/a.png'>", "absolute"),
        ("<img src='\\a.png'>", "absolute"),
        ("<a href='/'></a>", "absolute"),
        ("<a href='file:///a.png'></a>", "absolute"),
        ("<img src='../a.png'>", "outside"),
        ("<img src='sub/../../a.png'>", "outside"),
        ("<img src='%2e%2e/a.png'>", "outside"),
        ("<base href='sub/'>", "base"),
        ("<a href='http://[x'></a>", "invalid"),
    ] {
        assert_eq!(kinds(body), [kind], "{body}");
    }
    let site = Site::of(&[
        ("sub/index.html", "<img src='/img/a.png'>"),
        ("img/a.png", ""),
    ]);
    let problems = site.check().problems;
    assert_eq!(
        problems.first().map(|p| p.text.as_str()),
        Some("img src: '/img/a.png' starts at the root of the server: write '../img/a.png'")
    );
}

#[test]
fn problems_are_where_the_reference_stands() {
    let site = Site::of(&[
        (
            "a.html",
            "<p>\n<b>\u{e4}</b> <img alt=x\n  src=\"no.png\"><style>\n p { color: red;\n\
                    background: url(none.png) }</style>",
        ),
        ("b.css", "/* x */\np { background: url(no.png) }\n"),
        (
            "c.webmanifest",
            "{\n \"icons\": [{ \"src\": \"no.png\" }],\n \"start_url\": \"/\"}",
        ),
        ("d.svg", "<svg>\n<image href=\"no.png\"/></svg>"),
    ]);
    assert_eq!(
        site.problems(),
        [
            ("a.html".to_owned(), 3, 8, "missing"),
            ("a.html".to_owned(), 5, 13, "missing"),
            ("b.css".to_owned(), 2, 17, "missing"),
            ("c.webmanifest".to_owned(), 2, 22, "missing"),
            ("c.webmanifest".to_owned(), 3, 16, "absolute"),
            ("d.svg".to_owned(), 2, 14, "missing"),
        ]
    );
}

#[test]
fn links_are_followed_within_the_site_and_named_where_they_leave_it() {
    let site = Site::of(&[
        (
            "index.html",
            "<a href='linked/b.html'></a><a href='linked/no.html'></a>\
                        <a href='loop/loop/index.html'></a>",
        ),
        ("sub/b.html", ""),
    ]);
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, site.path().join(name)).expect("a link");
    };
    link("sub", "linked");
    link(".", "loop");
    link("/etc/hostname", "out");
    link("nothing", "dangling");
    assert_eq!(
        site.problems(),
        [
            ("dangling".to_owned(), 1, 1, "missing"),
            ("index.html".to_owned(), 1, 38, "missing"),
            ("out".to_owned(), 1, 1, "outside"),
        ]
    );
}

#[test]
fn deep_long_and_broken_files_are_named_and_end_the_check_of_nothing_else() {
    let deep = format!("{}url(https://x.org/a)", "(".repeat(100_000));
    let long = format!(
        "<p>{}",
        "x".repeat(usize::try_from(MAX_READ_BYTES).expect("small"))
    );
    let site = Site::of(&[
        ("a.css", &deep),
        ("b.html", &long),
        ("c.webmanifest", "{"),
        ("d.html", "<img src='no.png'"),
        ("e.html", "<img src=no.png><"),
    ]);
    std::fs::write(
        site.path().join("f.html"),
        b"\xff\xfe<img src='no\xff.png'>",
    )
    .expect("written");
    let problems = site.problems();
    let kinds = problems
        .iter()
        .map(|(file, _, _, kind)| (file.as_str(), *kind));
    assert_eq!(
        kinds.collect::<Vec<_>>(),
        [
            ("a.css", "unread"),
            ("b.html", "unread"),
            ("c.webmanifest", "invalid"),
            ("e.html", "missing"),
            ("f.html", "missing"),
        ]
    );
}

#[test]
fn a_report_lists_as_many_problems_as_it_may_and_counts_the_rest() {
    let body = "<img src=no.png>".repeat(MAX_PROBLEMS + 3);
    let report = Site::of(&[("index.html", &body)]).check();
    assert_eq!(report.problems.len(), MAX_PROBLEMS);
    assert_eq!((report.more, report.count()), (3, MAX_PROBLEMS as u64 + 3));
}

#[test]
fn only_directories_that_are_there_can_be_checked() {
    let site = Site::of(&[("index.html", "")]);
    let file = site.path().join("index.html");
    assert!(matches!(check(&file), Err(Error::NotDirectory(path)) if path == file));
    let missing = site.path().join("missing");
    assert!(matches!(check(&missing), Err(Error::Read { path, .. }) if path == missing));
}

#[test]
fn names_that_are_special_in_urls_are_found() {
    let site = Site::of(&[
        (
            "a#b?c%d e.html",
            "<a href='a%23b%3Fc%25d%20e.html'></a><a href='./sub:x/y.html'></a>",
        ),
        ("sub:x/y.html", "<a href='../a%23b%3fc%25d e.html'></a>"),
        (
            "\u{e4}.html",
            "<a href='%C3%A4.html'></a><a href='\u{e4}.html'></a>",
        ),
    ]);
    assert_eq!(site.check().problems, []);
}
