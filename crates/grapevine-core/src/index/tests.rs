//! Leaves' content against a list that is sorted and cut.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Combine, Found, Member, Members, Place, RowId, SortKey, Window, find};
use crate::versions::Stamp;

fn place(key: u64, id: i64) -> Place {
    Place {
        key: SortKey::Bits(key),
        id: RowId::Number(id),
    }
}

fn member(added: u64, version: u64) -> Member {
    Member {
        added: Stamp(added),
        version,
    }
}

fn find_all(members: &Members, window: &Window) -> Found {
    find(&[members], Combine::Any, window, |_, _, _| true)
}

/// A leaf without versions, and the places in it, in its order.
fn filled(places: &[(u64, i64)], descending: bool) -> (Members, Vec<Place>) {
    let mut members = Members::new(descending);
    let mut all: Vec<_> = places.iter().map(|(key, id)| place(*key, *id)).collect();
    for place in &all {
        members.add(place.clone(), member(1, 0));
    }
    all.sort();
    all.dedup();
    if descending {
        all.reverse();
    }
    (members, all)
}

fn places() -> impl Strategy<Value = Vec<(u64, i64)>> {
    prop::collection::vec((1..7_u64, 0..5_i64), 0..25)
}

proptest! {
    #[test]
    fn g9_a_window_is_what_a_sorted_list_has_there(
        places in places(),
        descending: bool,
        (after, least, most) in (prop::option::of((1..7_u64, 0..5_i64)), prop::option::of(1..7_u64), prop::option::of(1..7_u64)),
        (offset, limit, known) in (0..4_usize, 1..6_usize, prop::option::of(1..20_usize)),
    ) {
        let (mut members, mut all) = filled(&places, descending);
        let mut whole = true;
        if let Some(known) = known && known < all.len() {
            members.keep(known);
            all.truncate(known);
            whole = false;
        }
        let window = Window {
            after: after.map(|(key, id)| place(key, id)),
            offset,
            limit,
            least: least.map(SortKey::Bits),
            most: most.map(SortKey::Bits),
        };
        let behind = |one: &Place, other: &Place| if descending { one < other } else { one > other };
        let within: Vec<_> = all
            .iter()
            .filter(|place| window.after.as_ref().is_none_or(|after| behind(place, after)))
            .filter(|place| window.least.as_ref().is_none_or(|least| place.key >= *least))
            .filter(|place| window.most.as_ref().is_none_or(|most| place.key <= *most))
            .cloned()
            .collect();
        let expected: Vec<_> = within.iter().skip(offset).take(limit).cloned().collect();
        let found = find_all(&members, &window);
        let listed: Vec<_> = found.members.into_iter().map(|(place, _)| place).collect();
        prop_assert_eq!(&listed, &expected);
        let more = within.len() > offset + limit;
        if whole {
            prop_assert!(found.whole);
            prop_assert_eq!(found.more, more);
        } else {
            // It never answers beyond what is known.
            let last = all.last().unwrap();
            let end = if descending { window.least } else { window.most };
            let passed = end.is_some_and(|end| if descending { last.key < end } else { last.key > end });
            let empty = least.zip(most).is_some_and(|(least, most)| least > most);
            prop_assert!(!found.whole || listed.len() == limit || passed || empty || listed.is_empty());
            prop_assert!(found.more || !more);
        }
    }

    /// Several leaves read together are the union, or the intersection, of what they have, up to where all of them are known.
    #[test]
    fn g9_several_leaves_are_read_as_one_sorted_list(
        lists in prop::collection::vec((places(), prop::option::of(1..20_usize)), 1..4),
        (descending, together) in any::<(bool, bool)>(),
        (after, least) in (prop::option::of((1..7_u64, 0..5_i64)), prop::option::of(1..7_u64)),
        (offset, limit, hidden) in (0..4_usize, 1..6_usize, 0..3_usize),
    ) {
        let combine = if together { Combine::All } else { Combine::Any };
        let behind = |one: &Place, other: &Place| if descending { one < other } else { one > other };
        let mut end: Option<Place> = None;
        let mut leaves = Vec::new();
        let mut expected: Option<std::collections::BTreeSet<Place>> = None;
        for (places, known) in lists {
            let (mut members, all) = filled(&places, descending);
            if let Some(known) = known && known < all.len() {
                members.keep(known);
                let last = all[known - 1].clone();
                end = Some(match end {
                    Some(end) if behind(&last, &end) => end,
                    _ => last,
                });
            }
            let all = all.into_iter().collect();
            expected = Some(match expected {
                None => all,
                Some(others) if together => others.intersection(&all).cloned().collect(),
                Some(others) => others.union(&all).cloned().collect(),
            });
            leaves.push(members);
        }
        let window = Window {
            after: after.map(|(key, id)| place(key, id)),
            offset,
            limit,
            least: least.map(SortKey::Bits),
            most: None,
        };
        let mut expected: Vec<_> = expected.unwrap().into_iter().collect();
        if descending {
            expected.reverse();
        }
        expected.retain(|place| {
            window.after.as_ref().is_none_or(|after| behind(place, after))
                && window.least.as_ref().is_none_or(|least| place.key >= *least)
        });
        let all = expected.iter().skip(offset).count();
        expected.retain(|place| end.as_ref().is_none_or(|end| !behind(place, end)));
        let expected: Vec<_> = expected.into_iter().skip(offset).take(limit).collect();
        let leaves: Vec<_> = leaves.iter().collect();
        // One that a filter leaves out in one of the leaves is in the union if another one has it, and not in the intersection.
        let kept = |number: usize, place: &Place| !(place.id.to_string().len() + number + hidden).is_multiple_of(3) || hidden == 0;
        let has = |place: &Place| {
            let mut those = leaves.iter().enumerate().filter(|(_, leaf)| leaf.get(place).is_some());
            if together { those.all(|(number, _)| kept(number, place)) } else { those.any(|(number, _)| kept(number, place)) }
        };
        if hidden > 0 {
            let windows = Window { limit: 1_000, offset: 0, ..window.clone() };
            let all = find(&leaves, combine, &windows, |_, _, _| true);
            let filtered = find(&leaves, combine, &windows, |number, place, _| kept(number, place));
            let expected: Vec<_> = all.members.iter().map(|(place, _)| place.clone()).filter(has).collect();
            let listed: Vec<_> = filtered.members.iter().map(|(place, _)| place.clone()).collect();
            prop_assert_eq!(listed.len() + filtered.filtered, all.members.len());
            prop_assert_eq!(listed, expected);
        }
        let found = find(&leaves, combine, &window, |_, _, _| true);
        let listed: Vec<_> = found.members.into_iter().map(|(place, _)| place).collect();
        prop_assert_eq!(&listed, &expected);
        prop_assert!(found.more || all <= limit);
        prop_assert!(end.is_some() || found.whole && found.more == (all > limit));
        // What is called whole lacks nothing.
        prop_assert!(!found.whole || listed.len() == limit.min(all));
    }

    /// Pages by cursor are the whole list, though members come and go elsewhere.
    #[test]
    fn g9_cursors_miss_nothing_that_stays(
        places in places(),
        others in places(),
        descending: bool,
        limit in 1..5_usize,
    ) {
        let (mut members, all) = filled(&places, descending);
        let mut seen = Vec::new();
        let mut after = None;
        for (round, other) in others.iter().cycle().take(60).enumerate() {
            let window = Window { after: after.clone(), limit, ..Window::default() };
            let found = find_all(&members, &window);
            seen.extend(found.members.iter().map(|(place, _)| place.clone()));
            let Some((last, _)) = found.members.last() else { break };
            after = Some(last.clone());
            let other = place(other.0, 100 + other.1);
            if round % 2 == 0 {
                members.add(other, member(2, 0));
            } else {
                members.remove(&other, Stamp(9));
            }
        }
        if !others.is_empty() {
            seen.retain(|place| all.contains(place));
            prop_assert_eq!(seen, all);
        }
    }

    /// Of the versions of a row the newest one counts, in whatever order they come.
    #[test]
    fn g9_the_newest_version_of_a_row_counts(
        rows in prop::collection::vec((0..6_u64, 0..3_i64), 1..12),
        order in prop::collection::vec(any::<prop::sample::Index>(), 12),
    ) {
        let mut told: Vec<_> = rows.iter().zip(1..).map(|((key, id), version)| (*key, *id, version)).collect();
        let mut newest = BTreeMap::new();
        for (key, id, _) in &told {
            newest.insert(*id, *key);
        }
        let mut members = Members::new(false);
        for index in order {
            if told.is_empty() {
                break;
            }
            let (key, id, version) = told.remove(index.index(told.len()));
            members.add(place(key, id), member(version, version));
        }
        let window = Window { limit: 100, ..Window::default() };
        let found = find_all(&members, &window);
        let listed: BTreeMap<_, _> = found
            .members
            .into_iter()
            .map(|(place, _)| (place.id, place.key))
            .collect();
        let newest: BTreeMap<_, _> = newest
            .into_iter()
            .map(|(id, key)| (RowId::Number(id), SortKey::Bits(key)))
            .collect();
        prop_assert_eq!(members.len(), newest.len());
        prop_assert_eq!(listed, newest);
    }
}

#[test]
fn g9_a_prune_removes_what_was_there_when_it_was_read() {
    let mut members = Members::new(false);
    let one = place(1, 1);
    members.add(one.clone(), member(3, 0));
    assert!(!members.remove(&one, Stamp(2)), "it was added since");
    members.add(one.clone(), member(5, 0));
    assert!(!members.remove(&one, Stamp(4)), "it was added again");
    assert!(members.remove(&one, Stamp(5)));
    assert!(!members.remove(&one, Stamp(9)), "it is gone");
    // A row that left in a version takes older ones along, and no newer one.
    members.add(one.clone(), member(6, 2));
    members.retire(&one.id, 2);
    assert_eq!(members.len(), 1);
    members.retire(&one.id, 3);
    assert!(members.is_empty());
}

/// Of a member that was loaded without its version nobody knows which of its changes it has seen.
#[test]
fn g9_a_row_of_unknown_version_is_not_retired_by_an_older_change() {
    let mut members = Members::new(false);
    let one = place(1, 1);
    members.add(one.clone(), member(1, 0));
    members.add(one.clone(), member(2, 6));
    members.retire(&one.id, 7);
    assert_eq!(members.len(), 1, "it may have come back in version 8");
    let mut members = Members::new(false);
    members.add(one.clone(), member(1, 6));
    members.add(one.clone(), member(2, 0));
    members.retire(&one.id, 7);
    assert_eq!(members.len(), 1);
}

#[test]
fn g9_null_lies_in_no_range() {
    let null = |nulls_high| Place {
        key: SortKey::of(&crate::criteria::Value::Null, nulls_high),
        id: RowId::Number(1),
    };
    for descending in [false, true] {
        let mut members = Members::new(descending);
        for place in [null(false), null(true), place(1 << 63, 2)] {
            members.add(place, member(1, 0));
        }
        let found = |least: Option<u64>, most: Option<u64>| {
            let window = Window {
                limit: 9,
                least: least.map(SortKey::Bits),
                most: most.map(SortKey::Bits),
                ..Window::default()
            };
            find_all(&members, &window).members.len()
        };
        assert_eq!(found(None, None), 3);
        assert_eq!(found(Some(5), None), 1);
        assert_eq!(found(None, Some(u64::MAX)), 1);
    }
}

#[test]
fn g9_what_is_left_out_in_great_number_ends_a_page_and_not_the_list() {
    let mut members = Members::new(false);
    for id in 0..10_200 {
        members.add(place(1, id), member(1, 0));
    }
    let window = Window {
        limit: 100,
        ..Window::default()
    };
    let hidden = 100..10_100;
    let keep = |place: &Place, _| !matches!(place.id, RowId::Number(id) if hidden.contains(&id));
    let found = find(&[&members], Combine::Any, &window, |_, place, member| {
        keep(place, member)
    });
    assert_eq!((found.members.len(), found.more), (100, true));
}

/// Of rows that are equal in the order a database may take other ones first than the sidecar would, where ids are texts.
#[test]
fn g9_first_rows_by_texts_end_before_the_last_ones_that_are_equal() {
    let text = |key: u64, id: &str| Place {
        key: SortKey::Bits(key),
        id: RowId::parse(id).unwrap(),
    };
    let mut members = Members::new(true);
    for (key, id) in [(9, "b"), (8, "a"), (8, "c")] {
        members.add(text(key, id), member(1, 1));
    }
    assert!(members.end_as_told());
    assert_eq!(members.len(), 1);
    // What is told later of those that are not certain is not a part of it.
    members.add(text(8, "d"), member(2, 1));
    assert_eq!(members.len(), 1);
    let mut equal = Members::new(false);
    equal.add(text(8, "a"), member(1, 0));
    assert!(!equal.end_as_told(), "none is certain");
    let (mut numbers, all) = filled(&[(9, 1), (8, 2)], false);
    assert!(numbers.end_as_told());
    assert_eq!(numbers.len(), all.len());
}
