//! Serving pulls and snapshots: reads of the store, off the loop, sent as fast as the link takes them.

use std::sync::Arc;

use grapevine_core::event::{BATCH_REGISTRATIONS_MAX, Event, Registration};
use grapevine_core::id::{Incarnation, Lane};
use grapevine_core::machine::effects::PeerMessage;
use grapevine_core::progress::OriginHead;
use grapevine_store::{LogRead, Store, StoreError};
use tracing::warn;

use super::LinkSender;
use crate::engine::Engine;
use crate::telemetry::Counter;

/// Encoded bytes of events sent for one pull.
const LOG_BYTES_MAX: usize = 1 << 20;
/// Classes in one message of a snapshot.
const SNAPSHOT_CLASSES: usize = 500;
/// Registrations in one message of a snapshot.
const SNAPSHOT_REGISTRATIONS: usize = 5_000;

/// Reads a piece of the log and sends it, or says that it is compacted.
pub(crate) fn log(
    engine: &Engine,
    link: LinkSender,
    origin: Incarnation,
    lane: Lane,
    range: (u64, u64),
) {
    let (store, counters) = (engine.store.clone(), engine.counters.clone());
    let Ok(place) = link.pulls.clone().try_acquire_owned() else {
        return counters.inc(Counter::PushesDropped);
    };
    tokio::spawn(async move {
        let _place = place;
        let (first, last) = range;
        let read = blocking(move || store.read_log(origin, lane, first, last, LOG_BYTES_MAX)).await;
        let message = match read {
            Ok(LogRead::Compacted) => PeerMessage::Compacted {
                origin,
                lane,
                first,
            },
            Ok(LogRead::Events(events)) => events_message(origin, lane, first, events),
            Err(error) => return warn!(%error, "cannot serve a pull"),
        };
        if !link.queue_when_room(message).await {
            counters.inc(Counter::PushesDropped);
        }
    });
}

fn events_message(
    origin: Incarnation,
    lane: Lane,
    first: u64,
    events: Vec<(u64, Event)>,
) -> PeerMessage {
    let mut bumps = Vec::new();
    let mut batches = Vec::new();
    for (_, event) in events {
        match event {
            Event::Bump(bump) => bumps.push(bump),
            Event::Directory(batch) => batches.push(batch),
        }
    }
    match lane {
        Lane::Bump => PeerMessage::Bumps {
            origin,
            first,
            events: bumps,
        },
        Lane::Directory => PeerMessage::Directory {
            origin,
            first,
            batches,
        },
    }
}

/// Sends a snapshot: the cut first, then versions, floors and registrations, then the end.
pub(crate) fn snapshot(engine: &Engine, link: LinkSender, id: u64, cut: Vec<OriginHead>) {
    let store = engine.store.clone();
    let Ok(place) = link.snapshots.clone().try_acquire_owned() else {
        return engine.counters.inc(Counter::PushesDropped);
    };
    tokio::spawn(async move {
        let _place = place;
        if !link
            .queue_when_room(PeerMessage::SnapshotBegin { id, cut })
            .await
        {
            return;
        }
        if let Err(error) = chunks(store, &link, id).await {
            // Without its end the receiver adopts nothing and asks again.
            return warn!(%error, "a snapshot broke off");
        }
        link.queue_when_room(PeerMessage::SnapshotEnd { id }).await;
    });
}

#[derive(Debug, thiserror::Error)]
enum SnapshotError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the link is gone, or took nothing for 10 s")]
    Link,
}

async fn chunks(store: Arc<dyn Store>, link: &LinkSender, id: u64) -> Result<(), SnapshotError> {
    let queue = async |message| {
        if link.queue_when_room(message).await {
            Ok(())
        } else {
            Err(SnapshotError::Link)
        }
    };
    let mut after = None;
    loop {
        let (reader, from) = (store.clone(), after.take());
        let page =
            blocking(move || reader.snapshot_versions(from.as_ref(), SNAPSHOT_CLASSES)).await?;
        if !page.rows.is_empty() {
            queue(PeerMessage::SnapshotVersions {
                id,
                classes: page.rows,
                floors: Vec::new(),
            })
            .await?;
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let reader = store.clone();
    // After the classes: one that was evicted in between is in a floor by now.
    for floors in blocking(move || reader.floors())
        .await?
        .chunks(SNAPSHOT_CLASSES)
    {
        queue(PeerMessage::SnapshotVersions {
            id,
            classes: Vec::new(),
            floors: floors.to_vec(),
        })
        .await?;
    }
    loop {
        let (reader, from) = (store.clone(), after.take());
        let page =
            blocking(move || reader.snapshot_directory(from.as_ref(), SNAPSHOT_REGISTRATIONS))
                .await?;
        let registrations: Vec<_> = page
            .rows
            .into_iter()
            .map(|row| Registration {
                address: row.address,
                classes: vec![row.class],
                expires: row.expires,
            })
            .collect();
        debug_assert!(registrations.len() <= BATCH_REGISTRATIONS_MAX);
        if !registrations.is_empty() {
            queue(PeerMessage::SnapshotDirectory { id, registrations }).await?;
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// Runs a read of the store where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(read).await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
