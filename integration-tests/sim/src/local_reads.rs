//! Readers in processes that keep local tables, and what goes wrong with those.
//!
//! Tables matter where somebody looks again soon, so reads come in runs: some before a write, some around it, some behind its receipt.

use grapevine_core::machine::effects::ReceiptLevel;
use rand::Rng as _;

use crate::clock::{MILLISECOND, Micros};
use crate::generate::{BEGIN, Generator};
use crate::local::LOCALS;
use crate::schedule::{HORIZON, LocalFault, What};
use crate::shop::ADDRESSES_MAX;

/// Adds them to a schedule.
pub(crate) fn add(g: &mut Generator<'_>) {
    for _ in 0..g.rng.random_range(120..240) {
        let at = g.rng.random_range(BEGIN..HORIZON);
        let (node, address) = (g.node(), g.rng.random_range(0..ADDRESSES_MAX));
        let nth = g.rng.random_range(0..LOCALS);
        read(g, at, (node, nth), address);
    }
    for _ in 0..g.rng.random_range(6..14) {
        let at = g.moment();
        around_a_write(g, at);
    }
}

fn read(g: &mut Generator<'_>, at: Micros, (node, nth): (usize, usize), address: usize) {
    let mut read = g.read_of(node, address);
    read.session = false;
    read.local = Some(nth);
    g.put(at, What::Read(read));
}

/// One address is read again and again through a few tables while it is written, and often something is wrong with one of them.
fn around_a_write(g: &mut Generator<'_>, at: Micros) {
    let address = g.address();
    let tables: Vec<_> = (0..3)
        .map(|_| (g.node(), g.rng.random_range(0..LOCALS)))
        .collect();
    let writes_at = at + 60 * MILLISECOND;
    for &table in &tables {
        for _ in 0..3 {
            let before = g.rng.random_range(at..writes_at);
            read(g, before, table, address);
        }
        for _ in 0..14 {
            let after = g.rng.random_range(writes_at..writes_at + 900 * MILLISECOND);
            read(g, after, table, address);
        }
    }
    if !g.climate.is_calm() {
        for &(node, local) in &tables {
            let begins = g.rng.random_range(at..writes_at + 10 * MILLISECOND);
            if let Some(fault) = fault(g) {
                g.put(begins, What::Local { node, local, fault });
                if g.rng.random_range(0..2) == 0 {
                    let again = begins + g.rng.random_range(0..300 * MILLISECOND);
                    let fault = LocalFault::Breaks {
                        above: g.rng.random_range(0..200 * MILLISECOND),
                        below: g.rng.random_range(0..900 * MILLISECOND),
                    };
                    g.put(again, What::Local { node, local, fault });
                }
            }
        }
    }
    if !g.climate.is_calm() && g.rng.random_range(0..8) == 0 {
        // It leaves while a client hangs: behind the lease that it gave.
        let (node, local) = tables[0];
        let lasts = g.rng.random_range(100 * MILLISECOND..450 * MILLISECOND);
        let fault = LocalFault::Hangs(lasts);
        let begins = writes_at + g.rng.random_range(0..60 * MILLISECOND);
        g.put(begins, What::Local { node, local, fault });
        let then = begins + g.rng.random_range(0..40 * MILLISECOND);
        let down = g.rng.random_range(MILLISECOND..400 * MILLISECOND);
        g.put(then, What::Drain { node, down });
    }
    for _ in 0..g.rng.random_range(1..4) {
        let (node, kind) = (g.node(), g.kind_of(address));
        let mut write = g.write_of(node, kind);
        if g.rng.random_range(0..3) > 0 {
            write.level = ReceiptLevel::All;
        }
        let then = writes_at + g.rng.random_range(0..120 * MILLISECOND);
        g.put(then, What::Write(write));
    }
}

fn fault(g: &mut Generator<'_>) -> Option<LocalFault> {
    let lasts = g.rng.random_range(5 * MILLISECOND..450 * MILLISECOND);
    match g.rng.random_range(0..7) {
        0..3 => Some(LocalFault::Hangs(lasts)),
        3 => Some(LocalFault::Stops(lasts)),
        4 => Some(LocalFault::Breaks {
            above: g.rng.random_range(0..300 * MILLISECOND),
            below: g.rng.random_range(0..900 * MILLISECOND),
        }),
        5 => Some(LocalFault::Releases),
        _ => None,
    }
}
