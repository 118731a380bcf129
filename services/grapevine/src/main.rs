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

/// Why it is not the system's, decision 0304 says.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    cli::main()
}
