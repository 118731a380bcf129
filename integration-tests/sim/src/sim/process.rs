//! Sidecars' processes: what `grapevined`'s loop and writer do around core.

use std::collections::BTreeSet;

use grapevine_core::event::{BumpEvent, PurgeMode};
use grapevine_core::id::{EventId, Incarnation, Lane, Time};
use grapevine_core::machine::effects::{Action, Effects, Input, PeerHello, Side};
use grapevine_core::machine::{Core, CoreConfig, Limits};
use grapevine_core::names::{Address, ClassPath};
use grapevine_core::roster::View;
use grapevine_core::store::Write;
use rand::Rng as _;

use super::writes::own_bump;
use super::{CLOCK_RATE_PPM, LEASE, MAX_STALENESS, Sim};
use crate::arms::Arm;
use crate::arms::rules::{Kind, Rule};
use crate::clock::{MILLISECOND, Micros};
use crate::events::Event;
use crate::node::{Call, Group};
use crate::shop::Mask;
use crate::tally::Race;

/// How long links to a vanished host seem to stand.
const KEEPALIVE: Micros = 3_000 * MILLISECOND;

impl Sim<'_> {
    /// A sidecar's own time.
    pub(super) fn time(&self, at: usize) -> Time {
        self.nodes[at].time(self.now, self.is(Arm::WallClockLease))
    }

    fn config(&mut self, at: usize) -> CoreConfig {
        let random: u128 = self.nodes[at].rng.random();
        CoreConfig {
            node_id: self.nodes[at].name.clone(),
            incarnation: Incarnation::from_random(random, 0),
            policies: self.shop.policies.clone(),
            expected_members: self.size,
            max_staleness: MAX_STALENESS,
            member_timeout: self.plan.member_timeout,
            crash_timeout: self.plan.crash_timeout,
            retire_after: self.plan.retire_after,
            lease_duration: LEASE,
            clock_rate_ppm: CLOCK_RATE_PPM,
            limits: Limits {
                classes_per_top_max: self.plan.classes_per_top,
                old_runs_max: self.plan.old_runs_max,
                retired_max: self.plan.retired_max,
                index_members_max: self.plan.index_members,
                index_rows_max: 3,
                direct_pushes_max: self.plan.direct.0,
                whole_heads_max: self.plan.direct.1,
                ..Limits::default()
            },
        }
    }

    /// How a sidecar introduces itself.
    pub(super) fn hello(&self, at: usize) -> PeerHello {
        PeerHello {
            node_id: self.nodes[at].name.clone(),
            incarnation: self.nodes[at].incarnation,
            peer_address: format!("{at}:1"),
            policy_digest: 0,
        }
    }

    /// Starts a slot's process on its disk.
    pub(super) fn start(&mut self, at: usize) {
        let config = self.config(at);
        let recovered = self.nodes[at].disk.recover();
        let now = self.time(at);
        let node = &mut self.nodes[at];
        node.incarnation = config.incarnation;
        let letter = node.letter;
        if node.disk_was.take().is_some() {
            self.tally.race(Race::OldDisk);
        }
        node.rule = match self.arm {
            Some(Arm::EntryElseFloor) => Some(Rule::recover(Kind::EntryElseFloor, &recovered)),
            Some(Arm::LastWriterWins) => Some(Rule::recover(Kind::LastWriterWins, &recovered)),
            _ => None,
        };
        let (core, effects) = Core::start(config, &recovered, now);
        let incarnation = core.incarnation();
        self.transcript.fold(&[1, at as u64, low(incarnation)]);
        self.transcript
            .say(self.now, || format!("{letter} starts as {incarnation:?}"));
        self.checker.started(at);
        if core.counters().started_over > 0 {
            self.starts_over(at, incarnation);
        }
        let (progress, judge) = (core.progress(), &self.checker);
        let events = judge.events().map(|(event, _)| event);
        let has: BTreeSet<_> = events.filter(|event| judge.has(progress, *event)).collect();
        self.checker.adopted(at, |event| has.contains(&event));
        self.nodes[at].core = Some(core);
        self.carry_out(at, effects);
        self.settle(at);
        let run = self.nodes[at].run;
        let soon = self.nodes[at].rng.random_range(1..30 * MILLISECOND);
        self.after(soon, Event::Gossip { node: at, run });
    }

    /// A slot's process is to start, unless it did so already.
    pub(super) fn start_again(&mut self, at: usize, run: u64) {
        if !self.nodes[at].up() && self.nodes[at].run == run {
            self.start(at);
        }
    }

    /// Gives a sidecar an input and carries out what it says.
    pub(super) fn input(&mut self, at: usize, input: Input) {
        let Some(effects) = self.handle(at, input) else {
            return;
        };
        self.carry_out(at, effects);
        self.settle(at);
    }

    pub(super) fn handle(&mut self, at: usize, input: Input) -> Option<Effects> {
        let (now, unix) = (self.time(at), self.nodes[at].wall.unix(self.now));
        let core = self.nodes[at].core.as_mut()?;
        let before = core.counters().runs_retired;
        let effects = core.handle(input, now, unix);
        self.checker.retired.note(core.roster());
        for _ in before..core.counters().runs_retired {
            self.tally.fault("run_retired");
        }
        Some(effects)
    }

    /// What follows every input: registrations are sealed when the writer is idle, the next group goes to the disk, the
    /// next wake-up is wanted, and a sidecar that wants to end does.
    pub(super) fn settle(&mut self, at: usize) {
        if self.nodes[at].flushing.is_empty()
            && let Some(effects) = self.handle(at, Input::Seal)
        {
            self.carry_out(at, effects);
        }
        self.note_seats(at);
        if !self.traps.is_empty() {
            self.close_traps(at);
        }
        self.kick(at);
        self.plan_wake(at);
        while let Some((at, reason)) = self.ending.pop() {
            self.ends_itself(at, &reason);
        }
    }

    fn kick(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.core.is_none() || !node.flushing.is_empty() || node.waiting.is_empty() {
            return;
        }
        node.flushing = std::mem::take(&mut node.waiting);
        let slow = self.now < node.slow_until;
        let time = if slow {
            node.rng.random_range(50 * MILLISECOND..400 * MILLISECOND)
        } else if node.rng.random_range(0..40) == 0 {
            node.rng.random_range(2 * MILLISECOND..25 * MILLISECOND)
        } else {
            node.rng.random_range(120..900)
        };
        let run = node.run;
        self.after(time, Event::Flushed { node: at, run });
    }

    fn plan_wake(&mut self, at: usize) {
        let own = self.time(at);
        let by_wall = self.is(Arm::WallClockLease);
        let node = &mut self.nodes[at];
        let Some(core) = &node.core else {
            return;
        };
        let wake = node.when(core.next_wake(own), by_wall).max(self.now + 1);
        let pending = node.wake_at > self.now && node.wake_at <= wake;
        if pending {
            return;
        }
        node.wake_at = wake;
        let run = node.run;
        let event = Event::Wake {
            node: at,
            run,
            at: wake,
        };
        self.queue.push(wake, event);
    }

    /// Notes who has a seat, once a sidecar is of another view. Who was unseated and has yet to hear of it has none: no other member
    /// acknowledges what it issues.
    fn note_seats(&mut self, at: usize) {
        let nodes = self.nodes.iter();
        let views = nodes.filter_map(|node| node.core.as_ref().map(Core::roster));
        let core = self.nodes[at].core.as_ref();
        let known = (
            self.nodes[at].incarnation,
            core.map(|core| core.roster().mark()),
        );
        let changed = self.nodes[at].noted != Some(known);
        let seats = |slot: usize| {
            let node = &self.nodes[slot];
            node.core.as_ref().is_some_and(|core| {
                let own = core.roster();
                let later = |view: &&View| view.history == own.history && view.number > own.number;
                let mut later = views.clone().filter(later);
                let seats = |view: &View| view.seats_run(&node.name, node.incarnation);
                seats(own) && later.all(seats)
            })
        };
        let slots = if changed {
            0..self.nodes.len()
        } else {
            at..at + 1
        };
        let seated: Vec<_> = slots.map(|slot| (slot, seats(slot))).collect();
        self.nodes[at].noted = Some(known);
        for (slot, seated) in seated {
            self.checker.seated(self.now, slot, seated);
        }
    }

    pub(super) fn wake(&mut self, at: usize, planned: Micros) {
        if self.nodes[at].wake_at == planned {
            self.nodes[at].wake_at = 0;
            self.input(at, Input::Wake);
        }
    }

    pub(super) fn carry_out(&mut self, at: usize, effects: Effects) {
        let Effects {
            writes,
            commit,
            actions,
        } = effects;
        let run = self.nodes[at].incarnation;
        for (event, bump) in writes.iter().filter_map(|write| own_bump(write, run)) {
            if self.checker.known(event).is_none() {
                self.issued_uncalled(at, event, bump);
            }
        }
        if let Some(commit) = commit {
            self.nodes[at].waiting.push(Group { writes, commit });
        }
        for action in actions {
            self.act(at, action);
        }
        if let Some(commit) = commit
            && self.is(Arm::ReceiptBeforeFlush)
            && let Some(effects) = self.handle(at, Input::Flushed(commit))
        {
            self.carry_out(at, effects);
        }
    }

    fn act(&mut self, at: usize, action: Action) {
        match action {
            Action::Send { to, message } => {
                if let Some(&link) = self.nodes[at].outs.get(&to) {
                    self.say(at, link, message);
                }
            }
            Action::Broadcast(message) => {
                let links: Vec<_> = self.nodes[at].outs.values().copied().collect();
                for link in links {
                    self.say(at, link, message.clone());
                }
            }
            Action::Reply(ticket, reply) => self.replied(at, ticket, reply),
            Action::Notice {
                position,
                notice,
                event,
            } => self.tell_locals(at, position, (&notice, event)),
            Action::Lease(id, lease) => self.lease_local(at, id, lease),
            Action::EndTable(id) => self.end_local(at, id),
            Action::Applied(event, what) => self.applied(at, event, &what),
            Action::Resync => self.resynced(at),
            Action::Purge {
                addresses, mode, ..
            } => self.purge(addresses, mode),
            Action::ServeLog {
                to,
                origin,
                lane,
                first,
                last,
            } => self.serve_log(at, to, (origin, lane), (first, last)),
            Action::ServeSnapshot { to, id, cut } => self.serve_snapshot(at, to, id, cut),
            Action::Stop(reason) => self.ending.push((at, reason)),
        }
    }

    fn applied(&mut self, at: usize, event: EventId, what: &BumpEvent) {
        self.transcript
            .fold(&[2, at as u64, low(event.origin), event.sequence]);
        let letter = self.nodes[at].letter;
        self.transcript.say(self.now, || {
            format!("{letter} applies {event:?} {}", describe(what))
        });
        if let Some(rule) = &mut self.nodes[at].rule {
            rule.apply(event, what);
        }
        if matches!(what, BumpEvent::Bump(bump) if bump.classes[0].is_reserved()) {
            self.checker.everything_bumped(event, self.db.index());
        }
        let covered = self.checker.applied(at, event, Some(self.now));
        if covered.is_none() {
            self.checker.everything_applied(at, event);
        }
        self.note_adds(at, event);
        let concerned = match (covered, what) {
            (Some(covers), _) => covers,
            (None, BumpEvent::Bump(_) | BumpEvent::Rows(_)) => Mask::ALL,
            (None, BumpEvent::Floor(floor)) => {
                self.tally.floors += 1;
                self.shop.below(&floor.top)
            }
            (None, BumpEvent::Shape(new)) => {
                self.tally.shapes += 1;
                self.shop.below(&new.shape.table)
            }
        };
        self.show(at, concerned);
    }

    /// Judges the tokens that a sidecar shows of these addresses now.
    pub(super) fn show(&mut self, at: usize, addresses: Mask) {
        for address in addresses.iter() {
            self.look(at, address, 0);
        }
    }

    fn resynced(&mut self, at: usize) {
        self.tally.snapshots += 1;
        self.nodes[at].receiving = false;
        self.transcript.fold(&[3, at as u64]);
        let letter = self.nodes[at].letter;
        self.transcript
            .say(self.now, || format!("{letter} has adopted a snapshot"));
        let Some(core) = &self.nodes[at].core else {
            return;
        };
        let (progress, judge) = (core.progress(), &self.checker);
        let events = judge.events().map(|(event, _)| event);
        let has: BTreeSet<_> = events.filter(|event| judge.has(progress, *event)).collect();
        self.checker.adopted(at, |event| has.contains(&event));
        self.show(at, Mask::ALL);
    }

    /// Whether a run has caught up, and is not catching up again.
    pub(super) fn caught_up(&self, at: usize) -> bool {
        let core = self.nodes[at].core.as_ref();
        core.is_some_and(Core::has_caught_up)
    }

    pub(super) fn flushed(&mut self, at: usize) {
        let groups = std::mem::take(&mut self.nodes[at].flushing);
        let Some(commit) = groups.last().map(|group| group.commit) else {
            return;
        };
        let taken = self.store(at, &groups);
        self.transcript.fold(&[4, at as u64, commit.0]);
        for (addresses, mode) in taken {
            self.purge(addresses, mode);
        }
        self.input(at, Input::Flushed(commit));
    }

    /// Puts groups on a disk; the addresses that takes report.
    fn store(&mut self, at: usize, groups: &[Group]) -> Vec<(Vec<Address>, PurgeMode)> {
        let mut taken = Vec::new();
        for write in groups.iter().flat_map(|group| &group.writes) {
            if let Some(found) = self.nodes[at].disk.commit(write) {
                taken.push((found.addresses, found.purge));
            }
            if at == self.size {
                // A twin's disk ends with it: it is not one of those that keep an event.
                continue;
            }
            match write {
                Write::Log {
                    origin,
                    sequence,
                    event: grapevine_core::event::Event::Bump(_),
                } => {
                    let (origin, sequence) = (*origin, *sequence);
                    self.checker
                        .held(self.now, at, EventId { origin, sequence });
                }
                Write::Progress {
                    origin,
                    lane: Lane::Bump,
                    watermark,
                } => {
                    let (origin, sequence) = (*origin, *watermark);
                    for event in self.checker.up_to(EventId { origin, sequence }) {
                        self.checker.held(self.now, at, event);
                    }
                }
                _ => {}
            }
        }
        taken
    }

    /// Deletes on their way to the cache.
    pub(super) fn purge(&mut self, addresses: Vec<Address>, mode: PurgeMode) {
        for address in addresses {
            let late = self.net.latency();
            self.after(late, Event::Delete { address, mode });
        }
    }

    /// Ends a process at once. `keep`, in 256ths: which part of the flush under way reaches the disk.
    pub(super) fn crash(&mut self, at: usize, keep: u8, vanish: bool) {
        if !self.nodes[at].up() {
            return;
        }
        self.note_crash_races(at);
        self.count_leaves(at);
        self.turns_end(at);
        let groups = std::mem::take(&mut self.nodes[at].flushing);
        let kept = groups.len() * usize::from(keep) / 255;
        self.store(at, &groups[..kept]);
        let letter = self.nodes[at].letter;
        let of = groups.len();
        self.transcript.fold(&[5, at as u64, kept as u64]);
        self.transcript.say(self.now, || {
            format!("{letter} crashes; {kept} of {of} groups reach its disk")
        });
        let node = &mut self.nodes[at];
        let run = node.run;
        node.core = None;
        node.run += 1;
        node.waiting.clear();
        node.deferred.clear();
        node.stopped_until = 0;
        node.outs.clear();
        node.ins.clear();
        node.dials = Default::default();
        node.sending.clear();
        node.receiving = false;
        node.wake_at = 0;
        node.draining = false;
        let calls = std::mem::take(&mut node.calls);
        self.crash_locals(at);
        self.checker.started(at);
        for call in calls.into_values() {
            match call {
                Call::Write(op, attempt) => {
                    self.after(5 * MILLISECOND, Event::Overdue { op, attempt });
                }
                Call::Declare(op, attempt) => {
                    self.after(5 * MILLISECOND, Event::Undeclared { op, attempt });
                }
                Call::Turn(op, attempt) => {
                    let silent = false;
                    let fails = Event::AskFails {
                        op,
                        attempt,
                        silent,
                    };
                    self.after(5 * MILLISECOND, fails);
                }
                Call::Abort(_) | Call::Fill(_) | Call::List(_) | Call::Local(..) | Call::Plain => {}
            }
        }
        self.lose_links_of(at, run, if vanish { KEEPALIVE } else { 0 });
    }

    fn lose_links_of(&mut self, at: usize, run: u64, delay: Micros) {
        let mut lost = Vec::new();
        for (id, link) in self.net.links() {
            if link.from.up && (link.to.slot, link.to.run) == (at, run) {
                lost.push((id, Side::Outbound));
            }
            if link.to.up && (link.from.slot, link.from.run) == (at, run) {
                lost.push((id, Side::Inbound));
            }
        }
        for (link, side) in lost {
            let late = delay + self.net.latency();
            self.after(late, Event::LinkLost { link, side });
        }
    }

    fn note_crash_races(&mut self, at: usize) {
        let origin = self.nodes[at].incarnation;
        let others = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != at);
        let others: Vec<_> = others.filter_map(|(_, node)| node.core.as_ref()).collect();
        let first = EventId {
            origin,
            sequence: 0,
        };
        let last = EventId {
            origin,
            sequence: u64::MAX,
        };
        let half = self.checker.up_to(last).into_iter().any(|event| {
            let have = others
                .iter()
                .filter(|core| self.checker.has(core.progress(), event))
                .count();
            event > first && have > 0 && have + 1 < self.size
        });
        if half {
            self.tally.race(Race::HalfPushed);
        }
        if self.nodes[at].receiving {
            self.tally.race(Race::HalfSnapshot);
        }
    }

    /// A sidecar that lost track drops what its disk says, and bumps everything.
    fn starts_over(&mut self, at: usize, origin: Incarnation) {
        self.tally.fault("started_over");
        let everything = EventId {
            origin,
            sequence: 1,
        };
        let known = self.checker.events().map(|(event, _)| event);
        let held = known.filter(|event| self.checker.holds(&self.nodes[at].disk, *event));
        for event in held.collect::<Vec<_>>() {
            self.checker.retired.drop_for(event, everything);
        }
    }

    /// A sidecar ends by its own decision: right where two have one name or one memory, else a failure.
    fn ends_itself(&mut self, at: usize, reason: &str) {
        let letter = self.nodes[at].letter;
        // Where a run is retired after a moment, being cut off for longer is nothing special; elsewhere that is an hour.
        let retired = self.plan.old_runs_max == 0 && reason.contains("start again");
        if !self.twins && !retired {
            let what = format!("{letter} ends itself: {reason}");
            self.violated(crate::violation::Guarantee::Recovery, what);
        }
        self.tally.fault("ended_itself");
        self.crash(at, 255, false);
        if at < self.size {
            let run = self.nodes[at].run;
            self.after(500 * MILLISECOND, Event::Start { node: at, run });
        }
    }
}

/// The lower half of an incarnation, for the transcript's hash.
fn low(incarnation: Incarnation) -> u64 {
    u64::try_from(incarnation.get() & u128::from(u64::MAX)).unwrap_or(u64::MAX)
}

/// An event in a few words.
pub(super) fn describe(event: &BumpEvent) -> String {
    match event {
        BumpEvent::Bump(bump) => {
            let classes: Vec<_> = bump.classes.iter().map(ClassPath::as_str).collect();
            format!("bump {:?} of {}", bump.matching, classes.join(" "))
        }
        BumpEvent::Floor(floor) => format!("floor {} of {}", floor.bucket, floor.top),
        BumpEvent::Rows(changed) => format!("change of {} sets of rows", changed.rows.len()),
        BumpEvent::Shape(new) => format!("shape {}", new.shape.class()),
    }
}
