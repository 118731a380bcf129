//! Many sidecars, each with the real core, in one thread and in virtual time.
//!
//! Unlike `sim` this world is well but for its network, and nothing is judged but that everybody has every bump: it counts.
//! Every node handles one message after the other, each in so much time, and what it says leaves one message after the
//! other; links keep the order of what is said on them.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use grapevine_core::event::{Match, PurgeMode};
use grapevine_core::id::{EventId, Incarnation, Lane, Time, UnixSeconds};
use grapevine_core::machine::effects::{
    Action, Effects, Freshness, Input, Invalidate, PeerHello, PeerMessage, ReceiptLevel, Reply,
    Side, Sighting, Ticket,
};
use grapevine_core::machine::{Core, CoreConfig, Limits};
use grapevine_core::names::{ClassPath, NodeId};
use grapevine_core::policy::{Policy, PolicySet};
use rand::Rng as _;
use rand::rngs::SmallRng;

use super::Options;
use super::traffic::Traffic;
use super::wire::{self, Kind};
use crate::clock::{MILLISECOND, Micros, SECOND};
use crate::disk::Disk;
use crate::node::Group;
use crate::queue::Queue;
use crate::rng::stream;

/// How often it is told how far a run has come.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// What a message costs its sender, and its receiver.
const MESSAGE_COST: Micros = 20;
/// What making a link costs each end.
const LINK_COST: Micros = 200;
/// How long after a packet was lost it is sent again.
const SENT_AGAIN: Micros = 200 * MILLISECOND;
/// How often a node is told whom gossip sees.
const GOSSIP: Micros = SECOND;
/// The pause before a node that was not reached is dialled again.
const REDIAL: Micros = 300 * MILLISECOND;

enum Event {
    Flushed {
        at: usize,
        run: u32,
    },
    Wake {
        at: usize,
        run: u32,
        planned: Micros,
    },
    Gossip {
        at: usize,
        run: u32,
    },
    Dial {
        at: usize,
        run: u32,
        to: usize,
    },
    Linked {
        from: (usize, u32),
        to: (usize, u32),
    },
    Arrives {
        from: (usize, u32),
        to: (usize, u32),
        message: Box<Said>,
    },
    Process {
        at: usize,
        run: u32,
    },
    Start {
        at: usize,
    },
}

/// A message, and how many trips its events had made when it was said.
struct Said {
    message: PeerMessage,
    served: bool,
}

struct Node {
    name: NodeId,
    core: Option<Core>,
    disk: Disk,
    run: u32,
    incarnation: Incarnation,
    /// Peers by their runs, where a link to them stands.
    outs: BTreeMap<Incarnation, usize>,
    dialling: Vec<bool>,
    inbox: VecDeque<(usize, Box<Said>)>,
    processing: bool,
    busy_until: Micros,
    waiting: Vec<Group>,
    flushing: Vec<Group>,
    wake_at: Micros,
}

/// What became of a bump.
#[derive(Clone, Debug)]
pub(super) struct Spread {
    /// When its call was made.
    pub(super) called: Micros,
    /// By node, when it was applied there, and after how many trips.
    pub(super) applied: Vec<Option<(Micros, u32)>>,
}

/// The world.
pub(super) struct World {
    options: Options,
    pub(super) now: Micros,
    queue: Queue<Event>,
    nodes: Vec<Node>,
    /// Until when what was said from one node to another is under way, by `from * nodes + to`.
    ordered: Vec<Micros>,
    rng: SmallRng,
    pub(super) traffic: Traffic,
    pub(super) bumps: BTreeMap<EventId, Spread>,
    /// Whom the message that is handled comes from, and whether it was served.
    cause: Option<(usize, bool)>,
    told: Instant,
}

fn class(text: &str) -> ClassPath {
    ClassPath::parse(text).expect("invariant: a class of the model is a class")
}

impl World {
    pub(super) fn new(options: Options) -> Self {
        let size = options.nodes;
        let nodes = (0..size).map(|at| Node {
            name: NodeId::parse(&format!("n{at:04}")).expect("invariant: letters and digits"),
            core: None,
            disk: Disk::default(),
            run: 0,
            incarnation: Incarnation::from_random(1, 0),
            outs: BTreeMap::new(),
            dialling: vec![false; size],
            inbox: VecDeque::new(),
            processing: false,
            busy_until: 0,
            waiting: Vec::new(),
            flushing: Vec::new(),
            wake_at: 0,
        });
        let nodes: Vec<_> = nodes.collect();
        let mut world = Self {
            now: 0,
            queue: Queue::new(stream(options.seed, 1)),
            ordered: vec![0; size * size],
            rng: stream(options.seed, 2),
            traffic: Traffic::new(size),
            bumps: BTreeMap::new(),
            cause: None,
            told: Instant::now(),
            nodes,
            options,
        };
        world.start_all();
        world
    }

    /// Has every node start within a fifth of a second.
    fn start_all(&mut self) {
        for at in 0..self.nodes.len() {
            let soon = self.rng.random_range(0..200 * MILLISECOND);
            self.queue.push(self.now + soon, Event::Start { at });
        }
    }

    /// Ends every process at once; each starts again within a fifth of a second.
    pub(super) fn restart_all(&mut self) {
        for node in &mut self.nodes {
            node.core = None;
            node.run += 1;
            node.outs.clear();
            node.inbox.clear();
            node.waiting.clear();
            node.flushing.clear();
            node.dialling.fill(false);
            node.processing = false;
        }
        self.start_all();
    }

    /// How many nodes there are.
    pub(super) fn size(&self) -> u64 {
        self.nodes.len() as u64
    }

    fn time(&self) -> Time {
        Time::from_start(Duration::from_micros(1_000 * SECOND + self.now))
    }

    fn start(&mut self, at: usize) {
        let options = &self.options;
        let config = CoreConfig {
            node_id: self.nodes[at].name.clone(),
            incarnation: Incarnation::from_random(self.rng.random(), 0),
            policies: PolicySet::new(Vec::new(), Policy::fallback())
                .expect("invariant: the default policy is one"),
            expected_members: options.nodes,
            max_staleness: Duration::from_secs(2),
            member_timeout: Duration::from_mins(1),
            crash_timeout: Duration::from_secs(5),
            retire_after: Duration::from_hours(1),
            lease_duration: Duration::from_secs(30),
            clock_rate_ppm: 500,
            limits: Limits {
                direct_pushes_max: options.direct,
                ..Limits::default()
            },
        };
        let recovered = self.nodes[at].disk.recover();
        let now = self.time();
        let node = &mut self.nodes[at];
        node.incarnation = config.incarnation;
        (node.busy_until, node.wake_at) = (self.now, 0);
        let (core, effects) = Core::start(config, &recovered, now);
        node.core = Some(core);
        let run = node.run;
        self.carry_out(at, effects);
        self.settle(at);
        let soon = self.rng.random_range(1..50 * MILLISECOND);
        self.queue.push(self.now + soon, Event::Gossip { at, run });
    }

    fn hello(&self, at: usize) -> PeerHello {
        PeerHello {
            node_id: self.nodes[at].name.clone(),
            incarnation: self.nodes[at].incarnation,
            peer_address: format!("{at}:1"),
            policy_digest: 0,
        }
    }

    /// Lets everything happen that is due by then.
    pub(super) fn run_for(&mut self, time: Micros) {
        let until = self.now + time;
        while let Some((at, event)) = self.queue.pop(until) {
            self.tell_progress(at);
            self.now = at;
            self.dispatch(event);
        }
        self.now = until;
    }

    /// A thousand take a while: tells on standard error how far they are, at most once in each millisecond of theirs.
    fn tell_progress(&mut self, next: Micros) {
        if next / MILLISECOND > self.now / MILLISECOND && self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            let (millis, messages) = (self.now / MILLISECOND, self.traffic.total().messages);
            let (fresh, nodes) = (self.fresh(), self.size());
            eprintln!("{millis} ms of virtual time, {messages} messages, {fresh} of {nodes} fresh");
        }
    }

    /// Lets things happen until all is well, or for so long at most; tells how long it took.
    pub(super) fn run_until(
        &mut self,
        most: Micros,
        well: impl Fn(&Self) -> bool,
    ) -> Option<Micros> {
        let begin = self.now;
        while self.now < begin + most {
            self.run_for(10 * MILLISECOND);
            if well(self) {
                return Some(self.now - begin);
            }
        }
        None
    }

    pub(super) fn all_fresh(&self) -> bool {
        self.fresh() == self.size()
    }

    /// How many are fresh.
    pub(super) fn fresh(&self) -> u64 {
        let now = self.time();
        let fresh = |core: &Core| core.freshness(now) == Freshness::Fresh;
        let nodes = self.nodes.iter();
        nodes
            .filter(|node| node.core.as_ref().is_some_and(fresh))
            .count() as u64
    }

    pub(super) fn all_have_all(&self) -> bool {
        let whole = |spread: &Spread| spread.applied.iter().all(Option::is_some);
        self.bumps.values().all(whole)
    }

    fn is(&self, (at, run): (usize, u32)) -> bool {
        self.nodes[at].run == run && self.nodes[at].core.is_some()
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Start { at } if self.nodes[at].core.is_none() => self.start(at),
            Event::Flushed { at, run } if self.is((at, run)) => self.flushed(at),
            Event::Wake { at, run, planned }
                if self.is((at, run)) && self.nodes[at].wake_at == planned =>
            {
                self.nodes[at].wake_at = 0;
                self.input(at, Input::Wake);
            }
            Event::Gossip { at, run } if self.is((at, run)) => self.gossip(at),
            Event::Dial { at, run, to } if self.is((at, run)) => self.dial(at, to),
            Event::Linked { from, to } => self.linked(from, to),
            Event::Arrives { from, to, message } if self.is(to) && self.is(from) => {
                self.nodes[to.0].inbox.push_back((from.0, message));
                self.process_soon(to.0);
            }
            Event::Process { at, run } if self.is((at, run)) => self.process(at),
            _ => {}
        }
    }

    fn process_soon(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.processing || node.inbox.is_empty() {
            return;
        }
        node.processing = true;
        let (when, run) = (node.busy_until.max(self.now), node.run);
        self.queue.push(when, Event::Process { at, run });
    }

    /// Handles the next message that has come.
    fn process(&mut self, at: usize) {
        self.nodes[at].processing = false;
        let Some((from, said)) = self.nodes[at].inbox.pop_front() else {
            return;
        };
        self.busy(at, MESSAGE_COST);
        let peer = self.nodes[from].incarnation;
        self.cause = Some((from, said.served));
        let message = said.message;
        self.input(
            at,
            Input::Peer {
                from: peer,
                message,
            },
        );
        self.cause = None;
        self.process_soon(at);
    }

    fn busy(&mut self, at: usize, cost: Micros) -> Micros {
        let node = &mut self.nodes[at];
        node.busy_until = node.busy_until.max(self.now) + cost;
        node.busy_until
    }

    /// Tells a node whom there is, and has it dial whoever it is not linked to.
    fn gossip(&mut self, at: usize) {
        let others = (0..self.nodes.len()).filter(|other| *other != at);
        let up = others.filter(|other| self.nodes[*other].core.is_some());
        let up: Vec<_> = up.collect();
        let seen = up.iter().map(|other| Sighting {
            hello: self.hello(*other),
            alive: true,
        });
        let seen = seen.collect();
        self.input(at, Input::Seen(seen));
        let run = self.nodes[at].run;
        for to in up {
            if !self.nodes[at].dialling[to]
                && !self.nodes[at]
                    .outs
                    .contains_key(&self.nodes[to].incarnation)
            {
                self.nodes[at].dialling[to] = true;
                let soon = self.rng.random_range(0..20 * MILLISECOND);
                self.queue
                    .push(self.now + soon, Event::Dial { at, run, to });
            }
        }
        self.queue
            .push(self.now + GOSSIP, Event::Gossip { at, run });
    }

    fn dial(&mut self, at: usize, to: usize) {
        let run = self.nodes[at].run;
        let (hello, now) = (self.hello(at), self.time());
        let admits = self.nodes[to]
            .core
            .as_ref()
            .map(|core| core.admit_peer(&hello, now));
        let Some(Ok(())) = admits else {
            let later = REDIAL / 2 + self.rng.random_range(0..REDIAL / 2);
            return self
                .queue
                .push(self.now + later, Event::Dial { at, run, to });
        };
        self.traffic.said(at, Kind::Link, wire::LINK);
        self.busy(at, LINK_COST);
        self.busy(to, LINK_COST);
        let side = Side::Inbound;
        self.input(to, Input::LinkUp { hello, side });
        let (from, to) = ((at, run), (to, self.nodes[to].run));
        let back = self.latency();
        self.queue.push(self.now + back, Event::Linked { from, to });
    }

    fn linked(&mut self, from: (usize, u32), to: (usize, u32)) {
        if !self.is(from) {
            return;
        }
        self.nodes[from.0].dialling[to.0] = false;
        if !self.is(to) {
            return;
        }
        let peer = self.nodes[to.0].incarnation;
        self.nodes[from.0].outs.insert(peer, to.0);
        let (hello, side) = (self.hello(to.0), Side::Outbound);
        self.input(from.0, Input::LinkUp { hello, side });
    }

    /// One way through the network.
    fn latency(&mut self) -> Micros {
        let usual = self.options.latency;
        let mut late = self.rng.random_range(usual / 2..=usual * 3 / 2);
        while self.rng.random_range(0..1_000_000) < self.options.loss_ppm {
            late += SENT_AGAIN;
        }
        late
    }

    fn say(&mut self, at: usize, to: usize, mut message: PeerMessage, served: bool, kind: Kind) {
        if self.options.no_digest
            && let PeerMessage::Probe { applied, .. } = &mut message
        {
            *applied = None;
        }
        self.traffic.said(at, kind, wire::bytes(&message));
        let leaves = self.busy(at, MESSAGE_COST);
        let arrives = leaves + self.latency();
        let ordered = &mut self.ordered[at * self.options.nodes + to];
        *ordered = arrives.max(*ordered + 1);
        let arrives = *ordered;
        let (from, to) = ((at, self.nodes[at].run), (to, self.nodes[to].run));
        let message = Box::new(Said { message, served });
        self.queue
            .push(arrives, Event::Arrives { from, to, message });
    }

    fn input(&mut self, at: usize, input: Input) {
        let now = self.time();
        let Some(core) = self.nodes[at].core.as_mut() else {
            return;
        };
        let effects = core.handle(input, now, UnixSeconds(1_800_000_000));
        self.carry_out(at, effects);
        self.settle(at);
    }

    fn settle(&mut self, at: usize) {
        let now = self.time();
        if self.nodes[at].flushing.is_empty()
            && let Some(core) = self.nodes[at].core.as_mut()
        {
            let effects = core.handle(Input::Seal, now, UnixSeconds(1_800_000_000));
            self.carry_out(at, effects);
        }
        let run = self.nodes[at].run;
        if self.nodes[at].flushing.is_empty() && !self.nodes[at].waiting.is_empty() {
            self.nodes[at].flushing = std::mem::take(&mut self.nodes[at].waiting);
            let time = self.rng.random_range(120..400);
            self.queue.push(self.now + time, Event::Flushed { at, run });
        }
        let node = &mut self.nodes[at];
        let Some(core) = &node.core else {
            return;
        };
        let wake = core.next_wake(now).since(now);
        let wake = self.now + u64::try_from(wake.as_micros()).unwrap_or(SECOND).max(1);
        if node.wake_at <= self.now || node.wake_at > wake {
            node.wake_at = wake;
            self.queue.push(
                wake,
                Event::Wake {
                    at,
                    run,
                    planned: wake,
                },
            );
        }
    }

    fn flushed(&mut self, at: usize) {
        let groups = std::mem::take(&mut self.nodes[at].flushing);
        for write in groups.iter().flat_map(|group| &group.writes) {
            self.nodes[at].disk.commit(write);
        }
        if let Some(last) = groups.last() {
            self.input(at, Input::Flushed(last.commit));
        }
    }

    fn carry_out(&mut self, at: usize, effects: Effects) {
        let Effects {
            writes,
            commit,
            actions,
        } = effects;
        if let Some(commit) = commit {
            self.nodes[at].waiting.push(Group { writes, commit });
        }
        let grants = actions.iter().any(|action| {
            matches!(
                action,
                Action::Send {
                    message: PeerMessage::Grant { .. },
                    ..
                }
            )
        });
        for action in actions {
            match action {
                Action::Send { to, message } => {
                    let mut kind = Kind::of(&message);
                    if kind == Kind::Ack && grants {
                        kind = Kind::AckAgain;
                    }
                    if let Some(&peer) = self.nodes[at].outs.get(&to) {
                        self.say(at, peer, message, false, kind);
                    }
                }
                Action::Broadcast(message) => {
                    let peers: Vec<_> = self.nodes[at].outs.values().copied().collect();
                    for peer in peers {
                        let kind = Kind::of(&message);
                        self.say(at, peer, message.clone(), false, kind);
                    }
                }
                Action::Applied(event, _) => self.applied(at, event),
                Action::ServeLog {
                    to,
                    origin,
                    lane,
                    first,
                    last,
                } => {
                    self.serve_log(at, to, (origin, lane), (first, last));
                }
                Action::Reply(_, reply) => {
                    if let Reply::Refused(why) = reply {
                        unreachable!("invariant: the model stays within all limits: {why:?}");
                    }
                }
                Action::ServeSnapshot { .. } => {
                    unreachable!("invariant: the model's logs are never compacted")
                }
                Action::Stop(why) => unreachable!("invariant: nobody ends itself here: {why}"),
                // Nobody has a local table, or a cache, here.
                Action::Notice { .. }
                | Action::Lease(..)
                | Action::EndTable(_)
                | Action::Resync
                | Action::Purge { .. } => {}
            }
        }
    }

    fn serve_log(
        &mut self,
        at: usize,
        to: Incarnation,
        (origin, lane): (Incarnation, Lane),
        (first, last): (u64, u64),
    ) {
        let Some(&peer) = self.nodes[at].outs.get(&to) else {
            return;
        };
        let log = self.nodes[at].disk.log(origin, lane, first, last);
        let events: Vec<_> = log.into_iter().filter_map(wire::bump).collect();
        if !events.is_empty() {
            let message = PeerMessage::Bumps {
                origin,
                first,
                events,
            };
            self.say(at, peer, message, true, Kind::Repair);
        }
    }

    fn applied(&mut self, at: usize, event: EventId) {
        let now = self.now;
        let (cause, served) = self.cause.unwrap_or((at, false));
        let Some(spread) = self.bumps.get_mut(&event) else {
            return;
        };
        let before = spread.applied[cause].map_or(0, |(_, trips)| trips);
        // What was missed was heard of, asked for, and answered.
        let trips = if cause == at {
            0
        } else {
            before + if served { 3 } else { 1 }
        };
        spread.applied[at].get_or_insert((now, trips));
    }

    /// Has a node invalidate a class.
    pub(super) fn bump(&mut self, at: usize, number: u64) {
        let core = self.nodes[at]
            .core
            .as_ref()
            .expect("invariant: all nodes run");
        let origin = core.incarnation();
        let own = core.progress().lane(origin, Lane::Bump);
        let sequence = own.map_or(0, grapevine_core::progress::LaneProgress::head) + 1;
        let applied = vec![None; self.nodes.len()];
        let called = self.now;
        self.bumps
            .insert(EventId { origin, sequence }, Spread { called, applied });
        let call = Invalidate {
            classes: vec![class(&format!("get_items_in_cart/{number}"))],
            matching: Match::Any,
            purge: PurgeMode::default(),
            level: match self.options.receipt {
                super::Level::One => ReceiptLevel::One,
                super::Level::All => ReceiptLevel::All,
            },
            deadline: self.time().plus(Duration::from_secs(10)),
        };
        self.input(at, Input::Invalidate(Ticket(number), call));
    }
}
