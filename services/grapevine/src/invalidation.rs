//! What an invalidation can be told beside its classes, in the words of the command line and of a feed's lines.

use clap::ValueEnum;
use grapevine_client::{Client, Invalidate, v1};
use serde::Deserialize;

/// Which addresses the classes mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Matching {
    /// Those of at least one of the classes
    Any,
    /// Those of every one of them
    All,
}

/// Who must have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Receipt {
    /// The sidecar that is asked
    None,
    /// That one and one more
    One,
    /// A majority of the members
    Quorum,
    /// Every member has it, or can no longer call itself fresh
    All,
}

/// What happens to known addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Purge {
    /// Deleted
    Hard,
    /// Marked stale where the cache can, else deleted
    Soft,
}

/// How classes are invalidated; lines of a feed with the same one share calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct How {
    pub(crate) matching: Matching,
    pub(crate) receipt: Receipt,
    pub(crate) purge: Purge,
}

impl How {
    /// The call, not yet sent.
    pub(crate) fn call(self, client: &Client, classes: Vec<String>) -> Invalidate {
        self.shape(client.invalidate(classes))
    }

    /// The same for a call made otherwise.
    pub(crate) fn shape(self, call: Invalidate) -> Invalidate {
        let mut call = call.receipt(match self.receipt {
            Receipt::None => v1::ReceiptLevel::None,
            Receipt::One => v1::ReceiptLevel::One,
            Receipt::Quorum => v1::ReceiptLevel::Quorum,
            Receipt::All => v1::ReceiptLevel::All,
        });
        if self.matching == Matching::All {
            call = call.match_all();
        }
        if self.purge == Purge::Soft {
            call = call.soft();
        }
        call
    }
}
