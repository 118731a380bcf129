//! Listings: pages of the store, streamed as fast as the caller reads them, until the sidecar drains.

use std::sync::Arc;

use grapevine_core::names::ClassPath;
use grapevine_proto::v1;
use grapevine_store::{Cursor, Page, Store, StoreError};
use prost::Message;
use prost::bytes::Bytes;
use tokio::sync::watch;
use tonic::Status;

use super::unread::{Answers, Unread};
use crate::engine::{Place, blocking, stopping};
use crate::wire::status::invalid;

/// Rows in one chunk.
const CHUNK: usize = 1_000;
/// Chunks read ahead of the caller.
const CHUNKS_AHEAD: usize = 1;

/// What every listing needs.
pub(super) struct Listing {
    pub(super) store: Arc<dyn Store>,
    /// Rows at most; 0 is all of them.
    pub(super) limit: u64,
    pub(super) place: Place,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) unread: Unread,
}

pub(super) async fn addresses(
    listing: Listing,
    class: ClassPath,
    token: &[u8],
) -> Result<Answers<v1::ListAddressesResponse>, Status> {
    let store = listing.store.clone();
    let read = move |after: Option<&Cursor>, limit: usize| store.addresses(&class, after, limit);
    let entry = |row: grapevine_store::AddressRow| {
        Some(v1::AddressEntry {
            class: row.class.as_str().to_owned(),
            address: row.address.as_str().to_owned(),
            expires_unix_ms: u64::from(row.expires.0) * 1_000,
        })
    };
    let chunk = |entries, next_page_token| v1::ListAddressesResponse {
        entries,
        next_page_token,
    };
    stream(listing, read, token, entry, chunk).await
}

pub(super) async fn classes(
    listing: Listing,
    below: Option<ClassPath>,
    token: &[u8],
) -> Result<Answers<v1::ListClassesResponse>, Status> {
    let store = listing.store.clone();
    let read =
        move |after: Option<&Cursor>, limit: usize| store.classes(below.as_ref(), after, limit);
    let entry = |row: grapevine_store::ClassRow| {
        // It stands for every class and is nobody's.
        (!row.class.is_reserved()).then(|| v1::ClassEntry {
            class: row.class.as_str().to_owned(),
            addresses: row.addresses,
            bumped: row.bumped,
        })
    };
    let chunk = |entries, next_page_token| v1::ListClassesResponse {
        entries,
        next_page_token,
    };
    stream(listing, read, token, entry, chunk).await
}

fn page_token(next: Option<&Cursor>) -> Bytes {
    next.map_or_else(Bytes::new, |cursor| {
        Bytes::copy_from_slice(cursor.as_bytes())
    })
}

fn read_error(error: &StoreError) -> Status {
    match error {
        StoreError::BadCursor => invalid("page_token", error.to_string()),
        other => Status::internal(other.to_string()),
    }
}

/// Streams pages; `entry` may leave a row out, which then does not count.
async fn stream<Row, Entry, Chunk>(
    listing: Listing,
    read: impl Fn(Option<&Cursor>, usize) -> Result<Page<Row>, StoreError> + Send + Sync + 'static,
    token: &[u8],
    entry: impl Fn(Row) -> Option<Entry> + Send + Sync + 'static,
    chunk: impl Fn(Vec<Entry>, Bytes) -> Chunk + Send + Sync + 'static,
) -> Result<Answers<Chunk>, Status>
where
    Row: Send + 'static,
    Entry: Send + 'static,
    Chunk: Message + 'static,
{
    let Listing {
        limit,
        place,
        mut stop,
        unread,
        ..
    } = listing;
    let read = Arc::new(read);
    let mut left = if limit == 0 { u64::MAX } else { limit };
    let mut after = (!token.is_empty()).then(|| Cursor::from_bytes(token));
    let page = async move |after: Option<Cursor>, left: u64| {
        let read = read.clone();
        let rows = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK);
        blocking(move || read(after.as_ref(), rows))
            .await
            .map_err(|error| read_error(&error))
    };
    // The first page is read before the stream begins, so that a bad token is the call's own error.
    let mut current = page(after.take(), left).await?;
    let (chunks, answers) = Answers::channel(CHUNKS_AHEAD);
    tokio::spawn(async move {
        let _place = place;
        let last = chunks.clone();
        let pages = async {
            loop {
                let next = current.next.take();
                let entries: Vec<_> = current.rows.into_iter().filter_map(&entry).collect();
                left = left.saturating_sub(entries.len() as u64);
                let done = next.is_none() || left == 0;
                let token = page_token(next.as_ref());
                // A page of nothing but what is left out is not worth a message, unless it is the last.
                let mut ended = done;
                if done || !entries.is_empty() {
                    let Ok(place) = chunks.reserve().await else {
                        return;
                    };
                    let chunk = unread.message(chunk(entries, token));
                    ended |= chunk.is_error();
                    place.send(chunk);
                }
                if ended {
                    return;
                }
                current = match page(next, left).await {
                    Ok(page) => page,
                    Err(status) => {
                        // The caller may be gone, and then nobody misses it.
                        let _ = chunks.send(status.into()).await;
                        return;
                    }
                };
            }
        };
        tokio::select! {
            () = pages => {}
            // An error means that nobody can stop it any more, which is as good as being told to.
            _ = stop.wait_for(|stop| *stop) => {
                // Who reads nothing hears nothing; the end of the stream tells it later.
                let _ = last.try_send(stopping().into());
            }
        }
    });
    Ok(answers)
}
