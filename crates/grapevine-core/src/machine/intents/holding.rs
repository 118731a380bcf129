//! How intents are spread, held, and ended by time.
//!
//! An origin asks one linked peer after another until one says that it holds the intent; when that one's link ends, or it
//! says nothing for [`HOLD_RETRY`], the next one is asked. How an intent ended is told to all who were asked. That word
//! may be lost, so a holder says what it holds whenever its link to the origin is made, and once more when it counts a
//! lease as over; the origin answers for each that has ended. A holder believes that an intent ended in a bump only once
//! it has applied that bump, for until then it may be the only one left who owes it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::joined::joined;
use super::{CLASSES_EACH, HELD_SHARE, HOLD_RETRY, Handed, Held, Outcome, Work, refuse, settled};
use crate::event::{BUMP_CLASSES_MAX, BumpEvent};
use crate::id::{EventId, Incarnation, Time};
use crate::intent::{INTENT_GRACE, INTENT_LEASE_MAX, Intent, IntentId, Owed};
use crate::machine::Core;
use crate::machine::effects::{
    Action, Effects, Input, PeerMessage, ReceiptLevel, Refusal, Reply, Ticket,
};
use crate::machine::flushed::Pending;
use crate::machine::freshness::stretched;
use crate::machine::members::Member;
use crate::store::Write;

/// The most intents that one message names.
const NAMED_MAX: usize = 1_000;

/// Whether an input may change who is linked, or what is due.
pub(in crate::machine) fn concerned(input: &Input) -> bool {
    match input {
        Input::Wake | Input::LinkUp { .. } | Input::LinkDown { .. } | Input::Seen(_) => true,
        Input::Peer { message, .. } => matches!(message, PeerMessage::Leave { .. }),
        _ => false,
    }
}

impl Core {
    /// Looks after links that came or went, and after what is due.
    pub(in crate::machine) fn review_intents(&mut self, now: Time, effects: &mut Effects) {
        self.review_holders(now, effects);
        if self.draining {
            return;
        }
        let due = self.intents.wakes.iter().take_while(|(at, _)| *at <= now);
        let due: Vec<_> = due.map(|(_, id)| *id).collect();
        for id in due {
            if self.intents.held.contains_key(&id) {
                self.held_is_due(id, now, effects);
            } else {
                self.own_is_due(id, now, effects);
            }
        }
    }

    /// The runs that are there to stay: those that said they leave hold nothing, and will expire nothing.
    pub(in crate::machine) fn linked_peers(&self) -> BTreeSet<Incarnation> {
        let linked = self.members.iter().filter(|member| Member::linked(member));
        let linked = linked.map(|member| member.hello.incarnation);
        let leaving = &self.views.leaving;
        linked.filter(|run| !leaving.contains(run)).collect()
    }

    /// The runs that may hold an intent so that it counts: members, once there are any. A run without a seat may be forgotten by
    /// all that matter, and its disk is none that G1 speaks of. Who is alone needs nobody, and takes whom it meets.
    pub(super) fn possible_holders(&self) -> BTreeSet<Incarnation> {
        let linked = self.linked_peers();
        let view = self.views.view();
        if view.number == 0 || self.is_alone() {
            return linked;
        }
        let seats = view.seats.values().copied();
        seats.filter(|run| linked.contains(run)).collect()
    }

    /// Whether nobody else has a say: the roster seats this run and no other. Then an intent rests on this disk, as an
    /// acknowledged bump does.
    fn is_alone(&self) -> bool {
        self.seated() && self.views.view().is_lone(&self.config.node_id)
    }

    /// Finds new holders for intents whose holder's link ended or that have none, hands on those whose origins have no seat, and
    /// tells new links what is held.
    fn review_holders(&mut self, now: Time, effects: &mut Effects) {
        let alone = self.is_alone();
        let was_alone = std::mem::replace(&mut self.intents.alone, alone);
        let linked = self.linked_peers();
        let holders = self.possible_holders();
        let mark = self.views.view().mark();
        let viewed = std::mem::replace(&mut self.intents.mark, mark) != mark;
        if viewed || holders.difference(&self.intents.holders).next().is_some() {
            self.hand_over_orphans(now, effects);
        }
        let same = linked == self.intents.linked && holders == self.intents.holders;
        if same && alone == was_alone {
            return;
        }
        let before = std::mem::replace(&mut self.intents.linked, linked.clone());
        for to in linked.difference(&before) {
            self.say_held(*to, effects);
        }
        let origin = self.config.incarnation;
        let lacking = |holder: &Option<Incarnation>| holder.is_none_or(|it| !holders.contains(&it));
        let own = self.intents.own.iter();
        let lacking: Vec<_> = own
            .filter(|(_, own)| own.flushed && lacking(&own.holder))
            .map(|(&number, _)| IntentId { origin, number })
            .collect();
        for id in lacking {
            self.ask_holder(id, now, effects);
        }
        self.intents.holders = holders;
    }

    /// Tells an origin what of its intents is held here, behind the flush of all that was said so far.
    fn say_held(&mut self, to: Incarnation, effects: &mut Effects) {
        let first = IntentId {
            origin: to,
            number: 0,
        };
        let last = IntentId {
            origin: to,
            number: u64::MAX,
        };
        let held: Vec<_> = self.intents.held.range(first..=last).collect();
        let held: Vec<_> = held.into_iter().map(|(id, _)| *id).collect();
        let messages = held.chunks(NAMED_MAX).map(|ids| Action::Send {
            to,
            message: PeerMessage::IntentHeld(ids.to_vec()),
        });
        let messages: Vec<_> = messages.collect();
        if !messages.is_empty() {
            self.write(effects, [], Pending::Intent(Work::Then(messages)));
        }
    }

    pub(in crate::machine) fn intent_flushed(
        &mut self,
        work: Work,
        now: Time,
        effects: &mut Effects,
    ) {
        match work {
            Work::Then(actions) => effects.actions.extend(actions),
            Work::Begun(number) => {
                let origin = self.config.incarnation;
                let id = IntentId { origin, number };
                let Some(own) = self.intents.own.get_mut(&number) else {
                    return;
                };
                own.flushed = true;
                self.ask_holder(id, now, effects);
            }
        }
    }

    fn answer_begun(&mut self, id: IntentId, effects: &mut Effects) {
        if let Some(own) = self.intents.own.get_mut(&id.number)
            && let Some((ticket, _)) = own.call.take()
        {
            self.counters.intents_begun += 1;
            let (intent, lease) = (id, own.lease);
            let reply = Reply::Begun { intent, lease };
            effects.actions.push(Action::Reply(ticket, reply));
            self.intents.rewake_own(id);
        }
    }

    /// Asks the next possible holder to hold an own intent, if there is any. Who is alone by the roster needs none, by the rule
    /// of a receipt `one`; one that is linked all the same, as a newcomer is, may hold it too.
    fn ask_holder(&mut self, id: IntentId, now: Time, effects: &mut Effects) {
        if self.is_alone() {
            self.answer_begun(id, effects);
        }
        let linked: Vec<_> = self.possible_holders().into_iter().collect();
        let Some(own) = self.intents.own.get_mut(&id.number) else {
            return;
        };
        own.holder = None;
        own.retry = None;
        let count = linked.len() as u64;
        // Numbers spread the load over the peers.
        let turn = id.number.wrapping_add(own.asked.len() as u64);
        let start = turn.checked_rem(count).unwrap_or(0);
        let next = usize::try_from(start).unwrap_or(0);
        let mut peers = linked.iter().cycle().skip(next).take(linked.len());
        let fresh = peers.clone().find(|peer| !own.asked.contains(peer));
        if let Some(&to) = fresh.or_else(|| peers.next()) {
            if !own.asked.contains(&to) {
                own.asked.push(to);
            }
            own.retry = Some(now.plus(HOLD_RETRY));
            let intent = Intent {
                id,
                owed: own.owed.clone(),
                lease: own.ends.since(now),
            };
            effects.send(to, PeerMessage::Intent(intent));
        }
        self.intents.rewake_own(id);
    }

    /// What a peer says of intents.
    pub(in crate::machine) fn intent_message(
        &mut self,
        from: Incarnation,
        message: PeerMessage,
        now: Time,
        effects: &mut Effects,
    ) {
        match message {
            PeerMessage::Intent(intent) => self.hold_intent(from, intent, now, effects),
            PeerMessage::IntentHeld(intents) => self.intents_held_by(from, &intents, effects),
            PeerMessage::IntentSettled { intent, event } => {
                self.rows_came(intent, event);
                self.intent_settled(intent, event, effects);
            }
            PeerMessage::RowsCome(Intent { id, owed, lease }) => {
                let lease = lease.min(INTENT_LEASE_MAX);
                let ends = now.plus(stretched(lease, self.config.clock_rate_ppm));
                self.rows_come(id, &owed, ends, now);
            }
            _ => {}
        }
    }

    /// A peer asks this sidecar to hold an intent.
    fn hold_intent(&mut self, from: Incarnation, intent: Intent, now: Time, effects: &mut Effects) {
        let Intent { id, owed, lease } = intent;
        if id.origin == self.config.incarnation {
            self.counters.peer_messages_refused += 1;
            return;
        }
        let limit = self.config.limits.intents_max.saturating_mul(HELD_SHARE);
        let classes = self.intents.held_classes + owed.weight();
        let known = self.intents.held.contains_key(&id);
        let full = self.intents.held.len() >= limit
            || classes > limit.saturating_mul(CLASSES_EACH).max(BUMP_CLASSES_MAX);
        if self.draining || full && !known {
            self.counters.intents_declined += 1;
            return;
        }
        let lease = lease.min(INTENT_LEASE_MAX);
        let mut ends = now.plus(stretched(lease, self.config.clock_rate_ppm));
        let (mut covered, mut handed) = (None, Handed::No);
        if let Some(held) = self.intents.take_held(id) {
            // Neither lies before the end of the writer's lease. Who tells of it may have counted all of it anew.
            ends = ends.min(held.ends);
            (covered, handed) = (held.covered, held.handed);
        }
        if from != id.origin {
            handed = Handed::From(from);
        }
        let mut held = Held {
            owed: owed.clone(),
            ends,
            covered,
            handed,
            wake: ends,
        };
        held.wake = held.look();
        self.intents.put_held(id, held);
        let write = (!known).then_some(Write::PutIntent(Intent { id, owed, lease }));
        let message = PeerMessage::IntentHeld(vec![id]);
        let work = Work::Then(vec![Action::Send { to: from, message }]);
        self.write(effects, write, Pending::Intent(work));
    }

    /// A peer says which intents it holds.
    fn intents_held_by(&mut self, from: Incarnation, intents: &[IntentId], effects: &mut Effects) {
        let mut ended = Vec::new();
        let counts = self.possible_holders().contains(&from);
        for &id in intents {
            if id.origin != self.config.incarnation {
                self.handed_to(id, from);
                continue;
            }
            if let Some(own) = self.intents.own.get_mut(&id.number) {
                if !own.asked.contains(&from) {
                    own.asked.push(from);
                }
                // That of a run without a seat is one more copy, and to be told how the intent ends.
                if counts {
                    own.holder = Some(from);
                    own.retry = None;
                    self.intents.rewake_own(id);
                    self.answer_begun(id, effects);
                }
            } else if let Some(outcome) = self.intents.ended.get(&id) {
                let message = settled(id, *outcome);
                ended.push(Action::Send { to: from, message });
            }
            // How it ended is forgotten, or was never known: then the holder bumps.
        }
        if !ended.is_empty() {
            self.write(effects, [], Pending::Intent(Work::Then(ended)));
        }
    }

    /// A peer says how an intent ended: its origin, or one where it was committed or aborted.
    fn intent_settled(&mut self, id: IntentId, event: Option<EventId>, effects: &mut Effects) {
        // What the intent owed beside the commit may be an event of its own, right before.
        let here = event.is_none_or(|event| self.progress.has_through(event));
        if id.origin == self.config.incarnation {
            let Some(own) = self.intents.own.get_mut(&id.number) else {
                return;
            };
            match event {
                None => {
                    self.counters.intents_aborted += 1;
                    self.end_own(id, Outcome::Aborted, effects);
                }
                Some(event) if here => self.end_own(id, Outcome::Bumped(event), effects),
                covered => own.covered = covered,
            }
        } else if here {
            self.forget_held(id, None, effects);
        } else if let Some(held) = self.intents.held.get_mut(&id) {
            held.covered = event;
        }
    }

    fn own_is_due(&mut self, id: IntentId, now: Time, effects: &mut Effects) {
        let Some(own) = self.intents.own.get_mut(&id.number) else {
            return;
        };
        if let Some((ticket, deadline)) = own.call
            && deadline <= now
        {
            // Nobody was told of it, so nobody commits a write by it.
            own.call = None;
            self.end_own(id, Outcome::Aborted, effects);
            return refuse(ticket, Refusal::IntentNotHeld, effects);
        }
        if own.ends > now {
            if own.retry.is_some_and(|at| at <= now) {
                self.ask_holder(id, now, effects);
            }
            return;
        }
        let covered = own
            .covered
            .filter(|event| self.progress.has_through(*event));
        let event = covered.unwrap_or_else(|| {
            self.counters.intents_expired += 1;
            let owed = self.intents.own[&id.number].owed.clone();
            self.issue_owed(owed, None, effects)
        });
        self.end_own(id, Outcome::Bumped(event), effects);
    }

    fn held_is_due(&mut self, id: IntentId, now: Time, effects: &mut Effects) {
        let Some(held) = self.intents.held.get_mut(&id) else {
            return;
        };
        if now < held.ends {
            return self.hand_over(id, None, now, effects);
        }
        let bumps_at = held.ends.plus(INTENT_GRACE);
        if now < bumps_at {
            // The lease is over; if the origin is there, it knows how it ended.
            self.intents.wakes.remove(&(held.wake, id));
            held.wake = bumps_at;
            self.intents.wakes.insert((bumps_at, id));
            return effects.send(id.origin, PeerMessage::IntentHeld(vec![id]));
        }
        let covered = held
            .covered
            .filter(|event| self.progress.has_through(*event));
        if covered.is_none() {
            self.counters.intents_expired_for_others += 1;
            let owed = held.owed.clone();
            let event = self.issue_owed(owed, None, effects);
            self.intents.note_end(id, Outcome::Bumped(event));
            self.rows_came(id, Some(event));
        }
        self.forget_held(id, None, effects);
    }

    /// Issues what an intent owes. Limits may have been reached since: then a bump is a wider one. Of rows only their tables count, for which
    /// there was room at the sidecar that took the intent.
    pub(super) fn issue_owed(
        &mut self,
        owed: Owed,
        call: Option<(Ticket, ReceiptLevel, Time)>,
        effects: &mut Effects,
    ) -> EventId {
        let event = match BumpEvent::from(owed.unsure()) {
            BumpEvent::Bump(bump) => {
                let bump = self.shape(bump.classes, bump.matching, bump.purge);
                let within = self.within_limits(&Arc::new(BumpEvent::Bump(bump)));
                Arc::unwrap_or_clone(within)
            }
            event => event,
        };
        self.issue_event(event, call, effects)
    }

    /// Bumps at the start what the last run had open or held, and holds it anew: both its writer's commit and its
    /// writer's death may lie on either side of this start.
    pub(in crate::machine) fn recover_intents(
        &mut self,
        recovered: &[Intent],
        now: Time,
        effects: &mut Effects,
    ) {
        self.counters.intents_recovered += recovered.len() as u64;
        for (ids, owed) in joined(recovered) {
            let event = self.issue_owed(owed, None, effects);
            for id in ids {
                self.intents.note_end(id, Outcome::Bumped(event));
            }
        }
        for Intent { id, owed, lease } in recovered {
            let ends = now.plus(stretched(*lease, self.config.clock_rate_ppm));
            let held = Held {
                owed: owed.clone(),
                ends,
                covered: None,
                handed: Handed::No,
                wake: ends,
            };
            self.intents.put_held(*id, held);
        }
    }
}
