//! Reports: one line of JSON for machines, a table for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use serde_json::{Value, json};

use crate::batch::Request;
use crate::tally::{Race, Tally};
use crate::violation::Violation;

/// A violation and how to see it again.
#[derive(Clone, Debug)]
pub struct Found {
    /// The seed.
    pub seed: u64,
    /// The step of its run.
    pub step: u64,
    /// What was violated.
    pub guarantee: &'static str,
    /// What happened.
    pub what: String,
    /// The one command that replays it.
    pub replay: String,
}

impl Found {
    pub(crate) fn new(request: &Request, seed: u64, violation: &Violation) -> Self {
        Self {
            seed,
            step: violation.step,
            guarantee: violation.guarantee.name(),
            what: violation.what.clone(),
            replay: format!(
                "cargo run --release -p grapevine-sim -- trace --seed {seed}{}",
                request.options()
            ),
        }
    }

    fn json(&self) -> Value {
        json!({
            "seed": self.seed,
            "step": self.step,
            "guarantee": self.guarantee,
            "what": self.what,
            "replay": self.replay,
        })
    }

    /// As lines for people.
    pub fn text(&self) -> String {
        format!(
            "seed {} step {}: {} violated: {}\n  replay: {}",
            self.seed, self.step, self.guarantee, self.what, self.replay
        )
    }
}

/// What many seeds came to.
#[derive(Clone, Debug)]
pub struct Report {
    seeds: Range<u64>,
    nodes: usize,
    scenario: String,
    arm: Option<String>,
    pub(crate) tally: Tally,
    pub(crate) calm: (u64, u64),
    pub(crate) hash: u64,
    pub(crate) violations: BTreeMap<&'static str, u64>,
    pub(crate) expected: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    pub(crate) violated_seeds: u64,
    pub(crate) found: Vec<Found>,
    pub(crate) excused: Vec<Found>,
    pub(crate) elapsed_s: f64,
}

impl Report {
    pub(crate) fn new(request: &Request) -> Self {
        use clap::ValueEnum as _;
        let scenario = request.scenario.to_possible_value();
        Self {
            seeds: request.seeds.clone(),
            nodes: request.nodes,
            scenario: scenario.map_or_else(String::new, |value| value.get_name().to_owned()),
            arm: request.arm.map(crate::arms::Arm::name),
            tally: Tally::default(),
            calm: (0, 0),
            hash: 0,
            violations: BTreeMap::new(),
            expected: BTreeMap::new(),
            violated_seeds: 0,
            found: Vec::new(),
            excused: Vec::new(),
            elapsed_s: 0.0,
        }
    }

    /// Whether something that is promised was violated.
    pub fn is_violated(&self) -> bool {
        !self.violations.is_empty()
    }

    /// Seeds in which something that is promised was violated, the first ones.
    pub fn found(&self) -> &[Found] {
        &self.found
    }

    /// Seeds in which only what is not promised was violated, the first ones.
    pub fn excused(&self) -> &[Found] {
        &self.excused
    }

    /// The hash of all transcripts.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Values computed after a miss.
    pub fn fills(&self) -> u64 {
        self.tally.fills
    }

    /// Hits, and those of the oracle, of the calm runs.
    pub fn calm_hits(&self) -> (u64, u64) {
        self.calm
    }

    /// Writes that were committed within the lease of their declaration.
    pub fn owed(&self) -> u64 {
        self.tally.intents.owed
    }

    /// Look-ups inside database snapshots, and those of them whose snapshot had ended.
    pub fn inside(&self) -> (u64, u64) {
        (self.tally.inside.reads, self.tally.inside.ended)
    }

    /// How often a reader was served what a soft write had replaced.
    pub fn stale_served(&self) -> u64 {
        self.tally.stale.1
    }

    /// How often something became of a turn to fill, by its name in reports.
    pub fn turns(&self, what: &str) -> u64 {
        let named = self.tally.turns.named();
        named
            .into_iter()
            .find(|(name, _)| *name == what)
            .map_or(0, |(_, count)| count)
    }

    /// How often something became of leaves, by its name in reports.
    pub fn leaves(&self, what: &str) -> u64 {
        let named = self.tally.leaves.named();
        named
            .into_iter()
            .find(|(name, _)| *name == what)
            .map_or(0, |(_, count)| count)
    }

    /// How often something became of local tables, by its name in reports.
    pub fn locals(&self, what: &str) -> u64 {
        let named = self.tally.locals.named();
        named
            .into_iter()
            .find(|(name, _)| *name == what)
            .map_or(0, |(_, count)| count)
    }

    /// How often a race occurred.
    pub fn race(&self, race: Race) -> u64 {
        self.tally.races.get(&race).copied().unwrap_or(0)
    }

    /// How often a fault occurred.
    pub fn fault(&self, fault: &str) -> u64 {
        self.tally.faults.get(fault).copied().unwrap_or(0)
    }

    /// One line.
    pub fn json(&self) -> Value {
        let tally = &self.tally;
        let races: BTreeMap<_, _> = Race::ALL
            .iter()
            .map(|race| {
                (
                    format!("{:02} {}", race.number(), race.name()),
                    self.race(*race),
                )
            })
            .collect();
        let found: Vec<_> = self.found.iter().map(Found::json).collect();
        let excused: Vec<_> = self.excused.iter().map(Found::json).collect();
        json!({
            "seeds": {
                "from": self.seeds.start,
                "to": self.seeds.end,
                "count": self.seeds.end.saturating_sub(self.seeds.start),
            },
            "nodes": self.nodes,
            "scenario": self.scenario,
            "arm": self.arm,
            "fills": tally.fills,
            "reads": tally.reads,
            "hits": tally.hits,
            "oracle_hits": tally.oracle_hits,
            "calm": { "hits": self.calm.0, "oracle_hits": self.calm.1 },
            "bypassed": tally.bypassed,
            "writes": tally.writes,
            "answered": tally.answered,
            "all_satisfied": tally.all_satisfied,
            "intents": {
                "begun": tally.intents.begun,
                "owed": tally.intents.owed,
                "aborted_in_time": tally.intents.aborted,
                "bumps_uncalled": tally.intents.ended,
            },
            "turns": BTreeMap::from(tally.turns.named()),
            "inside_snapshots": {
                "opened": tally.inside.opened,
                "reads": tally.inside.reads,
                "ended": tally.inside.ended,
                "forbidden": tally.inside.forbidden,
            },
            "leaves": BTreeMap::from(tally.leaves.named()),
            "local_tables": BTreeMap::from(tally.locals.named()),
            "stale": { "offered": tally.stale.0, "served": tally.stale.1 },
            "sessions": { "reads": tally.sessions.0, "timed_out": tally.sessions.1 },
            "floors": tally.floors,
            "shapes": tally.shapes,
            "new_shapes": tally.new_shapes,
            "snapshots": tally.snapshots,
            "violations": self.violations,
            "violated_seeds": self.violated_seeds,
            "expected": self.expected,
            "occurrences": { "races": races, "faults": tally.faults },
            "steps": tally.steps,
            "transcript": format!("{:016x}", self.hash),
            "found": found,
            "excused": excused,
            "elapsed_s": (self.elapsed_s * 1e3).round() / 1e3,
        })
    }

    /// A table for people. Its code is as long as the table: row after row, in the order in which they are read.
    pub fn text(&self) -> String {
        let tally = &self.tally;
        let mut text = String::new();
        let mut row = |name: &str, value: String| {
            // A string takes everything.
            let _ = writeln!(text, "{name:<34} {value}");
        };
        let arm = self
            .arm
            .as_ref()
            .map_or(String::new(), |arm| format!(", arm {arm}"));
        let count = self.seeds.end.saturating_sub(self.seeds.start);
        row(
            "seeds",
            format!(
                "{}..{} ({count}), {} nodes, {}{arm}",
                self.seeds.start, self.seeds.end, self.nodes, self.scenario
            ),
        );
        row(
            "reads",
            format!("{} ({} bypassed)", tally.reads, tally.bypassed),
        );
        row("fills", per_second(tally.fills, self.elapsed_s));
        row("hits / oracle", ratio(tally.hits, tally.oracle_hits));
        row(
            "hits / oracle in calm runs",
            ratio(self.calm.0, self.calm.1),
        );
        row(
            "writes, answered, all satisfied",
            format!(
                "{}, {}, {}",
                tally.writes, tally.answered, tally.all_satisfied
            ),
        );
        let intents = tally.intents;
        row(
            "intents, owed, aborted, bumps",
            format!(
                "{}, {}, {}, {}",
                intents.begun, intents.owed, intents.aborted, intents.ended
            ),
        );
        let inside = tally.inside;
        row(
            "snapshots: told, reads, ended, not stored",
            format!(
                "{}, {}, {}, {}",
                inside.opened, inside.reads, inside.ended, inside.forbidden
            ),
        );
        row(
            "stale offered, served",
            format!("{}, {}", tally.stale.0, tally.stale.1),
        );
        for (name, count) in tally.turns.named() {
            row(&format!("turns {name}"), count.to_string());
        }
        for (name, count) in tally.leaves.named() {
            row(&format!("leaves {name}"), count.to_string());
        }
        for (name, count) in tally.locals.named() {
            row(&format!("tables {name}"), count.to_string());
        }
        row(
            "session reads, timed out",
            format!("{}, {}", tally.sessions.0, tally.sessions.1),
        );
        row(
            "floors, snapshots",
            format!("{}, {}", tally.floors, tally.snapshots),
        );
        row("steps", per_second(tally.steps, self.elapsed_s));
        row("transcript", format!("{:016x}", self.hash));
        for race in Race::ALL {
            let name = format!("race {:>2} {}", race.number(), race.name());
            row(&name, self.race(race).to_string());
        }
        for (fault, count) in &tally.faults {
            row(&format!("fault {fault}"), count.to_string());
        }
        for (gap, counts) in &self.expected {
            row(&format!("expected: {gap}"), counted(counts));
        }
        row("violations", counted(&self.violations));
        text
    }
}

fn counted(counts: &BTreeMap<&'static str, u64>) -> String {
    if counts.is_empty() {
        return "none".to_owned();
    }
    let parts: Vec<_> = counts
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    parts.join(", ")
}

/// For display only: seconds of whole runs are far below what a float holds.
#[expect(clippy::cast_precision_loss, reason = "shown to three digits")]
fn per_second(count: u64, seconds: f64) -> String {
    if seconds > 0.0 {
        format!("{count} ({:.0}/s)", count as f64 / seconds)
    } else {
        count.to_string()
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown to three digits")]
fn ratio(hits: u64, oracle: u64) -> String {
    if oracle == 0 {
        return format!("{hits} / 0");
    }
    format!("{hits} / {oracle} = {:.3}", hits as f64 / oracle as f64)
}
