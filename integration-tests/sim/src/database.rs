//! The database, as the truth: which writes were committed, in which order.
//!
//! A write changes everything that its classes cover, so a value needs no content: it is the number of writes that were
//! visible when it was read, its *index*. A value of an address is out of date for a write if its index is lower than
//! the write's and the write covers the address.
//!
//! Reads are at read-committed isolation (they see what is committed when the statement begins), inside a snapshot (they
//! see what was committed when the transaction began), or of a replica that lags.

use crate::clock::Micros;
use crate::shop::{ADDRESSES_MAX, Mask};

/// A committed write, numbered from 1.
#[derive(Clone, Copy, Debug)]
struct Committed {
    at: Micros,
}

/// The primary, and a replica that follows it.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    writes: Vec<Committed>,
    /// By address: the last write that covers it.
    last: [u64; ADDRESSES_MAX],
}

impl Database {
    /// Nothing written.
    pub(crate) fn new() -> Self {
        Self {
            writes: Vec::new(),
            last: [0; ADDRESSES_MAX],
        }
    }

    /// Commits a write that covers these addresses; its index.
    pub(crate) fn commit(&mut self, now: Micros, covers: Mask) -> u64 {
        self.writes.push(Committed { at: now });
        let index = self.index();
        for address in covers.iter() {
            self.last[address] = index;
        }
        index
    }

    /// What a read that begins now at the primary sees.
    pub(crate) fn index(&self) -> u64 {
        self.writes.len() as u64
    }

    /// What a replica that lags this much shows now.
    pub(crate) fn lagging(&self, now: Micros, lag: Micros) -> u64 {
        let seen = now.saturating_sub(lag);
        self.writes.partition_point(|write| write.at <= seen) as u64
    }

    /// The last write that covers an address.
    pub(crate) fn last(&self, address: usize) -> u64 {
        self.last[address]
    }
}
