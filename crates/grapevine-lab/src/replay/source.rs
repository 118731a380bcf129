//! The replay's database: values made of the truth, given after the time that a query takes.
//!
//! The time matters: between the moment that a query sees and the moment that its result is stored, writes happen. A source
//! that answers at once would hide a missing fence.
//!
//! Every read asks through a [`Reading`] of its own, which notes what was asked for it. So whether a read was a hit is told
//! by the source, and not by the client that is being judged: a hit is a read for which nothing was asked. The source counts all
//! queries by itself, too: one that was made for no read, to make others look like hits, is noticed in the sum.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::ledger::{Address, Ledger};
use crate::sequence::Step;
use crate::truth::{Moment, Truth, Versions};
use crate::value::{Item, Place};
use crate::workload::list_items;

/// What a query takes after it has seen its data; a timer's tick at least.
const QUERY_TIME: Duration = Duration::from_millis(1);

/// The database. Clones share it.
#[derive(Clone)]
pub(crate) struct Source {
    truth: Arc<Truth>,
    ledger: Arc<Ledger>,
    queries: Arc<AtomicU64>,
}

/// One read's way to the source.
pub(crate) struct Reading {
    step: Step,
    begun: Moment,
    source: Source,
    asked: Mutex<Vec<Asked>>,
}

/// A query that was made for a read.
struct Asked {
    address: Address,
    versions: Versions,
    /// The cache was filled with the same before the read began.
    could_be_had: bool,
}

impl Source {
    pub(crate) fn new(truth: Arc<Truth>) -> Self {
        Self {
            truth,
            ledger: Arc::default(),
            queries: Arc::default(),
        }
    }

    /// Queries so far.
    pub(crate) fn queries(&self) -> u64 {
        self.queries.load(Ordering::Relaxed)
    }

    /// A read that has begun at this moment, or before.
    pub(crate) fn reading(&self, step: Step, begun: Moment) -> Reading {
        Reading {
            step,
            begun,
            source: self.clone(),
            asked: Mutex::default(),
        }
    }
}

impl Reading {
    /// What is read.
    pub(crate) fn step(&self) -> Step {
        self.step
    }

    /// Asks for the record's single value.
    pub(crate) async fn value(&self) -> Bytes {
        let versions = self.query(0);
        tokio::time::sleep(QUERY_TIME).await;
        self.item(Place::At(0), versions)
    }

    /// Asks for at most `limit` items of the record's list after the first `offset`; see [`crate::value`] for the list's end.
    pub(crate) async fn items(&self, offset: u64, limit: u32) -> Vec<Bytes> {
        let versions = self.query(offset / u64::from(limit.max(1)));
        tokio::time::sleep(QUERY_TIME).await;
        let end = list_items(self.step.op.record, versions.object);
        let wanted = offset + u64::from(limit);
        let mut items: Vec<Bytes> = (offset..end.min(wanted))
            .map(|place| self.item(Place::At(place), versions))
            .collect();
        let short_of = usize::try_from(limit).expect("invariant: 32 bits fit") - 1;
        if items.len() < short_of {
            items.resize(short_of, self.item(Place::End(end), versions));
        }
        items
    }

    /// Sees the data: what is committed at this moment.
    fn query(&self, page: u64) -> Versions {
        let Source {
            truth,
            ledger,
            queries,
        } = &self.source;
        queries.fetch_add(1, Ordering::Relaxed);
        let versions = truth.committed(self.step.subject);
        let address = Address(self.step.op.record, page);
        self.asked.lock().push(Asked {
            address,
            versions,
            could_be_had: ledger.had(address, versions, self.begun),
        });
        versions
    }

    fn item(&self, place: Place, versions: Versions) -> Bytes {
        let item = Item {
            record: self.step.op.record,
            place,
            versions,
        };
        Bytes::copy_from_slice(&item.encode())
    }

    /// Queries that were made for it.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.lock().len() as u64
    }

    /// Whether something was asked that the cache had been filled with, and that was still current.
    pub(crate) fn asked_for_what_could_be_had(&self) -> bool {
        self.asked.lock().iter().any(|asked| asked.could_be_had)
    }

    /// Notes that it has ended, and left in the cache what it had asked for.
    pub(crate) fn filled(&self, ended: Moment) {
        for asked in &*self.asked.lock() {
            self.source
                .ledger
                .filled(asked.address, asked.versions, ended);
        }
    }
}
