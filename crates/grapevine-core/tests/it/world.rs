//! A cluster of cores in one thread: links that lose, delay and reorder, disks that crash between write and flush.
//!
//! Nothing happens by itself. `flush` commits what a node has written so far and tells it so; `deliver` hands one message
//! over; `settle` does both everywhere until nothing is under way; `advance` lets virtual time jump from wake to wake.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use grapevine_core::criteria::Conjunction;
use grapevine_core::event::{BumpEvent, Event, Match, PurgeMode, RowImage};
use grapevine_core::id::{EventId, Incarnation, Lane, Time, UnixSeconds};
use grapevine_core::machine::effects::{
    Action, CommitId, Effects, Freshness, Input, Invalidate, LeaseClaim, PeerHello, PeerMessage,
    Purpose, Query, ReceiptLevel, RegisterItem, Reply, Resolution, RowsChange, Side, Ticket,
    Verdict,
};
use grapevine_core::machine::{Core, CoreConfig, Limits};
use grapevine_core::names::{Address, ClassPath, NodeId};
use grapevine_core::policy::{Policy, PolicySet, Strategy};
use grapevine_core::progress::{LaneProgress, OriginHead};
use grapevine_core::store::Write;
use grapevine_core::token::Token;

use crate::disk::Disk;
use crate::show;

/// Classes in one message of a snapshot: few, so that much can happen between two of them.
const SNAPSHOT_CLASSES: usize = 2;
/// The staleness bound of every node.
pub(crate) const MAX_STALENESS: Duration = Duration::from_secs(1);

/// A snapshot being sent: what comes next.
#[derive(Debug)]
pub(crate) struct Sending {
    to: usize,
    id: u64,
    next: Part,
}

#[derive(Debug)]
enum Part {
    Begin(Vec<OriginHead>),
    Shapes,
    Classes(Option<ClassPath>),
    Floors,
    Directory,
    End,
}

/// One node: a machine that may be down, and the disk that it starts on.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: char,
    pub(crate) config: CoreConfig,
    runs: u128,
    pub(crate) core: Option<Core>,
    pub(crate) disk: Disk,
    /// Groups written and not flushed.
    pub(crate) unflushed: VecDeque<(Option<CommitId>, Vec<Write>)>,
    pub(crate) sending: VecDeque<Sending>,
    pub(crate) replies: BTreeMap<u64, Reply>,
    pub(crate) applied: Vec<(EventId, BumpEvent)>,
    pub(crate) purged: Vec<Address>,
    pub(crate) stopped: Option<String>,
    pub(crate) resyncs: usize,
    /// What was told to local tables, in order.
    pub(crate) tables: Vec<Action>,
}

/// The cluster.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) nodes: Vec<Node>,
    /// Messages under way, by (from, to); the link stands while there is an entry.
    pub(crate) links: BTreeMap<(usize, usize), VecDeque<PeerMessage>>,
    tickets: u64,
    /// Probes said so far.
    pub(crate) probes: usize,
    /// How many messages are said before one is lost.
    pub(crate) loses: Option<usize>,
    pub(crate) transcript: Vec<String>,
}

pub(crate) fn class(path: &str) -> ClassPath {
    ClassPath::parse(path).unwrap()
}

pub(crate) fn classes(paths: &[&str]) -> Vec<ClassPath> {
    let mut classes: Vec<_> = paths.iter().map(|path| class(path)).collect();
    classes.sort_unstable();
    classes
}

pub(crate) fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

/// Every class registered, so that directories have something to do; no jitter.
pub(crate) fn registered() -> PolicySet {
    let policy = Policy {
        strategy: Strategy::Registered,
        jitter_percent: 0,
        ..Policy::fallback()
    };
    PolicySet::new(Vec::new(), policy).unwrap()
}

impl World {
    /// So many nodes, all of them expected, none of them running, with a changed configuration.
    pub(crate) fn with(size: usize, change: impl Fn(&mut CoreConfig)) -> Self {
        let nodes = ('a'..)
            .take(size)
            .map(|name| {
                let mut config = CoreConfig {
                    node_id: NodeId::parse(&name.to_string()).unwrap(),
                    incarnation: Incarnation::new(1).unwrap(),
                    policies: registered(),
                    expected_members: size,
                    max_staleness: MAX_STALENESS,
                    member_timeout: Duration::from_hours(1),
                    crash_timeout: Duration::from_hours(1),
                    retire_after: Duration::from_hours(1),
                    lease_duration: Duration::from_mins(1),
                    clock_rate_ppm: 200,
                    limits: Limits::default(),
                };
                change(&mut config);
                Node {
                    name,
                    config,
                    runs: 0,
                    core: None,
                    disk: Disk::default(),
                    unflushed: VecDeque::new(),
                    sending: VecDeque::new(),
                    replies: BTreeMap::new(),
                    applied: Vec::new(),
                    purged: Vec::new(),
                    stopped: None,
                    resyncs: 0,
                    tables: Vec::new(),
                }
            })
            .collect();
        Self {
            now: Time::from_start(Duration::from_secs(1)),
            nodes,
            links: BTreeMap::new(),
            tickets: 0,
            transcript: Vec::new(),
            probes: 0,
            loses: None,
        }
    }

    /// All started, linked and caught up.
    pub(crate) fn running(size: usize) -> Self {
        Self::running_with(size, |_| {})
    }

    /// The same, with some other configuration.
    pub(crate) fn running_with(size: usize, change: impl Fn(&mut CoreConfig)) -> Self {
        let mut world = Self::with(size, change);
        (0..size).for_each(|node| world.start(node));
        world.connect_all();
        world.settle();
        world
    }

    /// The same, and long enough ago that no grant of a former life of its members can hold: receipts `all` need not wait.
    pub(crate) fn running_for_long(size: usize, change: impl Fn(&mut CoreConfig)) -> Self {
        let mut world = Self::running_with(size, change);
        let begin = world.now;
        while world.now.since(begin) <= MAX_STALENESS {
            world.advance(Duration::from_millis(50));
            world.settle();
        }
        world
    }

    pub(crate) fn core(&self, node: usize) -> &Core {
        self.nodes[node].core.as_ref().unwrap()
    }

    pub(crate) fn up(&self, node: usize) -> bool {
        self.nodes[node].core.is_some()
    }

    pub(crate) fn incarnation(&self, node: usize) -> Incarnation {
        self.core(node).incarnation()
    }

    /// The event that a node will issue next, while none of its own is being written.
    pub(crate) fn next_event(&self, at: usize) -> EventId {
        let origin = self.incarnation(at);
        let own = self.core(at).progress().lane(origin, Lane::Bump).unwrap();
        EventId {
            origin,
            sequence: own.head() + 1,
        }
    }

    fn node_of(&self, incarnation: Incarnation) -> Option<usize> {
        let runs = |node: &Node| {
            node.core
                .as_ref()
                .is_some_and(|core| core.incarnation() == incarnation)
        };
        self.nodes.iter().position(runs)
    }

    fn unix(&self) -> UnixSeconds {
        UnixSeconds(1_000_000).plus(self.now.since_start())
    }

    /// Starts a node on its disk, as its next incarnation: `a1`, `a2` and so on, in hexadecimal.
    pub(crate) fn start(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.runs += 1;
        let letter = 0xa + u128::try_from(at).unwrap();
        let shift = if node.runs < 16 { 4 } else { 12 };
        node.config.incarnation = Incarnation::new(letter << shift | node.runs).unwrap();
        let (core, effects) = Core::start(node.config.clone(), &node.disk.recover(), self.now);
        node.core = Some(core);
        self.carry_out(at, effects);
    }

    /// Ends a node's process: what was not flushed is gone, and so are its links.
    pub(crate) fn crash(&mut self, at: usize) {
        let Some(core) = self.nodes[at].core.take() else {
            return;
        };
        self.nodes[at].unflushed.clear();
        self.nodes[at].sending.clear();
        for other in 0..self.nodes.len() {
            let outgoing = self.links.remove(&(at, other)).is_some();
            let incoming = self.links.remove(&(other, at)).is_some();
            let peer = core.incarnation();
            if outgoing {
                let side = Side::Inbound;
                self.input(other, Input::LinkDown { peer, side });
            }
            if incoming {
                let side = Side::Outbound;
                self.input(other, Input::LinkDown { peer, side });
            }
            self.nodes[other].sending.retain(|sending| sending.to != at);
        }
    }

    /// Empties a stopped node's disk.
    pub(crate) fn wipe(&mut self, at: usize) {
        assert!(!self.up(at), "a disk is wiped while nobody uses it");
        self.nodes[at].disk = Disk::default();
    }

    pub(crate) fn hello(&self, at: usize) -> PeerHello {
        let core = self.core(at);
        PeerHello {
            node_id: core.config().node_id.clone(),
            incarnation: core.incarnation(),
            peer_address: format!("{}:1", core.config().node_id),
            policy_digest: core.config().policies.digest(),
        }
    }

    /// Lets `from` dial `to`.
    pub(crate) fn dial(&mut self, from: usize, to: usize) {
        if !self.up(from) || !self.up(to) || self.links.contains_key(&(from, to)) {
            return;
        }
        let (caller, called) = (self.hello(from), self.hello(to));
        if let Err(error) = self.core(to).admit_peer(&caller, self.now) {
            let reason = error.to_string();
            return self.input(from, Input::NodeIdRefused { reason });
        }
        self.links.insert((from, to), VecDeque::new());
        let (hello, side) = (caller, Side::Inbound);
        self.input(to, Input::LinkUp { hello, side });
        let (hello, side) = (called, Side::Outbound);
        self.input(from, Input::LinkUp { hello, side });
    }

    /// Lets two nodes dial each other.
    pub(crate) fn connect(&mut self, one: usize, other: usize) {
        self.dial(one, other);
        self.dial(other, one);
    }

    pub(crate) fn connect_all(&mut self) {
        for one in 0..self.nodes.len() {
            for other in one + 1..self.nodes.len() {
                self.connect(one, other);
            }
        }
    }

    /// Cuts both links between two nodes; what was under way is lost.
    pub(crate) fn cut(&mut self, one: usize, other: usize) {
        for (from, to) in [(one, other), (other, one)] {
            if self.links.remove(&(from, to)).is_none() {
                continue;
            }
            self.nodes[from].sending.retain(|sending| sending.to != to);
            let (caller, called) = (self.incarnation(from), self.incarnation(to));
            let (peer, side) = (caller, Side::Inbound);
            self.input(to, Input::LinkDown { peer, side });
            let (peer, side) = (called, Side::Outbound);
            self.input(from, Input::LinkDown { peer, side });
        }
    }

    /// Gives a node an input and carries out what it says.
    pub(crate) fn input(&mut self, at: usize, input: Input) {
        let (now, unix) = (self.now, self.unix());
        let Some(core) = self.nodes[at].core.as_mut() else {
            return;
        };
        let effects = core.handle(input, now, unix);
        self.carry_out(at, effects);
    }

    fn carry_out(&mut self, at: usize, effects: Effects) {
        assert!(
            effects.commit.is_some() || effects.writes.is_empty(),
            "writes without a commit"
        );
        self.transcript
            .extend(show::effects(self.nodes[at].name, &effects));
        if effects.commit.is_some() {
            let group = (effects.commit, effects.writes);
            self.nodes[at].unflushed.push_back(group);
        }
        for action in effects.actions {
            self.act(at, action);
        }
    }

    fn act(&mut self, at: usize, action: Action) {
        match action {
            Action::Send { to, message } => {
                if let Some(to) = self.node_of(to) {
                    self.say(at, to, message);
                }
            }
            Action::Broadcast(message) => {
                (0..self.nodes.len()).for_each(|to| self.say(at, to, message.clone()));
            }
            Action::Reply(ticket, reply) => {
                let known = self.nodes[at].replies.insert(ticket.0, reply);
                assert!(known.is_none(), "call {} was answered twice", ticket.0);
            }
            Action::Applied(id, event) => {
                self.nodes[at].applied.push((id, (*event).clone()));
            }
            Action::Notice { .. } | Action::Lease(..) | Action::EndTable(_) => {
                self.nodes[at].tables.push(action);
            }
            Action::Resync => self.nodes[at].resyncs += 1,
            Action::Purge { addresses, .. } => self.nodes[at].purged.extend(addresses),
            Action::ServeLog {
                to,
                origin,
                lane,
                first,
                last,
            } => {
                if let Some(to) = self.node_of(to)
                    && let Some(message) = self.served(at, origin, lane, first, last)
                {
                    self.tell_served(at, to, &message);
                    self.say(at, to, message);
                }
            }
            Action::ServeSnapshot { to, id, cut } => {
                if let Some(to) = self.node_of(to)
                    && self.links.contains_key(&(at, to))
                {
                    let next = Part::Begin(cut);
                    self.nodes[at].sending.push_back(Sending { to, id, next });
                }
            }
            Action::Stop(reason) => self.nodes[at].stopped = Some(reason),
        }
    }

    fn say(&mut self, from: usize, to: usize, message: PeerMessage) {
        if let PeerMessage::Probe { mark, .. } = &message {
            // The wire knows no view of a history without a number.
            assert_eq!(mark.history.is_some(), mark.number > 0, "{mark:?}");
            self.probes += 1;
        }
        if let Some(left) = self.loses.take() {
            if left == 0 {
                return;
            }
            self.loses = Some(left - 1);
        }
        if let Some(queue) = self.links.get_mut(&(from, to)) {
            queue.push_back(message);
        }
    }

    fn served(
        &self,
        at: usize,
        origin: Incarnation,
        lane: Lane,
        first: u64,
        last: u64,
    ) -> Option<PeerMessage> {
        let disk = &self.nodes[at].disk;
        let found = disk.log(origin, lane, first, last);
        if found.is_empty() {
            let compacted = disk.watermark(origin, lane) >= first;
            return compacted.then_some(PeerMessage::Compacted {
                origin,
                lane,
                first,
            });
        }
        let mut events = Vec::new();
        let mut batches = Vec::new();
        for event in found {
            match event {
                Event::Bump(event) => events.push(event),
                Event::Directory(batch) => batches.push(batch),
            }
        }
        Some(match lane {
            Lane::Bump => PeerMessage::Bumps {
                origin,
                first,
                events,
            },
            Lane::Directory => PeerMessage::Directory {
                origin,
                first,
                batches,
            },
        })
    }

    /// Flushes everything that a node has written; tells whether there was anything.
    pub(crate) fn flush(&mut self, at: usize) -> bool {
        let groups = std::mem::take(&mut self.nodes[at].unflushed);
        let Some(last) = groups.iter().rev().find_map(|(commit, _)| *commit) else {
            return false;
        };
        let node = &mut self.nodes[at];
        for write in groups.iter().flat_map(|(_, writes)| writes) {
            if let Some(taken) = node.disk.commit(write) {
                let line = show::taken(node.name, &taken);
                self.transcript.extend(line);
                node.purged.extend(taken.addresses);
            }
        }
        self.input(at, Input::Flushed(last));
        true
    }

    /// Sends the next part of the oldest snapshot that a node is sending; tells whether there was one.
    pub(crate) fn pump(&mut self, at: usize) -> bool {
        let Some(mut sending) = self.nodes[at].sending.pop_front() else {
            return false;
        };
        let (to, id) = (sending.to, sending.id);
        let disk = &self.nodes[at].disk;
        let (message, next) = match sending.next {
            Part::Begin(cut) => (
                Some(PeerMessage::SnapshotBegin { id, cut }),
                Some(Part::Shapes),
            ),
            Part::Shapes => (
                Some(PeerMessage::SnapshotVersions {
                    id,
                    classes: Vec::new(),
                    floors: Vec::new(),
                    shapes: disk.shapes(),
                }),
                Some(Part::Classes(None)),
            ),
            Part::Classes(after) => {
                let classes = disk.classes_after(after.as_ref(), SNAPSHOT_CLASSES);
                let floors = Vec::new();
                match classes.last().map(|class| class.class.clone()) {
                    None => (None, Some(Part::Floors)),
                    last => (
                        Some(PeerMessage::SnapshotVersions {
                            id,
                            classes,
                            floors,
                            shapes: Vec::new(),
                        }),
                        Some(Part::Classes(last)),
                    ),
                }
            }
            // After the classes: one that was evicted in between is in a floor by now.
            Part::Floors => {
                let (classes, floors) = (Vec::new(), disk.floors());
                let message = PeerMessage::SnapshotVersions {
                    id,
                    classes,
                    floors,
                    shapes: Vec::new(),
                };
                (Some(message), Some(Part::Directory))
            }
            Part::Directory => {
                let registrations = disk.registrations();
                let message = PeerMessage::SnapshotDirectory { id, registrations };
                (Some(message), Some(Part::End))
            }
            Part::End => (Some(PeerMessage::SnapshotEnd { id }), None),
        };
        if let Some(next) = next {
            sending.next = next;
            self.nodes[at].sending.push_front(sending);
        }
        if let Some(message) = message {
            self.tell_served(at, to, &message);
            self.say(at, to, message);
        }
        true
    }

    fn tell_served(&mut self, at: usize, to: usize, message: &PeerMessage) {
        let (from, to) = (self.nodes[at].name, self.incarnation(to));
        self.transcript.push(show::served(from, to, message));
    }

    /// Hands over the `nth` message under way on a link; tells whether there was one.
    pub(crate) fn deliver_nth(&mut self, from: usize, to: usize, nth: usize) -> bool {
        let Some(message) = self
            .links
            .get_mut(&(from, to))
            .and_then(|queue| queue.remove(nth))
        else {
            return false;
        };
        let from = self.incarnation(from);
        self.input(to, Input::Peer { from, message });
        true
    }

    /// Hands over the oldest message under way on a link.
    pub(crate) fn deliver(&mut self, from: usize, to: usize) -> bool {
        self.deliver_nth(from, to, 0)
    }

    /// Hands over all that is under way on a link now.
    pub(crate) fn deliver_all(&mut self, from: usize, to: usize) {
        let count = self.links.get(&(from, to)).map_or(0, VecDeque::len);
        (0..count).for_each(|_| {
            self.deliver(from, to);
        });
    }

    /// Loses all that is under way on a link.
    pub(crate) fn drop_all(&mut self, from: usize, to: usize) -> usize {
        self.links
            .get_mut(&(from, to))
            .map_or(0, |queue| queue.drain(..).count())
    }

    /// Flushes, sends and delivers until nothing is under way. Time stands still.
    pub(crate) fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.work() {
                return;
            }
        }
        panic!("the cluster never comes to rest");
    }

    /// One round of that: what every node has at hand, and one message of every link. Tells whether there was anything.
    pub(crate) fn work(&mut self) -> bool {
        let mut busy = false;
        for at in 0..self.nodes.len() {
            self.input(at, Input::Seal);
            busy |= self.flush(at);
            busy |= self.pump(at);
        }
        let links: Vec<_> = self.links.keys().copied().collect();
        for (from, to) in links {
            busy |= self.deliver(from, to);
        }
        busy
    }

    /// Lets time pass from wake to wake. A node that asks to be woken again and again at one moment is an error.
    pub(crate) fn advance(&mut self, duration: Duration) {
        let end = self.now.plus(duration);
        let mut still = 0;
        loop {
            let next = (0..self.nodes.len())
                .filter_map(|at| Some((self.nodes[at].core.as_ref()?.next_wake(self.now), at)))
                .min();
            let Some((wake, at)) = next.filter(|(wake, _)| *wake <= end) else {
                break;
            };
            still = if wake <= self.now { still + 1 } else { 0 };
            assert!(
                still <= 10 * self.nodes.len(),
                "{} asks to be woken at {wake:?} again and again; it is {:?}",
                self.nodes[at].name,
                self.now
            );
            self.now = self.now.max(wake);
            self.input(at, Input::Wake);
        }
        self.now = end;
    }

    /// Lets time pass while everything is flushed and delivered, until all that run are fresh and miss nothing.
    pub(crate) fn converge(&mut self) -> Result<(), String> {
        self.converge_on(&Lane::ALL)
    }

    /// The same for some lanes: registrations may be lost for good with the only disk that had them.
    pub(crate) fn converge_on(&mut self, lanes: &[Lane]) -> Result<(), String> {
        for _ in 0..2_000 {
            self.settle();
            if self.converged(lanes) {
                return Ok(());
            }
            self.advance(Duration::from_millis(20));
        }
        Err(self.describe())
    }

    /// The same for the bump lane, while a node is gone.
    pub(crate) fn converge_without(&mut self, gone: usize) {
        assert!(!self.up(gone));
        for _ in 0..500 {
            self.settle();
            let cores = self.nodes.iter().filter_map(|node| node.core.as_ref());
            let heads: BTreeSet<_> = cores
                .map(|core| {
                    let heads = core.progress().heads().into_iter();
                    let heads = heads.filter(|head| head.bump > 0);
                    let heads = heads.map(|head| (head.incarnation, head.bump));
                    heads.collect::<Vec<_>>()
                })
                .collect();
            if heads.len() == 1 {
                return;
            }
            self.advance(Duration::from_millis(20));
        }
        panic!("{}", self.describe());
    }

    fn converged(&self, lanes: &[Lane]) -> bool {
        let cores = || self.nodes.iter().filter_map(|node| node.core.as_ref());
        let known: BTreeSet<_> = cores()
            .flat_map(|core| core.progress().heads())
            .map(|head| head.incarnation)
            .collect();
        let heads = |core: &Core, lane| -> Vec<u64> {
            let head = |run| {
                core.progress()
                    .lane(run, lane)
                    .map_or(0, LaneProgress::head)
            };
            known.iter().map(|run| head(*run)).collect()
        };
        let whole = |core: &Core, lane| {
            let lanes = known
                .iter()
                .filter_map(|run| core.progress().lane(*run, lane));
            lanes.into_iter().all(|lane| lane.gaps().next().is_none())
        };
        cores().all(|core| {
            core.freshness(self.now) == Freshness::Fresh
                && lanes.iter().all(|&lane| {
                    let alike = cores().all(|other| heads(core, lane) == heads(other, lane));
                    whole(core, lane) && alike
                })
        })
    }

    /// What every node knows, for messages of failing tests.
    pub(crate) fn describe(&self) -> String {
        let lines = self.nodes.iter().map(|node| {
            node.core
                .as_ref()
                .map_or(format!("{} is down", node.name), |core| {
                    let lanes: Vec<_> = core
                        .progress()
                        .heads()
                        .iter()
                        .map(|head| {
                            let lane = |lane| {
                                let lane = core.progress().lane(head.incarnation, lane).unwrap();
                                format!("{}/{}", lane.watermark(), lane.head())
                            };
                            format!(
                                "{:?} {} {}",
                                head.incarnation,
                                lane(Lane::Bump),
                                lane(Lane::Directory)
                            )
                        })
                        .collect();
                    let (name, freshness) = (node.name, core.freshness(self.now));
                    format!("{name} {freshness:?} [{}]", lanes.join(", "))
                })
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    // Calls of applications.

    pub(crate) fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// Calls to invalidate; the call's number.
    pub(crate) fn invalidate_as(
        &mut self,
        at: usize,
        paths: &[&str],
        matching: Match,
        level: ReceiptLevel,
        patience: Duration,
    ) -> u64 {
        let ticket = self.ticket();
        let call = Invalidate {
            classes: classes(paths),
            matching,
            purge: PurgeMode::Hard,
            level,
            deadline: self.now.plus(patience),
        };
        self.input(at, Input::Invalidate(ticket, call));
        ticket.0
    }

    /// Tells a node of changed rows.
    pub(crate) fn rows_changed(&mut self, at: usize, rows: Vec<Conjunction>) -> u64 {
        self.images_changed(at, rows.into_iter().map(RowImage::from).collect())
    }

    /// The same, by row.
    pub(crate) fn images_changed(&mut self, at: usize, rows: Vec<RowImage>) -> u64 {
        let ticket = self.ticket();
        let call = RowsChange {
            rows,
            purge: PurgeMode::Hard,
            level: ReceiptLevel::None,
            deadline: self.now.plus(Duration::from_secs(10)),
        };
        self.input(at, Input::RowsChanged(ticket, call));
        ticket.0
    }

    /// Resolves as an application does: that a shape is not known is told.
    pub(crate) fn look_up(&mut self, at: usize, name: &str, paths: &[&str]) -> Resolution {
        let resolution = self.resolve(at, name, paths);
        if resolution.new_shape {
            let met = paths.iter().map(|path| class(path)).collect();
            self.input(at, Input::MeetShapes(met));
        }
        resolution
    }

    /// Calls to invalidate, without waiting for a receipt.
    pub(crate) fn invalidate(&mut self, at: usize, paths: &[&str]) -> u64 {
        self.invalidate_as(
            at,
            paths,
            Match::Any,
            ReceiptLevel::None,
            Duration::from_secs(10),
        )
    }

    /// Resolves.
    pub(crate) fn resolve(&self, at: usize, name: &str, paths: &[&str]) -> Resolution {
        let query = Query {
            address: address(name),
            classes: paths.iter().map(|path| class(path)).collect(),
            slice: None,
        };
        self.core(at).resolve(&query, self.now, 0).unwrap()
    }

    /// The token of an address of these classes.
    pub(crate) fn token(&self, at: usize, paths: &[&str]) -> Token {
        self.resolve(at, "x", paths).token
    }

    /// Registers an address under a lease, or as known without one; the call's number.
    pub(crate) fn register(
        &mut self,
        at: usize,
        name: &str,
        paths: &[&str],
        lease: LeaseClaim,
    ) -> u64 {
        let ticket = self.ticket();
        let item = RegisterItem {
            address: address(name),
            classes: classes(paths),
            expires: self.unix().plus(Duration::from_hours(1)),
            lease,
            purpose: Purpose::Directory,
        };
        self.input(at, Input::Register(ticket, vec![item]));
        ticket.0
    }

    /// The only verdict of a registration; `None` while there is none.
    pub(crate) fn verdict(&self, at: usize, call: u64) -> Option<Verdict> {
        match self.nodes[at].replies.get(&call)? {
            Reply::Registered(verdicts) => Some(verdicts[0]),
            other => panic!("{other:?}"),
        }
    }
}
