//! What leaves are named and filled with: values, rows, and where a page ended.

use bytes::{BufMut as _, Bytes, BytesMut};
use grapevine_proto::v1;
use grapevine_proto::v1::sql_value::Value;
use thiserror::Error;

/// A value of a column, or of a statement's placeholder. Decimals, dates, times and UUIDs are texts in their usual notation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SqlScalar(v1::SqlValue);

impl SqlScalar {
    /// SQL's NULL.
    pub const NULL: Self = Self(v1::SqlValue { value: None });

    fn of(value: Value) -> Self {
        Self(v1::SqlValue { value: Some(value) })
    }

    /// The value; `None` is NULL.
    pub fn value(&self) -> Option<&Value> {
        self.0.value.as_ref()
    }
}

impl From<v1::SqlValue> for SqlScalar {
    fn from(value: v1::SqlValue) -> Self {
        Self(value)
    }
}

impl From<SqlScalar> for v1::SqlValue {
    fn from(value: SqlScalar) -> Self {
        value.0
    }
}

impl From<i64> for SqlScalar {
    fn from(value: i64) -> Self {
        Self::of(Value::Integer(value))
    }
}

impl From<i32> for SqlScalar {
    fn from(value: i32) -> Self {
        i64::from(value).into()
    }
}

impl From<u32> for SqlScalar {
    fn from(value: u32) -> Self {
        i64::from(value).into()
    }
}

impl From<u64> for SqlScalar {
    fn from(value: u64) -> Self {
        i64::try_from(value).map_or_else(|_| Self::of(Value::Unsigned(value)), Self::from)
    }
}

impl From<f64> for SqlScalar {
    fn from(value: f64) -> Self {
        Self::of(Value::Float(value))
    }
}

impl From<bool> for SqlScalar {
    fn from(value: bool) -> Self {
        Self::of(Value::Boolean(value))
    }
}

impl From<&str> for SqlScalar {
    fn from(value: &str) -> Self {
        value.to_owned().into()
    }
}

impl From<String> for SqlScalar {
    fn from(value: String) -> Self {
        Self::of(Value::Text(value))
    }
}

impl From<Bytes> for SqlScalar {
    fn from(value: Bytes) -> Self {
        Self::of(Value::Bytes(value))
    }
}

impl From<Vec<u8>> for SqlScalar {
    fn from(value: Vec<u8>) -> Self {
        Bytes::from(value).into()
    }
}

impl<T: Into<SqlScalar>> From<Option<T>> for SqlScalar {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::NULL, Into::into)
    }
}

/// A row of a leaf, as the database has it.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexRow {
    pub(super) id: String,
    pub(super) order: Option<SqlScalar>,
    pub(super) version: u64,
}

impl IndexRow {
    /// By its id, at most 128 bytes: the same text that changes of the row are told with.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "ids are mostly numbers, and a reference to one reads badly"
    )]
    pub fn new(id: impl ToString) -> Self {
        Self {
            id: id.to_string(),
            order: None,
            version: 0,
        }
    }

    /// The value of the index's `order_by`; needed if it has one.
    #[must_use]
    pub fn ordered_by(mut self, value: impl Into<SqlScalar>) -> Self {
        self.order = Some(value.into());
        self
    }

    /// The number of its version, if they are counted.
    #[must_use]
    pub fn version(mut self, version: u64) -> Self {
        self.version = version;
        self
    }

    /// More than it takes on the wire.
    pub(super) fn bytes(&self) -> usize {
        let value = match self.order.as_ref().and_then(SqlScalar::value) {
            Some(Value::Text(text)) => text.len(),
            Some(Value::Bytes(bytes)) => bytes.len(),
            _ => 10,
        };
        32 + self.id.len() + value
    }

    pub(super) fn into_wire(self) -> v1::IndexRow {
        v1::IndexRow {
            id: self.id,
            order_value: self.order.map(Into::into),
            version: self.version,
        }
    }

    /// Where rows are equal by their order: whole numbers come first, as numbers, then texts.
    pub(super) fn id_order(&self) -> (bool, i64, &str) {
        let number = self.id.parse::<i64>().ok();
        match number.filter(|number| number.to_string() == self.id) {
            Some(number) => (false, number, ""),
            None => (true, 0, &self.id),
        }
    }
}

/// Where a page of a leaf ended: behind its last row. It holds for the same leaf and range, at any sidecar, and where the database
/// has to be read instead: there it is found by the last row's id, or if that is gone by how many came before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    place: Bytes,
    id: String,
    passed: u64,
}

/// Why bytes are no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("these {bytes} bytes are not those of a cursor")]
pub struct CursorError {
    /// How many there were.
    pub bytes: usize,
}

/// The byte form's first byte.
const CURSOR_VERSION: u8 = 1;
/// The longest place that a sidecar tells.
const PLACE_BYTES_MAX: usize = 256;

impl Cursor {
    pub(super) fn new(place: Bytes, id: &str, passed: u64) -> Self {
        Self {
            place,
            id: id.to_owned(),
            passed,
        }
    }

    /// Empty if no sidecar has told it.
    pub(super) fn place(&self) -> &Bytes {
        &self.place
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn passed(&self) -> u64 {
        self.passed
    }

    /// The same place, where only so many of the page's rows were shown, the last of them this one.
    pub(super) fn with_shown(mut self, last: Option<&str>, left_out: u64) -> Self {
        self.passed = self.passed.saturating_sub(left_out);
        if let Some(last) = last {
            last.clone_into(&mut self.id);
        }
        self
    }

    /// The byte form, for links and forms: 1, the number of rows before it (8 bytes), the place's length (2 bytes), the place, and
    /// the last row's id. At most 395 bytes.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(11 + self.place.len() + self.id.len());
        bytes.put_u8(CURSOR_VERSION);
        bytes.put_u64(self.passed);
        bytes.put_u16(u16::try_from(self.place.len()).unwrap_or(u16::MAX));
        bytes.put_slice(&self.place);
        bytes.put_slice(self.id.as_bytes());
        bytes.freeze()
    }

    /// Reads the byte form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CursorError> {
        Self::parse(bytes).ok_or(CursorError { bytes: bytes.len() })
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (passed, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (place, id) = rest.split_at_checked(length)?;
        let sound = *version == CURSOR_VERSION
            && length <= PLACE_BYTES_MAX
            && id.len() <= super::INDEX_ID_BYTES_MAX;
        let id = std::str::from_utf8(id).ok().filter(|_| sound)?;
        Some(Self {
            place: Bytes::copy_from_slice(place),
            id: id.to_owned(),
            passed: u64::from_be_bytes(*passed),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_cursor_comes_back_from_its_bytes_and_nothing_else_does() {
        let cursor = Cursor::new(Bytes::from_static(b"place"), "3333", 20);
        let bytes = cursor.to_bytes();
        assert_eq!(Cursor::from_bytes(&bytes), Ok(cursor));
        for wrong in [&bytes[..0], &bytes[..10], &bytes[..12], b"\x02", &[1; 600]] {
            Cursor::from_bytes(wrong).unwrap_err();
        }
    }

    #[test]
    fn ids_are_ordered_as_a_leaf_orders_them() {
        let mut rows = ["b", "10", "9", "-1", "09"].map(IndexRow::new);
        rows.sort_by(|one, other| one.id_order().cmp(&other.id_order()));
        assert_eq!(rows.map(|row| row.id), ["-1", "9", "10", "09", "b"]);
    }
}
