//! Commits that are in the journal and not yet in the engine's tree.
//!
//! Commits and readers see them over the tree. They go there as one batch when they have become many, and before each sync.
//!
//! They stay here until the tree has them for certain. After a failure in between the next attempt puts all of them there once more, as the
//! next start does from the journal; so nobody takes a part of them for all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use sled::Tree;

use crate::StoreError;
use crate::guard::{Guard, Phase};
use crate::journal::{Ended, Journal};
use crate::txn::{self, Changes};

/// More are put into the tree: what a commit or a page may have to wait for.
const BYTES_MAX: usize = 256 << 10;

/// What is pending, for one at a time who changes it and for many who read.
pub(crate) struct Shared {
    tree: Tree,
    guard: Guard,
    /// Held for writing while a commit is on its way into the journal or the tree, so that no reader hands out what a crash may still
    /// take back; for reading while a page is read. A waiting writer goes before new readers (the standard library's lock on Linux
    /// does that), so a commit waits for the pages being read, and no longer.
    pending: RwLock<Pending>,
    /// Bytes of the journal, for those who must not wait for a commit that a stalled disk holds up.
    journal_bytes: AtomicU64,
}

/// What is pending.
pub(crate) struct Pending {
    journal: Journal,
    changes: Changes,
    /// About so much memory they take.
    bytes: usize,
    /// Runs in the place of the next commit's way into the journal; then that is flushed.
    #[cfg(test)]
    pub(crate) instead_of_journal: Instead,
    /// Runs in the place of the next batch.
    #[cfg(test)]
    pub(crate) instead_of_batch: Instead,
}

/// What a test puts in the place of something, once.
#[cfg(test)]
type Instead = std::sync::Mutex<Option<Box<dyn FnOnce() -> Result<(), StoreError> + Send>>>;

impl Shared {
    /// Nothing yet.
    pub(crate) fn new(tree: Tree, guard: Guard, journal: Journal) -> Self {
        Self {
            tree,
            guard,
            journal_bytes: AtomicU64::new(journal.bytes()),
            pending: RwLock::new(Pending {
                journal,
                changes: Changes::new(),
                bytes: 0,
                #[cfg(test)]
                instead_of_journal: Instead::default(),
                #[cfg(test)]
                instead_of_batch: Instead::default(),
            }),
        }
    }

    /// As it is, until the lock is dropped.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Pending> {
        self.pending.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For changing it.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Pending> {
        self.pending.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of the journal. Waits for nobody.
    pub(crate) fn journal_bytes(&self) -> u64 {
        self.journal_bytes.load(Ordering::Relaxed)
    }

    /// Takes a commit up: from now on it survives the end of the process.
    pub(crate) fn add(&self, commit: u64, changes: Changes) -> Result<(), StoreError> {
        let mut pending = self.write();
        // The guard notes a failure before others go on, who then see nothing at all.
        let added = self.guard.run(Phase::Running, || {
            pending.add(&self.tree, &self.guard, commit, changes)
        });
        self.note_bytes(&pending);
        added
    }

    /// Puts everything into the tree.
    pub(crate) fn settle(&self) -> Result<(), StoreError> {
        let mut pending = self.write();
        self.guard
            .run(Phase::Running, || pending.settle(&self.tree, &self.guard))
    }

    /// Has everything that is acknowledged flushed by the engine; hands over what the journal has of it. Commits go on meanwhile; one that
    /// has a batch made waits for the disk, for the engine does not take any during a flush.
    pub(crate) fn flush(&self) -> Result<Ended, StoreError> {
        self.guard.run(Phase::Running, || {
            let ended = {
                let mut pending = self.write();
                pending.settle(&self.tree, &self.guard)?;
                pending.journal.cut()
            };
            self.tree.flush()?;
            Ok(ended)
        })
    }

    /// Removes what a flush handed over.
    pub(crate) fn remove(&self, ended: Ended) -> Result<(), StoreError> {
        let bytes = ended.remove().map_err(StoreError::of_disk)?;
        let mut pending = self.write();
        pending.journal.removed(bytes);
        self.note_bytes(&pending);
        Ok(())
    }

    /// What the journal has become, told while it cannot change.
    fn note_bytes(&self, pending: &Pending) {
        self.journal_bytes
            .store(pending.journal.bytes(), Ordering::Relaxed);
    }
}

impl Pending {
    /// What the tree does not have, or may not.
    pub(crate) fn changes(&self) -> &Changes {
        &self.changes
    }

    fn add(
        &mut self,
        tree: &Tree,
        guard: &Guard,
        commit: u64,
        changes: Changes,
    ) -> Result<(), StoreError> {
        #[cfg(test)]
        if let Some(done) = run(&self.instead_of_journal) {
            return done.and_then(|()| self.add_flushed(tree, guard, &changes));
        }
        let bytes = txn::bytes(&changes);
        let appended = self.journal.append(commit, &changes, bytes);
        if !appended.map_err(StoreError::of_disk)? {
            return self.add_flushed(tree, guard, &changes);
        }
        self.bytes += bytes;
        if self.changes.is_empty() {
            self.changes = changes;
        } else {
            // Few beside many: `append` goes over all of both.
            self.changes.extend(changes);
        }
        if self.bytes > BYTES_MAX {
            self.settle(tree, guard)?;
        }
        Ok(())
    }

    /// Has a commit flushed that is not in the journal.
    fn add_flushed(
        &mut self,
        tree: &Tree,
        guard: &Guard,
        changes: &Changes,
    ) -> Result<(), StoreError> {
        self.settle(tree, guard)?;
        batch(tree, guard, changes)?;
        tree.flush()?;
        let ended = self.journal.cut();
        let removed = ended.remove().map_err(StoreError::of_disk)?;
        self.journal.removed(removed);
        Ok(())
    }

    /// Puts everything into the tree; what it does not take stays.
    fn settle(&mut self, tree: &Tree, guard: &Guard) -> Result<(), StoreError> {
        if self.changes.is_empty() {
            return Ok(());
        }
        #[cfg(test)]
        if let Some(done) = run(&self.instead_of_batch) {
            return done.inspect_err(|error| guard.doubt(error));
        }
        batch(tree, guard, &self.changes)?;
        self.changes.clear();
        self.bytes = 0;
        Ok(())
    }
}

/// Applies changes as one batch. If that fails a part of them may be in the tree, and reach the disk.
fn batch(tree: &Tree, guard: &Guard, changes: &Changes) -> Result<(), StoreError> {
    txn::apply(tree, changes).inspect_err(|error| guard.doubt(error))
}

/// Runs what a test has put there.
#[cfg(test)]
fn run(instead: &Instead) -> Option<Result<(), StoreError>> {
    let instead = instead.lock().unwrap().take();
    instead.map(|instead| instead())
}
