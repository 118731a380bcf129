//! A link's two ends inside the sidecar: the queues that the loop fills and the stream empties, and the guard that tells
//! the loop when the link is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use grapevine_core::machine::effects::{PeerHello, PeerMessage, Side};
use tokio::sync::{Semaphore, mpsc};

use crate::engine::{Command, Engine};

/// How long a served message waits for room before serving is given up.
const SERVE_WAIT: Duration = Duration::from_secs(10);
/// How long a peer may take for pieces of a snapshot: its disk may be slow, and it gives a snapshot up after a minute
/// without one.
const PIECE_WAIT: Duration = Duration::from_mins(1);

/// Pulls served at once on one link; a further one is dropped, and asked for again.
const PULLS_SERVED_MAX: usize = 4;
/// Snapshots served at once on one link; a further request is dropped, and made again.
const SNAPSHOTS_SERVED_MAX: usize = 1;
/// Pieces of snapshots that a peer may have been sent without having said that it took them. At most 1 MiB each.
pub(crate) const PIECES_MAX: usize = 16;

/// A link's number. No two links of a process have the same, so news of an old one never harms its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId(u64);

impl LinkId {
    fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed))
    }
}

/// One link, as the loop knows it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) id: LinkId,
    pub(crate) peer: PeerHello,
    pub(crate) side: Side,
}

/// Tells the loop that a link ended, however it did: in order, by an error, by a panic, or with its task.
pub(crate) struct LinkGuard {
    engine: Engine,
    link: Link,
}

impl LinkGuard {
    /// Tells the loop that a link stands; an outbound one brings its queues. `None`: the loop is gone.
    pub(crate) async fn open(
        engine: &Engine,
        peer: PeerHello,
        side: Side,
        sender: Option<LinkSender>,
    ) -> Option<Self> {
        let id = LinkId::next();
        let link = Link { id, peer, side };
        let up = Command::LinkUp(link.clone(), sender);
        engine.urgent.send(up).await.ok()?;
        Some(Self {
            engine: engine.clone(),
            link,
        })
    }

    pub(crate) fn peer(&self) -> &PeerHello {
        &self.link.peer
    }
}

impl Drop for LinkGuard {
    fn drop(&mut self) {
        let command = Command::LinkDown(self.link.clone());
        let urgent = self.engine.urgent.clone();
        // The queue may be full; the news must not be lost, and a drop cannot wait.
        if let Err(mpsc::error::TrySendError::Full(command)) = urgent.try_send(command) {
            tokio::spawn(async move { urgent.send(command).await });
        }
    }
}

/// A link's queues, as the loop sees them.
#[derive(Clone, Debug)]
pub(crate) struct LinkSender {
    urgent: mpsc::Sender<PeerMessage>,
    bulk: mpsc::Sender<PeerMessage>,
    pub(super) pulls: Arc<Semaphore>,
    pub(super) snapshots: Arc<Semaphore>,
    /// Pieces of snapshots that the peer would still take.
    pub(super) pieces: Arc<Semaphore>,
}

/// A link's queues, as its stream sees them.
#[derive(Debug)]
pub(crate) struct LinkReceiver {
    urgent: mpsc::Receiver<PeerMessage>,
    bulk: mpsc::Receiver<PeerMessage>,
}

/// A link's queues.
pub(crate) fn link(urgent_max: usize, bulk_max: usize) -> (LinkSender, LinkReceiver) {
    let (urgent, urgent_out) = mpsc::channel(urgent_max);
    let (bulk, bulk_out) = mpsc::channel(bulk_max);
    (
        LinkSender {
            urgent,
            bulk,
            pulls: Arc::new(Semaphore::new(PULLS_SERVED_MAX)),
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS_SERVED_MAX)),
            pieces: Arc::new(Semaphore::new(PIECES_MAX)),
        },
        LinkReceiver {
            urgent: urgent_out,
            bulk: bulk_out,
        },
    )
}

/// Whether a message is a piece of a snapshot.
pub(crate) fn is_piece(message: &PeerMessage) -> bool {
    matches!(
        message,
        PeerMessage::SnapshotBegin { .. }
            | PeerMessage::SnapshotVersions { .. }
            | PeerMessage::SnapshotDirectory { .. }
            | PeerMessage::SnapshotEnd { .. }
    )
}

/// Whether a message belongs behind the bumps.
fn is_bulk(message: &PeerMessage) -> bool {
    matches!(message, PeerMessage::Directory { .. }) || is_piece(message)
}

impl LinkSender {
    fn queue(&self, message: &PeerMessage) -> &mpsc::Sender<PeerMessage> {
        if is_bulk(message) {
            &self.bulk
        } else {
            &self.urgent
        }
    }

    /// Queues a message if there is room; tells whether there was.
    pub(crate) fn offer(&self, message: PeerMessage) -> bool {
        self.queue(&message).try_send(message).is_ok()
    }

    /// Queues a message, waiting for room; tells whether there came to be some.
    pub(crate) async fn queue_when_room(&self, message: PeerMessage) -> bool {
        let queue = self.queue(&message);
        matches!(
            tokio::time::timeout(SERVE_WAIT, queue.send(message)).await,
            Ok(Ok(()))
        )
    }

    /// Queues a piece of a snapshot once the peer has taken enough of those before; tells whether it came to that.
    pub(super) async fn queue_piece(&self, piece: PeerMessage) -> bool {
        let place = tokio::select! {
            place = tokio::time::timeout(PIECE_WAIT, self.pieces.acquire()) => place,
            () = self.bulk.closed() => return false,
        };
        let Ok(Ok(place)) = place else { return false };
        let queued = self.queue_when_room(piece).await;
        if queued {
            // It comes back when the peer says that it took the piece.
            place.forget();
        }
        queued
    }
}

impl LinkReceiver {
    /// The next message, urgent ones first; `None` when the link is no longer wanted.
    pub(crate) async fn next(&mut self) -> Option<PeerMessage> {
        tokio::select! {
            biased;
            message = self.urgent.recv() => message,
            Some(message) = self.bulk.recv() => Some(message),
        }
    }
}
