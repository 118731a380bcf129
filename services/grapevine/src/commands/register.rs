//! `grapevine register`: addresses that another program fills.

use std::time::Duration;

use grapevine_client::v1;
use serde::Serialize;

use crate::connection::{Connection, SessionArgs, positive_duration};
use crate::exit::Failure;
use crate::format::{self, unhex};
use crate::output::Output;

/// Register addresses that another program fills, so that an invalidation deletes them
///
/// Sidecars delete in the cache that they were started with (`grapevine sidecar --cache URL`, the same on each). Those without
/// one keep the addresses and can delete nothing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The cache address(es), up to 10,000, all of the same classes
    #[arg(required = true)]
    addresses: Vec<String>,
    /// A class of the addresses; repeat it for more
    #[arg(long = "class", short = 'c', value_name = "CLASS", required = true)]
    classes: Vec<String>,
    /// How long the values may live in the cache; the policy's when left out
    #[arg(long, value_name = "DURATION", value_parser = positive_duration)]
    ttl: Option<Duration>,
    /// A lease of `resolve --json`, taken before the values were read: what changed since is condemned
    #[arg(long, value_name = "LEASE", value_parser = unhex_lease)]
    lease: Option<Lease>,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// Bytes, as one value of the command line.
#[derive(Debug, Clone)]
struct Lease(Vec<u8>);

fn unhex_lease(text: &str) -> Result<Lease, String> {
    unhex(text).map(Lease)
}

#[derive(Debug, Serialize)]
struct RegisteredJson<'a> {
    accepted: u64,
    condemned: Vec<&'a str>,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let ttl_ms = args.ttl.map_or(0, |ttl| {
        // Rounded up: less than a millisecond must not become 0, which means the policy's.
        u64::try_from(ttl.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX)
    });
    let lease = args
        .lease
        .as_ref()
        .map(|lease| lease.0.clone())
        .unwrap_or_default();
    let registration = |address: &String| v1::Registration {
        address: address.clone(),
        classes: args.classes.clone(),
        ttl_ms,
        lease: lease.clone().into(),
    };
    let answer = client
        .register_in(
            &args.session.session()?,
            args.addresses.iter().map(registration).collect(),
        )
        .await?;
    let position = |&at: &u32| args.addresses.get(at as usize).map(String::as_str);
    let condemned: Vec<&str> = answer.condemned.iter().filter_map(position).collect();
    let mut out = Output::stdout();
    if args.connection.json {
        out.json(&RegisteredJson {
            accepted: answer.accepted,
            condemned: condemned.clone(),
        })?;
    } else {
        let accepted = format::count(answer.accepted, "address", "addresses");
        out.line(&format!("{accepted} registered"))?;
        for address in &condemned {
            out.line(&format!("condemned, and being deleted: {address}"))?;
        }
    }
    out.flush()?;
    if condemned.is_empty() {
        return Ok(());
    }
    Err(Failure::NotReached(format!(
        "{} condemned: a class changed since the lease was taken, or the lease is unknown",
        format::count(condemned.len() as u64, "registration", "registrations")
    )))
}
