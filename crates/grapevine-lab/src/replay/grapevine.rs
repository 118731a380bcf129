//! The strategies: reads and writes through a client of the node's sidecar.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use grapevine_cache::Cache;
use grapevine_client::v1::ReceiptLevel;
use grapevine_client::{CachedClient, Client, How, Session};

use super::ReplayReceipt;
use super::access::{Access, Got, Origin, Value, Written};
use super::source::Reading;
use crate::converge::event_key;
use crate::sequence::Step;
use crate::workload::{Action, Slice, Workload};

/// A look-up that takes longer than the client's 50 ms would count as a bypass; here the machine is loaded on purpose.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);
const COMMIT_DEADLINE: Duration = Duration::from_secs(5);
const INVALIDATE_TIMEOUT: Duration = Duration::from_secs(20);

/// One node's client.
pub(crate) struct GrapevineAccess {
    cached: CachedClient,
    workload: Arc<Workload>,
    receipt: ReceiptLevel,
}

impl GrapevineAccess {
    /// A client of the sidecar at `endpoint` with a cache, and with a local table of so many entries if there is to be one.
    pub(crate) fn new(
        endpoint: String,
        cache: Arc<dyn Cache>,
        workload: Arc<Workload>,
        receipt: ReplayReceipt,
        local_table: Option<usize>,
    ) -> anyhow::Result<Self> {
        let builder = Client::builder(endpoint)
            .resolve_deadline(RESOLVE_DEADLINE)
            .commit_deadline(COMMIT_DEADLINE)
            .invalidate_timeout(INVALIDATE_TIMEOUT);
        let builder = match local_table {
            Some(entries) => builder.local_table(entries),
            None => builder,
        };
        let client = builder.build()?;
        let receipt = match receipt {
            ReplayReceipt::All => ReceiptLevel::All,
            ReplayReceipt::One => ReceiptLevel::One,
            ReplayReceipt::None => ReceiptLevel::None,
        };
        Ok(Self {
            cached: CachedClient::new(client, cache),
            workload,
            receipt,
        })
    }

    /// The client.
    pub(crate) fn cached(&self) -> &CachedClient {
        &self.cached
    }

    fn origin(how: How) -> Origin {
        match how {
            How::Hit | How::Stale | How::Waited => Origin::Cache,
            How::Filled => Origin::Filled,
            How::Bypassed(_) => Origin::Bypassed,
        }
    }
}

impl Access for GrapevineAccess {
    async fn read(
        &self,
        reading: &Reading,
        slice: Option<Slice>,
        session: &Session,
    ) -> anyhow::Result<Got> {
        let with_session;
        let cached = if session.is_empty() {
            &self.cached
        } else {
            with_session = self.cached.session(session);
            &with_session
        };
        let record = reading.step().op.record;
        let address = self.workload.address(record);
        let classes = [self.workload.class(record)];
        let Some(Slice { offset, limit }) = slice else {
            let fill = async |_| Ok::<_, Infallible>(reading.value().await);
            let outcome = cached.get_or_fill(&address, &classes, None, fill).await?;
            return Ok(Got {
                value: Value::Single(outcome.value),
                origin: Self::origin(outcome.how),
            });
        };
        let fill = |page: grapevine_client::PageFill| async move {
            Ok::<_, Infallible>(reading.items(page.offset, page.limit).await)
        };
        let outcome = cached
            .get_or_fill_page(&address, &classes, offset, limit, None, fill)
            .await?;
        Ok(Got {
            value: Value::Items(outcome.items),
            origin: Self::origin(outcome.how),
        })
    }

    async fn write(&self, step: Step, session: &Session) -> anyhow::Result<Written> {
        let record = step.op.record;
        let class = match step.op.action {
            Action::WriteGroup => self
                .workload
                .group_class(record)
                .context("a group is written, and there are no groups")?,
            _ => self.workload.class(record),
        };
        let outcome = self
            .cached
            .client()
            .invalidate([class])
            .receipt(self.receipt)
            .session(session)
            .await?;
        if !outcome.receipt.satisfied {
            bail!("the receipt was not satisfied: {:?}", outcome.receipt);
        }
        Ok(Written {
            told: true,
            purged: outcome.addresses_purged,
            event: event_key(&outcome.event.incarnation, outcome.event.sequence),
            session_token: Some(outcome.session_token),
        })
    }
}
