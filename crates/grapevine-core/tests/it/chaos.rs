//! Whole cores under random schedules: messages lost, late and out of order, links cut, processes killed, disks wiped and
//! restored from older copies, logs compacted, snapshots broken off, tables so small that floors come all the time.
//!
//! After every step: a superseded token is not current again (G2); a read through the cache gives no value older than
//! what its sidecar has applied (G3); who is fresh has applied all that two members had on disk, which is when it counts
//! as acknowledged, one staleness bound ago (G7, G11). At the end everything is started and linked: all know all that was answered (G1), with equal tokens (G12),
//! and all are fresh, so nothing is stuck.
//!
//! A disk is lost or replaced only while other disks hold all that its node ever showed: that is the loss which G1
//! survives. Nobody is away for longer than `member_timeout`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use grapevine_core::criteria::{
    Cell, Column, Conjunction, Datum, Dialect, Range, Raw, Shape, Table,
};
use grapevine_core::event::{BumpEvent, Match};
use grapevine_core::id::{EventId, Incarnation, Lane, Time};
use grapevine_core::machine::effects::{
    Freshness, Input, LeaseClaim, ReceiptLevel, Reply, Resolution, Verdict,
};
use grapevine_core::policy::{Pattern, Policy, PolicySet, Strategy};
use grapevine_core::token::Token;
use proptest::collection::vec;
use proptest::prelude::{Strategy as _, any, proptest};
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{TestCaseError, TestRunner};

use crate::disk::Disk;
use crate::world::{MAX_STALENESS, World};

const NODES: usize = 3;
/// Addresses, by strategy of their first class, with their classes.
const OF_CLASSES: [(&str, &[&str]); 7] = [
    ("v1", &["v/1"]),
    ("v2", &["v/2", "w/1"]),
    ("v3", &["v/1/x"]),
    ("v4", &["v"]),
    ("r1", &["r/1"]),
    ("r2", &["r/2", "w/1"]),
    ("r3", &["r/2/x"]),
];
const BUMPED: [&[&str]; 9] = [
    &["v/1"],
    &["v/2"],
    &["r/1"],
    &["r/2"],
    &["w/1"],
    &["v"],
    &["v/3", "v/4"],
    &["v/5", "r/3"],
    &["r/2/x"],
];
const JOINT: [&[&str]; 3] = [&["v/2", "w/1"], &["r/2", "w"], &["r", "w/1"]];

/// Columns, and what is known of them.
type Known = &'static [(&'static str, Criterion)];

/// Reads by criteria, with the columns that they are by; those of `r` are registered.
const OF_ROWS: [(&str, &str, Known); 9] = [
    ("v1", "v", &[("c", Is(1))]),
    ("v2", "v", &[("c", Is(2))]),
    ("v3", "v", &[("c", Is(1)), ("d", Is(1))]),
    ("v4", "v", &[("p", To(10))]),
    ("v5", "v", &[("c", Is(1)), ("p", To(100))]),
    ("v6", "v", &[]),
    ("r1", "r", &[("c", Is(1))]),
    ("r2", "r", &[("d", Is(2))]),
    ("r3", "r", &[("c", Is(1)), ("p", To(10))]),
];
/// Changes of rows: what is known of them.
const CHANGED: [&[(&str, Criterion)]; 8] = [
    &[("c", Is(1)), ("d", Is(1)), ("p", Is(5))],
    &[("c", Is(1)), ("d", Is(2)), ("p", Is(50))],
    &[("c", Is(2)), ("d", Is(1)), ("p", Is(7))],
    &[("c", Is(2)), ("d", Is(2)), ("p", Is(1_000))],
    &[("c", Is(3)), ("d", Is(3)), ("p", Is(10))],
    &[("c", Is(1)), ("p", Is(10))],
    &[("d", Is(2))],
    &[("c", Is(2)), ("p", To(50))],
];

#[derive(Clone, Copy, Debug)]
enum Criterion {
    Is(i64),
    /// From 0 to this.
    To(i64),
}
use Criterion::{Is, To};

fn rows(table: &str, criteria: &[(&str, Criterion)]) -> Conjunction {
    let datum = |value| Datum::of(Dialect::Postgres, Raw::Int(value)).unwrap();
    let mut rows = Conjunction::all_of(Table::parse(table).unwrap());
    for (column, criterion) in criteria {
        let cell = match *criterion {
            Is(value) => Cell::Is(datum(value)),
            To(value) => Cell::In(Range::between(Some(&datum(0)), Some(&datum(value))).unwrap()),
        };
        rows.narrow(Column::parse(column).unwrap(), cell);
    }
    rows
}

/// What is read.
struct Read {
    name: &'static str,
    classes: Vec<String>,
    /// The rows, where it is read by criteria.
    rows: Option<Conjunction>,
}

impl Read {
    fn of_classes() -> Vec<Self> {
        let reads = OF_CLASSES.iter().map(|(name, classes)| Self {
            name,
            classes: classes.iter().map(|class| (*class).to_owned()).collect(),
            rows: None,
        });
        reads.collect()
    }

    fn of_rows() -> Vec<Self> {
        let reads = OF_ROWS.iter().map(|(name, table, criteria)| {
            let rows = rows(table, criteria);
            let classes = Shape::of(&rows).classes_of_read(&rows);
            Self {
                name,
                classes: classes.iter().map(ToString::to_string).collect(),
                rows: Some(rows),
            }
        });
        reads.collect()
    }

    fn paths(&self) -> Vec<&str> {
        self.classes.iter().map(String::as_str).collect()
    }
}

/// What the schedules are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Classes,
    /// Every run that is over is retired soon.
    Retiring,
    /// Reads are by criteria, and rows change.
    Rows,
    /// The same, while runs are retired.
    RetiringRows,
}

impl Kind {
    fn retires(self) -> bool {
        matches!(self, Self::Retiring | Self::RetiringRows)
    }

    fn has_rows(self) -> bool {
        matches!(self, Self::Rows | Self::RetiringRows)
    }
}

type Step = (u8, u8, u8, u8);

#[derive(Clone, Copy, Debug)]
struct Value {
    token: Token,
    read_at: u64,
}

/// A fill under way: resolved and read, not stored.
struct Fill {
    at: usize,
    address: usize,
    resolution: Resolution,
    read_at: u64,
    call: Option<(Incarnation, u64)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    reads: u64,
    hits: u64,
    bumps: usize,
    floors: usize,
    starts: usize,
    losses: usize,
    snapshots: u64,
    fresh: usize,
    retired: u64,
    shapes: u64,
}

struct Chaos {
    kind: Kind,
    reads: Vec<Read>,
    /// Rows that were told to have changed.
    changed: BTreeMap<EventId, Conjunction>,
    world: World,
    /// Counts what happens, so that a read and a write can be told apart in time.
    tick: u64,
    /// When a bump was asked for.
    issued: BTreeMap<EventId, u64>,
    applied: BTreeMap<EventId, BumpEvent>,
    /// When an event was on two disks for the first time.
    acknowledged: BTreeMap<EventId, Time>,
    seen: [usize; NODES],
    fills: Vec<Fill>,
    cache: HashMap<String, Value>,
    copies: [Option<Disk>; NODES],
    current: HashMap<(usize, usize), Token>,
    superseded: HashSet<(usize, usize, Token)>,
    counts: Counts,
}

fn policies() -> PolicySet {
    let registered = Policy {
        pattern: Pattern::parse("r/**").unwrap(),
        strategy: Strategy::Registered,
        ..Policy::fallback()
    };
    PolicySet::new(vec![registered], Policy::fallback()).unwrap()
}

impl Chaos {
    fn new(kind: Kind) -> Self {
        let world = World::running_with(NODES, |config| {
            config.policies = policies();
            config.limits.classes_per_top_max = if kind.has_rows() { 20 } else { 2 };
            if kind.retires() {
                config.limits.old_runs_max = 0;
                config.retire_after = Duration::from_millis(100);
            }
        });
        Self {
            kind,
            reads: if kind.has_rows() {
                Read::of_rows()
            } else {
                Read::of_classes()
            },
            changed: BTreeMap::new(),
            world,
            tick: 0,
            issued: BTreeMap::new(),
            applied: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            seen: [0; NODES],
            fills: Vec::new(),
            cache: HashMap::new(),
            copies: [const { None }; NODES],
            current: HashMap::new(),
            superseded: HashSet::new(),
            counts: Counts::default(),
        }
    }

    fn step(&mut self, (what, at, x, y): Step) -> Result<(), String> {
        let at = usize::from(at) % NODES;
        let to = (at + 1 + usize::from(x) % (NODES - 1)) % NODES;
        let pick = |count: usize| usize::from(y) % count;
        self.tick += 1;
        match what % 64 {
            0..=5 if self.kind.has_rows() => self.change(at, pick(2), usize::from(x)),
            6 if self.kind.has_rows() => self.bump(at, &[["v", "r"][pick(2)]], Match::Any, x),
            0..=6 => self.bump(at, BUMPED[pick(BUMPED.len())], Match::Any, x),
            7..=8 => self.bump(at, JOINT[pick(JOINT.len())], Match::All, x),
            9..=16 => drop(self.world.flush(at)),
            17..=23 => {
                let count = self
                    .world
                    .links
                    .get(&(at, to))
                    .map_or(0, std::collections::VecDeque::len);
                if count > 0 {
                    self.world.deliver_nth(at, to, pick(count));
                }
            }
            24..=28 => self.world.deliver_all(at, to),
            29 => drop(self.world.drop_all(at, to)),
            30 => self.world.cut(at, to),
            31..=33 => self.world.connect(at, to),
            34..=37 => self.world.advance(Duration::from_millis(u64::from(y))),
            38..=40 => drop(self.world.pump(at)),
            41 => self.world.nodes[at].disk.compact(),
            42 => self.world.crash(at),
            43..=44 => self.start(at),
            45 => self.copies[at] = Some(self.world.nodes[at].disk.clone()),
            46 => self.lose(at, x % 2 == 0),
            47..=48 => self.world.settle(),
            // Long enough for all to say that they are fresh, and for two looks at what is over.
            49..=51 if self.kind.retires() => {
                if what % 64 > 49 {
                    (0..NODES).for_each(|at| self.start(at));
                    self.world.connect_all();
                }
                for _ in 0..10 {
                    self.world.settle();
                    self.world.advance(Duration::from_millis(101));
                }
                self.world.settle();
            }
            52 if self.kind.retires() => {
                self.world.crash(at);
                self.start(at);
                self.world.connect(at, to);
            }
            49..=54 => self.resolve(at, pick(self.reads.len())),
            55..=57 => self.store(usize::from(y)),
            58 => self.world.input(at, Input::Seal),
            _ => self.read(at, pick(self.reads.len()))?,
        }
        self.check()
    }

    fn bump(&mut self, at: usize, paths: &[&str], matching: Match, x: u8) {
        if !self.world.up(at) {
            return;
        }
        let levels = [
            ReceiptLevel::None,
            ReceiptLevel::One,
            ReceiptLevel::Quorum,
            ReceiptLevel::All,
        ];
        let level = levels[usize::from(x) % 4];
        self.world
            .invalidate_as(at, paths, matching, level, Duration::from_millis(700));
        for event in self.just_issued(at) {
            self.issued.insert(event, self.tick);
        }
    }

    /// Tells of a change of rows of one of the two tables.
    fn change(&mut self, at: usize, table: usize, which: usize) {
        if !self.world.up(at) {
            return;
        }
        let changed = rows(["v", "r"][table], CHANGED[which % CHANGED.len()]);
        self.world.rows_changed(at, vec![changed.clone()]);
        for event in self.just_issued(at) {
            self.issued.insert(event, self.tick);
            self.changed.insert(event, changed.clone());
        }
    }

    /// The events of the last group of writes.
    fn just_issued(&self, at: usize) -> Vec<EventId> {
        let (_, writes) = self.world.nodes[at].unflushed.back().unwrap();
        let logged = writes.iter().filter_map(|write| match write {
            grapevine_core::store::Write::Log {
                origin, sequence, ..
            } => Some(EventId {
                origin: *origin,
                sequence: *sequence,
            }),
            _ => None,
        });
        logged.collect()
    }

    fn start(&mut self, at: usize) {
        if !self.world.up(at) {
            self.world.start(at);
            self.counts.starts += 1;
        }
    }

    /// Kills a node and takes its disk away, or puts an older one in its place.
    fn lose(&mut self, at: usize, wipe: bool) {
        let knows = |event: &EventId| {
            let node = &self.world.nodes[at];
            let shown = node
                .core
                .as_ref()
                .is_some_and(|core| core.progress().has(*event));
            shown || node.disk.holds(*event)
        };
        let elsewhere = |event: &EventId| {
            let mut others = (0..NODES).filter(|other| *other != at);
            others.any(|other| self.world.nodes[other].disk.holds(*event))
        };
        if !self
            .applied
            .keys()
            .filter(|event| knows(event))
            .all(elsewhere)
        {
            return;
        }
        let disk = match (wipe, &self.copies[at]) {
            (true, _) => Disk::default(),
            (false, Some(copy)) => copy.clone(),
            (false, None) => return,
        };
        self.world.crash(at);
        self.world.nodes[at].disk = disk;
        self.counts.losses += 1;
    }

    fn resolve(&mut self, at: usize, address: usize) {
        if self.world.up(at) {
            let read = &self.reads[address];
            let mut resolution = self.world.look_up(at, read.name, &read.paths());
            if resolution.new_shape {
                self.world.flush(at);
                resolution = self.world.look_up(at, read.name, &read.paths());
            }
            if resolution.new_shape {
                return;
            }
            let read_at = self.tick;
            let call = None;
            self.fills.push(Fill {
                at,
                address,
                resolution,
                read_at,
                call,
            });
        }
    }

    /// Goes on with one of the fills.
    fn store(&mut self, x: usize) {
        if self.fills.is_empty() {
            return;
        }
        let mut fill = self.fills.remove(x % self.fills.len());
        let read = &self.reads[fill.address];
        let (name, paths) = (read.name, &read.paths()[..]);
        let target = fill.resolution.targets[0].address.to_string();
        if !fill.resolution.commit_required() {
            let value = Value {
                token: fill.resolution.token,
                read_at: fill.read_at,
            };
            self.cache.insert(target, value);
            return;
        }
        let Some((run, call)) = fill.call else {
            if self.world.up(fill.at) {
                let lease = LeaseClaim::Lease(fill.resolution.lease);
                let call = self.world.register(fill.at, name, paths, lease);
                fill.call = Some((self.world.incarnation(fill.at), call));
                self.fills.push(fill);
            }
            return;
        };
        match self.world.verdict(fill.at, call) {
            Some(Verdict::Accepted(token)) => {
                self.cache.insert(
                    target,
                    Value {
                        token,
                        read_at: fill.read_at,
                    },
                );
            }
            Some(Verdict::Condemned(_)) => {}
            // It may come yet, unless the process that was asked is gone.
            None => {
                if self.world.up(fill.at) && self.world.incarnation(fill.at) == run {
                    self.fills.push(fill);
                }
            }
        }
    }

    fn read(&mut self, at: usize, address: usize) -> Result<(), String> {
        if !self.world.up(at) {
            return Ok(());
        }
        let read = &self.reads[address];
        let (name, paths) = (read.name, &read.paths()[..]);
        let resolution = self.world.look_up(at, name, paths);
        self.counts.reads += 1;
        if resolution.new_shape {
            return Ok(());
        }
        let Some(value) = self.cache.get(resolution.targets[0].address.as_str()) else {
            return Ok(());
        };
        if value.token != resolution.token {
            return Ok(());
        }
        self.counts.hits += 1;
        for (event, issued) in &self.issued {
            let Some(BumpEvent::Bump(bump)) = self.applied.get(event) else {
                continue;
            };
            let met =
                |path: &grapevine_core::names::ClassPath| paths.iter().any(|of| path.covers(of));
            let may_meet = |rows: &Conjunction| {
                let of = read.rows.as_ref();
                of.is_some_and(|of| of.may_meet(rows) && of.table == rows.table)
            };
            if let Some(rows) = self.changed.get(event) {
                if may_meet(rows)
                    && self.world.core(at).progress().has(*event)
                    && value.read_at < *issued
                {
                    return Err(format!(
                        "G3: node {at} serves {name} from before {event:?}, a change of rows that it has applied"
                    ));
                }
                continue;
            }
            let concerned = match bump.matching {
                Match::Any => bump.classes.iter().any(met),
                Match::All => bump.classes.iter().all(met),
            };
            if concerned && self.world.core(at).progress().has(*event) && value.read_at < *issued {
                return Err(format!(
                    "G3: node {at} serves {name} from before {event:?}, which it has applied"
                ));
            }
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), String> {
        for at in 0..NODES {
            let node = &self.world.nodes[at];
            for (event, what) in &node.applied[self.seen[at]..] {
                self.applied.entry(*event).or_insert_with(|| what.clone());
            }
            self.seen[at] = node.applied.len();
            let retired = node
                .stopped
                .iter()
                .any(|reason| reason.contains("retired this run"));
            if self.kind.retires() && retired {
                // Runs are retired here sooner than the grants of those before them are over.
                self.world.crash(at);
                self.world.nodes[at].stopped = None;
                continue;
            }
            if let Some(reason) = &node.stopped {
                return Err(format!("{} stopped: {reason}", node.name));
            }
        }
        for event in self.applied.keys() {
            let disks = self.world.nodes.iter().map(|node| &node.disk);
            if disks.filter(|disk| disk.holds(*event)).count() >= 2 {
                let now = self.world.now;
                self.acknowledged.entry(*event).or_insert(now);
            }
        }
        for at in (0..NODES)
            .filter(|at| self.world.up(*at))
            .collect::<Vec<_>>()
        {
            self.check_node(at)?;
        }
        Ok(())
    }

    fn check_node(&mut self, at: usize) -> Result<(), String> {
        let core = self.world.core(at);
        let freshness = core.freshness(self.world.now);
        let knows_all = core.members(self.world.now).len() == NODES - 1;
        if freshness == Freshness::Fresh && knows_all {
            self.counts.fresh += 1;
            let bound = MAX_STALENESS + Duration::from_millis(1);
            let old = |time: &Time| self.world.now.since(*time) > bound;
            for (event, acknowledged) in &self.acknowledged {
                if old(acknowledged) && !core.progress().has(*event) {
                    return Err(format!(
                        "G11: node {at} calls itself fresh without {event:?}"
                    ));
                }
            }
        }
        if matches!(freshness, Freshness::CatchingUp(_)) {
            return Ok(());
        }
        for (index, read) in self.reads.iter().enumerate() {
            let paths = &read.paths()[..];
            let resolution = self.world.resolve(at, read.name, paths);
            if resolution.new_shape {
                // Nobody is to use that token.
                continue;
            }
            let token = resolution.token;
            let before = self.current.insert((at, index), token);
            if let Some(before) = before.filter(|before| *before != token) {
                self.superseded.insert((at, index, before));
            }
            if self.superseded.contains(&(at, index, token)) {
                return Err(format!(
                    "G2: a superseded token of {paths:?} is current again on node {at}"
                ));
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), String> {
        // A run that learns meanwhile that it was retired ends, and the next one takes its place.
        for _ in 0..=NODES {
            (0..NODES).for_each(|at| self.start(at));
            self.world.connect_all();
            self.world
                .converge_on(&[Lane::Bump])
                .map_err(|error| format!("stuck:\n{error}"))?;
            self.check()?;
            if (0..NODES).all(|at| self.world.up(at)) {
                break;
            }
        }
        let replies = self
            .world
            .nodes
            .iter()
            .flat_map(|node| node.replies.values());
        for reply in replies {
            if let Reply::Invalidated { event, .. } = reply {
                for at in 0..NODES {
                    if !self.world.core(at).has_all(&[*event]) {
                        return Err(format!("G1: node {at} lacks {event:?}, which was answered"));
                    }
                }
            }
        }
        for read in &self.reads {
            let (name, paths) = (read.name, &read.paths()[..]);
            let tokens: BTreeSet<_> = (0..NODES).map(|at| self.world.token(at, paths)).collect();
            if tokens.len() > 1 {
                return Err(format!(
                    "G12: {name} has {tokens:?}:\n{}",
                    self.world.describe()
                ));
            }
        }
        for address in 0..self.reads.len() {
            for at in 0..NODES {
                self.read(at, address)?;
            }
        }
        let floor = |event: &&BumpEvent| matches!(event, BumpEvent::Floor(_));
        self.counts.floors = self.applied.values().filter(floor).count();
        self.counts.bumps = self.issued.len();
        let cores = (0..NODES).map(|at| self.world.core(at).counters().snapshots_adopted);
        self.counts.snapshots = cores.sum();
        let cores = (0..NODES).map(|at| self.world.core(at).counters().runs_retired);
        self.counts.retired = cores.sum();
        let cores = (0..NODES).map(|at| self.world.core(at).counters().shapes_made_known);
        self.counts.shapes = cores.sum();
        Ok(())
    }
}

fn run(steps: &[Step], kind: Kind) -> Result<Counts, String> {
    let mut chaos = Chaos::new(kind);
    chaos.check()?;
    for step in steps {
        chaos.step(*step)?;
    }
    chaos.finish()?;
    Ok(chaos.counts)
}

fn steps() -> impl proptest::strategy::Strategy<Value = Vec<Step>> {
    vec(any::<Step>(), 1..250).prop_map(|steps| steps)
}

proptest! {
    #![proptest_config(crate::config(150))]

    #[test]
    fn g1_g2_g3_g11_g12_hold_under_random_schedules(schedule in steps()) {
        run(&schedule, Kind::Classes).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn g1_g2_g3_g11_g12_hold_while_runs_are_retired(schedule in steps()) {
        run(&schedule, Kind::Retiring).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn g1_g2_g3_g11_g12_hold_for_reads_by_criteria(schedule in steps()) {
        run(&schedule, Kind::Rows).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn g1_g2_g3_g11_g12_hold_for_reads_by_criteria_while_runs_are_retired(schedule in steps()) {
        run(&schedule, Kind::RetiringRows).map_err(TestCaseError::fail)?;
    }
}

#[test]
fn g2_g3_the_schedules_do_what_they_are_for() {
    let mut runner = TestRunner::deterministic();
    let mut sum = Counts::default();
    for _ in 0..60 {
        let schedule = steps().new_tree(&mut runner).unwrap().current();
        let counts = run(&schedule, Kind::Classes).unwrap();
        sum.reads += counts.reads;
        sum.hits += counts.hits;
        sum.bumps += counts.bumps;
        sum.floors += counts.floors;
        sum.starts += counts.starts;
        sum.losses += counts.losses;
        sum.snapshots += counts.snapshots;
        sum.fresh += counts.fresh;
    }
    println!("60 schedules: {sum:?}");
    assert!(
        sum.hits > 50 && sum.bumps > 500 && sum.floors > 50 && sum.losses > 10,
        "{sum:?}"
    );
    assert!(
        sum.starts > 50 && sum.snapshots > 5 && sum.fresh > 500,
        "{sum:?}"
    );
}

#[test]
fn g2_g12_schedules_with_retirement_retire() {
    let mut runner = TestRunner::deterministic();
    let mut sum = Counts::default();
    for _ in 0..60 {
        let schedule = steps().new_tree(&mut runner).unwrap().current();
        let counts = run(&schedule, Kind::Retiring).unwrap();
        sum.retired += counts.retired;
        sum.hits += counts.hits;
        sum.starts += counts.starts;
        sum.losses += counts.losses;
        sum.snapshots += counts.snapshots;
    }
    println!("60 schedules: {sum:?}");
    assert!(sum.retired > 50 && sum.losses > 10, "{sum:?}");
}

#[test]
fn g3_schedules_of_rows_do_what_they_are_for() {
    let mut runner = TestRunner::deterministic();
    let mut sum = Counts::default();
    for _ in 0..60 {
        let schedule = steps().new_tree(&mut runner).unwrap().current();
        let counts = run(&schedule, Kind::Rows).unwrap();
        sum.hits += counts.hits;
        sum.bumps += counts.bumps;
        sum.floors += counts.floors;
        sum.losses += counts.losses;
        sum.snapshots += counts.snapshots;
        sum.shapes += counts.shapes;
    }
    println!("60 schedules: {sum:?}");
    assert!(
        sum.hits > 25 && sum.bumps > 500 && sum.shapes > 100,
        "{sum:?}"
    );
    assert!(
        sum.losses > 10 && sum.snapshots > 5 && sum.floors > 10,
        "{sum:?}"
    );
}
