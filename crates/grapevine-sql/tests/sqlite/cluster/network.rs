//! Three sidecars' cores, joined by links that take time, in virtual time.
//!
//! A message takes a latency with a long tail, so it may overtake another one; few arrive twice, few are lost (`grapevine-sim` has the
//! whole weather, and crashes). A group of writes is flushed a little later, as one, and is then what pulls are answered from. A cluster
//! that runs is cloned for each round.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use grapevine_core::event::Event;
use grapevine_core::id::{Incarnation, Lane, Time, UnixSeconds};
use grapevine_core::machine::effects::{
    Action, CommitId, Effects, Freshness, Input, PeerHello, PeerMessage, Reply, Side, Ticket,
};
use grapevine_core::machine::{Core, CoreConfig, Limits};
use grapevine_core::names::{Address, NodeId};
use grapevine_core::policy::{OnUnknown, Pattern, Policy, PolicySet, Strategy};
use grapevine_core::store::{Recovered, Write};
use rand::Rng as _;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

pub(super) const NODES: usize = 3;
/// The most events of the bump lane that a pull is answered with at once.
const SERVED_MAX: usize = 64;
/// However long something takes, it has come by then.
const PATIENCE: Duration = Duration::from_secs(30);

/// How messages fare: one in so many is slow, arrives twice, or is lost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    pub(super) slow: u32,
    pub(super) twice: u32,
    pub(super) lost: u32,
}

#[derive(Clone, Debug)]
struct Node {
    core: Core,
    wake: Time,
    log: BTreeMap<(Incarnation, Lane, u64), Event>,
    unflushed: VecDeque<(CommitId, Vec<Write>)>,
    replies: BTreeMap<u64, Reply>,
}

#[derive(Clone, Debug)]
enum Happening {
    Arrives {
        from: usize,
        to: usize,
        message: Box<PeerMessage>,
    },
    Flushed(usize),
}

/// The cluster.
#[derive(Clone, Debug)]
pub(super) struct Network {
    pub(super) now: Time,
    nodes: Vec<Node>,
    happenings: BTreeMap<(Time, u64), Happening>,
    /// What sidecars asked the cache to delete.
    pub(super) purged: Vec<Address>,
    weather: Weather,
    random: SmallRng,
    numbers: u64,
}

/// A table of each strategy, so that tokens stand in addresses and in envelopes.
fn policies() -> PolicySet {
    let policy = |pattern: &str, strategy, on_unknown| Policy {
        pattern: Pattern::parse(pattern).unwrap(),
        strategy,
        on_unknown,
        jitter_percent: 0,
        ..Policy::fallback()
    };
    let serve = Policy::fallback().on_unknown;
    let policies = vec![
        policy("a/**", Strategy::Versioned, serve),
        policy("b/**", Strategy::Registered, OnUnknown::Bypass),
        policy("c/**", Strategy::Bucketed(64), serve),
    ];
    PolicySet::new(policies, Policy::fallback()).unwrap()
}

fn config(at: usize) -> CoreConfig {
    let number = u128::try_from(at).unwrap() + 1;
    CoreConfig {
        node_id: NodeId::parse(&format!("n{number}")).unwrap(),
        incarnation: Incarnation::new(number << 8 | 1).unwrap(),
        policies: policies(),
        expected_members: NODES,
        max_staleness: Duration::from_secs(1),
        member_timeout: Duration::from_hours(1),
        crash_timeout: Duration::from_hours(1),
        retire_after: Duration::from_hours(1),
        lease_duration: Duration::from_mins(1),
        clock_rate_ppm: 200,
        limits: Limits {
            // So few that buckets are swallowed by floors, and leaves evicted.
            classes_per_top_max: 250,
            index_members_max: 60,
            index_rows_max: 40,
            ..Limits::default()
        },
    }
}

impl Network {
    /// A cluster that is linked, agreed and fresh.
    pub(super) fn running() -> Self {
        let now = Time::from_start(Duration::from_secs(1));
        let started: Vec<_> = (0..NODES)
            .map(|at| Core::start(config(at), &Recovered::default(), now))
            .collect();
        let mut network = Self {
            now,
            nodes: Vec::new(),
            happenings: BTreeMap::new(),
            purged: Vec::new(),
            weather: Weather {
                slow: u32::MAX,
                twice: u32::MAX,
                lost: u32::MAX,
            },
            random: SmallRng::seed_from_u64(0),
            numbers: 0,
        };
        let mut effects = Vec::new();
        for (core, effect) in started {
            let wake = core.next_wake(now);
            network.nodes.push(Node {
                core,
                wake,
                log: BTreeMap::new(),
                unflushed: VecDeque::new(),
                replies: BTreeMap::new(),
            });
            effects.push(effect);
        }
        for (at, effects) in effects.into_iter().enumerate() {
            network.carry_out(at, effects);
        }
        for from in 0..NODES {
            for to in (0..NODES).filter(|to| *to != from) {
                network.dial(from, to);
            }
        }
        network.until("the cluster is fresh", |network| {
            (0..NODES).all(|at| network.core(at).freshness(network.now) == Freshness::Fresh)
        });
        network
    }

    /// The same cluster, with other luck.
    pub(super) fn with_luck(&self, seed: u64, weather: Weather) -> Self {
        Self {
            weather,
            random: SmallRng::seed_from_u64(seed),
            ..self.clone()
        }
    }

    pub(super) fn core(&self, at: usize) -> &Core {
        &self.nodes[at].core
    }

    fn hello(&self, at: usize) -> PeerHello {
        let config = self.core(at).config();
        PeerHello {
            node_id: config.node_id.clone(),
            incarnation: config.incarnation,
            peer_address: format!("{}:1", config.node_id),
            policy_digest: config.policies.digest(),
        }
    }

    fn dial(&mut self, from: usize, to: usize) {
        let (caller, called) = (self.hello(from), self.hello(to));
        self.core(to).admit_peer(&caller, self.now).unwrap();
        let (hello, side) = (caller, Side::Inbound);
        self.input(to, Input::LinkUp { hello, side });
        let (hello, side) = (called, Side::Outbound);
        self.input(from, Input::LinkUp { hello, side });
    }

    pub(super) fn ticket(&mut self) -> Ticket {
        self.numbers += 1;
        Ticket(self.numbers)
    }

    /// The answer to a call, if it has come.
    pub(super) fn reply(&mut self, at: usize, call: Ticket) -> Option<Reply> {
        self.nodes[at].replies.remove(&call.0)
    }

    fn unix(&self) -> UnixSeconds {
        UnixSeconds(1_000_000).plus(self.now.since_start())
    }

    /// Gives a node an input, and, while its writer is idle, what it has gathered a way out.
    pub(super) fn input(&mut self, at: usize, input: Input) {
        self.handle(at, input);
        if self.nodes[at].unflushed.is_empty() {
            self.handle(at, Input::Seal);
        }
        let now = self.now;
        self.nodes[at].wake = self.core(at).next_wake(now);
    }

    fn handle(&mut self, at: usize, input: Input) {
        let (now, unix) = (self.now, self.unix());
        let effects = self.nodes[at].core.handle(input, now, unix);
        self.carry_out(at, effects);
    }

    fn carry_out(&mut self, at: usize, effects: Effects) {
        if let Some(commit) = effects.commit {
            if self.nodes[at].unflushed.is_empty() {
                let delay = self.random.random_range(100..2_000);
                self.later(delay, Happening::Flushed(at));
            }
            let group = (commit, effects.writes);
            self.nodes[at].unflushed.push_back(group);
        }
        for action in effects.actions {
            self.act(at, action);
        }
    }

    fn act(&mut self, at: usize, action: Action) {
        match action {
            Action::Send { to, message } => {
                let to = self.node_of(to);
                self.say(at, to, &message);
            }
            Action::Broadcast(message) => {
                for to in (0..NODES).filter(|to| *to != at) {
                    self.say(at, to, &message);
                }
            }
            Action::Reply(ticket, reply) => {
                self.nodes[at].replies.insert(ticket.0, reply);
            }
            Action::Purge { addresses, .. } => self.purged.extend(addresses),
            Action::ServeLog {
                to,
                origin,
                lane,
                first,
                last,
            } => {
                let to = self.node_of(to);
                let message = self.served(at, (origin, lane), first, last);
                self.say(at, to, &message);
            }
            Action::Applied(..) => {}
            Action::Resync
            | Action::ServeSnapshot { .. }
            | Action::Stop(_)
            | Action::Notice { .. }
            | Action::Lease(..)
            | Action::EndTable(_) => {
                panic!("nobody starts, loses or opens anything here: {action:?}")
            }
        }
    }

    fn served(
        &self,
        at: usize,
        (origin, lane): (Incarnation, Lane),
        first: u64,
        last: u64,
    ) -> PeerMessage {
        let log = &self.nodes[at].log;
        let events = (first..=last).map_while(|sequence| log.get(&(origin, lane, sequence)));
        let (mut bumps, mut batches) = (Vec::new(), Vec::new());
        for event in events.take(SERVED_MAX) {
            match event {
                Event::Bump(event) => bumps.push(event.clone()),
                Event::Directory(batch) => batches.push(batch.clone()),
            }
        }
        match lane {
            Lane::Bump => PeerMessage::Bumps {
                origin,
                first,
                events: bumps,
            },
            Lane::Directory => PeerMessage::Directory {
                origin,
                first,
                batches,
            },
        }
    }

    fn node_of(&self, run: Incarnation) -> usize {
        let mut nodes = self.nodes.iter();
        nodes.position(|one| one.core.incarnation() == run).unwrap()
    }

    fn later(&mut self, micros: u64, happening: Happening) {
        self.numbers += 1;
        let at = self.now.plus(Duration::from_micros(micros));
        self.happenings.insert((at, self.numbers), happening);
    }

    fn one_in(&mut self, many: u32) -> bool {
        self.random.random_range(0..many) == 0
    }

    fn say(&mut self, from: usize, to: usize, message: &PeerMessage) {
        let Weather { slow, twice, lost } = self.weather;
        if self.one_in(lost) {
            return;
        }
        let times = 1 + u32::from(self.one_in(twice));
        for _ in 0..times {
            let most = if self.one_in(slow) { 60_000 } else { 3_000 };
            let delay = self.random.random_range(200..most);
            let message = Box::new(message.clone());
            self.later(delay, Happening::Arrives { from, to, message });
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrives { from, to, message } => {
                let from = self.core(from).incarnation();
                let message = *message;
                self.input(to, Input::Peer { from, message });
            }
            Happening::Flushed(at) => {
                let groups = std::mem::take(&mut self.nodes[at].unflushed);
                let Some((last, _)) = groups.back() else {
                    return;
                };
                let last = *last;
                for write in groups.into_iter().flat_map(|(_, writes)| writes) {
                    if let Write::Log {
                        origin,
                        sequence,
                        event,
                    } = write
                    {
                        let key = (origin, event.lane(), sequence);
                        self.nodes[at].log.insert(key, event);
                    }
                }
                self.input(at, Input::Flushed(last));
            }
        }
    }

    /// Lets happen what comes next.
    fn step(&mut self) {
        let (wake, at) = (0..NODES)
            .map(|at| (self.nodes[at].wake, at))
            .min()
            .expect("there are nodes");
        match self.happenings.first_entry() {
            Some(first) if first.key().0 <= wake => {
                let ((time, _), happening) = first.remove_entry();
                self.now = self.now.max(time);
                self.happen(happening);
            }
            _ => {
                self.now = self.now.max(wake);
                self.input(at, Input::Wake);
            }
        }
    }

    /// Lets time pass.
    pub(super) fn advance(&mut self, micros: u64) {
        let end = self.now.plus(Duration::from_micros(micros));
        loop {
            let wake = self.nodes.iter().map(|node| node.wake).min();
            let first = self
                .happenings
                .first_key_value()
                .map(|((time, _), _)| *time);
            if [wake, first].into_iter().flatten().all(|next| next > end) {
                break;
            }
            self.step();
        }
        self.now = end;
    }

    /// Lets things happen until something holds.
    pub(super) fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begin = self.now;
        while !holds(self) {
            assert!(self.now.since(begin) < PATIENCE, "never: {what}");
            self.step();
        }
    }

    /// Waits for the answer to a call.
    pub(super) fn answer(&mut self, at: usize, call: Ticket) -> Reply {
        self.until("a call is answered", |network| {
            network.nodes[at].replies.contains_key(&call.0)
        });
        self.reply(at, call).expect("it has come")
    }
}
