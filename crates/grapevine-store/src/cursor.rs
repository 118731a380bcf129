//! Where a listing goes on: opaque bytes to those who carry them.
//!
//! ```text
//! 1  listing: 1 addresses, 2 classes, 3 versions
//! n  the last row's class, as its sort key
//! and for addresses: 0x00, the last row's address
//! ```
//!
//! A cursor says what was last given out, not a position, so it stays right whatever is added or removed.

use grapevine_core::names::{Address, ClassPath};

use crate::StoreError;

const ADDRESSES: u8 = 1;
const CLASSES: u8 = 2;
const VERSIONS: u8 = 3;

/// Where a listing goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(Vec<u8>);

impl Cursor {
    /// From bytes that [`Cursor::as_bytes`] gave. They are checked when the cursor is used.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// Its bytes: at most 452.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn new(listing: u8, sort_key: &[u8]) -> Self {
        let mut bytes = vec![listing];
        bytes.extend_from_slice(sort_key);
        Self(bytes)
    }

    pub(crate) fn addresses(sort_key: &[u8], address: &Address) -> Self {
        let mut cursor = Self::new(ADDRESSES, sort_key);
        cursor.0.push(0);
        cursor.0.extend_from_slice(address.as_str().as_bytes());
        cursor
    }

    pub(crate) fn classes(sort_key: &[u8]) -> Self {
        Self::new(CLASSES, sort_key)
    }

    pub(crate) fn versions(sort_key: &[u8]) -> Self {
        Self::new(VERSIONS, sort_key)
    }

    fn body(&self, listing: u8) -> Result<&[u8], StoreError> {
        match self.0.split_first() {
            Some((&first, body)) if first == listing => Ok(body),
            _ => Err(StoreError::BadCursor),
        }
    }

    fn checked_class(sort_key: &[u8]) -> Result<Vec<u8>, StoreError> {
        match ClassPath::from_sort_key(sort_key) {
            Some(_) => Ok(sort_key.to_vec()),
            None => Err(StoreError::BadCursor),
        }
    }

    /// The sort key and the address.
    pub(crate) fn parse_addresses(&self) -> Result<(Vec<u8>, Address), StoreError> {
        let body = self.body(ADDRESSES)?;
        let end = body.iter().position(|&byte| byte == 0);
        let (sort_key, address) = body.split_at(end.ok_or(StoreError::BadCursor)?);
        let address = std::str::from_utf8(&address[1..])
            .ok()
            .and_then(|text| Address::parse(text).ok())
            .ok_or(StoreError::BadCursor)?;
        Ok((Self::checked_class(sort_key)?, address))
    }

    pub(crate) fn parse_classes(&self) -> Result<Vec<u8>, StoreError> {
        Self::checked_class(self.body(CLASSES)?)
    }

    pub(crate) fn parse_versions(&self) -> Result<Vec<u8>, StoreError> {
        Self::checked_class(self.body(VERSIONS)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_read_back_and_foreign_ones_are_refused() {
        let class = ClassPath::parse("a/b").unwrap();
        let address = Address::parse("x").unwrap();
        let key = class.sort_key();
        let cursor = Cursor::addresses(&key, &address);
        let carried = Cursor::from_bytes(cursor.as_bytes());
        assert_eq!(carried.parse_addresses().unwrap(), (key.clone(), address));
        assert_eq!(Cursor::classes(&key).parse_classes().unwrap(), key);
        assert_eq!(Cursor::versions(&key).parse_versions().unwrap(), key);
        assert!(carried.parse_classes().is_err());
        for garbage in [
            &b""[..],
            b"\x01",
            b"\x01a",
            b"\x01a\0",
            b"\x01a b\0x",
            b"\x09a",
        ] {
            assert!(Cursor::from_bytes(garbage).parse_addresses().is_err());
        }
        assert!(Cursor::from_bytes(b"\x02").parse_classes().is_err());
        assert!(Cursor::from_bytes(b"\x03\x01").parse_versions().is_err());
    }
}
