//! What readers see while a commit is on its way to the disk, and after it failed there.

use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use super::*;
use grapevine_core::vector::VersionVector;

/// What runs in the place of a flush.
pub(super) type Flush = Box<dyn FnOnce() -> Result<(), StoreError> + Send>;

/// Long enough for a reader that is not held up to have read.
const LONG_FOR_A_READ: Duration = Duration::from_millis(200);
/// By then what waits for nothing has ended.
const SOON: Duration = Duration::from_secs(30);

fn bumped(sequence: u64) -> Write {
    let origin = Incarnation::new(1).unwrap();
    Write::JoinClass {
        class: ClassPath::parse("a").unwrap(),
        others: Vec::new(),
        entries: VersionVector::from_iter([(origin, sequence)]),
    }
}

fn open() -> (tempfile::TempDir, Arc<SledStore>) {
    let directory = tempfile::tempdir().unwrap();
    let (store, _, _) = crate::open(&StoreConfig::new(directory.path())).unwrap();
    store.commit(&[bumped(1)]).unwrap();
    (directory, Arc::new(store))
}

/// The highest bump that a snapshot of the store shows.
fn shown(store: &SledStore) -> Result<u64, StoreError> {
    let page = store.snapshot_versions(None, 9)?;
    Ok(page.rows[0].entries.get(Incarnation::new(1).unwrap()))
}

/// Lets the next flush end as told, but only after a reader that began during it was given time to read. The receiver
/// has what that reader read.
fn flush_beside_a_reader(
    store: &Arc<SledStore>,
    end: Result<(), StoreError>,
) -> Receiver<Result<u64, StoreError>> {
    let (read, reads) = sync_channel(1);
    let reading = Arc::clone(store);
    let (done, outcome) = sync_channel(1);
    let flush: Flush = Box::new(move || {
        std::thread::spawn(move || {
            let _ = read.send(shown(&reading));
        });
        match reads.recv_timeout(LONG_FOR_A_READ) {
            Err(RecvTimeoutError::Timeout) => {}
            early => panic!("read while it was not flushed: {early:?}"),
        }
        std::thread::spawn(move || {
            let _ = done.send(reads.recv().expect("the reader answers"));
        });
        end
    });
    *store.pending.read().instead_of_journal.lock().unwrap() = Some(flush);
    outcome
}

#[test]
fn g1_what_is_not_flushed_is_not_shown() {
    let (_directory, store) = open();
    let reader = flush_beside_a_reader(&store, Ok(()));
    store.commit(&[bumped(2)]).unwrap();
    assert_eq!(reader.recv().unwrap().unwrap(), 2);
    store.commit(&[bumped(3)]).unwrap();
    assert_eq!(shown(&store).unwrap(), 3);
}

#[test]
fn g1_what_failed_to_be_flushed_is_never_shown() {
    let (directory, store) = open();
    let full = StoreError::Full(std::io::ErrorKind::StorageFull.into());
    let reader = flush_beside_a_reader(&store, Err(full));
    let failed = store.commit(&[bumped(2)]);
    assert!(matches!(failed, Err(StoreError::Full(_))));
    let refused = |result: Result<(), StoreError>| {
        assert!(
            matches!(&result, Err(StoreError::Failed { cause }) if cause.contains("full")),
            "{result:?}"
        );
    };
    refused(reader.recv().unwrap().map(drop));
    refused(shown(&store).map(drop));
    refused(store.floors().map(drop));
    refused(store.snapshot_directory(None, 1).map(drop));
    let origin = Incarnation::new(1).unwrap();
    let log = store.read_log(origin, Lane::Bump, 1, 1, 1);
    refused(log.map(drop));
    refused(store.commit(&[bumped(3)]).map(drop));
    drop(store);
    // Whether it reached the disk after all only the next opening can tell.
    let (store, _, report) = crate::open(&StoreConfig::new(directory.path())).unwrap();
    assert_eq!(report.set_aside, None);
    store.commit(&[bumped(4)]).unwrap();
    assert_eq!(shown(&store).unwrap(), 4);
}

#[test]
fn g1_what_panicked_before_it_was_flushed_is_never_shown() {
    let (_directory, store) = open();
    let panics: Flush = Box::new(|| panic!("in the engine"));
    *store.pending.read().instead_of_journal.lock().unwrap() = Some(panics);
    let failed = store.commit(&[bumped(2)]);
    assert!(matches!(failed, Err(StoreError::Panicked(_))));
    assert!(matches!(shown(&store), Err(StoreError::Failed { .. })));
}

#[test]
fn what_it_takes_of_the_disk_is_told_while_a_commit_waits_for_that() {
    let (_directory, store) = open();
    let (begun, has_begun) = sync_channel(1);
    let (go_on, may_go_on) = sync_channel::<()>(1);
    let stalled: Flush = Box::new(move || {
        begun.send(()).unwrap();
        // An error means that the test is over.
        let _ = may_go_on.recv();
        Ok(())
    });
    *store.pending.read().instead_of_journal.lock().unwrap() = Some(stalled);
    let committing = {
        let store = store.clone();
        std::thread::spawn(move || store.commit(&[bumped(2)]))
    };
    has_begun.recv_timeout(SOON).unwrap();
    let (told, tells) = sync_channel(1);
    let asked = store.clone();
    std::thread::spawn(move || told.send(asked.disk_bytes()));
    let bytes = tells.recv_timeout(SOON);
    drop(go_on);
    committing.join().unwrap().unwrap();
    assert!(bytes.expect("it waits for the commit") > 0);
}

#[test]
fn g1_what_failed_on_its_way_into_the_tree_is_there_when_it_is_opened_anew() {
    let fails: [fn() -> Flush; 2] = [
        || Box::new(|| Err(StoreError::Io(std::io::ErrorKind::Other.into()))),
        || Box::new(|| panic!("in the engine")),
    ];
    for fail in fails {
        for keeper_goes_on in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let mut config = StoreConfig::new(directory.path());
            config.sync_every = Duration::from_hours(1);
            let (store, ..) = crate::open(&config).unwrap();
            for sequence in 1..=3 {
                store.commit(&[bumped(sequence)]).unwrap();
            }
            *store.pending.read().instead_of_batch.lock().unwrap() = Some(fail());
            // Counting classes has what is pending put into the tree.
            let failed = store.classes(None, None, 1);
            assert!(failed.is_err() && store.guard.failed().is_some());
            let refused = store.commit(&[bumped(4)]);
            assert!(matches!(refused, Err(StoreError::Failed { .. })));
            if keeper_goes_on {
                // As if it had been at it when that failed.
                let ended = store.pending.flush().unwrap();
                store.pending.remove(ended).unwrap();
            }
            drop(store);
            let (store, _, report) = crate::open(&config).unwrap();
            assert!(report.verified, "nothing was checked");
            assert_eq!((report.commits_lost, &report.set_aside), (0, &None));
            assert_eq!(shown(&store).unwrap(), 3);
        }
    }
}
