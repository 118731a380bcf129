//! Large events of the log, in files beside the engine's.

use std::fs;
use std::path::Path;

use grapevine_core::id::Lane;
use grapevine_core::store::Write;
use grapevine_store::{LogRead, Store};

use crate::make::*;
use crate::trouble::{filled, reopened};

/// Events that are logged of one origin, and the files with large ones.
fn logged(store: &impl Store, path: &Path) -> (LogRead, usize) {
    let events = store.read_log(origin(1), Lane::Directory, 1, 100, usize::MAX);
    let files = fs::read_dir(path.join("log")).unwrap().count();
    (events.unwrap(), files)
}

/// How many events the log of 0.4 has.
const EVENTS: u64 = 40;
/// The table of the log.
const LOG: u8 = 0x60;

#[test]
fn g1_the_log_of_0_4_is_read_and_goes_on_in_files() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    // As 0.4 wrote it: everything in the tree.
    config.log_inline_bytes_max = usize::MAX;
    let (store, ..) = grapevine_store::open(&config).unwrap();
    let commit = |store: &grapevine_store::SledStore, sequence| {
        // Of several parts, which begin anywhere.
        let registrations = (0..1_000 + sequence)
            .map(|index| registration(&format!("{sequence}:{index}"), &["c"], 100));
        let registrations: Vec<_> = registrations.collect();
        let event = log(1, sequence, batch(registrations.clone()));
        store.commit(&[event, register(registrations)]).unwrap();
    };
    (1..=EVENTS).for_each(|sequence| commit(&store, sequence));
    let before = logged(&store, directory.path());
    assert_eq!(before.1, 0);
    drop(store);
    let db = reopened(&directory.path().join("sled"));
    let tree = db.open_tree("grapevine").unwrap();
    let parts = tree.scan_prefix([LOG]).map(Result::unwrap);
    let misleading = parts.filter(|(key, part)| !key.ends_with(&[0, 0]) && part[0] == 0);
    assert!(
        misleading.count() > 0,
        "no part begins as the place of an event does"
    );
    tree.insert([1], &4_u32.to_be_bytes()).unwrap();
    db.flush().unwrap();
    drop((tree, db));
    config.log_inline_bytes_max = 1_000;
    let (store, ..) = grapevine_store::open(&config).unwrap();
    assert_eq!(logged(&store, directory.path()), before);
    store.verify().unwrap();
    commit(&store, EVENTS + 1);
    store.verify().unwrap();
    let LogRead::Events(events) = logged(&store, directory.path()).0 else {
        panic!("events are held")
    };
    assert_eq!(
        events
            .iter()
            .map(|(sequence, _)| *sequence)
            .collect::<Vec<_>>(),
        (1..=EVENTS + 1).collect::<Vec<_>>()
    );
    drop(store);
    // What is too much goes from both.
    config.log_bytes_max = 1;
    let (store, ..) = grapevine_store::open(&config).unwrap();
    commit(&store, EVENTS + 2);
    store.verify().unwrap();
    assert_eq!(logged(&store, directory.path()), (LogRead::Compacted, 1));
    store.commit(&[Write::ForgetRun(origin(1))]).unwrap();
    store.verify().unwrap();
    assert_eq!(logged(&store, directory.path()).1, 0);
}

#[test]
fn g1_an_event_whose_file_does_not_read_back_is_compacted_and_no_damage() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path());
    let store = open(directory.path());
    let (LogRead::Events(events), files) = logged(&store, directory.path()) else {
        panic!("events are held")
    };
    assert_eq!((events.len(), files), (40, 2), "one file for each run");
    let path = directory.path().join("log");
    let mut files: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    let whole = fs::read(&files[0]).unwrap();
    let mut garbled = whole.clone();
    garbled[10] ^= 1;
    for (damage, events) in [
        (&garbled, None),
        (&whole[..whole.len() - 1].to_vec(), Some(19)),
    ] {
        fs::write(&files[0], damage).unwrap();
        let found = match logged(&store, directory.path()).0 {
            LogRead::Events(events) => Some(events.len()),
            LogRead::Compacted => None,
        };
        assert_eq!(found, events);
    }
    fs::remove_file(&files[0]).unwrap();
    assert_eq!(logged(&store, directory.path()).0, LogRead::Compacted);
    let later = store.read_log(origin(1), Lane::Directory, 21, 40, usize::MAX);
    assert!(matches!(later, Ok(LogRead::Events(events)) if events.len() == 20));
    store.verify().unwrap();
    drop(store);
    let (store, _, report) = grapevine_store::open(&config(directory.path())).unwrap();
    assert_eq!((report.set_aside, store.registrations()), (None, 8000));
}
