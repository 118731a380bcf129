//! Conditions with deadlines, in place of sleeps.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::time::Instant;

const POLL_EVERY: Duration = Duration::from_millis(15);

/// Asks `probe` until it succeeds, and passes on what it answers; fails with `what` and the probe's last error when the
/// deadline passes. A probe that hangs is cut off at the deadline.
pub async fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let until = Instant::now() + deadline;
    let mut last = anyhow!("it was never answered");
    loop {
        match tokio::time::timeout_at(until, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = error,
            Err(_) => {}
        }
        if Instant::now() >= until {
            return Err(last).with_context(|| format!("{what}: not within {deadline:?}"));
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// Asks `probe` over and over for so long; fails with `what` as soon as it does. For what must never happen.
pub async fn always(
    what: &str,
    during: Duration,
    mut probe: impl AsyncFnMut() -> Result<()>,
) -> Result<()> {
    let until = Instant::now() + during;
    let mut asked = 0;
    while Instant::now() < until {
        probe().await.with_context(|| what.to_owned())?;
        asked += 1;
        tokio::time::sleep(POLL_EVERY).await;
    }
    if asked == 0 {
        bail!("{what}: never asked within {during:?}");
    }
    Ok(())
}
