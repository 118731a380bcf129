//! What a peer says, checked.

use std::sync::Arc;
use std::time::Duration;

use grapevine_core::machine::effects::{PeerMessage, Span};
use grapevine_core::roster::SEATS_MAX;
use grapevine_proto::v1;
use grapevine_proto::v1::exchange_request::Kind;

use super::parts::{
    read_batch, read_bump_event, read_class_version, read_event, read_fill_word, read_floor,
    read_heads, read_holes, read_intent, read_intent_id, read_lane,
};
use super::rows::{read_pruned, read_shape};
use super::{BATCHES_MAX, Checked, EVENTS_MAX, count, field, first, origin, roster, some};

/// A message from a peer, behind its hello.
pub(crate) fn read_message(message: v1::ExchangeRequest) -> Checked<PeerMessage> {
    let kind = message.kind.ok_or_else(|| field("kind", "none is set"))?;
    Ok(match kind {
        Kind::Hello(_) => return Err(field("hello", "a second one")),
        Kind::Bumps(bumps) => read_bumps(bumps)?,
        Kind::Directory(directory) => read_directory(directory)?,
        Kind::Ack(ack) => {
            count("above", ack.above.len(), EVENTS_MAX)?;
            count("flushed_above", ack.flushed_above.len(), EVENTS_MAX)?;
            let more = ack.flushed > 0 || !ack.flushed_above.is_empty();
            PeerMessage::Ack {
                watermark: ack.watermark,
                above: ack.above,
                flushed: more.then_some((ack.flushed, ack.flushed_above)),
            }
        }
        Kind::Probe(probe) => PeerMessage::Probe {
            nonce: probe.nonce,
            mark: roster::read_mark(probe.view.as_ref())?,
            since: probe.since,
            applied: read_digest(&probe.applied)?,
        },
        Kind::Roster(said) => roster::read(&said)?,
        Kind::Grant(grant) => PeerMessage::Grant {
            nonce: grant.nonce,
            duration: Duration::from_millis(grant.duration_ms.into()),
            settled: grant.settled,
            heads: read_heads(&grant.heads)?,
            span: read_span(&grant)?,
            lacked: read_holes(&grant.lacked)?,
        },
        Kind::Pull(pull) => {
            if pull.first == 0 || pull.last < pull.first {
                let (first, last) = (pull.first, pull.last);
                return Err(field("pull.last", format!("{first} to {last} is no range")));
            }
            PeerMessage::Pull {
                origin: origin("origin", &pull.origin)?,
                lane: read_lane(pull.lane)?,
                first: pull.first,
                last: pull.last,
            }
        }
        Kind::Compacted(compacted) => PeerMessage::Compacted {
            origin: origin("origin", &compacted.origin)?,
            lane: read_lane(compacted.lane)?,
            first: compacted.first,
        },
        Kind::SnapshotRequest(request) => PeerMessage::SnapshotRequest { id: request.id },
        Kind::SnapshotBegin(begin) => PeerMessage::SnapshotBegin {
            id: begin.id,
            cut: read_heads(&begin.cut)?,
        },
        Kind::SnapshotVersions(versions) => read_versions(&versions)?,
        Kind::SnapshotDirectory(directory) => {
            let batch = directory.batch.ok_or_else(|| field("batch", "none"))?;
            PeerMessage::SnapshotDirectory {
                id: directory.id,
                registrations: read_batch(batch)?.registrations,
            }
        }
        Kind::SnapshotEnd(end) => PeerMessage::SnapshotEnd { id: end.id },
        Kind::Intent(intent) => PeerMessage::Intent(read_intent(&intent)?),
        Kind::IntentsHeld(held) => {
            some("intents", held.intents.len(), EVENTS_MAX)?;
            let intents = held.intents.iter().map(|id| read_intent_id(Some(id)));
            PeerMessage::IntentHeld(intents.collect::<Checked<_>>()?)
        }
        Kind::IntentSettled(settled) => PeerMessage::IntentSettled {
            intent: read_intent_id(settled.intent.as_ref())?,
            event: settled.event.as_ref().map(read_event).transpose()?,
        },
        Kind::Fill(fill) => {
            let (key, word) = read_fill_word(&fill)?;
            PeerMessage::Fill { key, word }
        }
        Kind::Pruned(pruned) => read_pruned(&pruned)?,
        Kind::RowsCome(intent) => PeerMessage::RowsCome(read_intent(&intent)?),
        Kind::Leave(leave) => PeerMessage::Leave {
            bump_head: leave.bump_head,
            directory_head: leave.directory_head,
        },
    })
}

/// Which part of its heads a grant tells.
fn read_span(grant: &v1::Grant) -> Checked<Span> {
    let (since, until, same) = (grant.since, grant.until, grant.same);
    if same && (since > 0 || until == 0) {
        return Err(field(
            "grant.same",
            format!(
                "set with grant.since {since} and grant.until {until}; it goes with 0 and a number"
            ),
        ));
    }
    if since > until {
        return Err(field(
            "grant.since",
            format!("{since} lies behind grant.until, {until}"),
        ));
    }
    Ok(Span { since, until, same })
}

/// A digest of heads, or none.
fn read_digest(bytes: &[u8]) -> Checked<Option<u128>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let Ok(bytes) = bytes.try_into() else {
        let length = bytes.len();
        return Err(field(
            "probe.applied",
            format!("{length} bytes; a digest has 16"),
        ));
    };
    Ok(Some(u128::from_be_bytes(bytes)))
}

/// Events, with those that they are for as well.
fn read_relay(relay: Option<&v1::Relay>, events: PeerMessage) -> Checked<PeerMessage> {
    let Some(relay) = relay else {
        return Ok(events);
    };
    count("relay.to", relay.to.len(), SEATS_MAX)?;
    let to = relay.to.iter().map(|run| origin("relay.to", run));
    Ok(PeerMessage::Relayed {
        to: to.collect::<Checked<_>>()?,
        acknowledge: relay.acknowledge,
        message: Box::new(events),
    })
}

fn read_bumps(bumps: v1::BumpBatch) -> Checked<PeerMessage> {
    some("events", bumps.events.len(), EVENTS_MAX)?;
    let events = PeerMessage::Bumps {
        origin: origin("origin", &bumps.origin)?,
        first: first(bumps.first, bumps.events.len())?,
        events: bumps
            .events
            .into_iter()
            .map(read_bump_event)
            .collect::<Checked<_>>()?,
    };
    read_relay(bumps.relay.as_ref(), events)
}

fn read_directory(directory: v1::DirectoryBatch) -> Checked<PeerMessage> {
    some("batches", directory.batches.len(), BATCHES_MAX)?;
    let events = PeerMessage::Directory {
        origin: origin("origin", &directory.origin)?,
        first: first(directory.first, directory.batches.len())?,
        batches: directory
            .batches
            .into_iter()
            .map(|it| read_batch(it).map(Arc::new))
            .collect::<Checked<_>>()?,
    };
    read_relay(directory.relay.as_ref(), events)
}

fn read_versions(versions: &v1::SnapshotVersions) -> Checked<PeerMessage> {
    count("classes", versions.classes.len(), EVENTS_MAX)?;
    count("floors", versions.floors.len(), EVENTS_MAX)?;
    count("shapes", versions.shapes.len(), EVENTS_MAX)?;
    Ok(PeerMessage::SnapshotVersions {
        id: versions.id,
        classes: versions
            .classes
            .iter()
            .map(read_class_version)
            .collect::<Checked<_>>()?,
        floors: versions
            .floors
            .iter()
            .map(read_floor)
            .collect::<Checked<_>>()?,
        shapes: versions
            .shapes
            .iter()
            .map(|class| read_shape(class))
            .collect::<Checked<_>>()?,
    })
}
