//! What an opened tree held, without reading its directory; and reading everything, when there is reason to doubt.

use grapevine_core::criteria::Shape;
use grapevine_core::id::{Incarnation, Lane};
use grapevine_core::names::NodeId;
use grapevine_core::store::{MemberRecord, Recovered, RecoveredProgress};
use std::collections::BTreeMap;

use crate::StoreError;
use crate::codec::Reader;
use crate::keys::{self, Table};
use crate::ledger::{Held, Ledger};
use crate::log_files::{FileId, Place};
use crate::page::{Entries, Header};
use crate::txn::Txn;
use crate::versions::{self, Classes};
use crate::{event, intents, log, log_files, roster, vectors};

pub(crate) fn encode_member(member: &MemberRecord) -> Vec<u8> {
    let mut out = member.incarnation.to_bytes().to_vec();
    out.extend_from_slice(member.peer_address.as_bytes());
    out
}

pub(crate) fn decode_member(node_id: NodeId, bytes: &[u8]) -> Result<MemberRecord, StoreError> {
    let mut reader = Reader::new(bytes);
    let incarnation = reader.incarnation()?;
    let peer_address = std::str::from_utf8(reader.rest())
        .map_err(|_| reader.error("a peer address that is not text"))?;
    Ok(MemberRecord {
        node_id,
        incarnation,
        peer_address: peer_address.to_owned(),
    })
}

pub(crate) fn decode_u64(bytes: &[u8]) -> Result<u64, StoreError> {
    let mut reader = Reader::new(bytes);
    let value = reader.u64()?;
    reader.finish()?;
    Ok(value)
}

/// What every commit counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Registrations in the directory, an address once per class.
    pub(crate) registrations: u64,
    /// Commits so far.
    pub(crate) commits: u64,
}

impl Counters {
    /// Two integers of 8 bytes.
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = self.registrations.to_be_bytes().to_vec();
        out.extend_from_slice(&self.commits.to_be_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let mut reader = Reader::new(bytes);
        let counters = Self {
            registrations: reader.u64()?,
            commits: reader.u64()?,
        };
        reader.finish()?;
        Ok(counters)
    }

    pub(crate) fn read(txn: &Txn<'_>) -> Result<Self, StoreError> {
        match txn.get(&keys::counters())? {
            Some(bytes) => Self::decode(&bytes),
            None => Ok(Self::default()),
        }
    }
}

pub(crate) fn ledger(txn: &Txn<'_>) -> Result<Ledger, StoreError> {
    let mut ledger = Ledger::default();
    for entry in txn.scan(Table::Ledger.range()) {
        let (key, value) = entry?;
        let (lane, origin) = keys::parse_lane(&key)?;
        ledger.insert(lane, origin, Held::decode(&value)?);
    }
    Ok(ledger)
}

/// Reads everything that a start needs: not the directory, and of the log only what lies above the watermarks.
pub(crate) fn recover(txn: &Txn<'_>, ledger: &Ledger) -> Result<Recovered, StoreError> {
    let mut recovered = Recovered {
        registrations: Counters::read(txn)?.registrations,
        floors: versions::floors(txn, None, usize::MAX)?,
        progress: progress(txn, ledger)?,
        intents: intents::read(txn)?,
        shapes: shapes(txn)?,
        ..Recovered::default()
    };
    for entry in txn.scan(Table::Incarnations.range()) {
        let incarnation = keys::parse_incarnation(&entry?.0)?;
        recovered.own_incarnations.push(incarnation);
    }
    for entry in txn.scan(Table::Dropped.range()) {
        let (key, value) = entry?;
        let run = keys::parse_incarnation(&key)?;
        recovered.dropped.raise(run, decode_u64(&value)?);
    }
    for entry in txn.scan(Table::Members.range()) {
        let (key, value) = entry?;
        let member = decode_member(keys::parse_member(&key)?, &value)?;
        recovered.members.push(member);
    }
    if let Some(bytes) = txn.get(&keys::roster())? {
        recovered.roster = Some(roster::decode(&bytes)?);
    }
    let mut classes = Classes::of(txn, Table::Classes.range());
    while let Some((_, class)) = classes.advance()? {
        recovered.classes.push(class);
    }
    Ok(recovered)
}

pub(crate) fn shapes(txn: &Txn<'_>) -> Result<Vec<Shape>, StoreError> {
    let keys = txn.scan(Table::Shapes.range());
    keys.map(|entry| Ok(keys::parse_shape(&entry?.0)?))
        .collect()
}

fn progress(txn: &Txn<'_>, ledger: &Ledger) -> Result<Vec<RecoveredProgress>, StoreError> {
    let mut watermarks: BTreeMap<(Incarnation, Lane), u64> = ledger
        .lanes()
        .map(|(lane, origin)| ((origin, lane), 0))
        .collect();
    for entry in txn.scan(Table::Progress.range()) {
        let (key, value) = entry?;
        let (lane, origin) = keys::parse_lane(&key)?;
        watermarks.insert((origin, lane), decode_u64(&value)?);
    }
    watermarks
        .into_iter()
        .map(|((origin, lane), stored)| {
            let above = log::ranges_above(txn, lane, origin, stored)?;
            Ok(extend(origin, lane, stored, above))
        })
        .collect()
}

/// Lets the watermark swallow a range that begins right above it.
pub(crate) fn extend(
    origin: Incarnation,
    lane: Lane,
    stored: u64,
    mut above: Vec<(u64, u64)>,
) -> RecoveredProgress {
    let mut watermark = stored;
    if let Some(&(first, last)) = above.first()
        && first <= stored.saturating_add(1)
    {
        watermark = last;
        above.remove(0);
    }
    RecoveredProgress {
        origin,
        lane,
        watermark,
        above,
    }
}

/// Reads every record, and checks what joins them: a page's addresses lie within its bounds, every page with addresses
/// has its key in the expiry index, which has no other, the counts are true, the log has all parts of every event. What an
/// event's place in a file says need not read back: then peers get a snapshot.
pub(crate) fn verify(txn: &Txn<'_>) -> Result<(), StoreError> {
    let everything = keys::Range {
        start: vec![0],
        end: vec![0xff; 4],
    };
    let mut expiries = 0;
    for entry in txn.scan(everything) {
        let (key, value) = entry?;
        check_record(txn, &key, &value)?;
        expiries += u64::from(Table::of(&key) == Some(Table::Expiries));
    }
    intents::read(txn)?;
    let counted = verify_directory(txn)?;
    let stored = Counters::read(txn)?.registrations;
    if counted.registrations != stored {
        return Err(corrupt(format!(
            "the directory has {} registrations and its counter {stored}",
            counted.registrations
        )));
    }
    // Each of the pages has its own key, so equal numbers leave no key over.
    if counted.pages != expiries {
        return Err(corrupt(format!(
            "the directory has {} pages with addresses and its expiry index {expiries} keys",
            counted.pages
        )));
    }
    verify_log(txn)
}

fn corrupt(what: String) -> StoreError {
    StoreError::Corrupt(what)
}

fn check_record(txn: &Txn<'_>, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
    match Table::of(key) {
        None => return Err(corrupt(format!("a key of no table: {key:02x?}"))),
        Some(Table::Progress) => {
            keys::parse_lane(key)?;
            decode_u64(value)?;
        }
        Some(Table::LogFiles) => {
            keys::parse_log_file(key)?;
        }
        Some(Table::Ledger) => {
            keys::parse_lane(key)?;
            Held::decode(value)?;
        }
        Some(Table::Incarnations) => {
            keys::parse_incarnation(key)?;
        }
        Some(Table::Dropped) => {
            keys::parse_incarnation(key)?;
            decode_u64(value)?;
        }
        Some(Table::Shapes) => {
            keys::parse_shape(key)?;
        }
        Some(Table::Members) => {
            decode_member(keys::parse_member(key)?, value)?;
        }
        Some(Table::Roster) => {
            roster::decode(value)?;
        }
        Some(Table::Intents) => {
            keys::parse_intent(key)?;
        }
        Some(Table::Floors) => {
            keys::parse_floor(key)?;
            vectors::read(txn, key, value)?;
        }
        Some(Table::Classes) => {
            let (sort_key, rest) = keys::split_class(key)?;
            keys::class_of(sort_key)?;
            keys::parse_others(rest)?;
            vectors::read(txn, key, value)?;
        }
        Some(Table::Parts) => vectors::verify_part(txn, key)?,
        Some(Table::Expiries) => {
            keys::class_of(keys::parse_expiry(key)?.1)?;
        }
        Some(Table::Log) => {
            keys::parse_log(key)?;
        }
        Some(Table::Counters) => {
            Counters::decode(value)?;
        }
        Some(Table::Format | Table::Directory) => {}
    }
    Ok(())
}

/// What the directory has, counted.
#[derive(Default)]
struct Counted {
    registrations: u64,
    /// Pages with addresses.
    pages: u64,
}

fn verify_directory(txn: &Txn<'_>) -> Result<Counted, StoreError> {
    let mut counted = Counted::default();
    // The class of the page before, and the highest address in it.
    let mut before: Option<(Vec<u8>, Vec<u8>, bool)> = None;
    for entry in txn.scan(Table::Directory.range()) {
        let (key, page) = entry?;
        let (sort_key, bound) = keys::split_class(&key)?;
        let class = keys::class_of(sort_key)?;
        let header = Header::read(&page)?;
        let (mut highest, is_first) = match before.take() {
            Some((class, highest, last)) if class == sort_key => {
                if last {
                    return Err(corrupt(format!("{class:?} goes on after its last page")));
                }
                (highest, false)
            }
            _ => (Vec::new(), true),
        };
        if is_first != bound.is_empty() {
            return Err(corrupt(format!("{class} has no first page")));
        }
        if !is_first && bound <= highest.as_slice() {
            return Err(corrupt(format!("two pages of {class} overlap")));
        }
        if header.count == 0 && (!is_first || header.last) {
            return Err(corrupt(format!("{class} keeps an empty page")));
        }
        let mut entries = Entries::of(&page)?;
        while entries.advance()?.is_some() {
            let address = entries.address()?;
            if entries.name() < bound || entries.name() <= highest.as_slice() {
                return Err(corrupt(format!("{address} of {class} is out of order")));
            }
            highest = entries.name().to_vec();
            counted.registrations += 1;
        }
        if bound > highest.as_slice() {
            highest = bound.to_vec();
        }
        if let Some(slot) = header.slot() {
            counted.pages += 1;
            if txn.get(&keys::expiry(slot, sort_key, bound))?.is_none() {
                return Err(corrupt(format!(
                    "a page of {class} is missing in expiry slot {slot}"
                )));
            }
        }
        before = Some((sort_key.to_vec(), highest, header.last));
    }
    Ok(counted)
}

fn verify_log(txn: &Txn<'_>) -> Result<(), StoreError> {
    let mut found: BTreeMap<(Lane, Incarnation), Held> = BTreeMap::new();
    let mut files: BTreeMap<FileId, u64> = BTreeMap::new();
    let mut framed = Vec::new();
    let mut whole = 0;
    for entry in txn.scan(Table::Log.range()) {
        let (key, value) = entry?;
        let (lane, origin, sequence, part) = keys::parse_log(&key)?;
        if (part == 0) != (framed.len() >= whole) {
            return Err(corrupt(format!(
                "event {sequence} of {origin} lacks a part"
            )));
        }
        if part == 0 {
            framed.clear();
            whole = log::framed_len(&value)?;
        }
        let place = Place::decode(part, &value)?;
        if let Some(place) = place {
            *files.entry((lane, origin, place.number)).or_default() += 1;
            whole = 0;
        } else {
            framed.extend_from_slice(&value);
        }
        if framed.len() >= whole {
            let length = place.map_or(whole, |place| place.length);
            if place.is_none() {
                let mut reader = Reader::new(&framed);
                reader.varint()?;
                event::decode(reader.rest())?;
            }
            let held = found.entry((lane, origin)).or_default();
            held.bytes += length as u64;
            held.events += 1;
            held.last = sequence;
        }
    }
    let ledger = ledger(txn)?;
    for (lane, origin) in ledger.lanes() {
        let counted = found.remove(&(lane, origin)).unwrap_or_default();
        let stored = ledger.get(lane, origin);
        if (counted.bytes, counted.events) != (stored.bytes, stored.events) {
            return Err(corrupt(format!(
                "the log of {origin} holds {counted:?} and its ledger says {stored:?}"
            )));
        }
    }
    if !found.is_empty() {
        return Err(corrupt("the log holds events beside its ledger".to_owned()));
    }
    if files != log_files::counted(txn)? {
        return Err(corrupt(
            "the log's files hold other events than are counted".to_owned(),
        ));
    }
    Ok(())
}
