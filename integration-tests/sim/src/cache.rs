//! The shared cache, which promises nothing: it evicts, loses deletes, and comes back from a partition with what it had.
//!
//! While it is *away*, reads miss and what is stored or deleted is lost. A value that outlived its delete, or that a
//! return brought back, is marked as *undead*: meeting one is race 5.

use std::collections::BTreeMap;

use grapevine_core::event::PurgeMode;
use grapevine_core::names::Address;
use grapevine_core::token::Token;

use crate::clock::Micros;

/// A value with its envelope.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value {
    /// The application's address.
    pub(crate) address: usize,
    /// The token in the envelope.
    pub(crate) token: Token,
    /// The database's index when it was read.
    pub(crate) index: u64,
    /// When it lapses.
    pub(crate) expires: Micros,
    /// The step of the run in which it was stored.
    pub(crate) stored: u64,
    /// Whether a soft purge has marked it: only who asks for stale values is given it.
    pub(crate) marked: bool,
    /// Whether a delete of it was lost.
    pub(crate) undead: bool,
}

/// The cache.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cache {
    values: BTreeMap<Address, Value>,
    away_until: Micros,
    deaf_until: Micros,
}

impl Cache {
    fn away(&self, now: Micros) -> bool {
        now < self.away_until
    }

    /// Cuts it off from everybody.
    pub(crate) fn leave(&mut self, until: Micros) {
        self.away_until = self.away_until.max(until);
    }

    /// Lets deletes get lost.
    pub(crate) fn lose_deletes(&mut self, until: Micros) {
        self.deaf_until = self.deaf_until.max(until);
    }

    /// What is stored at an address and not marked.
    pub(crate) fn get(&self, now: Micros, address: &Address) -> Option<Value> {
        let value = self.get_even_stale(now, address);
        value.filter(|value| !value.marked)
    }

    /// What is stored at an address.
    pub(crate) fn get_even_stale(&self, now: Micros, address: &Address) -> Option<Value> {
        if self.away(now) {
            return None;
        }
        let value = self.values.get(address)?;
        (now < value.expires).then_some(*value)
    }

    /// Stores a value; tells whether it arrived.
    pub(crate) fn set(&mut self, now: Micros, address: Address, value: Value) -> bool {
        if self.away(now) {
            // The old one, if any, is what readers will find when the cache is back.
            self.mark(&address);
            return false;
        }
        self.values.insert(address, value);
        true
    }

    /// Deletes a value, or, if that is soft, marks it; tells whether the word arrived.
    pub(crate) fn delete(&mut self, now: Micros, address: &Address, mode: PurgeMode) -> bool {
        if self.away(now) || now < self.deaf_until {
            self.mark(address);
            return false;
        }
        if mode == PurgeMode::Hard {
            self.values.remove(address);
        } else if let Some(value) = self.values.get_mut(address) {
            value.marked = true;
        }
        true
    }

    fn mark(&mut self, address: &Address) {
        if let Some(value) = self.values.get_mut(address) {
            value.undead = true;
        }
    }

    /// Evicts one value, by a number that chooses it; the application's address.
    pub(crate) fn evict(&mut self, pick: u64) -> Option<usize> {
        let count = u64::try_from(self.values.len())
            .ok()
            .filter(|count| *count > 0)?;
        let nth = usize::try_from(pick % count).ok()?;
        let address = self.values.keys().nth(nth)?.clone();
        self.values.remove(&address).map(|value| value.address)
    }
}
