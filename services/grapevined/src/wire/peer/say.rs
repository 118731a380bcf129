//! What is said to a peer, as a wire message.

use grapevine_core::id::Incarnation;
use grapevine_core::machine::effects::PeerMessage;
use grapevine_core::vector::VersionVector;
use grapevine_proto::v1;
use grapevine_proto::v1::exchange_request::Kind;

use super::parts::{
    batch, bump_event, class_version, fill_word, floor, heads, hole, intent, intent_id, lane,
};
use super::rows::pruned;
use super::{MESSAGE_BYTES_MAX, bytes, roster};

/// A message for a peer. It is small if [`super::cut`] made it.
pub(crate) fn message(message: PeerMessage) -> v1::ExchangeRequest {
    let kind = match message {
        PeerMessage::Bumps { .. } | PeerMessage::Directory { .. } => events(message),
        PeerMessage::Relayed {
            to,
            acknowledge,
            message,
        } => relayed(to, acknowledge, events(*message)),
        PeerMessage::SnapshotRequest { .. }
        | PeerMessage::SnapshotBegin { .. }
        | PeerMessage::SnapshotVersions { .. }
        | PeerMessage::SnapshotDirectory { .. }
        | PeerMessage::SnapshotEnd { .. } => snapshot(message),
        other => word(other),
    };
    v1::ExchangeRequest { kind: Some(kind) }
}

/// Events of either lane.
fn events(message: PeerMessage) -> Kind {
    match message {
        PeerMessage::Bumps {
            origin,
            first,
            events,
        } => Kind::Bumps(v1::BumpBatch {
            origin: bytes(origin),
            first,
            events: events.iter().map(|event| bump_event(event)).collect(),
            traces: Vec::new(),
            relay: None,
        }),
        PeerMessage::Directory {
            origin,
            first,
            batches,
        } => {
            let kind = Kind::Directory(v1::DirectoryBatch {
                origin: bytes(origin),
                first,
                batches: batches
                    .iter()
                    .map(|it| batch(&it.stamp, &it.registrations))
                    .collect(),
                relay: None,
            });
            if kind.encoded_len() < MESSAGE_BYTES_MAX {
                return kind;
            }
            // One batch that no peer would take, as older releases sealed them. It would cut the link each time that it
            // is asked for; as a part of a snapshot it can be cut.
            Kind::Compacted(v1::Compacted {
                origin: bytes(origin),
                lane: v1::Lane::Directory.into(),
                first,
            })
        }
        other => unreachable!("invariant: {other:?} carries no events"),
    }
}

/// Events that are for others as well.
fn relayed(to: Vec<Incarnation>, acknowledge: bool, mut events: Kind) -> Kind {
    let relay = v1::Relay {
        to: to.into_iter().map(bytes).collect(),
        acknowledge,
    };
    match &mut events {
        Kind::Bumps(bumps) => bumps.relay = Some(relay),
        Kind::Directory(directory) => directory.relay = Some(relay),
        // What is said in place of a batch that nobody takes.
        _ => {}
    }
    events
}

/// Requests for snapshots, and their pieces.
fn snapshot(message: PeerMessage) -> Kind {
    match message {
        PeerMessage::SnapshotRequest { id } => Kind::SnapshotRequest(v1::SnapshotRequest { id }),
        PeerMessage::SnapshotBegin { id, cut } => Kind::SnapshotBegin(v1::SnapshotBegin {
            id,
            cut: heads(&cut),
        }),
        PeerMessage::SnapshotVersions {
            id,
            classes,
            floors,
            shapes,
        } => Kind::SnapshotVersions(v1::SnapshotVersions {
            id,
            classes: classes.iter().map(class_version).collect(),
            floors: floors.iter().map(floor).collect(),
            shapes: shapes
                .iter()
                .map(|shape| shape.class().as_str().to_owned())
                .collect(),
        }),
        PeerMessage::SnapshotDirectory { id, registrations } => {
            let batch = batch(&VersionVector::new(), &registrations);
            Kind::SnapshotDirectory(v1::SnapshotDirectory {
                id,
                batch: Some(batch),
            })
        }
        PeerMessage::SnapshotEnd { id } => Kind::SnapshotEnd(v1::SnapshotEnd { id }),
        other => unreachable!("invariant: {other:?} belongs to no snapshot"),
    }
}

/// Everything that is short.
fn word(message: PeerMessage) -> Kind {
    match message {
        PeerMessage::Ack {
            watermark,
            above,
            flushed,
        } => {
            let (flushed, flushed_above) = flushed.unwrap_or_default();
            Kind::Ack(v1::Ack {
                watermark,
                above,
                flushed,
                flushed_above,
            })
        }
        PeerMessage::Probe {
            nonce,
            mark,
            since,
            applied,
        } => Kind::Probe(v1::Probe {
            nonce,
            since,
            applied: applied.map_or_else(Default::default, |it| it.to_be_bytes().to_vec().into()),
            view: Some(roster::mark(mark)),
        }),
        PeerMessage::Roster { history, say } => Kind::Roster(roster::say(history, say)),
        PeerMessage::Grant {
            nonce,
            duration,
            settled,
            heads: told,
            span,
            lacked,
        } => Kind::Grant(v1::Grant {
            nonce,
            duration_ms: u32::try_from(duration.as_millis()).unwrap_or(u32::MAX),
            heads: heads(&told),
            since: span.since,
            until: span.until,
            same: span.same,
            settled,
            lacked: lacked.into_iter().map(hole).collect(),
        }),
        PeerMessage::Pull {
            origin,
            lane: it,
            first,
            last,
        } => Kind::Pull(v1::Pull {
            origin: bytes(origin),
            lane: lane(it).into(),
            first,
            last,
        }),
        PeerMessage::Compacted {
            origin,
            lane: it,
            first,
        } => Kind::Compacted(v1::Compacted {
            origin: bytes(origin),
            lane: lane(it).into(),
            first,
        }),
        PeerMessage::Fill { key, word } => Kind::Fill(fill_word(key, word)),
        PeerMessage::RowsCome(coming) => Kind::RowsCome(intent(&coming)),
        PeerMessage::Pruned {
            leaf,
            places,
            stamp,
        } => Kind::Pruned(pruned(&leaf, &places, &stamp)),
        PeerMessage::Leave {
            bump_head,
            directory_head,
        } => Kind::Leave(v1::Leave {
            bump_head,
            directory_head,
        }),
        PeerMessage::Intent(it) => Kind::Intent(intent(&it)),
        PeerMessage::IntentHeld(held) => Kind::IntentsHeld(v1::IntentsHeld {
            intents: held.into_iter().map(intent_id).collect(),
        }),
        PeerMessage::IntentSettled { intent, event } => Kind::IntentSettled(v1::IntentSettled {
            intent: Some(intent_id(intent)),
            event: event.map(|event| v1::Dot {
                incarnation: bytes(event.origin),
                sequence: event.sequence,
            }),
        }),
        // Named one by one, so that a new message cannot be forgotten here.
        PeerMessage::Bumps { .. }
        | PeerMessage::Directory { .. }
        | PeerMessage::Relayed { .. }
        | PeerMessage::SnapshotRequest { .. }
        | PeerMessage::SnapshotBegin { .. }
        | PeerMessage::SnapshotVersions { .. }
        | PeerMessage::SnapshotDirectory { .. }
        | PeerMessage::SnapshotEnd { .. } => {
            unreachable!("invariant: `message` sends events and state elsewhere")
        }
    }
}
