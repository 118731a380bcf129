//! What every store does, run on both.

use grapevine_core::event::Match;
use grapevine_core::id::{Lane, UnixSeconds};
use grapevine_core::names::NodeId;
use grapevine_core::store::{MemberRecord, Recovered, RecoveredClass, RecoveredProgress, Write};
use grapevine_store::{Cursor, LogRead, MemoryStore, SledStore, Store, StoreError};

use crate::make::*;

/// A store that the suite can look into.
trait Inspect: Store {
    fn recovered(&self) -> Recovered;
    fn checked(&self);
}

impl Inspect for MemoryStore {
    fn recovered(&self) -> Recovered {
        self.recover()
    }

    fn checked(&self) {}
}

impl Inspect for SledStore {
    fn recovered(&self) -> Recovered {
        self.recover().unwrap()
    }

    fn checked(&self) {
        self.verify().unwrap();
    }
}

const LOG_BYTES_MAX: u64 = 4096;

macro_rules! on_both {
    ($($name:ident)*) => {
        mod memory {
            use super::*;
            $(
                #[test]
                fn $name() {
                    super::$name(&MemoryStore::new(LOG_BYTES_MAX));
                }
            )*
        }
        mod sled {
            use super::*;
            $(
                #[test]
                fn $name() {
                    let directory = tempfile::tempdir().unwrap();
                    let mut config = config(directory.path());
                    config.log_bytes_max = LOG_BYTES_MAX;
                    let (store, _, _) = grapevine_store::open(&config).unwrap();
                    super::$name(&store);
                    store.verify().unwrap();
                    let before = store.recover().unwrap();
                    drop(store);
                    let (store, recovered, report) = grapevine_store::open(&config).unwrap();
                    assert_eq!(report, grapevine_store::OpenReport::default());
                    assert_eq!(recovered, before, "an opening recovers what a closing left");
                    store.verify().unwrap();
                }
            )*
        }
    };
}

on_both! {
    an_empty_store_answers
    registrations_are_listed_in_order_and_pages
    a_repeated_registration_keeps_the_later_expiry
    a_large_class_splits_and_comes_back_whole
    a_take_removes_at_and_below
    a_take_of_all_removes_what_is_in_each
    a_take_can_report_own_addresses_only
    unregistering_removes_from_each_class
    a_commit_sees_its_own_writes_in_order
    lapsed_registrations_leave_and_no_others
    expiry_is_bounded_and_goes_on
    an_emptied_class_can_be_used_again
    entries_join_and_floors_swallow
    progress_never_goes_back_and_recovery_extends_it
    the_log_reads_consecutively
    the_log_forgets_the_oldest
    a_large_batch_comes_back_from_the_log
    members_and_incarnations_are_kept
    classes_are_merged_from_versions_and_directory
    snapshots_page_through_everything
    foreign_cursors_are_refused
}

fn an_empty_store_answers(store: &impl Inspect) {
    assert_eq!(store.commit(&[]).unwrap(), []);
    assert_eq!(store.registrations(), 0);
    assert_eq!(store.recovered(), Recovered::default());
    assert_eq!(listed(store, "a", 10), []);
    assert_eq!(store.classes(None, None, 10).unwrap().rows, []);
    assert_eq!(store.floors().unwrap(), []);
    let read = store.read_log(origin(1), Lane::Bump, 1, 9, 100).unwrap();
    assert_eq!(read, LogRead::Compacted);
    let taken = store.commit(&[take(&["a"])]).unwrap();
    assert!(taken[0].addresses.is_empty());
    store
        .commit(&[Write::Expire {
            now: UnixSeconds(u32::MAX),
            limit: 10,
        }])
        .unwrap();
}

fn registrations_are_listed_in_order_and_pages(store: &impl Inspect) {
    let writes = [register(vec![
        registration("x3", &["a/b"], 100),
        registration("x1", &["a", "b"], 100),
        registration("x2", &["a/b", "a!"], 100),
        registration("x0", &["a/b/c"], 100),
    ])];
    store.commit(&writes).unwrap();
    assert_eq!(store.registrations(), 6);
    let expected: Vec<_> = [("a", "x1"), ("a/b", "x2"), ("a/b", "x3"), ("a/b/c", "x0")]
        .into_iter()
        .map(|(class, address)| (class.to_owned(), address.to_owned(), 100))
        .collect();
    for limit in 1..6 {
        assert_eq!(listed(store, "a", limit), expected, "in pages of {limit}");
    }
    assert_eq!(listed(store, "a/b/c", 9), expected[3..]);
    assert_eq!(listed(store, "a/bc", 9), []);
    // A cursor stays right when what it names is gone, and when something comes before and after it.
    let page = store.addresses(&class("a"), None, 2).unwrap();
    let after = page.next.unwrap();
    let after = Cursor::from_bytes(after.as_bytes());
    let gone = Write::Unregister {
        registrations: vec![registration("x2", &["a/b"], 0)],
    };
    let added = register(vec![
        registration("x4", &["a/b"], 1),
        registration("x0", &["a/b"], 1),
    ]);
    store.commit(&[gone, added]).unwrap();
    let page = store.addresses(&class("a"), Some(&after), 9).unwrap();
    let found: Vec<_> = page.rows.iter().map(|row| row.address.as_str()).collect();
    assert_eq!(found, ["x3", "x4", "x0"]);
}

fn a_repeated_registration_keeps_the_later_expiry(store: &impl Inspect) {
    for expires in [500, 900, 700] {
        let write = register(vec![registration("x", &["a"], expires)]);
        store.commit(&[write]).unwrap();
        store.checked();
    }
    assert_eq!(listed(store, "a", 9)[0].2, 900);
    assert_eq!(store.registrations(), 1);
    let expire = |now| Write::Expire {
        now: UnixSeconds(now),
        limit: 100,
    };
    store.commit(&[expire(800)]).unwrap();
    assert_eq!(store.registrations(), 1);
    store.commit(&[expire(1000)]).unwrap();
    assert_eq!(store.registrations(), 0);
}

fn a_large_class_splits_and_comes_back_whole(store: &impl Inspect) {
    let name = |index: u32| format!("get_items_in_cart::13:{}:{}", index % 97, index);
    let mut expected: Vec<_> = (0..3000).map(name).collect();
    for chunk in [0..1000, 2000..3000, 1000..2000, 500..1500] {
        let registrations = chunk
            .map(|index| registration(&name(index), &["cart/13"], 100 + index))
            .collect();
        store.commit(&[register(registrations)]).unwrap();
        store.checked();
    }
    for index in [17, 2999, 5] {
        let write = register(vec![registration(&name(index), &["cart/13"], 1)]);
        store.commit(&[write]).unwrap();
    }
    assert_eq!(store.registrations(), 3000);
    expected.sort();
    let found: Vec<_> = listed(store, "cart", 700)
        .into_iter()
        .map(|row| row.1)
        .collect();
    assert_eq!(found, expected);
    let row = &store.classes(None, None, 9).unwrap().rows[0];
    assert_eq!((row.class.as_str(), row.addresses), ("cart/13", 3000));
    store.checked();
    let taken = store.commit(&[take(&["cart/13"])]).unwrap();
    assert_eq!(names(&taken[0]), expected);
    assert_eq!(store.registrations(), 0);
}

fn a_take_removes_at_and_below(store: &impl Inspect) {
    let writes = [register(vec![
        registration("x1", &["a"], 100),
        registration("x2", &["a/b", "c"], 100),
        registration("x3", &["a/b", "a/c"], 100),
        registration("x4", &["a!"], 100),
        registration("x5", &["ab"], 100),
    ])];
    store.commit(&writes).unwrap();
    let taken = store.commit(&[take(&["a"])]).unwrap();
    assert_eq!(names(&taken[0]), ["x1", "x2", "x3"]);
    assert_eq!(taken[0].event.sequence, 7);
    assert_eq!(store.registrations(), 3);
    assert_eq!(listed(store, "a", 9), []);
    assert_eq!(listed(store, "c", 9).len(), 1);
    let taken = store.commit(&[take(&["a", "a!", "c"])]).unwrap();
    assert_eq!(names(&taken[0]), ["x2", "x4"]);
    assert_eq!(listed(store, "ab", 9).len(), 1);
}

fn a_take_of_all_removes_what_is_in_each(store: &impl Inspect) {
    let mut registrations = vec![
        registration("x1", &["a/1", "b"], 100),
        registration("x2", &["a/2", "b/1", "c"], 100),
        registration("x3", &["a/1"], 100),
        registration("x4", &["b"], 100),
    ];
    for index in 0..1000 {
        registrations.push(registration(&format!("y{index}"), &["a/1"], 100));
        registrations.push(registration(&format!("z{index}"), &["b/2"], 100));
    }
    store.commit(&[register(registrations)]).unwrap();
    let taken = store
        .commit(&[take_as(&["a", "b"], Match::All, false)])
        .unwrap();
    assert_eq!(names(&taken[0]), ["x1", "x2"]);
    assert_eq!(listed(store, "c", 9).len(), 1, "other classes keep it");
    assert_eq!(store.registrations(), 2003);
    let taken = store
        .commit(&[take_as(&["a", "c"], Match::All, false)])
        .unwrap();
    assert_eq!(names(&taken[0]), Vec::<&str>::new());
    let taken = store
        .commit(&[take_as(&["b", "b/2"], Match::All, false)])
        .unwrap();
    assert_eq!(taken[0].addresses.len(), 1000);
    store.checked();
}

fn a_take_can_report_own_addresses_only(store: &impl Inspect) {
    let own = |own, registrations| Write::Register { registrations, own };
    let writes = [
        own(true, vec![registration("x1", &["a/1", "b"], 100)]),
        own(false, vec![registration("x1", &["a/2"], 100)]),
        own(false, vec![registration("x2", &["a/1"], 100)]),
        own(true, vec![registration("x3", &["a/1"], 100)]),
        own(false, vec![registration("x3", &["a/1"], 200)]),
    ];
    store.commit(&writes).unwrap();
    let taken = store.commit(&[take_as(&["a"], Match::Any, true)]).unwrap();
    assert_eq!(names(&taken[0]), ["x1", "x3"]);
    assert_eq!(store.registrations(), 1);
    let taken = store
        .commit(&[take_as(&["b", "b"], Match::All, true)])
        .unwrap();
    assert_eq!(names(&taken[0]), ["x1"]);
    assert_eq!(store.registrations(), 0);
}

fn unregistering_removes_from_each_class(store: &impl Inspect) {
    let registrations: Vec<_> = (0..2000)
        .map(|index| registration(&format!("x{index:05}"), &["a", "b/c"], 100))
        .collect();
    store.commit(&[register(registrations.clone())]).unwrap();
    let gone = registrations[..1990].to_vec();
    let writes = [Write::Unregister {
        registrations: gone.clone(),
    }];
    store.commit(&writes).unwrap();
    store.checked();
    assert_eq!(store.registrations(), 20);
    assert_eq!(listed(store, "b", 99).len(), 10);
    store.commit(&writes).unwrap();
    assert_eq!(store.registrations(), 20, "once more changes nothing");
    store.commit(&[register(gone)]).unwrap();
    store.checked();
    assert_eq!(listed(store, "a", 99).len(), 2000);
    let writes = [Write::Unregister { registrations }];
    store.commit(&writes).unwrap();
    assert_eq!(store.registrations(), 0);
    assert_eq!(store.classes(None, None, 9).unwrap().rows, []);
}

fn a_commit_sees_its_own_writes_in_order(store: &impl Inspect) {
    let x = || vec![registration("x", &["a"], 100)];
    let taken = store
        .commit(&[
            register(x()),
            take(&["a"]),
            take(&["a"]),
            register(x()),
            Write::Unregister { registrations: x() },
            take(&["a"]),
            register(x()),
            join("a", &[], &[(1, 1)]),
            join("a", &[], &[(2, 2)]),
        ])
        .unwrap();
    let taken: Vec<_> = taken.iter().map(names).collect();
    assert_eq!(taken, [vec!["x"], vec![], vec![]]);
    assert_eq!(store.registrations(), 1);
    assert_eq!(
        store.recovered().classes[0].entries,
        vector(&[(1, 1), (2, 2)])
    );
}

fn lapsed_registrations_leave_and_no_others(store: &impl Inspect) {
    let registrations = (0..2000)
        .map(|index| {
            let class = format!("c/{}", index % 7);
            registration(&format!("x{index}"), &[&class], index)
        })
        .collect();
    store.commit(&[register(registrations)]).unwrap();
    let mut before = store.registrations();
    for now in [0, 63, 64, 1000, 1001, 1900] {
        let expire = Write::Expire {
            now: UnixSeconds(now),
            limit: 10_000,
        };
        store.commit(&[expire]).unwrap();
        store.checked();
        let left = listed(store, "c", 500);
        assert_eq!(store.registrations(), left.len() as u64);
        assert!(store.registrations() <= before);
        before = store.registrations();
        let present = (now..2000).skip(1).count();
        assert!(left.len() >= present, "at {now} {} are left", left.len());
        // Rounded up to 64 s, so that an index key serves many of them.
        assert!(
            left.iter().all(|row| row.2 + 64 > now),
            "something lapsed long ago at {now}"
        );
    }
}

fn expiry_is_bounded_and_goes_on(store: &impl Inspect) {
    // Far more pages than the limit, and half of them keep something.
    let registrations = (0..5000)
        .map(|index| {
            let expires = if index % 2 == 0 { 10 } else { 10_000 };
            let long = "y".repeat(200);
            registration(&format!("{index:05}{long}"), &["a"], expires)
        })
        .collect();
    store.commit(&[register(registrations)]).unwrap();
    let mut left = 5000;
    for round in 0.. {
        let expire = Write::Expire {
            now: UnixSeconds(100),
            limit: 100,
        };
        store.commit(&[expire]).unwrap();
        let now = store.registrations();
        assert!(left - now <= 100, "at most the limit in one call");
        if round == 3 {
            // Behind where it stands by now: it must come back for it.
            let late = registration("00000", &["a"], 20);
            store.commit(&[register(vec![late])]).unwrap();
            left = now + 1;
        } else {
            left = now;
        }
        if now == 2500 {
            break;
        }
        assert!(round < 200, "it goes on until all are gone");
    }
    store.checked();
    assert!(listed(store, "a", 500).iter().all(|row| row.2 == 10_000));
}

fn an_emptied_class_can_be_used_again(store: &impl Inspect) {
    let long = "y".repeat(200);
    let all = || -> Vec<_> {
        (100..200)
            .map(|index| registration(&format!("{index}{long}"), &["a"], 100))
            .collect()
    };
    for _ in 0..2 {
        store.commit(&[register(all())]).unwrap();
        let mut registrations = all();
        // The first page empties while others are there; then an address comes before all of them.
        let later = registrations.split_off(50);
        store
            .commit(&[Write::Unregister { registrations }])
            .unwrap();
        store.checked();
        let first = vec![registration("0", &["a"], 100)];
        store.commit(&[register(first.clone())]).unwrap();
        store.checked();
        assert_eq!(listed(store, "a", 99).len(), 51);
        assert_eq!(listed(store, "a", 99)[0].1, "0");
        store
            .commit(&[
                Write::Unregister {
                    registrations: first,
                },
                Write::Unregister {
                    registrations: later,
                },
            ])
            .unwrap();
        store.checked();
        assert_eq!(store.registrations(), 0);
        assert_eq!(store.classes(None, None, 9).unwrap().rows, []);
    }
}

fn entries_join_and_floors_swallow(store: &impl Inspect) {
    store
        .commit(&[
            join("a/1", &[], &[(1, 5), (2, 3)]),
            join("a/1", &[], &[(1, 4), (3, 1)]),
            join("a/1", &["b"], &[(1, 2)]),
            join("a/1", &["b", "c"], &[(9, 9)]),
            join("a/2", &[], &[(1, 1)]),
            join("a/2", &["z"], &[(1, 2)]),
            join("a/1/x", &[], &[(1, 1)]),
        ])
        .unwrap();
    let expected = RecoveredClass {
        class: class("a/1"),
        entries: vector(&[(1, 5), (2, 3), (3, 1)]),
        conjunctions: vec![
            (vec![class("b")], vector(&[(1, 2)])),
            (vec![class("b"), class("c")], vector(&[(9, 9)])),
        ],
    };
    assert_eq!(store.recovered().classes[0], expected);
    let evict = vec![class("a/1"), class("a/2"), class("a/3")];
    store
        .commit(&[Write::JoinFloor {
            floor: floor("a", 3, &[(1, 4)]),
            evict: evict.clone(),
        }])
        .unwrap();
    let classes = store.recovered().classes;
    assert_eq!(classes.len(), 2, "a/2 is dominated and gone");
    assert_eq!(
        classes[0].entries, expected.entries,
        "not dominated, so kept"
    );
    assert_eq!(classes[0].conjunctions, expected.conjunctions[1..]);
    assert_eq!(
        classes[1].class,
        class("a/1/x"),
        "what was not named is kept"
    );
    store
        .commit(&[Write::JoinFloor {
            floor: floor("a", 3, &[(1, 2), (2, 3), (3, 1), (1, 5), (9, 9)]),
            evict,
        }])
        .unwrap();
    assert_eq!(store.recovered().classes.len(), 1);
    let joined = floor("a", 3, &[(1, 5), (2, 3), (3, 1), (9, 9)]);
    assert_eq!(store.floors().unwrap(), std::slice::from_ref(&joined));
    store
        .commit(&[
            Write::JoinFloor {
                floor: floor("a", 3, &[(1, 1)]),
                evict: Vec::new(),
            },
            Write::JoinFloor {
                floor: floor("a", 256, &[(1, 1)]),
                evict: Vec::new(),
            },
        ])
        .unwrap();
    assert_eq!(
        store.floors().unwrap(),
        [joined, floor("a", 256, &[(1, 1)])]
    );
}

fn progress_never_goes_back_and_recovery_extends_it(store: &impl Inspect) {
    let progress = |number, lane, watermark| Write::Progress {
        origin: origin(number),
        lane,
        watermark,
    };
    let mut writes = vec![
        progress(1, Lane::Bump, 5),
        progress(1, Lane::Bump, 3),
        progress(1, Lane::Directory, 2),
    ];
    for sequence in [4, 5, 6, 7, 9, 10, 12] {
        writes.push(log(1, sequence, bump(&["a"])));
    }
    for sequence in [2, 3] {
        writes.push(log(2, sequence, bump(&["a"])));
    }
    store.commit(&writes).unwrap();
    let lane = |number, lane, watermark, above: &[(u64, u64)]| RecoveredProgress {
        origin: origin(number),
        lane,
        watermark,
        above: above.to_vec(),
    };
    assert_eq!(
        store.recovered().progress,
        [
            lane(1, Lane::Bump, 7, &[(9, 10), (12, 12)]),
            lane(1, Lane::Directory, 2, &[]),
            lane(2, Lane::Bump, 0, &[(2, 3)]),
        ]
    );
    store
        .commit(&[log(2, 1, bump(&["a"])), log(1, 8, bump(&["a"]))])
        .unwrap();
    assert_eq!(
        store.recovered().progress,
        [
            lane(1, Lane::Bump, 10, &[(12, 12)]),
            lane(1, Lane::Directory, 2, &[]),
            lane(2, Lane::Bump, 3, &[]),
        ]
    );
}

fn the_log_reads_consecutively(store: &impl Inspect) {
    let event = |sequence: u64| bump(&[&format!("a/{sequence}")]);
    let mut writes: Vec<_> = [3, 4, 5, 6, 8].map(|s| log(1, s, event(s))).into();
    writes.push(log(2, 7, event(7)));
    writes.push(log(1, 3, batch(vec![registration("x", &["a"], 1)])));
    // The same one again changes nothing.
    writes.push(log(1, 4, event(4)));
    store.commit(&writes).unwrap();
    store.commit(&[log(1, 5, event(5))]).unwrap();
    let read = |first, last, bytes| match store
        .read_log(origin(1), Lane::Bump, first, last, bytes)
        .unwrap()
    {
        LogRead::Compacted => None,
        LogRead::Events(events) => {
            for (sequence, found) in &events {
                assert_eq!(*found, event(*sequence));
            }
            Some(events.into_iter().map(|(s, _)| s).collect::<Vec<_>>())
        }
    };
    assert_eq!(read(3, 100, usize::MAX), Some(vec![3, 4, 5, 6]));
    assert_eq!(read(4, 5, usize::MAX), Some(vec![4, 5]));
    assert_eq!(read(4, 6, 1), Some(vec![4]), "at least one");
    assert_eq!(read(7, 9, 100), None);
    assert_eq!(read(8, u64::MAX, 100), Some(vec![8]));
    assert_eq!(read(9, 9, 100), None);
    assert_eq!(read(5, 4, 100), Some(vec![]));
    let directory = store
        .read_log(origin(1), Lane::Directory, 3, 3, 100)
        .unwrap();
    assert!(matches!(directory, LogRead::Events(events) if events.len() == 1));
}

fn the_log_forgets_the_oldest(store: &impl Inspect) {
    let mut writes = Vec::new();
    for sequence in 1..=1000 {
        writes.push(log(1, sequence, bump(&[&format!("class/{sequence}")])));
        if sequence % 100 == 0 {
            writes.push(log(2, sequence / 100, bump(&["quiet"])));
            store.commit(&writes).unwrap();
            writes.clear();
            store.checked();
        }
    }
    let read = |number, first| {
        store
            .read_log(origin(number), Lane::Bump, first, u64::MAX, usize::MAX)
            .unwrap()
    };
    assert_eq!(read(1, 1), LogRead::Compacted);
    assert!(matches!(read(1, 900), LogRead::Events(events) if events.len() == 101));
    assert!(matches!(read(2, 1), LogRead::Events(events) if events.len() == 10));
}

fn a_large_batch_comes_back_from_the_log(store: &impl Inspect) {
    let long = "y".repeat(240);
    let registrations = (0..3000)
        .map(|index: u32| {
            // No common beginnings: the largest that a batch can be.
            let name = format!(
                "{:08x}{long}",
                index.wrapping_mul(0x9e37_79b9).reverse_bits()
            );
            registration(&name, &["a"], index)
        })
        .collect();
    let event = batch(registrations);
    let small = batch(vec![registration("x", &["a"], 1)]);
    store
        .commit(&[
            log(1, 1, small.clone()),
            log(1, 2, event.clone()),
            log(1, 3, small.clone()),
        ])
        .unwrap();
    store.checked();
    let read = |first, bytes| {
        store
            .read_log(origin(1), Lane::Directory, first, 9, bytes)
            .unwrap()
    };
    // Too large for the log's limit, but the newest stay.
    let whole = LogRead::Events(vec![(2, event), (3, small)]);
    assert_eq!(read(1, 1), LogRead::Compacted);
    if read(2, usize::MAX) != LogRead::Compacted {
        assert_eq!(read(2, usize::MAX), whole);
    }
    assert!(matches!(read(3, 1), LogRead::Events(events) if events.len() == 1));
}

fn members_and_incarnations_are_kept(store: &impl Inspect) {
    let member = |name: &str, number, peer_address: &str| MemberRecord {
        node_id: NodeId::parse(name).unwrap(),
        incarnation: origin(number),
        peer_address: peer_address.to_owned(),
    };
    store
        .commit(&[
            Write::PutMember(member("n2", 2, "[::1]:7400")),
            Write::PutMember(member("n1", 1, "")),
            Write::PutMember(member("n3", 3, "host:1")),
            Write::PutMember(member("n1", 4, "host:2")),
            Write::RemoveMember(NodeId::parse("n3").unwrap()),
            Write::RemoveMember(NodeId::parse("n9").unwrap()),
            Write::OwnIncarnation(origin(9)),
            Write::OwnIncarnation(origin(8)),
            Write::OwnIncarnation(origin(9)),
        ])
        .unwrap();
    let recovered = store.recovered();
    assert_eq!(
        recovered.members,
        [member("n1", 4, "host:2"), member("n2", 2, "[::1]:7400")]
    );
    assert_eq!(recovered.own_incarnations, [origin(8), origin(9)]);
}

fn classes_are_merged_from_versions_and_directory(store: &impl Inspect) {
    store
        .commit(&[
            join("a/1", &[], &[(1, 1)]),
            join("a/2", &["b"], &[(1, 1)]),
            join("b", &[], &[(1, 1)]),
            register(vec![
                registration("x", &["a/1", "a!"], 100),
                registration("y", &["a/1", "a/1/z"], 100),
            ]),
        ])
        .unwrap();
    let expected = [
        ("a/1", 2, true),
        ("a/1/z", 1, false),
        ("a/2", 0, true),
        ("a!", 1, false),
        ("b", 0, true),
    ];
    for limit in 1..7 {
        let mut rows = Vec::new();
        let mut after = None;
        loop {
            let page = store.classes(None, after.as_ref(), limit).unwrap();
            assert!(page.rows.len() <= limit);
            rows.extend(page.rows);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let rows: Vec<_> = rows
            .iter()
            .map(|row| (row.class.as_str(), row.addresses, row.bumped))
            .collect();
        assert_eq!(rows, expected, "in pages of {limit}");
    }
    let below = store.classes(Some(&class("a")), None, 9).unwrap();
    assert_eq!(below.rows.len(), 3);
    assert_eq!(below.next, None);
}

fn snapshots_page_through_everything(store: &impl Inspect) {
    let mut writes = Vec::new();
    let mut registrations = Vec::new();
    for index in 0..500 {
        let class = format!("c/{}", index % 50);
        writes.push(join(&class, &[], &[(1, index + 1)]));
        writes.push(join(&class, &["other"], &[(2, index + 1)]));
        registrations.push(registration(&format!("x{index}"), &[&class], 100));
    }
    writes.push(register(registrations));
    store.commit(&writes).unwrap();
    let mut classes = Vec::new();
    let mut after = None;
    loop {
        let page = store.snapshot_versions(after.as_ref(), 7).unwrap();
        classes.extend(page.rows);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(classes, store.recovered().classes);
    assert_eq!(classes.len(), 50);
    let mut rows = Vec::new();
    let mut after = None;
    loop {
        let page = store.snapshot_directory(after.as_ref(), 33).unwrap();
        rows.extend(page.rows);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(rows.len(), 500);
    assert!(
        rows.is_sorted_by_key(|row| (row.class.sort_key(), row.address.clone())),
        "a stable order"
    );
}

fn foreign_cursors_are_refused(store: &impl Inspect) {
    for bytes in [&b""[..], b"nonsense", &[1, 2, 3], &[0xff; 500]] {
        let cursor = Cursor::from_bytes(bytes);
        let refused = |refused: Result<(), StoreError>| {
            assert!(matches!(refused, Err(StoreError::BadCursor)));
        };
        let a = class("a");
        refused(store.addresses(&a, Some(&cursor), 1).map(|_| ()));
        refused(store.classes(None, Some(&cursor), 1).map(|_| ()));
        refused(store.snapshot_versions(Some(&cursor), 1).map(|_| ()));
        refused(store.snapshot_directory(Some(&cursor), 1).map(|_| ()));
    }
    store.commit(&[register(vec![])]).unwrap();
}
