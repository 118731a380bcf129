//! The objects of a page: ids from the leaf, values from the cache, what is missing from the database in one query, and what turned
//! out to be elsewhere out of the page and out of the leaf.
//!
//! A value from the cache that does not meet the criterion is asked of the database, with those that are missing. Only what the
//! primary says by a read of this call, which began after the sidecar's answer, has a member removed. A replica that has no such row
//! may lag behind the very change that put it there: then the primary is asked.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use grapevine_proto::v1;

use super::ids::Listed;
use super::{Cursor, Index, IndexRow, Want};
use crate::cached::CachedClient;
use crate::error::InvalidRequest;
use crate::fence::Unit;
use crate::names::BATCH_MAX;
use crate::outcome::{BypassReason, GetError, How};
use crate::session::Session;
use crate::trace_context::of_the_application;

/// So many pages are looked at to make up for members that turned out to be elsewhere.
const PAGES_MAX: usize = 4;
/// So many values are stored at once.
const STORES_MAX: usize = 32;

/// Which rows to read, by their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Each once.
    pub ids: Vec<String>,
    /// Read the primary.
    pub primary: bool,
}

/// Rows as a database has them, and which one. A row that is not among them is not there.
#[derive(Debug, Clone)]
pub struct Objects {
    rows: HashMap<String, Bytes>,
    primary: bool,
}

impl Objects {
    /// By ids, read in the primary database, in no transaction that had begun before the call: with this, members of the leaf are
    /// removed whose rows are gone or elsewhere.
    pub fn in_primary(rows: impl IntoIterator<Item = (String, Bytes)>) -> Self {
        Self {
            rows: rows.into_iter().collect(),
            primary: true,
        }
    }

    /// By ids, read in a replica, or in a transaction that may have begun before the call. Rows that are missing or elsewhere there
    /// are asked of the primary.
    pub fn in_replica(rows: impl IntoIterator<Item = (String, Bytes)>) -> Self {
        Self {
            primary: false,
            ..Self::in_primary(rows)
        }
    }
}

/// Where the rows of an index come from, as objects and as ids.
pub trait IndexObjects: Sync {
    /// Why a read of the database failed.
    type Error: Send + Sync + 'static;

    /// The cache address of a row's object.
    fn address(&self, id: &str) -> String;

    /// Its classes, 1 to 16, the first of which has the policy.
    fn classes(&self, id: &str) -> Vec<String>;

    /// Whether the object, as it is, meets the index's criterion. One that cannot be read does not.
    fn meets(&self, id: &str, object: &Bytes) -> bool;

    /// Reads ids, as for [`Index::ids`].
    fn ids(&self, want: Want) -> impl Future<Output = Result<Vec<IndexRow>, Self::Error>> + Send;

    /// Reads rows by their ids, in one query that begins when this is called, whether or not they meet the criterion.
    fn objects(&self, ask: Ask) -> impl Future<Output = Result<Objects, Self::Error>> + Send;
}

/// A page of objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectPage {
    /// In the leaf's order; fewer than asked for only where the list ends, or where very many members were elsewhere.
    pub objects: Vec<IndexedObject>,
    /// Where the ids came from, as in [`IdPage`](super::IdPage); of several pages the dearest.
    pub how: How,
    /// There are more behind them.
    pub more: bool,
    /// Where to go on; `None` on an empty page.
    pub next: Option<Cursor>,
    /// Objects that came from the cache.
    pub hits: u32,
    /// Members whose rows the database showed to be elsewhere or gone, and which are left out.
    pub elsewhere: u32,
    /// Of them removed from the leaf.
    pub pruned: u64,
    /// Members that are left out because a replica does not have them and the primary was not read although it was asked for.
    pub undecided: u32,
}

/// An object of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedObject {
    /// The row's id.
    pub id: String,
    /// As it is stored under its address.
    pub object: Bytes,
    /// From the cache.
    pub hit: bool,
}

/// What is known of one member's object.
enum Known {
    Object {
        object: Bytes,
        hit: bool,
    },
    /// To be asked of the database: the cache has none, or one that does not meet the criterion.
    Missing {
        suspect: bool,
    },
    Elsewhere,
    Undecided,
}

/// What was looked up for a member: `None` where nothing may be stored.
type LookedUp = Option<v1::Resolution>;

impl Index {
    /// The objects of the page: ids as of [`ids`](Self::ids), values from the cache of `cached`, and those that are missing there
    /// from one query of the database, stored afterwards as [`CachedClient::get_or_fill`] would. Those that do not meet the
    /// criterion are left out, and removed from the leaf if the primary database says so; the next members take their place.
    ///
    /// The index's session counts for the objects, too; that of `cached` does where the index has none. In a database snapshot
    /// (`cached` of [`CachedClient::in_snapshot`]) nothing is removed, and no leaf is loaded.
    pub async fn objects<O: IndexObjects>(
        &self,
        cached: &CachedClient,
        source: &O,
    ) -> Result<ObjectPage, GetError<O::Error>> {
        self.client.traced(self.gather(cached, source)).await
    }

    async fn gather<O: IndexObjects>(
        &self,
        cached: &CachedClient,
        source: &O,
    ) -> Result<ObjectPage, GetError<O::Error>> {
        let mut index = self.clone();
        index.in_a_snapshot = cached.in_a_snapshot();
        if index.session.is_empty() {
            index.session = cached.session_of().cloned().unwrap_or_default();
        }
        let mut page = ObjectPage {
            objects: Vec::new(),
            how: How::Hit,
            more: false,
            next: None,
            hits: 0,
            elsewhere: 0,
            pruned: 0,
            undecided: 0,
        };
        let load = |want| of_the_application(source.ids(want));
        for _ in 0..PAGES_MAX {
            let listed = index.list(&load).await?;
            page.how = page.how.or_dearer(listed.how);
            page.more = listed.more;
            let next = listed.next.clone();
            let before = page.elsewhere + page.undecided;
            index.take(cached, source, listed, &mut page).await?;
            // The database does not have what is elsewhere, and is not to pass over others in its stead.
            let left_out = u64::from(page.elsewhere + page.undecided - before);
            let last = page.objects.last().map(|object| &*object.id);
            let next = next.map(|next| next.with_shown(last, left_out));
            page.next = next.or(page.next);
            let found = u32::try_from(page.objects.len()).unwrap_or(u32::MAX);
            let (Some(next), true) = (&page.next, page.more && found < self.limit) else {
                break;
            };
            index = index
                .after(next.clone())
                .offset(0)
                .limit(self.limit - found);
        }
        Ok(page)
    }

    /// Adds the objects of a page of ids.
    async fn take<O: IndexObjects>(
        &self,
        cached: &CachedClient,
        source: &O,
        listed: Listed,
        page: &mut ObjectPage,
    ) -> Result<(), GetError<O::Error>> {
        let ids: Vec<&str> = listed.ids.iter().map(|id| &*id.id).collect();
        let targets = Targets::look_up(cached, &self.session, source, &ids).await?;
        let mut known = targets.read(cached, source, &ids).await;
        let is_missing = |known: &Known| matches!(known, Known::Missing { .. });
        // Twice at most: what a replica does not have is asked of the primary.
        let mut primary = !self.session.is_empty() && targets.any_unknown()
            || targets.any_primary()
            || known
                .iter()
                .any(|known| matches!(known, Known::Missing { suspect: true }));
        while known.iter().any(is_missing) {
            let asked: Vec<usize> = (0..ids.len())
                .filter(|at| is_missing(&known[*at]))
                .collect();
            let ask = Ask {
                ids: asked.iter().map(|at| ids[*at].to_owned()).collect(),
                primary,
            };
            let answer = of_the_application(source.objects(ask)).await;
            let mut answer = answer.map_err(|error| GetError::Fill(Arc::new(error)))?;
            let mut found = Vec::new();
            for at in asked {
                let object = answer.rows.remove(ids[at]);
                if let Some(object) = &object {
                    found.push((at, object.clone()));
                }
                known[at] = match object.filter(|object| source.meets(ids[at], object)) {
                    Some(object) => Known::Object { object, hit: false },
                    None if answer.primary => Known::Elsewhere,
                    None if primary => Known::Undecided,
                    None => Known::Missing { suspect: false },
                };
            }
            targets.store(cached, &ids, found, answer.primary).await;
            primary = true;
        }
        self.settle(cached, &listed, known, page).await;
        Ok(())
    }

    /// Shows what is there, and has removed what is not.
    async fn settle(
        &self,
        cached: &CachedClient,
        listed: &Listed,
        known: Vec<Known>,
        page: &mut ObjectPage,
    ) {
        let mut places = Vec::new();
        for (at, known) in known.into_iter().enumerate() {
            match known {
                Known::Object { object, hit } => {
                    page.hits += u32::from(hit);
                    let id = listed.ids[at].id.clone();
                    page.objects.push(IndexedObject { id, object, hit });
                }
                Known::Elsewhere => {
                    page.elsewhere += 1;
                    places.extend(listed.places.get(at).cloned());
                }
                Known::Undecided | Known::Missing { .. } => page.undecided += 1,
            }
        }
        let Some(evidence) = &listed.evidence else {
            return;
        };
        // What a transaction sees that had begun before is older than the evidence.
        if places.is_empty() || cached.in_a_snapshot() {
            return;
        }
        match evidence.prune(&places).await {
            Ok(removed) => page.pruned += removed,
            Err(error) => {
                tracing::debug!(table = self.leaf.table, %error, "members that are elsewhere were not removed");
            }
        }
    }
}

/// The look-ups of a page's ids, in their order.
struct Targets {
    addresses: Vec<String>,
    classes: Vec<Vec<String>>,
    found: Vec<LookedUp>,
}

impl Targets {
    async fn look_up<O: IndexObjects>(
        cached: &CachedClient,
        session: &Session,
        source: &O,
        ids: &[&str],
    ) -> Result<Self, InvalidRequest> {
        let mut targets = Self {
            addresses: ids.iter().map(|id| source.address(id)).collect(),
            classes: ids.iter().map(|id| source.classes(id)).collect(),
            found: Vec::with_capacity(ids.len()),
        };
        let items = targets.addresses.iter().zip(&targets.classes);
        let items: Vec<_> = items
            .map(|(address, classes)| crate::client::item(address, classes, None))
            .collect();
        let mut reason = None;
        for items in items.chunks(BATCH_MAX) {
            let count = items.len();
            let answers = match reason {
                None => cached.look_up_many(session, items.to_vec()).await?,
                Some(reason) => Err(reason),
            };
            match answers {
                Ok(answers) => targets.found.extend(answers),
                // A sidecar that does not answer is not waited for again.
                Err(why) => {
                    cached.count_bypass(why);
                    reason = Some(why);
                    targets.found.extend((0..count).map(|_| None));
                }
            }
        }
        Ok(targets)
    }

    fn any_unknown(&self) -> bool {
        self.found.iter().any(Option::is_none)
    }

    fn any_primary(&self) -> bool {
        let mut found = self.found.iter().flatten();
        found.any(|resolution| resolution.read_primary)
    }

    /// The value at a position; `None` where the cache is left alone.
    fn unit(&self, at: usize) -> Option<Unit<'_>> {
        let resolution = self.found[at].as_ref()?;
        let [target] = &*resolution.targets else {
            return None;
        };
        let (address, classes) = (&self.addresses[at], &self.classes[at]);
        Some(Unit::new(
            address,
            address.clone(),
            classes,
            resolution,
            target,
            None,
        ))
    }

    /// What the cache has of them.
    async fn read<O: IndexObjects>(
        &self,
        cached: &CachedClient,
        source: &O,
        ids: &[&str],
    ) -> Vec<Known> {
        let units: Vec<_> = (0..ids.len()).map(|at| self.unit(at)).collect();
        let units_there = units.iter().flatten();
        let targets: Vec<_> = units_there.map(|unit| unit.key.target.clone()).collect();
        let mut found = cached.read_cache_many(&targets).await.into_iter();
        let mut known = Vec::with_capacity(ids.len());
        for (id, unit) in ids.iter().zip(&units) {
            let Some(unit) = unit else {
                known.push(Known::Missing { suspect: false });
                continue;
            };
            let value = cached.glance(unit, found.next().flatten()).await;
            known.push(match value {
                Some(object) if source.meets(id, &object) => {
                    cached.shared().counters.hits.increment();
                    Known::Object { object, hit: true }
                }
                value => {
                    cached.shared().counters.misses.increment();
                    let suspect = value.is_some();
                    Known::Missing { suspect }
                }
            });
        }
        known
    }

    /// Stores what the database had.
    async fn store(
        &self,
        cached: &CachedClient,
        ids: &[&str],
        found: Vec<(usize, Bytes)>,
        primary: bool,
    ) {
        debug_assert_eq!(ids.len(), self.found.len());
        if cached.in_a_snapshot() {
            return;
        }
        let units = found.into_iter().filter_map(|(at, object)| {
            let unit = self.unit(at)?;
            let allowed = primary || !unit.resolution.read_primary;
            allowed.then_some((unit, object))
        });
        let units: Vec<_> = units.collect();
        let mut units = units.into_iter();
        loop {
            let batch: Vec<_> = units.by_ref().take(STORES_MAX).collect();
            if batch.is_empty() {
                return;
            }
            let stores = batch
                .iter()
                .map(|(unit, object)| cached.keep(unit, object.clone()));
            together(stores.collect()).await;
        }
    }
}

/// Awaits all of them.
async fn together<F: Future>(futures: Vec<F>) {
    let mut open: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|context| {
        open.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if open.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

impl CachedClient {
    /// Looks up many; `Err` is a reason to leave the cache alone.
    async fn look_up_many(
        &self,
        session: &Session,
        items: Vec<v1::ResolveItem>,
    ) -> Result<Result<Vec<LookedUp>, BypassReason>, InvalidRequest> {
        crate::client::check_items(&items)?;
        let resolved = self
            .client()
            .resolve_past(items, session, self.snapshot_of());
        match resolved.await {
            Ok(answers) => {
                let answers = answers.into_iter().map(|answer| {
                    let resolution = answer.resolution;
                    (!resolution.bypass).then_some(resolution)
                });
                Ok(Ok(answers.collect()))
            }
            Err(error) => BypassReason::of(error).map(Err),
        }
    }
}
