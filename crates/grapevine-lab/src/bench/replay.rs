//! A trace of reads, as it was recorded and with a write in place of 7 of 100 of them, through three sidecars and memcached, strategy `versioned`: what
//! [`crate::replay`] does, once for each side of a round. The peer: the same workers, source and cache with a time to live of ten seconds
//! only, and no sidecar; its reads may be that old.
//!
//! Every side and round begins with an empty cache. Grapevine is measured twice for each of the two in a round, the second time with a local table in each
//! node's client. The auditor judges every read: a stale one, or too few hits, ends the bench. The warm-up takes the first tenth.
//!
//! Without a trace one is made ([`super::synthetic`]).

use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::contest::{Contest, Side};
use super::figure::{Figure, Unit};
use super::peers::Peer;
use super::stage::Stage;
use super::synthetic;
use crate::arm::Arm;
use crate::caches::{CacheKind, CacheProcess, CacheServerError, MEMORY_MIB_DEFAULT};
use crate::replay::{Outcome, ReplayOptions, replay};

/// What a short form reads of any trace.
const SHORT_RECORDS: u64 = 20_000;
/// Room for every class of the traces in use.
const TABLE_ENTRIES: usize = 131_072;

/// Of a whole trace, to have every page of the programs in memory.
const WARM_UP_RECORDS: u64 = 500_000;

/// What a side's figures are called.
type Names = [&'static str; 2];

/// The share of accesses that are turned into writes; the names without and with local tables.
const LOADS: [(f64, Names, Names); 2] = [
    (
        0.0,
        ["reads as recorded", "as recorded, hit ratio"],
        [
            "reads as recorded, with local tables",
            "as recorded, with local tables, hit ratio",
        ],
    ),
    (
        0.07,
        ["reads, 7 % writes", "7 % writes, hit ratio"],
        [
            "reads, 7 % writes, with local tables",
            "7 % writes, with local tables, hit ratio",
        ],
    ),
];

/// Holds the bench.
pub(super) async fn hold(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("grapevine-").tempdir()?;
    match CacheProcess::memcached(dir.path(), MEMORY_MIB_DEFAULT).await {
        Ok(_) => stage.tell_version(Peer::Memcached).await,
        Err(CacheServerError::NotInstalled(program)) => {
            // Neither side is anything without it.
            stage.skip(Peer::Memcached, program);
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    }
    let trace = match &stage.options.trace {
        Some(path) => path.clone(),
        None => made(stage, dir.path()).await?,
    };
    let limit = stage.options.short.then_some(SHORT_RECORDS);
    let replay = |arm, writes, local_table| ReplayOptions {
        cache: CacheKind::Memcached,
        limit,
        writes,
        local_table,
        progress: false,
        ..ReplayOptions::new(stage.options.executable.clone(), trace.clone(), arm)
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for (writes, plain, with_table) in LOADS {
        ours.push((vec![plain], replay(Arm::Versioned, writes, None)));
        let table = replay(Arm::Versioned, writes, Some(TABLE_ENTRIES));
        ours.push((vec![with_table], table));
        let timeouts = replay(Arm::TtlAlone, writes, None);
        theirs.push((vec![plain, with_table], timeouts));
    }
    stage.started(ours.iter().map(|(_, options)| command(options)));
    let config = ours[0].1.sidecar_config().replace('\n', "; ");
    stage.started([format!("grapevine.toml: {config}")]);
    let mut peers: Vec<(Peer, Box<dyn Side>)> = Vec::new();
    if stage.options.wants(Peer::Timeouts) {
        stage.started(theirs.iter().map(|(_, options)| command(options)));
        peers.push((Peer::Timeouts, Box::new(Replays::of(theirs))));
    }
    let grapevine = Box::new(Replays::of(ours));
    let contest = Contest { grapevine, peers };
    stage.contest("replay", contest).await
}

/// A trace in place of one that was recorded.
async fn made(stage: &mut Stage<'_>, dir: &Path) -> anyhow::Result<PathBuf> {
    stage.say("making a trace");
    let records = stage.amount(synthetic::RECORDS, SHORT_RECORDS);
    let path = dir.join("synthetic.trace.xz");
    let into = path.clone();
    tokio::task::spawn_blocking(move || synthetic::write(&into, records)).await??;
    stage.started([format!(
        "no --trace: {records} records were made, about as popular and as close together as those of orm-busy.trace.xz"
    )]);
    Ok(path)
}

/// A command that replays once what is replayed here.
fn command(options: &ReplayOptions) -> String {
    let mut command = format!(
        "grapevine replay --trace {} --nodes {} --writes {} --cache memcached --strategy {} --ttl {:?} --workers {}",
        options.trace.display(),
        options.nodes,
        options.writes,
        options.strategy,
        options.ttl,
        options.workers,
    );
    for (flag, number) in [
        ("--limit", options.limit),
        (
            "--local-table",
            options.local_table.map(|entries| entries as u64),
        ),
    ] {
        if let Some(number) = number {
            command = format!("{command} {flag} {number}");
        }
    }
    command
}

/// A side: replays, one after the other, each with the names that its figures go by.
struct Replays {
    replays: Vec<(Vec<Names>, ReplayOptions)>,
    warm: bool,
}

impl Replays {
    fn of(replays: Vec<(Vec<Names>, ReplayOptions)>) -> Self {
        let warm = false;
        Self { replays, warm }
    }
}

#[async_trait]
impl Side for Replays {
    async fn measure(&mut self) -> anyhow::Result<Vec<Figure>> {
        let mut figures = Vec::new();
        for at in 0..self.replays.len() {
            let (names, mut options) = self.replays[at].clone();
            if !self.warm {
                options.limit = Some(options.limit.unwrap_or(WARM_UP_RECORDS));
            }
            let strategy = options.strategy;
            let outcome = replayed(options).await?;
            let failures = outcome.failures();
            ensure!(
                failures.is_empty(),
                "replay: {strategy}: {}",
                failures.join("; ")
            );
            let report = outcome.report();
            for [reads, hits] in names {
                for (what, unit, value) in [
                    (reads, Unit::PerSecond, report.reads_per_s),
                    (hits, Unit::Share, report.hit_ratio),
                ] {
                    figures.push(Figure {
                        what: what.into(),
                        unit,
                        value,
                    });
                }
            }
        }
        self.warm = true;
        Ok(figures)
    }
}

/// Replays on a thread, for a replay does not go from one to another; it ends when this is dropped.
async fn replayed(options: ReplayOptions) -> anyhow::Result<Outcome> {
    let (_waits, waited_for) = oneshot::channel::<()>();
    let runtime = Handle::current();
    let work = tokio::task::spawn_blocking(move || {
        runtime.block_on(async {
            tokio::select! {
                // First: when nobody waits nothing else is to be begun.
                biased;
                _ = waited_for => bail!("replay: ended"),
                outcome = replay(&options) => outcome,
            }
        })
    });
    work.await?
}
