//! Three sidecars, the messages on their way, and what may happen next.
//!
//! A world is cheap to copy: sidecars and messages are shared until one changes. Messages of one direction keep their
//! order, as on the links of `grapevined`; between directions, flushes, calls and faults every order is taken. Time moves
//! in steps, and whoever wanted to be woken by then is. The simulator beside this draws one order from millions; here all
//! orders of a few are taken.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use grapevine_core::event::{BumpEvent, Event as Logged, Match, PurgeMode};
use grapevine_core::id::{EventId, Incarnation, Time, UnixSeconds};
use grapevine_core::lease::Lease;
use grapevine_core::machine::effects::{
    Freshness, Input, Invalidate, LeaseClaim, PeerMessage, Purpose, Query, RegisterItem, Side,
    Sighting, Ticket,
};
use grapevine_core::names::Address;
use grapevine_core::roster::View;
use grapevine_core::store::Write;
use grapevine_core::token::Token;

use super::case::Budget;
use super::digest::digest;
use super::judge::Wrong;
use super::sidecar::{Setting, Sidecar, address, hello, name};
use crate::disk::Disk;
use crate::rng::mix;
use crate::violation::Guarantee;

/// Sidecars.
pub(super) const SIZE: usize = 3;
/// Classes that are looked at: two of one bucket, and one that is registered.
pub(super) const CLASSES: usize = 3;
/// The registered one.
pub(super) const REGISTERED: usize = 2;
/// How far the clock moves at once: two steps outlast a grant.
const TICK: Duration = Duration::from_millis(270);
/// The step of the time in which a cluster comes up.
const BEGIN: Duration = Duration::from_millis(20);
/// How long a receipt may take: longer than a case lasts.
const PATIENCE: Duration = Duration::from_mins(1);
/// Tickets of commits of fills; those of calls lie below.
const FILLS: u64 = 1_000;

/// One thing that may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Deliver { from: usize, to: usize },
    Lose { from: usize, to: usize },
    Flush(usize),
    Call(usize),
    LookUp,
    Commit,
    Cut,
    Heal,
    Crash,
    Leave,
    Tick,
}

/// A state of everything.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) sidecars: [Arc<Sidecar>; SIZE],
    /// By sender and receiver.
    pub(super) links: [[VecDeque<Arc<PeerMessage>>; SIZE]; SIZE],
    pub(super) now: Time,
    pub(super) cut: bool,
    pub(super) left: Budget,
    /// Calls that were made, as bits.
    pub(super) called: u8,
    /// How many writes the database has.
    pub(super) index: u64,
    /// Which write and class an event is the bump of.
    pub(super) events: BTreeMap<EventId, (usize, u64)>,
    /// By class: the newest write whose receipt `all` was satisfied.
    pub(super) all: [u64; CLASSES],
    /// By class and token: the oldest value that may have been stored. Everybody fills all the time, as late as may be.
    pub(super) stored: BTreeMap<(usize, Token), u64>,
    pub(super) views: BTreeMap<(Incarnation, u64), View>,
    /// A fill under way: its lease, and the database as of its read.
    pub(super) fill: Option<(Lease, u64)>,
    /// Fills that were committed, by address: the database as of their read.
    pub(super) filled: BTreeMap<Address, u64>,
    pub(super) copy: Disk,
    pub(super) runs: u128,
}

impl World {
    /// A cluster that has come up: all are seated and fresh, and nothing is on its way.
    pub(super) fn new(setting: &Setting, budget: Budget) -> Result<Self, Wrong> {
        let now = Time::from_start(Duration::from_secs(1));
        let mut begun = Vec::new();
        let sidecars = std::array::from_fn(|at| {
            let config = setting.config(at, at as u128 + 1, &budget);
            let (sidecar, effects) = setting.sidecar(config, Disk::default(), now);
            begun.push(effects);
            Arc::new(sidecar)
        });
        let mut world = Self {
            sidecars,
            links: Default::default(),
            now,
            cut: false,
            left: budget,
            called: 0,
            index: 0,
            events: BTreeMap::new(),
            all: [0; CLASSES],
            stored: BTreeMap::new(),
            views: BTreeMap::new(),
            fill: None,
            filled: BTreeMap::new(),
            copy: Disk::default(),
            runs: SIZE as u128,
        };
        for (at, effects) in begun.into_iter().enumerate() {
            world.carry_out(setting, at, effects)?;
        }
        for at in 0..SIZE {
            world.link(setting, at)?;
        }
        for _ in 0..200 {
            world.drain(setting)?;
            if (0..SIZE).all(|at| world.freshness(at) == Freshness::Fresh) {
                world.copy = world.sidecars[world.left.crasher].disk.clone();
                return Ok(world);
            }
            world.pass(setting, BEGIN)?;
        }
        let what = "the cluster does not come up".to_owned();
        let guarantee = Guarantee::Recovery;
        Err(Wrong { guarantee, what })
    }

    /// Delivers and flushes until nothing is on its way.
    fn drain(&mut self, setting: &Setting) -> Result<(), Wrong> {
        while let Some(&step) = self.turns().first() {
            self.take(setting, step)?;
        }
        Ok(())
    }

    /// What may happen next. Whose turn it is among flushes and messages comes first; another one of them costs a delay.
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps = self.turns();
        if self.left.delays == 0 {
            steps.truncate(1);
        }
        let pairs = (0..SIZE).flat_map(|from| (0..SIZE).map(move |to| (from, to)));
        let said = pairs.filter(|&(from, to)| !self.links[from][to].is_empty());
        let lost = said.map(|(from, to)| Step::Lose { from, to });
        steps.extend(lost.filter(|_| self.left.drops > 0));
        let uncalled = (0..self.left.calls.len()).filter(|call| self.called & (1 << call) == 0);
        steps.extend(uncalled.map(Step::Call));
        let more = [
            (self.fill.is_none() && self.left.fills > 0, Step::LookUp),
            (self.fill.is_some(), Step::Commit),
            (!self.cut && self.left.cuts > 0, Step::Cut),
            (self.cut, Step::Heal),
            (self.left.crashes > 0 && self.may_crash(), Step::Crash),
            (self.left.leaves, Step::Leave),
            (self.left.ticks > 0, Step::Tick),
        ];
        steps.extend(
            more.into_iter()
                .filter(|(may, _)| *may)
                .map(|(_, step)| step),
        );
        steps
    }

    /// A disk is lost, or comes back older, only while others hold all that its sidecar has shown.
    fn may_crash(&self) -> bool {
        let at = self.left.crasher;
        let lost = &self.sidecars[at];
        let held = |event: &EventId| {
            let mut others = (0..SIZE).filter(|other| *other != at);
            others.any(|other| self.sidecars[other].disk.holds(*event))
        };
        let mut events = self.events.keys();
        !self.left.restored
            || events.all(|event| {
                let shown = lost.disk.holds(*event) || lost.core.progress().has(*event);
                !shown || held(event)
            })
    }

    /// Flushes that are under way, and the first message of each link.
    fn turns(&self) -> Vec<Step> {
        let flushes = (0..SIZE).filter(|at| self.sidecars[*at].commit.is_some());
        let pairs = (0..SIZE).flat_map(|from| (0..SIZE).map(move |to| (from, to)));
        let cut = |at| self.cut && at == SIZE - 1;
        let open =
            pairs.filter(|&(from, to)| !self.links[from][to].is_empty() && !cut(from) && !cut(to));
        flushes
            .map(Step::Flush)
            .chain(open.map(|(from, to)| Step::Deliver { from, to }))
            .collect()
    }

    /// Lets one thing happen, and judges what follows.
    pub(super) fn take(&mut self, setting: &Setting, step: Step) -> Result<(), Wrong> {
        let turn = matches!(step, Step::Deliver { .. } | Step::Flush(_));
        if turn && self.left.delays < u8::MAX && self.turns().first() != Some(&step) {
            self.left.delays = self.left.delays.saturating_sub(1);
        }
        match step {
            Step::Deliver { from, to } => {
                if let Some(message) = self.links[from][to].pop_front() {
                    let from = self.sidecars[from].core.incarnation();
                    let message = (*message).clone();
                    self.input(setting, to, Input::Peer { from, message })?;
                }
            }
            Step::Lose { from, to } => {
                self.left.drops -= 1;
                self.links[from][to].pop_front();
            }
            Step::Flush(at) => self.flush(setting, at)?,
            Step::Call(call) => self.call(setting, call)?,
            Step::LookUp => {
                self.left.fills -= 1;
                self.look_up(setting);
            }
            Step::Commit => self.commit(setting)?,
            Step::Cut => {
                self.left.cuts -= 1;
                self.cut = true;
            }
            Step::Heal => {
                self.cut = false;
                if self.left.crash_timeout.is_some() {
                    self.sight(setting, true)?;
                }
            }
            Step::Crash => self.crash(setting)?,
            Step::Leave => {
                self.left.leaves = false;
                self.input(setting, 0, Input::Drain)?;
            }
            Step::Tick => {
                self.left.ticks -= 1;
                if self.left.crash_timeout.is_some() && self.cut {
                    self.sight(setting, false)?;
                }
                self.pass(setting, TICK)?;
            }
        }
        Ok(())
    }

    /// Gossip tells both sides of a cut what it makes of the other one.
    fn sight(&mut self, setting: &Setting, alive: bool) -> Result<(), Wrong> {
        let last = SIZE - 1;
        for (at, other) in (0..last).flat_map(|at| [(at, last), (last, at)]) {
            let hello = hello(&self.sidecars[other].core);
            let seen = Input::Seen(vec![Sighting { hello, alive }]);
            self.input(setting, at, seen)?;
        }
        Ok(())
    }

    fn pass(&mut self, setting: &Setting, time: Duration) -> Result<(), Wrong> {
        self.now = self.now.plus(time);
        for at in 0..SIZE {
            if self.sidecars[at].core.next_wake(self.now) <= self.now {
                self.input(setting, at, Input::Wake)?;
            }
            self.judge(setting, at)?;
        }
        Ok(())
    }

    fn call(&mut self, setting: &Setting, number: usize) -> Result<(), Wrong> {
        self.called |= 1 << number;
        let call = self.left.calls[number];
        // The application commits, and calls at once: when it dies in between, nothing is promised.
        self.index += 1;
        let invalidate = Invalidate {
            classes: vec![setting.classes[call.class].clone()],
            matching: Match::Any,
            purge: PurgeMode::Hard,
            level: call.level,
            deadline: self.now.plus(PATIENCE),
        };
        let ticket = Ticket(number as u64);
        let effects = self.handle(call.at, Input::Invalidate(ticket, invalidate));
        let own = self.sidecars[call.at].core.incarnation();
        for write in &effects.writes {
            if let Write::Log {
                origin,
                sequence,
                event: Logged::Bump(event),
            } = write
                && *origin == own
                && matches!(**event, BumpEvent::Bump(_))
            {
                let event = EventId {
                    origin: own,
                    sequence: *sequence,
                };
                self.events.insert(event, (call.class, self.index));
            }
        }
        self.carry_out(setting, call.at, effects)?;
        self.settle(setting, call.at)
    }

    /// A reader at the second sidecar misses, and reads the database.
    fn look_up(&mut self, setting: &Setting) {
        let filler = &self.sidecars[1];
        let query = Query {
            address: address(u64::from(self.left.fills)),
            classes: vec![setting.classes[REGISTERED].clone()],
            slice: None,
        };
        if let Ok(found) = filler.core.resolve(&query, self.now, 0)
            && !found.bypass
        {
            self.fill = Some((found.lease, self.index));
        }
    }

    fn commit(&mut self, setting: &Setting) -> Result<(), Wrong> {
        let Some((lease, index)) = self.fill.take() else {
            return Ok(());
        };
        let address = address(u64::from(self.left.fills));
        self.filled.insert(address.clone(), index);
        let item = RegisterItem {
            address,
            classes: vec![setting.classes[REGISTERED].clone()],
            expires: UnixSeconds(u32::MAX),
            lease: LeaseClaim::Lease(lease),
            purpose: Purpose::Directory,
        };
        let ticket = Ticket(FILLS + u64::from(self.left.fills));
        self.input(setting, 1, Input::Register(ticket, vec![item]))
    }

    fn crash(&mut self, setting: &Setting) -> Result<(), Wrong> {
        self.left.crashes -= 1;
        let at = self.left.crasher;
        let disk = if self.left.restored {
            self.copy.clone()
        } else {
            self.sidecars[at].disk.clone()
        };
        let (gone, now) = (self.sidecars[at].core.incarnation(), self.now);
        self.runs += 1;
        let config = setting.config(at, self.runs, &self.left);
        let (mut sidecar, effects) = setting.sidecar(config, disk, now);
        let before = &self.sidecars[at];
        sidecar.superseded.clone_from(&before.superseded);
        sidecar.shown = before.shown;
        for (event, (class, index)) in &self.events {
            if sidecar.core.progress().has(*event) {
                let newest = &mut sidecar.applied[*class];
                *newest = (*newest).max(*index);
            }
        }
        self.sidecars[at] = Arc::new(sidecar);
        self.fill = self.fill.filter(|_| at != 1);
        for other in (0..SIZE).filter(|other| *other != at) {
            self.links[at][other].clear();
            self.links[other][at].clear();
            for side in [Side::Inbound, Side::Outbound] {
                self.input(setting, other, Input::LinkDown { peer: gone, side })?;
            }
        }
        self.carry_out(setting, at, effects)?;
        self.settle(setting, at)?;
        self.link(setting, at)
    }

    /// Links a sidecar to all others, both ways.
    fn link(&mut self, setting: &Setting, at: usize) -> Result<(), Wrong> {
        let others = (0..SIZE).filter(|other| *other != at);
        for (one, two) in others.flat_map(|other| [(at, other), (other, at)]) {
            let caller = hello(&self.sidecars[one].core);
            let called = hello(&self.sidecars[two].core);
            let up = |hello, side| Input::LinkUp { hello, side };
            self.input(setting, two, up(caller, Side::Inbound))?;
            self.input(setting, one, up(called, Side::Outbound))?;
        }
        Ok(())
    }

    pub(super) fn freshness(&self, at: usize) -> Freshness {
        self.sidecars[at].core.freshness(self.now)
    }

    /// The number of the latest view that was met.
    pub(super) fn latest_view(&self) -> u64 {
        self.views
            .keys()
            .map(|(_, number)| *number)
            .max()
            .unwrap_or(0)
    }

    /// A digest by which states are told apart.
    pub(super) fn digest(&mut self) -> u64 {
        for sidecar in &mut self.sidecars {
            if sidecar.digest == 0 {
                let sidecar = Arc::make_mut(sidecar);
                let seen = (
                    &sidecar.core,
                    &sidecar.disk,
                    &sidecar.waiting,
                    sidecar.commit,
                );
                let judged = (
                    &sidecar.applied,
                    &sidecar.shown,
                    &sidecar.superseded,
                    &sidecar.rule,
                );
                sidecar.digest = digest(&(seen, judged)).max(1);
            }
        }
        let left = &self.left;
        let left = (
            left.drops,
            left.crashes,
            left.cuts,
            left.ticks,
            left.leaves,
            left.fills,
        );
        let known = (&self.events, &self.all, &self.stored, &self.views);
        let filled = (
            &self.fill,
            &self.filled,
            self.index,
            self.called,
            self.cut,
            self.now,
        );
        let mut sum = digest(&(left, known, filled, &self.links));
        for sidecar in &self.sidecars {
            sum = mix(sum.rotate_left(9) ^ sidecar.digest);
        }
        sum
    }

    /// The text of a step, for people.
    pub(super) fn describe(&self, step: Step) -> String {
        match step {
            Step::Deliver { from, to } => {
                let message = self.links[from][to].front();
                format!("{} hears from {}: {message:?}", name(to), name(from))
            }
            Step::Lose { from, to } => {
                let message = self.links[from][to].front();
                format!("lost from {} to {}: {message:?}", name(from), name(to))
            }
            Step::Flush(at) => format!("{} has flushed", name(at)),
            Step::Call(call) => format!("{:?}", self.left.calls[call]),
            step => format!("{step:?}"),
        }
    }
}
