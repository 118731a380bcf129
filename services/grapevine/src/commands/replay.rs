//! `grapevine replay`: a trace through real sidecars and a real cache, judged from outside.

use std::path::PathBuf;
use std::time::Duration;

use grapevine_lab::arm::Arm;
use grapevine_lab::caches::CacheKind;
use grapevine_lab::replay::{ReplayOptions, ReplayReceipt, WORKERS_DEFAULT};

use super::demo::own_executable;
use crate::connection::positive_duration;
use crate::exit::{Failure, with_causes};

/// Replay a trace through real sidecars and a real cache, and look for stale reads
///
/// Starts everything itself and leaves nothing behind. Fails when a stale read was seen, or too few hits: the control arms
/// none, naive-delete and bypass-all are there to fail.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The trace, xz-compressed
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    /// Sidecars to start, 1 to 50
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=50))]
    nodes: u32,
    /// The share of operations that write, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.07, value_parser = share)]
    writes: f64,
    /// The cache server to start: memcached, redis or embedded
    #[arg(long, value_name = "CACHE", default_value = "embedded")]
    cache: CacheKind,
    /// versioned, registered, bucketed, bucketed(N) or ttl; or a control arm: none, naive-delete or bypass-all
    #[arg(long, value_name = "STRATEGY", default_value = "versioned")]
    strategy: Arm,
    /// Read slices of lists, and write groups of objects too
    #[arg(long)]
    pages: bool,
    /// What a write waits for: all, one or none
    #[arg(long, value_name = "LEVEL", default_value = "all")]
    receipt: ReplayReceipt,
    /// Judge reads by each worker's session, with a receipt below all
    #[arg(long)]
    session: bool,
    /// What every draw begins from
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// The trace's first records only
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// The time to live under the strategy ttl
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = positive_duration)]
    ttl: Duration,
    /// Readers and writers per node, 1 to 1024
    #[arg(long, value_name = "NUMBER", default_value_t = WORKERS_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=1024))]
    workers: u32,
    /// Print the figures as one line of JSON in place of a table
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let options = ReplayOptions {
        executable: own_executable()?,
        trace: args.trace,
        nodes: args.nodes,
        writes: args.writes,
        cache: args.cache,
        strategy: args.strategy,
        pages: args.pages,
        receipt: args.receipt,
        session: args.session,
        seed: args.seed,
        limit: args.limit,
        ttl: args.ttl,
        workers: args.workers,
        json: args.json,
        progress: true,
    };
    let outcome = grapevine_lab::replay::run(options)
        .await
        .map_err(|error| Failure::Failed(format!("replay: {}", with_causes(error.as_ref()))))?;
    if outcome.failures().is_empty() {
        return Ok(());
    }
    // They have been printed.
    Err(Failure::Told(1))
}

fn share(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "it is not a number".to_owned())?;
    if (0.0..=1.0).contains(&value) {
        Ok(value)
    } else {
        Err("it must be from 0 to 1".to_owned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_share_lies_between_none_and_all() {
        assert!((share("0.07").unwrap() - 0.07).abs() < f64::EPSILON);
        for wrong in ["-0.1", "1.1", "NaN", "7%", ""] {
            share(wrong).unwrap_err();
        }
    }
}
