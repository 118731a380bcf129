//! What the replay caches: values that tell whose they are and which writes they show, so that a reader can tell an old value, and a
//! value of another address, from the right one.
//!
//! An item is 28 bytes, all integers big-endian: the record (4), its place in the list (8; 0 for a single value), the object's version
//! (8), the group's version (8).
//!
//! Where a list ends, nothing would tell which writes the reader was shown: an old page beyond the end of a list that has grown
//! looks like a right one. So what is read over a list's end is filled up with *end marks* to one entry below what was asked
//! for, which still says that the list ends there. An end mark is an item whose place has the highest bit set; the others are the
//! list's length.

use thiserror::Error;

use crate::trace::Record;
use crate::truth::Versions;
use crate::workload::Slice;

/// Bytes of an item.
pub const ITEM_BYTES: usize = 28;
const END_BIT: u64 = 1 << 63;

/// One cached item, or the mark of a list's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// The record whose value it is, or whose list it stands in.
    pub record: Record,
    /// Where it stands.
    pub place: Place,
    /// The writes it shows.
    pub versions: Versions,
}

/// Where an item stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At this place in the list, from 0; a single value at 0.
    At(u64),
    /// Behind the end of a list of so many items, below 2^63.
    End(u64),
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
    /// Another place's, or of a list that is not so long, or so short, at the version that the entry shows.
    #[error("value: {got:?} at place {wanted}, in a list of {list_items} items at that version")]
    Place {
        /// What the entry says of its place.
        got: Place,
        /// The place that it was given at.
        wanted: u64,
        /// The list's length by the truth.
        list_items: u64,
    },
    /// A slice that is too long, or too short though the list goes on.
    #[error("value: {got} entries for a slice of {wanted}, and no end of the list among them")]
    Items {
        /// Entries returned.
        got: u64,
        /// The slice's limit.
        wanted: u64,
    },
}

impl Item {
    /// The item's bytes.
    pub fn encode(&self) -> [u8; ITEM_BYTES] {
        let mut bytes = [0; ITEM_BYTES];
        bytes[..4].copy_from_slice(&self.record.bits().to_be_bytes());
        let place = match self.place {
            Place::At(place) => place & !END_BIT,
            Place::End(items) => items | END_BIT,
        };
        bytes[4..12].copy_from_slice(&place.to_be_bytes());
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
        let place = number(4);
        Ok(Self {
            record: Record::from_bits(u32::from_be_bytes(record)),
            place: if place & END_BIT == 0 {
                Place::At(place)
            } else {
                Place::End(place & !END_BIT)
            },
            versions: Versions {
                object: number(12),
                group: number(20),
            },
        })
    }
}

/// The versions of a single value, if it is the one asked for.
pub fn check_single(wanted: Record, bytes: &[u8]) -> Result<Versions, WrongValue> {
    let item = decode_of(wanted, bytes)?;
    match item.place {
        Place::At(0) => Ok(item.versions),
        got => Err(WrongValue::Place {
            got,
            wanted: 0,
            list_items: 1,
        }),
    }
}

/// The oldest versions in a slice of a list, if it is the one asked for; `list_items` tells the list's length at a version of its object.
///
/// Its pages may have been read at different versions. Each entry must be right for its own version, and a slice with
/// fewer entries than its limit must show that the list ends.
pub fn check_slice<B: AsRef<[u8]>>(
    wanted: Record,
    slice: Slice,
    list_items: impl Fn(u64) -> u64,
    entries: &[B],
) -> Result<Versions, WrongValue> {
    let (got, limit) = (entries.len() as u64, u64::from(slice.limit));
    let mut oldest: Option<Versions> = None;
    let (mut end_marked, mut last_of_list) = (false, false);
    for (place, entry) in (slice.offset..).zip(entries) {
        let item = decode_of(wanted, entry.as_ref())?;
        let list_items = list_items(item.versions.object);
        let right = match item.place {
            Place::At(at) => !end_marked && at == place && at < list_items,
            Place::End(items) => items == list_items && place >= items,
        };
        if !right {
            return Err(WrongValue::Place {
                got: item.place,
                wanted: place,
                list_items,
            });
        }
        end_marked |= matches!(item.place, Place::End(_));
        last_of_list = place + 1 == list_items;
        oldest = Some(oldest.map_or(item.versions, |oldest| oldest.meet(item.versions)));
    }
    let ended = end_marked || last_of_list;
    match oldest {
        Some(oldest) if got == limit || got < limit && ended => Ok(oldest),
        _ => Err(WrongValue::Items { got, wanted: limit }),
    }
}

fn decode_of(wanted: Record, bytes: &[u8]) -> Result<Item, WrongValue> {
    let item = Item::decode(bytes)?;
    if item.record == wanted {
        Ok(item)
    } else {
        Err(WrongValue::Record {
            got: item.record.bits(),
            wanted: wanted.bits(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn item(place: Place, object: u64, group: u64) -> Item {
        let record = Record::new(17, 3, 1).unwrap();
        Item {
            record,
            place,
            versions: Versions { object, group },
        }
    }

    proptest! {
        #[test]
        fn an_item_survives_its_bytes(bits: u32, place in 0..END_BIT, end: bool, object: u64, group: u64) {
            let place = if end { Place::End(place) } else { Place::At(place) };
            let item = Item { record: Record::from_bits(bits), ..item(place, object, group) };
            prop_assert_eq!(Item::decode(&item.encode()), Ok(item));
        }
    }

    #[test]
    fn a_value_of_another_address_is_told() {
        let other = Record::new(17, 4, 1).unwrap();
        let value = item(Place::At(0), 1, 1);
        let bytes = value.encode();
        assert!(matches!(
            check_single(other, &bytes),
            Err(WrongValue::Record { .. })
        ));
        assert_eq!(
            check_single(value.record, &bytes[1..]),
            Err(WrongValue::Length(27))
        );
        assert!(check_single(value.record, &item(Place::End(0), 1, 1).encode()).is_err());
    }

    /// Lists of as many items as their object's version says.
    fn checked(offset: u64, limit: u32, entries: &[Item]) -> Result<Versions, WrongValue> {
        let entries: Vec<_> = entries.iter().map(Item::encode).collect();
        let wanted = item(Place::At(0), 0, 0).record;
        check_slice(wanted, Slice { offset, limit }, |version| version, &entries)
    }

    #[test]
    fn a_slice_is_as_old_as_its_oldest_parts() {
        let entries = [(5, 30, 1), (6, 20, 2), (7, 40, 2)]
            .map(|(place, object, group)| item(Place::At(place), object, group));
        let oldest = Versions {
            object: 20,
            group: 1,
        };
        assert_eq!(checked(5, 3, &entries), Ok(oldest));
        assert!(matches!(
            checked(4, 3, &entries),
            Err(WrongValue::Place { wanted: 4, .. })
        ));
    }

    #[test]
    fn a_slice_may_be_short_only_where_its_list_ends() {
        let entries = [item(Place::At(5), 8, 0), item(Place::At(6), 8, 0)];
        let short = Err(WrongValue::Items { got: 2, wanted: 4 });
        assert_eq!(checked(5, 4, &entries), short);
        let last = [item(Place::At(5), 7, 0), item(Place::At(6), 7, 0)];
        assert!(checked(5, 4, &last).is_ok());
        let marked = [item(Place::At(5), 6, 0), item(Place::End(6), 6, 0)];
        assert!(checked(5, 4, &marked).is_ok());
        assert!(checked(5, 1, &marked).is_err(), "longer than asked for");
        assert!(checked(5, 4, &[]).is_err(), "nothing tells a version");
    }

    #[test]
    fn what_lies_beyond_the_end_tells_the_version_that_it_was_read_at() {
        let beyond = |object| checked(50, 3, &[item(Place::End(object), object, 4); 2]);
        assert_eq!(
            beyond(45),
            Ok(Versions {
                object: 45,
                group: 4
            })
        );
        // The list was longer at that version, so this cannot have been read.
        assert!(beyond(51).is_err());
        // Nor may an item stand where the list had ended at its version, or after an end mark.
        assert!(checked(8, 2, &[item(Place::At(8), 8, 0), item(Place::End(8), 8, 0)]).is_err());
        let items_again = [item(Place::End(4), 4, 0), item(Place::At(6), 9, 0)];
        assert!(checked(5, 2, &items_again).is_err());
    }
}
