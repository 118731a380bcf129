//! Opening: from whatever a directory holds to a store that serves.
//!
//! ```text
//! <path>/lock              locked while a process has the store
//! <path>/sled/             the engine's files, and the journal's (see journal.rs)
//! <path>/sled.corrupt-<n>/ what was set aside (see aside.rs)
//! <path>/acknowledged      how many commits were acknowledged (see tally.rs)
//! <path>/log/              large events of the log (see log_files.rs)
//! <path>/failed-*          notes of failures for the next start (see guard.rs)
//! ```
//!
//! What makes the directory unusable for anybody (locked, not writable, another format) is an error and changes
//! nothing. What only says that the engine's files do not read back (an error, a panic, a record that makes no sense)
//! sets them aside and starts empty: peers have what was in them, and an operator may want to look. A machine that lacks
//! something, as a thread, is the first kind; and if no empty engine opens either, the files were not at fault: they are
//! put back.
//! The engine's files lie one level down so that this works when the path itself is a mount point.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use grapevine_core::store::Recovered;
use sled::{Db, Tree};

use crate::engine_log;
use crate::guard::{Guard, Phase};
use crate::keys::{self, FORMAT_VERSION, FORMAT_VERSION_MIN};
use crate::ledger::Ledger;
use crate::log_files::{LogDirectory, LogFiles};
use crate::recover::Counters;
use crate::sled_store::{Engine, SledStore};
use crate::tally::Tally;
use crate::txn::Txn;
use crate::{StoreConfig, StoreError, aside, journal, recover, snapshots};

/// The one tree.
const TREE: &str = "grapevine";
/// The engine's own default tree, which stays empty.
const DEFAULT_TREE: &[u8] = b"__sled__default";

/// The version of the engine whose files are read.
const ENGINE_VERSION: (u32, u32) = (0, 34);
/// How long the engine's own lock may still be held by threads of a store closed before.
const ENGINE_LOCK_WAIT_MAX: Duration = Duration::from_secs(10);
const ENGINE_LOCK_RETRY: Duration = Duration::from_millis(2);
/// The threads that the engine starts (its flusher and seven for its files), and our keeper's. It panics without the first,
/// and hangs without the others.
const THREADS_NEEDED: usize = 9;

/// What opening had to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Where the engine's files went that did not read back; the store began empty.
    pub set_aside: Option<PathBuf>,
    /// Why they were set aside.
    pub reason: Option<String>,
    /// An earlier run met damage, commits are lost, or the engine's log was read without its snapshot; so everything was
    /// read and checked before serving.
    pub verified: bool,
    /// How many acknowledged commits the engine's files no longer have: after damage, or because an older copy was put
    /// back. What is left is the state before them. After a power loss it may be fewer than are gone: the count itself
    /// is only as new as its last sync.
    pub commits_lost: u64,
}

/// Opens a store, and tells what it held.
pub fn open(config: &StoreConfig) -> Result<(SledStore, Recovered, OpenReport), StoreError> {
    let unusable = |path: &Path| {
        let path = path.to_owned();
        |source| StoreError::Unusable { path, source }
    };
    check_clock(SystemTime::now()).map_err(unusable(&config.path))?;
    fs::create_dir_all(&config.path).map_err(unusable(&config.path))?;
    let lock = lock(&config.path)?;
    let guard = Guard::new(&config.path);
    let mut report = OpenReport::default();
    threads_can_start().map_err(unusable(&config.path))?;
    let tally_path = config.path.join("acknowledged");
    let (tally, acknowledged) = Tally::open(&tally_path).map_err(unusable(&tally_path))?;
    let doubted = guard.note(Phase::Running).is_some();
    let opened = aside::open_or_begin_anew(config, &guard, &mut report, |begun_anew| {
        if begun_anew {
            open_engine(config, false, 0)
        } else {
            open_engine(config, doubted, acknowledged)
        }
    });
    let opened = opened?;
    report.verified = opened.verified;
    if report.set_aside.is_none() {
        report.commits_lost = acknowledged.saturating_sub(opened.counters.commits);
    }
    if report.commits_lost > 0 {
        tracing::error!(
            store = %config.path.display(),
            acknowledged,
            found = opened.counters.commits,
            "the store has lost acknowledged commits: serving the state before them, for peers to bring up to date"
        );
    }
    tally
        .set(opened.counters.commits)
        .map_err(unusable(&tally_path))?;
    guard.forget();
    let log_files = LogFiles::open(
        LogDirectory::new(&config.path),
        config.log_inline_bytes_max,
        &Txn::new(&opened.tree),
    )?;
    let engine = Engine {
        log_files,
        tree: opened.tree,
        db: opened.db,
        ledger: opened.ledger,
        counters: opened.counters,
        tally,
    };
    let store = SledStore::new(engine, guard, config, lock)?;
    Ok((store, opened.recovered, report))
}

/// The engine panics where the system's clock stands before 1970, and its files would be taken for damaged.
fn check_clock(now: SystemTime) -> std::io::Result<()> {
    let before = now.duration_since(SystemTime::UNIX_EPOCH).err();
    before.map_or(Ok(()), |before| {
        let seconds = before.duration().as_secs();
        Err(std::io::Error::other(format!(
            "the system's clock stands {seconds} s before 1970: set it, then start again"
        )))
    })
}

/// Starts as many threads at a time as an open store has, and ends them: a lack is told before anything is touched.
fn threads_can_start() -> std::io::Result<()> {
    let mut started = Vec::with_capacity(THREADS_NEEDED);
    let mut result = Ok(());
    for number in 1..=THREADS_NEEDED {
        match std::thread::Builder::new().spawn(std::thread::park) {
            Ok(thread) => started.push(thread),
            Err(error) => {
                let text =
                    format!("thread {number} of {THREADS_NEEDED} cannot be started: {error}");
                result = Err(std::io::Error::new(error.kind(), text));
                break;
            }
        }
    }
    for thread in started {
        thread.thread().unpark();
        // It does nothing that could panic.
        let _ = thread.join();
    }
    result
}

/// An engine that is open, and what was read from it.
struct Opened {
    tree: Tree,
    db: Db,
    ledger: Ledger,
    counters: Counters,
    recovered: Recovered,
    verified: bool,
}

/// The lock of a store's directory.
pub(crate) struct DirectoryLock(File);

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing is not enough: a child process that is just being started shares the open file, and its lock, for
        // a moment. If this fails, closing is what is left.
        let _ = self.0.unlock();
    }
}

fn lock(directory: &Path) -> Result<DirectoryLock, StoreError> {
    let path = directory.join("lock");
    let unusable = |source| StoreError::Unusable {
        path: path.clone(),
        source,
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(DirectoryLock(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked {
            path: directory.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(unusable(source)),
    }
}

pub(crate) fn engine_path(config: &StoreConfig) -> PathBuf {
    config.path.join("sled")
}

/// Opens the engine and reads what a start needs; everything, if the engine is doubted or has fewer commits than
/// were acknowledged.
fn open_engine(
    config: &StoreConfig,
    doubted: bool,
    acknowledged: u64,
) -> Result<Opened, StoreError> {
    let engine = engine_path(config);
    let unusable = |source| StoreError::Unusable {
        path: engine.clone(),
        source,
    };
    // The snapshots of another engine are not ours to judge; the engine refuses its files.
    let log_alone = !is_of_other_engine(config) && snapshots::tidy(&engine).map_err(unusable)?;
    if log_alone {
        let log = engine.join("db");
        // Before the engine opens it, which changes it.
        if let Some(at) = engine_log::damage(&log).map_err(unusable)? {
            return Err(StoreError::Corrupt(format!(
                "the engine's snapshot does not read back, nor does its log at byte {at}"
            )));
        }
    }
    let sync_every_ms = u64::try_from(config.sync_every.as_millis()).unwrap_or(u64::MAX);
    let db = open_unlocked(
        &sled::Config::new()
            .path(&engine)
            .cache_capacity(config.cache_bytes)
            .flush_every_ms(Some(sync_every_ms.max(1))),
    )
    .map_err(|error| at_opening(error, config))?;
    refuse_foreign_trees(&db, config)?;
    let tree = db.open_tree(TREE)?;
    let mut txn = Txn::new(&tree);
    match txn.get(&keys::format())? {
        Some(format) => {
            if check_format(&format, config)? < FORMAT_VERSION {
                // A program that knows only the older one must not open it from now on: it would lose what it does not know.
                txn.put(keys::format(), FORMAT_VERSION.to_be_bytes().as_slice());
                txn.apply()?;
                tree.flush()?;
            }
        }
        None if tree.is_empty() => {
            txn.put(keys::format(), FORMAT_VERSION.to_be_bytes().as_slice());
            txn.apply()?;
            tree.flush()?;
        }
        None => return Err(foreign(config, "it has records and no format".to_owned())),
    }
    // A disk that is full, or fails, is the machine's, and is told with where it is.
    let replayed = journal::replay(&tree, &engine, acknowledged).map_err(|error| match error {
        StoreError::Io(source) | StoreError::Full(source) => unusable(source),
        other => other,
    })?;
    if replayed > 0 {
        tracing::info!(commits = replayed, "applied what the journal has");
    }
    let txn = Txn::new(&tree);
    let counters = Counters::read(&txn)?;
    let lost = counters.commits < acknowledged;
    if lost && log_alone {
        let found = counters.commits;
        return Err(StoreError::Corrupt(format!(
            "the engine's snapshot does not read back, and its log alone has {found} of {acknowledged} commits"
        )));
    }
    let verified = doubted || lost || log_alone;
    if verified {
        recover::verify(&txn)?;
    }
    if log_alone {
        snapshots::forget(&engine).map_err(unusable)?;
    }
    let ledger = recover::ledger(&txn)?;
    let recovered = recover::recover(&txn, &ledger)?;
    Ok(Opened {
        tree,
        db,
        ledger,
        counters,
        recovered,
        verified,
    })
}

/// Opens the engine as soon as its own lock is free. Our lock is held, so no other store has these files; but a store
/// that this process has just closed lets go of the engine's lock only when the last of its threads has finished, and
/// a child process that is just being started has run its program.
fn open_unlocked(config: &sled::Config) -> sled::Result<Db> {
    let begun = Instant::now();
    loop {
        match config.open() {
            Err(sled::Error::Io(error))
                if error.to_string().contains("could not acquire lock")
                    && begun.elapsed() < ENGINE_LOCK_WAIT_MAX =>
            {
                std::thread::sleep(ENGINE_LOCK_RETRY);
            }
            other => return other,
        }
    }
}

fn at_opening(error: sled::Error, config: &StoreConfig) -> StoreError {
    if let sled::Error::Unsupported(reason) = &error
        && is_of_other_engine(config)
    {
        return foreign(config, reason.clone());
    }
    match StoreError::from(error) {
        StoreError::Io(source) => StoreError::Unusable {
            path: engine_path(config),
            source,
        },
        other => other,
    }
}

/// Whether the engine's settings file names another version of it. A garbled file names none.
fn is_of_other_engine(config: &StoreConfig) -> bool {
    let settings = fs::read(engine_path(config).join("conf")).unwrap_or_default();
    let settings = String::from_utf8_lossy(&settings);
    settings
        .lines()
        .filter_map(|line| line.strip_prefix("version: ")?.split_once('.'))
        .filter_map(|(major, minor)| Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?)))
        .any(|version| version != ENGINE_VERSION)
}

fn foreign(config: &StoreConfig, reason: String) -> StoreError {
    StoreError::Foreign {
        path: config.path.clone(),
        reason,
    }
}

fn refuse_foreign_trees(db: &Db, config: &StoreConfig) -> Result<(), StoreError> {
    for name in db.tree_names() {
        if name != DEFAULT_TREE && name != TREE.as_bytes() {
            let name = String::from_utf8_lossy(&name).into_owned();
            return Err(foreign(config, format!("it has a tree {name:?}")));
        }
    }
    if db.is_empty() {
        Ok(())
    } else {
        Err(foreign(config, "its default tree has records".to_owned()))
    }
}

fn check_format(format: &[u8], config: &StoreConfig) -> Result<u32, StoreError> {
    let Ok(found) = format.try_into().map(u32::from_be_bytes) else {
        return Err(StoreError::Corrupt(format!("the format is {format:02x?}")));
    };
    if found > FORMAT_VERSION {
        return Err(StoreError::FormatNewer {
            path: config.path.clone(),
            found,
            supported: FORMAT_VERSION,
        });
    }
    if found < FORMAT_VERSION_MIN {
        return Err(foreign(
            config,
            format!("its format {found} is no longer read; this program's is {FORMAT_VERSION}"),
        ));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_clock_before_1970_is_told_before_anything_is_touched() {
        let at = |seconds| SystemTime::UNIX_EPOCH.checked_sub(Duration::from_secs(seconds));
        check_clock(at(0).unwrap()).unwrap();
        let told = check_clock(at(90).unwrap()).unwrap_err().to_string();
        assert!(told.contains("clock stands 90 s before 1970"), "{told}");
    }
}
