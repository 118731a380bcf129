//! Against SQLite: random tables, rows, reads and writes of the supported forms (`generate`).
//!
//! `texts` judges what texts alone tell, and how much of what is invalidated had not changed; `cluster` whole sidecars' decisions, and
//! what a cache has under their tokens. A seed stands for a round; `GRAPEVINE_SEEDS=A..B` chooses others than a few fixed ones, and any
//! failure names its own.

#![allow(clippy::unwrap_used, reason = "tests")]

mod cluster;
mod database;
mod generate;
mod texts;

use std::ops::Range;

use grapevine_sql::{Dialect, Options};

fn sqlite() -> Options {
    Options {
        dialect: Dialect::Sqlite,
        ..Options::default()
    }
}

/// The rounds to run: as the environment says, or so many.
fn seeds(usual: u64) -> Range<u64> {
    let Ok(range) = std::env::var("GRAPEVINE_SEEDS") else {
        return 0..usual;
    };
    let (from, to) = range.split_once("..").expect("GRAPEVINE_SEEDS is A..B");
    from.parse().unwrap()..to.parse().unwrap()
}
