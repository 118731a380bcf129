//! The bumps of one class, in the form kept in memory: most classes were bumped by one or two sidecars, so a sorted
//! slice of (origin index, sequence) pairs beats a tree. An origin index is local to the sidecar and stands for an
//! incarnation; nothing that leaves the sidecar, and no hash, sees it.

use std::collections::HashMap;

use crate::id::Incarnation;
use crate::roster::Retired;
use crate::vector::VersionVector;

/// A sidecar-local stand-in for an incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct OriginIndex(u32);

/// Hands out origin indices.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins {
    by_incarnation: HashMap<Incarnation, OriginIndex>,
    incarnations: Vec<Incarnation>,
}

impl Origins {
    /// The index of an incarnation, new if need be.
    pub(crate) fn intern(&mut self, incarnation: Incarnation) -> OriginIndex {
        *self.by_incarnation.entry(incarnation).or_insert_with(|| {
            let index = u32::try_from(self.incarnations.len())
                .expect("invariant: origins are bounded far below 2^32");
            self.incarnations.push(incarnation);
            OriginIndex(index)
        })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.incarnations.len()
    }

    /// The incarnation of an index.
    pub(crate) fn incarnation(&self, index: OriginIndex) -> Incarnation {
        self.incarnations[index.0 as usize]
    }
}

/// Where entries go when runs are retired: from each old index to a new one, or through the list of what is retired.
pub(crate) struct Moving<'a> {
    old: &'a Origins,
    new: Origins,
    retired: &'a Retired,
    name: Incarnation,
    /// By old index: its new one, if its run is not retired and is in use.
    moved: Vec<Option<OriginIndex>>,
    /// By old index: whether its entries may count otherwise.
    concerned: Vec<bool>,
}

impl<'a> Moving<'a> {
    pub(crate) fn new(old: &'a Origins, retired: &'a Retired, name: Incarnation) -> Self {
        let runs = old.incarnations.iter();
        Self {
            old,
            new: Origins::default(),
            retired,
            name,
            moved: vec![None; old.incarnations.len()],
            concerned: runs.map(|run| retired.concerns(*run, name)).collect(),
        }
    }

    /// Moves entries; tells whether any of them was one of a retired run, so that they say something else now.
    pub(crate) fn apply(&mut self, entries: &mut Entries) -> bool {
        let mut changed = false;
        let mut moved = Entries(Vec::with_capacity(entries.0.len()));
        for &(index, sequence) in &entries.0 {
            let at = index.0 as usize;
            let origin = self.old.incarnation(index);
            if !self.concerned[at] {
                let new = &mut self.new;
                let index = *self.moved[at].get_or_insert_with(|| new.intern(origin));
                moved.raise(index, sequence);
                continue;
            }
            let alone: VersionVector = [(origin, sequence)].into_iter().collect();
            let image = self.retired.image(self.name, &alone);
            changed |= image != alone;
            moved.join(&image, &mut self.new);
        }
        moved.0.shrink_to_fit();
        *entries = moved;
        changed
    }

    pub(crate) fn finish(self) -> Origins {
        self.new
    }
}

/// A map from origin index to sequence; merging takes the maximum per entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entries(Vec<(OriginIndex, u64)>);

impl Entries {
    /// Raises one entry; tells whether anything changed.
    pub(crate) fn raise(&mut self, origin: OriginIndex, sequence: u64) -> bool {
        match self.0.binary_search_by_key(&origin, |&(index, _)| index) {
            Ok(at) if self.0[at].1 >= sequence => false,
            Ok(at) => {
                self.0[at].1 = sequence;
                true
            }
            Err(at) => {
                // Most classes know one origin: room for one, not for the usual four.
                self.0.reserve_exact(1);
                self.0.insert(at, (origin, sequence));
                true
            }
        }
    }

    /// Joins a vector; tells whether anything changed.
    pub(crate) fn join(&mut self, vector: &VersionVector, origins: &mut Origins) -> bool {
        vector.iter().fold(false, |changed, (origin, sequence)| {
            self.raise(origins.intern(origin), sequence) | changed
        })
    }

    /// The sequence of an origin, 0 if it has none.
    pub(crate) fn get(&self, origin: OriginIndex) -> u64 {
        self.0
            .binary_search_by_key(&origin, |&(index, _)| index)
            .map_or(0, |at| self.0[at].1)
    }

    /// Whether every entry of `other` is covered.
    pub(crate) fn dominates(&self, other: &Self) -> bool {
        other
            .0
            .iter()
            .all(|&(origin, sequence)| sequence <= self.get(origin))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As a vector over incarnations.
    pub(crate) fn to_vector(&self, origins: &Origins) -> VersionVector {
        self.0
            .iter()
            .map(|&(origin, sequence)| (origins.incarnation(origin), sequence))
            .collect()
    }

    /// Whether a vector covers every entry. Peers' registrations are judged by this, class by class: nothing is built.
    pub(crate) fn covered_by_vector(&self, vector: &VersionVector, origins: &Origins) -> bool {
        self.0
            .iter()
            .all(|&(origin, sequence)| sequence <= vector.get(origins.incarnation(origin)))
    }

    /// Whether the join of two others covers every entry.
    pub(crate) fn covered_by(&self, one: &Self, other: Option<&Self>) -> bool {
        self.0.iter().all(|&(origin, sequence)| {
            let other = other.map_or(0, |entries| entries.get(origin));
            sequence <= one.get(origin).max(other)
        })
    }

    /// The first entry.
    pub(crate) fn first(&self, origins: &Origins) -> Option<(Incarnation, u64)> {
        let first = self.0.first();
        first.map(|&(origin, sequence)| (origins.incarnation(origin), sequence))
    }

    /// The join with others, ordered by incarnation, for hashing.
    pub(crate) fn joined_by_incarnation<const N: usize>(
        &self,
        others: [Option<&Self>; N],
        origins: &Origins,
    ) -> Vec<(Incarnation, u64)> {
        let all = others.into_iter().flatten().chain([self]);
        let mut joined: Vec<_> = all
            .flat_map(|entries| &entries.0)
            .map(|&(origin, sequence)| (origins.incarnation(origin), sequence))
            .collect();
        // Of equal incarnations the highest sequence comes first, and stays.
        joined.sort_unstable_by_key(|&(origin, sequence)| (origin, std::cmp::Reverse(sequence)));
        joined.dedup_by_key(|(origin, _)| *origin);
        joined
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Few origins and sequences, so that vectors often meet.
    fn vectors() -> impl Strategy<Value = Vec<(u128, u64)>> {
        proptest::collection::vec((1_u128..6, 0_u64..4), 0..8)
    }

    fn vector(of: &[(u128, u64)]) -> VersionVector {
        let incarnation = |number| Incarnation::new(number).expect("invariant: above zero");
        of.iter()
            .map(|&(number, sequence)| (incarnation(number), sequence))
            .collect()
    }

    proptest! {
        #[test]
        fn entries_are_covered_by_a_vector_as_their_own_vector_is(
            held in vectors(),
            other in vectors(),
            known_before in vectors(),
        ) {
            let (held, other) = (vector(&held), vector(&other));
            // Indices are handed out in another order than incarnations have.
            let mut origins = Origins::default();
            Entries::default().join(&vector(&known_before), &mut origins);
            let mut entries = Entries::default();
            entries.join(&held, &mut origins);
            let covered = entries.covered_by_vector(&other, &origins);
            prop_assert_eq!(covered, other.dominates(&held));
            prop_assert_eq!(covered, other.dominates(&entries.to_vector(&origins)));
        }
    }
}
