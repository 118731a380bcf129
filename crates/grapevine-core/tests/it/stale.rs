//! Stale while revalidate: what soft bumps replaced may be served for a while, and nothing that a hard one did (G3, G7).

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use grapevine_core::event::{BumpEvent, Match, PurgeMode};
use grapevine_core::id::EventId;
use grapevine_core::machine::effects::{Input, Invalidate, ReceiptLevel, Reply};
use grapevine_core::policy::{Pattern, Policy, PolicySet, Strategy as Kind};
use grapevine_core::token::Token;
use proptest::prelude::*;

use crate::world::{World, classes};

const WINDOW: Duration = Duration::from_secs(5);

fn policies() -> PolicySet {
    let policy = |pattern: &str, strategy, stale_while_revalidate| Policy {
        pattern: Pattern::parse(pattern).unwrap(),
        strategy,
        stale_while_revalidate,
        jitter_percent: 0,
        ..Policy::fallback()
    };
    let list = vec![
        policy("cart/**", Kind::Versioned, WINDOW),
        policy("list/**", Kind::Registered, WINDOW),
        policy("hash/**", Kind::Bucketed(8), WINDOW),
        policy("lapsing/**", Kind::Ttl, WINDOW),
        policy("brief/**", Kind::Versioned, Duration::from_secs(1)),
    ];
    PolicySet::new(list, Policy::fallback()).unwrap()
}

fn world(size: usize) -> World {
    World::running_with(size, |config| config.policies = policies())
}

impl World {
    fn bump(&mut self, at: usize, paths: &[&str], matching: Match, purge: PurgeMode) {
        let ticket = self.ticket();
        let call = Invalidate {
            classes: classes(paths),
            matching,
            purge,
            level: ReceiptLevel::None,
            deadline: self.now.plus(WINDOW),
        };
        self.input(at, Input::Invalidate(ticket, call));
        self.settle();
        let reply = &self.nodes[at].replies[&ticket.0];
        assert!(matches!(reply, Reply::Invalidated { .. }), "{reply:?}");
    }

    fn soft(&mut self, at: usize, path: &str) {
        self.bump(at, &[path], Match::Any, PurgeMode::Soft);
    }

    fn hard(&mut self, at: usize, path: &str) {
        self.bump(at, &[path], Match::Any, PurgeMode::Hard);
    }

    fn stale(&self, at: usize, paths: &[&str]) -> Vec<Token> {
        let resolution = self.resolve(at, "x", paths);
        let tokens: Vec<_> = resolution.stale.iter().map(|stale| stale.token).collect();
        assert!(!tokens.contains(&resolution.token), "stale is not current");
        tokens
    }
}

#[test]
fn g7_after_a_soft_bump_the_value_from_before_may_be_served_for_the_window() {
    let mut world = world(3);
    for class in ["cart/13", "list/13", "hash/13"] {
        let before = world.token(0, &[class]);
        assert_eq!(world.stale(0, &[class]), []);
        world.soft(1, class);
        for at in 0..3 {
            assert_ne!(world.token(at, &[class]), before, "G2");
            assert_eq!(world.stale(at, &[class]), [before]);
        }
        // A versioned value lies where its token says, the others where they always do.
        let resolution = world.resolve(0, "x", &[class]);
        let same = resolution.stale[0].address == resolution.targets[0].address;
        assert_eq!(same, class != "cart/13");
        for _ in 0..52 {
            world.settle();
            world.advance(Duration::from_millis(100));
        }
        assert_eq!(world.stale(0, &[class]), [], "the window is over");
    }
    world.soft(0, "lapsing/1");
    assert_eq!(world.stale(0, &["lapsing/1"]), [], "no bump concerns it");
    world.soft(0, "brief/1");
    assert_eq!(world.stale(0, &["brief/1"]).len(), 1);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.stale(0, &["brief/1"]), [], "its own window is over");
    world.soft(0, "other/1");
    assert_eq!(world.stale(0, &["other/1"]), [], "its policy has none");
}

#[test]
fn g3_retiring_runs_ends_stale_serving_of_what_they_bumped() {
    let mut world = World::running_with(2, |config| {
        config.policies = policies();
        config.limits.old_runs_max = 0;
        config.retire_after = Duration::from_millis(200);
    });
    // A second run without a word here, so that indices of origins change with the first one's.
    world.hard(1, "list/1");
    world.hard(0, "cart/13");
    world.soft(0, "cart/13");
    assert_eq!(world.stale(1, &["cart/13"]).len(), 1);
    let old = world.incarnation(0);
    world.crash(0);
    world.start(0);
    world.connect_all();
    world.converge().unwrap();
    for _ in 0..30 {
        if !world.core(1).progress().knows(old) {
            break;
        }
        world.advance(Duration::from_millis(100));
        world.settle();
    }
    assert!(!world.core(1).progress().knows(old));
    assert_eq!(world.stale(1, &["cart/13"]), [], "the window is not over");
    // Soft bumps of later runs are served as ever.
    let before = world.token(1, &["cart/13"]);
    world.soft(0, "cart/13");
    assert_eq!(world.stale(1, &["cart/13"]), [before]);
}

#[test]
fn g3_a_hard_bump_ends_stale_serving_wherever_it_is() {
    let soft_then = |class: &str, paths: &[&str], matching| {
        let mut world = world(3);
        let before = world.token(0, &["cart/13", "list/1"]);
        world.soft(0, class);
        assert_eq!(world.stale(1, &["cart/13", "list/1"]), [before]);
        world.bump(1, paths, matching, PurgeMode::Hard);
        for at in 0..3 {
            let stale = world.stale(at, &["cart/13", "list/1"]);
            assert!(!stale.contains(&before), "{class}, {paths:?}");
        }
    };
    soft_then("cart/13", &["cart/13"], Match::Any);
    soft_then("cart/13", &["cart"], Match::Any);
    soft_then("cart", &["cart/13"], Match::Any);
    soft_then("cart/13", &["list/1"], Match::Any);
    soft_then("cart/13", &["*"], Match::Any);
    soft_then("*", &["cart/13"], Match::Any);
    soft_then("cart/13", &["cart/13", "list/1"], Match::All);
    soft_then("list/1", &["cart/13", "list/1"], Match::All);
}

#[test]
fn g3_a_conjunction_that_a_soft_bump_covers_is_not_undone() {
    let mut world = world(1);
    let before = world.token(0, &["cart/13", "list/1"]);
    let pair = ["cart/13", "list/1"];
    world.bump(0, &pair, Match::All, PurgeMode::Hard);
    world.soft(0, "cart/13");
    assert!(!world.stale(0, &pair).contains(&before));
}

#[test]
fn g3_a_hard_bump_that_comes_late_ends_stale_serving_too() {
    let mut world = world(2);
    world.hard(0, "cart/1");
    let before = world.token(1, &["cart/13"]);
    // Two events of one run: the second, soft one overtakes the first, hard one.
    let ticket = world.ticket();
    for purge in [PurgeMode::Hard, PurgeMode::Soft] {
        let call = Invalidate {
            classes: classes(&["cart/13"]),
            matching: Match::Any,
            purge,
            level: ReceiptLevel::None,
            deadline: world.now.plus(WINDOW),
        };
        let ticket = match purge {
            PurgeMode::Hard => ticket,
            PurgeMode::Soft => world.ticket(),
        };
        world.input(0, Input::Invalidate(ticket, call));
        world.flush(0);
    }
    world.deliver_nth(0, 1, 1);
    world.settle();
    assert!(!world.stale(1, &["cart/13"]).contains(&before));
    assert_eq!(world.token(0, &["cart/13"]), world.token(1, &["cart/13"]));
}

#[test]
fn g7_of_two_soft_bumps_the_last_and_the_first_are_told() {
    let mut world = world(2);
    let first = world.token(0, &["cart/13"]);
    world.soft(0, "cart/13");
    let second = world.token(0, &["cart/13"]);
    world.advance(Duration::from_secs(2));
    world.soft(1, "cart");
    assert_eq!(world.stale(1, &["cart/13"]), [second, first]);
    world.advance(Duration::from_secs(4));
    world.settle();
    assert_eq!(world.stale(1, &["cart/13"]), [second]);
    for _ in 0..6 {
        world.soft(0, "cart/13");
    }
    assert_eq!(world.stale(0, &["cart/13"]).len(), 2, "never more");
}

#[test]
fn g7_who_cannot_show_that_it_is_fresh_tells_nothing_stale() {
    let mut world = world(3);
    for other in 0..2 {
        world.cut(2, other);
    }
    while !world.resolve(2, "x", &["cart/13"]).bypass {
        world.advance(Duration::from_millis(100));
    }
    let before = world.token(2, &["cart/13"]);
    bump_unsettled(&mut world, 2, &["cart/13"], Match::Any, PurgeMode::Soft);
    world.flush(2);
    assert_ne!(world.token(2, &["cart/13"]), before, "it has applied it");
    assert_eq!(world.stale(2, &["cart/13"]), []);
}

#[test]
fn g11_a_restart_forgets_what_may_be_served_stale() {
    let mut world = world(3);
    world.soft(0, "cart/13");
    assert_eq!(world.stale(2, &["cart/13"]).len(), 1);
    world.crash(2);
    world.start(2);
    world.connect_all();
    world.converge().unwrap();
    assert_eq!(world.stale(2, &["cart/13"]), []);
}

/// What happens in a random history: a node, a class, and whether it is bumped softly, with another one, or time passes.
#[derive(Clone, Debug)]
enum Step {
    Bump(usize, usize, bool),
    Both(usize, bool),
    Deliver(usize, usize, prop::sample::Index),
    Flush(usize),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0..3_usize;
    prop_oneof![
        4 => (node.clone(), 0..4_usize, any::<bool>()).prop_map(|(n, c, s)| Step::Bump(n, c, s)),
        1 => (node.clone(), any::<bool>()).prop_map(|(n, s)| Step::Both(n, s)),
        6 => (node.clone(), node.clone(), any::<prop::sample::Index>())
            .prop_map(|(a, b, i)| Step::Deliver(a, b, i)),
        4 => node.prop_map(Step::Flush),
        1 => (1..2_000_u64).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(crate::config(300))]

    /// In whatever order events arrive: a token from before a hard bump, or from longer ago than the window, is not told as
    /// stale by a node that has applied the bump.
    #[test]
    fn g3_no_order_of_events_lets_a_hard_bump_be_undone(history in prop::collection::vec(step(), 1..80)) {
        const NAMES: [&str; 4] = ["cart/13", "cart", "list/1", "*"];
        let of = ["cart/13", "list/1"];
        let mut world = world(3);
        // Of every node, the tokens that it had before the last hard bump that it applied.
        let mut dead: Vec<BTreeSet<Token>> = vec![BTreeSet::new(); 3];
        let mut had: Vec<BTreeSet<Token>> = vec![BTreeSet::new(); 3];
        let mut seen = [0; 3];
        for step in history {
            let mut all = [world.token(0, &of), world.token(1, &of), world.token(2, &of)];
            for at in 0..3 {
                had[at].insert(all[at]);
            }
            match step {
                Step::Bump(at, class, soft) => {
                    let purge = if soft { PurgeMode::Soft } else { PurgeMode::Hard };
                    bump_unsettled(&mut world, at, &[NAMES[class]], Match::Any, purge);
                }
                Step::Both(at, soft) => {
                    let purge = if soft { PurgeMode::Soft } else { PurgeMode::Hard };
                    bump_unsettled(&mut world, at, &of, Match::All, purge);
                }
                Step::Deliver(from, to, which) => {
                    let count = world.links.get(&(from, to)).map_or(0, VecDeque::len);
                    if count > 0 {
                        world.deliver_nth(from, to, which.index(count));
                    }
                }
                Step::Flush(at) => drop(world.flush(at)),
                Step::Pass(ms) => world.advance(Duration::from_millis(ms)),
            }
            for at in 0..3 {
                let applied = &world.nodes[at].applied;
                let hard = (seen[at]..applied.len()).any(|it| is_hard(applied, it));
                seen[at] = applied.len();
                all[at] = world.token(at, &of);
                if hard {
                    let before = std::mem::take(&mut had[at]);
                    dead[at].extend(before);
                    dead[at].remove(&all[at]);
                }
                if !world.resolve(at, "x", &of).bypass {
                    for token in world.stale(at, &of) {
                        prop_assert!(!dead[at].contains(&token), "node {at}: {token:?}");
                    }
                }
            }
        }
    }
}

/// Whether an applied event is a hard bump, and not one that a later one of the same run and class had overtaken: what is
/// read after that one was applied has seen both commits.
fn is_hard(applied: &[(EventId, BumpEvent)], it: usize) -> bool {
    let (id, BumpEvent::Bump(bump)) = &applied[it] else {
        return false;
    };
    let overtaken = applied[..it].iter().any(|(other, event)| match event {
        BumpEvent::Bump(later) => {
            let same = later.matching == bump.matching && later.classes == bump.classes;
            (same || later.matching == Match::Any && later.classes[0] == bump.classes[0])
                && (other.origin, other.sequence > id.sequence) == (id.origin, true)
        }
        _ => false,
    });
    bump.purge == PurgeMode::Hard && !overtaken
}

fn bump_unsettled(world: &mut World, at: usize, paths: &[&str], matching: Match, purge: PurgeMode) {
    let ticket = world.ticket();
    let call = Invalidate {
        classes: classes(paths),
        matching,
        purge,
        level: ReceiptLevel::None,
        deadline: world.now.plus(WINDOW),
    };
    world.input(at, Input::Invalidate(ticket, call));
}
