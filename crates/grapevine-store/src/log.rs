//! The log inside one commit, and reading it.
//!
//! An event's bytes, behind a varint that says how many they are, are cut into parts of at most
//! [`PART_BYTES_MAX`], each under (lane, origin, sequence, part). The cut is for the engine's sake: it rewrites up to
//! 16 neighbouring values at once, and puts what is larger than 128 KB into files of its own, which leak.
//! A large event has its place in a file of ours there instead (see [`crate::log_files`]).

use std::collections::{BTreeMap, BTreeSet};

use grapevine_core::event::Event;
use grapevine_core::id::{Incarnation, Lane};

use crate::codec::{Reader, put_count};
use crate::keys;
use crate::ledger::{Held, Ledger};
use crate::log_files::{LogDirectory, LogFiles, Place};
use crate::txn::Txn;
use crate::{LogRead, StoreError, event, recover};

/// The most bytes of an event under one key.
pub(crate) const PART_BYTES_MAX: usize = 4096;

/// An event's bytes behind their length: what is cut into parts.
pub(crate) fn framed(event: &Event) -> Vec<u8> {
    let encoded = event::encode(event);
    let mut framed = Vec::with_capacity(encoded.len() + 4);
    put_count(&mut framed, encoded.len());
    framed.extend_from_slice(&encoded);
    framed
}

/// The log while a commit changes it.
pub(crate) struct LogWriter<'a> {
    ledger: &'a mut Ledger,
    files: &'a mut LogFiles,
    touched: BTreeSet<(Lane, Incarnation)>,
}

impl<'a> LogWriter<'a> {
    pub(crate) fn new(ledger: &'a mut Ledger, files: &'a mut LogFiles) -> Self {
        Self {
            ledger,
            files,
            touched: BTreeSet::new(),
        }
    }

    pub(crate) fn append(
        &mut self,
        txn: &mut Txn<'_>,
        origin: Incarnation,
        sequence: u64,
        event: &Event,
    ) -> Result<(), StoreError> {
        let lane = event.lane();
        let held = self.ledger.get(lane, origin);
        if sequence <= held.last && txn.get(&keys::log(lane, origin, sequence, 0))?.is_some() {
            return Ok(());
        }
        let framed = framed(event);
        if let Some(place) = self.files.append(lane, origin, &framed) {
            txn.put(keys::log(lane, origin, sequence, 0), place.encode());
        } else {
            for (part, bytes) in framed.chunks(PART_BYTES_MAX).enumerate() {
                let part = u16::try_from(part).map_err(|_| {
                    StoreError::Corrupt(format!("an event of {} bytes", framed.len()))
                })?;
                txn.put(keys::log(lane, origin, sequence, part), bytes);
            }
        }
        self.ledger.add(lane, origin, sequence, framed.len() as u64);
        self.touched.insert((lane, origin));
        Ok(())
    }

    /// Drops all that is logged of an origin, and what the ledger says of it: at most what the log may hold in all.
    pub(crate) fn forget(
        &mut self,
        txn: &mut Txn<'_>,
        origin: Incarnation,
    ) -> Result<(), StoreError> {
        for lane in Lane::ALL {
            let logged = txn.scan(keys::log_from(lane, origin, 0));
            let logged: Vec<_> = logged
                .map(|entry| {
                    let (key, value) = entry?;
                    let (_, _, _, part) = keys::parse_log(&key)?;
                    Ok((key.to_vec(), Place::decode(part, &value)?))
                })
                .collect::<Result<_, StoreError>>()?;
            for (key, place) in logged {
                txn.remove(key);
                if let Some(place) = place {
                    self.files.forget(lane, origin, place);
                }
            }
            self.files.end(lane, origin);
            self.ledger.forget(lane, origin);
            self.touched.remove(&(lane, origin));
            txn.remove(keys::ledger(lane, origin));
        }
        Ok(())
    }

    /// Drops what is too much, and writes down what is held.
    pub(crate) fn finish(mut self, txn: &mut Txn<'_>, bytes_max: u64) -> Result<(), StoreError> {
        // From where each origin's oldest event is looked for: what was dropped on the way is skipped one by one.
        let mut oldest: BTreeMap<(Lane, Incarnation), u64> = BTreeMap::new();
        for lane in Lane::ALL {
            while let Some(origin) = self.ledger.overfull(lane, bytes_max) {
                let from = oldest.entry((lane, origin)).or_default();
                *from = self
                    .drop_oldest(txn, lane, origin, *from)?
                    .saturating_add(1);
            }
        }
        for (lane, origin) in self.touched {
            let held = self.ledger.get(lane, origin);
            txn.put(keys::ledger(lane, origin), held.encode());
        }
        self.files.write(txn).map_err(StoreError::of_disk)
    }

    /// Drops the first event from a sequence on. Tells which one it was.
    fn drop_oldest(
        &mut self,
        txn: &mut Txn<'_>,
        lane: Lane,
        origin: Incarnation,
        from: u64,
    ) -> Result<u64, StoreError> {
        let Some((key, first)) = txn.first(keys::log_from(lane, origin, from))? else {
            return Err(StoreError::Corrupt(format!(
                "the log lacks events of {origin} that its ledger counts"
            )));
        };
        let (_, _, sequence, _) = keys::parse_log(&key)?;
        let bytes = framed_len(&first)?;
        let place = Place::decode(0, &first)?;
        let parts = place.map_or(bytes.div_ceil(PART_BYTES_MAX), |_| 1);
        for part in 0..parts {
            let part = u16::try_from(part)
                .map_err(|_| StoreError::Corrupt(format!("a logged event of {bytes} bytes")))?;
            txn.remove(keys::log(lane, origin, sequence, part));
        }
        if let Some(place) = place {
            self.files.forget(lane, origin, place);
        }
        self.ledger.remove(lane, origin, sequence, bytes as u64);
        self.touched.insert((lane, origin));
        Ok(sequence)
    }
}

/// How many bytes an event's parts have together, by the first of them, or by the event's place.
pub(crate) fn framed_len(first: &[u8]) -> Result<usize, StoreError> {
    if let Some(place) = Place::decode(0, first)? {
        return Ok(place.length);
    }
    let mut reader = Reader::new(first);
    let encoded = usize::try_from(reader.varint()?)
        .map_err(|_| StoreError::Corrupt("a logged event beyond memory".to_owned()))?;
    Ok(first.len() - reader.rest().len() + encoded)
}

/// Reads events, consecutive from `first` on, up to `last` or until they have `bytes_max` bytes; but at least one.
/// Without any, tells whether the first one was here: what was dropped, and what is applied and not logged (it came with
/// a snapshot), is compacted, as is what does not read back from its file; all else was never here.
pub(crate) fn read(
    txn: &Txn<'_>,
    files: &LogDirectory,
    origin: Incarnation,
    lane: Lane,
    first: u64,
    last: u64,
    bytes_max: usize,
) -> Result<LogRead, StoreError> {
    if first > last {
        return Ok(LogRead::Events(Vec::new()));
    }
    let mut events = Vec::new();
    let mut bytes = 0;
    let mut framed: Vec<u8> = Vec::new();
    let mut whole = 0;
    let mut expected = first;
    for entry in txn.scan(keys::log_from(lane, origin, first)) {
        let (key, value) = entry?;
        let (_, _, sequence, part) = keys::parse_log(&key)?;
        if sequence != expected || sequence > last {
            break;
        }
        if part == 0 {
            whole = framed_len(&value)?;
            if !events.is_empty() && bytes + whole > bytes_max {
                break;
            }
            framed.clear();
        }
        match Place::decode(part, &value)? {
            None => framed.extend_from_slice(&value),
            Some(place) => match files.read(lane, origin, place) {
                Some(bytes) => framed = bytes,
                None if events.is_empty() => return Ok(LogRead::Compacted),
                None => break,
            },
        }
        if framed.len() >= whole {
            let mut reader = Reader::new(&framed);
            reader.varint()?;
            events.push((sequence, event::decode(reader.rest())?));
            bytes += whole;
            let Some(next) = expected.checked_add(1) else {
                break;
            };
            expected = next;
        }
    }
    if events.is_empty() && first <= was_here(txn, origin, lane)? {
        return Ok(LogRead::Compacted);
    }
    Ok(LogRead::Events(events))
}

/// Up to where events that are not in the log were in it, or are applied without it.
fn was_here(txn: &Txn<'_>, origin: Incarnation, lane: Lane) -> Result<u64, StoreError> {
    let dropped = match txn.get(&keys::ledger(lane, origin))? {
        Some(bytes) => Held::decode(&bytes)?.dropped,
        None => 0,
    };
    let applied = match txn.get(&keys::progress(lane, origin))? {
        Some(bytes) => recover::decode_u64(&bytes)?,
        None => 0,
    };
    Ok(dropped.max(applied))
}

/// The sequences held above a watermark, as ranges (first, last), ascending and apart.
pub(crate) fn ranges_above(
    txn: &Txn<'_>,
    lane: Lane,
    origin: Incarnation,
    watermark: u64,
) -> Result<Vec<(u64, u64)>, StoreError> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    let Some(start) = watermark.checked_add(1) else {
        return Ok(ranges);
    };
    for entry in txn.scan(keys::log_from(lane, origin, start)) {
        let (_, _, sequence, _) = keys::parse_log(&entry?.0)?;
        match ranges.last_mut() {
            Some((_, last)) if sequence <= last.saturating_add(1) => *last = sequence,
            _ => ranges.push((sequence, sequence)),
        }
    }
    Ok(ranges)
}
