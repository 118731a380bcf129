//! The members of a leaf, in order.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use super::place::{Place, RowId, SortKey};
use crate::versions::Stamp;

/// The most members that one read leaves out. Behind them it ends, as where nothing more is known.
const FILTERED_MAX: usize = 10_000;

/// What is known of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The apply index when it was added last.
    pub added: Stamp,
    /// The version of its row, 0 if none is known.
    pub version: u64,
}

/// Which part of a leaf is asked for.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// Members behind this place, in the leaf's direction.
    pub after: Option<Place>,
    /// Without the first so many of them.
    pub offset: usize,
    /// At most so many.
    pub limit: usize,
    /// Members whose key is at least this.
    pub least: Option<SortKey>,
    /// Members whose key is at most this.
    pub most: Option<SortKey>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The members, in the leaf's order.
    pub members: Vec<(Place, Member)>,
    /// How many there were that a filter left out.
    pub filtered: usize,
    /// Whether all of the window was seen: there are no more, or as many as were asked for.
    pub whole: bool,
    /// Whether there are more behind them.
    pub more: bool,
}

/// The members of a leaf.
#[derive(Clone, Debug, Default)]
pub struct Members {
    by_place: BTreeMap<Place, Member>,
    /// Where the row of an id is, if its version is known: of the versions of a row the newest one counts.
    versioned: HashMap<RowId, SortKey>,
    descending: bool,
    /// The last place, in the leaf's direction, up to which all members are known; all are if there is none.
    end: Option<Place>,
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

    /// The members in a window for which `keep` holds.
    pub fn find(&self, window: &Window, keep: impl Fn(&Place, Member) -> bool) -> Found {
        let mut found = Found::default();
        let Some(range) = self.bounds(window) else {
            found.whole = true;
            return found;
        };
        let range = self.by_place.range(range);
        let mut skip = window.offset;
        let mut cut = false;
        let mut take = |(place, member): (&Place, &Member)| {
            if !keep(place, *member) {
                found.filtered += 1;
                cut = found.filtered == FILTERED_MAX;
                return !cut;
            }
            if skip > 0 {
                skip -= 1;
            } else if found.members.len() < window.limit {
                found.members.push((place.clone(), *member));
            } else {
                found.more = true;
                return false;
            }
            true
        };
        if self.descending {
            range.rev().all(&mut take);
        } else {
            range.into_iter().all(&mut take);
        }
        let full = found.members.len() == window.limit;
        found.whole = full || !cut && self.covers(window);
        found.more |= cut || !found.whole || full && !self.covers(window);
        found
    }

    /// Whether all that there is in a window is known.
    fn covers(&self, window: &Window) -> bool {
        let last = if self.descending {
            &window.least
        } else {
            &window.most
        };
        match (&self.end, last) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(end), Some(last)) if self.descending => end.key < *last,
            (Some(end), Some(last)) => end.key > *last,
        }
    }

    /// A window as a range of places; `None` if nothing can be in it.
    fn bounds(&self, window: &Window) -> Option<(Bound<Place>, Bound<Place>)> {
        let first = |key: &SortKey| Place {
            key: key.clone(),
            id: RowId::Number(i64::MIN),
        };
        // NULL lies in no range, wherever it stands in the order.
        let ranged = window.least.is_some() || window.most.is_some();
        let least = window.least.clone();
        let least = least.or_else(|| ranged.then_some(SortKey::Bits(1)));
        let mut low = least.map_or(Bound::Unbounded, |key| Bound::Included(first(&key)));
        let above = window.most.as_ref().map(next);
        let above = above.or_else(|| ranged.then(SortKey::null_above));
        let mut high = above.map_or(Bound::Unbounded, |key| Bound::Excluded(first(&key)));
        if let Some(after) = &window.after {
            let end = Bound::Excluded(after.clone());
            let inner = |bound: &Bound<Place>, beyond: fn(&Place, &Place) -> bool| match bound {
                Bound::Included(place) | Bound::Excluded(place) => beyond(place, after),
                Bound::Unbounded => false,
            };
            if self.descending && !inner(&high, |high, after| high <= after) {
                high = end;
            } else if !self.descending && !inner(&low, |low, after| low > after) {
                low = end;
            }
        }
        let empty = match (&low, &high) {
            (
                Bound::Included(low) | Bound::Excluded(low),
                Bound::Included(high) | Bound::Excluded(high),
            ) => low >= high,
            _ => false,
        };
        (!empty).then_some((low, high))
    }
}

/// The least key above another one.
fn next(key: &SortKey) -> SortKey {
    match key {
        SortKey::Bits(u64::MAX) => SortKey::Bytes([].into()),
        SortKey::Bits(bits) => SortKey::Bits(bits + 1),
        SortKey::Bytes(bytes) => {
            let mut longer = bytes.to_vec();
            longer.push(0);
            SortKey::Bytes(longer.into())
        }
    }
}
