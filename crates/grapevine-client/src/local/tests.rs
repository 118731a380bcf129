#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn resolution(strategy: v1::Strategy, target: &str) -> v1::Resolution {
    v1::Resolution {
        targets: vec![v1::Target {
            address: target.to_owned(),
            ..Default::default()
        }],
        token: 7,
        strategy: strategy.into(),
        envelope: strategy != v1::Strategy::Versioned,
        ..Default::default()
    }
}

fn leased() -> Table {
    let table = Table::new(64);
    table.name.store(1, Ordering::Release);
    table.lease_ends.store(u64::MAX, Ordering::Release);
    table
}

fn keep(table: &Table, address: &str, classes: &[&str], resolution: &v1::Resolution) -> bool {
    let before = table.before(classes).unwrap();
    table.keep(&before, (address, classes), resolution)
}

#[test]
fn cache_addresses_are_those_that_the_sidecar_gives() {
    let table = leased();
    let versioned = resolution(v1::Strategy::Versioned, "cart::13~1AAAAAAAAAAE");
    assert!(keep(&table, "cart::13", &["cart/13"], &versioned));
    let mut into = String::new();
    let hit = table.look_up("other::5", &["cart/13"], &mut into).unwrap();
    assert_eq!((into.as_str(), hit.token), ("other::5~1AAAAAAAAAAE", 7));
    let registered = resolution(v1::Strategy::Registered, "cart::13");
    assert!(keep(&table, "cart::13", &["r"], &registered));
    assert!(
        table
            .look_up("other::5", &["r"], &mut into)
            .unwrap()
            .envelope
    );
    assert_eq!(into, "other::5");
    let bucket = bucket_of("cart::13", 8);
    let target = format!("b/13~b8.{bucket}");
    let bucketed = resolution(v1::Strategy::Bucketed, &target);
    assert!(keep(&table, "cart::13", &["b/13", "x"], &bucketed));
    table
        .look_up("other::5", &["b/13", "x"], &mut into)
        .unwrap();
    assert_eq!(into, format!("b/13~b8.{}", bucket_of("other::5", 8)));
    // Hashed addresses, those that would have to be, and malformed ones are the sidecar's matter.
    let hashed = resolution(v1::Strategy::Versioned, "~habc~1AAAAAAAAAAE");
    assert!(!keep(&table, "cart::13", &["h"], &hashed));
    let other_bucket = format!("b/13~b8.{}", (bucket + 1) % 8);
    let other = resolution(v1::Strategy::Bucketed, &other_bucket);
    assert!(!keep(&table, "cart::13", &["b/13"], &other));
    let long = "x".repeat(240);
    assert_eq!(table.look_up(&long, &["cart/13"], &mut into), None);
    assert_eq!(table.look_up("a b", &["cart/13"], &mut into), None);
    assert_eq!(table.look_up("", &["cart/13"], &mut into), None);
}

#[test]
fn what_is_good_for_one_read_only_is_not_kept() {
    let table = leased();
    let mut bypass = resolution(v1::Strategy::Versioned, "a~1AAAAAAAAAAE");
    bypass.bypass = true;
    assert!(!keep(&table, "a", &["c"], &bypass));
    let mut page = resolution(v1::Strategy::Versioned, "a~p20.0~1AAAAAAAAAAE");
    page.targets[0].page_size = 20;
    assert!(!keep(&table, "a", &["c"], &page));
    let mut none = resolution(v1::Strategy::Versioned, "a");
    none.targets.clear();
    assert!(!keep(&table, "a", &["c"], &none));
}

#[test]
fn g7_without_a_lease_nothing_is_known_and_a_table_without_a_stream_is_empty() {
    let table = leased();
    let answer = resolution(v1::Strategy::Versioned, "a~1AAAAAAAAAAE");
    assert!(keep(&table, "a", &["c"], &answer));
    let mut into = String::new();
    assert!(table.look_up("a", &["c"], &mut into).is_some());
    table.lease_ends.store(clock::now(), Ordering::Release);
    assert_eq!(table.look_up("a", &["c"], &mut into), None);
    assert_eq!(table.token(&["c"]), None);
    table.lease_ends.store(u64::MAX, Ordering::Release);
    assert_eq!(table.token(&["c"]), Some(7));
    table.empty();
    assert!(table.before(&["c"]).is_none());
    table.lease_ends.store(u64::MAX, Ordering::Release);
    assert_eq!(table.look_up("a", &["c"], &mut into), None);
}

#[tokio::test(start_paused = true)]
async fn g3_a_write_of_unknown_classes_waits_for_its_notice_or_empties_the_table() {
    let table = leased();
    let answer = resolution(v1::Strategy::Versioned, "a~1AAAAAAAAAAE");
    let run = Bytes::from_static(b"a run of 16 byte");
    table.opened(run.clone(), 1, 4);
    assert!(keep(&table, "a", &["c"], &answer));
    // It was told already.
    table.catch_up(&run, 4).await;
    assert_eq!(table.token(&["c"]), Some(7));
    let waits = table.catch_up(&run, 5);
    tokio::pin!(waits);
    assert!(
        tokio::time::timeout(Duration::from_millis(5), &mut waits)
            .await
            .is_err()
    );
    table.told(5);
    waits.await;
    assert_eq!(table.token(&["c"]), Some(7));
    // Of another sidecar nothing is told here.
    table.catch_up(b"another run, too", 5).await;
    assert_eq!(table.token(&["c"]), None);
}

/// A class whose name, when it is read, has something happen.
struct Reading<F>(F);

impl<F: Fn()> AsRef<str> for Reading<F> {
    fn as_ref(&self) -> &'static str {
        (self.0)();
        "c"
    }
}

#[test]
fn g7_a_lease_that_comes_while_a_look_up_is_under_way_does_not_count_for_it() {
    let table = leased();
    let answer = resolution(v1::Strategy::Versioned, "a~1AAAAAAAAAAE");
    assert!(keep(&table, "a", &["c"], &answer));
    let mut into = String::new();
    let leases = || table.lease_ends.store(u64::MAX, Ordering::Release);
    table.lease_ends.store(0, Ordering::Release);
    assert_eq!(table.look_up("a", &[Reading(leases)], &mut into), None);
    table.lease_ends.store(0, Ordering::Release);
    assert_eq!(table.token(&[Reading(leases)]), None);
    // One that was there before does.
    table.lease_ends.store(u64::MAX, Ordering::Release);
    assert!(table.look_up("a", &["c"], &mut into).is_some());
}
