//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use grapevine_lab::caches::CacheKind;
use grapevine_lab::{Interrupted, print, until_interrupted};
use grapevine_proto::v1;

use crate::arm::Arm;
use crate::figures::Figures;
use crate::report;
use crate::run::{NODES, Options, run};

// Lines below 80 columns: wrapped by clap the table would be none.
const FIGURES_HELP: &str = "\
The arms:

  grapevine        answers are cached by their statements, and each write tells
                   which rows it changed
  grapevine-lists  the same, but items of a category and an item's bids are
                   lists of ids in an index, and rows are cached one by one
  table-level      each answer belongs to the classes of its tables, and each
                   write invalidates those of its own
  timeouts-only    nothing is invalidated; answers live for --ttl

The figures:

  reads            statements that pages ask
  hits             reads for which the database was not asked
  oracle           hits of a cache that invalidates what has changed, and
                   nothing else, on the same reads
  saved            queries that the database was spared: without a cache each
                   read is one
  stale            answers that lack a write which they were owed: with receipt
                   one those of the reader's own session, with receipt all
                   everybody's, if they had been told before the read began
  old              answers that lack a write by anybody that had been told
                   before the read began
  needless reads   reads that had to ask the database, which said exactly what
                   the cache had been given before they began: the answer had
                   been invalidated, or had lapsed, and had not changed
  bypasses         reads that left the cache alone, because the sidecar said so
  page ms          all reads of a page, of pages that read
  write ms         a commit and the call that tells of it

Exit status: 0 if no arm but timeouts-only had a stale answer, and all had
hits; 1 if not, or if it could not run; 2 for a wrong command line; 130 if it
was stopped by a signal, after everything that it had started was ended.";

/// Run an auction with the pages and query shapes of RUBiS through three sidecars and a cache, and look for stale answers
///
/// 27 pages, of which 15 % write, as in the benchmark's bidding mix; the probabilities between them are our own. Every arm has
/// the same visitors, with a database (SQLite) and an empty cache of its own. A visitor's pages go to nodes at random, with the
/// session token of what the visitor wrote.
#[derive(Debug, Parser)]
#[command(name = "grapevine-auction", version, after_long_help = FIGURES_HELP)]
struct Cli {
    /// What every draw begins from
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Pages of all visitors together, in each arm
    #[arg(long, value_name = "NUMBER", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    steps: u32,
    /// Visitors at one time
    #[arg(long, value_name = "NUMBER", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    visitors: u32,
    /// What lies at least between the beginnings of two pages of a visitor
    #[arg(long, value_name = "DURATION", default_value = "40ms", value_parser = think)]
    think: Duration,
    /// Users when the auction opens
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    users: u32,
    /// Items when the auction opens
    #[arg(long, value_name = "NUMBER", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    items: u32,
    /// An arm to run; may be repeated. All of them unless told
    #[arg(long = "arm", value_name = "ARM")]
    arms: Vec<Arm>,
    /// How far a write must have come before its page is shown
    #[arg(long, value_enum, default_value_t = Receipt::One)]
    receipt: Receipt,
    /// How long answers live in timeouts-only; memcached counts in seconds
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = ttl)]
    ttl: Duration,
    /// Take the memcached in this process instead of the installed one
    #[arg(long)]
    embedded: bool,
    /// The `grapevine` program, which is started as sidecar: unless told, the one beside this program
    #[arg(long, value_name = "FILE", env = "GRAPEVINE_BIN")]
    grapevine: Option<PathBuf>,
    /// Print one line of JSON instead of tables
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Receipt {
    /// The sidecar that was told, and one more, have it
    One,
    /// Every sidecar has it, or can no longer serve old answers
    All,
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if ttl < Duration::from_secs(1) {
        return Err("the least that memcached keeps to is 1s".to_owned());
    }
    Ok(ttl)
}

fn think(text: &str) -> Result<Duration, String> {
    let think = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if think.is_zero() {
        return Err("it must be above zero, 1us say".to_owned());
    }
    Ok(think)
}

/// The whole program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Runtime::new();
    let ended = runtime
        .context("no runtime")
        .and_then(|runtime| runtime.block_on(until_interrupted(tell(cli))));
    match ended {
        Ok(failures) if failures.is_empty() => ExitCode::SUCCESS,
        Ok(failures) => {
            for failure in failures {
                eprintln!("grapevine-auction: {failure}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("grapevine-auction: {error:#}");
            ExitCode::from(if error.is::<Interrupted>() { 130 } else { 1 })
        }
    }
}

/// Runs it and prints what came of it; answers what was not as it should be.
async fn tell(cli: Cli) -> anyhow::Result<Vec<String>> {
    let json = cli.json;
    let options = options(cli)?;
    let say = |what: &str| eprintln!("{what}");
    let figures = run(&options, say).await?;
    let failures: Vec<_> = figures.iter().flat_map(Figures::failures).collect();
    if json {
        print(report::json_line(&figures, options.seed, &failures));
    } else {
        print(format!(
            "{} pages of {} visitors on {NODES} nodes in each arm, seed {}\n{}",
            options.steps,
            options.visitors,
            options.seed,
            report::text(&figures)
        ));
    }
    Ok(failures)
}

fn options(cli: Cli) -> anyhow::Result<Options> {
    let grapevine = match cli.grapevine {
        Some(file) => file,
        None => beside()?,
    };
    anyhow::ensure!(
        grapevine.is_file(),
        "--grapevine: {} is no file; build it with `cargo build --release -p grapevine`",
        grapevine.display()
    );
    let mut arms = cli.arms;
    if arms.is_empty() {
        arms = Arm::ALL.to_vec();
    }
    Ok(Options {
        seed: cli.seed,
        steps: cli.steps,
        visitors: cli.visitors,
        think: cli.think,
        users: cli.users,
        items: cli.items,
        arms,
        receipt: match cli.receipt {
            Receipt::One => v1::ReceiptLevel::One,
            Receipt::All => v1::ReceiptLevel::All,
        },
        ttl: cli.ttl,
        cache: if cli.embedded {
            CacheKind::Embedded
        } else {
            CacheKind::Memcached
        },
        ..Options::new(grapevine)
    })
}

/// The `grapevine` that was built with this program.
fn beside() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("this program's own path")?;
    Ok(own.with_file_name("grapevine"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
