//! The leaves of a sidecar, by class and order, within a bound.

use std::collections::BTreeMap;
use std::time::Duration;

use super::changes::{Change, changes};
use super::loads::Loads;
use super::{LEAVES_FOLLOWED_MAX, Leaf, Loading, Present, Touched, leaf_shape};
use crate::criteria::Shape;
use crate::event::RowImage;
use crate::id::Time;
use crate::index::{LeafKey, Member, Members, Ordering, Place};
use crate::names::ClassPath;
use crate::versions::Stamp;

/// The leaves.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    leaves: BTreeMap<ClassPath, BTreeMap<Ordering, Leaf>>,
    /// What leaves there are of, and how many classes of each.
    shapes: BTreeMap<Shape, usize>,
    /// Those that are present, as they were loaded.
    loaded: BTreeMap<u64, LeafKey>,
    /// Loads under way.
    loads: Loads,
    /// Members of those that are present, and of those that are being loaded.
    members: usize,
    loading: usize,
}

/// How many leaves and loads were dropped for want of room.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Dropped {
    pub(super) leaves: u64,
    pub(super) loads: u64,
}

/// Why nobody gets the right to load a leaf now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRight {
    /// Somebody has it. When to look again.
    IsLoaded {
        /// From now on.
        after: Duration,
    },
    /// Too many others are being loaded, and all of them go on.
    Full,
}

/// As how many members a leaf counts that has none.
const LEAF_WEIGHT: usize = 8;

impl Table {
    pub(super) fn get(&self, key: &LeafKey) -> Option<&Leaf> {
        self.leaves.get(&key.class)?.get(&key.ordering)
    }

    fn get_mut(&mut self, key: &LeafKey) -> Option<&mut Leaf> {
        self.leaves.get_mut(&key.class)?.get_mut(&key.ordering)
    }

    pub(super) fn of_class(&self, class: &ClassPath) -> impl Iterator<Item = (&Ordering, &Leaf)> {
        self.leaves.get(class).into_iter().flatten()
    }

    /// The shapes that have leaves here.
    pub(super) fn shapes(&self) -> impl Iterator<Item = &Shape> {
        self.shapes.keys()
    }

    pub(super) fn has(&self, shape: &Shape) -> bool {
        self.shapes.contains_key(shape)
    }

    /// Leaves that are present, and members of these and of those that are being loaded.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.loaded.len(), self.members + self.loading)
    }

    /// What all of them take up, in members.
    fn weight(&self) -> usize {
        let leaves = self.loaded.len() + self.loads.len();
        self.members + self.loading + LEAF_WEIGHT * leaves
    }

    /// Which leaves images of rows concern, and how.
    pub(super) fn changes<'a>(&'a self, images: &'a [RowImage]) -> BTreeMap<ClassPath, Change<'a>> {
        changes(images, self.shapes.keys(), |class, exact| {
            if exact {
                let known = self.leaves.contains_key(class);
                return known.then(|| class.clone()).into_iter().collect();
            }
            let from = self.leaves.range(class.clone()..);
            let below = from.map(|(leaf, _)| leaf);
            let below = below.take_while(|leaf| leaf.as_str().starts_with(class.as_str()));
            let below = below.filter(|leaf| class.covers(leaf.as_str()));
            below.take(LEAVES_FOLLOWED_MAX).cloned().collect()
        })
    }

    /// Whether the right to load a leaf for so long may be given, of leaves with so many members in all, and whether another load ended
    /// for it. By their mere number loads take up no more than half of what there is room for.
    pub(super) fn admit(
        &mut self,
        key: &LeafKey,
        (members_max, lease): (usize, Duration),
        now: Time,
    ) -> Result<bool, NoRight> {
        self.end_over(now);
        if let Some(loading) = self.get(key).and_then(|leaf| leaf.loading.as_ref()) {
            let after = self.loads.wait_for(loading.number, now);
            return Err(NoRight::IsLoaded { after });
        }
        if !self.loads.are_full(members_max / (2 * LEAF_WEIGHT)) {
            return Ok(false);
        }
        let silent = self.loads.silent(lease, now).cloned();
        self.end_load(&silent.ok_or(NoRight::Full)?);
        Ok(true)
    }

    /// Gives the right to load a leaf, which nobody has; its number.
    pub(super) fn begin_load(
        &mut self,
        key: LeafKey,
        stamp: Stamp,
        (now, ends): (Time, Time),
    ) -> u64 {
        let number = self.loads.begin(key.clone(), now, ends);
        let descending = key.ordering.descending;
        self.entry(key).loading = Some(Loading {
            number,
            ends,
            stamp,
            gathered: Members::new(descending),
            answer: Members::new(descending),
            last: None,
        });
        number
    }

    fn entry(&mut self, key: LeafKey) -> &mut Leaf {
        if !self.leaves.contains_key(&key.class)
            && let Ok(shape) = leaf_shape(&key.class)
        {
            *self.shapes.entry(shape).or_default() += 1;
        }
        let of_class = self.leaves.entry(key.class).or_default();
        of_class.entry(key.ordering).or_default()
    }

    /// The load with this number, if it goes on.
    pub(super) fn loading(
        &mut self,
        key: &LeafKey,
        number: u64,
        now: Time,
    ) -> Option<&mut Loading> {
        let loading = self.get_mut(key)?.loading.as_mut()?;
        (loading.number == number && now < loading.ends).then_some(loading)
    }

    /// Takes a part of the database's answer, now and at that stamp; how many members that makes.
    pub(super) fn answer(
        &mut self,
        key: &LeafKey,
        members: Vec<(Place, u64)>,
        (added, now): (Stamp, Time),
    ) -> usize {
        let Some(loading) = self.get_mut(key).and_then(|leaf| leaf.loading.as_mut()) else {
            return 0;
        };
        let before = loading.answer.len();
        for (place, version) in members {
            loading.answer.add(place, Member { added, version });
        }
        let (number, count) = (loading.number, loading.answer.len());
        self.loading = self.loading + count - before;
        // Who says nothing new is silent: it would cost nothing to keep a right for ever.
        if count > before {
            self.loads.heard(number, now);
        }
        count
    }

    /// Ends a load, whatever it came to.
    pub(super) fn end_load(&mut self, key: &LeafKey) -> Option<Loading> {
        let ended = self.get_mut(key)?.loading.take()?;
        self.loads.end(ended.number);
        self.loading -= ended.answer.len() + ended.gathered.len();
        self.forget_if_empty(key);
        Some(ended)
    }

    /// Puts what was loaded in the place of what was there.
    pub(super) fn put(&mut self, key: &LeafKey, present: Present) {
        self.drop_present(key);
        self.members += present.members.len();
        self.loaded.insert(present.number, key.clone());
        self.entry(key.clone()).present = Some(present);
    }

    /// Removes members that were not added behind a moment; how many there were.
    pub(super) fn prune(&mut self, key: &LeafKey, places: &[Place], until: Stamp) -> usize {
        let Some(leaf) = self.get_mut(key) else {
            return 0;
        };
        let mut removed = 0;
        if let Some(present) = &mut leaf.present {
            let gone = places.iter();
            removed = gone
                .filter(|place| present.members.remove(place, until))
                .count();
        }
        self.members -= removed;
        removed
    }

    /// Has a leaf follow an event that was applied.
    pub(super) fn follow(&mut self, touched: Touched, stamp: Stamp) {
        let Touched {
            key,
            present,
            loading,
            added,
            left,
        } = touched;
        let Some(leaf) = self.get_mut(&key) else {
            return;
        };
        let (mut grown, mut gathered) = ((0, 0), (0, 0));
        if let Some(found) = leaf.present.as_mut().filter(|_| present) {
            found.stamp = stamp;
            let before = found.members.len();
            change(&mut found.members, &added, &left, stamp);
            if !found.members.is_whole() {
                found.members.keep(found.most);
            }
            grown = (before, found.members.len());
        }
        if let Some(found) = leaf.loading.as_mut().filter(|_| loading) {
            found.stamp = stamp;
            let before = found.gathered.len();
            change(&mut found.gathered, &added, &left, stamp);
            gathered = (before, found.gathered.len());
        }
        self.members = self.members + grown.1 - grown.0;
        self.loading = self.loading + gathered.1 - gathered.0;
    }

    /// Drops all leaves, and ends all loads.
    pub(super) fn clear(&mut self) {
        let mut loads = std::mem::take(&mut self.loads);
        loads.clear();
        *self = Self {
            loads,
            ..Self::default()
        };
    }

    /// Ends loads whose leases are over. Each ends once, so a right costs no more than it did when it was given.
    pub(super) fn end_over(&mut self, now: Time) {
        while let Some(over) = self.loads.over(now).cloned() {
            self.end_load(&over);
        }
    }

    /// Drops what is here until there are no more members than that: loads that are silent, of leases so long; then leaves, the one
    /// loaded longest ago first; and then loads, the one that has been silent longest first. Each step is paid for by what was once put here.
    pub(super) fn evict(&mut self, most: usize, lease: Duration, now: Time) -> Dropped {
        let mut dropped = Dropped::default();
        while self.weight() > most {
            if let Some(silent) = self.loads.silent(lease, now).cloned() {
                self.end_load(&silent);
                dropped.loads += 1;
            } else if let Some((_, oldest)) = self.loaded.first_key_value() {
                let oldest = oldest.clone();
                self.drop_present(&oldest);
                self.forget_if_empty(&oldest);
                dropped.leaves += 1;
            } else if let Some(silent) = self.loads.most_silent().cloned() {
                self.end_load(&silent);
                dropped.loads += 1;
            } else {
                break;
            }
        }
        dropped
    }

    fn drop_present(&mut self, key: &LeafKey) {
        let dropped = self.get_mut(key).and_then(|leaf| leaf.present.take());
        if let Some(dropped) = dropped {
            self.members -= dropped.members.len();
            self.loaded.remove(&dropped.number);
        }
    }

    fn forget_if_empty(&mut self, key: &LeafKey) {
        let Some(of_class) = self.leaves.get_mut(&key.class) else {
            return;
        };
        // The others of its class are not looked at: there may be very many orders.
        let leaf = of_class.get(&key.ordering);
        if leaf.is_some_and(|leaf| leaf.present.is_none() && leaf.loading.is_none()) {
            of_class.remove(&key.ordering);
        }
        if !of_class.is_empty() {
            return;
        }
        self.leaves.remove(&key.class);
        if let Ok(shape) = leaf_shape(&key.class)
            && let Some(count) = self.shapes.get_mut(&shape)
        {
            *count -= 1;
            if *count == 0 {
                self.shapes.remove(&shape);
            }
        }
    }
}

fn change(
    members: &mut Members,
    added: &[(Place, u64)],
    left: &[(crate::index::RowId, u64)],
    stamp: Stamp,
) {
    for (id, version) in left {
        members.retire(id, *version);
    }
    for (place, version) in added {
        let member = Member {
            added: stamp,
            version: *version,
        };
        members.add(place.clone(), member);
    }
}
