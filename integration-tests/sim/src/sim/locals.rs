//! Local tables of clients: their streams, their leases, and readers that ask nobody.
//!
//! What a client has to do is written down in docs/formats.md, and this is done by that: notices count before the lease that comes
//! behind them, a lease counts from its request, entries remember how things stood before their look-up. Arms do it wrong.

use grapevine_core::id::EventId;
use grapevine_core::machine::effects::{Input, Reply, TableWord, Ticket};
use grapevine_core::table::{Letter, Notice, TableId, TableLease};
use rand::Rng as _;

use super::Sim;
use super::reads::Reading;
use crate::arms::Arm;
use crate::clock::{DriftClock, MILLISECOND, Micros};
use crate::events::{Event, OfLocal};
use crate::local::{Down, Kept, LOCALS, Local};
use crate::node::Call;
use crate::rng::stream;
use crate::schedule::{LocalFault, ReadOp};
use crate::shop::Mask;

/// How long a client waits before it connects anew.
const PAUSE: std::ops::Range<Micros> = 2 * MILLISECOND..120 * MILLISECOND;

impl Sim<'_> {
    /// The tables of each sidecar: of clients whose clocks go as fast and as slow as they may.
    pub(super) fn make_locals(seed: u64, size: usize) -> Vec<Vec<Local>> {
        let local = |at: usize, nth: usize| {
            let mut rng = stream(seed, 1_000 + (at * LOCALS + nth) as u64);
            let offset = rng.random_range(1_000_000..1_000_000_000);
            let fast = rng.random_range(0..2) == 0;
            let ppm = if fast {
                super::SKEW_PPM
            } else {
                -super::SKEW_PPM
            };
            Local::new(DriftClock::new(offset, ppm), rng)
        };
        let locals = (0..size).map(|at| (0..LOCALS).map(|nth| local(at, nth)).collect());
        locals.collect()
    }

    /// Whether there are any: arms that do something else wrong are not to be hidden by them.
    pub(super) fn has_locals(&self) -> bool {
        self.arm.is_none_or(Arm::is_of_tables)
    }

    pub(super) fn open_locals(&mut self) {
        if self.has_locals() {
            for at in 0..self.size {
                for nth in 0..LOCALS {
                    let of = OfLocal { at, nth, stream: 0 };
                    self.after(100 * MILLISECOND, Event::LocalOpens(of));
                }
            }
        }
    }

    fn local(&mut self, of: OfLocal) -> &mut Local {
        &mut self.locals[of.at][of.nth]
    }

    /// What an event is about, unless it is void. One for tasks that hang comes when they go on.
    fn at_hand(&mut self, of: OfLocal, event: impl FnOnce(OfLocal) -> Event) -> bool {
        let now = self.now;
        let local = self.local(of);
        if local.stream != of.stream {
            return false;
        }
        let from = local.tasks_from();
        if from > now {
            self.queue.push(from, event(of));
        }
        from <= now
    }

    /// A client connects.
    pub(super) fn local_opens(&mut self, of: OfLocal) {
        if self.local(of).connected || !self.at_hand(of, Event::LocalOpens) {
            return;
        }
        if !self.nodes[of.at].answers(self.now) {
            return self.after(50 * MILLISECOND, Event::LocalOpens(of));
        }
        self.local(of).begin();
        let local = self.local(of);
        let (stream, id) = (local.stream, TableId(local.rng.random_range(1..=u64::MAX)));
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let call = Call::Local(OfLocal { stream, ..of }, id);
        self.nodes[of.at].calls.insert(ticket, call);
        self.input(of.at, Input::OpenTable(ticket, id));
    }

    /// A sidecar answers that.
    pub(super) fn local_answered(&mut self, (of, id): (OfLocal, TableId), reply: &Reply) {
        if self.local(of).stream != of.stream {
            return;
        }
        let Reply::TableOpened { position } = reply else {
            return self.lose_local(of, 100 * MILLISECOND);
        };
        self.tally.locals.opened += 1;
        let run = self.nodes[of.at].incarnation;
        let local = self.local(of);
        local.id = Some(id);
        if local.of != run {
            local.shown.fill(0);
        }
        local.of = run;
        self.send_down(of, Down::Opened(id, *position));
    }

    fn send_down(&mut self, of: OfLocal, what: Down) {
        let now = self.now;
        let local = self.local(of);
        local.down.push_back(what);
        let at = local.way_down(now);
        self.queue.push(at, Event::LocalHears(of));
    }

    /// Says something; tells when it is heard.
    fn send_up(&mut self, of: OfLocal, word: TableWord) -> Micros {
        let (now, run) = (self.now, self.nodes[of.at].run);
        let local = self.local(of);
        local.up.push_back(word);
        let at = local.way_up(now);
        self.queue.push(at, Event::LocalSays { of, run });
        at
    }

    /// A sidecar tells its tables something.
    pub(super) fn tell_locals(
        &mut self,
        at: usize,
        position: u64,
        (notice, event): (&Notice, Option<EventId>),
    ) {
        let lies = self.is(Arm::TablesNotAwaited);
        for nth in 0..LOCALS {
            let local = &mut self.locals[at][nth];
            let Some(id) = local.id else {
                continue;
            };
            if local.mailbox.notice(position, notice) {
                self.tally.locals.overrun += 1;
            }
            let local = &mut self.locals[at][nth];
            local.noted.push_back((position, event));
            let of = OfLocal {
                at,
                nth,
                stream: local.stream,
            };
            self.post_soon(of);
            if lies {
                self.input(at, Input::Table(id, TableWord::Acknowledges(position)));
            }
        }
    }

    pub(super) fn lease_local(&mut self, at: usize, id: TableId, lease: TableLease) {
        if let Some(of) = self.of_table(at, id) {
            self.local(of).mailbox.lease(lease);
            self.post_soon(of);
        }
    }

    fn of_table(&self, at: usize, id: TableId) -> Option<OfLocal> {
        let locals = self.locals.get(at)?;
        let nth = locals.iter().position(|local| local.id == Some(id))?;
        let stream = locals[nth].stream;
        Some(OfLocal { at, nth, stream })
    }

    /// A sidecar has given a table up.
    pub(super) fn end_local(&mut self, at: usize, id: TableId) {
        if let Some(of) = self.of_table(at, id) {
            self.tally.locals.given_up += 1;
            self.lose_local(of, 0);
        }
    }

    fn post_soon(&mut self, of: OfLocal) {
        let run = self.nodes[of.at].run;
        let local = self.local(of);
        if !std::mem::replace(&mut local.posting, true) {
            let late = local.rng.random_range(5..120);
            self.after(late, Event::LocalPost { of, run });
        }
    }

    /// A sidecar's task takes the next message.
    pub(super) fn local_post(&mut self, of: OfLocal) {
        let local = self.local(of);
        if local.stream != of.stream || local.id.is_none() {
            return;
        }
        local.posting = false;
        let Some(letter) = local.mailbox.take() else {
            return;
        };
        let more = !local.mailbox.is_empty();
        self.send_down(of, Down::Letter(letter));
        if more {
            self.post_soon(of);
        }
    }

    /// A sidecar hears a word.
    pub(super) fn local_says(&mut self, of: OfLocal) {
        let local = self.local(of);
        let heard = local.stream == of.stream;
        let (Some(id), Some(word)) = (local.id.filter(|_| heard), local.up.pop_front()) else {
            return;
        };
        if word == TableWord::Released {
            self.tally.locals.released += 1;
            self.local(of).id = None;
        }
        self.input(of.at, Input::Table(id, word));
    }

    /// A client hears something.
    pub(super) fn local_hears(&mut self, of: OfLocal) {
        if !self.at_hand(of, Event::LocalHears) {
            return;
        }
        let local = self.local(of);
        match local.down.pop_front() {
            Some(Down::Opened(id, position)) => {
                local.named = Some(id);
                local.heard = position;
                self.local_asks(of);
            }
            Some(Down::Letter(letter)) => self.local_reads(of, &letter),
            Some(Down::Closing) => self.local_releases(of),
            None => {}
        }
    }

    fn local_reads(&mut self, of: OfLocal, letter: &Letter) {
        let (now, from_answer) = (self.now, self.is(Arm::LeaseFromAnswer));
        let stale = if letter.everything {
            self.tally.locals.everything += 1;
            Mask::ALL
        } else {
            self.shop
                .covers(&letter.classes, grapevine_core::event::Match::Any)
        };
        let local = &mut self.locals[of.at][of.nth];
        for address in stale.iter() {
            local.changes[address] += 1;
        }
        if letter.position > 0 {
            local.heard = letter.position;
            while let Some((_, event)) = local.noted.pop_front_if(|it| it.0 <= letter.position) {
                let known = event.and_then(|event| self.checker.known(event));
                for address in known.iter().flat_map(|known| known.covers.iter()) {
                    let index = known.map_or(0, |known| known.index);
                    local.applied[address] = local.applied[address].max(index);
                }
            }
        }
        if let Some(lease) = letter.lease
            && let Some(sent) = local.asked.remove(&lease.request)
        {
            let from = if from_answer {
                local.clock.at(now)
            } else {
                sent
            };
            local.lease_ends = local.lease_ends.max(from.plus(lease.duration));
            self.tally.locals.leases += u64::from(!lease.duration.is_zero());
        }
        if letter.position > 0 {
            self.send_up(of, TableWord::Acknowledges(letter.position));
        }
    }

    /// A client asks for its next lease.
    pub(super) fn local_asks(&mut self, of: OfLocal) {
        if !self.at_hand(of, Event::LocalAsks) {
            return;
        }
        let now = self.now;
        let local = self.local(of);
        if local.named.is_none() {
            return;
        }
        local.requests += 1;
        let (request, sent) = (local.requests, local.clock.at(now));
        local.asked.insert(request, sent);
        let again = local.rng.random_range(40 * MILLISECOND..90 * MILLISECOND);
        self.send_up(of, TableWord::Asks(request));
        self.after(again, Event::LocalAsks(of));
    }

    /// Something is wrong with a client.
    pub(super) fn local_fault(&mut self, at: usize, nth: usize, fault: LocalFault) {
        if !self.has_locals() {
            return;
        }
        let now = self.now;
        let stream = self.locals[at][nth].stream;
        let of = OfLocal { at, nth, stream };
        let local = self.local(of);
        match fault {
            LocalFault::Hangs(lasts) => local.hangs_until = local.hangs_until.max(now + lasts),
            LocalFault::Stops(lasts) => local.stopped_until = local.stopped_until.max(now + lasts),
            LocalFault::Breaks { above, below } => {
                if let Some(id) = local.id.take() {
                    let run = self.nodes[at].run;
                    self.after(above, Event::LocalEnds { of, run, id });
                }
                let local = self.local(of);
                local.up.clear();
                local.down.clear();
                if local.connected {
                    self.after(below, Event::LocalLost(of));
                }
            }
            LocalFault::Releases if local.tasks_from() <= now => self.local_releases(of),
            LocalFault::Releases => {}
        }
    }

    /// A client gives its lease up, says so, and connects anew once the stream is over.
    fn local_releases(&mut self, of: OfLocal) {
        let local = self.local(of);
        // Of a stream that is broken it will learn.
        if local.named.is_none() || local.id.is_none() {
            return;
        }
        local.empty();
        let heard = self.send_up(of, TableWord::Released);
        self.queue
            .push(heard + 30 * MILLISECOND, Event::LocalLost(of));
    }

    /// A sidecar that drains asks its tables to go.
    pub(super) fn close_locals(&mut self, at: usize) {
        for nth in 0..self.locals.get(at).map_or(0, Vec::len) {
            let local = &self.locals[at][nth];
            if local.id.is_some() {
                let stream = local.stream;
                self.send_down(OfLocal { at, nth, stream }, Down::Closing);
            }
        }
    }

    /// The sidecar's end of a stream learns that it is broken.
    pub(super) fn local_ends(&mut self, at: usize, id: TableId) {
        self.input(at, Input::Table(id, TableWord::Ended));
    }

    /// A client is to learn that its stream is over.
    fn lose_local(&mut self, of: OfLocal, late: Micros) {
        let now = self.now;
        let local = self.local(of);
        local.id = None;
        let heard = local.way_down(now) + late;
        self.queue.push(heard, Event::LocalLost(of));
    }

    /// A client learns that its stream is over: what it has was good until now.
    pub(super) fn local_lost(&mut self, of: OfLocal) {
        if !self.local(of).connected || !self.at_hand(of, Event::LocalLost) {
            return;
        }
        let local = self.local(of);
        local.empty();
        local.connected = false;
        let pause = local.rng.random_range(PAUSE);
        self.after(pause, Event::LocalOpens(of));
    }

    /// A sidecar's process is gone, and the streams of its tables with it.
    pub(super) fn crash_locals(&mut self, at: usize) {
        for nth in 0..self.locals.get(at).map_or(0, Vec::len) {
            let local = &mut self.locals[at][nth];
            if local.connected {
                let late = match local.rng.random_range(0..4) {
                    0 => local.rng.random_range(0..400 * MILLISECOND),
                    _ => 0,
                };
                let stream = local.stream;
                self.lose_local(OfLocal { at, nth, stream }, late);
            }
        }
    }

    /// A reader in a process with a table looks there first. Tells whether it is done with that.
    pub(super) fn read_locally(
        &mut self,
        (op, read): (usize, &ReadOp),
        (at, nth): (usize, usize),
        address: usize,
    ) {
        let now = self.now;
        let mut promise = self.checker.promise(now, at, address);
        let behind = !self.is(Arm::TableRunsBehind);
        let local = &self.locals[at][nth];
        let says = local.is_leased(now) && !(behind && local.heard < local.needed);
        let kept = local.kept[address].as_ref().filter(|_| says);
        let kept = kept.filter(|kept| kept.changes == local.changes[address]);
        if local.is_leased(now) && !says {
            self.tally.locals.behind += 1;
        }
        if let Some(kept) = kept {
            let heard = local.applied[address].max(local.shown[address]);
            promise.applied = kept.applied.max(heard);
            let resolution = kept.resolution.clone();
            self.tally.locals.looked_up += 1;
            self.transcript
                .fold(&[60, op as u64, address as u64, resolution.token.0]);
            let (letter, name) = (
                self.nodes[at].letter,
                &self.shop.items[address].query.address,
            );
            self.transcript.say(now, || {
                format!(
                    "reader {op} has {name} in table {nth} at {letter}: {:?}",
                    resolution.token
                )
            });
            let reading = Reading::local(read, (at, address), now, (promise, resolution));
            self.reads[op] = Some(Box::new(reading));
            return self.after(read.get, Event::Got { op });
        }
        let (changes, named, stream) = (local.changes[address], local.named, local.stream);
        let of = OfLocal { at, nth, stream };
        let late = self.local(of).look_up();
        let asks = Event::LocalResolves {
            of,
            op,
            address,
            before: (changes, named),
        };
        self.after(late, asks);
    }

    /// A look-up of a process with a table comes to its sidecar. Its reader has the answer at once; that it is kept may take longer.
    pub(super) fn local_resolves(
        &mut self,
        of: OfLocal,
        (op, address): (usize, usize),
        (changes, named): (u64, Option<TableId>),
    ) {
        let (at, own) = (of.at, self.time(of.at));
        let Some(read) = self.read_op(op) else {
            return;
        };
        if !self.nodes[at].answers(self.now) {
            self.tally.bypassed += 1;
            return;
        }
        self.resolve(op, &read, at, address, 0);
        let core = self.nodes[at].core.as_ref();
        let position = named.and_then(|id| core?.table_position_of(id));
        let keeps = named.is_some_and(|id| core.is_some_and(|core| core.may_keep(id, own)));
        let run = self.nodes[at].incarnation;
        let local = &mut self.locals[at][of.nth];
        match position.filter(|_| local.named == named) {
            Some(position) => local.needed = local.needed.max(position),
            // An answer of which nobody can say how far it is ahead of what is here.
            None => local.forget(),
        }
        if local.of == run {
            for (address, shown) in local.shown.iter_mut().enumerate() {
                *shown = (*shown).max(self.checker.newest_applied(at, address));
            }
        }
        if let Some(reading) = self.reads[op].as_ref().filter(|_| keeps) {
            let kept = Box::new(Kept {
                resolution: reading.resolution.clone(),
                changes,
                applied: reading.applied(),
            });
            let late = self.local(of).look_up();
            let keeps = Event::LocalKeeps { of, address, kept };
            self.after(late, keeps);
        }
    }

    /// A process with a table has made a write, whose answer names what was bumped: what it reads from now on is not from before.
    pub(super) fn local_wrote(&mut self, at: usize, event: EventId) {
        let known = self.checker.known(event);
        let local = self
            .locals
            .get_mut(at)
            .and_then(|locals| locals.first_mut());
        if let Some((known, local)) = known.zip(local) {
            for address in known.covers.iter() {
                local.changes[address] += 1;
                local.shown[address] = local.shown[address].max(known.index);
            }
        }
    }

    /// An answer comes to a table.
    pub(super) fn local_keeps(&mut self, of: OfLocal, address: usize, mut kept: Kept) {
        let late = self.is(Arm::TableKeepsLate);
        let local = self.local(of);
        if late {
            kept.changes = local.changes[address];
        }
        if local.stream == of.stream && local.named.is_some() {
            local.kept[address] = Some(kept);
        }
    }

    /// The cache has nothing for what a table said: the sidecar is asked, for only that can say how to fill.
    pub(super) fn local_missed(&mut self, op: usize, reading: &Reading) {
        self.reads[op] = None;
        let (at, address) = (reading.at, reading.address);
        if self.nodes[at].answers(self.now) {
            self.resolve(op, &reading.read, at, address, 0);
        } else {
            self.tally.bypassed += 1;
        }
    }

    /// Whether a table of a run may serve around an event that the run is said to have done with: it holds a lease, and has
    /// something from before the event. What it will ask for its sidecar answers.
    pub(super) fn served_locally(&self, at: usize, event: EventId) -> bool {
        let Some(known) = self.checker.known(event) else {
            return false;
        };
        let stale = |local: &Local, address: usize| {
            let kept = local.kept[address].as_ref();
            let kept = kept.filter(|kept| kept.changes == local.changes[address]);
            kept.is_some_and(|kept| kept.applied < known.index)
        };
        let stale = |local: &Local| known.covers.iter().any(|address| stale(local, address));
        self.leased_locals(at).any(stale)
    }

    /// Whether a table of a run has not heard of an event that the run is said to have done with, and holds a lease: whatever it has.
    pub(super) fn unheard_locally(&self, at: usize, event: EventId) -> bool {
        let unheard = |local: &Local| local.noted.iter().any(|(_, of)| *of == Some(event));
        self.leased_locals(at).any(unheard)
    }

    fn leased_locals(&self, at: usize) -> impl Iterator<Item = &Local> {
        let run = self.nodes[at].incarnation;
        let locals = self.locals.get(at).into_iter().flatten();
        locals.filter(move |local| local.of == run && local.is_leased(self.now))
    }

    /// Nothing is wrong with clients any more.
    pub(super) fn heal_locals(&mut self) {
        let now = self.now;
        for local in self.locals.iter_mut().flatten() {
            local.hangs_until = local.hangs_until.min(now);
            local.stopped_until = local.stopped_until.min(now);
        }
    }
}
