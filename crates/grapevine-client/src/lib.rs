//! What a Rust application links to use Grapevine.
//!
//! A [`Client`] talks to the application's own sidecar, over a Unix socket or loopback TCP: it *resolves* addresses and
//! *invalidates* classes. A [`CachedClient`] puts a cache beside it and answers reads:
//!
//! ```no_run
//! use std::sync::Arc;
//! use bytes::Bytes;
//! use grapevine_client::{CachedClient, Client, IndexRow, Want, v1};
//!
//! # async fn items_of_cart(_: u64) -> Result<Bytes, std::io::Error> { Ok(Bytes::new()) }
//! # async fn first_items(_: Want) -> Result<Vec<IndexRow>, std::io::Error> { Ok(Vec::new()) }
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder("unix:/run/grapevine/app.sock").fail_over_to("10.0.0.2:7600").build()?;
//! let cached = CachedClient::new(client.clone(), grapevine_cache::connect("memcached://127.0.0.1:11211")?);
//!
//! // Reads: from the cache, or else from the function, and never what an invalidation has made stale.
//! let cart = cached.get_or_fill("get_items_in_cart::13", &["get_items_in_cart/13"], None, |fill| async move {
//!     fill.depends_on("prices");
//!     items_of_cart(13).await
//! }).await?;
//! println!("{} bytes, {:?}", cart.value.len(), cart.how);
//!
//! // Reads by statement: it tells which rows it depends on, and their changes make the answer stale.
//! let sql = "SELECT sum(price) FROM item WHERE category_id = $1";
//! let total = cached.cached_query(sql, [5], None, |_| items_of_cart(13)).await?;
//! println!("{} bytes, {:?}", total.value.len(), total.how);
//!
//! // Lists: ids by criterion from the sidecar, or else from the database, which it is then told.
//! let items = client.index("item", v1::SqlDialect::Postgresql).by("category_id", 5).order_by("price");
//! let page = items.limit(20).ids(|want| first_items(want)).await?;
//! println!("{:?}, {} ids, more behind them: {}", page.how, page.ids.len(), page.more);
//!
//! // Writes: after the commit, and refused before it when no sidecar answers, if that matters.
//! let outcome = client.invalidate(["get_items_in_cart/13"]).await?;
//! println!("{} addresses deleted", outcome.addresses_purged);
//!
//! // Or declared before the commit, so that the classes are invalidated even if this process dies right after it.
//! let write = client.begin_write(["get_items_in_cart/13"]).await?;
//! // ... the database commits here, within `write.remaining()` ...
//! write.commit().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Four promises hold whatever happens to sidecars and caches: a read never fails because of them, it goes to the source
//! within the look-up's deadline; a value is served only under the token that its look-up gave; an invalidation is
//! acknowledged by some sidecar or is a typed error; and every queue has a limit that is told when it is met.

mod admin;
mod audit;
mod batcher;
mod builder;
mod cached;
mod channel;
mod client;
mod envelope;
mod error;
mod explain;
mod fence;
mod fill;
mod gate;
mod index;
mod invalidate;
mod list;
mod local;
mod names;
mod outcome;
mod page;
mod paged;
mod query;
mod refresh;
mod register;
mod report;
mod rows;
mod session;
mod single_flight;
mod snapshot;
mod stats;
mod trace_context;
mod turn;
mod watch;
mod write;

pub use grapevine_proto::v1;

pub use builder::ClientBuilder;
pub use cached::CachedClient;
pub use client::{Client, Resolved};
pub use envelope::{
    Dependencies, Envelope, EnvelopeError, MAGIC as ENVELOPE_MAGIC, TooLong,
    VERSION as ENVELOPE_VERSION,
};
pub use error::{
    CallError, ClientError, ConfigError, InvalidRequest, InvalidateError, ResolveError, Violation,
};
pub use fill::{Fill, PageFill};
pub use index::{
    Ask, Cursor, CursorError, Evidence, INDEX_COLUMNS_MAX, INDEX_ID_BYTES_MAX,
    INDEX_INTERSECTED_MAX, INDEX_LIMIT_MAX, INDEX_OFFSET_MAX, INDEX_UNITED_MAX, IdPage, Index,
    IndexObjects, IndexRow, IndexedObject, LeafExtent, LeafFill, LeafId, LeafMember, LeafPage,
    LeafState, LoadRight, ObjectPage, Objects, SqlScalar, Want,
};
pub use invalidate::{Invalidate, InvalidateOutcome};
pub use list::{Chunk, Listing};
pub use local::LocalHit;
pub use names::{
    ADDRESS_BYTES_MAX, BATCH_MAX, CLASS_BYTES_MAX, CLASS_SEGMENTS_MAX, CLASSES_MAX,
    INVALIDATE_CLASSES_MAX, OFFSET_MAX, SLICE_LIMIT_MAX,
};
pub use outcome::{BypassReason, GetError, GetOutcome, How, PageOutcome};
pub use page::{PageError, PageTooLong, decode_page, encode_page, page_address};
pub use register::REGISTER_MAX;
pub use rows::CHANGES_MAX;
pub use session::{
    SESSION_HEADER, SESSION_TOKEN_BYTES_MAX, SESSION_TOKENS_MAX, SESSION_WAIT_DEFAULT,
    SESSION_WAIT_MAX, Session, SessionError,
};
pub use snapshot::Snapshot;
pub use stats::{CacheStats, ClientStats};
pub use trace_context::{TraceContext, TraceContextError};
pub use turn::{FillHold, FillTurn};
pub use watch::{ResyncCause, Watch, WatchEvent};
pub use write::{
    AbortOutcome, BeginWrite, BeginWriteError, WRITE_LEASE_MAX, WRITE_LEASE_MIN, WriteIntent,
};
