//! A room's way to the driver: its commands, and nobody else's.

use tokio::sync::mpsc;

/// Sends the commands of type `C` to the driver. Each room has a queue of its own, so that one with
/// much to do keeps no other waiting.
pub(super) struct Mailbox<C>(mpsc::Sender<C>);

impl<C> Clone for Mailbox<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The driver has ended.
#[derive(Debug)]
pub(super) struct Ended;

impl<C> Mailbox<C> {
    /// A mailbox whose queue holds so many commands, and the end that the driver reads.
    pub(super) fn open(commands: usize) -> (Self, mpsc::Receiver<C>) {
        let (sender, receiver) = mpsc::channel(commands);
        (Self(sender), receiver)
    }

    /// Waits for room in the queue.
    pub(super) async fn send(&self, command: C) -> Result<(), Ended> {
        self.0.send(command).await.map_err(|_| Ended)
    }
}
