//! The keys of the one tree.
//!
//! A key's first byte is its table; the tables are numbered so that the small records that every commit rewrites sit
//! in leaves of their own, away from the pages of the directory and the parts of the log. A *class key* is the
//! class's sort key (each `/` as 0x01) and a 0x00, which is lower than any byte of a segment: so a class's records
//! are followed by those of the classes below it, and both together lie between the sort key with 0x00 and the sort
//! key with 0x02. All integers are big-endian.

use grapevine_core::criteria::Shape;
use grapevine_core::id::{Incarnation, Lane};
use grapevine_core::intent::IntentId;
use grapevine_core::names::{Address, ClassPath, NodeId};

use crate::codec::{DecodeError, Reader};

/// The version of everything that the tree holds; raised by a change that an older program would misread.
pub(crate) const FORMAT_VERSION: u32 = 5;
/// The oldest version that is still read: it lacks tables that came later, and what it has means the same.
pub(crate) const FORMAT_VERSION_MIN: u32 = 2;

/// The first byte of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Table {
    Format = 0x01,
    Counters = 0x10,
    Progress = 0x11,
    Ledger = 0x12,
    LogFiles = 0x13,
    Incarnations = 0x20,
    Members = 0x21,
    Intents = 0x22,
    Roster = 0x23,
    Dropped = 0x24,
    Shapes = 0x25,
    Floors = 0x30,
    Classes = 0x31,
    Parts = 0x32,
    Expiries = 0x40,
    Directory = 0x50,
    Log = 0x60,
}

impl Table {
    pub(crate) const ALL: [Self; 17] = [
        Self::Format,
        Self::Counters,
        Self::Progress,
        Self::Ledger,
        Self::LogFiles,
        Self::Incarnations,
        Self::Members,
        Self::Intents,
        Self::Roster,
        Self::Dropped,
        Self::Shapes,
        Self::Floors,
        Self::Classes,
        Self::Parts,
        Self::Expiries,
        Self::Directory,
        Self::Log,
    ];

    pub(crate) fn of(key: &[u8]) -> Option<Self> {
        let first = *key.first()?;
        Self::ALL.into_iter().find(|&table| table as u8 == first)
    }

    /// All its keys.
    pub(crate) fn range(self) -> Range {
        Range {
            start: vec![self as u8],
            end: vec![self as u8 + 1],
        }
    }

    fn key(self, capacity: usize) -> Vec<u8> {
        let mut key = Vec::with_capacity(1 + capacity);
        key.push(self as u8);
        key
    }
}

/// Keys from `start` to before `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: Vec<u8>,
    pub(crate) end: Vec<u8>,
}

impl Range {
    /// The part from `start` on, if that is later.
    pub(crate) fn from(mut self, start: Vec<u8>) -> Self {
        if start > self.start {
            self.start = start;
        }
        self
    }
}

/// Sorts after the class's own keys (which go on with 0x00) and before those of the classes below it.
const AFTER_OWN: u8 = 0x01;
/// Sorts after the keys of everything below the class.
const AFTER_BELOW: u8 = 0x02;

fn with(mut key: Vec<u8>, byte: u8) -> Vec<u8> {
    key.push(byte);
    key
}

fn sorted(table: Table, sort_key: &[u8]) -> Vec<u8> {
    let mut key = table.key(sort_key.len() + 1);
    key.extend_from_slice(sort_key);
    key
}

/// The records of a class and of everything below it.
pub(crate) fn at_and_below(table: Table, sort_key: &[u8]) -> Range {
    Range {
        start: with(sorted(table, sort_key), 0),
        end: with(sorted(table, sort_key), AFTER_BELOW),
    }
}

/// The records of a class alone.
pub(crate) fn own(table: Table, sort_key: &[u8]) -> Range {
    Range {
        start: with(sorted(table, sort_key), 0),
        end: with(sorted(table, sort_key), AFTER_OWN),
    }
}

/// Where the records after a class's own begin.
pub(crate) fn after_own(table: Table, sort_key: &[u8]) -> Vec<u8> {
    with(sorted(table, sort_key), AFTER_OWN)
}

/// Splits a key of [`Table::Classes`] or [`Table::Directory`] into the sort key and what follows the 0x00.
pub(crate) fn split_class(key: &[u8]) -> Result<(&[u8], &[u8]), DecodeError> {
    let body = key.get(1..).unwrap_or_default();
    let Some(end) = body.iter().position(|&byte| byte == 0) else {
        return Err(Reader::new(key).error("a key without the end of its class"));
    };
    Ok((&body[..end], &body[end + 1..]))
}

pub(crate) fn class_of(sort_key: &[u8]) -> Result<ClassPath, DecodeError> {
    ClassPath::from_sort_key(sort_key)
        .ok_or_else(|| Reader::new(sort_key).error("a key whose class is malformed"))
}

pub(crate) fn format() -> Vec<u8> {
    Table::Format.key(0)
}

pub(crate) fn counters() -> Vec<u8> {
    Table::Counters.key(0)
}

pub(crate) fn lane_byte(lane: Lane) -> u8 {
    match lane {
        Lane::Bump => 0,
        Lane::Directory => 1,
    }
}

fn lane_of(byte: u8) -> Option<Lane> {
    Lane::ALL.into_iter().find(|&lane| lane_byte(lane) == byte)
}

fn lane_key(table: Table, lane: Lane, origin: Incarnation) -> Vec<u8> {
    let mut key = table.key(1 + Incarnation::LEN + 10);
    key.push(lane_byte(lane));
    key.extend_from_slice(&origin.to_bytes());
    key
}

/// The watermark of a lane.
pub(crate) fn progress(lane: Lane, origin: Incarnation) -> Vec<u8> {
    lane_key(Table::Progress, lane, origin)
}

/// What the log holds of a lane.
pub(crate) fn ledger(lane: Lane, origin: Incarnation) -> Vec<u8> {
    lane_key(Table::Ledger, lane, origin)
}

/// Reads a key of [`Table::Progress`] or [`Table::Ledger`].
pub(crate) fn parse_lane(key: &[u8]) -> Result<(Lane, Incarnation), DecodeError> {
    let mut reader = Reader::new(key);
    let parsed = read_lane(&mut reader)?;
    reader.finish()?;
    Ok(parsed)
}

fn read_lane(reader: &mut Reader<'_>) -> Result<(Lane, Incarnation), DecodeError> {
    reader.u8()?;
    let lane = lane_of(reader.u8()?).ok_or_else(|| reader.error("an unknown lane"))?;
    Ok((lane, reader.incarnation()?))
}

/// How many events the log has in a file of an origin's.
pub(crate) fn log_file(lane: Lane, origin: Incarnation, number: u32) -> Vec<u8> {
    let mut key = lane_key(Table::LogFiles, lane, origin);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// Reads a key of [`Table::LogFiles`].
pub(crate) fn parse_log_file(key: &[u8]) -> Result<(Lane, Incarnation, u32), DecodeError> {
    let mut reader = Reader::new(key);
    let (lane, origin) = read_lane(&mut reader)?;
    let number = reader.u32()?;
    reader.finish()?;
    Ok((lane, origin, number))
}

/// One part of a logged event, or, without further ones, its place in a file.
pub(crate) fn log(lane: Lane, origin: Incarnation, sequence: u64, part: u16) -> Vec<u8> {
    let mut key = lane_key(Table::Log, lane, origin);
    key.extend_from_slice(&sequence.to_be_bytes());
    key.extend_from_slice(&part.to_be_bytes());
    key
}

/// The logged events of a lane from a sequence on.
pub(crate) fn log_from(lane: Lane, origin: Incarnation, sequence: u64) -> Range {
    Range {
        start: log(lane, origin, sequence, 0),
        // One byte more than the last key has, so that the last key is inside.
        end: with(log(lane, origin, u64::MAX, u16::MAX), 0),
    }
}

/// Reads a key of [`Table::Log`].
pub(crate) fn parse_log(key: &[u8]) -> Result<(Lane, Incarnation, u64, u16), DecodeError> {
    let mut reader = Reader::new(key);
    let (lane, origin) = read_lane(&mut reader)?;
    let (sequence, part) = (reader.u64()?, reader.u16()?);
    reader.finish()?;
    Ok((lane, origin, sequence, part))
}

pub(crate) fn incarnation(incarnation: Incarnation) -> Vec<u8> {
    let mut key = Table::Incarnations.key(Incarnation::LEN);
    key.extend_from_slice(&incarnation.to_bytes());
    key
}

pub(crate) fn dropped(run: Incarnation) -> Vec<u8> {
    let mut key = Table::Dropped.key(Incarnation::LEN);
    key.extend_from_slice(&run.to_bytes());
    key
}

pub(crate) fn shape(shape: &Shape) -> Vec<u8> {
    let class = shape.class();
    let mut key = Table::Shapes.key(class.as_str().len());
    key.extend_from_slice(class.as_str().as_bytes());
    key
}

pub(crate) fn parse_shape(key: &[u8]) -> Result<Shape, DecodeError> {
    let mut reader = Reader::new(key);
    reader.u8()?;
    reader.shape(reader.rest())
}

pub(crate) fn parse_incarnation(key: &[u8]) -> Result<Incarnation, DecodeError> {
    let mut reader = Reader::new(key);
    reader.u8()?;
    let incarnation = reader.incarnation()?;
    reader.finish()?;
    Ok(incarnation)
}

pub(crate) fn member(node_id: &NodeId) -> Vec<u8> {
    let mut key = Table::Members.key(node_id.as_str().len());
    key.extend_from_slice(node_id.as_str().as_bytes());
    key
}

pub(crate) fn roster() -> Vec<u8> {
    Table::Roster.key(0)
}

pub(crate) fn parse_member(key: &[u8]) -> Result<NodeId, DecodeError> {
    key.get(1..)
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .and_then(|text| NodeId::parse(text).ok())
        .ok_or_else(|| Reader::new(key).error("a key whose node id is malformed"))
}

/// One part of a write intent.
pub(crate) fn intent(id: IntentId, part: u16) -> Vec<u8> {
    let mut key = Table::Intents.key(Incarnation::LEN + 10);
    key.extend_from_slice(&id.origin.to_bytes());
    key.extend_from_slice(&id.number.to_be_bytes());
    key.extend_from_slice(&part.to_be_bytes());
    key
}

pub(crate) fn parse_intent(key: &[u8]) -> Result<(IntentId, u16), DecodeError> {
    let mut reader = Reader::new(key);
    reader.u8()?;
    let id = IntentId {
        origin: reader.incarnation()?,
        number: reader.u64()?,
    };
    let part = reader.u16()?;
    reader.finish()?;
    Ok((id, part))
}

/// A bucket's floor.
pub(crate) fn floor(top: &ClassPath, bucket: u16) -> Vec<u8> {
    let mut key = with(sorted(Table::Floors, &top.sort_key()), 0);
    key.extend_from_slice(&bucket.to_be_bytes());
    key
}

pub(crate) fn parse_floor(key: &[u8]) -> Result<(ClassPath, u16), DecodeError> {
    let (top, rest) = split_class(key)?;
    let mut reader = Reader::new(rest);
    let bucket = reader.u16()?;
    reader.finish()?;
    Ok((class_of(top)?, bucket))
}

/// A class's own entries (`others` empty) or one of its conjunctions.
pub(crate) fn class(class: &ClassPath, others: &[ClassPath]) -> Vec<u8> {
    let mut key = with(sorted(Table::Classes, &class.sort_key()), 0);
    for (index, other) in others.iter().enumerate() {
        if index > 0 {
            key.push(0);
        }
        key.extend_from_slice(&other.sort_key());
    }
    key
}

/// Reads what follows a class's 0x00 in a key of [`Table::Classes`].
pub(crate) fn parse_others(rest: &[u8]) -> Result<Vec<ClassPath>, DecodeError> {
    if rest.is_empty() {
        return Ok(Vec::new());
    }
    rest.split(|&byte| byte == 0).map(class_of).collect()
}

/// A further part of the vector under a key.
pub(crate) fn vector_part(of: &[u8], part: u16) -> Vec<u8> {
    let mut key = Table::Parts.key(of.len() + 2);
    key.extend_from_slice(of);
    key.extend_from_slice(&part.to_be_bytes());
    key
}

/// The key of the vector, and the number of the part.
pub(crate) fn parse_vector_part(key: &[u8]) -> Result<(&[u8], u16), DecodeError> {
    key.get(1..)
        .and_then(|rest| rest.split_last_chunk::<2>())
        .map(|(of, part)| (of, u16::from_be_bytes(*part)))
        .ok_or_else(|| Reader::new(key).error("a vector's part without its number"))
}

/// The seconds that one slot of the expiry index spans.
pub(crate) const SLOT_SECONDS: u32 = 64;

/// The slot in which something that lapses at `expires` (Unix seconds) is removed: rounded up.
pub(crate) fn slot(expires: u32) -> u32 {
    expires.div_ceil(SLOT_SECONDS)
}

/// The slots that are due at `now`: those at and below it.
pub(crate) fn slot_due(now: u32) -> u32 {
    now / SLOT_SECONDS
}

/// "The earliest expiry in this page of this class is in this slot."
pub(crate) fn expiry(slot: u32, sort_key: &[u8], bound: &[u8]) -> Vec<u8> {
    let mut key = slot_start(slot);
    key.extend_from_slice(sort_key);
    key.push(0);
    key.extend_from_slice(bound);
    key
}

fn slot_start(slot: u32) -> Vec<u8> {
    let mut key = Table::Expiries.key(4);
    key.extend_from_slice(&slot.to_be_bytes());
    key
}

/// The keys of slots that are due.
pub(crate) fn expiries_due(due: u32) -> Range {
    Range {
        start: Table::Expiries.key(0),
        end: slot_start(due.saturating_add(1)),
    }
}

/// The slot, the class's sort key and the page's bound.
pub(crate) fn parse_expiry(key: &[u8]) -> Result<(u32, &[u8], &[u8]), DecodeError> {
    let mut reader = Reader::new(key);
    reader.u8()?;
    let slot = reader.u32()?;
    let rest = reader.rest();
    let Some(end) = rest.iter().position(|&byte| byte == 0) else {
        return Err(reader.error("an expiry without the end of its class"));
    };
    Ok((slot, &rest[..end], &rest[end + 1..]))
}

/// A page of the directory: the class, and a bound that no address of the page sorts below.
pub(crate) fn page(sort_key: &[u8], bound: &[u8]) -> Vec<u8> {
    let mut key = Table::Directory.key(sort_key.len() + 1 + bound.len());
    key.extend_from_slice(sort_key);
    key.push(0);
    key.extend_from_slice(bound);
    key
}

/// The page that an address belongs to has the highest key up to this one.
pub(crate) fn page_for(sort_key: &[u8], address: &Address) -> Vec<u8> {
    page(sort_key, address.as_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ClassPath {
        ClassPath::parse(text).unwrap()
    }

    #[test]
    fn tables_read_back_and_do_not_overlap() {
        for pair in Table::ALL.windows(2) {
            assert!(pair[0] < pair[1]);
        }
        for table in Table::ALL {
            assert_eq!(Table::of(&table.range().start), Some(table));
        }
        assert_eq!(Table::of(&[]), None);
        assert_eq!(Table::of(&[0xff]), None);
    }

    #[test]
    fn a_class_is_followed_by_what_is_below_it_and_nothing_else() {
        let range = at_and_below(Table::Directory, &path("a/b").sort_key());
        for (inside, class) in [
            (true, "a/b"),
            (true, "a/b/c"),
            (false, "a"),
            (false, "a/bc"),
            (false, "a/b!"),
        ] {
            let key = page(&path(class).sort_key(), b"x");
            assert_eq!(range.start <= key && key < range.end, inside, "{class}");
        }
        let own = own(Table::Directory, &path("a/b").sort_key());
        assert!(page(&path("a/b").sort_key(), &[0xff]) < own.end);
        assert!(page(&path("a/b/!").sort_key(), b"") >= own.end);
    }

    #[test]
    fn every_key_reads_back() {
        let origin = Incarnation::new(77).unwrap();
        for lane in Lane::ALL {
            assert_eq!(parse_lane(&progress(lane, origin)), Ok((lane, origin)));
            assert_eq!(parse_lane(&ledger(lane, origin)), Ok((lane, origin)));
            assert_eq!(
                parse_log(&log(lane, origin, 5, 6)),
                Ok((lane, origin, 5, 6))
            );
            let range = log_from(lane, origin, 5);
            assert!(log(lane, origin, u64::MAX, u16::MAX) < range.end);
            assert!(log(lane, origin, 4, 9) < range.start);
        }
        assert_eq!(parse_incarnation(&incarnation(origin)), Ok(origin));
        let node = NodeId::parse("node-1").unwrap();
        assert_eq!(parse_member(&member(&node)), Ok(node));
        let id = IntentId { origin, number: 9 };
        assert_eq!(parse_intent(&intent(id, 3)), Ok((id, 3)));
        assert_eq!(parse_floor(&floor(&path("a"), 300)), Ok((path("a"), 300)));
        assert_eq!(parse_floor(&floor(&path("a"), 0)), Ok((path("a"), 0)));
        for others in [vec![], vec![path("b")], vec![path("b/c"), path("d")]] {
            let key = class(&path("a/x"), &others);
            let (sort_key, rest) = split_class(&key).unwrap();
            assert_eq!(class_of(sort_key), Ok(path("a/x")));
            assert_eq!(parse_others(rest), Ok(others));
        }
        let floor_key = floor(&path("a"), 300);
        assert_eq!(
            parse_vector_part(&vector_part(&floor_key, 7)),
            Ok((floor_key.as_slice(), 7))
        );
        let sort_key = path("a/b").sort_key();
        for bound in [&b""[..], b"x"] {
            assert_eq!(
                parse_expiry(&expiry(9, &sort_key, bound)),
                Ok((9, sort_key.as_slice(), bound))
            );
        }
    }

    #[test]
    fn nothing_is_due_before_it_lapsed() {
        assert_eq!(slot(0), 0);
        assert_eq!(slot(1), 1);
        assert_eq!(slot(64), 1);
        assert_eq!(slot(65), 2);
        assert!(slot(100) > slot_due(100));
        assert!(slot(100) <= slot_due(128));
        assert!(u64::from(slot(u32::MAX)) * u64::from(SLOT_SECONDS) >= u64::from(u32::MAX));
        let due = expiries_due(9);
        assert!(expiry(9, b"zzz", b"zzz") < due.end);
        assert!(expiry(10, b"a", b"") >= due.end);
    }
}
