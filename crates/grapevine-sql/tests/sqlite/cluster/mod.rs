//! A whole cluster against SQLite: with the session honoured, every cached answer is the one that the database gives (G3, G5), and every
//! leaf has the rows that it is to have (G9).
//!
//! Writes are committed in SQLite, one or two statements at once, and told at a random sidecar: by the rows that they changed, of
//! which more or less is said, or by their text. Some are told late, one after the other or in another order, while others read, fill and
//! load. Reads are asked at random sidecars: what waits for the session is judged, what does not is only counted, to see that the
//! cluster is one whose members lag. A read that misses is filled as the client does it: looked up, read from the database, and stored under the
//! look-up's token, at once or much later.
//!
//! While a write is committed and not acknowledged, nobody is promised to see it, so a value may be as it was before the first of
//! those, or have been read since.

mod lists;
mod network;
mod reads;
mod writes;

use std::collections::BTreeMap;

use grapevine_core::id::{EventId, Incarnation};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rusqlite::Connection;

use self::lists::Lists;
use self::network::{Network, Weather};
use self::reads::Reads;
use self::writes::Writes;
use crate::database::{Key, Rows, open};
use crate::generate::{FORMS, Generator};
use crate::seeds;

/// Writes of a round.
const WRITES: usize = 50;
/// Reads that are asked after each of them, and leaves.
const READS: usize = 12;
const LEAVES: usize = 4;
/// Rounds of the fixed seeds: 100,000 pairs, in less than a minute without optimisation.
const ROUNDS: u64 = 170;

/// What happened.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Writes that were committed, told by rows and by text, told late, and told in bursts.
    writes: u64,
    by_rows: u64,
    by_text: u64,
    late: u64,
    bursts: u64,
    /// Reads that were asked with the session after a write, and judged.
    pairs: u64,
    hits: u64,
    /// Of them, those whose value was stored before an earlier write.
    old_hits: u64,
    misses: u64,
    not_cacheable: u64,
    bypassed: u64,
    stored: u64,
    stored_late: u64,
    condemned: u64,
    waited: u64,
    /// Reads without the session that hit, and those of them that were stale.
    loose_hits: u64,
    stale: u64,
    /// Reads of leaves that were judged.
    lists: u64,
    members: u64,
    extra: u64,
    loads: u64,
    refills: u64,
    loads_condemned: u64,
    pruned: u64,
    floors: u64,
    pulls: u64,
    leaves_evicted: u64,
    escalations: u64,
}

/// Hits of reads of one shape.
#[derive(Clone, Copy, Debug, Default)]
struct OfShape {
    reads: u64,
    hits: u64,
    /// Those that a cache would have had that drops values only when they change.
    oracle: u64,
}

/// One round: a database, a cluster, and who uses them.
struct Round {
    seed: u64,
    generator: Generator,
    random: StdRng,
    database: Connection,
    network: Network,
    /// The database's rows, how often they changed, and how often each of them did.
    rows: Rows,
    version: u64,
    row_versions: BTreeMap<Key, u64>,
    /// All writes that were acknowledged, by run.
    session: BTreeMap<Incarnation, u64>,
    writes: Writes,
    reads: Reads,
    lists: Lists,
    /// Of this round and those before.
    counts: Counts,
    by_shape: BTreeMap<&'static str, OfShape>,
}

impl Round {
    fn new(seed: u64, cluster: &Network, totals: &mut Totals) -> Self {
        let mut generator = Generator::new(StdRng::seed_from_u64(seed));
        let database = open(&mut generator);
        let weather = if seed.is_multiple_of(2) {
            Weather {
                slow: 20,
                twice: 50,
                lost: 100,
            }
        } else {
            Weather {
                slow: 200,
                twice: 1_000,
                lost: 10_000,
            }
        };
        let mut round = Self {
            seed,
            network: cluster.with_luck(seed, weather),
            random: StdRng::seed_from_u64(!seed),
            rows: Rows::of(&database),
            version: 0,
            row_versions: BTreeMap::new(),
            session: BTreeMap::new(),
            writes: Writes::default(),
            reads: Reads::default(),
            lists: Lists::default(),
            counts: totals.counts,
            by_shape: std::mem::take(&mut totals.by_shape),
            generator,
            database,
        };
        round.think_of_reads();
        round.think_of_lists();
        round
    }

    fn chance(&mut self, of: f64) -> bool {
        self.random.random_bool(of)
    }

    fn node(&mut self) -> usize {
        self.random.random_range(0..network::NODES)
    }

    /// Waits at a sidecar until it has what the session has (G5).
    fn catch_up(&mut self, at: usize) {
        let session: Vec<_> = self
            .session
            .iter()
            .map(|(origin, sequence)| EventId {
                origin: *origin,
                sequence: *sequence,
            })
            .collect();
        self.counts.waited += u64::from(!self.network.core(at).has_all(&session));
        let what = format!("seed {}: {at} has the session", self.seed);
        self.network
            .until(&what, |network| network.core(at).has_all(&session));
    }

    fn run(&mut self) {
        for _ in 0..WRITES {
            if self.chance(0.4) {
                self.think_of_another();
            }
            self.write();
            for _ in 0..2 {
                self.read_loosely();
            }
            self.list_without_looking();
            for _ in 0..READS {
                self.read();
            }
            for _ in 0..LEAVES {
                self.list();
            }
            self.go_on_storing();
            self.go_on_loading();
            self.go_on_pruning();
            let micros = self.random.random_range(0..8_000);
            self.network.advance(micros);
        }
        self.tell_all();
        for at in 0..network::NODES {
            let counters = self.network.core(at).counters();
            self.counts.floors += counters.floors_own;
            self.counts.pulls += counters.pulls_sent;
            self.counts.pruned += counters.members_pruned;
            self.counts.leaves_evicted += counters.leaves_evicted;
            self.counts.escalations += counters.escalations;
        }
    }
}

#[derive(Debug, Default)]
struct Totals {
    counts: Counts,
    by_shape: BTreeMap<&'static str, OfShape>,
    forms: BTreeMap<&'static str, u64>,
}

impl Totals {
    fn take(&mut self, round: Round) {
        self.counts = round.counts;
        self.by_shape = round.by_shape;
        for (form, count) in round.generator.forms {
            *self.forms.entry(form).or_default() += count;
        }
    }

    /// As docs/benchmarks.md has it.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn print(&self) {
        println!("{:#?}\n{:?}", self.counts, self.forms);
        println!("| read | asked | hits | hits of the oracle | share |");
        println!("| --- | --- | --- | --- | --- |");
        for (shape, of) in &self.by_shape {
            let share = of.hits as f64 / of.oracle.max(1) as f64;
            let OfShape {
                reads,
                hits,
                oracle,
            } = of;
            println!("| {shape} | {reads} | {hits} | {oracle} | {share:.2} |");
        }
    }

    /// It has to be able to fail, and to have met everything.
    fn check(&self) {
        let Counts {
            pairs,
            hits,
            old_hits,
            stale,
            waited,
            ..
        } = self.counts;
        assert!(hits * 5 > pairs * 2, "{hits} hits of {pairs} reads");
        assert!(old_hits * 3 > pairs, "{old_hits} of {pairs}");
        assert!(stale > 20 && waited > 100, "nobody lags: {stale} {waited}");
        let rare = [
            ("by rows", self.counts.by_rows),
            ("by text", self.counts.by_text),
            ("late", self.counts.late),
            ("stored late", self.counts.stored_late),
            ("condemned", self.counts.condemned),
            ("lists", self.counts.lists),
            ("members", self.counts.members),
            ("extra", self.counts.extra),
            ("refills", self.counts.refills),
            ("loads condemned", self.counts.loads_condemned),
            ("pruned", self.counts.pruned),
            ("floors", self.counts.floors),
            ("pulls", self.counts.pulls),
            ("leaves evicted", self.counts.leaves_evicted),
        ];
        for (what, times) in rare {
            assert!(times >= 20, "{what}: {times} times only");
        }
        for form in FORMS {
            let count = self.forms.get(form).copied().unwrap_or_default();
            assert!(count >= 5, "{form} came {count} times only");
        }
    }
}

#[test]
fn g5_g9_what_is_cached_anywhere_is_what_the_database_answers() {
    let seeds = seeds(ROUNDS);
    let cluster = Network::running();
    let mut totals = Totals::default();
    for seed in seeds.clone() {
        let mut round = Round::new(seed, &cluster, &mut totals);
        round.run();
        totals.take(round);
    }
    println!("seeds {seeds:?}");
    totals.print();
    if seeds.end - seeds.start >= ROUNDS {
        totals.check();
    }
}
