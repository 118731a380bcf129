//! Events of peers: applied on arrival, in any order, written behind, acknowledged when flushed.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::Core;
use super::app::{Suppressed, bump_writes};
use super::effects::{Action, Effects, PeerMessage};
use super::flushed::{Pending, last_expiry};
use super::grants::Told;
use crate::event::{Bump, BumpEvent, Event, Match, PurgeMode, Registration, RegistrationBatch};
use crate::id::{EventId, Incarnation, Lane, Time};
use crate::names::{ClassPath, EVERYTHING};
use crate::progress::{LaneProgress, OriginHead, Progress};
use crate::store::Write;
use crate::vector::VersionVector;

/// Registrations kept of batches that ran ahead of bumps; beyond, the oldest batches are forgotten, and a late bump takes
/// their addresses out of this directory although they were filled after it.
const AHEAD_MAX: usize = 50_000;

/// Batches whose stamps cover bumps that have not arrived here. Such a bump takes the addresses of its classes out of the
/// directory when it comes; what was registered with knowledge of it is put in again.
#[derive(Clone, Debug, Default)]
pub(super) struct Ahead {
    batches: VecDeque<Arc<RegistrationBatch>>,
    registrations: usize,
}

impl Ahead {
    fn push(&mut self, batch: Arc<RegistrationBatch>) {
        self.registrations += batch.registrations.len();
        self.batches.push_back(batch);
        while self.registrations > AHEAD_MAX
            && let Some(oldest) = self.batches.pop_front()
        {
            self.registrations -= oldest.registrations.len();
        }
    }

    /// Forgets batches that nothing is missing for any more.
    fn review(&mut self, progress: &Progress) {
        self.batches
            .retain(|batch| !progress.dominates(&batch.stamp));
        let left = self.batches.iter().map(|batch| batch.registrations.len());
        self.registrations = left.sum();
    }
}

/// When the origin of events is told that they are flushed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// At once, also of events that are known: the first answer may be lost.
    Always,
    /// At once, of new ones.
    WhereNew,
    /// With the next grant.
    Later,
}

/// How far over its limits a table may grow by bumps of others before this sidecar evicts: limits differ and views do,
/// and every sidecar that evicts the same bucket invalidates it once more. An eighth.
pub(super) const OVERFULL_BY_OTHERS: Option<usize> = Some(8);

impl Core {
    /// Takes a message of a peer. It is long because every kind of message has its arm here, and each arm only names what is done.
    pub(super) fn peer_message(
        &mut self,
        from: Incarnation,
        message: PeerMessage,
        now: Time,
        effects: &mut Effects,
    ) {
        if !self.members.heard(from, now) {
            // What was on its way when its sender left is nothing to look closer at.
            self.counters.peer_messages_refused += u64::from(!self.is_parting(from));
            return;
        }
        if let PeerMessage::Probe { mark, .. } = &message
            && self.members.is_marked(from, *mark)
        {
            // The most frequent message by far. It changes nothing but what the peer was granted, and what time brings is
            // looked at when it is time.
            return self.probed(from, &message, now, effects);
        }
        let left = matches!(message, PeerMessage::Leave { .. });
        let of_members = matches!(
            message,
            PeerMessage::Probe { .. } | PeerMessage::Roster { .. } | PeerMessage::Leave { .. }
        );
        let knew = self.caught_up;
        match message {
            PeerMessage::Bumps {
                origin,
                first,
                events,
            } => self.remote_bumps((from, None), (origin, first, &events), now, effects),
            PeerMessage::Directory {
                origin,
                first,
                batches,
            } => self.remote_batches(from, (origin, first), &batches, effects),
            PeerMessage::Relayed {
                to,
                acknowledge,
                message,
            } => self.relayed(from, (to, acknowledge), &message, now, effects),
            PeerMessage::Ack { .. } => self.acked(from, &message, now, effects),
            PeerMessage::Probe { .. } => self.probed(from, &message, now, effects),
            PeerMessage::Roster { history, say } => {
                self.roster_said(from, history, say, now, effects);
            }
            PeerMessage::Grant {
                nonce,
                duration,
                settled,
                heads,
                span,
                lacked,
            } => {
                let told = Told {
                    heads,
                    span,
                    lacked,
                };
                self.granted(from, (nonce, settled), duration, told, now, effects);
            }
            PeerMessage::Pull {
                origin,
                lane,
                first,
                last,
            } => self.pulled(from, (origin, lane), (first, last), effects),
            PeerMessage::Compacted {
                origin,
                lane,
                first,
            } => self.compacted(from, (origin, lane, first), now, effects),
            PeerMessage::SnapshotRequest { .. }
            | PeerMessage::SnapshotBegin { .. }
            | PeerMessage::SnapshotVersions { .. }
            | PeerMessage::SnapshotDirectory { .. }
            | PeerMessage::SnapshotEnd { .. } => {
                self.snapshot_message(from, message, now, effects);
            }
            PeerMessage::Intent(_)
            | PeerMessage::IntentHeld(_)
            | PeerMessage::IntentSettled { .. }
            | PeerMessage::RowsCome(_) => self.intent_message(from, message, now, effects),
            PeerMessage::Pruned {
                leaf,
                places,
                stamp,
            } => self.pruned_by_peer(&leaf, &places, &stamp),
            PeerMessage::Fill { key, word } => self.fill_word(from, (key, word), now, effects),
            PeerMessage::Leave {
                bump_head,
                directory_head,
            } => {
                self.left(from, bump_head, directory_head, effects);
            }
        }
        if of_members {
            self.review_roster(now, effects);
        }
        self.review_retirements(effects);
        self.review_freshness(now);
        self.review_repair(now, effects);
        if left || self.caught_up != knew {
            self.settle_receipts(now, effects);
        }
    }

    /// A request for a snapshot, or a piece of one.
    fn snapshot_message(
        &mut self,
        from: Incarnation,
        message: PeerMessage,
        now: Time,
        effects: &mut Effects,
    ) {
        match message {
            PeerMessage::SnapshotRequest { id } => self.snapshot_requested(from, id, effects),
            PeerMessage::SnapshotBegin { id, cut } => self.snapshot_begun(from, id, cut, now),
            PeerMessage::SnapshotVersions {
                id,
                classes,
                floors,
                shapes,
            } => {
                let rest = (&floors[..], &shapes[..]);
                self.snapshot_versions(from, id, &classes, rest, now, effects);
            }
            PeerMessage::SnapshotDirectory { id, registrations } => {
                self.snapshot_directory(from, id, registrations, now, effects);
            }
            PeerMessage::SnapshotEnd { id } => self.snapshot_ended(from, id, now, effects),
            other => unreachable!("invariant: {other:?} belongs to no snapshot"),
        }
    }

    /// Whether events of an origin may be followed: it is known, or there is room.
    pub(super) fn may_follow(&self, origin: Incarnation) -> bool {
        let known = self.progress.knows(origin);
        // A history's bumps come with views, and from nowhere else.
        !origin.is_history() && (known || self.progress.len() < self.config.limits.origins_max)
    }

    /// Takes note of what a run is said to have issued. Of retired runs only what lies beyond that is news; and of this
    /// history's retirements only what its views tell.
    pub(super) fn learn_heads(&mut self, told: OriginHead) {
        let run = told.incarnation;
        let history = self.views.view().history;
        let own = history.map(Incarnation::as_retirements) == Some(run);
        let past = self.progress.is_past(run, told.bump);
        let known = self.progress.knows(run)
            && Lane::ALL.into_iter().all(|lane| {
                let lane = (self.progress.lane(run, lane), told.lane(lane));
                lane.0.is_some_and(|known| known.head() >= lane.1)
            });
        if own || past || known || !self.may_follow(run) || !self.may_be(&told) {
            return;
        }
        self.progress
            .lane_mut(run, Lane::Bump)
            .learn_head(told.bump);
        if !self.progress.is_retired(run) {
            let lane = self.progress.lane_mut(run, Lane::Directory);
            lane.learn_head(told.directory);
        }
    }

    /// Whether events with these numbers may be taken from a peer.
    pub(super) fn may_take(
        &self,
        origin: Incarnation,
        lane: Lane,
        first: u64,
        count: usize,
    ) -> bool {
        let last = first.checked_add(count as u64);
        let numbered = first > 0 && last.is_some_and(|last| self.may_exist(origin, lane, last));
        let of_run = origin != self.config.incarnation && !origin.is_retirements();
        numbered && of_run && self.may_follow(origin)
    }

    /// Whether an event with this number can have been issued.
    pub(super) fn may_exist(&self, origin: Incarnation, lane: Lane, sequence: u64) -> bool {
        match self.progress.lane(origin, lane) {
            Some(lane) => lane.plausible(sequence),
            None => LaneProgress::default().plausible(sequence),
        }
    }

    /// Whether a peer's word on heads can be true, and says anything.
    pub(super) fn may_be(&self, head: &OriginHead) -> bool {
        let told = head.bump > 0 || head.directory > 0;
        told && Lane::ALL
            .into_iter()
            .all(|lane| self.may_exist(head.incarnation, lane, head.lane(lane)))
    }

    /// What is applied in place of a peer's event. Top-level classes are never evicted, so a bump that would bring in
    /// more of them than twice the limit counts as a bump of everything; origins refuse such a bump before that. It is
    /// the one place where a receiver widens an event, and where sidecars may therefore disagree on tokens until the
    /// next bump of everything (docs/decisions/0004).
    pub(super) fn within_limits(&self, event: &Arc<BumpEvent>) -> Arc<BumpEvent> {
        let most = 2 * self.config.limits.top_level_classes_max;
        let (classes, purge) = match &**event {
            BumpEvent::Bump(bump) => (&bump.classes[..], bump.purge),
            BumpEvent::Shape(new) => (std::slice::from_ref(&new.shape.table), PurgeMode::default()),
            BumpEvent::Floor(_) | BumpEvent::Rows(_) => return event.clone(),
        };
        let fresh = classes
            .iter()
            .filter(|class| !class.is_reserved() && !self.versions.has_top(class));
        let fresh = fresh.map(ClassPath::top).collect::<BTreeSet<_>>().len();
        if fresh == 0 || self.versions.tops() + fresh <= most {
            return event.clone();
        }
        Arc::new(BumpEvent::Bump(Bump {
            classes: vec![ClassPath::everything()],
            matching: Match::Any,
            purge,
        }))
    }

    /// Takes bumps from a peer, which may have passed them on; then their origin waits for an acknowledgement or does not.
    pub(super) fn remote_bumps(
        &mut self,
        (from, passed_on): (Incarnation, Option<bool>),
        (origin, first, events): (Incarnation, u64, &[Arc<BumpEvent>]),
        now: Time,
        effects: &mut Effects,
    ) {
        if !self.may_take(origin, Lane::Bump, first, events.len()) {
            self.counters.peer_messages_refused += 1;
            return;
        }
        let past = self
            .progress
            .is_past(origin, first + events.len() as u64 - 1);
        if past || self.is_old_news(origin, from) {
            self.counters.events_duplicate += events.len() as u64;
            return;
        }
        let mut writes = Vec::new();
        let mut above = Vec::new();
        let mut refused = Vec::new();
        for (sequence, event) in (first..).zip(events) {
            let id = EventId { origin, sequence };
            if self.progress.has(id) {
                above.push(sequence);
                self.counters.events_duplicate += 1;
            } else if self.names_strangers(event) {
                refused.push((id, event.clone()));
            } else {
                above.push(sequence);
                writes.extend(self.apply_remote(id, event, effects));
            }
        }
        self.floors_refused(from, refused, now, effects);
        writes.extend(self.renewed(origin, first, events));
        let watermark = self.progress.lane_mut(origin, Lane::Bump).watermark();
        above.retain(|sequence| *sequence > watermark);
        if !writes.is_empty() {
            writes.push(Write::Progress {
                origin,
                lane: Lane::Bump,
                watermark,
            });
        }
        let answer = match passed_on {
            _ if from == origin => Answer::Always,
            Some(false) => Answer::Later,
            Some(true) | None => Answer::WhereNew,
        };
        self.acknowledge(answer, origin, (watermark, above), writes, effects);
        // The origin evicts when its own table is too large; what others evict beyond that, they evict together. Behind
        // the writes: a class must not be written again after its floor swallowed it.
        self.evict_if_overfull(OVERFULL_BY_OTHERS, effects);
    }

    /// Applies a peer's event that is new here; the writes by which it enters the store.
    fn apply_remote(
        &mut self,
        id: EventId,
        event: &Arc<BumpEvent>,
        effects: &mut Effects,
    ) -> Vec<Write> {
        let EventId { origin, sequence } = id;
        self.counters.bumps_remote += 1;
        let logged = event.clone();
        let event = &self.within_limits(&self.meant_here(event));
        if let Some(vector) = event.vector() {
            self.retirements_heard(vector);
        }
        let evict = match &**event {
            BumpEvent::Floor(floor) => self.versions.bucket_classes(&floor.top, floor.bucket),
            _ => Vec::new(),
        };
        let touched = self.leaves_touched(id, &logged);
        let changed = self.apply_event(id, event);
        self.leaves_follow(&logged, touched);
        if !changed {
            // The tokens stay, so what was registered under them counts as known; but the event takes it out.
            self.suppressed = Suppressed::default();
        }
        self.progress.lane_mut(origin, Lane::Bump).apply(sequence);
        let mut writes = vec![Write::Log {
            origin,
            sequence,
            event: Event::Bump(logged),
        }];
        match &**event {
            // A class that is not held now is covered by its floor: a record of it would never be evicted again.
            BumpEvent::Bump(bump) => {
                let held = |write: &Write| match write {
                    Write::JoinClass { class, .. } => self.versions.holds(class),
                    _ => true,
                };
                let mut bumped = bump_writes(id, bump, true);
                if self.progress.is_retired(origin) {
                    self.versions.map_writes(&mut bumped);
                }
                writes.extend(bumped.into_iter().filter(held));
            }
            BumpEvent::Floor(floor) => {
                let mut floor = floor.clone();
                floor.vector.raise(origin, sequence);
                floor.vector = self.versions.image(&floor.vector);
                writes.extend(self.rewritten_first(&floor.top, floor.bucket, &evict));
                writes.push(Write::JoinFloor { floor, evict });
            }
            BumpEvent::Shape(new) => writes.extend(self.shape_heard(id, new, effects)),
            BumpEvent::Rows(_) => unreachable!("invariant: a change of rows means a bump"),
        }
        effects.actions.push(Action::Applied(id, event.clone()));
        writes
    }

    /// Queues the writes of a message of bumps, and the word to their origin that they are flushed. Duplicates are
    /// acknowledged too, behind whatever of theirs is still being written: the first answer may be lost. And so is what
    /// came by way of another peer.
    fn acknowledge(
        &mut self,
        answer: Answer,
        to: Incarnation,
        (watermark, above): (u64, Vec<u64>),
        writes: Vec<Write>,
        effects: &mut Effects,
    ) {
        let known = || self.members.of_run(to).is_some();
        if answer == Answer::Always || !writes.is_empty() && known() {
            let ack = Pending::Ack {
                at_once: answer != Answer::Later,
                to,
                watermark,
                above,
            };
            self.write(effects, writes, ack);
        } else if !writes.is_empty() {
            self.write(effects, writes, Pending::Nothing);
        }
    }

    /// Registrations that were made with knowledge of these bumps and have run ahead of them.
    pub(super) fn renewed(
        &mut self,
        origin: Incarnation,
        first: u64,
        events: &[Arc<BumpEvent>],
    ) -> Option<Write> {
        if self.ahead.batches.is_empty() {
            return None;
        }
        // By class, the first event of this message that bumps it: a stamp that covers any of them covers the first.
        let mut bumped: HashMap<&str, u64> = HashMap::new();
        let meant: Vec<_> = events.iter().map(|event| self.meant_here(event)).collect();
        for (sequence, event) in (first..).zip(&meant) {
            if let BumpEvent::Bump(bump) = &**event {
                for class in &bump.classes {
                    bumped.entry(class.as_str()).or_insert(sequence);
                }
            }
        }
        let concerned = |item: &Registration, stamp: &VersionVector| {
            let prefixes = item.classes.iter().flat_map(ClassPath::prefixes);
            prefixes
                .chain([EVERYTHING])
                .filter_map(|prefix| bumped.get(prefix))
                .any(|&sequence| stamp.covers(EventId { origin, sequence }))
        };
        let registrations: Vec<_> = self
            .ahead
            .batches
            .iter()
            .flat_map(|batch| {
                batch
                    .registrations
                    .iter()
                    .map(move |item| (item, &batch.stamp))
            })
            .filter(|(item, stamp)| concerned(item, stamp))
            .filter(|(item, stamp)| !self.versions.exceeds(&item.classes, stamp))
            .map(|(item, _)| item.clone())
            .collect();
        self.ahead.review(&self.progress);
        let own = false;
        (!registrations.is_empty()).then_some(Write::Register { registrations, own })
    }

    pub(super) fn remote_batches(
        &mut self,
        from: Incarnation,
        (origin, first): (Incarnation, u64),
        batches: &[Arc<RegistrationBatch>],
        effects: &mut Effects,
    ) {
        if !self.may_take(origin, Lane::Directory, first, batches.len()) {
            self.counters.peer_messages_refused += 1;
            return;
        }
        if self.progress.is_retired(origin) || self.is_old_news(origin, from) {
            // Its addresses are purged by those who have them, or lapse: nothing is fresh by registrations.
            self.counters.events_duplicate += batches.len() as u64;
            return;
        }
        for (sequence, batch) in (first..).zip(batches) {
            if !self
                .progress
                .lane_mut(origin, Lane::Directory)
                .apply(sequence)
            {
                self.counters.events_duplicate += 1;
                continue;
            }
            let watermark = self.progress.lane_mut(origin, Lane::Directory).watermark();
            let (late, good): (Vec<_>, Vec<_>) = batch
                .registrations
                .iter()
                .cloned()
                .partition(|item| self.versions.exceeds(&item.classes, &batch.stamp));
            if !late.is_empty() {
                self.counters.registrations_condemned += late.len() as u64;
                let expires = last_expiry(&late);
                let addresses = late
                    .into_iter()
                    .map(|registration| registration.address)
                    .collect();
                effects.actions.push(Action::Purge {
                    addresses,
                    expires,
                    mode: PurgeMode::Hard,
                });
            }
            let writes = [
                Write::Log {
                    origin,
                    sequence,
                    event: Event::Directory(batch.clone()),
                },
                Write::Register {
                    registrations: good,
                    own: false,
                },
                Write::Progress {
                    origin,
                    lane: Lane::Directory,
                    watermark,
                },
            ];
            if !self.progress.dominates(&batch.stamp) {
                self.ahead.push(batch.clone());
            }
            let pending = Pending::RemoteBatch {
                batch: batch.clone(),
                judged: self.versions.stamp(),
            };
            self.write(effects, writes, pending);
        }
    }
}
