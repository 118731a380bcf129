//! The sidecar's command line, for the `grapevined` binary and for `grapevine sidecar`.
//!
//! Every knob is a flag (see [`crate::config`]). `--print-default-config` writes the commented defaults, `--check-config`
//! the configuration that would be used or everything that is wrong with it; both exit at once. Exit codes: 0 it drained
//! and ended, or the check passed; 1 it could not run, failed while running, or a second signal cut its drain short; 2
//! the command line or the configuration is wrong.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::config::{self, Config};
use crate::telemetry;

/// It could not run, or failed while running.
pub const EXIT_FAILED: u8 = 1;
/// The command line or the configuration is wrong.
pub const EXIT_USAGE: u8 = 2;

/// How long the end of the process waits for whoever reads why.
const LAST_WORD: Duration = Duration::from_secs(1);

const CHECK: &str = "check-config";
const PRINT: &str = "print-default-config";

/// The sidecar's command, to be run by itself or as another program's subcommand.
pub fn command(name: &'static str) -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .action(ArgAction::SetTrue)
            .help(help)
    };
    Command::new(name)
        .version(env!("CARGO_PKG_VERSION"))
        .about("Run a Grapevine sidecar")
        .long_about(
            "Run a Grapevine sidecar until SIGTERM, SIGHUP or Ctrl-C, then drain. Without any setting it is a cluster of its own. \
             Settings come from a TOML file, from GRAPEVINE_... variables and from flags, each overriding the one before.",
        )
        .arg(flag(CHECK, "Print the configuration that would be used, or all that is wrong with it, and exit").conflicts_with(PRINT))
        .arg(flag(PRINT, "Print a commented TOML file with every setting's default and price, and exit"))
        .args(config::arguments())
}

/// Does what the command line says; `serve` runs a sidecar until it has drained.
///
/// `args` begins with the program's name. Starts a Tokio runtime of its own, so call it from outside of one.
pub fn run<I, F, Fut, E>(args: I, serve: F) -> ExitCode
where
    I: IntoIterator<Item = OsString>,
    F: FnOnce(Config) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Display,
{
    match command("grapevined").try_get_matches_from(args) {
        Ok(matches) => run_matches(&matches, serve),
        Err(error) => {
            // Nothing can be told when the terminal is gone.
            let _ = error.print();
            ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { 0 })
        }
    }
}

/// As [`run`], for the matches of a [`command`] that another program parsed.
pub fn run_matches<F, Fut, E>(matches: &ArgMatches, serve: F) -> ExitCode
where
    F: FnOnce(Config) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Display,
{
    act(matches, serve, &mut std::io::stdout())
}

fn act<F, Fut, E>(matches: &ArgMatches, serve: F, out: &mut impl Write) -> ExitCode
where
    F: FnOnce(Config) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Display,
{
    if matches.get_flag(PRINT) {
        return print(out, &config::default_config());
    }
    let loaded = match config::load(Some(matches), std::env::vars_os()) {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("error: {errors}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if let Err(error) = telemetry::otel::check() {
        eprintln!("error: {error}");
        return ExitCode::from(EXIT_USAGE);
    }
    if matches.get_flag(CHECK) {
        for warning in loaded.config.warnings() {
            eprintln!("warning: {warning}");
        }
        return print(out, &loaded.describe());
    }
    match start(loaded.config, serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell_last(format!("error: {error}"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Says on standard error why the process ends. Who reads that may have stopped, and then it ends all the same.
fn tell_last(reason: String) {
    let (done, told) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        eprintln!("{reason}");
        // Nobody waiting any more is no error.
        let _ = done.send(());
    });
    // Nor is a reader that does not read: there is nowhere to say so.
    let _ = told.recv_timeout(LAST_WORD);
}

fn start<F, Fut, E>(config: Config, serve: F) -> Result<(), String>
where
    F: FnOnce(Config) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Display,
{
    // Dropped at the end, also of a start that failed: its reason is told behind what was logged.
    let _logging = telemetry::init(&config.log).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime could not start: {error}"))?;
    // `{:#}` shows the whole chain of an anyhow error, and a plain error as it is.
    let served = runtime
        .block_on(serve(config))
        .map_err(|error| format!("{error:#}"));
    // What still runs is a read that a stalled disk holds up, or a connection past its drain: nobody waits for those.
    runtime.shutdown_background();
    served
}

/// Writes an answer; a reader that left early (`| head`) is no failure.
fn print(out: &mut impl Write, text: &str) -> ExitCode {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: standard output: {error}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::cell::RefCell;

    use super::*;

    /// What a command line led to.
    #[derive(Debug)]
    struct Outcome {
        code: String,
        served: Option<String>,
        printed: String,
    }

    fn act_on(line: &str, result: Result<(), String>) -> Outcome {
        let matches = command("grapevined").get_matches_from(line.split_whitespace());
        let served = RefCell::new(None);
        let mut printed = Vec::new();
        let serve = |config: Config| {
            *served.borrow_mut() = Some(config.node.id.to_string());
            std::future::ready(result)
        };
        let code = act(&matches, serve, &mut printed);
        Outcome {
            code: format!("{code:?}"),
            served: served.into_inner(),
            printed: String::from_utf8(printed).unwrap(),
        }
    }

    fn code(code: u8) -> String {
        format!("{:?}", ExitCode::from(code))
    }

    #[test]
    fn the_command_is_well_formed() {
        command("grapevined").debug_assert();
    }

    #[test]
    fn a_sidecar_is_served_with_its_configuration() {
        let line = "grapevined --node-id n1 --log-filter off";
        let served = act_on(line, Ok(()));
        assert_eq!(
            (served.code, served.served.as_deref()),
            (code(0), Some("n1"))
        );
        let failed = act_on(line, Err("port in use".to_owned()));
        assert_eq!(failed.code, code(EXIT_FAILED));
    }

    #[test]
    fn checking_and_printing_serve_nothing() {
        let checked = act_on("grapevined --check-config --node-id n1", Ok(()));
        assert_eq!((checked.code, checked.served), (code(0), None));
        assert!(checked.printed.contains("id = \"n1\"  # flag --node-id\n"));
        let printed = act_on("grapevined --print-default-config", Ok(()));
        assert_eq!((printed.code, printed.served), (code(0), None));
        assert_eq!(printed.printed, config::default_config());
    }

    #[test]
    fn wrong_values_have_their_own_exit_code() {
        for line in [
            "grapevined --drain-timeout soon",
            "grapevined --check-config --drain-timeout soon",
            "grapevined --config no/such.toml",
        ] {
            let outcome = act_on(line, Ok(()));
            assert_eq!(
                (outcome.code, outcome.served),
                (code(EXIT_USAGE), None),
                "{line}"
            );
        }
    }

    #[test]
    fn wrong_flags_have_the_same_one() {
        let args = ["grapevined", "--no-such-flag"].map(OsString::from);
        let code_of_it = run(args, |_| std::future::ready(Ok::<(), String>(())));
        assert_eq!(format!("{code_of_it:?}"), code(EXIT_USAGE));
    }
}
