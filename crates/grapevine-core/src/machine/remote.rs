//! Events of peers: applied on arrival, in any order, written behind, acknowledged when flushed.

use std::sync::Arc;

use super::Core;
use super::app::bump_writes;
use super::effects::{Action, Effects, PeerMessage};
use super::flushed::Pending;
use crate::event::{BumpEvent, Event, PurgeMode, RegistrationBatch};
use crate::id::{EventId, Incarnation, Lane, Time};
use crate::store::Write;

/// How far over its limits a table may grow by bumps of others before this sidecar evicts: limits differ and views do,
/// and every sidecar that evicts the same bucket invalidates it once more. An eighth.
const OVERFULL_BY_OTHERS: Option<usize> = Some(8);

impl Core {
    pub(super) fn peer_message(
        &mut self,
        from: Incarnation,
        message: PeerMessage,
        now: Time,
        effects: &mut Effects,
    ) {
        if !self.members.heard(from, now) {
            self.counters.peer_messages_refused += 1;
            return;
        }
        let left = matches!(message, PeerMessage::Leave { .. });
        match message {
            PeerMessage::Bumps {
                origin,
                first,
                events,
            } => self.remote_bumps(from, origin, first, &events, effects),
            PeerMessage::Directory {
                origin,
                first,
                batches,
            } => self.remote_batches(origin, first, &batches, effects),
            PeerMessage::Ack { watermark, above } => {
                self.acked(from, watermark, &above, now, effects);
            }
            PeerMessage::Probe { nonce } => self.probed(from, nonce, now, effects),
            PeerMessage::Grant {
                nonce,
                duration,
                heads,
            } => self.granted(from, nonce, duration, &heads, now, effects),
            PeerMessage::Pull {
                origin,
                lane,
                first,
                last,
            } => {
                // What this sidecar lacks itself is not compacted: the asker is better served by another one.
                if !self
                    .progress
                    .lane(origin, lane)
                    .is_some_and(|lane| lane.has(first))
                {
                    return;
                }
                self.counters.pulls_served += 1;
                effects.actions.push(Action::ServeLog {
                    to: from,
                    origin,
                    lane,
                    first,
                    last,
                });
            }
            PeerMessage::Compacted {
                origin,
                lane,
                first,
            } => self.compacted(from, (origin, lane, first), now, effects),
            PeerMessage::SnapshotRequest { id } => self.snapshot_requested(from, id, effects),
            PeerMessage::SnapshotBegin { id, cut } => self.snapshot_begun(from, id, cut, now),
            PeerMessage::SnapshotVersions {
                id,
                classes,
                floors,
            } => {
                self.snapshot_versions(from, id, &classes, &floors, now, effects);
            }
            PeerMessage::SnapshotDirectory { id, registrations } => {
                self.snapshot_directory(from, id, registrations, now, effects);
            }
            PeerMessage::SnapshotEnd { id } => self.snapshot_ended(from, id, effects),
            PeerMessage::Leave {
                bump_head,
                directory_head,
            } => {
                self.left(from, bump_head, directory_head, effects);
            }
        }
        self.review_freshness(now);
        self.review_repair(now, effects);
        if left {
            self.settle_receipts(now, effects);
        }
    }

    /// Whether events of an origin may be followed: it is known, or there is room.
    pub(super) fn may_follow(&self, origin: Incarnation) -> bool {
        self.progress.knows(origin) || self.progress.len() < self.config.limits.origins_max
    }

    /// Whether events with these numbers may be taken from a peer.
    fn may_take(&self, origin: Incarnation, first: u64, count: usize) -> bool {
        let numbered = first > 0 && first.checked_add(count as u64).is_some();
        numbered && origin != self.config.incarnation && self.may_follow(origin)
    }

    fn remote_bumps(
        &mut self,
        from: Incarnation,
        origin: Incarnation,
        first: u64,
        events: &[Arc<BumpEvent>],
        effects: &mut Effects,
    ) {
        if !self.may_take(origin, first, events.len()) {
            self.counters.peer_messages_refused += 1;
            return;
        }
        let mut writes = Vec::new();
        let mut above = Vec::new();
        for (sequence, event) in (first..).zip(events) {
            above.push(sequence);
            let id = EventId { origin, sequence };
            if self.progress.has(id) {
                self.counters.events_duplicate += 1;
                continue;
            }
            self.counters.bumps_remote += 1;
            let evict = match &**event {
                BumpEvent::Floor(floor) => self.versions.bucket_classes(&floor.top, floor.bucket),
                BumpEvent::Bump(_) => Vec::new(),
            };
            self.apply_event(id, event);
            self.progress.lane_mut(origin, Lane::Bump).apply(sequence);
            writes.push(Write::Log {
                origin,
                sequence,
                event: Event::Bump(event.clone()),
            });
            match &**event {
                // A class that is not held now is covered by its floor: a record of it would never be evicted again.
                BumpEvent::Bump(bump) => {
                    writes.extend(bump_writes(id, bump, true).into_iter().filter(
                        |write| match write {
                            Write::JoinClass { class, .. } => self.versions.holds(class),
                            _ => true,
                        },
                    ));
                }
                BumpEvent::Floor(floor) => {
                    let mut floor = floor.clone();
                    floor.vector.raise(origin, sequence);
                    writes.push(Write::JoinFloor { floor, evict });
                }
            }
            effects.actions.push(Action::Applied(id, event.clone()));
        }
        let watermark = self.progress.lane_mut(origin, Lane::Bump).watermark();
        above.retain(|sequence| *sequence > watermark);
        if !writes.is_empty() {
            writes.push(Write::Progress {
                origin,
                lane: Lane::Bump,
                watermark,
            });
        }
        // Duplicates are acknowledged too, behind whatever of theirs is still being written: the first answer may be
        // lost. And so is what came by way of another peer.
        let told =
            from == origin || !writes.is_empty() && self.members.by_incarnation(origin).is_some();
        if told {
            let to = origin;
            self.write(
                effects,
                writes,
                Pending::Ack {
                    to,
                    watermark,
                    above,
                },
            );
        } else if !writes.is_empty() {
            self.write(effects, writes, Pending::Nothing);
        }
        // The origin evicts when its own table is too large; what others evict beyond that, they evict together. Behind
        // the writes: a class must not be written again after its floor swallowed it.
        self.evict_if_overfull(OVERFULL_BY_OTHERS, effects);
    }

    fn remote_batches(
        &mut self,
        origin: Incarnation,
        first: u64,
        batches: &[Arc<RegistrationBatch>],
        effects: &mut Effects,
    ) {
        if !self.may_take(origin, first, batches.len()) {
            self.counters.peer_messages_refused += 1;
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
                let addresses = late
                    .into_iter()
                    .map(|registration| registration.address)
                    .collect();
                effects.actions.push(Action::Purge {
                    event: None,
                    addresses,
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
            let pending = Pending::RemoteBatch {
                batch: batch.clone(),
                judged: self.versions.stamp(),
            };
            self.write(effects, writes, pending);
        }
    }
}
