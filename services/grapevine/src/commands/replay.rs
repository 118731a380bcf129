//! `grapevine replay`: a trace through real sidecars and a real cache, judged from outside.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use grapevine_lab::arm::Arm;
use grapevine_lab::caches::CacheKind;
use grapevine_lab::replay::{ReplayOptions, ReplayReceipt, WORKERS_DEFAULT};

use super::demo::own_executable;
use crate::connection::positive_duration;
use crate::exit::Failure;

// Lines below 80 columns: wrapped by clap the table would be none.
const FIGURES_HELP: &str = "\
The figures:

  hits                reads for which the source was not asked; the source
                      counts, not the client
  oracle_hit_ratio    of a cache with perfect invalidation, on the same
                      sequence; 0.95 of it is asked for (not of ttl)
  bypasses            reads that left the cache alone, because policy or the
                      client said so
  over_invalidations  reads that had to ask the source though the cache had
                      been given, before they began, exactly what the source
                      still held: a bump that covered more than was written,
                      values that share a bucket, a time to live that ended,
                      a cache without room (--cache-memory), or a fill that
                      was refused though it showed the commit already
  stale_reads         reads given an older value than they were owed: with
                      receipt all every write whose call had returned, with
                      --session the session's own
  lagging_reads       reads given an older value than was committed when they
                      began; lag_ms is its age
  converge_ms         from the call of an invalidation until the last sidecar
                      has applied it; null without sidecars";

/// Replay a trace through real sidecars and a real cache, and look for stale reads
///
/// Starts everything itself and leaves nothing behind. Fails when a stale read was seen, or too few hits: the control arms
/// none, naive-delete, bypass-all and ignore-session are there to fail.
#[derive(Debug, clap::Args)]
#[command(after_long_help = FIGURES_HELP)]
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
    /// What the cache may hold, in MiB, 2 to 65536; without it, more than the trace fills
    ///
    /// To see what dead versions cost in a cache that is full. The run fails on stale reads as ever, but asks for no share of the
    /// oracle's hits, for the oracle's cache has room for everything.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(2..=65_536))]
    cache_memory: Option<u32>,
    /// versioned, registered, bucketed, bucketed(N) or ttl; or a control arm: none, naive-delete, bypass-all, ttl-alone or
    /// ignore-session
    #[arg(long, value_name = "STRATEGY", default_value = "versioned")]
    strategy: Arm,
    /// Make each object a list and read slices of it, and write groups of objects too
    #[arg(long)]
    pages: bool,
    /// What a write waits for: all, or one or none with --session
    #[arg(long, value_name = "LEVEL", default_value = "all")]
    receipt: ReplayReceipt,
    /// Carry session tokens, and read every write back on another node; with a receipt below all, reads are owed what their own
    /// session wrote
    #[arg(long)]
    session: bool,
    /// What every draw begins from
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// The trace's first records only
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// The time to live under the strategy ttl and in the arm ttl-alone
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = positive_duration)]
    ttl: Duration,
    /// Readers and writers per node, 1 to 1024
    #[arg(long, value_name = "NUMBER", default_value_t = WORKERS_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=1024))]
    workers: u32,
    /// Entries of a local table in the client of each node: look-ups that it knows make no call; without it there is none
    #[arg(long, value_name = "ENTRIES", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    local_table: Option<u32>,
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
        cache_memory_mib: args.cache_memory,
        strategy: args.strategy,
        pages: args.pages,
        receipt: args.receipt,
        session: args.session,
        seed: args.seed,
        limit: args.limit,
        ttl: args.ttl,
        workers: args.workers,
        local_table: args.local_table.map(|entries| entries as usize),
        json: args.json,
        progress: true,
    };
    options
        .check()
        .map_err(|error| Failure::Usage(error.to_string()))?;
    // Before sidecars and a cache are started for it.
    File::open(&options.trace)
        .map_err(|error| Failure::Usage(format!("--trace {}: {error}", options.trace.display())))?;
    let outcome = grapevine_lab::replay::run(options)
        .await
        .map_err(|error| Failure::of_lab("replay", error.as_ref()))?;
    Failure::unless_well("replay", &outcome.failures())
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
