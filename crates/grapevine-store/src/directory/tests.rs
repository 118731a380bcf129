//! Expiry, counted in pages and keys: what a commit costs, not how long it takes.

use super::*;
use grapevine_core::event::Registration;

fn class(text: &str) -> ClassPath {
    ClassPath::parse(text).unwrap()
}

fn tree() -> sled::Db {
    sled::Config::new().temporary(true).open().unwrap()
}

fn put(tree: &sled::Db, registrations: &[Registration]) {
    let mut txn = Txn::new(tree);
    let mut gathered = Gathered::default();
    gathered.gather(registrations, false);
    gathered.register(&mut txn).unwrap();
    txn.apply().unwrap();
}

fn registration(address: &str, class_path: &str, expires: u32) -> Registration {
    Registration {
        address: Address::parse(address).unwrap(),
        classes: vec![class(class_path)],
        expires: UnixSeconds(expires),
    }
}

fn expire_at(tree: &sled::Db, now: u32, limit: usize) -> Expired {
    let mut txn = Txn::new(tree);
    let expired = expire(&mut txn, UnixSeconds(now), limit).unwrap();
    txn.apply().unwrap();
    expired
}

fn count(tree: &sled::Db, table: Table) -> usize {
    Txn::new(tree).scan(table.range()).count()
}

/// A class of 200 pages, of which each holds addresses that lapse together.
fn large_class(tree: &sled::Db) -> u32 {
    let long = "y".repeat(200);
    let registrations: Vec<_> = (0..4000)
        .map(|index| registration(&format!("{index:05}{long}"), "a", 64 * (1 + index / 20)))
        .collect();
    put(tree, &registrations);
    4000 / 20
}

#[test]
fn a_due_key_visits_its_page_and_not_its_class() {
    let tree = tree();
    let slots = large_class(&tree);
    let pages = count(&tree, Table::Directory) as u64;
    assert!(pages > 150, "{pages}");
    // All pages were made at once and know no better than the earliest expiry of all: they are looked into once.
    let first = expire_at(&tree, 64, 10_000);
    assert_eq!((first.removed, first.backlog), (20, false));
    assert!(first.pages <= pages);
    let mut visited = 0;
    for slot in 2..=slots {
        let expired = expire_at(&tree, 64 * slot, 10_000);
        assert_eq!(expired.removed, 20, "slot {slot}");
        assert!(expired.pages <= 3, "slot {slot}: {expired:?}");
        visited += expired.pages;
    }
    assert!(visited <= 3 * pages, "{visited} visits of {pages} pages");
    assert_eq!(count(&tree, Table::Directory), 0);
    assert_eq!(count(&tree, Table::Expiries), 0);
}

#[test]
fn nothing_due_visits_no_page() {
    let tree = tree();
    large_class(&tree);
    assert_eq!(expire_at(&tree, 63, 10_000), Expired::default());
}

#[test]
fn a_renewed_page_is_visited_once_more_and_then_waits() {
    let tree = tree();
    put(&tree, &[registration("x", "a", 64)]);
    put(&tree, &[registration("x", "a", 640)]);
    let visit = Expired {
        pages: 1,
        ..Expired::default()
    };
    assert_eq!(expire_at(&tree, 64, 10), visit);
    assert_eq!(expire_at(&tree, 64, 10), Expired::default());
    assert_eq!(expire_at(&tree, 639, 10), Expired::default());
    assert_eq!(expire_at(&tree, 640, 10).removed, 1);
}

#[test]
fn g10_a_call_is_bounded_in_removals_and_in_bytes() {
    let tree = tree();
    large_class(&tree);
    let expired = expire_at(&tree, u32::MAX, 7);
    assert_eq!(
        expired,
        Expired {
            removed: 7,
            pages: 1,
            backlog: true
        }
    );
    // One address of every page lapses: what counts is what is read and written again.
    let long = "y".repeat(230);
    let many: Vec<_> = (0..60_000)
        .map(|index| {
            let expires = if index % 12 == 0 { 64 } else { 100_000 };
            registration(&format!("{index:05}{long}"), "b", expires)
        })
        .collect();
    put(&tree, &many);
    let expired = expire_at(&tree, 64, 1_000_000);
    assert!(expired.backlog, "{expired:?}");
    let bytes = expired.pages * 3_000;
    assert!(bytes <= EXPIRE_BYTES_MAX as u64, "{expired:?}");
    let mut calls = 1;
    while expire_at(&tree, 64, 1_000_000).backlog {
        calls += 1;
        assert!(calls < 10, "it goes on until all are gone");
    }
    let left: u64 = Txn::new(&tree)
        .scan(Table::Directory.range())
        .map(|entry| u64::from(Header::read(&entry.unwrap().1).unwrap().count))
        .sum();
    assert_eq!(left, 55_000 + 4000 - 7 - 13);
}

#[test]
fn g10_the_index_has_a_key_per_page_whatever_comes_and_goes() {
    let tree = tree();
    for round in 0..50_u32 {
        let registrations: Vec<_> = (0..300)
            .map(|index| {
                let class = format!("c/{}", index % 30);
                // Each round in other slots, so that a key left behind would add up.
                registration(&format!("x{index}"), &class, 10_000 + round * 640 + index)
            })
            .collect();
        put(&tree, &registrations);
        assert_eq!(count(&tree, Table::Expiries), 30);
        let mut txn = Txn::new(&tree);
        let all = if round % 2 == 0 {
            take(&mut txn, &[class("c")], Match::Any, false)
                .unwrap()
                .registrations
        } else {
            unregister(&mut txn, &registrations).unwrap()
        };
        assert_eq!(all, 300);
        txn.apply().unwrap();
        assert_eq!(count(&tree, Table::Expiries), 0, "round {round}");
    }
}
