//! The Grapevine command line: one subcommand per file in `commands`, which talk to a sidecar through `grapevine-client`
//! and write through `output`; `feed` streams invalidations in, in the words of `invalidation`; `exit` knows the exit codes.

mod cli;
mod commands;
mod connection;
mod exit;
mod feed;
mod format;
mod invalidation;
mod output;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
