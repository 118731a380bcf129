//! `grapevine members`: the cluster as one sidecar sees it, and waiting until it is complete.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use grapevine_client::{Client, v1};
use serde::Serialize;

use crate::connection::Connection;
use crate::exit::Failure;
use crate::format;
use crate::output::{Output, Rows};

/// Between two looks at a cluster that is not complete yet.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// List the members of the cluster, as a sidecar sees them
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Wait until so many are there and vouch for the sidecar, for up to --timeout; exit code 3 when they are not
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..))]
    expect: Option<u16>,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

#[derive(Debug, Serialize)]
struct MemberJson<'a> {
    node_id: &'a str,
    incarnation: String,
    peer_address: &'a str,
    state: &'static str,
    last_heard_ms: u64,
    head: u64,
    watermark: u64,
    policy_agrees: bool,
    grant_left_ms: u64,
    seated: bool,
    reason: &'a str,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let (members, failure) = match args.expect {
        None => (client.members().await?, None),
        Some(number) => expect(&client, number, args.connection.timeout).await?,
    };
    let mut out = Output::stdout();
    if args.connection.json {
        for member in &members {
            out.json(&json(member))?;
        }
    } else {
        out.table(&table(&members))?;
    }
    out.flush()?;
    failure.map_or(Ok(()), Err)
}

/// The last answer, and what is wrong with it when the time was up.
async fn expect(
    client: &Client,
    number: u16,
    within: Duration,
) -> Result<(Vec<v1::Member>, Option<Failure>), Failure> {
    let started = Instant::now();
    loop {
        let answer = client.members().await;
        let late = started.elapsed() >= within;
        match answer {
            Ok(members) => {
                let there = members.iter().filter(|member| is_there(member)).count();
                if there >= usize::from(number) {
                    return Ok((members, None));
                }
                if late {
                    let away = members.iter().filter(|member| !is_there(member));
                    let away: Vec<_> = away.map(|member| member.node_id.as_str()).collect();
                    let mut why = format!(
                        "{there} of {number} members are there after {}",
                        format::duration(within)
                    );
                    if !away.is_empty() {
                        let _ = write!(why, "; away: {}", away.join(", "));
                    }
                    return Ok((members, Some(Failure::NotReached(why))));
                }
            }
            Err(error) if late => return Err(error.into()),
            Err(_) => {}
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Connected, and vouching for the sidecar that was asked.
fn is_there(member: &v1::Member) -> bool {
    match member.state() {
        v1::MemberState::Self_ => true,
        v1::MemberState::Alive => member.grant_left_ms > 0,
        v1::MemberState::Suspect | v1::MemberState::Unspecified => false,
    }
}

fn json(member: &v1::Member) -> MemberJson<'_> {
    MemberJson {
        node_id: &member.node_id,
        incarnation: format::hex(&member.incarnation),
        peer_address: &member.peer_address,
        state: format::member_state(member.state()),
        last_heard_ms: member.last_heard_ms,
        head: member.head,
        watermark: member.watermark,
        policy_agrees: member.policy_agrees,
        grant_left_ms: member.grant_left_ms,
        seated: member.seated,
        reason: &member.reason,
    }
}

fn table(members: &[v1::Member]) -> Rows {
    let mut rows = Rows::new(&[
        "NODE",
        "RUN",
        "PEER ADDRESS",
        "STATE",
        "SEAT",
        "HEARD",
        "#BUMPS",
        "#APPLIED",
        "POLICIES",
        "GRANT",
        "REASON",
    ]);
    for member in members {
        let own = member.state() == v1::MemberState::Self_;
        let unless_own = |text: String| if own { "-".to_owned() } else { text };
        let grant = match member.grant_left_ms {
            0 => "lapsed".to_owned(),
            left => format::millis(left),
        };
        rows.add([
            member.node_id.clone(),
            format::short(&member.incarnation),
            member.peer_address.clone(),
            format::member_state(member.state()).to_owned(),
            if member.seated { "yes" } else { "no" }.to_owned(),
            unless_own(format!("{} ago", format::millis(member.last_heard_ms))),
            member.head.to_string(),
            member.watermark.to_string(),
            if member.policy_agrees {
                "agree"
            } else {
                "DIFFER"
            }
            .to_owned(),
            unless_own(grant),
            if member.reason.is_empty() {
                "-"
            } else {
                &member.reason
            }
            .to_owned(),
        ]);
    }
    rows
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_member_is_one_object_with_stable_fields() {
        let member = v1::Member {
            node_id: "b".to_owned(),
            incarnation: vec![0xab; 16].into(),
            peer_address: "10.0.0.2:7401".to_owned(),
            state: v1::MemberState::Suspect.into(),
            last_heard_ms: 1_500,
            head: 7,
            watermark: 6,
            policy_agrees: true,
            grant_left_ms: 0,
            seated: true,
            reason: "b is not connected; last heard 1500 ms ago".to_owned(),
        };
        let value = serde_json::to_value(json(&member)).unwrap();
        let fields: Vec<&str> = value
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(
            fields,
            [
                "grant_left_ms",
                "head",
                "incarnation",
                "last_heard_ms",
                "node_id",
                "peer_address",
                "policy_agrees",
                "reason",
                "seated",
                "state",
                "watermark",
            ]
        );
        assert_eq!(value["state"], "suspect");
        assert_eq!(value["incarnation"], "ab".repeat(16));
    }
}
