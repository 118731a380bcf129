//! Benchmarks of the real thing, each beside its peers in the same run.
//!
//! A bench starts every process that it needs with the settings that users have, and ends them. It consists of *contests*: one side is
//! Grapevine, the others are peers doing the same work. After a warm-up the sides are measured in turn, a number of times, so
//! that what else the machine does meets all of them; told are the medians of the rounds, their spread, and the ratio of
//! the two. Answers are checked: a wrong one ends the bench with an error. Times are figures and never a reason to fail.
//!
//! A peer that is not installed is named as skipped.

mod clients;
mod contest;
mod converge;
mod directory;
mod echo;
mod empty;
mod figure;
mod gossip;
mod invalidate;
mod join;
mod local;
mod meter;
mod options;
mod peers;
mod plot;
mod register;
mod registrations;
mod replay;
mod report;
mod resolve;
mod sidecars;
mod stage;
mod synthetic;
mod usage;
mod wan;
mod zipf;

pub use self::echo::serve as serve_echo;
pub use self::empty::serve as serve_empty;
pub use self::gossip::serve as serve_chitchat;
pub use self::options::{
    BenchName, BenchOptions, OptionsError, RUNS_DEFAULT, RUNS_MAX, UnknownBench,
};
pub use self::report::Report;

use anyhow::Context;

use self::stage::Stage;
use crate::interrupt::{output, print, until_interrupted};

/// Holds a bench and prints its figures: one line of JSON, or a table. Ends early, with [`Interrupted`](crate::Interrupted) and with
/// everything that it started ended, on Ctrl-C and SIGTERM.
pub async fn run(options: BenchOptions) -> anyhow::Result<Report> {
    let report = until_interrupted(hold(&options)).await?;
    if options.json {
        print(report.json_line());
    } else {
        print(report.table());
    }
    output()?;
    Ok(report)
}

async fn hold(options: &BenchOptions) -> anyhow::Result<Report> {
    options.check()?;
    if let Some(dir) = &options.plot {
        // Before anything is measured that could not be drawn.
        std::fs::create_dir_all(dir).with_context(|| format!("--plot {}", dir.display()))?;
    }
    let mut stage = Stage::new(options);
    match options.name {
        BenchName::Resolve => resolve::hold(&mut stage).await?,
        BenchName::Invalidate => invalidate::hold(&mut stage).await?,
        BenchName::Directory => directory::hold(&mut stage).await?,
        BenchName::Register => register::hold(&mut stage).await?,
        BenchName::Join => join::hold(&mut stage).await?,
        BenchName::Converge if options.wan => wan::hold(&mut stage).await?,
        BenchName::Converge => converge::hold(&mut stage).await?,
        BenchName::Replay => replay::hold(&mut stage).await?,
    }
    stage.draw()?;
    Ok(stage.into_report())
}
