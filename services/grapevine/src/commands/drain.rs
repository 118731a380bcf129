//! `grapevine drain`: a sidecar leaves the cluster in order.

use std::time::{Duration, Instant};

use grapevine_client::CallError;
use serde::Serialize;

use crate::connection::{Connection, positive_duration};
use crate::exit::Failure;
use crate::format;
use crate::output::Output;

/// Between two looks at a sidecar that is draining.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Make a sidecar leave the cluster in order and end
///
/// It takes no new calls, lets open ones end, tells its peers, and ends its process.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long open calls may take to end; the sidecar's drain.timeout when left out
    #[arg(long, value_name = "DURATION", value_parser = positive_duration)]
    within: Option<Duration>,
    /// Wait until the sidecar no longer answers; exit code 3 when it still does after this time. Its process ends a moment later,
    /// and one that is started in its place waits for that
    #[arg(long, value_name = "DURATION", value_parser = positive_duration)]
    wait: Option<Duration>,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

#[derive(Debug, Serialize)]
struct DrainJson<'a> {
    endpoint: &'a str,
    draining: bool,
    ended: Option<bool>,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client()?;
    client.drain(args.within).await?;
    let ended = match args.wait {
        None => None,
        Some(wait) => Some(wait_end(&client, wait).await),
    };
    let endpoint = &args.connection.endpoint;
    let mut out = Output::stdout();
    if args.connection.json {
        out.json(&DrainJson {
            endpoint,
            draining: true,
            ended,
        })?;
    } else if ended == Some(true) {
        out.line(&format!("{endpoint} has drained"))?;
    } else {
        out.line(&format!("{endpoint} is draining"))?;
    }
    out.flush()?;
    match (ended, args.wait) {
        (Some(false), Some(wait)) => Err(Failure::NotReached(format!(
            "{endpoint} still answers after {}",
            format::duration(wait)
        ))),
        _ => Ok(()),
    }
}

async fn wait_end(client: &grapevine_client::Client, wait: Duration) -> bool {
    let started = Instant::now();
    while started.elapsed() < wait {
        if let Err(CallError::Unreachable { .. } | CallError::Broken { .. }) = client.status().await
        {
            return true;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    false
}
