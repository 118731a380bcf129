//! The event loop: the only writer of the machine.
//!
//! A turn takes what waits (bumps and answers before registrations), hands it to the machine under one write lock, gives
//! the writes to the writer as one group and carries the actions out. While writes pile up behind a slow disk, the loop
//! stops taking registrations first and everything else from applications and peers later; their queues fill and push
//! back. The part `act` carries actions out.

mod act;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use grapevine_core::event::Event as Logged;
use grapevine_core::id::{EventId, Incarnation, Lane, Time};
use grapevine_core::machine::Core;
use grapevine_core::machine::effects::{
    Action, CommitId, Effects, Input, PeerMessage, ReceiptLevel, Refusal, Reply, Side, TableWord,
    Ticket, Written,
};
use grapevine_core::names::NodeId;
use grapevine_core::progress::LaneProgress;
use grapevine_core::roster::View;
use grapevine_core::store::Write;
use grapevine_core::table::TableId;
use opentelemetry::trace::SpanContext;
use parking_lot::RwLockWriteGuard;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info};

use super::convergence::Convergence;
use super::writer::{Committed, Outcome, Writer};
use super::{Call, Caller, Clock, Command, Engine, TableSender};
use crate::peers::{Link, LinkId, LinkSender};
use crate::purge::{Purger, Submission};
use crate::telemetry::Counter;
use crate::telemetry::metrics::Histograms;
use crate::telemetry::traces::Traces;

/// Commands taken in one turn.
const TURN_MAX: usize = 1_024;
/// Registrations, their classes and other items taken in one turn.
const TURN_WEIGHT_MAX: usize = 40_000;

/// How often the loop looks for callers that are gone, at most: it asks all of them.
const GONE_EVERY: Duration = Duration::from_millis(20);

/// Nothing at all is taken while so many times as much waits for the disk as there may be of registrations.
const STALLED: usize = 16;

/// How long a drain waits for deletes that are being retried.
const PURGE_WAIT: Duration = Duration::from_millis(500);

/// What the loop is made of.
pub(crate) struct Parts {
    pub(crate) engine: Engine,
    pub(crate) urgent: mpsc::Receiver<Command>,
    pub(crate) bulk: mpsc::Receiver<Command>,
    pub(crate) applied: watch::Sender<u64>,
    pub(crate) members: watch::Sender<Vec<(NodeId, String)>>,
    pub(crate) purger: Arc<Purger>,
    pub(crate) histograms: Histograms,
    pub(crate) gossip: Arc<grapevine_gossip::Gossip>,
    pub(crate) writes_max: usize,
}

/// What the commands of a turn weigh, and what those that can wait do.
#[derive(Default)]
struct Weights {
    all: usize,
    bulk: usize,
}

impl Weights {
    fn add(&mut self, command: &Command) {
        self.all += command.weight();
        self.bulk += command.bulk_weight();
    }
}

/// The loop's state: tables of who waits for what.
pub(crate) struct EventLoop {
    parts: Parts,
    writer: Writer,
    outcomes: mpsc::Receiver<Outcome>,
    tickets: u64,
    callers: HashMap<Ticket, Caller>,
    /// Streams of local tables, and those that the machine has yet to answer.
    tables: HashMap<TableId, TableSender>,
    opening: HashMap<Ticket, (TableId, TableSender)>,
    /// The weight of registrations that the machine gathers until the writer is idle.
    gathered: usize,
    /// When callers that are gone were last looked for.
    looked: Time,
    /// First attempts of purges of own events whose call has not been answered.
    purges: HashMap<EventId, Vec<Submission>>,
    /// The events among them that this turn added.
    purged: Vec<EventId>,
    /// The spans of calls that this turn has taken.
    traced: HashMap<Ticket, SpanContext>,
    /// Events of which a trace is recorded, and since when they wait for which flush.
    persisting: VecDeque<(CommitId, EventId, SystemTime)>,
    /// When this turn gave its inputs to the machine, if a trace asks.
    handled: SystemTime,
    convergence: Convergence,
    /// The newest outbound link to each peer.
    links: HashMap<Incarnation, (LinkId, LinkSender)>,
    /// The inbound links of each peer: a reconnect may overtake the end of the old one.
    inbound: HashMap<Incarnation, BTreeSet<LinkId>>,
    told_members: Vec<(NodeId, String)>,
    /// The last own bump that gossip told.
    told_bump: u64,
    /// When to look whether everybody has heard of it.
    nudge_at: Option<tokio::time::Instant>,
    /// The view that the log tells of.
    logged: View,
    draining: Option<oneshot::Sender<()>>,
    stop: Option<String>,
}

impl EventLoop {
    /// Starts the writer; `first` are the effects of the machine's own start.
    pub(crate) fn new(parts: Parts, first: Effects) -> std::io::Result<Self> {
        let (writer, outcomes) = Writer::start(parts.engine.store.clone())?;
        let convergence = Convergence::new(parts.histograms.clone());
        let mut this = Self {
            parts,
            writer,
            outcomes,
            tickets: 0,
            callers: HashMap::new(),
            tables: HashMap::new(),
            opening: HashMap::new(),
            gathered: 0,
            looked: Time::ZERO,
            purges: HashMap::new(),
            purged: Vec::new(),
            traced: HashMap::new(),
            persisting: VecDeque::new(),
            handled: SystemTime::UNIX_EPOCH,
            convergence,
            links: HashMap::new(),
            inbound: HashMap::new(),
            told_members: Vec::new(),
            told_bump: 0,
            nudge_at: None,
            logged: View::default(),
            draining: None,
            stop: None,
        };
        this.writer.add(first.writes, first.commit);
        this.writer.kick();
        Ok(this)
    }

    /// Runs until drained (`Ok`), or until something says that this process must end.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        loop {
            let wake = {
                let core = self.parts.engine.core.read();
                let now = self.parts.engine.clock.now();
                core.next_wake(now).since(now)
            };
            let slow = self.bulk_room() == 0;
            let stalled = self.writer.waiting() >= STALLED * self.parts.writes_max;
            let first = tokio::select! {
                biased;
                () = at(self.nudge_at) => {
                    self.nudge();
                    continue;
                }
                outcome = self.outcomes.recv() => match outcome {
                    Some(outcome) => Turn::Written(outcome),
                    // It panicked. Nothing would be written any more, and nothing answered.
                    None => anyhow::bail!("the writer thread has ended"),
                },
                Some(command) = self.parts.urgent.recv(), if !stalled => Turn::Command(command),
                Some(command) = self.parts.bulk.recv(), if !slow => Turn::Command(command),
                () = tokio::time::sleep(wake) => Turn::Wake,
            };
            self.turn(first, stalled)?;
            if let Some(reason) = self.stop.take() {
                anyhow::bail!(reason);
            }
            // Calls have ended by now, or were cut off.
            if self.draining.is_some() && !self.writer.unfinished() && self.may_end() {
                let abandoned = self.parts.purger.shutdown(PURGE_WAIT).await;
                if abandoned > 0 {
                    info!(
                        abandoned,
                        "deletes that no cache took before the end; tokens keep their values from use"
                    );
                }
                self.refuse_queued();
                if let Some(done) = self.draining.take() {
                    // The caller may have stopped waiting: draining ends either way.
                    let _ = done.send(());
                }
                return Ok(());
            }
        }
    }

    fn turn(&mut self, first: Turn, stalled: bool) -> anyhow::Result<()> {
        let mut inputs = Vec::new();
        let mut taken = Weights::default();
        let room = self.bulk_room();
        match first {
            Turn::Wake => {}
            Turn::Command(command) => {
                taken.add(&command);
                self.take(command, &mut inputs);
            }
            Turn::Written(outcome) => self.written(outcome, &mut inputs)?,
        }
        // Its time may have come however much else there is to do: probes, deadlines and departures hang on it.
        let woken = self.wake_is_due();
        if woken {
            inputs.push(Input::Wake);
        }
        self.take_queued(&mut taken, room, stalled, &mut inputs);
        if woken || self.short_of_receipts(&inputs) {
            inputs.splice(0..0, self.gone());
        }
        self.gathered += taken.bulk;
        let mut membership = inputs.iter().any(touches_members);
        let actions = self.handle(inputs);
        self.writer.kick();
        self.act(actions);
        self.forget_unasked();
        // A new view forgets who left, and may come with a flush as well as with a peer's word.
        membership |= self.log_roster();
        if membership {
            self.tell_members();
        }
        Ok(())
    }

    /// The writer has flushed a group, or has failed.
    fn written(&mut self, outcome: Outcome, inputs: &mut Vec<Input>) -> anyhow::Result<()> {
        let Committed {
            commit,
            writes,
            taken,
            expiry_backlog,
        } = outcome.inspect_err(|error| error!(%error, "the store failed; stopping"))?;
        self.writer.done();
        let counters = &self.parts.engine.counters;
        counters.inc(Counter::StoreCommits);
        counters.add_len(Counter::StoreWrites, writes);
        for taken in taken {
            self.purge_taken(taken);
        }
        self.flushed(commit);
        inputs.push(Input::Flushed(commit));
        inputs.extend(expiry_backlog.then_some(Input::ExpiryBacklog));
        Ok(())
    }

    /// A group is on disk: tells traces.
    fn flushed(&mut self, commit: CommitId) {
        while let Some((_, event, since)) = self.persisting.pop_front_if(|it| it.0 <= commit) {
            self.parts.engine.traces.persisted(event, since);
        }
    }

    /// How far the own events of a lane are flushed.
    fn own_head(&self, lane: Lane) -> u64 {
        let core = self.parts.engine.core.read();
        let lane = core.progress().lane(core.incarnation(), lane);
        lane.map_or(0, LaneProgress::watermark)
    }

    /// Notes how far a peer says to be with the own bumps.
    fn note_acknowledged(&mut self, input: &Input) {
        if let Input::Peer {
            from,
            message: PeerMessage::Ack {
                watermark, flushed, ..
            },
        } = input
        {
            let flushed = flushed.as_ref().map_or(*watermark, |(up_to, _)| *up_to);
            self.convergence
                .acknowledged(*from, flushed, Instant::now());
        }
    }

    /// Takes what waits in the queues, as much as one turn may: what is urgent first, and nothing of it while the disk has
    /// stalled; of the rest no more than there is room for.
    fn take_queued(
        &mut self,
        taken: &mut Weights,
        room: usize,
        stalled: bool,
        inputs: &mut Vec<Input>,
    ) {
        for _ in 0..TURN_MAX {
            if taken.all >= TURN_WEIGHT_MAX {
                break;
            }
            let urgent = if stalled {
                None
            } else {
                self.parts.urgent.try_recv().ok()
            };
            let next = if urgent.is_none() && taken.bulk < room {
                self.parts.bulk.try_recv().ok()
            } else {
                urgent
            };
            let Some(command) = next else { break };
            taken.add(&command);
            self.take(command, inputs);
        }
    }

    /// Tells the log of another view; says whether there is one.
    fn log_roster(&mut self) -> bool {
        let core = self.parts.engine.core.read();
        let view = &mut self.logged;
        let another = core.roster().mark() != view.mark();
        if another {
            super::views::log(view, core.roster());
            *view = core.roster().clone();
            // It may close logs, and what a call waited for is waited for no longer.
            self.parts.engine.sessions.all_applied();
        }
        another
    }

    /// How much more of registrations and snapshots may wait for the disk. Bumps are written in their turn, so all of it
    /// is written before a bump that comes now.
    fn bulk_room(&self) -> usize {
        let waiting = self.writer.waiting() + self.gathered;
        self.parts.writes_max.saturating_sub(waiting)
    }

    /// Whether others have been told that this sidecar leaves, and have agreed to it if they can.
    fn may_end(&self) -> bool {
        let now = self.parts.engine.clock.now();
        self.parts.engine.core.read().may_end(now)
    }

    fn wake_is_due(&self) -> bool {
        let now = self.parts.engine.clock.now();
        self.parts.engine.core.read().next_wake(now) <= now
    }

    /// Whether more calls of this turn want receipts than may wait for them.
    fn short_of_receipts(&self, inputs: &[Input]) -> bool {
        let wants = |input: &&Input| match input {
            Input::Invalidate(_, call) | Input::CommitWrite(_, _, Written::Classes(call)) => {
                call.level != ReceiptLevel::None
            }
            Input::RowsChanged(_, call) | Input::CommitWrite(_, _, Written::Rows(call)) => {
                call.level != ReceiptLevel::None
            }
            _ => false,
        };
        let wanted = inputs.iter().filter(wants).count();
        wanted > 0 && wanted > self.parts.engine.core.read().receipt_places()
    }

    /// The callers that gave up: their receipts must not take up places of those who wait.
    fn gone(&mut self) -> Option<Input> {
        let now = self.parts.engine.clock.now();
        if now.since(self.looked) < GONE_EVERY {
            return None;
        }
        self.looked = now;
        let callers = self.callers.iter();
        let gone = callers.filter(|(_, caller)| caller.is_gone());
        let tickets: BTreeSet<_> = gone.map(|(ticket, _)| *ticket).collect();
        (!tickets.is_empty()).then_some(Input::Gone(tickets))
    }

    /// Hands the inputs to the machine under one lock.
    fn handle(&mut self, inputs: Vec<Input>) -> Vec<Action> {
        let engine = &self.parts.engine;
        let (now, unix) = (engine.clock.now(), Clock::unix());
        let mut core = engine.core.write();
        let mut actions = Vec::new();
        let writer = &mut self.writer;
        let tracing = !self.traced.is_empty() || engine.traces.know_any();
        if tracing {
            self.handled = SystemTime::now();
        }
        let (traces, handled) = (&engine.traces, self.handled);
        let (traced, persisting) = (&mut self.traced, &mut self.persisting);
        let mut step = |core: &mut Core, input| {
            let call = tracing.then(|| ticket_of(&input)).flatten();
            let call = call.and_then(|ticket| traced.remove(&ticket));
            let effects = core.handle(input, now, unix);
            if tracing {
                let events =
                    traced_events(traces, &effects.writes, core.incarnation(), call.as_ref());
                let commit = effects.commit.unwrap_or_default();
                persisting.extend(events.into_iter().map(|event| (commit, event, handled)));
            }
            writer.add(effects.writes, effects.commit);
            actions.extend(effects.actions);
            writer.idle()
        };
        let mut idle = true;
        for input in inputs {
            idle = step(&mut core, input);
            // Look-ups that wait get at the machine between two inputs.
            RwLockWriteGuard::bump(&mut core);
        }
        if idle {
            step(&mut core, Input::Seal);
            drop(core);
            self.gathered = 0;
        }
        actions
    }

    fn take(&mut self, command: Command, inputs: &mut Vec<Input>) {
        match command {
            Command::Input(input) => {
                if let Input::Table(id, TableWord::Released | TableWord::Ended) = &input {
                    self.tables.remove(id);
                    // Its client may have gone before it was opened.
                    self.opening.retain(|_, (opening, _)| opening != id);
                }
                self.note_acknowledged(&input);
                inputs.push(input);
            }
            // Nothing was done for it yet, and nobody asks any more. An invalidation is made all the same: who gave up
            // on it may not ask again, and one too many harms nothing.
            Command::Call(
                Call::Register(_)
                | Call::BeginWrite(_)
                | Call::AcquireFill(..)
                | Call::OpenTable(..),
                caller,
            ) if caller.is_gone() => {}
            Command::Call(call, caller) => {
                self.tickets += 1;
                let ticket = Ticket(self.tickets);
                let span = caller.span.clone();
                self.callers.insert(ticket, caller);
                let input = match call {
                    Call::Invalidate(call) => Input::Invalidate(ticket, call),
                    Call::RowsChanged(call) => Input::RowsChanged(ticket, call),
                    Call::LoadLeaf(leaf) => Input::LoadLeaf(ticket, leaf),
                    Call::FillLeaf(fill) => Input::FillLeaf(ticket, fill),
                    Call::PruneLeaf(prune) => Input::PruneLeaf(ticket, prune),
                    Call::BeginWrite(call) => Input::BeginWrite(ticket, call),
                    Call::CommitWrite(intent, call) => Input::CommitWrite(ticket, intent, call),
                    Call::AbortWrite(intent) => Input::AbortWrite(ticket, intent),
                    Call::Register(items) => Input::Register(ticket, items),
                    Call::AcquireFill(key, deadline) => Input::AcquireFill(ticket, key, deadline),
                    Call::OpenTable(id, sender) => {
                        self.opening.insert(ticket, (id, sender));
                        Input::OpenTable(ticket, id)
                    }
                    Call::Forget(forget) => Input::Forget(ticket, forget),
                };
                if let Some((span, ticket)) = span.zip(ticket_of(&input)) {
                    self.traced.insert(ticket, span);
                }
                inputs.push(input);
            }
            Command::LinkUp(link, sender) => {
                let Link { id, peer, side } = link;
                match sender {
                    Some(sender) => drop(self.links.insert(peer.incarnation, (id, sender))),
                    None => drop(self.inbound.entry(peer.incarnation).or_default().insert(id)),
                }
                if side == Side::Outbound {
                    self.parts.engine.counters.inc(Counter::PeerConnects);
                }
                info!(peer = %peer.node_id, incarnation = %peer.incarnation, ?side, "link up");
                let head = self.own_head(Lane::Bump);
                self.convergence
                    .linked(peer.incarnation, &peer.node_id, head);
                inputs.push(Input::LinkUp { hello: peer, side });
            }
            Command::LinkDown(link) => {
                let (peer, side) = (&link.peer, link.side);
                info!(peer = %peer.node_id, incarnation = %peer.incarnation, ?side, "link down");
                if self.link_ended(&link) {
                    inputs.push(Input::LinkDown {
                        peer: peer.incarnation,
                        side,
                    });
                }
            }
            Command::Drain(done) => {
                self.draining = Some(done);
                inputs.push(Input::Drain);
            }
        }
    }

    /// Takes a link out, and no other; tells whether the peer has none left on that side.
    fn link_ended(&mut self, link: &Link) -> bool {
        let peer = link.peer.incarnation;
        match link.side {
            Side::Outbound => {
                let newest = self.links.get(&peer).is_some_and(|(id, _)| *id == link.id);
                newest && self.links.remove(&peer).is_some()
            }
            Side::Inbound => {
                let Some(links) = self.inbound.get_mut(&peer) else {
                    return false;
                };
                links.remove(&link.id);
                let last = links.is_empty();
                if last {
                    self.inbound.remove(&peer);
                }
                last
            }
        }
    }

    /// Answers the calls that came too late: they had no effect, and may be made elsewhere.
    fn refuse_queued(&mut self) {
        self.parts.urgent.close();
        self.parts.bulk.close();
        for queue in [&mut self.parts.urgent, &mut self.parts.bulk] {
            while let Ok(command) = queue.try_recv() {
                if let Command::Call(_, caller) = command {
                    caller.answer(Reply::Refused(Refusal::Draining), Vec::new(), None);
                }
            }
        }
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        self.parts.engine.sessions.close();
    }
}

/// Which call an input is that makes an event.
fn ticket_of(input: &Input) -> Option<Ticket> {
    match input {
        Input::Invalidate(ticket, _)
        | Input::RowsChanged(ticket, _)
        | Input::CommitWrite(ticket, ..) => Some(*ticket),
        _ => None,
    }
}

/// The events among writes of which a trace is recorded; those of this sidecar are a part of the call's, if that has made them.
fn traced_events(
    traces: &Traces,
    writes: &[Write],
    own: Incarnation,
    call: Option<&SpanContext>,
) -> Vec<EventId> {
    let bumps = writes.iter().filter_map(|write| match write {
        Write::Log {
            origin,
            sequence,
            event: Logged::Bump(_),
        } => Some(EventId {
            origin: *origin,
            sequence: *sequence,
        }),
        _ => None,
    });
    let traced = bumps.filter(|event| {
        let made = call.filter(|_| event.origin == own);
        if let Some(call) = made {
            traces.made(*event, call);
        }
        made.is_some() || traces.knows(*event)
    });
    traced.collect()
}

/// Whether an input may change who the members are.
fn touches_members(input: &Input) -> bool {
    match input {
        Input::LinkUp { .. } | Input::LinkDown { .. } | Input::Seen(_) | Input::Wake => true,
        Input::Peer { message, .. } => matches!(message, PeerMessage::Leave { .. }),
        _ => false,
    }
}

/// What began a turn.
#[expect(
    clippy::large_enum_variant,
    reason = "one at a time, and taken apart at once"
)]
enum Turn {
    Written(Outcome),
    Command(Command),
    Wake,
}

/// Returns at that time, or never.
async fn at(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
