//! Write intents (G8): a bump that is owed while an application writes.
//!
//! `BeginWrite` makes an intent durable here and, where there are members, at one that is linked, its *holder*; only then is
//! it answered. It ends in one of four ways. The application commits: its classes are bumped as by `Invalidate`, and the
//! intent leaves the store in the group of writes that has the event. It aborts in time: nothing is bumped. Its lease ends:
//! this sidecar bumps. Or this sidecar is gone by then: the holder bumps, [`INTENT_GRACE`] after it counts the lease as
//! over. Too many bumps are harmless, and one that comes too early is none at all: what was filled between it and the
//! database's commit is stale. So nothing here makes room by bumping early: who cannot hold an intent declines it.
//!
//! A lease counts from when the application called; this sidecar counts from when it took the call, a holder from when
//! it was told what is left, each longer by the clock-rate bound. Clocks do not carry over a restart: what a starting
//! sidecar finds open it bumps at once, for the writer may have committed and died, and holds for the whole lease again,
//! for the writer may be alive and yet to commit.
//!
//! The part `holding` spreads intents and lets them end; `handing` hands them on to others.

mod handing;
mod holding;
mod joined;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::Core;
use super::effects::{
    AbortOutcome, Action, Announced, BeginWrite, Effects, PeerMessage, ReceiptLevel, Refusal,
    Reply, Ticket, Written,
};
use super::flushed::Pending;
use super::freshness::stretched;
use crate::event::BumpEvent;
use crate::id::{EventId, Incarnation, Time};
use crate::intent::{INTENT_LEASE_MAX, INTENT_LEASE_MIN, Intent, IntentId, Owed};
use crate::names::ClassPath;
use crate::roster::Mark;
use crate::store::Write;
use handing::Handed;
pub(super) use holding::concerned;

/// How long a peer may take to hold an intent before the next one is asked as well.
const HOLD_RETRY: Duration = Duration::from_millis(500);
/// Classes that the open intents may name together, for each that may be open.
const CLASSES_EACH: usize = 20;
/// How much of what a sidecar may have open itself it holds for its peers.
const HELD_SHARE: usize = 2;
/// Ended intents remembered, to tell late callers and holders how they ended; beyond, the oldest are forgotten, and
/// their holders bump.
const ENDED_MAX: usize = 16_384;

/// What waits for a flush.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// An own intent of this number is durable here.
    Begun(u64),
    /// These may leave now.
    Then(Vec<Action>),
}

/// An intent begun here.
#[derive(Clone, Debug)]
struct Own {
    owed: Owed,
    lease: Duration,
    ends: Time,
    flushed: bool,
    /// The peer that said last that it holds it.
    holder: Option<Incarnation>,
    /// The peers that were asked to, each of which may hold it. Not more than there are members.
    asked: Vec<Incarnation>,
    /// When the next peer is asked.
    retry: Option<Time>,
    /// Who waits for it to be held, and until when.
    call: Option<(Ticket, Time)>,
    /// The bump of a commit that was made elsewhere, as a peer told.
    covered: Option<EventId>,
    /// Its entry among the wakes.
    wake: Time,
}

/// An intent held for another run.
#[derive(Clone, Debug)]
struct Held {
    owed: Owed,
    /// When its lease is certain to be over.
    ends: Time,
    /// The bump that it ended in, as a peer told.
    covered: Option<EventId>,
    handed: Handed,
    wake: Time,
}

impl Held {
    /// When it wants to be looked at, while its lease lasts.
    fn look(&self) -> Time {
        match self.handed {
            Handed::Asked { again, .. } => self.ends.min(again),
            _ => self.ends,
        }
    }
}

/// How an intent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Aborted,
    Bumped(EventId),
}

impl Outcome {
    fn event(self) -> Option<EventId> {
        match self {
            Self::Aborted => None,
            Self::Bumped(event) => Some(event),
        }
    }
}

/// The intents that this sidecar knows.
#[derive(Clone, Debug, Default)]
pub(super) struct Intents {
    own: BTreeMap<u64, Own>,
    own_classes: usize,
    held: BTreeMap<IntentId, Held>,
    held_classes: usize,
    /// When each of them wants to be looked at.
    wakes: BTreeSet<(Time, IntentId)>,
    ended: BTreeMap<IntentId, Outcome>,
    ended_order: VecDeque<IntentId>,
    /// Top-level classes of own intents, each with one of its classes and the number of intents that name it.
    tops: BTreeMap<Box<str>, (ClassPath, usize)>,
    /// The linked peers, when they were looked at last.
    linked: BTreeSet<Incarnation>,
    /// Those of them that counted as holders then.
    holders: BTreeSet<Incarnation>,
    /// The view that was in force then.
    mark: Mark,
    /// Whether this run was alone by the roster then.
    alone: bool,
}

impl Intents {
    pub(super) fn next_wake(&self) -> Option<Time> {
        self.wakes.first().map(|(at, _)| *at)
    }

    /// Whether an open intent names the top-level class, so that there is room for it.
    pub(super) fn reserves(&self, top: &str) -> bool {
        self.tops.contains_key(top)
    }

    /// How many top-level classes open intents name, those aside that count elsewhere.
    pub(super) fn reserved(&self, elsewhere: impl Fn(&ClassPath) -> bool) -> usize {
        let classes = self.tops.values().map(|(class, _)| class);
        classes.filter(|class| !elsewhere(class)).count()
    }

    fn put_own(&mut self, id: IntentId, own: Own) {
        for top in tops(&own.owed) {
            let reserved = self.tops.entry(top.top().into());
            reserved.or_insert((top, 0)).1 += 1;
        }
        self.own_classes += own.owed.weight();
        self.wakes.insert((own.wake, id));
        self.own.insert(id.number, own);
    }

    fn take_own(&mut self, id: IntentId) -> Option<Own> {
        let own = self.own.remove(&id.number)?;
        for top in tops(&own.owed) {
            if let Some((_, count)) = self.tops.get_mut(top.top()) {
                *count -= 1;
                if *count == 0 {
                    self.tops.remove(top.top());
                }
            }
        }
        self.own_classes -= own.owed.weight();
        self.wakes.remove(&(own.wake, id));
        Some(own)
    }

    /// Reckons anew when an own intent wants to be looked at.
    fn rewake_own(&mut self, id: IntentId) {
        if let Some(own) = self.own.get_mut(&id.number) {
            self.wakes.remove(&(own.wake, id));
            let deadline = own.call.map(|(_, deadline)| deadline);
            let soon = deadline.into_iter().chain(own.retry);
            own.wake = soon.fold(own.ends, Time::min);
            self.wakes.insert((own.wake, id));
        }
    }

    /// Reckons anew when a held intent wants to be looked at, whose lease is not over.
    fn rewake_held(&mut self, id: IntentId) {
        if let Some(held) = self.held.get_mut(&id) {
            self.wakes.remove(&(held.wake, id));
            held.wake = held.look();
            self.wakes.insert((held.wake, id));
        }
    }

    fn put_held(&mut self, id: IntentId, held: Held) {
        self.held_classes += held.owed.weight();
        self.wakes.insert((held.wake, id));
        self.held.insert(id, held);
    }

    fn take_held(&mut self, id: IntentId) -> Option<Held> {
        let held = self.held.remove(&id)?;
        self.held_classes -= held.owed.weight();
        self.wakes.remove(&(held.wake, id));
        Some(held)
    }

    /// What an open intent of this run, or of another one, owes, if it is known here.
    fn owed(&self, id: IntentId, own: bool) -> Option<&Owed> {
        if own {
            self.own.get(&id.number).map(|own| &own.owed)
        } else {
            self.held.get(&id).map(|held| &held.owed)
        }
    }

    fn note_end(&mut self, id: IntentId, outcome: Outcome) {
        if self.ended.insert(id, outcome).is_none() {
            self.ended_order.push_back(id);
        }
        while self.ended_order.len() > ENDED_MAX
            && let Some(oldest) = self.ended_order.pop_front()
        {
            self.ended.remove(&oldest);
        }
    }
}

/// One class of each of the top-level classes that are named.
fn tops(owed: &Owed) -> Vec<ClassPath> {
    let mut seen = BTreeSet::new();
    let classes = owed.classes();
    let classes = classes.iter().filter(|class| !class.is_reserved());
    let first = classes.filter(|class| seen.insert(class.top().to_owned()));
    first.cloned().collect()
}

impl Core {
    /// Whether a call waits for a receipt of this event.
    pub fn owes_receipt(&self, event: EventId) -> bool {
        let own = event.origin == self.config.incarnation;
        own && !self.receipts.concerned(0, 0, &[event.sequence]).is_empty()
    }

    /// Own write intents that are open.
    pub fn intents_open(&self) -> usize {
        self.intents.own.len()
    }

    /// Write intents held for other runs.
    pub fn intents_held(&self) -> usize {
        self.intents.held.len()
    }

    pub(super) fn begin_write(
        &mut self,
        ticket: Ticket,
        call: &BeginWrite,
        now: Time,
        effects: &mut Effects,
    ) {
        let owed = match self.admit_intent(call, now) {
            Ok(owed) => owed,
            Err(refusal) => return refuse(ticket, refusal, effects),
        };
        let id = self.new_intent_id(call.random);
        let lease = call.lease.clamp(INTENT_LEASE_MIN, INTENT_LEASE_MAX);
        let ends = now.plus(stretched(lease, self.config.clock_rate_ppm));
        let deadline = call.deadline.min(now.plus(lease));
        let own = Own {
            owed: owed.clone(),
            lease,
            ends,
            flushed: false,
            holder: None,
            asked: Vec::new(),
            retry: None,
            call: Some((ticket, deadline)),
            covered: None,
            wake: deadline,
        };
        self.intents.put_own(id, own);
        self.rows_come(id, &owed, ends, now);
        if matches!(owed, Owed::Rows(_)) {
            let intent = Intent {
                id,
                owed: owed.clone(),
                lease,
            };
            let told = PeerMessage::RowsCome(intent);
            effects.actions.push(Action::Broadcast(told));
        }
        let write = Write::PutIntent(Intent { id, owed, lease });
        self.write(effects, [write], Pending::Intent(Work::Begun(id.number)));
    }

    /// An id that no intent of this run has had, as far as that is remembered.
    fn new_intent_id(&self, random: u64) -> IntentId {
        let origin = self.config.incarnation;
        let mut id = IntentId {
            origin,
            number: random,
        };
        while self.intents.own.contains_key(&id.number) || self.intents.ended.contains_key(&id) {
            id.number = id.number.wrapping_add(1);
        }
        id
    }

    /// Admits the bump to come, so that no limit can refuse it then.
    fn admit_intent(&mut self, call: &BeginWrite, now: Time) -> Result<Owed, Refusal> {
        let owed = match &call.announced {
            Announced::Classes { classes, matching } => {
                Owed::Classes(self.admit_bump(classes, *matching, call.purge)?)
            }
            Announced::Rows(rows) => {
                let level = ReceiptLevel::None;
                Owed::Rows(self.admit_rows(rows.clone(), call.purge, level, now)?)
            }
        };
        let limit = self.config.limits.intents_max;
        let classes_max = limit.saturating_mul(CLASSES_EACH);
        let open = self.intents.own.len();
        let classes = self.intents.own_classes + owed.weight();
        // A single one is not refused for its classes, however low the limit.
        if open >= limit || open > 0 && classes > classes_max {
            return Err(Refusal::Intents {
                open,
                classes,
                limit,
                classes_max,
            });
        }
        Ok(owed)
    }

    pub(super) fn commit_write(
        &mut self,
        ticket: Ticket,
        id: IntentId,
        call: Written,
        now: Time,
        effects: &mut Effects,
    ) {
        let (level, deadline) = match &call {
            Written::Classes(call) => (call.level, call.deadline),
            Written::Rows(call) => (call.level, call.deadline),
        };
        let event = match call {
            Written::Classes(call) => self.admit(&call, now).map(BumpEvent::Bump),
            Written::Rows(call) => {
                let changed = self.admit_rows(call.rows, call.purge, level, now);
                changed.map(BumpEvent::Rows)
            }
        };
        let event = match event {
            Ok(event) => event,
            Err(refusal) => return refuse(ticket, refusal, effects),
        };
        self.receipts.reserve(level);
        self.counters.intents_committed += 1;
        let event = self.issue_commit(event, id, (ticket, level, deadline), effects);
        if id.origin == self.config.incarnation {
            if self.intents.own.contains_key(&id.number) {
                self.end_own(id, Outcome::Bumped(event), effects);
            }
            return;
        }
        let told = PeerMessage::IntentSettled {
            intent: id,
            event: Some(event),
        };
        self.rows_came(id, Some(event));
        self.forget_held(id, Some(Action::Broadcast(told)), effects);
    }

    /// Issues the event of a commit, together with what its intent owes beside it.
    fn issue_commit(
        &mut self,
        event: BumpEvent,
        id: IntentId,
        call: (Ticket, ReceiptLevel, Time),
        effects: &mut Effects,
    ) -> EventId {
        let own = id.origin == self.config.incarnation;
        let owed = self.intents.owed(id, own);
        let Some(owed) = owed.filter(|owed| !owed.is_covered_by(&event)).cloned() else {
            return self.issue_event(event, Some(call), effects);
        };
        if let (BumpEvent::Bump(bump), Owed::Classes(owed)) = (&event, &owed)
            && let Some(joined) = bump.join(owed)
        {
            return self.issue_owed(Owed::Classes(joined), Some(call), effects);
        }
        // They do not go into one event: the commit's own is the one that its caller hears of.
        self.issue_owed(owed, None, effects);
        self.issue_event(event, Some(call), effects)
    }

    pub(super) fn abort_write(&mut self, ticket: Ticket, id: IntentId, effects: &mut Effects) {
        let outcome = if id.origin == self.config.incarnation {
            self.abort_own(id, effects)
        } else {
            let told = PeerMessage::IntentSettled {
                intent: id,
                event: None,
            };
            self.rows_came(id, None);
            self.forget_held(id, Some(Action::Broadcast(told)), effects);
            match self.intents.ended.get(&id) {
                Some(Outcome::Bumped(event)) => AbortOutcome::Bumped(*event),
                _ => AbortOutcome::Unknown,
            }
        };
        // Behind the flush of what it tells of.
        let reply = Action::Reply(ticket, Reply::Aborted(outcome));
        self.write(effects, [], Pending::Intent(Work::Then(vec![reply])));
    }

    fn abort_own(&mut self, id: IntentId, effects: &mut Effects) -> AbortOutcome {
        if let Some(own) = self.intents.own.get(&id.number) {
            if let Some(event) = own.covered {
                // Somebody committed it. It stays until that bump is here.
                return AbortOutcome::Bumped(event);
            }
            self.counters.intents_aborted += 1;
            self.end_own(id, Outcome::Aborted, effects);
            return AbortOutcome::InTime;
        }
        match self.intents.ended.get(&id) {
            Some(Outcome::Aborted) => AbortOutcome::InTime,
            Some(Outcome::Bumped(event)) => AbortOutcome::Bumped(*event),
            None => AbortOutcome::Unknown,
        }
    }

    /// Takes an own intent out of the store; who may hold it is told behind the flush.
    fn end_own(&mut self, id: IntentId, outcome: Outcome, effects: &mut Effects) {
        let Some(own) = self.intents.take_own(id) else {
            return;
        };
        self.intents.note_end(id, outcome);
        let (message, event) = (settled(id, outcome), outcome.event());
        self.rows_came(id, event);
        let told = match own.owed {
            // All were told of it.
            Owed::Rows(_) => vec![Action::Broadcast(message)],
            Owed::Classes(_) => {
                let asked = own.asked.into_iter().map(|to| Action::Send {
                    to,
                    message: message.clone(),
                });
                asked.collect()
            }
        };
        let work = Work::Then(told);
        self.write(effects, [Write::RemoveIntent(id)], Pending::Intent(work));
    }

    /// Takes an intent out of the store that may be held for another run; `then` follows the flush.
    fn forget_held(&mut self, id: IntentId, then: Option<Action>, effects: &mut Effects) {
        let held = self.intents.take_held(id);
        let writes = held.map(|_| Write::RemoveIntent(id));
        if writes.is_some() || then.is_some() {
            let work = Work::Then(then.into_iter().collect());
            self.write(effects, writes, Pending::Intent(work));
        }
    }
}

fn refuse(ticket: Ticket, refusal: Refusal, effects: &mut Effects) {
    let reply = Reply::Refused(refusal);
    effects.actions.push(Action::Reply(ticket, reply));
}

fn settled(intent: IntentId, outcome: Outcome) -> PeerMessage {
    let event = outcome.event();
    PeerMessage::IntentSettled { intent, event }
}
