//! Perfect invalidation, on the same sequence of operations: what Grapevine's hits are measured against.
//!
//! The oracle is a cache of endless size that is told of every write the moment it happens, and told exactly which objects it
//! changes. An address hits if it was filled at the object's (and group's) present version; a read hits if all addresses it needs
//! do. Operations happen one after the other in the order of the sequence, so two runs with one seed have one oracle, whatever
//! their timing; it knows no time to live either. Memory: one entry per address and per counter.

use std::collections::HashMap;

use crate::truth::{CounterId, Subject, Versions};

/// The cache with perfect invalidation. `A` names an address.
#[derive(Debug)]
pub struct Oracle<A> {
    filled: HashMap<A, Versions>,
    versions: HashMap<CounterId, u64>,
    reads: u64,
    hits: u64,
}

impl<A> Default for Oracle<A> {
    fn default() -> Self {
        Self {
            filled: HashMap::new(),
            versions: HashMap::new(),
            reads: 0,
            hits: 0,
        }
    }
}

impl<A: std::hash::Hash + Eq> Oracle<A> {
    /// Reads the addresses, fills those that miss, and tells whether none did.
    pub fn read(&mut self, subject: Subject, addresses: impl IntoIterator<Item = A>) -> bool {
        let now = Versions {
            object: self.version(subject.object),
            group: subject.group.map_or(0, |group| self.version(group)),
        };
        let mut hit = true;
        for address in addresses {
            hit &= self.filled.insert(address, now) == Some(now);
        }
        self.reads += 1;
        self.hits += u64::from(hit);
        hit
    }

    /// How often an object or a group has been written.
    pub fn version(&self, id: CounterId) -> u64 {
        self.versions.get(&id).copied().unwrap_or(0)
    }

    /// Writes an object or a group.
    pub fn write(&mut self, id: CounterId) {
        *self.versions.entry(id).or_default() += 1;
    }

    /// Reads so far.
    pub fn reads(&self) -> u64 {
        self.reads
    }

    /// Reads so far that hit.
    pub fn hits(&self) -> u64 {
        self.hits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: CounterId = CounterId(9);

    fn subject(object: u32) -> Subject {
        Subject {
            object: CounterId(object),
            group: Some(GROUP),
        }
    }

    #[test]
    fn an_address_hits_from_its_second_read_until_its_object_is_written() {
        let mut oracle = Oracle::default();
        assert!(!oracle.read(subject(1), ["a"]));
        assert!(oracle.read(subject(1), ["a"]));
        oracle.write(CounterId(1));
        assert!(!oracle.read(subject(1), ["a"]));
        assert!(oracle.read(subject(1), ["a"]));
        assert_eq!((oracle.reads(), oracle.hits()), (4, 2));
    }

    #[test]
    fn a_write_of_one_object_leaves_its_neighbours() {
        let mut oracle = Oracle::default();
        oracle.read(subject(1), ["a"]);
        oracle.read(subject(2), ["b"]);
        oracle.write(CounterId(2));
        assert!(oracle.read(subject(1), ["a"]));
        assert!(!oracle.read(subject(2), ["b"]));
    }

    #[test]
    fn a_write_of_a_group_takes_all_its_objects() {
        let mut oracle = Oracle::default();
        oracle.read(subject(1), ["a"]);
        oracle.read(subject(2), ["b"]);
        oracle.write(GROUP);
        assert!(!oracle.read(subject(1), ["a"]));
        assert!(!oracle.read(subject(2), ["b"]));
        assert!(oracle.read(subject(1), ["a"]));
    }

    #[test]
    fn a_slice_hits_only_if_every_page_does_and_fills_them_all() {
        let mut oracle = Oracle::default();
        assert!(!oracle.read(subject(1), ["p0", "p1"]));
        assert!(!oracle.read(subject(1), ["p1", "p2"]));
        assert!(oracle.read(subject(1), ["p0", "p1", "p2"]));
    }
}
