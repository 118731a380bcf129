//! What the command line looks like, and who does what it says.
//!
//! `sidecar` comes from `grapevined`, with that crate's flags and exit codes. Everything else is one of [`Command`], runs on
//! a small Tokio runtime, and ends with a code of [`crate::exit`].

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

#[cfg(feature = "bench")]
use crate::commands::bench;
use crate::commands::{
    addresses, classes, completions, demo, drain, explain, forget, index, invalidate, members,
    register, replay, resolve, status, watch, write,
};
use crate::exit::{EXIT_CODES, Failure, of_clap};

const SIDECAR: &str = "sidecar";

/// Ask sidecars of Grapevine, run one, or see them work
#[derive(Debug, Parser)]
#[command(name = "grapevine", version, after_help = EXIT_CODES, subcommand_required = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(status::Args),
    Members(members::Args),
    Classes(classes::Args),
    Addresses(addresses::Args),
    Resolve(resolve::Args),
    Register(register::Args),
    Invalidate(invalidate::Args),
    Write(write::Args),
    Watch(watch::Args),
    Drain(drain::Args),
    Forget(forget::Args),
    Explain(explain::Args),
    Index(index::Args),
    Demo(demo::Args),
    Replay(replay::Args),
    #[cfg(feature = "bench")]
    Bench(bench::Args),
    #[cfg(feature = "bench")]
    #[command(hide = true)]
    BenchPeer(bench::PeerArgs),
    Completions(completions::Args),
}

/// The whole command line, `sidecar` included.
pub(crate) fn command() -> clap::Command {
    Cli::command().subcommand(grapevined::cli::command(SIDECAR).display_order(0))
}

/// Does what the process's arguments say.
pub(crate) fn main() -> ExitCode {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return refused(&error),
    };
    if let Some((SIDECAR, matches)) = matches.subcommand() {
        return grapevined::cli::run_matches(matches, grapevined::run);
    }
    match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli.command.run(),
        Err(error) => refused(&error),
    }
}

/// Tells of a command line that is wrong, or gives the help that was asked for.
fn refused(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && asks_for_json(std::env::args_os().skip(1)) {
        return of_clap(error).report(true);
    }
    // Nothing can be told when the terminal is gone.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Whether `--json` stands among arguments that could not be understood.
fn asks_for_json(arguments: impl Iterator<Item = OsString>) -> bool {
    let mut flags = arguments.take_while(|argument| argument != "--");
    flags.any(|argument| argument == "--json")
}

impl Command {
    fn run(self) -> ExitCode {
        log_warnings();
        let json = self.json();
        match self.run_on_a_runtime() {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.report(json),
        }
    }

    fn run_on_a_runtime(self) -> Result<(), Failure> {
        // What starts processes and load needs every core; a call to a sidecar does not.
        let needs_every_core = match self {
            Self::Demo(_) | Self::Replay(_) => true,
            #[cfg(feature = "bench")]
            Self::Bench(_) | Self::BenchPeer(_) => true,
            _ => false,
        };
        let mut builder = if needs_every_core {
            tokio::runtime::Builder::new_multi_thread()
        } else {
            tokio::runtime::Builder::new_current_thread()
        };
        let runtime = builder
            .enable_all()
            .build()
            .map_err(|error| Failure::Failed(format!("the runtime could not start: {error}")))?;
        runtime.block_on(self.run_here())
    }

    async fn run_here(self) -> Result<(), Failure> {
        match self {
            Self::Status(args) => status::run(args).await,
            Self::Members(args) => members::run(args).await,
            Self::Classes(args) => classes::run(args).await,
            Self::Addresses(args) => addresses::run(args).await,
            Self::Resolve(args) => resolve::run(args).await,
            Self::Register(args) => register::run(args).await,
            Self::Invalidate(args) => invalidate::run(args).await,
            Self::Write(args) => write::run(args).await,
            Self::Watch(args) => watch::run(args).await,
            Self::Drain(args) => drain::run(args).await,
            Self::Forget(args) => forget::run(args).await,
            Self::Explain(args) => explain::run(&args),
            Self::Index(args) => index::run(args).await,
            Self::Demo(args) => demo::run(args).await,
            Self::Replay(args) => replay::run(args).await,
            #[cfg(feature = "bench")]
            Self::Bench(args) => bench::run(args).await,
            #[cfg(feature = "bench")]
            Self::BenchPeer(args) => bench::serve(args).await,
            Self::Completions(args) => completions::run(&args),
        }
    }

    /// Whether errors are told as JSON too.
    fn json(&self) -> bool {
        match self {
            Self::Status(args) => args.connection.json,
            Self::Members(args) => args.connection.json,
            Self::Classes(args) => args.connection.json,
            Self::Addresses(args) => args.connection.json,
            Self::Resolve(args) => args.connection.json,
            Self::Register(args) => args.connection.json,
            Self::Invalidate(args) => args.connection.json,
            Self::Write(args) => args.json(),
            Self::Watch(args) => args.connection.json,
            Self::Drain(args) => args.connection.json,
            Self::Forget(args) => args.connection.json,
            Self::Explain(args) => args.json,
            Self::Index(args) => args.json(),
            Self::Demo(args) => args.json,
            Self::Replay(args) => args.json,
            #[cfg(feature = "bench")]
            Self::Bench(args) => args.json,
            #[cfg(feature = "bench")]
            Self::BenchPeer(_) => false,
            Self::Completions(_) => false,
        }
    }
}

/// Warnings of the libraries go to standard error, but for what the client says about sidecars that do not answer: that is
/// the command's own error. `GRAPEVINE_LOG` sets another filter.
fn log_warnings() {
    use std::io::IsTerminal as _;
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("GRAPEVINE_LOG")
        .unwrap_or_else(|_| EnvFilter::new("warn,grapevine_client=error"));
    // Nobody else sets one up in this process; if somebody did, theirs stays.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn errors_are_json_where_the_flag_stands_before_the_operands() {
        let asks = |line: &str| asks_for_json(line.split(' ').map(OsString::from));
        assert!(asks("status --frob --json"));
        assert!(!asks("status --frob"));
        assert!(!asks("invalidate -- --json"));
    }

    #[test]
    fn every_command_of_the_contract_is_there() {
        let command = command();
        let names: Vec<&str> = command
            .get_subcommands()
            .map(clap::Command::get_name)
            .collect();
        for name in [
            "sidecar",
            "status",
            "members",
            "classes",
            "addresses",
            "resolve",
            "register",
            "invalidate",
            "write",
            "watch",
            "demo",
            "replay",
            "bench",
            "drain",
            "forget",
            "explain",
            "index",
            "completions",
        ] {
            assert!(names.contains(&name), "{name} is missing from {names:?}");
        }
    }
}
