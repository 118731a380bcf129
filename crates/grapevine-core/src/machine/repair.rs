//! Gaps and how they are filled.
//!
//! Pushes may be lost: heads, which travel with every grant, tell what exists. A gap that stays open for a moment is
//! pulled, from its origin first if that has spoken since, and then from whoever is linked, with a growing patience. An
//! origin that has not is behind a stream that lost a packet, like as not, and its answer would wait there with its push:
//! whoever spoke last, and most likely told of the event, is asked in its place. What a holder has compacted comes as a
//! snapshot of state (`snapshot`).

use std::collections::BTreeMap;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use super::Core;
use super::derived::Derived;
use super::effects::{Action, Effects, PeerMessage};
use super::flushed::Pending;
use super::losses::Suspect;
use super::members::Member;
use super::snapshot::Receiving;
use crate::id::{Incarnation, Lane, Time};
use crate::progress::Revision;

/// How long a gap may stay before it is pulled: a push is usually on its way. Longer by up to a half, as all waits here:
/// who lost the same push must not ask for it in step.
const PATIENCE: Duration = Duration::from_millis(25);
/// How long a pull may go unanswered before another holder is asked; doubled each time, up to thirty-two-fold.
const PULL_TIMEOUT: Duration = Duration::from_millis(200);
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

/// A run of missing events.
#[derive(Clone, Debug)]
struct Gap {
    last: u64,
    /// When it was noted.
    since: Time,
    asked_until: Option<Time>,
    attempts: u32,
}

/// Whose, of which lane, and its first sequence.
pub(super) type GapKey = (Incarnation, Lane, u64);

/// What is being repaired.
#[derive(Clone, Debug, Default)]
pub(super) struct Repair {
    /// At most [`GAPS_MAX`]; others come up as these are filled.
    gaps: BTreeMap<GapKey, Gap>,
    pub(super) snapshot: Option<Receiving>,
    pub(super) snapshots: u64,
    next: Option<Time>,
    /// What the table of gaps was made from.
    of: Derived<Option<Revision>>,
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
                due.push((gap.attempts, key, gap.since));
            }
        }
        // What nobody answers must not keep others waiting. Those that find no room wait for an answer, or until one is
        // overdue; those that find nobody to ask wait for a link.
        due.sort_unstable();
        for (attempts, key, since) in due.into_iter().take(free) {
            let Some(to) = self.holder(key.0, attempts, since) else {
                break;
            };
            let asked = self.ask(to, key, now, effects);
            next = Some(next.map_or(asked, |next| next.min(asked)));
        }
        self.repair.next = next;
    }

    /// For how long the event has been missing that has been so for longest, of either lane.
    pub fn missing_for(&self, now: Time) -> Option<Duration> {
        let since = self.repair.gaps.values().map(|gap| gap.since).min()?;
        Some(now.since(since))
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

    /// Whether the table has the gaps that there are.
    fn gaps_are_noted(&self) -> bool {
        let gaps = self.progress.gaps(LANE_GAPS_MAX).take(GAPS_MAX);
        let gaps = gaps.map(|(origin, lane, (first, _))| (origin, lane, first));
        gaps.eq(self.repair.gaps.keys().copied())
    }

    /// Brings the table of gaps up to date.
    fn note_gaps(&mut self, now: Time) {
        let revision = self.progress.revision();
        if self.repair.of.is_some_and(|of| revision.is_of(of)) {
            debug_assert!(
                self.gaps_are_noted(),
                "invariant: without a change there is no other gap"
            );
            return;
        }
        self.repair.of = Derived(Some(revision));
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
        let timeout = PULL_TIMEOUT * (1 << attempts.min(5));
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

    /// Parts of a snapshot may be missing once its link broke, or once its sender was no member, for then they were refused: it
    /// is over.
    pub(super) fn abandon_snapshot(&mut self, from: Incarnation) {
        self.repair
            .snapshot
            .take_if(|snapshot| snapshot.from == from);
    }

    /// Whom to ask: the origin itself if it has spoken since the gap was noted, else whoever spoke last, then each linked
    /// member in turn.
    fn holder(&self, origin: Incarnation, attempts: u32, since: Time) -> Option<Incarnation> {
        let linked: Vec<_> = self
            .members
            .iter()
            .filter(|member| member.linked())
            .collect();
        if attempts == 0 {
            let speaks =
                |member: &&Member| member.hello.incarnation == origin && member.last_heard >= since;
            let origin = linked.iter().copied().find(speaks);
            let latest = || {
                linked
                    .iter()
                    .max_by_key(|member| member.last_heard)
                    .copied()
            };
            return Some(origin.or_else(latest)?.hello.incarnation);
        }
        // Different sidecars begin at different holders, and different gaps do, so none of them is asked for all.
        let spread = self.config.incarnation.get().wrapping_add(origin.get());
        let shift = usize::try_from(spread.checked_rem(linked.len() as u128)?).unwrap_or(0);
        let member = linked[(attempts as usize + shift) % linked.len()];
        Some(member.hello.incarnation)
    }
}
