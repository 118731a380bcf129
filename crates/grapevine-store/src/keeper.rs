//! What the engine does not tell: a sync to the disk that failed, and work that never ends.
//!
//! The engine syncs its file every so often in a thread of its own, and only logs it when that fails: what was
//! acknowledged would then be in the system's cache and nowhere else, with nobody the wiser. So the keeper syncs the same
//! file as often, through a handle of its own (the system tells a failed write-back to every open handle), and the
//! first failure ends the store. The count of acknowledged commits is synced after it.
//!
//! A disk that hangs gives no error at all. A second thread looks how long the commit, or the sync, under way has taken,
//! and says so once it is longer than [`PATIENCE`].

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::StoreError;
use crate::guard::Guard;
use crate::log_files::Written;
use crate::pending::Shared;

/// What takes longer is told at error level.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// How often the watch looks.
const LOOK_EVERY: Duration = Duration::from_secs(5);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in these is whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Since when something is under way, and whether its length was told.
#[derive(Debug, Default)]
pub(crate) struct Underway(Mutex<Option<(Instant, bool)>>);

impl Underway {
    /// Runs it, watched.
    pub(crate) fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        /// Ends it also when it panics.
        struct End<'a>(&'a Underway);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                *locked(&self.0.0) = None;
            }
        }
        *locked(&self.0) = Some((Instant::now(), false));
        let _end = End(self);
        work()
    }

    /// How long it has taken, once, when that is longer than `patience`.
    fn overdue(&self, now: Instant, patience: Duration) -> Option<Duration> {
        let mut underway = locked(&self.0);
        let (since, told) = underway.as_mut()?;
        let taken = now.saturating_duration_since(*since);
        let news = taken > patience && !*told;
        *told |= news;
        news.then_some(taken)
    }
}

/// What the keeper's threads and the store share.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    pub(crate) commit: Underway,
    sync: Underway,
    /// Commits that were acknowledged; what is equal at two syncs needs no second one.
    pub(crate) commits: AtomicU64,
}

/// Told when the store is closed.
#[derive(Debug, Default)]
struct Closing {
    closed: Mutex<bool>,
    told: Condvar,
}

impl Closing {
    /// Waits; tells whether the store is closed.
    fn within(&self, duration: Duration) -> bool {
        let closed = locked(&self.closed);
        let wait = self
            .told
            .wait_timeout_while(closed, duration, |closed| !*closed);
        *wait.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// The two threads; they end when it is dropped.
#[derive(Debug)]
pub(crate) struct Keeper {
    closing: Arc<Closing>,
    threads: Vec<JoinHandle<()>>,
}

/// The engine's file, those of the log, and that of the tally; and the journal, which goes once they are synced.
pub(crate) struct Files {
    engine: File,
    log: Arc<Written>,
    tally: File,
    pending: Arc<Shared>,
}

impl Files {
    pub(crate) fn open(
        engine_path: &Path,
        log: &Arc<Written>,
        tally: File,
        pending: &Arc<Shared>,
    ) -> Result<Self, StoreError> {
        let path = engine_path.join("db");
        match File::open(&path) {
            Ok(engine) => Ok(Self {
                engine,
                log: Arc::clone(log),
                tally,
                pending: Arc::clone(pending),
            }),
            Err(source) => Err(StoreError::Unusable { path, source }),
        }
    }

    fn sync(&self) -> Result<(), StoreError> {
        let ended = self.pending.flush()?;
        // Before the engine's, which has the places of what is in them.
        self.log.sync().map_err(StoreError::of_disk)?;
        self.engine.sync_all().map_err(StoreError::of_disk)?;
        // After the engine's: a count on the disk then says that so much was in the engine's file.
        self.tally.sync_data().map_err(StoreError::of_disk)?;
        // Last: until then it is what a start goes by.
        self.pending.remove(ended)
    }
}

impl Keeper {
    pub(crate) fn start(
        files: Files,
        sync_every: Duration,
        watched: &Arc<Watched>,
        guard: &Guard,
    ) -> io::Result<Self> {
        let closing = Arc::new(Closing::default());
        let mut keeper = Self {
            closing: Arc::clone(&closing),
            threads: Vec::new(),
        };
        let (work, guard) = (Arc::clone(watched), guard.clone());
        keeper.spawn("store sync", move |closing| {
            let sync = || files.sync();
            sync_until_closed(sync, sync_every, closing, &work, &guard);
        })?;
        let work = Arc::clone(watched);
        keeper.spawn("store watch", move |closing| {
            while !closing.within(LOOK_EVERY) {
                work.look(Instant::now());
            }
        })?;
        Ok(keeper)
    }

    fn spawn(
        &mut self,
        name: &str,
        work: impl FnOnce(&Closing) + Send + 'static,
    ) -> io::Result<()> {
        let closing = Arc::clone(&self.closing);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || work(&closing))?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        *locked(&self.closing.closed) = true;
        self.closing.told.notify_all();
        for thread in self.threads.drain(..) {
            // One that panicked has nothing to hand over.
            let _ = thread.join();
        }
    }
}

impl Watched {
    fn look(&self, now: Instant) {
        for (what, underway) in [("commit", &self.commit), ("sync", &self.sync)] {
            if let Some(taken) = underway.overdue(now, PATIENCE) {
                tracing::error!(
                    what,
                    taken_s = taken.as_secs(),
                    "the store's disk does not answer: nothing is acknowledged until it does"
                );
            }
        }
    }
}

/// Syncs as often as told while there are new commits, until the store is closed or a sync failed.
fn sync_until_closed(
    mut sync: impl FnMut() -> Result<(), StoreError>,
    every: Duration,
    closing: &Closing,
    watched: &Watched,
    guard: &Guard,
) {
    // What opening wrote is not synced yet.
    let mut synced = None;
    while !closing.within(every) {
        let commits = watched.commits.load(Ordering::Acquire);
        if synced == Some(commits) {
            continue;
        }
        if guard.failed().is_some() {
            // What the journal has is what counts then.
            return;
        }
        if let Err(error) = watched.sync.run(&mut sync) {
            // The system has dropped what it could not write, and would call the next sync a success.
            guard.fail(&error);
            return;
        }
        synced = Some(commits);
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use sled::IVec;

    use super::*;
    use crate::journal::Journal;
    use crate::txn::Changes;

    #[test]
    fn what_takes_too_long_is_told_once() {
        let underway = Underway::default();
        let begun = Instant::now();
        let late = begun + Duration::from_secs(100);
        assert_eq!(
            underway.overdue(late, PATIENCE),
            None,
            "nothing is under way"
        );
        underway.run(|| {
            assert_eq!(underway.overdue(begun, PATIENCE), None);
            assert!(underway.overdue(late, PATIENCE).unwrap() > PATIENCE);
            assert_eq!(underway.overdue(late, PATIENCE), None, "told once");
        });
        assert_eq!(underway.overdue(late, PATIENCE), None, "it ended");
        underway.run(|| assert!(underway.overdue(late, PATIENCE).is_some(), "another one"));
    }

    #[test]
    fn g1_a_failed_sync_ends_the_store() {
        let directory = tempfile::tempdir().unwrap();
        let guard = Guard::new(directory.path());
        let watched = Watched::default();
        watched.commits.store(7, Ordering::Release);
        let mut syncs = 0;
        let sync = || {
            syncs += 1;
            Err(StoreError::of_disk(io::ErrorKind::Other.into()))
        };
        // Ends by itself, though nobody closes it.
        let every = Duration::from_millis(1);
        sync_until_closed(sync, every, &Closing::default(), &watched, &guard);
        assert_eq!(syncs, 1);
        assert!(guard.failed().is_some());
    }

    #[test]
    fn g1_nothing_is_synced_once_the_store_has_failed() {
        let directory = tempfile::tempdir().unwrap();
        let guard = Guard::new(directory.path());
        guard.fail(&StoreError::Corrupt("a page".to_owned()));
        let sync = || panic!("it would remove what the journal has");
        // Ends by itself, though nobody closes it.
        let every = Duration::from_millis(1);
        let watched = Watched::default();
        sync_until_closed(sync, every, &Closing::default(), &watched, &guard);
    }

    /// The files of a store that has one commit in its journal, which is handed over as well.
    fn files(directory: &Path) -> (Files, PathBuf) {
        let db = sled::Config::new().temporary(true).open().unwrap();
        let tree = db.open_tree("tree").unwrap();
        let journal = Journal::new(directory);
        let pending = Arc::new(Shared::new(tree, Guard::new(directory), journal));
        let changes = Changes::from([(vec![7], Some(IVec::from(b"value")))]);
        pending.add(1, changes).unwrap();
        std::fs::write(directory.join("db"), "").unwrap();
        let tally = File::create(directory.join("tally")).unwrap();
        let files = Files::open(directory, &Arc::default(), tally, &pending).unwrap();
        let journal = directory.join("journal-0");
        assert!(journal.exists());
        (files, journal)
    }

    #[test]
    fn g1_the_journal_goes_once_everything_is_synced_and_not_before() {
        let directory = tempfile::tempdir().unwrap();
        let (mut files, journal) = files(directory.path());
        // What cannot be synced: not a file.
        let unsynced = || File::open("/dev/null").unwrap();
        files.engine = unsynced();
        assert!(files.sync().is_err() && journal.exists());
        let directory = tempfile::tempdir().unwrap();
        let (mut files, journal) = self::files(directory.path());
        files.tally = unsynced();
        assert!(files.sync().is_err() && journal.exists());
        let directory = tempfile::tempdir().unwrap();
        let (files, journal) = self::files(directory.path());
        files.sync().unwrap();
        assert!(!journal.exists());
    }

    #[test]
    fn a_keeper_ends_with_its_store() {
        let directory = tempfile::tempdir().unwrap();
        let (files, _) = files(directory.path());
        let guard = Guard::new(directory.path());
        let hour = Duration::from_hours(1);
        drop(Keeper::start(files, hour, &Arc::default(), &guard).unwrap());
        assert!(guard.failed().is_none());
    }
}
