//! The Grapevine sidecar as a program of its own; `grapevine sidecar` is the same.

use std::process::ExitCode;

/// Why it is not the system's, decision 0304 says.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    grapevined::cli::run(std::env::args_os(), grapevined::run)
}
