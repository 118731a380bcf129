//! What was waiting for its flush.
//!
//! An own event influences no token, push or reply before it is flushed (G1). Registrations are judged a second time
//! here: a bump that was applied while they were being written has met them only now (G4).

use std::sync::Arc;

use super::Core;
use super::app::Call;
use super::effects::{
    Action, CommitId, CondemnReason, Effects, PeerMessage, ReceiptLevel, Reply, Ticket, Verdict,
};
use crate::event::{BumpEvent, PurgeMode, RegistrationBatch};
use crate::id::{EventId, Incarnation, Lane, Time};
use crate::progress::OriginHead;
use crate::store::Write;
use crate::versions::Stamp;

/// Work that waits for a flush.
#[derive(Debug)]
pub(super) enum Pending {
    /// Nobody waits.
    Nothing,
    /// A bump or floor of this sidecar, and the call that wants a receipt.
    OwnBump {
        id: EventId,
        event: Arc<BumpEvent>,
        call: Option<(Ticket, ReceiptLevel, Time)>,
    },
    /// Registration batches of this sidecar.
    OwnBatch(OwnBatch),
    /// Bump-lane events of a running peer, which wants to know.
    Ack {
        to: Incarnation,
        watermark: u64,
        above: Vec<u64>,
    },
    /// A peer wants a snapshot of what is flushed by then.
    Snapshot {
        to: Incarnation,
        id: u64,
        cut: Vec<OriginHead>,
    },
    /// A registration batch of a peer, judged at this stamp.
    RemoteBatch {
        batch: Arc<RegistrationBatch>,
        judged: Stamp,
    },
}

/// Registration batches being written, and the calls that wait for them.
#[derive(Debug)]
pub(super) struct OwnBatch {
    pub(super) batches: Vec<(u64, Arc<RegistrationBatch>)>,
    pub(super) calls: Vec<Call>,
}

impl Core {
    pub(super) fn flushed(&mut self, commit: CommitId, now: Time, effects: &mut Effects) {
        let mut pushes: Vec<(u64, Arc<BumpEvent>)> = Vec::new();
        while let Some((id, _)) = self.pending.front()
            && *id <= commit
        {
            let Some((_, pending)) = self.pending.pop_front() else {
                break;
            };
            match pending {
                Pending::Nothing => {}
                Pending::OwnBump { id, event, call } => {
                    self.apply_own(id, &event, effects);
                    pushes.push((id.sequence, event));
                    if let Some((ticket, level, deadline)) = call {
                        self.await_receipt(id, ticket, level, deadline, now, effects);
                    }
                }
                Pending::OwnBatch(batch) => self.own_batch_flushed(batch, effects),
                Pending::Ack {
                    to,
                    watermark,
                    above,
                } => {
                    effects.send(to, PeerMessage::Ack { watermark, above });
                }
                Pending::Snapshot { to, id, cut } => {
                    effects.actions.push(Action::ServeSnapshot { to, id, cut });
                }
                Pending::RemoteBatch { batch, judged } => {
                    self.remote_batch_flushed(&batch, judged, effects);
                }
            }
        }
        if let Some(&(first, _)) = pushes.first() {
            let events = pushes.into_iter().map(|(_, event)| event).collect();
            // Before any reply in `effects`: a push that leaves later would make every receipt wait longer.
            let push = PeerMessage::Bumps {
                origin: self.config.incarnation,
                first,
                events,
            };
            effects.actions.insert(0, Action::Broadcast(push));
            self.evict_if_overfull(None, effects);
        }
        self.review_freshness(now);
    }

    fn apply_own(&mut self, id: EventId, event: &Arc<BumpEvent>, effects: &mut Effects) {
        self.apply_event(id, event);
        self.progress
            .lane_mut(id.origin, Lane::Bump)
            .apply(id.sequence);
        match &**event {
            BumpEvent::Floor(_) => self.evicting = false,
            BumpEvent::Bump(bump) => {
                let addresses = self.bucket_purge(bump);
                if !addresses.is_empty() {
                    effects.actions.push(Action::Purge {
                        event: Some(id),
                        addresses,
                        mode: bump.purge,
                    });
                }
            }
        }
        effects.actions.push(Action::Applied(id, event.clone()));
    }

    /// Applies a bump-lane event to the versions and the history.
    pub(super) fn apply_event(&mut self, id: EventId, event: &BumpEvent) {
        match event {
            BumpEvent::Bump(bump) => self.versions.apply_bump(id, bump),
            BumpEvent::Floor(floor) => self.versions.apply_floor(id, floor),
        };
        self.history.note(self.versions.stamp(), id);
    }

    fn own_batch_flushed(&mut self, own: OwnBatch, effects: &mut Effects) {
        let mut late = Vec::new();
        for mut call in own.calls {
            for (position, registration, stamp) in call.waiting {
                if self.versions.changed_since(&registration.classes, stamp) {
                    self.counters.registrations_condemned += 1;
                    call.verdicts[position] = Verdict::Condemned(CondemnReason::Bumped);
                    late.push(registration);
                } else {
                    self.counters.registrations_accepted += 1;
                }
            }
            effects
                .actions
                .push(Action::Reply(call.ticket, Reply::Registered(call.verdicts)));
        }
        self.condemn(late, effects);
        if let Some(&(first, _)) = own.batches.first() {
            let origin = self.config.incarnation;
            for (sequence, _) in &own.batches {
                self.progress
                    .lane_mut(origin, Lane::Directory)
                    .apply(*sequence);
            }
            let batches = own.batches.into_iter().map(|(_, batch)| batch).collect();
            effects
                .actions
                .push(Action::Broadcast(PeerMessage::Directory {
                    origin,
                    first,
                    batches,
                }));
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
    fn condemn(&mut self, late: Vec<crate::event::Registration>, effects: &mut Effects) {
        if late.is_empty() {
            return;
        }
        let addresses = late
            .iter()
            .map(|registration| registration.address.clone())
            .collect();
        effects.actions.push(Action::Purge {
            event: None,
            addresses,
            mode: PurgeMode::Hard,
        });
        self.write(
            effects,
            [Write::Unregister {
                registrations: late,
            }],
            Pending::Nothing,
        );
    }
}
