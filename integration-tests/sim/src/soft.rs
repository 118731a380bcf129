//! What stale values must have, for the checker: soft writes let what they replaced be served for a while (decision 0013).
//!
//! For every sidecar and address: the newest write that a *hard* bump told of there (or a bump that it took over with a state,
//! at its start or in a snapshot, or one of everything that no application asked for), and the soft ones with the moments at
//! which they were applied there. A value that is served as stale must have the hard ones (G3), and all soft ones that were applied
//! longer ago than the window of its policy (G7). And from the moment on at which all sidecars that vouch have a hard bump (its
//! receipt `all`, or a staleness bound after it was acknowledged) nobody serves what that replaced (G7). Of soft ones that
//! says nothing: a sidecar that was cut off counts the window from when it applies them.

use std::collections::{BTreeSet, VecDeque};

use grapevine_core::id::EventId;

use crate::clock::{MILLISECOND, Micros};
use crate::network::SLOTS_MAX;
use crate::shop::{ADDRESSES_MAX, Mask};
use crate::violation::Guarantee;

/// What wake-ups and look-ups may be apart.
const MARGIN: Micros = MILLISECOND;

/// The newest writes that a stale value must have, as of a look-up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fresher {
    /// By a hard bump that its sidecar has applied.
    hard: u64,
    /// By soft bumps that its sidecar applied longer ago than the window.
    over: u64,
    /// By hard bumps that every sidecar which vouches has.
    due: u64,
    /// The write of the session that its reader carries.
    pub(crate) session: u64,
}

impl Fresher {
    /// What a value as of this write lacks.
    pub(crate) fn lacks(&self, index: u64) -> Option<(Guarantee, u64, &'static str)> {
        let newest = [
            (
                Guarantee::G3,
                self.hard,
                "its sidecar has applied its hard bump",
            ),
            (Guarantee::G5, self.session, "it is the session's own"),
            (
                Guarantee::G7,
                self.over,
                "its sidecar applied its soft bump longer ago than the window",
            ),
            (
                Guarantee::G7,
                self.due,
                "everybody who vouches has its hard bump",
            ),
        ];
        newest.into_iter().find(|(_, write, _)| index < *write)
    }
}

/// What one sidecar has applied for one address.
#[derive(Clone, Debug, Default)]
struct Had {
    hard: u64,
    soft: VecDeque<(Micros, u64)>,
    over: u64,
}

/// What stale values must have.
#[derive(Debug)]
pub(crate) struct Fading {
    windows: [Micros; ADDRESSES_MAX],
    had: Vec<[Had; ADDRESSES_MAX]>,
    /// Soft events that each slot applied at a moment that is known.
    timed: Vec<BTreeSet<EventId>>,
    coming: [BTreeSet<(Micros, u64)>; ADDRESSES_MAX],
    due: [u64; ADDRESSES_MAX],
}

impl Fading {
    /// Nothing happened yet. `windows`: for how long what a soft write replaced may be served, zero for never.
    pub(crate) fn new(windows: [Micros; ADDRESSES_MAX]) -> Self {
        let none = || std::array::from_fn(|_| Had::default());
        Self {
            windows,
            had: (0..SLOTS_MAX).map(|_| none()).collect(),
            timed: vec![BTreeSet::new(); SLOTS_MAX],
            coming: std::array::from_fn(|_| BTreeSet::new()),
            due: [0; ADDRESSES_MAX],
        }
    }

    /// The run of a slot is over, or begins: it remembers nothing stale.
    pub(crate) fn started(&mut self, slot: usize) {
        for had in &mut self.had[slot] {
            *had = Had::default();
        }
        self.timed[slot].clear();
    }

    /// A sidecar applied a bump, softly at a moment or else hard.
    pub(crate) fn applied(
        &mut self,
        slot: usize,
        event: EventId,
        (covers, index): (Mask, u64),
        softly: Option<Micros>,
    ) {
        let windows = self.windows;
        let fade = |address: &usize| windows[*address] > 0;
        let known = match softly {
            Some(_) => !self.timed[slot].insert(event),
            None => self.timed[slot].contains(&event),
        };
        if known {
            return;
        }
        for address in covers.iter().filter(fade) {
            let had = &mut self.had[slot][address];
            match softly {
                Some(now) => had.soft.push_back((now, index)),
                None => had.hard = had.hard.max(index),
            }
        }
    }

    /// From a moment on every sidecar that vouches has a hard bump.
    pub(crate) fn promised(&mut self, from: Micros, address: usize, index: u64) {
        if self.windows[address] > 0 {
            self.coming[address].insert((from, index));
        }
    }

    /// What a stale value must have that is told of by a look-up now.
    pub(crate) fn fresher(&mut self, now: Micros, slot: usize, address: usize) -> Fresher {
        let coming = &mut self.coming[address];
        while let Some(&(at, index)) = coming.first()
            && at < now
        {
            coming.pop_first();
            self.due[address] = self.due[address].max(index);
        }
        let window = self.windows[address];
        let had = &mut self.had[slot][address];
        while let Some(&(at, index)) = had.soft.front()
            && at + window + MARGIN < now
        {
            had.soft.pop_front();
            had.over = had.over.max(index);
        }
        Fresher {
            hard: had.hard,
            over: had.over,
            due: self.due[address],
            session: 0,
        }
    }
}
