//! One [`Client`] for every command: a node in this process, or a running one behind its local HTTP API.
//!
//! The methods are those of [`Node`] and behave alike either way. Dropping a call, or a stream that it gave, drops the work.
//!
//! - [`frame`]: how answers travel. [`discovery`]: how a running node is found. [`url`]: names in URLs.
//!
//! Deliberately absent: the server side (`gateway`), and anything that a node can do but cannot be asked.

pub mod discovery;
pub mod frame;
mod remote;
pub mod url;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::broadcast;

use crate::config::Config;
use crate::monitor::{Monitor, Silent};
use crate::node::api::*;
use crate::node::{self, Node, NodeEvent, NodeOptions, Purpose};
use discovery::ApiFile;
use remote::Remote;

/// Time to wait for a process that holds the data directory: a node that is starting and doesn't
/// answer yet, or other commands, which are short.
const STARTING_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two looks in the meantime.
const STARTING_INTERVAL: Duration = Duration::from_millis(100);

/// A node, wherever it runs. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

enum Inner {
    Embedded(Node),
    Remote(Remote),
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($request:ty) -> $reply:ty;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// [`CallError`].
        pub async fn $name(&self, request: $request) -> Result<$reply, CallError> {
            match &*self.inner {
                Inner::Embedded(node) => node.$name(request).await,
                Inner::Remote(remote) => remote.call(&request, Arc::new(Silent)).await,
            }
        }
    )*};
}

macro_rules! watched_calls {
    ($($(#[$doc:meta])* $name:ident($request:ty) -> $reply:ty;)*) => {$(
        $(#[$doc])*
        /// `monitor` hears how far it has come.
        ///
        /// # Errors
        /// [`CallError`].
        pub async fn $name(
            &self,
            request: $request,
            monitor: Arc<dyn Monitor>,
        ) -> Result<$reply, CallError> {
            match &*self.inner {
                Inner::Embedded(node) => node.$name(request, monitor).await,
                Inner::Remote(remote) => remote.call(&request, monitor).await,
            }
        }
    )*};
}

/// A process holds the directory, and the file that says how to reach it is damaged.
fn unreachable_node(data_dir: &Path, locked: &CallError) -> CallError {
    let path = data_dir.join(discovery::FILE_NAME);
    let text = format!(
        "{} is damaged, so the node that runs here can't be asked: {}",
        path.display(),
        locked.message
    );
    CallError::new(ErrorKind::Locked, text)
        .with_hint("stop the node and start it again (`libernet up`): it writes the file anew")
}

impl Client {
    /// A client of a node in this process.
    pub fn embedded(node: Node) -> Self {
        Self {
            inner: Arc::new(Inner::Embedded(node)),
        }
    }

    /// A client of the node that `file` describes; `None` when that node is gone.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the node's process lives and says nothing.
    pub async fn remote(file: &ApiFile) -> Result<Option<Self>, CallError> {
        Ok(Remote::find(file).await?.map(|remote| Self {
            inner: Arc::new(Inner::Remote(remote)),
        }))
    }

    /// A client of the node that runs on `data_dir`, if one does.
    ///
    /// # Errors
    /// As [`remote`](Self::remote).
    pub async fn running(data_dir: &Path) -> Result<Option<Self>, CallError> {
        match ApiFile::read(data_dir) {
            Some(file) => Self::remote(&file).await,
            None => Ok(None),
        }
    }

    /// As [`running`](Self::running). A node that runs and whose file is damaged can't be asked,
    /// and is not taken for one that does not run.
    ///
    /// # Errors
    /// As [`remote`](Self::remote); [`ErrorKind::Locked`] when the file is damaged and the process
    /// that has the data directory lives.
    pub async fn if_running(data_dir: &Path) -> Result<Option<Self>, CallError> {
        let client = Self::running(data_dir).await?;
        if client.is_none() && ApiFile::is_damaged(data_dir) {
            let dir = data_dir.to_owned();
            let held = tokio::task::spawn_blocking(move || node::held(&dir)).await;
            if let Some(locked) = held.ok().flatten() {
                return Err(unreachable_node(data_dir, &locked));
            }
        }
        Ok(client)
    }

    /// A client of the node that runs on `data_dir`; when none does, of one that is started here and must be
    /// [shut down](Self::shutdown).
    ///
    /// # Errors
    /// What starting a node says; [`ErrorKind::Locked`] when another process holds the directory and doesn't answer.
    pub async fn open(
        data_dir: &Path,
        config: Config,
        purpose: Purpose,
    ) -> Result<Self, CallError> {
        let silent = match Self::running(data_dir).await {
            Ok(Some(client)) => return Ok(client),
            Ok(None) => None,
            // Whether that is the node of this directory is told by the directory's lock.
            Err(error) if error.kind == ErrorKind::Unavailable => Some(error),
            Err(error) => return Err(error),
        };
        let options = NodeOptions {
            purpose,
            config: for_command(config),
            data_dir: data_dir.to_owned(),
            http: None,
            overrides: BTreeMap::new(),
        };
        let deadline = tokio::time::Instant::now() + STARTING_TIMEOUT;
        loop {
            match Node::start(options.clone()).await {
                Ok(node) => return Ok(Self::embedded(node)),
                Err(error) if error.kind == ErrorKind::Locked && silent.is_some() => {
                    return Err(silent.unwrap_or(error));
                }
                // A node writes its file as a whole: waiting mends nothing.
                Err(error) if error.kind == ErrorKind::Locked && ApiFile::is_damaged(data_dir) => {
                    return Err(unreachable_node(data_dir, &error));
                }
                Err(error)
                    if error.kind == ErrorKind::Locked
                        && tokio::time::Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
            // The holder may be a node that is about to publish its API, or a command that is about to end.
            tokio::time::sleep(STARTING_INTERVAL).await;
            if let Some(client) = Self::running(data_dir).await? {
                return Ok(client);
            }
        }
    }

    /// Whether the node runs in this process.
    pub fn is_embedded(&self) -> bool {
        matches!(&*self.inner, Inner::Embedded(_))
    }

    /// Stops a node that runs in this process; does nothing to one that runs elsewhere.
    ///
    /// # Errors
    /// Answer of the node.
    pub async fn shutdown(&self) -> Result<(), CallError> {
        match &*self.inner {
            Inner::Embedded(node) => node.shutdown().await,
            Inner::Remote(_) => Ok(()),
        }
    }

    watched_calls! {
        /// Turns a file or directory into blocks.
        put(Put) -> PutReply;
        /// Writes a bundle to disk.
        get(Get) -> GetReply;
        /// Fetches all of a bundle and keeps it.
        pin_add(PinAdd) -> PinAddReply;
        /// Backs up some paths as one snapshot.
        backup(Backup) -> BackupReply;
        /// Writes a snapshot, or a part of it, to disk.
        restore(Restore) -> RestoreReply;
        /// Gives back the space of what was forgotten.
        prune(Prune) -> PruneReply;
        /// Checks an owner's backups.
        check(Check) -> CheckReply;
        /// Hands over what the node keeps for others, and lets go of it.
        leave(Leave) -> LeaveReply;
    }

    calls! {
        /// Lists a directory of a bundle, or tells what one entry is.
        ls(Ls) -> LsReply;
        /// Looks for providers of an identifier.
        find(Find) -> FindReply;
        /// Announces identifiers to the DHT.
        announce(Announce) -> AnnounceReply;
        /// Looks for ids that are like a given one.
        like(Like) -> LikeReply;
        /// Lists connected peers.
        peers(Peers) -> PeersReply;
        /// Lists what this node and others have done for each other.
        ledger(Ledger) -> LedgerReply;
        /// Connects to a peer at an address.
        connect(Connect) -> ConnectReply;
        /// Has the node take over settings that have changed.
        reload(Reload) -> ReloadReply;
        /// Takes back that the node is leaving.
        leave_cancel(LeaveCancel) -> LeaveCancelReply;
        /// Tells how the node is.
        status(Status) -> StatusReply;
        /// Lists the settings.
        settings(SettingsList) -> SettingsReply;
        /// Changes one setting.
        setting_set(SettingSet) -> ReloadReply;
        /// Lists the sets of paths that are backed up.
        set_list(SetList) -> SetListReply;
        /// Adds a set.
        set_add(SetAdd) -> SetListReply;
        /// Removes a set.
        set_remove(SetRemove) -> SetListReply;
        /// Tells whose data directory this is.
        owner_info(OwnerInfo) -> OwnerInfoReply;
        /// Makes twelve words.
        owner_words(OwnerWords) -> OwnerWordsReply;
        /// Makes this machine one of an owner.
        owner_create(OwnerCreate) -> OwnerInfoReply;
        /// Tells the node's metrics.
        metrics(Metrics) -> MetricsReply;
        /// Stops keeping a bundle.
        pin_rm(PinRm) -> PinRmReply;
        /// Lists pins.
        pin_ls(PinLs) -> PinLsReply;
        /// Makes a ticket: a link, and where this node can be reached.
        ticket(MakeTicket) -> MakeTicketReply;
        /// Asks whether the store has a block.
        block_has(BlockHas) -> BlockHasReply;
        /// Tells what is known about a block.
        block_stat(BlockStat) -> BlockStatReply;
        /// Sums up how the blocks of a bundle were used.
        bundle_stat(BundleStat) -> BundleStatReply;
        /// Lists blocks.
        block_ls(BlockLs) -> BlockLsReply;
        /// Drops a block from the store.
        block_rm(BlockRm) -> BlockRmReply;
        /// Lists an owner's snapshots.
        snapshots(Snapshots) -> SnapshotsReply;
        /// Finds the tree of a snapshot.
        snapshot_tree(SnapshotTree) -> SnapshotTreeReply;
        /// Looks for files by name in all snapshots.
        find_file(FindFile) -> FindFileReply;
        /// Compares two snapshots.
        diff(Diff) -> DiffReply;
        /// Tells whether every backup has its copies.
        health(Health) -> HealthReply;
        /// Tells what is wrong now.
        problems(Problems) -> ProblemsReply;
        /// Sends a message to try whether it arrives.
        notify_test(NotifyTest) -> NotifyTestReply;
        /// Lists the leases of this machine's backups.
        lease_list(LeaseList) -> LeaseListReply;
        /// Lists the backups of others that the node keeps.
        lease_held(LeaseHeld) -> LeaseHeldReply;
        /// Ends leases that the node keeps.
        lease_drop(LeaseDrop) -> LeaseDropReply;
        /// Ends leases by releases that the owner has signed.
        lease_release(LeaseRelease) -> LeaseReleaseReply;
        /// Forgets snapshots by a policy or by name.
        forget(Forget) -> ForgetReply;
        /// Lists an owner's machines.
        machines(Machines) -> MachinesReply;
        /// Makes known what the owner's words decided about its machines.
        decide_machines(DecideMachines) -> DecideMachinesReply;
        /// Takes back that snapshots are forgotten.
        unforget(Unforget) -> UnforgetReply;
        /// Passes on what the owner's words decided of some snapshots.
        order(DecideSnapshots) -> DecideSnapshotsReply;
        /// Makes a ring.
        ring_create(RingCreate) -> RingCode;
        /// Joins a ring.
        ring_join(RingJoin) -> RingName;
        /// Lists the rings that the node is in.
        ring_list(RingList) -> RingListReply;
        /// Lists the members of a ring.
        ring_members(RingMembers) -> RingMembersReply;
        /// Leaves a ring.
        ring_leave(RingLeave) -> RingLeft;
        /// Tells the present invite code of a ring.
        ring_invite(RingInvite) -> RingCode;
        /// Removes a member from a ring.
        ring_remove(RingRemove) -> RingRemoveReply;
        /// Decides between the branches of a ring.
        ring_choose(RingChoose) -> RingName;
        /// Says where a member of a ring stands.
        ring_place(RingPlace) -> RingName;
        /// Agrees to being seen at the public meeting point.
        mesh_join(MeshJoin) -> MeshStatusReply;
        /// Takes that back.
        mesh_leave(MeshLeave) -> MeshStatusReply;
        /// Tells the ways into the mesh.
        mesh_status(MeshStatus) -> MeshStatusReply;
    }

    /// What happens on the node from now on; `None` for one in another process.
    pub fn events(&self) -> Option<broadcast::Receiver<NodeEvent>> {
        match &*self.inner {
            Inner::Embedded(node) => Some(node.events()),
            Inner::Remote(_) => None,
        }
    }

    /// An address that opens the dashboard logged in, once.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] of a node in this process: it has no dashboard.
    pub async fn web_login(&self) -> Result<WebLoginReply, CallError> {
        match &*self.inner {
            Inner::Embedded(_) => Err(CallError::new(
                ErrorKind::Unavailable,
                "a node inside a command has no dashboard",
            )),
            Inner::Remote(remote) => remote.call(&WebLogin {}, Arc::new(Silent)).await,
        }
    }

    /// Turns a file of unknown length, such as standard input, into blocks. `monitor` hears how far it has come.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn put_stream(
        &self,
        request: PutStream,
        bytes: BoxStream<'static, std::io::Result<Bytes>>,
        monitor: Arc<dyn Monitor>,
    ) -> Result<PutReply, CallError> {
        match &*self.inner {
            Inner::Embedded(node) => node.put_stream(request, bytes, monitor).await,
            Inner::Remote(remote) => remote.put_stream(&request, bytes, monitor).await,
        }
    }

    /// Streams the bytes of one file of a bundle.
    ///
    /// # Errors
    /// [`CallError`], here or as the stream's last item.
    pub async fn cat(
        &self,
        request: Cat,
    ) -> Result<BoxStream<'static, Result<Bytes, CallError>>, CallError> {
        match &*self.inner {
            Inner::Embedded(node) => node.cat(request).await,
            Inner::Remote(remote) => remote.stream("cat", &request).await,
        }
    }

    /// Streams a snapshot, or a part of it, as a tar archive.
    ///
    /// # Errors
    /// [`CallError`], here or as the stream's last item.
    pub async fn restore_tar(
        &self,
        request: RestoreTar,
    ) -> Result<BoxStream<'static, Result<Bytes, CallError>>, CallError> {
        match &*self.inner {
            Inner::Embedded(node) => node.restore_tar(request).await,
            Inner::Remote(remote) => remote.stream("restore-tar", &request).await,
        }
    }

    /// Gets one block as it is.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn block_get(&self, request: BlockGet) -> Result<Bytes, CallError> {
        match &*self.inner {
            Inner::Embedded(node) => node.block_get(request).await,
            Inner::Remote(remote) => remote.block_get("block-get", &request).await,
        }
    }

    /// Stores bytes as one block.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn block_put(
        &self,
        request: BlockPut,
        bytes: Bytes,
    ) -> Result<BlockPutReply, CallError> {
        match &*self.inner {
            Inner::Embedded(node) => node.block_put(request, bytes).await,
            Inner::Remote(remote) => remote.block_put(&request, bytes).await,
        }
    }
}

/// Settings of a node that lives as long as one command.
pub fn for_command(mut config: Config) -> Config {
    config.take_free_ports();
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use discovery::Token;

    #[test]
    fn a_commands_own_node_takes_free_ports_unless_told_otherwise() {
        let own = for_command(Config::default());
        assert!(
            own.listen
                .iter()
                .all(|a| a.contains("/tcp/0") || a.contains("/udp/0"))
        );
        let chosen = Config {
            listen: vec!["/ip4/127.0.0.1/tcp/7".to_owned()],
            ..Config::default()
        };
        assert_eq!(for_command(chosen.clone()), chosen);
    }

    #[tokio::test]
    async fn a_stale_file_is_no_node() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(
            Client::running(dir.path())
                .await
                .expect("no file")
                .is_none()
        );

        // A port that was free a moment ago: nobody listens.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("bound");
        drop(listener);
        let _file = ApiFile::new(address, Token::random())
            .write(dir.path())
            .expect("written");
        assert!(Client::running(dir.path()).await.expect("stale").is_none());
    }

    /// The old port belongs to somebody else now, who must not be sent the token.
    #[tokio::test]
    async fn a_stranger_on_the_port_is_no_node_and_never_sees_the_token() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let dir = tempfile::tempdir().expect("a directory");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let token = Token::random();
        let _file = ApiFile::new(listener.local_addr().expect("bound"), token.clone())
            .write(dir.path())
            .expect("written");
        let stranger = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut seen = vec![0; 4096];
            let len = stream.read(&mut seen).await.expect("a request");
            let answer = format!("{{\"proof\":\"{}\"}}", "00".repeat(32));
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
                answer.len()
            );
            stream
                .write_all((head + &answer).as_bytes())
                .await
                .expect("sent");
            seen.truncate(len);
            String::from_utf8(seen).expect("a request is text")
        });
        assert!(
            Client::running(dir.path())
                .await
                .expect("answered")
                .is_none()
        );
        let seen = stranger.await.expect("the stranger is done");
        let secret = token.to_header();
        assert!(seen.starts_with("GET /api/v1/hello?nonce="), "{seen}");
        assert!(!seen.contains(secret.strip_prefix("Bearer ").expect("the scheme")));
    }

    /// A port that accepts connections and says nothing: a node only while its process lives.
    #[tokio::test]
    async fn a_silent_stranger_is_no_node_unless_the_process_lives() {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("bound");
        tokio::time::pause();
        let mut file = ApiFile::new(address, Token::random());
        let living = file.write(dir.path()).expect("written");
        let error = Client::running(dir.path()).await.err().expect("it lives");
        assert_eq!(error.kind, ErrorKind::Unavailable);
        drop(living);
        file.pid = i32::MAX as u32;
        let _dead = file.write(dir.path()).expect("written");
        let began = tokio::time::Instant::now();
        assert!(Client::running(dir.path()).await.expect("stale").is_none());
        assert!(began.elapsed() < Duration::from_secs(2));
    }
}
