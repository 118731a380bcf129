//! Whoever was away for more retirements than views repeat.
//!
//! Views repeat a bounded number of retirements. Who lacks more than is left of the list has *lost track*: of the runs that it
//! knows it cannot tell which are retired, and under which number they count. The others have forgotten those runs. What it
//! says of them would have everybody wait for events that nobody has any more, and what its classes' entries and floors say
//! of them would never read alike again. So
//!
//! - a run that learns that it lost track *ends*, and so does one that views leave with more of a retired run than the others
//!   remember. The next one *starts over*: with nothing of what its disk says of classes, floors and events, and with a bump of
//!   everything, for values may be stored under tokens that rested on it. It goes on like a newcomer on an empty disk, with a
//!   snapshot of somebody who is on track;
//! - until it is, it names no view but the first one, so that nobody gives it a seat and waits for its grants, and serves no
//!   snapshot;
//! - who may not know yet that it lost track, for it is not known to have a view that is new enough, is not believed: what it
//!   tells of runs that are unknown here, its own among them, is not followed, and no snapshot is taken of whose cut does
//!   not say that it is on track;
//! - a floor that names a run which is unknown here is not applied by anybody, once views have forgotten anything: it stays a
//!   hole, and whoever passed it on is asked for a snapshot, in which that counts as it should;
//! - who has no view yet cannot tell what views have forgotten, so both of these hold for it as well, and it takes no snapshot.
//!
//! The only member starts over, too, when its store knows of too many runs that are over: each of its starts bumps everything,
//! so it costs nothing more, and nobody else could have those runs retired.
//!
//! A member never loses track: runs are retired when all members have called themselves fresh in the view before. Whoever is none
//! has lost its seat, and nothing that was acknowledged since rests on its disk.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::effects::{Action, Effects};
use super::flushed::Pending;
use super::{Core, CoreConfig};
use crate::event::BumpEvent;
use crate::id::{Incarnation, Lane, Time};
use crate::progress::OriginHead;
use crate::roster::{Mark, Retired};
use crate::store::{Recovered, Retirement, Write};
use crate::vector::VersionVector;

/// Stored classes dropped by one write when a run starts over.
const DROPPED_MAX: usize = 1_000;
/// Runs of which it is remembered what was dropped, unless one start over drops more of them.
const DROPPED_RUNS_MAX: usize = 1_024;

/// Where a run stands with what views have forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Track {
    /// It began with nothing, and views had forgotten nothing that it lacks.
    #[default]
    New,
    /// It began with nothing, and takes a snapshot to be on track.
    Behind,
    /// It knows something that it must not keep if it loses track: it was on track, or its disk was.
    Followed,
    /// It lost track, and ends as soon as that is on disk.
    Ends,
}

/// Whether a run begins with nothing of what its store says of classes, floors and events: for the last one had lost track,
/// or for it is the only member and knows of more runs that are over than are to be followed. What was retired while there
/// were others is gone with that, so the lane of retirements is closed like that of any run which nobody has any more.
pub(super) fn starts_over(recovered: &Recovered, config: &CoreConfig) -> bool {
    let Some(record) = &recovered.roster else {
        return false;
    };
    let view = &record.view;
    let name = view.history.map(Incarnation::as_retirements);
    let bumps = || {
        recovered
            .progress
            .iter()
            .filter(|lane| lane.lane == Lane::Bump)
    };
    let lane = bumps().find(|lane| Some(lane.origin) == name);
    let lost_track = lane.map_or(0, |lane| lane.watermark) < view.retired.forgotten();
    let many = bumps().count() > config.limits.old_runs_max;
    lost_track || many && view.is_lone(&config.node_id)
}

impl Recovered {
    /// This without what it says of classes, floors and events.
    pub(super) fn without_versions(&self) -> Self {
        Self {
            own_incarnations: self.own_incarnations.clone(),
            dropped: self.dropped.clone(),
            members: self.members.clone(),
            roster: self.roster.clone(),
            intents: self.intents.clone(),
            shapes: self.shapes.clone(),
            registrations: self.registrations,
            ..Self::default()
        }
    }
}

impl Core {
    /// Whether views no longer repeat all that was retired since this sidecar followed last.
    pub(super) fn lost_track(&self) -> bool {
        let forgotten = self.views.view().retired.forgotten();
        let name = self.retirements_name();
        name.is_some_and(|name| self.retired_up_to(name) < forgotten)
    }

    /// The view that peers are told of. One that takes a snapshot to be on track names the first one of its history before,
    /// which never retired anything, so that it is not seated: the members would wait for its grants, and those say something
    /// only once it knows what is retired.
    pub(super) fn named_view(&self) -> Mark {
        let mark = self.views.durable();
        let behind = self.retirements.track == Track::Behind && !self.views.roster.seated();
        Mark {
            number: mark.number.min(if behind { 1 } else { u64::MAX }),
            ..mark
        }
    }

    /// Whether a view forgets that a run is retired which is followed here, for events of it came after that. The others would
    /// take all of it for a run that is new, also what this sidecar counts as retired. A member keeps what it has, for its disk
    /// may be the second one of what was acknowledged; who proposed the view had its word on what it follows.
    fn forgets_followed(&self) -> bool {
        let retired = &self.views.view().retired;
        let forgotten = |run| self.progress.is_retired(run) && retired.head(run).is_none();
        let mut runs = self.progress.runs();
        !self.seated() && runs.any(|(run, _)| forgotten(run))
    }

    /// A view was taken over: a run that lost track by it ends, if it knows anything from before, or may have been retired
    /// without being told. Tells whether it does: once that view is on disk, by which the next one knows.
    pub(super) fn ends_if_lost(&mut self, now: Time, effects: &mut Effects) -> bool {
        let ending = self.retirements.track == Track::Ends;
        if !ending && !self.lost_track() && !self.forgets_followed() {
            return false;
        }
        // Others count from when they heard of it last, on clocks of other rates.
        let long = now.since(self.started) >= self.config.retire_after / 2;
        let unseen = long && !self.views.roster.seated();
        let ends = match self.retirements.track {
            Track::New => unseen,
            Track::Behind => false,
            Track::Followed | Track::Ends => true,
        };
        if !ends {
            self.retirements.track = Track::Behind;
            return false;
        }
        self.retirements.track = Track::Ends;
        // A snapshot would have it on track with all that it knows.
        self.repair.snapshot = None;
        // With no retirement applied, the next one knows, too, whatever it was that this one lost.
        let name = self.retirements_name().map(Write::ForgetRun);
        self.write(effects, name, Pending::LostTrack);
        true
    }

    pub(super) fn end_lost(&self, effects: &mut Effects) {
        effects.actions.push(Action::Stop(format!(
            "this run, {}, was away for more retirements than are remembered: start again",
            self.config.incarnation
        )));
    }

    /// Drops what the store says of classes, floors and events, and bumps everything.
    pub(super) fn start_over(&mut self, recovered: &Recovered, effects: &mut Effects) {
        let Some(name) = self.retirements_name() else {
            return;
        };
        self.counters.started_over += 1;
        // First, so that no crash in between leaves a store without the one and the other.
        self.issue(super::views::everything(), None, effects);
        let entries = recovered.classes.iter().flat_map(|class| {
            let joint = class.conjunctions.iter().map(|(_, entries)| entries);
            joint.chain([&class.entries])
        });
        let vectors = entries.chain(recovered.floors.iter().map(|floor| &floor.vector));
        let named = vectors.flat_map(VersionVector::iter).map(|(run, _)| run);
        let followed = recovered.progress.iter().map(|lane| lane.origin);
        let all: BTreeSet<_> = named.chain(followed).collect();
        let retired = Arc::new(Retired::strip(all.iter().copied()));
        let pieces = recovered
            .classes
            .chunks(DROPPED_MAX)
            .map(|classes| (classes, [].as_slice()));
        let floors = recovered
            .floors
            .chunks(DROPPED_MAX)
            .map(|floors| ([].as_slice(), floors));
        let pieces = pieces.chain(floors).map(|(classes, floors)| {
            Write::Retire(Box::new(Retirement {
                retired: retired.clone(),
                name,
                floors: floors
                    .iter()
                    .map(|floor| (floor.top.clone(), floor.bucket))
                    .collect(),
                classes: classes.iter().map(|class| class.class.clone()).collect(),
            }))
        });
        let forgotten = all.iter().copied().map(Write::ForgetRun);
        let writes: Vec<_> = pieces.chain(forgotten).collect();
        self.write(effects, writes, Pending::Nothing);
        self.remember_dropped(recovered, &all, effects);
    }

    /// Remembers up to where runs were whole of those that are dropped, besides what was dropped before if there is room.
    fn remember_dropped(
        &mut self,
        recovered: &Recovered,
        all: &BTreeSet<Incarnation>,
        effects: &mut Effects,
    ) {
        let bumps = recovered.progress.iter();
        let bumps = bumps.filter(|lane| lane.lane == Lane::Bump);
        let whole: VersionVector = bumps.map(|lane| (lane.origin, lane.watermark)).collect();
        let before = &recovered.dropped;
        let room = before.len() + whole.len() <= DROPPED_RUNS_MAX;
        let mut dropped = whole;
        let mut writes = Vec::new();
        if room {
            dropped.join(before);
        } else {
            writes.extend(before.iter().map(|(run, _)| Write::ForgetRun(run)));
        }
        let anew = dropped.iter().filter(|(run, _)| !room || all.contains(run));
        writes.extend(anew.map(|(run, whole)| Write::Dropped { run, whole }));
        self.retirements.dropped = dropped;
        self.write(effects, writes, Pending::Nothing);
    }

    /// Whether a peer may have lost track and not know it, so that what it tells of runs that are unknown here may be of those
    /// whose retirement is forgotten. Heads are told again and again, so nothing is missed.
    pub(super) fn may_have_lost_track(&self, peer: Incarnation) -> bool {
        let view = self.views.view();
        let (history, forgotten) = (view.history, view.retired.forgotten());
        let follows = |mark: Mark| mark.history == history && mark.number >= forgotten;
        let mark = self.members.of_run(peer).and_then(|member| member.mark);
        self.may_lack_retirements() && !mark.is_some_and(follows)
    }

    /// Whether a run that is unknown here may be one that is retired and forgotten: views have forgotten some, or this sidecar
    /// has none yet, and logs and floors that began long ago may reach it before the first one does.
    fn may_lack_retirements(&self) -> bool {
        let view = self.views.view();
        view.number == 0 || view.retired.forgotten() > 0
    }

    /// Whether what a peer tells of runs that are unknown here, itself apart, may be of those whose retirement is forgotten:
    /// unless it grants what it was asked for in this view, or leaves it. Anything else may have been under way for long.
    pub(super) fn may_speak_of_old(
        &self,
        peer: Incarnation,
        nonce: u64,
        duration: Duration,
    ) -> bool {
        if !self.may_lack_retirements() {
            return false;
        }
        let lost = self.may_have_lost_track(peer);
        let Some(member) = self.members.of_run(peer) else {
            return true;
        };
        let leaves = nonce == 0 && !lost;
        let grants = !duration.is_zero() && member.asked().is_open(nonce);
        !leaves && !grants
    }

    /// Whether events of a run are not to be taken from a peer, for the run may be one that is retired and forgotten.
    pub(super) fn is_old_news(&self, run: Incarnation, peer: Incarnation) -> bool {
        !self.progress.knows(run) && self.may_have_lost_track(peer)
    }

    /// Whether a vector names a run that is unknown here, and may have been retired before what views repeat.
    pub(super) fn names_strangers(&self, event: &BumpEvent) -> bool {
        let Some(vector) = event.vector() else {
            return false;
        };
        // What is retired and not here yet may be forgotten before it is.
        let known = |run| {
            run >= Incarnation::FIRST_RETIREMENTS
                || run == self.config.incarnation
                || self.progress.knows(run)
                || self.progress.is_retired(run)
        };
        self.may_lack_retirements() && !vector.iter().all(|(run, _)| known(run))
    }

    /// Whether a snapshot with this cut may be taken: whoever serves it has applied what views have forgotten, for entries of runs
    /// whose retirement nobody here remembers would come back; and no more than this sidecar's view tells of, for with more
    /// it would seem to be on track, whatever it had before.
    pub(super) fn is_on_track(&self, cut: &[OriginHead]) -> bool {
        let view = self.views.view();
        let name = self.retirements_name();
        let mut heads = cut.iter().filter(|head| Some(head.incarnation) == name);
        let applied = heads.next().map_or(0, |head| head.bump);
        view.number > 0 && (view.retired.forgotten()..=view.number).contains(&applied)
    }
}
