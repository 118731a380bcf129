//! G8: write intents. If the application or its sidecar dies between `BeginWrite` and `CommitWrite`, the bump happens by
//! lease end plus failover; an abort that arrived in time bumps nothing; a commit on an expired or unknown intent bumps.
//! And no bump that an intent rests on comes before the writer's lease is over, for its commit may still be to come.

use std::time::Duration;

use grapevine_core::event::{BumpEvent, Match, PurgeMode};
use grapevine_core::id::EventId;
use grapevine_core::intent::{INTENT_GRACE, IntentId};
use grapevine_core::machine::effects::{
    AbortOutcome, Announced, BeginWrite, Forget, Input, Invalidate, PeerMessage, ReceiptLevel,
    Refusal, Reply, Written,
};
use grapevine_core::names::NodeId;
use proptest::collection::vec;
use proptest::prelude::{any, prop_assert, proptest};
use proptest::test_runner::TestCaseError;

use crate::world::{World, classes};

const LEASE: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(1);
/// What the clock-rate bound adds to a lease, with something to spare.
const STRETCH: Duration = Duration::from_millis(5);
const STEP: Duration = Duration::from_millis(50);
/// One step less than a lease.
const EARLIER: Duration = Duration::from_millis(3_950);

fn begin(world: &mut World, at: usize, paths: &[&str]) -> u64 {
    let ticket = world.ticket();
    let call = BeginWrite {
        announced: Announced::Classes {
            classes: classes(paths),
            matching: Match::Any,
        },
        purge: PurgeMode::Hard,
        lease: LEASE,
        deadline: world.now.plus(PATIENCE),
        random: ticket.0,
    };
    world.input(at, Input::BeginWrite(ticket, call));
    ticket.0
}

fn begun(world: &World, at: usize, call: u64) -> Option<IntentId> {
    match world.nodes[at].replies.get(&call)? {
        Reply::Begun { intent, lease } => {
            assert_eq!(*lease, LEASE);
            Some(*intent)
        }
        Reply::Refused(_) => None,
        other => panic!("{other:?}"),
    }
}

fn refused(world: &World, at: usize, call: u64) -> Option<Refusal> {
    match world.nodes[at].replies.get(&call)? {
        Reply::Refused(refusal) => Some(refusal.clone()),
        _ => None,
    }
}

/// Begins a write and brings it to its answer.
pub(crate) fn open(world: &mut World, at: usize, paths: &[&str]) -> IntentId {
    let call = begin(world, at, paths);
    world.settle();
    begun(world, at, call).unwrap()
}

fn commit(world: &mut World, at: usize, intent: IntentId, paths: &[&str]) -> u64 {
    let ticket = world.ticket();
    let call = Invalidate {
        classes: classes(paths),
        matching: Match::Any,
        purge: PurgeMode::Hard,
        level: ReceiptLevel::None,
        deadline: world.now.plus(PATIENCE),
    };
    world.input(
        at,
        Input::CommitWrite(ticket, intent, Written::Classes(call)),
    );
    ticket.0
}

fn committed(world: &World, at: usize, call: u64) -> Option<EventId> {
    match world.nodes[at].replies.get(&call)? {
        Reply::Invalidated { event, .. } => Some(*event),
        other => panic!("{other:?}"),
    }
}

fn abort(world: &mut World, at: usize, intent: IntentId) -> u64 {
    let ticket = world.ticket();
    world.input(at, Input::AbortWrite(ticket, intent));
    ticket.0
}

fn aborted(world: &World, at: usize, call: u64) -> Option<AbortOutcome> {
    match world.nodes[at].replies.get(&call)? {
        Reply::Aborted(outcome) => Some(*outcome),
        other => panic!("{other:?}"),
    }
}

/// How often a node has applied a bump of the class.
fn bumps(world: &World, at: usize, path: &str) -> usize {
    let named = |event: &BumpEvent| match event {
        BumpEvent::Bump(bump) => bump.classes.iter().any(|class| class.as_str() == path),
        _ => false,
    };
    let applied = world.nodes[at].applied.iter();
    applied.filter(|(_, event)| named(event)).count()
}

/// Lets time pass while everything is flushed and delivered.
fn pass(world: &mut World, duration: Duration) {
    let end = world.now.plus(duration);
    world.settle();
    while world.now < end {
        world.advance(STEP.min(end.since(world.now)));
        world.settle();
    }
}

fn no_intents_are_stored(world: &World) {
    for node in &world.nodes {
        assert_eq!(node.disk.intents(), [], "at {}", node.name);
    }
}

#[test]
fn g1_an_intent_is_answered_once_it_is_durable_here_and_at_a_peer() {
    let mut world = World::running(2);
    let call = begin(&mut world, 0, &["cart/13"]);
    world.deliver_all(0, 1);
    assert!(world.nodes[1].disk.intents().is_empty());
    assert!(
        !world.links[&(0, 1)]
            .iter()
            .any(|it| matches!(it, PeerMessage::Intent(_)))
    );
    world.flush(0);
    assert_eq!(begun(&world, 0, call), None, "durable here alone");
    world.deliver_all(0, 1);
    world.deliver_all(1, 0);
    assert_eq!(begun(&world, 0, call), None, "not durable at the peer");
    world.flush(1);
    world.deliver_all(1, 0);
    let intent = begun(&world, 0, call).unwrap();
    for node in &world.nodes {
        assert_eq!(node.disk.intents(), [intent]);
    }
    assert_eq!(world.core(0).intents_open(), 1);
    assert_eq!(world.core(1).intents_held(), 1);
}

#[test]
fn g8_without_peers_an_intent_rests_on_this_disk_alone() {
    let mut world = World::running(1);
    let intent = open(&mut world, 0, &["cart/13"]);
    assert_eq!(world.nodes[0].disk.intents(), [intent]);
    pass(&mut world, LEASE + STRETCH);
    assert_eq!(bumps(&world, 0, "cart/13"), 1);
    no_intents_are_stored(&world);
}

#[test]
fn g8_an_intent_that_no_peer_holds_by_the_deadline_is_refused_and_nothing_is_left_of_it() {
    let mut world = World::running(2);
    world.cut(0, 1);
    let call = begin(&mut world, 0, &["cart/13"]);
    pass(&mut world, PATIENCE / 2);
    assert!(!world.nodes[0].replies.contains_key(&call));
    pass(&mut world, PATIENCE / 2);
    assert_eq!(refused(&world, 0, call), Some(Refusal::IntentNotHeld));
    no_intents_are_stored(&world);
    world.connect_all();
    pass(&mut world, 2 * LEASE);
    assert_eq!(bumps(&world, 0, "cart/13"), 0);
    assert_eq!(bumps(&world, 1, "cart/13"), 0);
}

#[test]
fn g8_a_message_lost_on_a_link_that_stands_is_said_again() {
    for back in [false, true] {
        let mut world = World::running(2);
        let call = begin(&mut world, 0, &["cart/13"]);
        world.flush(0);
        if back {
            world.deliver_all(0, 1);
            world.flush(1);
            world.drop_all(1, 0);
        } else {
            world.drop_all(0, 1);
        }
        pass(&mut world, Duration::from_millis(950));
        assert!(
            begun(&world, 0, call).is_some(),
            "lost on the way back: {back}"
        );
    }
}

#[test]
fn g8_the_application_dies_and_its_sidecar_bumps_at_lease_end() {
    let mut world = World::running(3);
    open(&mut world, 0, &["cart/13", "stock/7"]);
    pass(&mut world, EARLIER);
    assert_eq!(bumps(&world, 0, "cart/13"), 0, "its commit may be to come");
    pass(&mut world, STEP + STRETCH);
    for at in 0..3 {
        assert_eq!(bumps(&world, at, "cart/13"), 1);
        assert_eq!(bumps(&world, at, "stock/7"), 1);
    }
    pass(&mut world, 2 * LEASE);
    assert_eq!(bumps(&world, 0, "cart/13"), 1, "the holder heard of it");
    assert_eq!(world.core(0).counters().intents_expired, 1);
    no_intents_are_stored(&world);
}

#[test]
fn g8_the_origin_dies_and_the_holder_bumps_by_lease_end_plus_grace() {
    let mut world = World::running(3);
    open(&mut world, 0, &["cart/13"]);
    world.crash(0);
    pass(&mut world, EARLIER);
    assert_eq!(bumps(&world, 1, "cart/13") + bumps(&world, 2, "cart/13"), 0);
    pass(&mut world, STEP + INTENT_GRACE + STRETCH);
    for at in [1, 2] {
        assert_eq!(bumps(&world, at, "cart/13"), 1, "at {at}");
    }
    let expired = |at: usize| world.core(at).counters().intents_expired_for_others;
    assert_eq!(expired(1) + expired(2), 1);
}

#[test]
fn g8_the_origin_loses_its_disk_and_the_holder_bumps() {
    let mut world = World::running(2);
    open(&mut world, 0, &["cart/13"]);
    world.crash(0);
    world.wipe(0);
    world.start(0);
    world.connect_all();
    pass(&mut world, LEASE + INTENT_GRACE + STRETCH);
    assert_eq!(bumps(&world, 0, "cart/13"), 1);
    assert_eq!(bumps(&world, 1, "cart/13"), 1);
}

#[test]
fn g8_a_restarting_sidecar_bumps_what_it_held_and_holds_it_for_a_whole_lease_again() {
    let mut world = World::running(1);
    open(&mut world, 0, &["cart/13"]);
    open(&mut world, 0, &["stock/7"]);
    world.crash(0);
    world.start(0);
    world.settle();
    let once = |path: &str| bumps(&world, 0, path);
    assert_eq!(
        [once("cart/13"), once("stock/7")],
        [1, 1],
        "the writer may be dead"
    );
    assert_eq!(world.core(0).counters().intents_recovered, 2);
    let bumps_own = world.core(0).counters().bumps_own;
    assert_eq!(bumps_own, 2, "one of everything, and one for both");
    pass(&mut world, EARLIER);
    assert_eq!(bumps(&world, 0, "cart/13"), 1);
    pass(&mut world, STEP + INTENT_GRACE + STRETCH);
    assert_eq!(
        bumps(&world, 0, "cart/13"),
        2,
        "the writer may have committed since"
    );
    assert_eq!(bumps(&world, 0, "stock/7"), 2);
    no_intents_are_stored(&world);
}

/// Who starts again counts a whole lease anew, and hands that on. Who has counted it from the beginning knows better; whom that one has
/// handed it to, before it is restarted as well, bumps a second later than it would have.
#[test]
fn g8_a_holder_bumps_by_lease_end_plus_grace_though_others_hand_it_a_later_end() {
    for restarted in [vec![0], vec![0, 1], vec![0, 2]] {
        let mut world = World::running(3);
        open(&mut world, 0, &["cart/13"]);
        for &at in &restarted {
            pass(&mut world, LEASE / 4);
            world.crash(at);
            world.start(at);
            world.connect_all();
            world.settle();
        }
        let passed = LEASE / 4 * u32::try_from(restarted.len()).unwrap();
        let before = bumps(&world, 0, "cart/13");
        let early = LEASE.checked_sub(passed + STEP).unwrap();
        pass(&mut world, early);
        assert_eq!(bumps(&world, 0, "cart/13"), before, "the commit is to come");
        let later = INTENT_GRACE * u32::try_from(restarted.len()).unwrap();
        pass(&mut world, STEP + later + STRETCH);
        for at in 0..3 {
            assert!(
                bumps(&world, at, "cart/13") > 0,
                "at {at}, restarted {restarted:?}"
            );
        }
        assert!(
            bumps(&world, 0, "cart/13") > before,
            "restarted {restarted:?}"
        );
    }
}

#[test]
fn g8_what_one_that_leaves_hands_to_all_is_bumped_by_lease_end_plus_grace() {
    for leave in [vec![0], vec![0, 1], vec![0, 1, 2]] {
        let mut world = World::running(5);
        open(&mut world, 0, &["cart/13"]);
        for &at in &leave {
            drain(&mut world, at);
            pass(&mut world, STEP);
            world.crash(at);
        }
        let passed = STEP * u32::try_from(leave.len()).unwrap();
        pass(&mut world, LEASE.checked_sub(passed + STEP).unwrap());
        assert_eq!(bumps(&world, 4, "cart/13"), 0, "the commit is to come");
        pass(&mut world, STEP + INTENT_GRACE + STRETCH);
        assert!(bumps(&world, 4, "cart/13") > 0, "after {leave:?} left");
    }
}

#[test]
fn g8_a_restarted_sidecar_says_that_an_intent_of_its_last_run_was_bumped() {
    let mut world = World::running(1);
    let intent = open(&mut world, 0, &["cart/13"]);
    world.crash(0);
    world.start(0);
    let call = abort(&mut world, 0, intent);
    assert!(
        !world.nodes[0].replies.contains_key(&call),
        "not before it is flushed"
    );
    world.settle();
    let Some(AbortOutcome::Bumped(event)) = aborted(&world, 0, call) else {
        panic!("{:?}", world.nodes[0].replies[&call]);
    };
    assert_eq!(event.origin, world.incarnation(0));
    pass(&mut world, 2 * LEASE);
    assert_eq!(bumps(&world, 0, "cart/13"), 1, "it was aborted");
}

#[test]
fn g8_an_abort_in_time_bumps_nothing() {
    let mut world = World::running(3);
    let intent = open(&mut world, 0, &["cart/13"]);
    pass(&mut world, LEASE / 2);
    let call = abort(&mut world, 0, intent);
    world.settle();
    assert_eq!(aborted(&world, 0, call), Some(AbortOutcome::InTime));
    no_intents_are_stored(&world);
    let again = abort(&mut world, 0, intent);
    pass(&mut world, 2 * LEASE);
    assert_eq!(aborted(&world, 0, again), Some(AbortOutcome::InTime));
    for at in 0..3 {
        assert_eq!(bumps(&world, at, "cart/13"), 0);
    }
    assert_eq!(world.core(0).counters().intents_aborted, 1);
}

#[test]
fn g8_an_abort_whose_word_to_the_holder_is_lost_bumps_nothing_once_the_link_is_back() {
    for stands in [false, true] {
        let mut world = World::running(2);
        let intent = open(&mut world, 0, &["cart/13"]);
        if !stands {
            world.cut(0, 1);
        }
        let call = abort(&mut world, 0, intent);
        world.flush(0);
        world.drop_all(0, 1);
        assert_eq!(aborted(&world, 0, call), Some(AbortOutcome::InTime));
        pass(&mut world, LEASE / 2);
        assert_eq!(world.core(1).intents_held(), 1);
        world.connect_all();
        world.settle();
        let held = world.core(1).intents_held();
        assert_eq!(held, usize::from(stands), "a new link brings the word");
        pass(&mut world, LEASE + INTENT_GRACE);
        assert_eq!(bumps(&world, 1, "cart/13"), 0, "the link stood: {stands}");
        no_intents_are_stored(&world);
    }
}

#[test]
fn g8_a_commit_bumps_once_and_ends_the_intent() {
    let mut world = World::running(3);
    let intent = open(&mut world, 0, &["cart/13"]);
    let call = commit(&mut world, 0, intent, &["cart/13"]);
    world.flush(0);
    assert!(committed(&world, 0, call).is_some());
    assert!(
        world.nodes[0].disk.intents().is_empty(),
        "in the event's own group"
    );
    pass(&mut world, 2 * LEASE);
    for at in 0..3 {
        assert_eq!(bumps(&world, at, "cart/13"), 1);
    }
    no_intents_are_stored(&world);
    let late = abort(&mut world, 0, intent);
    world.settle();
    let event = committed(&world, 0, call).unwrap();
    assert_eq!(aborted(&world, 0, late), Some(AbortOutcome::Bumped(event)));
}

#[test]
fn g8_a_commit_bumps_what_its_intent_names_beside_what_it_names_itself() {
    // At the origin and, of two, at the holder.
    for at in [0, 1] {
        let mut world = World::running(2);
        let intent = open(&mut world, 0, &["cart/13", "cart/14"]);
        let call = commit(&mut world, at, intent, &["z/9"]);
        world.settle();
        let event = committed(&world, at, call).unwrap();
        let answered = world.nodes[0].applied.iter().any(|(id, applied)| {
            let BumpEvent::Bump(bump) = applied else {
                return false;
            };
            *id == event && bump.classes == classes(&["cart/13", "cart/14", "z/9"])
        });
        assert!(answered, "the receipt speaks of all of them");
        for path in ["cart/13", "cart/14", "z/9"] {
            for node in 0..2 {
                assert_eq!(bumps(&world, node, path), 1, "{path} at {node}");
            }
        }
        no_intents_are_stored(&world);
    }
}

/// What was declared hard is not served stale for a while because the commit that names it was another one's.
#[test]
fn g8_a_soft_commit_does_not_soften_what_was_declared() {
    let mut world = World::running(2);
    let intent = open(&mut world, 0, &["cart/13"]);
    let ticket = world.ticket();
    let call = Invalidate {
        classes: classes(&["cart/13"]),
        matching: Match::Any,
        purge: PurgeMode::Soft,
        level: ReceiptLevel::None,
        deadline: world.now.plus(PATIENCE),
    };
    world.input(
        0,
        Input::CommitWrite(ticket, intent, Written::Classes(call)),
    );
    world.settle();
    let hard = world.nodes[1].applied.iter().any(|(_, applied)| {
        matches!(applied, BumpEvent::Bump(bump) if bump.purge == PurgeMode::Hard && bump.classes == classes(&["cart/13"]))
    });
    assert!(hard);
}

#[test]
fn g8_a_commit_that_covers_its_intent_bumps_what_it_names_and_no_more() {
    let mut world = World::running(2);
    let intent = open(&mut world, 0, &["cart/13/items"]);
    commit(&mut world, 0, intent, &["cart/13"]);
    world.settle();
    assert_eq!(bumps(&world, 1, "cart/13"), 1);
    assert_eq!(bumps(&world, 1, "cart/13/items"), 0);
}

/// More classes than half of what one event may have.
fn many(lead: &str) -> Vec<String> {
    (0..600).map(|n| format!("{lead}/{n}")).collect()
}

fn paths(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

#[test]
fn g8_a_commit_and_an_intent_too_large_for_one_event_are_two() {
    let mut world = World::running(2);
    let (owed, given) = (many("cart"), many("z"));
    let intent = open(&mut world, 0, &paths(&owed));
    let call = commit(&mut world, 0, intent, &paths(&given));
    world.settle();
    assert!(committed(&world, 0, call).is_some());
    for path in ["cart/0", "cart/599", "z/0", "z/599"] {
        assert_eq!(bumps(&world, 1, path), 1, "{path}");
    }
    no_intents_are_stored(&world);
}

/// The holder is told of the commit's event, and has that one; the event before it, which pays what the intent owed beside, was
/// lost on its way, and then its origin with its disk.
#[test]
fn g8_of_two_events_that_end_an_intent_the_second_is_not_enough() {
    let mut world = World::running(2);
    let (owed, given) = (many("cart"), many("z"));
    let intent = open(&mut world, 0, &paths(&owed));
    world.drop_all(0, 1);
    let owed_first = world.next_event(0).sequence;
    commit(&mut world, 0, intent, &paths(&given));
    world.flush(0);
    for said in world.links.get_mut(&(0, 1)).unwrap() {
        if let PeerMessage::Bumps { first, events, .. } = said
            && *first == owed_first
        {
            events.remove(0);
            *first += 1;
        }
    }
    world.deliver_all(0, 1);
    world.crash(0);
    world.wipe(0);
    world.settle();
    assert_eq!(bumps(&world, 1, "z/0"), 1);
    assert_eq!(bumps(&world, 1, "cart/0"), 0, "its push was lost");
    pass(&mut world, 2 * LEASE);
    assert_eq!(bumps(&world, 1, "cart/0"), 1, "nobody paid");
    assert_eq!(bumps(&world, 1, "cart/599"), 1);
}

#[test]
fn g8_an_intents_number_is_what_the_caller_drew_and_never_another_ones() {
    let mut world = World::running(2);
    let drawn = |world: &mut World, random: u64| {
        let ticket = world.ticket();
        let call = BeginWrite {
            announced: Announced::Classes {
                classes: classes(&["cart/13"]),
                matching: Match::Any,
            },
            purge: PurgeMode::Hard,
            lease: LEASE,
            deadline: world.now.plus(PATIENCE),
            random,
        };
        world.input(0, Input::BeginWrite(ticket, call));
        world.settle();
        begun(world, 0, ticket.0).unwrap()
    };
    let first = drawn(&mut world, u64::MAX);
    assert_eq!(first.number, u64::MAX, "as it was drawn");
    let second = drawn(&mut world, u64::MAX);
    abort(&mut world, 0, first);
    world.settle();
    let third = drawn(&mut world, u64::MAX);
    let numbers = [first, second, third].map(|intent| intent.number);
    assert_eq!(numbers, [u64::MAX, 0, 1], "of open and of ended ones");
}

#[test]
fn g8_a_commit_on_an_expired_or_unknown_intent_bumps() {
    let mut world = World::running(2);
    let intent = open(&mut world, 0, &["cart/13"]);
    pass(&mut world, 2 * LEASE);
    assert_eq!(bumps(&world, 0, "cart/13"), 1);
    let unknown = IntentId {
        number: 99,
        ..intent
    };
    for (nth, intent) in [intent, unknown].into_iter().enumerate() {
        let call = commit(&mut world, 0, intent, &["cart/13"]);
        world.settle();
        assert!(committed(&world, 0, call).is_some());
        for at in 0..2 {
            assert_eq!(bumps(&world, at, "cart/13"), 2 + nth);
        }
    }
}

#[test]
fn g8_an_abort_after_the_end_tells_the_bump_and_of_an_unknown_one_says_so() {
    let mut world = World::running(2);
    let intent = open(&mut world, 0, &["cart/13"]);
    world.advance(LEASE + STRETCH);
    let call = abort(&mut world, 0, intent);
    assert!(
        !world.nodes[0].replies.contains_key(&call),
        "not before the bump is flushed"
    );
    world.settle();
    let expired = world.nodes[0].applied.last().unwrap().0;
    assert_eq!(
        aborted(&world, 0, call),
        Some(AbortOutcome::Bumped(expired))
    );
    let unknown = IntentId {
        number: 99,
        ..intent
    };
    let call = abort(&mut world, 0, unknown);
    world.settle();
    assert_eq!(aborted(&world, 0, call), Some(AbortOutcome::Unknown));
}

#[test]
fn g8_a_commit_at_another_sidecar_ends_the_intent_everywhere() {
    // Of three: at the holder, and at the one that is neither origin nor holder.
    for at in [1, 2] {
        let mut world = World::running(3);
        let intent = open(&mut world, 0, &["cart/13"]);
        let call = commit(&mut world, at, intent, &["cart/13"]);
        world.settle();
        assert!(committed(&world, at, call).is_some());
        no_intents_are_stored(&world);
        pass(&mut world, 2 * LEASE);
        for at in 0..3 {
            assert_eq!(bumps(&world, at, "cart/13"), 1);
        }
    }
}

#[test]
fn g8_an_abort_at_another_sidecar_is_passed_on() {
    for at in [1, 2] {
        let mut world = World::running(3);
        let intent = open(&mut world, 0, &["cart/13"]);
        let call = abort(&mut world, at, intent);
        world.settle();
        assert_eq!(aborted(&world, at, call), Some(AbortOutcome::Unknown));
        no_intents_are_stored(&world);
        pass(&mut world, 2 * LEASE);
        assert_eq!(bumps(&world, 0, "cart/13"), 0);
    }
}

#[test]
fn g1_a_holder_believes_in_a_bump_only_once_it_has_it() {
    let mut world = World::running(2);
    let intent = open(&mut world, 0, &["cart/13"]);
    commit(&mut world, 0, intent, &["cart/13"]);
    world.flush(0);
    // The push is lost, the word that the intent ended is not; then the only disk with the event is lost.
    while let Some(at) = world.links[&(0, 1)]
        .iter()
        .position(|it| matches!(it, PeerMessage::IntentSettled { .. }))
    {
        world.deliver_nth(0, 1, at);
    }
    world.crash(0);
    world.wipe(0);
    pass(&mut world, LEASE + INTENT_GRACE + STRETCH);
    assert_eq!(bumps(&world, 1, "cart/13"), 1);
}

#[test]
fn g8_a_holder_that_dies_is_replaced() {
    let mut world = World::running(3);
    open(&mut world, 0, &["cart/13"]);
    let holder = (1..3)
        .find(|&at| world.core(at).intents_held() == 1)
        .unwrap();
    let other = 3 - holder;
    world.crash(holder);
    world.wipe(holder);
    world.settle();
    assert_eq!(world.core(other).intents_held(), 1);
    world.crash(0);
    pass(&mut world, LEASE + INTENT_GRACE + STRETCH);
    assert_eq!(bumps(&world, other, "cart/13"), 1);
}

#[test]
fn g8_a_holder_that_comes_later_counts_what_is_left_of_the_lease() {
    let mut world = World::running(3);
    open(&mut world, 0, &["cart/13"]);
    let holder = (1..3)
        .find(|&at| world.core(at).intents_held() == 1)
        .unwrap();
    pass(&mut world, LEASE / 2);
    world.crash(holder);
    world.settle();
    world.crash(0);
    pass(&mut world, Duration::from_millis(1_950));
    let other = 3 - holder;
    assert_eq!(bumps(&world, other, "cart/13"), 0);
    pass(&mut world, STEP + INTENT_GRACE + STRETCH);
    assert_eq!(bumps(&world, other, "cart/13"), 1);
}

#[test]
fn g10_open_intents_are_limited_and_ended_ones_make_room() {
    let mut world = World::running_with(2, |config| config.limits.intents_max = 2);
    let first = open(&mut world, 0, &["a"]);
    open(&mut world, 0, &["b"]);
    let call = begin(&mut world, 0, &["c"]);
    let refusal = refused(&world, 0, call).unwrap();
    assert!(
        refusal.to_string().contains("limits.intents_max"),
        "{refusal}"
    );
    abort(&mut world, 0, first);
    open(&mut world, 0, &["c"]);
    pass(&mut world, 2 * LEASE);
    assert_eq!(bumps(&world, 0, "a"), 0);
    open(&mut world, 0, &["d"]);
    // What they name together is limited as well.
    let many: Vec<_> = (0..40).map(|n| format!("e/{n}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let call = begin(&mut world, 0, &many);
    let refusal = refused(&world, 0, call).unwrap().to_string();
    assert!(refusal.contains("41 classes"), "{refusal}");
}

#[test]
fn g10_who_has_no_room_declines_rather_than_bump_before_the_commit() {
    let mut world = World::running_with(2, |config| {
        config.limits.intents_max = if config.node_id.as_str() == "a" { 9 } else { 1 };
    });
    open(&mut world, 0, &["a"]);
    open(&mut world, 0, &["b"]);
    let call = begin(&mut world, 0, &["c"]);
    pass(&mut world, PATIENCE);
    assert_eq!(refused(&world, 0, call), Some(Refusal::IntentNotHeld));
    assert!(world.core(1).counters().intents_declined > 0);
    assert_eq!(bumps(&world, 1, "a"), 0);
    pass(&mut world, LEASE);
    assert_eq!(bumps(&world, 1, "a"), 1);
    assert_eq!(bumps(&world, 1, "c"), 0);
}

#[test]
fn g8_the_bump_of_an_open_intent_cannot_be_refused() {
    let mut world = World::running_with(2, |config| config.limits.top_level_classes_max = 2);
    let intent = open(&mut world, 0, &["a/1"]);
    world.invalidate(0, &["b/1"]);
    world.settle();
    let ticket = world.invalidate(0, &["c/1"]);
    let refusal = refused(&world, 0, ticket).unwrap();
    assert!(
        matches!(refusal, Refusal::TopLevelClasses { count: 3, .. }),
        "{refusal}"
    );
    let call = commit(&mut world, 0, intent, &["a/1"]);
    world.settle();
    assert!(committed(&world, 0, call).is_some());
    assert_eq!(bumps(&world, 1, "a/1"), 1);
    // One that is aborted gives its place back.
    let mut world = World::running_with(2, |config| config.limits.top_level_classes_max = 1);
    let intent = open(&mut world, 0, &["a/1"]);
    abort(&mut world, 0, intent);
    let ticket = world.invalidate(0, &["c/1"]);
    world.settle();
    assert!(committed(&world, 0, ticket).is_some());
}

#[test]
fn g8_one_that_leaves_begins_nothing_and_leaves_nothing_behind() {
    let mut world = World::running(3);
    open(&mut world, 0, &["cart/13"]);
    let holder = (1..3)
        .find(|&at| world.core(at).intents_held() == 1)
        .unwrap();
    let other = 3 - holder;
    world.crash(0);
    // The origin is gone and its holder leaves: the third one must have it.
    world.cut(holder, other);
    let waits = begin(&mut world, holder, &["stock/7"]);
    world.flush(holder);
    world.connect(holder, other);
    world.input(holder, Input::Drain);
    let late = begin(&mut world, holder, &["stock/8"]);
    assert_eq!(refused(&world, holder, late), Some(Refusal::Draining));
    assert_eq!(refused(&world, holder, waits), Some(Refusal::Draining));
    world.settle();
    world.crash(holder);
    pass(&mut world, LEASE + INTENT_GRACE + STRETCH);
    assert_eq!(bumps(&world, other, "cart/13"), 1);
    assert_eq!(bumps(&world, other, "stock/7"), 0);
}

/// Gives a node its part of what the others say, and its own writes to its disk.
fn heed(world: &mut World, at: usize) {
    (0..world.nodes.len()).for_each(|from| world.deliver_all(from, at));
    world.flush(at);
}

fn drain(world: &mut World, at: usize) {
    world.input(at, Input::Drain);
    world.flush(at);
}

fn who_holds(world: &World, among: [usize; 2]) -> (usize, usize) {
    let holds = |at: &usize| world.core(*at).intents_held() == 1;
    let holder = among.into_iter().find(holds).unwrap();
    (holder, among.into_iter().find(|it| *it != holder).unwrap())
}

#[test]
fn g8_one_that_leaves_gives_its_own_open_intents_to_all_peers() {
    let mut world = World::running(3);
    let intent = open(&mut world, 0, &["cart/13"]);
    let (holder, other) = who_holds(&world, [1, 2]);
    drain(&mut world, 0);
    heed(&mut world, other);
    // Its holder is gone for good at the same moment.
    world.crash(0);
    world.crash(holder);
    world.wipe(holder);
    pass(&mut world, EARLIER);
    assert_eq!(world.core(other).intents_held(), 1);
    assert_eq!(bumps(&world, other, "cart/13"), 0, "the commit is to come");
    pass(&mut world, STEP + INTENT_GRACE + STRETCH);
    assert_eq!(bumps(&world, other, "cart/13"), 1);

    // An abort that comes while it leaves reaches all who hold it.
    let mut world = World::running(3);
    let intent_too = open(&mut world, 0, &["cart/13"]);
    assert_eq!(intent, intent_too);
    drain(&mut world, 0);
    heed(&mut world, 1);
    heed(&mut world, 2);
    let call = abort(&mut world, 0, intent);
    world.settle();
    assert_eq!(aborted(&world, 0, call), Some(AbortOutcome::InTime));
    no_intents_are_stored(&world);
}

#[test]
fn g8_a_holder_that_leaves_hands_over_what_it_holds_for_one_that_leaves() {
    let mut world = World::running(3);
    open(&mut world, 0, &["cart/13"]);
    let (holder, other) = who_holds(&world, [1, 2]);
    world.cut(0, other);
    drain(&mut world, 0);
    heed(&mut world, holder);
    // The origin's link stands, and its seat: but it will expire nothing any more.
    drain(&mut world, holder);
    heed(&mut world, other);
    world.crash(0);
    world.crash(holder);
    pass(&mut world, LEASE + INTENT_GRACE + STRETCH);
    assert_eq!(bumps(&world, other, "cart/13"), 1);
}

#[test]
fn g8_a_holder_that_says_it_leaves_is_replaced() {
    let mut world = World::running(3);
    open(&mut world, 0, &["cart/13"]);
    let (holder, other) = who_holds(&world, [1, 2]);
    drain(&mut world, holder);
    world.deliver_all(holder, 0);
    heed(&mut world, other);
    assert_eq!(world.core(other).intents_held(), 1);
}

#[test]
fn g1_an_intent_that_only_a_run_without_a_seat_holds_is_not_answered() {
    let mut world = World::running(3);
    world.cut(0, 2);
    world.cut(1, 2);
    world.crash(1);
    world.start(1);
    world.connect(0, 1);
    world.settle();
    let run = world.incarnation(1);
    let seats = &world.core(0).roster().seats;
    assert!(seats.values().all(|seated| *seated != run));
    let call = begin(&mut world, 0, &["cart/13"]);
    pass(&mut world, PATIENCE / 2);
    assert_eq!(begun(&world, 0, call), None);
    // It holds it since, or the next member does.
    world.connect(0, 2);
    world.connect(1, 2);
    pass(&mut world, PATIENCE / 4);
    assert!(begun(&world, 0, call).is_some());
}

#[test]
fn g8_who_is_alone_by_the_roster_needs_no_holder_however_many_are_expected() {
    let mut world = World::running(2);
    world.crash(1);
    pass(&mut world, STEP);
    let ticket = world.ticket();
    let forget = Forget {
        node_id: NodeId::parse("b").unwrap(),
        alone: false,
    };
    world.input(0, Input::Forget(ticket, forget));
    world.settle();
    assert_eq!(world.core(0).roster().seats.len(), 1);
    let intent = open(&mut world, 0, &["cart/13"]);
    assert_eq!(world.nodes[0].disk.intents(), [intent]);
}

#[test]
fn g8_an_intent_that_waits_for_a_holder_is_answered_when_its_sidecar_comes_to_be_alone() {
    let mut world = World::running(2);
    world.crash(1);
    let call = begin(&mut world, 0, &["cart/13"]);
    world.flush(0);
    assert_eq!(begun(&world, 0, call), None);
    let ticket = world.ticket();
    let forget = Forget {
        node_id: NodeId::parse("b").unwrap(),
        alone: false,
    };
    world.input(0, Input::Forget(ticket, forget));
    world.settle();
    assert!(begun(&world, 0, call).is_some());
}

#[test]
fn g8_who_is_not_alone_by_the_roster_needs_a_holder_however_few_are_expected() {
    let mut world = World::running_with(2, |config| config.expected_members = 1);
    world.converge().unwrap();
    assert_eq!(world.core(0).roster().seats.len(), 2);
    world.crash(1);
    world.crash(0);
    // Nothing but the roster remembers the peer.
    world.nodes[0].disk.forget_members();
    world.start(0);
    world.settle();
    let call = begin(&mut world, 0, &["cart/13"]);
    world.flush(0);
    assert_eq!(begun(&world, 0, call), None, "durable here alone");
    pass(&mut world, PATIENCE);
    assert_eq!(refused(&world, 0, call), Some(Refusal::IntentNotHeld));
}

mod handing;
mod random;
