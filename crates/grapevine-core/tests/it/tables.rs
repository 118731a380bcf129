//! Local tables of clients: what they are told, how they are leased, and who waits for them (G6, G7, G10, G11).

use std::time::Duration;

use grapevine_core::event::Match;
use grapevine_core::machine::Limits;
use grapevine_core::machine::effects::{
    Action, HolderState, Input, Receipt, ReceiptLevel, Refusal, Reply, TableWord,
};
use grapevine_core::names::ClassPath;
use grapevine_core::table::{Notice, TableId, TableLease};

use crate::world::{MAX_STALENESS, World};

const PATIENCE: Duration = Duration::from_secs(10);
const TABLE: TableId = TableId(7);
/// What a lease is at most.
const LEASE: Duration = Duration::from_millis(500);

impl World {
    fn open_table(&mut self, at: usize, id: TableId) -> Result<u64, Refusal> {
        let ticket = self.ticket();
        self.input(at, Input::OpenTable(ticket, id));
        match &self.nodes[at].replies[&ticket.0] {
            Reply::TableOpened { position } => Ok(*position),
            Reply::Refused(refusal) => Err(refusal.clone()),
            other => panic!("{other:?}"),
        }
    }

    fn say_of(&mut self, at: usize, word: TableWord) {
        self.input(at, Input::Table(TABLE, word));
    }

    /// Asks for a lease; its duration.
    fn lease(&mut self, at: usize) -> Duration {
        self.say_of(at, TableWord::Asks(1));
        let told = self.nodes[at].tables.last();
        match told {
            Some(Action::Lease(TABLE, TableLease { duration, .. })) => *duration,
            other => panic!("{other:?}"),
        }
    }

    /// A table that has just been opened and holds a lease.
    fn leased(&mut self, at: usize) {
        self.open_table(at, TABLE).unwrap();
        assert!(!self.lease(at).is_zero());
    }

    /// The last position told.
    fn position(&self, at: usize) -> u64 {
        let told = self.nodes[at].tables.iter().rev();
        let mut positions = told.filter_map(|told| match told {
            Action::Notice { position, .. } => Some(*position),
            _ => None,
        });
        positions.next().unwrap_or(0)
    }

    /// What was told, in short.
    fn told(&self, at: usize) -> Vec<String> {
        let told = self.nodes[at].tables.iter().map(|told| match told {
            Action::Notice {
                position, notice, ..
            } => match notice {
                Notice::Everything => format!("{position} *"),
                Notice::Classes(classes) => {
                    let paths: Vec<_> = classes.iter().map(ClassPath::as_str).collect();
                    format!("{position} {}", paths.join(" "))
                }
            },
            Action::Lease(_, lease) => format!("lease {}", lease.request),
            other => format!("{other:?}"),
        });
        told.collect()
    }

    fn acknowledge(&mut self, at: usize) {
        let position = self.position(at);
        self.say_of(at, TableWord::Acknowledges(position));
    }

    fn receipt(&self, at: usize, call: u64) -> Option<Receipt> {
        match self.nodes[at].replies.get(&call)? {
            Reply::Invalidated { receipt, .. } => Some(receipt.clone()),
            other => panic!("{other:?}"),
        }
    }

    fn call(&mut self, at: usize, level: ReceiptLevel) -> u64 {
        self.invalidate_as(at, &["cart/13"], Match::Any, level, PATIENCE)
    }

    /// The same work as time brings, for so long: all are probed and granted meanwhile.
    fn live(&mut self, duration: Duration) {
        let end = self.now.plus(duration);
        while self.now < end {
            self.advance(Duration::from_millis(10).min(end.since(self.now)));
            self.settle();
        }
    }
}

fn rows(receipt: &Receipt) -> String {
    let letter = |state| match state {
        HolderState::Has => 'h',
        HolderState::Flushed => 'f',
        HolderState::HasNot => 'n',
        HolderState::CannotServe => 'c',
    };
    let rows = receipt.holders.iter();
    rows.map(|row| letter(row.state)).collect()
}

#[test]
fn g7_notices_and_leases_are_told_in_the_order_in_which_they_came_about() {
    let mut world = World::running_for_long(2, |_| {});
    assert_eq!(world.open_table(1, TABLE), Ok(0));
    world.lease(1);
    world.invalidate(1, &["a/1", "b"]);
    assert_eq!(world.told(1), ["lease 1"], "it is not flushed");
    world.flush(1);
    world.invalidate_as(0, &["c/2", "d"], Match::All, ReceiptLevel::None, PATIENCE);
    world.flush(0);
    world.deliver_all(0, 1);
    world.lease(1);
    world.invalidate(0, &["*"]);
    world.settle();
    let told = world.told(1);
    let told: Vec<_> = told.iter().map(String::as_str).collect();
    // Of a conjunction the anchor, which concerns whatever the whole concerns.
    assert_eq!(told, ["lease 1", "1 a/1 b", "2 c/2 d", "lease 1", "3 *"]);
    assert!(world.nodes[0].tables.is_empty(), "it has no table");
}

#[test]
fn g6_g7_a_receipt_of_all_waits_for_a_table_of_a_peer_and_lesser_ones_do_not() {
    let mut world = World::running_for_long(3, |_| {});
    world.leased(1);
    let levels = [ReceiptLevel::One, ReceiptLevel::Quorum, ReceiptLevel::All];
    let calls = levels.map(|level| world.call(0, level));
    world.settle();
    let receipts = calls.map(|call| world.receipt(0, call));
    assert!(receipts[0].as_ref().is_some_and(|it| it.satisfied));
    assert!(receipts[1].as_ref().is_some_and(|it| it.satisfied));
    assert_eq!(receipts[2], None, "the table of b may serve around it");
    // Part of it does not do.
    world.say_of(1, TableWord::Acknowledges(2));
    world.settle();
    assert_eq!(world.receipt(0, calls[2]), None);
    world.acknowledge(1);
    world.settle();
    let receipt = world.receipt(0, calls[2]).unwrap();
    assert!(receipt.satisfied);
    assert_eq!(rows(&receipt), "hhh");
}

#[test]
fn g6_a_row_says_flushed_until_no_table_serves_around_the_event() {
    let mut world = World::running_for_long(2, |_| {});
    world.leased(1);
    let one = world.call(0, ReceiptLevel::One);
    world.settle();
    assert_eq!(rows(&world.receipt(0, one).unwrap()), "hf");
    world.acknowledge(1);
    world.settle();
    let one = world.call(0, ReceiptLevel::One);
    world.flush(0);
    world.deliver_all(0, 1);
    world.acknowledge(1);
    world.settle();
    assert_eq!(rows(&world.receipt(0, one).unwrap()), "hh");
}

#[test]
fn g6_g7_the_answering_sidecar_waits_for_its_own_tables_too() {
    for alone in [true, false] {
        let mut world = World::running_for_long(if alone { 1 } else { 2 }, |_| {});
        world.leased(0);
        let call = world.call(0, ReceiptLevel::All);
        let none = world.call(0, ReceiptLevel::None);
        world.settle();
        assert_eq!(world.receipt(0, call), None, "{alone}");
        let none = world.receipt(0, none).unwrap();
        assert!(none.satisfied && rows(&none).starts_with('f'));
        world.acknowledge(0);
        let receipt = world.receipt(0, call).unwrap();
        assert!(receipt.satisfied && rows(&receipt).starts_with('h'));
    }
}

#[test]
fn g7_a_client_that_hangs_delays_receipts_by_the_lease_it_had_however_it_asks() {
    for at in [0, 1] {
        let mut world = World::running_for_long(2, |_| {});
        world.leased(at);
        world.live(Duration::from_millis(100));
        let call = world.call(0, ReceiptLevel::All);
        world.settle();
        let begin = world.now;
        // Its tasks ask, and what it is told lies unread behind them: those leases come behind the notice.
        while world.receipt(0, call).is_none() {
            world.live(Duration::from_millis(10));
            world.lease(at);
        }
        let receipt = world.receipt(0, call).unwrap();
        assert!(receipt.satisfied && rows(&receipt) == "hh", "{receipt:?}");
        let waited = world.now.since(begin);
        let least = LEASE.saturating_sub(Duration::from_millis(110));
        assert!(waited >= least && waited <= LEASE, "{waited:?}");
    }
}

#[test]
fn g7_a_client_that_asks_between_many_bumps_delays_none_by_more_than_a_lease() {
    let mut world = World::running_for_long(2, |_| {});
    world.open_table(1, TABLE).unwrap();
    let mut given = 0;
    for _ in 0..100 {
        given += usize::from(!world.lease(1).is_zero());
        world.invalidate(0, &["a"]);
        world.settle();
    }
    assert!((60..100).contains(&given), "{given}");
    let (call, begin) = (world.call(0, ReceiptLevel::All), world.now);
    world.settle();
    // It has no room for what they would be given behind.
    assert!(world.lease(1).is_zero());
    while world.receipt(0, call).is_none() {
        world.say_of(1, TableWord::Asks(1));
        world.live(Duration::from_millis(10));
    }
    let waited = world.now.since(begin);
    assert!(waited <= LEASE, "{waited:?}");
}

#[test]
fn g7_a_lease_is_short_however_long_a_sidecar_stays_fresh() {
    let long = Duration::from_hours(1);
    let mut world = World::running_for_long(1, |config| config.max_staleness = long);
    world.open_table(0, TABLE).unwrap();
    let lease = world.lease(0);
    let most = Duration::from_secs(2);
    assert!(lease <= most && lease > most.mul_f64(0.999), "{lease:?}");
}

#[test]
fn g7_a_table_that_is_silent_gets_no_lease_and_its_stream_ends_once_the_last_one_is_over() {
    let mut world = World::running_for_long(1, |_| {});
    world.leased(0);
    world.invalidate(0, &["a"]);
    world.settle();
    world.live(LEASE.saturating_sub(Duration::from_millis(20)));
    assert!(!world.lease(0).is_zero(), "it may follow still");
    world.live(Duration::from_millis(20));
    assert!(world.lease(0).is_zero());
    let ended = |world: &World| {
        let mut told = world.nodes[0].tables.iter();
        told.any(|told| matches!(told, Action::EndTable(TABLE)))
    };
    world.live(LEASE.saturating_sub(Duration::from_millis(30)));
    assert!(!ended(&world));
    world.live(Duration::from_millis(20));
    assert!(ended(&world));
    assert_eq!(world.core(0).tables(), 0);
    assert_eq!(world.core(0).counters().tables_lapsed, 1);
    // One that follows late, again and again, is none of those.
    world.leased(0);
    for _ in 0..20 {
        world.invalidate(0, &["a"]);
        world.settle();
        world.live(LEASE.saturating_sub(Duration::from_millis(20)));
        assert!(!world.lease(0).is_zero());
        world.acknowledge(0);
    }
}

#[test]
fn g7_g11_a_lease_ends_no_later_than_freshness_and_who_is_not_fresh_gives_none() {
    let mut world = World::running_for_long(3, |_| {});
    world.open_table(1, TABLE).unwrap();
    // Rate bounds: of the grant, and of the lease.
    let short = |duration: Duration| duration.mul_f64(1.0 - 200e-6);
    assert_eq!(world.lease(1), short(LEASE));
    world.cut(0, 1);
    world.cut(2, 1);
    let begin = world.now;
    let mut last = LEASE;
    while !last.is_zero() {
        let now = world.now;
        last = world.lease(1);
        let ends = now.since(begin) + last;
        assert!(ends <= MAX_STALENESS, "{ends:?}");
        assert!(world.core(1).may_keep(TABLE, now) || last.is_zero());
        world.advance(Duration::from_millis(7));
    }
    assert!(!world.core(1).may_keep(TABLE, world.now));
    assert!(world.now.since(begin) > MAX_STALENESS / 2);
    // Not met by anybody since its start.
    world.crash(0);
    world.start(0);
    world.open_table(0, TABLE).unwrap();
    assert!(world.lease(0).is_zero());
    assert!(!world.core(0).may_keep(TABLE, world.now));
    assert!(
        !world.core(2).may_keep(TABLE, world.now),
        "it has no such table"
    );
}

#[test]
fn g6_g7_who_leaves_says_so_when_no_table_serves_from_it() {
    for acknowledges in [true, false] {
        let mut world = World::running_for_long(3, |_| {});
        world.leased(1);
        let begin = world.now;
        world.input(1, Input::Drain);
        world.settle();
        assert_eq!(world.told(1).last().unwrap(), "1 *");
        let seated = |world: &World| world.core(0).roster().seats.len() == 3;
        assert!(seated(&world) && !world.core(1).may_end(world.now));
        assert!(world.lease(1).is_zero() && world.open_table(1, TableId(8)).is_err());
        // Meanwhile `all` waits for it.
        let call = world.call(0, ReceiptLevel::All);
        world.settle();
        assert_eq!(world.receipt(0, call), None);
        if acknowledges {
            world.acknowledge(1);
            world.settle();
            assert_eq!(world.now, begin);
        } else {
            world.live(LEASE.saturating_sub(Duration::from_millis(10)));
            assert!(seated(&world));
            world.live(Duration::from_millis(20));
        }
        assert!(!seated(&world));
        let receipt = world.receipt(0, call).unwrap();
        assert!(receipt.satisfied, "{receipt:?}");
    }
}

#[test]
fn g7_a_broken_stream_frees_no_table_and_one_that_is_released_is_free_at_once() {
    let few = |limits: &mut Limits| limits.local_tables_max = 1;
    let mut world = World::running_for_long(1, |config| few(&mut config.limits));
    world.leased(0);
    let full = world.open_table(0, TableId(8));
    assert!(matches!(full, Err(Refusal::Tables { limit: 1, .. })));
    world.say_of(0, TableWord::Ended);
    let Err(Refusal::Tables { after, .. }) = world.open_table(0, TableId(8)) else {
        panic!("it counts until its lease is over");
    };
    assert_eq!(after, LEASE);
    let call = world.call(0, ReceiptLevel::All);
    world.settle();
    assert_eq!(world.receipt(0, call), None);
    assert!(!world.core(0).may_keep(TABLE, world.now));
    world.live(LEASE + Duration::from_millis(1));
    assert!(world.receipt(0, call).unwrap().satisfied);
    world.leased(0);
    let call = world.call(0, ReceiptLevel::All);
    world.settle();
    assert_eq!(world.receipt(0, call), None);
    world.say_of(0, TableWord::Released);
    assert!(world.receipt(0, call).unwrap().satisfied);
    world.open_table(0, TableId(8)).unwrap();
    // What a table says that is gone, says nothing.
    world.say_of(0, TableWord::Acknowledges(9));
    world.say_of(0, TableWord::Asks(9));
}

#[test]
fn g10_what_no_list_of_classes_says_is_told_as_everything() {
    let small = |limits: &mut Limits| limits.classes_per_top_max = 4;
    let mut world = World::running_for_long(2, |config| small(&mut config.limits));
    world.leased(1);
    // Floors of a family name the family.
    for n in 0..12 {
        world.invalidate(1, &[&format!("f/{n}")]);
        world.settle();
    }
    let told = world.told(1);
    assert!(told.iter().any(|told| told.ends_with(" f")), "{told:?}");
    assert!(told.iter().all(|told| !told.ends_with(" *")), "{told:?}");
    // A state that is taken over whole.
    world.cut(0, 1);
    for n in 0..6 {
        world.invalidate(0, &[&format!("g/{n}")]);
        world.flush(0);
    }
    world.nodes[0].disk.compact();
    world.acknowledge(1);
    let before = world.position(1);
    world.connect(0, 1);
    world.converge().unwrap();
    assert!(world.core(1).counters().snapshots_adopted > 0);
    let told = world.told(1);
    let last = told.iter().filter(|told| told.ends_with(" *")).count();
    assert!(last > 0 && world.position(1) > before, "{told:?}");
    // Who issued what came so learns that it has it once the table has forgotten what it had.
    world.live(Duration::from_millis(300));
    world.leased_again(1);
    let call = world.call(0, ReceiptLevel::All);
    world.settle();
    assert_eq!(world.receipt(0, call), None);
    world.acknowledge(1);
    world.settle();
    assert!(world.receipt(0, call).unwrap().satisfied);
}

#[test]
fn g6_an_acknowledgement_behind_a_state_taken_over_whole_waits_for_tables() {
    let mut world = World::running_for_long(2, |_| {});
    world.leased(1);
    world.cut(0, 1);
    let call = world.call(0, ReceiptLevel::All);
    world.flush(0);
    world.nodes[0].disk.compact();
    world.connect(0, 1);
    for _ in 0..5 {
        world.advance(Duration::from_millis(20));
        world.settle();
        if world.core(1).counters().snapshots_adopted > 0 {
            break;
        }
    }
    assert!(world.core(1).counters().snapshots_adopted > 0);
    assert_eq!(world.receipt(0, call), None, "{:?}", world.told(1));
    world.acknowledge(1);
    world.settle();
    assert!(world.receipt(0, call).unwrap().satisfied);
}

#[test]
fn g6_what_waits_for_tables_is_bounded_and_nothing_counts_before_it_may() {
    let mut world = World::running_for_long(2, |_| {});
    world.leased(1);
    let many = 66_000;
    let begin = world.now;
    for _ in 0..many / 1_000 {
        for _ in 0..1_000 {
            world.invalidate(0, &["a"]);
        }
        world.flush(0);
        world.deliver_all(0, 1);
        world.flush(1);
    }
    let call = world.call(0, ReceiptLevel::All);
    world.settle();
    assert_eq!(world.now, begin);
    let last = world.position(1);
    assert_eq!(last, many + 1);
    // All that were told apart, and not the rest.
    world.say_of(1, TableWord::Acknowledges(65_600));
    world.settle();
    assert_eq!(world.receipt(0, call), None);
    world.say_of(1, TableWord::Acknowledges(last));
    world.settle();
    assert!(world.receipt(0, call).unwrap().satisfied);
}

#[test]
fn g6_word_of_a_table_that_was_lost_is_told_again_with_a_grant() {
    let mut world = World::running_for_long(2, |_| {});
    world.leased(1);
    let call = world.call(0, ReceiptLevel::All);
    world.settle();
    world.acknowledge(1);
    assert!(world.drop_all(1, 0) > 0);
    assert_eq!(world.receipt(0, call), None);
    world.live(Duration::from_millis(600));
    assert!(world.receipt(0, call).unwrap().satisfied);
}

impl World {
    fn leased_again(&mut self, at: usize) {
        self.acknowledge(at);
        assert!(!self.lease(at).is_zero());
    }
}
