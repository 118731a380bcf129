//! What a large cluster costs: hundreds of sidecars with the real core, in virtual time, and what they say to each other
//! counted by kind.
//!
//! One run goes through five parts: all start on empty disks, and each makes a bump; they are left alone until they ask each other at their
//! steady pace; nothing happens, which is the *steady* traffic; some bumps are made, one after the other, each at a node drawn at
//! random; all processes end at once and start again. Beside the figures stand two models: a full mesh, where the origin
//! tells everybody, and chitchat's rounds.
//!
//! The network: a message takes between half and one and a half times the usual latency; one of `--loss-ppm` in a million packets is lost
//! and sent again after 200 ms, and what was said behind it on its link waits. A node is busy for 20 µs with each message that it says or hears,
//! and with making a link for 200 µs. Gossip costs what chitchat's model says, and is not run.

mod chitchat;
mod traffic;
mod wire;
mod world;

use std::io::Write;

use rand::Rng as _;
use serde_json::{Map, Value, json};

use crate::clock::{MILLISECOND, Micros, SECOND};
use crate::rng::stream;
use traffic::{Sum, Traffic};
use wire::Kind;
use world::{Spread, World};

/// How long a cluster may take until all are fresh.
const START_MAX: Micros = 300 * SECOND;

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Sidecars, 2 to 1024.
    #[arg(long, default_value_t = 1_000, value_parser = size)]
    nodes: usize,
    /// The seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The usual latency of one way, in microseconds.
    #[arg(long, default_value_t = 250, value_name = "US", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    latency: Micros,
    /// Packets lost of a million.
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=500_000))]
    loss_ppm: u32,
    /// Peers that bumps are told directly; with more, they are relayed.
    #[arg(long, default_value_t = grapevine_core::machine::Limits::default().direct_pushes_max, value_name = "N")]
    direct: usize,
    /// Whom a call waits for before it is answered.
    #[arg(long, value_enum, default_value_t = Level::One)]
    receipt: Level,
    /// Bumps.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    bumps: u64,
    /// Seconds until the pace of questions is steady.
    #[arg(long, default_value_t = 12, value_name = "S", value_parser = clap::value_parser!(u64).range(0..=600))]
    settle: u64,
    /// Seconds of steady traffic.
    #[arg(long, default_value_t = 4, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=600))]
    steady: u64,
    /// Seconds from the restart of all on, over which its traffic is counted; 0 for no restart.
    #[arg(long, default_value_t = 10, value_name = "S", value_parser = clap::value_parser!(u64).range(0..=600))]
    restart: u64,
    /// Have questions say no digest of what is applied, as those of sidecars that know of none.
    #[arg(long)]
    no_digest: bool,
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
}

/// Which sidecars must have a bump before its call is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Level {
    /// One more.
    One,
    /// All.
    All,
}

fn size(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(size @ 2..=grapevine_core::roster::SEATS_MAX) => Ok(size),
        _ => Err(format!(
            "nodes: {text:?} is no number from 2 to {}",
            grapevine_core::roster::SEATS_MAX
        )),
    }
}

/// Traffic of all nodes over a while.
struct Rate {
    traffic: Traffic,
    seconds: f64,
    nodes: f64,
}

impl Rate {
    fn per_node_second(&self, sum: Sum) -> Value {
        let over = self.nodes * self.seconds;
        json!({"messages": round(float(sum.messages) / over), "bytes": round(float(sum.bytes) / over)})
    }

    fn bytes(&self) -> f64 {
        float(self.traffic.total().bytes) / self.nodes / self.seconds
    }

    fn json(&self) -> Value {
        let mut all = Map::new();
        all.insert(
            "total".to_owned(),
            self.per_node_second(self.traffic.total()),
        );
        for kind in Kind::ALL {
            let sum = self.traffic.of(kind);
            if sum.messages > 0 {
                all.insert(kind.name().to_owned(), self.per_node_second(sum));
            }
        }
        Value::Object(all)
    }
}

#[allow(clippy::cast_precision_loss, reason = "figures of a report")]
fn float(value: u64) -> f64 {
    value as f64
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn millis(micros: Micros) -> f64 {
    round(float(micros) / 1_000.0)
}

/// The quantile of numbers in order.
fn quantile(sorted: &[u64], percent: usize) -> u64 {
    let at = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(at).copied().unwrap_or(0)
}

/// Runs the model and prints its figures; tells whether everybody came to have everything.
pub(crate) fn run(options: &Options, out: &mut dyn Write) -> std::io::Result<bool> {
    let nodes = options.nodes as u64;
    let mut world = World::new(options.clone());
    let Some(started) = world.run_until(START_MAX, World::all_fresh) else {
        writeln!(
            out,
            "seed {}: not all of {nodes} were fresh after {} s",
            options.seed,
            START_MAX / SECOND
        )?;
        return Ok(false);
    };
    // Every run has issued something, or there would be nothing to tell of most.
    for at in 0..options.nodes {
        world.bump(at, at as u64);
        world.run_for(2 * SECOND / nodes);
    }
    world.run_for(options.settle * SECOND);
    world.bumps.clear();
    let steady = measured(&mut world, options.steady);
    let (bump, whole) = bumped(&mut world, options);
    let mut report = json!({
        "nodes": nodes,
        "seed": options.seed,
        "network": {
            "latency_us": options.latency,
            "loss_ppm": options.loss_ppm,
        },
        "direct": options.direct,
        "digest": !options.no_digest,
        "fresh_after_start_ms": millis(started),
        "steady_per_node_s": steady.json(),
        "bump": bump,
        "full_mesh_model": full_mesh(options),
        "chitchat_model": chitchat_model(options),
    });
    let mut well = whole;
    if options.restart > 0 {
        let (restart, fresh) = restarted(&mut world, options, &steady);
        report["restart"] = restart;
        well &= fresh;
    }
    if options.json {
        writeln!(out, "{report}")?;
    } else {
        writeln!(out, "{report:#}")?;
    }
    Ok(well)
}

/// Counts for so many seconds.
fn measured(world: &mut World, seconds: u64) -> Rate {
    let before = world.traffic.clone();
    world.run_for(seconds * SECOND);
    Rate {
        traffic: world.traffic.since(&before),
        seconds: float(seconds),
        nodes: float(world.size()),
    }
}

/// Makes bumps, and tells what they cost.
fn bumped(world: &mut World, options: &Options) -> (Value, bool) {
    let before = world.traffic.clone();
    let mut rng = stream(options.seed, 3);
    for number in 0..options.bumps {
        world.bump(rng.random_range(0..options.nodes), number);
        world.run_for(50 * MILLISECOND + rng.random_range(0..50 * MILLISECOND));
    }
    let whole = world.run_until(60 * SECOND, World::all_have_all).is_some();
    // What acknowledges late does so within the pace of questions.
    world.run_for(2 * SECOND);
    let since = world.traffic.since(&before);
    let mut cost = Sum::default();
    let kinds = [Kind::Push, Kind::Ack, Kind::Repair];
    for kind in kinds {
        cost.add(since.of(kind));
    }
    let each = float(options.bumps) * float(options.nodes as u64);
    let (mut lasts, mut trips) = (Vec::new(), Vec::new());
    for Spread { called, applied } in world.bumps.values() {
        let known = applied.iter().flatten();
        lasts.push(known.clone().map(|(at, _)| at - called).max().unwrap_or(0));
        trips.push(known.map(|(_, trips)| u64::from(*trips)).max().unwrap_or(0));
    }
    lasts.sort_unstable();
    trips.sort_unstable();
    let by_kind = kinds.map(|kind| {
        let sum = since.of(kind);
        let sum = json!({"messages": round(float(sum.messages) / each), "bytes": round(float(sum.bytes) / each)});
        (kind.name().to_owned(), sum)
    });
    let bump = json!({
        "messages_per_node": round(float(cost.messages) / each),
        "bytes_per_node": round(float(cost.bytes) / each),
        "by_kind": Value::Object(by_kind.into_iter().collect()),
        "most_messages_of_a_node_in_all": since.most_for_bumps(),
        "trips": {"median": quantile(&trips, 50), "most": quantile(&trips, 100)},
        "to_all_ms": {
            "median": millis(quantile(&lasts, 50)),
            "p99": millis(quantile(&lasts, 99)),
            "most": millis(quantile(&lasts, 100)),
        },
        "bumps": options.bumps,
        "all_have_all": whole,
    });
    (bump, whole)
}

/// Ends all processes at once, and tells what their starts cost.
fn restarted(world: &mut World, options: &Options, steady: &Rate) -> (Value, bool) {
    world.restart_all();
    let (mut seconds, mut fresh_each) = (Vec::new(), Vec::new());
    let mut fresh = None;
    let (begin, all) = (world.now, world.traffic.clone());
    for _ in 0..options.restart {
        let before = world.traffic.clone();
        for _ in 0..10 {
            world.run_for(SECOND / 10);
            if fresh.is_none() && world.all_fresh() {
                fresh = Some(world.now - begin);
            }
        }
        let since = world.traffic.since(&before).total();
        seconds.push(float(since.bytes) / float(world.size()));
        fresh_each.push(world.fresh());
    }
    let rate = Rate {
        traffic: world.traffic.since(&all),
        seconds: float(options.restart),
        nodes: float(world.size()),
    };
    let mean = rate.bytes();
    let most = seconds.iter().copied().fold(0.0, f64::max);
    let restart = json!({
        "over_s": options.restart,
        "all_fresh_after_ms": fresh.map(millis),
        "fresh_at_each_second": fresh_each,
        "per_node_s": rate.json(),
        "of_steady": round(mean / steady.bytes()),
        "worst_second_bytes_per_node": round(most),
        "worst_second_of_steady": round(most / steady.bytes()),
    });
    (restart, fresh.is_some())
}

/// The origin tells everybody, and everybody acknowledges.
fn full_mesh(options: &Options) -> Value {
    let others = options.nodes as u64 - 1;
    let each = round(2.0 * float(others) / float(others + 1));
    json!({"messages_per_node": each, "most_messages_of_a_node": others, "trips": 1})
}

fn chitchat_model(options: &Options) -> Value {
    let figures = chitchat::spread(options.nodes, options.seed, 20);
    json!({
        "rounds": {"median": figures.rounds.0, "most": figures.rounds.1},
        "bytes_per_node_per_interval": figures.interval_bytes,
        "messages_per_node_per_interval": figures.interval_messages,
        "bytes_per_node_of_a_change": figures.change_bytes,
    })
}

#[cfg(test)]
mod tests;
