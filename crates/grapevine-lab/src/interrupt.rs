//! Ctrl-C, SIGTERM, a terminal that is closed, and standard output that takes nothing any more end a run early, and with it all
//! that it started.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::sync::OnceLock;

use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// Why standard output took a line no more, and who is to hear of it.
static LOST: (OnceLock<String>, Notify) = (OnceLock::new(), Notify::const_new());

/// The run was told to end before it had ended by itself. Everything that it had started is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("stopped by a signal")]
pub struct Interrupted;

/// Does the work, unless the process is told to end before; then the work is dropped, and with it the processes that it holds.
pub async fn until_interrupted<T>(
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::select! {
        done = work => done.and_then(|done| output().map(|()| done)),
        () = LOST.1.notified() => Err(output().expect_err("invariant: told after it was kept")),
        _ = hang_up.recv() => Err(Interrupted.into()),
        _ = interrupt.recv() => Err(Interrupted.into()),
        _ = terminate.recv() => Err(Interrupted.into()),
    }
}

/// Writes a line to standard output. Where that fails the run ends, as if by a signal, and says why.
pub fn print(text: impl Display) {
    let mut out = io::stdout().lock();
    if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush()) {
        // The first one counts.
        let _ = LOST.0.set(error.to_string());
        LOST.1.notify_one();
    }
}

/// Whether all lines were taken.
pub fn output() -> anyhow::Result<()> {
    match LOST.0.get() {
        Some(error) => Err(anyhow::anyhow!("standard output: {error}")),
        None => Ok(()),
    }
}
