//! State taken over whole from a peer that has compacted what is missed.
//!
//! The holder announces its flushed watermarks (the cut) before it reads the first chunk; the receiver joins the chunks and
//! adopts the cut with the last one, so a snapshot broken off has changed nothing that could hide a hole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::Core;
use super::app::Suppressed;
use super::effects::{Action, Effects, PeerMessage, as_heads};
use super::flushed::Pending;
use super::lost_track::Track;
use super::remote::OVERFULL_BY_OTHERS;
use crate::criteria::Shape;
use crate::event::{
    BATCH_REGISTRATIONS_MAX, BumpEvent, Event, Floor, Match, PurgeMode, Registration,
    RegistrationBatch,
};
use crate::id::{EventId, Incarnation, Lane, Time};
use crate::names::ClassPath;
use crate::progress::OriginHead;
use crate::store::{RecoveredClass, Write};
use crate::vector::VersionVector;

/// How long the answer to a request for one may take: the request or its answer may be lost.
const SNAPSHOT_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a snapshot may stall: longer than a busy disk holds its chunks up. The end of a link ends it at once, and so does
/// the end of its sender's membership.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_mins(1);

/// A snapshot being received.
#[derive(Clone, Debug)]
pub(super) struct Receiving {
    pub(super) id: u64,
    pub(super) from: Incarnation,
    pub(super) cut: Option<Vec<OriginHead>>,
    pub(super) until: Time,
    /// Floors that its holder passed on before it was asked, and that are not applied here: it has what they say. No more than
    /// one message brings.
    floors: Vec<(EventId, Arc<BumpEvent>)>,
    /// Shapes that its holder knows.
    shapes: BTreeSet<Shape>,
}

impl Core {
    pub(super) fn compacted(
        &mut self,
        from: Incarnation,
        (origin, lane, first): (Incarnation, Lane, u64),
        now: Time,
        effects: &mut Effects,
    ) {
        let filled = self
            .progress
            .lane(origin, lane)
            .is_none_or(|lane| lane.has(first));
        if filled || self.repair.snapshot.is_some() {
            return;
        }
        self.request_snapshot(from, Vec::new(), now, effects);
    }

    /// Floors are not applied here ([`Core::names_strangers`]): what they say is taken from whoever passed them on. It had them
    /// on disk before it hears of this request, so that its snapshot has them, too. They count as applied with that, for its
    /// cut does not tell of what lies above a hole, and nobody fills one in a closed log.
    pub(super) fn floors_refused(
        &mut self,
        from: Incarnation,
        floors: Vec<(EventId, Arc<BumpEvent>)>,
        now: Time,
        effects: &mut Effects,
    ) {
        for (id, _) in &floors {
            let lane = self.progress.lane_mut(id.origin, Lane::Bump);
            lane.learn_head(id.sequence);
        }
        if !floors.is_empty() && self.repair.snapshot.is_none() {
            self.request_snapshot(from, floors, now, effects);
        }
    }

    fn request_snapshot(
        &mut self,
        from: Incarnation,
        floors: Vec<(EventId, Arc<BumpEvent>)>,
        now: Time,
        effects: &mut Effects,
    ) {
        self.repair.snapshots += 1;
        let id = self.repair.snapshots;
        self.repair.snapshot = Some(Receiving {
            id,
            from,
            cut: None,
            until: now.plus(SNAPSHOT_ANSWER_TIMEOUT),
            floors,
            shapes: BTreeSet::new(),
        });
        self.counters.snapshots_requested += 1;
        effects.send(from, PeerMessage::SnapshotRequest { id });
    }

    pub(super) fn snapshot_requested(&mut self, from: Incarnation, id: u64, effects: &mut Effects) {
        if self.lost_track() {
            // What it has of runs that others have forgotten must not come back.
            return;
        }
        if !self.rewritten() {
            // What is stored is read, and the receiver may know no more under which number a run counts.
            self.retirements.asked.insert(from, id);
            return;
        }
        self.counters.snapshots_sent += 1;
        let cut = as_heads(
            &self.progress.watermarks(Lane::Bump),
            &self.progress.watermarks(Lane::Directory),
        );
        // The cut may name events that are applied but still being written: the snapshot is read behind them.
        let served = Action::ServeSnapshot { to: from, id, cut };
        self.write(effects, [], Pending::Serve(served));
    }

    fn receiving(&mut self, from: Incarnation, id: u64, now: Time) -> Option<&mut Receiving> {
        let asked = self.repair.snapshot.as_ref();
        let cut = &asked.filter(|s| s.from == from && s.id == id)?.cut;
        let off_track = |cut: &Vec<OriginHead>| !self.is_on_track(cut);
        if self.retirements.track == Track::Ends || cut.as_ref().is_some_and(off_track) {
            self.repair.snapshot = None;
        }
        let snapshot = self.repair.snapshot.as_mut()?;
        snapshot.until = now.plus(SNAPSHOT_TIMEOUT);
        Some(snapshot)
    }

    pub(super) fn snapshot_begun(
        &mut self,
        from: Incarnation,
        id: u64,
        cut: Vec<OriginHead>,
        now: Time,
    ) {
        if let Some(snapshot) = self.receiving(from, id, now)
            && snapshot.cut.is_none()
        {
            snapshot.cut = Some(cut);
        }
        // One that is not to be taken is given up at once.
        self.receiving(from, id, now);
    }

    pub(super) fn snapshot_versions(
        &mut self,
        from: Incarnation,
        id: u64,
        classes: &[RecoveredClass],
        (floors, shapes): (&[Floor], &[Shape]),
        now: Time,
        effects: &mut Effects,
    ) {
        let receiving = self.receiving(from, id, now);
        let Some(snapshot) = receiving.filter(|snapshot| snapshot.cut.is_some()) else {
            return;
        };
        snapshot.shapes.extend(shapes.iter().cloned());
        let entries = classes.iter().flat_map(|class| {
            let joint = class.conjunctions.iter().map(|(_, entries)| entries);
            joint.chain([&class.entries])
        });
        for entries in entries.chain(floors.iter().map(|floor| &floor.vector)) {
            self.retirements_heard(entries);
        }
        // First: what is applied here without knowledge of a shape shows in what was there.
        let shapes = shapes.iter();
        let mut writes: Vec<_> = shapes
            .filter_map(|shape| self.adopt_shape(shape, effects))
            .collect();
        writes.extend(self.join_floors(floors));
        for class in classes {
            writes.extend(self.join_class(class));
        }
        self.write(effects, writes, Pending::Nothing);
    }

    /// Joins a snapshot's floors. Which classes one of them stands for nobody knows any more, so what is registered under
    /// its top-level class is taken out.
    fn join_floors(&mut self, floors: &[Floor]) -> Vec<Write> {
        let mut writes = Vec::new();
        let mut changed = BTreeMap::new();
        for floor in floors {
            let evict = self.versions.bucket_classes(&floor.top, floor.bucket);
            if self.versions.join_floor(floor) {
                changed.entry(&floor.top).or_insert(&floor.vector);
            }
            let mut floor = floor.clone();
            floor.vector = self.versions.image(&floor.vector);
            writes.extend(self.rewritten_first(&floor.top, floor.bucket, &evict));
            writes.push(Write::JoinFloor { floor, evict });
        }
        for (top, vector) in changed {
            writes.extend(self.take_known(vector, vec![top.clone()], Match::Any));
        }
        writes
    }

    /// Joins one of a snapshot's classes. Of what is new, its own entries take out what is registered under it, and those
    /// of a conjunction what is registered under all of that.
    fn join_class(&mut self, class: &RecoveredClass) -> Vec<Write> {
        let joint = class.conjunctions.iter();
        let joint = joint.map(|(others, entries)| (&others[..], entries));
        let parts: Vec<_> = std::iter::once((&[][..], &class.entries))
            .chain(joint)
            .map(|(others, entries)| {
                let changed = self.versions.join_part(&class.class, others, entries);
                (others, entries, changed)
            })
            .collect();
        let mut writes = Vec::new();
        // What is not held is covered by its floor.
        if self.versions.holds(&class.class) {
            writes.extend(parts.iter().map(|(others, entries, _)| Write::JoinClass {
                class: class.class.clone(),
                others: others.to_vec(),
                entries: self.versions.image(entries),
            }));
        }
        for (others, entries, _) in parts.into_iter().filter(|(.., changed)| *changed) {
            let matching = if others.is_empty() {
                Match::Any
            } else {
                Match::All
            };
            let classes = [std::slice::from_ref(&class.class), others].concat();
            writes.extend(self.take_known(entries, classes, matching));
        }
        writes
    }

    /// Takes out what is registered under classes, because of events that came as state.
    fn take_known(
        &mut self,
        events: &VersionVector,
        classes: Vec<ClassPath>,
        matching: Match,
    ) -> Option<Write> {
        let (origin, sequence) = events.iter().next()?;
        // What is taken out must not count as known any longer.
        self.suppressed = Suppressed::default();
        Some(Write::Take {
            event: EventId { origin, sequence },
            classes,
            matching,
            own_only: true,
            purge: PurgeMode::Hard,
        })
    }

    pub(super) fn snapshot_directory(
        &mut self,
        from: Incarnation,
        id: u64,
        registrations: Vec<Registration>,
        now: Time,
        effects: &mut Effects,
    ) {
        let Some(cut) = self
            .receiving(from, id, now)
            .and_then(|snapshot| snapshot.cut.as_ref())
        else {
            return;
        };
        if registrations.len() > BATCH_REGISTRATIONS_MAX {
            self.counters.peer_messages_refused += 1;
            return;
        }
        let stamp = cut
            .iter()
            .map(|head| (head.incarnation, head.bump))
            .collect();
        let good: Vec<_> = registrations
            .into_iter()
            .filter(|item| !self.versions.exceeds(&item.classes, &stamp))
            .collect();
        let batch = Arc::new(RegistrationBatch {
            stamp,
            registrations: good.clone(),
        });
        let judged = self.versions.stamp();
        self.write(
            effects,
            [Write::Register {
                registrations: good,
                own: false,
            }],
            Pending::RemoteBatch { batch, judged },
        );
    }

    pub(super) fn snapshot_ended(
        &mut self,
        from: Incarnation,
        id: u64,
        now: Time,
        effects: &mut Effects,
    ) {
        let begun = self.receiving(from, id, now);
        let taken = begun.and_then(|snapshot| {
            let cut = snapshot.cut.take()?;
            let floors = std::mem::take(&mut snapshot.floors);
            Some((cut, floors, std::mem::take(&mut snapshot.shapes)))
        });
        let Some((cut, floors, shapes)) = taken else {
            return;
        };
        self.repair.snapshot = None;
        if self.draining {
            // What its holder applied without knowledge of a shape could not be told any more.
            return;
        }
        self.tell_what_lacks(&shapes, effects);
        let mut writes = Vec::new();
        for head in cut.iter().copied() {
            let own = head.incarnation == self.config.incarnation;
            let past = self.progress.is_past(head.incarnation, head.bump);
            if own || past || !self.may_follow(head.incarnation) || !self.may_be(&head) {
                continue;
            }
            for lane in Lane::ALL {
                let found = self.progress.lane_mut(head.incarnation, lane);
                found.adopt(head.lane(lane));
                let watermark = found.watermark();
                writes.push(Write::Progress {
                    origin: head.incarnation,
                    lane,
                    watermark,
                });
            }
        }
        for (id, event) in floors {
            let EventId { origin, sequence } = id;
            // A run that was retired since is not to be followed again.
            if !self.progress.knows(origin) || self.progress.has(id) {
                continue;
            }
            self.progress.lane_mut(origin, Lane::Bump).apply(sequence);
            // Others who lack it are to find it here, and so is the next run.
            writes.push(Write::Log {
                origin,
                sequence,
                event: Event::Bump(event),
            });
        }
        // Stamps taken before cannot be told as vectors any more: their leases are unknown now.
        self.versions.note_change();
        self.history.cut(self.versions.stamp());
        self.counters.snapshots_adopted += 1;
        self.write(effects, writes, Pending::Nothing);
        // Calls of those who run may wait to hear that their events are here.
        for to in self.linked_peers() {
            self.acknowledge_again(to, effects);
        }
        effects.actions.push(Action::Resync);
        self.evict_if_overfull(OVERFULL_BY_OTHERS, effects);
    }
}
