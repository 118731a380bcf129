//! Classes' entries and floors inside one commit: read, join, write.
//!
//! A class's own entries and each of its conjunctions have a key of their own, so that a bump of one costs the same
//! however many there are.

use grapevine_core::event::Floor;
use grapevine_core::names::ClassPath;
use grapevine_core::store::RecoveredClass;
use grapevine_core::vector::VersionVector;

use crate::StoreError;
use crate::codec::{decode_vector, encode_vector};
use crate::keys::{self, Range, Table};
use crate::txn::Txn;

/// Joins a vector into the one under a key. Tells what is there now.
fn join(
    txn: &mut Txn<'_>,
    key: Vec<u8>,
    entries: &VersionVector,
) -> Result<VersionVector, StoreError> {
    let stored = txn.get(&key)?;
    let mut joined = match &stored {
        Some(bytes) => decode_vector(bytes)?,
        None => VersionVector::new(),
    };
    if joined.join(entries) {
        txn.put(key, encode_vector(&joined));
    }
    Ok(joined)
}

pub(crate) fn join_class(
    txn: &mut Txn<'_>,
    class: &ClassPath,
    others: &[ClassPath],
    entries: &VersionVector,
) -> Result<(), StoreError> {
    join(txn, keys::class(class, others), entries)?;
    Ok(())
}

pub(crate) fn join_floor(
    txn: &mut Txn<'_>,
    floor: &Floor,
    evict: &[ClassPath],
) -> Result<(), StoreError> {
    let joined = join(txn, keys::floor(&floor.top, floor.bucket), &floor.vector)?;
    for class in evict {
        let mut dominated = Vec::new();
        for entry in txn.scan(keys::own(Table::Classes, &class.sort_key())) {
            let (key, value) = entry?;
            if joined.dominates(&decode_vector(&value)?) {
                dominated.push(key.to_vec());
            }
        }
        for key in dominated {
            txn.remove(key);
        }
    }
    Ok(())
}

/// Classes of a range of [`Table::Classes`], one after the other.
pub(crate) struct Classes<'a> {
    scan: crate::txn::Scan<'a>,
    /// The first record of the class after the one last returned.
    ahead: Option<(Vec<u8>, RecoveredClass)>,
}

impl<'a> Classes<'a> {
    pub(crate) fn of(txn: &'a Txn<'_>, range: Range) -> Self {
        Self {
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
            let entries = decode_vector(&value)?;
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

pub(crate) fn floors(txn: &Txn<'_>) -> Result<Vec<Floor>, StoreError> {
    txn.scan(Table::Floors.range())
        .map(|entry| {
            let (key, value) = entry?;
            let (top, bucket) = keys::parse_floor(&key)?;
            Ok(Floor {
                top,
                bucket,
                vector: decode_vector(&value)?,
            })
        })
        .collect()
}
