//! The durable directory of a Grapevine sidecar, on sled.
//!
//! Core says what to keep, in [`Write`]s; a [`Store`] commits a group of them atomically and returns when they are
//! flushed, which means that they survive the end of the process (`kill -9`), and a power loss only from the last
//! periodic sync on ([`StoreConfig::sync_every`]): they are in a journal (`journal.rs`), or in the engine's files. One task
//! writes; anybody reads, beside it.
//!
//! Two stores behave alike and pass one contract suite: [`SledStore`] on disk, and [`MemoryStore`] for tests and
//! simulators. Everything lies in one tree, so that a batch is atomic over all of it; tables are told apart by a
//! key's first byte (`keys.rs`), addresses are packed into pages of about 4 KB (`page.rs`), events are logged in parts
//! (`log.rs`). Opening never needs an operator: what does not read back is set aside ([`open()`]).

use grapevine_core::criteria::Shape;
use grapevine_core::event::{Event, Floor};
use grapevine_core::id::{Incarnation, Lane, UnixSeconds};
use grapevine_core::names::{Address, ClassPath};
use grapevine_core::store::{RecoveredClass, Taken, Write};

mod aside;
mod codec;
mod config;
mod cursor;
mod directory;
mod engine_log;
mod error;
mod event;
mod guard;
mod intents;
mod journal;
mod keeper;
mod keys;
mod ledger;
mod listing;
mod log;
mod log_files;
mod memory;
mod open;
mod page;
mod pending;
mod recover;
mod roster;
mod rows;
mod sled_store;
mod snapshots;
mod tally;
mod txn;
mod vectors;
mod versions;

#[cfg(test)]
mod arbitrary;

pub use config::StoreConfig;
pub use cursor::Cursor;
pub use error::StoreError;
pub use memory::MemoryStore;
pub use open::{OpenReport, open};
pub use sled_store::SledStore;

/// What a sidecar asks of its store.
///
/// *Flushed* is what survives the end of the process. Reads may run beside a commit, and show only what is flushed; after a failed commit they show nothing more. A listing that is read in pages is not a snapshot: it has everything that was
/// there from its first page to its last, and may have what came or went in between.
pub trait Store: Send + Sync + 'static {
    /// Applies the writes in order, all or none, each seeing those before it, and returns when they are flushed.
    /// What the takes among them removed comes back in their order.
    ///
    /// One caller at a time commits; it groups what it has. After an error nothing of the commit counts, and every
    /// later commit and read is refused with [`StoreError::Failed`]: open the store anew.
    fn commit(&self, writes: &[Write]) -> Result<Vec<Taken>, StoreError>;

    /// Reads logged events, consecutive from `first` to at most `last`, until they have `bytes_max` encoded bytes,
    /// but at least one. Fewer than asked for: read on after the last one.
    fn read_log(
        &self,
        origin: Incarnation,
        lane: Lane,
        first: u64,
        last: u64,
        bytes_max: usize,
    ) -> Result<LogRead, StoreError>;

    /// Lists what is registered at and below a class, by (class, address): a class comes before those below it, and
    /// both in byte order. At most `limit` rows, at least one if there is any.
    fn addresses(
        &self,
        below: &ClassPath,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<AddressRow>, StoreError>;

    /// Lists classes that were bumped or have registrations, in the same order, at and below a class or all.
    fn classes(
        &self,
        below: Option<&ClassPath>,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<ClassRow>, StoreError>;

    /// Lists classes' entries and conjunctions, for a peer's snapshot. Floors are read after the last page: an entry
    /// that is evicted in between is then in one of them.
    fn snapshot_versions(
        &self,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<RecoveredClass>, StoreError>;

    /// All shapes that are known. Of a peer's snapshot they are read first: what is bumped on their account comes behind.
    fn shapes(&self) -> Result<Vec<Shape>, StoreError>;

    /// All floors.
    fn floors(&self) -> Result<Vec<Floor>, StoreError>;

    /// Lists the whole directory, for a peer's snapshot.
    fn snapshot_directory(
        &self,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<AddressRow>, StoreError>;

    /// Registrations in the directory, counting an address once per class.
    fn registrations(&self) -> u64;

    /// Whether the last [`Write::Expire`] stopped at a limit with more due: one more removes more.
    fn expiry_backlog(&self) -> bool;

    /// Bytes on disk; of a store in memory, 0. Waits for no commit, which a stalled disk may hold up.
    fn disk_bytes(&self) -> u64;
}

/// What [`Store::read_log`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogRead {
    /// Events with their sequences, consecutive from the first one asked for. None: that one was never here.
    Events(Vec<(u64, Event)>),
    /// The first one asked for is no longer in the log, or is applied without ever having been in it, as after a
    /// snapshot: whoever lacks it needs a snapshot of state. Told of an event that never arrived, too, if a later one of
    /// its lane was dropped already.
    Compacted,
}

/// Some rows of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Where the next page begins; `None` after the last row.
    pub next: Option<Cursor>,
}

/// One registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressRow {
    /// The class that it is registered under.
    pub class: ClassPath,
    /// The address.
    pub address: Address,
    /// When its value is certain to be gone.
    pub expires: UnixSeconds,
}

/// One class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassRow {
    /// Its path.
    pub class: ClassPath,
    /// How many addresses are registered under this very class.
    pub addresses: u64,
    /// Whether it has entries or conjunctions that no floor has swallowed.
    pub bumped: bool,
}
