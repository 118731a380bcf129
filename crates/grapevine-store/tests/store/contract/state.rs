//! Classes, floors, progress, the log, and what a start is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use grapevine_core::id::{Lane, UnixSeconds};
use grapevine_core::names::NodeId;
use grapevine_core::roster::{Ballot, Mark, Record, Retired, View};
use grapevine_core::store::{
    MemberRecord, Recovered, RecoveredClass, RecoveredProgress, Retirement, Write,
};
use grapevine_store::{Cursor, LogRead, StoreError};

use super::Inspect;
use crate::make::*;

pub(crate) fn an_empty_store_answers(store: &impl Inspect) {
    assert_eq!(store.commit(&[]).unwrap(), []);
    assert_eq!(store.registrations(), 0);
    assert_eq!(store.recovered(), Recovered::default());
    assert_eq!(listed(store, "a", 10), []);
    assert_eq!(store.classes(None, None, 10).unwrap().rows, []);
    assert_eq!(store.floors().unwrap(), []);
    let read = store.read_log(origin(1), Lane::Bump, 1, 9, 100).unwrap();
    assert_eq!(read, LogRead::Events(Vec::new()));
    let taken = store.commit(&[take(&["a"])]).unwrap();
    assert!(taken[0].addresses.is_empty());
    store
        .commit(&[Write::Expire {
            now: UnixSeconds(u32::MAX),
            limit: 10,
        }])
        .unwrap();
}

pub(crate) fn a_commit_sees_its_own_writes_in_order(store: &impl Inspect) {
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

pub(crate) fn entries_join_and_floors_swallow(store: &impl Inspect) {
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

pub(crate) fn g1_retired_runs_are_rewritten_and_forgotten(store: &impl Inspect) {
    let join = |path: &str, others: &[&str], entries: &[(u128, u64)]| Write::JoinClass {
        class: class(path),
        others: others.iter().map(|path| class(path)).collect(),
        entries: vector(entries),
    };
    let progress = |number, watermark| Write::Progress {
        origin: origin(number),
        lane: Lane::Bump,
        watermark,
    };
    let many: Vec<_> = (1..301).map(|number| (number, 5)).collect();
    store
        .commit(&[
            Write::OwnIncarnation(origin(1)),
            Write::OwnIncarnation(origin(2)),
            log(1, 1, bump(&["a/1"])),
            log(2, 1, bump(&["a/1"])),
            progress(1, 5),
            progress(2, 5),
            join("a/1", &[], &[(1, 5), (2, 3)]),
            join("a/1", &["b"], &[(1, 7)]),
            join("a/2", &[], &[(1, 4)]),
            join("a/3", &[], &many),
            Write::JoinFloor {
                floor: floor("a", 3, &[(1, 2), (2, 2)]),
                evict: Vec::new(),
            },
        ])
        .unwrap();
    let name = origin(9).as_history().as_retirements();
    let retired = Retired::new((1..301).map(|run| (origin(run), 5, 7)), 0);
    let retired = retired.up_to(7);
    let retired = Retired::new(retired.iter().filter(|(run, ..)| *run != origin(2)), 0);
    let piece = Write::Retire(Box::new(Retirement {
        retired: Arc::new(retired),
        name,
        floors: vec![(class("a"), 3), (class("z"), 0)],
        classes: vec![class("a/1"), class("a/3"), class("z/9")],
    }));
    let image = |entries: &[(u128, u64)]| {
        let mut image = vector(entries);
        image.raise(name, 7);
        image
    };
    // Once more changes nothing.
    for _ in 0..2 {
        let writes = [piece.clone(), Write::ForgetRun(origin(1))];
        store.commit(&writes).unwrap();
        store.checked();
        let recovered = store.recovered();
        let entries: Vec<_> = recovered.classes.iter().map(|it| &it.entries).collect();
        let expected = [image(&[(2, 3)]), vector(&[(1, 4)]), image(&[(2, 5)])];
        assert_eq!(entries, expected.iter().collect::<Vec<_>>());
        let joint = &recovered.classes[0].conjunctions;
        assert_eq!(*joint, [(vec![class("b")], image(&[(1, 7)]))]);
        assert_eq!(recovered.floors[0].vector, image(&[(2, 2)]));
        assert_eq!(recovered.own_incarnations, [origin(2)]);
        let origins: Vec<_> = recovered.progress.iter().map(|it| it.origin).collect();
        assert_eq!(origins, [origin(2)]);
        let read = store.read_log(origin(1), Lane::Bump, 1, 9, 1_000).unwrap();
        assert_eq!(read, LogRead::Events(Vec::new()));
    }
    // Its log may begin anew.
    store.commit(&[log(1, 6, bump(&["a/1"]))]).unwrap();
    store.checked();
}

pub(crate) fn progress_never_goes_back_and_recovery_extends_it(store: &impl Inspect) {
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

pub(crate) fn the_log_reads_consecutively(store: &impl Inspect) {
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
    assert_eq!(read(7, 9, 100), Some(vec![]), "a hole was never there");
    assert_eq!(read(8, u64::MAX, 100), Some(vec![8]));
    assert_eq!(read(9, 9, 100), Some(vec![]));
    assert_eq!(read(1, 9, 100), Some(vec![]));
    assert_eq!(read(5, 4, 100), Some(vec![]));
    let directory = store
        .read_log(origin(1), Lane::Directory, 3, 3, 100)
        .unwrap();
    assert!(matches!(directory, LogRead::Events(events) if events.len() == 1));
}

pub(crate) fn the_log_forgets_the_oldest(store: &impl Inspect) {
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

pub(crate) fn what_was_never_logged_is_told_from_what_was_dropped(store: &impl Inspect) {
    let read = |number, lane, first| {
        store
            .read_log(origin(number), lane, first, u64::MAX, usize::MAX)
            .unwrap()
    };
    let none = LogRead::Events(Vec::new());
    // Applied up to 10 by a snapshot; 12 and 13 arrived since, 11 has not.
    store
        .commit(&[
            Write::Progress {
                origin: origin(1),
                lane: Lane::Bump,
                watermark: 10,
            },
            log(1, 12, bump(&["a"])),
            log(1, 13, bump(&["a"])),
        ])
        .unwrap();
    assert_eq!(read(1, Lane::Bump, 1), LogRead::Compacted);
    assert_eq!(read(1, Lane::Bump, 10), LogRead::Compacted);
    assert_eq!(read(1, Lane::Bump, 11), none);
    assert!(matches!(read(1, Lane::Bump, 12), LogRead::Events(events) if events.len() == 2));
    assert_eq!(read(1, Lane::Bump, 14), none);
    // Neither the lanes nor the origins of a sidecar say anything of each other.
    assert_eq!(read(1, Lane::Directory, 1), none);
    assert_eq!(read(2, Lane::Bump, 1), none);
    let writes: Vec<_> = (1..=500)
        .map(|sequence| log(2, sequence, bump(&[&format!("class/{sequence}")])))
        .collect();
    store.commit(&writes).unwrap();
    assert_eq!(read(2, Lane::Bump, 1), LogRead::Compacted);
    let first = (1..=500)
        .find(|&first| read(2, Lane::Bump, first) != LogRead::Compacted)
        .unwrap();
    assert!(
        matches!(read(2, Lane::Bump, first), LogRead::Events(events) if events.len() as u64 == 501 - first)
    );
    assert_eq!(read(2, Lane::Bump, 501), none, "not there yet");
}

pub(crate) fn a_large_batch_comes_back_from_the_log(store: &impl Inspect) {
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
    let read = |first, bytes| {
        store
            .read_log(origin(1), Lane::Directory, first, 9, bytes)
            .unwrap()
    };
    // Far larger than the log's limit, but the newest event of an origin stays.
    store
        .commit(&[log(1, 1, small.clone()), log(1, 2, event.clone())])
        .unwrap();
    store.checked();
    assert_eq!(read(1, 1), LogRead::Compacted);
    assert_eq!(
        read(2, usize::MAX),
        LogRead::Events(vec![(2, event.clone())])
    );
    assert_eq!(
        read(2, 1),
        LogRead::Events(vec![(2, event)]),
        "at least one"
    );
    store.commit(&[log(1, 3, small.clone())]).unwrap();
    store.checked();
    assert_eq!(read(2, usize::MAX), LogRead::Compacted);
    assert_eq!(read(3, 1), LogRead::Events(vec![(3, small)]));
}

pub(crate) fn members_and_incarnations_are_kept(store: &impl Inspect) {
    let member = |name: &str, number, peer_address: &str| MemberRecord {
        node_id: NodeId::parse(name).unwrap(),
        incarnation: origin(number),
        peer_address: peer_address.to_owned(),
    };
    let record = Record {
        view: View {
            number: 3,
            history: Some(origin(1).as_history()),
            everything: 2,
            spared: true,
            closed: BTreeMap::from([(origin(5), 17)]),
            retired: Retired::new([(origin(3), 8, 2)], 1),
            seats: BTreeMap::from([(NodeId::parse("n1").unwrap(), origin(4))]),
        },
        promised: Some(Ballot {
            round: 4,
            by: origin(4),
        }),
        accepted: None,
        blank: false,
        lent: true,
        left: Mark {
            history: Some(origin(2).as_history()),
            number: 8,
        },
    };
    store
        .commit(&[
            Write::PutMember(member("n2", 2, "[::1]:7400")),
            Write::PutMember(member("n1", 1, "")),
            Write::PutMember(member("n3", 3, "host:1")),
            Write::PutMember(member("n1", 4, "host:2")),
            Write::RemoveMember(NodeId::parse("n3").unwrap()),
            Write::RemoveMember(NodeId::parse("n9").unwrap()),
            Write::Roster(Box::default()),
            Write::Roster(Box::new(record.clone())),
            Write::OwnIncarnation(origin(9)),
            Write::OwnIncarnation(origin(8)),
            Write::OwnIncarnation(origin(9)),
            Write::Dropped {
                run: origin(5),
                whole: 7,
            },
            Write::Dropped {
                run: origin(6),
                whole: 7,
            },
            Write::Dropped {
                run: origin(5),
                whole: 8,
            },
            Write::ForgetRun(origin(6)),
        ])
        .unwrap();
    let recovered = store.recovered();
    assert_eq!(
        recovered.members,
        [member("n1", 4, "host:2"), member("n2", 2, "[::1]:7400")]
    );
    assert_eq!(recovered.own_incarnations, [origin(8), origin(9)]);
    assert_eq!(recovered.dropped, vector(&[(5, 8)]));
    assert_eq!(recovered.roster, Some(record));
}

pub(crate) fn classes_are_merged_from_versions_and_directory(store: &impl Inspect) {
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

pub(crate) fn long_vectors_come_back_and_go(store: &impl Inspect) {
    let long = |sequence: u64| -> Vec<_> { (1..=1000).map(|number| (number, sequence)).collect() };
    let joins = |sequence| {
        [
            join("a/1", &[], &long(sequence)),
            join("a/1", &["b"], &long(sequence)),
            join("a/2", &[], &[(7, sequence)]),
            Write::JoinFloor {
                floor: floor("a", 3, &long(sequence)),
                evict: Vec::new(),
            },
        ]
    };
    store.commit(&joins(1)).unwrap();
    store
        .commit(&[join("a/1", &[], &[(500, 2), (2000, 1)])])
        .unwrap();
    store.checked();
    let mut own = vector(&long(1));
    own.join(&vector(&[(500, 2), (2000, 1)]));
    let page = store.snapshot_versions(None, 9).unwrap();
    assert_eq!(page.rows, store.recovered().classes);
    assert_eq!(page.rows[0].entries, own);
    assert_eq!(
        page.rows[0].conjunctions,
        [(vec![class("b")], vector(&long(1)))]
    );
    assert_eq!(page.rows[1].entries, vector(&[(7, 1)]));
    assert_eq!(store.floors().unwrap(), [floor("a", 3, &long(1))]);
    store
        .commit(&[Write::JoinFloor {
            floor: floor("a", 3, &[(2000, 1)]),
            evict: vec![class("a/1")],
        }])
        .unwrap();
    assert_eq!(store.recovered().classes[0].entries, own, "500 has 2");
    assert_eq!(store.recovered().classes[0].conjunctions, []);
    store
        .commit(&[Write::JoinFloor {
            floor: floor("a", 3, &[(500, 2)]),
            evict: vec![class("a/1")],
        }])
        .unwrap();
    assert_eq!(store.recovered().classes.len(), 1);
    store.checked();
    store.commit(&joins(2)).unwrap();
    assert_eq!(store.recovered().classes[0].entries, vector(&long(2)));
}

pub(crate) fn snapshots_page_through_everything(store: &impl Inspect) {
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

pub(crate) fn foreign_cursors_are_refused(store: &impl Inspect) {
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

pub(crate) fn g8_intents_are_kept_until_they_are_removed(store: &impl Inspect) {
    let names = |store: &dyn Fn() -> Recovered| -> Vec<(u64, usize)> {
        let intents = store().intents;
        let name =
            |intent: &grapevine_core::intent::Intent| (intent.id.number, intent.owed.weight());
        intents.iter().map(name).collect()
    };
    let recovered = || store.recovered();
    let many: Vec<_> = (0..1_000).map(|n| format!("a/{n:0190}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let id = |number| intent_id_of(1, number);
    store
        .commit(&[
            put_intent(id(3), &["a", "b/c"], 7),
            put_intent(id(1), &many, 100),
            put_intent(id(2), &["c"], 100),
            Write::RemoveIntent(id(9)),
        ])
        .unwrap();
    store.checked();
    assert_eq!(names(&recovered), [(1, 1_000), (2, 1), (3, 2)]);
    // In one commit with what takes its place: the last word counts.
    let shorter = put_intent(id(1), &["a"], 100);
    store
        .commit(&[
            Write::RemoveIntent(id(2)),
            shorter,
            put_intent(id(4), &many, 1),
            Write::RemoveIntent(id(4)),
        ])
        .unwrap();
    store.checked();
    assert_eq!(names(&recovered), [(1, 1), (3, 2)]);
    let Write::PutIntent(expected) = put_intent(id(3), &["a", "b/c"], 7) else {
        unreachable!("made just now");
    };
    assert_eq!(store.recovered().intents[1], expected, "to the last bit");
}
