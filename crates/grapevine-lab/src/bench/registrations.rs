//! The registrations that benches make: carts with the addresses of their pages, 40 bytes on average, told visit after visit.
//!
//! Half of a cart's addresses are of the essay's kind, with its arguments one after the other; the other half end in a hash of
//! the arguments, as many frameworks build them, and have nothing in common but their beginning. A visit registers a few of one
//! cart's; the next one is of a cart far away. So every batch is spread over as many classes as it has visits.

/// Between two visits: a prime that divides no number of visits in use, so that going by it meets each visit once.
const STRIDE: u64 = 7_368_787;

/// A set of registrations. All of it follows from these numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Registrations {
    /// The number of the first class: sets that begin elsewhere have nothing in common.
    pub(super) first_class: u64,
    pub(super) classes: u64,
    /// Addresses of each class.
    pub(super) per_class: u64,
    /// Addresses that one visit registers; a divisor of those of a class.
    pub(super) per_visit: u64,
}

/// One registration: the class and the address.
pub(super) type Pair = (String, String);

impl Registrations {
    /// How many there are.
    pub(super) fn count(self) -> u64 {
        self.classes * self.per_class
    }

    fn visits(self) -> u64 {
        self.count() / self.per_visit
    }

    /// The name of a class.
    pub(super) fn class(self, class: u64) -> String {
        format!("get_items_in_cart/{}", self.first_class + class)
    }

    fn address(self, class: u64, member: u64) -> String {
        let class = self.first_class + class;
        if member.is_multiple_of(2) {
            let offset = member * 10;
            format!("get_items_in_cart::{class:07}:newest:10:{offset}")
        } else {
            let hash = scatter(class << 20 | member) >> 8;
            format!("get_items_in_cart::{class:07}:{hash:014x}")
        }
    }

    /// All addresses of a class, in byte order.
    pub(super) fn addresses(self, class: u64) -> Vec<String> {
        let members = (0..self.per_class).map(|member| self.address(class, member));
        let mut addresses: Vec<String> = members.collect();
        addresses.sort_unstable();
        addresses
    }

    /// What a visit registers.
    fn visit(self, at: u64) -> impl Iterator<Item = Pair> {
        let place = at * STRIDE % self.visits();
        let (class, first) = (place % self.classes, place / self.classes * self.per_visit);
        let members = first..first + self.per_visit;
        members.map(move |member| (self.class(class), self.address(class, member)))
    }

    /// How many batches of some visits there are; the last one may be shorter.
    pub(super) fn batches(self, visits: u64) -> u64 {
        self.visits().div_ceil(visits)
    }

    /// One of them.
    pub(super) fn batch(self, visits: u64, number: u64) -> Vec<Pair> {
        let first = number * visits;
        let visits = first..(first + visits).min(self.visits());
        visits.flat_map(|at| self.visit(at)).collect()
    }
}

/// Spreads the bits of a number: the last step of splitmix64 (Steele, Lea and Flood, 2014).
pub(super) fn scatter(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn every_visit_is_made_once_and_addresses_have_forty_bytes_on_average() {
        let set = Registrations {
            first_class: 1_000_000,
            classes: 1_000,
            per_class: 10,
            per_visit: 5,
        };
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let (mut count, mut bytes) = (0, 0);
        for number in 0..set.batches(300) {
            let batch = set.batch(300, number);
            for (class, address) in batch {
                count += 1;
                bytes += address.len() as u64;
                assert!(found.entry(class).or_default().insert(address));
            }
        }
        assert_eq!((count, found.len() as u64), (set.count(), set.classes));
        for class in 0..set.classes {
            let addresses: Vec<_> = found[&set.class(class)].iter().cloned().collect();
            assert_eq!(addresses, set.addresses(class));
        }
        let tenths = bytes * 10 / count;
        assert!((395..=425).contains(&tenths), "{tenths} tenths of a byte");
    }
}
