//! Many seeds: run them, in blocks and on several threads, and sum up.
//!
//! A seed's run shares nothing with another's, so threads only share the list of seeds. What they find is summed up in the
//! order of the seeds: the report, and the hash in it, do not depend on how many threads there were.

use std::ops::Range;
use std::thread::ScopedJoinHandle;
use std::time::Instant;

use crate::arms::Arm;
use crate::generate::{Plan, generate};
use crate::report::{Found, Report};
use crate::rng::mix;
use crate::scenario::Scenario;
use crate::shop::Shop;
use crate::sim::{Outcome, run};
use crate::violation::{Guarantee, Violation};

/// Seeds that are run before their results are summed up.
const BLOCK: u64 = 512;
/// The most violations of which a report keeps more than a count.
const FOUND_MAX: usize = 20;
/// Oracle hits in calm runs from which on their ratio is asserted.
const CALM_HITS_MIN: u64 = 1_000;

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Request {
    /// The seeds.
    pub seeds: Range<u64>,
    /// How many sidecars: 2 to 5.
    pub nodes: usize,
    /// What may go wrong.
    pub scenario: Scenario,
    /// What is done wrong.
    pub arm: Option<Arm>,
    /// Threads.
    pub jobs: usize,
}

impl Request {
    /// A request for some seeds of the usual scenario with three sidecars, on one thread.
    pub fn new(seeds: Range<u64>) -> Self {
        Self {
            seeds,
            nodes: 3,
            scenario: Scenario::default(),
            arm: None,
            jobs: 1,
        }
    }

    pub(crate) fn plan(&self, seed: u64, shop: &Shop) -> Plan {
        generate(seed, self.nodes, self.scenario, shop)
    }

    /// The options that this request differs by from the usual one.
    pub(crate) fn options(&self) -> String {
        use clap::ValueEnum as _;
        let usual = Self::new(0..0);
        let mut options = Vec::new();
        if self.nodes != usual.nodes {
            options.push(format!(" --nodes {}", self.nodes));
        }
        if self.scenario != usual.scenario
            && let Some(value) = self.scenario.to_possible_value()
        {
            options.push(format!(" --scenario {}", value.get_name()));
        }
        if let Some(arm) = self.arm {
            options.push(format!(" --arm {}", arm.name()));
        }
        options.concat()
    }
}

/// One seed's run, and what of its plan the sum depends on.
struct Ran {
    seed: u64,
    calm: bool,
    outcome: Outcome,
}

/// Runs all seeds of a request.
pub fn simulate(request: &Request) -> Report {
    let begin = Instant::now();
    let mut report = Report::new(request);
    run_until(request, |ran| {
        report_one(&mut report, request, ran);
        false
    });
    let (hits, oracle) = report.calm;
    if oracle >= CALM_HITS_MIN && hits * 100 < oracle * 95 {
        *report.violations.entry(Guarantee::Hits.name()).or_default() += 1;
    }
    report.elapsed_s = begin.elapsed().as_secs_f64();
    report
}

/// The first seed of a request in which something that is promised is violated. That a broken rule also leaves sidecars
/// waiting in the end does not count: it is to be caught by what it breaks on the way.
pub fn first_caught(request: &Request) -> Option<Found> {
    let mut found = None;
    run_until(request, |ran| {
        let caught = ran
            .outcome
            .violations
            .iter()
            .filter(|violation| violation.guarantee != Guarantee::Recovery)
            .find(|violation| violation.gap.is_none());
        if found.is_none()
            && let Some(violation) = caught
        {
            found = Some(Found::new(request, ran.seed, violation));
        }
        found.is_some()
    });
    found
}

/// Runs seeds in order until one of them is enough.
fn run_until(request: &Request, mut enough: impl FnMut(&Ran) -> bool) {
    let shop = Shop::new(request.scenario.source_lags());
    let jobs = request.jobs.max(1) as u64;
    let mut first = request.seeds.start;
    // Small blocks at first, so that whoever looks for one seed does not wait for many.
    let mut size = 8 * jobs;
    while first < request.seeds.end {
        let end = request.seeds.end.min(first + size);
        size = (size * 2).min(BLOCK);
        for ran in run_block(request, first..end, jobs, &shop) {
            if enough(&ran) {
                return;
            }
        }
        first = end;
    }
}

fn run_block(request: &Request, seeds: Range<u64>, jobs: u64, shop: &Shop) -> Vec<Ran> {
    let one = |seed| {
        let plan = request.plan(seed, shop);
        Ran {
            seed,
            calm: plan.calm,
            outcome: run(&plan, shop, request.arm, false),
        }
    };
    if jobs == 1 {
        return seeds.map(one).collect();
    }
    let mut all: Vec<Ran> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs)
            .map(|worker| {
                let own = seeds.clone().filter(move |seed| seed % jobs == worker);
                scope.spawn(move || own.map(one).collect::<Vec<_>>())
            })
            .collect();
        let joined = workers.into_iter().map(ScopedJoinHandle::join);
        joined
            .flat_map(|ran| ran.expect("invariant: a run that panics ends the simulation"))
            .collect()
    });
    all.sort_by_key(|ran| ran.seed);
    all
}

fn report_one(report: &mut Report, request: &Request, ran: &Ran) {
    let outcome = &ran.outcome;
    report.tally.add(&outcome.tally);
    report.hash = mix(report.hash ^ outcome.hash);
    if ran.calm {
        report.calm.0 += outcome.tally.hits;
        report.calm.1 += outcome.tally.oracle_hits;
    }
    for violation in &outcome.violations {
        let counts = match violation.gap {
            None => &mut report.violations,
            Some(gap) => report.expected.entry(gap.name()).or_default(),
        };
        *counts.entry(violation.guarantee.name()).or_default() += 1;
    }
    let promised = |violation: &&Violation| violation.gap.is_none();
    let first = outcome.violations.iter().find(promised);
    if let Some(violation) = first {
        report.violated_seeds += 1;
        if report.found.len() < FOUND_MAX {
            report.found.push(Found::new(request, ran.seed, violation));
        }
    }
    let excused = outcome
        .violations
        .iter()
        .find(|violation| violation.gap.is_some());
    if let Some(violation) = excused
        && report.excused.len() < FOUND_MAX
    {
        report
            .excused
            .push(Found::new(request, ran.seed, violation));
    }
}
