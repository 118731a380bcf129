//! Gaps and how they are filled.
//!
//! Pushes may be lost: heads, which travel with every grant, tell what exists. A gap that stays open for a moment is
//! pulled, from its origin first and then from whoever is linked, with a growing patience. What a holder has compacted
//! comes as a snapshot of state: the holder announces its flushed watermarks (the cut) before it reads the first chunk;
//! the receiver joins the chunks and adopts the cut with the last one, so a snapshot broken off has changed nothing that
//! could hide a hole.

use std::time::Duration;

use super::effects::{Action, Effects, PeerMessage, as_heads};
use super::flushed::Pending;
use super::{ByIncarnation, Core};
use crate::event::{BATCH_REGISTRATIONS_MAX, Floor, PurgeMode, Registration};
use crate::id::{EventId, Incarnation, Lane, Time};
use crate::progress::OriginHead;
use crate::store::{RecoveredClass, Write};

/// How long a gap may stay before it is pulled: a push is usually on its way.
const PATIENCE: Duration = Duration::from_millis(25);
/// How long a pull may go unanswered before another holder is asked; doubled each time, up to sixteenfold.
const PULL_TIMEOUT: Duration = Duration::from_millis(500);
/// Pulls under way at once.
const PULLS_MAX: usize = 32;
/// Bump-lane events asked for at once.
const PULL_BUMPS_MAX: u64 = 1_000;
/// Directory-lane batches asked for at once.
const PULL_BATCHES_MAX: u64 = 64;
/// How long a snapshot may stall.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(5);

/// A lane's gap.
#[derive(Debug)]
struct Gap {
    first: u64,
    since: Time,
    asked_until: Option<Time>,
    attempts: u32,
}

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
    gaps: ByIncarnation<[Option<Gap>; 2]>,
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
        if self
            .repair
            .snapshot
            .as_ref()
            .is_some_and(|snapshot| now >= snapshot.until)
        {
            self.repair.snapshot = None;
        }
        if let Some(snapshot) = &self.repair.snapshot {
            self.repair.next = Some(snapshot.until);
            return;
        }
        let open: Vec<_> = self.progress.gaps().take(10_000).collect();
        self.repair.next = None;
        if open.is_empty() {
            self.repair.gaps.clear();
            return;
        }
        let mut gaps = std::mem::take(&mut self.repair.gaps);
        let mut kept: ByIncarnation<[Option<Gap>; 2]> = ByIncarnation::new();
        let mut under_way = 0;
        for (origin, lane, (first, last)) in open {
            let at = usize::from(lane == Lane::Directory);
            let known = gaps.get_mut(&origin).and_then(|lanes| lanes[at].take());
            let mut gap = match known {
                Some(gap) if gap.first == first => gap,
                // It moved: what was asked for is arriving, so the rest is asked for without delay.
                Some(gap) if gap.asked_until.is_some() => Gap {
                    first,
                    since: gap.since,
                    asked_until: None,
                    attempts: 0,
                },
                _ => Gap {
                    first,
                    since: now,
                    asked_until: None,
                    attempts: 0,
                },
            };
            let patience = if self.caught_up {
                PATIENCE
            } else {
                Duration::ZERO
            };
            let due = gap.asked_until.unwrap_or_else(|| gap.since.plus(patience));
            if now >= due && under_way < PULLS_MAX {
                if let Some(to) = self.holder(origin, gap.attempts) {
                    let most = if lane == Lane::Bump {
                        PULL_BUMPS_MAX
                    } else {
                        PULL_BATCHES_MAX
                    };
                    let last = last.min(first.saturating_add(most - 1));
                    self.counters.pulls_sent += 1;
                    effects.send(
                        to,
                        PeerMessage::Pull {
                            origin,
                            lane,
                            first,
                            last,
                        },
                    );
                }
                gap.asked_until = Some(now.plus(PULL_TIMEOUT * (1 << gap.attempts.min(4))));
                gap.attempts += 1;
            }
            let wake = gap.asked_until.unwrap_or(due);
            self.repair.next = Some(self.repair.next.map_or(wake, |next| next.min(wake)));
            under_way += usize::from(gap.asked_until.is_some());
            kept.entry(origin).or_default()[at] = Some(gap);
        }
        self.repair.gaps = kept;
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
        // Different sidecars begin at different holders, so a common gap does not fall on one of them.
        let shift =
            usize::try_from(self.config.incarnation.get() % linked.len() as u128).unwrap_or(0);
        Some(linked[(attempts as usize + shift) % linked.len()])
    }

    pub(super) fn compacted(&mut self, from: Incarnation, now: Time, effects: &mut Effects) {
        if self.repair.snapshot.is_some() {
            return;
        }
        self.repair.snapshots += 1;
        let id = self.repair.snapshots;
        self.repair.snapshot = Some(Receiving {
            id,
            from,
            cut: None,
            until: now.plus(SNAPSHOT_TIMEOUT),
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
        self.write(effects, [], Pending::Snapshot { to: from, id, cut });
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
        let mut writes = Vec::new();
        for floor in floors {
            let evict = self.versions.bucket_classes(&floor.top, floor.bucket);
            self.versions.join_floor(floor);
            writes.push(Write::JoinFloor {
                floor: floor.clone(),
                evict,
            });
        }
        for class in classes {
            let changed = self.versions.join_class(class);
            let own = Vec::new();
            writes.push(Write::JoinClass {
                class: class.class.clone(),
                others: own,
                entries: class.entries.clone(),
            });
            for (others, entries) in &class.conjunctions {
                let (class, others, entries) =
                    (class.class.clone(), others.clone(), entries.clone());
                writes.push(Write::JoinClass {
                    class,
                    others,
                    entries,
                });
            }
            let last = class.entries.iter().next();
            if changed && let Some((origin, sequence)) = last {
                writes.push(Write::Take {
                    event: EventId { origin, sequence },
                    classes: vec![class.class.clone()],
                    matching: crate::event::Match::Any,
                    own_only: true,
                    purge: PurgeMode::Hard,
                });
            }
        }
        self.write(effects, writes, Pending::Nothing);
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
        let good = registrations
            .into_iter()
            .filter(|item| !self.versions.exceeds(&item.classes, &stamp))
            .collect();
        self.write(
            effects,
            [Write::Register {
                registrations: good,
                own: false,
            }],
            Pending::Nothing,
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
            if head.incarnation == self.config.incarnation || !self.may_follow(head.incarnation) {
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
    }
}
