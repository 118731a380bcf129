//! The store on disk.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use grapevine_core::event::Floor;
use grapevine_core::id::{Incarnation, Lane};
use grapevine_core::names::ClassPath;
use grapevine_core::store::{Recovered, RecoveredClass, Taken, Write};
use sled::{Db, IVec, Tree};

use crate::directory::{self, Gathered};
use crate::guard::{Guard, Phase};
use crate::keys;
use crate::ledger::Ledger;
use crate::log::{self, LogWriter};
use crate::open::DirectoryLock;
use crate::recover::Counters;
use crate::tally::Tally;
use crate::txn::Txn;
use crate::{
    AddressRow, ClassRow, Cursor, LogRead, Page, Store, StoreError, listing, recover, versions,
};

/// What opening hands over.
pub(crate) struct Engine {
    pub(crate) tree: Tree,
    pub(crate) db: Db,
    pub(crate) ledger: Ledger,
    pub(crate) counters: Counters,
    pub(crate) tally: Tally,
}

/// What commits share, one at a time.
struct Writer {
    ledger: Ledger,
    counters: Counters,
    tally: Tally,
    /// How the first failed commit failed. What the engine holds since then, in memory and on disk, is not known:
    /// a part of the batch may be visible, a flush may have reached the disk. So no commit is let on top of it.
    failed: Option<String>,
}

/// A store on disk; [`crate::open()`] makes one.
pub struct SledStore {
    tree: Tree,
    db: Db,
    writer: Mutex<Writer>,
    registrations: AtomicU64,
    expiry_backlog: AtomicBool,
    log_bytes_max: u64,
    guard: Guard,
    /// Held until the engine is gone: fields are dropped in order.
    _lock: DirectoryLock,
}

impl SledStore {
    pub(crate) fn new(
        engine: Engine,
        guard: Guard,
        log_bytes_max: u64,
        lock: DirectoryLock,
    ) -> Self {
        Self {
            tree: engine.tree,
            db: engine.db,
            writer: Mutex::new(Writer {
                ledger: engine.ledger,
                counters: engine.counters,
                tally: engine.tally,
                failed: None,
            }),
            registrations: AtomicU64::new(engine.counters.registrations),
            expiry_backlog: AtomicBool::new(false),
            log_bytes_max,
            guard,
            _lock: lock,
        }
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
        // A panic in a commit is caught before it reaches the lock, and noted in `failed`.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(
        &self,
        work: impl FnOnce(&Txn<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.guard
            .run(Phase::Running, || work(&Txn::new(&self.tree)))
    }

    fn commit_with(&self, state: &mut Writer, writes: &[Write]) -> Result<Vec<Taken>, StoreError> {
        let mut commit = Commit {
            txn: Txn::new(&self.tree),
            log: LogWriter::new(&mut state.ledger),
            gathered: Gathered::default(),
            registrations: state.counters.registrations,
            taken: Vec::new(),
            expiry_backlog: None,
        };
        for write in writes {
            commit.apply(write)?;
        }
        commit.settle()?;
        commit.log.finish(&mut commit.txn, self.log_bytes_max)?;
        let counters = Counters {
            registrations: commit.registrations,
            commits: state.counters.commits + 1,
        };
        commit.txn.put(keys::counters(), counters.encode());
        commit.txn.apply()?;
        self.tree.flush()?;
        state.tally.set(counters.commits).map_err(StoreError::Io)?;
        state.counters = counters;
        self.registrations
            .store(counters.registrations, Ordering::Release);
        if let Some(backlog) = commit.expiry_backlog {
            self.expiry_backlog.store(backlog, Ordering::Release);
        }
        Ok(commit.taken)
    }
}

/// One commit in the making.
struct Commit<'a> {
    txn: Txn<'a>,
    log: LogWriter<'a>,
    /// Registrations of consecutive writes, so that each page is rewritten once.
    gathered: Gathered,
    registrations: u64,
    taken: Vec<Taken>,
    /// What the last expiry among the writes said.
    expiry_backlog: Option<bool>,
}

impl Commit<'_> {
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
            Write::OwnIncarnation(incarnation) => {
                self.txn
                    .put(keys::incarnation(*incarnation), IVec::default());
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
        if let Some(cause) = &state.failed {
            return Err(StoreError::Failed {
                cause: cause.clone(),
            });
        }
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        let committed = self
            .guard
            .run(Phase::Running, || self.commit_with(&mut state, writes));
        if let Err(error) = &committed {
            tracing::error!(%error, "a commit failed: the store refuses commits until it is opened anew");
            state.failed = Some(error.to_string());
        }
        committed
    }

    fn read_log(
        &self,
        origin: Incarnation,
        lane: Lane,
        first: u64,
        last: u64,
        bytes_max: usize,
    ) -> Result<LogRead, StoreError> {
        self.read(|txn| log::read(txn, origin, lane, first, last, bytes_max))
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
        self.read(|txn| listing::classes(txn, below, after, limit))
    }

    fn snapshot_versions(
        &self,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<RecoveredClass>, StoreError> {
        self.read(|txn| listing::versions(txn, after, limit))
    }

    fn floors(&self) -> Result<Vec<Floor>, StoreError> {
        self.read(versions::floors)
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
    }
}
