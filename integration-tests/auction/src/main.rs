//! The auction's command line; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    grapevine_auction::cli::main()
}
