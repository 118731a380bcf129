//! The smallest pieces of every stored record.
//!
//! Fixed integers are big-endian. A *varint* is an unsigned integer of up to 64 bits in groups of seven, lowest
//! group first, the top bit of each byte saying that another follows (LEB128). A *vector* is a varint count, then per
//! entry, by incarnation, 16 bytes of incarnation and a varint sequence. A *name* (address, class) is front-coded
//! against the one before it: one byte of how many bytes they share, one byte of how many follow, those bytes; both
//! fit because no name passes 250 bytes.

use grapevine_core::criteria::Shape;
use grapevine_core::id::Incarnation;
use grapevine_core::names::{Address, ClassPath};
use grapevine_core::vector::VersionVector;
use thiserror::Error;

/// Stored bytes that do not say what they should.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{what}, with {left} bytes left to read")]
pub struct DecodeError {
    /// What was wrong.
    pub what: &'static str,
    /// How far from the record's end.
    pub left: usize,
}

/// Reads a record from its front.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) fn error(&self, what: &'static str) -> DecodeError {
        DecodeError {
            what,
            left: self.bytes.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// Refuses bytes after the end.
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(self.error("bytes after the end of a record"))
        }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        match self.bytes.split_at_checked(count) {
            None => Err(self.error("a record ends early")),
            Some((taken, rest)) => {
                self.bytes = rest;
                Ok(taken)
            }
        }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let taken = self.take(N)?;
        Ok(taken
            .try_into()
            .expect("invariant: take returns what was asked for"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(crate) fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let group = u64::from(byte & 0x7f);
            if shift == 63 && group > 1 {
                break;
            }
            value |= group << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.error("a varint of more than 64 bits"))
    }

    /// A count of things that take at least one byte each: refused when fewer bytes are left, so that a garbled
    /// count cannot ask for memory.
    pub(crate) fn count(&mut self) -> Result<usize, DecodeError> {
        let count = self.varint()?;
        usize::try_from(count)
            .ok()
            .filter(|&count| count <= self.bytes.len())
            .ok_or_else(|| self.error("a count larger than its record"))
    }

    pub(crate) fn incarnation(&mut self) -> Result<Incarnation, DecodeError> {
        let bytes: [u8; Incarnation::LEN] = self.array()?;
        Incarnation::from_bytes(&bytes).ok_or_else(|| self.error("an incarnation of zero"))
    }

    pub(crate) fn vector(&mut self) -> Result<VersionVector, DecodeError> {
        let count = self.count()?;
        let mut vector = VersionVector::new();
        self.entries(&mut vector, count)?;
        Ok(vector)
    }

    /// Some entries of a vector, without their count.
    pub(crate) fn entries(
        &mut self,
        vector: &mut VersionVector,
        count: usize,
    ) -> Result<(), DecodeError> {
        for _ in 0..count {
            let origin = self.incarnation()?;
            let sequence = self.varint()?;
            vector.raise(origin, sequence);
        }
        Ok(())
    }

    /// Replaces `name`, the one before, by the next one.
    pub(crate) fn name(&mut self, name: &mut Vec<u8>) -> Result<(), DecodeError> {
        let shared = usize::from(self.u8()?);
        let rest = usize::from(self.u8()?);
        if shared > name.len() {
            return Err(self.error("a name shares more than the one before it has"));
        }
        name.truncate(shared);
        name.extend_from_slice(self.take(rest)?);
        Ok(())
    }

    pub(crate) fn address(&self, bytes: &[u8]) -> Result<Address, DecodeError> {
        std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| Address::parse(text).ok())
            .ok_or_else(|| self.error("not an address"))
    }

    pub(crate) fn class(&self, bytes: &[u8]) -> Result<ClassPath, DecodeError> {
        std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| ClassPath::parse(text).ok())
            .ok_or_else(|| self.error("not a class path"))
    }
}

impl Reader<'_> {
    /// The shape that a class stands for.
    pub(crate) fn shape(&self, bytes: &[u8]) -> Result<Shape, DecodeError> {
        let class = self.class(bytes)?;
        let shape = Shape::parse(&class).filter(|shape| shape.class() == class);
        shape.ok_or_else(|| self.error("not the class of a shape"))
    }
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

pub(crate) fn put_count(out: &mut Vec<u8>, count: usize) {
    put_varint(out, count as u64);
}

pub(crate) fn put_vector(out: &mut Vec<u8>, vector: &VersionVector) {
    put_count(out, vector.len());
    put_entries(out, vector.iter());
}

/// Entries of a vector, without their count.
pub(crate) fn put_entries(out: &mut Vec<u8>, entries: impl Iterator<Item = (Incarnation, u64)>) {
    for (origin, sequence) in entries {
        out.extend_from_slice(&origin.to_bytes());
        put_varint(out, sequence);
    }
}

/// Writes `name` against `before`.
pub(crate) fn put_name(out: &mut Vec<u8>, before: &[u8], name: &[u8]) {
    let shared = shared_prefix(before, name);
    out.push(u8::try_from(shared).expect("invariant: names have at most 250 bytes"));
    let rest = &name[shared..];
    out.push(u8::try_from(rest.len()).expect("invariant: names have at most 250 bytes"));
    out.extend_from_slice(rest);
}

pub(crate) fn shared_prefix(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take_while(|(l, r)| l == r).count()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_round_trip(value: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert!(reader.finish().is_ok());
        }

        #[test]
        fn vectors_round_trip(entries: Vec<(u128, u64)>) {
            let vector: VersionVector = entries
                .into_iter()
                .filter_map(|(origin, sequence)| Some((Incarnation::new(origin)?, sequence)))
                .collect();
            let mut out = Vec::new();
            put_vector(&mut out, &vector);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.vector(), Ok(vector));
            prop_assert!(reader.finish().is_ok());
        }

        #[test]
        fn names_round_trip_against_the_one_before(names: Vec<[u8; 3]>) {
            let mut out = Vec::new();
            let mut before: &[u8] = &[];
            for name in &names {
                put_name(&mut out, before, name);
                before = name;
            }
            let mut reader = Reader::new(&out);
            let mut name = Vec::new();
            for expected in &names {
                reader.name(&mut name).unwrap();
                prop_assert_eq!(&name, expected);
            }
            prop_assert!(reader.finish().is_ok());
        }

        #[test]
        fn garbage_is_refused_without_panic(bytes: Vec<u8>) {
            let _ = Reader::new(&bytes).vector();
            let _ = Reader::new(&bytes).varint();
            let _ = Reader::new(&bytes).name(&mut vec![1, 2, 3]);
        }
    }

    #[test]
    fn an_overlong_varint_is_refused() {
        assert!(Reader::new(&[0xff; 11]).varint().is_err());
        let mut largest = vec![0xff; 9];
        largest.push(1);
        assert_eq!(Reader::new(&largest).varint(), Ok(u64::MAX));
    }

    #[test]
    fn a_count_beyond_the_record_is_refused() {
        assert!(Reader::new(&[200, 1, 0]).count().is_err());
    }
}
