//! Seats and disks that are lost shortly after one another: what decision 0015 must survive.
//!
//! An event is on the disks of two members. One of them loses its seat, and then the disk of the other one is lost, before the
//! rest has the event.

use grapevine_core::machine::effects::ReceiptLevel;
use rand::Rng as _;

use super::{Motif, reads};
use crate::clock::{MILLISECOND, Micros};
use crate::generate::Generator;
use crate::schedule::{CutOp, Loss, What};

/// Motifs of this kind.
pub(super) const MOTIFS: [Motif; 5] =
    [spared, spared_alive, spared_alive, left_behind, left_behind];

fn crash(g: &mut Generator<'_>, at: Micros, node: usize, down: Micros, keep: u8) {
    let crash = What::Crash {
        node,
        down,
        keep,
        vanish: false,
    };
    g.put(at, crash);
}

/// Some receipts `one` at a sidecar within a span.
fn acknowledged(g: &mut Generator<'_>, node: usize, count: usize, (from, to): (Micros, Micros)) {
    for _ in 0..count {
        let (then, kind) = (g.rng.random_range(from..to), g.kind());
        let mut write = g.write_of(node, kind);
        write.level = ReceiptLevel::One;
        write.dies = false;
        g.put(then, What::Write(write));
    }
}

/// When a seat is spared that is silent from now on, at the earliest. In a run that spares none, some moment.
fn spares(g: &Generator<'_>, silent: Micros) -> Micros {
    let timeout = u64::try_from(g.crash_timeout.as_micros()).unwrap_or(Micros::MAX);
    silent + timeout.min(2_000 * MILLISECOND)
}

/// Nobody but one hears a sidecar for a while, and it writes meanwhile; what it acknowledges is on those two disks.
fn heard_by_one(g: &mut Generator<'_>, (at, lasts): (Micros, Micros), node: usize, heard: usize) {
    for to in (0..g.size).filter(|to| *to != node && *to != heard) {
        let cut = CutOp {
            lasts,
            holds: false,
            breaks: None,
        };
        let from = node;
        g.put(at, What::Cut { from, to, cut });
    }
    acknowledged(g, node, 2, (at, at + lasts / 2));
}

/// A sidecar is heard by one other, dies and stays away until its seat was spared; about then the disk of that other is
/// lost, and perhaps one of those that are left starts anew.
fn spared(g: &mut Generator<'_>, at: Micros) {
    let node = g.node();
    let heard = g.other(node);
    let until = g.rng.random_range(10 * MILLISECOND..60 * MILLISECOND);
    heard_by_one(g, (at, until), node, heard);
    let dies = at + until;
    let down = g.rng.random_range(900 * MILLISECOND..3_500 * MILLISECOND);
    crash(g, dies, node, down, 255);
    let lost = spares(g, dies) + g.rng.random_range(0..300 * MILLISECOND);
    lose_and_read(g, heard, lost);
}

/// A sidecar is cut off from all but one, which goes on acknowledging what it writes until it has heard that the others have
/// spared its seat. About then both are gone: the one with its disk.
fn spared_alive(g: &mut Generator<'_>, at: Micros) {
    let node = g.node();
    let heard = g.other(node);
    let spared = spares(g, at);
    let until = spared + 700 * MILLISECOND;
    let lasts = until - at;
    let latest = [3, 30, 300][g.rng.random_range(0..3)] * MILLISECOND;
    let late = g.rng.random_range(0..latest);
    let trap = What::TrapSpared {
        node: heard,
        with: node,
        late,
        down: g.rng.random_range(300 * MILLISECOND..2_500 * MILLISECOND),
    };
    g.put(at, trap);
    for other in (0..g.size).filter(|other| *other != node && *other != heard) {
        for (from, to) in [(node, other), (other, node)] {
            let cut = CutOp {
                lasts,
                holds: false,
                breaks: Some(MILLISECOND),
            };
            g.put(at, What::Cut { from, to, cut });
        }
    }
    acknowledged(g, node, 20, (spared - 50 * MILLISECOND, until));
    if g.rng.random_range(0..2) == 0 {
        let anew = spared + g.rng.random_range(0..800 * MILLISECOND);
        let node = g.other(heard);
        let (down, keep) = (
            g.rng.random_range(MILLISECOND..100 * MILLISECOND),
            g.rng.random(),
        );
        crash(g, anew, node, down, keep);
    }
    for node in 0..g.size {
        reads(g, node, 8, (spared, until + 1_000 * MILLISECOND));
    }
}

fn lose_and_read(g: &mut Generator<'_>, node: usize, lost: Micros) {
    let down = g.rng.random_range(MILLISECOND..300 * MILLISECOND);
    let loss = Loss::Wiped;
    g.put(lost, What::Lose { node, down, loss });
    if g.rng.random_range(0..2) == 0 {
        let anew = lost + g.rng.random_range(0..600 * MILLISECOND);
        let node = g.other(node);
        let down = g.rng.random_range(MILLISECOND..100 * MILLISECOND);
        let keep = g.rng.random();
        crash(g, anew, node, down, keep);
    }
    for node in 0..g.size {
        reads(g, node, 8, (lost, lost + 1_500 * MILLISECOND));
    }
}

/// Of two disks that hold an event, one is lost, and shortly before or behind that the other one's sidecar leaves in order
/// or dies.
fn left_behind(g: &mut Generator<'_>, at: Micros) {
    let node = g.node();
    let heard = g.other(node);
    let until = g.rng.random_range(10 * MILLISECOND..60 * MILLISECOND);
    heard_by_one(g, (at, until), node, heard);
    let (wiped, leaves) = if g.rng.random_range(0..2) == 0 {
        (node, heard)
    } else {
        (heard, node)
    };
    let goes = at + until;
    let (node, loss) = (wiped, Loss::Wiped);
    let down = g.rng.random_range(MILLISECOND..200 * MILLISECOND);
    let lost = goes + g.rng.random_range(0..250 * MILLISECOND);
    g.put(lost, What::Lose { node, down, loss });
    let goes = goes + g.rng.random_range(0..350 * MILLISECOND);
    let down = g.rng.random_range(300 * MILLISECOND..2_500 * MILLISECOND);
    let node = leaves;
    if g.rng.random_range(0..3) == 0 {
        crash(g, goes, node, down, 255);
    } else {
        g.put(goes, What::Drain { node, down });
    }
    for node in 0..g.size {
        reads(g, node, 6, (goes, goes + 1_500 * MILLISECOND));
    }
}
