//! The engine's log, looked at when nothing else tells whether it is whole.
//!
//! The engine (0.34.7) takes a message in it that does not read back for the end of its segment, and goes on with the next one: so may a
//! crash have left it, says the engine, and then what is missing was written again later. Of damage that is not true: a page is then older
//! than the others, and no record of ours shows it. While the engine has its snapshot that does not matter, for it knows where every
//! page is, and what does not read back there is an error. Without the snapshot the log is read here first.
//!
//! ```text
//! segment: 4 CRC-32 of what follows in the header, inverted; 8 lsn and 8 stable lsn, each xor 2^63 - 1; then messages
//! message: 4 CRC-32 of the body and of what follows in the header, inverted; 1 kind; varint length, segment, page; the body
//! ```
//!
//! Integers are little-endian. A varint is one byte up to 240, two with a first byte of 241 to 248, three with 249, and from 250 on
//! so many bytes more than 247 says.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The engine's default, which we leave as it is.
const SEGMENT_BYTES: usize = 512 << 10;
const SEGMENT_HEADER_BYTES: usize = 20;
/// No message begins so near the end of a segment.
const MESSAGE_HEADER_BYTES_MAX: usize = 32;
const LSN_MASK: u64 = (1 << 63) - 1;
/// The kind of a message that fills a segment up.
const CAP: u8 = 2;
/// The highest kind there is; the lowest is 1.
const KIND_MAX: u8 = 11;

/// The first place where the log does not read back although it is not its end; `None` if there is none. One that is not there does
/// not read back at all.
pub(crate) fn damage(log: &Path) -> io::Result<Option<u64>> {
    let mut file = match File::open(log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(0)),
        other => other?,
    };
    let mut segment = Vec::with_capacity(SEGMENT_BYTES);
    let mut last = 0;
    let mut broken = Vec::new();
    let mut start = 0;
    loop {
        segment.clear();
        let read = Read::by_ref(&mut file)
            .take(SEGMENT_BYTES as u64)
            .read_to_end(&mut segment)?;
        if read == 0 {
            break;
        }
        // One that was never written to is empty.
        if segment.iter().any(|byte| *byte != 0) {
            let Some(lsn) = lsn(&segment) else {
                return Ok(Some(start));
            };
            last = last.max(lsn);
            if let Some(at) = first_broken(&segment, lsn / SEGMENT_BYTES as u64) {
                broken.push((lsn, start + at as u64));
            }
        }
        start += read as u64;
    }
    // The end of the last one is the log's.
    broken.retain(|(lsn, _)| *lsn < last);
    Ok(broken.first().map(|(_, at)| *at))
}

/// A segment's place in the order of all, if its header reads back.
fn lsn(segment: &[u8]) -> Option<u64> {
    let (header, _) = segment.split_first_chunk::<SEGMENT_HEADER_BYTES>()?;
    let (sum, rest) = header.split_first_chunk::<4>()?;
    let (lsn, _) = rest.split_first_chunk::<8>()?;
    (u32::from_le_bytes(*sum) == !crc32fast::hash(rest))
        .then(|| u64::from_le_bytes(*lsn) ^ LSN_MASK)
}

/// Where the first message begins that does not read back.
fn first_broken(segment: &[u8], number: u64) -> Option<usize> {
    let mut at = SEGMENT_HEADER_BYTES;
    while at + MESSAGE_HEADER_BYTES_MAX <= SEGMENT_BYTES {
        let message = segment.get(at..).unwrap_or_default();
        let Some((kind, length)) = message_of(message, number) else {
            return Some(at);
        };
        if kind == CAP {
            return None;
        }
        at += length;
    }
    None
}

/// A message's kind, and how long it is.
fn message_of(bytes: &[u8], number: u64) -> Option<(u8, usize)> {
    let (sum, rest) = bytes.split_first_chunk::<4>()?;
    let (&kind, mut rest) = rest.split_first()?;
    let length = usize::try_from(varint(&mut rest)?).ok()?;
    let of = varint(&mut rest)?;
    let _page = varint(&mut rest)?;
    let header = bytes.len() - rest.len();
    let body = rest.get(..length)?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(body);
    crc.update(&bytes[4..header]);
    let whole = u32::from_le_bytes(*sum) == !crc.finalize();
    (whole && of == number && (1..=KIND_MAX).contains(&kind)).then_some((kind, header + length))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut take = |count| {
        let (taken, rest) = bytes.split_at_checked(count)?;
        *bytes = rest;
        let mut number = [0; 8];
        number[..count].copy_from_slice(taken);
        Some(u64::from_le_bytes(number))
    };
    Some(match take(1)? {
        small @ ..=240 => small,
        first @ 241..=248 => 240 + 256 * (first - 241) + take(1)?,
        249 => 2_288 + 256 * take(1)? + take(1)?,
        more => take(usize::try_from(more - 247).ok()?)?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn varints_are_read_as_the_engine_writes_them() {
        for (bytes, number) in [
            (&[0][..], 0),
            (&[240], 240),
            (&[241, 1], 241),
            (&[248, 255], 2_287),
            (&[249, 0, 0], 2_288),
            (&[249, 255, 255], 67_823),
            (&[250, 1, 2, 3], 0x03_02_01),
            (&[255, 1, 0, 0, 0, 0, 0, 0, 1], 0x0100_0000_0000_0001),
        ] {
            let mut left = bytes;
            assert_eq!(varint(&mut left), Some(number), "{bytes:?}");
            assert!(left.is_empty());
            assert_eq!(varint(&mut &bytes[..bytes.len() - 1]), None);
        }
    }
}
