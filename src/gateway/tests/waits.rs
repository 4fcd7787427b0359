//! Pages that wait for blocks.

use super::*;
use crate::gateway::waiting::{MAX_SEARCHES, MAX_WATCHERS, News, wait_page};

const PERSON: [(&str, &str); 1] = [("accept", "text/html,*/*;q=0.8")];

/// The answer with its events still to come.
async fn open(fixture: &Fixture, path: &str) -> Response {
    let request = Request::builder()
        .uri(path)
        .header("host", "localhost:4385");
    let request = request.body(Body::empty()).expect("valid");
    let service = TowerToHyperService::new(routes(fixture.shared.clone()));
    service.call(request).await.expect("never fails")
}

async fn next_event(body: &mut Body) -> String {
    let frame = body.frame().await.expect("an event").expect("no error");
    let data = frame.into_data().expect("data");
    String::from_utf8(data.to_vec()).expect("text")
}

/// A failure that names a block which the scripted node has only once it has come.
fn failure(byte: u8) -> CallError {
    let mut failure = not_found();
    failure.block = Some(BlockId::from_sha256([byte; 32]));
    failure
}

#[tokio::test]
async fn a_browser_gets_a_page_and_a_program_an_error() {
    let fixture = Fixture::new(None).await;
    // The scripted node names this one as missing, whatever was asked for.
    let missing = not_found().block.expect("a block");
    let nowhere = BlockId::from_sha256([1; 32]).to_path();
    let page = fixture.send("GET", &nowhere, &PERSON).await;
    assert_eq!(page.status.as_u16(), 504);
    assert_eq!(page.header("retry-after"), "10");
    let policy = page.header("content-security-policy").to_owned();
    assert!(policy.contains("script-src 'sha256-") && policy.contains("connect-src 'self'"));
    let text = page.text();
    for part in [
        format!("data-events=\"/waiting/{missing}\"").as_str(),
        "<noscript><meta http-equiv=\"refresh\" content=\"10\">",
        "<td>12D3</td><td>does not have it</td>",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let program = fixture.get(&nowhere).await;
    assert_eq!(program.status.as_u16(), 504);
    assert_eq!(program.header("retry-after"), "10");
    assert_eq!(program.json()["error"]["tried"][0]["peer"], "12D3");
    fixture.stop.cancel();
    fixture.shared.searches.end().await;
}

#[tokio::test]
async fn a_page_hears_what_is_said_and_when_the_block_comes() {
    let fixture = Fixture::new(None).await;
    let page = || wait_page(&fixture.shared, &failure(7), News::Events).expect("a page");
    // A further reader joins the search.
    let _pages = (page(), page());
    assert_eq!(fixture.shared.searches.count(), 1);
    let events = format!("/waiting/{}", BlockId::from_sha256([7; 32]));
    let mut heard = open(&fixture, &events).await.into_body();
    assert_eq!(
        next_event(&mut heard).await,
        "event: said\ndata: [[\"12D3\",\"does not have it\"]]\n\n"
    );
    fixture.scripted.has_come.store(true, Ordering::Relaxed);
    assert_eq!(next_event(&mut heard).await, "event: came\ndata: \n\n");
    assert!(heard.frame().await.is_none(), "that is the last event");
    assert!(fixture.scripted.gets.load(Ordering::Relaxed) >= 1);
}

#[tokio::test]
async fn a_stopping_server_ends_searches_and_events() {
    let fixture = Fixture::new(None).await;
    assert!(wait_page(&fixture.shared, &failure(7), News::Events).is_some());
    let events = format!("/waiting/{}", BlockId::from_sha256([7; 32]));
    let mut heard = open(&fixture, &events).await.into_body();
    assert!(next_event(&mut heard).await.starts_with("event: said"));
    fixture.stop.cancel();
    assert!(heard.frame().await.is_none());
    fixture.shared.searches.end().await;
    assert!(wait_page(&fixture.shared, &failure(8), News::Events).is_none());
}

#[tokio::test]
async fn searches_and_watchers_are_bounded() {
    let fixture = Fixture::new(None).await;
    for byte in 0..MAX_SEARCHES as u8 {
        let page = wait_page(&fixture.shared, &failure(byte), News::Events);
        assert!(page.is_some(), "{byte}");
    }
    let over = wait_page(&fixture.shared, &failure(200), News::Events);
    assert!(over.is_none(), "one too many is an error page");
    assert_eq!(fixture.shared.searches.count(), MAX_SEARCHES);
    let events = format!("/waiting/{}", BlockId::from_sha256([0; 32]));
    let mut open_pages = Vec::new();
    for _ in 0..MAX_WATCHERS {
        open_pages.push(open(&fixture, &events).await);
    }
    assert!(open_pages.iter().all(|page| page.status().is_success()));
    assert_eq!(open(&fixture, &events).await.status().as_u16(), 503);
    drop(open_pages);
    assert!(open(&fixture, &events).await.status().is_success());
    for nothing in [
        "/waiting/x".to_owned(),
        format!("/waiting/{}", BlockId::from_sha384([9; 48])),
    ] {
        assert_eq!(open(&fixture, &nothing).await.status().as_u16(), 404);
    }
    fixture.stop.cancel();
    fixture.shared.searches.end().await;
}
