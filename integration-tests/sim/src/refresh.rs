//! Soft writes of what is read again and again, where policy lets what they replaced be served for a while.
//!
//! A value is filled; a soft write replaces it, mostly; readers everywhere take it stale, within its window and right behind
//! that. In between come hard writes, also at a sidecar whose word comes late, further soft ones, and sessions.

use rand::Rng as _;

use crate::clock::{MILLISECOND, Micros};
use crate::generate::Generator;
use crate::schedule::{CutOp, What};

/// Adds them to a schedule.
pub(crate) fn add(g: &mut Generator<'_>) {
    for _ in 0..g.rng.random_range(1..4) {
        let at = g.moment();
        refresh(g, at);
    }
}

fn refresh(g: &mut Generator<'_>, at: Micros) {
    let fading = g.shop.fading();
    let address = fading[g.rng.random_range(0..fading.len())];
    let window = g.shop.window(address);
    for _ in 0..2 {
        let node = g.node();
        g.read(at, node, address);
    }
    let replaced = at + g.rng.random_range(10 * MILLISECOND..60 * MILLISECOND);
    write(g, replaced, address, true);
    for _ in 0..g.rng.random_range(0..3) {
        let again = replaced + g.rng.random_range(0..window);
        let soft = g.rng.random_range(0..2) == 0;
        let node = write(g, again, address, soft);
        if g.climate.network && g.rng.random_range(0..2) == 0 {
            let (from, to) = (node, g.other(node));
            let cut = CutOp {
                lasts: g.rng.random_range(5 * MILLISECOND..150 * MILLISECOND),
                holds: true,
                breaks: None,
            };
            let begins = again.saturating_sub(MILLISECOND);
            g.put(begins, What::Cut { from, to, cut });
        }
    }
    for _ in 0..8 {
        let node = g.node();
        let mut read = g.read_of(node, address);
        read.stale = true;
        let span = window + window / 4;
        let then = replaced + g.rng.random_range(0..span);
        g.put(then, What::Read(read));
    }
}

fn write(g: &mut Generator<'_>, at: Micros, address: usize, soft: bool) -> usize {
    let (node, kind) = (g.node(), g.kind_of(address));
    let mut write = g.write_of(node, kind);
    write.soft = soft;
    g.put(at, What::Write(write));
    node
}
