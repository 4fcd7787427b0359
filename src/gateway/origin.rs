//! Bundles at origins of their own: `http://<label>.localhost:<port>/`.
//!
//! A browser keeps what belongs to one origin apart from all others: scripts, storage, service
//! workers. So a bundle may run its scripts there, and reach neither another bundle nor the node's
//! own origin, which holds the API. The label is made of the bundle's id, see `labels`; the key is
//! in the node's table of opened links and in no address, `Host` or `Referer`.
//!
//! An origin has the bundle's content and nothing else: no API, no other route, no way to open
//! another link.
//!
//! Deliberately absent: opening a bundle that nobody opened by its link in this run.

use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::Response;

use super::content::{self, usage};
use super::{Shared, bundles, error, guard, waiting};
use crate::block::Link;
use crate::node::api::{CallError, Ls};

/// Answers a request for something at the origin of a bundle.
pub(super) async fn serve(shared: Shared, label: &str, request: Request) -> Response {
    let headers = request.headers();
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return error::method_not_allowed(headers.clone()).await;
    }
    let Some(link) = shared.labels.site(label) else {
        return error::answer(
            StatusCode::NOT_FOUND,
            &unknown(),
            error::Reader::of(headers),
        );
    };
    // The events of searches are at the node's own origin, and not for bundles.
    content::answer(shared, request, waiting::News::Reload, |mut asked| async {
        let (path, slash) = content::path_of(&asked.uri_path)?;
        asked.policy = guard::SITE;
        bundles::bundle(asked, link, path, slash).await
    })
    .await
}

/// Where a browser that opened `link` is sent on to: the bundle's origin. `None` when names below
/// `localhost` don't lead to this server.
///
/// # Errors
/// The key does not open the bundle while another one does. A wrong link takes nothing away from
/// who reads with the right one.
pub(super) async fn open(
    shared: &Shared,
    link: &Link,
    timeout_s: u64,
) -> Result<Option<String>, CallError> {
    let label = super::labels::site_label(&link.id);
    let Some(authority) = guard::site_authority(&label, shared.address) else {
        return Ok(None);
    };
    if shared
        .labels
        .site(&label)
        .is_some_and(|known| known != *link)
    {
        let root = Ls {
            link: link.clone(),
            path: "".into(),
            follow: false,
            skip: 0,
            limit: 1,
            timeout_s,
        };
        shared.client.ls(root).await?;
    }
    shared.labels.open_site(link);
    Ok(Some(format!("http://{authority}")))
}

/// Adds what an answer at a bundle's origin has besides.
pub(super) fn seal(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(
        "permissions-policy",
        HeaderValue::from_static(guard::ABILITIES),
    );
    headers.insert("origin-agent-cluster", HeaderValue::from_static("?1"));
}

fn unknown() -> CallError {
    usage("no bundle was opened here under this name since the node started".to_owned()).with_hint(
        "open its link: `libernet url LINK` prints the address. Such names hold until the node \
         restarts, for the bundles that were opened last",
    )
}
