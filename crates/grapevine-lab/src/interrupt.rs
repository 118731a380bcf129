//! Ctrl-C, SIGTERM, a terminal that is closed, and standard output that takes nothing any more end a run early, and with it all
//! that it started.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::sync::OnceLock;
use std::time::Duration;

use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// How much later than a child's a signal may come to this process.
const SIGNAL_WAIT: Duration = Duration::from_millis(100);

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
    let told = async {
        tokio::select! {
            _ = hang_up.recv() => (),
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
        }
    };
    tokio::pin!(told);
    let failed = tokio::select! {
        done = work => match done.and_then(|done| output().map(|()| done)) {
            Ok(done) => return Ok(done),
            Err(error) => error,
        },
        () = LOST.1.notified() => output().expect_err("invariant: told after it was kept"),
        () = &mut told => return Err(Interrupted.into()),
    };
    Err(cause(failed, told).await)
}

/// Why the work failed. A terminal tells all that it runs to end: a child that hears it first makes the work fail, a moment before
/// this process hears it.
async fn cause(failed: anyhow::Error, told: impl Future<Output = ()>) -> anyhow::Error {
    match tokio::time::timeout(SIGNAL_WAIT, told).await {
        Ok(()) => Interrupted.into(),
        Err(_) => failed,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_is_the_signals_that_comes_with_it_and_else_its_own() {
        let failed = || anyhow::anyhow!("a child has ended");
        assert!(
            cause(failed(), std::future::ready(()))
                .await
                .is::<Interrupted>()
        );
        let own = cause(failed(), std::future::pending()).await;
        assert_eq!(own.to_string(), "a child has ended");
    }
}
