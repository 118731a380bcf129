//! How fast a cache is from this machine: single reads by many tasks that share one client, reads and deletes of many keys.
//!
//! `cargo run --release -p grapevine-cache --example throughput -- memcached://127.0.0.1:11211?pool=2 [tasks] [seconds]`

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use grapevine_cache::{Cache, CacheError, connect};
use tokio::task::JoinSet;

const KEYS: usize = 1_000;
const VALUE_BYTES: usize = 200;
const KEYS_OF_ONE_CART: usize = 1_519;
const ROUNDS: usize = 51;
const TTL: Duration = Duration::from_mins(5);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments
        .next()
        .unwrap_or_else(|| "memcached://127.0.0.1:11211".to_owned());
    let tasks = arguments.next().map_or(Ok(64), |text| text.parse())?;
    let seconds = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let cache = connect(&url)?;
    single_reads(&cache, tasks, Duration::from_secs(seconds)).await?;
    tokio::spawn(one_reader(Arc::clone(&cache))).await??;
    tokio::spawn(one_cart(Arc::clone(&cache))).await??;
    Ok(())
}

async fn single_reads(
    cache: &Arc<dyn Cache>,
    tasks: usize,
    during: Duration,
) -> Result<(), Box<dyn Error>> {
    let keys: Arc<Vec<String>> = Arc::new(
        (0..KEYS)
            .map(|number| format!("get_items_in_cart::{number}:10:30"))
            .collect(),
    );
    for key in keys.iter() {
        cache.set(key, vec![b'v'; VALUE_BYTES].into(), TTL).await?;
    }
    let reads = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for task in 0..tasks {
        let (cache, keys, reads) = (Arc::clone(cache), Arc::clone(&keys), Arc::clone(&reads));
        running.spawn(async move {
            let mut number = task;
            while begun.elapsed() < during {
                number = (number + 7) % KEYS;
                match cache.get(&keys[number]).await {
                    Ok(Some(_)) => reads.fetch_add(1, Ordering::Relaxed),
                    other => return Err(format!("{}: {other:?}", keys[number])),
                };
            }
            Ok(())
        });
    }
    while let Some(result) = running.join_next().await {
        result??;
    }
    let per_second =
        u128::from(reads.load(Ordering::Relaxed)) * 1_000 / begun.elapsed().as_millis().max(1);
    println!("{tasks} tasks: {per_second} gets/s");
    Ok(())
}

async fn one_reader(cache: Arc<dyn Cache>) -> Result<(), CacheError> {
    let mut times = Vec::new();
    for number in 0..20_000 {
        let key = format!("get_items_in_cart::{}:10:30", number % KEYS);
        let begun = Instant::now();
        cache.get(&key).await?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    println!(
        "one task: p50 {:?}, p99 {:?}",
        times[times.len() / 2],
        times[times.len() * 99 / 100]
    );
    Ok(())
}

async fn one_cart(cache: Arc<dyn Cache>) -> Result<(), CacheError> {
    let keys: Vec<_> = (0..KEYS_OF_ONE_CART)
        .map(|number| format!("get_items_in_cart::13:10:{number}"))
        .collect();
    let (mut reads, mut deletes) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for key in &keys {
            cache.set(key, vec![b'v'; VALUE_BYTES].into(), TTL).await?;
        }
        let begun = Instant::now();
        let found = cache.get_many(&keys).await?.iter().flatten().count();
        reads.push(begun.elapsed());
        let begun = Instant::now();
        let outcome = cache.delete_many(&keys).await;
        deletes.push(begun.elapsed());
        assert_eq!(
            (found, outcome.deleted),
            (keys.len(), keys.len()),
            "nothing is lost"
        );
    }
    for (what, mut times) in [("reads", reads), ("deletes", deletes)] {
        times.sort_unstable();
        println!(
            "{KEYS_OF_ONE_CART} {what}: median {:?}, fastest {:?}",
            times[ROUNDS / 2],
            times[0]
        );
    }
    Ok(())
}
