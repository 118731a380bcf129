//! Stamps against bumps in every order (G3, G4).
//!
//! A reader at one sidecar resolves, fills and registers; a writer at another, or at the same one, bumps. Every step of
//! both, of their flushes and of the messages between them is put into every order that is possible, and each order is
//! run from the start. A fill is *dead* if something that it rests on was bumped where it was resolved, after it was
//! resolved. A dead fill must be condemned at once, or taken out and purged wherever bump and registration meet; a fill
//! that is not dead must be accepted and known everywhere.

use grapevine_core::event::Match;
use grapevine_core::machine::effects::{Input, LeaseClaim, ReceiptLevel, Resolution, Verdict};
use grapevine_core::versions::bucket_of;

use crate::world::World;

const WRITER: usize = 0;
const READER: usize = 1;
const OTHER: usize = 2;
const ADDRESS: &str = "items::13";
const CLASSES: [&str; 2] = ["cart/13/items", "shop/7"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Resolve,
    Commit,
    Seal,
    Bump,
    Flush(usize),
    Deliver(usize, usize),
}

/// What is bumped, and whether the fill rests on it.
#[derive(Clone, Debug)]
struct Case {
    name: &'static str,
    classes: Vec<String>,
    matching: Match,
    concerns: bool,
    /// Whether the bump makes the writer evict the bucket of the fill's first class.
    evicts: bool,
}

fn case(name: &'static str, classes: &[&str], matching: Match, concerns: bool) -> Case {
    let classes = classes.iter().map(ToString::to_string).collect();
    let evicts = false;
    Case {
        name,
        classes,
        matching,
        concerns,
        evicts,
    }
}

fn cases() -> Vec<Case> {
    let bucket = bucket_of(CLASSES[0]);
    let neighbours = (0..)
        .map(|n| format!("cart/{n}"))
        .filter(|path| bucket_of(path) == bucket);
    let floor = Case {
        name: "floor",
        classes: neighbours.take(3).collect(),
        matching: Match::Any,
        concerns: true,
        evicts: true,
    };
    vec![
        case("class", &["cart/13/items"], Match::Any, true),
        case("second class", &["shop/7"], Match::Any, true),
        case("ancestor", &["cart/13"], Match::Any, true),
        case("top-level class", &["cart"], Match::Any, true),
        case(
            "conjunction",
            &["cart/13/items", "shop/7"],
            Match::All,
            true,
        ),
        case(
            "conjunction of ancestors",
            &["cart", "shop"],
            Match::All,
            true,
        ),
        floor,
        case("another class", &["cart/14/items"], Match::Any, false),
        case("a class below", &["cart/13/items/x"], Match::Any, false),
        case(
            "a like name",
            &["cart/1", "cart/13/item"],
            Match::Any,
            false,
        ),
        case(
            "conjunction not met",
            &["cart/13/items", "shop/8"],
            Match::All,
            false,
        ),
    ]
}

/// Every order of the steps in which each comes after those that it needs, given by position.
fn orders(steps: &[(Step, &[usize])]) -> Vec<Vec<usize>> {
    fn extend(steps: &[(Step, &[usize])], done: &mut Vec<usize>, found: &mut Vec<Vec<usize>>) {
        if done.len() == steps.len() {
            found.push(done.clone());
        }
        for (at, (_, needs)) in steps.iter().enumerate() {
            if !done.contains(&at) && needs.iter().all(|need| done.contains(need)) {
                done.push(at);
                extend(steps, done, found);
                done.pop();
            }
        }
    }
    let mut found = Vec::new();
    extend(steps, &mut Vec::new(), &mut found);
    found
}

/// What the fill was when its call was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answered {
    NotYet,
    Dead,
    Holding,
    /// It died at that very moment.
    Dying,
}

struct Run {
    world: World,
    case: Case,
    writer: usize,
    resolved: Option<Resolution>,
    dead: bool,
    call: u64,
    answered: Answered,
}

impl Run {
    fn new(size: usize, writer: usize, case: &Case) -> Self {
        let world = World::running_with(size, |config| {
            if config.node_id.as_str() == "a" {
                config.limits.classes_per_top_max = 2;
            }
        });
        let case = case.clone();
        Self {
            world,
            case,
            writer,
            resolved: None,
            dead: false,
            call: 0,
            answered: Answered::NotYet,
        }
    }

    fn step(&mut self, step: Step) {
        let world = &mut self.world;
        let before = world.token(READER, &CLASSES);
        match step {
            Step::Resolve => self.resolved = Some(world.resolve(READER, ADDRESS, &CLASSES)),
            Step::Commit => {
                let lease = LeaseClaim::Lease(self.resolved.as_ref().unwrap().lease);
                self.call = world.register(READER, ADDRESS, &CLASSES, lease);
            }
            Step::Seal => world.input(READER, Input::Seal),
            Step::Bump => {
                let classes: Vec<_> = self.case.classes.iter().map(String::as_str).collect();
                let (level, patience) = (ReceiptLevel::None, std::time::Duration::from_secs(1));
                world.invalidate_as(self.writer, &classes, self.case.matching, level, patience);
            }
            Step::Flush(at) => drop(world.flush(at)),
            Step::Deliver(from, to) => world.deliver_all(from, to),
        }
        let changed = world.token(READER, &CLASSES) != before;
        assert!(self.case.concerns || !changed, "its token changed");
        let was_dead = self.dead;
        self.dead |= changed && self.resolved.is_some();
        let replies = &world.nodes[READER].replies;
        if self.answered == Answered::NotYet && replies.contains_key(&self.call) {
            self.answered = match (was_dead, self.dead) {
                (true, _) => Answered::Dead,
                (false, true) => Answered::Dying,
                (false, false) => Answered::Holding,
            };
        }
    }

    fn judge(mut self) -> Result<bool, String> {
        self.world.settle();
        let fail = |text: &str| Err(text.to_owned());
        let verdict = self.world.verdict(READER, self.call).unwrap();
        match (verdict, self.answered) {
            (Verdict::Accepted(_), Answered::Dead) => return fail("a dead fill was accepted"),
            (Verdict::Condemned(_), Answered::Holding) => return fail("condemned for nothing"),
            _ => {}
        }
        if self.case.evicts && self.dead {
            // A floor takes nothing out: the value is stale by its envelope, and its address is filled again.
            return Ok(true);
        }
        for node in &self.world.nodes {
            let listed = |class: &String| node.disk.lists_below(class, ADDRESS);
            if self.dead && self.case.classes.iter().any(listed) {
                return Err(format!("{} keeps a dead registration", node.name));
            }
            if !self.dead && !node.disk.lists(ADDRESS) {
                return Err(format!(
                    "{} does not know a registration that holds",
                    node.name
                ));
            }
        }
        let mut purged = self.world.nodes.iter().flat_map(|node| &node.purged);
        if self.dead != purged.any(|address| address.as_str() == ADDRESS) {
            return fail("a dead fill is purged, and no other");
        }
        Ok(self.dead)
    }
}

/// Runs every case in every order; prints how many.
fn exhaust(name: &str, size: usize, writer: usize, steps: &[(Step, &[usize])]) {
    let orders = orders(steps);
    let (mut runs, mut dead) = (0, 0);
    for case in cases() {
        // An eviction needs two flushes of the writer in a row.
        let flushes = steps
            .iter()
            .filter(|(step, _)| *step == Step::Flush(WRITER))
            .count();
        if case.evicts && flushes < 3 {
            continue;
        }
        for order in &orders {
            let mut run = Run::new(size, writer, &case);
            for at in order {
                run.step(steps[*at].0);
            }
            runs += 1;
            match run.judge() {
                Ok(was_dead) => dead += usize::from(was_dead),
                Err(error) => {
                    let order: Vec<_> = order.iter().map(|at| steps[*at].0).collect();
                    panic!("{}: {error}: {order:?}", case.name);
                }
            }
        }
    }
    println!("{name}: {runs} runs, {dead} with a dead fill");
    assert!(dead * 10 > runs && dead * 10 < runs * 9, "{dead} of {runs}");
}

#[test]
fn g3_g4_a_bump_of_another_sidecar_meets_a_fill_in_every_order() {
    use Step::{Bump, Commit, Deliver, Flush, Resolve, Seal};
    let steps: [(Step, &[usize]); 10] = [
        (Resolve, &[]),
        (Commit, &[0]),
        (Seal, &[1]),
        (Flush(READER), &[2]),
        (Deliver(READER, WRITER), &[3]),
        (Bump, &[]),
        (Flush(WRITER), &[5]),
        // The floor, where there is one; else whatever has come.
        (Flush(WRITER), &[6]),
        (Deliver(WRITER, READER), &[7]),
        (Flush(WRITER), &[4, 7]),
    ];
    exhaust("bump at another", 2, WRITER, &steps);
}

#[test]
fn g3_g4_a_bump_of_the_same_sidecar_meets_a_fill_in_every_order() {
    use Step::{Bump, Commit, Deliver, Flush, Resolve, Seal};
    let steps: [(Step, &[usize]); 9] = [
        (Resolve, &[]),
        (Commit, &[0]),
        (Seal, &[1]),
        (Bump, &[]),
        (Flush(READER), &[]),
        (Flush(READER), &[2, 4]),
        (Flush(READER), &[3, 5]),
        (Deliver(READER, WRITER), &[6]),
        (Flush(WRITER), &[7]),
    ];
    exhaust("bump at the same", 2, READER, &steps);
}

#[test]
fn g4_a_bump_and_a_registration_meet_at_a_third_sidecar_in_every_order() {
    use Step::{Bump, Commit, Deliver, Flush, Resolve, Seal};
    let steps: [(Step, &[usize]); 10] = [
        (Resolve, &[]),
        (Commit, &[0]),
        (Seal, &[1]),
        (Flush(READER), &[2]),
        (Deliver(READER, OTHER), &[3]),
        (Flush(OTHER), &[4]),
        (Bump, &[]),
        (Flush(WRITER), &[6]),
        (Deliver(WRITER, OTHER), &[7]),
        (Deliver(WRITER, READER), &[7]),
    ];
    exhaust("meeting at a third", 3, WRITER, &steps);
}

#[test]
fn g3_a_commit_without_a_lease_of_this_run_is_condemned() {
    let mut world = World::running(2);
    let lease = world.resolve(READER, ADDRESS, &CLASSES).lease;
    let foreign = world.register(WRITER, ADDRESS, &CLASSES, LeaseClaim::Lease(lease));
    let malformed = world.register(WRITER, ADDRESS, &CLASSES, LeaseClaim::Malformed);
    world.settle();
    let condemned =
        |world: &World, at, call| matches!(world.verdict(at, call), Some(Verdict::Condemned(_)));
    assert!(condemned(&world, WRITER, foreign) && condemned(&world, WRITER, malformed));
    assert!(!world.nodes.iter().any(|node| node.disk.lists(ADDRESS)));

    world.advance(std::time::Duration::from_secs(61));
    let late = world.register(READER, ADDRESS, &CLASSES, LeaseClaim::Lease(lease));
    world.crash(READER);
    world.start(READER);
    world.connect_all();
    world.converge().unwrap();
    let restarted = world.register(READER, ADDRESS, &CLASSES, LeaseClaim::Lease(lease));
    world.settle();
    assert!(!world.nodes[READER].replies.contains_key(&late));
    assert!(condemned(&world, READER, restarted));
}

#[test]
fn g3_an_expired_lease_is_condemned() {
    let mut world = World::running(2);
    let lease = world.resolve(READER, ADDRESS, &CLASSES).lease;
    world.advance(std::time::Duration::from_secs(61));
    world.settle();
    let call = world.register(READER, ADDRESS, &CLASSES, LeaseClaim::Lease(lease));
    world.settle();
    assert!(matches!(
        world.verdict(READER, call),
        Some(Verdict::Condemned(_))
    ));
}

#[test]
fn g4_a_condemned_registration_does_not_take_a_later_one_of_its_address_along() {
    let mut world = World::running(3);
    // A bump overtakes a registration on its way to the disk; the next one of that address is right behind.
    let old = LeaseClaim::Lease(world.resolve(READER, ADDRESS, &CLASSES).lease);
    world.register(READER, ADDRESS, &CLASSES, old);
    world.input(READER, Input::Seal);
    world.invalidate(WRITER, &["cart/13"]);
    world.flush(WRITER);
    world.deliver_all(WRITER, READER);
    let new = LeaseClaim::Lease(world.resolve(READER, ADDRESS, &CLASSES).lease);
    let call = world.register(READER, ADDRESS, &CLASSES, new);
    world.input(READER, Input::Seal);
    world.settle();
    assert!(matches!(
        world.verdict(READER, call),
        Some(Verdict::Accepted(_))
    ));
    for node in &world.nodes {
        assert!(node.disk.lists(ADDRESS), "{} lost it", node.name);
    }
}

#[test]
fn g4_registrations_of_one_seal_keep_their_own_stamps_apart() {
    let mut world = World::running(2);
    let mut calls = Vec::new();
    // Each class is bumped just before it is filled: one stamp for all would be too old for all but the first.
    for number in 0..40 {
        let class = format!("cart/{number}");
        world.invalidate(READER, &[&class]);
        world.flush(READER);
        let name = format!("items::{number}");
        let lease = LeaseClaim::Lease(world.resolve(READER, &name, &[&class]).lease);
        calls.push(world.register(READER, &name, &[&class], lease));
        // And some that nothing happened to, which fit anywhere.
        let name = format!("quiet::{number}");
        let lease = LeaseClaim::Lease(world.resolve(READER, &name, &["quiet/1"]).lease);
        calls.push(world.register(READER, &name, &["quiet/1"], lease));
    }
    world.settle();
    for call in calls {
        assert!(matches!(
            world.verdict(READER, call),
            Some(Verdict::Accepted(_))
        ));
    }
    for number in 0..40 {
        assert!(
            world.nodes[WRITER].disk.lists(&format!("items::{number}")),
            "{number}"
        );
        assert!(
            world.nodes[WRITER].disk.lists(&format!("quiet::{number}")),
            "{number}"
        );
    }
    let batches = world.core(READER).progress().heads();
    let own = batches
        .iter()
        .find(|head| head.incarnation == world.incarnation(READER))
        .unwrap();
    assert_eq!(
        own.directory, 40,
        "as many batches as stamps that differ, and no more"
    );
}

#[test]
fn a_repeated_registration_costs_nothing_until_it_says_something_new() {
    let mut world = World::running(2);
    let known = |world: &World| world.core(READER).counters().registrations_suppressed;
    let register = |world: &mut World| {
        let call = world.register(READER, ADDRESS, &CLASSES, LeaseClaim::Absent);
        world.settle();
        assert!(matches!(
            world.verdict(READER, call),
            Some(Verdict::Accepted(_))
        ));
    };
    register(&mut world);
    register(&mut world);
    assert_eq!(known(&world), 1);
    // It will lapse later than the directory knows.
    world.advance(std::time::Duration::from_secs(65));
    world.settle();
    register(&mut world);
    assert_eq!(known(&world), 1);
    // A bump took it out of every directory.
    for at in [WRITER, READER] {
        world.invalidate(at, &["cart/13"]);
        world.settle();
        assert!(!world.nodes[WRITER].disk.lists_below("cart/13", ADDRESS));
        register(&mut world);
        assert_eq!(known(&world), 1);
        assert!(world.nodes[WRITER].disk.lists_below("cart/13", ADDRESS));
    }
}

#[test]
fn g4_a_registration_is_judged_by_what_its_sidecar_knew_also_with_holes() {
    let mut world = World::running(3);
    // The reader has the second bump of the writer, and not the first.
    world.invalidate(WRITER, &["other/1"]);
    world.flush(WRITER);
    world.drop_all(WRITER, READER);
    world.invalidate(WRITER, &["cart/13"]);
    world.flush(WRITER);
    world.deliver_all(WRITER, READER);
    let lease = LeaseClaim::Lease(world.resolve(READER, "x", &["other/1"]).lease);
    let call = world.register(READER, "x", &["other/1"], lease);
    world.input(READER, Input::Seal);
    world.flush(READER);
    // It was right to accept it: it has never heard of the first. Whoever has must not believe it.
    assert!(matches!(
        world.verdict(READER, call),
        Some(Verdict::Accepted(_))
    ));
    world.deliver_all(READER, WRITER);
    world.flush(WRITER);
    assert!(!world.nodes[WRITER].disk.lists("x"));
    world.converge().unwrap();
    for node in &world.nodes {
        assert!(!node.disk.lists("x"), "{} keeps it", node.name);
    }
}
