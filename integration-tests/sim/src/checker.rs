//! The checker: it knows the true history and judges what sidecars do against it.
//!
//! For every event it knows which write asked for it, whose disks hold it, and since when it counts as acknowledged. For
//! every sidecar and address it keeps the newest write whose bump that sidecar has applied: a value served there must not
//! be older (G3). For every address it keeps what receipts have promised (G7), and for every sidecar the tokens that were
//! superseded there (G2).
//!
//! What is judged, and from when:
//!
//! - *G7 with receipt `all`*: from the moment of the satisfied reply, for reads begun later, of addresses whose policy
//!   bypasses.
//! - *G7 with lesser receipts*: an event is acknowledged when the disks of two runs that have a seat in the roster hold it;
//!   `max_staleness` later, and for policies that serve `serve_unknown_for` later still, no read begun gives
//!   the old value. A seat counts by the newest view that anybody has taken over: whoever has lost it and does not know yet is
//!   acknowledged nothing by those who do. What a run without a seat holds is no more than told to somebody, also where one member has it: no
//!   receipt counts that as a second disk, so the member may leave, or lose its seat, as if it were the only one.
//! - *G11*: who does not tell to bypass has applied all that was acknowledged `max_staleness` ago.
//!
//! Values of a `ttl` policy promise nothing but their TTL and are not judged. An event that only a lost disk held is lost
//! with it (G1 survives the loss of one disk of two), and so is what it would have required.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use grapevine_core::id::{EventId, Lane};
use grapevine_core::machine::Core;
use grapevine_core::progress::{LaneProgress, Progress};
use grapevine_core::token::Token;

use crate::cache::Value;
use crate::clock::Micros;
use crate::disk::Disk;
use crate::network::SLOTS_MAX;
use crate::retired::Retirements;
use crate::scenario::Gap;
use crate::shop::{ADDRESSES_MAX, Mask};
use crate::soft::Fading;
use crate::violation::{Guarantee, Violation};

const EARLY: &str = "its receipt `all` was satisfied by a sidecar that had not caught up";

/// What a reader may rely on, as of its look-up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Promise {
    /// The newest write whose bump its sidecar has applied.
    pub(crate) applied: u64,
    /// The newest write whose receipt `all` was satisfied.
    pub(crate) all: u64,
    /// The newest write whose receipt `all` was satisfied by a sidecar that had not caught up.
    pub(crate) early: u64,
    /// The newest write that has been acknowledged for longer than the staleness bound.
    pub(crate) due: u64,
    /// The write of the session that it carries.
    pub(crate) session: u64,
}

/// What is known of an event.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a thing by itself that may be known"
)]
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// The addresses that its write changed.
    pub(crate) covers: Mask,
    /// Whether what it replaces may be served for a while.
    soft: bool,
    /// The write, 0 if no application asked for it.
    pub(crate) index: u64,
    /// Whether its call was answered.
    pub(crate) answered: bool,
    /// The slots whose disks hold it.
    holders: u8,
    /// Whether the disks of two runs with a seat ever held it: what a receipt calls acknowledged.
    acknowledged: bool,
    /// Whether the last disk that held it is gone.
    lost: bool,
    /// The view that had bumped everything last where it was issued.
    everything: u64,
    /// How many were issued before it.
    order: usize,
}

/// The checker.
#[derive(Debug)]
pub(crate) struct Checker {
    known: BTreeMap<EventId, Known>,
    /// Bumps of everything, each with the number of events that were issued, and that of writes that were committed,
    /// before it was first applied.
    everything: BTreeMap<EventId, (usize, u64)>,
    applied: Vec<[u64; ADDRESSES_MAX]>,
    current: Vec<[Option<Token>; ADDRESSES_MAX]>,
    superseded: Vec<BTreeSet<(usize, Token)>>,
    all: [u64; ADDRESSES_MAX],
    early: [u64; ADDRESSES_MAX],
    coming: [VecDeque<(Micros, u64)>; ADDRESSES_MAX],
    due: [u64; ADDRESSES_MAX],
    acknowledged: Vec<(Micros, EventId)>,
    /// Events on two disks and more, not of two runs with a seat so far.
    unseated: BTreeSet<EventId>,
    /// The slots whose runs have a seat.
    seated: u8,
    checked: Vec<usize>,
    staleness: Micros,
    serve: [Micros; ADDRESSES_MAX],
    /// What stale values must have.
    pub(crate) fading: Fading,
    /// What was ever retired.
    pub(crate) retired: Retirements,
    /// What is not promised and explains whatever is violated from now on.
    pub(crate) excuse: Option<Gap>,
    /// Violations, in order.
    pub(crate) violations: Vec<Violation>,
}

impl Checker {
    /// Nothing happened yet. `serve`: how long each address's policy serves while freshness is unknown.
    pub(crate) fn new(
        staleness: Micros,
        serve: [Micros; ADDRESSES_MAX],
        windows: [Micros; ADDRESSES_MAX],
    ) -> Self {
        Self {
            known: BTreeMap::new(),
            everything: BTreeMap::new(),
            applied: vec![[0; ADDRESSES_MAX]; SLOTS_MAX],
            current: vec![[None; ADDRESSES_MAX]; SLOTS_MAX],
            superseded: vec![BTreeSet::new(); SLOTS_MAX],
            all: [0; ADDRESSES_MAX],
            early: [0; ADDRESSES_MAX],
            coming: std::array::from_fn(|_| VecDeque::new()),
            due: [0; ADDRESSES_MAX],
            acknowledged: Vec::new(),
            unseated: BTreeSet::new(),
            seated: 0,
            checked: vec![0; SLOTS_MAX],
            staleness,
            serve,
            fading: Fading::new(windows),
            retired: Retirements::default(),
            excuse: None,
            violations: Vec::new(),
        }
    }

    /// Whether a sidecar has applied an event.
    pub(crate) fn has(&self, progress: &Progress, event: EventId) -> bool {
        let lane = |name| progress.lane(name, Lane::Bump);
        let mark = |name| lane(name).map_or(0, LaneProgress::watermark);
        let mut instead = self.retired.stand_for(event);
        progress.has(event)
            || self.retired.have(event, mark)
            || instead.any(|event| self.has(progress, event))
    }

    /// Whether the effect of an event is on a disk.
    pub(crate) fn holds(&self, disk: &Disk, event: EventId) -> bool {
        let mark = |name| disk.watermark(name, Lane::Bump);
        let mut instead = self.retired.stand_for(event);
        disk.holds(event)
            || self.retired.have(event, mark)
            || instead.any(|event| self.holds(disk, event))
    }

    /// Notes a violation.
    pub(crate) fn violated(
        &mut self,
        guarantee: Guarantee,
        (step, at): (u64, Micros),
        gap: Option<Gap>,
        what: String,
    ) {
        self.violations.push(Violation {
            guarantee,
            step,
            at,
            what,
            gap: self.excuse.filter(|gap| gap.explains(guarantee)).or(gap),
        });
    }

    /// A write's invalidation was given its number.
    pub(crate) fn issued(
        &mut self,
        event: EventId,
        (covers, soft): (Mask, bool),
        index: u64,
        everything: u64,
    ) {
        self.known.insert(
            event,
            Known {
                covers,
                soft,
                index,
                answered: false,
                holders: 0,
                acknowledged: false,
                lost: false,
                everything,
                order: self.known.len(),
            },
        );
    }

    /// What is known of an event that an application asked for.
    pub(crate) fn known(&self, event: EventId) -> Option<&Known> {
        self.known.get(&event)
    }

    /// Every event that an application asked for.
    pub(crate) fn events(&self) -> impl Iterator<Item = (EventId, &Known)> {
        self.known.iter().map(|(event, known)| (*event, known))
    }

    /// An event's call was answered. `early`: by a sidecar that had not caught up.
    pub(crate) fn answered(
        &mut self,
        now: Micros,
        event: EventId,
        all_satisfied: bool,
        early: bool,
    ) {
        let Some(known) = self.known.get_mut(&event) else {
            return;
        };
        known.answered = true;
        if all_satisfied {
            let (covers, index, soft) = (known.covers, known.index, known.soft);
            let promised = if early {
                &mut self.early
            } else {
                &mut self.all
            };
            for address in covers.iter() {
                promised[address] = promised[address].max(index);
                if self.serve[address] == 0 && !early && !soft {
                    self.fading.promised(now, address, index);
                }
            }
        }
    }

    /// A disk came to hold an event.
    pub(crate) fn held(&mut self, now: Micros, slot: usize, event: EventId) {
        let Some(known) = self.known.get_mut(&event) else {
            return;
        };
        known.holders |= 1 << slot;
        known.lost = false;
        if known.acknowledged || known.holders.count_ones() < 2 {
            return;
        }
        if (known.holders & self.seated).count_ones() < 2 {
            self.unseated.insert(event);
            return;
        }
        self.unseated.remove(&event);
        known.acknowledged = true;
        self.acknowledged.push((now, event));
        let (covers, index, soft) = (known.covers, known.index, known.soft);
        for address in covers.iter() {
            let due = now + self.staleness + self.serve[address];
            self.coming[address].push_back((due, index));
            if !soft {
                self.fading.promised(due, address, index);
            }
        }
    }

    /// The run of a slot has a seat now, or has none.
    pub(crate) fn seated(&mut self, now: Micros, slot: usize, seated: bool) {
        let bit = 1 << slot;
        if (self.seated & bit != 0) == seated {
            return;
        }
        self.seated ^= bit;
        if !seated {
            return;
        }
        let held = |event: &EventId| self.known[event].holders & bit != 0;
        let now_seated: Vec<_> = self.unseated.iter().copied().filter(held).collect();
        for event in now_seated {
            self.held(now, slot, event);
        }
    }

    /// Whether each event that was ever acknowledged, and is not lost with all disks, is on the disks of all of so many slots.
    pub(crate) fn all_hold_acknowledged(&self, slots: usize) -> bool {
        let all = (1_u8 << slots) - 1;
        let acknowledged = self.known.values().filter(|known| known.acknowledged);
        let mut left = acknowledged.filter(|known| !known.lost);
        left.all(|known| known.holders & all == all)
    }

    /// Events of an origin up to a watermark: what a disk holds once it has that.
    pub(crate) fn up_to(&self, mark: EventId) -> Vec<EventId> {
        let first = EventId {
            sequence: 0,
            ..mark
        };
        self.known
            .range(first..=mark)
            .map(|(event, _)| *event)
            .collect()
    }

    /// A disk was replaced: it holds these events and no others.
    pub(crate) fn replaced(&mut self, slot: usize, holds: impl Fn(EventId) -> bool) {
        for (event, known) in &mut self.known {
            let held = known.holders != 0;
            if holds(*event) {
                known.holders |= 1 << slot;
            } else {
                known.holders &= !(1 << slot);
            }
            known.lost |= held && known.holders == 0;
        }
    }

    /// The run of a slot is over, or begins: what it has applied is told anew.
    pub(crate) fn started(&mut self, slot: usize) {
        self.applied[slot] = [0; ADDRESSES_MAX];
        self.checked[slot] = 0;
        self.fading.started(slot);
        self.seated &= !(1 << slot);
    }

    /// A slot has another sidecar now: what the former one showed does not count.
    pub(crate) fn forget(&mut self, slot: usize) {
        self.current[slot] = [None; ADDRESSES_MAX];
        self.superseded[slot].clear();
    }

    /// A sidecar applied an event at a moment, or took it over with a state; the addresses concerned, if an application asked
    /// for it.
    pub(crate) fn applied(
        &mut self,
        slot: usize,
        event: EventId,
        when: Option<Micros>,
    ) -> Option<Mask> {
        let known = self.known.get(&event)?;
        for address in known.covers.iter() {
            let newest = &mut self.applied[slot][address];
            *newest = (*newest).max(known.index);
        }
        let when = when.filter(|_| known.soft);
        self.fading
            .applied(slot, event, (known.covers, known.index), when);
        Some(known.covers)
    }

    /// A sidecar knows a state as a whole: everything that it has counts as applied.
    pub(crate) fn adopted(&mut self, slot: usize, has: impl Fn(EventId) -> bool) {
        let events: Vec<_> = self
            .known
            .keys()
            .copied()
            .filter(|event| has(*event))
            .collect();
        for event in events {
            self.applied(slot, event, None);
        }
        let bumped: Vec<_> = self.everything.keys().copied().collect();
        for event in bumped.into_iter().filter(|event| has(*event)) {
            self.everything_applied(slot, event);
        }
    }

    /// What a reader that looks an address up now may rely on.
    pub(crate) fn promise(&mut self, now: Micros, slot: usize, address: usize) -> Promise {
        let coming = &mut self.coming[address];
        while let Some(&(at, index)) = coming.front()
            && at < now
        {
            coming.pop_front();
            self.due[address] = self.due[address].max(index);
        }
        let bypasses = self.serve[address] == 0;
        Promise {
            applied: self.applied[slot][address],
            all: if bypasses { self.all[address] } else { 0 },
            early: if bypasses { self.early[address] } else { 0 },
            due: self.due[address],
            session: 0,
        }
    }

    /// The newest write whose bump a sidecar has applied.
    pub(crate) fn newest_applied(&self, slot: usize, address: usize) -> u64 {
        self.applied[slot][address]
    }

    /// The newest write whose bump any sidecar has applied.
    pub(crate) fn newest_anywhere(&self, address: usize) -> u64 {
        self.applied
            .iter()
            .map(|slot| slot[address])
            .max()
            .unwrap_or(0)
    }

    /// Judges a value that was served.
    pub(crate) fn served(
        &mut self,
        place: (u64, Micros),
        (letter, name): (char, &str),
        promise: &Promise,
        value: &Value,
    ) {
        let newest = [
            (
                Guarantee::G3,
                promise.applied,
                "its sidecar has applied its bump",
            ),
            (Guarantee::G5, promise.session, "it is the session's own"),
            (
                Guarantee::G7,
                promise.all,
                "its receipt `all` was satisfied",
            ),
            (
                Guarantee::G7,
                promise.due,
                "its bump was acknowledged a staleness bound ago",
            ),
            (Guarantee::G7, promise.early, EARLY),
        ];
        for (guarantee, write, why) in newest {
            if value.index < write {
                let index = value.index;
                let what = format!(
                    "a reader at {letter} is served {name} as of write {index}, stored at step {}; write {write} came before its look-up, and {why}",
                    value.stored
                );
                self.violated(guarantee, place, None, what);
                return;
            }
        }
    }

    /// Judges a token that a sidecar shows. `counts`: it is shown as its own, not salted.
    pub(crate) fn shown(
        &mut self,
        place: (u64, Micros),
        (slot, letter): (usize, char),
        (address, name): (usize, &str),
        token: Token,
        counts: bool,
    ) {
        if self.superseded[slot].contains(&(address, token)) {
            let what =
                format!("at {letter} the superseded token {token:?} of {name} is current again");
            self.violated(Guarantee::G2, place, None, what);
        }
        if !counts {
            return;
        }
        let before = self.current[slot][address].replace(token);
        if let Some(before) = before.filter(|before| *before != token) {
            self.superseded[slot].insert((address, before));
        }
    }

    /// A bump of everything is applied, perhaps for the first time anywhere.
    pub(crate) fn everything_bumped(&mut self, event: EventId, index: u64) {
        let order = self.known.len();
        self.everything.entry(event).or_insert((order, index));
    }

    /// A sidecar applied a bump of everything that no application asked for: nothing from before it may be served.
    pub(crate) fn everything_applied(&mut self, slot: usize, event: EventId) {
        let known = self.known.contains_key(&event);
        if let Some((_, index)) = self.everything.get(&event).filter(|_| !known) {
            let before = (Mask::ALL, *index);
            self.fading.applied(slot, event, before, None);
        }
    }

    /// The newest write before a bump of everything that was applied.
    pub(crate) fn newest_everything(&self, progress: &Progress) -> u64 {
        let applied = self
            .everything
            .iter()
            .filter(|(event, _)| self.has(progress, **event));
        applied.map(|(_, (_, index))| *index).max().unwrap_or(0)
    }

    /// Judges a sidecar that does not tell to bypass. It need not have what was issued before a bump of everything that
    /// it has: values from before that are dead, and those filled since were read after that write. What a member issued that lost its seat, with a bump of everything
    /// that it had not heard of, is not waited for: everything was bumped after the last that it issued as a member who
    /// knew that it was one.
    pub(crate) fn vouches(
        &mut self,
        place: (u64, Micros),
        (slot, letter): (usize, char),
        core: &Core,
    ) {
        let view = core.roster();
        let gone = |event: EventId, everything| {
            let seated = view.seats.values().any(|run| *run == event.origin);
            !seated && view.everything > everything
        };
        let bumped = self.everything.iter();
        let bumped = bumped.filter(|(event, _)| self.has(core.progress(), **event));
        let dead_before = bumped.map(|(_, (order, _))| *order).max().unwrap_or(0);
        while let Some(&(at, event)) = self.acknowledged.get(self.checked[slot])
            && at + self.staleness < place.1
        {
            self.checked[slot] += 1;
            let waits = |known: &Known| {
                let dead = known.order < dead_before;
                !dead && !gone(event, known.everything)
            };
            let waits = self.known.get(&event).is_some_and(waits);
            if waits && !self.has(core.progress(), event) {
                let what = format!(
                    "{letter} vouches for itself without {event:?}, acknowledged at {at} us"
                );
                self.violated(Guarantee::G11, place, None, what);
            }
        }
    }
}

impl Known {
    /// Whether any disk holds it.
    pub(crate) fn is_held(&self) -> bool {
        self.holders != 0
    }

    /// Whether the disks of two runs with a seat ever held it.
    pub(crate) fn was_shared(&self) -> bool {
        self.acknowledged
    }

    /// Whether the last disk that held it is gone.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost
    }
}
