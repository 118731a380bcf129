//! What a bench tells: one line of JSON, or a table.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::contest::Row;
use super::figure::median;
use super::options::BenchName;
use super::peers::Peer;
use crate::demo::screen::count;

/// The figures of one bench.
#[derive(Debug, Clone)]
pub struct Report {
    pub(super) bench: BenchName,
    pub(super) short: bool,
    pub(super) rows: Vec<Row>,
    pub(super) skipped: Vec<Skipped>,
    pub(super) settings: Vec<String>,
}

/// A peer that was not measured though it was wanted.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Skipped {
    pub(super) peer: Peer,
    pub(super) why: String,
}

/// The JSON line.
#[derive(Serialize)]
struct Line<'a> {
    bench: &'static str,
    /// Whether there was little work, so that the figures mean nothing.
    short: bool,
    rows: Vec<LineRow<'a>>,
    skipped: &'a [Skipped],
    /// How each process was started, and files it was given.
    settings: &'a [String],
}

#[derive(Serialize)]
struct LineRow<'a> {
    what: &'a str,
    /// Medians of the rounds.
    value: f64,
    unit: &'static str,
    peer: Option<&'static str>,
    peer_value: Option<f64>,
    /// The median of the rounds' ratios.
    ratio: Option<f64>,
    runs: usize,
    /// Of every round.
    values: &'a [f64],
    peer_values: Option<&'a [f64]>,
}

impl Report {
    /// The figures as JSON, without a line's end.
    pub fn json_line(&self) -> String {
        let rows = self.rows.iter().map(|row| LineRow {
            what: &row.what,
            value: median(&row.values),
            unit: row.unit.as_str(),
            peer: row.peer.as_ref().map(|peer| peer.peer.as_str()),
            peer_value: row.peer.as_ref().map(|peer| median(&peer.values)),
            ratio: row.ratio(),
            runs: row.values.len(),
            values: &row.values,
            peer_values: row.peer.as_ref().map(|peer| peer.values.as_slice()),
        });
        let line = Line {
            bench: self.bench.as_str(),
            short: self.short,
            rows: rows.collect(),
            skipped: &self.skipped,
            settings: &self.settings,
        };
        serde_json::to_string(&line).expect("invariant: names and numbers")
    }

    /// The figures for people: medians, with the lowest and the highest round where there were several.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header([
            self.bench.as_str(),
            "grapevine",
            "",
            "peer",
            "",
            "",
            "ratio",
        ]);
        for row in &self.rows {
            let (peer, theirs, their_spread) = row.peer.as_ref().map_or_else(
                || ("-", "-".to_owned(), String::new()),
                |peer| {
                    let values = &peer.values;
                    (peer.peer.as_str(), told(median(values)), spread(values))
                },
            );
            let ratio = row.ratio().map_or("-".to_owned(), ratio_text);
            table.add_row([
                format!("{} ({})", row.what, row.unit.as_str()),
                told(median(&row.values)),
                spread(&row.values),
                peer.to_owned(),
                theirs,
                their_spread,
                ratio,
            ]);
        }
        for column in [1, 4, 6] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut told = table.to_string();
        match self.rows.iter().map(|row| row.values.len()).max() {
            None => {}
            Some(1) => told.push_str("\none round"),
            Some(rounds) => {
                let _ = write!(
                    told,
                    "\nmedians of {rounds} rounds, the lowest and the highest beside them"
                );
            }
        }
        if self.short {
            told.push_str("\n--short: the figures mean nothing");
        }
        for skipped in &self.skipped {
            let _ = write!(told, "\nskipped: {}: {}", skipped.peer, skipped.why);
        }
        told
    }
}

/// A number with as many digits as mean something.
fn told(value: f64) -> String {
    if value >= 1_000.0 {
        count(format_args!("{value:.0}"))
    } else if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

fn spread(values: &[f64]) -> String {
    if values.len() < 2 {
        return String::new();
    }
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{} to {}", told(least), told(most))
}

/// To a hundredth, and what is small to two digits.
fn ratio_text(ratio: f64) -> String {
    if ratio >= 0.1 || ratio <= 0.0 {
        return format!("{ratio:.2}");
    }
    let digits = (1..9).find(|digits| ratio * 10_f64.powi(*digits) >= 1.0);
    let digits = digits.map_or(9, |digits| usize::try_from(digits).unwrap_or(9));
    format!("{ratio:.*}", digits + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::super::contest::PeerValues;
    use super::super::figure::Unit;
    use super::*;

    fn report() -> Report {
        Report {
            bench: BenchName::Resolve,
            short: true,
            rows: vec![
                Row {
                    what: "unary p50".into(),
                    unit: Unit::Microseconds,
                    values: vec![30.0, 40.0, 33.0],
                    peer: Some(PeerValues {
                        peer: Peer::Tonic,
                        values: vec![30.0, 20.0, 30.0],
                    }),
                },
                Row {
                    what: "stream".into(),
                    unit: Unit::PerSecond,
                    values: vec![1_234_567.8],
                    peer: None,
                },
            ],
            skipped: vec![Skipped {
                peer: Peer::Redis,
                why: "it is not installed".to_owned(),
            }],
            settings: vec!["grapevine sidecar".to_owned()],
        }
    }

    #[test]
    fn the_line_has_medians_and_every_round() {
        let line: serde_json::Value = serde_json::from_str(&report().json_line()).unwrap();
        let expected = serde_json::json!({
            "bench": "resolve",
            "short": true,
            "rows": [
                {
                    "what": "unary p50", "value": 33.0, "unit": "us", "peer": "tonic", "peer_value": 30.0, "ratio": 1.1,
                    "runs": 3, "values": [30.0, 40.0, 33.0], "peer_values": [30.0, 20.0, 30.0],
                },
                {
                    "what": "stream", "value": 1_234_567.8, "unit": "/s", "peer": null, "peer_value": null, "ratio": null,
                    "runs": 1, "values": [1_234_567.8], "peer_values": null,
                },
            ],
            "skipped": [{"peer": "redis", "why": "it is not installed"}],
            "settings": ["grapevine sidecar"],
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn the_table_tells_the_same() {
        let table = report().table();
        for part in [
            "unary p50 (us)",
            "30.0 to 40.0",
            "20.0 to 30.0",
            "1.10",
            "1,234,568",
            "medians of 3 rounds",
            "\n--short: the figures mean nothing\nskipped: redis",
        ] {
            assert!(table.contains(part), "{part}: {table}");
        }
    }

    #[test]
    fn a_table_without_a_peer_to_measure_beside_tells_why() {
        let mut report = report();
        report.rows.clear();
        let table = report.table();
        assert!(table.contains("grapevine"), "{table}");
        assert!(!table.contains("round"), "{table}");
        let end = "\n--short: the figures mean nothing\nskipped: redis: it is not installed";
        assert!(table.ends_with(end), "{table}");
    }

    #[test]
    fn a_ratio_that_is_small_is_told_all_the_same() {
        let told = [1.234, 0.5, 0.012_34, 0.000_123_4, 0.0].map(ratio_text);
        assert_eq!(told, ["1.23", "0.50", "0.012", "0.00012", "0.00"]);
    }
}
