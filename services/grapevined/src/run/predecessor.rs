//! What a start waits for: a process that is ending still has the ports and the store's directory for a moment after it stopped
//! answering. A successor that is started at once, as by a supervisor or behind `grapevine drain --wait`, takes them over.

use std::io::{Error, ErrorKind};
use std::time::Duration;

use grapevine_store::StoreError;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::LEAVE_MAX;

/// How long it is waited for: what leaving may take, and a moment more.
const PATIENCE: Duration = LEAVE_MAX.saturating_add(Duration::from_secs(1));
/// Between two tries.
const INTERVAL: Duration = Duration::from_millis(50);

/// Tries until what is wanted is no longer in use by another process, or it has been waited for long enough.
pub(super) async fn outlast<T>(
    mut attempt: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let until = Instant::now() + PATIENCE;
    let mut told = false;
    loop {
        match attempt().await {
            Err(error) if is_in_use(&error) && Instant::now() < until => {
                if !told {
                    warn!(reason = %format!("{error:#}"), "waiting up to {PATIENCE:?} for another process to end");
                    told = true;
                }
                sleep(INTERVAL).await;
            }
            settled => return settled,
        }
    }
}

fn is_in_use(error: &anyhow::Error) -> bool {
    let port = |cause: &Error| cause.kind() == ErrorKind::AddrInUse;
    error.chain().any(|cause| {
        cause.downcast_ref().is_some_and(port)
            || matches!(cause.downcast_ref(), Some(StoreError::Locked { .. }))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use anyhow::Context as _;

    use super::*;

    fn taken() -> anyhow::Error {
        let error = Error::from(ErrorKind::AddrInUse);
        anyhow::Error::new(error).context("peer.listen: cannot listen")
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_takes_over_what_a_process_that_is_ending_gives_up() {
        let began = Instant::now();
        let path = || "store".into();
        let locked = || Err(StoreError::Locked { path: path() }).context("store.path store");
        let free = |after| move |began: Instant| began.elapsed() >= Duration::from_secs(after);
        let port = outlast(async || if free(3)(began) { Ok(()) } else { Err(taken()) });
        port.await.unwrap();
        let store = outlast(async || if free(5)(began) { Ok(()) } else { locked() });
        store.await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(6));
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_ends_at_what_stays_in_use_and_at_once_at_anything_else() {
        let began = Instant::now();
        outlast(async || Err::<(), _>(taken())).await.unwrap_err();
        assert!(began.elapsed() >= PATIENCE && began.elapsed() < PATIENCE * 2);
        let began = Instant::now();
        let denied = async || Err::<(), _>(Error::from(ErrorKind::PermissionDenied).into());
        outlast(denied).await.unwrap_err();
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
