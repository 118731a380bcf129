//! The table at the demo's end, for people and for scripts, and what of it is not as it should be.
//!
//! Reads, hits and the oracle's hits are those of the customers, all three of the same reads. Ages and stale reads are of
//! everything that the auditor judged, the reads of cart 13's story included.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::load::Figures;
use super::scenario::{Scenario, TTL};
use super::screen::{count, ms, percent};
use crate::auditor::Tally;
use crate::converge::Convergence;
use crate::histogram::Histogram;
use crate::report::{HIT_SHARE_MIN, ratio, rounded};

/// What the star in the table says.
pub(super) const NOTE: &str = "* Not held to the oracle's hits: while a sidecar is gone nobody can vouch for freshness, and the policy says to bypass the cache then.";

/// One row of the table.
pub(super) struct Row {
    pub(super) scenario: Scenario,
    pub(super) name: String,
    /// All reads of the chapter, those of cart 13's story included.
    pub(super) judged: Tally,
    pub(super) figures: Figures,
    /// Addresses in the cache at the end; nothing around the kill.
    pub(super) held: Option<u64>,
    /// Nothing around the kill, where a sidecar is not there to know.
    pub(super) convergence: Option<Convergence>,
}

/// A row for scripts.
#[derive(Debug, Serialize)]
struct RowJson {
    strategy: String,
    reads: u64,
    hits: u64,
    hit_ratio: f64,
    oracle_hit_ratio: f64,
    bypasses: u64,
    addresses_held: Option<u64>,
    invalidations: u64,
    addresses_purged: u64,
    invalidation_ms_p50: Option<f64>,
    converge_ms_p50: Option<f64>,
    converge_ms_p99: Option<f64>,
    judged_reads: u64,
    oldest_value_ms: f64,
    stale_reads: u64,
}

impl Row {
    pub(super) fn failures(&self) -> Vec<String> {
        let (name, figures, judged) = (self.name.trim(), &self.figures, &self.judged);
        let mut failures = Vec::new();
        let mut unless = |good: bool, what: String| {
            if !good {
                failures.push(format!("{name}: {what}"));
            }
        };
        for (number, what) in [
            (judged.stale, "stale reads"),
            (judged.ahead, "values that nobody wrote"),
            (figures.failed_reads, "reads failed"),
            (figures.failed_writes, "invalidations failed"),
            (
                self.convergence.as_ref().map_or(0, Convergence::unknown),
                "invalidations of which it is not known when every node had them",
            ),
        ] {
            unless(number == 0, format!("{number} {what}"));
        }
        let (hits, oracle) = (self.hit_ratio(), self.oracle_hit_ratio());
        unless(
            hits >= self.hit_share_min() * oracle && figures.hits > 0,
            format!("hit ratio {hits:.4}, below {HIT_SHARE_MIN} of the oracle's {oracle:.4}"),
        );
        unless(
            self.scenario.promises_writes() || judged.oldest() <= TTL,
            format!(
                "a value {:?} old, the time to live is {TTL:?}",
                judged.oldest()
            ),
        );
        failures
    }

    /// Around the kill it is enough that there are hits, before and after: the oracle knows of no sidecar that is gone, and
    /// what a bypass costs in hits is the price of its being safe. [`NOTE`] says so.
    fn hit_share_min(&self) -> f64 {
        if self.convergence.is_some() {
            HIT_SHARE_MIN
        } else {
            0.0
        }
    }

    fn hit_ratio(&self) -> f64 {
        ratio(self.figures.hits, self.figures.tally.reads)
    }

    fn oracle_hit_ratio(&self) -> f64 {
        ratio(self.figures.oracle_hits, self.figures.oracle_reads)
    }

    fn converge(&self, per_mille: u64) -> Option<Duration> {
        self.convergence.as_ref()?.times().quantile(per_mille)
    }

    fn cells(&self) -> Vec<String> {
        let figures = &self.figures;
        let time = |time: Option<Duration>| time.map_or_else(|| "-".to_owned(), ms);
        vec![
            self.name.clone(),
            count(figures.tally.reads),
            percent(figures.hits, figures.tally.reads),
            percent(figures.oracle_hits, figures.oracle_reads),
            self.held.map_or_else(|| "-".to_owned(), count),
            count(figures.invalidations),
            time(median(&figures.cost)),
            time(self.converge(500)),
            time(self.converge(990)),
            ms(self.judged.oldest()),
            count(self.judged.stale),
        ]
    }

    fn json(&self) -> RowJson {
        let figures = &self.figures;
        let time = |time: Option<Duration>| time.map(|time| rounded(time.as_secs_f64() * 1e3, 3));
        RowJson {
            strategy: self.name.trim_matches([' ', '*']).to_owned(),
            reads: figures.tally.reads,
            hits: figures.hits,
            hit_ratio: rounded(self.hit_ratio(), 6),
            oracle_hit_ratio: rounded(self.oracle_hit_ratio(), 6),
            bypasses: figures.bypasses,
            addresses_held: self.held,
            invalidations: figures.invalidations,
            addresses_purged: figures.addresses_purged,
            invalidation_ms_p50: time(median(&figures.cost)),
            converge_ms_p50: time(self.converge(500)),
            converge_ms_p99: time(self.converge(990)),
            judged_reads: self.judged.reads,
            oldest_value_ms: rounded(self.judged.oldest().as_secs_f64() * 1e3, 3),
            stale_reads: self.judged.stale,
        }
    }
}

fn median(times: &Histogram) -> Option<Duration> {
    times.quantile(500)
}

pub(super) fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "strategy",
        "reads",
        "hits",
        "oracle",
        "addresses\nheld",
        "invali-\ndations",
        "one costs\n(median)",
        "all nodes\nknow: p50",
        "p99",
        "oldest\nvalue",
        "stale\nreads",
    ]);
    for row in rows {
        table.add_row(row.cells());
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The same for scripts, with what was not as it should be, without its line end.
pub(super) fn json_line(rows: &[Row], elapsed: Duration) -> String {
    let failures: Vec<String> = rows.iter().flat_map(Row::failures).collect();
    serde_json::json!({
        "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
        "failures": failures,
        "elapsed_s": rounded(elapsed.as_secs_f64(), 3),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::auditor::Verdict;
    use crate::demo::scenario::{EXPIRING, REGISTERED, VERSIONED};
    use crate::truth::Moment;

    /// A row of 100 reads, of which so many hit where the oracle had 80.
    fn row(scenario: Scenario, hits: u64) -> Row {
        let mut figures = Figures {
            hits,
            oracle_reads: 100,
            oracle_hits: 80,
            ..Figures::default()
        };
        for _ in 0..100 {
            figures.tally.count(Verdict::Fresh);
        }
        let mut convergence = Convergence::new(1, 10);
        convergence.called(([1; 16], 1), Moment(1));
        convergence.seen(([1; 16], 1), Moment(2));
        Row {
            scenario,
            name: scenario.name.to_owned(),
            judged: figures.tally.clone(),
            figures,
            held: Some(40),
            convergence: Some(convergence),
        }
    }

    fn fails(row: &Row, word: &str) {
        let failures = row.failures();
        assert!(
            failures.len() == 1 && failures[0].contains(word),
            "{failures:?}"
        );
    }

    #[test]
    fn too_few_hits_fail_under_every_strategy() {
        for scenario in [VERSIONED, REGISTERED, EXPIRING] {
            assert_eq!(row(scenario, 76).failures(), Vec::<String>::new());
            fails(&row(scenario, 75), "hit ratio 0.7500, below 0.95");
        }
    }

    #[test]
    fn around_the_kill_some_hits_are_enough() {
        let around = |hits| Row {
            convergence: None,
            held: None,
            ..row(REGISTERED, hits)
        };
        assert_eq!(around(1).failures(), Vec::<String>::new());
        fails(&around(0), "hit ratio");
    }

    #[test]
    fn an_invalidation_that_was_not_seen_everywhere_fails() {
        let mut row = row(VERSIONED, 80);
        let convergence = row.convergence.as_mut().unwrap();
        // An event of an earlier chapter, told late: nobody's call is waited for.
        convergence.seen(([1; 16], 2), Moment(3));
        assert_eq!(row.failures(), Vec::<String>::new());
        let convergence = row.convergence.as_mut().unwrap();
        convergence.called(([1; 16], 3), Moment(4));
        fails(&row, "1 invalidations of which it is not known");
    }

    #[test]
    fn old_and_stale_values_of_the_story_count() {
        let mut stale = row(VERSIONED, 80);
        let age = Duration::from_millis(5);
        stale.judged.count(Verdict::Stale { age });
        fails(&stale, "1 stale reads");
        let mut old = row(EXPIRING, 80);
        let age = TTL + age;
        old.judged.count(Verdict::Lagging { age });
        fails(&old, "the time to live is 2s");
    }

    #[test]
    fn the_line_for_scripts_has_a_row_per_row() {
        let mut kill = row(REGISTERED, 10);
        kill.name = "  around the kill *".to_owned();
        kill.convergence = None;
        let line = json_line(&[row(VERSIONED, 75), kill], Duration::from_millis(1_500));
        assert!(!line.contains('\n'));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["rows"][0]["hit_ratio"], 0.75);
        assert_eq!(value["rows"][1]["strategy"], "around the kill");
        assert_eq!(value["rows"][1]["converge_ms_p50"], serde_json::Value::Null);
        assert_eq!(value["failures"].as_array().unwrap().len(), 1);
        assert_eq!(value["elapsed_s"], 1.5);
        let table = table(&[row(VERSIONED, 75)]).to_string();
        assert!(
            table.contains("75.0 %") && table.contains("80.0 %"),
            "{table}"
        );
    }
}
