//! The command line.

use std::io::Write as _;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum as _};
use serde_json::json;

use crate::arms::Arm;
use crate::batch::{Request, first_caught, simulate};
use crate::explore::{Case, Explored, Limit, explore};
use crate::report::Found;
use crate::scenario::Scenario;
use crate::shop::Shop;
use crate::shrink::shrink;
use crate::sim::run;

/// Runs the real Grapevine core through hostile schedules and judges every read.
///
/// Exit status: 0 if nothing that is promised was violated, 1 if something was (for an arm: if it was caught), 2 for bad
/// usage. `arms` exits with 0 if every arm was caught, `explore` with 1 also if it was not finished.
#[derive(Debug, Parser)]
#[command(name = "grapevine-sim", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run seeds and report what occurred and what was violated.
    Simulate(Simulate),
    /// Print the transcript of one seed.
    Trace(Trace),
    /// Take every order of a few events, up to a number of delays, with the real core, from a cluster of three that has come up.
    Explore(Explore),
    /// Run every control arm until it is first caught, and print how many seeds each took.
    Arms(Arms),
    /// Count what a large cluster costs: bytes and messages of a bump, of nothing, and of all starting anew.
    Scale(crate::scale::Options),
}

#[derive(Debug, Args)]
struct World {
    /// Sidecars in the cluster, 2 to 5.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=5))]
    nodes: u8,
    /// What may go wrong.
    #[arg(long, value_enum, default_value_t)]
    scenario: Scenario,
}

#[derive(Debug, Args)]
struct Simulate {
    /// Seeds from A to below B.
    #[arg(long, value_name = "A..B", value_parser = range)]
    seeds: Range<u64>,
    #[command(flatten)]
    world: World,
    /// Do this one thing wrong.
    #[arg(long, value_enum)]
    arm: Option<Arm>,
    /// Print one line of JSON on standard output, and what was found on standard error.
    #[arg(long)]
    json: bool,
    /// Threads; the report does not depend on how many.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
    /// Runs spent on shrinking the first violation; 0 for none.
    #[arg(long, default_value_t = 400, value_name = "N")]
    shrink_runs: usize,
}

#[derive(Debug, Args)]
struct Trace {
    /// The seed.
    #[arg(long)]
    seed: u64,
    #[command(flatten)]
    world: World,
    /// Do this one thing wrong.
    #[arg(long, value_enum)]
    arm: Option<Arm>,
    /// Shrink the schedule first, if it violates anything, with so many runs at most.
    #[arg(long, value_name = "N")]
    shrink_runs: Option<usize>,
}

#[derive(Debug, Args)]
struct Explore {
    /// Only this case.
    #[arg(long, value_enum)]
    case: Option<Case>,
    /// Do this one thing wrong: entry-else-floor, receipt-before-flush or unsalted-restart.
    #[arg(long, value_enum)]
    arm: Option<Arm>,
    /// How often a flush or message may come before the one whose turn it is; 255 for any number of times. Each case has
    /// a number of its own.
    #[arg(long, value_name = "N")]
    delays: Option<u8>,
    /// The most states of a case.
    #[arg(long, default_value_t = 20_000_000, value_name = "N")]
    states_max: u64,
    /// The most seconds for a case; one that is not finished by then fails.
    #[arg(long, default_value_t = 300, value_name = "S")]
    seconds_max: u64,
    /// Threads, each with cases of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
}

#[derive(Debug, Args)]
struct Arms {
    /// Seeds from A to below B, for each arm until it is caught.
    #[arg(long, value_name = "A..B", value_parser = range)]
    seeds: Range<u64>,
    #[command(flatten)]
    world: World,
    /// Print one line of JSON for each arm.
    #[arg(long)]
    json: bool,
    /// Threads.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("{text:?} is no range: write A..B, two numbers, the second one larger");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let number = |text: &str| text.replace('_', "").parse::<u64>();
    match (number(from), number(to)) {
        (Ok(from), Ok(to)) if from < to => Ok(from..to),
        _ => Err(wrong()),
    }
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.command {
        Command::Simulate(command) => simulate_command(command),
        Command::Trace(command) => trace_command(command),
        Command::Explore(command) => explore_command(command),
        Command::Arms(command) => arms_command(command),
        Command::Scale(options) => crate::scale::run(options, &mut std::io::stdout().lock()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        // Whoever read the output has gone away.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::from(1),
        Err(error) => {
            eprintln!("grapevine-sim: cannot write: {error}");
            ExitCode::from(1)
        }
    }
}

fn simulate_command(command: &Simulate) -> std::io::Result<bool> {
    let request = Request {
        seeds: command.seeds.clone(),
        nodes: usize::from(command.world.nodes),
        scenario: command.world.scenario,
        arm: command.arm,
        jobs: usize::from(command.jobs),
    };
    let report = simulate(&request);
    let mut out = std::io::stdout().lock();
    let mut told: Box<dyn std::io::Write> = if command.json {
        writeln!(out, "{}", report.json())?;
        Box::new(std::io::stderr().lock())
    } else {
        write!(out, "{}", report.text())?;
        Box::new(out)
    };
    for found in report.excused().iter().take(3) {
        writeln!(told, "expected, not promised: {}", found.text())?;
    }
    for found in report.found() {
        writeln!(told, "{}", found.text())?;
    }
    if let Some(found) = report.found().first() {
        tell_shrunk(&mut told, &request, found.seed, command.shrink_runs)?;
    }
    Ok(!report.is_violated())
}

fn tell_shrunk(
    out: &mut dyn std::io::Write,
    request: &Request,
    seed: u64,
    runs_max: usize,
) -> std::io::Result<()> {
    let shop = Shop::new(request.scenario.source_lags());
    let plan = request.plan(seed, &shop);
    let Some(shrunk) = (runs_max > 0).then(|| shrink(&plan, &shop, request.arm, runs_max)) else {
        return Ok(());
    };
    let Some(shrunk) = shrunk else {
        return Ok(());
    };
    let (before, after) = (plan.ops.len(), shrunk.plan.ops.len());
    writeln!(
        out,
        "seed {seed} shrunk from {before} operations to {after} in {} runs:",
        shrunk.runs
    )?;
    for op in &shrunk.plan.ops {
        writeln!(out, "  {:>9} us {:?}", op.at, op.what)?;
    }
    for line in &shrunk.outcome.lines {
        writeln!(out, "{line}")?;
    }
    for violation in &shrunk.outcome.violations {
        let name = violation.guarantee.name();
        writeln!(
            out,
            "step {}: {name} violated: {}",
            violation.step, violation.what
        )?;
    }
    Ok(())
}

fn trace_command(command: &Trace) -> std::io::Result<bool> {
    let request = Request {
        seeds: command.seed..command.seed.saturating_add(1),
        nodes: usize::from(command.world.nodes),
        scenario: command.world.scenario,
        arm: command.arm,
        jobs: 1,
    };
    let mut out = std::io::stdout().lock();
    if let Some(runs_max) = command.shrink_runs {
        tell_shrunk(&mut out, &request, command.seed, runs_max)?;
    }
    let shop = Shop::new(request.scenario.source_lags());
    let plan = request.plan(command.seed, &shop);
    let outcome = run(&plan, &shop, command.arm, command.shrink_runs.is_none());
    for line in &outcome.lines {
        writeln!(out, "{line}")?;
    }
    for violation in &outcome.violations {
        let gap = violation
            .gap
            .map_or(String::new(), |gap| format!(" (expected: {})", gap.name()));
        let (step, name) = (violation.step, violation.guarantee.name());
        writeln!(out, "step {step}: {name} violated{gap}: {}", violation.what)?;
    }
    writeln!(out, "transcript {:016x}", outcome.hash)?;
    Ok(outcome
        .violations
        .iter()
        .all(|violation| violation.gap.is_some()))
}

fn explore_command(command: &Explore) -> std::io::Result<bool> {
    let limit = Limit {
        states_max: command.states_max,
        time_max: Duration::from_secs(command.seconds_max),
        delays: command.delays,
    };
    let cases: Vec<_> = match command.case {
        Some(case) => vec![case],
        None => Case::value_variants().to_vec(),
    };
    let next = AtomicUsize::new(0);
    let work = || {
        let mut explored = Vec::new();
        while let Some(&case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            explored.push(explore(case, command.arm, limit));
        }
        explored
    };
    let mut all: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..command.jobs).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().flat_map(|worker| {
            worker
                .join()
                .expect("invariant: a case that panics ends the exploration")
        });
        joined.collect()
    });
    all.sort_by_key(|explored| cases.iter().position(|case| *case == explored.case));
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<10} {:>10} {:>11} {:>6} {:>5} {:>7}  result",
        "case", "states", "steps", "depth", "views", "seconds"
    )?;
    for explored in &all {
        let result = match &explored.found {
            Some((guarantee, what, _)) => format!("{guarantee} violated: {what}"),
            None if explored.complete && explored.delays == u8::MAX => {
                "every order taken".to_owned()
            }
            None if explored.complete => {
                format!(
                    "every order with at most {} delay(s) taken",
                    explored.delays
                )
            }
            None => "stopped at its limit".to_owned(),
        };
        writeln!(
            out,
            "{:<10} {:>10} {:>11} {:>6} {:>5} {:>7}  {result}",
            explored.case.name(),
            explored.states,
            explored.steps,
            explored.depth,
            explored.view,
            explored.elapsed.as_secs()
        )?;
        let steps = explored.found.iter().flat_map(|(_, _, steps)| steps);
        for step in steps {
            writeln!(out, "    {step}")?;
        }
    }
    // What an arm does wrong may lie behind the limit: it was not caught, and that is all.
    let passed = |explored: &Explored| {
        explored.found.is_none() && (explored.complete || command.arm.is_some())
    };
    Ok(all.iter().all(passed))
}

fn arms_command(command: &Arms) -> std::io::Result<bool> {
    let mut out = std::io::stdout().lock();
    let mut all = true;
    if !command.json {
        writeln!(out, "{:<22} {:>7}  {:<9} what", "arm", "seeds", "caught by")?;
    }
    for arm in Arm::value_variants() {
        let request = Request {
            seeds: command.seeds.clone(),
            nodes: usize::from(command.world.nodes),
            scenario: arm.scenario().unwrap_or(command.world.scenario),
            arm: Some(*arm),
            jobs: usize::from(command.jobs),
        };
        let found = first_caught(&request);
        all &= found.is_some();
        let took = |found: &Found| found.seed - command.seeds.start + 1;
        if command.json {
            let line = json!({
                "arm": arm.name(),
                "seeds": found.as_ref().map(took),
                "seed": found.as_ref().map(|found| found.seed),
                "step": found.as_ref().map(|found| found.step),
                "guarantee": found.as_ref().map(|found| found.guarantee),
                "replay": found.as_ref().map(|found| found.replay.clone()),
            });
            writeln!(out, "{line}")?;
            continue;
        }
        match found {
            Some(found) => {
                let (name, guarantee) = (arm.name(), found.guarantee);
                writeln!(
                    out,
                    "{name:<22} {:>7}  {guarantee:<9} {}",
                    took(&found),
                    found.what
                )?;
            }
            None => writeln!(out, "{:<22} {:>7}  NOT CAUGHT", arm.name(), "-")?,
        }
    }
    Ok(all)
}
