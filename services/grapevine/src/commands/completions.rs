//! `grapevine completions`: a script for a shell.

use clap_complete::Shell;

use crate::cli;
use crate::exit::Failure;
use crate::output::Output;

/// Write a completion script for a shell
///
/// For bash: grapevine completions bash > ~/.local/share/bash-completion/completions/grapevine
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    // Into memory first: the generator panics when its writer fails, as a closed pipe does.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli::command(), "grapevine", &mut script);
    let mut out = Output::stdout();
    out.line(String::from_utf8_lossy(&script).trim_end())?;
    out.flush()
}
