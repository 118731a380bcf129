//! The oracle: a cache with perfect invalidation, given the same reads.
//!
//! It knows the moment a write commits, so it never serves anything out of date and never drops anything that is not.
//! Its misses are filled as fast as the application's own fill of the same read would be. What real hits fall short of
//! its hits is the price of Grapevine.

use crate::clock::Micros;
use crate::shop::ADDRESSES_MAX;

#[derive(Clone, Copy, Debug)]
struct Held {
    index: u64,
    from: Micros,
    until: Micros,
}

/// The oracle's cache.
#[derive(Clone, Debug, Default)]
pub(crate) struct Oracle {
    held: [Option<Held>; ADDRESSES_MAX],
}

impl Oracle {
    /// A read; tells whether the oracle would have hit. `last` is the last write that covers the address, `index` the
    /// database's, and a fill of this read would be stored after `fill` and live for `ttl`.
    pub(crate) fn read(
        &mut self,
        now: Micros,
        address: usize,
        (last, index): (u64, u64),
        (fill, ttl): (Micros, Micros),
    ) -> bool {
        let held = self.held[address].filter(|held| held.index >= last && now < held.until);
        let hit = held.is_some_and(|held| held.from <= now);
        if held.is_none() {
            self.held[address] = Some(Held {
                index,
                from: now + fill,
                until: now + ttl,
            });
        }
        hit
    }

    /// The cache evicted an address: perfect invalidation does not help.
    pub(crate) fn evict(&mut self, address: usize) {
        self.held[address] = None;
    }
}
