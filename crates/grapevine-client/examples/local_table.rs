//! What a look-up in a local table costs, beside one in a plain hash map: 1,000,000 classes, drawn by Zipf's law, a bounded
//! table, and 1,000 bumps of random classes arriving each second meanwhile.
//!
//! ```sh
//! grapevine sidecar --config ...            # any sidecar, on unix:/run/grapevine/app.sock, say
//! cargo run --release -p grapevine-client --example local_table -- unix:/run/grapevine/app.sock
//! ```
//!
//! Both are asked for the same classes in the same order, in turns, and checked: the hash map's value is the class's number, and
//! the table's address is that of the look-up. What misses in the table is asked of the sidecar between the turns, as reads would.
//! Allocations are counted by the allocator for the whole process, the runtime's tasks among them, so the turn with the fewest says most.
//! `grapevine bench resolve` counts those of the thread that looks up.

use std::alloc::System;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use cap::Cap;
use grapevine_client::Client;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const CLASSES: usize = 1_000_000;
const ENTRIES: usize = 65_536;
const BUMPS_PER_SECOND: u64 = 1_000;
/// Look-ups of one turn.
const TURN: usize = 100_000;
const TURNS: usize = 40;
/// Turns before anything counts.
const WARM_UP: usize = 20;

/// Draws classes by Zipf's law with exponent 1: the cumulated weights, and a binary search.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(count: usize) -> Self {
        let mut sum = 0.0;
        let weights = (1..=count).map(|rank| {
            sum += 1.0 / f64::from(u32::try_from(rank).unwrap_or(u32::MAX));
            sum
        });
        Self(weights.collect())
    }

    fn draw(&self, rng: &mut SmallRng) -> usize {
        let sum = self.0.last().copied().unwrap_or(1.0);
        let at = rng.random_range(0.0..sum);
        self.0.partition_point(|upto| *upto <= at)
    }
}

/// What one side of a turn came to.
#[derive(Clone, Copy, Default)]
struct Side {
    nanos: f64,
    found: usize,
    allocated: usize,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoint = std::env::args()
        .nth(1)
        .ok_or("usage: local_table ENDPOINT")?;
    // Filling is not what is measured, and may wait on a busy machine.
    let client = Client::builder(&endpoint)
        .local_table(ENTRIES)
        .resolve_deadline(Duration::from_secs(10))
        .build()?;
    let names: Vec<[String; 1]> = (0..CLASSES).map(|n| [format!("item/{n}")]).collect();
    let plain: HashMap<&str, usize> = names
        .iter()
        .enumerate()
        .map(|(n, it)| (&*it[0], n))
        .collect();
    let zipf = Zipf::new(CLASSES);
    let mut rng = SmallRng::seed_from_u64(5);
    let bumps = tokio::spawn(bump(client.clone()));
    let mut rows: Vec<(Side, Side)> = Vec::new();
    // A look-up of one class, which no cache of the machine's misses.
    let mut hot: Vec<f64> = Vec::new();
    for turn in 0..WARM_UP + TURNS {
        let drawn: Vec<usize> = (0..TURN).map(|_| zipf.draw(&mut rng)).collect();
        let (table, missed) = by_table(&client, &names, &drawn);
        let map = by_map(&plain, &names, &drawn)?;
        if turn >= WARM_UP {
            rows.push((table, map));
            hot.push(again_and_again(&client, &names[drawn[0]]));
        }
        fill(&client, &names, missed).await?;
    }
    bumps.abort();
    report(&client, &rows);
    hot.retain(|nanos| nanos.is_finite());
    hot.sort_by(f64::total_cmp);
    if let Some(nanos) = hot.get(hot.len() / 2) {
        println!("one class:   median {nanos:.1} ns a look-up, again and again");
    }
    Ok(())
}

fn by_table(client: &Client, names: &[[String; 1]], drawn: &[usize]) -> (Side, Vec<usize>) {
    let mut target = String::with_capacity(250);
    let mut missed = Vec::with_capacity(drawn.len());
    let mut found = 0;
    let before = ALLOCATOR.total_allocated();
    let begin = Instant::now();
    for &n in drawn {
        let classes = &names[n];
        match client.local_look_up(&classes[0], classes, &mut target) {
            Some(_) => found += usize::from(target.starts_with(&*classes[0])),
            None => missed.push(n),
        }
    }
    let took = begin.elapsed();
    let side = Side {
        nanos: per(took, drawn.len()),
        found,
        allocated: ALLOCATOR.total_allocated() - before,
    };
    (side, missed)
}

/// One that the table has; else no number.
fn again_and_again(client: &Client, classes: &[String; 1]) -> f64 {
    let mut target = String::with_capacity(250);
    let begin = Instant::now();
    let found = (0..TURN).filter(|_| {
        let hit = client.local_look_up(&classes[0], classes, &mut target);
        std::hint::black_box(hit).is_some()
    });
    let all = found.count() == TURN;
    if all {
        per(begin.elapsed(), TURN)
    } else {
        f64::NAN
    }
}

fn by_map(
    plain: &HashMap<&str, usize>,
    names: &[[String; 1]],
    drawn: &[usize],
) -> Result<Side, String> {
    let mut found = 0;
    let before = ALLOCATOR.total_allocated();
    let begin = Instant::now();
    for &n in drawn {
        found += usize::from(plain.get(&*names[n][0]) == Some(&n));
    }
    let took = begin.elapsed();
    if found != drawn.len() {
        return Err(format!("the map found {found} of {}", drawn.len()));
    }
    Ok(Side {
        nanos: per(took, drawn.len()),
        found,
        allocated: ALLOCATOR.total_allocated() - before,
    })
}

/// Asks the sidecar for what was missed, 256 at a time.
async fn fill(
    client: &Client,
    names: &[[String; 1]],
    mut missed: Vec<usize>,
) -> Result<(), Box<dyn std::error::Error>> {
    missed.sort_unstable();
    missed.dedup();
    for some in missed.chunks(256) {
        let mut asked = tokio::task::JoinSet::new();
        for &n in some {
            let (client, classes) = (client.clone(), names[n].clone());
            asked.spawn(async move { client.resolve_one(&classes[0], &classes, None).await });
        }
        while let Some(answer) = asked.join_next().await {
            answer??;
        }
    }
    Ok(())
}

/// Bumps random classes, so many a second, in batches of a hundredth of that.
async fn bump(client: Client) {
    let mut rng = SmallRng::seed_from_u64(6);
    let mut due = tokio::time::interval(Duration::from_millis(10));
    loop {
        due.tick().await;
        for _ in 0..BUMPS_PER_SECOND / 100 {
            let class = format!("item/{}", rng.random_range(0..CLASSES));
            let bump = client.invalidate([class]).into_future();
            tokio::spawn(async move { drop(bump.await) });
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown to a tenth")]
fn per(took: Duration, count: usize) -> f64 {
    took.as_nanos() as f64 / count as f64
}

#[expect(clippy::cast_precision_loss, reason = "shown to a thousandth")]
fn report(client: &Client, rows: &[(Side, Side)]) {
    let median = |value: &dyn Fn(&(Side, Side)) -> f64| {
        let mut values: Vec<f64> = rows.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        let (low, high) = (values[values.len() / 10], values[values.len() * 9 / 10]);
        (values[values.len() / 2], low, high)
    };
    let (table, low, high) = median(&|row| row.0.nanos);
    let (map, map_low, map_high) = median(&|row| row.1.nanos);
    let found: usize = rows.iter().map(|row| row.0.found).sum();
    // What is counted is the whole process: the runtime's tasks are among it.
    let least = rows.iter().map(|row| row.0.allocated).min().unwrap_or(0);
    println!(
        "local table: median {table:.1} ns a look-up ({low:.1} to {high:.1} in 8 of 10 turns)"
    );
    println!("hash map:    median {map:.1} ns a look-up ({map_low:.1} to {map_high:.1})");
    println!(
        "found:       {:.3} of {} look-ups; {ENTRIES} entries, {CLASSES} classes",
        found as f64 / (rows.len() * TURN) as f64,
        rows.len() * TURN
    );
    println!(
        "allocated:   {least} bytes by the whole process in the turn of {TURN} look-ups in which that was least"
    );
    println!("stats:       {:?}", client.stats());
}
