//! A link's two ends inside the sidecar: the queues that the loop fills and the stream empties, and the guard that tells
//! the loop when the link is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use grapevine_core::machine::effects::{PeerHello, PeerMessage, Side};
use grapevine_core::roster::Say;
use tokio::sync::{Semaphore, mpsc};

use crate::engine::{Command, Engine, send_from_drop};
use crate::wire::peer::message_bytes;

/// How long a served message waits for room before serving is given up.
const SERVE_WAIT: Duration = Duration::from_secs(10);
/// How long a peer may take for pieces of a snapshot: its disk may be slow, and it gives a snapshot up after a minute
/// without one.
const PIECE_WAIT: Duration = Duration::from_mins(1);

/// The bytes that may wait in each of a link's queues for a peer that reads slowly, unless a single message has more.
/// What comes then is dropped.
const QUEUE_BYTES_MAX: usize = 8 << 20;

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
        send_from_drop(&self.engine.urgent, command);
    }
}

/// A link's queues, as the loop sees them.
#[derive(Clone, Debug)]
pub(crate) struct LinkSender {
    urgent: Queue,
    bulk: Queue,
    pub(super) pulls: Arc<Semaphore>,
    pub(super) snapshots: Arc<Semaphore>,
    /// Pieces of snapshots that the peer would still take.
    pub(super) pieces: Arc<Semaphore>,
}

/// A link's queues, as its stream sees them.
#[derive(Debug)]
pub(crate) struct LinkReceiver {
    urgent: mpsc::Receiver<Queued>,
    bulk: mpsc::Receiver<Queued>,
}

/// One queue, bounded in messages and in bytes.
#[derive(Clone, Debug)]
struct Queue {
    messages: mpsc::Sender<Queued>,
    waiting: Arc<Waiting>,
}

/// What waits in a queue.
#[derive(Debug, Default)]
struct Waiting {
    bytes: AtomicUsize,
    /// Whether a grant is among it, and whether a decided view is. They may be large, as many runs as there are, and are
    /// made again and again: a peer that reads slowly asks for the next when it has read the last.
    grant: AtomicBool,
    decided: AtomicBool,
}

/// A message in a queue. While it is there it counts.
#[derive(Debug)]
struct Queued {
    message: Option<PeerMessage>,
    /// Whether it was asked for.
    served: bool,
    bytes: usize,
    waiting: Arc<Waiting>,
}

impl Waiting {
    /// The mark of what may be there once only.
    fn once(&self, message: &PeerMessage) -> Option<&AtomicBool> {
        match message {
            PeerMessage::Grant { .. } => Some(&self.grant),
            PeerMessage::Roster {
                say: Say::Decided(_),
                ..
            } => Some(&self.decided),
            _ => None,
        }
    }
}

impl Queue {
    fn new(messages_max: usize) -> (Self, mpsc::Receiver<Queued>) {
        let (messages, out) = mpsc::channel(messages_max);
        let waiting = Arc::default();
        (Self { messages, waiting }, out)
    }

    fn queued(&self, message: PeerMessage, served: bool) -> Queued {
        let bytes = message_bytes(&message);
        self.waiting.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(there) = self.waiting.once(&message) {
            there.store(true, Ordering::Relaxed);
        }
        Queued {
            message: Some(message),
            served,
            bytes,
            waiting: self.waiting.clone(),
        }
    }

    /// Only the loop offers, so nothing is added between the look and the addition; what is served in the meantime waits
    /// for room in messages, and is limited by itself.
    fn offer(&self, message: PeerMessage) -> bool {
        let waiting = self.waiting.bytes.load(Ordering::Relaxed);
        let full = waiting > 0 && waiting + message_bytes(&message) > QUEUE_BYTES_MAX;
        let there = self.waiting.once(&message);
        if full || there.is_some_and(|there| there.load(Ordering::Relaxed)) {
            return false;
        }
        let Ok(place) = self.messages.try_reserve() else {
            return false;
        };
        place.send(self.queued(message, false));
        true
    }
}

impl Queued {
    fn take(mut self) -> Option<(PeerMessage, bool)> {
        let message = self.message.take()?;
        if let Some(there) = self.waiting.once(&message) {
            there.store(false, Ordering::Relaxed);
        }
        Some((message, self.served))
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.waiting.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A link's queues.
pub(crate) fn link(urgent_max: usize, bulk_max: usize) -> (LinkSender, LinkReceiver) {
    let (urgent, urgent_out) = Queue::new(urgent_max);
    let (bulk, bulk_out) = Queue::new(bulk_max);
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

/// Whether a message brings registrations.
pub(super) fn is_registrations(message: &PeerMessage) -> bool {
    matches!(message.relieved(), PeerMessage::Directory { .. })
}

/// Whether a message belongs behind the bumps.
fn is_bulk(message: &PeerMessage) -> bool {
    is_registrations(message) || is_piece(message)
}

impl LinkSender {
    fn queue(&self, message: &PeerMessage) -> &Queue {
        if is_bulk(message) {
            &self.bulk
        } else {
            &self.urgent
        }
    }

    /// Queues a message if there is room; tells whether there was.
    pub(crate) fn offer(&self, message: PeerMessage) -> bool {
        self.queue(&message).offer(message)
    }

    /// Queues a message that the peer has asked for, waiting for room; tells whether there came to be some.
    pub(crate) async fn queue_when_room(&self, message: PeerMessage) -> bool {
        let queue = self.queue(&message);
        match tokio::time::timeout(SERVE_WAIT, queue.messages.reserve()).await {
            Ok(Ok(place)) => {
                place.send(queue.queued(message, true));
                true
            }
            _ => false,
        }
    }

    /// Queues a piece of a snapshot once the peer has taken enough of those before; tells whether it came to that.
    pub(super) async fn queue_piece(&self, piece: PeerMessage) -> bool {
        let place = tokio::select! {
            place = tokio::time::timeout(PIECE_WAIT, self.pieces.acquire()) => place,
            () = self.bulk.messages.closed() => return false,
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
    /// The next message, urgent ones first, and whether the peer has asked for it; `None` when the link is no longer wanted.
    pub(crate) async fn next(&mut self) -> Option<(PeerMessage, bool)> {
        let queued = tokio::select! {
            biased;
            queued = self.urgent.recv() => queued,
            Some(queued) = self.bulk.recv() => Some(queued),
        };
        queued?.take()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use grapevine_core::event::{Bump, BumpEvent, Match, PurgeMode};
    use grapevine_core::id::Incarnation;
    use grapevine_core::machine::effects::Span;
    use grapevine_core::names::ClassPath;
    use grapevine_core::progress::OriginHead;
    use grapevine_core::roster::View;

    use super::*;

    fn grant(nonce: u64) -> PeerMessage {
        let head = OriginHead {
            incarnation: Incarnation::new(7).unwrap(),
            bump: 1,
            directory: 1,
        };
        PeerMessage::Grant {
            nonce,
            settled: false,
            duration: Duration::from_secs(1),
            heads: vec![head; 10_000],
            span: Span::default(),
            lacked: Vec::new(),
        }
    }

    fn decided() -> PeerMessage {
        PeerMessage::Roster {
            history: None,
            say: Say::Decided(View::default()),
        }
    }

    fn bumps(count: usize) -> PeerMessage {
        let name = format!("a/{}", "b".repeat(190));
        let event = Arc::new(BumpEvent::Bump(Bump {
            classes: vec![ClassPath::parse(&name).unwrap(); 1_000],
            matching: Match::Any,
            purge: PurgeMode::Hard,
        }));
        PeerMessage::Bumps {
            origin: Incarnation::new(7).unwrap(),
            first: 1,
            events: vec![event; count],
        }
    }

    #[tokio::test]
    async fn g10_what_waits_for_a_peer_that_reads_slowly_is_bounded_in_bytes() {
        let (sender, mut receiver) = link(10_000, 10_000);
        let taken = (0..10_000).filter(|_| sender.offer(bumps(1))).count();
        assert!((20..=45).contains(&taken), "{taken} of 200 KB each");
        assert!(!sender.offer(bumps(1)));
        assert!(
            sender.offer(PeerMessage::SnapshotEnd { id: 1 }),
            "another queue"
        );
        // What is read, or dropped with its link, makes room.
        receiver.next().await.unwrap();
        assert!(sender.offer(bumps(1)));
        assert!(!sender.offer(bumps(1)));
        let waiting = sender.urgent.waiting.clone();
        drop((sender, receiver));
        assert_eq!(waiting.bytes.load(Ordering::Relaxed), 0);
        // A single message that is larger than the bound gets through.
        let (sender, mut receiver) = link(10_000, 10_000);
        assert!(sender.offer(bumps(50)));
        assert!(!sender.offer(PeerMessage::SnapshotRequest { id: 1 }));
        receiver.next().await.unwrap();
        assert!(sender.offer(PeerMessage::SnapshotRequest { id: 1 }));
    }

    #[tokio::test]
    async fn g10_one_grant_and_one_view_wait_for_a_peer_and_the_next_when_they_are_read() {
        let (sender, mut receiver) = link(100, 100);
        for message in [grant, |_| decided()] {
            assert!(sender.offer(message(1)));
            assert!(!sender.offer(message(2)));
            assert_eq!(receiver.next().await, Some((message(1), false)));
            assert!(sender.offer(message(3)));
            receiver.next().await.unwrap();
        }
    }
}
