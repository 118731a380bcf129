//! Whole sidecars' decisions, driven without a clock, a task or a socket.
//!
//! `disk` models a store, `world` a cluster of cores with links that lose, delay and reorder, `show` makes transcripts
//! readable. Tests carry the number of the guarantee that they check. `GRAPEVINE_CASES` sets how many random runs each
//! property gets; a failing one prints its smallest history and keeps its seed in a file beside the test.

#![allow(clippy::unwrap_used, reason = "tests")]

mod bounds;
mod chaos;
mod disk;
mod fills;
mod flush;
mod freshness;
mod histories;
mod intents;
mod laws;
mod leaves;
mod lies;
mod limits;
mod lost_track;
mod many;
mod races;
mod receipts;
mod relaying;
mod repair;
mod retirement;
mod roster;
mod rows;
mod rules;
mod scenarios;
mod show;
mod snapshots;
mod source_lag;
mod spare;
mod stale;
mod tables;
mod views;
mod vouching;
mod world;

use proptest::test_runner::{Config, FileFailurePersistence};

/// How many random runs a property gets: `GRAPEVINE_CASES`, else `usual`.
fn cases(usual: u32) -> u32 {
    std::env::var("GRAPEVINE_CASES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(usual)
}

/// A property's configuration: its number of runs, and a file beside the test that keeps the seeds of failures.
fn config(usual: u32) -> Config {
    Config {
        cases: cases(usual),
        max_shrink_iters: 4_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..Config::default()
    }
}
