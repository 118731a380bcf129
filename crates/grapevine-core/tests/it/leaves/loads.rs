//! Loads of leaves that nobody finishes: rights that are taken and dropped, and answers of which the end does not come.

use std::collections::VecDeque;
use std::time::Duration;

use grapevine_core::event::{Moment, RowImage};
use grapevine_core::index::{Combine, Place, RowId, RowIdentity, SortKey, Window};
use grapevine_core::machine::effects::{
    Counters, FillOutcome, Input, LeafAnswer, LeafFill, LeafQuery, LeafTurn, LoadId, Reply,
};

use super::{leaf, row};
use crate::world::World;

const MILLISECOND: Duration = Duration::from_millis(1);
/// As it is by default.
const LEASE: Duration = Duration::from_secs(30);
/// How many loads there may be at a time, with room for very many members.
const LOADS_MAX: usize = 4_096;
/// How long a right is safe from others, before anything comes of it and between parts.
const KEPT: Duration = Duration::from_secs(15);
const KEPT_BETWEEN: Duration = Duration::from_millis(3_750);

fn place(id: usize) -> (Place, u64) {
    let id = RowId::parse(&id.to_string()).unwrap();
    let key = SortKey::NONE;
    (Place { key, id }, 0)
}

/// One sidecar, and those who load leaves of it: by category.
struct Loaders(World);

impl Loaders {
    fn new(index_members_max: usize) -> Self {
        let mut loaders = Self(World::running_with(1, |config| {
            config.lease_duration = LEASE;
            config.limits.index_members_max = index_members_max;
        }));
        // Its table's shape is made known.
        assert!(matches!(loaders.ask(0), LeafTurn::Wait { .. }));
        loaders.0.settle();
        loaders
    }

    fn ask(&mut self, category: usize) -> LeafTurn {
        let ticket = self.0.ticket();
        let load = Input::LoadLeaf(ticket, leaf(0, category, false));
        self.0.input(0, load);
        match self.0.nodes[0].replies.remove(&ticket.0) {
            Some(Reply::LeafTurn(turn)) => turn,
            other => panic!("{other:?}"),
        }
    }

    fn right(&mut self, category: usize) -> LoadId {
        match self.ask(category) {
            LeafTurn::Load { load, .. } => load,
            other => panic!("{category}: {other:?}"),
        }
    }

    /// Rights that nobody uses.
    fn take_and_drop(&mut self, categories: std::ops::Range<usize>) {
        for category in categories {
            self.right(category);
        }
    }

    /// A part of an answer: the rows of these ids.
    fn part(
        &mut self,
        (category, load): (usize, LoadId),
        ids: std::ops::Range<usize>,
        more: bool,
    ) -> FillOutcome {
        let fill = LeafFill {
            leaf: leaf(0, category, false),
            load,
            members: ids.map(place).collect(),
            more,
            whole: true,
            keep: 0,
        };
        let ticket = self.0.ticket();
        self.0.input(0, Input::FillLeaf(ticket, fill));
        match self.0.nodes[0].replies.remove(&ticket.0) {
            Some(Reply::LeafFilled(outcome)) => outcome,
            other => panic!("{other:?}"),
        }
    }

    /// Has a leaf loaded by a caller who does what it should.
    fn load(&mut self, category: usize, members: usize) {
        let right = self.right(category);
        let outcome = self.part((category, right), 0..members, false);
        assert_eq!(outcome, FillOutcome::Stored);
    }

    fn listed(&self, category: usize) -> Option<Vec<String>> {
        let query = LeafQuery {
            leaves: vec![leaf(0, category, false)],
            combine: Combine::Any,
            window: Window {
                limit: 10_000,
                ..Window::default()
            },
            verified: false,
        };
        match self.0.core(0).read_leaf(&query, self.0.now) {
            LeafAnswer::Found { found, .. } => {
                let members = found.members.into_iter();
                Some(members.map(|(place, _)| place.id.to_string()).collect())
            }
            LeafAnswer::Absent(_) => None,
            LeafAnswer::Bypass => panic!("it is fresh"),
        }
    }

    /// A row comes into a category.
    fn add(&mut self, id: usize, category: usize) {
        let image = RowImage {
            rows: row(0, &[("category", category)]),
            moment: Moment::After,
            identity: Some(RowIdentity {
                id: RowId::parse(&id.to_string()).unwrap(),
                version: 0,
            }),
        };
        self.0.images_changed(0, vec![image]);
        self.0.settle();
    }

    fn advance(&mut self, duration: Duration) {
        self.0.advance(duration);
        self.0.settle();
    }

    fn counters(&self) -> Counters {
        self.0.core(0).counters()
    }

    fn members(&self) -> usize {
        self.0.core(0).leaf_counts().1
    }
}

/// More leaves are wanted than may be loaded at a time, for the database takes its time: 1,000 a second, five seconds each. Whoever is given
/// a right keeps it, and what it brings is stored; the others are told at once to read for themselves.
#[test]
fn g10_where_the_database_is_slow_what_is_begun_is_stored() {
    const SECONDS: usize = 30;
    const TAKES: usize = 5_000;
    let mut loaders = Loaders::new(2_000_000);
    let mut coming: VecDeque<(usize, usize, LoadId)> = VecDeque::new();
    let (mut granted, mut stored, mut refused) = (0, 0, 0);
    for millisecond in 0..SECONDS * 1_000 {
        while let Some((_, category, load)) = coming.pop_front_if(|it| it.0 <= millisecond) {
            let outcome = loaders.part((category, load), 0..1, false);
            stored += usize::from(outcome == FillOutcome::Stored);
        }
        let category = 100 + millisecond;
        match loaders.ask(category) {
            LeafTurn::Load { load, .. } => {
                granted += 1;
                coming.push_back((millisecond + TAKES, category, load));
            }
            LeafTurn::Bypass => refused += 1,
            LeafTurn::Wait { after } => panic!("{millisecond}: in vain for {after:?}"),
        }
        loaders.advance(MILLISECOND);
    }
    assert_eq!(stored, granted - coming.len(), "of {granted} rights");
    // As many as there may be in each five seconds, and no right less.
    let most = LOADS_MAX * SECONDS * 1_000 / TAKES;
    assert_eq!((granted, refused), (most, SECONDS * 1_000 - most));
    let counters = loaders.counters();
    assert_eq!(counters.loads_refused, refused as u64);
    assert_eq!(counters.loads_displaced, 0);
}

/// As many rights as there may be are taken, and their callers die. The next readers are told to read for themselves, and load once the rights
/// have been silent for half of their lease, which a database may take that is slow.
#[test]
fn g10_rights_that_nobody_uses_keep_no_leaf_from_being_loaded_for_long() {
    let mut loaders = Loaders::new(2_000_000);
    loaders.take_and_drop(100..100 + LOADS_MAX);
    assert_eq!(loaders.ask(1), LeafTurn::Bypass);
    // Who asks for one of theirs waits for it as ever.
    let soon = Duration::from_millis(20);
    assert_eq!(loaders.ask(100), LeafTurn::Wait { after: soon });
    loaders.advance(KEPT.saturating_sub(MILLISECOND));
    assert_eq!(loaders.ask(1), LeafTurn::Bypass);
    let counters = loaders.counters();
    assert_eq!((counters.loads_refused, counters.loads_displaced), (2, 0));
    loaders.advance(MILLISECOND);
    for category in 1..100 {
        loaders.load(category, 3);
    }
    assert_eq!(loaders.listed(1).unwrap(), ["0", "1", "2"]);
    // Each of those who finished left room for the next one.
    let counters = loaders.counters();
    assert_eq!((counters.loads_refused, counters.loads_displaced), (2, 1));
}

/// Whose load made way for another one is told so: of what it brings nothing is stored, also not where the leaf is being loaded anew.
#[test]
fn g9_a_right_that_made_way_stores_nothing() {
    let mut loaders = Loaders::new(2_000_000);
    let first = loaders.right(1);
    let second = loaders.right(2);
    assert_eq!(loaders.part((2, second), 0..2, true), FillOutcome::More);
    loaders.advance(MILLISECOND);
    loaders.take_and_drop(100..98 + LOADS_MAX);
    loaders.advance(KEPT);
    loaders.take_and_drop(10..12);
    assert_eq!(loaders.counters().loads_displaced, 2);
    // The database's answers lack what is committed now, and nobody gathers it.
    loaders.add(7, 1);
    loaders.add(7, 2);
    let late = |loaders: &mut Loaders| {
        let first = loaders.part((1, first), 0..3, false);
        let second = loaders.part((2, second), 2..4, false);
        assert_eq!((first, second), (FillOutcome::Over, FillOutcome::Over));
    };
    late(&mut loaders);
    assert_eq!((loaders.listed(1), loaders.listed(2)), (None, None));
    // Others load them anew, and the late answers end nothing of theirs.
    let rights = [1, 2].map(|category| (category, loaders.right(category)));
    late(&mut loaders);
    loaders.add(8, 2);
    for right in rights {
        assert_eq!(loaders.part(right, 7..8, false), FillOutcome::Stored);
    }
    assert_eq!(loaders.listed(1).unwrap(), ["7"]);
    assert_eq!(loaders.listed(2).unwrap(), ["7", "8"]);
    late(&mut loaders);
    assert_eq!(loaders.listed(1).unwrap(), ["7"]);
}

/// Loads that are silent make way, those first of which parts had come, and of these the one that has been silent longest. To say nothing
/// new is silence.
#[test]
fn g10_loads_that_are_silent_make_way_and_no_others() {
    let mut loaders = Loaders::new(2_000_000);
    let living = (1, loaders.right(1));
    let fell_silent = (2, loaders.right(2));
    let repeats = (3, loaders.right(3));
    for load in [living, fell_silent, repeats] {
        assert_eq!(loaders.part(load, 0..1, true), FillOutcome::More);
    }
    loaders.take_and_drop(100..97 + LOADS_MAX);
    loaders.advance(KEPT_BETWEEN.saturating_sub(MILLISECOND));
    assert_eq!(loaders.part(living, 1..2, true), FillOutcome::More);
    assert_eq!(loaders.part(repeats, 0..1, true), FillOutcome::More);
    assert_eq!(loaders.part(repeats, 0..0, true), FillOutcome::More);
    assert_eq!(loaders.ask(10), LeafTurn::Bypass, "a pause between parts");
    loaders.advance(MILLISECOND);
    loaders.take_and_drop(10..12);
    assert_eq!(loaders.ask(12), LeafTurn::Bypass, "the others go on");
    assert_eq!(loaders.part(fell_silent, 1..2, true), FillOutcome::Over);
    assert_eq!(loaders.part(repeats, 1..2, true), FillOutcome::Over);
    // Then those of which nothing has come; the living one stays.
    loaders.advance(KEPT.saturating_sub(KEPT_BETWEEN + MILLISECOND));
    assert_eq!(loaders.part(living, 2..3, true), FillOutcome::More);
    assert_eq!(loaders.ask(12), LeafTurn::Bypass, "the database is slow");
    loaders.advance(MILLISECOND);
    loaders.take_and_drop(12..12 + LOADS_MAX - 3);
    assert_eq!(loaders.ask(9), LeafTurn::Bypass, "all others are new");
    assert_eq!(loaders.part(living, 3..4, false), FillOutcome::Stored);
    assert_eq!(loaders.listed(1).unwrap(), ["0", "1", "2", "3"]);
}

/// Who waits for a leaf that another caller loads looks again soon, and ever less often while nothing is heard of that: an eighth of the time that has passed
/// already, up to a second, and when the lease is over.
#[test]
fn g10_who_waits_for_a_silent_load_looks_ever_less_often() {
    let mut loaders = Loaders::new(2_000_000);
    let right = (1, loaders.right(1));
    let mut passed = 0;
    let mut wait = |loaders: &mut Loaders, at: u64| {
        loaders.advance(MILLISECOND * u32::try_from(at - passed).unwrap());
        passed = at;
        match loaders.ask(1) {
            LeafTurn::Wait { after } => after.as_millis(),
            other => panic!("{other:?}"),
        }
    };
    for (at, after) in [
        (0, 20),
        (160, 20),
        (800, 100),
        (4_000, 500),
        (20_000, 1_000),
    ] {
        assert_eq!(wait(&mut loaders, at), after, "at {at} ms");
    }
    // It is heard of.
    assert_eq!(loaders.part(right, 0..1, true), FillOutcome::More);
    assert_eq!(wait(&mut loaders, 20_000), 20);
    assert_eq!(wait(&mut loaders, 29_600), 400, "its lease is over then");
    assert_eq!(wait(&mut loaders, 29_999), 20);
    loaders.advance(MILLISECOND);
    loaders.load(1, 3);
}

/// What has come of answers counts, with the rows that are gathered beside them, and is gone when their leases are over.
#[test]
fn g10_members_of_loads_under_way_are_counted() {
    let mut loaders = Loaders::new(1_000);
    loaders.load(1, 10);
    let right = (2, loaders.right(2));
    loaders.part(right, 0..300, true);
    assert_eq!(loaders.members(), 310);
    loaders.add(700, 2);
    assert_eq!(loaders.members(), 311);
    assert_eq!(loaders.part(right, 300..310, false), FillOutcome::Stored);
    assert_eq!(loaders.members(), 321);
    let dropped = (3, loaders.right(3));
    loaders.part(dropped, 0..300, true);
    loaders.add(700, 3);
    assert_eq!(loaders.0.core(0).leaf_counts(), (2, 622));
    // Nobody asks for anything.
    loaders.advance(LEASE + Duration::from_secs(10));
    assert_eq!(loaders.0.core(0).leaf_counts(), (2, 321));
    assert_eq!(loaders.counters().loads_displaced, 0);
}

/// Of loads that nobody finishes the members go before leaves that are whole: those of which parts have come after an eighth of their
/// leases, the others after half of it. With all of them there is never more than there may be.
#[test]
fn g10_loads_that_are_silent_go_before_whole_leaves() {
    for (parts, silent) in [(true, LEASE / 8), (false, LEASE / 2)] {
        let mut loaders = Loaders::new(1_000);
        loaders.load(1, 300);
        let hoarded = (2, loaders.right(2));
        if parts {
            assert_eq!(loaders.part(hoarded, 0..400, true), FillOutcome::More);
        } else {
            (0..400).for_each(|id| loaders.add(id, 2));
        }
        assert_eq!(loaders.members(), 700, "{parts}");
        loaders.advance(silent);
        assert_eq!(loaders.members(), 700, "{parts}: there is room");
        loaders.load(3, 400);
        assert_eq!(loaders.members(), 700, "{parts}");
        assert!(loaders.listed(1).is_some(), "{parts}: it is read");
        assert!(loaders.listed(3).is_some(), "{parts}");
        assert_eq!(loaders.part(hoarded, 400..401, false), FillOutcome::Over);
        let counters = loaders.counters();
        assert_eq!((counters.leaves_evicted, counters.loads_displaced), (0, 1));
    }
}

/// A caller that has not been silent for that long is not robbed of its load for the next one's sake: a whole leaf goes.
#[test]
fn g10_a_load_that_goes_on_is_finished_where_there_is_little_room() {
    for (parts, silent) in [(true, LEASE / 8), (false, LEASE / 2)] {
        let mut loaders = Loaders::new(1_000);
        loaders.load(1, 300);
        let slow = (2, loaders.right(2));
        if parts {
            assert_eq!(loaders.part(slow, 0..300, true), FillOutcome::More);
        }
        loaders.advance(silent.saturating_sub(MILLISECOND));
        loaders.load(3, 900 - if parts { 300 } else { 0 });
        assert_eq!(
            loaders.listed(1),
            None,
            "{parts}: it was loaded longest ago"
        );
        assert_eq!(loaders.part(slow, 300..310, false), FillOutcome::Stored);
        let counters = loaders.counters();
        assert_eq!((counters.leaves_evicted, counters.loads_displaced), (1, 0));
        assert!(loaders.listed(2).is_some() && loaders.members() <= 1_000);
    }
}

/// Where all of the room is taken by loads that go on, the one that is being filled is the last to go.
#[test]
fn g10_loads_alone_stay_within_the_room() {
    let mut loaders = Loaders::new(1_000);
    let rights = [1, 2, 3].map(|category| {
        let right = (category, loaders.right(category));
        loaders.advance(MILLISECOND);
        right
    });
    for right in rights {
        assert_eq!(loaders.part(right, 0..300, true), FillOutcome::More);
        loaders.advance(MILLISECOND);
    }
    assert_eq!(loaders.part(rights[0], 300..500, true), FillOutcome::More);
    assert_eq!(loaders.members(), 800);
    assert_eq!(loaders.part(rights[1], 300..310, false), FillOutcome::Over);
    for right in [rights[0], rights[2]] {
        assert_eq!(loaders.part(right, 500..501, false), FillOutcome::Stored);
    }
}

/// Where there is room for few members, there are few rights: by their mere number they take up no more than half of it.
#[test]
fn g10_rights_alone_push_out_no_more_than_half_of_what_is_whole() {
    let mut loaders = Loaders::new(1_000);
    loaders.load(1, 450);
    let mut rights = 0;
    for category in 100..1_100 {
        rights += usize::from(loaders.ask(category) != LeafTurn::Bypass);
        loaders.advance(MILLISECOND);
    }
    assert_eq!(rights, 1_000 / 16);
    assert!(loaders.listed(1).is_some());
    assert_eq!(loaders.counters().leaves_evicted, 0);
    // When they have been silent for long, each makes way for one.
    loaders.advance(KEPT);
    loaders.take_and_drop(2_000..2_000 + rights);
    assert_eq!(loaders.counters().loads_displaced, rights as u64);
    assert_eq!(loaders.ask(1_100), LeafTurn::Bypass);
    assert!(loaders.listed(1).is_some());
}
