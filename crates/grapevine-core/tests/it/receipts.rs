//! G6: receipts tell the truth, by incarnation: who has it, who has not, who can no longer serve old data.

use std::time::Duration;

use grapevine_core::event::Match;
use grapevine_core::id::Incarnation;
use grapevine_core::machine::effects::{
    Freshness, HolderState, Input, PeerHello, PeerMessage, Receipt, ReceiptLevel, Reply, Sighting,
};

use crate::world::{MAX_STALENESS, World};

const PATIENCE: Duration = Duration::from_secs(10);

fn call(world: &mut World, at: usize, level: ReceiptLevel) -> u64 {
    world.invalidate_as(at, &["cart/13"], Match::Any, level, PATIENCE)
}

fn receipt(world: &World, at: usize, call: u64) -> Option<Receipt> {
    match world.nodes[at].replies.get(&call)? {
        Reply::Invalidated { receipt, .. } => Some(receipt.clone()),
        other => panic!("{other:?}"),
    }
}

/// The rows in letters: `h`as, has `n`ot, `c`annot serve.
fn rows(receipt: &Receipt) -> String {
    let letter = |state| match state {
        HolderState::Has => 'h',
        HolderState::Flushed => 'f',
        HolderState::HasNot => 'n',
        HolderState::CannotServe => 'c',
    };
    receipt
        .holders
        .iter()
        .map(|row| letter(row.state))
        .collect()
}

/// Brings what `a` has pushed to a peer, and its acknowledgement back.
fn spread(world: &mut World, to: usize) {
    world.deliver_all(0, to);
    world.flush(to);
    world.deliver_all(to, 0);
}

#[test]
fn g6_receipts_none_one_quorum_and_all_are_answered_when_so_many_have_it() {
    let mut world = World::running_for_long(5, |_| {});
    let levels = [
        ReceiptLevel::None,
        ReceiptLevel::One,
        ReceiptLevel::Quorum,
        ReceiptLevel::All,
    ];
    let calls = levels.map(|level| call(&mut world, 0, level));
    let answered = |world: &World| calls.map(|call| receipt(world, 0, call).is_some());
    assert_eq!(answered(&world), [false; 4]);
    world.flush(0);
    assert_eq!(answered(&world), [true, false, false, false]);
    spread(&mut world, 1);
    assert_eq!(answered(&world), [true, true, false, false]);
    spread(&mut world, 2);
    assert_eq!(answered(&world), [true, true, true, false]);
    spread(&mut world, 3);
    assert_eq!(answered(&world), [true, true, true, false]);
    spread(&mut world, 4);
    let all: Vec<_> = calls
        .iter()
        .map(|call| receipt(&world, 0, *call).unwrap())
        .collect();
    assert!(all.iter().all(|receipt| receipt.satisfied));
    let shown: Vec<_> = all.iter().map(rows).collect();
    assert_eq!(shown, ["hnnnn", "hhnnn", "hhhnn", "hhhhh"]);
    let own = &all[3].holders[0];
    assert_eq!(
        (own.node_id.as_str(), own.incarnation),
        ("a", world.incarnation(0))
    );
}

#[test]
fn g6_a_bump_is_heard_by_all_when_every_member_has_acknowledged_it() {
    let mut world = World::running_for_long(3, |_| {});
    let heard = |world: &World| {
        let core = world.nodes[0].core.as_ref();
        core.is_some_and(grapevine_core::machine::Core::is_heard_by_all)
    };
    assert!(heard(&world));
    for call_at in [0, 0] {
        call(&mut world, call_at, ReceiptLevel::None);
        // Nothing is told before it is flushed.
        assert!(heard(&world));
        world.flush(0);
        assert!(!heard(&world));
        spread(&mut world, 1);
        assert!(!heard(&world));
        spread(&mut world, 2);
        assert!(heard(&world));
    }
}

#[test]
fn g6_receipts_never_name_a_peer_that_has_not_flushed() {
    let mut world = World::running(2);
    let call = call(&mut world, 0, ReceiptLevel::One);
    world.flush(0);
    // The same events again and again: none of the answers may run ahead of the flush.
    let event = world.links[&(0, 1)].back().unwrap().clone();
    for _ in 0..3 {
        let (from, message) = (world.incarnation(0), event.clone());
        world.input(1, Input::Peer { from, message });
    }
    world.deliver_all(0, 1);
    world.deliver_all(1, 0);
    assert!(receipt(&world, 0, call).is_none());
    world.crash(1);
    assert!(receipt(&world, 0, call).is_none());
    world.advance(PATIENCE);
    let receipt = receipt(&world, 0, call).unwrap();
    assert!(!receipt.satisfied, "{receipt:?}");
    assert_eq!(rows(&receipt), "hc");
}

#[test]
fn g6_an_acknowledgement_covers_what_it_names_and_nothing_later() {
    let mut world = World::running(3);
    let first = call(&mut world, 0, ReceiptLevel::One);
    world.flush(0);
    world.deliver_all(0, 1);
    let second = call(&mut world, 0, ReceiptLevel::One);
    world.flush(0);
    assert!(world.drop_all(0, 1) > 0 && world.drop_all(0, 2) > 0);
    world.flush(1);
    world.deliver_all(1, 0);
    assert!(receipt(&world, 0, first).is_some());
    assert!(receipt(&world, 0, second).is_none());
}

#[test]
fn g6_receipts_of_all_wait_until_the_last_grant_of_a_cut_off_peer_is_over() {
    let mut world = World::running(3);
    world.advance(Duration::from_millis(400));
    world.settle();
    world.cut(0, 2);
    world.cut(1, 2);
    let (begin, call) = (world.now, call(&mut world, 0, ReceiptLevel::All));
    world.flush(0);
    spread(&mut world, 1);
    while receipt(&world, 0, call).is_none() {
        assert!(world.now < begin.plus(PATIENCE));
        world.advance(Duration::from_millis(5));
        world.settle();
    }
    let receipt = receipt(&world, 0, call).unwrap();
    assert!(receipt.satisfied);
    assert_eq!(rows(&receipt), "hhc");
    assert!(world.now.since(begin) < MAX_STALENESS + Duration::from_millis(300));
    // What the receipt says of the third is so: it does not call itself fresh any more.
    assert!(matches!(
        world.core(2).freshness(world.now),
        Freshness::Unknown(_)
    ));
}

#[test]
fn g6_receipts_at_their_deadline_say_what_is_so() {
    let mut world = World::running(3);
    let patience = Duration::from_millis(200);
    let call = world.invalidate_as(0, &["cart/13"], Match::Any, ReceiptLevel::All, patience);
    world.flush(0);
    spread(&mut world, 1);
    world.drop_all(0, 2);
    world.advance(Duration::from_millis(199));
    assert!(receipt(&world, 0, call).is_none());
    world.advance(Duration::from_millis(1));
    let receipt = receipt(&world, 0, call).unwrap();
    assert!(!receipt.satisfied);
    assert_eq!(rows(&receipt), "hhn");
}

#[test]
fn g6_receipts_of_all_wait_for_a_superseded_run_that_may_still_be_there() {
    let mut world = World::running(3);
    let old = world.incarnation(2);
    world.advance(Duration::from_millis(300));
    world.settle();
    // The third is paused, not gone; meanwhile another process runs under its name.
    let paused = world.nodes[2].core.take();
    world.links.retain(|(from, to), _| *from != 2 && *to != 2);
    for (at, side) in [0, 1].into_iter().flat_map(|at| [(at, 0), (at, 1)]) {
        let side = [
            grapevine_core::machine::effects::Side::Inbound,
            grapevine_core::machine::effects::Side::Outbound,
        ][side];
        world.input(at, Input::LinkDown { peer: old, side });
    }
    world.start(2);
    world.connect_all();
    world.settle();
    let begin = world.now;
    let call = call(&mut world, 0, ReceiptLevel::All);
    world.settle();
    assert!(
        receipt(&world, 0, call).is_none(),
        "the successor has it, and the old run is still fresh"
    );
    let mut until = begin;
    while receipt(&world, 0, call).is_none() {
        world.advance(Duration::from_millis(5));
        world.settle();
        until = world.now;
    }
    let receipt = receipt(&world, 0, call).unwrap();
    assert!(receipt.satisfied);
    assert_eq!(rows(&receipt), "hhhc");
    assert_eq!(receipt.holders[3].incarnation, old);
    assert_ne!(paused.unwrap().freshness(until), Freshness::Fresh);
}

#[test]
fn g6_receipts_speak_of_the_runs_that_were_members_when_the_event_was_flushed() {
    let mut world = World::running(3);
    let old = world.incarnation(2);
    let call = call(&mut world, 0, ReceiptLevel::All);
    world.flush(0);
    spread(&mut world, 1);
    world.crash(2);
    world.advance(Duration::from_millis(100));
    world.start(2);
    world.connect_all();
    world.settle();
    while receipt(&world, 0, call).is_none() {
        world.advance(Duration::from_millis(50));
        world.settle();
    }
    let receipt = receipt(&world, 0, call).unwrap();
    assert!(receipt.satisfied, "{receipt:?}");
    assert_eq!(receipt.holders[2].incarnation, old);
    assert_eq!(rows(&receipt), "hhc");
}

#[test]
fn g6_receipts_are_settled_when_a_member_leaves() {
    let mut world = World::running_for_long(3, |_| {});
    let call = call(&mut world, 0, ReceiptLevel::All);
    world.flush(0);
    spread(&mut world, 1);
    world.drop_all(0, 2);
    assert!(receipt(&world, 0, call).is_none());
    world.input(2, Input::Drain);
    assert_ne!(
        world.core(2).freshness(world.now),
        Freshness::Fresh,
        "nobody waits for it"
    );
    world.flush(2);
    world.deliver_all(2, 0);
    // The second has it on its disk: whoever decides on who comes next has it, too.
    let receipt = receipt(&world, 0, call).unwrap();
    assert!(receipt.satisfied);
    assert_eq!(rows(&receipt), "hhc");
}

#[test]
fn g6_receipts_of_a_minority_never_say_all() {
    let mut world = World::running(3);
    world.cut(0, 1);
    world.cut(0, 2);
    let all = call(&mut world, 0, ReceiptLevel::All);
    let quorum = call(&mut world, 0, ReceiptLevel::Quorum);
    let one = call(&mut world, 0, ReceiptLevel::One);
    world.flush(0);
    world.advance(PATIENCE);
    // The two may have gone on without it, for all that it knows.
    let cut_off = receipt(&world, 0, all).unwrap();
    assert!(!cut_off.satisfied);
    assert_eq!(rows(&cut_off), "hnn");
    assert!(!receipt(&world, 0, quorum).unwrap().satisfied);
    assert!(!receipt(&world, 0, one).unwrap().satisfied);

    let mut alone = World::with(3, |_| {});
    alone.start(0);
    let all = call(&mut alone, 0, ReceiptLevel::All);
    let one = call(&mut alone, 0, ReceiptLevel::One);
    alone.flush(0);
    alone.advance(PATIENCE);
    assert!(
        !receipt(&alone, 0, all).unwrap().satisfied,
        "it has met none of the members that are expected"
    );
    assert!(!receipt(&alone, 0, one).unwrap().satisfied);
}

#[test]
fn g6_receipts_of_a_restarted_sidecar_wait_for_whom_its_last_run_granted_freshness() {
    let mut world = World::running(3);
    world.advance(Duration::from_millis(300));
    world.settle();
    world.crash(0);
    world.wipe(0);
    world.start(0);
    world.connect(0, 1);
    world.settle();
    let call = call(&mut world, 0, ReceiptLevel::All);
    world.settle();
    // The third is fresh by a grant of the first's last run, and the new run has not met it.
    assert_eq!(world.core(2).freshness(world.now), Freshness::Fresh);
    assert!(receipt(&world, 0, call).is_none());
    while receipt(&world, 0, call).is_none() {
        world.advance(Duration::from_millis(20));
    }
    assert_ne!(world.core(2).freshness(world.now), Freshness::Fresh);
}

#[test]
fn g6_receipts_of_a_restarted_sidecar_count_nobody_out_before_it_can_know() {
    let mut world = World::running(3);
    world.advance(Duration::from_millis(300));
    world.settle();
    world.crash(0);
    world.start(0);
    world.connect(0, 1);
    world.settle();
    // The third is remembered from the disk, and fresh by a grant of the first's last run.
    let call = call(&mut world, 0, ReceiptLevel::One);
    world.settle();
    assert_eq!(world.core(2).freshness(world.now), Freshness::Fresh);
    // However long it waits: others may call themselves fresh without it, as long as it has no seat, and so nobody
    // acknowledges anything to it.
    assert!(receipt(&world, 0, call).is_none());
    world.advance(PATIENCE);
    world.settle();
    let receipt = receipt(&world, 0, call).unwrap();
    assert!(!receipt.satisfied);
    assert_eq!(rows(&receipt), "hnn");
}

/// A sidecar left in order and runs again, cut off before anybody met its new run: nobody counts with it.
#[test]
fn g6_receipts_of_a_run_that_nobody_has_met_never_say_all() {
    let mut world = World::running(3);
    world.input(1, Input::Drain);
    world.settle();
    world.crash(1);
    world.start(1);
    world.advance(MAX_STALENESS * 3);
    let call = call(&mut world, 1, ReceiptLevel::All);
    world.flush(1);
    world.advance(PATIENCE);
    let receipt = receipt(&world, 1, call).unwrap();
    assert!(!receipt.satisfied);
    assert_eq!(rows(&receipt), "hnn");
}

/// Two processes use one node id by turns: what the first was granted is not forgotten when it comes back.
#[test]
fn g6_receipts_remember_what_a_run_was_granted_that_was_superseded_and_is_back() {
    let mut world = World::running(3);
    world.advance(Duration::from_millis(300));
    world.settle();
    let first = world.hello(2);
    let twin = PeerHello {
        incarnation: Incarnation::new(0xffff).unwrap(),
        ..first.clone()
    };
    world.cut(0, 2);
    let see = |hello: PeerHello| Input::Seen(vec![Sighting { hello, alive: true }]);
    world.input(0, see(twin));
    world.input(0, see(first));
    let call = call(&mut world, 0, ReceiptLevel::One);
    world.flush(0);
    spread(&mut world, 1);
    assert_eq!(world.core(2).freshness(world.now), Freshness::Fresh);
    assert_eq!(rows(&receipt(&world, 0, call).unwrap()), "hhn");
}

#[test]
fn g6_receipts_of_calls_that_a_drain_cuts_off_are_answered_and_the_peers_told() {
    let mut world = World::running(3);
    let call = call(&mut world, 0, ReceiptLevel::All);
    world.flush(0);
    assert!(receipt(&world, 0, call).is_none());
    world.input(0, Input::Drain);
    world.flush(0);
    let receipt = receipt(&world, 0, call).unwrap();
    assert!(!receipt.satisfied);
    assert_eq!(rows(&receipt), "hnn");
    world.settle();
    assert_eq!(world.core(1).roster().seats.len(), 2, "told at once");
    assert_eq!(world.core(1).members(world.now).len(), 1);
}

/// A call whose own grants lapse earlier is not held up by an older one that waits for something else.
#[test]
fn g6_receipts_are_answered_at_the_lapse_of_their_own_grants() {
    let mut world = World::running(4);
    world.advance(Duration::from_millis(2_500));
    world.settle();
    for gone in [2, 3] {
        world.cut(0, gone);
        world.cut(1, gone);
    }
    let quorum = call(&mut world, 0, ReceiptLevel::Quorum);
    world.flush(0);
    world.advance(Duration::from_millis(300));
    let (begin, all) = (world.now, call(&mut world, 0, ReceiptLevel::All));
    world.flush(0);
    while receipt(&world, 0, all).is_none() {
        assert!(
            world.now.since(begin) < MAX_STALENESS,
            "{}",
            world.describe()
        );
        world.advance(Duration::from_millis(5));
        world.settle();
    }
    assert!(receipt(&world, 0, quorum).is_none());
}

#[test]
fn g6_receipts_come_also_when_the_push_and_the_acknowledgement_were_lost() {
    let mut world = World::running_for_long(3, |_| {});
    let event = world.next_event(0);
    let call = call(&mut world, 0, ReceiptLevel::All);
    world.flush(0);
    // The push to the second is lost; it learns of the event from the third. Its first acknowledgement is lost, too.
    world.drop_all(0, 1);
    spread(&mut world, 2);
    world.cut(0, 1);
    let begin = world.now;
    while !world.core(1).has_all(&[event]) {
        world.settle();
        world.advance(Duration::from_millis(10));
        assert!(world.now.since(begin) < Duration::from_secs(3));
    }
    world.flush(1);
    world.dial(0, 1);
    world.dial(1, 0);
    world.flush(1);
    world.drop_all(1, 0);
    world.advance(Duration::from_millis(300));
    world.settle();
    assert!(
        receipt(&world, 0, call).is_some_and(|receipt| receipt.satisfied),
        "{}",
        world.describe()
    );
}

#[test]
fn g6_receipts_need_no_link_to_the_origin_s_own_push() {
    let mut world = World::running_for_long(3, |_| {});
    let call = call(&mut world, 0, ReceiptLevel::All);
    world.flush(0);
    world.drop_all(0, 1);
    spread(&mut world, 2);
    // The second learns the head from the third, pulls from whom it likes, and tells the origin.
    let begin = world.now;
    while receipt(&world, 0, call).is_none() {
        world.settle();
        world.advance(Duration::from_millis(10));
    }
    assert!(receipt(&world, 0, call).unwrap().satisfied);
    assert!(
        world.now.since(begin) < Duration::from_millis(700),
        "not only when a grant is over"
    );
}

/// A peer that has heard of an event and not got it may forget that it has: only what is on its disk makes the next
/// members wait.
#[test]
fn g7_receipts_of_all_do_not_rest_on_hearsay() {
    let mut world = World::running(3);
    world.advance(Duration::from_millis(200));
    let call = call(&mut world, 0, ReceiptLevel::All);
    world.flush(0);
    let lost = |world: &mut World| {
        world.drop_all(0, 1);
        world.drop_all(0, 2);
    };
    lost(&mut world);
    // The second asks and is told of the event; what it asks for then is lost. The first asks it, and hears that it knows.
    world.advance(Duration::from_millis(60));
    world.drop_all(0, 1);
    world.deliver_all(1, 0);
    world.deliver_all(0, 1);
    world.drop_all(1, 0);
    world.advance(Duration::from_millis(260));
    world.deliver_all(0, 1);
    let told = |message: &PeerMessage| matches!(message, PeerMessage::Grant { .. });
    let grant = world.links[&(1, 0)].iter().position(told).unwrap();
    world.deliver_nth(1, 0, grant);
    world.cut(0, 1);
    world.cut(0, 2);
    world.advance(PATIENCE);
    let receipt = receipt(&world, 0, call).unwrap();
    assert_eq!(rows(&receipt), "hnn");
    assert!(!receipt.satisfied, "nobody else has it");
}

/// That nobody can serve without it does not make it safe: the disk that has it may be lost.
#[test]
fn g1_receipts_of_all_are_not_reached_with_one_disk_of_two() {
    let mut world = World::running(2);
    world.cut(0, 1);
    let call = call(&mut world, 0, ReceiptLevel::All);
    world.flush(0);
    world.advance(MAX_STALENESS * 2);
    assert!(receipt(&world, 0, call).is_none(), "nobody else has it");
    world.connect_all();
    world.converge().unwrap();
    let receipt = receipt(&world, 0, call).unwrap();
    assert!(receipt.satisfied);
    assert_eq!(rows(&receipt), "hh");
}

/// A new run says at once what its disk has, and counts when it is seated: the receipt must not wait for its deadline.
#[test]
fn g7_receipts_of_all_are_settled_once_a_restarted_peer_that_has_the_event_is_seated() {
    let mut world = World::running(3);
    let begin = world.now;
    world.cut(0, 1);
    let call = call(&mut world, 0, ReceiptLevel::All);
    world.flush(0);
    spread(&mut world, 2);
    assert!(receipt(&world, 0, call).is_none(), "the second was granted");
    world.crash(2);
    world.start(2);
    world.connect(0, 2);
    world.settle();
    world.advance(MAX_STALENESS * 2);
    world.settle();
    assert!(
        receipt(&world, 0, call).is_none(),
        "the new run has no seat"
    );
    world.connect(1, 2);
    while receipt(&world, 0, call).is_none() {
        world.advance(Duration::from_millis(20));
        world.settle();
        assert!(
            world.now.since(begin) < PATIENCE / 2,
            "{}",
            world.describe()
        );
    }
    let receipt = receipt(&world, 0, call).unwrap();
    assert!(receipt.satisfied);
    assert_eq!(rows(&receipt), "hcc");
}

/// A new run of a peer is met, and has no seat yet: the old one is listed for its seat and not once more for its grants.
#[test]
fn g6_receipts_list_every_run_once() {
    let mut world = World::running(3);
    world.advance(Duration::from_millis(300));
    world.settle();
    let old = world.incarnation(2);
    world.crash(2);
    world.start(2);
    world.dial(0, 2);
    world.dial(2, 0);
    let call = call(&mut world, 0, ReceiptLevel::One);
    world.flush(0);
    world.cut(0, 2);
    world.settle();
    let receipt = receipt(&world, 0, call).unwrap();
    let listed = receipt.holders.iter();
    assert_eq!(
        listed.filter(|row| row.incarnation == old).count(),
        1,
        "{receipt:?}"
    );
    assert_eq!(receipt.holders.len(), 3);
}

#[test]
fn g6_receipts_count_what_came_by_a_snapshot() {
    let mut world = World::running(3);
    // Until it knows of all grants.
    world.advance(MAX_STALENESS * 2);
    world.settle();
    let event = world.next_event(0);
    let call = call(&mut world, 0, ReceiptLevel::All);
    world.flush(0);
    world.drop_all(0, 1);
    spread(&mut world, 2);
    // What the second missed is in nobody's log any more.
    world.nodes[0].disk.compact();
    world.nodes[2].disk.compact();
    let begin = world.now;
    while receipt(&world, 0, call).is_none() {
        world.settle();
        world.advance(Duration::from_millis(10));
        assert!(
            world.now.since(begin) < PATIENCE / 2,
            "{}",
            world.describe()
        );
    }
    assert!(world.core(1).counters().snapshots_adopted > 0);
    assert!(world.core(1).has_all(&[event]));
    let receipt = receipt(&world, 0, call).unwrap();
    assert_eq!(rows(&receipt), "hhh");
    assert!(
        world.now.since(begin) < Duration::from_millis(700),
        "not only when a grant is over: {:?}",
        world.now.since(begin)
    );
}
