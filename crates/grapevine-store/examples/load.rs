//! Measures the store: `cargo run --release -p grapevine-store --example load [registrations] [directory] [cache MB]
//! [largest event in the tree]`.
//!
//! Everything is committed as the sidecar does it: the event into the log, what it changes, and the watermark, then
//! flushed. Prints one line per measurement.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use grapevine_core::event::{
    Bump, BumpEvent, Event, Match, PurgeMode, Registration, RegistrationBatch,
};
use grapevine_core::id::{EventId, Incarnation, Lane, UnixSeconds};
use grapevine_core::names::{Address, ClassPath};
use grapevine_core::store::Write;
use grapevine_core::vector::VersionVector;
use grapevine_store::{SledStore, Store, StoreConfig, StoreError};

const BATCH: u64 = 1000;
const NOW: u32 = 1_760_000_000;

/// A small generator: the load is the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

struct Load {
    store: Arc<SledStore>,
    origin: Incarnation,
    bumps: u64,
    batches: u64,
}

fn class(text: &str) -> ClassPath {
    ClassPath::parse(text).expect("invariant: the load's classes are well formed")
}

fn registration(address: &str, class: &ClassPath, expires: u32) -> Registration {
    Registration {
        address: Address::parse(address).expect("invariant: the load's addresses are well formed"),
        classes: vec![class.clone()],
        expires: UnixSeconds(expires),
    }
}

impl Load {
    fn register(&mut self, registrations: Vec<Registration>) -> Result<(), StoreError> {
        self.batches += 1;
        let batch = RegistrationBatch {
            stamp: VersionVector::from_iter([(self.origin, self.bumps)]),
            registrations: registrations.clone(),
        };
        self.store.commit(&[
            Write::Log {
                origin: self.origin,
                sequence: self.batches,
                event: Event::Directory(Arc::new(batch)),
            },
            Write::Register {
                registrations,
                own: true,
            },
            Write::Progress {
                origin: self.origin,
                lane: Lane::Directory,
                watermark: self.batches,
            },
        ])?;
        Ok(())
    }

    fn bump(&mut self, class: &ClassPath) -> Result<usize, StoreError> {
        self.bumps += 1;
        let event = EventId {
            origin: self.origin,
            sequence: self.bumps,
        };
        let bump = Bump {
            classes: vec![class.clone()],
            matching: Match::Any,
            purge: PurgeMode::Hard,
        };
        let taken = self.store.commit(&[
            Write::Log {
                origin: self.origin,
                sequence: self.bumps,
                event: Event::Bump(Arc::new(BumpEvent::Bump(bump))),
            },
            Write::JoinClass {
                class: class.clone(),
                others: Vec::new(),
                entries: VersionVector::from_iter([(self.origin, self.bumps)]),
            },
            Write::Take {
                event,
                classes: vec![class.clone()],
                matching: Match::Any,
                own_only: false,
                purge: PurgeMode::Hard,
            },
            Write::Progress {
                origin: self.origin,
                lane: Lane::Bump,
                watermark: self.bumps,
            },
        ])?;
        Ok(taken.iter().map(|taken| taken.addresses.len()).sum())
    }

    fn line(&self, what: &str, count: u64, elapsed: Duration) {
        println!(
            "{what:<40} {count:>9} in {:>7.2} s {:>9.0}/s; process {:>6.2} CPU-s, disk {:>5} MB, memory {:>4} MB",
            elapsed.as_secs_f64(),
            rate(count, elapsed),
            cpu_s(),
            self.store.disk_bytes() >> 20,
            resident_mb(),
        );
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
fn rate(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

/// Processor time of this process so far, where the system tells it, in its ticks of 10 ms.
#[expect(clippy::cast_precision_loss, reason = "a figure for people to read")]
fn cpu_s() -> f64 {
    std::fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|stat| {
            let fields = stat.rsplit_once(')')?.1.split_whitespace();
            let ticks = fields.skip(11).take(2).map(str::parse::<u64>);
            ticks.sum::<Result<u64, _>>().ok()
        })
        .map_or(0.0, |ticks| ticks as f64 / 100.0)
}

/// This process's resident memory, where the system tells it.
fn resident_mb() -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .map_or(0, |kilobytes| kilobytes >> 10)
}

fn cart_page(cart: u64, page: u64) -> String {
    format!("get_items_in_cart::{cart}:10:{}", page * 10)
}

/// Ten addresses for each of 100 random classes of `classes`, batch after batch.
fn spread(load: &mut Load, registrations: u64, classes: u64, ttl: u32) -> Result<(), StoreError> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut elapsed = Duration::ZERO;
    let mut slowest = Duration::ZERO;
    for batch in 0..registrations / BATCH {
        let mut registrations = Vec::with_capacity(1000);
        // Time goes by as it would at 300,000 registrations a second.
        let expires = NOW + ttl + u32::try_from(batch / 300).unwrap_or(u32::MAX);
        for _ in 0..BATCH / 10 {
            let cart = random.below(classes);
            let class = class(&format!("get_items_in_cart/{cart}"));
            for _ in 0..10 {
                let address = cart_page(cart, random.below(150));
                registrations.push(registration(&address, &class, expires));
            }
        }
        let begun = Instant::now();
        load.register(registrations)?;
        let took = begun.elapsed();
        elapsed += took;
        slowest = slowest.max(took);
    }
    load.line(
        "register, 10 each of 100 random classes",
        registrations,
        elapsed,
    );
    println!("    slowest commit {:.1} ms", slowest.as_secs_f64() * 1e3);
    Ok(())
}

/// The essay's class, many times over: 1,519 addresses registered, then taken by a bump.
fn carts(load: &mut Load, rounds: u64) -> Result<(), StoreError> {
    let (mut registering, mut taking) = (Duration::ZERO, Duration::ZERO);
    for round in 0..rounds {
        let class = class(&format!("essay/{round}"));
        let registrations: Vec<_> = (0..1519)
            .map(|page| registration(&cart_page(round, page), &class, NOW + 300))
            .collect();
        let begun = Instant::now();
        load.register(registrations)?;
        registering += begun.elapsed();
    }
    load.line("register, 1519 of one class", rounds * 1519, registering);
    for round in 0..rounds {
        let class = class(&format!("essay/{round}"));
        let begun = Instant::now();
        assert_eq!(load.bump(&class)?, 1519);
        taking += begun.elapsed();
    }
    load.line("take of 1519 by a bump, each flushed", rounds, taking);
    Ok(())
}

fn bumps(load: &mut Load, count: u64) -> Result<(), StoreError> {
    let mut random = Random(42);
    let mut times = Vec::new();
    for _ in 0..count {
        let class = class(&format!("bumped/{}", random.below(100_000)));
        let begun = Instant::now();
        load.bump(&class)?;
        times.push(begun.elapsed());
    }
    load.line("bump, each flushed", count, times.iter().sum());
    times.sort();
    println!(
        "    median {:?}, 99th percentile {:?}",
        times[times.len() / 2],
        times[times.len() * 99 / 100]
    );
    Ok(())
}

/// Bumps while peers' snapshots are read: readers hold a commit up for a page at most.
fn bumps_beside_readers(load: &mut Load, count: u64, readers: usize) -> Result<(), StoreError> {
    let store = Arc::clone(&load.store);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reading: Vec<_> = (0..readers)
            .map(|_| {
                scope.spawn(|| {
                    let (mut pages, mut after) = (0_u64, None);
                    while !done.load(Ordering::Relaxed) {
                        // As a sidecar serves them.
                        after = store.snapshot_directory(after.as_ref(), 5_000)?.next;
                        store.snapshot_versions(None, 500)?;
                        pages += 2;
                    }
                    Ok::<_, StoreError>(pages)
                })
            })
            .collect();
        let outcome = bumps(load, count);
        done.store(true, Ordering::Relaxed);
        for reader in reading {
            let pages = reader.join().expect("invariant: readers do not panic")?;
            println!("    beside a reader of {pages} pages");
        }
        outcome
    })
}

/// A bump of everything: the directory leaves in one commit.
fn everything(load: &mut Load) -> Result<(), StoreError> {
    let begun = Instant::now();
    let taken = load.bump(&ClassPath::everything())?;
    load.line("take everything", taken as u64, begun.elapsed());
    Ok(())
}

fn reads(load: &Load) -> Result<(), StoreError> {
    let begun = Instant::now();
    let mut after = None;
    let mut count = 0;
    loop {
        let page = load.store.snapshot_directory(after.as_ref(), 10_000)?;
        count += page.rows.len() as u64;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    load.line("list the directory", count, begun.elapsed());
    Ok(())
}

fn expire(load: &Load, now: u32) -> Result<(), StoreError> {
    let before = load.store.registrations();
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut most = 0;
    loop {
        let left = load.store.registrations();
        let call = Instant::now();
        load.store.commit(&[Write::Expire {
            now: UnixSeconds(now),
            limit: 10_000,
        }])?;
        slowest = slowest.max(call.elapsed());
        most = most.max(left - load.store.registrations());
        if !load.store.expiry_backlog() {
            break;
        }
    }
    let removed = before - load.store.registrations();
    load.line("expire, 10,000 a call", removed, begun.elapsed());
    println!(
        "    slowest call {:.1} ms, at most {most} in one",
        slowest.as_secs_f64() * 1e3
    );
    Ok(())
}

/// A directory that lives: 1,000 registrations of 5 minutes in every second of pretended time, and as many that
/// lapse. Says how large the disk is as it goes on.
fn churn(load: &mut Load, seconds: u32, classes: u64) -> Result<(), StoreError> {
    let mut random = Random(7);
    let mut elapsed = Duration::ZERO;
    for second in 0..seconds {
        let now = NOW + 10_000 + second;
        let mut registrations = Vec::with_capacity(1000);
        for _ in 0..BATCH / 10 {
            let cart = random.below(classes);
            let class = class(&format!("churn/{cart}"));
            for _ in 0..10 {
                let address = cart_page(cart, random.below(150));
                registrations.push(registration(&address, &class, now + 300));
            }
        }
        let begun = Instant::now();
        load.register(registrations)?;
        load.store.commit(&[Write::Expire {
            now: UnixSeconds(now),
            limit: 10_000,
        }])?;
        elapsed += begun.elapsed();
        if (second + 1) % (seconds / 4) == 0 {
            load.line(
                "churn, registered and expired",
                u64::from(second + 1) * BATCH,
                elapsed,
            );
        }
    }
    Ok(())
}

fn open(config: &StoreConfig) -> Result<SledStore, StoreError> {
    let begun = Instant::now();
    let (store, recovered, report) = grapevine_store::open(config)?;
    println!(
        "opened in {:.0} ms: {} registrations, {} classes with entries{}",
        begun.elapsed().as_secs_f64() * 1e3,
        recovered.registrations,
        recovered.classes.len(),
        if report.set_aside.is_some() {
            ", what was there SET ASIDE"
        } else {
            ""
        },
    );
    Ok(store)
}

fn main() -> Result<(), StoreError> {
    let mut arguments = std::env::args().skip(1);
    let registrations = arguments
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1_000_000);
    let directory: PathBuf = match arguments.next() {
        Some(path) => path.into(),
        None => std::env::temp_dir().join(format!("grapevine-load-{}", std::process::id())),
    };
    let churn_seconds = if registrations < 1_000_000 {
        400
    } else {
        8_000
    };
    let mut config = StoreConfig::new(&directory);
    if let Some(megabytes) = arguments.next().and_then(|text| text.parse::<u64>().ok()) {
        config.cache_bytes = megabytes << 20;
    }
    if let Some(bytes) = arguments.next().and_then(|text| text.parse().ok()) {
        config.log_inline_bytes_max = bytes;
    }
    let mut load = Load {
        store: Arc::new(open(&config)?),
        origin: Incarnation::from_random(u128::from(std::process::id()), 0),
        bumps: 0,
        batches: 0,
    };
    spread(&mut load, registrations, registrations / 10, 3600)?;
    carts(&mut load, 200)?;
    bumps(&mut load, 20_000)?;
    bumps_beside_readers(&mut load, 5_000, 2)?;
    drop(load.store);
    load.store = Arc::new(open(&config)?);
    reads(&load)?;
    expire(&load, NOW + 3600 + 128)?;
    churn(&mut load, churn_seconds, 20_000)?;
    everything(&mut load)?;
    drop(load);
    println!("the store is in {}", directory.display());
    Ok(())
}
