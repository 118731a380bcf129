//! The demo: a shop whose carts are cached on three nodes, told as a story on standard output.

use std::path::PathBuf;

/// What the demo can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemoOptions {
    /// The executable that understands `sidecar`, usually the running one.
    pub executable: PathBuf,
    /// What every draw begins from.
    pub seed: u64,
    /// Colours and bars; without them plain lines.
    pub fancy: bool,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DemoOutcome {
    /// What was not as it should be, one sentence each; they have been printed. Empty stands for exit status 0.
    pub failures: Vec<String>,
}

/// Runs the demo, under a minute. Ends early, with an error and with everything that it started ended, on Ctrl-C and SIGTERM.
pub async fn run(options: DemoOptions) -> anyhow::Result<DemoOutcome> {
    std::future::ready(()).await;
    anyhow::bail!("no demo with {}", options.executable.display())
}
