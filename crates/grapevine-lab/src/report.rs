//! What a replay tells: one line of JSON with a fixed set of fields, a table for people, and the list of what was not as it
//! should be, which decides the exit status.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::arm::Arm;
use crate::auditor::Tally;
use crate::converge::Convergence;
use crate::histogram::SummaryMs;

/// The least share of the oracle's hit ratio that is good enough.
pub const HIT_SHARE_MIN: f64 = 0.95;

/// The figures of one replay. Its fields are those of the JSON line, in their order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The arm.
    pub strategy: String,
    /// Reads that ended with a value.
    pub reads: u64,
    /// Reads for which the source was not asked, those that waited for another reader's fill included. It is the source that
    /// counts, and not the client.
    pub hits: u64,
    /// Hits by reads; 0 without reads.
    pub hit_ratio: f64,
    /// The same of a cache with perfect invalidation, on the same sequence.
    pub oracle_hit_ratio: f64,
    /// Reads that passed the cache by, because policy or the client said so.
    pub bypasses: u64,
    /// Reads that had to ask the source for an address whose last fill, by any node, had ended before they began and had
    /// shown exactly what the source still held: the cache was given a current value, and it was invalidated or refused all the same.
    ///
    /// Counted are: bumps that cover more than was written; values that push each other out of a bucket; values whose time to
    /// live ended; fills that showed a commit already and were refused by the bump that told of it; evictions, for which the
    /// caches of a replay are too large unless it bounds their memory. Bypassed reads have a count of their own, and are not among them.
    pub over_invalidations: u64,
    /// Writes to the source.
    pub writes: u64,
    /// Writes that were told to the cache, or to Grapevine, successfully.
    pub invalidations: u64,
    /// Addresses deleted because of a write, as far as the answers told.
    pub addresses_purged: u64,
    /// Reads given what they were promised not to get.
    pub stale_reads: u64,
    /// Reads given a value that was older than the latest commit when they began.
    pub lagging_reads: u64,
    /// Median age of those values, in milliseconds; 0 if there were none.
    pub lag_ms_p50: f64,
    /// 99th percentile of the same.
    pub lag_ms_p99: f64,
    /// Maximum of the same.
    pub lag_ms_max: f64,
    /// Median time from an invalidation call to the last sidecar's having applied it, in milliseconds; null without sidecars.
    pub converge_ms_p50: Option<f64>,
    /// 99th percentile of the same.
    pub converge_ms_p99: Option<f64>,
    /// Maximum of the same.
    pub converge_ms_max: Option<f64>,
    /// Seconds from the first operation to the last.
    pub elapsed_s: f64,
    /// Reads by seconds.
    pub reads_per_s: f64,
}

/// What the workers counted.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// The auditor's verdicts.
    pub tally: Tally,
    /// See [`Report::hits`].
    pub hits: u64,
    /// See [`Report::bypasses`].
    pub bypasses: u64,
    /// See [`Report::over_invalidations`].
    pub over_invalidations: u64,
    /// See [`Report::writes`].
    pub writes: u64,
    /// See [`Report::invalidations`].
    pub invalidations: u64,
    /// See [`Report::addresses_purged`].
    pub addresses_purged: u64,
    /// Reads that ended with an error.
    pub failed_reads: u64,
    /// Writes whose invalidation ended with an error, or with a receipt that was not satisfied.
    pub failed_writes: u64,
    /// Reads that were given a value of another address, place or length.
    pub wrong_values: u64,
    /// Queries of the source that were made for reads.
    pub source_reads: u64,
    /// Reads whose access said something else of their origin than the source did.
    pub misreported: u64,
    /// Writes whose session token was absent, or could not be kept.
    pub lost_tokens: u64,
}

impl Counts {
    /// Adds another worker's counts.
    pub fn merge(&mut self, other: &Self) {
        self.tally.merge(&other.tally);
        self.hits += other.hits;
        self.bypasses += other.bypasses;
        self.over_invalidations += other.over_invalidations;
        self.writes += other.writes;
        self.invalidations += other.invalidations;
        self.addresses_purged += other.addresses_purged;
        self.failed_reads += other.failed_reads;
        self.failed_writes += other.failed_writes;
        self.wrong_values += other.wrong_values;
        self.source_reads += other.source_reads;
        self.misreported += other.misreported;
        self.lost_tokens += other.lost_tokens;
    }
}

/// A replay that has ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The arm.
    pub arm: Arm,
    /// What the workers counted.
    pub counts: Counts,
    /// The oracle's reads and hits.
    pub oracle_reads_and_hits: (u64, u64),
    /// Queries of the source, as itself counted them.
    pub source_queries: u64,
    /// Convergence as median, 99th percentile and maximum in milliseconds, if there were sidecars.
    pub converge_ms: Option<SummaryMs>,
    /// Events whose convergence could not be told.
    pub converge_incomplete: u64,
    /// From the first operation to the last.
    pub elapsed: Duration,
    /// The longest that a value may be served after it became old, for [`Arm::Ttl`].
    pub ttl: Duration,
    /// Whether the cache has room for all that is stored, as the oracle's has: only then the oracle's hits can be asked for.
    pub roomy: bool,
}

impl Outcome {
    /// Notes convergence.
    pub fn set_convergence(&mut self, convergence: &Convergence) {
        self.converge_ms = convergence.times().summary_ms();
        self.converge_incomplete = convergence.incomplete();
    }

    /// The figures.
    pub fn report(&self) -> Report {
        let counts = &self.counts;
        let lag = counts.tally.age.summary_ms().map(SummaryMs::rounded);
        let converge = self.converge_ms.map(SummaryMs::rounded);
        let elapsed_s = self.elapsed.as_secs_f64();
        let (oracle_reads, oracle_hits) = self.oracle_reads_and_hits;
        Report {
            strategy: self.arm.to_string(),
            reads: counts.tally.reads,
            hits: counts.hits,
            hit_ratio: rounded(ratio(counts.hits, counts.tally.reads), 6),
            oracle_hit_ratio: rounded(ratio(oracle_hits, oracle_reads), 6),
            bypasses: counts.bypasses,
            over_invalidations: counts.over_invalidations,
            writes: counts.writes,
            invalidations: counts.invalidations,
            addresses_purged: counts.addresses_purged,
            stale_reads: counts.tally.stale,
            lagging_reads: counts.tally.lagging,
            lag_ms_p50: lag.map_or(0.0, |lag| lag.p50),
            lag_ms_p99: lag.map_or(0.0, |lag| lag.p99),
            lag_ms_max: lag.map_or(0.0, |lag| lag.max),
            converge_ms_p50: converge.map(|converge| converge.p50),
            converge_ms_p99: converge.map(|converge| converge.p99),
            converge_ms_max: converge.map(|converge| converge.max),
            elapsed_s: rounded(elapsed_s, 3),
            reads_per_s: if elapsed_s > 0.0 {
                rounded(as_f64(counts.tally.reads) / elapsed_s, 1)
            } else {
                0.0
            },
        }
    }

    /// What is not as it should be, one sentence each; none when all is well.
    pub fn failures(&self) -> Vec<String> {
        let counts = &self.counts;
        let mut failures = Vec::new();
        if counts.tally.reads == 0 {
            failures.push("no read was judged".to_owned());
        }
        for (count, what) in [
            (counts.tally.stale, "stale reads"),
            (counts.wrong_values, "wrong values"),
            (counts.tally.ahead, "values that nobody wrote"),
            (counts.failed_reads, "reads failed"),
            (counts.failed_writes, "invalidations failed"),
            (
                counts.lost_tokens,
                "session tokens that could not be kept: later reads were not shown to be owed those writes",
            ),
            (
                counts.misreported,
                "reads came from elsewhere than the client said",
            ),
        ] {
            if count > 0 {
                failures.push(format!("{count} {what}"));
            }
        }
        if counts.source_reads != self.source_queries {
            failures.push(format!(
                "hits do not add up: the source was asked {} times, {} times of these by a read",
                self.source_queries, counts.source_reads
            ));
        }
        failures.extend(self.too_old_or_too_few_hits());
        failures
    }

    fn too_old_or_too_few_hits(&self) -> Option<String> {
        if self.arm == Arm::TtlAlone {
            // Nobody promises anything: a value may be older than its time to live by what its fill took.
            return None;
        }
        if self.arm == Arm::Ttl {
            let oldest = self.counts.tally.oldest();
            return (oldest > self.ttl)
                .then(|| format!("a value {oldest:?} old, the time to live is {:?}", self.ttl));
        }
        let report = self.report();
        (self.roomy && report.hit_ratio < HIT_SHARE_MIN * report.oracle_hit_ratio).then(|| {
            format!(
                "hit ratio {:.4}, below {HIT_SHARE_MIN} of the oracle's {:.4}",
                report.hit_ratio, report.oracle_hit_ratio
            )
        })
    }
}

impl Report {
    /// The line of JSON, without its line end.
    pub fn json_line(&self) -> String {
        serde_json::to_string(self).expect("invariant: numbers and strings are always JSON")
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_BORDERS_ONLY);
        let fields = serde_json::to_value(self).expect("invariant: as in json_line");
        for (name, value) in FIELDS.iter().map(|name| (name, &fields[*name])) {
            table.add_row([(*name).to_owned(), human(value)]);
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }
}

/// The report's fields, in the order of the JSON line.
pub const FIELDS: [&str; 20] = [
    "strategy",
    "reads",
    "hits",
    "hit_ratio",
    "oracle_hit_ratio",
    "bypasses",
    "over_invalidations",
    "writes",
    "invalidations",
    "addresses_purged",
    "stale_reads",
    "lagging_reads",
    "lag_ms_p50",
    "lag_ms_p99",
    "lag_ms_max",
    "converge_ms_p50",
    "converge_ms_p99",
    "converge_ms_max",
    "elapsed_s",
    "reads_per_s",
];

fn human(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "-".to_owned(),
        serde_json::Value::String(text) => text.clone(),
        number => match number.as_u64() {
            Some(whole) => whole.to_string(),
            None => format!("{:.4}", number.as_f64().unwrap_or_default()),
        },
    }
}

/// Digits beyond what was measured are noise in the line.
pub(crate) fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        as_f64(part) / as_f64(whole)
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "counts of a run lie far below 2^53"
)]
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::auditor::Verdict;

    fn outcome(arm: Arm, hits: u64, verdicts: &[Verdict]) -> Outcome {
        let mut counts = Counts {
            hits,
            ..Counts::default()
        };
        for _ in 0..100 {
            counts.tally.count(Verdict::Fresh);
        }
        for verdict in verdicts {
            counts.tally.count(*verdict);
        }
        Outcome {
            arm,
            counts,
            oracle_reads_and_hits: (100, 80),
            source_queries: 0,
            converge_ms: None,
            converge_incomplete: 0,
            elapsed: Duration::from_secs(2),
            ttl: Duration::from_mins(1),
            roomy: true,
        }
    }

    fn stale() -> Verdict {
        Verdict::Stale {
            age: Duration::from_millis(1),
        }
    }

    fn lagging(seconds: u64) -> Verdict {
        Verdict::Lagging {
            age: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn the_line_has_exactly_its_fields_in_order() {
        let line = outcome(Arm::Versioned, 80, &[]).report().json_line();
        assert!(!line.contains('\n'));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value.as_object().unwrap().len(), FIELDS.len());
        let places: Vec<usize> = FIELDS
            .iter()
            .map(|name| {
                line.find(&format!("\"{name}\":"))
                    .unwrap_or_else(|| panic!("{name}"))
            })
            .collect();
        assert!(places.is_sorted(), "{line}");
    }

    #[test]
    fn the_figures_are_those_counted() {
        let report = outcome(Arm::Bucketed(8), 75, &[lagging(3), stale()]).report();
        assert_eq!(report.strategy, "bucketed(8)");
        assert_eq!(
            (report.reads, report.stale_reads, report.lagging_reads),
            (102, 1, 2)
        );
        assert!((report.hit_ratio - 75.0 / 102.0).abs() < 1e-6);
        assert!((report.oracle_hit_ratio - 0.8).abs() < 1e-9);
        assert!((report.lag_ms_max - 3_000.0).abs() < 1e-6);
        assert!((report.reads_per_s - 51.0).abs() < 1e-9);
        assert_eq!(report.converge_ms_max, None);
        let line = report.json_line();
        assert!(line.contains("\"hit_ratio\":0.735294,"), "{line}");
    }

    #[test]
    fn a_good_run_has_no_failures() {
        assert_eq!(
            outcome(Arm::Versioned, 80, &[]).failures(),
            Vec::<String>::new()
        );
        assert_eq!(
            outcome(Arm::Versioned, 77, &[]).failures(),
            Vec::<String>::new()
        );
        assert_eq!(
            outcome(Arm::Ttl, 10, &[lagging(60)]).failures(),
            Vec::<String>::new()
        );
    }

    #[test]
    fn every_fault_is_named() {
        let fails = |outcome: Outcome, word: &str| {
            let failures = outcome.failures();
            assert!(
                failures.len() == 1 && failures[0].contains(word),
                "{failures:?}"
            );
        };
        fails(outcome(Arm::Registered, 80, &[stale()]), "1 stale reads");
        fails(outcome(Arm::Registered, 75, &[]), "hit ratio 0.7500");
        fails(outcome(Arm::BypassAll, 0, &[]), "hit ratio 0.0000");
        fails(outcome(Arm::Ttl, 80, &[lagging(61)]), "61s old");
        fails(
            outcome(Arm::Versioned, 90, &[Verdict::Ahead]),
            "nobody wrote",
        );
        let mut broken = outcome(Arm::Versioned, 80, &[]);
        broken.counts.wrong_values = 1;
        broken.counts.failed_reads = 2;
        broken.counts.failed_writes = 3;
        assert_eq!(broken.failures().len(), 3);
        let mut lost = outcome(Arm::Versioned, 80, &[]);
        lost.counts.lost_tokens = 2;
        fails(lost, "2 session tokens");
        let mut lying = outcome(Arm::Versioned, 80, &[]);
        lying.counts.misreported = 4;
        fails(lying, "4 reads came from elsewhere");
        let mut hidden = outcome(Arm::Versioned, 80, &[]);
        hidden.counts.source_reads = 20;
        hidden.source_queries = 21;
        fails(
            hidden,
            "hits do not add up: the source was asked 21 times, 20",
        );
    }

    #[test]
    fn the_table_shows_every_field() {
        let table = outcome(Arm::Versioned, 80, &[]).report().table();
        assert!(FIELDS.iter().all(|name| table.contains(name)), "{table}");
    }
}
