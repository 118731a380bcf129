//! Serving pulls and snapshots: reads of the store, off the loop, sent as fast as the link takes them.

use std::sync::Arc;

use grapevine_core::event::{Event, Registration};
use grapevine_core::id::{Incarnation, Lane};
use grapevine_core::machine::effects::PeerMessage;
use grapevine_core::progress::OriginHead;
use grapevine_store::{AddressRow, Cursor, LogRead, Page, Store, StoreError};
use tracing::warn;

use super::LinkSender;
use crate::engine::{Engine, blocking};
use crate::telemetry::Counter;
use crate::wire::peer::{FRAME_BYTES_MAX, cut, event_bytes};

/// Bytes of the log read at once. Names share beginnings there, so they may be forty times as many on the wire.
const LOG_BYTES: usize = 128 << 10;
/// Rows of a snapshot read at first; then as many as made about one message.
const ROWS_FIRST: usize = 32;
/// Rows read at once at most.
const ROWS_MAX: usize = 5_000;

/// Reads a piece of the log and sends it, or says that it is compacted. The asker asks again for what does not fit.
pub(crate) fn log(
    engine: &Engine,
    link: LinkSender,
    origin: Incarnation,
    lane: Lane,
    (first, last): (u64, u64),
) {
    let (store, counters) = (engine.store.clone(), engine.counters.clone());
    let Ok(place) = link.pulls.clone().try_acquire_owned() else {
        return counters.inc(Counter::PushesDropped);
    };
    tokio::spawn(async move {
        let _place = place;
        let read = blocking(move || read_log(&*store, origin, lane, first, last)).await;
        let message = match read {
            Ok(LogRead::Compacted) => PeerMessage::Compacted {
                origin,
                lane,
                first,
            },
            Ok(LogRead::Events(events)) => {
                match cut(events_message(origin, lane, first, events))
                    .into_iter()
                    .next()
                {
                    Some(message) => message,
                    // It is not here: the asker is better served by another one.
                    None => return,
                }
            }
            Err(error) => return warn!(%error, "cannot serve a pull"),
        };
        if !link.queue_when_room(message).await {
            counters.inc(Counter::PushesDropped);
        }
    });
}

/// Consecutive events, as many as one message takes, or fewer if the log ends. None: the first one was never here.
fn read_log(
    store: &dyn Store,
    origin: Incarnation,
    lane: Lane,
    first: u64,
    last: u64,
) -> Result<LogRead, StoreError> {
    let mut events = Vec::new();
    let (mut bytes, mut next) = (0, first);
    while next <= last && bytes < FRAME_BYTES_MAX {
        let more = match store.read_log(origin, lane, next, last, LOG_BYTES)? {
            LogRead::Events(more) => more,
            LogRead::Compacted if events.is_empty() => return Ok(LogRead::Compacted),
            LogRead::Compacted => break,
        };
        let Some(&(end, _)) = more.last() else { break };
        let sizes = more.iter().map(|(_, event)| event_bytes(event));
        bytes += sizes.sum::<usize>();
        events.extend(more);
        match end.checked_add(1) {
            Some(after) => next = after,
            None => break,
        }
    }
    Ok(LogRead::Events(events))
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

/// Sends a snapshot: the cut first, then shapes, versions, floors and registrations, then the end.
pub(crate) fn snapshot(engine: &Engine, link: LinkSender, id: u64, cut: Vec<OriginHead>) {
    let store = engine.store.clone();
    let Ok(place) = link.snapshots.clone().try_acquire_owned() else {
        return engine.counters.inc(Counter::PushesDropped);
    };
    tokio::spawn(async move {
        let _place = place;
        if let Err(error) = pieces(store, &link, id, cut).await {
            // Without its end the receiver adopts nothing and asks again.
            warn!(%error, "a snapshot broke off");
        }
    });
}

#[derive(Debug, thiserror::Error)]
enum SnapshotError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the link is gone, or took nothing for too long")]
    Link,
}

async fn pieces(
    store: Arc<dyn Store>,
    link: &LinkSender,
    id: u64,
    heads: Vec<OriginHead>,
) -> Result<(), SnapshotError> {
    send(link, PeerMessage::SnapshotBegin { id, cut: heads }).await?;
    let reader = store.clone();
    let shapes = PeerMessage::SnapshotVersions {
        id,
        classes: Vec::new(),
        floors: Vec::new(),
        shapes: blocking(move || reader.shapes()).await?,
    };
    send(link, shapes).await?;
    let reader = store.clone();
    pages(
        link,
        move |after, rows| reader.snapshot_versions(after, rows),
        |classes| PeerMessage::SnapshotVersions {
            id,
            classes,
            floors: Vec::new(),
            shapes: Vec::new(),
        },
    )
    .await?;
    let reader = store.clone();
    // After the classes: one that was evicted in between is in a floor by now.
    let floors = blocking(move || reader.floors()).await?;
    let classes = Vec::new();
    let floors = PeerMessage::SnapshotVersions {
        id,
        classes,
        floors,
        shapes: Vec::new(),
    };
    send(link, floors).await?;
    pages(
        link,
        move |after, rows| store.snapshot_directory(after, rows),
        |rows| PeerMessage::SnapshotDirectory {
            id,
            registrations: rows.into_iter().map(registration).collect(),
        },
    )
    .await?;
    send(link, PeerMessage::SnapshotEnd { id }).await?;
    Ok(())
}

fn registration(row: AddressRow) -> Registration {
    Registration {
        address: row.address,
        classes: vec![row.class],
        expires: row.expires,
    }
}

/// Sends a table page by page. A row may be anything from some bytes to megabytes (a dot for each run of a sidecar), so
/// the next page's length follows from how many messages the last one made.
async fn pages<T: Send + 'static>(
    link: &LinkSender,
    read: impl Fn(Option<&Cursor>, usize) -> Result<Page<T>, StoreError> + Send + Sync + 'static,
    message: impl Fn(Vec<T>) -> PeerMessage,
) -> Result<(), SnapshotError> {
    let read = Arc::new(read);
    let (mut after, mut rows) = (None::<Cursor>, ROWS_FIRST);
    loop {
        let (read, from) = (read.clone(), after.take());
        let page = blocking(move || read(from.as_ref(), rows)).await?;
        let sent = send(link, message(page.rows)).await?;
        rows = match sent {
            0 | 1 => rows.saturating_mul(2).min(ROWS_MAX),
            many => (rows / many).max(1),
        };
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// Sends a part of a snapshot in as many messages as it takes; tells how many.
async fn send(link: &LinkSender, part: PeerMessage) -> Result<usize, SnapshotError> {
    let pieces = cut(part);
    let count = pieces.len();
    for piece in pieces {
        if !link.queue_piece(piece).await {
            return Err(SnapshotError::Link);
        }
    }
    Ok(count)
}
