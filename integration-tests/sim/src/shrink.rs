//! Shrinking: taking operations out of a schedule while it still violates the same guarantee.
//!
//! First everything that begins after the violation goes, then halves, quarters and so on down to single operations, over
//! and over until nothing more can go (delta debugging). Network and disks draw from streams of their own, so the rest of
//! the run changes as little as it can.

use crate::arms::Arm;
use crate::generate::Plan;
use crate::scenario::Gap;
use crate::schedule::Op;
use crate::shop::Shop;
use crate::sim::{Outcome, run};
use crate::violation::{Guarantee, Violation};

/// A shrunk schedule and what it comes to.
#[derive(Debug)]
pub(crate) struct Shrunk {
    /// The schedule.
    pub(crate) plan: Plan,
    /// Its run, with its transcript.
    pub(crate) outcome: Outcome,
    /// How many runs it took.
    pub(crate) runs: usize,
}

struct Shrinker<'a> {
    plan: &'a Plan,
    shop: &'a Shop,
    arm: Option<Arm>,
    guarantee: Guarantee,
    gap: Option<Gap>,
    runs_left: usize,
}

impl Shrinker<'_> {
    /// Whether a schedule still violates the guarantee; when.
    fn still(&mut self, ops: &[Op]) -> Option<u64> {
        self.runs_left = self.runs_left.checked_sub(1)?;
        let plan = self.with(ops);
        let outcome = run(&plan, self.shop, self.arm, false);
        first(&outcome.violations)
            // Another reason why the same guarantee fails would hide this one.
            .filter(|found| (found.guarantee, found.gap) == (self.guarantee, self.gap))
            .map(|violation| violation.at)
    }

    fn with(&self, ops: &[Op]) -> Plan {
        Plan {
            ops: ops.to_vec(),
            ..self.plan.clone()
        }
    }

    fn pass(&mut self, mut ops: Vec<Op>, size: usize) -> Vec<Op> {
        let mut at = 0;
        while at < ops.len() && self.runs_left > 0 {
            let end = ops.len().min(at + size);
            let without: Vec<_> = ops[..at].iter().chain(&ops[end..]).cloned().collect();
            match self.still(&without) {
                Some(when) => ops = until(without, when),
                None => at = end,
            }
        }
        ops
    }
}

/// The violation that counts: the first of what is promised, else the first.
fn first(violations: &[Violation]) -> Option<&Violation> {
    let promised = violations.iter().find(|violation| violation.gap.is_none());
    promised.or(violations.first())
}

fn until(mut ops: Vec<Op>, when: u64) -> Vec<Op> {
    ops.retain(|op| op.at <= when);
    ops
}

/// Shrinks a plan that violates something, with so many runs at most.
pub(crate) fn shrink(
    plan: &Plan,
    shop: &Shop,
    arm: Option<Arm>,
    runs_max: usize,
) -> Option<Shrunk> {
    let outcome = run(plan, shop, arm, false);
    let violation = first(&outcome.violations)?;
    let mut shrinker = Shrinker {
        plan,
        shop,
        arm,
        guarantee: violation.guarantee,
        gap: violation.gap,
        runs_left: runs_max,
    };
    let mut ops = plan.ops.clone();
    let early = until(ops.clone(), violation.at);
    if shrinker.still(&early).is_some() {
        ops = early;
    }
    let mut size = ops.len().div_ceil(2);
    while size > 0 && shrinker.runs_left > 0 {
        let before = ops.len();
        ops = shrinker.pass(ops, size);
        // Once nothing more goes in pieces of this size, try smaller ones; with single ones, try again if any went.
        size = if size > 1 {
            size.div_ceil(2)
        } else {
            usize::from(ops.len() < before)
        };
    }
    let plan = shrinker.with(&ops);
    Some(Shrunk {
        outcome: run(&plan, shop, arm, true),
        plan,
        runs: runs_max - shrinker.runs_left,
    })
}
