//! Many readers that miss the same value at once, where one fills for all: race 11.
//!
//! A write, and readers at all sidecars right behind it. Some of those that win take long, or longer than their turn, or are
//! gone before they have stored it; a further write overtakes them; and sidecars, one of which is the arbiter, crash, are
//! stopped or are cut off while the others wait.

use rand::Rng as _;

use crate::clock::{MILLISECOND, Micros};
use crate::generate::Generator;
use crate::schedule::{CutOp, What};

/// Adds stampedes to a schedule.
pub(crate) fn add(g: &mut Generator<'_>) {
    for _ in 0..g.rng.random_range(1..4) {
        let at = g.moment();
        stampede(g, at);
    }
}

fn stampede(g: &mut Generator<'_>, at: Micros) {
    let elected = g.shop.elected();
    let address = elected[g.rng.random_range(0..elected.len())];
    let (writer, kind) = (g.node(), g.kind_of(address));
    g.write(at, writer, kind);
    let begins = at + g.rng.random_range(2 * MILLISECOND..30 * MILLISECOND);
    let takes = computes(g);
    for _ in 0..g.rng.random_range(4..9) {
        let node = g.node();
        let mut read = g.read_of(node, address);
        read.session = false;
        read.compute = takes;
        let then = begins + g.rng.random_range(0..8 * MILLISECOND);
        g.put(then, What::Read(read));
    }
    if g.rng.random_range(0..2) == 0 {
        let (writer, kind) = (g.node(), g.kind_of(address));
        let then = begins + g.rng.random_range(0..=takes.min(500 * MILLISECOND));
        g.write(then, writer, kind);
        for _ in 0..3 {
            let (later, node) = (then + g.rng.random_range(0..takes + 1), g.node());
            g.read(later, node, address);
        }
    }
    disturb(g, begins, takes);
}

/// How long the source takes: now and then longer than a turn.
fn computes(g: &mut Generator<'_>) -> Micros {
    let calm = !(g.climate.network || g.climate.disks || g.climate.pauses);
    match g.rng.random_range(0..8) {
        0..5 => g.rng.random_range(MILLISECOND..20 * MILLISECOND),
        7 if !calm => g.rng.random_range(1_900 * MILLISECOND..2_600 * MILLISECOND),
        _ => g.rng.random_range(20 * MILLISECOND..400 * MILLISECOND),
    }
}

/// Something happens to a sidecar while readers wait.
fn disturb(g: &mut Generator<'_>, begins: Micros, takes: Micros) {
    let span = takes.min(300 * MILLISECOND) + 10 * MILLISECOND;
    let (at, node) = (begins + g.rng.random_range(0..span), g.node());
    let lasts = g.rng.random_range(10 * MILLISECOND..1_200 * MILLISECOND);
    let climate = g.climate;
    match g.rng.random_range(0..4) {
        0 if climate.disks => {
            let (keep, vanish) = (g.rng.random(), false);
            let down = lasts;
            g.put(
                at,
                What::Crash {
                    node,
                    down,
                    keep,
                    vanish,
                },
            );
        }
        1 if climate.network => {
            let cut = CutOp {
                lasts,
                holds: g.rng.random_range(0..3) == 0,
                breaks: (g.rng.random_range(0..2) == 0).then(|| g.rng.random_range(0..lasts)),
            };
            g.put(at, What::Isolate { node, cut });
        }
        2 if climate.pauses => g.put(at, What::Stop { node, lasts }),
        3 if climate.network => {
            let percent = g.rng.random_range(20..90);
            g.put(at, What::Lossy { lasts, percent });
        }
        _ => {}
    }
}
