//! Listings: pages of the store, streamed as fast as the caller reads them.

use std::sync::Arc;

use grapevine_core::names::ClassPath;
use grapevine_proto::v1;
use grapevine_store::{Cursor, Page, Store, StoreError};
use prost::bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::peers::serve::blocking;
use crate::wire::status::invalid;

/// Rows in one chunk.
const CHUNK: usize = 1_000;
/// Chunks read ahead of the caller.
const CHUNKS_AHEAD: usize = 2;

type Chunks<T> = ReceiverStream<Result<T, Status>>;

pub(crate) async fn addresses(
    store: Arc<dyn Store>,
    class: ClassPath,
    limit: u64,
    token: &[u8],
) -> Result<Chunks<v1::ListAddressesResponse>, Status> {
    let read = move |after: Option<&Cursor>, limit: usize| store.addresses(&class, after, limit);
    stream(read, limit, token, |page| v1::ListAddressesResponse {
        next_page_token: next(page.next.as_ref()),
        entries: page
            .rows
            .into_iter()
            .map(|row| v1::AddressEntry {
                class: row.class.as_str().to_owned(),
                address: row.address.as_str().to_owned(),
                expires_unix_ms: u64::from(row.expires.0) * 1_000,
            })
            .collect(),
    })
    .await
}

pub(crate) async fn classes(
    store: Arc<dyn Store>,
    below: Option<ClassPath>,
    limit: u64,
    token: &[u8],
) -> Result<Chunks<v1::ListClassesResponse>, Status> {
    let read =
        move |after: Option<&Cursor>, limit: usize| store.classes(below.as_ref(), after, limit);
    stream(read, limit, token, |page| v1::ListClassesResponse {
        next_page_token: next(page.next.as_ref()),
        entries: page
            .rows
            .into_iter()
            // It stands for every class and is nobody's.
            .filter(|row| !row.class.is_reserved())
            .map(|row| v1::ClassEntry {
                class: row.class.as_str().to_owned(),
                addresses: row.addresses,
                bumped: row.bumped,
            })
            .collect(),
    })
    .await
}

fn next(cursor: Option<&Cursor>) -> Bytes {
    cursor.map_or_else(Bytes::new, |cursor| {
        Bytes::copy_from_slice(cursor.as_bytes())
    })
}

fn read_error(error: &StoreError) -> Status {
    match error {
        StoreError::BadCursor => invalid("page_token", error.to_string()),
        other => Status::internal(other.to_string()),
    }
}

async fn stream<Row, Chunk>(
    read: impl Fn(Option<&Cursor>, usize) -> Result<Page<Row>, StoreError> + Send + Sync + 'static,
    limit: u64,
    token: &[u8],
    chunk: impl Fn(Page<Row>) -> Chunk + Send + 'static,
) -> Result<Chunks<Chunk>, Status>
where
    Row: Send + 'static,
    Chunk: Send + 'static,
{
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
    let (chunks, stream) = mpsc::channel(CHUNKS_AHEAD);
    tokio::spawn(async move {
        loop {
            left = left.saturating_sub(current.rows.len() as u64);
            let next = current.next.clone();
            if chunks.send(Ok(chunk(current))).await.is_err() || next.is_none() || left == 0 {
                return;
            }
            current = match page(next, left).await {
                Ok(page) => page,
                Err(status) => {
                    // The caller may be gone, and then nobody misses it.
                    let _ = chunks.send(Err(status)).await;
                    return;
                }
            };
        }
    });
    Ok(ReceiverStream::new(stream))
}
