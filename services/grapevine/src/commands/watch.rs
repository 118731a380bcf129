//! `grapevine watch`: bumps as a sidecar applies them.
//!
//! A sidecar that is not there at the start is an error; one that goes away later is waited for: `lost` says that nothing is
//! heard, and a resync, once it is back, that something may have been missed.

use std::time::{Duration, SystemTime};

use grapevine_client::{ResyncCause, WatchEvent, v1};
use serde::Serialize;

use crate::connection::{Connection, positive_duration};
use crate::exit::Failure;
use crate::format;
use crate::output::Output;

/// Show bumps as a sidecar applies them
///
/// Runs until it is stopped, or as told. A bump is shown with all classes of its event, those that are not watched, too. `resync` says that something was missed: treat everything watched as changed.
/// `lost` says that the sidecar has gone; it is waited for, and a `resync` follows when it is back.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only bumps at, below or above these classes, up to 100
    classes: Vec<String>,
    /// End after so many bumps and resyncs
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after so long
    #[arg(long = "for", value_name = "DURATION", value_parser = positive_duration)]
    duration: Option<Duration>,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// One event; fields that say nothing of its kind are null.
#[derive(Debug, PartialEq, Serialize)]
struct EventJson {
    /// When it was heard, RFC 3339 in UTC.
    time: String,
    /// started, bump, lost or resync.
    kind: &'static str,
    /// Of the bump's issuer, or of the sidecar that is watched.
    incarnation: Option<String>,
    sequence: Option<u64>,
    classes: Option<Vec<String>>,
    #[serde(rename = "match")]
    matching: Option<&'static str>,
    /// Of a resync: reconnected or missed.
    cause: Option<&'static str>,
    /// Of a resync: how many messages were left out; null when there is no number.
    missed: Option<u64>,
    /// Of a loss: why, for people.
    reason: Option<String>,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let mut watch = client.watch(args.classes.iter().cloned())?;
    // A watch would wait for ever for a sidecar that was never there.
    client.status().await?;
    let mut out = Output::stdout();
    let telling = async {
        let mut told = 0;
        loop {
            let event = watch.next().await?;
            let json = json(&event, SystemTime::now());
            if args.connection.json {
                out.json(&json)?;
            } else {
                out.line(&line(&json, &event))?;
            }
            // At once: whoever reads this waits for it.
            out.flush()?;
            told += u64::from(matches!(json.kind, "bump" | "resync"));
            if args.count.is_some_and(|count| told >= count) {
                return Ok(());
            }
        }
    };
    match args.duration {
        None => telling.await,
        Some(duration) => tokio::time::timeout(duration, telling)
            .await
            .unwrap_or(Ok(())),
    }
}

fn json(event: &WatchEvent, now: SystemTime) -> EventJson {
    let mut json = EventJson {
        time: humantime::format_rfc3339_millis(now).to_string(),
        kind: "resync",
        incarnation: None,
        sequence: None,
        classes: None,
        matching: None,
        cause: None,
        missed: None,
        reason: None,
    };
    match event {
        WatchEvent::Started { incarnation } => {
            json.kind = "started";
            json.incarnation = Some(format::hex(incarnation));
        }
        WatchEvent::Bump(bump) => {
            json.kind = "bump";
            json.incarnation = bump
                .event
                .as_ref()
                .map(|event| format::hex(&event.incarnation));
            json.sequence = bump.event.as_ref().map(|event| event.sequence);
            json.classes = Some(bump.classes.clone());
            json.matching = Some(format::matching(bump.r#match()));
        }
        WatchEvent::Lost { reason } => {
            json.kind = "lost";
            json.reason = Some(reason.clone());
        }
        WatchEvent::Resync(ResyncCause::Reconnected { incarnation }) => {
            json.cause = Some("reconnected");
            json.incarnation = Some(format::hex(incarnation));
        }
        WatchEvent::Resync(ResyncCause::Missed { messages }) => {
            json.cause = Some("missed");
            json.missed = (*messages > 0).then_some(*messages);
        }
    }
    json
}

fn line(json: &EventJson, event: &WatchEvent) -> String {
    let what = match event {
        WatchEvent::Started { incarnation } => {
            format!("watching run {}", format::short(incarnation))
        }
        WatchEvent::Bump(bump) => {
            let all = if bump.r#match() == v1::Match::All {
                "  (all of them)"
            } else {
                ""
            };
            let event = bump.event.as_ref().map(format::event).unwrap_or_default();
            format!("{event}  {}{all}", bump.classes.join(" "))
        }
        WatchEvent::Lost { reason } => format!("nothing is heard, connecting again: {reason}"),
        WatchEvent::Resync(ResyncCause::Reconnected { .. }) => {
            "reconnected: what happened meanwhile is not known".to_owned()
        }
        WatchEvent::Resync(ResyncCause::Missed { messages: 0 }) => {
            "much changed at once: treat everything as changed".to_owned()
        }
        WatchEvent::Resync(ResyncCause::Missed { messages }) => {
            format!("{messages} messages missed: treat everything as changed")
        }
    };
    format!("{}  {:7}  {what}", json.time, json.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bump() -> WatchEvent {
        WatchEvent::Bump(v1::WatchBump {
            event: Some(v1::EventId {
                incarnation: vec![1; 16].into(),
                sequence: 9,
            }),
            classes: vec!["a".to_owned(), "b/c".to_owned()],
            r#match: v1::Match::All.into(),
        })
    }

    #[test]
    fn a_bump_says_whose_it_is_and_what_changed() {
        let json = json(&bump(), SystemTime::UNIX_EPOCH);
        assert_eq!(json.matching, Some("all"));
        assert_eq!(json.sequence, Some(9));
        assert_eq!(
            line(&json, &bump()),
            "1970-01-01T00:00:00.000Z  bump     01010101/9  a b/c  (all of them)"
        );
    }

    #[test]
    fn a_loss_says_why() {
        let lost = WatchEvent::Lost {
            reason: "broken pipe".to_owned(),
        };
        let json = json(&lost, SystemTime::UNIX_EPOCH);
        assert_eq!(
            (json.kind, json.reason.as_deref()),
            ("lost", Some("broken pipe"))
        );
        assert!(line(&json, &lost).ends_with("connecting again: broken pipe"));
    }

    #[test]
    fn a_resync_without_a_number_has_none() {
        let missed = |messages| WatchEvent::Resync(ResyncCause::Missed { messages });
        assert_eq!(json(&missed(0), SystemTime::UNIX_EPOCH).missed, None);
        assert_eq!(json(&missed(3), SystemTime::UNIX_EPOCH).missed, Some(3));
    }
}
