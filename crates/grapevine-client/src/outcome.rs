//! What a cached read came to.

use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use crate::error::{CallError, InvalidRequest, ResolveError};

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum How {
    /// From the cache.
    Hit,
    /// From the cache, after a soft invalidation replaced it: it is being computed anew.
    Stale,
    /// From this caller's fill function.
    Filled,
    /// From the fill function of another caller that missed at the same moment.
    Waited,
    /// From this caller's fill function; nothing was stored.
    Bypassed(BypassReason),
}

/// Why a read went to the source and left the cache alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BypassReason {
    /// The sidecar cannot show that it is fresh, and the policy says to bypass then.
    Policy,
    /// The sidecar could not be reached, or the connection broke.
    Unreachable,
    /// The sidecar did not answer in time.
    Deadline,
    /// Too many look-ups wait already, here or there.
    Overloaded,
    /// The sidecar has not applied what the session has seen.
    Session,
    /// The read's database snapshot does not show what is current, or the sidecar does not know it; the cache was asked, and
    /// had nothing.
    Snapshot,
    /// The sidecar refused, or answered against the contract.
    Refused,
    /// The answer of a [cached query](crate::CachedClient::cached_query)'s statement cannot be cached, or the sidecar does not
    /// understand it.
    NotCacheable,
}

/// A value and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetOutcome {
    /// The value.
    pub value: Bytes,
    /// Where it came from.
    pub how: How,
    /// This call stored it.
    pub stored: bool,
    /// The token of the classes that the value carries; `None` when the read bypassed.
    pub token: Option<u64>,
}

/// A slice of a list and where its pages came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageOutcome {
    /// The items, as many as were asked for or up to the end of the list.
    pub items: Vec<Bytes>,
    /// The dearest origin of a page: bypassed, else filled, else waited, else hit.
    pub how: How,
    /// Pages read.
    pub pages: u32,
    /// Of them from the cache.
    pub hits: u32,
    /// Of them stored by this call.
    pub stored: u32,
}

/// Why a cached read gave no value. A sidecar or a cache in trouble is not among the reasons: the read goes to the source.
#[derive(Debug, Error)]
pub enum GetError<E> {
    /// The address, a class, the slice or the TTL is malformed, or the address too long for its policy. Nothing was read.
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// The fill function failed: this caller's, or the one whose result it waited for.
    #[error("the fill function failed: {0}")]
    Fill(Arc<E>),
}

impl GetOutcome {
    /// Whether a soft invalidation has replaced the value; only [`CachedClient::get_or_refresh`] gives such a one.
    ///
    /// [`CachedClient::get_or_refresh`]: crate::CachedClient::get_or_refresh
    pub fn is_stale(&self) -> bool {
        self.how == How::Stale
    }
}

impl<E> Clone for GetError<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Invalid(invalid) => Self::Invalid(invalid.clone()),
            Self::Fill(error) => Self::Fill(Arc::clone(error)),
        }
    }
}

impl How {
    /// The dearer of two, for slices.
    pub(crate) fn or_dearer(self, other: Self) -> Self {
        let price = |how: &Self| match how {
            Self::Hit => 0,
            Self::Stale => 1,
            Self::Waited => 2,
            Self::Filled => 3,
            Self::Bypassed(_) => 4,
        };
        if price(&other) > price(&self) {
            other
        } else {
            self
        }
    }
}

impl BypassReason {
    /// What a failed look-up means for the read; a malformed one is its caller's error.
    pub(crate) fn of(error: ResolveError) -> Result<Self, InvalidRequest> {
        Ok(match error {
            ResolveError::Invalid(invalid) | ResolveError::Call(CallError::Invalid(invalid)) => {
                return Err(invalid);
            }
            ResolveError::QueueFull { .. } | ResolveError::Call(CallError::Overloaded { .. }) => {
                Self::Overloaded
            }
            ResolveError::SessionBehind { .. }
            | ResolveError::Call(CallError::SessionBehind { .. }) => Self::Session,
            ResolveError::Call(CallError::Unreachable { .. } | CallError::Broken { .. }) => {
                Self::Unreachable
            }
            ResolveError::Call(CallError::Deadline { .. } | CallError::GaveUp { .. }) => {
                Self::Deadline
            }
            ResolveError::Call(CallError::Refused { .. } | CallError::BadAnswer { .. }) => {
                Self::Refused
            }
        })
    }
}
