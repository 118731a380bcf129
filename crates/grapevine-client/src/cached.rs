//! Cached reads: look up, read the cache, judge what it gave, and on a miss compute, commit and store.
//!
//! The order is the guarantee (G3). The look-up comes first: its answer carries the *stamp* (in the lease) and the
//! token, both taken before anything is read from the source. What follows from them stands in [`crate::fence`].
//!
//! Trouble is not the reader's: without a usable look-up the fill function runs and nothing is stored (a *bypass*); a
//! cache that fails is a miss, and a store that fails is counted.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use grapevine_cache::Cache;
use grapevine_proto::v1;

use crate::audit::Audits;
use crate::client::Client;
use crate::error::InvalidRequest;
use crate::fence::{FlightKey, FlightResult, Settled, Unit};
use crate::fill::Fill;
use crate::names::ADDRESS_BYTES_MAX;
use crate::outcome::{BypassReason, GetError, GetOutcome, How};
use crate::query::Explained;
use crate::refresh::{Got, Revalidations};
use crate::report::Reports;
use crate::session::Session;
use crate::single_flight::{Finished, Flights};
use crate::snapshot::Snapshot;
use crate::stats::{CacheCounters, CacheStats};
use crate::trace_context::of_the_application;

/// So often a caller goes round again when another one's fill was not good enough for it; then it fills for itself.
pub(crate) const ROUNDS_MAX: u32 = 3;

/// What a local table came to.
enum Local {
    /// The cache had it.
    Served(GetOutcome),
    /// The cache had not.
    Missed(Known),
    /// The table does not say.
    Unknown,
}

/// What the cache was asked for already.
struct Known {
    key: Arc<FlightKey>,
    before: Finished,
    found: Option<Bytes>,
}

/// A [`Client`] with a cache: reads through it, fenced. Cloning it is cheap; clones share flights and counters.
#[derive(Clone)]
pub struct CachedClient {
    shared: Arc<Shared>,
    session: Option<Arc<Session>>,
    snapshot: Option<Arc<Snapshot>>,
    dialect: v1::SqlDialect,
}

pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) cache: Arc<dyn Cache>,
    pub(crate) flights: Flights<Arc<FlightKey>, FlightResult>,
    pub(crate) counters: CacheCounters,
    pub(crate) revalidations: Revalidations,
    pub(crate) audits: Audits,
    pub(crate) explained: Explained,
    pub(crate) reports: Reports,
}

impl fmt::Debug for CachedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedClient")
            .field("client", &self.shared.client)
            .field("cache", &self.shared.cache.target())
            .field("session", &self.session)
            .field("snapshot", &self.snapshot)
            .finish_non_exhaustive()
    }
}

impl CachedClient {
    /// Reads through `cache`, with look-ups of `client`.
    pub fn new(client: Client, cache: Arc<dyn Cache>) -> Self {
        let settings = client.settings();
        let shared = Shared {
            audits: Audits::new(settings.audit, settings.audit_grace),
            client,
            cache,
            flights: Flights::new(),
            counters: CacheCounters::default(),
            revalidations: Revalidations::default(),
            explained: Explained::default(),
            reports: Reports::new(settings.report_every),
        };
        Self {
            shared: Arc::new(shared),
            session: None,
            snapshot: None,
            dialect: v1::SqlDialect::Postgresql,
        }
    }

    /// The same client, whose reads see what `session` has seen (G5). A look-up that has to wait longer for it than the
    /// session allows makes the read a bypass: the source has it.
    #[must_use]
    pub fn session(&self, session: &Session) -> Self {
        Self {
            session: (!session.is_empty()).then(|| Arc::new(session.clone())),
            ..self.clone()
        }
    }

    /// The same client, whose fill functions read inside a database snapshot that began after `snapshot` was
    /// [opened](Client::open_snapshot) (G3). A value that the cache holds is served, and may be newer than what the
    /// transaction sees. One that is missing is computed; where a class has changed since the snapshot was opened, or the
    /// snapshot has ended, it is given to this caller alone and not stored ([`BypassReason::Snapshot`]).
    #[must_use]
    pub fn in_snapshot(&self, snapshot: &Snapshot) -> Self {
        Self {
            snapshot: Some(Arc::new(snapshot.clone())),
            ..self.clone()
        }
    }

    /// The same client, for whose [`cached_query`](Self::cached_query) statements are of this dialect. PostgreSQL's unless told.
    #[must_use]
    pub fn dialect(&self, dialect: v1::SqlDialect) -> Self {
        Self {
            dialect,
            ..self.clone()
        }
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.shared.client
    }

    /// The cache.
    pub fn cache(&self) -> &Arc<dyn Cache> {
        &self.shared.cache
    }

    pub(crate) fn in_a_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }

    pub(crate) fn dialect_of(&self) -> v1::SqlDialect {
        self.dialect
    }

    pub(crate) fn snapshot_of(&self) -> Option<&Snapshot> {
        self.snapshot.as_deref()
    }

    pub(crate) fn session_of(&self) -> Option<&Session> {
        self.session.as_deref()
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// What this client and its clones have done.
    pub fn stats(&self) -> CacheStats {
        self.shared.counters.snapshot()
    }

    /// The value at `address`, from the cache or else from `fill`, whose result is stored for the policy's TTL or `ttl`,
    /// whichever is shorter.
    ///
    /// `fill` runs at most once, in this task. Of concurrent callers in this process that miss the same value one runs its
    /// function and the others get its result; if it is cancelled or panics, another one runs its own. An error goes to
    /// all of them and is not stored. Without a usable look-up within the client's `resolve_deadline`, `fill` runs
    /// and nothing is stored; callers do not share then, since nothing vouches for what they share.
    ///
    /// Who waits for another caller's function waits for as long as that runs, and then for its commit where there is one:
    /// at most the client's `commit_deadline` more. Only look-ups and commits have deadlines of the client's; how long the
    /// source may take, the caller knows. Bound that inside `fill`, so that the one who fills goes on with an error that
    /// all get. A timeout around the call bounds this caller alone: if it was the one who filled, the next one fills.
    pub async fn get_or_fill<C, E, F, Fut>(
        &self,
        address: &str,
        classes: &[C],
        ttl: Option<Duration>,
        fill: F,
    ) -> Result<GetOutcome, GetError<E>>
    where
        C: AsRef<str>,
        E: Send + Sync + 'static,
        F: FnOnce(Fill) -> Fut,
        Fut: Future<Output = Result<Bytes, E>>,
    {
        check_ttl(ttl)?;
        let classes = owned(classes);
        let mut fill = Some(|handle| of_the_application(fill(handle)));
        match self.get(address, &classes, ttl, &mut fill, false).await? {
            Got::Current(outcome) | Got::Stale(outcome, _) => Ok(outcome),
        }
    }

    /// Gets a value; with `stale_too` also one that a soft bump has replaced, and then `fill` has not run.
    ///
    /// The function is the application's: it comes wrapped ([`of_the_application`]).
    pub(crate) async fn get<E, F, Fut>(
        &self,
        address: &str,
        classes: &[String],
        ttl: Option<Duration>,
        fill: &mut Option<F>,
        stale_too: bool,
    ) -> Result<Got, GetError<E>>
    where
        E: Send + Sync + 'static,
        F: FnOnce(Fill) -> Fut,
        Fut: Future<Output = Result<Bytes, E>>,
    {
        let got = self.get_in_rounds(address, classes, ttl, fill, stale_too);
        self.client().traced(got).await
    }

    async fn get_in_rounds<E, F, Fut>(
        &self,
        address: &str,
        classes: &[String],
        ttl: Option<Duration>,
        fill: &mut Option<F>,
        stale_too: bool,
    ) -> Result<Got, GetError<E>>
    where
        E: Send + Sync + 'static,
        F: FnOnce(Fill) -> Fut,
        Fut: Future<Output = Result<Bytes, E>>,
    {
        let mut known = match self.by_local_table(address, classes, ttl, fill).await {
            Local::Served(outcome) => return Ok(Got::Current(outcome)),
            Local::Missed(known) => Some(known),
            Local::Unknown => None,
        };
        let mut round = 0;
        let reason = loop {
            let resolution = match self.look_up(address, classes, None).await? {
                Ok(resolution) => resolution,
                Err(reason) => break reason,
            };
            let [target] = &*resolution.targets else {
                break BypassReason::Refused;
            };
            let unit = Unit::new(
                address,
                address.to_owned(),
                classes,
                &resolution,
                target,
                ttl,
            );
            let known = known.take().filter(|known| known.key == unit.key);
            // What the cache was asked for just now need not be asked again.
            let (before, found) = if let Some(known) = known {
                (known.before, known.found)
            } else {
                let before = self.finished(&unit);
                (before, self.read_cache(&unit.key.target).await)
            };
            if stale_too
                && !resolution.stale.is_empty()
                && let Some(outcome) = self.stale_outcome(&unit, found.clone()).await
            {
                return Ok(Got::Stale(outcome, Arc::clone(&unit.key)));
            }
            round += 1;
            let settled = self
                .settle(&unit, found, before, round > ROUNDS_MAX, fill)
                .await;
            match settled.map_err(GetError::Fill)? {
                Settled::Done { value, how, stored } => {
                    return Ok(Got::Current(GetOutcome {
                        value: value.bytes,
                        how,
                        stored,
                        token: Some(resolution.token),
                    }));
                }
                Settled::Again => {}
                Settled::Bypass(reason) => break reason,
            }
        };
        self.count_bypass(reason);
        let fill = fill
            .take()
            .expect("invariant: a bypass comes before the fill function has run");
        let value = fill(Fill::default())
            .await
            .map_err(|error| GetError::Fill(Arc::new(error)))?;
        Ok(Got::Current(GetOutcome {
            value,
            how: How::Bypassed(reason),
            stored: false,
            token: None,
        }))
    }

    /// Serves a value by what the local table says. What the cache has not got is the sidecar's matter: only its answer can be filled by.
    async fn by_local_table<E, F, Fut>(
        &self,
        address: &str,
        classes: &[String],
        ttl: Option<Duration>,
        fill: &mut Option<F>,
    ) -> Local
    where
        F: FnOnce(Fill) -> Fut,
        Fut: Future<Output = Result<Bytes, E>>,
    {
        let Some(resolution) = self.look_up_locally(address, classes) else {
            return Local::Unknown;
        };
        self.report_if_due();
        let target = &resolution.targets[0];
        let unit = Unit::new(
            address,
            address.to_owned(),
            classes,
            &resolution,
            target,
            ttl,
        );
        let before = self.finished(&unit);
        let found = self.read_cache(&unit.key.target).await;
        if let Some(value) = self.known(&unit, found.clone(), fill).await {
            self.shared.counters.local_hits.increment();
            return Local::Served(GetOutcome {
                value,
                how: How::Hit,
                stored: false,
                token: Some(resolution.token),
            });
        }
        let key = Arc::clone(&unit.key);
        Local::Missed(Known { key, before, found })
    }

    /// What the local table knows; nothing for who must see what a session or a database snapshot sees.
    fn look_up_locally(&self, address: &str, classes: &[String]) -> Option<v1::Resolution> {
        if self.session.is_some() || self.snapshot.is_some() {
            return None;
        }
        let mut target = String::with_capacity(ADDRESS_BYTES_MAX);
        let client = &self.shared.client;
        let hit = client.local_look_up(address, classes, &mut target)?;
        Some(hit.resolution(target))
    }

    /// The token of some classes, if the local table knows it.
    pub(crate) fn local_token(&self, classes: &[String]) -> Option<u64> {
        let alone = self.session.is_none() && self.snapshot.is_none();
        let table = self.shared.client.local().filter(|_| alone)?;
        table.token(classes)
    }

    /// Looks up; `Err` is a reason to bypass.
    pub(crate) async fn look_up(
        &self,
        address: &str,
        classes: &[String],
        page: Option<v1::Page>,
    ) -> Result<Result<v1::Resolution, BypassReason>, InvalidRequest> {
        self.report_if_due();
        let (snapshot, session) = (self.snapshot.as_deref(), self.session.as_deref());
        let resolved = self
            .shared
            .client
            .resolve_one_past(snapshot, session, address, classes, page)
            .await;
        match resolved {
            Ok(resolved) if resolved.resolution.bypass => Ok(Err(BypassReason::Policy)),
            Ok(resolved) => Ok(Ok(resolved.resolution)),
            Err(error) => {
                tracing::debug!(address, %error, "a look-up failed");
                BypassReason::of(error).map(Err)
            }
        }
    }

    /// To be taken before the look into the cache.
    pub(crate) fn finished(&self, unit: &Unit<'_>) -> Finished {
        self.shared.flights.finished(&unit.key)
    }

    pub(crate) async fn read_cache(&self, target: &str) -> Option<Bytes> {
        match self.shared.cache.get(target).await {
            Ok(found) => found,
            Err(error) => {
                self.count_get_error(&error);
                None
            }
        }
    }

    /// Several values at once, in order; absent ones and all of a failed read are `None`.
    pub(crate) async fn read_cache_many(&self, targets: &[String]) -> Vec<Option<Bytes>> {
        match self.shared.cache.get_many(targets).await {
            Ok(found) if found.len() == targets.len() => found,
            Ok(_) => vec![None; targets.len()],
            Err(error) => {
                self.count_get_error(&error);
                vec![None; targets.len()]
            }
        }
    }

    fn count_get_error(&self, error: &grapevine_cache::CacheError) {
        self.shared.counters.cache_get_errors.increment();
        tracing::debug!(cache = self.shared.cache.target(), %error, "a cache read failed");
    }

    pub(crate) fn count_bypass(&self, reason: BypassReason) {
        let counters = &self.shared.counters;
        let counter = match reason {
            BypassReason::Policy => &counters.bypass_policy,
            BypassReason::Unreachable => &counters.bypass_unreachable,
            BypassReason::Deadline => &counters.bypass_deadline,
            BypassReason::Overloaded => &counters.bypass_overloaded,
            BypassReason::Session => &counters.bypass_session,
            BypassReason::Snapshot => &counters.bypass_snapshot,
            BypassReason::Refused => &counters.bypass_refused,
            BypassReason::NotCacheable => &counters.bypass_not_cacheable,
        };
        counter.increment();
    }
}

pub(crate) fn owned<C: AsRef<str>>(classes: &[C]) -> Vec<String> {
    classes
        .iter()
        .map(|class| class.as_ref().to_owned())
        .collect()
}

pub(crate) fn check_ttl(ttl: Option<Duration>) -> Result<(), InvalidRequest> {
    match ttl {
        Some(Duration::ZERO) => Err(InvalidRequest::one(
            "ttl",
            "it is zero; leave it out to take the policy's".to_owned(),
        )),
        _ => Ok(()),
    }
}
