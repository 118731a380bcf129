//! One commit in the making: changes over what is pending over the tree, each seen by those after it.
//!
//! Readers use the same type without changes. A scan is not a snapshot: the tree may change between two of
//! its steps, by whole commits. What reads on top of it therefore goes by keys, never by positions.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::iter::Peekable;

use sled::{IVec, Tree};

use crate::StoreError;
use crate::keys::Range;

/// What a commit changes, by key; `None`: removed.
pub(crate) type Changes = BTreeMap<Vec<u8>, Option<IVec>>;

static NOTHING: Changes = Changes::new();
/// What a change takes beside its key and value, wherever it is written to: a mark and two lengths, at most.
const CHANGE_BYTES: usize = 16;

/// The tree, what earlier commits change in it, and what this one does.
pub(crate) struct Txn<'a> {
    tree: &'a Tree,
    pending: &'a Changes,
    changes: Changes,
}

impl<'a> Txn<'a> {
    pub(crate) fn new(tree: &'a Tree) -> Self {
        Self::over(tree, &NOTHING)
    }

    /// One that sees changes which the tree does not have yet.
    pub(crate) fn over(tree: &'a Tree, pending: &'a Changes) -> Self {
        Self {
            tree,
            pending,
            changes: Changes::new(),
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        match self.changes.get(key).or_else(|| self.pending.get(key)) {
            Some(change) => Ok(change.clone()),
            None => Ok(self.tree.get(key)?),
        }
    }

    pub(crate) fn put(&mut self, key: Vec<u8>, value: impl Into<IVec>) {
        self.changes.insert(key, Some(value.into()));
    }

    pub(crate) fn remove(&mut self, key: Vec<u8>) {
        self.changes.insert(key, None);
    }

    /// What it changes.
    pub(crate) fn into_changes(self) -> Changes {
        self.changes
    }

    /// The keys of a range, ascending, with their values.
    pub(crate) fn scan(&self, range: Range) -> Scan<'_> {
        let Range { start, end } = range;
        // An empty one may end before it starts, which a map's own ranges must not.
        let end = end.max(start.clone());
        let changed = |changes: &'a Changes| changes.range(start.clone()..end.clone()).peekable();
        let pending = changed(self.pending);
        let changed = self.changes.range(start.clone()..end.clone()).peekable();
        let stored = Stored(self.tree.range(start..end));
        let stored = Over {
            stored: stored.peekable(),
            changed: pending,
        };
        Over {
            stored: stored.peekable(),
            changed,
        }
    }

    /// The first key of a range.
    pub(crate) fn first(&self, range: Range) -> Result<Option<(IVec, IVec)>, StoreError> {
        self.scan(range).next().transpose()
    }

    /// The highest key from `lowest` to `highest`, both included.
    pub(crate) fn last_up_to(
        &self,
        lowest: &[u8],
        highest: &[u8],
    ) -> Result<Option<(IVec, IVec)>, StoreError> {
        let is_changed = |key: &[u8]| self.changes.contains_key(key);
        let last_of = |changes: &Changes, hidden: &dyn Fn(&[u8]) -> bool| {
            let bounds = (
                std::ops::Bound::Included(lowest),
                std::ops::Bound::Included(highest),
            );
            let mut changes = changes.range::<[u8], _>(bounds).rev();
            changes.find_map(|(key, change)| {
                let value = change.as_ref().filter(|_| !hidden(key))?;
                Some((IVec::from(key.as_slice()), value.clone()))
            })
        };
        let changed = last_of(&self.changes, &|_| false);
        let pending = last_of(self.pending, &is_changed);
        let mut stored = None;
        for entry in self.tree.range(lowest..=highest).rev() {
            let (key, value) = entry?;
            if !is_changed(&key) && !self.pending.contains_key(key.as_ref()) {
                stored = Some((key, value));
                break;
            }
        }
        let all = [stored, pending, changed].into_iter().flatten();
        Ok(all.max_by(|(one, _), (other, _)| one.cmp(other)))
    }

    /// Applies the changes as one batch.
    pub(crate) fn apply(self) -> Result<(), StoreError> {
        apply(self.tree, &self.changes)
    }
}

/// Bytes of keys and values, and some for each change.
pub(crate) fn bytes(changes: &Changes) -> usize {
    let value = |change: &Option<IVec>| change.as_ref().map_or(0, |value| value.len());
    let each = changes.iter();
    each.map(|(key, change)| key.len() + value(change) + CHANGE_BYTES)
        .sum()
}

/// Applies changes as one batch, which readers and a later recovery see whole or not at all; but for one that fails.
pub(crate) fn apply(tree: &Tree, changes: &Changes) -> Result<(), StoreError> {
    let mut batch = sled::Batch::default();
    for (key, change) in changes {
        match change {
            Some(value) => batch.insert(key.as_slice(), value.clone()),
            None => batch.remove(key.as_slice()),
        }
    }
    tree.apply_batch(batch)?;
    Ok(())
}

/// What the tree has in a range, under what is pending and what the commit changed.
pub(crate) type Scan<'a> = Over<'a, Over<'a, Stored>>;

type Entry = Result<(IVec, IVec), StoreError>;

/// What the tree has in a range.
pub(crate) struct Stored(sled::Iter);

impl Iterator for Stored {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        Some(self.0.next()?.map_err(StoreError::from))
    }
}

/// Merges what is below with changes of it.
pub(crate) struct Over<'a, I: Iterator<Item = Entry>> {
    stored: Peekable<I>,
    changed: Peekable<btree_map::Range<'a, Vec<u8>, Option<IVec>>>,
}

enum Side {
    Stored,
    Changed,
    Both,
}

impl<I: Iterator<Item = Entry>> Over<'_, I> {
    fn next_side(&mut self) -> Option<Side> {
        match (self.stored.peek(), self.changed.peek()) {
            (None, None) => None,
            // An error is handed on as it comes.
            (Some(_), None) | (Some(Err(_)), _) => Some(Side::Stored),
            (None, Some(_)) => Some(Side::Changed),
            (Some(Ok((stored, _))), Some((changed, _))) => {
                Some(match stored.as_ref().cmp(changed.as_slice()) {
                    std::cmp::Ordering::Less => Side::Stored,
                    std::cmp::Ordering::Equal => Side::Both,
                    std::cmp::Ordering::Greater => Side::Changed,
                })
            }
        }
    }
}

impl<I: Iterator<Item = Entry>> Iterator for Over<'_, I> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        loop {
            match self.next_side()? {
                Side::Stored => return self.stored.next(),
                side @ (Side::Both | Side::Changed) => {
                    if matches!(side, Side::Both)
                        && let Some(Err(error)) = self.stored.next()
                    {
                        return Some(Err(error));
                    }
                    if let Some((key, Some(value))) = self.changed.next() {
                        return Some(Ok((IVec::from(key.as_slice()), value.clone())));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn a_commit_sees_its_own_changes(
            stored in prop::collection::btree_map(0_u8..40, any::<u8>(), 0..20),
            pending in prop::collection::btree_map(0_u8..40, any::<Option<u8>>(), 0..20),
            changes in prop::collection::vec((0_u8..40, any::<Option<u8>>()), 0..40),
            (low, high) in (0_u8..40, 0_u8..40),
        ) {
            let db = sled::Config::new().temporary(true).open().unwrap();
            for (key, value) in &stored {
                db.insert([*key], vec![*value]).unwrap();
            }
            let mut expected = stored;
            for (key, change) in &pending {
                match change {
                    Some(value) => expected.insert(*key, *value),
                    None => expected.remove(key),
                };
            }
            let pending = pending.into_iter().map(|(key, value)| (vec![key], value.map(|value| IVec::from(&[value]))));
            let pending: Changes = pending.collect();
            let mut txn = Txn::over(&db, &pending);
            for (key, change) in changes {
                if let Some(value) = change {
                    expected.insert(key, value);
                    txn.put(vec![key], vec![value]);
                } else {
                    expected.remove(&key);
                    txn.remove(vec![key]);
                }
            }
            for key in 0..40 {
                let value = txn.get(&[key]).unwrap().map(|value| value[0]);
                prop_assert_eq!(value, expected.get(&key).copied());
            }
            let range = Range { start: vec![low], end: vec![high] };
            let found: Vec<_> = txn
                .scan(range)
                .map(|entry| entry.map(|(key, value)| (key[0], value[0])).unwrap())
                .collect();
            let wanted: Vec<_> = expected
                .iter()
                .filter(|(key, _)| (low..high).contains(key))
                .map(|(key, value)| (*key, *value))
                .collect();
            prop_assert_eq!(&found, &wanted);
            if low <= high {
                let last = txn.last_up_to(&[low], &[high]).unwrap();
                let last = last.map(|(key, value)| (key[0], value[0]));
                let wanted = expected.range(low..=high).next_back();
                prop_assert_eq!(last, wanted.map(|(key, value)| (*key, *value)));
            }
            let changes = txn.into_changes();
            for changes in [pending, changes] {
                apply(&db, &changes).unwrap();
            }
            let found: Vec<_> = Txn::new(&db)
                .scan(Range { start: vec![0], end: vec![255] })
                .map(|entry| entry.map(|(key, value)| (key[0], value[0])).unwrap())
                .collect();
            prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        }
    }
}
