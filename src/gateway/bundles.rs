//! Decrypted content by URL: links, what they lead to, directories and files.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

use super::answer::{self, Content, NOWHERE, is_any_known, is_known, not_modified};
use super::content::{Asked, usage};
use super::listing::{self, Order};
use super::range::Part;
use super::{Shared, guard, labels, media, origin, sign};
use crate::block::Link;
use crate::client::url::percent_encode_path;
use crate::crypto::hash;
use crate::node::api::*;

/// Purpose of the hashes that name versions of content.
const ETAG_CONTEXT: &str = "libernet 2026-11 gateway: entity tag";
/// The file that a bundle without an index file of its own is opened with.
const INDEX_FILE: &str = "index.html";
/// Bytes at the start of a file that tell its kind where its name does not.
const SAMPLE_BYTES: u64 = 4096;

/// A link in full. A browser is sent on to the bundle's origin, so that it shows and keeps an
/// address without the key; other programs are answered at once.
///
/// # Errors
/// Failure of the search for its blocks; a wrong link to a bundle that is open.
pub(super) async fn keyed(
    mut asked: Asked,
    link: Link,
    path: PathBuf,
    slash: bool,
) -> Result<Response, CallError> {
    if !guard::is_navigation(&asked.headers) {
        asked.base = link.to_path();
        return bundle(asked, link, path, slash).await;
    }
    let base = match origin::open(&asked.shared, &link, asked.timeout_s).await? {
        Some(base) => base,
        None => asked.shared.labels.path_of(&link),
    };
    let mut to = url_of(&base, &path);
    if slash {
        to = with_slash(to);
    }
    if !asked.query.is_empty() {
        to = format!("{to}?{}", asked.query);
    }
    Ok(redirect(StatusCode::SEE_OTHER, &to))
}

/// A link that was opened before.
///
/// # Errors
/// As [`keyed`], and for a label that stands for nothing.
pub(super) async fn labelled(
    mut asked: Asked,
    label: &str,
    path: PathBuf,
    slash: bool,
) -> Result<Response, CallError> {
    let link = asked.shared.labels.link(label).ok_or_else(|| {
        usage("this address stood for a link, and is forgotten".to_owned())
            .with_hint("open the link again: such addresses hold until the node restarts, for the links that were opened last")
    })?;
    asked.base = format!("/{}/{label}", labels::ROUTE);
    bundle(asked, link, path, slash).await
}

/// What is at `path` in a bundle.
///
/// # Errors
/// Failure of the search for its blocks, and for a path that leads nowhere.
pub(super) async fn bundle(
    asked: Asked,
    link: Link,
    path: PathBuf,
    slash: bool,
) -> Result<Response, CallError> {
    let etag = etag_of(&link, &path);
    if is_known(&asked.headers, &etag) {
        return Ok(not_modified(&etag, NOWHERE));
    }
    let reply = ls(&asked, &link, &path, asked.skip(), listing::PAGE_ENTRIES).await?;
    let Some(this) = &reply.this else {
        return directory(asked, link, path, slash, &reply).await;
    };
    let is_shown = this.kind == "file" || (this.kind == "dir" && slash);
    if is_shown && is_any_known(&asked.headers) {
        return Ok(not_modified(&etag, NOWHERE));
    }
    match this.kind.as_str() {
        "dir" => directory(asked, link, path, slash, &reply).await,
        "file" => file(asked, link, path, this.clone()).await,
        "symlink" => {
            let target = this.target.as_deref().unwrap_or_default();
            let place = behind(&asked, &link, &path).await?;
            let place = place.ok_or_else(|| {
                let message = format!(
                    "'{}' is a symbolic link to '{target}', which is not in the bundle",
                    path_text(&path)
                );
                CallError::new(ErrorKind::Usage, message)
            })?;
            Ok(redirect(
                StatusCode::TEMPORARY_REDIRECT,
                &url_of(&asked.base, &place),
            ))
        }
        kind => Err(CallError::new(
            ErrorKind::Usage,
            format!("'{}' is a {kind} and has no content", path_text(&path)),
        )),
    }
}

/// Where a symbolic link leads to in the bundle, if it does.
async fn behind(asked: &Asked, link: &Link, path: &Path) -> Result<Option<PathBuf>, CallError> {
    let request = Ls {
        link: link.clone(),
        path: path.to_owned(),
        follow: true,
        skip: 0,
        limit: 1,
        timeout_s: asked.timeout_s,
    };
    match asked.shared.client.ls(request).await {
        Ok(reply) => Ok(reply.real),
        Err(error) if error.kind == ErrorKind::Usage => Ok(None),
        Err(error) => Err(error),
    }
}

async fn ls(
    asked: &Asked,
    link: &Link,
    path: &Path,
    skip: u64,
    limit: u64,
) -> Result<LsReply, CallError> {
    asked
        .shared
        .client
        .ls(Ls {
            link: link.clone(),
            path: path.to_owned(),
            follow: false,
            skip,
            limit,
            timeout_s: asked.timeout_s,
        })
        .await
}

/// A directory: its index file where it has one, else the list of its entries.
async fn directory(
    asked: Asked,
    link: Link,
    path: PathBuf,
    slash: bool,
    reply: &LsReply,
) -> Result<Response, CallError> {
    // Relative links on the page need the slash.
    if !slash {
        return Ok(redirect(
            StatusCode::PERMANENT_REDIRECT,
            &with_slash(url_of(&asked.base, &path)),
        ));
    }
    let order = Order::of(asked.field("sort"), asked.field("order"));
    let has_parent = !path.as_os_str().is_empty();
    if let Some(index) = index_of(reply, has_parent).filter(|_| asked.query.is_empty()) {
        if !has_parent && index.contains('/') {
            return Ok(redirect(
                StatusCode::TEMPORARY_REDIRECT,
                &url_of(&asked.base, Path::new(index)),
            ));
        }
        let index = path.join(index.rsplit('/').next().unwrap_or(index));
        match ls(&asked, &link, &index, 0, 1).await {
            Ok(LsReply {
                this: Some(this), ..
            }) if this.kind == "file" => return file(asked, link, index, this).await,
            Ok(_) => {}
            // This directory has none.
            Err(error) if error.kind == ErrorKind::Usage => {}
            Err(error) => return Err(error),
        }
    }
    let title = if has_parent {
        path_text(&path)
    } else {
        "/".to_owned()
    };
    let skip = asked.skip();
    if order.is_natural() {
        let page = listing::Page {
            entries: &reply.entries,
            skip,
            more: reply.more,
            is_cut: false,
        };
        return Ok(listing::listing(&title, has_parent, order, &page).into_response());
    }
    let (mut entries, is_cut) = all_entries(&asked, &link, &path).await?;
    order.sort(&mut entries);
    let page = listing::Page::of_sorted(&entries, skip, is_cut);
    Ok(listing::listing(&title, has_parent, order, &page).into_response())
}

/// The index file that a directory of a bundle is opened with, if any: the one that the bundle
/// names, below its root too; of a bundle that names none, `index.html` at its root.
fn index_of(reply: &LsReply, has_parent: bool) -> Option<&str> {
    let usual = (!has_parent).then_some(INDEX_FILE);
    reply.index_file.as_deref().or(usual)
}

/// The entries of a directory, as many as are sorted at once, and whether there are more.
async fn all_entries(
    asked: &Asked,
    link: &Link,
    path: &Path,
) -> Result<(Vec<Entry>, bool), CallError> {
    let mut entries = Vec::new();
    loop {
        let left = listing::MAX_SORTED - entries.len() as u64;
        if left == 0 {
            return Ok((entries, true));
        }
        let limit = left.min(listing::PAGE_ENTRIES);
        let reply = ls(asked, link, path, entries.len() as u64, limit).await?;
        let is_over = !reply.more || reply.entries.is_empty();
        entries.extend(reply.entries);
        if is_over {
            return Ok((entries, false));
        }
    }
}

async fn file(
    asked: Asked,
    link: Link,
    path: PathBuf,
    entry: Entry,
) -> Result<Response, CallError> {
    let source = Arc::new(Source {
        shared: asked.shared.clone(),
        link,
        path,
        timeout_s: asked.timeout_s,
    });
    let kind = match media::by_name(&entry.name) {
        Some(kind) => kind,
        None if entry.bytes == 0 => media::UNKNOWN,
        None => media::by_content(&source.sample().await?),
    };
    let content = Content {
        etag: etag_of(&source.link, &source.path),
        total: entry.bytes,
        media: HeaderValue::from_static(kind),
        cache: NOWHERE,
    };
    let mut head = answer::head(&asked.method, &asked.headers, &content);
    sign::name(&mut head.response, &source.link.id);
    let policy = match kind {
        media::PDF => "frame-ancestors 'self'",
        _ => asked.policy,
    };
    head.response.headers_mut().insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(policy),
    );
    if asked.is_head() || head.parts.is_empty() {
        return Ok(head.response);
    }
    let mut streams = Vec::new();
    for part in head.parts.clone() {
        // What fails before the first byte can still be told with a status.
        streams.push(match streams.is_empty() {
            true => source.part(part).await?,
            false => source.later(part),
        });
    }
    let body = asked.place.hold(head.join(streams));
    Ok(head.with(Body::from_stream(body)))
}

/// A file of a bundle, to be read in parts.
struct Source {
    shared: Shared,
    link: Link,
    path: PathBuf,
    timeout_s: u64,
}

impl Source {
    async fn cat(
        &self,
        part: Part,
    ) -> Result<BoxStream<'static, Result<Bytes, CallError>>, CallError> {
        let request = Cat {
            link: self.link.clone(),
            path: self.path.clone(),
            offset: part.offset,
            len: Some(part.len),
            timeout_s: self.timeout_s,
        };
        self.shared.client.cat(request).await
    }

    /// The start of the file.
    async fn sample(&self) -> Result<Vec<u8>, CallError> {
        let part = Part {
            offset: 0,
            len: SAMPLE_BYTES,
        };
        let mut bytes = Vec::new();
        let mut stream = self.cat(part).await?;
        while let Some(more) = stream.try_next().await? {
            bytes.extend_from_slice(&more);
        }
        Ok(bytes)
    }

    /// A part whose first bytes are here.
    async fn part(&self, part: Part) -> Result<BoxStream<'static, io::Result<Bytes>>, CallError> {
        let mut stream = self.cat(part).await?;
        let first = stream.try_next().await?.unwrap_or_default();
        let rest = stream.map(|item| {
            item.map_err(|error| {
                tracing::warn!(%error, "content broke off while it was read by a browser");
                io::Error::other(error)
            })
        });
        Ok(futures::stream::iter([Ok(first)]).chain(rest).boxed())
    }

    /// A part that is looked for when it is its turn.
    fn later(self: &Arc<Self>, part: Part) -> BoxStream<'static, io::Result<Bytes>> {
        let source = self.clone();
        let opened = async move { source.part(part).await.map_err(io::Error::other) };
        futures::stream::once(opened).try_flatten().boxed()
    }
}

/// Names this content. Says nothing about the key.
fn etag_of(link: &Link, path: &Path) -> String {
    let mut material = link.id.to_multihash();
    material.extend_from_slice(link.key.as_bytes());
    material.extend_from_slice(path.as_os_str().as_bytes());
    let digest = hash::derive_key(ETAG_CONTEXT, &material);
    format!("\"{}\"", HEXLOWER.encode(&digest[..16]))
}

/// The URL of `path` in the bundle whose root is at `base`.
fn url_of(base: &str, path: &Path) -> String {
    format!("{base}/{}", percent_encode_path(path))
}

fn with_slash(mut url: String) -> String {
    if !url.ends_with('/') {
        url.push('/');
    }
    url
}

fn redirect(status: StatusCode, to: &str) -> Response {
    let mut response = status.into_response();
    match HeaderValue::try_from(to) {
        Ok(to) => {
            response.headers_mut().insert(header::LOCATION, to);
            response
        }
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

fn path_text(path: &Path) -> String {
    shown(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::content::{Target, parse};
    use super::*;
    use crate::crypto::key::Key;
    use crate::id::BlockId;
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    fn link() -> Link {
        Link {
            id: BlockId::from_sha384([0x5a; 48]),
            key: Key::new([0xa5; 32]),
        }
    }

    /// Links of a listing come back as the names that they are.
    #[test]
    fn names_that_are_no_text_have_urls() {
        let name = OsString::from_vec(b"n\xe4 /%".to_vec());
        let url = url_of(&link().to_path(), Path::new(&name));
        assert!(url.ends_with("/n%E4%20/%25"), "{url}");
        let target = Target::Bundle {
            link: link(),
            path: name.into(),
            slash: false,
        };
        assert_eq!(parse(&url), Ok(target));
    }

    #[test]
    fn each_file_has_its_version() {
        assert_ne!(
            etag_of(&link(), Path::new("a")),
            etag_of(&link(), Path::new("b"))
        );
    }
}
