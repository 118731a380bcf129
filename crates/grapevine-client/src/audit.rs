//! The self-audit: some hits are recomputed from the source and compared.
//!
//! Nobody has to believe Grapevine. Of the hits a fraction is drawn at random; for each the fill function runs in the
//! caller's task, its result is compared with what the cache gave, and thrown away: the caller gets the hit, and nothing is
//! stored. That reader waits for the source, as on a miss. It cannot be otherwise: the function is the caller's and may
//! borrow what it likes.
//!
//! A value that differs need not be wrong. Its row may have been written a moment ago, and the writer, which commits first
//! and invalidates then, has yet to do so; or policy allows it to be old. So a difference counts as a *mismatch* only if
//! the sidecar, fresh, vouched for the hit's token before the source was read and, fresh, still does after a *grace*, which
//! is to be longer than a writer takes from its commit to the receipt of its invalidation. A superseded token does not come
//! back (G2), so the token was the same all the while: nobody has invalidated what was written, or the cache was given
//! something else. If the token has changed by then, or policy says `ttl`, the difference is *innocent*; without a fresh
//! sidecar the audit is *undecided*.
//!
//! Limits: at most [`AT_ONCE_MAX`] audits at once, those that wait for their grace among them, and [`PER_SECOND_MAX`] begun
//! in a second. What is drawn beyond is skipped and counted.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use grapevine_proto::v1;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::cached::CachedClient;
use crate::fence::{Unit, Value};
use crate::fill::Fill;
use crate::page::decode_page;
use crate::trace_context::{done_for, of_this_call};

/// Audits at once.
const AT_ONCE_MAX: usize = 16;
/// Audits begun within a second.
const PER_SECOND_MAX: u32 = 100;
/// Mismatches come in bursts: after one was logged, further ones are only counted for so long.
const LOG_PAUSE: Duration = Duration::from_secs(10);

type Same = Arc<dyn Fn(&str, &[u8], &[u8]) -> bool + Send + Sync>;

/// What the audits of a client share.
pub(crate) struct Audits {
    fraction: f64,
    grace: Duration,
    places: Arc<Semaphore>,
    pace: Mutex<Pace>,
    log: Mutex<Log>,
    same: RwLock<Option<Same>>,
}

/// How many began in the present second.
#[derive(Debug, Default)]
struct Pace {
    since: Option<Instant>,
    begun: u32,
}

#[derive(Debug, Default)]
struct Log {
    last: Option<Instant>,
    /// Mismatches since.
    unsaid: u64,
}

/// What a hit was served on.
struct Claim {
    address: String,
    target: String,
    base: String,
    /// Those of the look-up, and behind them those that the value named when it was filled.
    classes: Vec<String>,
    token: u64,
}

/// What the sidecar says of a claim now.
enum Standing {
    Vouched,
    Bumped,
    /// It is not fresh, or does not answer.
    Unknown,
}

impl fmt::Debug for Audits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audits")
            .field("fraction", &self.fraction)
            .field("grace", &self.grace)
            .finish_non_exhaustive()
    }
}

impl Audits {
    pub(crate) fn new(fraction: f64, grace: Duration) -> Self {
        Self {
            fraction,
            grace,
            places: Arc::new(Semaphore::new(AT_ONCE_MAX)),
            pace: Mutex::default(),
            log: Mutex::default(),
            same: RwLock::default(),
        }
    }

    /// Whether a hit is drawn. Without audits that is all they cost.
    fn is_drawn(&self) -> bool {
        self.fraction > 0.0 && rand::random::<f64>() < self.fraction
    }

    /// A place for an audit, if the limits leave one.
    fn place(&self) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let now = Instant::now();
        let mut pace = self.pace.lock();
        let over = |since| now.duration_since(since) >= Duration::from_secs(1);
        if pace.since.is_none_or(over) {
            *pace = Pace {
                since: Some(now),
                begun: 0,
            };
        }
        pace.begun += 1;
        (pace.begun <= PER_SECOND_MAX).then_some(place)
    }

    /// Whether the source gives what the cache gave; pages are compared item by item.
    fn same(&self, unit: &Unit<'_>, cached: &Bytes, source: &Bytes) -> bool {
        if cached == source {
            return true;
        }
        let Some(same) = self.same.read().clone() else {
            return false;
        };
        let address = unit.address();
        if !unit.is_page() {
            return same(address, cached, source);
        }
        let (Ok(cached), Ok(source)) = (decode_page(cached), decode_page(source)) else {
            return false;
        };
        let mut pairs = cached.iter().zip(&source);
        cached.len() == source.len() && pairs.all(|(one, other)| same(address, one, other))
    }

    /// Says that a value was wrong, once in a while: the counter tells how often.
    fn tell(&self, claim: &Claim, sizes: (usize, usize)) {
        let now = Instant::now();
        let mut log = self.log.lock();
        if log
            .last
            .is_some_and(|at| now.duration_since(at) < LOG_PAUSE)
        {
            log.unsaid += 1;
            return;
        }
        let unsaid = std::mem::take(&mut log.unsaid);
        log.last = Some(now);
        drop(log);
        let (cached_bytes, source_bytes) = sizes;
        tracing::warn!(
            address = claim.address,
            target_address = claim.target,
            classes = ?claim.classes,
            token = format_args!("{:016x}", claim.token),
            cached_bytes,
            source_bytes,
            unsaid_since_the_last_line = unsaid,
            "an audited hit differs from its source, and nobody has invalidated it"
        );
    }
}

impl CachedClient {
    /// How audits compare what the cache gave (second) with what the source gives now (third) for an address (first), from
    /// now on; values that are equal byte by byte are never asked about. A page is compared item by item. For values that
    /// differ each time they are computed, as one that bears the time does.
    pub fn audit_by(&self, same: impl Fn(&str, &[u8], &[u8]) -> bool + Send + Sync + 'static) {
        *self.shared().audits.same.write() = Some(Arc::new(same));
    }

    /// Audits a hit if it is drawn. The caller gets what it got, whatever comes of this.
    pub(crate) async fn audit<E, F, Fut>(
        &self,
        unit: &Unit<'_>,
        value: &Value,
        fill: &mut Option<F>,
    ) where
        F: FnOnce(Fill) -> Fut,
        Fut: Future<Output = Result<Bytes, E>>,
    {
        let (audits, counters) = (&self.shared().audits, &self.shared().counters);
        if !audits.is_drawn() {
            return;
        }
        let Some(place) = audits.place() else {
            return counters.audits_skipped.increment();
        };
        let Some(function) = fill.take() else { return };
        counters.audits.increment();
        let claim = Claim::of(unit, value);
        let bumps_count = unit.resolution.strategy() != v1::Strategy::Ttl;
        if bumps_count && !matches!(self.standing(&claim).await, Standing::Vouched) {
            return counters.audits_undecided.increment();
        }
        let Ok(source) = function(Fill::new(true)).await else {
            return counters.audit_errors.increment();
        };
        if audits.same(unit, &value.bytes, &source) {
            return;
        }
        if !bumps_count {
            return counters.audit_differed_innocent.increment();
        }
        let sizes = (value.bytes.len(), source.len());
        let this = self.clone();
        // The reader need not wait for it. It ends with its grace, and there are as many as there are places.
        let judged = async move {
            this.judge_difference(&claim, sizes).await;
            drop(place);
        };
        tokio::spawn(done_for(of_this_call(), judged));
    }

    /// Waits for whoever may have written and not invalidated yet.
    async fn judge_difference(&self, claim: &Claim, sizes: (usize, usize)) {
        let (audits, counters) = (&self.shared().audits, &self.shared().counters);
        // Most innocent ones show at once: then their place is free for others.
        if !matches!(self.standing(claim).await, Standing::Bumped) {
            tokio::time::sleep(audits.grace).await;
            match self.standing(claim).await {
                Standing::Bumped => {}
                Standing::Unknown => return counters.audits_undecided.increment(),
                Standing::Vouched => {
                    counters.audit_mismatches.increment();
                    return audits.tell(claim, sizes);
                }
            }
        }
        counters.audit_differed_innocent.increment();
    }

    async fn standing(&self, claim: &Claim) -> Standing {
        // Without the session: what it has seen, the look-up of the read has waited for.
        let client = self.client();
        match client.resolve_one(&claim.base, &claim.classes, None).await {
            Ok(now) if now.resolution.token != claim.token => Standing::Bumped,
            Ok(now) if now.freshness == v1::Freshness::Fresh && !now.resolution.bypass => {
                Standing::Vouched
            }
            _ => Standing::Unknown,
        }
    }
}

impl Claim {
    fn of(unit: &Unit<'_>, value: &Value) -> Self {
        let (classes, token) = match value.dependencies() {
            None => (unit.classes().to_vec(), unit.resolution.token),
            Some(found) => {
                let classes = unit.classes().iter().chain(&found.classes);
                (classes.cloned().collect(), found.token)
            }
        };
        Self {
            address: unit.address().to_owned(),
            target: unit.key.target.clone(),
            base: unit.base.to_owned(),
            classes,
            token,
        }
    }
}
