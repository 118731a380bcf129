//! What came of an arm, counted by the shapes of questions.

use std::collections::BTreeMap;
use std::time::Duration;

use grapevine_lab::histogram::Histogram;

use crate::arm::Arm;
use crate::ask::Shape;
use crate::judge::Verdict;
use crate::ledger::{Read, Source};

/// Reads of one kind, or of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads.
    pub reads: u64,
    /// For which the database was not asked.
    pub hits: u64,
    /// That left the cache alone.
    pub bypasses: u64,
    /// For which the database was asked, and said what the cache had been given before they began: the answer had been
    /// invalidated, or its time was over, though it had not changed.
    pub needless: u64,
    /// That a cache with perfect knowledge had.
    pub oracle_hits: u64,
    /// That lacked what they were owed.
    pub stale: u64,
    /// That lacked what had been told to anybody.
    pub old: u64,
    /// That nobody had computed.
    pub wrong: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.reads += other.reads;
        self.hits += other.hits;
        self.bypasses += other.bypasses;
        self.needless += other.needless;
        self.oracle_hits += other.oracle_hits;
        self.stale += other.stale;
        self.old += other.old;
        self.wrong += other.wrong;
    }
}

/// What came of an arm.
#[derive(Debug, Clone)]
pub struct Figures {
    /// The arm.
    pub arm: Arm,
    /// Pages.
    pub pages: u32,
    /// Commits, each told with one call where writes are told.
    pub writes: u64,
    /// Queries of the database for reads.
    pub queries: u64,
    /// Reads by the shape of their questions.
    pub shapes: BTreeMap<Shape, Counts>,
    /// How long pages took that read.
    pub page_times: Histogram,
    /// How long commits took, with their telling.
    pub write_times: Histogram,
    /// From the first page to the last.
    pub elapsed: Duration,
}

impl Figures {
    /// Counts a read.
    pub fn count(&mut self, shape: Shape, read: &Read, verdict: Verdict) {
        let counts = self.shapes.entry(shape).or_default();
        counts.add(&Counts {
            reads: 1,
            hits: u64::from(read.source == Source::Cache),
            bypasses: u64::from(read.source == Source::Bypass),
            needless: u64::from(read.needless),
            oracle_hits: u64::from(verdict.oracle_hit),
            stale: u64::from(verdict.stale),
            old: u64::from(verdict.old),
            wrong: u64::from(verdict.wrong),
        });
    }

    /// All shapes together.
    pub fn all(&self) -> Counts {
        let mut all = Counts::default();
        for counts in self.shapes.values() {
            all.add(counts);
        }
        all
    }

    /// The share of the reads, which each were a query without a cache, that the database was spared.
    pub fn saved(&self) -> f64 {
        1.0 - ratio(self.queries, self.all().reads)
    }

    /// What is not as it should be, one sentence each.
    pub fn failures(&self) -> Vec<String> {
        let all = self.all();
        let stale = if self.arm.promises_writes() {
            all.stale
        } else {
            0
        };
        let counts = [
            (stale, "stale answers"),
            (all.wrong, "answers that nobody had computed"),
        ];
        let mut failures: Vec<_> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{}: {count} {what}", self.arm))
            .collect();
        if all.hits == 0 {
            failures.push(format!("{}: no hits", self.arm));
        }
        failures
    }
}

/// The needless reads of an arm by those with classes of tables; nothing without both, or without any of the latter.
pub fn over_invalidation(figures: &[Figures], arm: Arm) -> Option<f64> {
    let needless = |arm| {
        let of = figures.iter().find(|figures| figures.arm == arm)?;
        Some(of.all().needless)
    };
    let (own, tables) = (needless(arm)?, needless(Arm::Tables)?);
    (tables > 0).then(|| ratio(own, tables))
}

/// A share; 0 of nothing.
pub fn ratio(part: u64, of: u64) -> f64 {
    if of == 0 {
        return 0.0;
    }
    #[allow(
        clippy::cast_precision_loss,
        reason = "runs have far fewer than 2^52 reads"
    )]
    let share = part as f64 / of as f64;
    share
}
