//! Says that there is nobody to ask, to a person who would wait without knowing for what.

use std::time::Duration;

use super::context::Context;
use super::progress::Bar;
use super::show;
use crate::client::Client;
use crate::id::BlockId;
use crate::node::api::{BlockHas, CallError, MeshStatus, Peers};

/// Peers on the local network are found within this time.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// Pause between two looks for the first peer.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Runs `work`, which wants the block `id` and gives up after `timeout_s`. If it is not in the
/// store and there are no peers to ask for it, says so, and when the first one comes.
pub(super) async fn tell_if_alone<T>(
    client: &Client,
    id: BlockId,
    timeout_s: u64,
    bar: &Bar,
    context: &Context,
    work: impl Future<Output = T>,
) -> T {
    let is_here = async || Ok(client.block_has(BlockHas { id }).await?.has);
    tell_if_alone_without(client, is_here, timeout_s, bar, context, work).await
}

/// As [`tell_if_alone`], for work on something that `is_here` looks for on this machine.
pub(super) async fn tell_if_alone_without<T>(
    client: &Client,
    is_here: impl AsyncFnOnce() -> Result<bool, CallError>,
    timeout_s: u64,
    bar: &Bar,
    context: &Context,
    work: impl Future<Output = T>,
) -> T {
    let tell = async {
        if !context.is_silent() {
            let until =
                jiff::Zoned::now().saturating_add(jiff::Span::new().seconds(timeout_s as i64));
            // That peers can't be counted is no reason to end the work.
            let _ = tell(client, is_here, &until, timeout_s, bar).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        done = work => done,
        () = tell => unreachable!("it never ends"),
    }
}

async fn tell(
    client: &Client,
    is_here: impl AsyncFnOnce() -> Result<bool, CallError>,
    until: &jiff::Zoned,
    timeout_s: u64,
    bar: &Bar,
) -> Result<(), CallError> {
    if is_here().await? {
        return Ok(());
    }
    let is_alone = async || {
        let peers = client.peers(Peers {}).await?.peers;
        Ok::<_, CallError>(peers.is_empty())
    };
    tokio::time::sleep(FIRST_LOOK).await;
    if !is_alone().await? {
        return Ok(());
    }
    bar.line(&format!(
        "no peers yet; looking until {} ({}, --timeout changes that)",
        until.strftime("%H:%M:%S"),
        show::count(timeout_s, "second")
    ));
    if !client.mesh_status(MeshStatus {}).await?.joined {
        bar.line("`libernet mesh join` has this machine look across the internet, too");
    }
    while is_alone().await? {
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    bar.line("a peer was found");
    Ok(())
}
