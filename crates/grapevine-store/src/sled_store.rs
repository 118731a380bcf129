//! The store on disk.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use grapevine_core::criteria::Shape;
use grapevine_core::event::Floor;
use grapevine_core::id::{Incarnation, Lane};
use grapevine_core::names::ClassPath;
use grapevine_core::store::{Recovered, RecoveredClass, Taken, Write};
use sled::{Db, IVec, Tree};

use crate::directory::{self, Gathered};
use crate::guard::{Guard, Phase};
use crate::journal::Journal;
use crate::keeper::{Files, Keeper, Watched};
use crate::keys;
use crate::ledger::Ledger;
use crate::log::{self, LogWriter};
use crate::log_files::{LogDirectory, LogFiles, Written};
use crate::open::{self, DirectoryLock};
use crate::pending::Shared;
use crate::recover::Counters;
use crate::tally::Tally;
use crate::txn::{Changes, Txn};
use crate::{
    AddressRow, ClassRow, Cursor, LogRead, Page, Store, StoreConfig, StoreError, intents, listing,
    recover, roster, versions,
};

/// Floors read while a commit waits.
const FLOORS_PER_PAGE: usize = 500;

/// What opening hands over.
pub(crate) struct Engine {
    pub(crate) tree: Tree,
    pub(crate) db: Db,
    pub(crate) ledger: Ledger,
    pub(crate) log_files: LogFiles,
    pub(crate) counters: Counters,
    pub(crate) tally: Tally,
}

/// What commits share, one at a time.
struct Writer {
    ledger: Ledger,
    log_files: LogFiles,
    counters: Counters,
    tally: Tally,
}

/// A store on disk; [`crate::open()`] makes one.
pub struct SledStore {
    tree: Tree,
    db: Db,
    writer: Mutex<Writer>,
    pending: Arc<Shared>,
    watched: Arc<Watched>,
    log_directory: LogDirectory,
    log_written: Arc<Written>,
    registrations: AtomicU64,
    expiry_backlog: AtomicBool,
    log_bytes_max: u64,
    guard: Guard,
    _keeper: Keeper,
    /// Held until the engine is gone: fields are dropped in order.
    _lock: DirectoryLock,
}

impl SledStore {
    pub(crate) fn new(
        engine: Engine,
        guard: Guard,
        config: &StoreConfig,
        lock: DirectoryLock,
    ) -> Result<Self, StoreError> {
        let watched = Arc::new(Watched::default());
        let tally = engine.tally.file().map_err(StoreError::of_disk)?;
        let log_written = Arc::clone(engine.log_files.written());
        let engine_path = open::engine_path(config);
        let journal = Journal::new(&engine_path);
        let pending = Shared::new(engine.tree.clone(), guard.clone(), journal);
        let pending = Arc::new(pending);
        let files = Files::open(&engine_path, &log_written, tally, &pending)?;
        let keeper = Keeper::start(files, config.sync_every, &watched, &guard)
            .map_err(StoreError::of_disk)?;
        Ok(Self {
            tree: engine.tree,
            db: engine.db,
            log_directory: engine.log_files.directory().clone(),
            log_written,
            writer: Mutex::new(Writer {
                ledger: engine.ledger,
                log_files: engine.log_files,
                counters: engine.counters,
                tally: engine.tally,
            }),
            pending,
            watched,
            registrations: AtomicU64::new(engine.counters.registrations),
            expiry_backlog: AtomicBool::new(false),
            log_bytes_max: config.log_bytes_max,
            guard,
            _keeper: keeper,
            _lock: lock,
        })
    }

    /// Reads again what [`crate::open()`] told.
    pub fn recover(&self) -> Result<Recovered, StoreError> {
        let writer = self.writer();
        self.read(|txn| recover::recover(txn, &writer.ledger))
    }

    /// Reads and checks every record: for a doubted store, and for tests. Takes as long as reading the disk.
    pub fn verify(&self) -> Result<(), StoreError> {
        let _no_commit_meanwhile = self.writer();
        self.read(recover::verify)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic in a commit is caught before it reaches the lock, and the store refuses everything from then on.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse_if_failed(&self) -> Result<(), StoreError> {
        match self.guard.failed() {
            None => Ok(()),
            Some(cause) => Err(StoreError::Failed {
                cause: cause.to_owned(),
            }),
        }
    }

    /// Reads a page of something: all of it is flushed, and of one moment between two commits.
    fn read<T>(
        &self,
        work: impl FnOnce(&Txn<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let pending = self.pending.read();
        // Under the lock: a commit that failed has noted it before letting go.
        self.refuse_if_failed()?;
        self.guard.run(Phase::Running, || {
            work(&Txn::over(&self.tree, pending.changes()))
        })
    }

    /// Reads what the tree has, which may change meanwhile, however long it takes.
    fn read_beside_commits<T>(
        &self,
        work: impl FnOnce(&Txn<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.refuse_if_failed()?;
        self.guard
            .run(Phase::Running, || work(&Txn::new(&self.tree)))
    }

    fn commit_with(&self, state: &mut Writer, writes: &[Write]) -> Result<Vec<Taken>, StoreError> {
        let prepared = self.guard.run(Phase::Running, || {
            let pending = self.pending.read();
            let txn = Txn::over(&self.tree, pending.changes());
            Prepared::of(txn, state, writes, self.log_bytes_max)
        })?;
        let Prepared {
            changes,
            counters,
            taken,
            expiry_backlog,
        } = prepared;
        self.pending.add(counters.commits, changes)?;
        let counted = state.tally.set(counters.commits);
        let counted = counted.and_then(|()| state.log_files.remove_empty());
        let counted = counted.map_err(StoreError::of_disk);
        if let Err(error) = &counted {
            self.guard.fail(error);
        }
        counted?;
        state.counters = counters;
        self.watched
            .commits
            .store(counters.commits, Ordering::Release);
        self.registrations
            .store(counters.registrations, Ordering::Release);
        if let Some(backlog) = expiry_backlog {
            self.expiry_backlog.store(backlog, Ordering::Release);
        }
        Ok(taken)
    }
}

/// One commit in the making.
struct Commit<'a, 'l> {
    txn: Txn<'a>,
    log: LogWriter<'l>,
    /// Registrations of consecutive writes, so that each page is rewritten once.
    gathered: Gathered,
    registrations: u64,
    taken: Vec<Taken>,
    /// What the last expiry among the writes said.
    expiry_backlog: Option<bool>,
}

/// A commit that is to be taken up.
struct Prepared {
    changes: Changes,
    counters: Counters,
    taken: Vec<Taken>,
    expiry_backlog: Option<bool>,
}

impl Prepared {
    fn of(
        txn: Txn<'_>,
        state: &mut Writer,
        writes: &[Write],
        log_bytes_max: u64,
    ) -> Result<Self, StoreError> {
        let mut commit = Commit {
            txn,
            log: LogWriter::new(&mut state.ledger, &mut state.log_files),
            gathered: Gathered::default(),
            registrations: state.counters.registrations,
            taken: Vec::new(),
            expiry_backlog: None,
        };
        for write in writes {
            commit.apply(write)?;
        }
        commit.settle()?;
        commit.log.finish(&mut commit.txn, log_bytes_max)?;
        let counters = Counters {
            registrations: commit.registrations,
            commits: state.counters.commits + 1,
        };
        commit.txn.put(keys::counters(), counters.encode());
        Ok(Self {
            changes: commit.txn.into_changes(),
            counters,
            taken: commit.taken,
            expiry_backlog: commit.expiry_backlog,
        })
    }
}

impl Commit<'_, '_> {
    /// Puts one write into the transaction. It is long because every kind of write has its arm here: what it comes to on disk
    /// can be read in one place.
    fn apply(&mut self, write: &Write) -> Result<(), StoreError> {
        match write {
            Write::Log {
                origin,
                sequence,
                event,
            } => self.log.append(&mut self.txn, *origin, *sequence, event)?,
            Write::JoinClass {
                class,
                others,
                entries,
            } => versions::join_class(&mut self.txn, class, others, entries)?,
            Write::JoinFloor { floor, evict } => {
                versions::join_floor(&mut self.txn, floor, evict)?;
            }
            Write::Progress {
                origin,
                lane,
                watermark,
            } => self.progress(*origin, *lane, *watermark)?,
            Write::Register { registrations, own } => self.gathered.gather(registrations, *own),
            Write::Unregister { registrations } => {
                self.settle()?;
                let removed = directory::unregister(&mut self.txn, registrations)?;
                self.forget(removed);
            }
            Write::Take {
                event,
                classes,
                matching,
                own_only,
                purge,
            } => {
                self.settle()?;
                let found = directory::take(&mut self.txn, classes, *matching, *own_only)?;
                self.forget(found.registrations);
                self.taken.push(Taken {
                    event: *event,
                    purge: *purge,
                    addresses: found.addresses,
                    expires: found.expires,
                });
            }
            Write::Expire { now, limit } => {
                self.settle()?;
                let expired = directory::expire(&mut self.txn, *now, *limit)?;
                self.forget(expired.removed);
                self.expiry_backlog = Some(expired.backlog);
            }
            Write::PutMember(member) => {
                let key = keys::member(&member.node_id);
                self.txn.put(key, recover::encode_member(member));
            }
            Write::RemoveMember(node_id) => self.txn.remove(keys::member(node_id)),
            Write::Roster(record) => self.txn.put(keys::roster(), roster::encode(record)),
            Write::PutIntent(intent) => intents::put(&mut self.txn, intent)?,
            Write::RemoveIntent(id) => intents::remove(&mut self.txn, *id)?,
            Write::OwnIncarnation(incarnation) => {
                self.txn
                    .put(keys::incarnation(*incarnation), IVec::default());
            }
            Write::Retire(piece) => versions::retire(&mut self.txn, piece)?,
            Write::ForgetRun(run) => {
                self.log.forget(&mut self.txn, *run)?;
                self.txn.remove(keys::incarnation(*run));
                self.txn.remove(keys::dropped(*run));
                for lane in Lane::ALL {
                    self.txn.remove(keys::progress(lane, *run));
                }
            }
            Write::PutShape(shape) => self.txn.put(keys::shape(shape), IVec::default()),
            Write::Dropped { run, whole } => {
                let whole = whole.to_be_bytes();
                self.txn.put(keys::dropped(*run), whole.as_slice());
            }
        }
        Ok(())
    }

    fn progress(
        &mut self,
        origin: Incarnation,
        lane: Lane,
        watermark: u64,
    ) -> Result<(), StoreError> {
        let key = keys::progress(lane, origin);
        let stored = match self.txn.get(&key)? {
            Some(bytes) => Some(recover::decode_u64(&bytes)?),
            None => None,
        };
        if stored.is_none_or(|stored| stored < watermark) {
            self.txn.put(key, watermark.to_be_bytes().as_slice());
        }
        Ok(())
    }

    /// Puts the gathered registrations into the directory, where the next write can see them.
    fn settle(&mut self) -> Result<(), StoreError> {
        self.registrations += self.gathered.register(&mut self.txn)?;
        Ok(())
    }

    fn forget(&mut self, registrations: u64) {
        self.registrations = self.registrations.saturating_sub(registrations);
    }
}

impl Store for SledStore {
    fn commit(&self, writes: &[Write]) -> Result<Vec<Taken>, StoreError> {
        let mut state = self.writer();
        // What the engine holds after a failure is not known: a part of a batch may be visible, a flush may have reached
        // the disk. So no commit is let on top of it.
        self.refuse_if_failed()?;
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        self.watched
            .commit
            .run(|| self.commit_with(&mut state, writes))
    }

    fn read_log(
        &self,
        origin: Incarnation,
        lane: Lane,
        first: u64,
        last: u64,
        bytes_max: usize,
    ) -> Result<LogRead, StoreError> {
        let files = &self.log_directory;
        self.read(|txn| log::read(txn, files, origin, lane, first, last, bytes_max))
    }

    fn addresses(
        &self,
        below: &ClassPath,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<AddressRow>, StoreError> {
        self.read(|txn| listing::addresses(txn, Some(below), after, limit))
    }

    fn classes(
        &self,
        below: Option<&ClassPath>,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<ClassRow>, StoreError> {
        let bumped = self.read(|txn| listing::bumped(txn, below, after, limit))?;
        // Counting goes through all pages of a class, and a bump must not wait for that.
        self.refuse_if_failed()?;
        self.pending.settle()?;
        self.read_beside_commits(|txn| listing::classes(txn, bumped, below, after, limit))
    }

    fn snapshot_versions(
        &self,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<RecoveredClass>, StoreError> {
        self.read(|txn| listing::versions(txn, after, limit))
    }

    fn shapes(&self) -> Result<Vec<Shape>, StoreError> {
        self.read(recover::shapes)
    }

    fn floors(&self) -> Result<Vec<Floor>, StoreError> {
        // In pages, so that no commit waits for all of them. Floors only ever rise.
        let mut floors = Vec::new();
        let mut after = None;
        loop {
            let page = self.read(|txn| versions::floors(txn, after.as_ref(), FLOORS_PER_PAGE))?;
            let full = page.len() == FLOORS_PER_PAGE;
            floors.extend(page);
            after = floors.last().filter(|_| full).cloned();
            if after.is_none() {
                return Ok(floors);
            }
        }
    }

    fn snapshot_directory(
        &self,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<AddressRow>, StoreError> {
        self.read(|txn| listing::addresses(txn, None, after, limit))
    }

    fn registrations(&self) -> u64 {
        self.registrations.load(Ordering::Acquire)
    }

    fn expiry_backlog(&self) -> bool {
        self.expiry_backlog.load(Ordering::Acquire)
    }

    fn disk_bytes(&self) -> u64 {
        self.db.size_on_disk().unwrap_or(0)
            + self.log_written.bytes()
            + self.pending.journal_bytes()
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        // So that the next opening has nothing to replay. What fails here, it replays.
        if self.guard.failed().is_none() {
            let flushed = self.pending.flush();
            let _ = flushed.and_then(|ended| self.pending.remove(ended));
        }
    }
}

#[cfg(test)]
mod tests;
