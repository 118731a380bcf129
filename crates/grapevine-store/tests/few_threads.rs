//! A start on a machine that has no thread to give. In a process of its own, whose threads are too large to be started.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use grapevine_core::id::Incarnation;
use grapevine_core::store::Write;
use grapevine_store::{Store, StoreConfig, StoreError};

const PATH: &str = "GRAPEVINE_TEST_FEW_THREADS";

#[test]
fn g1_a_start_that_cannot_start_a_thread_leaves_the_store_as_it_is() {
    if let Some(path) = std::env::var_os(PATH) {
        return starts_without_threads(&StoreConfig::new(path));
    }
    let directory = tempfile::tempdir().unwrap();
    let config = StoreConfig::new(directory.path());
    let (store, _, _) = grapevine_store::open(&config).unwrap();
    let write = [Write::OwnIncarnation(Incarnation::new(1).unwrap())];
    store.commit(&write).unwrap();
    drop(store);
    for start in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            // The harness runs a single test without a thread for it.
            .arg("--test-threads=1")
            .env(PATH, directory.path())
            .env("RUST_MIN_STACK", (1_u64 << 50).to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Without its threads the engine may wait for them for ever.
        let deadline = Instant::now() + Duration::from_mins(1);
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert!(ended.status.success(), "start {start}: {said}");
        assert!(said.contains("1 passed"), "start {start}: {said}");
    }
    let mut names: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["acknowledged", "lock", "log", "sled"]);
    let (_, _, report) = grapevine_store::open(&config).unwrap();
    assert_eq!((report.set_aside, report.commits_lost), (None, 0));
}

fn starts_without_threads(config: &StoreConfig) {
    let error = grapevine_store::open(config).err().expect("refused");
    let StoreError::Unusable { source, .. } = &error else {
        panic!("{error:?}");
    };
    let told = source.to_string();
    assert!(told.contains("thread 1 of 9 cannot be started"), "{told}");
}
