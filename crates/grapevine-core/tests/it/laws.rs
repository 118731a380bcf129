//! The laws of merging: knowledge that meets by any route, in any order, any number of times, is the same knowledge.

use grapevine_core::event::{Bump, Floor, Match, PurgeMode};
use grapevine_core::id::{EventId, Incarnation};
use grapevine_core::names::ClassPath;
use grapevine_core::store::RecoveredClass;
use grapevine_core::token::Token;
use grapevine_core::vector::VersionVector;
use grapevine_core::versions::{Versions, bucket_of};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use crate::world::{class, classes};

fn incarnation(number: u128) -> Incarnation {
    Incarnation::new(number).unwrap()
}

fn vectors() -> impl Strategy<Value = VersionVector> {
    vec((1_u128..6, 0_u64..5), 0..6).prop_map(|entries| {
        let entries = entries.into_iter();
        entries
            .map(|(origin, sequence)| (incarnation(origin), sequence))
            .collect()
    })
}

fn joined(one: &VersionVector, other: &VersionVector) -> VersionVector {
    let mut joined = one.clone();
    joined.join(other);
    joined
}

fn met(one: &VersionVector, other: &VersionVector) -> VersionVector {
    let mut met = one.clone();
    met.meet(other);
    met
}

/// A piece of knowledge, as it may arrive: an event, or a part of a snapshot.
#[derive(Clone, Debug)]
enum Piece {
    Bump(EventId, Bump),
    Floor(EventId, Floor),
    Class(RecoveredClass),
}

const PATHS: [&str; 6] = ["p", "p/1", "p/2", "p/1/x", "q", "q/1"];

fn paths() -> impl Strategy<Value = ClassPath> {
    (0..PATHS.len()).prop_map(|at| class(PATHS[at]))
}

fn pieces() -> impl Strategy<Value = Piece> {
    let ids = (1_u128..4, 1_u64..6).prop_map(|(origin, sequence)| EventId {
        origin: incarnation(origin),
        sequence,
    });
    let bump = (ids.clone(), vec(paths(), 1..3), any::<bool>()).prop_map(|(id, named, all)| {
        let mut named = named;
        named.sort_unstable();
        named.dedup();
        let matching = if all && named.len() > 1 {
            Match::All
        } else {
            Match::Any
        };
        let purge = PurgeMode::Hard;
        Piece::Bump(
            id,
            Bump {
                classes: named,
                matching,
                purge,
            },
        )
    });
    let floor = (ids, paths(), vectors()).prop_map(|(id, path, vector)| {
        let (top, bucket) = (class(path.top()), bucket_of(path.as_str()));
        Piece::Floor(
            id,
            Floor {
                top,
                bucket,
                vector,
            },
        )
    });
    let others = prop_oneof![Just(vec!["q"]), Just(vec!["q/1"]), Just(vec!["q", "q/1"])];
    let state =
        (paths(), vectors(), others, vectors()).prop_map(|(class, entries, others, joint)| {
            let conjunctions = vec![(classes(&others), joint)];
            Piece::Class(RecoveredClass {
                class,
                entries,
                conjunctions,
            })
        });
    prop_oneof![4 => bump, 2 => floor, 1 => state]
}

/// Learns a piece; tells whether any token changed.
fn learn(versions: &mut Versions, piece: &Piece) -> bool {
    match piece {
        Piece::Bump(id, bump) => versions.apply_bump(*id, bump),
        Piece::Floor(id, floor) => versions.apply_floor(*id, floor),
        Piece::Class(state) => versions.join_class(state),
    }
}

/// Who has learned the pieces, one after the other.
fn learned<'a>(pieces: impl IntoIterator<Item = &'a Piece>) -> Versions {
    let mut versions = Versions::new();
    for piece in pieces {
        learn(&mut versions, piece);
    }
    versions
}

/// The tokens of one address per set of up to two classes.
fn tokens(versions: &Versions) -> Vec<Token> {
    let mut tokens = Vec::new();
    for one in PATHS {
        for other in PATHS {
            tokens.push(versions.token(&classes(&[one, other]), None));
        }
    }
    tokens
}

proptest! {
    #![proptest_config(crate::config(512))]

    #[test]
    fn joining_vectors_is_associative_commutative_and_idempotent(a in vectors(), b in vectors(), c in vectors()) {
        prop_assert_eq!(joined(&a, &b), joined(&b, &a));
        prop_assert_eq!(joined(&joined(&a, &b), &c), joined(&a, &joined(&b, &c)));
        prop_assert_eq!(joined(&a, &a), a.clone());
        prop_assert!(joined(&a, &b).dominates(&a));
        let mut changed = a.clone();
        prop_assert_eq!(changed.join(&b), !a.dominates(&b));
    }

    #[test]
    fn the_pointwise_minimum_is_the_largest_vector_below_both(a in vectors(), b in vectors(), c in vectors()) {
        let met_ab = met(&a, &b);
        prop_assert_eq!(&met_ab, &met(&b, &a));
        prop_assert!(a.dominates(&met_ab) && b.dominates(&met_ab));
        prop_assert!(!(a.dominates(&c) && b.dominates(&c)) || met_ab.dominates(&c));
        prop_assert_eq!(joined(&a, &met_ab), a);
    }

    #[test]
    fn g12_knowledge_in_any_order_and_any_number_of_times_gives_the_same_tokens(
        known in vec(pieces(), 1..12),
        order in vec(any::<u16>(), 24),
    ) {
        let forward = learned(&known);
        let mut shuffled: Vec<_> = known.iter().chain(&known).zip(order.iter().cycle()).collect();
        shuffled.sort_by_key(|(_, key)| **key);
        let other = learned(shuffled.into_iter().map(|(piece, _)| piece));
        prop_assert_eq!(tokens(&forward), tokens(&other));
    }

    #[test]
    fn g12_knowing_already_changes_nothing_and_says_so(known in vec(pieces(), 1..12)) {
        let mut versions = learned(&known);
        let (before, stamp) = (tokens(&versions), versions.stamp());
        for piece in &known {
            prop_assert!(!learn(&mut versions, piece), "{piece:?}");
        }
        prop_assert_eq!(tokens(&versions), before);
        for path in PATHS {
            prop_assert!(!versions.changed_since(&[class(path)], stamp), "{path} was condemned for nothing");
        }
    }

    #[test]
    fn g3_a_fill_is_condemned_when_its_token_changes_and_not_otherwise(
        known in vec(pieces(), 0..10),
        news in pieces(),
    ) {
        for one in PATHS {
            for other in PATHS {
                let of = classes(&[one, other]);
                let mut versions = learned(&known);
                let (token, stamp) = (versions.token(&of, None), versions.stamp());
                learn(&mut versions, &news);
                let (changed, condemned) = (versions.token(&of, None) != token, versions.changed_since(&of, stamp));
                prop_assert!(condemned || !changed, "{of:?} changed its token and not its stamp: {news:?}");
                // A floor may say of one class what its entries said already: it condemns the bucket all the same.
                let floor = matches!(news, Piece::Floor(..));
                prop_assert!(changed || !condemned || floor, "{of:?} is condemned for nothing: {news:?}");
            }
        }
    }
}
