//! Reads inside database snapshots that a sidecar is told of before they begin (`OpenSnapshot`).
//!
//! Several fills read in one snapshot, for a moment or for longer than it was opened for, while others write what they read.

use rand::Rng as _;

use crate::clock::{MILLISECOND, Micros};
use crate::generate::Generator;
use crate::schedule::{InsideOp, What};

/// Adds them to a schedule.
pub(crate) fn add(g: &mut Generator<'_>) {
    for _ in 0..g.rng.random_range(2..6) {
        let at = g.moment();
        inside(g, at);
    }
}

fn inside(g: &mut Generator<'_>, at: Micros) {
    let (node, span) = (g.node(), [5, 60, 400, 2_400][g.rng.random_range(0..4)]);
    let span = span * MILLISECOND;
    let reads = std::array::from_fn(|_| {
        let address = g.address();
        let mut read = g.read_of(node, address);
        read.session = false;
        read.ask.goes = None;
        (g.rng.random_range(1..span), read)
    });
    let op = InsideOp {
        node,
        lease: [0, 0, 40, 250][g.rng.random_range(0..4)] * MILLISECOND,
        begins: g.rng.random_range(50..2 * MILLISECOND),
        reads,
    };
    for (after, read) in op.reads {
        if g.rng.random_range(0..2) == 0 {
            let (writer, kind) = (g.node(), g.kind_of(read.address));
            let then = at + g.rng.random_range(0..after + 5 * MILLISECOND);
            g.write(then, writer, kind);
        }
    }
    g.put(at, What::Inside(Box::new(op)));
}
