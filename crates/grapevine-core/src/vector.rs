//! Version vectors: incarnation -> highest sequence. Merging takes the maximum per entry, so merging is associative,
//! commutative and idempotent, and knowledge that meets by any route is the same knowledge (G12).

use std::collections::BTreeMap;

use crate::id::{EventId, Incarnation};

/// A map from incarnation to sequence; a missing entry is 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct VersionVector(BTreeMap<Incarnation, u64>);

impl VersionVector {
    /// The empty vector.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// The sequence for an incarnation, 0 if it has none.
    pub fn get(&self, origin: Incarnation) -> u64 {
        self.0.get(&origin).copied().unwrap_or(0)
    }

    /// Raises one entry; tells whether anything changed. Zero changes nothing.
    pub fn raise(&mut self, origin: Incarnation, sequence: u64) -> bool {
        if sequence <= self.get(origin) {
            return false;
        }
        self.0.insert(origin, sequence);
        true
    }

    /// Joins another vector into this one; tells whether anything changed.
    pub fn join(&mut self, other: &Self) -> bool {
        other.iter().fold(false, |changed, (origin, sequence)| {
            self.raise(origin, sequence) | changed
        })
    }

    /// Lowers every entry to at most the other's: the pointwise minimum.
    pub fn meet(&mut self, other: &Self) {
        self.0.retain(|origin, sequence| {
            *sequence = (*sequence).min(other.get(*origin));
            *sequence > 0
        });
    }

    /// Whether the vector has the event.
    pub fn covers(&self, event: EventId) -> bool {
        event.sequence <= self.get(event.origin)
    }

    /// Whether every entry of `other` is covered.
    pub fn dominates(&self, other: &Self) -> bool {
        other
            .iter()
            .all(|(origin, sequence)| sequence <= self.get(origin))
    }

    /// Whether it has no entries.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The entries, by incarnation.
    pub fn iter(&self) -> impl Iterator<Item = (Incarnation, u64)> + '_ {
        self.0.iter().map(|(&origin, &sequence)| (origin, sequence))
    }
}

impl FromIterator<(Incarnation, u64)> for VersionVector {
    fn from_iter<I: IntoIterator<Item = (Incarnation, u64)>>(entries: I) -> Self {
        let mut vector = Self::new();
        for (origin, sequence) in entries {
            vector.raise(origin, sequence);
        }
        vector
    }
}
