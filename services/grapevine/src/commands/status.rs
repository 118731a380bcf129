//! `grapevine status`: what a sidecar says of itself, and waiting until it is fresh.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use grapevine_client::{Client, v1};
use serde::Serialize;

use crate::connection::{Connection, duration};
use crate::exit::Failure;
use crate::format;
use crate::output::{Output, Rows};

/// Between two looks at a sidecar that is not fresh yet.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Show a sidecar's state
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Wait until the sidecar is there and fresh; exit code 3 (or 4) when it is not within this time
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait_fresh: Option<Duration>,
    /// Show the counters as well; --json always has them
    #[arg(long)]
    counters: bool,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

#[derive(Debug, Serialize)]
struct StatusJson<'a> {
    node_id: &'a str,
    cluster: &'a str,
    incarnation: String,
    version: &'a str,
    freshness: &'static str,
    freshness_reason: &'a str,
    uptime_ms: u64,
    classes: u64,
    classes_max: u64,
    registrations: u64,
    origins: u64,
    missing_events: u64,
    policy_digest: String,
    policy_mismatch: &'a [String],
    disk_bytes: u64,
    view: u64,
    seats: u32,
    counters: BTreeMap<&'a str, u64>,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let (status, failure) = match args.wait_fresh {
        None => (client.status().await?, None),
        Some(within) => wait_fresh(&client, within).await?,
    };
    let mut out = Output::stdout();
    if args.connection.json {
        out.json(&json(&status))?;
    } else {
        out.table(&table(&status))?;
        if args.counters {
            out.line("")?;
            out.table(&counters(&status))?;
        }
    }
    out.flush()?;
    failure.map_or(Ok(()), Err)
}

/// The last answer, and what is wrong with it when the time was up.
async fn wait_fresh(
    client: &Client,
    within: Duration,
) -> Result<(v1::StatusResponse, Option<Failure>), Failure> {
    let started = Instant::now();
    loop {
        let answer = client.status().await;
        let late = started.elapsed() >= within;
        match answer {
            Ok(status) if status.freshness() == v1::Freshness::Fresh => return Ok((status, None)),
            Ok(status) if late => {
                let why = format!(
                    "not fresh within {}: {}",
                    format::duration(within),
                    status.freshness_reason
                );
                return Ok((status, Some(Failure::NotReached(why))));
            }
            Err(error) if late => return Err(error.into()),
            Ok(_) | Err(_) => tokio::time::sleep(LOOK_INTERVAL).await,
        }
    }
}

fn json(status: &v1::StatusResponse) -> StatusJson<'_> {
    StatusJson {
        node_id: &status.node_id,
        cluster: &status.cluster,
        incarnation: format::hex(&status.incarnation),
        version: &status.version,
        freshness: format::freshness(status.freshness()),
        freshness_reason: &status.freshness_reason,
        uptime_ms: status.uptime_ms,
        classes: status.classes,
        classes_max: status.classes_max,
        registrations: status.registrations,
        origins: status.origins,
        missing_events: status.missing_events,
        policy_digest: format::token(status.policy_digest),
        policy_mismatch: &status.policy_mismatch,
        disk_bytes: status.disk_bytes,
        view: status.view,
        seats: status.seats,
        counters: sorted(status),
    }
}

fn sorted(status: &v1::StatusResponse) -> BTreeMap<&str, u64> {
    let pairs = status.counters.iter();
    pairs.map(|(name, value)| (name.as_str(), *value)).collect()
}

fn table(status: &v1::StatusResponse) -> Rows {
    let mut freshness = format::freshness(status.freshness()).to_owned();
    if !status.freshness_reason.is_empty() {
        freshness = format!("{freshness}: {}", status.freshness_reason);
    }
    let mut policies = format::token(status.policy_digest);
    if !status.policy_mismatch.is_empty() {
        policies = format!(
            "{policies}, DIFFERENT at {}",
            status.policy_mismatch.join(", ")
        );
    }
    let mut rows = Rows::pairs();
    rows.add(["node", &status.node_id]);
    rows.add(["cluster", &status.cluster]);
    rows.add(["freshness", &freshness]);
    let roster = format!("view {}, seats {}", status.view, status.seats);
    rows.add(["roster", &roster]);
    rows.add(["uptime", &format::millis(status.uptime_ms)]);
    rows.add(["version", &status.version]);
    rows.add(["incarnation", &format::hex(&status.incarnation)]);
    let classes = format!("{} of at most {}", status.classes, status.classes_max);
    rows.add(["bumped classes", &classes]);
    rows.add(["registrations", &status.registrations.to_string()]);
    rows.add(["disk", &format::bytes(status.disk_bytes)]);
    rows.add(["origins", &status.origins.to_string()]);
    rows.add(["missing events", &status.missing_events.to_string()]);
    rows.add(["policies", &policies]);
    rows
}

fn counters(status: &v1::StatusResponse) -> Rows {
    let mut rows = Rows::new(&["COUNTER", "#SINCE START"]);
    for (name, value) in sorted(status) {
        rows.add([name.to_owned(), value.to_string()]);
    }
    rows
}
