//! Writes that are declared before they are committed, for the schedule: race 10.
//!
//! Applications commit at any moment of their lease, mostly near its begin or its end; they tell, die before or after,
//! abort, or do not heed their lease at all. Where disks and processes fail, the sidecar that took the declaration dies
//! together with its application, or is cut off, or loses its disk.

use rand::Rng as _;

use crate::clock::{MILLISECOND, Micros};
use crate::generate::Generator;
use crate::schedule::{CutOp, Declared, Loss, Then, What, WriteOp};

/// The shortest and the longest lease.
const LEASE_MIN: Micros = 150 * MILLISECOND;
/// See [`LEASE_MIN`]. After a start what was open is held for all of it again, and a run waits for that in its end.
pub(crate) const LEASE_MAX: Micros = 1_600 * MILLISECOND;

/// Adds declared writes to a schedule.
pub(crate) fn add(g: &mut Generator<'_>) {
    for _ in 0..g.rng.random_range(2..7) {
        let (at, node) = (g.moment(), g.node());
        let (write, _) = declared(g, node);
        g.put(at, What::Write(write));
    }
    if g.climate.disks {
        for _ in 0..g.rng.random_range(1..4) {
            orphaned(g);
        }
    }
    if g.climate.network {
        cut_off(g);
    }
}

/// A declared write, and a class of addresses to read.
fn declared(g: &mut Generator<'_>, node: usize) -> (WriteOp, usize) {
    let address = g.address();
    let kind = g.kind_of(address);
    let mut write = g.write_of(node, kind);
    write.dies = g.rng.random_range(0..2) == 0;
    write.declared = Some(terms(g, node));
    (write, address)
}

/// For how long a write is declared, and what becomes of it.
pub(crate) fn terms(g: &mut Generator<'_>, node: usize) -> Declared {
    let lease = g.rng.random_range(LEASE_MIN..=LEASE_MAX);
    let takes = match g.rng.random_range(0..8) {
        0..3 => g.rng.random_range(0..lease / 8),
        3..6 => g.rng.random_range(0..lease),
        6 => g.rng.random_range(lease - lease / 50..lease),
        _ => lease + g.rng.random_range(0..LEASE_MAX),
    };
    let then = match g.rng.random_range(0..10) {
        0..7 => Then::Commits,
        7 | 8 => {
            let elsewhere = g.rng.random_range(0..4) == 0;
            Then::Aborts(if elsewhere { g.node() } else { node })
        }
        _ => Then::Dies,
    };
    Declared { lease, takes, then }
}

/// A declared write that is committed within its lease, and nobody tells of it.
fn untold(g: &mut Generator<'_>, node: usize) -> (WriteOp, Declared, usize) {
    let (mut write, address) = declared(g, node);
    let mut declared = write.declared.expect("invariant: just declared");
    declared.takes %= declared.lease;
    declared.then = Then::Commits;
    write.dies = true;
    write.declared = Some(declared);
    (write, declared, address)
}

/// Readers everywhere, from a moment on, for as long as a lease and what follows it.
fn readers(g: &mut Generator<'_>, address: usize, from: Micros) {
    for _ in 0..8 {
        let (at, node) = (from + g.rng.random_range(0..2 * LEASE_MAX), g.node());
        g.read(at, node, address);
    }
}

/// The application dies, and so does the sidecar that took its declaration, or the one that holds it, or both.
fn orphaned(g: &mut Generator<'_>) {
    let (at, node) = (g.moment(), g.node());
    let (write, declared, address) = untold(g, node);
    g.put(at, What::Write(write));
    readers(g, address, at);
    let mut victims = vec![node];
    match g.rng.random_range(0..3) {
        0 => victims = vec![g.other(node)],
        1 => victims.push(g.other(node)),
        _ => {}
    }
    for node in victims {
        let dies = at
            + g.rng
                .random_range(2 * MILLISECOND..declared.lease + 300 * MILLISECOND);
        let down = g.rng.random_range(MILLISECOND..2_000 * MILLISECOND);
        let what = if g.rng.random_range(0..3) == 0 {
            let loss = Loss::Wiped;
            What::Lose { node, down, loss }
        } else {
            What::Crash {
                node,
                down,
                keep: g.rng.random(),
                vanish: g.rng.random_range(0..6) == 0,
            }
        };
        g.put(dies, what);
    }
}

/// The sidecar that took the declaration is cut off for a while.
fn cut_off(g: &mut Generator<'_>) {
    let (at, node) = (g.moment(), g.node());
    let (write, _, address) = untold(g, node);
    g.put(at, What::Write(write));
    readers(g, address, at);
    let cut = CutOp {
        lasts: g.rng.random_range(50 * MILLISECOND..2_500 * MILLISECOND),
        holds: g.rng.random_range(0..3) == 0,
        breaks: (g.rng.random_range(0..2) == 0).then_some(30 * MILLISECOND),
    };
    let begins = at + g.rng.random_range(0..20 * MILLISECOND);
    g.put(begins, What::Isolate { node, cut });
}
