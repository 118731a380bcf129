//! G1 on one disk: what a commit acknowledged is there after `kill -9`, and nothing is there by half.
//!
//! The test starts this same binary as a child, which commits numbered batches and says each number once it is
//! flushed; kills it at a moment that differs from round to round; opens the directory and looks.

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use grapevine_core::id::Lane;
use grapevine_core::store::Write;
use grapevine_store::{LogRead, Store};

use crate::make::*;

const DIRECTORY: &str = "GRAPEVINE_STORE_CRASH_DIRECTORY";
/// Registrations in each batch.
const BATCH: u64 = 50;

fn batch_of(sequence: u64) -> Vec<grapevine_core::event::Registration> {
    (0..BATCH)
        .map(|index| {
            let class = format!("c/{}", (sequence * 7 + index) % 40);
            let long = "y".repeat(usize::try_from(index).unwrap());
            registration(&format!("{sequence}:{index}:{long}"), &[&class], 1_000)
        })
        .collect()
}

/// What the child commits as its `sequence`: everything of it is there, or nothing.
fn writes(sequence: u64) -> Vec<Write> {
    vec![
        log(1, sequence, batch(batch_of(sequence))),
        register(batch_of(sequence)),
        log(1, sequence, bump(&[&format!("b/{}", sequence % 100)])),
        join(&format!("b/{}", sequence % 100), &[], &[(1, sequence)]),
        Write::Progress {
            origin: origin(1),
            lane: Lane::Bump,
            watermark: sequence,
        },
    ]
}

/// Not a test: the child's part, which does nothing unless the parent asked for it.
#[test]
fn child_commits_until_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let store = open(Path::new(&directory));
    let done = store.recover().unwrap().progress;
    let mut sequence = done.iter().map(|lane| lane.watermark).max().unwrap_or(0);
    loop {
        sequence += 1;
        store.commit(&writes(sequence)).unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "acknowledged {sequence}").unwrap();
        out.flush().unwrap();
    }
}

/// Ends the child whatever becomes of the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // On Unix this is SIGKILL.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the child until it has acknowledged `count` batches, kills it while it goes on, and tells the last one
/// acknowledged.
fn killed_after(directory: &Path, count: usize) -> u64 {
    let mut child = Killed(
        Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "crash::child_commits_until_killed",
                "--nocapture",
            ])
            .env(DIRECTORY, directory)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let number = |line: std::io::Result<String>| -> Option<u64> {
        // A line that the kill cut short says nothing.
        line.ok()?.strip_prefix("acknowledged ")?.parse().ok()
    };
    let mut last = lines.by_ref().filter_map(number).take(count).last();
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    // What it said between our reading and its end counts as well.
    last = lines.filter_map(number).last().or(last);
    last.expect("the child acknowledges something")
}

#[test]
fn g1_nothing_acknowledged_is_lost_by_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..12 {
        let acknowledged = killed_after(directory.path(), 1 + round * round);
        let store = open(directory.path());
        store.verify().unwrap();
        let recovered = store.recover().unwrap();
        let there = recovered.progress[0].watermark;
        assert!(
            there == acknowledged || there == acknowledged + 1,
            "round {round}: {acknowledged} was acknowledged, and {there} is there"
        );
        assert_eq!(store.registrations(), there * BATCH);
        for lane in &recovered.progress {
            assert_eq!((lane.watermark, lane.above.len()), (there, 0));
        }
        let highest = recovered.classes.iter().map(|c| c.entries.get(origin(1)));
        assert_eq!(highest.max(), Some(there));
        let read = store
            .read_log(origin(1), Lane::Directory, there, there, usize::MAX)
            .unwrap();
        assert_eq!(read, LogRead::Events(vec![(there, batch(batch_of(there)))]));
        let mut expected: Vec<_> = (1..=there)
            .flat_map(batch_of)
            .map(|registration| registration.address.as_str().to_owned())
            .collect();
        let mut found: Vec<_> = listed(&store, "c", 5_000)
            .into_iter()
            .map(|row| row.1)
            .collect();
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
    }
}
