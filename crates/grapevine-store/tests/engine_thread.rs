//! A panic in one of the engine's own threads. In a process of its own: it fails every store that is open.

use grapevine_core::id::Incarnation;
use grapevine_core::store::Write;
use grapevine_store::{Store, StoreConfig, StoreError};

#[test]
fn g1_a_panic_of_the_engines_flusher_fails_the_store_and_is_noted() {
    let directory = tempfile::tempdir().unwrap();
    let config = StoreConfig::new(directory.path());
    let (store, _, _) = grapevine_store::open(&config).unwrap();
    let write = [Write::OwnIncarnation(Incarnation::new(1).unwrap())];
    store.commit(&write).unwrap();
    let named = |name: &str| {
        let thread = std::thread::Builder::new().name(name.to_owned());
        thread.spawn(|| panic!("a page is missing")).unwrap().join()
    };
    assert!(named("another thread").is_err());
    store.commit(&write).unwrap();
    // As the engine names it.
    assert!(named("log flusher").is_err());
    let refused = store.commit(&write).unwrap_err();
    assert!(
        matches!(&refused, StoreError::Failed { cause } if cause.contains("a page is missing")),
        "{refused}"
    );
    assert!(store.floors().is_err());
    drop(store);
    let (store, _, report) = grapevine_store::open(&config).unwrap();
    assert!(report.verified, "the next start reads everything");
    assert_eq!(report.set_aside, None, "and finds it in order");
    store.commit(&write).unwrap();
}

#[test]
fn the_engine_still_names_its_flusher_so() {
    // Linux tells threads' names, 15 bytes of them.
    let directory = tempfile::tempdir().unwrap();
    let _store = grapevine_store::open(&StoreConfig::new(directory.path())).unwrap();
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return;
    };
    let found =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    assert!(
        found
            .into_iter()
            .any(|name| name.trim_end() == "log flusher")
    );
}
