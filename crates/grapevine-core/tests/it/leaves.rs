//! G9 under random schedules: rows move between categories and change their price, are told of late, by whichever node, with or without
//! what they were; leaves are read, loaded, filled in parts, pruned and evicted, while messages are lost and late, links cut, processes killed
//! and disks wiped.
//!
//! What is checked at each read: a leaf that is answered has every row which is in it now, and of which one change since it came there
//! was applied at the sidecar that answers. At the end, when all is told and applied, a leaf has after one pass of pruning what the
//! database has, and nothing else, in its order.

mod coming;
mod loads;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use grapevine_core::criteria::{Cell, Column, Conjunction, Datum, Dialect, Raw, Shape, Table};
use grapevine_core::event::{BumpEvent, Event, Moment, RowImage};
use grapevine_core::id::{EventId, Incarnation, Lane};
use grapevine_core::index::{
    Combine, LeafKey, Ordering, Place, RowId, RowIdentity, SortKey, Window,
};
use grapevine_core::lease::Lease;
use grapevine_core::machine::effects::{
    FillOutcome, Input, LeafAnswer, LeafFill, LeafQuery, LeafTurn, LoadId, Prune, Reply,
};
use grapevine_core::store::Write;
use proptest::collection::vec;
use proptest::prelude::{Strategy as _, any, proptest};
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{TestCaseError, TestRunner};

use crate::world::World;

const NODES: usize = 3;
const ROWS: usize = 5;
const CATEGORIES: usize = 2;
/// Of the second one the application counts the versions of rows.
const TABLES: [&str; 2] = ["plain", "counted"];

/// How long the right to load a leaf holds.
const LEASE: Duration = Duration::from_millis(400);

type Step = (u8, u8, u8, u8);

fn datum(value: i64) -> Datum {
    Datum::of(Dialect::Sqlite, Raw::Int(value)).unwrap()
}

fn row(table: usize, cells: &[(&str, usize)]) -> Conjunction {
    let mut rows = Conjunction::all_of(Table::parse(TABLES[table]).unwrap());
    for (column, value) in cells {
        let value = datum(i64::try_from(*value).unwrap());
        rows.narrow(Column::parse(column).unwrap(), Cell::Is(value));
    }
    rows
}

/// A list: by id, or by falling price.
fn leaf(table: usize, category: usize, ordered: bool) -> LeafKey {
    let rows = row(table, &[("category", category)]);
    LeafKey {
        class: Shape::of(&rows).classes_of_read(&rows).remove(0),
        ordering: Ordering {
            by: ordered.then(|| Column::parse("price").unwrap()),
            descending: ordered,
            nulls_high: false,
        },
    }
}

/// A row as it is: nothing where it is deleted.
type State = Option<(usize, usize)>;

/// A row's last commits.
#[derive(Clone, Debug, Default)]
struct Row {
    state: State,
    version: u64,
    /// Commits since it came into its category, and since it has its price as well.
    in_category: Vec<usize>,
    at_price: Vec<usize>,
}

/// What was committed: what is to be told of it, and the event that told.
#[derive(Debug)]
struct Commit {
    images: Vec<RowImage>,
    event: Option<EventId>,
}

/// An application that loads a leaf.
#[derive(Debug)]
struct Load {
    at: usize,
    run: Incarnation,
    list: (usize, usize, bool),
    right: LoadId,
    answer: Option<Vec<(Place, u64)>>,
    whole: bool,
}

/// An application that has read a leaf, and looks at its rows.
#[derive(Debug)]
struct Looking {
    at: usize,
    run: Incarnation,
    list: (usize, usize, bool),
    members: Vec<Place>,
    evidence: Lease,
    gone: Option<Vec<Place>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    commits: usize,
    reads: u64,
    found: u64,
    members: u64,
    extra: u64,
    loads: u64,
    stored: u64,
    condemned: u64,
    over: u64,
    pruned: u64,
    evicted: u64,
    displaced: u64,
    floors: u64,
    snapshots: u64,
    retired: u64,
    begun: u64,
    committed: u64,
    aborted: u64,
    expired: u64,
}

struct Shelves {
    world: World,
    retires: bool,
    rows: [[Row; ROWS]; 2],
    commits: Vec<Commit>,
    untold: Vec<usize>,
    loads: Vec<Load>,
    looking: Vec<Looking>,
    /// Calls to begin a write, by node and run.
    writes: Vec<(usize, Incarnation, u64)>,
    counts: Counts,
}

impl Shelves {
    fn new() -> Self {
        Self::with(false)
    }

    /// The same, where runs that are over may be retired soon.
    fn with(retires: bool) -> Self {
        let world = World::running_with(NODES, |config| {
            if retires {
                config.limits.old_runs_max = 0;
                config.retire_after = Duration::from_millis(100);
            }
            config.lease_duration = LEASE;
            config.limits.classes_per_top_max = 3;
            config.limits.index_members_max = 60;
            config.limits.index_rows_max = 4;
        });
        Self {
            world,
            retires,
            rows: Default::default(),
            commits: Vec::new(),
            untold: Vec::new(),
            loads: Vec::new(),
            looking: Vec::new(),
            writes: Vec::new(),
            counts: Counts::default(),
        }
    }

    fn place(&self, table: usize, id: usize, ordered: bool) -> Option<(Place, u64)> {
        let row = &self.rows[table][id];
        let (_, price) = row.state?;
        let key = if ordered {
            SortKey::of(&datum(i64::try_from(price).unwrap()).value, false)
        } else {
            SortKey::NONE
        };
        let id = RowId::parse(&id.to_string()).unwrap();
        let version = if table == 1 { row.version } else { 0 };
        Some((Place { key, id }, version))
    }

    /// Commits a row's change; it is told of later. `how` says how much of what it was.
    fn commit(&mut self, table: usize, id: usize, to: State, how: usize) {
        let commit = self.commits.len();
        let row_now = &mut self.rows[table][id];
        let before = row_now.state;
        if before.is_none() && to.is_none() {
            return;
        }
        row_now.version += 1;
        let version = if table == 1 { row_now.version } else { 0 };
        row_now.state = to;
        if before.map(|(category, _)| category) != to.map(|(category, _)| category) {
            row_now.in_category.clear();
            row_now.at_price.clear();
        }
        if before.map(|(_, price)| price) != to.map(|(_, price)| price) {
            row_now.at_price.clear();
        }
        row_now.in_category.push(commit);
        row_now.at_price.push(commit);
        let identity = Some(RowIdentity {
            id: RowId::parse(&id.to_string()).unwrap(),
            version,
        });
        let image = |rows, moment| RowImage {
            rows,
            moment,
            identity: identity.clone(),
        };
        let cells = |(category, price)| row(table, &[("category", category), ("price", price)]);
        let mut images = Vec::new();
        match (how % 3, before) {
            (0, Some(before)) => images.push(image(cells(before), Moment::Before)),
            (1, Some(_)) => images.push(image(row(table, &[]), Moment::Before)),
            _ => {}
        }
        if let Some(to) = to {
            images.push(image(cells(to), Moment::After));
        }
        if images.is_empty() {
            images.push(image(row(table, &[]), Moment::Before));
        }
        self.commits.push(Commit {
            images,
            event: None,
        });
        self.untold.push(commit);
        self.counts.commits += 1;
    }

    /// Moves all rows of a category, without a list of them.
    fn commit_where(&mut self, table: usize, from: usize) {
        let to = (from + 1) % CATEGORIES;
        let commit = self.commits.len();
        for row in &mut self.rows[table] {
            if let Some((category, price)) = row.state
                && category == from
            {
                row.state = Some((to, price));
                row.version += 1;
                row.in_category = vec![commit];
                row.at_price = vec![commit];
            }
        }
        let images = [from, to].map(|category| row(table, &[("category", category)]).into());
        self.commits.push(Commit {
            images: images.into(),
            event: None,
        });
        self.untold.push(commit);
        self.counts.commits += 1;
    }

    fn tell(&mut self, at: usize, which: usize) {
        if self.untold.is_empty() || !self.world.up(at) {
            return;
        }
        let commit = self.untold.remove(which % self.untold.len());
        let images = self.commits[commit].images.clone();
        match self.begun_write(which) {
            Some(intent) if which.is_multiple_of(3) => self.commit_write(at, intent, images),
            _ => drop(self.world.images_changed(at, images)),
        }
        let (_, writes) = self.world.nodes[at].unflushed.back().unwrap();
        // What a write's intent owes beside it comes before it.
        let event = writes.iter().rev().find_map(|write| match write {
            Write::Log {
                origin,
                sequence,
                event: Event::Bump(event),
            } if matches!(**event, BumpEvent::Rows(_)) => Some(EventId {
                origin: *origin,
                sequence: *sequence,
            }),
            _ => None,
        });
        self.commits[commit].event = Some(event.expect("the change is being written"));
    }

    fn step(&mut self, (what, at, x, y): Step) -> Result<(), String> {
        let at = usize::from(at) % NODES;
        let (x, y) = (usize::from(x), usize::from(y));
        let to = (at + 1 + x % (NODES - 1)) % NODES;
        let list = (y % 2, x % CATEGORIES, x / 2 % 2 == 0);
        match what % 64 {
            6 => self.begin_write(at, y / 64 % 2, x / 2 % ROWS, (y % CATEGORIES, y / 8 % 4)),
            58..=59 => self.abort_write(at, y),
            0..=5 => {
                let state = (y % 5 != 0).then_some((y % CATEGORIES, y / 8 % 4));
                self.commit(y / 64 % 2, x % ROWS, state, x / 16);
            }
            7 if y % 4 == 0 => self.commit_where(x % 2, x / 2 % CATEGORIES),
            7..=13 => self.tell(at, y),
            14..=18 => drop(self.world.flush(at)),
            19 => {
                self.world.settle();
                (0..4).for_each(|_| self.go_on_loading(y));
            }
            20..=24 => {
                let links = self.world.links.get(&(at, to));
                let count = links.map_or(0, std::collections::VecDeque::len);
                if count > 0 {
                    self.world.deliver_nth(at, to, y % count);
                }
            }
            25..=28 => self.world.deliver_all(at, to),
            29 => drop(self.world.drop_all(at, to)),
            30 => self.world.cut(at, to),
            31..=33 => self.world.connect(at, to),
            34..=35 => self.world.advance(Duration::from_millis(y as u64)),
            36 => drop(self.world.pump(at)),
            37 => self.world.nodes[at].disk.compact(),
            38 => self.crash(at, x % 4 == 0),
            39..=40 if !self.world.up(at) => self.world.start(at),
            43 if self.retires => self.let_retire(),
            41..=43 => self.world.settle(),
            44..=50 => self.go_on_loading(y),
            51..=54 => self.go_on_looking(y),
            _ => self.read(at, list, y)?,
        }
        self.check_stops()
    }

    /// Long enough for two looks at what is over.
    fn let_retire(&mut self) {
        for _ in 0..10 {
            self.world.settle();
            self.world.advance(Duration::from_millis(101));
        }
        self.world.settle();
    }

    /// Nobody stops, but for a run that learns that it was retired: then the next one takes its place.
    fn check_stops(&mut self) -> Result<(), String> {
        for at in 0..NODES {
            let Some(reason) = self.world.nodes[at].stopped.take() else {
                continue;
            };
            if !self.retires || !reason.contains("retired this run") {
                return Err(format!("{} stopped: {reason}", self.world.nodes[at].name));
            }
            self.crash(at, false);
        }
        Ok(())
    }

    /// Kills a process, and wipes its disk if the others have all that it has.
    fn crash(&mut self, at: usize, wipe: bool) {
        let applied = self.world.nodes.iter().flat_map(|node| &node.applied);
        let known = |event: &EventId| {
            let node = &self.world.nodes[at];
            let core = node.core.as_ref();
            node.disk.holds(*event) || core.is_some_and(|core| core.progress().has(*event))
        };
        let elsewhere = applied.map(|(event, _)| *event).filter(known).all(|event| {
            let mut others = (0..NODES).filter(|other| *other != at);
            others.any(|other| self.world.nodes[other].disk.holds(event))
        });
        self.world.crash(at);
        if wipe && elsewhere {
            self.world.wipe(at);
        }
        // What was not on disk was not acknowledged: the application tells it again.
        for (number, commit) in self.commits.iter_mut().enumerate() {
            let lost = commit.event.is_some_and(|event| {
                let known = |node: &crate::world::Node| {
                    let core = node.core.as_ref();
                    node.disk.holds(event) || core.is_some_and(|core| core.progress().has(event))
                };
                !self.world.nodes.iter().any(known)
            });
            if lost {
                commit.event = None;
                self.untold.push(number);
            }
        }
    }

    fn query(list: (usize, usize, bool), limit: usize, verified: bool) -> LeafQuery {
        let (table, category, ordered) = list;
        LeafQuery {
            leaves: vec![leaf(table, category, ordered)],
            combine: Combine::Any,
            window: Window {
                limit,
                ..Window::default()
            },
            verified,
        }
    }

    fn read(&mut self, at: usize, list: (usize, usize, bool), x: usize) -> Result<(), String> {
        if !self.world.up(at) {
            return Ok(());
        }
        self.counts.reads += 1;
        let limit = if x.is_multiple_of(3) { 2 } else { ROWS * 4 };
        let query = Self::query(list, limit, x.is_multiple_of(2));
        match self.world.core(at).read_leaf(&query, self.world.now) {
            LeafAnswer::Bypass => {}
            LeafAnswer::Absent(_) => self.begin(at, list),
            LeafAnswer::Found {
                found,
                evidence,
                refill,
            } => {
                self.counts.found += 1;
                self.counts.members += found.members.len() as u64;
                let places: Vec<_> = found
                    .members
                    .iter()
                    .map(|(place, _)| place.clone())
                    .collect();
                self.judge(at, list, (&places, limit, found.whole))?;
                if !refill.is_empty() {
                    self.begin(at, list);
                }
                let looking = Looking {
                    at,
                    run: self.world.incarnation(at),
                    list,
                    members: places,
                    evidence,
                    gone: None,
                };
                self.looking.push(looking);
            }
        }
        Ok(())
    }

    fn begin(&mut self, at: usize, list: (usize, usize, bool)) {
        let ticket = self.world.ticket();
        let (table, category, ordered) = list;
        let key = leaf(table, category, ordered);
        self.world.input(at, Input::LoadLeaf(ticket, key));
        match self.world.nodes[at].replies.get(&ticket.0) {
            Some(Reply::LeafTurn(LeafTurn::Load { load, .. })) => {
                self.counts.loads += 1;
                self.loads.push(Load {
                    at,
                    run: self.world.incarnation(at),
                    list,
                    right: *load,
                    answer: None,
                    whole: true,
                });
            }
            Some(Reply::LeafTurn(_)) => {}
            other => panic!("{other:?}"),
        }
    }

    /// What the database has of a list, in its order.
    fn truth(&self, (table, category, ordered): (usize, usize, bool)) -> Vec<(Place, u64)> {
        let ids = (0..ROWS).filter(|id| {
            let state = self.rows[table][*id].state;
            state.is_some_and(|(of, _)| of == category)
        });
        let mut places: Vec<_> = ids
            .filter_map(|id| self.place(table, id, ordered))
            .collect();
        places.sort();
        if ordered {
            places.reverse();
        }
        places
    }

    fn go_on_loading(&mut self, x: usize) {
        if self.loads.is_empty() {
            return;
        }
        let mut load = self.loads.remove(x % self.loads.len());
        if !self.world.up(load.at) || self.world.incarnation(load.at) != load.run {
            return;
        }
        let Some(mut members) = load.answer.take() else {
            let mut answer = self.truth(load.list);
            // Only the first ones, where there are more.
            load.whole = !load.list.2 || (x / 8).is_multiple_of(2) || answer.len() <= 2;
            if !load.whole {
                answer.truncate(2);
            }
            load.answer = Some(answer);
            return self.loads.push(load);
        };
        let (table, category, ordered) = load.list;
        let rest = if (x / 16).is_multiple_of(3) && members.len() > 1 {
            Some(members.split_off(1))
        } else {
            None
        };
        let ticket = self.world.ticket();
        let fill = LeafFill {
            leaf: leaf(table, category, ordered),
            load: load.right,
            members,
            more: rest.is_some(),
            whole: load.whole,
            keep: 0,
        };
        self.world.input(load.at, Input::FillLeaf(ticket, fill));
        match self.world.nodes[load.at].replies.get(&ticket.0) {
            Some(Reply::LeafFilled(FillOutcome::More)) => {
                load.answer = rest;
                self.loads.push(load);
            }
            Some(Reply::LeafFilled(FillOutcome::Stored)) => self.counts.stored += 1,
            Some(Reply::LeafFilled(FillOutcome::Condemned)) => self.counts.condemned += 1,
            Some(Reply::LeafFilled(FillOutcome::Over)) => self.counts.over += 1,
            other => panic!("{other:?}"),
        }
    }

    fn go_on_looking(&mut self, x: usize) {
        if self.looking.is_empty() {
            return;
        }
        let mut looking = self.looking.remove(x % self.looking.len());
        if !self.world.up(looking.at) || self.world.incarnation(looking.at) != looking.run {
            return;
        }
        let Some(places) = looking.gone.take() else {
            let truth: BTreeSet<_> = self
                .truth(looking.list)
                .into_iter()
                .map(|(p, _)| p)
                .collect();
            let mut gone = std::mem::take(&mut looking.members);
            gone.retain(|place| !truth.contains(place));
            self.counts.extra += gone.len() as u64;
            if !gone.is_empty() {
                looking.gone = Some(gone);
                self.looking.push(looking);
            }
            return;
        };
        let (table, category, ordered) = looking.list;
        let ticket = self.world.ticket();
        let prune = Prune {
            leaf: leaf(table, category, ordered),
            places,
            evidence: looking.evidence,
        };
        self.world
            .input(looking.at, Input::PruneLeaf(ticket, prune));
    }

    /// G9: what must be among the members is.
    fn judge(
        &self,
        at: usize,
        list: (usize, usize, bool),
        (found, limit, whole): (&[Place], usize, bool),
    ) -> Result<(), String> {
        if !whole {
            return Ok(());
        }
        let (table, _, ordered) = list;
        let progress = self.world.core(at).progress();
        let applied = |commit: &usize| {
            let event = self.commits[*commit].event;
            event.is_some_and(|event| progress.has(event))
        };
        let full = found.len() == limit;
        for (place, _) in self.truth(list) {
            let id = (0..ROWS).find(|id| id.to_string() == place.id.to_string());
            let row = &self.rows[table][id.unwrap()];
            let since = if ordered {
                &row.at_price
            } else {
                &row.in_category
            };
            let ahead = !full
                || found.last().is_some_and(|last| {
                    if ordered {
                        place > *last
                    } else {
                        place < *last
                    }
                });
            if ahead && since.iter().any(applied) && !found.contains(&place) {
                return Err(format!(
                    "G9: node {at} leaves {place:?} out of {list:?}: {found:?}\n{row:?}"
                ));
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), String> {
        for _ in 0..=NODES {
            for at in 0..NODES {
                if !self.world.up(at) {
                    self.world.start(at);
                }
            }
            self.world.connect_all();
            self.world
                .converge_on(&[Lane::Bump])
                .map_err(|error| format!("stuck:\n{error}"))?;
            if self.retires {
                self.let_retire();
            }
            self.check_stops()?;
            if (0..NODES).all(|at| self.world.up(at)) {
                break;
            }
        }
        while !self.untold.is_empty() {
            self.tell(0, 0);
        }
        self.let_writes_end();
        self.world
            .converge_on(&[Lane::Bump])
            .map_err(|error| format!("stuck:\n{error}"))?;
        for at in 0..NODES {
            for list in [(0, 0, true), (0, 1, false), (1, 0, false), (1, 1, true)] {
                self.settled_leaf(at, list)?;
            }
        }
        for at in 0..NODES {
            let counters = self.world.core(at).counters();
            self.counts.pruned += counters.members_pruned;
            self.counts.evicted += counters.leaves_evicted;
            self.counts.displaced += counters.loads_displaced;
            self.counts.floors += counters.floors_own;
            self.counts.snapshots += counters.snapshots_adopted;
            self.counts.retired += counters.runs_retired;
            self.counts.committed += counters.intents_committed;
            self.counts.aborted += counters.intents_aborted;
            self.counts.expired += counters.intents_expired + counters.intents_expired_for_others;
        }
        Ok(())
    }

    /// With all applied, a leaf is what the database has after at most one load and one pass of pruning.
    fn settled_leaf(&mut self, at: usize, list: (usize, usize, bool)) -> Result<(), String> {
        for _ in 0..6 {
            self.loads.clear();
            self.looking.clear();
            self.read(at, list, 1)?;
            self.world.settle();
            if self.loads.is_empty() {
                // Somebody had begun to load it, and does not go on.
                self.world.advance(LEASE + Duration::from_millis(1));
                self.world.settle();
            }
            while !self.loads.is_empty() {
                self.go_on_loading(0);
            }
            while !self.looking.is_empty() {
                self.go_on_looking(0);
            }
        }
        let query = Self::query(list, ROWS * 4, true);
        let truth: Vec<_> = self
            .truth(list)
            .into_iter()
            .map(|(place, _)| place)
            .collect();
        let answer = self.world.core(at).read_leaf(&query, self.world.now);
        let LeafAnswer::Found { found, .. } = &answer else {
            return Err(format!("{at} has no leaf {list:?}: {answer:?}"));
        };
        let places: Vec<_> = found.members.iter().map(|(p, _)| p.clone()).collect();
        if places != truth {
            return Err(format!("{at} has {places:?} of {list:?}, not {truth:?}"));
        }
        Ok(())
    }
}

fn run(steps: &[Step], retires: bool) -> Result<Counts, String> {
    let mut shelves = Shelves::with(retires);
    for step in steps {
        shelves.step(*step)?;
    }
    shelves.finish()?;
    Ok(shelves.counts)
}

fn steps() -> impl proptest::strategy::Strategy<Value = Vec<Step>> {
    vec(any::<Step>(), 1..400).prop_map(|steps| steps)
}

proptest! {
    #![proptest_config(crate::config(150))]

    #[test]
    fn g9_leaves_hold_the_truth_under_random_schedules(schedule in steps()) {
        run(&schedule, false).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn g9_leaves_hold_the_truth_while_runs_are_retired(schedule in steps()) {
        run(&schedule, true).map_err(TestCaseError::fail)?;
    }
}

#[test]
fn g9_the_schedules_do_what_they_are_for() {
    let mut runner = TestRunner::deterministic();
    let (mut sum, mut retired) = (BTreeMap::new(), 0);
    for _ in 0..80 {
        let schedule = steps().new_tree(&mut runner).unwrap().current();
        let counts = run(&schedule, false).unwrap();
        retired += run(&schedule, true).unwrap().retired;
        for (name, count) in [
            ("commits", counts.commits as u64),
            ("found", counts.found),
            ("members", counts.members),
            ("extra", counts.extra),
            ("stored", counts.stored),
            ("condemned", counts.condemned),
            ("over", counts.over),
            ("pruned", counts.pruned),
            ("evicted", counts.evicted),
            ("displaced", counts.displaced),
            ("floors", counts.floors),
            ("snapshots", counts.snapshots),
            ("writes begun", counts.begun),
            ("committed", counts.committed),
            ("aborted", counts.aborted),
            ("expired", counts.expired),
        ] {
            *sum.entry(name).or_insert(0) += count;
        }
    }
    println!("80 schedules: {sum:?}; {retired} runs are retired where they may be");
    assert!(retired > 20, "{retired}");
    let rare: Vec<_> = sum.iter().filter(|(_, count)| **count < 3).collect();
    assert!(rare.is_empty(), "{rare:?}");
    assert!(sum["found"] > 200 && sum["extra"] > 40, "{sum:?}");
}
