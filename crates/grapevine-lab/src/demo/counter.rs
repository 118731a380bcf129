//! The shop's counter on one node: what an application does with Grapevine. It reads slices of carts through the cache and adds
//! items to carts.
//!
//! A cached slice is text: the cart's version in the first line, then a line per product. A page's item is its line with
//! the version in front, because items of pages are cached together and not the slice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use grapevine_client::v1::ReceiptLevel;
use grapevine_client::{CachedClient, How, InvalidateOutcome, PageFill};

use super::scenario::Scenario;
use crate::shop::{CartSlice, Shop, ShopError};

/// One node's counter.
#[derive(Clone)]
pub(crate) struct Counter {
    pub(crate) cached: CachedClient,
    pub(crate) shop: Shop,
}

/// A slice of a cart, as a customer sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The oldest version of the cart that it shows; nothing if it shows no item.
    pub(crate) version: Option<u64>,
    pub(crate) how: How,
}

/// An item was added, and everyone told.
#[derive(Debug, Clone)]
pub(crate) struct Added {
    /// When the invalidation was called.
    pub(crate) called: Instant,
    /// How long the call took.
    pub(crate) took: Duration,
    pub(crate) outcome: InvalidateOutcome,
}

impl Counter {
    /// Reads `limit` items of a cart after the first `offset`.
    pub(crate) async fn read(
        &self,
        scenario: &Scenario,
        cart: u32,
        offset: u64,
        limit: u32,
    ) -> anyhow::Result<Seen> {
        let address = scenario.address(cart, offset, limit);
        let classes = [scenario.class(cart)];
        let shop = &self.shop;
        if scenario.paged {
            let fill = |page: PageFill| async move {
                let slice = shop.items(cart, page.offset, page.limit).await?;
                Ok::<_, ShopError>(page_items(&slice))
            };
            let outcome = self
                .cached
                .get_or_fill_page(&address, &classes, offset, limit, None, fill)
                .await?;
            let versions = outcome.items.iter().map(|item| version_of(item, '\t'));
            let versions = versions.collect::<anyhow::Result<Vec<u64>>>()?;
            return Ok(Seen {
                version: versions.into_iter().min(),
                how: outcome.how,
            });
        }
        let fill = |_| async {
            let slice = shop.items(cart, offset, limit).await?;
            Ok::<_, ShopError>(slice_text(&slice))
        };
        let outcome = self
            .cached
            .get_or_fill(&address, &classes, None, fill)
            .await?;
        Ok(Seen {
            version: Some(version_of(&outcome.value, '\n')?),
            how: outcome.how,
        })
    }

    /// Tells every sidecar that a cart changed.
    pub(crate) async fn invalidate(&self, scenario: &Scenario, cart: u32) -> anyhow::Result<Added> {
        let called = Instant::now();
        let outcome = self
            .cached
            .client()
            .invalidate([scenario.class(cart)])
            .receipt(ReceiptLevel::All)
            .await?;
        anyhow::ensure!(
            outcome.receipt.satisfied,
            "not every sidecar knew in time: {:?}",
            outcome.receipt
        );
        Ok(Added {
            called,
            took: called.elapsed(),
            outcome,
        })
    }
}

/// Counters of all nodes. Clones share it.
pub(crate) type Counters = Arc<[Counter]>;

fn slice_text(slice: &CartSlice) -> Bytes {
    let mut text = slice.version.to_string();
    for product in &slice.products {
        text.push('\n');
        text.push_str(product);
    }
    text.into()
}

fn page_items(slice: &CartSlice) -> Vec<Bytes> {
    let line = |product: &String| format!("{}\t{product}", slice.version).into();
    slice.products.iter().map(line).collect()
}

fn version_of(bytes: &[u8], end: char) -> anyhow::Result<u64> {
    let text = std::str::from_utf8(bytes)?;
    let version = text.split(end).next().unwrap_or_default();
    version
        .parse()
        .with_context(|| format!("a cached value begins with {version:?}, not with a version"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_cached_slice_tells_its_version_and_its_items() {
        let slice = CartSlice {
            version: 17,
            cart_items: 40,
            products: vec!["tea no. 3".to_owned(), "soap no. 2".to_owned()],
        };
        let text = slice_text(&slice);
        assert_eq!(version_of(&text, '\n').unwrap(), 17);
        assert_eq!(&text[..], b"17\ntea no. 3\nsoap no. 2");
        let items = page_items(&slice);
        assert_eq!(items.len(), 2);
        assert_eq!(version_of(&items[1], '\t').unwrap(), 17);
        let empty = CartSlice {
            products: Vec::new(),
            ..slice
        };
        assert_eq!(version_of(&slice_text(&empty), '\n').unwrap(), 17);
        assert!(version_of(b"x\n", '\n').is_err());
    }
}
