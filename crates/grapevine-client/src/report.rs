//! Reports of how reads fared, for the sidecar's metrics.
//!
//! A read sends one if the last one is long enough ago, beside its own work and without waiting for it. What a report that gets no
//! answer would have told, the next one tells: a number may be counted twice if only the answer was lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use grapevine_proto::v1;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::cached::CachedClient;
use crate::channel::Gated;
use crate::client::Client;
use crate::error::CallError;
use crate::stats::CacheStats;
use crate::trace_context::done_for;

/// What was reported, and when the next report is due.
#[derive(Debug)]
pub(crate) struct Reports {
    begun: Instant,
    /// Milliseconds from then; `u64::MAX` for never.
    due: AtomicU64,
    every: Option<Duration>,
    told: Mutex<v1::ReportReadsRequest>,
}

impl Reports {
    pub(crate) fn new(every: Option<Duration>) -> Self {
        let due = every.map_or(u64::MAX, as_millis);
        Self {
            begun: Instant::now(),
            due: AtomicU64::new(due),
            every,
            told: Mutex::default(),
        }
    }

    /// Whether one is due, which is so for one of all that ask.
    fn is_due(&self) -> bool {
        let Some(every) = self.every else {
            return false;
        };
        let now = as_millis(self.begun.elapsed());
        let due = self.due.load(Ordering::Relaxed);
        let next = now.saturating_add(as_millis(every).max(1));
        let take = || {
            let order = Ordering::Relaxed;
            self.due.compare_exchange(due, next, order, order).is_ok()
        };
        now >= due && take()
    }
}

fn as_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What was taken for told, and is not unless this is emptied.
struct Untold<'a> {
    reports: &'a Reports,
    reads: Option<v1::ReportReadsRequest>,
}

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        if let Some(reads) = &self.reads {
            let mut told = self.reports.told.lock();
            *told = combined(&told, reads, u64::saturating_sub);
        }
    }
}

/// What a report would tell of all that was ever done.
fn so_far(stats: &CacheStats) -> v1::ReportReadsRequest {
    v1::ReportReadsRequest {
        hits: stats.hits,
        misses: stats.misses,
        stale_served: stats.stale_served,
        bypasses: stats.bypasses(),
        audits: stats.audits,
        audit_mismatches: stats.audit_mismatches,
    }
}

fn combined(
    one: &v1::ReportReadsRequest,
    other: &v1::ReportReadsRequest,
    with: fn(u64, u64) -> u64,
) -> v1::ReportReadsRequest {
    v1::ReportReadsRequest {
        hits: with(one.hits, other.hits),
        misses: with(one.misses, other.misses),
        stale_served: with(one.stale_served, other.stale_served),
        bypasses: with(one.bypasses, other.bypasses),
        audits: with(one.audits, other.audits),
        audit_mismatches: with(one.audit_mismatches, other.audit_mismatches),
    }
}

impl Client {
    /// Tells the own sidecar how reads fared since the last time: for its metrics. A
    /// [`CachedClient`] does so by itself; this is for whoever keeps caches in another way.
    pub async fn report_reads(&self, reads: v1::ReportReadsRequest) -> Result<(), CallError> {
        let link = self.own();
        let mut application = link.application();
        let call = application.report_reads(reads);
        let deadline = self.settings().call_deadline;
        link.call(Gated::AsWork, deadline, call).await.map(|_| ())
    }
}

impl CachedClient {
    /// Tells the own sidecar how this client's reads, and its clones', fared since the last report, as it does by itself every ten seconds while it
    /// reads ([`ClientBuilder::report_every`](crate::ClientBuilder::report_every)). At the end of a program it tells what is left.
    pub async fn report(&self) -> Result<(), CallError> {
        let reports = &self.shared().reports;
        let reads = {
            let mut told = reports.told.lock();
            let now = so_far(&self.stats());
            let new = combined(&now, &told, u64::saturating_sub);
            *told = now;
            new
        };
        if reads == v1::ReportReadsRequest::default() {
            return Ok(());
        }
        // Unless it arrives, the next one tells it; also if nobody waits for this one any more.
        let mut untold = Untold {
            reports,
            reads: Some(reads),
        };
        self.shared().client.report_reads(reads).await?;
        untold.reads = None;
        Ok(())
    }

    /// Sends a report, if one is due, beside whatever else is done.
    pub(crate) fn report_if_due(&self) {
        if self.shared().reports.is_due() {
            let client = self.clone();
            // One that fails is told with the next.
            let report = async move { client.report().await };
            // It tells of many reads, and is part of nobody's trace.
            tokio::spawn(done_for(None, report));
        }
    }
}
