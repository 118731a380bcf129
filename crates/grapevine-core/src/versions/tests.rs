#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::event::PurgeMode;

fn class(path: &str) -> ClassPath {
    ClassPath::parse(path).unwrap()
}

fn id(origin: u128, sequence: u64) -> EventId {
    let origin = Incarnation::new(origin).unwrap();
    EventId { origin, sequence }
}

fn bump(paths: &[&str], matching: Match) -> Bump {
    Bump {
        classes: paths.iter().map(|path| class(path)).collect(),
        matching,
        purge: PurgeMode::Hard,
    }
}

/// Another sidecar's floor is late, and so is a conjunction of the class that it swallowed.
#[test]
fn g2_a_late_conjunction_does_not_bring_a_superseded_token_back() {
    let of = [class("p/1"), class("q/1")];
    let mut elsewhere = Versions::new();
    elsewhere.apply_bump(id(1, 1), &bump(&["p/1", "q/1"], Match::All));
    elsewhere.apply_bump(id(1, 2), &bump(&["p/1"], Match::Any));
    let floor = elsewhere.eviction(id(2, 1), &class("p"), bucket_of("p/1"));

    let mut versions = Versions::new();
    versions.apply_bump(id(2, 2), &bump(&["p/1"], Match::Any));
    versions.apply_bump(id(1, 2), &bump(&["p/1"], Match::Any));
    let first = versions.token(&of, None);
    let stamp = versions.stamp();
    versions.apply_bump(id(1, 1), &bump(&["p/1", "q/1"], Match::All));
    let second = versions.token(&of, None);
    assert_eq!(
        versions.changed_since(&of, stamp),
        second != first,
        "a stamp and its token tell the same"
    );
    versions.apply_floor(id(2, 1), &floor);
    let third = versions.token(&of, None);
    assert!(
        third != first || second == first,
        "the first token was superseded and came back"
    );
}

#[test]
fn g12_a_conjunction_counts_the_same_before_and_after_a_bump_of_its_anchor() {
    let of = [class("p/1"), class("q/1")];
    let joint = |sequence| (id(1, sequence), bump(&["p/1", "q/1"], Match::All));
    let events = [joint(1), (id(1, 2), bump(&["p/1"], Match::Any)), joint(3)];
    let tokens: Vec<_> = [[0, 1, 2], [1, 0, 2], [2, 1, 0], [1, 2, 0]]
        .iter()
        .map(|order| {
            let mut versions = Versions::new();
            for at in order {
                let (id, bump) = &events[*at];
                versions.apply_bump(*id, bump);
            }
            versions.token(&of, None)
        })
        .collect();
    assert!(tokens.iter().all(|token| *token == tokens[0]), "{tokens:?}");
}

#[test]
fn g3_a_conjunction_concerns_only_addresses_in_all_of_its_classes() {
    let mut versions = Versions::new();
    let stamp = versions.stamp();
    versions.apply_bump(id(1, 1), &bump(&["p/1", "q"], Match::All));
    let concerned = |paths: &[&str]| {
        let classes: Vec<_> = paths.iter().map(|path| class(path)).collect();
        versions.changed_since(&classes, stamp)
    };
    assert!(concerned(&["p/1", "q/7"]) && concerned(&["p/1/x", "q"]));
    assert!(!concerned(&["p/1"]) && !concerned(&["q/7"]) && !concerned(&["p/2", "q/7"]));
}

/// Of a change of rows one sidecar, which did not know their shape when it applied it, knows the shape's class only; another has it at
/// the class of the values, too. What is told above is not told again below, however deep.
#[test]
fn g12_what_the_class_of_a_shape_tells_makes_no_difference_below_it() {
    let values = ["t/:a,b/1", "t/:a,b/1/2"];
    let coarse = bump(&["t/:a,b"], Match::Any);
    let fine = |value| bump(&["t/:a,b", value], Match::Any);
    // Two runs, so that there is something to join.
    let tokens = |events: &[(EventId, Bump)], of: &str| {
        let mut versions = Versions::new();
        for (id, bump) in events {
            versions.apply_bump(*id, bump);
        }
        versions.token(&[class(of)], None)
    };
    for value in values {
        let without = [(id(1, 1), coarse.clone()), (id(2, 1), coarse.clone())];
        let with = [(id(1, 1), fine(value)), (id(2, 1), coarse.clone())];
        let both = [(id(1, 1), fine(value)), (id(2, 1), fine(value))];
        let expected = tokens(&without, value);
        assert_eq!(tokens(&with, value), expected, "{value}");
        assert_eq!(tokens(&both, value), expected, "{value}");
        // What the class of the values alone had counts, on the other hand.
        let alone = (id(1, 2), bump(&[value], Match::Any));
        for events in [without, with, both] {
            let events = [&events[..], std::slice::from_ref(&alone)].concat();
            assert_ne!(tokens(&events, value), expected, "{value}");
        }
    }
    // A class of applications that stands where a shape's would tells nothing of those below it.
    let of = |paths: &[&str]| tokens(&[(id(1, 1), bump(paths, Match::Any))], "t/a,b/1");
    assert_ne!(of(&["t/a,b"]), of(&["t/a,b", "t/a,b/1"]));
}

#[test]
fn g10_an_eviction_reaches_no_class_of_another_top_level_class() {
    let mut versions = Versions::new();
    for number in 0..1_000 {
        let top = if number % 10 == 0 { "calm" } else { "busy" };
        versions.apply_bump(
            id(1, number + 1),
            &bump(&[&format!("{top}/{number}")], Match::Any),
        );
    }
    let calm: Vec<_> = (0..1_000)
        .step_by(10)
        .map(|number| class(&format!("calm/{number}")))
        .collect();
    let before: Vec<_> = calm
        .iter()
        .map(|class| versions.token(std::slice::from_ref(class), None))
        .collect();
    let mut sequence = 1_000;
    for (top, bucket) in versions.overfull(500, 10_000) {
        assert_eq!(top, class("busy"));
        sequence += 1;
        let floor = versions.eviction(id(1, sequence), &top, bucket);
        versions.apply_floor(id(1, sequence), &floor);
    }
    assert!(versions.overfull(500, 10_000).is_empty(), "in one go");
    assert!(versions.len() <= 500 + calm.len() + 2);
    let after: Vec<_> = calm
        .iter()
        .map(|class| versions.token(std::slice::from_ref(class), None))
        .collect();
    assert_eq!(before, after);
}

#[test]
fn g10_when_all_together_are_too_many_who_grew_pays_and_not_the_largest() {
    let mut versions = Versions::new();
    let fill = |versions: &mut Versions, top: &str, first: u64, count: u64| {
        for number in first..first + count {
            let bump = bump(&[&format!("{top}/{number}")], Match::Any);
            versions.apply_bump(id(1, number), &bump);
        }
    };
    fill(&mut versions, "large", 1, 500);
    assert!(versions.overfull(600, 900).is_empty());
    fill(&mut versions, "busy", 1_000, 450);
    let evicted = versions.overfull(600, 900);
    assert!(!evicted.is_empty());
    assert!(evicted.iter().all(|(top, _)| *top == class("busy")));
}

/// `cargo test --release -p grapevine-core --lib -- --ignored --nocapture measure`: what it costs to judge a registration
/// of three classes, three levels deep, in buckets whose floors know thirty-two sidecars.
#[test]
#[ignore = "a measurement, not a check"]
fn measure_judging_a_remote_registration() {
    const ROUNDS: u32 = 200_000;
    let mut versions = Versions::new();
    let known: VersionVector = (1..=32)
        .map(|origin| (id(origin, 1).origin, 1_000))
        .collect();
    for top in ["cart", "price", "shop"] {
        versions.apply_bump(id(1, 1), &bump(&[top], Match::Any));
        for bucket in 0..BUCKETS {
            let (top, vector) = (class(top), known.clone());
            let floor = Floor {
                top,
                bucket,
                vector,
            };
            versions.apply_floor(id(1, 1_000), &floor);
        }
    }
    let of = [
        class("cart/13/items"),
        class("price/7/net"),
        class("shop/1/till"),
    ];
    let begun = std::time::Instant::now();
    let late = (0..ROUNDS)
        .filter(|_| versions.exceeds(std::hint::black_box(&of), std::hint::black_box(&known)))
        .count();
    assert_eq!(late, 0);
    eprintln!("{:?} for each registration", begun.elapsed() / ROUNDS);
}
