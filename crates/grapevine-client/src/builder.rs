//! How a client is configured.

use std::time::Duration;

use crate::channel::LinkSettings;
use crate::client::Client;
use crate::error::ConfigError;
use crate::local::{CAPACITY_MAX, counts_suspension};
use crate::names::BATCH_MAX;
use crate::trace_context::{CurrentSpan, TraceContext};

/// Everything a client can be told. The defaults suit a sidecar on the same machine.
#[derive(Debug, Clone)]
pub struct ClientBuilder {
    pub(crate) endpoints: Vec<String>,
    pub(crate) settings: Settings,
    pub(crate) span: CurrentSpan,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) resolve_deadline: Duration,
    pub(crate) commit_deadline: Duration,
    pub(crate) turn_deadline: Duration,
    pub(crate) call_deadline: Duration,
    pub(crate) invalidate_timeout: Duration,
    pub(crate) invalidate_slack: Duration,
    pub(crate) link: LinkSettings,
    pub(crate) queue_max: usize,
    pub(crate) batch_max: usize,
    pub(crate) in_flight_max: usize,
    /// 0 to 1.
    pub(crate) audit: f64,
    pub(crate) audit_grace: Duration,
    pub(crate) report_every: Option<Duration>,
    /// How many entries a local table has; none has no table.
    pub(crate) local_table: Option<usize>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            resolve_deadline: Duration::from_millis(50),
            commit_deadline: Duration::from_secs(1),
            turn_deadline: Duration::from_secs(1),
            call_deadline: Duration::from_secs(5),
            invalidate_timeout: Duration::from_secs(5),
            invalidate_slack: Duration::from_millis(1_500),
            link: LinkSettings {
                connect_timeout: Duration::from_millis(500),
                backoff_min: Duration::from_millis(10),
                backoff_max: Duration::from_secs(1),
            },
            queue_max: 10_000,
            batch_max: BATCH_MAX,
            in_flight_max: 2,
            audit: 0.0,
            audit_grace: Duration::from_secs(10),
            report_every: Some(Duration::from_secs(10)),
            local_table: None,
        }
    }
}

const ABOVE_ZERO: &str = "above zero";

impl ClientBuilder {
    /// Starts with the own sidecar: `unix:/path`, `http://host:port` or `host:port`.
    pub fn new(own: impl Into<String>) -> Self {
        Self {
            endpoints: vec![own.into()],
            settings: Settings::default(),
            span: CurrentSpan::default(),
        }
    }

    /// Adds a sidecar that `invalidate`, and reads of an index, may fail over to when the own one does not answer. They are tried in
    /// order. Everything else is asked of the own sidecar only: another one's tokens would be true as well, but its fill leases
    /// and its distance are not the own one's.
    #[must_use]
    pub fn fail_over_to(mut self, other: impl Into<String>) -> Self {
        self.endpoints.push(other.into());
        self
    }

    /// How long a look-up may take, queueing included; then the caller reads the source. Default 50 ms. Raising it makes
    /// reads wait longer for a sidecar that hangs; lowering it sends more reads to the source when the machine is busy.
    #[must_use]
    pub fn resolve_deadline(mut self, deadline: Duration) -> Self {
        self.settings.resolve_deadline = deadline;
        self
    }

    /// How long a fill's commit may take; then its value is not stored. Default 1 s: it waits for a disk. The caller who filled
    /// and those who wait for its value wait for the commit too: raising it makes them wait longer for a sidecar that hangs.
    #[must_use]
    pub fn commit_deadline(mut self, deadline: Duration) -> Self {
        self.settings.commit_deadline = deadline;
        self
    }

    /// Where policy says `fill = "one"`: how much longer than it was asked to wait for a turn to fill the sidecar may take to
    /// answer. It is asked to wait for a second at a time, so that a caller who misses goes to the source within a second and
    /// this, however the sidecar fails; what it computes then is not stored. Default 1 s. Raising it makes misses wait longer
    /// for a sidecar that hangs; lowering it has more callers read the source when the machine is busy.
    #[must_use]
    pub fn turn_deadline(mut self, deadline: Duration) -> Self {
        self.settings.turn_deadline = deadline;
        self
    }

    /// How long every other call may take. Default 5 s.
    #[must_use]
    pub fn call_deadline(mut self, deadline: Duration) -> Self {
        self.settings.call_deadline = deadline;
        self
    }

    /// How long an invalidation waits for its receipt unless told otherwise; 1 ms to 60 s, default 5 s.
    #[must_use]
    pub fn invalidate_timeout(mut self, timeout: Duration) -> Self {
        self.settings.invalidate_timeout = timeout;
        self
    }

    /// How long beyond that a sidecar's answer is waited for before another sidecar is asked. Default 1.5 s: a sidecar
    /// whose disk has stalled says so a second after the timeout, and not that it is gone. An invalidation takes at most its timeout, this, and the wait of its session if it has one, for each sidecar.
    #[must_use]
    pub fn invalidate_slack(mut self, slack: Duration) -> Self {
        self.settings.invalidate_slack = slack;
        self
    }

    /// How often the reads of a [`CachedClient`](crate::CachedClient) tell the sidecar how they fared, for its metrics; `None` for never.
    /// Default 10 s.
    #[must_use]
    pub fn report_every(mut self, every: Option<Duration>) -> Self {
        self.settings.report_every = every;
        self
    }

    /// Keeps a local table of so many entries, each of a list of classes: what the sidecar answers is kept in this process, and a look-up
    /// that finds it there makes no call. Off by default. An entry takes 256 bytes; 65,536 of them hold what most applications
    /// read again and again. The number is rounded up to a power of two.
    ///
    /// Results and guarantees are the same: the sidecar tells the table of every change, leases it for no longer than it is fresh itself, and
    /// receipts wait for it. So a process whose tasks do not run (its runtime is blocked, it is stopped) makes invalidations with
    /// receipt `all` wait, for half of `freshness.max_staleness` and two seconds at most. Asked for the sidecar's own word are, as without a table,
    /// slices of lists, reads with a session or inside a database snapshot, misses, and whatever is not known or has no lease.
    ///
    /// Connect after `fork`, not before: a child that goes on without `exec` looks up in a copy of the table, under a copy of the lease, which
    /// nobody tells of changes while the parent acknowledges them. Let no such child read by this client.
    #[must_use]
    pub fn local_table(mut self, entries: usize) -> Self {
        self.settings.local_table = Some(entries);
        self
    }

    /// How long connecting may take. Default 500 ms.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.link.connect_timeout = timeout;
        self
    }

    /// How long a sidecar that failed is left alone: at first `min`, doubling up to `max`, each drawn between half and
    /// all of it. Default 10 ms to 1 s. Meanwhile reads go to the source at once.
    #[must_use]
    pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
        self.settings.link.backoff_min = min;
        self.settings.link.backoff_max = max;
        self
    }

    /// How many look-ups may wait for the sidecar; more are refused and their callers read the source. Default 10,000.
    #[must_use]
    pub fn resolve_queue_max(mut self, items: usize) -> Self {
        self.settings.queue_max = items;
        self
    }

    /// How many look-ups may travel in one RPC, 1 to 1,000, which is the default.
    #[must_use]
    pub fn resolve_batch_max(mut self, items: usize) -> Self {
        self.settings.batch_max = items;
        self
    }

    /// How many batches may be in flight, 1 to 64. Default 2: one more than needed, so that a slow one does not hold up
    /// the rest. Raising it makes batches smaller, which costs CPU on both sides: with 64 busy callers on two cores, 4
    /// gave half the look-ups per second that 1 or 2 gave.
    #[must_use]
    pub fn rpcs_in_flight_max(mut self, rpcs: usize) -> Self {
        self.settings.in_flight_max = rpcs;
        self
    }

    /// The share of hits that are audited, 0 to 1; default 0, none. For one in a thousand say 0.001. The caller's fill
    /// function runs for such a hit, in the caller's task, and its result is compared with the hit and thrown away; so
    /// that reader waits for the source as it would on a miss. At most 16 audits run at once and 100 begin in a second.
    /// What they find is counted ([`CacheStats::audit_mismatches`](crate::CacheStats::audit_mismatches)) and logged.
    /// A fill function that reads a lagging replica finds differences that are none: have it read the primary.
    #[must_use]
    pub fn audit(mut self, fraction: f64) -> Self {
        self.settings.audit = fraction;
        self
    }

    /// How long after an audit that found a difference an invalidation may still explain it. Default 10 s; to be longer
    /// than any writer takes from its commit to the receipt of its invalidation, the lease of a declared write included.
    /// Raising it makes a mismatch known later, and holds one of the 16 places longer.
    #[must_use]
    pub fn audit_grace(mut self, grace: Duration) -> Self {
        self.settings.audit_grace = grace;
        self
    }

    /// Has the client's calls be part of the application's traces: `current` tells the current span, or `None` if there is none.
    /// The sidecar then has the call, and what comes of it at every sidecar, in that trace, if it is sampled. With OpenTelemetry
    /// and `tracing`:
    ///
    /// ```ignore
    /// use std::collections::HashMap;
    ///
    /// use grapevine_client::{Client, TraceContext};
    /// use opentelemetry::propagation::TextMapPropagator as _;
    /// use opentelemetry_sdk::propagation::TraceContextPropagator;
    /// use tracing_opentelemetry::OpenTelemetrySpanExt as _;
    ///
    /// let client = Client::builder("unix:/run/grapevine/app.sock")
    ///     .trace_context(|| {
    ///         let mut fields = HashMap::new();
    ///         let span = tracing::Span::current().context();
    ///         TraceContextPropagator::new().inject_context(&span, &mut fields);
    ///         let state = fields.get("tracestate").map_or("", String::as_str);
    ///         TraceContext::new(fields.get("traceparent")?, state).ok()
    ///     })
    ///     .build()?;
    /// ```
    ///
    /// It is called once for each call that begins, in the caller's task, and every RPC that follows from the call carries what it
    /// said, also where another sidecar is asked, or a task in the background goes on. Calls that the application makes inside a
    /// fill function are calls of their own. So is each connecting of a [`Watch`](crate::Watch). The reports that a
    /// [`CachedClient`](crate::CachedClient) sends by itself are part of nobody's trace.
    ///
    /// Look-ups of several callers, and commits of their fills, may travel in one RPC. It carries the span of the first of them
    /// whose trace is sampled; if none is, that of the first that has any.
    ///
    /// It runs for every read, so it should be quick; and it must not wait, for it would hold up other tasks.
    #[must_use]
    pub fn trace_context(
        mut self,
        current: impl Fn() -> Option<TraceContext> + Send + Sync + 'static,
    ) -> Self {
        self.span = CurrentSpan::told_by(current);
        self
    }

    /// Checks the settings. Nothing is connected yet: that happens at the first call. Must be called inside a Tokio
    /// runtime, on which the connections will live.
    pub fn build(self) -> Result<Client, ConfigError> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(ConfigError::NoRuntime);
        }
        self.check()?;
        Client::open(&self)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let Settings { link, .. } = self.settings;
        let settings = self.settings;
        for (field, duration) in [
            ("resolve_deadline", settings.resolve_deadline),
            ("commit_deadline", settings.commit_deadline),
            ("turn_deadline", settings.turn_deadline),
            ("call_deadline", settings.call_deadline),
            ("connect_timeout", link.connect_timeout),
            ("backoff (min)", link.backoff_min),
        ] {
            ensure(
                !duration.is_zero(),
                field,
                &format!("{duration:?}"),
                ABOVE_ZERO,
            )?;
        }
        ensure(
            link.backoff_max >= link.backoff_min,
            "backoff (max)",
            &format!("{:?}", link.backoff_max),
            "at least the smallest pause",
        )?;
        ensure(
            (0.0..=1.0).contains(&settings.audit),
            "audit",
            &settings.audit.to_string(),
            "0 to 1",
        )?;
        let timeout = settings.invalidate_timeout;
        let in_range = (1..=60_000).contains(&timeout.as_millis());
        ensure(
            in_range,
            "invalidate_timeout",
            &format!("{timeout:?}"),
            "1 ms to 60 s",
        )?;
        if let Some(entries) = settings.local_table {
            let range =
                "1 to 67,108,864, on a system whose clock counts suspension (Linux, Apple's)";
            let fits = (1..=CAPACITY_MAX).contains(&entries) && counts_suspension();
            ensure(fits, "local_table", &entries.to_string(), range)?;
        }
        for (field, value, range, max) in [
            (
                "resolve_queue_max",
                settings.queue_max,
                ABOVE_ZERO,
                usize::MAX,
            ),
            (
                "resolve_batch_max",
                settings.batch_max,
                "1 to 1,000",
                BATCH_MAX,
            ),
            ("rpcs_in_flight_max", settings.in_flight_max, "1 to 64", 64),
        ] {
            ensure((1..=max).contains(&value), field, &value.to_string(), range)?;
        }
        Ok(())
    }
}

fn ensure(
    holds: bool,
    field: &'static str,
    value: &str,
    range: &'static str,
) -> Result<(), ConfigError> {
    if holds {
        return Ok(());
    }
    Err(ConfigError::BadSetting {
        field,
        value: value.to_owned(),
        range,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const OWN: &str = "127.0.0.1:7600";

    #[tokio::test]
    async fn wrong_settings_are_named_with_their_range() {
        for (builder, field) in [
            (
                ClientBuilder::new(OWN).resolve_deadline(Duration::ZERO),
                "resolve_deadline",
            ),
            (
                ClientBuilder::new(OWN).turn_deadline(Duration::ZERO),
                "turn_deadline",
            ),
            (
                ClientBuilder::new(OWN).invalidate_timeout(Duration::from_secs(61)),
                "invalidate_timeout",
            ),
            (
                ClientBuilder::new(OWN).resolve_batch_max(1_001),
                "resolve_batch_max",
            ),
            (ClientBuilder::new(OWN).local_table(0), "local_table"),
            (
                ClientBuilder::new(OWN).local_table(CAPACITY_MAX + 1),
                "local_table",
            ),
            (ClientBuilder::new(OWN).audit(1.5), "audit"),
            (ClientBuilder::new(OWN).audit(f64::NAN), "audit"),
            (
                ClientBuilder::new(OWN).rpcs_in_flight_max(0),
                "rpcs_in_flight_max",
            ),
            (
                ClientBuilder::new(OWN).backoff(Duration::from_secs(2), Duration::from_secs(1)),
                "backoff (max)",
            ),
        ] {
            let error = builder.build().unwrap_err();
            assert!(
                matches!(&error, ConfigError::BadSetting { field: named, .. } if *named == field),
                "{error}"
            );
        }
        let error = ClientBuilder::new(OWN)
            .fail_over_to("nonsense")
            .build()
            .unwrap_err();
        assert!(error.to_string().contains("nonsense"), "{error}");
        ClientBuilder::new(OWN).build().unwrap();
    }

    #[test]
    fn a_client_without_a_runtime_is_refused() {
        assert_eq!(
            ClientBuilder::new(OWN).build().unwrap_err(),
            ConfigError::NoRuntime
        );
    }
}
