//! The journal: what a process that was killed leaves in it is there, whatever the engine had of it, and nothing else is.

use std::fs;
use std::path::{Path, PathBuf};

use grapevine_core::id::Lane;
use grapevine_core::store::Write;
use grapevine_store::{OpenReport, SledStore, Store};

use crate::make::*;

/// A bump of the `sequence`th class of one that each bump has, and of one that all have.
fn writes(sequence: u64) -> Vec<Write> {
    let own = format!("own/{sequence}");
    vec![
        log(1, sequence, bump(&["shared", &own])),
        join("shared", &[], &[(1, sequence)]),
        join(&own, &[], &[(1, sequence)]),
        register(vec![registration(&own, &["addresses"], 100)]),
        Write::Progress {
            origin: origin(1),
            lane: Lane::Bump,
            watermark: sequence,
        },
    ]
}

fn commit(store: &SledStore, sequences: impl IntoIterator<Item = u64>) {
    for sequence in sequences {
        store.commit(&writes(sequence)).unwrap();
    }
}

/// Checks that a store has so many of the bumps, each of them whole.
fn has(store: &SledStore, bumps: u64) {
    store.verify().unwrap();
    let recovered = store.recover().unwrap();
    let progress: Vec<u64> = recovered.progress.iter().map(|it| it.watermark).collect();
    assert_eq!(progress, if bumps == 0 { vec![] } else { vec![bumps] });
    let classes = recovered.classes.iter();
    let shared = classes.filter(|found| found.class == class("shared"));
    let shared: Vec<u64> = shared.map(|it| it.entries.get(origin(1))).collect();
    assert_eq!(shared, progress);
    assert_eq!(recovered.classes.len() as u64, bumps + u64::from(bumps > 0));
    assert_eq!(store.registrations(), bumps);
    assert_eq!(listed(store, "addresses", 100).len() as u64, bumps);
}

/// The journal's files, in order.
fn journal(store: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(store.join("sled")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("journal-")
        })
        .collect();
    paths.sort();
    paths
}

/// What a kill at this moment would leave: the files as they are.
fn killed(store: &Path) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &to);
            } else {
                fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    let directory = tempfile::tempdir().unwrap();
    copy(store, directory.path());
    directory
}

/// A store whose keeper does not sync while the test runs: what is committed stays in the journal.
fn open_unsynced(path: &Path) -> SledStore {
    let mut config = config(path);
    config.sync_every = std::time::Duration::from_hours(1);
    grapevine_store::open(&config).unwrap().0
}

fn reopened(path: &Path) -> (SledStore, OpenReport) {
    let (store, _, report) = grapevine_store::open(&config(path)).unwrap();
    assert_eq!(report.set_aside, None, "{:?}", report.reason);
    assert!(journal(path).is_empty(), "what was replayed is still there");
    (store, report)
}

#[test]
fn g1_what_only_the_journal_has_is_there_after_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_unsynced(directory.path());
    for bumps in 1..=40 {
        commit(&store, [bumps]);
        if bumps % 7 == 0 {
            // Counting classes has all put into the engine's tree, and none on its disk.
            let classes = store.classes(None, None, 100).unwrap();
            assert_eq!(classes.rows.len() as u64, bumps + 2);
        }
        let left = killed(directory.path());
        assert_eq!(journal(left.path()).len(), 1);
        // And after one more that follows at once.
        let opened = open_unsynced(left.path());
        let killed = killed(left.path());
        drop(opened);
        let (copy, report) = reopened(killed.path());
        assert_eq!(report.commits_lost, 0);
        has(&copy, bumps);
        commit(&copy, [bumps + 1]);
        drop(copy);
        has(&reopened(killed.path()).0, bumps + 1);
    }
    has(&store, 40);
}

#[test]
fn g1_a_record_that_was_being_written_is_nothing_and_those_before_it_are_there() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_unsynced(directory.path());
    commit(&store, 1..=3);
    let left = killed(directory.path());
    let [file] = &journal(left.path())[..] else {
        panic!("one file");
    };
    let whole = fs::read(file).unwrap();
    let mut seen = [0; 4];
    for length in 0..=whole.len() {
        let cut = killed(left.path());
        fs::write(&journal(cut.path())[0], &whole[..length]).unwrap();
        // What is lost here was acknowledged: the test cuts off more than a kill does. It is told.
        let (copy, report) = reopened(cut.path());
        let there = 3 - report.commits_lost;
        has(&copy, there);
        seen[usize::try_from(there).unwrap()] += 1;
    }
    assert_eq!(seen[3], 1, "{seen:?}");
    assert!(seen.iter().all(|times| *times > 0), "{seen:?}");
}

#[test]
fn g1_a_damaged_record_ends_the_journal_and_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_unsynced(directory.path());
    commit(&store, 1..=3);
    let left = killed(directory.path());
    let whole = fs::read(&journal(left.path())[0]).unwrap();
    for at in (0..whole.len()).step_by(5) {
        let damaged = killed(left.path());
        let mut bytes = whole.clone();
        bytes[at] ^= 0x20;
        fs::write(&journal(damaged.path())[0], &bytes).unwrap();
        let (copy, report) = reopened(damaged.path());
        assert!((1..=3).contains(&report.commits_lost), "byte {at}");
        assert!(report.verified);
        // With what lies behind it.
        let kept = damaged.path().join("sled/unused-journal-0");
        assert_eq!(fs::read(kept).unwrap(), bytes, "byte {at}");
        has(&copy, 3 - report.commits_lost);
    }
}

#[test]
fn g1_a_journal_that_the_engine_is_ahead_of_takes_nothing_back() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_unsynced(directory.path());
    commit(&store, 1..=3);
    let old = killed(directory.path());
    commit(&store, 4..=9);
    drop(store);
    assert!(
        journal(directory.path()).is_empty(),
        "what a close flushes is still there"
    );
    for file in journal(old.path()) {
        let name = file.file_name().unwrap();
        fs::copy(&file, directory.path().join("sled").join(name)).unwrap();
    }
    let (store, report) = reopened(directory.path());
    assert_eq!(report.commits_lost, 0);
    has(&store, 9);
}

#[test]
fn g1_a_journal_that_does_not_follow_on_the_engine_is_passed_over_and_the_loss_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_unsynced(directory.path());
    commit(&store, 1..=3);
    drop(store);
    let old = killed(directory.path());
    let store = open_unsynced(directory.path());
    commit(&store, 4..=6);
    drop(store);
    let store = open_unsynced(directory.path());
    commit(&store, 7..=9);
    // The engine of before, with the journal and the tally of now.
    let now = killed(directory.path());
    let mixed = old;
    let journals = journal(now.path());
    let mut files = vec![now.path().join("acknowledged")];
    files.extend(journals.iter().cloned());
    for file in files {
        let name = file.strip_prefix(now.path()).unwrap();
        fs::copy(&file, mixed.path().join(name)).unwrap();
    }
    let (copy, report) = reopened(mixed.path());
    assert_eq!(report.commits_lost, 6);
    has(&copy, 3);
    // Whoever puts the right copy back needs them.
    let kept = mixed.path().join("sled/unused-journal-0");
    assert_eq!(fs::read(kept).unwrap(), fs::read(&journals[0]).unwrap());
}

#[test]
fn g1_a_commit_too_large_for_the_journal_is_flushed_and_ends_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_unsynced(directory.path());
    commit(&store, 1..=3);
    let many =
        (0..30_000).map(|n| registration(&format!("{n:0100}"), &[&format!("large/{n}")], 100));
    store.commit(&[register(many.collect())]).unwrap();
    assert!(journal(directory.path()).is_empty());
    let flushed = killed(directory.path());
    commit(&store, 4..=5);
    let after = killed(directory.path());
    assert_eq!(journal(after.path()).len(), 1);
    for (left, bumps) in [(flushed, 3), (after, 5)] {
        let (copy, report) = reopened(left.path());
        assert_eq!(report.commits_lost, 0);
        copy.verify().unwrap();
        assert_eq!(copy.registrations(), 30_000 + bumps);
        assert_eq!(listed(&copy, "addresses", 100).len() as u64, bumps);
    }
}

#[test]
fn a_sync_removes_what_it_covers_and_the_bytes_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.sync_every = std::time::Duration::from_millis(1);
    let (store, ..) = grapevine_store::open(&config).unwrap();
    commit(&store, 1..=3);
    let begun = std::time::Instant::now();
    while !journal(directory.path()).is_empty() {
        assert!(begun.elapsed().as_secs() < 60, "nothing is removed");
        std::thread::yield_now();
    }
    has(&reopened(killed(directory.path()).path()).0, 3);
    drop(store);
    let store = open_unsynced(directory.path());
    let without = store.disk_bytes();
    commit(&store, [4]);
    let [file] = &journal(directory.path())[..] else {
        panic!("one file");
    };
    // The engine has written nothing meanwhile: nobody has it flush.
    let bytes = fs::metadata(file).unwrap().len();
    assert!(bytes > 100);
    assert_eq!(store.disk_bytes(), without + bytes);
    has(&store, 4);
}

#[test]
fn g1_what_lies_in_two_files_is_read_in_their_order() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_unsynced(directory.path());
    commit(&store, [1]);
    let length = fs::metadata(&journal(directory.path())[0]).unwrap().len();
    commit(&store, 2..=3);
    let left = killed(directory.path());
    let [file] = &journal(left.path())[..] else {
        panic!("one file");
    };
    let (first, rest) = {
        let whole = fs::read(file).unwrap();
        let (first, rest) = whole.split_at(usize::try_from(length).unwrap());
        (first.to_vec(), rest.to_vec())
    };
    fs::remove_file(file).unwrap();
    // As a kill leaves them between the moment that a file is ended and the one that it is removed in.
    let sled = left.path().join("sled");
    fs::write(sled.join("journal-9"), &first).unwrap();
    fs::write(sled.join("journal-10"), &rest).unwrap();
    // Not ours.
    fs::write(sled.join("journal-007"), b"notes").unwrap();
    let torn = killed(left.path());
    let opened = grapevine_store::open(&config(left.path())).unwrap();
    assert_eq!(opened.2.commits_lost, 0);
    has(&opened.0, 3);
    assert_eq!(journal(left.path()), [sled.join("journal-007")]);
    // If the earlier one does not read back, the later one does not follow: it is kept for whoever has to look into it.
    let sled = torn.path().join("sled");
    fs::write(sled.join("journal-9"), &first[..first.len() - 1]).unwrap();
    let (store, _, report) = grapevine_store::open(&config(torn.path())).unwrap();
    assert_eq!(report.commits_lost, 3);
    has(&store, 0);
    assert_eq!(
        fs::read(sled.join("unused-journal-0")).unwrap(),
        first[..first.len() - 1]
    );
    assert_eq!(fs::read(sled.join("unused-journal-1")).unwrap(), rest);
}
