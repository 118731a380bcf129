//! `grapevine invalidate`: declare classes changed, one call or a whole feed of them (see [`crate::feed`]).

use std::path::PathBuf;
use std::time::Duration;

use grapevine_client::{InvalidateOutcome, v1};
use serde::Serialize;

use super::explain::StatementArgs;
use crate::connection::{Connection, SessionArgs, duration};
use crate::exit::Failure;
use crate::feed::{self, OnBadLine};
use crate::format;
use crate::invalidation::{How, Matching, Purge, Receipt};
use crate::output::{Output, Rows};

const FEED_HELP: &str = "\
A feed (--from) is newline-delimited JSON, one object per line:

  {\"classes\": [\"cart/13\", \"prices\"], \"match\": \"any\", \"id\": 42}

`classes` is required. `match` (any, all), `receipt` (none, one, quorum, all) and `purge` (hard,
soft) take the place of the flags for that line; other fields are ignored, empty lines skipped.
Lines are sent in order, as many in one call as have arrived and may share one.

With --position, what was acknowledged is noted in a file, and a later run goes on behind it:
- Lines with a whole number as `id` (an outbox's key; it must not decrease, and several lines may
  share one): at the last id, whose lines are sent again, whether the feed begins anew or goes on
  by itself.
- Lines with a string as `id`: the feed has to go on by itself, behind the file's `id`.
- Lines without `id`: the feed has to begin anew; as many lines as were acknowledged are passed
  over, and must be the same ones.";

/// Declare classes changed: whatever is cached of them, and below them, is stale from now on
#[derive(Debug, clap::Args)]
#[command(after_long_help = FEED_HELP)]
pub(crate) struct Args {
    /// The classes, up to 1,000; each covers everything below it
    #[arg(required_unless_present_any = ["from", "sql"], conflicts_with = "from")]
    classes: Vec<String>,
    /// In place of classes: the statement that changed rows; what was cached of reads that `explain` explained goes stale if it may
    /// concern them
    #[arg(long, value_name = "SQL", conflicts_with_all = ["classes", "from", "matching"], help_heading = "Statement")]
    sql: Option<String>,
    #[command(flatten, next_help_heading = "Statement")]
    with: StatementArgs,
    /// Whether an address of any of the classes is stale, or only one of all of them (2 to 8)
    #[arg(long = "match", value_name = "MATCH", default_value = "any")]
    matching: Matching,
    /// Which sidecars must have it before the answer; exit code 3 when they have not within --timeout
    #[arg(long, value_name = "LEVEL", default_value = "one")]
    receipt: Receipt,
    /// What happens to the known addresses: deleted, or marked stale where the cache can
    #[arg(long, value_name = "PURGE", default_value = "hard")]
    purge: Purge,
    /// Another sidecar to ask when the first does not answer; repeat it for more
    #[arg(
        long,
        value_name = "URL",
        env = "GRAPEVINE_FAIL_OVER_TO",
        value_delimiter = ',',
        help_heading = "Sidecar"
    )]
    fail_over_to: Vec<String>,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(flatten)]
    feed: FeedArgs,
}

/// Options of a feed.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Feed")]
struct FeedArgs {
    /// Read newline-delimited JSON from a file, or from standard input for `-` (see the end of --help)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["session"])]
    from: Option<PathBuf>,
    /// Note in this file what was acknowledged, and go on from there
    #[arg(
        long,
        value_name = "FILE",
        requires = "from",
        conflicts_with = "classes"
    )]
    position: Option<PathBuf>,
    /// What a line that cannot be read leads to: stop, or be told and skipped
    #[arg(
        long,
        value_name = "HOW",
        default_value = "stop",
        requires = "from",
        conflicts_with = "classes"
    )]
    on_bad_line: OnBadLine,
    /// How many classes go into one call, 1 to 1,000
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000, requires = "from", conflicts_with = "classes", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    batch: u16,
    /// How long to try again while no sidecar answers or has room
    #[arg(long, value_name = "DURATION", default_value = "1m", requires = "from", conflicts_with = "classes", value_parser = duration)]
    retry_for: Duration,
}

#[derive(Debug, Serialize)]
struct OutcomeJson<'a> {
    incarnation: String,
    sequence: u64,
    session_token: String,
    receipt: ReceiptJson<'a>,
    addresses_purged: u64,
    addresses_pending: u64,
    addresses_dropped: u64,
    answered_by: &'a str,
    repeated: bool,
}

#[derive(Debug, Serialize)]
struct ReceiptJson<'a> {
    level: &'static str,
    satisfied: bool,
    holders: Vec<HolderJson<'a>>,
}

#[derive(Debug, Serialize)]
struct HolderJson<'a> {
    node_id: &'a str,
    incarnation: String,
    state: &'static str,
}

impl<'a> HolderJson<'a> {
    fn of(holder: &'a v1::Holder) -> Self {
        Self {
            node_id: &holder.node_id,
            incarnation: format::hex(&holder.incarnation),
            state: format::holder_state(holder.state()),
        }
    }
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    if args.sql.is_none() && !args.with.is_empty() {
        let message = "--dialect, --param and --named belong to --sql, which is not given";
        return Err(Failure::Usage(message.to_owned()));
    }
    let mut builder = args.connection.builder();
    for endpoint in &args.fail_over_to {
        builder = builder.fail_over_to(endpoint);
    }
    let client = builder.build()?;
    let how = How {
        matching: args.matching,
        receipt: args.receipt,
        purge: args.purge,
    };
    if let Some(from) = args.feed.from {
        let options = feed::Options {
            from,
            position: args.feed.position,
            on_bad_line: args.feed.on_bad_line,
            batch_classes_max: usize::from(args.feed.batch),
            retry_for: args.feed.retry_for,
            how,
            json: args.connection.json,
        };
        return feed::run(client, options).await;
    }
    let session = args.session.session()?;
    let (call, named) = match args.sql {
        None => (how.call(&client, args.classes.clone()), args.classes),
        Some(sql) => {
            let (dialect, parameters) = args.with.to_wire()?;
            let call = client.invalidate_by_sql(dialect, sql, parameters);
            (how.shape(call), vec!["what it may concern".to_owned()])
        }
    };
    let outcome = call.session(&session).await?;
    tell(&args.connection, (&named, args.matching), &outcome)
}

/// Writes what an invalidation did; one whose receipt was not reached ends the command with that.
pub(super) fn tell(
    connection: &Connection,
    (classes, matching): (&[String], Matching),
    outcome: &InvalidateOutcome,
) -> Result<(), Failure> {
    let mut out = Output::stdout();
    if connection.json {
        out.json(&json(outcome))?;
    } else {
        write(&mut out, classes, matching, outcome)?;
    }
    out.flush()?;
    if outcome.receipt.satisfied {
        return Ok(());
    }
    Err(Failure::NotReached(format!(
        "receipt {} not reached within {}; the invalidation is durable and spreads all the same",
        format::receipt_level(outcome.receipt.level()),
        format::duration(connection.timeout)
    )))
}

fn json(outcome: &InvalidateOutcome) -> OutcomeJson<'_> {
    OutcomeJson {
        incarnation: format::hex(&outcome.event.incarnation),
        sequence: outcome.event.sequence,
        session_token: format::hex(&outcome.session_token),
        receipt: ReceiptJson {
            level: format::receipt_level(outcome.receipt.level()),
            satisfied: outcome.receipt.satisfied,
            holders: outcome.receipt.holders.iter().map(HolderJson::of).collect(),
        },
        addresses_purged: outcome.addresses_purged,
        addresses_pending: outcome.addresses_pending,
        addresses_dropped: outcome.addresses_dropped,
        answered_by: &outcome.answered_by,
        repeated: outcome.repeated,
    }
}

fn write(
    out: &mut Output,
    classes: &[String],
    matching: Matching,
    outcome: &InvalidateOutcome,
) -> Result<(), Failure> {
    let what = match (classes, matching) {
        ([class], _) => class.clone(),
        (many, Matching::Any) => format!("{} classes", many.len()),
        (many, Matching::All) => format!("what is in all of {}", many.join(", ")),
    };
    out.line(&format!(
        "{what} invalidated by event {}",
        format::event(&outcome.event)
    ))?;
    let mut purged = format!(
        "{} purged",
        format::count(outcome.addresses_purged, "known address", "known addresses")
    );
    if outcome.addresses_pending > 0 {
        purged = format!("{purged}, {} to be tried again", outcome.addresses_pending);
    }
    if outcome.addresses_dropped > 0 {
        purged = format!(
            "{purged}, {} left to their time to live (too many deletes were waiting)",
            outcome.addresses_dropped
        );
    }
    out.line(&purged)?;
    let reached = if outcome.receipt.satisfied {
        "reached"
    } else {
        "NOT reached"
    };
    let level = format::receipt_level(outcome.receipt.level());
    out.line(&format!("receipt {level}: {reached}"))?;
    let mut rows = Rows::new(&["NODE", "RUN", "STATE"]);
    for holder in &outcome.receipt.holders {
        rows.add([
            holder.node_id.clone(),
            format::short(&holder.incarnation),
            format::holder_state(holder.state()).to_owned(),
        ]);
    }
    if !rows.is_empty() {
        out.table(&rows)?;
    }
    out.line(&format!("session {}", format::hex(&outcome.session_token)))
}
