//! The engine: what stands between the machine and the world.
//!
//! [`Engine`] is what handlers hold. Look-ups read the machine under a read lock, without a task switch; everything else
//! is a command to the one event loop (`event_loop`), which turns commands into inputs and effects into I/O and decides
//! nothing. No lock is held across an await, and no peer is awaited inside the loop.

mod clock;
mod event_loop;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use grapevine_core::event::BumpEvent;
use grapevine_core::id::EventId;
use grapevine_core::machine::Core;
use grapevine_core::machine::effects::{
    Input, Invalidate, PeerHello, PeerMessage, RegisterItem, Reply, Side,
};
use grapevine_store::Store;
use parking_lot::RwLock;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tonic::Status;

pub(crate) use clock::Clock;
pub(crate) use event_loop::{EventLoop, Parts};

use crate::peers::LinkSender;
use crate::purge::Submission;
use crate::telemetry::{Counter, Counters};
use crate::wire::status::exhausted;

/// How long a caller waits for a place in the loop's queue.
pub(crate) const INTAKE_WAIT: Duration = Duration::from_secs(2);

/// What a watcher hears.
#[derive(Clone, Debug)]
pub(crate) enum News {
    /// A bump-lane event was applied.
    Applied(EventId, Arc<BumpEvent>),
    /// A state was adopted whole.
    Resync,
}

/// What handlers hold. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) core: Arc<RwLock<Core>>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Clock,
    pub(crate) counters: Arc<Counters>,
    pub(crate) news: broadcast::Sender<News>,
    pub(crate) applied: watch::Receiver<u64>,
    /// Bumps, acknowledgements, grants, links. Full: callers wait, then are told to try again; peers' streams wait.
    pub(crate) urgent: mpsc::Sender<Command>,
    /// Registrations and snapshots. Full: as above; bumps never queue behind them.
    pub(crate) bulk: mpsc::Sender<Command>,
}

/// Something for the loop to do.
pub(crate) enum Command {
    /// A call, and where its answer goes.
    Call(Call, oneshot::Sender<Answer>),
    /// An input that nobody waits for.
    Input(Input),
    /// A link stands; an outbound one brings its queues.
    LinkUp(PeerHello, Side, Option<LinkSender>),
    /// A link ended.
    LinkDown(PeerHello, Side),
    /// Flush, tell the peers, stop.
    Drain(oneshot::Sender<()>),
}

impl Command {
    /// How much work it is: registrations count each, everything else counts as one.
    fn weight(&self) -> usize {
        match self {
            Self::Call(Call::Register(items), _) => items.len(),
            Self::Input(Input::Peer { message, .. }) => match message {
                PeerMessage::Directory { batches, .. } => {
                    batches.iter().map(|batch| batch.registrations.len()).sum()
                }
                PeerMessage::SnapshotDirectory { registrations, .. } => registrations.len(),
                PeerMessage::SnapshotVersions { classes, .. } => classes.len(),
                PeerMessage::Bumps { events, .. } => events.len(),
                _ => 1,
            },
            _ => 1,
        }
    }
}

/// A call.
pub(crate) enum Call {
    /// To invalidate.
    Invalidate(Invalidate),
    /// To commit fills or register addresses.
    Register(Vec<RegisterItem>),
}

/// What a call gets.
pub(crate) struct Answer {
    /// What the machine says.
    pub(crate) reply: Reply,
    /// The first attempts of the purges that belong to it.
    pub(crate) purges: Vec<Submission>,
}

impl Engine {
    /// Makes a call and waits for its answer.
    pub(crate) async fn call(&self, call: Call) -> Result<Answer, Status> {
        let queue = match call {
            Call::Invalidate(_) => &self.urgent,
            Call::Register(_) => &self.bulk,
        };
        let (sender, answer) = oneshot::channel();
        match tokio::time::timeout(INTAKE_WAIT, queue.reserve()).await {
            Ok(Ok(place)) => place.send(Command::Call(call, sender)),
            Ok(Err(_)) => return Err(stopping()),
            Err(_) => {
                self.counters.inc(Counter::IntakeRejected);
                let message = format!(
                    "{} calls wait already (limits.queue_commands_max)",
                    queue.max_capacity()
                );
                return Err(exhausted(message, Duration::from_millis(200)));
            }
        }
        answer.await.map_err(|_| stopping())
    }

    /// Waits until every event of a session was applied here, or the time is up (G5).
    pub(crate) async fn await_session(
        &self,
        events: &[EventId],
        wait: Duration,
    ) -> Result<(), Status> {
        if events.is_empty() {
            return Ok(());
        }
        let mut applied = self.applied.clone();
        let seen = async {
            loop {
                applied.borrow_and_update();
                if self.core.read().has_all(events) {
                    return Ok(());
                }
                if applied.changed().await.is_err() {
                    return Err(stopping());
                }
            }
        };
        match tokio::time::timeout(wait, seen).await {
            Ok(result) => result,
            Err(_) => Err(Status::deadline_exceeded(format!(
                "session: this sidecar has not applied what the session names after {} ms; the call had no effect",
                wait.as_millis()
            ))),
        }
    }
}

fn stopping() -> Status {
    Status::unavailable("this sidecar is stopping; call another one")
}
