//! `grapevine write`: a write that is declared before the database commits it, in three calls.

use std::time::Duration;

use grapevine_client::{AbortOutcome, CallError, Client, WriteIntent};
use serde::Serialize;

use super::invalidate;
use crate::connection::{Connection, SessionArgs, within};
use crate::exit::Failure;
use crate::format;
use crate::invalidation::{How, Matching, Purge, Receipt};
use crate::output::Output;

const WRITE_HELP: &str = "\
A script that must not leave stale values behind, even if it dies between its database's commit and the invalidation:

  intent=$(grapevine write begin --lease 30s cart/13 --json | jq -r .intent) || exit
  psql --command 'set statement_timeout = 20000' --file update.sql    # ends before the lease does
  grapevine write commit \"$intent\" cart/13

Without the last line, or an abort, cart/13 is invalidated when the lease ends. Abort only what certainly was not committed.";

/// Declare a write before the database commits it, so that its classes are invalidated even if nobody comes back
#[derive(Debug, clap::Args)]
#[command(after_long_help = WRITE_HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    call: Call,
}

#[derive(Debug, clap::Subcommand)]
enum Call {
    Begin(BeginArgs),
    Commit(CommitArgs),
    Abort(AbortArgs),
}

/// Before the database commits: the classes are invalidated when the lease ends, if nobody tells how the write ended
#[derive(Debug, clap::Args)]
struct BeginArgs {
    /// The classes that the write will change, up to 1,000
    #[arg(required = true)]
    classes: Vec<String>,
    /// Whether an address of any of the classes is written, or only one of all of them (2 to 8)
    #[arg(long = "match", value_name = "MATCH", default_value = "any")]
    matching: Matching,
    /// What happens to the known addresses when the lease ends: deleted, or marked stale where the cache can
    #[arg(long, value_name = "PURGE", default_value = "hard")]
    purge: Purge,
    /// How long the database may take to commit, 100ms to 10m; the sidecar's own number (10s) unless given
    #[arg(long, value_name = "DURATION", value_parser = lease)]
    lease: Option<Duration>,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    sidecars: Sidecars,
}

/// What the contract allows.
fn lease(text: &str) -> Result<Duration, String> {
    within(text, Duration::from_millis(100)..=Duration::from_mins(10))
}

/// After the database committed: invalidates the classes, also when the lease has ended
#[derive(Debug, clap::Args)]
struct CommitArgs {
    /// What `begin` answered
    intent: String,
    /// The classes that were written
    #[arg(required = true)]
    classes: Vec<String>,
    /// Whether an address of any of the classes is stale, or only one of all of them (2 to 8)
    #[arg(long = "match", value_name = "MATCH", default_value = "any")]
    matching: Matching,
    /// Which sidecars must have it before the answer; exit code 3 when they have not within --timeout
    #[arg(long, value_name = "LEVEL", default_value = "one")]
    receipt: Receipt,
    /// What happens to the known addresses: deleted, or marked stale where the cache can
    #[arg(long, value_name = "PURGE", default_value = "hard")]
    purge: Purge,
    #[command(flatten)]
    sidecars: Sidecars,
}

/// When the database has not committed and never will: nothing is invalidated; exit code 3 if it is too late for that
#[derive(Debug, clap::Args)]
struct AbortArgs {
    /// What `begin` answered
    intent: String,
    #[command(flatten)]
    sidecars: Sidecars,
}

/// Whom to ask.
#[derive(Debug, clap::Args)]
struct Sidecars {
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
    connection: Connection,
}

impl Sidecars {
    fn client(&self) -> Result<Client, Failure> {
        let mut builder = self.connection.builder();
        for endpoint in &self.fail_over_to {
            builder = builder.fail_over_to(endpoint);
        }
        Ok(builder.build()?)
    }
}

impl Args {
    /// Whether errors are told as JSON too.
    pub(crate) fn json(&self) -> bool {
        match &self.call {
            Call::Begin(args) => args.sidecars.connection.json,
            Call::Commit(args) => args.sidecars.connection.json,
            Call::Abort(args) => args.sidecars.connection.json,
        }
    }
}

#[derive(Debug, Serialize)]
struct BegunJson<'a> {
    intent: String,
    lease_ms: u64,
    begun_by: &'a str,
}

#[derive(Debug, Serialize)]
struct AbortedJson {
    outcome: &'static str,
    incarnation: Option<String>,
    sequence: Option<u64>,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    match args.call {
        Call::Begin(args) => begin(args).await,
        Call::Commit(args) => commit(args).await,
        Call::Abort(args) => abort(args).await,
    }
}

async fn begin(args: BeginArgs) -> Result<(), Failure> {
    let client = args.sidecars.client()?;
    let mut call = client
        .begin_write(args.classes)
        .session(&args.session.session()?);
    if args.matching == Matching::All {
        call = call.match_all();
    }
    if args.purge == Purge::Soft {
        call = call.soft();
    }
    if let Some(lease) = args.lease {
        call = call.lease(lease);
    }
    let write: WriteIntent = call.await?;
    let mut out = Output::stdout();
    if args.sidecars.connection.json {
        out.json(&BegunJson {
            intent: format::hex(write.intent()),
            lease_ms: u64::try_from(write.lease().as_millis()).unwrap_or(u64::MAX),
            begun_by: write.begun_by(),
        })?;
    } else {
        out.line(&format!("intent {}", format::hex(write.intent())))?;
        let lease = format::duration(write.lease());
        out.line(&format!("lease {lease}, from before this call"))?;
    }
    // The guard goes here, and the write stays open.
    out.flush()
}

async fn commit(args: CommitArgs) -> Result<(), Failure> {
    let client = args.sidecars.client()?;
    let intent = read_intent(&args.intent)?;
    let how = How {
        matching: args.matching,
        receipt: args.receipt,
        purge: args.purge,
    };
    let call = how.shape(client.commit_write(intent, args.classes.clone()));
    let outcome = call.await?;
    let named = (args.classes.as_slice(), args.matching);
    invalidate::tell(&args.sidecars.connection, named, &outcome)
}

async fn abort(args: AbortArgs) -> Result<(), Failure> {
    let client = args.sidecars.client()?;
    let intent = read_intent(&args.intent)?;
    let outcome = client.abort_write(intent).await.map_err(not_aborted)?;
    let (word, event) = match &outcome {
        AbortOutcome::NothingBumped => ("nothing_bumped", None),
        AbortOutcome::Bumped { event } => ("bumped", Some(event)),
        AbortOutcome::Unknown => ("unknown", None),
    };
    let mut out = Output::stdout();
    if args.sidecars.connection.json {
        out.json(&AbortedJson {
            outcome: word,
            incarnation: event.map(|event| format::hex(&event.incarnation)),
            sequence: event.map(|event| event.sequence),
        })?;
    } else if outcome == AbortOutcome::NothingBumped {
        out.line("aborted: nothing is invalidated")?;
    }
    out.flush()?;
    match &outcome {
        AbortOutcome::NothingBumped => Ok(()),
        AbortOutcome::Bumped { event } => Err(Failure::NotReached(format!(
            "too late: its classes were invalidated by event {}",
            format::event(event)
        ))),
        AbortOutcome::Unknown => Err(Failure::NotReached(
            "this sidecar does not know the intent: its classes may have been invalidated, or will be when the lease ends".to_owned(),
        )),
    }
}

/// An abort that nobody heard harms nothing, other than an invalidation: what follows is said here.
fn not_aborted(error: CallError) -> Failure {
    let unheard = |message: String| {
        format!(
            "not aborted: {message}; unless it is aborted before its lease ends, its classes are invalidated then, which costs a few hits"
        )
    };
    match Failure::from(error) {
        Failure::Unreachable(message) => Failure::Unreachable(unheard(message)),
        Failure::Failed(message) => Failure::Failed(unheard(message)),
        Failure::Later {
            message,
            retry_after,
        } => Failure::Later {
            message: unheard(message),
            retry_after,
        },
        other => other,
    }
}

fn read_intent(text: &str) -> Result<Vec<u8>, Failure> {
    format::unhex(text).map_err(|error| Failure::Usage(format!("the intent: {error}")))
}
