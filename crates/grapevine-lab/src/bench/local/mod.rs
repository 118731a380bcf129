//! Look-ups in a client's own table: 1,000,000 classes, drawn by Zipf's law, a table of 65,536 entries, and a thousand bumps a second
//! that come to it from the sidecar meanwhile.
//!
//! Timed are a thousand look-ups at a time, on a thread that does nothing else: the address where to look, written into a string that is used
//! again. Which classes are looked up is drawn before, and their names are laid out in that order, as a caller would just have made them.
//! A class that the table does not know misses; after fifty thousand look-ups those are asked of the sidecar, as reads would, which is
//! not timed. Told are the median thousand's time for each look-up, and for each of those that were found, as if a miss took
//! time for nothing; the mean of all, in which is also what bumps and other threads had the thread wait for; and what the thread has allocated within all of them, which must be nothing.
//!
//! Bumps are made by another client, of classes drawn at random, and wait for everybody (`all`): the table must not have told the old token
//! once such a call has returned. When they have ended, what the table says must be what the sidecar answers; and hot classes are bumped
//! one after the other, to see their old tokens gone and their new ones in the table.
//!
//! The peer: a hash map of the standard library with the same classes, asked for the same ones.

mod bumps;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use grapevine_client::Client;
use grapevine_proto::v1;
use grapevine_proto::v1::application_service_client::ApplicationServiceClient;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::runtime::Handle;
use tonic::transport::Channel;

use self::bumps::{Bumper, Bumps, bump};
use super::clients::application;
use super::contest::{Contest, Side, blocking};
use super::figure::{Figure, Unit, median, number};
use super::peers::Peer;
use super::stage::Stage;
use super::zipf::Zipf;

/// Look-ups that the sidecar is asked at a time, between batches.
const FILLS: usize = 256;
/// Filling is not what is measured, and may wait on a busy machine.
const FILL_DEADLINE: Duration = Duration::from_secs(10);
/// The longest cache address.
const ADDRESS_BYTES_MAX: usize = 250;
const COMPARED: usize = 2_000;
/// Hot classes whose bump is looked at.
const BUMPED: usize = 100;
const SEED: u64 = 5;
/// Look-ups that are timed together: few enough that hardly ever somebody else has the core meanwhile.
const TIMED: usize = 1_000;

const EACH: &str = "client-local, a look-up";
const EACH_MEAN: &str = "client-local, a look-up, mean";
const EACH_FOUND: &str = "client-local, for each that is found";

/// How much of everything there is.
#[derive(Debug, Clone, Copy)]
struct Size {
    classes: u32,
    entries: usize,
    batches: usize,
    /// Look-ups of a batch.
    batch: usize,
}

const FULL: Size = Size {
    classes: 1_000_000,
    entries: 65_536,
    batches: 20,
    batch: 50_000,
};
const SHORT: Size = Size {
    classes: 20_000,
    entries: 4_096,
    batches: 5,
    batch: 4_000,
};

/// Holds this part of the bench, with the sidecar behind a socket.
pub(super) async fn hold(stage: &mut Stage<'_>, socket: &Path) -> anyhow::Result<()> {
    stage.say("client-local: naming classes");
    let size = stage.amount(FULL, SHORT);
    let items = Arc::new(Items::new(size));
    let table = Client::builder(format!("unix:{}", socket.display()))
        .local_table(size.entries)
        .resolve_deadline(FILL_DEADLINE)
        .build()?;
    let ended = Ended::default();
    let ours = Ours {
        items: Arc::clone(&items),
        table,
        sidecar: application(socket).await?,
        allocated: stage.options.allocated,
        ended: Arc::clone(&ended.0),
        runtime: Handle::current(),
    };
    let grapevine = blocking(move || ours.measure());
    let mut peers = Vec::new();
    if stage.options.wants(Peer::HashMap) {
        peers.push((Peer::HashMap, hash_map(items)));
    }
    let contest = Contest { grapevine, peers };
    stage.contest("client-local", contest).await
}

/// Tells the measuring thread, which nobody can interrupt, that nobody waits for it any more.
#[derive(Default)]
struct Ended(Arc<AtomicBool>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A class, and an address that depends on it.
#[derive(Clone)]
struct Item {
    address: String,
    classes: [String; 1],
}

/// What is looked up, and how often which.
struct Items {
    all: Vec<Item>,
    zipf: Zipf,
    size: Size,
}

impl Items {
    fn new(size: Size) -> Self {
        let item = |number| Item {
            address: format!("get_item::{number}"),
            classes: [format!("item/{number}")],
        };
        Self {
            all: (0..size.classes).map(item).collect(),
            zipf: Zipf::new(size.classes),
            size,
        }
    }

    fn draw(&self, random: &mut SmallRng, count: usize) -> Vec<usize> {
        (0..count).map(|_| self.zipf.draw(random)).collect()
    }

    /// Those that were drawn, one behind the other.
    fn laid_out(&self, drawn: &[usize]) -> Vec<Item> {
        drawn.iter().map(|&at| self.all[at].clone()).collect()
    }
}

/// So many look-ups in a row.
#[derive(Debug, Clone, Copy)]
struct Timed {
    took: Duration,
    count: usize,
    found: usize,
}

/// The middle of them.
fn figures(timed: &[Timed]) -> Vec<Figure> {
    let figure = |what: &'static str, of: fn(&Timed) -> usize| {
        let each = timed.iter().map(|timed| {
            let count = number(of(timed).max(1) as u64);
            timed.took.as_secs_f64() * 1e9 / count
        });
        Figure {
            what: what.into(),
            unit: Unit::Nanoseconds,
            value: median(&each.collect::<Vec<_>>()),
        }
    };
    let took: f64 = timed.iter().map(|timed| timed.took.as_secs_f64()).sum();
    let count: usize = timed.iter().map(|timed| timed.count).sum();
    let mean = Figure {
        what: EACH_MEAN.into(),
        unit: Unit::Nanoseconds,
        value: took * 1e9 / number(count.max(1) as u64),
    };
    vec![
        figure(EACH, |timed| timed.count),
        mean,
        figure(EACH_FOUND, |timed| timed.found),
    ]
}

/// What came of a batch.
struct Batch {
    timed: Vec<Timed>,
    missed: Vec<usize>,
    allocated: u64,
}

/// Grapevine's side: it runs on a thread that may block.
struct Ours {
    items: Arc<Items>,
    /// The client with the table.
    table: Client,
    /// The same sidecar, asked without one.
    sidecar: ApplicationServiceClient<Channel>,
    allocated: fn() -> u64,
    ended: Arc<AtomicBool>,
    runtime: Handle,
}

impl Ours {
    fn measure(&self) -> anyhow::Result<Vec<Figure>> {
        self.see_allocations()?;
        let size = self.items.size;
        let mut random = SmallRng::seed_from_u64(SEED);
        let mut timed = Vec::new();
        let mut allocated = 0;
        let bumps = self.begin_bumps();
        for _ in 0..size.batches {
            ensure!(!self.ended.load(Ordering::Relaxed), "client-local: ended");
            let drawn = self.items.draw(&mut random, size.batch);
            let batch = self.batch(&drawn)?;
            timed.extend(batch.timed);
            allocated += batch.allocated;
            self.runtime.block_on(self.fill(batch.missed))?;
        }
        let bumps = self.runtime.block_on(bumps.end())?;
        ensure!(
            allocated == 0,
            "client-local: {} look-ups allocated {allocated} bytes",
            size.batches * size.batch
        );
        let drawn = self.items.draw(&mut random, COMPARED);
        self.runtime.block_on(self.compare(&drawn))?;
        self.runtime.block_on(self.see_bumps())?;
        let mut figures = figures(&timed);
        let found: usize = timed.iter().map(|timed| timed.found).sum();
        let count = number((size.batches * size.batch) as u64);
        figures.extend([
            Figure {
                what: "client-local, found".into(),
                unit: Unit::Share,
                value: number(found as u64) / count,
            },
            Figure {
                what: "client-local, allocated by a look-up".into(),
                unit: Unit::Bytes,
                value: number(allocated) / count,
            },
            bumps,
        ]);
        Ok(figures)
    }

    /// Nothing allocated means something only where something allocated is seen.
    fn see_allocations(&self) -> anyhow::Result<()> {
        let before = (self.allocated)();
        drop(std::hint::black_box(vec![1_u8; 4_096]));
        let seen = (self.allocated)() - before;
        ensure!(
            seen >= 4_096,
            "client-local: of 4096 bytes that were allocated {seen} are counted"
        );
        Ok(())
    }

    fn batch(&self, drawn: &[usize]) -> anyhow::Result<Batch> {
        let items = self.items.laid_out(drawn);
        let mut target = String::with_capacity(ADDRESS_BYTES_MAX);
        let mut missed = Vec::with_capacity(drawn.len());
        let mut timed = Vec::with_capacity(drawn.len().div_ceil(TIMED));
        let (mut found, mut right) = (0, 0);
        let before = (self.allocated)();
        for (items, places) in items.chunks(TIMED).zip(drawn.chunks(TIMED)) {
            let found_before = found;
            let begun = Instant::now();
            for (item, &at) in items.iter().zip(places) {
                let (address, classes) = (&item.address, &item.classes);
                let hit = self.table.local_look_up(address, classes, &mut target);
                if hit.is_some() {
                    found += 1;
                    right += usize::from(target.starts_with(&**address));
                } else {
                    missed.push(at);
                }
            }
            timed.push(Timed {
                took: begun.elapsed(),
                count: items.len(),
                found: found - found_before,
            });
        }
        let allocated = (self.allocated)() - before;
        ensure!(
            found == right,
            "client-local: of {found} addresses {right} begin as they must"
        );
        Ok(Batch {
            timed,
            missed,
            allocated,
        })
    }

    /// Asks the sidecar for what was missed.
    async fn fill(&self, mut missed: Vec<usize>) -> anyhow::Result<()> {
        missed.sort_unstable();
        missed.dedup();
        stream::iter(missed.into_iter().map(anyhow::Ok))
            .try_for_each_concurrent(FILLS, async |at| {
                let Item { address, classes } = &self.items.all[at];
                ensure!(!self.ended.load(Ordering::Relaxed), "client-local: ended");
                self.table.resolve_one(address, classes, None).await?;
                Ok(())
            })
            .await
    }

    /// What the table says of a class now: the token and the address.
    fn says(&self, at: usize) -> Option<(u64, String)> {
        let Item { address, classes } = &self.items.all[at];
        let mut target = String::new();
        let hit = self.table.local_look_up(address, classes, &mut target)?;
        Some((hit.token, target))
    }

    /// What the sidecar answers.
    async fn answers(&self, at: usize) -> anyhow::Result<(u64, String)> {
        let Item { address, classes } = &self.items.all[at];
        let item = v1::ResolveItem {
            address: address.clone(),
            classes: classes.to_vec(),
            page: None,
        };
        let request = v1::ResolveRequest {
            items: vec![item],
            ..v1::ResolveRequest::default()
        };
        let answer = self.sidecar.clone().resolve(request).await?.into_inner();
        let result = answer.results.into_iter().next();
        let result = result.context("client-local: no result")?;
        let target = result.targets.into_iter().next();
        let target = target.context("client-local: no address")?;
        Ok((result.token, target.address))
    }

    /// While nothing is bumped both say the same.
    async fn compare(&self, drawn: &[usize]) -> anyhow::Result<()> {
        let in_table = stream::iter(drawn).map(|&at| async move {
            ensure!(!self.ended.load(Ordering::Relaxed), "client-local: ended");
            let Some(said) = self.says(at) else {
                return Ok(0);
            };
            let answered = self.answers(at).await?;
            ensure!(
                said == answered,
                "client-local: the table says {said:?}, the sidecar {answered:?}"
            );
            Ok(1)
        });
        let compared: Vec<usize> = in_table.buffer_unordered(FILLS).try_collect().await?;
        let compared: usize = compared.iter().sum();
        ensure!(
            compared > drawn.len() / 4,
            "client-local: of {} classes the table knew {compared}",
            drawn.len()
        );
        Ok(())
    }

    /// The old token goes with the call, and the new one comes with the next look-up.
    async fn see_bumps(&self) -> anyhow::Result<()> {
        let hot = 0..BUMPED.min(self.items.all.len());
        self.fill(hot.clone().collect()).await?;
        let mut seen = 0;
        for at in hot {
            let Some(old) = self.says(at) else { continue };
            bump(&self.sidecar, &self.items.all[at]).await?;
            let now = self.says(at);
            ensure!(
                now.is_none(),
                "client-local: {now:?} after a bump, and {old:?} before it"
            );
            self.fill(vec![at]).await?;
            let (now, answered) = (self.says(at), self.answers(at).await?);
            // An entry may have had to go for another one.
            let right = now.as_ref().is_none_or(|now| *now == answered);
            ensure!(
                right && answered.0 != old.0,
                "client-local: {now:?} in the table, {answered:?} at the sidecar, and {old:?} before a bump"
            );
            seen += usize::from(now.is_some());
        }
        ensure!(
            seen > BUMPED / 2,
            "client-local: the table knew {seen} of {BUMPED} classes before and after a bump"
        );
        Ok(())
    }

    fn begin_bumps(&self) -> Bumps {
        let bumper = Bumper::new(self.table.clone(), self.sidecar.clone(), &self.items);
        bumper.begin(&self.runtime)
    }
}

fn hash_map(items: Arc<Items>) -> Box<dyn Side> {
    let numbers = items.all.iter().zip(0_u64..);
    let map: HashMap<String, u64> = numbers
        .map(|(item, number)| (item.classes[0].clone(), number))
        .collect();
    blocking(move || {
        let mut random = SmallRng::seed_from_u64(SEED);
        let mut timed = Vec::new();
        for _ in 0..items.size.batches {
            let drawn = items.draw(&mut random, items.size.batch);
            let asked = items.laid_out(&drawn);
            for (asked, places) in asked.chunks(TIMED).zip(drawn.chunks(TIMED)) {
                let begun = Instant::now();
                let right = asked.iter().zip(places).filter(|(item, at)| {
                    let found = map.get(&*item.classes[0]);
                    found.is_some_and(|&number| number == **at as u64)
                });
                let found = right.count();
                let count = asked.len();
                timed.push(Timed {
                    took: begun.elapsed(),
                    count,
                    found,
                });
                ensure!(found == count, "hash-map: {found} right of {count}");
            }
        }
        Ok(figures(&timed))
    })
}
