//! Ctrl-C and SIGTERM end a run early, and with it all that it started.

use anyhow::bail;
use tokio::signal::unix::{SignalKind, signal};

/// Does the work, unless the process is told to end before; then the work is dropped, and with it the processes that it holds.
pub(crate) async fn until_interrupted<T>(
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = work => done,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            bail!("interrupted")
        }
        _ = terminate.recv() => bail!("terminated"),
    }
}
