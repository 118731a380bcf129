//! Every order of a few events, up to a number of delays, with the real core.
//!
//! The simulator draws orders; here all of them are taken, up to a number of *delays*, for cases that are small enough: three
//! sidecars, two classes of one bucket and a registered one, one partition or crash or departure, a few calls. From a cluster
//! that has come up, a depth-first search takes whatever may happen next, goes on from there, and leaves out states that it has
//! seen. Calls and faults come at every moment; of flushes and messages one has its turn, and another one instead of it is a delay.
//! What is
//! judged at every state: tokens (G2), the oldest value that any late fill may have left in the cache (G3, G7),
//! directories (G4), receipts (G6), and that no two views have one place in the roster's history.
//!
//! A state is told apart by 64 bits of its text (`digest`): of a million states two are taken for one with a chance of
//! about one in thirty million.

mod carry;
mod case;
mod digest;
mod judge;
mod sidecar;
mod world;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::arms::Arm;
use crate::rng::mix;
pub use case::Case;
use judge::Wrong;
use sidecar::Setting;
use world::{Step, World};

/// What an exploration came to.
#[derive(Clone, Debug)]
pub struct Explored {
    /// The case.
    pub case: Case,
    /// Different states.
    pub states: u64,
    /// Steps taken.
    pub steps: u64,
    /// The most steps in a row.
    pub depth: usize,
    /// How many flushes and messages might come out of turn; [`u8::MAX`] for any number.
    pub delays: u8,
    /// The number of the latest view of the roster that was met.
    pub view: u64,
    /// Whether every order was taken, and not only those that a limit left time for.
    pub complete: bool,
    /// What was violated first: the guarantee, what happened, and the steps that lead there.
    pub found: Option<(&'static str, String, Vec<String>)>,
    /// How long it took.
    pub elapsed: Duration,
}

/// How much may be explored.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// States.
    pub states_max: u64,
    /// Time.
    pub time_max: Duration,
    /// How often a flush or message may come out of turn, in place of what the case says.
    pub delays: Option<u8>,
}

/// A state whose next steps are being taken.
struct Frame {
    world: World,
    steps: Vec<Step>,
    next: usize,
}

impl Frame {
    fn new(world: World, salt: u64) -> Self {
        let mut steps = world.steps();
        // Where a limit cuts the search short, it should not have looked into one corner only.
        if salt != 0 && !steps.is_empty() {
            let turn = usize::try_from(mix(salt) % steps.len() as u64).unwrap_or(0);
            steps.rotate_left(turn);
        }
        Self {
            world,
            steps,
            next: 0,
        }
    }
}

/// Explores a case, with something done wrong if an arm says so: `entry-else-floor`, `receipt-before-flush` and
/// `unsalted-restart` are known here.
pub fn explore(case: Case, arm: Option<Arm>, limit: Limit) -> Explored {
    let begin = Instant::now();
    let setting = Setting::new(arm);
    let mut explored = Explored {
        case,
        states: 0,
        steps: 0,
        depth: 0,
        delays: 0,
        view: 0,
        complete: false,
        found: None,
        elapsed: Duration::ZERO,
    };
    let mut budget = case.budget();
    budget.delays = limit.delays.unwrap_or(budget.delays);
    explored.delays = budget.delays;
    match World::new(&setting, budget) {
        Err(wrong) => explored.found = Some(told(&wrong, Vec::new())),
        Ok(world) => search(&setting, world, limit, begin, &mut explored),
    }
    explored.elapsed = begin.elapsed();
    explored
}

fn told(wrong: &Wrong, path: Vec<String>) -> (&'static str, String, Vec<String>) {
    (wrong.guarantee.name(), wrong.what.clone(), path)
}

fn search(
    setting: &Setting,
    mut world: World,
    limit: Limit,
    begin: Instant,
    explored: &mut Explored,
) {
    let mut seen = HashSet::new();
    seen.insert(world.digest());
    explored.states = 1;
    let mut stack = vec![Frame::new(world, 0)];
    while let Some(frame) = stack.last_mut() {
        let Some(&step) = frame.steps.get(frame.next) else {
            stack.pop();
            continue;
        };
        frame.next += 1;
        explored.steps += 1;
        let mut world = frame.world.clone();
        if let Err(wrong) = world.take(setting, step) {
            let path = stack
                .iter()
                .map(|frame| frame.world.describe(frame.steps[frame.next - 1]));
            explored.found = Some(told(&wrong, path.collect()));
            return;
        }
        let digest = world.digest();
        if !seen.insert(digest) {
            continue;
        }
        explored.states += 1;
        explored.view = explored.view.max(world.latest_view());
        stack.push(Frame::new(world, digest));
        explored.depth = explored.depth.max(stack.len());
        let late = explored.states.is_multiple_of(256) && begin.elapsed() > limit.time_max;
        if explored.states >= limit.states_max || late {
            return;
        }
    }
    explored.complete = true;
}
