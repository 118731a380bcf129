//! One commit in the making: changes over the tree, each seen by those after it, applied as one batch.
//!
//! Readers use the same type without changes. A scan is not a snapshot: the tree may change between two of its
//! steps, by whole commits. What reads on top of it therefore goes by keys, never by positions.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::iter::Peekable;

use sled::{IVec, Tree};

use crate::StoreError;
use crate::keys::Range;

/// The tree, and what this commit changes in it.
pub(crate) struct Txn<'a> {
    tree: &'a Tree,
    /// `None`: removed.
    changes: BTreeMap<Vec<u8>, Option<IVec>>,
}

impl<'a> Txn<'a> {
    pub(crate) fn new(tree: &'a Tree) -> Self {
        Self {
            tree,
            changes: BTreeMap::new(),
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        match self.changes.get(key) {
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

    /// The keys of a range, ascending, with their values.
    pub(crate) fn scan(&self, range: Range) -> Scan<'_> {
        if range.is_empty() {
            return Scan {
                stored: None,
                changed: BTreeMap::range(&self.changes, Vec::new()..Vec::new()).peekable(),
            };
        }
        Scan {
            changed: self
                .changes
                .range(range.start.clone()..range.end.clone())
                .peekable(),
            stored: Some(self.tree.range(range.start..range.end).peekable()),
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
        let changed = self
            .changes
            .range::<[u8], _>((
                std::ops::Bound::Included(lowest),
                std::ops::Bound::Included(highest),
            ))
            .rev()
            .find_map(|(key, change)| Some((key.as_slice(), change.as_ref()?)));
        let mut stored = None;
        for entry in self.tree.range(lowest..=highest).rev() {
            let (key, value) = entry?;
            if !self.changes.contains_key(key.as_ref()) {
                stored = Some((key, value));
                break;
            }
        }
        Ok(match (stored, changed) {
            (Some(stored), Some((key, _))) if stored.0.as_ref() > key => Some(stored),
            (_, Some((key, value))) => Some((IVec::from(key), value.clone())),
            (stored, None) => stored,
        })
    }

    /// Applies the changes as one batch, which readers and a later recovery see whole or not at all.
    pub(crate) fn apply(self) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for (key, change) in self.changes {
            match change {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.tree.apply_batch(batch)?;
        Ok(())
    }
}

/// Merges what is stored with what the commit changed.
pub(crate) struct Scan<'a> {
    stored: Option<Peekable<sled::Iter>>,
    changed: Peekable<btree_map::Range<'a, Vec<u8>, Option<IVec>>>,
}

enum Side {
    Stored,
    Changed,
    Both,
}

impl Scan<'_> {
    fn next_side(&mut self) -> Option<Side> {
        let stored = self.stored.as_mut().and_then(Peekable::peek);
        match (stored, self.changed.peek()) {
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

    fn next_stored(&mut self) -> Option<Result<(IVec, IVec), StoreError>> {
        let entry = self.stored.as_mut().and_then(Iterator::next)?;
        Some(entry.map_err(StoreError::from))
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<(IVec, IVec), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.next_side()? {
                Side::Stored => return self.next_stored(),
                side @ (Side::Both | Side::Changed) => {
                    if matches!(side, Side::Both)
                        && let Some(Err(error)) = self.next_stored()
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
            changes in prop::collection::vec((0_u8..40, any::<Option<u8>>()), 0..40),
            (low, high) in (0_u8..40, 0_u8..40),
        ) {
            let db = sled::Config::new().temporary(true).open().unwrap();
            for (key, value) in &stored {
                db.insert([*key], vec![*value]).unwrap();
            }
            let mut expected = stored;
            let mut txn = Txn::new(&db);
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
            txn.apply().unwrap();
            let found: Vec<_> = Txn::new(&db)
                .scan(Range { start: vec![0], end: vec![255] })
                .map(|entry| entry.map(|(key, value)| (key[0], value[0])).unwrap())
                .collect();
            prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        }
    }
}
