//! Old runs: how the cluster comes to follow no more of them than it has members, and some.
//!
//! Whatever a run bumped stays in classes' entries, and its head is told in every grant. When there are more than
//! `limits.old_runs_max` runs that nobody has been for long, a fresh member has a view retire a lot of them
//! ([`crate::roster::Retired`]). That is an event like any other, in a lane of the history's retirements: its number is
//! the view's, and its head comes with the view. Who has those runs whole *applies* it: their entries, here and in
//! whatever comes, count under that lane's name from then on, and the runs are forgotten. Who has not, or was away for more
//! views than their list goes back, has a gap in that lane. Nobody's log can fill it, so it ends in a snapshot from
//! somebody who applied it, and until then nothing here is fresh.
//!
//! An entry under that name stands for all that the retired runs had bumped there. One that arrives before the retirement
//! is applied (in a peer's floor or snapshot) must not make tokens that others have with more knowledge: so whoever
//! hears of a number beyond what it has applied is catching up again, with tokens of its own, until it has.
//!
//! Where nobody has a retired run whole any more, that lane is closed like any other, by a view that bumps everything. Each
//! knows another part of those bumps then, so all of them, and what counted under that name before, count for nothing.
//!
//! Views repeat a bounded number of retirements; `lost_track` has what follows for who lacks more than that.
//!
//! What is stored is rewritten behind that, in pieces. A start maps what it reads, so a crash in between costs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::Core;
use super::effects::{Action, Effects, Freshness};
use super::flushed::Pending;
use super::lost_track::Track;
use crate::id::{EventId, Incarnation, Lane, Time};
use crate::names::ClassPath;
use crate::progress::LaneProgress;
use crate::roster::{LOT_MAX, Lot, Retired};
use crate::store::{Recovered, Retirement, Write};
use crate::vector::VersionVector;

/// Stored classes rewritten at once, and one bucket more: bumps of the same group of writes wait for it.
const PIECE_CLASSES_MAX: usize = 1_000;

/// How often runs that are over are looked for: twice within the time that they must have been over, within bounds.
const SWEEP_MIN: Duration = Duration::from_millis(100);
const SWEEP_MAX: Duration = Duration::from_secs(10);

/// What is being retired.
#[derive(Clone, Debug, Default)]
pub(super) struct Retirements {
    /// Runs that nothing speaks against retiring, by since when. No more than are followed.
    idle: BTreeMap<Incarnation, Time>,
    /// What the last sweep found worth retiring. At most [`LOT_MAX`].
    lot: BTreeMap<Incarnation, u64>,
    /// What the retirements here were made from: history's name, number, and the view that told them.
    made_from: (Option<Incarnation>, u64, u64),
    /// What the store is being rewritten by.
    pub(super) mapping: Option<(Arc<Retired>, Incarnation)>,
    /// Top-level classes and buckets whose stored entries are yet to be rewritten: no more than there are.
    pub(super) buckets: BTreeSet<(ClassPath, Option<u16>)>,
    /// Runs that the store is to forget after that. No more than were followed.
    runs: BTreeSet<Incarnation>,
    /// Whether a piece is being written.
    writing: bool,
    /// When runs that are over are looked for next.
    next_sweep: Time,
    /// Where this run stands with what views have forgotten.
    pub(super) track: Track,
    /// What this sidecar dropped when it started over: up to where runs were whole on its disk. Bounded as `lost_track` says.
    pub(super) dropped: VersionVector,
    /// Who asked for a snapshot while stored entries were being rewritten. No more than members.
    pub(super) asked: BTreeMap<Incarnation, u64>,
}

impl Retirements {
    pub(super) fn next_wake(&self) -> Time {
        self.next_sweep
    }

    /// Whether the last sweep found runs worth retiring.
    pub(super) fn has_lot(&self) -> bool {
        !self.lot.is_empty()
    }
}

impl Core {
    /// The name under which this sidecar's history retires runs.
    pub(super) fn retirements_name(&self) -> Option<Incarnation> {
        self.views.view().history.map(Incarnation::as_retirements)
    }

    /// Up to which number they are applied here.
    pub(super) fn retired_up_to(&self, name: Incarnation) -> u64 {
        let lane = self.progress.lane(name, Lane::Bump);
        lane.map_or(0, LaneProgress::watermark)
    }

    /// Up to which number they count for nothing, for nobody had all of them.
    fn dropped_up_to(&self, name: Incarnation) -> u64 {
        self.views.view().closed.get(&name).copied().unwrap_or(0)
    }

    /// Takes up what was retired when the store was written.
    pub(super) fn recover_retirements(&mut self, recovered: &Recovered) {
        self.retirements.track = match recovered.progress.is_empty() {
            _ if self.lost_track() => Track::Behind,
            true => Track::New,
            false => Track::Followed,
        };
        let Some(name) = self.retirements_name() else {
            return;
        };
        self.learn_retirements(name);
        // Nobody had a token of this run yet.
        self.retire_here(name, &mut Effects::default());
        // Of those that were dropped the store has forgotten all but that.
        let dropped = |run| self.retirements.dropped.get(run) > 0;
        let own = recovered.own_incarnations.iter();
        let own = own.filter(|run| !dropped(**run));
        // One that issued nothing has nothing to be retired.
        let own = own.filter(|run| self.progress.is_retired(**run) || !self.progress.knows(**run));
        self.retirements.runs.extend(own);
    }

    /// A view was taken over: what it retires is retired here, if this sidecar has all of it.
    pub(super) fn retirements_adopted(&mut self, now: Time, effects: &mut Effects) -> Vec<Write> {
        self.retirements.lot.clear();
        let Some(name) = self.retirements_name() else {
            return Vec::new();
        };
        let own = self.config.incarnation;
        if self.views.view().retired.head(own).is_some() {
            // It was away for so long that nobody waited for it, and what it bumps from now on would be somebody else's.
            effects.actions.push(Action::Stop(format!(
                "the other members have retired this run, {own}: start again"
            )));
        }
        self.learn_retirements(name);
        if self.ends_if_lost(now, effects) {
            return Vec::new();
        }
        self.apply_retirements(name, effects)
    }

    fn learn_retirements(&mut self, name: Incarnation) {
        let latest = self.views.view().retired.latest();
        if latest > 0 {
            let lane = self.progress.lane_mut(name, Lane::Bump);
            lane.learn_head(latest);
        }
    }

    /// Looks again whether what is retired can be retired here: events have come, or a snapshot has.
    pub(super) fn review_retirements(&mut self, effects: &mut Effects) {
        let Some(name) = self.retirements_name() else {
            return;
        };
        if self.retirements.track == Track::Ends {
            return;
        }
        let number = self.retired_up_to(name);
        let view = self.views.view();
        let same = self.retirements.made_from == (Some(name), number, view.number);
        if same && number >= view.retired.latest() {
            return;
        }
        let writes = self.apply_retirements(name, effects);
        if !writes.is_empty() {
            self.write(effects, writes, Pending::Nothing);
        }
    }

    fn apply_retirements(&mut self, name: Incarnation, effects: &mut Effects) -> Vec<Write> {
        let before = self.retired_up_to(name);
        let closed = before.max(self.dropped_up_to(name));
        let number = self.whole_up_to(&self.views.view().retired, closed);
        let mut writes = Vec::new();
        if number > before {
            self.progress.lane_mut(name, Lane::Bump).adopt(number);
            writes.push(Write::Progress {
                origin: name,
                lane: Lane::Bump,
                watermark: number,
            });
        }
        if !self.lost_track() {
            self.retirements.track = Track::Followed;
        }
        self.retire_here(name, effects);
        writes
    }

    /// Up to which number this sidecar has all that was retired: every event of those runs was applied. That a log is closed
    /// does not do: who retired the run has more of it.
    fn whole_up_to(&self, retired: &Retired, before: u64) -> u64 {
        if before < retired.forgotten() {
            return before;
        }
        let due = || retired.iter().filter(|(_, _, number)| *number > before);
        let lacking = due().filter(|&(run, head, _)| {
            let lane = self.progress.lane(run, Lane::Bump);
            let whole = lane.map_or(head == 0, |lane| lane.watermark() >= head);
            !whole && !self.progress.is_past(run, head)
        });
        let first = lacking.map(|(.., number)| number).min();
        let whole = due().map(|(.., number)| number);
        let whole = whole.filter(|number| first.is_none_or(|first| *number < first));
        whole.max().unwrap_or(before)
    }

    /// Has those retirements count here that this sidecar has all of.
    fn retire_here(&mut self, name: Incarnation, effects: &mut Effects) {
        let number = self.retired_up_to(name);
        let view = self.views.view();
        self.retirements.made_from = (Some(name), number, view.number);
        let here = view.retired.up_to(number);
        let here = here.dropping(self.dropped_up_to(name).min(number));
        if here.is_identity() && self.versions.has_no_retirements() {
            return;
        }
        self.finish_pieces(&here, name, effects);
        let dropped = self.progress.retire(&here);
        self.leaves.forget_all();
        let rewritten = self.versions.retire(here.clone(), name);
        if !rewritten.is_empty() {
            let sequence = number;
            let origin = name;
            let event = EventId { origin, sequence };
            self.history.note(self.versions.stamp(), event);
            // Tokens changed, and no event of a class says so.
            effects.actions.push(Action::Resync);
        }
        self.counters.runs_retired += dropped.len() as u64;
        self.retirements.mapping = Some((Arc::new(here), name));
        self.retirements.buckets.extend(rewritten);
        self.retirements.runs.extend(dropped);
    }

    /// Notes numbers of retirements in what a peer sent: those beyond what is applied here are yet to come.
    pub(super) fn retirements_heard(&mut self, vector: &VersionVector) {
        let named = vector.iter().filter(|(name, _)| name.is_retirements());
        for (name, number) in named {
            if self.may_follow(name) && self.may_exist(name, Lane::Bump, number) {
                let lane = self.progress.lane_mut(name, Lane::Bump);
                lane.learn_head(number);
            }
        }
    }

    /// Whether all is applied that is known to be retired, and known what that is.
    pub(super) fn retirements_settled(&self) -> bool {
        let own = self.retirements_name();
        let latest = self.views.view().retired.latest();
        let mut lanes = self.progress.retirements();
        lanes.all(|(name, lane)| {
            let told = Some(name) != own || lane.head() <= latest;
            told && lane.covered() >= lane.head()
        })
    }

    /// Looks which runs are over for long, and whether there are so many that retiring them is worth the hits it costs.
    pub(super) fn sweep_old_runs(&mut self, now: Time) {
        if now < self.retirements.next_sweep {
            return;
        }
        let pause = self.config.retire_after / 2;
        self.retirements.next_sweep = now.plus(pause.clamp(SWEEP_MIN, SWEEP_MAX));
        let eligible = self.old_runs(now);
        let before = std::mem::take(&mut self.retirements.idle);
        let since = |run: &Incarnation| before.get(run).copied().unwrap_or(now);
        self.retirements.idle = eligible.keys().map(|run| (*run, since(run))).collect();
        let age = self.config.retire_after;
        let due = eligible
            .into_iter()
            .filter(|(run, _)| now.since(self.retirements.idle[run]) >= age);
        let due: BTreeMap<_, _> = due.collect();
        // A view repeats at least what it retires itself.
        let most = LOT_MAX.min(self.config.limits.retired_max);
        let many = due.len() > self.config.limits.old_runs_max;
        self.retirements.lot = if many && self.rewritten() {
            due.into_iter().take(most).collect()
        } else {
            BTreeMap::new()
        };
    }

    /// What this sidecar would have retired now.
    pub(super) fn lot(&self, now: Time) -> Lot {
        let lot = &self.retirements.lot;
        let view = self.views.view();
        // One that is alone decides by itself. Its disk may be a copy from before others were members, and then its view has
        // a number that the others have given to another one: what it retired would not be what they did.
        let alone = view.seats.len() < 2;
        let fresh = self.freshness(now) == Freshness::Fresh && self.all_settled();
        if lot.is_empty() || alone || self.draining || !fresh {
            return Lot::default();
        }
        let mut runs = self.old_runs(now);
        runs.retain(|run, _| lot.contains_key(run));
        let retired = view.retired.iter().map(|(run, ..)| run);
        Lot {
            runs,
            followed: retired.filter(|run| self.progress.knows(*run)).collect(),
            most: self.config.limits.retired_max,
        }
    }

    /// Whether what was retired last is rewritten in the store.
    pub(super) fn rewritten(&self) -> bool {
        let left = &self.retirements;
        left.buckets.is_empty() && left.runs.is_empty() && !left.writing
    }

    /// Runs that somebody is, or may be.
    pub(super) fn used_runs(&self, now: Time) -> BTreeSet<Incarnation> {
        let views = &self.views;
        let seats = views.view().seats.values();
        let next = views.roster.accepted_next();
        let seats = seats.chain(next.iter().flat_map(|view| view.seats.values()));
        let members = self.members.iter().map(|member| &member.hello.incarnation);
        let former = self.members.former(now).map(|former| &former.incarnation);
        seats
            .chain(members)
            .chain(former)
            .chain(&views.leaving)
            .chain([&self.config.incarnation])
            .copied()
            .collect()
    }

    /// Runs that nobody is, as far as this sidecar knows, and whose every event is applied here; with their heads. One
    /// with a hole that nobody can fill is kept: after that, nobody could tell any more who has some of it nevertheless.
    fn old_runs(&self, now: Time) -> BTreeMap<Incarnation, u64> {
        let used = self.used_runs(now);
        let runs = self.progress.runs();
        runs.filter(|(run, lane)| !used.contains(run) && lane.watermark() >= lane.last())
            .map(|(run, lane)| (run, lane.last()))
            .collect()
    }

    /// Has all that is stored of retired runs rewritten at once.
    pub(super) fn finish_all_pieces(&mut self, effects: &mut Effects) {
        while let Some(write) = self.next_piece() {
            self.write(effects, [write], Pending::Nothing);
        }
    }

    /// Has the next piece of what is stored rewritten, if there is any, or a run forgotten.
    pub(super) fn write_retirements(&mut self, effects: &mut Effects) {
        if self.rewritten() {
            for (from, id) in std::mem::take(&mut self.retirements.asked) {
                self.snapshot_requested(from, id, effects);
            }
            return;
        }
        if self.retirements.writing {
            return;
        }
        let write = self.next_piece().or_else(|| {
            let run = self.retirements.runs.pop_first()?;
            // One whose later bumps turned up is followed again.
            let again = self.progress.knows(run);
            (!again).then_some(Write::ForgetRun(run))
        });
        self.retirements.writing = write.is_some();
        if write.is_some() {
            self.write(effects, write, Pending::Retirement);
        }
    }

    /// What is to be written before a floor that takes classes out of a bucket, while what is stored in there is yet to be
    /// rewritten: it does not dominate them as they stand on disk, and once they are out no piece names them.
    pub(super) fn rewritten_first(
        &self,
        top: &ClassPath,
        bucket: u16,
        classes: &[ClassPath],
    ) -> Option<Write> {
        let waits = |left: &Retirements| left.buckets.contains(&(top.clone(), Some(bucket)));
        let due = !classes.is_empty() && !self.retirements.buckets.is_empty();
        (due && waits(&self.retirements))
            .then(|| self.piece(Vec::new(), classes.to_vec()))
            .flatten()
    }

    /// A piece is on disk.
    pub(super) fn retirement_flushed(&mut self) {
        self.retirements.writing = false;
    }

    /// What is still to be rewritten is rewritten at once, unless the next retirements repeat those that it is due to: with
    /// another history, or after more retirements than views repeat.
    fn finish_pieces(&mut self, next: &Retired, name: Incarnation, effects: &mut Effects) {
        let repeated =
            |(retired, of): &(Arc<Retired>, Incarnation)| *of == name && next.has_all(retired);
        if self.retirements.mapping.as_ref().is_none_or(repeated) {
            return;
        }
        self.finish_all_pieces(effects);
    }

    fn next_piece(&mut self) -> Option<Write> {
        let (mut floors, mut classes) = (Vec::new(), Vec::new());
        while classes.len() < PIECE_CLASSES_MAX
            && let Some((top, bucket)) = self.retirements.buckets.pop_first()
        {
            match bucket {
                None => classes.push(top),
                Some(bucket) => {
                    classes.extend(self.versions.bucket_classes(&top, bucket));
                    floors.push((top, bucket));
                }
            }
        }
        if floors.is_empty() && classes.is_empty() {
            return None;
        }
        self.piece(floors, classes)
    }

    /// What rewrites these, if anything was retired.
    fn piece(&self, floors: Vec<(ClassPath, u16)>, classes: Vec<ClassPath>) -> Option<Write> {
        let (retired, name) = self.retirements.mapping.clone()?;
        Some(Write::Retire(Box::new(Retirement {
            retired,
            name,
            floors,
            classes,
        })))
    }
}
