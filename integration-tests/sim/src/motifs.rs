//! Motifs: groups of operations that together bring a race about. See [`crate::generate`].

mod seats;

use grapevine_core::machine::effects::ReceiptLevel;
use rand::Rng as _;

use crate::clock::{MILLISECOND, Micros};
use crate::generate::Generator;
use crate::schedule::{CutOp, Loss, What};
use crate::shop::ADDRESSES_MAX;

/// A motif, begun at some moment.
type Motif = fn(&mut Generator<'_>, Micros);

/// Motifs of the network.
const NETWORK: [Motif; 7] = [isolate, isolate, one_way, flap, lossy, half_pushed, suspect];
/// Motifs of crashes and disks.
const DISKS: [Motif; 11] = [
    crash, crash, drain, wipe, restore, restore, mass, slow_disk, snapshot, snapshot, twin,
];
/// Motifs of stopped processes and walls.
const PAUSES: [Motif; 4] = [stop, stop, step_wall, cut_and_step];
/// Motifs of the cache.
const CACHES: [Motif; 2] = [cache_away, lose_deletes];

/// Adds motifs that fit the climate.
pub(crate) fn add(generator: &mut Generator<'_>) {
    let climate = generator.climate;
    let mut motifs: Vec<Motif> = Vec::new();
    if climate.network {
        motifs.extend(NETWORK);
    }
    if climate.disks {
        motifs.extend(DISKS);
    }
    if climate.pauses {
        motifs.extend(PAUSES);
    }
    if climate.caches {
        motifs.extend(CACHES);
    }
    if climate.disks && climate.network {
        motifs.push(half_pushed);
        motifs.extend(seats::MOTIFS);
    }
    motifs.push(late_set);
    let count = generator.rng.random_range(4..12);
    for _ in 0..count {
        let (at, pick) = (
            generator.moment(),
            generator.rng.random_range(0..motifs.len()),
        );
        motifs[pick](generator, at);
    }
    // A race that costs nothing and is the most common one.
    for _ in 0..6 {
        let at = generator.moment();
        late_set(generator, at);
    }
}

fn cut(g: &mut Generator<'_>, lasts: Micros) -> CutOp {
    CutOp {
        lasts,
        holds: g.rng.random_range(0..3) == 0,
        breaks: (g.rng.random_range(0..2) == 0).then(|| g.rng.random_range(0..lasts)),
    }
}

/// Reads of a few addresses at a sidecar within a span.
fn reads(g: &mut Generator<'_>, node: usize, count: usize, (from, to): (Micros, Micros)) {
    for _ in 0..count {
        let (at, address) = (g.rng.random_range(from..to), g.address());
        g.read(at, node, address);
    }
}

/// Writes at some sidecar other than this one within a span.
fn writes(g: &mut Generator<'_>, not: usize, count: usize, (from, to): (Micros, Micros)) {
    for _ in 0..count {
        let (at, node, kind) = (g.rng.random_range(from..to), g.other(not), g.kind());
        g.write(at, node, kind);
    }
}

/// A miss reads; a write overtakes; the set lands late; others read.
fn late_set(g: &mut Generator<'_>, at: Micros) {
    let (reader, writer, address) = (g.node(), g.node(), g.address());
    let mut read = g.read_of(reader, address);
    read.compute = g.rng.random_range(5 * MILLISECOND..120 * MILLISECOND);
    g.put(at, What::Read(read));
    let kind = g.kind_of(address);
    let then = at + g.rng.random_range(0..40 * MILLISECOND);
    g.write(then, writer, kind);
    for _ in 0..4 {
        let (later, node) = (then + g.rng.random_range(0..200 * MILLISECOND), g.node());
        g.read(later, node, address);
    }
}

/// Cut off, both ways; writes on both sides, readers within.
fn isolate(g: &mut Generator<'_>, at: Micros) {
    let node = g.node();
    let lasts = g.rng.random_range(50 * MILLISECOND..2_500 * MILLISECOND);
    let cut = cut(g, lasts);
    g.put(at, What::Isolate { node, cut });
    let span = (at, at + lasts);
    writes(g, node, 4, span);
    let (own, kind) = (g.rng.random_range(at..at + lasts), g.kind());
    g.write(own, node, kind);
    reads(g, node, 14, span);
}

fn one_way(g: &mut Generator<'_>, at: Micros) {
    let from = g.node();
    let to = g.other(from);
    let lasts = g.rng.random_range(50 * MILLISECOND..2_000 * MILLISECOND);
    let cut = cut(g, lasts);
    g.put(at, What::Cut { from, to, cut });
    let kind = g.kind();
    g.write(at + lasts / 3, from, kind);
    reads(g, to, 8, (at, at + lasts));
}

fn flap(g: &mut Generator<'_>, at: Micros) {
    let one = g.node();
    let other = g.other(one);
    let times = g.rng.random_range(3..12);
    let each = g.rng.random_range(10 * MILLISECOND..150 * MILLISECOND);
    let flap = What::Flap {
        one,
        other,
        times,
        each,
    };
    g.put(at, flap);
}

fn lossy(g: &mut Generator<'_>, at: Micros) {
    let lasts = g.rng.random_range(100 * MILLISECOND..2_000 * MILLISECOND);
    let percent = g.rng.random_range(5..60);
    g.put(at, What::Lossy { lasts, percent });
}

fn suspect(g: &mut Generator<'_>, at: Micros) {
    let node = g.node();
    let about = g.other(node);
    let lasts = g.rng.random_range(200 * MILLISECOND..1_500 * MILLISECOND);
    g.put(at, What::Suspect { node, about, lasts });
}

/// Heard by one peer only, and then dead: race 14. It stays away for a while, and comes back as another run.
fn half_pushed(g: &mut Generator<'_>, at: Micros) {
    let node = g.node();
    let heard = g.other(node);
    for to in (0..g.size).filter(|to| *to != node && *to != heard) {
        let cut = CutOp {
            lasts: 150 * MILLISECOND,
            holds: false,
            breaks: None,
        };
        g.put(
            at,
            What::Cut {
                from: node,
                to,
                cut,
            },
        );
    }
    let kind = g.kind();
    let mut write = g.write_of(node, kind);
    write.level = [ReceiptLevel::None, ReceiptLevel::One][g.rng.random_range(0..2)];
    write.dies = false;
    g.put(at + MILLISECOND, What::Write(write));
    let dies = at + g.rng.random_range(4 * MILLISECOND..30 * MILLISECOND);
    let down = g.rng.random_range(20 * MILLISECOND..1_500 * MILLISECOND);
    let (keep, vanish) = (g.rng.random(), false);
    let crash = What::Crash {
        node,
        down,
        keep,
        vanish,
    };
    g.put(dies, crash);
    reads(g, heard, 4, (at, at + 400 * MILLISECOND));
}

fn crash(g: &mut Generator<'_>, at: Micros) {
    let node = g.node();
    let (keep, vanish) = (g.rng.random(), g.rng.random_range(0..4) == 0);
    let down = g.rng.random_range(MILLISECOND..1_500 * MILLISECOND);
    let crash = What::Crash {
        node,
        down,
        keep,
        vanish,
    };
    // A write right before it: its flush is under way, or its push.
    let (kind, before) = (g.kind(), g.rng.random_range(0..6 * MILLISECOND));
    let mut write = g.write_of(node, kind);
    write.level = [ReceiptLevel::None, ReceiptLevel::One][g.rng.random_range(0..2)];
    g.put(at.saturating_sub(before), What::Write(write));
    g.put(at, crash);
    reads(g, node, 8, (at + down, at + down + 700 * MILLISECOND));
}

fn drain(g: &mut Generator<'_>, at: Micros) {
    let node = g.node();
    let down = g.rng.random_range(MILLISECOND..800 * MILLISECOND);
    g.put(at, What::Drain { node, down });
    reads(g, node, 6, (at + down, at + down + 700 * MILLISECOND));
}

fn wipe(g: &mut Generator<'_>, at: Micros) {
    let node = g.node();
    let down = g.rng.random_range(MILLISECOND..800 * MILLISECOND);
    let loss = Loss::Wiped;
    g.put(at, What::Lose { node, down, loss });
    if g.rng.random_range(0..2) == 0 {
        for node in 0..g.size {
            g.put(at, What::Compact { node });
        }
    }
    writes(g, node, 3, (at, at + down + 300 * MILLISECOND));
    reads(g, node, 8, (at + down, at + down + 900 * MILLISECOND));
}

/// A copy is made, the world goes on, the copy comes back.
fn restore(g: &mut Generator<'_>, at: Micros) {
    let node = g.node();
    g.put(at, What::Copy { node });
    let span = g.rng.random_range(100 * MILLISECOND..1_500 * MILLISECOND);
    let address = g.address();
    let kind = g.kind_of(address);
    g.read(at + MILLISECOND, node, address);
    let writer = g.node();
    g.write(at + span / 2, writer, kind);
    let down = g.rng.random_range(MILLISECOND..400 * MILLISECOND);
    let loss = Loss::Restored;
    g.put(at + span, What::Lose { node, down, loss });
    let back = at + span + down;
    for _ in 0..4 {
        let later = back + g.rng.random_range(0..400 * MILLISECOND);
        g.read(later, node, address);
    }
    reads(g, node, 6, (back, back + 700 * MILLISECOND));
}

fn mass(g: &mut Generator<'_>, at: Micros) {
    let down = g.rng.random_range(MILLISECOND..300 * MILLISECOND);
    let wipe = g.rng.random_range(0..6) == 0;
    g.put(at, What::Mass { down, wipe });
    for node in 0..g.size {
        reads(g, node, 5, (at + down, at + down + 800 * MILLISECOND));
    }
}

fn slow_disk(g: &mut Generator<'_>, at: Micros) {
    let node = g.node();
    let lasts = g.rng.random_range(100 * MILLISECOND..1_500 * MILLISECOND);
    g.put(at, What::SlowDisk { node, lasts });
    for _ in 0..3 {
        let (later, kind) = (at + g.rng.random_range(0..lasts), g.kind());
        g.write(later, node, kind);
    }
    reads(g, node, 6, (at, at + lasts));
}

/// Logs are compacted while a sidecar is away, so that it needs a snapshot; bumps come while that is read.
fn snapshot(g: &mut Generator<'_>, at: Micros) {
    let node = g.node();
    let down = g.rng.random_range(150 * MILLISECOND..600 * MILLISECOND);
    let (keep, vanish) = (g.rng.random(), false);
    if g.rng.random_range(0..2) == 0 {
        let crash = What::Crash {
            node,
            down,
            keep,
            vanish,
        };
        g.put(at, crash);
    } else {
        let loss = Loss::Wiped;
        g.put(at, What::Lose { node, down, loss });
    }
    writes(g, node, 5, (at, at + down));
    let back = at + down;
    for other in (0..g.size).filter(|other| *other != node) {
        g.put(back - 5 * MILLISECOND, What::Compact { node: other });
    }
    if g.rng.random_range(0..2) == 0 {
        let down = g.rng.random_range(MILLISECOND..200 * MILLISECOND);
        g.put(back - MILLISECOND, What::TrapSnapshot { node, down });
    }
    // One of the others is not heard meanwhile: what it bumps comes with the snapshot, or by a pull, or not at all.
    let unheard = g.other(node);
    let cut = CutOp {
        lasts: 250 * MILLISECOND,
        holds: false,
        breaks: None,
    };
    let begins = back + g.rng.random_range(20 * MILLISECOND..90 * MILLISECOND);
    let (from, to) = (unheard, node);
    g.put(begins, What::Cut { from, to, cut });
    for _ in 0..6 {
        let (then, kind) = (begins + g.rng.random_range(0..100 * MILLISECOND), g.kind());
        g.write(then, unheard, kind);
    }
    writes(g, node, 4, (back, back + 120 * MILLISECOND));
    reads(g, node, 8, (back, back + 600 * MILLISECOND));
}

fn twin(g: &mut Generator<'_>, at: Micros) {
    let node = g.node();
    let copied = g.rng.random_range(0..2) == 0;
    let lasts = g.rng.random_range(300 * MILLISECOND..2_000 * MILLISECOND);
    g.put(
        at,
        What::Twin {
            node,
            copied,
            lasts,
        },
    );
    if g.rng.random_range(0..2) == 0 {
        // Its peers let the twin in only when the other one is silent.
        g.put(at, What::Stop { node, lasts });
    }
    let slot = g.size;
    reads(g, slot, 10, (at + lasts / 2, at + lasts));
}

/// Stopped for longer than every lease, with writes meanwhile, and read at the very moment it goes on.
fn stop(g: &mut Generator<'_>, at: Micros) {
    let node = g.node();
    let lasts = if g.rng.random_range(0..3) == 0 {
        g.rng.random_range(2_200 * MILLISECOND..4_000 * MILLISECOND)
    } else {
        g.rng.random_range(20 * MILLISECOND..1_200 * MILLISECOND)
    };
    g.put(at, What::Stop { node, lasts });
    writes(g, node, 4, (at, at + lasts));
    let address = g.address();
    g.read(at.saturating_sub(2 * MILLISECOND), node, address);
    for address in 0..ADDRESSES_MAX {
        let then = at + lasts + g.rng.random_range(0..3 * MILLISECOND);
        g.read(then, node, address);
    }
}

fn step_wall(g: &mut Generator<'_>, at: Micros) {
    let node = g.node();
    let seconds = g.rng.random_range(-1_800..=1_800);
    g.put(at, What::StepWall { node, seconds });
}

/// A wall is stepped, and then the sidecar is cut off and read.
fn cut_and_step(g: &mut Generator<'_>, at: Micros) {
    let node = g.node();
    let lasts = g.rng.random_range(900 * MILLISECOND..2_000 * MILLISECOND);
    let cut = cut(g, lasts);
    g.put(at, What::Isolate { node, cut });
    let seconds = g.rng.random_range(-900..=-1);
    g.put(at + 5 * MILLISECOND, What::StepWall { node, seconds });
    writes(g, node, 6, (at, at + lasts / 2));
    reads(g, node, 16, (at, at + lasts));
}

fn cache_away(g: &mut Generator<'_>, at: Micros) {
    let lasts = g.rng.random_range(50 * MILLISECOND..1_200 * MILLISECOND);
    for _ in 0..4 {
        let (address, reader, writer) = (g.address(), g.node(), g.node());
        g.read(at.saturating_sub(20 * MILLISECOND), reader, address);
        let kind = g.kind_of(address);
        g.write(at + lasts / 2, writer, kind);
        for _ in 0..2 {
            let (later, node) = (
                at + lasts + g.rng.random_range(0..60 * MILLISECOND),
                g.node(),
            );
            g.read(later, node, address);
        }
    }
    g.put(at, What::CacheAway { lasts });
}

fn lose_deletes(g: &mut Generator<'_>, at: Micros) {
    let lasts = g.rng.random_range(50 * MILLISECOND..1_000 * MILLISECOND);
    g.put(at, What::LoseDeletes { lasts });
    // Registered addresses have deletes to lose.
    for address in 6..10 {
        let (reader, writer) = (g.node(), g.node());
        g.read(at.saturating_sub(20 * MILLISECOND), reader, address);
        let kind = g.kind_of(address);
        g.write(at + lasts / 3, writer, kind);
        for _ in 0..2 {
            let (later, node) = (at + lasts / 2 + g.rng.random_range(0..lasts), g.node());
            g.read(later, node, address);
        }
    }
}
