//! The peer service's messages.

mod parts;

use std::sync::Arc;
use std::time::Duration;

use grapevine_core::id::Incarnation;
use grapevine_core::machine::effects::{PeerHello, PeerMessage};
use grapevine_core::names::{ClassPath, NodeId};
use grapevine_core::vector::VersionVector;
use grapevine_proto::v1;
use grapevine_proto::v1::exchange_request::Kind;
use thiserror::Error;

use super::incarnation as bytes;
use parts::{
    batch, bump_event, class_version, floor, heads, lane, read_batch, read_bump_event,
    read_class_version, read_floor, read_heads, read_lane,
};

/// The peer protocol that this version speaks.
pub(crate) const PROTOCOL: u32 = 1;

/// The most events or batches in one message.
const EVENTS_MAX: usize = 1_000;

/// What is wrong with a peer's message.
#[derive(Debug, Error)]
pub(crate) enum PeerWireError {
    #[error("{field}: {reason}")]
    Field { field: &'static str, reason: String },
    #[error("{field}: {value} of them; the limit is {limit}")]
    Count {
        field: &'static str,
        value: usize,
        limit: usize,
    },
}

type Checked<T> = Result<T, PeerWireError>;

fn field(field: &'static str, reason: impl Into<String>) -> PeerWireError {
    PeerWireError::Field {
        field,
        reason: reason.into(),
    }
}

fn count(name: &'static str, value: usize, limit: usize) -> Checked<()> {
    if value > limit {
        Err(PeerWireError::Count {
            field: name,
            value,
            limit,
        })
    } else {
        Ok(())
    }
}

fn origin(name: &'static str, value: &[u8]) -> Checked<Incarnation> {
    Incarnation::from_bytes(value).ok_or_else(|| {
        field(
            name,
            format!("{} bytes; 16 are wanted, not all zero", value.len()),
        )
    })
}

fn first(value: u64, events: usize) -> Checked<u64> {
    if value == 0 || value.checked_add(events as u64).is_none() {
        return Err(field("first", format!("{value} is outside the sequences")));
    }
    Ok(value)
}

fn class(value: &str) -> Checked<ClassPath> {
    ClassPath::parse(value).map_err(|error| field("class", error.to_string()))
}

/// A sidecar's introduction, with its cluster and protocol.
pub(crate) fn hello(hello: &PeerHello, cluster: &str) -> v1::Hello {
    v1::Hello {
        cluster: cluster.to_owned(),
        protocol: PROTOCOL,
        node_id: hello.node_id.as_str().to_owned(),
        incarnation: bytes(hello.incarnation),
        peer_address: hello.peer_address.clone(),
        policy_digest: hello.policy_digest,
    }
}

pub(crate) fn read_hello(message: v1::Hello) -> Checked<PeerHello> {
    count("hello.peer_address", message.peer_address.len(), 300)?;
    Ok(PeerHello {
        node_id: NodeId::parse(&message.node_id)
            .map_err(|error| field("hello.node_id", error.to_string()))?,
        incarnation: origin("hello.incarnation", &message.incarnation)?,
        peer_address: message.peer_address,
        policy_digest: message.policy_digest,
    })
}

/// A message for a peer.
pub(crate) fn message(message: PeerMessage) -> v1::ExchangeRequest {
    let kind = match message {
        PeerMessage::Bumps {
            origin,
            first,
            events,
        } => {
            let events = events.iter().map(|event| bump_event(event)).collect();
            Kind::Bumps(v1::BumpBatch {
                origin: bytes(origin),
                first,
                events,
            })
        }
        PeerMessage::Directory {
            origin,
            first,
            batches,
        } => {
            let batches = batches
                .iter()
                .map(|it| batch(&it.stamp, &it.registrations))
                .collect();
            Kind::Directory(v1::DirectoryBatch {
                origin: bytes(origin),
                first,
                batches,
            })
        }
        PeerMessage::Ack { watermark, above } => Kind::Ack(v1::Ack { watermark, above }),
        PeerMessage::Probe { nonce } => Kind::Probe(v1::Probe { nonce }),
        PeerMessage::Grant {
            nonce,
            duration,
            heads: told,
        } => {
            let duration_ms = u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
            Kind::Grant(v1::Grant {
                nonce,
                duration_ms,
                heads: heads(&told),
            })
        }
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
        PeerMessage::SnapshotRequest { id } => Kind::SnapshotRequest(v1::SnapshotRequest { id }),
        PeerMessage::SnapshotBegin { id, cut } => Kind::SnapshotBegin(v1::SnapshotBegin {
            id,
            cut: heads(&cut),
        }),
        PeerMessage::SnapshotVersions {
            id,
            classes,
            floors,
        } => Kind::SnapshotVersions(v1::SnapshotVersions {
            id,
            classes: classes.iter().map(class_version).collect(),
            floors: floors.iter().map(floor).collect(),
        }),
        PeerMessage::SnapshotDirectory { id, registrations } => {
            let batch = batch(&VersionVector::new(), &registrations);
            Kind::SnapshotDirectory(v1::SnapshotDirectory {
                id,
                batch: Some(batch),
            })
        }
        PeerMessage::SnapshotEnd { id } => Kind::SnapshotEnd(v1::SnapshotEnd { id }),
        PeerMessage::Leave {
            bump_head,
            directory_head,
        } => Kind::Leave(v1::Leave {
            bump_head,
            directory_head,
        }),
    };
    v1::ExchangeRequest { kind: Some(kind) }
}

/// A message from a peer, behind its hello.
pub(crate) fn read_message(message: v1::ExchangeRequest) -> Checked<PeerMessage> {
    Ok(
        match message.kind.ok_or_else(|| field("kind", "none is set"))? {
            Kind::Hello(_) => return Err(field("hello", "a second one")),
            Kind::Bumps(bumps) => {
                count("events", bumps.events.len(), EVENTS_MAX)?;
                PeerMessage::Bumps {
                    origin: origin("origin", &bumps.origin)?,
                    first: first(bumps.first, bumps.events.len())?,
                    events: bumps
                        .events
                        .into_iter()
                        .map(read_bump_event)
                        .collect::<Checked<_>>()?,
                }
            }
            Kind::Directory(directory) => {
                count("batches", directory.batches.len(), EVENTS_MAX)?;
                PeerMessage::Directory {
                    origin: origin("origin", &directory.origin)?,
                    first: first(directory.first, directory.batches.len())?,
                    batches: directory
                        .batches
                        .into_iter()
                        .map(|it| read_batch(it).map(Arc::new))
                        .collect::<Checked<_>>()?,
                }
            }
            Kind::Ack(ack) => {
                count("above", ack.above.len(), EVENTS_MAX)?;
                PeerMessage::Ack {
                    watermark: ack.watermark,
                    above: ack.above,
                }
            }
            Kind::Probe(probe) => PeerMessage::Probe { nonce: probe.nonce },
            Kind::Grant(grant) => PeerMessage::Grant {
                nonce: grant.nonce,
                duration: Duration::from_millis(grant.duration_ms.into()),
                heads: read_heads(&grant.heads)?,
            },
            Kind::Pull(pull) => PeerMessage::Pull {
                origin: origin("origin", &pull.origin)?,
                lane: read_lane(pull.lane)?,
                first: pull.first,
                last: pull.last,
            },
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
            Kind::SnapshotVersions(versions) => {
                count("classes", versions.classes.len(), EVENTS_MAX)?;
                PeerMessage::SnapshotVersions {
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
                }
            }
            Kind::SnapshotDirectory(directory) => {
                let batch = directory.batch.ok_or_else(|| field("batch", "none"))?;
                PeerMessage::SnapshotDirectory {
                    id: directory.id,
                    registrations: read_batch(batch)?.registrations,
                }
            }
            Kind::SnapshotEnd(end) => PeerMessage::SnapshotEnd { id: end.id },
            Kind::Leave(leave) => PeerMessage::Leave {
                bump_head: leave.bump_head,
                directory_head: leave.directory_head,
            },
        },
    )
}
