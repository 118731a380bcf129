//! What was waiting for its flush.
//!
//! An own event influences no token, push or reply before it is flushed (G1). Registrations are judged a second time
//! here: a bump that was applied while they were being written has met them only now (G4).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::Core;
use super::app::{Call, InDirectory};
use super::effects::{
    Action, CommitId, CondemnReason, Effects, PeerMessage, ReceiptLevel, Reply, Span, Ticket,
    Verdict,
};
use crate::event::{
    BATCH_REGISTRATIONS_MAX, BumpEvent, PurgeMode, Registration, RegistrationBatch,
};
use crate::id::{EventId, Incarnation, Lane, Time, UnixSeconds};
use crate::names::{Address, NodeId};
use crate::progress::LaneProgress;
use crate::roster::{Mark, Say};
use crate::store::Write;
use crate::versions::Stamp;

/// The most own events pushed in one message.
const PUSHED_EVENTS_MAX: usize = 1_000;
/// The most classes, or entries of floors, in one message of own events, unless one event has more.
const PUSHED_CLASSES_MAX: usize = 10_000;
/// The most own registration batches pushed in one message; together they have no more registrations than one may have.
const PUSHED_BATCHES_MAX: usize = 64;

/// Work that waits for a flush.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the largest are words about the roster, and few are said"
)]
pub(super) enum Pending {
    /// Nobody waits.
    Nothing,
    /// An event of this sidecar's bump lane, what it means here, and the call that wants a receipt.
    OwnBump {
        id: EventId,
        event: Arc<BumpEvent>,
        meant: Arc<BumpEvent>,
        call: Option<(Ticket, ReceiptLevel, Time)>,
    },
    /// Registration batches of this sidecar.
    OwnBatch(OwnBatch),
    /// Bump-lane events of a running peer, which wants to know.
    Ack {
        /// Else with the next grant.
        at_once: bool,
        to: Incarnation,
        watermark: u64,
        above: Vec<u64>,
    },
    /// A peer wants a part of the log, or a snapshot, of what is flushed by then.
    Serve(Action),
    /// What this sidecar has to say of the roster, once its record is on disk.
    Roster {
        mark: Mark,
        history: Option<Incarnation>,
        say: Vec<(NodeId, Say)>,
    },
    /// This sidecar's departure, told once nothing of its own is being written.
    Leave,
    /// A piece of what retiring runs has changed.
    Retirement,
    /// A view that tells this run that it lost track.
    LostTrack,
    /// Something about write intents.
    Intent(super::intents::Work),
    /// A registration batch of a peer, judged at this stamp.
    RemoteBatch {
        batch: Arc<RegistrationBatch>,
        judged: Stamp,
    },
}

/// Registration batches being written, and the calls that wait for them.
#[derive(Clone, Debug)]
pub(super) struct OwnBatch {
    pub(super) batches: Vec<(u64, Arc<RegistrationBatch>)>,
    pub(super) calls: Vec<Call>,
}

impl Core {
    pub(super) fn flushed(&mut self, commit: CommitId, now: Time, effects: &mut Effects) {
        let mut pushes: Vec<(u64, Arc<BumpEvent>)> = Vec::new();
        let mut called = Vec::new();
        let mut waited_for = false;
        while let Some((id, _)) = self.pending.front()
            && *id <= commit
        {
            let Some((_, pending)) = self.pending.pop_front() else {
                break;
            };
            match pending {
                Pending::Nothing => {}
                Pending::Retirement => self.retirement_flushed(),
                Pending::LostTrack => self.end_lost(effects),
                Pending::OwnBump {
                    id,
                    event,
                    meant,
                    call,
                } => {
                    let touched = self.leaves_touched(id, &event);
                    self.apply_own(id, &meant, effects);
                    self.leaves_follow(&event, touched);
                    pushes.push((id.sequence, event));
                    if let Some(call) = call {
                        waited_for |= call.1 > ReceiptLevel::One;
                        self.await_receipt(id, call, now);
                        called.push(id.sequence);
                    }
                }
                Pending::OwnBatch(batch) => self.own_batch_flushed(batch, now, effects),
                Pending::Ack {
                    at_once,
                    to,
                    watermark,
                    above,
                } => {
                    if let Some(member) = self.members.by_incarnation(to) {
                        member.told = Some((watermark, above));
                    }
                    if at_once {
                        self.tell_flushed(to, effects);
                    }
                }
                Pending::Roster { mark, history, say } => {
                    self.roster_flushed(mark, (history, say), now, effects);
                }
                Pending::Leave => self.leave_behind_tables(now, effects),
                Pending::Serve(served) => effects.actions.push(served),
                Pending::Intent(work) => self.intent_flushed(work, now, effects),
                Pending::RemoteBatch { batch, judged } => {
                    self.remote_batch_flushed(&batch, judged, effects);
                }
            }
        }
        if !pushes.is_empty() {
            let origin = self.config.incarnation;
            let messages = pushed(pushes, PUSHED_EVENTS_MAX, PUSHED_CLASSES_MAX, |event| {
                event.weight()
            });
            let messages = messages.into_iter().flat_map(|(first, events)| {
                let message = PeerMessage::Bumps {
                    origin,
                    first,
                    events,
                };
                self.push(message, waited_for, now)
            });
            let messages: Vec<_> = messages.collect();
            // Before any reply in `effects`: a push that leaves later would make every receipt wait longer.
            effects.actions.splice(0..0, messages);
            self.evict_if_overfull(None, effects);
        }
        self.review_retirements(effects);
        self.write_retirements(effects);
        self.review_freshness(now);
        self.settle(called, now, effects);
    }

    /// Tells the peers that this sidecar leaves: all that it acknowledged is flushed. Peers do not answer one that left,
    /// so calls that still wait for receipts (the drain has cut them off) are answered first.
    pub(super) fn leave(&mut self, now: Time, effects: &mut Effects) {
        self.settle_for_good(now, effects);
        let head = |lane| {
            self.progress
                .lane(self.config.incarnation, lane)
                .map_or(0, LaneProgress::head)
        };
        // What it has of others may be with nobody else who stays, and nobody will ask it again.
        effects.actions.push(Action::Broadcast(PeerMessage::Grant {
            nonce: 0,
            duration: Duration::ZERO,
            settled: false,
            heads: self.progress.told_heads(),
            span: Span::default(),
            lacked: self.progress.holes(),
        }));
        effects.actions.push(Action::Broadcast(PeerMessage::Leave {
            bump_head: head(Lane::Bump),
            directory_head: head(Lane::Directory),
        }));
        self.views.farewell = Some(now);
        self.review_roster(now, effects);
    }

    fn apply_own(&mut self, id: EventId, event: &Arc<BumpEvent>, effects: &mut Effects) {
        match &**event {
            BumpEvent::Floor(_) => self.apply_own_floor(id, event, effects),
            BumpEvent::Bump(bump) => {
                self.apply_event(id, event);
                self.admitted.applied(bump);
            }
            BumpEvent::Shape(new) => {
                self.apply_event(id, event);
                self.shape_written(id, &new.shape);
            }
            BumpEvent::Rows(_) => unreachable!("invariant: a change of rows means a bump"),
        }
        self.progress
            .lane_mut(id.origin, Lane::Bump)
            .apply(id.sequence);
        effects.actions.push(Action::Applied(id, event.clone()));
    }

    /// Applies a bump-lane event to the versions and the history; tells whether any token changed.
    pub(super) fn apply_event(&mut self, id: EventId, event: &BumpEvent) -> bool {
        let before = self.versions.stamp();
        let changed = match event {
            BumpEvent::Bump(bump) => {
                let window = self.stale_window;
                self.versions.keep_stale(id, bump, window, self.now);
                self.versions.apply_bump(id, bump)
            }
            BumpEvent::Floor(floor) => self.versions.apply_floor(id, floor),
            BumpEvent::Shape(new) => {
                let mut vector = new.vector.clone();
                vector.raise(id.origin, id.sequence);
                self.versions.join_part(&new.shape.class(), &[], &vector)
            }
            BumpEvent::Rows(_) => unreachable!("invariant: a change of rows means a bump"),
        };
        self.history.note(self.versions.stamp(), id);
        self.tell_tables(id, event, before);
        changed
    }

    fn own_batch_flushed(&mut self, own: OwnBatch, now: Time, effects: &mut Effects) {
        let mut late = Vec::new();
        for mut call in own.calls {
            for item in call.waiting {
                let listed = item.directory != InDirectory::No;
                let condemned = self
                    .versions
                    .changed_since(&item.registration.classes, item.stamp);
                if condemned {
                    self.counters.registrations_condemned += 1;
                    call.verdicts[item.position] = Verdict::Condemned(CondemnReason::Bumped);
                    late.extend(listed.then_some(item.registration));
                } else if item.directory == InDirectory::New {
                    self.counters.registrations_accepted += 1;
                }
            }
            effects
                .actions
                .push(Action::Reply(call.ticket, Reply::Registered(call.verdicts)));
        }
        self.condemn(late, effects);
        let origin = self.config.incarnation;
        for (sequence, _) in &own.batches {
            self.progress
                .lane_mut(origin, Lane::Directory)
                .apply(*sequence);
        }
        let messages = pushed(
            own.batches,
            PUSHED_BATCHES_MAX,
            BATCH_REGISTRATIONS_MAX,
            |batch| batch.registrations.len(),
        );
        for (first, batches) in messages {
            let message = PeerMessage::Directory {
                origin,
                first,
                batches,
            };
            let pushes = self.push(message, false, now);
            effects.actions.extend(pushes);
        }
    }

    fn remote_batch_flushed(
        &mut self,
        batch: &RegistrationBatch,
        judged: Stamp,
        effects: &mut Effects,
    ) {
        if judged == self.versions.stamp() {
            return;
        }
        let late: Vec<_> = batch
            .registrations
            .iter()
            .filter(|item| self.versions.changed_since(&item.classes, judged))
            .filter(|item| self.versions.exceeds(&item.classes, &batch.stamp))
            .cloned()
            .collect();
        self.counters.registrations_condemned += late.len() as u64;
        self.condemn(late, effects);
    }

    /// Takes registrations out of the directory and their addresses out of the caches.
    fn condemn(&mut self, late: Vec<Registration>, effects: &mut Effects) {
        if late.is_empty() {
            return;
        }
        let addresses = late
            .iter()
            .map(|registration| registration.address.clone())
            .collect();
        let expires = last_expiry(&late);
        effects.actions.push(Action::Purge {
            addresses,
            expires,
            mode: PurgeMode::Hard,
        });
        // A later registration of the same address is on its way to the disk: taking the address out now would lose it.
        let renewed: HashSet<&Address> = self
            .pending
            .iter()
            .flat_map(|(_, pending)| pending.batches())
            .flat_map(|batch| &batch.registrations)
            .map(|registration| &registration.address)
            .collect();
        let registrations: Vec<_> = late
            .into_iter()
            .filter(|registration| !renewed.contains(&registration.address))
            .collect();
        if !registrations.is_empty() {
            self.write(
                effects,
                [Write::Unregister { registrations }],
                Pending::Nothing,
            );
        }
    }
}

impl Pending {
    /// The registration batches that are being written.
    fn batches(&self) -> impl Iterator<Item = &Arc<RegistrationBatch>> {
        let own = match self {
            Self::OwnBatch(own) => own.batches.as_slice(),
            _ => &[],
        };
        let remote = match self {
            Self::RemoteBatch { batch, .. } => Some(batch),
            _ => None,
        };
        own.iter().map(|(_, batch)| batch).chain(remote)
    }
}

/// When the last of the registered values has ended.
pub(super) fn last_expiry(registrations: &[Registration]) -> UnixSeconds {
    let expiries = registrations
        .iter()
        .map(|registration| registration.expires);
    expiries.max().unwrap_or_default()
}

/// Cuts consecutive events into messages of so many at most, and of so much weight unless a single one weighs more.
fn pushed<T>(
    events: Vec<(u64, T)>,
    most: usize,
    weight_max: usize,
    weigh: impl Fn(&T) -> usize,
) -> Vec<(u64, Vec<T>)> {
    let mut messages: Vec<(u64, Vec<T>)> = Vec::new();
    let mut weight = 0;
    for (sequence, event) in events {
        let more = weigh(&event);
        match messages.last_mut() {
            Some((_, message)) if message.len() < most && weight + more <= weight_max => {
                weight += more;
                message.push(event);
            }
            _ => {
                weight = more;
                messages.push((sequence, vec![event]));
            }
        }
    }
    messages
}
