//! Leaves step by step: one schedule for each race and each bound.

use std::time::Duration;

use grapevine_core::criteria::Shape;
use grapevine_core::event::{Moment, RowImage};
use grapevine_core::index::{Combine, LeafKey, Ordering, Place, RowId, RowIdentity, SortKey};
use grapevine_core::machine::SHAPES_PER_TABLE_MAX;
use grapevine_core::machine::effects::{
    FillOutcome, Input, LeafAnswer, LeafFill, LeafQuery, LeafTurn, Refusal, Reply,
};

use super::{LEASE, Shelves, datum, leaf, row};

/// A list by id that is read, loaded and pruned step by step.
pub(super) const LIST: (usize, usize, bool) = (0, 0, false);

impl Shelves {
    /// Has a row told of by a node, everywhere if `settled`.
    pub(super) fn move_to(&mut self, at: usize, id: usize, category: usize, settled: bool) {
        self.commit(0, id, Some((category, 1)), 0);
        self.tell(at, 0);
        self.world.flush(at);
        if settled {
            self.world.settle();
        }
    }

    /// Has a node's leaf loaded.
    pub(super) fn load(&mut self, at: usize) {
        for _ in 0..2 {
            self.read(at, LIST, 1).unwrap();
            self.world.settle();
        }
        while !self.loads.is_empty() {
            self.go_on_loading(0);
        }
        self.looking.clear();
        assert!(self.listed(at).is_some(), "node {at} has loaded it");
    }

    pub(super) fn listed(&self, at: usize) -> Option<Vec<String>> {
        let query = Self::query(LIST, 1_000, false);
        match self.world.core(at).read_leaf(&query, self.world.now) {
            LeafAnswer::Found { found, .. } => {
                let members = found.members.into_iter();
                Some(members.map(|(place, _)| place.id.to_string()).collect())
            }
            _ => None,
        }
    }
}

/// Race 7, at one sidecar: whoever read the leaf before the row came back prunes it after that.
#[test]
fn g9_a_row_that_came_back_is_not_pruned_by_who_saw_it_elsewhere() {
    let mut shelves = Shelves::new();
    shelves.move_to(0, 3, 0, true);
    shelves.load(0);
    shelves.move_to(1, 3, 1, true);
    shelves.read(0, LIST, 1).unwrap();
    shelves.go_on_looking(0);
    assert_eq!(shelves.counts.extra, 1, "it was seen elsewhere");
    shelves.move_to(1, 3, 0, true);
    shelves.go_on_looking(0);
    assert_eq!(shelves.listed(0).unwrap(), ["3"]);
}

/// Race 7, between two: the hint of a prune comes to a sidecar where the row has come back already.
#[test]
fn g9_a_hint_does_not_prune_what_its_speaker_had_not_applied() {
    let mut shelves = Shelves::new();
    shelves.move_to(0, 3, 0, true);
    (0..2).for_each(|at| shelves.load(at));
    shelves.move_to(1, 3, 1, true);
    shelves.read(0, LIST, 1).unwrap();
    shelves.go_on_looking(0);
    shelves.move_to(1, 3, 0, false);
    shelves.go_on_looking(0);
    assert_eq!(
        shelves.listed(0).unwrap().len(),
        0,
        "it has not heard of it"
    );
    shelves.world.settle();
    assert_eq!(shelves.listed(0).unwrap(), ["3"]);
    assert_eq!(shelves.listed(1).unwrap(), ["3"]);
    // Where nothing else has happened the hint does what it is for.
    shelves.move_to(1, 3, 1, true);
    shelves.read(0, LIST, 1).unwrap();
    (0..2).for_each(|_| shelves.go_on_looking(0));
    shelves.world.settle();
    assert_eq!(shelves.listed(1).unwrap().len(), 0);
}

/// Race 8: a leaf is dropped while it is loaded, and loaded anew; the first answer comes last.
#[test]
fn g9_an_answer_for_an_earlier_right_is_refused() {
    let mut shelves = Shelves::new();
    shelves.load(0);
    shelves.commit_where(0, 1);
    shelves.tell(0, 0);
    shelves.world.settle();
    shelves.read(0, LIST, 1).unwrap();
    let mut first = shelves.loads.pop().unwrap();
    first.answer = Some(Vec::new());
    // What was read then lacks this, and the right is over.
    shelves.world.advance(LEASE + Duration::from_millis(1));
    shelves.move_to(0, 4, 0, true);
    shelves.read(0, LIST, 1).unwrap();
    let second = shelves.loads.pop().unwrap();
    assert_ne!(first.right, second.right);
    shelves.loads.push(first);
    shelves.go_on_loading(0);
    assert_eq!(shelves.counts.over, 1);
    assert_eq!(shelves.listed(0), None);
    shelves.loads.push(second);
    (0..2).for_each(|_| shelves.go_on_loading(0));
    assert_eq!(shelves.listed(0).unwrap(), ["4"]);
}

/// A leaf that has missed something is not whole again by what it could have followed afterwards: neither present nor while it is loaded.
#[test]
fn g9_what_was_missed_stays_missed_whatever_follows() {
    let mut shelves = Shelves::new();
    shelves.load(0);
    shelves.load(1);
    shelves.commit(0, 2, Some((1, 1)), 0);
    shelves.commit_where(0, 1);
    (0..2).for_each(|_| shelves.tell(1, 0));
    shelves.world.settle();
    shelves.move_to(1, 3, 0, true);
    assert_eq!(shelves.listed(0), None);
    // The same while it is loaded: the answer is from before.
    shelves.read(0, LIST, 1).unwrap();
    shelves.go_on_loading(0);
    shelves.commit(0, 4, Some((1, 1)), 0);
    shelves.commit_where(0, 1);
    (0..2).for_each(|_| shelves.tell(1, 0));
    shelves.world.settle();
    shelves.move_to(1, 1, 0, true);
    shelves.go_on_loading(0);
    assert_eq!(shelves.counts.condemned, 1);
    assert_eq!(shelves.listed(0), None);
}

/// A row of which too little is told to have its place, or its name, leaves the lists that it is in absent; others take it in.
#[test]
fn g9_a_row_without_a_place_or_a_name_is_not_passed_over() {
    let mut shelves = Shelves::new();
    shelves.load(0);
    let ordered = LeafQuery {
        leaves: vec![leaf(0, 0, true)],
        combine: Combine::Any,
        ..Shelves::query(LIST, 100, false)
    };
    let answer = |shelves: &Shelves| {
        let core = shelves.world.core(0);
        core.read_leaf(&ordered, shelves.world.now)
    };
    shelves.read(0, (0, 0, true), 1).unwrap();
    (0..2).for_each(|_| shelves.go_on_loading(0));
    assert!(matches!(answer(&shelves), LeafAnswer::Found { .. }));
    let identity = Some(RowIdentity {
        id: RowId::parse("3").unwrap(),
        version: 0,
    });
    let image = |identity| RowImage {
        rows: row(0, &[("category", 0)]),
        moment: Moment::After,
        identity,
    };
    shelves.world.images_changed(0, vec![image(identity)]);
    shelves.world.settle();
    assert_eq!(
        answer(&shelves),
        LeafAnswer::Absent(vec![0]),
        "its price is not told"
    );
    assert_eq!(shelves.listed(0).unwrap(), ["3"]);
    shelves.world.images_changed(0, vec![image(None)]);
    shelves.world.settle();
    assert_eq!(shelves.listed(0), None, "its id is not told");
}

/// A right of another run, or sidecar, has a number too: it ends no load here.
#[test]
fn g9_a_right_of_another_run_says_nothing_here() {
    let mut shelves = Shelves::new();
    (0..2).for_each(|_| {
        shelves.read(0, LIST, 1).unwrap();
        shelves.world.settle();
    });
    shelves.go_on_loading(0);
    let own = shelves.loads[0].right;
    let other = shelves.world.incarnation(1);
    shelves.loads[0].right.run = other;
    shelves.go_on_loading(0);
    assert_eq!((shelves.counts.over, shelves.counts.stored), (1, 0));
    let ticket = shelves.world.ticket();
    let fill = LeafFill {
        leaf: leaf(LIST.0, LIST.1, LIST.2),
        load: own,
        members: Vec::new(),
        more: false,
        whole: true,
        keep: 0,
    };
    shelves.world.input(0, Input::FillLeaf(ticket, fill));
    let reply = shelves.world.nodes[0].replies.get(&ticket.0);
    assert!(
        matches!(reply, Some(Reply::LeafFilled(FillOutcome::Stored))),
        "{reply:?}"
    );
}

/// First rows are those of the leaf's order through all parts, and all parts say that they are.
#[test]
fn g9_first_rows_that_are_out_of_order_are_refused() {
    let place = |price: i64, id: i64| {
        let key = SortKey::of(&datum(price).value, false);
        let id = RowId::parse(&id.to_string()).unwrap();
        (Place { key, id }, 0)
    };
    // By falling price; parts of a fill, whether each is whole, and whether all are taken.
    let fills = [
        (
            vec![
                (vec![place(3, 1), place(2, 2)], false),
                (vec![place(2, 1)], false),
            ],
            true,
        ),
        (vec![(vec![place(2, 1), place(3, 2)], false)], false),
        (
            vec![
                (vec![place(3, 1), place(2, 2)], false),
                (vec![place(2, 3)], false),
            ],
            false,
        ),
        (
            vec![(vec![place(3, 1)], true), (vec![place(2, 2)], false)],
            false,
        ),
        (
            vec![(vec![place(3, 1)], false), (vec![place(2, 2)], true)],
            false,
        ),
    ];
    for (parts, taken) in fills {
        let mut shelves = Shelves::new();
        let list = (0, 0, true);
        (0..2).for_each(|_| {
            shelves.read(0, list, 1).unwrap();
            shelves.world.settle();
        });
        let load = shelves.loads[0].right;
        let mut replies = Vec::new();
        let count = parts.len();
        for (at, (members, whole)) in parts.clone().into_iter().enumerate() {
            let ticket = shelves.world.ticket();
            let fill = LeafFill {
                leaf: leaf(list.0, list.1, list.2),
                load,
                members,
                more: at + 1 < count,
                whole,
                keep: 0,
            };
            shelves.world.input(0, Input::FillLeaf(ticket, fill));
            let reply = shelves.world.nodes[0].replies.remove(&ticket.0);
            replies.push(reply.unwrap());
        }
        let last = replies.last().unwrap();
        if taken {
            assert!(
                matches!(last, Reply::LeafFilled(FillOutcome::Stored)),
                "{last:?}"
            );
        } else {
            assert!(
                matches!(last, Reply::Refused(Refusal::LeafOutOfOrder)),
                "{parts:?}: {last:?}"
            );
        }
    }
}

/// Leaves without members, and loads that nobody finishes, take up room as well.
#[test]
fn g10_leaves_and_loads_are_bounded_together() {
    let mut shelves = Shelves::new();
    shelves.load(0);
    let right = |shelves: &mut Shelves, category| {
        let ticket = shelves.world.ticket();
        let key = leaf(0, category, false);
        shelves.world.input(0, Input::LoadLeaf(ticket, key));
        match shelves.world.nodes[0].replies.get(&ticket.0) {
            Some(Reply::LeafTurn(LeafTurn::Load { load, .. })) => *load,
            other => panic!("{other:?}"),
        }
    };
    let fill = |shelves: &mut Shelves, category, load, members: usize, more| {
        let ticket = shelves.world.ticket();
        let members = (0..members).map(|id| {
            let id = RowId::parse(&id.to_string()).unwrap();
            let key = SortKey::NONE;
            (Place { key, id }, 0)
        });
        let fill = LeafFill {
            leaf: leaf(0, category, false),
            load,
            members: members.collect(),
            more,
            whole: true,
            keep: 0,
        };
        shelves.world.input(0, Input::FillLeaf(ticket, fill));
        shelves.world.nodes[0].replies.remove(&ticket.0).unwrap()
    };
    for category in 10..60 {
        let load = right(&mut shelves, category);
        fill(&mut shelves, category, load, 0, false);
        let (leaves, _) = shelves.world.core(0).leaf_counts();
        assert!(leaves * 8 <= 60, "{leaves} empty leaves");
    }
    // One that is half loaded drops what is present, and then gives way itself.
    let first = right(&mut shelves, 1);
    fill(&mut shelves, 1, first, 40, true);
    assert!(shelves.world.core(0).leaf_counts().0 <= 1);
    let second = right(&mut shelves, 2);
    fill(&mut shelves, 2, second, 40, true);
    let reply = fill(&mut shelves, 1, first, 0, false);
    assert!(matches!(reply, Reply::LeafFilled(FillOutcome::Over)));
    let reply = fill(&mut shelves, 2, second, 61, false);
    assert!(
        matches!(reply, Reply::Refused(Refusal::LeafTooLarge { .. })),
        "{reply:?}"
    );
    assert_eq!(shelves.world.core(0).leaf_counts(), (0, 0));
}

/// Of a list of which only the first rows are known, what is added behind them is no part: there may be others before it.
#[test]
fn g9_a_bounded_leaf_never_answers_beyond_what_is_known() {
    let list = (0, 0, true);
    let mut shelves = Shelves::new();
    for (id, price) in [(0, 3), (1, 2), (2, 1)] {
        shelves.commit(0, id, Some((0, price)), 0);
        shelves.tell(0, 0);
    }
    for _ in 0..2 {
        shelves.read(0, list, 1).unwrap();
        shelves.world.settle();
    }
    shelves.go_on_loading(8);
    shelves.loads[0].whole = false;
    shelves.loads[0].answer.as_mut().unwrap().truncate(2);
    shelves.go_on_loading(16);
    assert_eq!(shelves.counts.stored, 1);
    shelves.commit(0, 3, Some((0, 0)), 0);
    shelves.tell(0, 0);
    shelves.world.settle();
    let found = |limit| {
        let query = Shelves::query(list, limit, false);
        match shelves.world.core(0).read_leaf(&query, shelves.world.now) {
            LeafAnswer::Found { found, .. } => found,
            other => panic!("{other:?}"),
        }
    };
    let three = found(3);
    assert_eq!(
        (three.members.len(), three.whole, three.more),
        (2, false, true)
    );
    let two = found(2);
    assert_eq!((two.members.len(), two.whole, two.more), (2, true, true));
}

/// A change that arrives behind a later one of its run shows in no token: the leaf that had the later one must not go on.
#[test]
fn g9_only_changes_in_the_order_of_their_run_are_followed() {
    let mut shelves = Shelves::new();
    shelves.load(0);
    shelves.move_to(1, 3, 0, false);
    assert_eq!(shelves.world.drop_all(1, 0), 1, "node 0 misses it");
    shelves.move_to(1, 4, 0, false);
    shelves.world.deliver_all(1, 0);
    assert_eq!(shelves.listed(0), None);
    shelves.load(0);
    let mut listed = shelves.listed(0).unwrap();
    listed.sort();
    assert_eq!(listed, ["3", "4"]);
}

/// Of a table's sets of columns only so many are made known. Whoever asks for a list by one more is told at once, and not to wait for another
/// caller.
#[test]
fn g10_an_index_without_room_is_not_waited_for() {
    let mut shelves = Shelves::new();
    let mut turn = |column: usize| {
        let rows = row(0, &[(&format!("c{column}"), 1)]);
        let leaf = LeafKey {
            class: Shape::of(&rows).classes_of_read(&rows).remove(0),
            ordering: Ordering::default(),
        };
        let mut ask = || {
            let ticket = shelves.world.ticket();
            shelves
                .world
                .input(0, Input::LoadLeaf(ticket, leaf.clone()));
            shelves.world.settle();
            match shelves.world.nodes[0].replies.remove(&ticket.0) {
                Some(Reply::LeafTurn(turn)) => turn,
                other => panic!("{other:?}"),
            }
        };
        let turns = (ask(), ask());
        // There may be few rights at a time, and that is not what is looked at.
        shelves.world.advance(LEASE);
        turns
    };
    for column in 0..SHAPES_PER_TABLE_MAX {
        let (first, then) = turn(column);
        assert!(
            matches!(first, LeafTurn::Wait { .. }),
            "{column}: {first:?}"
        );
        assert!(matches!(then, LeafTurn::Load { .. }), "{column}: {then:?}");
    }
    let without_room = turn(SHAPES_PER_TABLE_MAX);
    assert_eq!(without_room, (LeafTurn::Bypass, LeafTurn::Bypass));
}
