//! Local tables of clients: a part of this sidecar, told in order, leased, and waited for (docs/decisions/0020).
//!
//! Whatever changes tokens is told to each table as a *notice* with a position, and each acknowledges positions. A lease ends no
//! later than this sidecar's own freshness, and comes behind the notices that were told before it was given. So an event is
//! *served* nowhere any more once each table has acknowledged its notice or every lease that was given to it before that has lapsed:
//! that is what peers and receipts are told as *has*. What was applied while no table held a lease is so at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::Core;
use super::effects::{Action, Effects, PeerMessage, Refusal, Reply, TableWord, Ticket};
use super::freshness::shortened;
use super::grants::Given;
use crate::event::BumpEvent;
use crate::id::{EventId, Incarnation, Time};
use crate::names::ClassPath;
use crate::table::{Notice, TableId, TableLease};
use crate::versions::Stamp;

/// Events remembered apart that tables may serve around; beyond, nothing more counts as served until all up to the last of them is.
const WAITING_MAX: usize = 65_536;
/// The longest lease, however long freshness lasts: a sidecar that leaves waits for the leases it gave, and has no more than seconds.
const LEASE_MAX: Duration = Duration::from_secs(2);
/// A lease shorter than that is none: it would be over on its way.
const LEASE_MIN: Duration = Duration::from_millis(1);

/// One table.
#[derive(Clone, Debug)]
struct Table {
    /// The position that its client acknowledged last.
    acknowledged: u64,
    /// Since when it is behind without a sign that it follows.
    behind: Option<Time>,
    /// Leases given to it: behind which position, and until when.
    given: Given,
    /// Whether its stream is open.
    open: bool,
}

impl Table {
    /// Up to which position nothing is served from it.
    fn served(&self, position: u64, now: Time) -> u64 {
        if self.acknowledged >= position {
            return position;
        }
        let lapsed = self.given.least_head(now).unwrap_or(position);
        lapsed.max(self.acknowledged)
    }

    /// When it is given up: its stream has ended, or it has been silent for as long as a lease is; and it has none any more.
    fn gives_up_at(&self, patience: Duration) -> Option<Time> {
        let silent = match self.behind {
            _ if !self.open => Time::ZERO,
            since => since?.plus(patience),
        };
        Some(silent.max(self.given.until()))
    }
}

/// What tokens rest on: whatever changes of it, tables are told.
type Known = (Stamp, bool, u32);

/// The tables, and what they may serve around.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    by_id: BTreeMap<TableId, Table>,
    /// That of the last notice.
    position: u64,
    /// What notices have told of.
    told: Known,
    /// Events that some table may serve around, in the order of their positions. At most [`WAITING_MAX`].
    waiting: VecDeque<(u64, EventId)>,
    /// The same by their names.
    unserved: BTreeSet<EventId>,
    /// Until everything up to here is served nothing else counts as served: state was taken over whole, or there was no room.
    all_up_to: u64,
    /// Up to which position everything is served.
    served: u64,
    /// Whether this sidecar leaves as soon as no table has anything of it.
    leaves: bool,
    /// Whether something came that changes what tables may serve, since all were looked at; and when they are to be looked at anyway. There
    /// may be many, and most inputs are no matter of theirs.
    concerned: bool,
    wake: Option<Time>,
    /// Notices and leases of the input that is handled, in order.
    outbox: Vec<Action>,
}

impl Tables {
    /// Whether no table may serve around an event that was applied.
    pub(super) fn serve_past(&self, event: EventId) -> bool {
        self.served >= self.all_up_to && !self.unserved.contains(&event)
    }

    fn push(&mut self, notice: Notice, event: Option<EventId>, now: Time) -> u64 {
        self.concerned = true;
        for table in self.by_id.values_mut() {
            // Who has acknowledged all before is silent from now on.
            let follows = table.acknowledged >= self.position;
            if follows {
                table.behind = Some(now);
            }
        }
        self.position += 1;
        self.outbox.push(Action::Notice {
            position: self.position,
            notice,
            event,
        });
        self.position
    }

    /// Notes that an event was applied at this position.
    fn wait_for(&mut self, position: u64, event: EventId) {
        if self.waiting.len() >= WAITING_MAX {
            self.all_up_to = position;
            return;
        }
        self.waiting.push_back((position, event));
        self.unserved.insert(event);
    }

    /// Looks again at what tables may serve: tells which events they do no longer, and whether everything counts again.
    fn advance(&mut self, now: Time) -> (Vec<EventId>, bool) {
        let position = self.position;
        let served = self
            .by_id
            .values()
            .map(|table| table.served(position, now))
            .fold(position, u64::min);
        let held_up = self.served < self.all_up_to;
        // A lease that is given to a table that is behind comes behind the notices: what was served stays so.
        self.served = self.served.max(served);
        let mut events = Vec::new();
        while let Some((_, event)) = self.waiting.pop_front_if(|it| it.0 <= self.served) {
            self.unserved.remove(&event);
            events.push(event);
        }
        (events, held_up && self.served >= self.all_up_to)
    }

    /// Whether it is time to look at all tables.
    fn is_due(&self, now: Time) -> bool {
        self.concerned || self.wake.is_some_and(|at| at <= now)
    }

    fn next_wake(&self, patience: Duration, now: Time) -> Option<Time> {
        let tables = || self.by_id.values();
        let lapses = tables()
            .filter(|table| table.served(self.position, now) < self.position)
            .filter_map(|table| table.given.next_end(now));
        let ends = tables().filter_map(|table| table.gives_up_at(patience));
        lapses.chain(ends).min()
    }
}

impl Core {
    /// How long a lease of a table is at most: half of what a grant is, so that a client that hangs delays receipts for no longer.
    pub fn table_lease(&self) -> Duration {
        (self.config.max_staleness / 2).min(LEASE_MAX)
    }

    /// When tables are to be looked at, if nothing comes before: as the last input left it.
    pub(super) fn tables_wake(&self) -> Option<Time> {
        self.tables.wake
    }

    /// How many tables there are, those among them whose streams have ended and whose leases have not.
    pub fn tables(&self) -> usize {
        self.tables.by_id.len()
    }

    /// Whether answers that are given now may be kept in a table: it is one of this run's, and this sidecar is fresh.
    pub fn may_keep(&self, table: TableId, now: Time) -> bool {
        let open = self.tables.by_id.get(&table).is_some_and(|it| it.open);
        open && self.may_lease(now)
    }

    /// Up to which position a table has been told of what answers that are given now rest on, or is about to be; `None` if it is none of
    /// this run's.
    pub fn table_position_of(&self, table: TableId) -> Option<u64> {
        let table = self.tables.by_id.get(&table).filter(|it| it.open);
        table.map(|_| self.tables.position)
    }

    /// Whether this sidecar would leave, and waits for tables that may serve from it.
    pub fn waits_for_tables(&self) -> bool {
        self.tables.leaves
    }

    fn may_lease(&self, now: Time) -> bool {
        self.caught_up && !self.draining && now < self.members.fresh_until()
    }

    pub(super) fn open_table(
        &mut self,
        ticket: Ticket,
        id: TableId,
        now: Time,
        effects: &mut Effects,
    ) {
        self.give_tables_up(now);
        let tables = &mut self.tables;
        let limit = self.config.limits.local_tables_max;
        let refusal = if self.draining {
            Some(Refusal::Draining)
        } else if tables.by_id.len() >= limit || tables.by_id.contains_key(&id) {
            let gone = tables.by_id.values().filter(|table| !table.open);
            let free = gone.map(|table| table.given.until()).min();
            let after = free.map_or(self.config.max_staleness, |at| at.since(now));
            Some(Refusal::Tables { limit, after })
        } else {
            None
        };
        let reply = if let Some(refusal) = refusal {
            Reply::Refused(refusal)
        } else {
            self.counters.tables_opened += 1;
            let position = tables.position;
            let table = Table {
                acknowledged: position,
                behind: None,
                given: Given::default(),
                open: true,
            };
            tables.by_id.insert(id, table);
            // What comes is told from here on.
            Reply::TableOpened { position }
        };
        // Behind what this input has told already, and before whatever comes.
        self.tables.outbox.push(Action::Reply(ticket, reply));
        effects.actions.append(&mut self.tables.outbox);
    }

    pub(super) fn table_said(&mut self, id: TableId, word: TableWord, now: Time) {
        let position = self.tables.position;
        let Some(table) = self.tables.by_id.get_mut(&id) else {
            return;
        };
        match word {
            TableWord::Acknowledges(up_to) => {
                let up_to = up_to.min(position);
                if up_to > table.acknowledged {
                    table.acknowledged = up_to;
                    table.behind = (up_to < position).then_some(now);
                    self.tables.concerned = true;
                }
            }
            // A lease has nothing end earlier, nor count sooner.
            TableWord::Asks(request) => {
                let duration = self.lease_table(id, now);
                let lease = TableLease { request, duration };
                self.tables.outbox.push(Action::Lease(id, lease));
            }
            TableWord::Released => {
                self.tables.by_id.remove(&id);
                self.tables.concerned = true;
            }
            TableWord::Ended => {
                table.open = false;
                self.tables.concerned = true;
            }
        }
    }

    /// Gives a table a lease; zero if there is none now.
    fn lease_table(&mut self, id: TableId, now: Time) -> Duration {
        let most = self.table_lease();
        let left = self.members.fresh_until().since(now).min(most);
        let position = self.tables.position;
        let may = self.may_lease(now) && left >= LEASE_MIN;
        let table = self.tables.by_id.get_mut(&id).filter(|table| table.open);
        let Some(table) = table.filter(|_| may) else {
            return Duration::ZERO;
        };
        if table.behind.is_some_and(|since| now.since(since) >= most) {
            return Duration::ZERO;
        }
        // Merged with one from before a notice, it would have that waited for longer than for one lease.
        if !table.given.has_room(position, now) {
            return Duration::ZERO;
        }
        // Freshness may have become shorter, and what was given before was not taken back.
        let ends = now.plus(left).max(table.given.until());
        table.given.note(position, ends, now);
        shortened(left, self.config.clock_rate_ppm)
    }

    /// Tells tables of an event that was applied. `before` is the stamp until then.
    pub(super) fn tell_tables(&mut self, id: EventId, event: &BumpEvent, before: Stamp) {
        let now = self.now;
        if self.tables.by_id.is_empty() {
            return;
        }
        let notice = match event {
            BumpEvent::Bump(bump) if bump.classes[0].is_reserved() => Notice::Everything,
            // A conjunction may be narrower than its anchor; a table need not know.
            BumpEvent::Bump(bump) => Notice::Classes(bump.classes.as_slice().into()),
            // Which classes a floor swallowed, nobody knows any more.
            BumpEvent::Floor(floor) => one(floor.top.clone()),
            BumpEvent::Shape(new) => one(new.shape.class()),
            BumpEvent::Rows(_) => Notice::Everything,
        };
        self.counters.table_notices += 1;
        let position = self.tables.push(notice, Some(id), now);
        self.tables.wait_for(position, id);
        if self.tables.told.0 == before {
            self.tables.told.0 = self.versions.stamp();
        }
    }

    /// Whatever changed tokens and was not told by its classes is told as everything.
    fn tell_what_else_changed(&mut self, now: Time) {
        let known = (self.versions.stamp(), self.caught_up, self.relapses);
        if std::mem::replace(&mut self.tables.told, known) != known && !self.tables.by_id.is_empty()
        {
            self.tell_everything(now);
        }
    }

    /// Has tables forget what they have; nothing that is applied by now counts as served before they did.
    fn tell_everything(&mut self, now: Time) {
        self.counters.table_notices += 1;
        let position = self.tables.push(Notice::Everything, None, now);
        self.tables.all_up_to = position;
    }

    /// This sidecar drains: nobody will wait for its tables once it has told that it leaves.
    pub(super) fn recall_tables(&mut self, now: Time) {
        if !self.tables.by_id.is_empty() {
            self.tell_everything(now);
        }
    }

    /// What follows from an input for tables, and from what tables have said.
    pub(super) fn review_tables(&mut self, now: Time, effects: &mut Effects) {
        self.tell_what_else_changed(now);
        let due = self.tables.is_due(now);
        let (events, all) = if due {
            self.give_tables_up(now);
            self.tables.advance(now)
        } else {
            (Vec::new(), false)
        };
        if !self.tables.outbox.is_empty() {
            // Before any reply: who hears of an event is not to find tables that were told later.
            let told = std::mem::take(&mut self.tables.outbox);
            effects.actions.splice(0..0, told);
        }
        if all {
            let told: Vec<_> = self.members.iter().map(|it| it.hello.incarnation).collect();
            for to in told {
                self.tell_flushed(to, effects);
            }
            self.settle_receipts(now, effects);
        } else if !events.is_empty() {
            let own = self.config.incarnation;
            let origins: BTreeSet<_> = events.iter().map(|event| event.origin).collect();
            for origin in origins.into_iter().filter(|origin| *origin != own) {
                self.tell_flushed(origin, effects);
            }
            let own = events.iter().filter(|event| event.origin == own);
            let own = own.map(|event| event.sequence).collect();
            self.settle(own, now, effects);
        }
        if self.tables.leaves && self.tables_are_done() {
            self.tables.leaves = false;
            self.leave(now, effects);
        }
        if due {
            self.tables.concerned = false;
            self.tables.wake = self.tables.next_wake(self.table_lease(), now);
        }
    }

    /// Gives up tables that are gone, and ends those whose clients are silent about a notice, once they have no lease any more.
    fn give_tables_up(&mut self, now: Time) {
        let (patience, position) = (self.table_lease(), self.tables.position);
        let over = |table: &Table| table.gives_up_at(patience).is_some_and(|at| at <= now);
        let over = self.tables.by_id.extract_if(.., |_, table| over(table));
        for (id, table) in over.collect::<Vec<_>>() {
            self.counters.tables_lapsed += u64::from(table.acknowledged < position);
            if table.open {
                self.tables.outbox.push(Action::EndTable(id));
            }
        }
    }

    /// Whether no table may serve around anything that was applied here.
    fn tables_are_done(&self) -> bool {
        self.tables.served >= self.tables.all_up_to && self.tables.waiting.is_empty()
    }

    /// Leaves, once no table has anything of this sidecar.
    pub(super) fn leave_behind_tables(&mut self, now: Time, effects: &mut Effects) {
        if self.tables.by_id.is_empty() || self.tables_are_done() {
            self.leave(now, effects);
        } else {
            self.tables.leaves = true;
            self.tables.concerned = true;
        }
    }

    /// Tells a member what of its events is flushed here, and of that what no table serves around.
    pub(super) fn tell_flushed(&mut self, to: Incarnation, effects: &mut Effects) {
        if !self.may_acknowledge(to) {
            return;
        }
        let told = self
            .members
            .by_incarnation(to)
            .and_then(|it| it.told.clone());
        if let Some((watermark, above)) = told {
            effects.send(to, self.acknowledgement(to, watermark, above));
        }
    }

    fn acknowledgement(&self, of: Incarnation, watermark: u64, above: Vec<u64>) -> PeerMessage {
        let tables = &self.tables;
        let from = EventId {
            origin: of,
            sequence: 0,
        };
        let to = EventId {
            origin: of,
            sequence: u64::MAX,
        };
        let held_up = tables.served < tables.all_up_to;
        let first = tables.unserved.range(from..=to).next();
        if !held_up && first.is_none() {
            let flushed = None;
            return PeerMessage::Ack {
                watermark,
                above,
                flushed,
            };
        }
        let flushed = Some((watermark, above.clone()));
        if held_up {
            return PeerMessage::Ack {
                watermark: 0,
                above: Vec::new(),
                flushed,
            };
        }
        let below = first.map_or(u64::MAX, |event| event.sequence - 1);
        let served = |sequence: &u64| {
            let sequence = *sequence;
            tables.serve_past(EventId { sequence, ..from })
        };
        PeerMessage::Ack {
            watermark: watermark.min(below),
            above: above.into_iter().filter(served).collect(),
            flushed,
        }
    }

    /// The position that local tables were told last; 0 if there are none.
    pub(super) fn table_position(&self) -> u64 {
        if self.tables.by_id.is_empty() {
            0
        } else {
            self.tables.position
        }
    }
}

fn one(class: ClassPath) -> Notice {
    Notice::Classes(Arc::from([class]))
}
