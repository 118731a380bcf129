//! A sidecar's part in the roster: one record.
//!
//! The present view, then one byte of flags (1: a ballot was promised, 2: a view was accepted, 4: it began without a
//! record, 8: it left a history, 16: its view is from others), then for the first two a ballot each, the accepted one followed by its view, and for the
//! last the history and the `u64` number of the view that it had there. A *ballot* is its `u64` round and the run that
//! proposed. A *view* is its `u64` number, a flag byte (1: it has a history, 2: a seat was spared) and with 1 the history,
//! the `u64` number of the view that bumped everything last, a vector of closed logs, what is retired, and a varint count of
//! seats: the length of the node id in one byte, the node id, the run. What is retired is the `u64` number of the last view
//! whose retirements are forgotten, and a varint count of runs, each with its `u64` head and the `u64` number of the view.

use std::collections::BTreeMap;

use grapevine_core::names::NodeId;
use grapevine_core::roster::{Ballot, Mark, Record, Retired, View};
use grapevine_core::vector::VersionVector;

use crate::StoreError;
use crate::codec::{DecodeError, Reader, put_varint, put_vector};

const PROMISED: u8 = 1;
const ACCEPTED: u8 = 2;
const BLANK: u8 = 4;
const LEFT: u8 = 8;
const LENT: u8 = 16;

const HISTORY: u8 = 1;
const SPARED: u8 = 2;

pub(crate) fn encode(record: &Record) -> Vec<u8> {
    let mut out = Vec::new();
    put_view(&mut out, &record.view);
    let mut flags = 0;
    flags |= if record.promised.is_some() {
        PROMISED
    } else {
        0
    };
    flags |= if record.accepted.is_some() {
        ACCEPTED
    } else {
        0
    };
    flags |= if record.blank { BLANK } else { 0 };
    flags |= if record.lent { LENT } else { 0 };
    flags |= record.left.history.map_or(0, |_| LEFT);
    out.push(flags);
    if let Some(ballot) = record.promised {
        put_ballot(&mut out, ballot);
    }
    if let Some((ballot, view)) = &record.accepted {
        put_ballot(&mut out, *ballot);
        put_view(&mut out, view);
    }
    if let Some(history) = record.left.history {
        out.extend_from_slice(&history.to_bytes());
        out.extend_from_slice(&record.left.number.to_be_bytes());
    }
    out
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Record, StoreError> {
    let mut reader = Reader::new(bytes);
    let view = view(&mut reader)?;
    let flags = reader.u8()?;
    let promised = (flags & PROMISED != 0).then(|| ballot(&mut reader));
    let promised = promised.transpose()?;
    let accepted = if flags & ACCEPTED == 0 {
        None
    } else {
        Some((ballot(&mut reader)?, self::view(&mut reader)?))
    };
    let left = if flags & LEFT == 0 {
        Mark::default()
    } else {
        Mark {
            history: Some(reader.incarnation()?),
            number: reader.u64()?,
        }
    };
    reader.finish()?;
    Ok(Record {
        view,
        promised,
        accepted,
        blank: flags & BLANK != 0,
        lent: flags & LENT != 0,
        left,
    })
}

fn put_ballot(out: &mut Vec<u8>, ballot: Ballot) {
    out.extend_from_slice(&ballot.round.to_be_bytes());
    out.extend_from_slice(&ballot.by.to_bytes());
}

fn ballot(reader: &mut Reader<'_>) -> Result<Ballot, DecodeError> {
    Ok(Ballot {
        round: reader.u64()?,
        by: reader.incarnation()?,
    })
}

fn put_view(out: &mut Vec<u8>, view: &View) {
    out.extend_from_slice(&view.number.to_be_bytes());
    out.push(u8::from(view.history.is_some()) * HISTORY + u8::from(view.spared) * SPARED);
    if let Some(history) = view.history {
        out.extend_from_slice(&history.to_bytes());
    }
    out.extend_from_slice(&view.everything.to_be_bytes());
    let closed: VersionVector = view
        .closed
        .iter()
        .map(|(run, last)| (*run, *last))
        .collect();
    put_vector(out, &closed);
    out.extend_from_slice(&view.retired.forgotten().to_be_bytes());
    put_varint(out, view.retired.len() as u64);
    for (run, head, number) in view.retired.iter() {
        out.extend_from_slice(&run.to_bytes());
        out.extend_from_slice(&head.to_be_bytes());
        out.extend_from_slice(&number.to_be_bytes());
    }
    put_varint(out, view.seats.len() as u64);
    for (node, run) in &view.seats {
        let name = node.as_str().as_bytes();
        let length = u8::try_from(name.len()).expect("invariant: a node id has at most 64 bytes");
        out.push(length);
        out.extend_from_slice(name);
        out.extend_from_slice(&run.to_bytes());
    }
}

fn view(reader: &mut Reader<'_>) -> Result<View, DecodeError> {
    let number = reader.u64()?;
    let flags = reader.u8()?;
    let history = (flags & HISTORY != 0).then(|| reader.incarnation());
    let history = history.transpose()?;
    let everything = reader.u64()?;
    let closed = reader.vector()?;
    let forgotten = reader.u64()?;
    let mut retired = Vec::new();
    for _ in 0..reader.count()? {
        retired.push((reader.incarnation()?, reader.u64()?, reader.u64()?));
    }
    let mut seats = BTreeMap::new();
    for _ in 0..reader.count()? {
        let length = reader.u8()?;
        let name = reader.take(length.into())?;
        let name = std::str::from_utf8(name).ok();
        let node = name.and_then(|name| NodeId::parse(name).ok());
        let node = node.ok_or_else(|| reader.error("a node id that is none"))?;
        seats.insert(node, reader.incarnation()?);
    }
    Ok(View {
        number,
        history,
        everything,
        spared: flags & SPARED != 0,
        closed: closed.iter().collect(),
        retired: Retired::new(retired, forgotten),
        seats,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use grapevine_core::id::Incarnation;

    use super::*;

    fn run(number: u128) -> Incarnation {
        Incarnation::new(number).unwrap()
    }

    fn view_of(number: u64) -> View {
        let seat = |name: &str, held_by| (NodeId::parse(name).unwrap(), run(held_by));
        View {
            number,
            history: Some(run(1).as_history()),
            everything: number / 2,
            spared: number % 2 == 1,
            closed: BTreeMap::from([(run(9), 12), (run(10), 1 << 40)]),
            retired: Retired::new([(run(7), 0, 3), (run(7), 1 << 41, number)], 2),
            seats: BTreeMap::from([seat("a", 1), seat("grapevine-2", 1 << 90)]),
        }
    }

    #[test]
    fn records_read_back() {
        let ballot = Ballot {
            round: 7,
            by: run(3),
        };
        let records = [
            Record::default(),
            Record {
                blank: true,
                promised: Some(ballot),
                ..Record::default()
            },
            Record {
                view: view_of(5),
                promised: Some(ballot),
                accepted: Some((ballot, view_of(6))),
                blank: false,
                lent: false,
                left: Mark::default(),
            },
            Record {
                view: view_of(1),
                lent: true,
                left: view_of(9).mark(),
                ..Record::default()
            },
        ];
        for record in records {
            let bytes = encode(&record);
            assert_eq!(decode(&bytes).unwrap(), record);
            for end in 0..bytes.len() {
                assert!(decode(&bytes[..end]).is_err(), "{end} of {}", bytes.len());
            }
        }
    }
}
