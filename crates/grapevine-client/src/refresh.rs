//! Stale while revalidate: after a soft invalidation, and for as long as policy allows, a reader is given the value from
//! before at once, and one task of this process computes the new one.
//!
//! The sidecar says which tokens a value may carry that soft bumps alone have replaced. What is computed goes under the present
//! token, as always, and where policy says `fill = "one"` the task asks for its turn first: then one process in the
//! cluster reads the source.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::cached::{CachedClient, check_ttl, owned};
use crate::fence::FlightKey;
use crate::fill::Fill;
use crate::outcome::{GetError, GetOutcome};
use crate::trace_context::{done_for, of_the_application, of_this_call};

/// The most values that a client and its clones compute anew in the background at a time. At it, what is stale is served and
/// left to a later reader.
const REVALIDATIONS_MAX: usize = 256;

/// What getting a value came to.
pub(crate) enum Got {
    /// It is what the look-up asked for, or the source gave it.
    Current(GetOutcome),
    /// It is stale, and the fill function has not run.
    Stale(GetOutcome, Arc<FlightKey>),
}

/// The values that are being computed anew.
#[derive(Debug, Default)]
pub(crate) struct Revalidations(Arc<Mutex<HashSet<Arc<FlightKey>>>>);

/// One of them; it ends when this is dropped.
struct Revalidation {
    all: Arc<Mutex<HashSet<Arc<FlightKey>>>>,
    key: Arc<FlightKey>,
}

impl Revalidations {
    /// Begins one, unless it is under way already or there are too many.
    fn begin(&self, key: Arc<FlightKey>) -> Option<Revalidation> {
        let mut all = self.0.lock();
        if all.len() >= REVALIDATIONS_MAX || !all.insert(Arc::clone(&key)) {
            return None;
        }
        let all = Arc::clone(&self.0);
        Some(Revalidation { all, key })
    }
}

impl Drop for Revalidation {
    fn drop(&mut self) {
        self.all.lock().remove(&self.key);
    }
}

impl CachedClient {
    /// As [`CachedClient::get_or_fill`], but that a value which a soft invalidation has replaced is given at once where policy
    /// allows it (`stale_while_revalidate`), with [`How::Stale`](crate::How::Stale), and `fill` runs in a task of its own if nobody
    /// in this process runs it for that value yet. What comes of it is stored; an error of it is counted
    /// ([`CacheStats::fill_errors`](crate::CacheStats::fill_errors)) and leaves it to the next reader. With a
    /// [session](CachedClient::session) nothing stale is given.
    ///
    /// A value with dependencies ([`Fill::depends_on`]) is never given stale.
    pub async fn get_or_refresh<C, E, F, Fut>(
        &self,
        address: &str,
        classes: &[C],
        ttl: Option<Duration>,
        fill: F,
    ) -> Result<GetOutcome, GetError<E>>
    where
        C: AsRef<str>,
        E: Send + Sync + 'static,
        F: FnOnce(Fill) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Bytes, E>> + Send + 'static,
    {
        check_ttl(ttl)?;
        let classes = owned(classes);
        let fill = |handle| of_the_application(fill(handle));
        let got = self.get_and_refresh(address, classes, ttl, fill);
        self.client().traced(got).await
    }

    async fn get_and_refresh<E, F, Fut>(
        &self,
        address: &str,
        classes: Vec<String>,
        ttl: Option<Duration>,
        fill: F,
    ) -> Result<GetOutcome, GetError<E>>
    where
        E: Send + Sync + 'static,
        F: FnOnce(Fill) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Bytes, E>> + Send + 'static,
    {
        let mut fill = Some(fill);
        let (outcome, key) = match self.get(address, &classes, ttl, &mut fill, true).await? {
            Got::Current(outcome) => return Ok(outcome),
            Got::Stale(outcome, key) => (outcome, key),
        };
        if let Some(under_way) = self.shared().revalidations.begin(key) {
            self.shared().counters.revalidations.increment();
            let (this, address) = (self.clone(), address.to_owned());
            let refreshed = async move {
                let _under_way = under_way;
                let fresh = this.get(&address, &classes, ttl, &mut fill, false).await;
                if let Err(error) = fresh {
                    let invalid = matches!(error, GetError::Invalid(_));
                    tracing::debug!(address, invalid, "a stale value was not computed anew");
                }
            };
            tokio::spawn(done_for(of_this_call(), refreshed));
        }
        Ok(outcome)
    }
}
