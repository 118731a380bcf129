//! Trouble, one module per kind: each test names the guarantee it checks or the trouble it makes.

#![allow(clippy::unwrap_used, reason = "tests")]

mod arms;
mod bad_input;
mod caches;
mod catch_up;
mod directory;
mod drain;
mod explain;
mod fence;
mod fills;
mod freshness;
mod full_disk;
mod identity;
mod index;
mod index_figures;
mod index_of_several;
mod intents;
mod known_failures;
mod known_failures_of_fills;
mod limits;
mod listing;
mod local_tables;
mod metrics;
mod naive;
mod no_past;
mod receipts;
mod retirement;
mod snapshots;
mod source_lag;
mod stale;
mod startup;
mod support;
mod traces;
mod watch;
