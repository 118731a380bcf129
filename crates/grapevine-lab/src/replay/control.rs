//! The control arms: what people do without Grapevine. The auditor must catch them.
//!
//! They have the same cache, source and clock. `none` never tells the cache of a write. `naive-delete` deletes every address of the
//! written class that was ever about to be filled: its list of them is complete, and is shared by all nodes, so that nothing but the
//! missing fence can make a value stale. `bypass-all` never asks the cache. `ttl-alone` is `none` with the time to live of the run.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use grapevine_cache::Cache;
use grapevine_client::{Session, decode_page, encode_page, page_address};
use parking_lot::Mutex;

use super::access::{Access, Got, Origin, Value, Written};
use super::source::Reading;
use crate::arm::Arm;
use crate::sequence::Step;
use crate::truth::{CounterId, Subject};
use crate::workload::{Action, Slice, Workload};

/// Addresses by object and by group, for all nodes. As many as the run has addresses, twice where there are groups.
#[derive(Default)]
pub(crate) struct Filled {
    addresses: Mutex<HashMap<CounterId, HashSet<String>>>,
}

impl Filled {
    fn add(&self, step: Step, address: &str) {
        let Subject { object, group } = step.subject;
        let mut all = self.addresses.lock();
        for id in [Some(object), group].into_iter().flatten() {
            let addresses = all.entry(id).or_default();
            if !addresses.contains(address) {
                addresses.insert(address.to_owned());
            }
        }
    }

    fn of(&self, id: CounterId) -> Vec<String> {
        let all = self.addresses.lock();
        let addresses = all.get(&id).into_iter().flatten();
        addresses.cloned().collect()
    }
}

/// One node of a control arm.
pub(crate) struct ControlAccess {
    pub(crate) arm: Arm,
    /// How long values live.
    pub(crate) ttl: Duration,
    pub(crate) cache: Arc<dyn Cache>,
    pub(crate) filled: Arc<Filled>,
    pub(crate) workload: Arc<Workload>,
}

impl ControlAccess {
    async fn read_through(
        &self,
        step: Step,
        address: &str,
        fill: impl Future<Output = Bytes>,
    ) -> anyhow::Result<(Bytes, Origin)> {
        if self.arm == Arm::BypassAll {
            return Ok((fill.await, Origin::Bypassed));
        }
        if let Some(found) = self.cache.get(address).await? {
            return Ok((found, Origin::Cache));
        }
        if self.arm == Arm::NaiveDelete {
            self.filled.add(step, address);
        }
        let value = fill.await;
        self.cache.set(address, value.clone(), self.ttl).await?;
        Ok((value, Origin::Filled))
    }

    async fn page(
        &self,
        reading: &Reading,
        index: u64,
        page_items: u32,
    ) -> anyhow::Result<(Bytes, Origin)> {
        let step = reading.step();
        let list = self.workload.address(step.op.record);
        let address = page_address(&list, page_items, index);
        let fill = async {
            let offset = index * u64::from(page_items);
            let items = reading.items(offset, page_items).await;
            encode_page(&items).expect("invariant: a page of small items")
        };
        self.read_through(step, &address, fill).await
    }

    async fn slice(&self, reading: &Reading, slice: Slice) -> anyhow::Result<Got> {
        let Some(pages) = self.workload.config().pages else {
            bail!("a slice is read, and there are no pages")
        };
        let first = slice.offset / u64::from(pages.page_items);
        let skip = usize::try_from(slice.offset % u64::from(pages.page_items))?;
        let limit = usize::try_from(slice.limit)?;
        let (mut items, mut origin) = (Vec::new(), Origin::Cache);
        for index in first.. {
            let (page, from) = self.page(reading, index, pages.page_items).await?;
            if from != Origin::Cache {
                origin = from;
            }
            let mut page = decode_page(&page)?;
            let ends = page.len() < pages.page_items as usize;
            items.append(&mut page);
            if ends || items.len() >= skip + limit {
                break;
            }
        }
        let value = items.into_iter().skip(skip).take(limit).collect();
        Ok(Got {
            value: Value::Items(value),
            origin,
        })
    }
}

impl Access for ControlAccess {
    async fn read(
        &self,
        reading: &Reading,
        slice: Option<Slice>,
        _: &Session,
    ) -> anyhow::Result<Got> {
        if let Some(slice) = slice {
            return self.slice(reading, slice).await;
        }
        let step = reading.step();
        let address = self.workload.address(step.op.record);
        let fill = reading.value();
        let (value, origin) = self.read_through(step, &address, fill).await?;
        Ok(Got {
            value: Value::Single(value),
            origin,
        })
    }

    async fn write(&self, step: Step, _: &Session) -> anyhow::Result<Written> {
        if self.arm != Arm::NaiveDelete {
            return Ok(Written::default());
        }
        let written = match (step.op.action, step.subject.group) {
            (Action::WriteGroup, Some(group)) => group,
            _ => step.subject.object,
        };
        let addresses = self.filled.of(written);
        if addresses.is_empty() {
            return Ok(Written {
                told: true,
                ..Written::default()
            });
        }
        let deleted = self.cache.delete_many(&addresses).await;
        if let Some(cause) = deleted.cause {
            return Err(cause.into());
        }
        Ok(Written {
            told: true,
            purged: deleted.deleted as u64,
            ..Written::default()
        })
    }
}
