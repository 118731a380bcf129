//! The ids of a page: from the sidecar's leaf, or else from the database, which the sidecar is then told.
//!
//! Of readers that find a leaf absent one gets the right to load it; the others look again for a while, and then read the database
//! for themselves. A leaf is loaded from its start, whatever page is wanted, so that what is kept has no hole before it.

use std::sync::Arc;

use bytes::Bytes;
use grapevine_proto::v1;
use tokio::time::Instant;

use super::leaf::{LeafExtent, LeafFill, LeafPage, LeafState, LoadRight, check_rows};
use super::{Cursor, Evidence, Index, IndexRow};
use crate::error::CallError;
use crate::outcome::{BypassReason, GetError, How};
use crate::trace_context::of_the_application;

/// How often several leaves are loaded for one page: what is written meanwhile may have them absent again.
const ROUNDS_MAX: u32 = 3;

/// What a loader is to read: rows of the leaf from its start, in its order.
///
/// That is `ORDER BY` the index's column *and then the id*, both in the index's direction.
#[derive(Debug, Clone, PartialEq)]
pub struct Want {
    /// Of an index of [several leaves](Index::or): the rows of this one alone, 0 for the index's own criteria and from 1 those of
    /// [`Index::or`] or [`Index::and`]. `None`: the rows of the index.
    pub part: Option<usize>,
    /// So many of the first rows; `None`: all of them.
    pub rows: Option<u64>,
    /// Only those whose `order_by` is at least this.
    pub from: Option<v1::SqlValue>,
    /// Only those whose `order_by` is at most this.
    pub to: Option<v1::SqlValue>,
    /// Read the primary: a replica may lag behind what was acknowledged.
    pub read_primary: bool,
}

/// The ids of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdPage {
    /// In the leaf's order, each once.
    pub ids: Vec<LeafId>,
    /// `Hit`: from the leaf. `Filled` and `Bypassed`: from the loader.
    pub how: How,
    /// There are more behind them.
    pub more: bool,
    /// Where to go on; `None` on an empty page.
    pub next: Option<Cursor>,
    /// Members left out by [`Index::verified`].
    pub filtered: u32,
    /// This call loaded the leaf.
    pub stored: bool,
}

/// An id in a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafId {
    /// The row's id.
    pub id: String,
    /// The newest version of it that is known to be there; 0 if none is.
    pub version: u64,
}

/// A page, with what it takes to prune it.
pub(super) struct Listed {
    pub(super) ids: Vec<LeafId>,
    /// As many as ids where a sidecar told them; else none.
    pub(super) places: Vec<Bytes>,
    pub(super) evidence: Option<Evidence>,
    pub(super) how: How,
    pub(super) more: bool,
    pub(super) next: Option<Cursor>,
    pub(super) filtered: u32,
    pub(super) stored: bool,
}

impl Index {
    /// The ids of the page, from the leaf or else from `load`, whose rows the sidecar is told if it asked for them.
    ///
    /// A leaf may have members whose rows are no longer in it: [`objects`](Self::objects) leaves those out and has them removed. It
    /// lacks none whose change was acknowledged, in what the sidecar has applied or the [session](Self::session) has seen.
    ///
    /// `load` begins its read when it is called. It runs once, or twice for a [range](Self::between) of a leaf that could not be kept; of
    /// an index of several leaves once for each that is absent, and once more if they could not be kept.
    /// An error of it is the call's, unless the leaf had the page. Without a sidecar that answers it runs at once.
    pub async fn ids<E, F, Fut>(&self, load: F) -> Result<IdPage, GetError<E>>
    where
        F: Fn(Want) -> Fut,
        Fut: Future<Output = Result<Vec<IndexRow>, E>>,
    {
        let load = |want| of_the_application(load(want));
        let listed = self.client.traced(self.list(&load)).await?;
        Ok(IdPage {
            ids: listed.ids,
            how: listed.how,
            more: listed.more,
            next: listed.next,
            filtered: listed.filtered,
            stored: listed.stored,
        })
    }

    pub(super) async fn list<E, F, Fut>(&self, load: &F) -> Result<Listed, GetError<E>>
    where
        F: Fn(Want) -> Fut,
        Fut: Future<Output = Result<Vec<IndexRow>, E>>,
    {
        if self.is_out_of_reach() {
            self.check()?;
            return self.page_of_database(How::Filled, load).await;
        }
        let until = Instant::now() + self.load_wait;
        // How often several leaves were loaded on the way.
        let mut rounds = 0;
        loop {
            let mut page = match self.read().await {
                Ok(page) => page,
                Err(error) => {
                    tracing::debug!(table = self.leaf.table, %error, "no sidecar tells of a leaf");
                    let how = How::Bypassed(BypassReason::of(error)?);
                    return self.page_of_database(how, load).await;
                }
            };
            if page.state == LeafState::Present && page.complete {
                let how = if rounds > 0 { How::Filled } else { How::Hit };
                let mut listed = self.page_of_leaf(page, how, load).await;
                listed.stored |= rounds > 0;
                return Ok(listed);
            }
            if page.state == LeafState::Bypass {
                let how = How::Bypassed(BypassReason::Policy);
                return self.page_of_database(how, load).await;
            }
            if self.is_combined() && !page.loads.is_empty() {
                // Where nothing is kept, to load them tells nothing that the page itself does not.
                let stored = !self.in_a_snapshot && self.load_each(page.loads, load).await?;
                rounds += 1;
                if stored && rounds < ROUNDS_MAX {
                    continue;
                }
                return self.page_of_database(How::Filled, load).await;
            }
            if let Some(right) = page.loads.pop() {
                return self.load(right, load).await;
            }
            let left = until.saturating_duration_since(Instant::now());
            match page.retry_after {
                Some(after) if !left.is_zero() => tokio::time::sleep(after.min(left)).await,
                _ => return self.page_of_database(How::Filled, load).await,
            }
        }
    }

    /// A page that a sidecar has. If it would have leaves loaded anew, that is done, too, and the page is as good without.
    async fn page_of_leaf<E, F, Fut>(&self, mut page: LeafPage, how: How, load: &F) -> Listed
    where
        F: Fn(Want) -> Fut,
        Fut: Future<Output = Result<Vec<IndexRow>, E>>,
    {
        if how == How::Hit {
            self.client.counters().index_hits.increment();
        }
        let loads = std::mem::take(&mut page.loads);
        let stored = self.load_each(loads, load).await.unwrap_or(false);
        let mut listed = listed(page, how);
        listed.stored = stored;
        listed
    }

    /// Loads leaves, and tells the sidecar. Says whether one of them is kept.
    async fn load_each<E, F, Fut>(
        &self,
        rights: Vec<LoadRight>,
        load: &F,
    ) -> Result<bool, GetError<E>>
    where
        F: Fn(Want) -> Fut,
        Fut: Future<Output = Result<Vec<IndexRow>, E>>,
    {
        let (mut stored, mut trouble) = (false, None);
        for right in rights {
            let want = self.want_leaf(&right);
            let asked = want.rows;
            match load(want).await {
                Ok(rows) => stored |= self.tell(right, rows, asked).await,
                // The other rights are used all the same: until they end, nobody else has them.
                Err(error) => trouble = Some(error),
            }
        }
        trouble.map_or(Ok(stored), |error| Err(failed(error)))
    }

    /// The leaf from its start, as far as the page and what is kept of it go.
    fn want_leaf(&self, right: &LoadRight) -> Want {
        Want {
            part: self.is_combined().then(|| right.part()),
            rows: self.first.map(|first| self.needed().max(first.into())),
            from: None,
            to: None,
            read_primary: right.read_primary(),
        }
    }

    /// Rows from the start to the page's end, and one to see whether there are more.
    fn needed(&self) -> u64 {
        self.passed().saturating_add(u64::from(self.limit) + 1)
    }

    /// Loads the leaf, tells the sidecar, and gives the page.
    async fn load<E, F, Fut>(&self, right: LoadRight, load: &F) -> Result<Listed, GetError<E>>
    where
        F: Fn(Want) -> Fut,
        Fut: Future<Output = Result<Vec<IndexRow>, E>>,
    {
        let (link, want) = (Arc::clone(right.link()), self.want_leaf(&right));
        let asked = want.rows;
        let rows = load(want).await.map_err(failed)?;
        if !self.has_range() {
            let mut listed = self.cut(&rows, asked, How::Filled);
            listed.stored = self.tell(right, rows, asked).await;
            return Ok(listed);
        }
        // Which values lie in a range the sidecar knows, and the database; here nobody does.
        let whole = asked.is_none_or(|asked| (rows.len() as u64) < asked);
        let stored = self.tell(right, rows, asked).await;
        if stored && whole {
            let deadline = self.client.settings().resolve_deadline + self.session.extra();
            let page = self.read_at(&link, self.request()?, deadline).await;
            if let Ok(page) = page
                && page.state == LeafState::Present
                && page.complete
            {
                let mut listed = listed(page, How::Filled);
                listed.stored = true;
                return Ok(listed);
            }
        }
        let mut listed = self.page_of_database(How::Filled, load).await?;
        listed.stored = stored;
        Ok(listed)
    }

    /// Tells the sidecar what the database has. Says whether it is kept.
    async fn tell(&self, right: LoadRight, rows: Vec<IndexRow>, asked: Option<u64>) -> bool {
        if self.in_a_snapshot {
            // What is read there may be older than the right.
            return false;
        }
        let extent = match (self.first, asked) {
            (Some(keep), Some(asked)) if rows.len() as u64 >= asked => LeafExtent::First { keep },
            _ => LeafExtent::Whole,
        };
        let table = &self.leaf.table;
        if let Err(error) = check_rows(&self.leaf, &rows, extent) {
            tracing::warn!(table, %error, "a leaf's rows are not as they must be: it is not kept");
            return false;
        }
        match right.fill(rows, extent).await {
            Ok(LeafFill::Stored) => true,
            Ok(outcome) => {
                tracing::debug!(table, ?outcome, "a leaf that was loaded is not kept");
                false
            }
            Err(error @ CallError::Invalid(_)) => {
                // It would be so each time, and the leaf be read from the database for ever.
                tracing::warn!(table, %error, "a leaf's rows are not as they must be: it is not kept");
                false
            }
            Err(error) => {
                tracing::debug!(table, %error, "a leaf that was loaded could not be told");
                false
            }
        }
    }

    /// The page from the database, for this caller alone.
    async fn page_of_database<E, F, Fut>(&self, how: How, load: &F) -> Result<Listed, GetError<E>>
    where
        F: Fn(Want) -> Fut,
        Fut: Future<Output = Result<Vec<IndexRow>, E>>,
    {
        let needed = self.needed();
        let want = Want {
            part: None,
            rows: Some(needed),
            from: self.from.clone(),
            to: self.to.clone(),
            // Nobody says whether a replica has what the session has seen.
            read_primary: !self.session.is_empty(),
        };
        let rows = load(want).await.map_err(failed)?;
        Ok(self.cut(&rows, Some(needed), how))
    }

    /// The page's part of rows from the start.
    fn cut(&self, rows: &[IndexRow], asked: Option<u64>, how: How) -> Listed {
        let behind = |after: &Cursor| match rows.iter().position(|row| row.id == after.id()) {
            Some(at) => at + 1,
            // It has gone from where it was. To show a row twice is better than to pass over one.
            None => usize::try_from(after.passed().saturating_sub(1)).unwrap_or(usize::MAX),
        };
        let start = self.after.as_ref().map_or(0, behind);
        let start = start.saturating_add(self.offset as usize);
        let end = start.saturating_add(self.limit as usize);
        let all = rows.len();
        let page = &rows[start.min(all)..end.min(all)];
        let ids = page.iter().map(|row| LeafId {
            id: row.id.clone(),
            version: row.version,
        });
        let passed = self.passed().saturating_add(page.len() as u64);
        let next = page
            .last()
            .map(|row| Cursor::new(Bytes::new(), &row.id, passed));
        Listed {
            ids: ids.collect(),
            places: Vec::new(),
            evidence: None,
            how,
            more: all > end || asked.is_some_and(|asked| all as u64 >= asked),
            next,
            filtered: 0,
            stored: false,
        }
    }
}

fn failed<E>(error: E) -> GetError<E> {
    GetError::Fill(Arc::new(error))
}

fn listed(page: LeafPage, how: How) -> Listed {
    let mut seen = std::collections::HashSet::new();
    // A row whose place in the order changed is at both of them, until somebody has the old one removed.
    let members = page.members.into_iter();
    let once = members.filter(|member| seen.insert(member.id.clone()));
    let (ids, places) = once
        .map(|member| {
            let (id, version) = (member.id, member.version);
            (LeafId { id, version }, member.place)
        })
        .unzip();
    Listed {
        ids,
        places,
        evidence: page.evidence,
        how,
        more: page.more,
        next: page.next,
        filtered: page.filtered,
        stored: false,
    }
}
