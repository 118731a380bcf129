//! What a sidecar tells about itself: log lines on standard error (`lines`), counters, and what OpenTelemetry makes of them and of
//! calls: metrics (`metrics`, `readings`, `scrape`) and traces (`traces`, `rpc`), which go where the standard variables say (`otel`).
//!
//! Counters are numbers since start with stable names in snake case; `Status` answers them all, zeros included, so that a
//! script may rely on a name being there. The machine counts its own decisions (`grapevine_core`), and `Status` tells both. They are added to from every thread without a lock, each on its own cache line.

mod bursts;
mod lines;
pub(crate) mod metrics;
pub(crate) mod otel;
pub(crate) mod readings;
pub(crate) mod rpc;
pub(crate) mod scrape;
pub(crate) mod traces;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogConfig, LogFormat};
use bursts::Bursts;
pub use lines::LogGuard;

/// Why logging could not be set up.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The filter is not one. A checked [`LogConfig`] holds only legal ones.
    #[error("log.filter {value:?}: {cause}")]
    Filter {
        /// As written.
        value: String,
        /// What is wrong with it.
        cause: tracing_subscriber::filter::ParseError,
    },
    /// The thread that writes the lines could not be started.
    #[error("cannot start the thread that writes the log")]
    Thread(#[source] std::io::Error),
}

/// Sends log lines to standard error. In a process that already logs (tests, or a program that links this library) it
/// changes nothing and is no error. Lines are written by a thread of their own, so that a reader who does not read holds
/// nothing up; what was logged last is written when the guard is dropped, if there is one, for it took effect.
pub fn init(config: &LogConfig) -> Result<Option<LogGuard>, TelemetryError> {
    let filter =
        EnvFilter::try_new(config.filter.as_str()).map_err(|cause| TelemetryError::Filter {
            value: config.filter.as_str().to_owned(),
            cause,
        })?;
    let registry = tracing_subscriber::registry().with(filter);
    let (writer, guard) =
        lines::spawn(std::io::stderr(), config.format).map_err(TelemetryError::Thread)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let done = match config.format {
        LogFormat::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            registry.with(lines.with_ansi(colours)).try_init()
        }
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    Ok(done.is_ok().then_some(guard))
}

/// What one counter counts.
#[derive(Clone, Copy, Debug)]
pub struct CounterInfo {
    /// Its stable name.
    pub name: &'static str,
    /// What it counts.
    pub doc: &'static str,
}

macro_rules! counters {
    ($( #[doc = $doc:literal] $variant:ident = $name:literal, )+) => {
        /// A counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Counter {
            $( #[doc = $doc] $variant, )+
        }

        /// Every counter, in the order of [`Counter`].
        pub static COUNTERS: &[CounterInfo] = &[
            $( CounterInfo { name: $name, doc: $doc.trim_ascii() }, )+
        ];
    };
}

counters! {
    /// Log lines dropped because nobody read them in time.
    LogLinesDropped = "log_lines_dropped",
    /// Addresses resolved.
    Resolves = "resolves",
    /// Resolved addresses for which policy said bypass, freshness being unknown.
    ResolvesBypassed = "resolves_bypassed",
    /// Values that clients have reported as served from a cache.
    ClientHits = "client_hits",
    /// Values that clients have reported as not in a cache, or not to be served from it.
    ClientMisses = "client_misses",
    /// Values that clients have reported as served although a soft invalidation had replaced them.
    ClientStaleServed = "client_stale_served",
    /// Reads that clients have reported as gone to the source, with nothing stored.
    ClientBypasses = "client_bypasses",
    /// Hits that clients have reported as computed anew and compared.
    ClientAudits = "client_audits",
    /// Of those, how many differed from the source while this sidecar vouched for them.
    AuditMismatches = "audit_mismatches",
    /// Fills that were accepted: their values may be stored.
    FillsCommitted = "fills_committed",
    /// Fills that were condemned: a bump overtook them, or their lease had ended.
    FillsCondemned = "fills_condemned",
    /// Invalidations answered with the receipt that was asked for.
    ReceiptsSatisfied = "receipts_satisfied",
    /// Invalidations answered at their deadline without the receipt that was asked for.
    ReceiptsMissed = "receipts_missed",
    /// Messages to peers dropped because a link's queue was full; repaired by pulls.
    PushesDropped = "pushes_dropped",
    /// Connections to peers opened.
    PeerConnects = "peer_connects",
    /// Peers refused: another cluster, another protocol, or a node id used twice.
    PeerRejected = "peer_rejected",
    /// Connections closed because `limits.connections_max` were open: a new one at once, of probes the oldest.
    ConnectionsRefused = "connections_refused",
    /// Links to and from peers that ended by an error.
    PeerLinksBroken = "peer_links_broken",
    /// Messages of peers that were malformed.
    PeerMessagesRefused = "peer_messages_refused",
    /// Calls refused because a queue or a limit was full.
    IntakeRejected = "intake_rejected",
    /// Addresses deleted from a cache or marked stale there.
    PurgeDeleted = "purge_deleted",
    /// Addresses that were to be deleted and were not there.
    PurgeAbsent = "purge_absent",
    /// Deletes of one address that failed, each attempt counted.
    PurgeFailed = "purge_failed",
    /// Deletes of one address tried again, each attempt counted.
    PurgeRetried = "purge_retried",
    /// Addresses given up: their value ended by itself, or too many were waiting to be tried again.
    PurgeExpired = "purge_expired",
    /// Addresses never tried because the queue of a cache was full.
    PurgeDropped = "purge_dropped",
    /// Watchers that fell behind and got a RESYNC marker.
    WatchResyncs = "watch_resyncs",
    /// Local tables that were told that everything changed, because their clients did not read.
    TablesOverrun = "tables_overrun",
    /// Groups of writes flushed to disk.
    StoreCommits = "store_commits",
    /// Writes flushed to disk.
    StoreWrites = "store_writes",
    /// Spans that the collector took.
    SpansExported = "spans_exported",
    /// Spans dropped: the collector did not take them, or too many were waiting for it.
    SpansDropped = "spans_dropped",
    /// Traces of events, carried by peers' messages, that were malformed and left out.
    PeerTracesMalformed = "peer_traces_malformed",
    /// Events whose trace was given up for newer ones within a minute.
    TracedEventsForgotten = "traced_events_forgotten",
}

/// One number on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Number(AtomicU64);

/// The counters of one sidecar.
#[derive(Debug)]
pub struct Counters {
    numbers: Vec<Number>,
    /// What the log was told of limits. Taken only at a limit, and for a moment.
    bursts: Mutex<Bursts>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            numbers: COUNTERS.iter().map(|_| Number::default()).collect(),
            bursts: Mutex::default(),
        }
    }
}

impl Counters {
    /// All at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one.
    pub fn inc(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Counts so many.
    pub fn add(&self, counter: Counter, count: u64) {
        if count > 0 {
            self.numbers[counter as usize]
                .0
                .fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Counts the elements of something.
    pub fn add_len(&self, counter: Counter, count: usize) {
        self.add(counter, u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// Counts a call that was refused at a limit, and tells the log of it, once a burst.
    pub(crate) fn refused(&self, limit: &'static str) {
        self.inc(Counter::IntakeRejected);
        self.at_limit((limit, ""), "calls are refused", 1);
    }

    /// Tells the log, once a burst, that a limit was met so many times: its key, the top-level class that it concerns (or
    /// nothing), and what was done about it.
    pub(crate) fn at_limit(&self, limit: (&'static str, &str), what: &'static str, count: u64) {
        if count > 0 {
            self.bursts.lock().note(limit, what, count, Instant::now());
        }
    }

    /// Sums up bursts that are over. To be called about every second.
    pub(crate) fn review_limits(&self) {
        self.bursts.lock().review(Instant::now());
    }

    /// Its number.
    pub fn get(&self, counter: Counter) -> u64 {
        self.numbers[counter as usize].0.load(Ordering::Relaxed)
    }

    /// Every counter: its name, what it counts, and its number. Each is exact; together they are of slightly different moments.
    pub fn by_name(&self) -> Vec<(&'static str, &'static str, u64)> {
        let told = COUNTERS.iter().zip(&self.numbers).map(|(info, number)| {
            let number = match info.name {
                // Counted where there are no counters yet: lines are the process's.
                "log_lines_dropped" => lines::dropped(),
                _ => number.0.load(Ordering::Relaxed),
            };
            (info.name, info.doc, number)
        });
        told.collect()
    }
}

impl Counter {
    /// Its name and what it counts.
    pub fn info(self) -> CounterInfo {
        COUNTERS[self as usize]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::collections::BTreeMap;

    use super::*;
    use crate::config;

    #[test]
    fn counters_have_distinct_snake_case_names_and_are_all_told() {
        let counters = Counters::new();
        counters.inc(Counter::Resolves);
        counters.add(Counter::StoreWrites, 3);
        counters.add_len(Counter::PurgeDeleted, 2);
        let told = counters.by_name().into_iter();
        let snapshot: BTreeMap<_, _> = told.map(|(name, _, number)| (name, number)).collect();
        assert_eq!(snapshot.len(), COUNTERS.len(), "names are distinct");
        assert_eq!(snapshot["resolves"], 1);
        assert_eq!(snapshot["store_writes"], 3);
        assert_eq!(snapshot["purge_deleted"], 2);
        assert_eq!(counters.get(Counter::StoreWrites), 3);
        assert_eq!(Counter::PurgeDeleted.info().name, "purge_deleted");
        for info in COUNTERS {
            assert!(
                info.name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            );
            assert!(info.doc.ends_with('.'), "{}: {}", info.name, info.doc);
        }
    }

    #[test]
    fn logging_is_set_up_once_and_asking_again_is_no_error() {
        // Off, for it holds for every test of this process.
        let environment = [("GRAPEVINE_LOG_FILTER".into(), "off".into())];
        let mut config = config::load(None, environment).unwrap().config.log;
        init(&config).unwrap();
        config.format = LogFormat::Json;
        assert!(init(&config).unwrap().is_none());
    }
}
