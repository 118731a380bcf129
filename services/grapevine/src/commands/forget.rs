//! `grapevine forget`: a member that is gone for good loses its seat.

use serde::Serialize;

use crate::connection::Connection;
use crate::exit::Failure;
use crate::output::Output;

/// Take the seat of a member that is gone for good
///
/// A crashed member loses its seat by itself after a while (the member timeout); this does not wait. The others must be a majority
/// of the members, this sidecar included, but for one of two: it goes on alone. Everything is bumped once with it where nobody
/// can know what the member had acknowledged last: of two, with --alone, and when another one is silent, too. It is not where
/// the others were fresh with it a moment ago. An only member whose disk was lost waits for all expected members, as `status` says:
/// --alone for one that is gone ends that. The answer does not wait for the members' agreement: `members` shows it. A member that
/// is connected is not forgotten: drain it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The member's node id
    #[arg(value_name = "NODE")]
    node_id: String,
    /// Go on alone if no majority is left; only if all others are stopped for good, or both sides go on and neither hears
    /// of the other's bumps
    #[arg(long)]
    alone: bool,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

#[derive(Debug, Serialize)]
struct ForgetJson<'a> {
    node_id: &'a str,
    alone: bool,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let alone = client.forget(&args.node_id, args.alone).await?;
    let node_id = args.node_id.as_str();
    let mut out = Output::stdout();
    if args.connection.json {
        out.json(&ForgetJson { node_id, alone })?;
    } else if alone {
        out.line(&format!(
            "{node_id} is forgotten; this sidecar goes on alone"
        ))?;
    } else {
        out.line(&format!("the members are agreeing to forget {node_id}"))?;
    }
    out.flush()
}
