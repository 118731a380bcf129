//! What the replay caches: values that tell whose they are and which writes they show, so that a reader can tell an old value, and a
//! value of another address, from the right one.
//!
//! An item is 28 bytes, all integers big-endian: the record (4), its place in the list (8; 0 for a single value), the object's version
//! (8), the group's version (8).

use thiserror::Error;

use crate::trace::Record;
use crate::truth::Versions;

/// Bytes of an item.
pub const ITEM_BYTES: usize = 28;

/// One cached item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// The record whose value it is, or whose list it stands in.
    pub record: Record,
    /// Its place in the list, from 0.
    pub place: u64,
    /// The writes it shows.
    pub versions: Versions,
}

/// A cached value that is not the one asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WrongValue {
    /// Not as long as an item.
    #[error("value: {0} bytes, an item has {ITEM_BYTES}")]
    Length(usize),
    /// Another record's.
    #[error("value: of record {got:#010x}, asked for {wanted:#010x}")]
    Record {
        /// The record in the value, as the trace stores it.
        got: u32,
        /// The record asked for.
        wanted: u32,
    },
    /// Another place's.
    #[error("value: item {got} of the list, asked for {wanted}")]
    Place {
        /// The place in the value.
        got: u64,
        /// The place asked for.
        wanted: u64,
    },
    /// A slice of the wrong length.
    #[error("value: {got} items, the slice has {wanted}")]
    Items {
        /// Items returned.
        got: u64,
        /// Items in the slice.
        wanted: u64,
    },
}

impl Item {
    /// The item's bytes.
    pub fn encode(&self) -> [u8; ITEM_BYTES] {
        let mut bytes = [0; ITEM_BYTES];
        bytes[..4].copy_from_slice(&self.record.bits().to_be_bytes());
        bytes[4..12].copy_from_slice(&self.place.to_be_bytes());
        bytes[12..20].copy_from_slice(&self.versions.object.to_be_bytes());
        bytes[20..].copy_from_slice(&self.versions.group.to_be_bytes());
        bytes
    }

    /// An item of its bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WrongValue> {
        let bytes: &[u8; ITEM_BYTES] = bytes
            .try_into()
            .map_err(|_| WrongValue::Length(bytes.len()))?;
        let number = |from: usize| {
            let part = bytes[from..from + 8].try_into();
            u64::from_be_bytes(part.expect("invariant: eight bytes"))
        };
        let record = bytes[..4].try_into().expect("invariant: four bytes");
        Ok(Self {
            record: Record::from_bits(u32::from_be_bytes(record)),
            place: number(4),
            versions: Versions {
                object: number(12),
                group: number(20),
            },
        })
    }
}

/// The versions of a single value, if it is the one asked for.
pub fn check_single(wanted: Record, bytes: &[u8]) -> Result<Versions, WrongValue> {
    check_item(wanted, 0, bytes)
}

/// The oldest versions in a slice that begins at `offset` and should have `wanted_items` items; nothing for an empty slice.
pub fn check_slice<B: AsRef<[u8]>>(
    wanted: Record,
    offset: u64,
    wanted_items: u64,
    items: &[B],
) -> Result<Option<Versions>, WrongValue> {
    let got = items.len() as u64;
    if got != wanted_items {
        return Err(WrongValue::Items {
            got,
            wanted: wanted_items,
        });
    }
    let mut oldest: Option<Versions> = None;
    for (place, item) in (offset..).zip(items) {
        let versions = check_item(wanted, place, item.as_ref())?;
        oldest = Some(oldest.map_or(versions, |oldest| oldest.meet(versions)));
    }
    Ok(oldest)
}

fn check_item(wanted: Record, place: u64, bytes: &[u8]) -> Result<Versions, WrongValue> {
    let item = Item::decode(bytes)?;
    if item.record != wanted {
        return Err(WrongValue::Record {
            got: item.record.bits(),
            wanted: wanted.bits(),
        });
    }
    if item.place != place {
        return Err(WrongValue::Place {
            got: item.place,
            wanted: place,
        });
    }
    Ok(item.versions)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn item(place: u64, object: u64, group: u64) -> Item {
        let record = Record::new(17, 3, 1).unwrap();
        Item {
            record,
            place,
            versions: Versions { object, group },
        }
    }

    proptest! {
        #[test]
        fn an_item_survives_its_bytes(bits: u32, place: u64, object: u64, group: u64) {
            let item = Item { record: Record::from_bits(bits), ..item(place, object, group) };
            prop_assert_eq!(Item::decode(&item.encode()), Ok(item));
        }
    }

    #[test]
    fn a_value_of_another_address_is_told() {
        let other = Record::new(17, 4, 1).unwrap();
        let bytes = item(0, 1, 1).encode();
        assert!(matches!(
            check_single(other, &bytes),
            Err(WrongValue::Record { .. })
        ));
        assert_eq!(
            check_single(item(0, 1, 1).record, &bytes[1..]),
            Err(WrongValue::Length(27))
        );
    }

    #[test]
    fn a_slice_is_as_old_as_its_oldest_parts() {
        let items = [item(5, 3, 1), item(6, 2, 2), item(7, 4, 2)].map(|item| item.encode());
        let record = item(0, 0, 0).record;
        let oldest = Versions {
            object: 2,
            group: 1,
        };
        assert_eq!(check_slice(record, 5, 3, &items), Ok(Some(oldest)));
        assert_eq!(check_slice::<[u8; 28]>(record, 5, 0, &[]), Ok(None));
        assert_eq!(
            check_slice(record, 5, 4, &items),
            Err(WrongValue::Items { got: 3, wanted: 4 })
        );
        assert_eq!(
            check_slice(record, 4, 3, &items),
            Err(WrongValue::Place { got: 5, wanted: 4 })
        );
    }
}
