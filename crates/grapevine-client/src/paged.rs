//! Cached reads of slices of lists, for classes whose policy sets a page size.
//!
//! The sidecar plans a slice onto whole pages. All of them are read from the cache at once; each one missing is filled by
//! itself, in order, with the same fence and the same single flight as any other value, so that two callers whose slices
//! overlap share pages. Then the slice is cut out. A short page ends the list, and pages after it are not filled.
//!
//! All pages of one answer carry one token: if another caller's fill turns out not to be good enough on the way, the
//! whole slice is looked up again rather than patched.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use grapevine_proto::v1;

use crate::cached::{CachedClient, ROUNDS_MAX, check_ttl, owned};
use crate::fence::{Settled, Unit};
use crate::fill::PageFill;
use crate::outcome::{BypassReason, GetError, How, PageOutcome};
use crate::page::{cut, decode_page, encode_page, page_address};
use crate::trace_context::of_the_application;

/// What one round over the pages came to.
enum Round {
    Done(PageOutcome),
    Again,
    Bypass(BypassReason),
}

impl CachedClient {
    /// `limit` items of a list after the first `offset`, from cached pages or else from `fill`.
    ///
    /// `fill` is given what to read: a whole page, or on a bypass the slice itself. It gives the items in the list's order,
    /// fewer than asked for only at the list's end; what is beyond the limit is dropped. An item must be below 4 GiB. It
    /// may run once per page, one after another, and follows the rules of [`get_or_fill`](Self::get_or_fill). A class
    /// whose policy has no page size is refused.
    pub async fn get_or_fill_page<C, E, F, Fut>(
        &self,
        address: &str,
        classes: &[C],
        offset: u64,
        limit: u32,
        ttl: Option<Duration>,
        fill: F,
    ) -> Result<PageOutcome, GetError<E>>
    where
        C: AsRef<str>,
        E: Send + Sync + 'static,
        F: Fn(PageFill) -> Fut,
        Fut: Future<Output = Result<Vec<Bytes>, E>>,
    {
        check_ttl(ttl)?;
        let classes = owned(classes);
        let fill = |page| of_the_application(fill(page));
        let slice = v1::Page { offset, limit };
        let got = self.get_slice(address, &classes, slice, ttl, &fill);
        self.client().traced(got).await
    }

    async fn get_slice<E, F, Fut>(
        &self,
        address: &str,
        classes: &[String],
        slice: v1::Page,
        ttl: Option<Duration>,
        fill: &F,
    ) -> Result<PageOutcome, GetError<E>>
    where
        E: Send + Sync + 'static,
        F: Fn(PageFill) -> Fut,
        Fut: Future<Output = Result<Vec<Bytes>, E>>,
    {
        let mut round = 0;
        let reason = loop {
            let resolution = match self.look_up(address, classes, Some(slice)).await? {
                Ok(resolution) => resolution,
                Err(reason) => break reason,
            };
            if resolution.targets.is_empty()
                || resolution
                    .targets
                    .iter()
                    .any(|target| target.page_size == 0)
            {
                break BypassReason::Refused;
            }
            round += 1;
            let units = resolution.targets.iter().map(|target| {
                let paged = page_address(address, target.page_size, target.page_index);
                (
                    Unit::new(address, paged, classes, &resolution, target, ttl),
                    target,
                )
            });
            let units: Vec<_> = units.collect();
            let settled = self.settle_pages(&units, round > ROUNDS_MAX, fill).await;
            match settled.map_err(GetError::Fill)? {
                Round::Done(outcome) => return Ok(outcome),
                Round::Again => {}
                Round::Bypass(reason) => break reason,
            }
        };
        self.count_bypass(reason);
        let page = PageFill {
            offset: slice.offset,
            limit: slice.limit,
            fill: crate::fill::Fill::default(),
        };
        let mut items = fill(page)
            .await
            .map_err(|error| GetError::Fill(Arc::new(error)))?;
        items.truncate(slice.limit as usize);
        Ok(PageOutcome {
            items,
            how: How::Bypassed(reason),
            pages: 0,
            hits: 0,
            stored: 0,
        })
    }

    async fn settle_pages<E, F, Fut>(
        &self,
        units: &[(Unit<'_>, &v1::Target)],
        alone: bool,
        fill: &F,
    ) -> Result<Round, Arc<E>>
    where
        E: Send + Sync + 'static,
        F: Fn(PageFill) -> Fut,
        Fut: Future<Output = Result<Vec<Bytes>, E>>,
    {
        let before: Vec<_> = units.iter().map(|(unit, _)| self.finished(unit)).collect();
        let targets: Vec<String> = units
            .iter()
            .map(|(_, target)| target.address.clone())
            .collect();
        let found = self.read_cache_many(&targets).await;
        let mut outcome = PageOutcome {
            items: Vec::new(),
            how: How::Hit,
            pages: 0,
            hits: 0,
            stored: 0,
        };
        for (((unit, target), before), found) in units.iter().zip(before).zip(found) {
            let mut page_fill = Some(|handle| fill_page(fill, target, handle));
            let (value, how, stored) = match self
                .settle(unit, found, before, alone, &mut page_fill)
                .await?
            {
                Settled::Done { value, how, stored } => (value, how, stored),
                Settled::Again => return Ok(Round::Again),
                Settled::Bypass(reason) => return Ok(Round::Bypass(reason)),
            };
            outcome.pages += 1;
            outcome.hits += u32::from(how == How::Hit);
            outcome.stored += u32::from(stored);
            outcome.how = outcome.how.or_dearer(how);
            let page = decode_page(&value.bytes)
                .expect("invariant: the fence lets no page pass that is none");
            if !cut(target, &page, &mut outcome.items) {
                break;
            }
        }
        Ok(Round::Done(outcome))
    }
}

async fn fill_page<E, F, Fut>(
    fill: &F,
    target: &v1::Target,
    handle: crate::fill::Fill,
) -> Result<Bytes, E>
where
    F: Fn(PageFill) -> Fut,
    Fut: Future<Output = Result<Vec<Bytes>, E>>,
{
    let page = PageFill {
        offset: target.page_index.saturating_mul(target.page_size.into()),
        limit: target.page_size,
        fill: handle,
    };
    let mut items = fill(page).await?;
    items.truncate(target.page_size as usize);
    Ok(encode_page(&items).expect("invariant: at most a page of items, each below 4 GiB"))
}
