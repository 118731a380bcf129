//! One watcher per sidecar: notes when each event was applied there.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use grapevine_client::{Client, Watch, WatchEvent};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::converge::{Convergence, event_key};

const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Watches every sidecar until it is dropped. Returns once every watch has begun.
pub(crate) async fn watch(
    clients: Vec<Client>,
    clock: Clock,
    convergence: &Arc<Mutex<Convergence>>,
) -> anyhow::Result<JoinSet<()>> {
    let mut watchers = JoinSet::new();
    for client in clients {
        let mut watch = client.watch(Vec::<String>::new())?;
        let started = tokio::time::timeout(START_TIMEOUT, watch.next());
        match started.await.context("a watch did not begin in time")?? {
            WatchEvent::Started { .. } => {}
            other => bail!("a watch began with {other:?}"),
        }
        watchers.spawn(note(watch, clock, Arc::clone(convergence)));
    }
    Ok(watchers)
}

async fn note(mut watch: Watch, clock: Clock, convergence: Arc<Mutex<Convergence>>) {
    loop {
        match watch.next().await {
            Ok(WatchEvent::Bump(bump)) => {
                let event = bump.event.unwrap_or_default();
                if let Some(event) = event_key(&event.incarnation, event.sequence) {
                    convergence.lock().seen(event, clock.now());
                }
            }
            Ok(WatchEvent::Started { .. }) => {}
            // What was missed stays incomplete, and is counted so.
            Ok(WatchEvent::Resync(cause)) => tracing::info!(?cause, "a watch missed events"),
            Ok(WatchEvent::Lost { reason }) => tracing::info!(reason, "a watch hears nothing"),
            Err(error) => {
                tracing::warn!(%error, "a watch ended");
                return;
            }
        }
    }
}
