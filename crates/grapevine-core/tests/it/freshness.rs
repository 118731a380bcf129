//! G11: absence is not freshness. Who starts, is wiped, is cut off or leaves vouches for nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use grapevine_core::id::Time;
use grapevine_core::machine::effects::{
    Freshness, Input, LeaseClaim, PeerMessage, Side, Span, Verdict,
};
use grapevine_core::policy::{OnUnknown, Policy, PolicySet};

use crate::world::{MAX_STALENESS, World};

fn fresh(world: &World, at: usize) -> bool {
    let fresh = world.core(at).freshness(world.now) == Freshness::Fresh;
    // Who is not fresh and may not serve says so in every answer.
    assert_eq!(world.resolve(at, "x", &["cart/13"]).bypass, !fresh);
    fresh
}

fn strict(config: &mut grapevine_core::machine::CoreConfig) {
    let policy = Policy {
        on_unknown: OnUnknown::Bypass,
        ..Policy::fallback()
    };
    config.policies = PolicySet::new(Vec::new(), policy).unwrap();
}

fn catching_up(world: &World, at: usize) -> bool {
    matches!(
        world.core(at).freshness(world.now),
        Freshness::CatchingUp(_)
    )
}

#[test]
fn g11_a_start_catches_up_with_tokens_that_nobody_else_has() {
    let mut world = World::running_with(3, strict);
    world.invalidate(0, &["cart/13"]);
    world.settle();
    let shared = world.token(0, &["cart/13"]);
    let mut seen = BTreeSet::from([shared]);
    for wiped in [false, true, false] {
        world.crash(2);
        if wiped {
            world.wipe(2);
        }
        world.start(2);
        assert!(catching_up(&world, 2) && !fresh(&world, 2));
        assert!(seen.insert(world.token(2, &["cart/13"])), "an old token");
        world.connect_all();
        world.converge().unwrap();
        assert!(fresh(&world, 2));
        assert_eq!(world.token(2, &["cart/13"]), shared);
    }
}

#[test]
fn g11_nobody_vouches_before_the_heads_of_every_grant_are_applied() {
    let mut world = World::running_with(3, strict);
    world.crash(2);
    world.wipe(2);
    world.invalidate(0, &["cart/13"]);
    world.settle();
    world.start(2);
    world.connect_all();
    // Grants come and go; events do not get through.
    let begin = world.now;
    while world.now.since(begin) < MAX_STALENESS * 3 {
        for from in 0..3 {
            for to in 0..3 {
                let is_event = |message: &PeerMessage| {
                    matches!(
                        message,
                        PeerMessage::Bumps { .. } | PeerMessage::Compacted { .. }
                    )
                };
                if to == 2
                    && let Some(queue) = world.links.get_mut(&(from, to))
                {
                    queue.retain(|message| !is_event(message));
                }
                world.deliver(from, to);
            }
        }
        for at in 0..3 {
            world.flush(at);
        }
        world.advance(Duration::from_millis(10));
        assert!(
            catching_up(&world, 2),
            "without an event that was acknowledged"
        );
        assert!(!fresh(&world, 2));
    }
    world.converge().unwrap();
    assert!(fresh(&world, 2));
}

#[test]
fn g11_a_minority_is_never_fresh() {
    let mut world = World::with(3, |config| {
        strict(config);
        config.member_timeout = Duration::from_secs(25);
    });
    world.start(0);
    world.advance(Duration::from_secs(20));
    world.settle();
    let alone = !fresh(&world, 0) && catching_up(&world, 0);
    assert!(alone, "one of three");
    world.start(1);
    world.connect(0, 1);
    world.converge().unwrap();
    assert!(fresh(&world, 0) && fresh(&world, 1), "two of three");
    let waited = world.now >= Time::from_start(Duration::from_secs(25));
    assert!(waited, "without giving the third its time");
    world.cut(0, 1);
    world.advance(MAX_STALENESS);
    assert!(!fresh(&world, 0) && !fresh(&world, 1));
    assert!(!catching_up(&world, 0), "it has learned all once");
}

/// Two of three would do; but the second has lost its disk, and what it had acknowledged is with the first only.
#[test]
fn g2_g11_a_wiped_node_asks_all_before_it_vouches() {
    let mut world = World::running_with(3, strict);
    world.cut(0, 2);
    world.cut(1, 2);
    let before = world.token(1, &["cart/13"]);
    world.invalidate(0, &["cart/13"]);
    world.settle();
    let after = world.token(1, &["cart/13"]);
    world.crash(1);
    world.wipe(1);
    world.start(1);
    world.connect(1, 2);
    for _ in 0..100 {
        world.settle();
        world.advance(Duration::from_millis(50));
        assert!(!fresh(&world, 1));
        let token = world.token(1, &["cart/13"]);
        assert!(token != before && token != after);
    }
    world.connect_all();
    world.converge().unwrap();
    assert_eq!(world.token(1, &["cart/13"]), after);
}

#[test]
fn g11_a_minority_that_drops_its_members_is_still_one() {
    let mut world = World::running_with(3, |config| {
        strict(config);
        config.member_timeout = Duration::from_secs(5);
    });
    world.cut(0, 1);
    world.cut(0, 2);
    for _ in 0..30 {
        (0..3).for_each(|at| world.input(at, Input::Seen(Vec::new())));
        world.advance(Duration::from_secs(1));
        world.settle();
        assert!(!fresh(&world, 0) || world.now < Time::from_start(Duration::from_secs(3)));
    }
    assert_eq!(
        world.core(0).roster().seats.len(),
        3,
        "it cannot change the roster"
    );
    assert!(
        fresh(&world, 1) && fresh(&world, 2),
        "the others go on without it"
    );
    assert_eq!(world.core(1).roster().seats.len(), 2);
}

/// A member was alone, its disk was copied, others joined it, and the copy is put back: it takes itself for alone again, and
/// goes on. What it bumps then must not pass for a view of the others.
#[test]
fn g12_an_older_disk_of_a_member_that_was_alone_forks_no_history() {
    let mut world = World::running_with(3, strict);
    for at in [0, 1] {
        world.input(at, Input::Drain);
        world.settle();
        world.crash(at);
    }
    assert_eq!(world.core(2).roster().seats.len(), 1);
    let copy = world.nodes[2].disk.clone();
    (0..2).for_each(|at| world.start(at));
    world.connect_all();
    world.converge().unwrap();
    world.crash(2);
    world.nodes[2].disk = copy;
    let before = world.token(0, &["cart/13"]);
    world.start(2);
    world.settle();
    assert!(fresh(&world, 2), "nobody is there to tell it");
    assert_ne!(world.token(2, &["cart/13"]), before, "G2");
    world.connect_all();
    world.converge().unwrap();
    let tokens = (0..3).map(|at| world.token(at, &["cart/13"]));
    let tokens: std::collections::BTreeSet<_> = tokens.collect();
    assert_eq!(tokens.len(), 1);
}

#[test]
fn g11_freshness_ends_when_the_first_grant_is_over_and_begins_when_the_last_is_renewed() {
    let mut world = World::running_with(3, strict);
    world.advance(Duration::from_millis(300));
    world.settle();
    let begin = world.now;
    world.cut(0, 2);
    let mut lost = None;
    while lost.is_none() {
        world.advance(Duration::from_millis(10));
        world.settle();
        lost = (!fresh(&world, 0)).then(|| world.now.since(begin));
    }
    assert!(lost.unwrap() <= MAX_STALENESS);
    world.connect(0, 2);
    world.settle();
    assert!(fresh(&world, 0));
}

#[test]
fn g7_a_grant_counts_from_its_question_however_late_the_answer() {
    let mut world = World::running_with(2, strict);
    world.settle();
    world.advance(MAX_STALENESS / 4);
    let asked = world.now;
    world.deliver_all(1, 0);
    world.advance(Duration::from_millis(300));
    world.deliver_all(0, 1);
    assert!(fresh(&world, 1));
    // Whatever was asked later has no answer yet.
    world.advance(MAX_STALENESS.saturating_sub(world.now.since(asked)));
    assert!(!fresh(&world, 1));
}

#[test]
fn g11_under_a_stream_of_events_grants_still_count() {
    let mut world = World::running_with(2, strict);
    // Every message takes long enough for the next question and the next event to be on their way.
    for round in 0..60 {
        world.invalidate(1, &["cart/13"]);
        world.flush(1);
        world.advance(Duration::from_millis(90));
        if round % 3 == 0 {
            for (from, to) in [(0, 1), (1, 0)] {
                let count = world.links[&(from, to)].len();
                for _ in 2..count {
                    world.deliver(from, to);
                }
                world.flush(to);
            }
        }
        assert!(
            round < 20 || fresh(&world, 0),
            "round {round}: {}",
            world.describe()
        );
    }
}

#[test]
fn g7_serving_while_unknown_counts_from_when_freshness_was_shown_last() {
    let limit = Duration::from_secs(2);
    let mut world = World::running_with(2, |config| {
        let policy = Policy {
            on_unknown: OnUnknown::Serve(limit),
            ..Policy::fallback()
        };
        config.policies = PolicySet::new(Vec::new(), policy).unwrap();
    });
    world.advance(Duration::from_secs(5));
    world.settle();
    world.advance(Duration::from_secs(5));
    world.settle();
    let is_fresh = |world: &World| world.core(0).freshness(world.now) == Freshness::Fresh;
    let bypass = |world: &World| world.resolve(0, "x", &["cart/13"]).bypass;
    assert!(is_fresh(&world));
    world.cut(0, 1);
    while is_fresh(&world) {
        assert!(!bypass(&world));
        world.advance(Duration::from_millis(10));
    }
    let lost = world.now;
    while world.now.since(lost) + Duration::from_millis(20) < limit {
        assert!(
            !bypass(&world),
            "{:?} after freshness was lost",
            world.now.since(lost)
        );
        world.advance(Duration::from_millis(10));
    }
    world.advance(Duration::from_millis(30));
    assert!(bypass(&world));
}

#[test]
fn g7_a_newcomer_that_has_not_granted_yet_does_not_end_serving() {
    let mut world = World::with(3, |config| {
        let policy = Policy {
            on_unknown: OnUnknown::Serve(Duration::from_secs(2)),
            ..Policy::fallback()
        };
        config.policies = PolicySet::new(Vec::new(), policy).unwrap();
        config.member_timeout = Duration::from_secs(2);
    });
    (0..3).for_each(|at| world.start(at));
    world.connect(0, 1);
    for _ in 0..50 {
        world.settle();
        world.advance(Duration::from_millis(200));
    }
    world.settle();
    assert_eq!(world.core(0).freshness(world.now), Freshness::Fresh);
    world.connect(0, 2);
    // Until it has a seat nobody waits for its grant.
    while world.core(0).roster().seats.len() < 3 {
        assert_eq!(world.core(0).freshness(world.now), Freshness::Fresh);
        assert!(world.work(), "it gets no seat");
    }
    assert!(matches!(
        world.core(0).freshness(world.now),
        Freshness::Unknown(_)
    ));
    assert!(!world.resolve(0, "x", &["cart/13"]).bypass);
}

#[test]
fn g11_leases_of_the_catching_up_are_unknown_afterwards() {
    let mut world = World::with(2, |_| {});
    world.start(0);
    let lease = LeaseClaim::Lease(world.resolve(0, "x", &["cart/13"]).lease);
    world.start(1);
    world.connect_all();
    world.converge().unwrap();
    let call = world.register(0, "x", &["cart/13"], lease);
    world.settle();
    assert!(matches!(
        world.verdict(0, call),
        Some(Verdict::Condemned(_))
    ));
}

#[test]
fn g11_one_that_left_is_not_let_in_again_by_stale_gossip() {
    let mut world = World::running_with(3, strict);
    let hello = world.hello(2);
    world.input(2, Input::Drain);
    world.settle();
    world.crash(2);
    let seen = grapevine_core::machine::effects::Sighting {
        hello: hello.clone(),
        alive: true,
    };
    world.input(0, Input::Seen(vec![seen]));
    assert_eq!(world.core(0).members(world.now).len(), 1);
    world.advance(Duration::from_millis(300));
    world.settle();
    assert!(fresh(&world, 0));
    // The next run of that node is welcome.
    world.start(2);
    world.connect_all();
    world.converge().unwrap();
    assert!(fresh(&world, 2));
}

/// Gossip goes on vouching for a stopped process for a while: that is no word from it.
#[test]
fn g7_a_member_s_silence_counts_from_its_own_last_word() {
    let mut world = World::running_with(3, |config| {
        config.member_timeout = Duration::from_secs(10);
    });
    let hello = world.hello(2);
    let see = |world: &mut World, alive: bool| {
        let hello = hello.clone();
        let seen = grapevine_core::machine::effects::Sighting { hello, alive };
        world.input(0, Input::Seen(vec![seen]));
    };
    for _ in 0..8 {
        world.drop_all(2, 0);
        see(&mut world, true);
        world.advance(Duration::from_secs(1));
    }
    let silent = |world: &World| {
        let members = world.core(0).members(world.now);
        let third = members
            .into_iter()
            .find(|member| member.hello == world.hello(2));
        third.map(|member| member.silent)
    };
    assert!(silent(&world).unwrap() >= Duration::from_secs(8));
    // It is given up only when gossip has not vouched for it for as long: also if its own link to here never ends.
    let (peer, side) = (world.incarnation(2), Side::Outbound);
    world.input(0, Input::LinkDown { peer, side });
    world.links.remove(&(0, 2));
    see(&mut world, true);
    see(&mut world, false);
    world.drop_all(2, 0);
    world.advance(Duration::from_secs(9));
    assert!(silent(&world).is_some());
    assert_eq!(world.core(0).roster().seats.len(), 3);
    world.advance(Duration::from_secs(2));
    world.cut(0, 2);
    world.cut(1, 2);
    for _ in 0..10 {
        world.settle();
        world.advance(Duration::from_millis(300));
    }
    assert_eq!(world.core(0).roster().seats.len(), 2);
    assert!(silent(&world).is_none());
}

#[test]
fn g11_a_link_that_flaps_costs_no_freshness() {
    let mut world = World::running_with(3, strict);
    for round in 0..40 {
        world.cut(0, 1);
        world.advance(Duration::from_millis(20));
        world.connect(0, 1);
        world.settle();
        world.advance(Duration::from_millis(20));
        world.settle();
        assert!(fresh(&world, 0) && fresh(&world, 1), "round {round}");
    }
}

#[test]
fn g2_a_sidecar_whose_own_events_are_known_further_than_it_issued_them_stops() {
    let mut world = World::running(2);
    world.invalidate(0, &["cart/13"]);
    world.settle();
    // A copy of its memory from before that event runs on.
    let (from, own) = (world.incarnation(1), world.incarnation(0));
    let head = grapevine_core::progress::OriginHead {
        incarnation: own,
        bump: 7,
        directory: 0,
    };
    let message = PeerMessage::Grant {
        nonce: 0,
        duration: MAX_STALENESS,
        settled: false,
        heads: vec![head],
        span: Span::default(),
        lacked: Vec::new(),
    };
    world.input(0, Input::Peer { from, message });
    assert!(
        world.nodes[0]
            .stopped
            .as_ref()
            .is_some_and(|reason| reason.contains("copied"))
    );
}

#[test]
fn g2_two_runs_under_one_name_do_not_both_stay() {
    let mut world = World::running(3);
    let mut twin = world.hello(2);
    twin.incarnation = grapevine_core::id::Incarnation::new(99).unwrap();
    let error = world
        .core(0)
        .admit_peer(&twin, world.now)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("node id c is in use by incarnation"),
        "{error}"
    );
    let mut own = world.hello(0);
    own.incarnation = twin.incarnation;
    let error = world
        .core(0)
        .admit_peer(&own, world.now)
        .unwrap_err()
        .to_string();
    assert!(error.contains("this sidecar's own"), "{error}");
    // The twin gives up when everybody refuses it for long enough.
    world.nodes[2].core = None;
    world.links.clear();
    let mut alone = World::with(3, |_| {});
    alone.start(0);
    let reason = "node id c is in use";
    for _ in 0..6 {
        alone.input(
            0,
            Input::NodeIdRefused {
                reason: reason.to_owned(),
            },
        );
        alone.advance(Duration::from_secs(2));
    }
    alone.input(
        0,
        Input::NodeIdRefused {
            reason: reason.to_owned(),
        },
    );
    assert_eq!(alone.nodes[0].stopped.as_deref(), Some(reason));
}

/// Lets time pass in small steps; says for how many of them both of the first two were fresh.
fn pass(world: &mut World, steps: u32) -> u32 {
    let mut well = 0;
    for _ in 0..steps {
        world.advance(MAX_STALENESS / 100);
        world.settle();
        well += u32::from(fresh(world, 0) && fresh(world, 1));
    }
    well
}

#[test]
fn g10_a_pair_that_is_well_asks_and_is_asked_once_in_half_of_max_staleness() {
    let mut world = World::running_for_long(2, strict);
    pass(&mut world, 1_000);
    let before = world.probes;
    assert_eq!(pass(&mut world, 1_000), 1_000);
    let probes = world.probes - before;
    assert!((36..=40).contains(&probes), "{probes} in ten max_staleness");
}

#[test]
fn g7_one_lost_message_costs_no_freshness() {
    for nth in 0..16 {
        let mut world = World::running_for_long(2, strict);
        pass(&mut world, 1_000);
        world.loses = Some(nth);
        assert_eq!(pass(&mut world, 300), 300, "without message {nth}");
        assert_eq!(world.loses, None);
    }
}

#[test]
fn g7_a_member_that_answers_late_is_asked_more_often() {
    let mut world = World::running_for_long(2, strict);
    pass(&mut world, 1_000);
    let late = Duration::from_millis(150);
    let before = world.probes;
    for _ in 0..60 {
        world.advance(late);
        for (from, to) in [(0, 1), (1, 0)] {
            // What is said now arrives with the next step.
            let said = world.links[&(from, to)].len();
            for _ in 0..said {
                world.deliver(from, to);
            }
        }
        assert!(fresh(&world, 0) && fresh(&world, 1));
    }
    let probes = world.probes - before;
    assert!(probes >= 50, "{probes} in nine max_staleness");
}

/// Where one answer is late others will be, and one that is late has the sidecar ask often for a while.
#[test]
fn g7_a_member_that_answered_late_once_has_to_be_steady_anew() {
    let mut world = World::running_for_long(2, strict);
    pass(&mut world, 1_000);
    let probes = |world: &mut World| {
        let before = world.probes;
        assert_eq!(pass(world, 200), 200);
        world.probes - before
    };
    let steady = probes(&mut world);
    // Longer than a prompt answer takes.
    world.advance(MAX_STALENESS / 2);
    world.settle();
    for _ in 0..4 {
        world.advance(MAX_STALENESS / 5);
        world.settle();
    }
    let anew = probes(&mut world);
    assert!(anew >= 2 * steady - 2, "{anew}, {steady} before");
    pass(&mut world, 1_000);
    assert!(probes(&mut world) <= steady + 1);
}

#[test]
fn g10_all_members_come_to_be_probed_at_one_moment() {
    let mut world = World::running(20);
    world.settle();
    // Links that are made at different moments.
    for to in 1..20 {
        world.cut(0, to);
        world.advance(Duration::from_millis(7));
        world.connect(0, to);
        world.settle();
    }
    let rest = world.core(0).config().max_staleness;
    for _ in 0..500 {
        world.advance(rest / 50);
        world.settle();
    }
    let mut wakes = 0;
    let begin = world.now;
    while world.now.since(begin) < 2 * rest {
        let next = world.core(0).next_wake(world.now).since(world.now);
        wakes += u32::from(next <= rest / 50);
        world.advance(rest / 50);
        world.settle();
        assert!(fresh(&world, 0));
    }
    assert!((4..=6).contains(&wakes), "woken up {wakes} times");
}
