//! The Grapevine sidecar as a program of its own; `grapevine sidecar` is the same.

use std::process::ExitCode;

fn main() -> ExitCode {
    grapevined::cli::run(std::env::args_os(), grapevined::run)
}
