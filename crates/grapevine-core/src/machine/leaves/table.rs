//! The leaves of a sidecar, by class and order, within a bound.

use std::collections::BTreeMap;

use super::changes::{Change, changes};
use super::{LEAVES_FOLLOWED_MAX, LOADS_MAX, Leaf, Loading, Present, Touched, leaf_shape};
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
    /// Loads under way, by when they end, and their numbers.
    ends: BTreeMap<(Time, u64), LeafKey>,
    /// Members of those that are present, and of those that are being loaded.
    members: usize,
    loading: usize,
    loads: u64,
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

    pub(super) fn counts(&self) -> (usize, usize) {
        (self.loaded.len(), self.members)
    }

    /// What all of them take up, in members.
    fn weight(&self) -> usize {
        let leaves = self.loaded.len() + self.ends.len();
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

    /// Gives the right to load a leaf, unless somebody has it; its number.
    pub(super) fn begin_load(
        &mut self,
        key: LeafKey,
        (stamp, ends): (Stamp, Time),
        now: Time,
    ) -> Option<u64> {
        while let Some((&(ended, _), over)) = self.ends.first_key_value()
            && ended <= now
        {
            let over = over.clone();
            self.end_load(&over);
        }
        let taken = self.get(&key).is_some_and(|leaf| leaf.loading.is_some());
        if taken || self.ends.len() >= LOADS_MAX {
            return None;
        }
        self.loads += 1;
        let number = self.loads;
        self.ends.insert((ends, number), key.clone());
        let descending = key.ordering.descending;
        self.entry(key).loading = Some(Loading {
            number,
            ends,
            stamp,
            gathered: Members::new(descending),
            answer: Members::new(descending),
            last: None,
        });
        Some(number)
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

    /// Takes a part of the database's answer; how many members that makes.
    pub(super) fn answer(
        &mut self,
        key: &LeafKey,
        members: Vec<(Place, u64)>,
        added: Stamp,
    ) -> usize {
        let Some(loading) = self.get_mut(key).and_then(|leaf| leaf.loading.as_mut()) else {
            return 0;
        };
        let before = loading.answer.len();
        for (place, version) in members {
            loading.answer.add(place, Member { added, version });
        }
        let count = loading.answer.len();
        self.loading = self.loading + count - before;
        count
    }

    /// Ends a load, whatever it came to.
    pub(super) fn end_load(&mut self, key: &LeafKey) -> Option<Loading> {
        let ended = self.get_mut(key)?.loading.take()?;
        self.ends.remove(&(ended.ends, ended.number));
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
        *self = Self {
            // A number is not given twice.
            loads: self.loads,
            ..Self::default()
        };
    }

    /// Drops leaves, the one loaded longest ago first, and then loads, the one begun longest ago first, until there are no more members than
    /// that; how many it dropped.
    pub(super) fn evict(&mut self, most: usize) -> u64 {
        let mut evicted = 0;
        while self.weight() > most {
            if let Some((_, oldest)) = self.loaded.first_key_value() {
                let oldest = oldest.clone();
                self.drop_present(&oldest);
                self.forget_if_empty(&oldest);
            } else if let Some((_, oldest)) = self.ends.first_key_value() {
                let oldest = oldest.clone();
                self.end_load(&oldest);
            } else {
                break;
            }
            evicted += 1;
        }
        evicted
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
        of_class.retain(|_, leaf| leaf.present.is_some() || leaf.loading.is_some());
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
