//! Vectors of any length, in records of bounded size.
//!
//! The engine puts a leaf of more than 128 KB (16 records) into a file of its own, and those leak; and it rewrites a
//! leaf as a whole. So a vector's record has its first [`ENTRIES_PER_RECORD`] entries, by incarnation, behind the count
//! of all of them; the others follow as many at a time in records of [`Table::Parts`], under the record's key and their
//! number, from 1 on. Usual vectors are short and have one record. What a join does not change is not written again: a
//! raised entry costs one part, a new incarnation those from its place on.

use grapevine_core::vector::VersionVector;
use sled::IVec;

use crate::StoreError;
use crate::codec::{Reader, put_count, put_entries};
use crate::keys::{self, Table};
use crate::txn::Txn;

/// The most entries of a vector in one record: with 26 bytes each at most, it stays below 4 KB.
pub(crate) const ENTRIES_PER_RECORD: usize = 128;

/// Where a vector of so many entries ends: the number of its records.
fn records(entries: usize) -> usize {
    entries.div_ceil(ENTRIES_PER_RECORD).max(1)
}

/// How many entries a vector has, by its first record.
pub(crate) fn count(first: &[u8]) -> Result<usize, StoreError> {
    let count = Reader::new(first).varint()?;
    usize::try_from(count)
        .ok()
        // Incarnations are few; a garbled count must not ask for the reading of parts without end.
        .filter(|&count| u16::try_from(records(count)).is_ok())
        .ok_or_else(|| StoreError::Corrupt(format!("a vector of {count} entries")))
}

/// The vector whose first record, under `key`, is given.
pub(crate) fn read(txn: &Txn<'_>, key: &[u8], first: &[u8]) -> Result<VersionVector, StoreError> {
    let count = count(first)?;
    let mut vector = VersionVector::new();
    let mut reader = Reader::new(first);
    reader.varint()?;
    reader.entries(&mut vector, count.min(ENTRIES_PER_RECORD))?;
    reader.finish()?;
    for part in 1..records(count) {
        let here = (count - part * ENTRIES_PER_RECORD).min(ENTRIES_PER_RECORD);
        let Some(record) = txn.get(&part_key(key, part))? else {
            return Err(StoreError::Corrupt(format!(
                "part {part} of a vector of {count} entries is not there"
            )));
        };
        let mut reader = Reader::new(&record);
        reader.entries(&mut vector, here)?;
        reader.finish()?;
    }
    Ok(vector)
}

/// Joins a vector into the one under a key. Tells what is there now.
pub(crate) fn join(
    txn: &mut Txn<'_>,
    key: &[u8],
    entries: &VersionVector,
) -> Result<VersionVector, StoreError> {
    let mut joined = match txn.get(key)? {
        Some(first) => read(txn, key, &first)?,
        None => VersionVector::new(),
    };
    if joined.join(entries) {
        write(txn, key, &joined)?;
    }
    Ok(joined)
}

/// Writes those records that differ. A vector under a key never shrinks but by [`remove`].
fn write(txn: &mut Txn<'_>, key: &[u8], vector: &VersionVector) -> Result<(), StoreError> {
    let mut entries = vector.iter();
    for part in 0..records(vector.len()) {
        let mut record = Vec::new();
        let record_key = if part == 0 {
            put_count(&mut record, vector.len());
            key.to_vec()
        } else {
            part_key(key, part)
        };
        put_entries(&mut record, entries.by_ref().take(ENTRIES_PER_RECORD));
        if txn.get(&record_key)?.as_deref() != Some(record.as_slice()) {
            txn.put(record_key, record);
        }
    }
    Ok(())
}

/// Removes the vector whose first record, under `key`, is given.
pub(crate) fn remove(txn: &mut Txn<'_>, key: &[u8], first: &IVec) -> Result<(), StoreError> {
    for part in 1..records(count(first)?) {
        txn.remove(part_key(key, part));
    }
    txn.remove(key.to_vec());
    Ok(())
}

fn part_key(key: &[u8], part: usize) -> Vec<u8> {
    let part = u16::try_from(part).expect("invariant: incarnations are fewer than 8 million");
    keys::vector_part(key, part)
}

/// Checks that a record of [`Table::Parts`] belongs to a vector.
pub(crate) fn verify_part(txn: &Txn<'_>, key: &[u8]) -> Result<(), StoreError> {
    let (of, part) = keys::parse_vector_part(key)?;
    let first = match Table::of(of) {
        Some(Table::Floors | Table::Classes) => txn.get(of)?,
        _ => None,
    };
    let entries = first.as_deref().map(count).transpose()?;
    if entries.is_some_and(|entries| (1..records(entries)).contains(&usize::from(part))) {
        Ok(())
    } else {
        Err(StoreError::Corrupt(format!(
            "part {part} of a vector that does not have it: {key:02x?}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use grapevine_core::id::Incarnation;
    use grapevine_core::names::ClassPath;
    use proptest::prelude::*;

    fn key() -> Vec<u8> {
        keys::class(&ClassPath::parse("a").unwrap(), &[])
    }

    fn tree() -> sled::Db {
        sled::Config::new().temporary(true).open().unwrap()
    }

    /// As long as entries can be.
    fn vector(range: std::ops::Range<u128>, sequence: u64) -> VersionVector {
        range
            .filter_map(|number| Some((Incarnation::new(number << 64)?, sequence)))
            .collect()
    }

    fn everything(txn: &Txn<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let range = keys::Range {
            start: vec![0],
            end: vec![0xff],
        };
        txn.scan(range)
            .map(|entry| {
                entry
                    .map(|(key, value)| (key.to_vec(), value.to_vec()))
                    .unwrap()
            })
            .collect()
    }

    #[test]
    fn g10_no_record_passes_4_kilobytes_however_many_incarnations() {
        let tree = tree();
        let mut txn = Txn::new(&tree);
        let long = vector(1..1001, u64::MAX);
        join(&mut txn, &key(), &long).unwrap();
        let records = everything(&txn);
        assert_eq!(records.len(), 1000_usize.div_ceil(ENTRIES_PER_RECORD));
        for (_, record) in &records {
            assert!(record.len() <= 4096, "{} bytes", record.len());
        }
        let first = txn.get(&key()).unwrap().unwrap();
        assert_eq!(read(&txn, &key(), &first).unwrap(), long);
        for (key, _) in &records[1..] {
            verify_part(&txn, key).unwrap();
        }
        remove(&mut txn, &key(), &first).unwrap();
        assert_eq!(everything(&txn), []);
        assert!(verify_part(&txn, &records[1].0).is_err(), "left alone");
    }

    #[test]
    fn one_record_has_128_entries_and_the_129th_begins_another() {
        for (entries, records) in [(0, 0), (1, 1), (128, 1), (129, 2), (256, 2), (257, 3)] {
            let tree = tree();
            let mut txn = Txn::new(&tree);
            join(&mut txn, &key(), &vector(1..entries + 1, 1)).unwrap();
            assert_eq!(everything(&txn).len(), records, "{entries} entries");
        }
    }

    #[test]
    fn a_raised_entry_costs_one_record() {
        let tree = tree();
        let mut txn = Txn::new(&tree);
        join(&mut txn, &key(), &vector(1..1001, 1)).unwrap();
        let before = everything(&txn);
        join(&mut txn, &key(), &vector(700..701, 2)).unwrap();
        let after = everything(&txn);
        let changed = before.iter().zip(&after).filter(|(b, a)| b != a).count();
        assert_eq!((before.len(), changed), (after.len(), 1));
    }

    #[test]
    fn a_vector_that_lacks_a_part_is_corrupt() {
        let tree = tree();
        let mut txn = Txn::new(&tree);
        join(&mut txn, &key(), &vector(1..300, 1)).unwrap();
        txn.remove(part_key(&key(), 2));
        let first = txn.get(&key()).unwrap().unwrap();
        assert!(matches!(
            read(&txn, &key(), &first),
            Err(StoreError::Corrupt(_))
        ));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn joins_come_back_whatever_their_order(
            joins in prop::collection::vec((1_u128..400, 1_u128..300, 1_u64..9), 1..8),
        ) {
            let tree = tree();
            let mut txn = Txn::new(&tree);
            let mut expected = VersionVector::new();
            for (start, count, sequence) in joins {
                let more = vector(start..start + count, sequence);
                expected.join(&more);
                prop_assert_eq!(&join(&mut txn, &key(), &more).unwrap(), &expected);
                let first = txn.get(&key()).unwrap().unwrap();
                prop_assert_eq!(&read(&txn, &key(), &first).unwrap(), &expected);
            }
        }

        #[test]
        fn garbage_is_refused_without_panic(bytes: Vec<u8>) {
            let tree = tree();
            let _ = read(&Txn::new(&tree), &key(), &bytes);
        }
    }
}
