//! Changes of rows, and the shapes of reads that they may concern (docs/decisions/0018).

use std::time::Duration;

use grapevine_core::criteria::{Cell, Column, Conjunction, Datum, Dialect, Raw, Shape, Table};
use grapevine_core::event::{Moment, RowImage};
use grapevine_core::id::EventId;
use grapevine_core::index::{Combine, LeafKey, Ordering, RowId, RowIdentity, Window};
use grapevine_core::machine::SHAPES_PER_TABLE_MAX;
use grapevine_core::machine::effects::{
    CondemnReason, Input, LeafAnswer, LeafFill, LeafQuery, LeafTurn, LeaseClaim, Reply, Verdict,
};
use grapevine_core::names::ClassPath;

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

/// A shape of a column of its own.
fn column(name: &str) -> Conjunction {
    let mut rows = Conjunction::all_of(Table::parse("items").unwrap());
    let is = Datum::of(Dialect::Sqlite, Raw::Int(1)).unwrap();
    rows.narrow(Column::parse(name).unwrap(), Cell::Is(is));
    rows
}

fn classes_of(read: &Conjunction) -> Vec<String> {
    let classes = Shape::of(read).classes_of_read(read);
    classes
        .iter()
        .map(|class| class.as_str().to_owned())
        .collect()
}

/// Two sidecars, cut off from the third one, make 64 shapes of the table known each; there is room for no more of others'.
fn use_up_the_room(world: &mut World) {
    world.cut(0, 2);
    world.cut(1, 2);
    for (at, letter) in [(0, 'a'), (1, 'b')] {
        for number in 0..SHAPES_PER_TABLE_MAX {
            let classes = classes_of(&column(&format!("{letter}{number}")));
            world.look_up(at, "list", &[&classes[0]]);
        }
    }
    world.settle();
}

/// The holder of the snapshot had not known the shape when it applied the change, and has no room to know it: who takes the snapshot is
/// the only one who can tell.
#[test]
fn g3_who_takes_a_snapshot_tells_what_a_shape_lacks() {
    let mut world = World::running(3);
    let five = list(5);
    use_up_the_room(&mut world);
    let change: EventId = world.next_event(0);
    world.rows_changed(0, vec![category(5)]);
    world.settle();
    world.look_up(2, "list", &[&five]);
    world.settle();
    let before = world.token(2, &[&five]);
    assert!(!world.resolve(2, "list", &[&five]).new_shape);
    for at in [0, 1] {
        world.nodes[at].disk.compact();
    }
    world.connect_all();
    world.converge().unwrap();
    assert!(world.core(2).counters().snapshots_adopted > 0);
    assert!(world.core(2).progress().has(change));
    assert!(world.resolve(0, "list", &[&five]).new_shape, "it has room");
    let shown = world.resolve(2, "list", &[&five]);
    assert!(
        shown.new_shape || shown.token != before,
        "it has the change, and the token from before it"
    );
}

/// The same of a leaf that follows rows: from when the change counts as applied until its shape's class has been told of it, the leaf is absent.
#[test]
fn g9_a_leaf_is_absent_while_its_shape_is_told_what_it_lacks() {
    let mut world = World::running(3);
    let five = list(5);
    use_up_the_room(&mut world);
    // Grants are over at the two, which may have changes that the third one does not hear of; its own are not.
    let change: EventId = world.next_event(0);
    let mut row = RowImage::from(category(5));
    row.moment = Moment::After;
    row.identity = Some(RowIdentity {
        id: RowId::parse("3").unwrap(),
        version: 0,
    });
    world.images_changed(0, vec![row]);
    world.settle();
    world.look_up(2, "list", &[&five]);
    world.settle();
    let leaf = LeafKey {
        class: ClassPath::parse(&five).unwrap(),
        ordering: Ordering::default(),
    };
    let ticket = world.ticket();
    world.input(2, Input::LoadLeaf(ticket, leaf.clone()));
    let Some(Reply::LeafTurn(LeafTurn::Load { load, .. })) = world.nodes[2].replies.get(&ticket.0)
    else {
        panic!("{:?}", world.nodes[2].replies);
    };
    // As the database had it before the change.
    let fill = LeafFill {
        leaf: leaf.clone(),
        load: *load,
        members: Vec::new(),
        more: false,
        whole: true,
        keep: 0,
    };
    let ticket = world.ticket();
    world.input(2, Input::FillLeaf(ticket, fill));
    let query = LeafQuery {
        leaves: vec![leaf],
        combine: Combine::Any,
        window: Window {
            limit: 10,
            ..Window::default()
        },
        verified: false,
    };
    let found = |world: &World| {
        let answer = world.core(2).read_leaf(&query, world.now);
        matches!(answer, LeafAnswer::Found { .. })
    };
    assert!(found(&world));
    for at in [0, 1] {
        world.nodes[at].disk.compact();
    }
    world.connect_all();
    let check = |world: &World| {
        let applied = world.core(2).progress().has(change);
        assert!(!applied || !found(world), "it lacks what counts as applied");
        applied
    };
    let mut seen = 0;
    for _ in 0..60 {
        for (from, to) in [(0, 2), (2, 0), (1, 2), (2, 1), (0, 1), (1, 0)] {
            while world.deliver(from, to) {
                seen += u32::from(check(&world));
            }
        }
        for at in 0..3 {
            world.flush(at);
            seen += u32::from(check(&world));
            while world.pump(at) {
                seen += u32::from(check(&world));
            }
        }
        world.advance(Duration::from_millis(20));
    }
    assert!(world.core(2).counters().snapshots_adopted > 0);
    assert!(seen > 0, "it has the change");
}

/// However many shapes a table has, and rows a change: what it becomes where it arrives has a bound, and misses nothing.
#[test]
fn g10_a_change_of_many_rows_bumps_whole_shapes() {
    let mut world = World::running(1);
    let (five, other) = (list(5), classes_of(&column("other")));
    for class in [&five, &other[0]] {
        world.look_up(0, "list", &[class]);
    }
    world.settle();
    let bumped = |world: &mut World, rows: Vec<Conjunction>| {
        let (held, before) = (world.core(0).versions().len(), world.token(0, &[&five]));
        world.rows_changed(0, rows);
        world.settle();
        let more = world.core(0).versions().len() - held;
        (more, world.token(0, &[&five]) != before)
    };
    // One for each category; nothing is known of the other column, so all of that shape, and all rows of the table.
    let many = (1_000..1_064).map(category).collect();
    let (more, stale) = bumped(&mut world, many);
    assert!((64..=66).contains(&more) && !stale, "{more} {stale}");
    // Two tables: each has half of the room, which 64 of one fit into.
    let table = |name: &str| Conjunction::all_of(Table::parse(name).unwrap());
    let mut two: Vec<_> = (2_000..2_063).map(category).collect();
    two.push(table("bids"));
    let (more, stale) = bumped(&mut world, two);
    assert!((63..=65).contains(&more) && !stale, "{more} {stale}");
    // Four tables: 61 of one do not, and all reads of the shape are stale.
    let mut four: Vec<_> = (3_000..3_061).map(category).collect();
    four.extend(["bids", "users", "comments"].map(table));
    let (more, stale) = bumped(&mut world, four);
    assert!(more <= 4 && stale, "{more} {stale}");
}
