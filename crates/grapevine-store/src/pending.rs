//! Commits that are in the journal and not yet in the engine's tree.
//!
//! Whoever commits sees them over the tree; whoever reads has them put into the tree first, so that readers know the tree only. They go
//! there as one batch, also when they have become many and before each sync.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use sled::Tree;

use crate::StoreError;
use crate::guard::{Guard, Phase};
use crate::journal::{Ended, Journal};
use crate::txn::{self, Changes};

/// More are put into the tree: what a commit, a page or a sync may have to wait for.
const BYTES_MAX: usize = 256 << 10;

/// What is pending, for one at a time who changes it and for many who read.
pub(crate) struct Shared {
    tree: Tree,
    /// Held for writing while a commit is on its way into the journal or the tree, so that no reader hands out what a crash may still take back; for
    /// reading while a page is read. A waiting writer goes before new readers (the standard library's lock on Linux does that), so
    /// a commit waits for the pages being read, and no longer.
    pending: RwLock<Pending>,
}

/// What is pending.
pub(crate) struct Pending {
    journal: Journal,
    changes: Changes,
    /// About so much memory they take.
    bytes: usize,
}

impl Shared {
    /// Nothing yet.
    pub(crate) fn new(tree: Tree, journal: Journal) -> Self {
        Self {
            tree,
            pending: RwLock::new(Pending {
                journal,
                changes: Changes::new(),
                bytes: 0,
            }),
        }
    }

    /// As it is, until the guard is dropped.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Pending> {
        self.pending.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For changing it.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Pending> {
        self.pending.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing pending, until the guard is dropped: the tree has everything.
    pub(crate) fn settled(
        &self,
        guard: &Guard,
    ) -> Result<RwLockReadGuard<'_, Pending>, StoreError> {
        let pending = self.read();
        if pending.changes.is_empty() {
            return Ok(pending);
        }
        drop(pending);
        let mut pending = self.write();
        // The guard notes a failure before others go on.
        guard.run(Phase::Running, || pending.settle(&self.tree))?;
        Ok(RwLockWriteGuard::downgrade(pending))
    }

    /// Has everything that is acknowledged flushed by the engine; hands over what the journal has of it.
    pub(crate) fn flush(&self) -> Result<Ended, StoreError> {
        let ended = {
            let mut pending = self.write();
            pending.settle(&self.tree)?;
            pending.journal.cut()
        };
        self.tree.flush()?;
        Ok(ended)
    }

    /// Removes what a flush handed over.
    pub(crate) fn remove(&self, ended: Ended) -> Result<(), StoreError> {
        let bytes = ended.remove().map_err(StoreError::of_disk)?;
        self.write().journal.removed(bytes);
        Ok(())
    }
}

impl Pending {
    /// What the tree does not have.
    pub(crate) fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Bytes of the journal.
    pub(crate) fn journal_bytes(&self) -> u64 {
        self.journal.bytes()
    }

    /// Takes a commit up: from now on it survives the end of the process.
    pub(crate) fn add(
        &mut self,
        tree: &Tree,
        commit: u64,
        mut changes: Changes,
    ) -> Result<(), StoreError> {
        let appended = self.journal.append(commit, &changes);
        if !appended.map_err(StoreError::of_disk)? {
            return self.flush(tree, changes);
        }
        let sizes = changes
            .iter()
            .map(|(key, value)| key.len() + value.as_ref().map_or(0, |value| value.len()));
        self.bytes += sizes.sum::<usize>();
        if self.changes.is_empty() {
            self.changes = changes;
        } else {
            self.changes.append(&mut changes);
        }
        if self.bytes > BYTES_MAX {
            self.settle(tree)?;
        }
        Ok(())
    }

    /// Has a commit flushed that is not in the journal.
    pub(crate) fn flush(&mut self, tree: &Tree, changes: Changes) -> Result<(), StoreError> {
        self.settle(tree)?;
        txn::apply(tree, changes)?;
        tree.flush()?;
        let ended = self.journal.cut();
        let removed = ended.remove().map_err(StoreError::of_disk)?;
        self.journal.removed(removed);
        Ok(())
    }

    /// Puts everything into the tree.
    fn settle(&mut self, tree: &Tree) -> Result<(), StoreError> {
        if self.changes.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        txn::apply(tree, std::mem::take(&mut self.changes))
    }
}
