//! `grapevine bench`: what it costs, beside its peers. And `grapevine bench-peer`, one of them.

use std::net::SocketAddr;
use std::path::PathBuf;

use grapevine_lab::bench::{BenchName, BenchOptions, RUNS_DEFAULT, RUNS_MAX};
use tikv_jemalloc_ctl::thread::{ThreadLocal, allocatedp};

use super::demo::own_executable;
use crate::exit::Failure;

const NAMES_HELP: &str = "\
The benches, and whom each is held against:

  resolve     look-ups one by one, 100 per call, over a stream, and in a
              client's local table
              tonic       empty calls
              redis       GET
              memcached   get
              hash-map    the same classes in a map of this process
  invalidate  1,519 registered addresses in memcached, and a versioned class
              of 1,000,000 addresses (2,000 with --short)
              redis       sets of keys
  directory   ten million registrations in a million classes: memory, disk,
              listings, a start after kill -9
              redis       a set for each class
  register    durable registrations in batches, at one sidecar and at one
              with two peers
              redis       SADD, everysec, alone and with two replicas
  join        a sidecar joins three that hold a million registrations
              redis       a replica's full sync
  converge    a bump until all of 10 and of 50 sidecars have it
              tcp         processes that send back what they are sent
              serf        user events of as many agents
              chitchat    processes that gossip every 100 ms
              with --wan: of 12 in as many regions, with 2 % loss
              delay       of a packet to the farthest one
  replay      a whole trace (--trace FILE), as recorded and with 7 % writes,
              through three sidecars and memcached, versioned, without and
              with local tables
              timeouts    the same workers and cache, a time to live of 10 s,
                          and no sidecar

A peer whose server is not installed is named as skipped. The figures are
medians of the rounds. The ratio is the median of the rounds' ratios, of grapevine's
figure to the peer's, for both had the same machine in a round.
docs/benchmarks.md says what is measured, and what was.";

/// Measure what Grapevine costs, beside its peers in the same run
///
/// Starts everything itself and ends it, also on Ctrl-C; how it was started is told on standard error. Fails when an answer is
/// wrong, and never for a time.
#[derive(Debug, clap::Args)]
#[command(after_long_help = NAMES_HELP)]
pub(crate) struct Args {
    /// What to measure
    #[arg(value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(BenchName::ALL.map(BenchName::as_str)))]
    name: String,
    /// Only beside this peer; several times for several; `none` for nobody
    #[arg(long, value_name = "PEER")]
    vs: Vec<String>,
    /// Rounds in which every side is measured once, 1 to 100
    #[arg(long, value_name = "NUMBER", default_value_t = RUNS_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=i64::from(RUNS_MAX)))]
    runs: u32,
    /// With `replay`: the trace, xz-compressed; without it one is made
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// With `converge`: a dozen sidecars in a dozen regions, with the delays between them and 2 % loss, in place of its other sizes
    #[arg(long)]
    wan: bool,
    /// With `converge` and `directory`: write pictures of what grows into this directory, as SVG; `converge` takes more sizes for it
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
    /// Little work, to see that it works: the figures mean nothing
    #[arg(long)]
    short: bool,
    /// Print the figures as one line of JSON in place of a table
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let options = BenchOptions {
        executable: own_executable()?,
        allocated: allocated_bytes,
        name: args.name.parse().expect("invariant: clap knows the names"),
        trace: args.trace,
        wan: args.wan,
        plot: args.plot,
        vs: args.vs,
        runs: args.runs,
        short: args.short,
        json: args.json,
        progress: true,
    };
    let check = options.check();
    check.map_err(|error| Failure::Usage(error.to_string()))?;
    grapevine_lab::bench::run(options)
        .await
        .map(|_| ())
        .map_err(|error| Failure::of_lab("bench", error.as_ref()))
}

/// What this thread has allocated so far.
fn allocated_bytes() -> u64 {
    // Without an answer it is 0, whatever is allocated, and the bench says so.
    allocatedp::read().map_or(0, ThreadLocal::get)
}

/// Serve empty calls on a Unix socket, echo over TCP, or gossip: what `bench` measures gRPC, TCP and chitchat themselves with
#[derive(Debug, clap::Args)]
pub(crate) struct PeerArgs {
    /// The socket
    #[arg(value_name = "PATH", required_unless_present_any = ["echo", "chitchat"])]
    socket: Option<PathBuf>,
    /// Send back what comes over TCP at this address instead
    #[arg(long, value_name = "ADDRESS", conflicts_with = "socket")]
    echo: Option<SocketAddr>,
    /// Gossip at this address instead: set what standard input says, tell on standard output what anybody set
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["socket", "echo"])]
    chitchat: Option<SocketAddr>,
    /// With `--chitchat`: somebody to gossip with first
    #[arg(long, value_name = "ADDRESS", requires = "chitchat")]
    seed: Option<SocketAddr>,
}

pub(crate) async fn serve(args: PeerArgs) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(format!("bench-peer: {error:#}"));
    if let Some(address) = args.echo {
        return grapevine_lab::bench::serve_echo(address).map_err(|error| failed(&error));
    }
    if let Some(address) = args.chitchat {
        let served = grapevine_lab::bench::serve_chitchat(address, args.seed).await;
        return served.map_err(|error| failed(&error));
    }
    let socket = args.socket.expect("invariant: clap wants one of them");
    grapevine_lab::bench::serve_empty(&socket)
        .await
        .map_err(|error| failed(&error))
}
