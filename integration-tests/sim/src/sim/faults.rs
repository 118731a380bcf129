//! What goes wrong, as the schedule says.
//!
//! A disk is lost or replaced only while other disks hold all that its sidecar ever showed: that is the loss which G1
//! survives, and after any other one heads would stay that nobody can fill. Where a schedule
//! asks for more, the loss is put off, and counted as that. The loss of all disks together is another matter: nobody is
//! left who remembers a head (docs/decisions/0008).

use grapevine_core::id::{EventId, Lane};
use grapevine_core::machine::Core;
use grapevine_core::machine::effects::Input;
use grapevine_core::names::NodeId;
use rand::Rng as _;

use super::Sim;
use crate::clock::{MILLISECOND, Micros};
use crate::disk::Disk;
use crate::events::Event;
use crate::schedule::{CutOp, Loss, What};
use crate::tally::Race;

/// How long a link to a stopped process seems to stand.
const KEEPALIVE: Micros = 3_000 * MILLISECOND;
/// How long a sidecar that leaves takes.
const GOODBYE: Micros = 80 * MILLISECOND;

impl Sim<'_> {
    /// An operation of the schedule begins.
    pub(super) fn begin(&mut self, op: usize) {
        let plan = self.plan;
        let what = &plan.ops[op].what;
        if let Some(fault) = what.fault() {
            self.tally.fault(fault);
            self.transcript.fold(&[40, op as u64]);
            self.transcript
                .say(self.now, || format!("operation {op}: {what:?}"));
        }
        match what {
            What::Read(read) => self.begin_read(op, read),
            What::Write(write) => self.begin_write(op, write),
            What::Register { node, address } => self.register_plainly(*node, *address),
            _ => self.go_wrong(op, what),
        }
    }

    fn go_wrong(&mut self, op: usize, what: &What) {
        match *what {
            What::Crash {
                node,
                down,
                keep,
                vanish,
            } => {
                self.crash(node, keep, vanish);
                self.start_after(node, down);
            }
            What::Drain { node, down } => self.drain(node, down),
            What::Lose { node, down, loss } => self.lose(node, down, loss),
            What::Copy { node } => self.nodes[node].copy = Some(self.nodes[node].disk.clone()),
            What::Mass { down, wipe } => self.mass(down, wipe),
            What::Stop { node, lasts } => self.stop(node, lasts),
            What::Cut { from, to, cut } => self.cut(from, to, cut),
            What::Isolate { node, cut } => self.isolate(node, cut),
            What::Flap { times, .. } => self.flap(op, times),
            What::Lossy { lasts, percent } => self.net.lossy(self.now + lasts, percent),
            What::SlowDisk { node, lasts } => self.nodes[node].slow_until = self.now + lasts,
            What::Compact { node } => self.nodes[node].disk.compact(),
            What::StepWall { node, seconds } => self.nodes[node].wall.step(seconds),
            What::Suspect { node, about, lasts } => {
                self.nodes[node].suspects[about] = self.now + lasts;
            }
            What::Twin {
                node,
                copied,
                lasts,
            } => self.twin(node, copied, lasts),
            What::TrapSnapshot { node, down } => self.nodes[node].trap = Some(down),
            What::CacheAway { lasts } => self.cache.leave(self.now + lasts),
            What::LoseDeletes { lasts } => self.cache.lose_deletes(self.now + lasts),
            What::Evict { pick } => {
                if let Some(address) = self.cache.evict(pick) {
                    self.oracle.evict(address);
                }
            }
            What::Read(_) | What::Write(_) | What::Register { .. } => {}
        }
    }

    fn start_after(&mut self, at: usize, down: Micros) {
        let run = self.nodes[at].run;
        self.after(down, Event::Start { node: at, run });
    }

    /// A crash, and a start later.
    pub(super) fn crash_for(&mut self, at: usize, down: Micros, keep: u8) {
        self.tally.fault("trapped_in_snapshot");
        self.crash(at, keep, false);
        self.start_after(at, down);
    }

    fn drain(&mut self, at: usize, down: Micros) {
        if !self.nodes[at].answers(self.now) {
            return;
        }
        self.nodes[at].draining = true;
        self.input(at, Input::Drain);
        let run = self.nodes[at].run;
        self.after(
            GOODBYE,
            Event::Exit {
                node: at,
                run,
                down,
            },
        );
    }

    /// A sidecar that left ends.
    pub(super) fn exit(&mut self, at: usize, down: Micros) {
        self.crash(at, 255, false);
        self.start_after(at, down);
    }

    /// Whether other disks hold all that a sidecar ever showed: those of nodes with a seat, where there is a roster. A
    /// majority of seats that lose their disks one after the other, while only somebody without a seat has the events, is
    /// more than one loss at a time.
    fn may_lose(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        let mut shown = node.disk.held();
        let applied = node.core.iter().flat_map(|core| core.progress().heads());
        for head in applied {
            let (origin, bump) = (head.incarnation, head.lane(Lane::Bump));
            let events = (1..=bump).map(|sequence| EventId { origin, sequence });
            let core = node.core.as_ref();
            shown.extend(
                events.filter(|event| core.is_some_and(|core| core.progress().has(*event))),
            );
        }
        let views = self.nodes.iter().filter_map(|node| node.core.as_ref());
        let latest = views
            .map(Core::roster)
            .max_by_key(|view| view.number)
            .filter(|view| view.number > 0);
        let counts = |node: &NodeId| latest.is_none_or(|view| view.seats.contains_key(node));
        let others =
            || (0..self.size).filter(|other| *other != at && counts(&self.nodes[*other].name));
        let mut intents = node.disk.intents();
        shown
            .iter()
            .all(|event| others().any(|other| self.nodes[other].disk.holds(*event)))
            && intents
                .all(|intent| others().any(|other| self.nodes[other].disk.holds_intent(intent)))
    }

    fn lose(&mut self, at: usize, down: Micros, loss: Loss) {
        let copy = self.nodes[at].copy.clone();
        let found = match loss {
            Loss::Wiped => Some(Disk::default()),
            Loss::Restored => copy,
        };
        let Some(found) = found.filter(|_| self.may_lose(at)) else {
            return self.tally.fault("disk_loss_put_off");
        };
        self.crash(at, 0, false);
        self.replace(at, found, "lost");
        self.start_after(at, down);
    }

    fn replace(&mut self, at: usize, disk: Disk, how: &'static str) {
        self.nodes[at].disk = disk;
        self.nodes[at].disk_was = Some(how);
        let disk = &self.nodes[at].disk;
        self.checker.replaced(at, |event| disk.holds(event));
    }

    fn mass(&mut self, down: Micros, wipe: bool) {
        let wipe = wipe && !self.nodes[self.size].up();
        if wipe {
            self.wiped_at = self.now;
        }
        for at in 0..self.size {
            self.crash(at, 128, false);
        }
        for at in 0..self.size {
            if wipe {
                self.replace(at, Disk::default(), "wiped with all others");
                // A copy from before would be a history of its own.
                self.nodes[at].copy = None;
            }
            let later = self.nodes[at].rng.random_range(0..=down);
            self.start_after(at, later);
        }
        self.tally.race(Race::MassRestart);
    }

    fn stop(&mut self, at: usize, lasts: Micros) {
        if !self.nodes[at].up() {
            return;
        }
        let until = self.now + lasts;
        self.nodes[at].stopped_until = self.nodes[at].stopped_until.max(until);
        self.queue.push(until, Event::Resume { node: at });
        if lasts > KEEPALIVE {
            for other in (0..self.nodes.len()).filter(|other| *other != at) {
                for (from, to) in [(at, other), (other, at)] {
                    self.after(KEEPALIVE, Event::BreakLinks { from, to });
                }
            }
        }
    }

    /// A stopped process goes on, with all that has come for it meanwhile.
    pub(super) fn resume(&mut self, at: usize) {
        if self.nodes[at].stopped(self.now) {
            return;
        }
        for event in std::mem::take(&mut self.nodes[at].deferred) {
            self.dispatch(event);
        }
    }

    fn cut(&mut self, from: usize, to: usize, cut: CutOp) {
        self.net.cut(from, to, self.now + cut.lasts, cut.holds);
        if let Some(breaks) = cut.breaks {
            self.after(breaks, Event::BreakLinks { from, to });
        }
    }

    fn isolate(&mut self, at: usize, cut: CutOp) {
        for other in (0..self.nodes.len()).filter(|other| *other != at) {
            self.cut(at, other, cut);
            self.cut(other, at, cut);
        }
        self.cut_off
            .push_back((at, self.now + cut.lasts, false, false));
    }

    /// A path is cut once more.
    pub(super) fn flap(&mut self, op: usize, left: u32) {
        let What::Flap {
            one, other, each, ..
        } = self.plan.ops[op].what
        else {
            return;
        };
        if left == 0 || self.healed {
            return;
        }
        let cut = CutOp {
            lasts: each,
            holds: false,
            breaks: Some(each / 2),
        };
        self.cut(one, other, cut);
        self.cut(other, one, cut);
        let left = left - 1;
        self.after(2 * each, Event::Flap { op, left });
    }

    fn twin(&mut self, of: usize, copied: bool, lasts: Micros) {
        let slot = self.size;
        if self.nodes[slot].up() {
            return;
        }
        let disk = if copied {
            self.nodes[of].disk.clone()
        } else {
            Disk::default()
        };
        self.twins = true;
        self.checker.forget(slot);
        self.nodes[slot].name = self.nodes[of].name.clone();
        self.nodes[slot].disk = disk;
        self.nodes[slot].disk_was = Some("a twin's");
        self.nodes[slot].seen = vec![None; self.nodes.len()];
        self.start(slot);
        self.after(lasts, Event::TwinEnds);
    }

    /// The twin ends, once others have what it has.
    pub(super) fn end_twin(&mut self) {
        let slot = self.size;
        if !self.nodes[slot].up() {
            return;
        }
        if self.may_lose(slot) {
            self.crash(slot, 0, false);
        } else {
            self.after(200 * MILLISECOND, Event::TwinEnds);
        }
    }
}
