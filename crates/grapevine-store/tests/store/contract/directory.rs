//! Registrations: put in, listed, taken, lapsed.

use grapevine_core::event::Match;
use grapevine_core::id::UnixSeconds;
use grapevine_core::store::Write;
use grapevine_store::Cursor;

use super::Inspect;
use crate::make::*;

pub(crate) fn registrations_are_listed_in_order_and_pages(store: &impl Inspect) {
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

pub(crate) fn a_repeated_registration_keeps_the_later_expiry(store: &impl Inspect) {
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

pub(crate) fn a_large_class_splits_and_comes_back_whole(store: &impl Inspect) {
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

pub(crate) fn a_take_removes_at_and_below(store: &impl Inspect) {
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

pub(crate) fn a_take_of_all_removes_what_is_in_each(store: &impl Inspect) {
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

/// Deletes are tried until then, so it must be the last of them, to the directory's grain.
pub(crate) fn a_take_tells_when_the_last_of_its_values_ends(store: &impl Inspect) {
    let registrations = vec![
        registration("x", &["a"], 6_400),
        registration("y", &["a/1", "b"], 64_000),
        registration("z", &["c"], 640_000),
    ];
    store.commit(&[register(registrations)]).unwrap();
    let ends = |taken: Vec<grapevine_core::store::Taken>| taken[0].expires.0;
    let all = take_as(&["a", "c"], Match::All, false);
    assert_eq!(ends(store.commit(&[all]).unwrap()), 0, "none is in both");
    let taken = ends(store.commit(&[take(&["a"])]).unwrap());
    assert!((64_000..=64_064).contains(&taken), "{taken}");
    assert_eq!(ends(store.commit(&[take(&["a"])]).unwrap()), 0);
    store.checked();
}

pub(crate) fn a_take_can_report_own_addresses_only(store: &impl Inspect) {
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

pub(crate) fn a_take_of_everything_takes_the_whole_directory(store: &impl Inspect) {
    let own = |own, registrations| Write::Register { registrations, own };
    let fill = || {
        let mut registrations = vec![
            registration("x1", &["!", "a/1"], 100),
            registration("x2", &["b", "~"], 100),
        ];
        // Pages on both sides of where the class itself would sort, and classes of several pages.
        for index in 0..1500 {
            let class = format!("c/{}", index % 3);
            registrations.push(registration(&format!("y{index:04}"), &[&class], 100));
        }
        store
            .commit(&[
                own(false, registrations),
                own(true, vec![registration("x1", &["a/1"], 100)]),
            ])
            .unwrap();
        assert_eq!(store.registrations(), 1504);
    };
    let emptied = || {
        assert_eq!(store.registrations(), 0);
        assert_eq!(store.classes(None, None, 9).unwrap().rows, []);
        store.checked();
    };
    for (classes, matching) in [
        (&["*"][..], Match::Any),
        (&["*"], Match::All),
        (&["*", "*"], Match::All),
        (&["a", "*"], Match::Any),
        (&["*", "no-such-class"], Match::Any),
    ] {
        fill();
        let taken = store.commit(&[take_as(classes, matching, false)]).unwrap();
        assert_eq!(taken[0].addresses.len(), 1502, "{classes:?} {matching:?}");
        assert!(taken[0].addresses.is_sorted(), "without repetitions");
        emptied();
    }
    fill();
    let taken = store.commit(&[take_as(&["*"], Match::Any, true)]).unwrap();
    assert_eq!(names(&taken[0]), ["x1"], "own ones alone are told");
    emptied();
    fill();
    // Everything that is also in `a` is what is in `a`; other classes keep it.
    for classes in [&["*", "a"][..], &["a", "*"]] {
        let taken = store
            .commit(&[take_as(classes, Match::All, false)])
            .unwrap();
        let expected: &[&str] = if classes[0] == "*" { &["x1"] } else { &[] };
        assert_eq!(names(&taken[0]), expected);
        assert_eq!(store.registrations(), 1503);
    }
    let taken = store
        .commit(&[take_as(&["*", "b", "~"], Match::All, false)])
        .unwrap();
    assert_eq!(names(&taken[0]), ["x2"]);
    store.commit(&[take(&["*"])]).unwrap();
    emptied();
}

pub(crate) fn unregistering_removes_from_each_class(store: &impl Inspect) {
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

pub(crate) fn lapsed_registrations_leave_and_no_others(store: &impl Inspect) {
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

pub(crate) fn expiry_is_bounded_and_goes_on(store: &impl Inspect) {
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

pub(crate) fn g10_sustained_registrations_with_a_short_ttl_keep_the_directory_bounded(
    store: &impl Inspect,
) {
    const PER_SECOND: u32 = 40;
    const TTL: u32 = 128;
    let mut stopped_with_more_due = 0;
    for second in 0..600_u32 {
        let now = UnixSeconds(100_000 + second);
        let registrations = (0..PER_SECOND)
            .map(|index| {
                let class = format!("c/{}", (second * PER_SECOND + index) % 701);
                let address = format!("x{}", second * PER_SECOND + index);
                // Jitter, as lives have it.
                registration(&address, &[&class], now.0 + TTL + index)
            })
            .collect();
        store.commit(&[register(registrations)]).unwrap();
        if second % 10 != 0 {
            continue;
        }
        // Fewer a call than arrive between two sweeps: only because it goes on while more is due is it enough.
        let mut calls = 0;
        loop {
            store.commit(&[Write::Expire { now, limit: 100 }]).unwrap();
            if !store.expiry_backlog() {
                break;
            }
            stopped_with_more_due += 1;
            calls += 1;
            assert!(calls < 1000, "it ends");
        }
        // What is rounded up to 64 s, and what came since the last sweep, is there at most.
        let bound = u64::from((TTL + PER_SECOND + 64 + 10) * PER_SECOND);
        assert!(
            store.registrations() <= bound,
            "{} after {second} s",
            store.registrations()
        );
    }
    assert!(stopped_with_more_due > 50, "{stopped_with_more_due}");
    store.checked();
    let end = Write::Expire {
        now: UnixSeconds(u32::MAX),
        limit: 1_000_000,
    };
    store.commit(&[end]).unwrap();
    assert!(!store.expiry_backlog());
    assert_eq!(store.registrations(), 0);
}

pub(crate) fn g10_takes_and_registrations_in_turn_leave_nothing_behind(store: &impl Inspect) {
    for round in 0..30_u32 {
        let registrations: Vec<_> = (0..200)
            .map(|index| {
                let class = format!("c/{}", index % 20);
                registration(&format!("x{index}"), &[&class], 1000 + 640 * round)
            })
            .collect();
        let gone = match round % 3 {
            0 => take(&["c"]),
            1 => take(&["*"]),
            _ => Write::Unregister {
                registrations: registrations.clone(),
            },
        };
        store.commit(&[register(registrations)]).unwrap();
        store.checked();
        store.commit(&[gone]).unwrap();
        store.checked();
        assert_eq!(store.registrations(), 0);
    }
    // Nothing is due, however late it is: the index went with what it stood for.
    let late = Write::Expire {
        now: UnixSeconds(u32::MAX),
        limit: 0,
    };
    store.commit(&[late]).unwrap();
    assert!(!store.expiry_backlog());
}

pub(crate) fn an_emptied_class_can_be_used_again(store: &impl Inspect) {
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

pub(crate) fn listings_beside_commits_miss_nothing_that_stays(store: &impl Inspect) {
    let long = "y".repeat(100);
    let stays: Vec<_> = (0..400)
        .map(|index| registration(&format!("{index:03}{long}"), &["a/1", "a/2"], 9_000))
        .collect();
    let goes: Vec<_> = (0..400)
        .map(|index| registration(&format!("{index:03}x{long}"), &["a/1", "a/2"], 9_000))
        .collect();
    store.commit(&[register(stays.clone())]).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Pages split and shrink under the readers.
            for _ in 0..25 {
                for some in goes.chunks(50) {
                    store.commit(&[register(some.to_vec())]).unwrap();
                }
                let registrations = goes.clone();
                store
                    .commit(&[Write::Unregister { registrations }])
                    .unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Release);
        });
        let mut rounds = 0;
        while rounds < 3 || !done.load(std::sync::atomic::Ordering::Acquire) {
            let rows = listed(store, "a", 37 + rounds % 300);
            assert!(
                rows.is_sorted_by(|left, right| (&left.0, &left.1) < (&right.0, &right.1)),
                "in order and nothing twice"
            );
            let found = rows.iter().filter(|row| !row.1.contains('x')).count();
            assert_eq!(found, 2 * stays.len());
            rounds += 1;
        }
    });
    assert_eq!(store.registrations(), 800);
}
