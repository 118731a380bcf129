//! `grapevine index`: what a sidecar knows of the lists of ids by criterion.

use grapevine_client::{Cursor, Index, LeafPage, LeafState, SqlScalar};
use serde::Serialize;

use super::explain::{DialectArg, scalar};
use crate::connection::{Connection, SessionArgs};
use crate::exit::Failure;
use crate::format;
use crate::output::{Output, Rows};

/// Show what a sidecar knows of an index
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    call: Call,
}

#[derive(Debug, clap::Subcommand)]
enum Call {
    Read(Box<ReadArgs>),
}

/// List the ids of the rows that meet a criterion, as far as the sidecar knows them
///
/// Some may be of rows that have moved elsewhere; none is lacking whose change was acknowledged. Ends with 3 if nothing is known of the
/// list, or not all of what was asked for. Then this call may have been given the right to load it, which it does not use:
/// until that ends, with the sidecar's `lease.duration`, readers read the database.
#[derive(Debug, clap::Args)]
struct ReadArgs {
    /// The table, without its schema
    table: String,
    /// A column and its value, as for explain's --param; repeat it for more, up to 4
    #[arg(
        long = "where",
        short = 'w',
        value_name = "COLUMN=VALUE",
        required = true
    )]
    equal: Vec<String>,
    /// Or those with this value: OR and IN by the union of lists, one for each; up to 31
    #[arg(long = "or", value_name = "COLUMN=VALUE", conflicts_with = "and")]
    or: Vec<String>,
    /// And only those with this value: AND by the intersection of lists, one for each; up to 3. A list of both columns, by --where, is faster
    #[arg(long = "and", value_name = "COLUMN=VALUE")]
    and: Vec<String>,
    /// The column by which they are ordered; without it by their ids
    #[arg(long, value_name = "COLUMN")]
    order_by: Option<String>,
    /// The largest first
    #[arg(long)]
    desc: bool,
    /// Only those whose column of --order-by has at least this value, a number or a time
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    from: Option<String>,
    /// Only those whose column of --order-by has at most this value, a number or a time
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    to: Option<String>,
    /// How many at most, 1 to 10,000
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    limit: u32,
    /// How many to pass over, at most 100,000; with --or or --and the lists share them
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    offset: u32,
    /// Go on behind an earlier page: what it said as `next`
    #[arg(long, value_name = "NEXT")]
    cursor: Option<String>,
    /// Leave out those of whose row a newer version is known elsewhere
    #[arg(long)]
    verified: bool,
    /// Whose rules say which values are equal
    #[arg(long, value_enum, default_value = "postgres")]
    dialect: DialectArg,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    connection: Connection,
}

impl Args {
    /// Whether errors are told as JSON too.
    pub(crate) fn json(&self) -> bool {
        let Call::Read(args) = &self.call;
        args.connection.json
    }
}

#[derive(Debug, Serialize)]
struct PageJson<'a> {
    state: &'static str,
    members: Vec<MemberJson<'a>>,
    complete: bool,
    more: bool,
    next: Option<String>,
    filtered: u32,
    retry_after_ms: Option<u128>,
    freshness: &'static str,
    freshness_reason: &'a str,
}

#[derive(Debug, Serialize)]
struct MemberJson<'a> {
    id: &'a str,
    version: u64,
    place: String,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let Call::Read(args) = args.call;
    let page = args.index()?.read().await?;
    let mut out = Output::stdout();
    if args.connection.json {
        out.json(&json(&page))?;
    } else if page.state == LeafState::Present {
        out.table(&table(&page))?;
    }
    out.flush()?;
    if let Some(next) = page.next.as_ref().filter(|_| page.more)
        && !args.connection.json
    {
        eprintln!("there is more: --cursor {}", format::hex(&next.to_bytes()));
    }
    if page.filtered > 0 && !args.connection.json {
        let left_out = format::count(page.filtered.into(), "member is", "members are");
        eprintln!("{left_out} left out: their rows are known to be elsewhere");
    }
    found(&page)
}

impl ReadArgs {
    fn index(&self) -> Result<Index, Failure> {
        let client = self.connection.client()?;
        let index = client.index(&self.table, self.dialect.to_wire());
        let mut index = index.limit(self.limit).offset(self.offset);
        for pair in &self.equal {
            let (column, value) = equality("--where", pair)?;
            index = index.by(column, value);
        }
        for pair in &self.or {
            index = index.or([equality("--or", pair)?]);
        }
        for pair in &self.and {
            index = index.and([equality("--and", pair)?]);
        }
        if let Some(column) = &self.order_by {
            index = index.order_by(column);
        }
        if self.desc {
            index = index.descending();
        }
        if self.from.is_some() || self.to.is_some() {
            let value = |text: &Option<String>| text.as_deref().map(value_of);
            index = index.between(value(&self.from), value(&self.to));
        }
        if let Some(cursor) = &self.cursor {
            let wrong = |error: &str| Failure::Usage(format!("--cursor: {error}"));
            let bytes = format::unhex(cursor).map_err(|error| wrong(&error))?;
            let cursor = Cursor::from_bytes(&bytes).map_err(|error| wrong(&error.to_string()))?;
            index = index.after(cursor);
        }
        if self.verified {
            index = index.verified();
        }
        Ok(index.session(&self.session.session()?))
    }
}

fn equality<'a>(option: &str, pair: &'a str) -> Result<(&'a str, SqlScalar), Failure> {
    let parts = pair.split_once('=');
    let (column, value) =
        parts.ok_or_else(|| Failure::Usage(format!("{option} {pair}: it must be COLUMN=VALUE")))?;
    Ok((column, value_of(value)))
}

fn value_of(text: &str) -> SqlScalar {
    use grapevine_sql::Scalar;
    match scalar(text) {
        Scalar::Null => SqlScalar::NULL,
        Scalar::Bool(value) => value.into(),
        Scalar::Int(value) => value.into(),
        Scalar::Uint(value) => value.into(),
        Scalar::Float(value) => value.into(),
        Scalar::Text(value) => value.into(),
        Scalar::Bytes(value) => value.into(),
    }
}

fn state(state: LeafState) -> &'static str {
    match state {
        LeafState::Present => "present",
        LeafState::Absent => "absent",
        LeafState::Bypass => "bypass",
    }
}

fn json(page: &LeafPage) -> PageJson<'_> {
    let members = page.members.iter().map(|member| MemberJson {
        id: &member.id,
        version: member.version,
        place: format::hex(&member.place),
    });
    let next = page.next.as_ref().filter(|_| page.more);
    PageJson {
        state: state(page.state),
        members: members.collect(),
        complete: page.complete,
        more: page.more,
        next: next.map(|next| format::hex(&next.to_bytes())),
        filtered: page.filtered,
        retry_after_ms: page.retry_after.map(|after| after.as_millis()),
        freshness: format::freshness(page.freshness),
        freshness_reason: &page.freshness_reason,
    }
}

fn table(page: &LeafPage) -> Rows {
    let mut rows = Rows::new(&["ID", "#VERSION"]);
    for member in &page.members {
        let version = match member.version {
            0 => "-".to_owned(),
            version => version.to_string(),
        };
        rows.add([member.id.clone(), version]);
    }
    rows
}

/// Whether all that was asked for is known.
fn found(page: &LeafPage) -> Result<(), Failure> {
    let why = match page.state {
        LeafState::Present if page.complete => return Ok(()),
        LeafState::Present => "the list goes on where nothing is known: read the database",
        LeafState::Absent => "nothing is known of the list: read the database",
        LeafState::Bypass => "the sidecar cannot show that it is fresh: read the database",
    };
    Err(Failure::NotReached(why.to_owned()))
}
