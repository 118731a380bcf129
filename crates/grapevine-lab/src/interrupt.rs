//! Ctrl-C and SIGTERM end a run early, and with it all that it started.

use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};

/// The run was told to end before it had ended by itself. Everything that it had started is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("stopped by a signal")]
pub struct Interrupted;

/// Does the work, unless the process is told to end before; then the work is dropped, and with it the processes that it holds.
pub(crate) async fn until_interrupted<T>(
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = work => done,
        _ = interrupt.recv() => Err(Interrupted.into()),
        _ = terminate.recv() => Err(Interrupted.into()),
    }
}
