//! Links between sidecars.
//!
//! Each sidecar dials every other one and says all it has to say on the stream it dialled, so a pair has one stream each
//! way. A link has two bounded queues, urgent before bulk; when one is full its message is dropped and counted, and the
//! heads that travel with every grant lead to a pull. Serving a pull or a snapshot waits for room instead.

mod dial;
pub(crate) mod serve;
mod server;

use std::sync::Arc;
use std::time::Duration;

use grapevine_core::machine::effects::PeerMessage;
use tokio::sync::{Semaphore, mpsc};

pub(crate) use dial::{Dialler, run as run_dialler};
pub(crate) use server::PeerServer;

/// How long a served message waits for room before serving is given up.
const SERVE_WAIT: Duration = Duration::from_secs(10);

/// Pulls served at once on one link; a further one is dropped, and asked for again.
const PULLS_SERVED_MAX: usize = 4;
/// Snapshots served at once on one link; a further request is dropped, and made again.
const SNAPSHOTS_SERVED_MAX: usize = 1;

/// A link's queues, as the loop sees them.
#[derive(Clone, Debug)]
pub(crate) struct LinkSender {
    urgent: mpsc::Sender<PeerMessage>,
    bulk: mpsc::Sender<PeerMessage>,
    pulls: Arc<Semaphore>,
    snapshots: Arc<Semaphore>,
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
        },
        LinkReceiver {
            urgent: urgent_out,
            bulk: bulk_out,
        },
    )
}

/// Whether a message belongs behind the bumps.
pub(crate) fn is_bulk(message: &PeerMessage) -> bool {
    matches!(
        message,
        PeerMessage::Directory { .. }
            | PeerMessage::SnapshotBegin { .. }
            | PeerMessage::SnapshotVersions { .. }
            | PeerMessage::SnapshotDirectory { .. }
            | PeerMessage::SnapshotEnd { .. }
    )
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
