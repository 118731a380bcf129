//! Where a store is, and how much it may use.

use std::path::PathBuf;
use std::time::Duration;

/// What a [`crate::SledStore`] is opened with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// The store's directory, made if it is missing. Nothing else may live in it.
    pub path: PathBuf,
    /// How many bytes of pages the engine keeps in memory. More makes a directory that does not fit faster to write to
    /// and to read; the process needs about twice this once it is full.
    pub cache_bytes: u64,
    /// How many encoded bytes of events each of the two lanes' logs keeps; up to twice as many where the newest 64 events
    /// of every origin need it. More lets a peer that was away for longer catch up by
    /// events rather than by a snapshot; it costs up to ten times as much disk where events are small and the
    /// directory is busy (the engine mixes both in its segments), and else little more than it says.
    pub log_bytes_max: u64,
    /// Events of up to so many encoded bytes are logged in the engine's tree, larger ones in files beside it. More mixes them
    /// with the directory, which then takes up to twice as much disk; less makes more writes to files of small events.
    pub log_inline_bytes_max: usize,
    /// How often everything is synced to the disk itself. Longer means that a power loss takes more of what was
    /// acknowledged (the death of the process takes nothing); shorter means more work for the disk. A sync that fails
    /// fails the store.
    pub sync_every: Duration,
}

impl StoreConfig {
    /// The defaults, in a directory.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            cache_bytes: 128 << 20,
            log_bytes_max: 16 << 20,
            log_inline_bytes_max: 1024,
            sync_every: Duration::from_millis(500),
        }
    }
}
