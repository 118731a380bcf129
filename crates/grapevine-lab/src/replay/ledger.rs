//! What every address was last filled with, by whichever node, told by the truth alone: the measure of over-invalidation.
//!
//! A fill is noted when the read that made it has ended, so its value is in the cache by then. If a later read, begun
//! afterwards, has to ask the source for the same address and the source still shows the very same versions, then what the
//! cache held was current, and was invalidated or refused all the same. Fills that overlap are not held against anyone.
//!
//! One entry per address that was filled.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::trace::Record;
use crate::truth::{Moment, Versions};

/// The record and, with pages, the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Address(pub(crate) Record, pub(crate) u64);

/// The last fills of all addresses.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    last: Mutex<HashMap<Address, (Versions, Moment)>>,
}

impl Ledger {
    /// Notes a fill whose read has ended. Of several fills of the same versions the first one counts: since then they could be had.
    pub(crate) fn filled(&self, address: Address, versions: Versions, ended: Moment) {
        let mut last = self.last.lock();
        let known = last.entry(address).or_insert((versions, ended));
        if known.0 != versions {
            *known = (versions, ended);
        }
    }

    /// Whether a read that began at this moment could have had these versions from the cache.
    pub(crate) fn had(&self, address: Address, versions: Versions, begun: Moment) -> bool {
        let last = self.last.lock();
        let known = last.get(&address);
        known.is_some_and(|(known, ended)| *known == versions && *ended <= begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(object: u64, group: u64) -> Versions {
        Versions { object, group }
    }

    #[test]
    fn a_value_could_be_had_once_its_fill_had_ended_and_until_a_write() {
        let ledger = Ledger::default();
        let address = Address(Record::from_bits(7), 0);
        assert!(!ledger.had(address, versions(0, 0), Moment(5)));
        ledger.filled(address, versions(0, 0), Moment(10));
        assert!(!ledger.had(address, versions(0, 0), Moment(9)));
        assert!(ledger.had(address, versions(0, 0), Moment(10)));
        assert!(!ledger.had(address, versions(1, 0), Moment(11)));
        assert!(!ledger.had(address, versions(0, 1), Moment(11)));
        assert!(!ledger.had(Address(Record::from_bits(7), 1), versions(0, 0), Moment(11)));
        // Address again though it was current: it could be had all the while.
        ledger.filled(address, versions(0, 0), Moment(20));
        assert!(ledger.had(address, versions(0, 0), Moment(12)));
        ledger.filled(address, versions(1, 0), Moment(30));
        assert!(ledger.had(address, versions(1, 0), Moment(30)));
    }
}
