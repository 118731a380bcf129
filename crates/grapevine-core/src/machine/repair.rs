//! Gaps and how they are filled.
//!
//! Pushes may be lost: heads, which travel with every grant, tell what exists. A gap that stays open for a moment is
//! pulled, from its origin first and then from whoever is linked, with a growing patience. What a holder has compacted
//! comes as a snapshot of state: the holder announces its flushed watermarks (the cut) before it reads the first chunk;
//! the receiver joins the chunks and adopts the cut with the last one, so a snapshot broken off has changed nothing that
//! could hide a hole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use super::Core;
use super::app::Suppressed;
use super::effects::{Action, Effects, PeerMessage, as_heads};
use super::flushed::Pending;
use super::losses::Suspect;
use super::remote::OVERFULL_BY_OTHERS;
use crate::event::{
    BATCH_REGISTRATIONS_MAX, Floor, Match, PurgeMode, Registration, RegistrationBatch,
};
use crate::id::{EventId, Incarnation, Lane, Time};
use crate::names::ClassPath;
use crate::progress::OriginHead;
use crate::store::{RecoveredClass, Write};
use crate::vector::VersionVector;

/// How long a gap may stay before it is pulled: a push is usually on its way. Longer by up to a half, as all waits here:
/// who lost the same push must not ask for it in step.
const PATIENCE: Duration = Duration::from_millis(25);
/// How long a pull may go unanswered before another holder is asked; doubled each time, up to sixteenfold.
const PULL_TIMEOUT: Duration = Duration::from_millis(500);
/// Gaps looked after at once.
const GAPS_MAX: usize = 10_000;
/// Gaps of one lane looked after at once: one that nobody can fill must not hide those behind it.
const LANE_GAPS_MAX: usize = 64;
/// Pulls under way at once.
const PULLS_MAX: usize = 32;
/// Bump-lane events served at once.
const PULL_BUMPS_MAX: u64 = 1_000;
/// Directory-lane batches served at once.
const PULL_BATCHES_MAX: u64 = 64;
/// How long the answer to a request for one may take: the request or its answer may be lost.
const SNAPSHOT_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a snapshot may stall: longer than a busy disk holds its chunks up. The end of a link ends it at once.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_mins(1);

/// A run of missing events.
#[derive(Debug)]
struct Gap {
    last: u64,
    /// When it was noted, and the apply index of that moment.
    since: Time,
    asked_until: Option<Time>,
    attempts: u32,
}

/// Whose, of which lane, and its first sequence.
pub(super) type GapKey = (Incarnation, Lane, u64);

/// A snapshot being received.
#[derive(Debug)]
struct Receiving {
    id: u64,
    from: Incarnation,
    cut: Option<Vec<OriginHead>>,
    until: Time,
}

/// What is being repaired.
#[derive(Debug, Default)]
pub(super) struct Repair {
    /// At most [`GAPS_MAX`]; others come up as these are filled.
    gaps: BTreeMap<GapKey, Gap>,
    snapshot: Option<Receiving>,
    snapshots: u64,
    next: Option<Time>,
}

impl Repair {
    pub(super) fn next_wake(&self) -> Option<Time> {
        self.next
    }
}

impl Core {
    /// Looks for gaps and asks for what is missing.
    pub(super) fn review_repair(&mut self, now: Time, effects: &mut Effects) {
        self.repair
            .snapshot
            .take_if(|snapshot| now >= snapshot.until);
        self.note_gaps(now);
        let patience = if self.caught_up {
            PATIENCE
        } else {
            Duration::ZERO
        };
        // Registrations come with the snapshot that is under way; bumps are asked for all the same.
        let lanes = if self.repair.snapshot.is_some() {
            &Lane::ALL[..1]
        } else {
            &Lane::ALL[..]
        };
        let mut free = PULLS_MAX;
        let mut next = self.repair.snapshot.as_ref().map(|snapshot| snapshot.until);
        let mut due = Vec::new();
        for (&key, gap) in &self.repair.gaps {
            let at = gap
                .asked_until
                .unwrap_or_else(|| gap.since.plus(self.spread(patience, key, 0)));
            if at > now {
                free = free.saturating_sub(usize::from(gap.asked_until.is_some()));
                next = Some(next.map_or(at, |next| next.min(at)));
            } else if lanes.contains(&key.1) {
                due.push((gap.attempts, key));
            }
        }
        // What nobody answers must not keep others waiting. Those that find no room wait for an answer, or until one is
        // overdue; those that find nobody to ask wait for a link.
        due.sort_unstable();
        for (attempts, key) in due.into_iter().take(free) {
            let Some(to) = self.holder(key.0, attempts) else {
                break;
            };
            let asked = self.ask(to, key, now, effects);
            next = Some(next.map_or(asked, |next| next.min(asked)));
        }
        self.repair.next = next;
    }

    /// Runs of bump-lane events that are missing, and since when.
    pub(super) fn missing_bumps(&self) -> impl Iterator<Item = Suspect> + '_ {
        let gaps = self.repair.gaps.iter();
        let bumps = gaps.filter(|((_, lane, _), _)| *lane == Lane::Bump);
        bumps.map(|(&key, gap)| Suspect {
            key,
            last: gap.last,
            since: gap.since,
        })
    }

    /// Brings the table of gaps up to date.
    fn note_gaps(&mut self, now: Time) {
        let mut known = std::mem::take(&mut self.repair.gaps);
        for (origin, lane, (first, last)) in self.progress.gaps(LANE_GAPS_MAX).take(GAPS_MAX) {
            // The run that it is what is left of.
            let before = known
                .range(..=(origin, lane, first))
                .next_back()
                .filter(|((of, on, _), gap)| (*of, *on) == (origin, lane) && gap.last >= first)
                .map(|(&key, _)| key);
            let gap = match before.and_then(|key| Some((key.2, known.remove(&key)?))) {
                Some((same, gap)) if same == first && gap.last >= last => Gap { last, ..gap },
                // More of it is known to be missing than was.
                Some((same, gap)) if same == first => Gap {
                    last,
                    since: now,
                    ..gap
                },
                // It moved: what was asked for is arriving, so the rest is asked for without delay.
                Some((_, gap)) if gap.asked_until.is_some() => Gap {
                    last,
                    since: gap.since,
                    asked_until: Some(now),
                    attempts: 0,
                },
                _ => Gap {
                    last,
                    since: now,
                    asked_until: None,
                    attempts: 0,
                },
            };
            self.repair.gaps.insert((origin, lane, first), gap);
        }
    }

    /// Sends one pull; tells until when its answer may take.
    fn ask(&mut self, to: Incarnation, key: GapKey, now: Time, effects: &mut Effects) -> Time {
        let (origin, lane, first) = key;
        let in_table = "invariant: what is due is in the table";
        let attempts = self.repair.gaps.get(&key).expect(in_table).attempts;
        let timeout = PULL_TIMEOUT * (1 << attempts.min(4));
        let until = now.plus(self.spread(timeout, key, attempts + 1));
        let gap = self.repair.gaps.get_mut(&key).expect(in_table);
        gap.asked_until = Some(until);
        gap.attempts += 1;
        let last = gap.last;
        self.counters.pulls_sent += 1;
        let pull = PeerMessage::Pull {
            origin,
            lane,
            first,
            last,
        };
        effects.send(to, pull);
        until
    }

    /// A wait, longer by up to a half: by how much depends on who waits, for what and for which time, and on no dice.
    fn spread(&self, wait: Duration, (origin, lane, first): GapKey, attempts: u32) -> Duration {
        let mut seed = [0; 2 * Incarnation::LEN + 13];
        let (ids, numbers) = seed.split_at_mut(2 * Incarnation::LEN);
        ids[..Incarnation::LEN].copy_from_slice(&self.config.incarnation.to_bytes());
        ids[Incarnation::LEN..].copy_from_slice(&origin.to_bytes());
        numbers[..8].copy_from_slice(&first.to_be_bytes());
        numbers[8..12].copy_from_slice(&attempts.to_be_bytes());
        numbers[12] = u8::from(lane == Lane::Bump);
        let share = u32::try_from(xxh3_64(&seed) % 1_024).expect("invariant: below 1,024");
        wait + wait * share / 2_048
    }

    /// Serves what is held of a range, from the first held event on: what lies before it may be lost for good, and must
    /// not hide the rest. Behind the flush of what is being written, for the log does not have that yet. What this
    /// sidecar lacks altogether is not compacted: the asker is better served by another one.
    pub(super) fn pulled(
        &mut self,
        to: Incarnation,
        (origin, lane): (Incarnation, Lane),
        (first, last): (u64, u64),
        effects: &mut Effects,
    ) {
        let held = self
            .progress
            .lane(origin, lane)
            .and_then(|lane| lane.first_held(first, last));
        let Some(first) = held else {
            return;
        };
        let most = match lane {
            Lane::Bump => PULL_BUMPS_MAX,
            Lane::Directory => PULL_BATCHES_MAX,
        };
        let last = last.min(first.saturating_add(most - 1));
        self.counters.pulls_served += 1;
        let served = Action::ServeLog {
            to,
            origin,
            lane,
            first,
            last,
        };
        if self.pending.is_empty() {
            effects.actions.push(served);
        } else {
            self.write(effects, [], Pending::Serve(served));
        }
    }

    /// A link stands: what nobody answered so far is asked for anew.
    pub(super) fn renew_pulls(&mut self) {
        for gap in self.repair.gaps.values_mut() {
            if gap.attempts > 1 {
                gap.attempts = 0;
                gap.asked_until = None;
            }
        }
    }

    /// Parts of a snapshot may be missing once its link broke: it is over.
    pub(super) fn abandon_snapshot(&mut self, from: Incarnation) {
        self.repair
            .snapshot
            .take_if(|snapshot| snapshot.from == from);
    }

    /// Whom to ask: the origin itself first, then each linked member in turn.
    fn holder(&self, origin: Incarnation, attempts: u32) -> Option<Incarnation> {
        let linked: Vec<_> = self
            .members
            .iter()
            .filter(|member| member.linked())
            .map(|member| member.hello.incarnation)
            .collect();
        if linked.is_empty() {
            return None;
        }
        if attempts == 0 && linked.contains(&origin) {
            return Some(origin);
        }
        // Different sidecars begin at different holders, and different gaps do, so none of them is asked for all.
        let spread = self.config.incarnation.get().wrapping_add(origin.get());
        let shift = usize::try_from(spread % linked.len() as u128).unwrap_or(0);
        Some(linked[(attempts as usize + shift) % linked.len()])
    }

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
        self.repair.snapshots += 1;
        let id = self.repair.snapshots;
        self.repair.snapshot = Some(Receiving {
            id,
            from,
            cut: None,
            until: now.plus(SNAPSHOT_ANSWER_TIMEOUT),
        });
        self.counters.snapshots_requested += 1;
        effects.send(from, PeerMessage::SnapshotRequest { id });
    }

    pub(super) fn snapshot_requested(&mut self, from: Incarnation, id: u64, effects: &mut Effects) {
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
        let snapshot = self
            .repair
            .snapshot
            .as_mut()
            .filter(|s| s.from == from && s.id == id)?;
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
    }

    pub(super) fn snapshot_versions(
        &mut self,
        from: Incarnation,
        id: u64,
        classes: &[RecoveredClass],
        floors: &[Floor],
        now: Time,
        effects: &mut Effects,
    ) {
        if self
            .receiving(from, id, now)
            .is_none_or(|snapshot| snapshot.cut.is_none())
        {
            return;
        }
        let mut writes = self.join_floors(floors);
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
            writes.push(Write::JoinFloor {
                floor: floor.clone(),
                evict,
            });
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
                entries: (*entries).clone(),
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

    pub(super) fn snapshot_ended(&mut self, from: Incarnation, id: u64, effects: &mut Effects) {
        let Some(snapshot) = self
            .repair
            .snapshot
            .take_if(|s| s.from == from && s.id == id && s.cut.is_some())
        else {
            return;
        };
        let mut writes = Vec::new();
        for head in snapshot.cut.into_iter().flatten() {
            let own = head.incarnation == self.config.incarnation;
            if own || !self.may_follow(head.incarnation) || !self.may_be(&head) {
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
        // Stamps taken before cannot be told as vectors any more: their leases are unknown now.
        self.versions.note_change();
        self.history.cut(self.versions.stamp());
        self.counters.snapshots_adopted += 1;
        self.write(effects, writes, Pending::Nothing);
        effects.actions.push(Action::Resync);
        self.evict_if_overfull(OVERFULL_BY_OTHERS, effects);
    }
}
