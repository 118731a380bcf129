//! One node's way to the data: what the replay's workers call, whatever stands behind it.

use bytes::Bytes;
use grapevine_client::Session;

use super::source::Reading;
use crate::converge::EventKey;
use crate::sequence::Step;
use crate::workload::Slice;

/// Reads and writes of one node.
pub(crate) trait Access: Send + Sync + 'static {
    /// Reads what a read step asks for; must show what the session has written. An error is a read without a value.
    fn read(
        &self,
        reading: &Reading,
        slice: Option<Slice>,
        session: &Session,
    ) -> impl Future<Output = anyhow::Result<Got>> + Send;

    /// Tells of a write that the source has committed.
    fn write(
        &self,
        step: Step,
        session: &Session,
    ) -> impl Future<Output = anyhow::Result<Written>> + Send;
}

/// What a read came to.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

/// A single value or a slice of a list.
#[derive(Debug)]
pub(crate) enum Value {
    Single(Bytes),
    Items(Vec<Bytes>),
}

/// Where a value came from, as the access itself says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The cache, or another reader's fill: no read of the source was made for it.
    Cache,
    /// The source.
    Filled,
    /// The source, the cache being left alone.
    Bypassed,
}

/// What telling of a write came to.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// The cache or a sidecar was told.
    pub(crate) told: bool,
    /// Addresses deleted.
    pub(crate) purged: u64,
    /// The event that came of it.
    pub(crate) event: Option<EventKey>,
    /// What later reads must carry to see it anywhere.
    pub(crate) session_token: Option<Bytes>,
}
