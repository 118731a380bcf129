//! `grapevine demo`: three sidecars and a shop, ended with the command.

use grapevine_lab::demo::DemoOptions;

use crate::exit::{Failure, with_causes};

/// See it work: three sidecars, a cache and a shop, in under a minute
///
/// Needs nothing installed and leaves nothing behind. Fails when a stale read was seen, or too few hits.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What every draw begins from
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Plain lines, no colours and bars; the default where standard output is not a terminal
    #[arg(long)]
    plain: bool,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    use std::io::IsTerminal as _;
    let options = DemoOptions {
        executable: own_executable()?,
        seed: args.seed,
        fancy: !args.plain && std::io::stdout().is_terminal(),
    };
    let outcome = grapevine_lab::demo::run(options)
        .await
        .map_err(|error| Failure::Failed(format!("demo: {}", with_causes(error.as_ref()))))?;
    if outcome.failures.is_empty() {
        return Ok(());
    }
    // They have been printed.
    Err(Failure::Told(1))
}

/// This program: it is also the sidecar that is started.
pub(super) fn own_executable() -> Result<std::path::PathBuf, Failure> {
    std::env::current_exe()
        .map_err(|error| Failure::Failed(format!("cannot tell where this program lies: {error}")))
}
