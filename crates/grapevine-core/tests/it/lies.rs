//! What a peer may say that is not so: another node's run, views of those without a seat, logs that nobody closed. Peers are
//! not to be hostile, but a mistake of one, or of whoever reaches its port, must not have the others vouch for what they lack.

use std::collections::BTreeMap;

use grapevine_core::id::{Incarnation, Lane};
use grapevine_core::machine::AdmitError;
use grapevine_core::machine::effects::{Freshness, Input, PeerMessage, Side, Sighting};
use grapevine_core::names::NodeId;
use grapevine_core::roster::{Roster, Say, View};

use crate::world::{MAX_STALENESS, World};

fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

fn run(number: u128) -> Incarnation {
    Incarnation::new(number).unwrap()
}

/// A member's words come with its run alone. Who introduces itself with another one's run, linked or seated or this
/// sidecar's own, is not let in, and whoever says it otherwise makes no member of it.
#[test]
fn g7_a_run_of_another_node_is_nobodys_introduction() {
    let mut world = World::running(3);
    for whose in 0..3 {
        let mut liar = world.hello(whose);
        liar.node_id = node("x");
        let error = world.core(0).admit_peer(&liar, world.now).unwrap_err();
        let holder = world.hello(whose).node_id;
        assert!(
            matches!(&error, AdmitError::RunOfAnother { holder: named, .. } if *named == holder),
            "{error}"
        );
        world.input(
            0,
            Input::LinkUp {
                hello: liar.clone(),
                side: Side::Inbound,
            },
        );
        let alive = true;
        let hello = liar.clone();
        world.input(0, Input::Seen(vec![Sighting { hello, alive }]));
        let known = world.core(0).members(world.now);
        assert!(
            known
                .iter()
                .all(|member| member.hello.node_id != liar.node_id)
        );
    }
    // Also where the run whose words would be taken for another's has no link: its node has the seat.
    world.cut(0, 1);
    let mut liar = world.hello(1);
    liar.node_id = node("x");
    world.core(0).admit_peer(&liar, world.now).unwrap_err();
    world.connect(0, 1);
    world.settle();
    world.advance(MAX_STALENESS);
    world.settle();
    assert_eq!(world.core(0).freshness(world.now), Freshness::Fresh);
}

/// Those who have a seat, before or now, tell the views; a newcomer is told by them and needs to tell nobody.
#[test]
fn g7_a_view_told_by_who_has_no_seat_in_it_nor_had_one_is_not_taken_over() {
    let view = |number, names: &[(&str, u128)]| View {
        number,
        history: Some(run(1).as_history()),
        everything: 1,
        spared: false,
        closed: BTreeMap::new(),
        retired: grapevine_core::roster::Retired::default(),
        seats: names
            .iter()
            .map(|&(name, it)| (node(name), run(it)))
            .collect(),
    };
    let first = view(3, &[("a", 1), ("b", 2)]);
    let later = view(7, &[("b", 2), ("c", 3)]);
    let mut roster = Roster::start(node("a"), run(1), None);
    let history = first.history;
    let told = |roster: &mut Roster, from: &str, view: &View| {
        let say = Say::Decided(view.clone());
        roster.heard(&node(from), history, say).adopted
    };
    assert!(!told(&mut roster, "x", &first), "without any view, too");
    assert!(told(&mut roster, "b", &first));
    assert!(!told(&mut roster, "x", &later));
    // Seated in it alone, as who came after this one fell behind; or before alone, as who has just lost its seat.
    let mut twin = roster.clone();
    assert!(told(&mut twin, "c", &later));
    assert!(told(&mut roster, "a", &view(7, &[("c", 3)])));
}

/// Those who wait for a seat are all that still know of a view whose only member has lost its disk: nobody would ever get
/// anywhere if that one took it from nobody.
#[test]
fn g7_the_only_member_whose_disk_was_lost_is_told_its_view_by_who_waits_for_a_seat() {
    let view = View {
        number: 5,
        history: Some(run(9).as_history()),
        everything: 1,
        spared: false,
        closed: BTreeMap::new(),
        retired: grapevine_core::roster::Retired::default(),
        seats: [(node("c"), run(3))].into(),
    };
    let told = |view: &View| {
        let mut roster = Roster::start(node("c"), run(4), None);
        let say = Say::Decided(view.clone());
        roster.heard(&node("a"), view.history, say).adopted
    };
    assert!(told(&view));
    let mut more = view;
    more.seats.insert(node("d"), run(5));
    assert!(!told(&more), "there is one who can tell it");
}

/// Nobody waits any more for what a view closes. A view that closes what no run can have issued, or the log of a run that is
/// seated in it, would have a sidecar that lacks everything call itself fresh.
#[test]
fn g11_a_view_does_not_close_what_cannot_be_or_what_a_member_has() {
    let mut world = World::running(3);
    world.invalidate(1, &["cart/13"]);
    world.settle();
    let (seated, gone) = (world.incarnation(1), run(0xdead));
    let mut view = world.core(0).roster().clone();
    view.number += 1;
    view.closed = [(seated, 1 << 40), (gone, u64::MAX), (run(0xbeef), 7)].into();
    let message = PeerMessage::Roster {
        history: view.history,
        say: Say::Decided(view),
    };
    let from = world.incarnation(1);
    world.input(0, Input::Peer { from, message });
    let closed = |world: &World, origin, sequence| {
        let lane = world.core(0).progress().lane(origin, Lane::Bump);
        lane.is_some_and(|lane| lane.is_closed(sequence))
    };
    for restarted in [false, true] {
        assert!(!closed(&world, seated, 1), "restarted: {restarted}");
        assert!(!closed(&world, gone, 1), "restarted: {restarted}");
        assert!(closed(&world, run(0xbeef), 7), "restarted: {restarted}");
        while world.flush(0) {}
        world.crash(0);
        world.start(0);
    }
}
