//! The Grapevine command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    let matches = clap::Command::new("grapevine")
        .subcommand_required(true)
        .subcommand(grapevined::cli::command("sidecar"))
        .get_matches();
    match matches.subcommand() {
        Some(("sidecar", matches)) => grapevined::cli::run_matches(matches, grapevined::run),
        _ => ExitCode::FAILURE,
    }
}
