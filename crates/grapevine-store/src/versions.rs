//! Classes' entries and floors inside one commit: read, join, write.
//!
//! A class's own entries and each of its conjunctions have a key of their own, so that a bump of one costs the same
//! however many there are.

use grapevine_core::event::Floor;
use grapevine_core::names::ClassPath;
use grapevine_core::store::{RecoveredClass, Retirement};
use grapevine_core::vector::VersionVector;
use sled::IVec;

use crate::keys::{self, Range, Table};
use crate::txn::Txn;
use crate::{StoreError, vectors};

pub(crate) fn join_class(
    txn: &mut Txn<'_>,
    class: &ClassPath,
    others: &[ClassPath],
    entries: &VersionVector,
) -> Result<(), StoreError> {
    vectors::join(txn, &keys::class(class, others), entries)?;
    Ok(())
}

pub(crate) fn join_floor(
    txn: &mut Txn<'_>,
    floor: &Floor,
    evict: &[ClassPath],
) -> Result<(), StoreError> {
    let joined = vectors::join(txn, &keys::floor(&floor.top, floor.bucket), &floor.vector)?;
    for class in evict {
        let mut dominated = Vec::new();
        for entry in txn.scan(keys::own(Table::Classes, &class.sort_key())) {
            let (key, value) = entry?;
            if joined.dominates(&vectors::read(txn, &key, &value)?) {
                dominated.push((key, value));
            }
        }
        for (key, value) in dominated {
            vectors::remove(txn, &key, &value)?;
        }
    }
    Ok(())
}

/// Has the named floors and classes say of retired runs what they say from now on.
pub(crate) fn retire(txn: &mut Txn<'_>, piece: &Retirement) -> Result<(), StoreError> {
    for (top, bucket) in &piece.floors {
        let key = keys::floor(top, *bucket);
        if let Some(value) = txn.get(&key)? {
            rewrite(txn, piece, &key, &value)?;
        }
    }
    for class in &piece.classes {
        let stored = txn.scan(keys::own(Table::Classes, &class.sort_key()));
        for (key, value) in stored.collect::<Result<Vec<_>, _>>()? {
            rewrite(txn, piece, &key, &value)?;
        }
    }
    Ok(())
}

fn rewrite(
    txn: &mut Txn<'_>,
    piece: &Retirement,
    key: &[u8],
    value: &IVec,
) -> Result<(), StoreError> {
    let vector = vectors::read(txn, key, value)?;
    let image = piece.retired.image(piece.name, &vector);
    if image != vector {
        vectors::remove(txn, key, value)?;
        vectors::join(txn, key, &image)?;
    }
    Ok(())
}

/// Classes of a range of [`Table::Classes`], one after the other.
pub(crate) struct Classes<'a> {
    txn: &'a Txn<'a>,
    scan: crate::txn::Scan<'a>,
    /// The first record of the class after the one last returned.
    ahead: Option<(Vec<u8>, RecoveredClass)>,
}

impl<'a> Classes<'a> {
    pub(crate) fn of(txn: &'a Txn<'a>, range: Range) -> Self {
        Self {
            txn,
            scan: txn.scan(range),
            ahead: None,
        }
    }

    /// The next class, with its sort key.
    pub(crate) fn advance(&mut self) -> Result<Option<(Vec<u8>, RecoveredClass)>, StoreError> {
        let mut current = self.ahead.take();
        for entry in self.scan.by_ref() {
            let (key, value) = entry?;
            let (sort_key, rest) = keys::split_class(&key)?;
            let others = keys::parse_others(rest)?;
            let entries = vectors::read(self.txn, &key, &value)?;
            if let Some((current_key, class)) = &mut current
                && current_key == sort_key
            {
                class.conjunctions.push((others, entries));
                continue;
            }
            let mut class = RecoveredClass {
                class: keys::class_of(sort_key)?,
                entries: VersionVector::new(),
                conjunctions: Vec::new(),
            };
            if others.is_empty() {
                class.entries = entries;
            } else {
                class.conjunctions.push((others, entries));
            }
            let next = Some((sort_key.to_vec(), class));
            if current.is_some() {
                self.ahead = next;
                return Ok(current);
            }
            current = next;
        }
        Ok(current)
    }
}

/// Floors after one, at most so many.
pub(crate) fn floors(
    txn: &Txn<'_>,
    after: Option<&Floor>,
    limit: usize,
) -> Result<Vec<Floor>, StoreError> {
    let mut range = Table::Floors.range();
    if let Some(floor) = after {
        let mut next = keys::floor(&floor.top, floor.bucket);
        next.push(0);
        range = range.from(next);
    }
    txn.scan(range)
        .take(limit)
        .map(|entry| {
            let (key, value) = entry?;
            let (top, bucket) = keys::parse_floor(&key)?;
            Ok(Floor {
                top,
                bucket,
                vector: vectors::read(txn, &key, &value)?,
            })
        })
        .collect()
}
