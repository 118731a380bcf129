//! `grapevine resolve`: the cache addresses to use now.

use grapevine_client::{Resolved, v1};
use serde::Serialize;

use crate::connection::{Connection, SessionArgs};
use crate::exit::Failure;
use crate::format;
use crate::output::{Output, Rows};

/// Turn addresses and their classes into the cache addresses to use now
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The application's address(es), up to 1,000, all of the same classes
    #[arg(required = true)]
    addresses: Vec<String>,
    /// A class of the addresses; repeat it for more. The first one's policy governs
    #[arg(long = "class", short = 'c', value_name = "CLASS", required = true)]
    classes: Vec<String>,
    /// For a slice of a list: how many items are wanted
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u32>,
    /// For a slice of a list: how many items to skip
    #[arg(long, value_name = "NUMBER", default_value_t = 0, requires = "limit")]
    offset: u64,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "the contract's answer, field by field"
)]
#[derive(Debug, Serialize)]
struct ResolvedJson<'a> {
    address: &'a str,
    targets: Vec<TargetJson<'a>>,
    token: String,
    lease: String,
    lease_ms: u32,
    strategy: &'static str,
    ttl_ms: u64,
    envelope: bool,
    commit_required: bool,
    bypass: bool,
    elect: bool,
    stale: Vec<StaleJson<'a>>,
    fill_forbidden: bool,
    read_primary: bool,
    freshness: &'static str,
    freshness_reason: &'a str,
}

/// A value that may be served while a new one is computed.
#[derive(Debug, Serialize)]
struct StaleJson<'a> {
    token: String,
    address: &'a str,
}

/// One cache address; `page` is null unless a slice was asked for.
#[derive(Debug, Serialize)]
struct TargetJson<'a> {
    address: &'a str,
    page: Option<PageJson>,
}

#[derive(Debug, Serialize)]
struct PageJson {
    index: u64,
    size: u32,
    skip: u32,
    take: u32,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let page = args.limit.map(|limit| v1::Page {
        offset: args.offset,
        limit,
    });
    let item = |address: &String| v1::ResolveItem {
        address: address.clone(),
        classes: args.classes.clone(),
        page,
    };
    let items = args.addresses.iter().map(item).collect();
    let session = args.session.session()?;
    let answers = client.resolve_in(&session, items).await?;
    let mut out = Output::stdout();
    if args.connection.json {
        for (address, answer) in args.addresses.iter().zip(&answers) {
            out.json(&json(address, answer))?;
        }
    } else {
        out.table(&table(&answers))?;
        for note in notes(&answers) {
            out.line(&note)?;
        }
    }
    out.flush()
}

fn json<'a>(address: &'a str, answer: &'a Resolved) -> ResolvedJson<'a> {
    let resolution = &answer.resolution;
    let target = |target: &'a v1::Target| TargetJson {
        address: &target.address,
        page: (target.page_size > 0).then_some(PageJson {
            index: target.page_index,
            size: target.page_size,
            skip: target.skip,
            take: target.take,
        }),
    };
    let stale = |target: &'a v1::StaleTarget| StaleJson {
        token: format::token(target.token),
        address: &target.address,
    };
    ResolvedJson {
        address,
        targets: resolution.targets.iter().map(target).collect(),
        token: format::token(resolution.token),
        lease: format::hex(&resolution.lease),
        lease_ms: resolution.lease_ms,
        strategy: format::strategy(resolution.strategy()),
        ttl_ms: resolution.ttl_ms,
        envelope: resolution.envelope,
        commit_required: resolution.commit_required,
        bypass: resolution.bypass,
        elect: resolution.elect,
        stale: resolution.stale.iter().map(stale).collect(),
        fill_forbidden: resolution.fill_forbidden,
        read_primary: resolution.read_primary,
        freshness: format::freshness(answer.freshness),
        freshness_reason: answer.freshness_reason.as_deref().unwrap_or_default(),
    }
}

fn table(answers: &[Resolved]) -> Rows {
    let paged = |target: &v1::Target| target.page_size > 0;
    let pages = answers
        .iter()
        .flat_map(|answer| &answer.resolution.targets)
        .any(paged);
    let mut columns = vec!["CACHE ADDRESS", "STRATEGY", "TOKEN", "TTL", "USE"];
    if pages {
        columns.insert(1, "ITEMS");
    }
    let mut rows = Rows::new(&columns);
    for answer in answers {
        let resolution = &answer.resolution;
        for target in &resolution.targets {
            let mut row = vec![
                target.address.clone(),
                format::strategy(resolution.strategy()).to_owned(),
                format::token(resolution.token),
                format::millis(resolution.ttl_ms),
                if resolution.bypass { "bypass" } else { "cache" }.to_owned(),
            ];
            if pages {
                row.insert(1, items(target));
            }
            rows.add(row);
        }
    }
    rows
}

/// The part of a page that belongs to the slice.
fn items(target: &v1::Target) -> String {
    if target.page_size == 0 {
        return "-".to_owned();
    }
    format!(
        "{}..{} of {}",
        target.skip,
        target.skip + target.take,
        target.page_size
    )
}

/// What a person should know beside the addresses.
fn notes(answers: &[Resolved]) -> Vec<String> {
    let Some(answer) = answers.first() else {
        return Vec::new();
    };
    let mut notes = Vec::new();
    if answer.freshness != v1::Freshness::Fresh {
        let reason = answer.freshness_reason.as_deref().unwrap_or_default();
        notes.push(format!(
            "freshness: {}: {reason}",
            format::freshness(answer.freshness)
        ));
    }
    if answer.resolution.envelope {
        notes.push("values lie in an envelope; one whose token differs is stale".to_owned());
    }
    if answer.resolution.commit_required {
        notes.push("a value may be stored only after CommitFill accepted it".to_owned());
    }
    if answer.resolution.fill_forbidden {
        notes.push("what is computed now must not be stored: the source may lag behind the last invalidation".to_owned());
    }
    if answer.resolution.read_primary {
        notes.push("compute a missing value from the primary: what fills read may lag behind the last invalidation".to_owned());
    }
    if answer.resolution.elect {
        notes.push(
            "before a missing value is computed, AcquireFill says whose turn it is".to_owned(),
        );
    }
    for stale in &answer.resolution.stale {
        let token = format::token(stale.token);
        notes.push(format!(
            "may be served stale meanwhile: {} under {token}",
            stale.address
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn resolved(targets: Vec<v1::Target>) -> Resolved {
        Resolved {
            resolution: v1::Resolution {
                targets,
                token: u64::MAX,
                strategy: v1::Strategy::Registered.into(),
                ttl_ms: 60_000,
                envelope: true,
                ..v1::Resolution::default()
            },
            freshness: v1::Freshness::Unknown,
            freshness_reason: Some("b is silent".into()),
        }
    }

    #[test]
    fn a_token_survives_readers_that_round_numbers() {
        let answer = resolved(vec![v1::Target {
            address: "a".to_owned(),
            ..Default::default()
        }]);
        let value = serde_json::to_value(json("a", &answer)).unwrap();
        assert_eq!(value["token"], "ffffffffffffffff");
        assert_eq!(value["targets"][0]["page"], serde_json::Value::Null);
        assert_eq!(value["freshness_reason"], "b is silent");
    }

    #[test]
    fn the_items_of_a_page_are_a_range() {
        let page = v1::Target {
            page_size: 20,
            skip: 5,
            take: 15,
            ..Default::default()
        };
        assert_eq!(items(&page), "5..20 of 20");
        assert_eq!(items(&v1::Target::default()), "-");
    }

    #[test]
    fn what_is_not_fresh_is_said_to_be_so() {
        let notes = notes(&[resolved(Vec::new())]);
        assert_eq!(notes[0], "freshness: unknown: b is silent");
        assert_eq!(notes.len(), 2);
    }
}
