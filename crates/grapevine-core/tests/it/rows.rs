//! Changes of rows, and the shapes of reads that they may concern (docs/decisions/0018).

use std::time::Duration;

use grapevine_core::criteria::{
    Cell, Column, Conjunction, Datum, Dialect, Raw, Shape, Table, table_class,
};
use grapevine_core::id::EventId;
use grapevine_core::machine::effects::{CondemnReason, LeaseClaim, Verdict};

use crate::world::World;

/// The rows of a category.
fn category(number: i64) -> Conjunction {
    let mut rows = Conjunction::all_of(Table::parse("items").unwrap());
    let is = Datum::of(Dialect::Sqlite, Raw::Int(number)).unwrap();
    rows.narrow(Column::parse("category").unwrap(), Cell::Is(is));
    rows
}

/// The class of the list of a category.
fn list(number: i64) -> String {
    let rows = category(number);
    let classes = Shape::of(&rows).classes_of_read(&rows);
    assert_eq!(classes.len(), 1);
    classes[0].as_str().to_owned()
}

#[test]
fn g3_reads_of_a_new_shape_wait_until_it_is_flushed() {
    let mut world = World::running(1);
    let five = list(5);
    assert!(world.look_up(0, "list", &[&five]).new_shape);
    // Until then its event may be lost, and a change that counted on it with it.
    assert!(
        world.resolve(0, "list", &[&five]).bypass,
        "it is being written"
    );
    world.settle();
    let resolution = world.resolve(0, "list", &[&five]);
    assert!(!resolution.new_shape && !resolution.bypass);
    let before = world.token(0, &[&five]);
    world.rows_changed(0, vec![category(6)]);
    world.settle();
    assert_eq!(world.token(0, &[&five]), before, "another category");
    world.rows_changed(0, vec![category(5)]);
    world.settle();
    assert_ne!(world.token(0, &[&five]), before);
}

#[test]
fn g4_a_fill_of_a_shape_that_is_not_known_is_condemned() {
    let mut world = World::running(1);
    let five = list(5);
    let lease = LeaseClaim::Lease(world.resolve(0, "list", &[&five]).lease);
    // Not a sign of this change is in what the fill may stand for.
    world.rows_changed(0, vec![category(5)]);
    world.settle();
    let call = world.register(0, "list", &[&five], lease);
    world.settle();
    let condemned = Verdict::Condemned(CondemnReason::ShapeUnknown);
    assert_eq!(world.verdict(0, call), Some(condemned));
    // It has told of the shape by that.
    let lease = LeaseClaim::Lease(world.resolve(0, "list", &[&five]).lease);
    let call = world.register(0, "list", &[&five], lease);
    world.settle();
    assert!(matches!(world.verdict(0, call), Some(Verdict::Accepted(_))));
}

/// The holder of the snapshot had not known the shape when it applied the change, and does not know it now.
#[test]
fn g3_who_takes_a_snapshot_tells_what_a_shape_lacks() {
    let mut world = World::running(3);
    let five = list(5);
    world.cut(0, 2);
    world.cut(1, 2);
    let change: EventId = world.next_event(0);
    world.rows_changed(0, vec![category(5)]);
    world.settle();
    assert!(!world.core(2).progress().has(change));
    world.look_up(2, "list", &[&five]);
    world.settle();
    let before = world.token(2, &[&five]);
    assert!(!world.resolve(2, "list", &[&five]).new_shape);
    for at in [0, 1] {
        world.nodes[at].disk.compact();
    }
    world.connect(0, 2);
    let all = table_class(&Table::parse("items").unwrap());
    let all = Shape::of_all(all).class();
    for _ in 0..200 {
        // What the taker of the snapshot says, the news of its shape above all, comes last.
        while world.pump(0)
            || world.flush(0)
            || world.flush(2)
            || world.deliver(0, 2)
            || world.deliver(2, 0)
        {
            if world.core(2).progress().has(change) {
                let shown = world.resolve(2, "list", &[&five]);
                let stale = shown.token == before && !shown.new_shape;
                assert!(!stale, "it has the change, and the token from before it");
            }
        }
        world.advance(Duration::from_millis(20));
    }
    let adopted = world.core(2).counters().snapshots_adopted > 0;
    assert!(adopted, "no snapshot was taken");
    assert!(world.core(2).progress().has(change));
    assert_ne!(world.token(2, &[all.as_str()]), world.token(2, &["other"]));
}
