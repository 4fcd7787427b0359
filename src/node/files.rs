//! Calls about files: putting, getting, reading and listing bundles.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use tokio_util::io::StreamReader;
use tokio_util::sync::DropGuard;

use super::Node;
use super::api::*;
use super::backup::unreadable;
use super::giving::{Giving, givers};
use super::pins::{Unfinished, info_of};
use crate::backup::{self, read_snapshot};
use crate::block::{Context, Link, MAX_LIKE_BITS};
use crate::bundle::tree::{self, Content};
use crate::bundle::{
    self, Bound, Bounds, Bundle, ExtractOptions, Found, Last, PutOptions, PutReport,
};
use crate::crypto::key::Key;
use crate::depot::Session;
use crate::id::BlockId;
use crate::monitor::Monitor;
use crate::store::Keep;
use crate::text::printable;

/// How long a put waits for its root's announcement.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(15);
/// Most entries in one page of a listing.
const MAX_PAGE: u64 = 10_000;
/// Files in a report that are named one by one.
const MAX_NAMED: usize = 10_000;

impl Node {
    /// Turns a file or directory into blocks.
    ///
    /// # Errors
    /// [`ErrorKind::Full`], [`ErrorKind::Permission`], or what reading the path itself says. Files inside that can't be read are
    /// reported, not errors.
    pub async fn put(
        &self,
        request: Put,
        monitor: Arc<dyn Monitor>,
    ) -> Result<PutReply, CallError> {
        let name = request
            .name
            .clone()
            .unwrap_or_else(|| name_of(&request.path));
        let options = PutOptions {
            context: context(request.private),
            name: request.name.map(Into::into),
            index_file: request.index_file.map(Into::into),
            own: self.own(),
            like: request.like.map(like).transpose()?,
            ..PutOptions::default()
        };
        let (pin, keep) = self.begin(request.pin, &name).await?;
        let (sink, index) = (self.depot().sink(keep), self.depot().index(keep));
        let (cancel, _cancel_on_drop) = self.cancel_on_drop();
        let paths = std::slice::from_ref(&request.path);
        let beside = bundle::Beside::begin(paths, &options, monitor);
        let monitor = beside.monitor();
        let report = bundle::put(&request.path, options, sink, index, monitor, cancel).await?;
        self.finish_put(pin, name, report, request.announce).await
    }

    /// Turns one file of unknown length, such as standard input, into blocks.
    ///
    /// # Errors
    /// As [`put`](Self::put), and what the stream says.
    pub async fn put_stream(
        &self,
        request: PutStream,
        bytes: BoxStream<'static, std::io::Result<Bytes>>,
        monitor: Arc<dyn Monitor>,
    ) -> Result<PutReply, CallError> {
        let name = request.name;
        let options = PutOptions {
            context: context(request.private),
            ..PutOptions::default()
        };
        let (pin, keep) = self.begin(request.pin, &name).await?;
        let (sink, index) = (self.depot().sink(keep), self.depot().index(keep));
        let (cancel, _cancel_on_drop) = self.cancel_on_drop();
        let reader = Box::pin(StreamReader::new(bytes));
        let report = bundle::put_reader(
            name.as_bytes(),
            reader,
            options,
            sink,
            index,
            monitor,
            cancel,
        )
        .await?;
        self.finish_put(pin, name, report, request.announce).await
    }

    async fn begin(&self, pin: bool, name: &str) -> Result<(Option<Unfinished>, Keep), CallError> {
        if !pin {
            return Ok((None, Keep::Cached));
        }
        let pin = Unfinished::begin(self.store(), name.to_owned()).await?;
        let keep = pin.keep();
        Ok((Some(pin), keep))
    }

    /// A token that fires when the node stops or the guard is dropped.
    pub(super) fn cancel_on_drop(&self) -> (tokio_util::sync::CancellationToken, DropGuard) {
        let token = self.inner.stop.child_token();
        (token.clone(), token.drop_guard())
    }

    async fn finish_put(
        &self,
        pin: Option<Unfinished>,
        name: String,
        report: PutReport,
        announce: bool,
    ) -> Result<PutReply, CallError> {
        let link = report.link.clone();
        if let Some(pin) = pin {
            pin.finish(info_of(link.clone(), name, &report, self.now()))
                .await?;
            self.inner.meeting.look_again();
        }
        let mut announced_to = 0;
        if announce && !self.net().peers().connected().is_empty() {
            let key = vec![link.id.to_multihash()];
            let told =
                tokio::time::timeout(ANNOUNCE_TIMEOUT, self.net().providers().announce(key)).await;
            announced_to = match told {
                Ok(Ok(report)) => report.peers_reached as u64,
                _ => 0,
            };
        }
        Ok(PutReply {
            id: link.id,
            link,
            bytes: report.bytes,
            files: report.files,
            blocks: report.blocks,
            new_bytes: report.new_bytes,
            unreadable: unreadable(report.unreadable),
            left_out: unreadable(report.left_out),
            announced_to,
        })
    }

    /// Writes a bundle, or a part of it, to disk.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the root can't be had, [`ErrorKind::Damaged`] for a wrong key or a block that is no bundle,
    /// [`ErrorKind::Exists`], [`ErrorKind::Full`]. Blocks missing further down are reported, not errors.
    pub async fn get(
        &self,
        request: Get,
        monitor: Arc<dyn Monitor>,
    ) -> Result<GetReply, CallError> {
        let patience = Duration::from_secs(request.timeout_s);
        let bounds = bounds(&request);
        if request.pin && !request.path.as_os_str().is_empty() {
            let message = "only a whole bundle can be pinned, not a part of it";
            return Err(CallError::new(ErrorKind::Usage, message)
                .with_hint("`libernet pin add LINK` keeps the bundle that the part is of"));
        }
        let mut pinned = false;
        if request.pin {
            let pin = PinAdd {
                link: request.link.clone(),
                name: None,
                timeout_s: request.timeout_s,
            };
            // What is missing turns up again below, by path.
            let added = self.pin_add(pin, monitor.clone()).await?;
            pinned = added.missing.is_empty();
        }
        let session = self.depot().session(patience, Keep::Cached);
        let _want = self.want_link(&request.link).await;
        let bundle = open(session.clone(), request.link.clone()).await?;
        let bundle = match request.path.as_os_str().as_bytes() {
            b"" => bundle,
            path => {
                let found = find(&bundle, path, Last::Itself).await?;
                bundle.part(&found.path, found.entry)
            }
        };
        let output = match request.output {
            Some(output) => output,
            None => request.directory.join(output_name(&bundle)?),
        };
        let options = ExtractOptions {
            overwrite: match request.overwrite {
                Overwrite::Never => bundle::Overwrite::Never,
                Overwrite::Missing => bundle::Overwrite::Missing,
                Overwrite::Changed => bundle::Overwrite::Changed,
                Overwrite::Always => bundle::Overwrite::Always,
            },
            owners: request.owners,
            // A stranger's setuid bit comes only where root asks for it.
            own: self.own(),
            powers: request.owners && rustix::process::geteuid().is_root(),
            bounds,
            ..ExtractOptions::default()
        };
        let (cancel, _cancel_on_drop) = self.cancel_on_drop();
        let monitor = Giving::watch(session.clone(), monitor);
        let report = bundle::extract(&bundle, &output, options, monitor, cancel).await?;
        let mut missing: Vec<Missing> = report
            .missing
            .into_iter()
            .map(|part| Missing::new(&part.path, Some(part.block), part.reason))
            .collect();
        let without_block = |part: bundle::Failed| Missing::new(&part.path, None, part.reason);
        missing.extend(report.failed.into_iter().map(without_block));
        missing.truncate(MAX_NAMED);
        let refused = report.refused.into_iter().map(without_block);
        Ok(GetReply {
            bytes: report.bytes,
            files: report.files,
            from: givers(&session),
            output: report.path,
            missing,
            refused: refused.take(MAX_NAMED).collect(),
            pinned,
        })
    }

    /// Streams the bytes of one file of a bundle.
    ///
    /// # Errors
    /// As [`get`](Self::get); [`ErrorKind::Usage`] when the path is not a file of the bundle. Later failures end the stream.
    pub async fn cat(
        &self,
        request: Cat,
    ) -> Result<BoxStream<'static, Result<Bytes, CallError>>, CallError> {
        let session = self
            .depot()
            .session(Duration::from_secs(request.timeout_s), Keep::Cached);
        let _want = self.want_link(&request.link).await;
        let bundle = open(session, request.link).await?;
        let path = request.path.as_os_str().as_bytes();
        let entry = find(&bundle, path, Last::Followed).await?.entry;
        let end = request
            .len
            .map_or(u64::MAX, |len| request.offset.saturating_add(len));
        if !matches!(entry.content, Content::File(_)) {
            return Err(bundle::Error::NotAFile.into());
        }
        Ok(bundle
            .read_file(&entry, request.offset..end)
            .map_err(CallError::from)
            .boxed())
    }

    /// Lists a directory of a bundle, or tells what one entry is.
    ///
    /// # Errors
    /// As [`cat`](Self::cat).
    pub async fn ls(&self, request: Ls) -> Result<LsReply, CallError> {
        let session = self
            .depot()
            .session(Duration::from_secs(request.timeout_s), Keep::Cached);
        let _want = self.want_link(&request.link).await;
        let bundle = open(session, request.link).await?;
        let last = match request.follow {
            true => Last::Followed,
            false => Last::Itself,
        };
        let path = request.path.as_os_str().as_bytes();
        let Found { path, entry: this } = find(&bundle, path, last).await?;
        let limit = request.limit.clamp(1, MAX_PAGE) as usize;
        let mut entries = Vec::new();
        let mut more = false;
        if matches!(this.content, Content::Directory(_)) {
            let mut listed = bundle.entries(&this).skip(request.skip as usize);
            while let Some(entry) = listed.next().await {
                if entries.len() == limit {
                    more = true;
                    break;
                }
                entries.push(describe(&entry?));
            }
        }
        Ok(LsReply {
            real: Some(OsString::from_vec(path).into()),
            this: Some(describe(&this)),
            index_file: bundle
                .root()
                .index_file
                .as_ref()
                .map(|path| String::from_utf8_lossy(path).into_owned()),
            entries,
            more,
        })
    }
}

/// Limits on what may be written of a stranger's bundle.
fn bounds(request: &Get) -> Bounds {
    let otherwise = match request.any_size {
        true => Bound::None,
        false => Bound::Usual,
    };
    Bounds {
        entries: request.max_files.map_or(otherwise, Bound::Most),
        bytes: request.max_bytes.map_or(otherwise, Bound::Most),
    }
}

/// The context of a put: everybody's, or one that nobody else will ever have.
fn context(is_private: bool) -> Context {
    match is_private {
        true => Context::secret(Key::random()),
        false => Context::public(),
    }
}

fn name_of(path: &std::path::Path) -> String {
    shown(path.file_name().unwrap_or(path.as_os_str()).as_bytes())
}

/// The bundle that a link names; of a snapshot's link, its tree.
pub(super) async fn open(session: Arc<Session>, link: Link) -> Result<Bundle, CallError> {
    match Bundle::open(session.clone(), link.clone()).await {
        Err(error @ bundle::Error::NotABundle { .. }) => {
            match read_snapshot(&*session, &link).await {
                Ok(snapshot) => Ok(Bundle::open(session, snapshot.tree).await?),
                Err(backup::Error::NotASnapshot { .. }) => Err(error.into()),
                Err(error) => Err(error.into()),
            }
        }
        opened => Ok(opened?),
    }
}

async fn find(bundle: &Bundle, path: &[u8], last: Last) -> Result<Found, CallError> {
    bundle.find(path, last).await?.ok_or_else(|| {
        CallError::new(
            ErrorKind::Usage,
            format!("there is no '{}' in the bundle", shown(path)),
        )
        .with_hint("`libernet ls LINK` shows what there is; a symlink that leads out of the bundle is not followed")
    })
}

/// The name under which a bundle is written when none was asked for: its own, or its id.
///
/// # Errors
/// [`ErrorKind::Usage`] for a name that means something to a system or to people besides being a
/// name: the bundle's maker chose it.
fn output_name(bundle: &Bundle) -> Result<OsString, CallError> {
    let name = &bundle.root().entry.name;
    if name.is_empty() {
        return Ok(bundle.link().id.to_string().into());
    }
    if let Some(what) = special(name) {
        let shown = printable(&shown(name));
        let message =
            format!("the bundle calls itself '{shown}': {what} is not taken from a bundle");
        return Err(CallError::new(ErrorKind::Usage, message)
            .with_hint("say under which name to write it: -o NAME"));
    }
    Ok(OsString::from_vec(name.to_vec()))
}

/// Peculiarity of a name that a stranger chose, if it has one.
fn special(name: &[u8]) -> Option<&'static str> {
    // Systems that look for such names mostly don't tell case apart.
    let lower = name.to_ascii_lowercase();
    match &lower[..] {
        // `.bashrc`, `.ssh`: programs read them, and listings hide them.
        [b'.', ..] => Some("a name that begins with a dot"),
        // `-rf` next to a `*` becomes an option, `~` a home.
        [b'-', ..] => Some("a name that begins with a hyphen"),
        [b'~', ..] => Some("a name that begins with a tilde"),
        // Shells of many systems look for programs in such a directory of a home.
        b"bin" | b"sbin" => Some("the name of a directory of programs"),
        // Desktops read them to decide what a directory looks like, or what to start.
        b"desktop.ini" | b"autorun.inf" | b"autorun" | b"autorun.sh" => {
            Some("a name that desktops act on")
        }
        _ if printable(&shown(name)) != shown(name) => {
            Some("a name with characters that can't be seen or that reorder others")
        }
        _ => None,
    }
}

fn describe(entry: &tree::Entry) -> Entry {
    let kind = match &entry.content {
        Content::File(_) => "file",
        Content::Directory(_) => "dir",
        Content::Symlink(_) => "symlink",
        Content::Fifo => "fifo",
        Content::Device(device) if device.is_block => "block_device",
        Content::Device(_) => "char_device",
    };
    Entry {
        name: shown(&entry.name),
        name_hex: hex(&entry.name),
        kind: kind.to_owned(),
        bytes: entry.size(),
        mode: entry.mode,
        mtime_s: entry.modified.map_or(0, |time| time.seconds),
        target: entry.link_target().map(|target| shown(target)),
    }
}

/// Id that the id of a root block is to be like, if it is within bounds.
fn like(like: PutLike) -> Result<(BlockId, u32), CallError> {
    if !(1..=MAX_LIKE_BITS).contains(&like.bits) {
        return Err(CallError::new(
            ErrorKind::Usage,
            format!(
                "an id is made to share 1 to {MAX_LIKE_BITS} bits with another, not {}",
                like.bits
            ),
        ));
    }
    Ok((like.id, like.bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_something_are_not_taken_from_a_bundle() {
        for name in [
            &b".ssh"[..],
            b".",
            b"-rf",
            b"~",
            b"~root",
            b"bin",
            b"Bin",
            b"Desktop.ini",
            b"autorun.inf",
            b"a\nb",
            b"a\x1b[2J",
            "a\u{202e}gpj.exe".as_bytes(),
        ] {
            assert!(
                special(name).is_some(),
                "{:?}",
                name.escape_ascii().to_string()
            );
        }
        for name in [
            &b"photos"[..],
            b"a.txt",
            b"a-b",
            b"binary",
            b"a b",
            "\u{e4}".as_bytes(),
        ] {
            assert_eq!(special(name), None, "{:?}", name.escape_ascii().to_string());
        }
    }
}
