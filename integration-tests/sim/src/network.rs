//! The network: paths between slots that are open or cut, and links that stand on them.
//!
//! A pair of sidecars has two links, each dialled by the one that speaks on it (docs/decisions/0007). A message takes a
//! latency from a distribution with a long tail; it may overtake another, arrive twice, or be lost, with the link or
//! without it, as one is for which a queue had no room. Pieces of a snapshot are neither reordered nor lost without the
//! link: the sidecar waits for room for them. A path that is cut loses what is said on it, or holds it until it heals.

use rand::Rng as _;
use rand::rngs::SmallRng;

use crate::clock::{MILLISECOND, Micros};
use grapevine_core::id::Incarnation;

/// The most slots: five sidecars and a twin.
pub(crate) const SLOTS_MAX: usize = 6;

/// A link's number.
pub(crate) type LinkId = usize;

/// One link.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// Who dialled: slot, run and incarnation.
    pub(crate) from: End,
    /// Who was called.
    pub(crate) to: End,
    /// Whether it was broken, whatever its ends know.
    pub(crate) broken: bool,
    /// When the last message that must keep its order arrives.
    ordered_until: Micros,
}

/// One end of a link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    /// The slot.
    pub(crate) slot: usize,
    /// Which of the slot's runs.
    pub(crate) run: u64,
    /// The incarnation of that run.
    pub(crate) incarnation: Incarnation,
    /// Whether that end thinks that the link stands.
    pub(crate) up: bool,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It arrives then.
    Arrives(Micros),
    /// It arrives twice.
    Twice(Micros, Micros),
    /// It is lost, and the link stands.
    Lost,
    /// It is lost, and so is the link.
    Breaks,
}

/// A path that is cut.
#[derive(Clone, Copy, Debug, Default)]
struct Cut {
    until: Micros,
    holds: bool,
}

/// How messages fare.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// The usual latency.
    pub(crate) latency: Micros,
    /// One message in so many takes up to fifty times as long.
    pub(crate) slow_one_in: u32,
    /// One message in so many arrives twice; zero for never.
    pub(crate) twice_one_in: u32,
    /// One message in so many is lost at any time; zero for never.
    pub(crate) lost_one_in: u32,
}

/// The network.
#[derive(Debug)]
pub(crate) struct Network {
    links: Vec<Link>,
    cuts: [[Cut; SLOTS_MAX]; SLOTS_MAX],
    weather: Weather,
    lossy_until: Micros,
    lossy_percent: u32,
    rng: SmallRng,
}

impl Network {
    /// Nothing linked, every path open.
    pub(crate) fn new(weather: Weather, rng: SmallRng) -> Self {
        Self {
            links: Vec::new(),
            cuts: [[Cut::default(); SLOTS_MAX]; SLOTS_MAX],
            weather,
            lossy_until: 0,
            lossy_percent: 0,
            rng,
        }
    }

    /// A link.
    pub(crate) fn link(&self, link: LinkId) -> &Link {
        &self.links[link]
    }

    /// A link, to change an end of it.
    pub(crate) fn link_mut(&mut self, link: LinkId) -> &mut Link {
        &mut self.links[link]
    }

    /// All links ever made.
    pub(crate) fn links(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        self.links.iter().enumerate()
    }

    /// Makes a link.
    pub(crate) fn dialled(&mut self, from: End, to: End) -> LinkId {
        self.links.push(Link {
            from,
            to,
            broken: false,
            ordered_until: 0,
        });
        self.links.len() - 1
    }

    /// Cuts the path from one slot to another.
    pub(crate) fn cut(&mut self, from: usize, to: usize, until: Micros, holds: bool) {
        let cut = &mut self.cuts[from][to];
        cut.until = cut.until.max(until);
        cut.holds = holds;
    }

    /// Whether nothing gets from one slot to another.
    pub(crate) fn is_cut(&self, now: Micros, from: usize, to: usize) -> bool {
        now < self.cuts[from][to].until
    }

    /// Lets more messages get lost for a while.
    pub(crate) fn lossy(&mut self, until: Micros, percent: u32) {
        self.lossy_until = until;
        self.lossy_percent = percent;
    }

    /// Ends everything that was done to paths.
    pub(crate) fn heal(&mut self) {
        self.cuts = [[Cut::default(); SLOTS_MAX]; SLOTS_MAX];
        self.lossy_until = 0;
        self.weather.lost_one_in = 0;
    }

    /// Draws a latency.
    pub(crate) fn latency(&mut self) -> Micros {
        let usual = self.weather.latency;
        let base = self.rng.random_range(usual / 2..=usual * 2);
        if self.one_in(self.weather.slow_one_in) {
            base * self.rng.random_range(2..50)
        } else {
            base
        }
    }

    fn one_in(&mut self, count: u32) -> bool {
        count > 0 && self.rng.random_range(0..count) == 0
    }

    /// What becomes of a message said now.
    pub(crate) fn fate(&mut self, now: Micros, link: LinkId, ordered: bool) -> Fate {
        if self.links[link].broken {
            // Its end may not have noticed yet.
            return Fate::Lost;
        }
        let (from, to) = (self.links[link].from.slot, self.links[link].to.slot);
        let cut = self.cuts[from][to];
        let mut begin = now;
        if now < cut.until {
            if !cut.holds {
                return if ordered { Fate::Breaks } else { Fate::Lost };
            }
            begin = cut.until;
        }
        let stormy = now < self.lossy_until && self.rng.random_range(0..100) < self.lossy_percent;
        if stormy || self.one_in(self.weather.lost_one_in) {
            let breaks = ordered || self.rng.random_range(0..8) == 0;
            return if breaks { Fate::Breaks } else { Fate::Lost };
        }
        let at = begin + self.latency();
        if ordered {
            let link = &mut self.links[link];
            link.ordered_until = at.max(link.ordered_until + 1);
            return Fate::Arrives(link.ordered_until);
        }
        if self.one_in(self.weather.twice_one_in) {
            let later = at + self.rng.random_range(1..200 * MILLISECOND);
            return Fate::Twice(at, later);
        }
        Fate::Arrives(at)
    }
}
