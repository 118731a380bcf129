//! The replay's database: values made of the truth, given after the time that a query takes.
//!
//! The time matters: between the moment that a query sees and the moment that its result is stored, writes happen. A source
//! that answers at once would hide a missing fence.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::sequence::Step;
use crate::truth::Truth;
use crate::value::Item;
use crate::workload::list_items;

/// What a query takes after it has seen its data; a timer's tick at least.
const QUERY_TIME: Duration = Duration::from_millis(1);

/// The database. Clones share it.
#[derive(Clone)]
pub(crate) struct Source {
    truth: Arc<Truth>,
}

impl Source {
    pub(crate) fn new(truth: Arc<Truth>) -> Self {
        Self { truth }
    }

    /// The record's single value.
    pub(crate) async fn value(&self, step: Step) -> Bytes {
        let item = self.item(step, 0);
        tokio::time::sleep(QUERY_TIME).await;
        Bytes::copy_from_slice(&item.encode())
    }

    /// At most `limit` items of the record's list after the first `offset`.
    pub(crate) async fn items(&self, step: Step, offset: u64, limit: u32) -> Vec<Bytes> {
        let first = self.item(step, offset);
        tokio::time::sleep(QUERY_TIME).await;
        let item = |place| {
            let item = Item { place, ..first };
            Bytes::copy_from_slice(&item.encode())
        };
        let end = (offset + u64::from(limit)).min(list_items(step.op.record));
        (offset..end).map(item).collect()
    }

    fn item(&self, step: Step, place: u64) -> Item {
        Item {
            record: step.op.record,
            place,
            versions: self.truth.committed(step.subject),
        }
    }
}
