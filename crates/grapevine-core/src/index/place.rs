//! Places in an order: a key to sort by, and the id of a row.

use std::fmt;

use thiserror::Error;

use crate::criteria::Value;

/// The longest id of a row, in bytes.
pub const ID_BYTES_MAX: usize = 128;
/// The most bytes of a text that count in an order.
pub const SORT_BYTES_MAX: usize = 64;

/// The id of a row, as the application writes it. Whole numbers in their shortest notation come first, in their order; other ids follow,
/// by bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowId {
    /// A whole number.
    Number(i64),
    /// Anything else.
    Text(Box<str>),
}

/// Why something is no id.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum IdError {
    /// There was nothing.
    #[error("an id is empty")]
    Empty,
    /// It is too long.
    #[error("an id has {bytes} bytes; the limit is {ID_BYTES_MAX}")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
}

impl RowId {
    /// Checks an id.
    pub fn parse(id: &str) -> Result<Self, IdError> {
        if id.is_empty() {
            return Err(IdError::Empty);
        }
        if id.len() > ID_BYTES_MAX {
            return Err(IdError::TooLong { bytes: id.len() });
        }
        let number = id.parse::<i64>().ok();
        let number = number.filter(|number| number.to_string() == id);
        Ok(number.map_or_else(|| Self::Text(id.into()), Self::Number))
    }

    /// How long it is.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Number(_) => size_of::<i64>(),
            Self::Text(text) => text.len(),
        }
    }
}

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{self}")
    }
}

/// A value to sort by. Numbers and times are in their order, texts in that of their bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SortKey {
    /// A number or a time, as bits that rise with it; the least of all for NULL that is low, and for what is not ordered at all.
    Bits(u64),
    /// A text's first [`SORT_BYTES_MAX`] bytes, or others; of NULL that is higher than every text a byte that begins none.
    Bytes(Box<[u8]>),
}

impl SortKey {
    /// The one key of what is not ordered.
    pub const NONE: Self = Self::Bits(0);

    /// The key of NULL where it is higher than every value: a byte that begins no text.
    pub(super) fn null_above() -> Self {
        Self::Bytes([0xFF].into())
    }

    /// The key of a value.
    pub fn of(value: &Value, nulls_high: bool) -> Self {
        match value {
            Value::Null if nulls_high => Self::null_above(),
            Value::Null => Self::NONE,
            Value::Number(bits) => Self::Bits(rising(*bits)),
            Value::Time(micros) => Self::Bits(micros.cast_unsigned() ^ SIGN),
            Value::Text(text) => Self::bytes(text.as_bytes()),
            Value::Bytes(bytes) => Self::bytes(bytes),
        }
    }

    fn bytes(bytes: &[u8]) -> Self {
        Self::Bytes(bytes[..bytes.len().min(SORT_BYTES_MAX)].into())
    }
}

const SIGN: u64 = 1 << 63;

/// Bits of a float as a number that rises with it.
fn rising(bits: u64) -> u64 {
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

/// Where a member is in a leaf.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// By what it is sorted.
    pub key: SortKey,
    /// Which row it is.
    pub id: RowId,
}

/// How the byte forms of places begin.
const PLACE_VERSION: u8 = 1;

impl Place {
    /// The byte form: a version, the key, the id. docs/formats.md draws it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![PLACE_VERSION];
        match &self.key {
            SortKey::Bits(bits) => {
                bytes.push(0);
                bytes.extend_from_slice(&bits.to_be_bytes());
            }
            SortKey::Bytes(key) => {
                let length = u8::try_from(key.len()).expect("invariant: keys are bounded");
                bytes.extend_from_slice(&[1, length]);
                bytes.extend_from_slice(key);
            }
        }
        bytes.extend_from_slice(self.id.to_string().as_bytes());
        bytes
    }

    /// From the byte form; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&[PLACE_VERSION])?;
        let (kind, rest) = rest.split_first()?;
        let (key, id) = match kind {
            0 => {
                let (bits, id) = rest.split_first_chunk()?;
                (SortKey::Bits(u64::from_be_bytes(*bits)), id)
            }
            1 => {
                let (length, rest) = rest.split_first()?;
                let (key, id) = rest.split_at_checked(usize::from(*length))?;
                if key.len() > SORT_BYTES_MAX {
                    return None;
                }
                (SortKey::Bytes(key.into()), id)
            }
            _ => return None,
        };
        let id = RowId::parse(std::str::from_utf8(id).ok()?).ok()?;
        Some(Self { key, id })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::criteria::{Datum, Dialect, Raw};

    fn key(raw: Raw<'_>) -> SortKey {
        let datum = Datum::of(Dialect::Postgres, raw).unwrap();
        SortKey::of(&datum.value, true)
    }

    #[test]
    fn keys_are_in_the_order_of_values() {
        let raws = [
            Raw::Float(f64::NEG_INFINITY),
            Raw::Int(-20),
            Raw::Float(-0.5),
            Raw::Int(0),
            Raw::Float(0.1),
            Raw::Int(3),
            Raw::Uint(u64::MAX),
            Raw::Text("a"),
            Raw::Text("b"),
            Raw::Null,
        ];
        let keys: Vec<_> = raws.into_iter().map(key).collect();
        assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
        assert!(SortKey::of(&Value::Null, false) < keys[0]);
    }

    #[test]
    fn ids_are_told_apart_and_ordered_as_numbers() {
        let ids = ["-3", "7", "10", "007", "9223372036854775808", "a", "b"];
        let parsed: Vec<_> = ids.iter().map(|id| RowId::parse(id).unwrap()).collect();
        assert!(parsed.is_sorted_by(|a, b| a < b), "{parsed:?}");
        let shown: Vec<_> = parsed.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ids);
        assert_eq!(RowId::parse(""), Err(IdError::Empty));
        let long = "x".repeat(ID_BYTES_MAX + 1);
        assert_eq!(RowId::parse(&long), Err(IdError::TooLong { bytes: 129 }));
    }

    #[test]
    fn places_read_back_and_nothing_else_passes() {
        for key in [
            SortKey::NONE,
            key(Raw::Int(5)),
            key(Raw::Text("shoe")),
            key(Raw::Null),
        ] {
            for id in ["1", "a-b", "007"] {
                let id = RowId::parse(id).unwrap();
                let key = key.clone();
                let place = Place { key, id };
                let bytes = place.to_bytes();
                assert_eq!(Place::from_bytes(&bytes), Some(place));
                for length in 0..3 {
                    assert_eq!(Place::from_bytes(&bytes[..length]), None);
                }
            }
        }
        assert_eq!(
            Place::from_bytes(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, b'1']),
            None
        );
        assert_eq!(Place::from_bytes(&[1, 1, 200, b'1']), None);
    }
}
