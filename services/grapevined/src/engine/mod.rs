//! The engine: what stands between the machine and the world.
//!
//! [`Engine`] is what handlers hold. Look-ups read the machine under a read lock, without a task switch; everything else
//! is a command to the one event loop (`event_loop`), which turns commands into inputs and effects into I/O and decides
//! nothing. No lock is held across an await, and no peer is awaited inside the loop.

mod clock;
mod convergence;
mod event_loop;
mod held;
mod limits;
mod places;
mod sessions;
mod tables;
mod views;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use grapevine_core::event::{BumpEvent, ROW_WEIGHT, Registration};
use grapevine_core::fill::FillKey;
use grapevine_core::id::{EventId, Time};
use grapevine_core::index::LeafKey;
use grapevine_core::intent::IntentId;
use grapevine_core::machine::Core;
use grapevine_core::machine::effects::{
    BeginWrite, Forget, Input, Invalidate, LeafFill, PeerMessage, Prune, RegisterItem, Reply,
    RowsChange, Written,
};
use grapevine_core::table::TableId;
use grapevine_store::{Store, StoreError};
use opentelemetry::trace::SpanContext;
use parking_lot::RwLock;
use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc, oneshot, watch};
use tonic::Status;

pub(crate) use clock::Clock;
pub(crate) use event_loop::{EventLoop, Parts};
pub(crate) use held::Held;
pub(crate) use limits::follow_limits;
pub(crate) use places::{OfConnection, Place, Places};
pub(crate) use sessions::Sessions;
pub(crate) use tables::{OpenTable, TableReceiver, TableSender, table_channel};

use crate::peers::{Link, LinkSender};
use crate::purge::Submission;
use crate::telemetry::Counters;
use crate::telemetry::traces::{self, Traces};
use crate::wire::status::{behind, exhausted};

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
    pub(crate) traces: Traces,
    pub(crate) news: broadcast::Sender<News>,
    pub(crate) applied: watch::Receiver<u64>,
    pub(crate) sessions: Sessions,
    /// What the last peer said that refused this sidecar because its node id is in use, until a link stands.
    pub(crate) in_use: Arc<RwLock<Option<String>>>,
    /// Bumps, acknowledgements, grants, links. Full: callers wait, then are told to try again; peers' streams wait.
    pub(crate) urgent: mpsc::Sender<Command>,
    /// Registrations and snapshots. Full: as above; bumps never queue behind them.
    pub(crate) bulk: mpsc::Sender<Command>,
}

/// Something for the loop to do.
pub(crate) enum Command {
    /// A call, and who waits for its answer.
    Call(Call, Caller),
    /// An input that nobody waits for.
    Input(Input),
    /// A link stands; an outbound one brings its queues.
    LinkUp(Link, Option<LinkSender>),
    /// A link ended.
    LinkDown(Link),
    /// Flush, tell the peers, stop.
    Drain(oneshot::Sender<()>),
}

impl Command {
    /// How much work it is: what is registered or bumped counts once and once more for each class, whatever else there
    /// is counts as one.
    fn weight(&self) -> usize {
        let registrations =
            |items: &[Registration]| items.iter().map(|item| 1 + item.classes.len()).sum();
        match self {
            Self::Call(Call::Register(items), _) => {
                items.iter().map(|item| 1 + item.classes.len()).sum()
            }
            Self::Call(
                Call::Invalidate(call) | Call::CommitWrite(_, Written::Classes(call)),
                _,
            ) => 1 + call.classes.len(),
            Self::Call(Call::BeginWrite(call), _) => 1 + call.announced.weight(),
            Self::Call(Call::RowsChanged(call) | Call::CommitWrite(_, Written::Rows(call)), _) => {
                call.rows
                    .iter()
                    .map(|image| ROW_WEIGHT + image.rows.cells.len())
                    .sum()
            }
            Self::Call(Call::FillLeaf(fill), _) => 1 + fill.members.len(),
            Self::Call(Call::PruneLeaf(prune), _) => 1 + prune.places.len(),
            Self::Input(Input::Peer { message, .. }) => match message.relieved() {
                PeerMessage::Pruned { places, .. } => 1 + places.len(),
                PeerMessage::Directory { batches, .. } => batches
                    .iter()
                    .map(|batch| registrations(&batch.registrations))
                    .sum(),
                PeerMessage::SnapshotDirectory {
                    registrations: items,
                    ..
                } => registrations(items),
                PeerMessage::SnapshotVersions {
                    classes, floors, ..
                } => {
                    let dots = classes.iter().map(|class| 1 + class.entries.len());
                    let of_floors = floors.iter().map(|floor| 1 + floor.vector.len());
                    dots.chain(of_floors).sum()
                }
                PeerMessage::Intent(intent) | PeerMessage::RowsCome(intent) => {
                    1 + intent.owed.weight()
                }
                PeerMessage::IntentHeld(intents) => 1 + intents.len(),
                PeerMessage::Bumps { events, .. } => {
                    events.iter().map(|event| 1 + event.weight()).sum()
                }
                _ => 1,
            },
            _ => 1,
        }
    }

    /// The same of registrations and snapshots, and nothing for anything else.
    fn bulk_weight(&self) -> usize {
        match self {
            Self::Call(Call::Register(_) | Call::FillLeaf(_), _) => self.weight(),
            Self::Input(Input::Peer { message, .. }) => match message.relieved() {
                PeerMessage::Directory { .. }
                | PeerMessage::SnapshotDirectory { .. }
                | PeerMessage::SnapshotVersions { .. } => self.weight(),
                _ => 0,
            },
            _ => 0,
        }
    }
}

/// A call.
pub(crate) enum Call {
    /// To invalidate.
    Invalidate(Invalidate),
    /// To tell of changed rows.
    RowsChanged(RowsChange),
    /// To begin a write.
    BeginWrite(BeginWrite),
    /// To commit a write.
    CommitWrite(IntentId, Written),
    /// To abort a write.
    AbortWrite(IntentId),
    /// To commit fills or register addresses.
    Register(Vec<RegisterItem>),
    /// To get a turn to fill, until a deadline.
    AcquireFill(FillKey, Time),
    /// To be given the right to load a leaf.
    LoadLeaf(LeafKey),
    /// To tell a part of what the database has of a leaf.
    FillLeaf(LeafFill),
    /// To remove members of a leaf whose rows are elsewhere.
    PruneLeaf(Prune),
    /// To open a local table, which is told what comes through this.
    OpenTable(TableId, TableSender),
    /// To forget a member.
    Forget(Forget),
}

/// Who waits for a call's answer.
pub(crate) struct Caller {
    answer: oneshot::Sender<Answer>,
    /// The span that it is a part of, if that is recorded.
    span: Option<SpanContext>,
    /// The call's share of what may be under way. It stays with the call until that is answered, whether or not somebody
    /// still waits: what gave it back when its caller gave up would not bound anything.
    _room: Option<OwnedSemaphorePermit>,
}

impl Caller {
    /// Whether nobody waits any more.
    fn is_gone(&self) -> bool {
        self.answer.is_closed()
    }

    fn answer(self, reply: Reply, purges: Vec<Submission>, held: Option<Held>) {
        // The caller may have gone; what it asked for is done all the same.
        let _ = self.answer.send(Answer {
            reply,
            purges,
            held,
        });
    }
}

/// What a call gets.
pub(crate) struct Answer {
    /// What the machine says.
    pub(crate) reply: Reply,
    /// The first attempts of the purges that belong to it.
    pub(crate) purges: Vec<Submission>,
    /// A turn to fill that it won.
    pub(crate) held: Option<Held>,
}

impl Engine {
    /// Makes a call and waits for its answer, for so long at most once the loop has it.
    ///
    /// `RESOURCE_EXHAUSTED` and `UNAVAILABLE` mean that it had no effect. `DEADLINE_EXCEEDED` and `UNKNOWN` mean that
    /// nobody knows: the loop had it, and a disk that stalled or a process that ended kept the answer back.
    pub(crate) async fn call(
        &self,
        call: Call,
        room: Option<OwnedSemaphorePermit>,
        wait: Duration,
    ) -> Result<Answer, Status> {
        self.call_patiently(call, room, INTAKE_WAIT, wait).await
    }

    /// The same, but that it waits for a place in the loop's queue for as long as it is told.
    pub(crate) async fn call_patiently(
        &self,
        call: Call,
        room: Option<OwnedSemaphorePermit>,
        intake: Duration,
        wait: Duration,
    ) -> Result<Answer, Status> {
        let queue = match call {
            Call::Register(_) | Call::FillLeaf(_) => &self.bulk,
            _ => &self.urgent,
        };
        let (sender, answer) = oneshot::channel();
        let caller = Caller {
            answer: sender,
            span: traces::of_call(),
            _room: room,
        };
        match tokio::time::timeout(intake, queue.reserve()).await {
            Ok(Ok(place)) => place.send(Command::Call(call, caller)),
            Ok(Err(_)) => return Err(stopping()),
            Err(_) => {
                self.counters.refused("limits.queue_commands_max");
                let message = format!(
                    "{} calls wait already (limits.queue_commands_max)",
                    queue.max_capacity()
                );
                return Err(exhausted(message, Duration::from_millis(200)));
            }
        }
        match tokio::time::timeout(wait, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Status::unknown(
                "this sidecar ended before it answered: whether the call had an effect is not known; repeat it at another one",
            )),
            Err(_) => Err(Status::deadline_exceeded(format!(
                "no answer within {} ms, for the disk has not taken it: whether the call had an effect is not known; repeat it",
                wait.as_millis()
            ))),
        }
    }

    /// Waits until every event of a session was applied here, or the time is up (G5).
    pub(crate) async fn await_session(
        &self,
        events: &[EventId],
        wait: Duration,
    ) -> Result<(), Status> {
        let applied = |event: &EventId| self.core.read().has_all(&[*event]);
        if events.iter().all(applied) {
            return Ok(());
        }
        let _place = self.sessions.place()?;
        let seen = async {
            for event in events {
                loop {
                    let waiting = self.sessions.wait_for(*event)?;
                    if applied(event) {
                        break;
                    }
                    waiting.woken().await?;
                }
            }
            Ok(())
        };
        if let Ok(result) = tokio::time::timeout(wait, seen).await {
            return result;
        }
        let missing: Vec<String> = events
            .iter()
            .filter(|event| !applied(event))
            .map(|event| format!("event {} of {}", event.sequence, event.origin))
            .collect();
        if missing.is_empty() {
            // It came as the time ran out.
            return Ok(());
        }
        Err(behind(format!(
            "session: this sidecar has not applied what the session names after {} ms ({}); the call had no effect",
            wait.as_millis(),
            missing.join(", ")
        )))
    }
}

/// Sends what must not be lost, from a drop, which cannot wait for room: a task does.
///
/// Without a runtime there is nobody to wait, nor anybody to hear it: the loop lives in the same one. That is where a guard ends
/// that outlived its runtime.
pub(crate) fn send_from_drop(urgent: &mpsc::Sender<Command>, command: Command) {
    if let Err(mpsc::error::TrySendError::Full(command)) = urgent.try_send(command)
        && let Ok(runtime) = tokio::runtime::Handle::try_current()
    {
        let urgent = urgent.clone();
        runtime.spawn(async move { urgent.send(command).await });
    }
}

/// What callers of a sidecar that drains are told.
pub(crate) fn stopping() -> Status {
    Status::unavailable("this sidecar is stopping; call another one")
}

/// Runs a read of the store where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(read).await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
