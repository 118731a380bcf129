//! What goes wrong, as the schedule says.
//!
//! One disk is lost at a time, as `losses` counts them: where a schedule asks for more than G1 promises to survive, the loss
//! is put off, and counted as that.

use std::collections::BTreeSet;

use grapevine_core::machine::Core;
use grapevine_core::machine::effects::Input;
use rand::Rng as _;

use super::Sim;
use crate::clock::{MILLISECOND, Micros};
use crate::disk::Disk;
use crate::events::Event;
use crate::scenario::Gap;
use crate::schedule::{CutOp, Loss, What};
use crate::tally::Race;

/// How long a link to a stopped process seems to stand.
const KEEPALIVE: Micros = 3_000 * MILLISECOND;
/// How long a sidecar that leaves takes at least; for longer only where it waits for local tables, and then for so long at most.
const GOODBYE: Micros = 80 * MILLISECOND;
const GOODBYE_MAX: Micros = 400 * MILLISECOND;

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
            What::Inside(inside) => self.open_inside(op, inside),
            What::Leaf(_) => self.begin_listing(op),
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
            What::Local { node, local, fault } => self.local_fault(node, local, fault),
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
            What::TrapSpared { .. } => self.traps.push((op, self.latest_number())),
            What::TrapSnapshot { node, down } => self.nodes[node].trap = Some(down),
            What::CacheAway { lasts } => self.cache.leave(self.now + lasts),
            What::LoseDeletes { lasts } => self.cache.lose_deletes(self.now + lasts),
            What::Evict { pick } => {
                if let Some(address) = self.cache.evict(pick) {
                    self.oracle.evict(address);
                }
            }
            What::Read(_)
            | What::Inside(_)
            | What::Leaf(_)
            | What::Write(_)
            | What::Register { .. } => {}
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
        self.nodes[at].drains_since = self.now;
        self.close_locals(at);
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
        let node = &self.nodes[at];
        let waits = node.core.as_ref().is_some_and(Core::waits_for_tables);
        let (run, since) = (node.run, self.now - node.drains_since);
        if waits && since < GOODBYE_MAX {
            let again = Event::Exit {
                node: at,
                run,
                down,
            };
            return self.after(10 * MILLISECOND, again);
        }
        self.tally.locals.left_late += u64::from(!waits && since >= GOODBYE + 10 * MILLISECOND);
        self.crash(at, 255, false);
        self.start_after(at, down);
    }

    fn lose(&mut self, at: usize, down: Micros, loss: Loss) {
        let copy = self.nodes[at].copy.clone();
        let found = match loss {
            Loss::Wiped => Some(Disk::default()),
            Loss::Restored => copy,
        };
        let Some(found) = found else {
            return self.tally.fault("disk_loss_without_copy");
        };
        if let Some(why) = self.why_put_off(at, &found) {
            return self.tally.fault(why);
        }
        if self.is_last_with_seat(at) {
            self.tally.fault("disk_lost_after_its_last_peer");
        }
        self.crash(at, 0, false);
        self.note_loss(at);
        self.replace(at, found, "lost");
        self.start_after(at, down);
    }

    /// A sidecar has a view: if it is later than a trap and says that a seat was spared, the trap closes soon.
    pub(super) fn close_traps(&mut self, at: usize) {
        let Some(view) = self.nodes[at].core.as_ref().map(Core::roster) else {
            return;
        };
        let (spared, number) = (view.spared, view.number);
        let traps = std::mem::take(&mut self.traps);
        let (closed, open) = traps
            .into_iter()
            .partition(|(_, armed)| spared && number > *armed);
        self.traps = open;
        for (op, _) in closed {
            if let What::TrapSpared { late, .. } = self.plan.ops[op].what {
                self.after(late, Event::Spared { op });
            }
        }
    }

    /// A trap closes.
    pub(super) fn spared(&mut self, op: usize) {
        if let What::TrapSpared {
            node, with, down, ..
        } = self.plan.ops[op].what
            && !self.healed
        {
            self.tally.fault("trapped_after_sparing");
            self.crash(with, 255, false);
            self.start_after(with, down);
            self.lose(node, down / 4, Loss::Wiped);
        }
    }

    fn replace(&mut self, at: usize, disk: Disk, how: &'static str) {
        self.nodes[at].disk = disk;
        self.nodes[at].disk_was = Some(how);
        let (disk, judge) = (&self.nodes[at].disk, &self.checker);
        let events = judge.events().map(|(event, _)| event);
        let held: BTreeSet<_> = events.filter(|event| judge.holds(disk, *event)).collect();
        self.checker.replaced(at, |event| held.contains(&event));
    }

    fn mass(&mut self, down: Micros, wipe: bool) {
        let wipe = wipe && !self.nodes[self.size].up();
        if wipe {
            self.wiped_at = self.now;
            // Nobody has anything that could be lost with one more, until they have a roster again.
            self.lost = u8::MAX;
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
        self.nodes[at].went_on = self.now;
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
        let name = &self.nodes[of].name;
        if disk.view().is_some_and(|view| view.is_lone(name)) {
            // It needs nobody to take it for a member: by its disk it is the only one.
            self.checker.excuse = Some(Gap::NodeIdTwice);
            self.tally.fault("twin_of_a_lone_member");
        }
        self.checker.forget(slot);
        self.nodes[slot].name = self.nodes[of].name.clone();
        self.nodes[slot].disk = disk;
        self.nodes[slot].disk_was = Some("a twin's");
        self.nodes[slot].seen = vec![None; self.nodes.len()];
        self.start(slot);
        self.after(lasts, Event::TwinEnds);
    }

    /// Whether other disks hold all that a twin's does. Its events are those of a run that was a member; its disk is none of
    /// those that G1 speaks of.
    fn others_hold(&self, twin: usize) -> bool {
        let held = |other: usize| other < self.size && other != twin;
        let others = || (0..self.nodes.len()).filter(|other| held(*other));
        let mut intents = self.nodes[twin].disk.intents();
        !self.holds_alone(twin)
            && intents
                .all(|intent| others().any(|other| self.nodes[other].disk.holds_intent(intent)))
    }

    /// The twin ends, once others have what it has.
    pub(super) fn end_twin(&mut self) {
        let slot = self.size;
        if !self.nodes[slot].up() {
            return;
        }
        if self.others_hold(slot) {
            self.crash(slot, 0, false);
        } else {
            self.after(200 * MILLISECOND, Event::TwinEnds);
        }
    }
}
