//! `grapevine demo`: three sidecars and a shop, ended with the command.

use grapevine_lab::demo::DemoOptions;

use crate::exit::Failure;

/// See it work: three sidecars, a cache and a shop, in under a minute
///
/// Needs nothing installed and leaves nothing behind. Fails when a stale read was seen, when hits were below 0.95 of what perfect
/// invalidation would have had, or when it cannot be told how long an invalidation took to every node.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What every draw begins from
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Plain lines, no colours and bars; the default where standard output is not a terminal
    #[arg(long)]
    plain: bool,
    /// Print the table at the end as one line of JSON, and nothing else
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    use std::io::IsTerminal as _;
    let options = DemoOptions {
        executable: own_executable()?,
        seed: args.seed,
        fancy: !args.plain && std::io::stdout().is_terminal(),
        json: args.json,
    };
    let outcome = grapevine_lab::demo::run(options)
        .await
        .map_err(|error| Failure::of_lab("demo", error.as_ref()))?;
    Failure::unless_well("demo", &outcome.failures)
}

/// This program: it is also the sidecar that is started.
pub(super) fn own_executable() -> Result<std::path::PathBuf, Failure> {
    std::env::current_exe()
        .map_err(|error| Failure::Failed(format!("cannot tell where this program lies: {error}")))
}
