//! An answer as it is cached: the number of the last commit that it can have seen (4 bytes, big-endian), and the rows as text.
//!
//! Whoever reads it is told by the number which writes it may lack. What the database said is everything behind the number: cells are parted by
//! a unit separator, rows end with a line feed.

use bytes::{BufMut as _, Bytes, BytesMut};
use rusqlite::types::ValueRef;
use xxhash_rust::xxh3::xxh3_64;

const CELL_END: u8 = 0x1f;
const ROW_END: u8 = b'\n';
const COMMIT_BYTES: usize = 4;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer(Bytes);

impl Answer {
    /// Of these rows, as [`write_row`] has written them.
    pub fn new(commit: u32, rows: &[u8]) -> Self {
        let mut bytes = BytesMut::with_capacity(COMMIT_BYTES + rows.len());
        bytes.put_u32(commit);
        bytes.put_slice(rows);
        Self(bytes.freeze())
    }

    /// From a cache; `None` if it is too short to be one.
    pub fn from_bytes(bytes: Bytes) -> Option<Self> {
        (bytes.len() >= COMMIT_BYTES).then_some(Self(bytes))
    }

    /// For a cache.
    pub fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }

    /// The last commit that it can have seen.
    pub fn commit(&self) -> u32 {
        let (commit, _) = self
            .0
            .split_first_chunk()
            .expect("invariant: it has a commit");
        u32::from_be_bytes(*commit)
    }

    /// What the database said, as a number.
    pub fn hash(&self) -> u64 {
        hash(self.body())
    }

    fn body(&self) -> &[u8] {
        &self.0[COMMIT_BYTES..]
    }

    /// A column of all rows, as numbers; cells that are none are left out.
    pub fn numbers(&self, column: usize) -> Vec<i64> {
        numbers(self.body(), column)
    }
}

/// What the database said, as a number.
pub fn hash(rows: &[u8]) -> u64 {
    xxh3_64(rows)
}

/// A column of all rows, as numbers; cells that are none are left out.
pub fn numbers(rows: &[u8], column: usize) -> Vec<i64> {
    let rows = rows.split(|byte| *byte == ROW_END);
    let cells = rows.filter_map(|row| row.split(|byte| *byte == CELL_END).nth(column));
    cells
        .filter_map(|cell| std::str::from_utf8(cell).ok()?.parse().ok())
        .collect()
}

/// Writes a row of a query behind others.
pub fn write_row(row: &rusqlite::Row<'_>, rows: &mut Vec<u8>) -> rusqlite::Result<()> {
    for column in 0..row.as_ref().column_count() {
        if column > 0 {
            rows.push(CELL_END);
        }
        match row.get_ref(column)? {
            ValueRef::Null => {}
            ValueRef::Integer(value) => rows.extend_from_slice(value.to_string().as_bytes()),
            ValueRef::Real(value) => rows.extend_from_slice(value.to_string().as_bytes()),
            ValueRef::Text(text) | ValueRef::Blob(text) => rows.extend_from_slice(text),
        }
    }
    rows.push(ROW_END);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn an_answer_comes_back_and_its_rows_alone_say_whether_it_changed() {
        let answer = Answer::new(7, b"1\x1fa\n22\x1fb\n");
        assert_eq!(answer.commit(), 7);
        assert_eq!(answer.numbers(0), [1, 22]);
        assert_eq!(answer.numbers(1), Vec::<i64>::new());
        let later = Answer::new(8, b"1\x1fa\n22\x1fb\n");
        assert_eq!(answer.hash(), later.hash());
        assert_eq!(Answer::from_bytes(answer.to_bytes()), Some(answer));
        assert_eq!(Answer::from_bytes(Bytes::from_static(b"123")), None);
    }
}
