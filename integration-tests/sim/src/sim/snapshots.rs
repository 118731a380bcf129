//! Reads inside a database snapshot that a sidecar was told of before it began (`OpenSnapshot`).
//!
//! Each of them is a read as any other, but for what the look-up says of its fill: its stamp is that of the opening. Beside what is
//! served and stored (G3, G4) it is judged at the look-up that nothing may be stored which was computed inside a snapshot whose
//! lease has ended, that another run was told of, or that does not show a write whose bump its sidecar has applied (G4); and
//! at the commit that the lease has not ended by then (G4).

use std::time::Duration;

use grapevine_core::lease::ReadSnapshot;
use grapevine_core::machine::effects::{Filling, Resolution, SnapshotClaim};

use super::Sim;
use super::reads::Reading;
use crate::arms::Arm;
use crate::events::Event;
use crate::schedule::{InsideOp, Source, What};
use crate::violation::Guarantee;

/// A database snapshot that a sidecar was told of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opened {
    run: u64,
    snapshot: ReadSnapshot,
    /// What it shows, once it has begun.
    index: u64,
}

impl Sim<'_> {
    /// An application tells its sidecar that a database snapshot is about to begin.
    pub(super) fn open_inside(&mut self, op: usize, inside: &InsideOp) {
        let at = inside.node;
        let (now, lease) = (self.time(at), Duration::from_micros(inside.lease));
        let node = &self.nodes[at];
        let Some(core) = node.core.as_ref().filter(|_| node.answers(self.now)) else {
            return;
        };
        let opened = Opened {
            run: node.run,
            snapshot: core.open_snapshot(lease, now),
            index: 0,
        };
        self.opened.insert(op, opened);
        self.tally.inside.opened += 1;
        self.transcript.fold(&[34, op as u64, at as u64]);
        let letter = node.letter;
        self.transcript.say(self.now, || {
            format!("reader {op} opens a snapshot at {letter}, for {lease:?}")
        });
        self.after(inside.begins, Event::InsideBegins { op });
        for (nth, (after, _)) in inside.reads.iter().enumerate() {
            self.after(inside.begins + after, Event::InsideReads { op, nth });
        }
    }

    /// The database snapshot begins.
    pub(super) fn inside_begins(&mut self, op: usize) {
        let index = self.db.index();
        if let Some(opened) = self.opened.get_mut(&op) {
            opened.index = index;
        }
    }

    /// What a database snapshot shows.
    pub(super) fn index_inside(&self, op: usize) -> u64 {
        self.opened.get(&op).map_or(0, |opened| opened.index)
    }

    /// One of the reads inside begins.
    pub(super) fn inside_reads(&mut self, op: usize, nth: usize) {
        let plan = self.plan;
        let What::Inside(inside) = &plan.ops[op].what else {
            return;
        };
        let (at, mut read) = (inside.node, inside.reads[nth].1);
        read.source = Source::Inside(op);
        self.tally.reads += 1;
        if !self.nodes[at].answers(self.now) {
            self.tally.bypassed += 1;
            return;
        }
        self.tally.inside.reads += 1;
        let id = self.reads.len();
        self.reads.push(None);
        self.resolve(id, &read, at, read.address, 0);
    }

    /// What a look-up inside a snapshot says of its fill, judged.
    pub(super) fn heed_snapshot(
        &mut self,
        op: usize,
        jitter: u32,
        (at, address): (usize, usize),
        resolution: &mut Resolution,
    ) {
        let Some(opened) = self.opened.get(&op).copied() else {
            return;
        };
        let now = self.time(at);
        let item = &self.shop.items[address];
        let node = &self.nodes[at];
        let claim = SnapshotClaim::Snapshot(opened.snapshot);
        let told = node
            .core
            .as_ref()
            .map(|core| core.resolve_in(claim, &item.query, now, jitter));
        let Some(Ok(told)) = told else {
            return;
        };
        if !self.is(Arm::SnapshotNeverEnds) {
            resolution.lease = told.lease;
            resolution.lease_duration = told.lease_duration;
            resolution.ttl = told.ttl;
            resolution.filling = told.filling;
            resolution.stale = told.stale;
        }
        let ended = node.run != opened.run || now >= opened.snapshot.ends;
        self.tally.inside.ended += u64::from(ended);
        if resolution.bypass || resolution.filling == Filling::Forbidden {
            return;
        }
        let newest = self.checker.newest_applied(at, address);
        let bumps_matter = item.strategy != grapevine_core::policy::Strategy::Ttl;
        let why = if ended {
            "has ended".to_owned()
        } else if bumps_matter && opened.index < newest {
            format!("does not show write {newest}, whose bump it has applied")
        } else {
            return;
        };
        let (letter, name) = (node.letter, &item.query.address);
        let what = format!(
            "{letter} lets a fill of {name} be stored that reads inside a snapshot (operation {op}) which {why}"
        );
        self.violated(Guarantee::G4, what);
    }

    /// A fill that was read inside a snapshot is accepted: that must not have ended when it was committed.
    pub(super) fn judge_inside(&mut self, at: usize, reading: &Reading) {
        let Source::Inside(op) = reading.read.source else {
            return;
        };
        let by_wall = self.is(Arm::WallClockLease);
        let committed = self.nodes[at].time(reading.committed, by_wall);
        let opened = self.opened.get(&op);
        if opened.is_some_and(|opened| committed >= opened.snapshot.ends) {
            let letter = self.nodes[at].letter;
            let what = format!(
                "{letter} accepts a fill that was read inside a snapshot (operation {op}) which has ended"
            );
            self.violated(Guarantee::G4, what);
        }
    }
}
