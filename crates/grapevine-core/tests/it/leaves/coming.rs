//! Rows of writes that have begun and not ended: shown in leaves, by a hint, and no members of them (G8, G9).

use std::time::Duration;

use grapevine_core::event::{Moment, PurgeMode, RowImage};
use grapevine_core::index::{RowId, RowIdentity};
use grapevine_core::intent::IntentId;
use grapevine_core::machine::effects::{
    Announced, BeginWrite, Input, ReceiptLevel, Reply, RowsChange, Written,
};

use super::steps::LIST;
use super::{Shelves, row};

/// How long a write may take.
const WRITE_LEASE: Duration = Duration::from_millis(300);

fn image(
    table: usize,
    id: usize,
    version: u64,
    moment: Moment,
    (category, price): (usize, usize),
) -> RowImage {
    RowImage {
        rows: row(table, &[("category", category), ("price", price)]),
        moment,
        identity: Some(RowIdentity {
            id: RowId::parse(&id.to_string()).unwrap(),
            version,
        }),
    }
}

impl Shelves {
    /// A node is told that a row will be written; whether it ever is, is another matter.
    pub(super) fn begin_write(&mut self, at: usize, table: usize, id: usize, to: (usize, usize)) {
        if !self.world.up(at) {
            return;
        }
        let row_now = &self.rows[table][id];
        let version = if table == 1 { row_now.version + 1 } else { 0 };
        let before = row_now
            .state
            .map(|state| image(table, id, version, Moment::Before, state));
        let after = image(table, id, version, Moment::After, to);
        let images = before.into_iter().chain([after]).collect();
        let ticket = self.announce(at, images);
        self.writes.push((at, self.world.incarnation(at), ticket));
    }

    fn announce(&mut self, at: usize, images: Vec<RowImage>) -> u64 {
        let ticket = self.world.ticket();
        let call = BeginWrite {
            announced: Announced::Rows(images),
            purge: PurgeMode::Hard,
            lease: WRITE_LEASE,
            deadline: self.world.now.plus(Duration::from_secs(1)),
            random: ticket.0,
        };
        self.world.input(at, Input::BeginWrite(ticket, call));
        self.counts.begun += 1;
        ticket.0
    }

    /// A write that has begun, and is taken out of those that have.
    pub(super) fn begun_write(&mut self, which: usize) -> Option<IntentId> {
        let nodes = &self.world.nodes;
        let intent_of = |(at, _, ticket): &(usize, _, u64)| match nodes[*at].replies.get(ticket) {
            Some(Reply::Begun { intent, .. }) => Some(*intent),
            _ => None,
        };
        let writes = self.writes.iter().enumerate();
        let begun = writes.filter_map(|(number, write)| Some((number, intent_of(write)?)));
        let begun: Vec<_> = begun.collect();
        let (number, intent) = *begun.get(which % begun.len().max(1))?;
        self.writes.remove(number);
        Some(intent)
    }

    /// Ends a write at any node by what was written, which need not be what was announced.
    pub(super) fn commit_write(&mut self, at: usize, intent: IntentId, rows: Vec<RowImage>) {
        let ticket = self.world.ticket();
        let change = RowsChange {
            rows,
            purge: PurgeMode::Hard,
            level: ReceiptLevel::None,
            deadline: self.world.now.plus(Duration::from_secs(10)),
        };
        let input = Input::CommitWrite(ticket, intent, Written::Rows(change));
        self.world.input(at, input);
    }

    pub(super) fn abort_write(&mut self, at: usize, which: usize) {
        if self.world.up(at)
            && let Some(intent) = self.begun_write(which)
        {
            let ticket = self.world.ticket();
            self.world.input(at, Input::AbortWrite(ticket, intent));
        }
    }

    /// Until what has begun is over, wherever it is held.
    pub(super) fn let_writes_end(&mut self) {
        for _ in 0..70 {
            self.world.settle();
            self.world.advance(Duration::from_millis(100));
        }
        self.world.settle();
    }

    fn open(&mut self, at: usize, images: Vec<RowImage>) -> IntentId {
        let ticket = self.announce(at, images);
        self.world.settle();
        match self.world.nodes[at].replies.get(&ticket) {
            Some(Reply::Begun { intent, .. }) => *intent,
            other => panic!("{other:?}"),
        }
    }

    fn shown(&self) -> [Option<Vec<String>>; 3] {
        [0, 1, 2].map(|at| self.listed(at))
    }
}

/// Three times the same list.
fn all(ids: &[&str]) -> [Option<Vec<String>>; 3] {
    let ids: Vec<_> = ids.iter().map(|id| (*id).to_owned()).collect();
    [Some(ids.clone()), Some(ids.clone()), Some(ids)]
}

fn loaded() -> Shelves {
    let mut shelves = Shelves::new();
    shelves.move_to(0, 1, 0, true);
    (0..3).for_each(|at| shelves.load(at));
    assert_eq!(shelves.shown(), all(&["1"]));
    shelves
}

#[test]
fn g9_a_row_that_is_being_written_is_shown_at_once_and_not_pruned() {
    let mut shelves = loaded();
    let coming = image(0, 3, 0, Moment::After, (0, 1));
    let intent = shelves.open(2, vec![coming.clone()]);
    let both = all(&["1", "3"]);
    assert_eq!(shelves.shown(), both);
    // Somebody looks before the commit, finds no row, and has it removed after that.
    shelves.read(0, LIST, 1).unwrap();
    shelves.go_on_looking(0);
    assert_eq!(shelves.counts.extra, 1);
    shelves.commit(0, 3, Some((0, 1)), 2);
    shelves.untold.clear();
    shelves.looking.reverse();
    shelves.go_on_looking(0);
    assert_eq!(shelves.shown()[0], both[0], "in doubt");
    shelves.read(1, LIST, 1).unwrap();
    shelves.commit_write(2, intent, vec![coming]);
    shelves.world.settle();
    assert_eq!(shelves.shown(), both);
    // It is a member now, and what was looked for before it came does not concern it.
    shelves.let_writes_end();
    assert_eq!(shelves.shown(), both);
}

#[test]
fn g9_what_was_announced_and_aborted_leaves_no_trace() {
    let mut shelves = loaded();
    // Its version is counted, and it would go elsewhere: until it has, it is where it was.
    let moves = [
        image(1, 2, 2, Moment::Before, (0, 1)),
        image(1, 2, 2, Moment::After, (1, 1)),
    ];
    let intent = shelves.open(0, vec![image(0, 3, 0, Moment::After, (0, 1))]);
    let other = shelves.open(1, moves.to_vec());
    assert_eq!(shelves.shown()[2], all(&["1", "3"])[0]);
    for (at, intent) in [(0, intent), (1, other)] {
        let ticket = shelves.world.ticket();
        shelves.world.input(at, Input::AbortWrite(ticket, intent));
    }
    shelves.world.settle();
    assert_eq!(shelves.shown(), all(&["1"]));
    shelves.let_writes_end();
    let bumped = (0..3).map(|at| shelves.world.core(at).counters().intents_expired);
    assert_eq!(bumped.sum::<u64>(), 0);
}

/// Nobody knows whether the row came: its leaves are unknown, and those of others are as they were.
#[test]
fn g8_g9_a_write_that_ends_with_its_lease_leaves_its_leaves_absent() {
    let mut shelves = loaded();
    let _ = shelves.open(0, vec![image(0, 3, 0, Moment::After, (1, 1))]);
    shelves.let_writes_end();
    assert_eq!(shelves.shown(), all(&["1"]));
    let _ = shelves.open(0, vec![image(0, 3, 0, Moment::After, (0, 1))]);
    assert_eq!(shelves.shown()[1], all(&["1", "3"])[0]);
    shelves.let_writes_end();
    assert_eq!(shelves.shown(), [None, None, None]);
}

/// The write was another one than was announced: both are made stale, and the leaves are not told where the announced row is.
#[test]
fn g8_what_was_announced_and_not_written_is_made_stale_too() {
    let mut shelves = loaded();
    let intent = shelves.open(0, vec![image(0, 3, 0, Moment::After, (0, 1))]);
    shelves.commit_write(0, intent, vec![image(0, 3, 0, Moment::After, (1, 1))]);
    shelves.let_writes_end();
    assert_eq!(shelves.shown(), [None, None, None]);
    // A row that had no number yet is the one that has it now.
    let mut shelves = loaded();
    let mut new = image(0, 4, 0, Moment::After, (0, 1));
    new.identity = None;
    let intent = shelves.open(0, vec![new]);
    shelves.commit_write(0, intent, vec![image(0, 4, 0, Moment::After, (0, 1))]);
    shelves.let_writes_end();
    let both = all(&["1", "4"]);
    assert_eq!(shelves.shown(), both);
}

/// Two new rows that are equal but for the ids that they have not yet: one that was written stands for one of them.
#[test]
fn g8_of_two_announced_rows_without_ids_one_that_was_written_covers_one() {
    let mut shelves = loaded();
    let mut new = image(0, 4, 0, Moment::After, (0, 1));
    new.identity = None;
    let written = |id| image(0, id, 0, Moment::After, (0, 1));
    let intent = shelves.open(0, vec![new.clone(), new.clone()]);
    shelves.commit_write(0, intent, vec![written(4), written(5)]);
    shelves.let_writes_end();
    assert_eq!(shelves.shown(), all(&["1", "4", "5"]));
    let intent = shelves.open(0, vec![new.clone(), new]);
    shelves.commit_write(0, intent, vec![written(6)]);
    shelves.let_writes_end();
    assert_eq!(shelves.shown(), [None, None, None]);
}

/// The row was announced before anybody asked for a list that it is in.
#[test]
fn g9_a_leaf_that_is_loaded_while_a_row_is_being_written_shows_it() {
    let mut shelves = Shelves::new();
    shelves.move_to(0, 1, 0, true);
    let _ = shelves.open(0, vec![image(0, 3, 0, Moment::After, (0, 1))]);
    shelves.load(1);
    assert_eq!(shelves.shown()[1], all(&["1", "3"])[1]);
}

/// The writer's sidecar dies. Whoever holds the intent bumps a grace behind its lease, and until that is applied a list shows the row.
#[test]
fn g8_g9_a_dead_writers_row_is_shown_until_its_leaf_is_unknown() {
    let mut shelves = loaded();
    let _ = shelves.open(0, vec![image(0, 3, 0, Moment::After, (0, 1))]);
    shelves.world.crash(0);
    let shown = all(&["1", "3"]);
    let mut unknown = 0;
    for _ in 0..25 {
        shelves.world.advance(Duration::from_millis(100));
        // Long enough for its bump, which is not written yet.
        for at in [1, 2] {
            let listed = shelves.listed(at);
            assert!(listed.is_none() || listed == shown[at], "{listed:?}");
            unknown += u32::from(listed.is_none());
        }
    }
    shelves.world.settle();
    assert_eq!(shelves.listed(1), None);
    assert_eq!(shelves.listed(2), None);
    println!("unknown {unknown} times before");
}

#[test]
fn g10_a_leaf_shows_so_many_rows_of_writes_under_way_and_counts_the_others() {
    let mut shelves = loaded();
    let ids: Vec<_> = (1_000..1_520).collect();
    for some in ids.chunks(20) {
        let rows = some.iter();
        let rows = rows.map(|id| image(0, *id, 0, Moment::After, (0, 1)));
        shelves.announce(0, rows.collect());
    }
    shelves.world.settle();
    let shown = shelves.listed(0).unwrap();
    assert_eq!(shown.len(), 1 + 512);
    let core = shelves.world.nodes[0].core.as_ref().unwrap();
    // By id and by price, in which there is one leaf's class.
    assert_eq!(core.counters().rows_not_shown, 8);
    shelves.let_writes_end();
}
