//! The members of a leaf, in order.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};

use super::place::{Place, RowId, SortKey};
use crate::versions::Stamp;

/// What is known of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The apply index when it was added last.
    pub added: Stamp,
    /// The version of its row, 0 if none is known.
    pub version: u64,
}

/// The members of a leaf.
#[derive(Clone, Debug, Default)]
pub struct Members {
    pub(super) by_place: BTreeMap<Place, Member>,
    /// Where the row of an id is, if its version is known: of the versions of a row the newest one counts.
    versioned: HashMap<RowId, SortKey>,
    pub(super) descending: bool,
    /// The last place, in the leaf's direction, up to which all members are known; all are if there is none.
    pub(super) end: Option<Place>,
}

impl Members {
    /// None, of a leaf with this direction.
    pub fn new(descending: bool) -> Self {
        Self {
            descending,
            ..Self::default()
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_place.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_place.is_empty()
    }

    /// Whether all are known, not only those up to some place.
    pub fn is_whole(&self) -> bool {
        self.end.is_none()
    }

    /// What is known of a place.
    pub fn get(&self, place: &Place) -> Option<Member> {
        self.by_place.get(place).copied()
    }

    /// Whether a place lies behind another one, in the leaf's direction.
    pub fn is_behind(&self, place: &Place, other: &Place) -> bool {
        if self.descending {
            place < other
        } else {
            place > other
        }
    }

    /// Adds a row as it is, or says so again. Of rows with versions an older one says nothing.
    pub fn add(&mut self, place: Place, member: Member) {
        if member.version > 0 {
            if let Some(key) = self.versioned.get(&place.id) {
                let known = Place {
                    key: key.clone(),
                    id: place.id.clone(),
                };
                let newer = self.by_place.get(&known);
                if newer.is_some_and(|known| known.version > member.version) {
                    return;
                }
                self.by_place.remove(&known);
            }
            self.versioned.insert(place.id.clone(), place.key.clone());
        }
        // What lies behind what is known is not a part of it.
        if self
            .end
            .as_ref()
            .is_some_and(|end| self.is_behind(&place, end))
        {
            self.versioned.remove(&place.id);
            return;
        }
        match self.by_place.entry(place) {
            Entry::Vacant(entry) => {
                entry.insert(member);
            }
            Entry::Occupied(mut entry) => {
                let known = entry.get_mut();
                known.added = known.added.max(member.added);
                known.version = if known.version == 0 || member.version == 0 {
                    0
                } else {
                    known.version.max(member.version)
                };
                if known.version == 0 {
                    // Whoever said so without a version may have known a newer one.
                    self.versioned.remove(&entry.key().id);
                }
            }
        }
    }

    /// Removes a member if it was not added behind a moment; tells whether it was there.
    pub fn remove(&mut self, place: &Place, until: Stamp) -> bool {
        let there = self.by_place.get(place);
        if there.is_none_or(|member| member.added > until) {
            return false;
        }
        if self.versioned.get(&place.id) == Some(&place.key) {
            self.versioned.remove(&place.id);
        }
        self.by_place.remove(place).is_some()
    }

    /// Removes a row that has left, in a version above the one that is known.
    pub fn retire(&mut self, id: &RowId, version: u64) {
        let Some(key) = self.versioned.get(id) else {
            return;
        };
        let place = Place {
            key: key.clone(),
            id: id.clone(),
        };
        let known = self.by_place.get(&place);
        if known.is_some_and(|member| member.version < version) {
            self.by_place.remove(&place);
            self.versioned.remove(id);
        }
    }

    /// Nothing is known of what lies behind the last of them; nothing at all if there is none.
    pub fn end_here(&mut self) {
        let last = if self.descending {
            self.by_place.first_key_value()
        } else {
            self.by_place.last_key_value()
        };
        self.end = last.map(|(place, _)| place.clone());
    }

    /// The same where a database said which ones come first. Of rows that are equal in the order it may take those first that come last
    /// here, where their ids are texts; so the last ones that are equal are left out then. Tells whether any are left.
    pub fn end_as_told(&mut self) -> bool {
        let last = if self.descending {
            self.by_place.first_key_value()
        } else {
            self.by_place.last_key_value()
        };
        if let Some((
            Place {
                key,
                id: RowId::Text(_),
            },
            _,
        )) = last
        {
            let key = key.clone();
            self.by_place.retain(|place, _| place.key != key);
            self.versioned.retain(|_, of| *of != key);
        }
        self.end_here();
        !self.is_empty()
    }

    /// Keeps the first so many.
    pub fn keep(&mut self, most: usize) {
        let mut dropped = false;
        while self.by_place.len() > most {
            let last = if self.descending {
                self.by_place.pop_first()
            } else {
                self.by_place.pop_last()
            };
            if let Some((place, _)) = last {
                self.versioned.remove(&place.id);
            }
            dropped = true;
        }
        if dropped {
            self.end_here();
        }
    }

    /// Takes in others, of the same leaf.
    pub fn unite(&mut self, others: Self) {
        for (place, member) in others.by_place {
            self.add(place, member);
        }
    }
}
