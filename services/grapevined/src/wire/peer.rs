//! The peer service's messages.

use std::sync::Arc;
use std::time::Duration;

use grapevine_core::event::{
    ADDRESS_CLASSES_MAX, BATCH_REGISTRATIONS_MAX, BUMP_CLASSES_MAX, Bump, BumpEvent,
    CONJUNCTION_CLASSES_MAX, Floor, Match, PurgeMode, Registration, RegistrationBatch,
};
use grapevine_core::id::{Incarnation, Lane, UnixSeconds};
use grapevine_core::machine::effects::{PeerHello, PeerMessage};
use grapevine_core::names::{Address, ClassPath, NodeId};
use grapevine_core::progress::OriginHead;
use grapevine_core::store::RecoveredClass;
use grapevine_core::vector::VersionVector;
use grapevine_core::versions::{BUCKETS, sorted_classes};
use grapevine_proto::v1;
use grapevine_proto::v1::exchange_request::Kind;
use thiserror::Error;

use super::incarnation as bytes;

/// The peer protocol that this version speaks.
pub(crate) const PROTOCOL: u32 = 1;
/// The most entries in a vector from a peer.
const VECTOR_MAX: usize = 65_536;
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

fn dots(vector: &VersionVector) -> Vec<v1::Dot> {
    vector
        .iter()
        .map(|(origin, sequence)| v1::Dot {
            incarnation: bytes(origin),
            sequence,
        })
        .collect()
}

fn read_dots(dots: &[v1::Dot]) -> Checked<VersionVector> {
    count("vector", dots.len(), VECTOR_MAX)?;
    dots.iter()
        .map(|dot| {
            Ok((
                origin("vector.incarnation", &dot.incarnation)?,
                dot.sequence,
            ))
        })
        .collect()
}

fn heads(heads: &[OriginHead]) -> Vec<v1::OriginHead> {
    heads
        .iter()
        .map(|head| v1::OriginHead {
            incarnation: bytes(head.incarnation),
            bump: head.bump,
            directory: head.directory,
        })
        .collect()
}

fn read_heads(heads: &[v1::OriginHead]) -> Checked<Vec<OriginHead>> {
    count("heads", heads.len(), VECTOR_MAX)?;
    heads
        .iter()
        .map(|head| {
            let incarnation = origin("heads.incarnation", &head.incarnation)?;
            Ok(OriginHead {
                incarnation,
                bump: head.bump,
                directory: head.directory,
            })
        })
        .collect()
}

fn floor(floor: &Floor) -> v1::Floor {
    v1::Floor {
        top: floor.top.as_str().to_owned(),
        bucket: floor.bucket.into(),
        vector: dots(&floor.vector),
    }
}

fn read_floor(floor: &v1::Floor) -> Checked<Floor> {
    let top = class(&floor.top)?;
    if !top.is_top() {
        return Err(field(
            "floor.top",
            format!("{top} is not a top-level class"),
        ));
    }
    let bucket = u16::try_from(floor.bucket)
        .ok()
        .filter(|bucket| *bucket < BUCKETS);
    let bucket = bucket.ok_or_else(|| {
        field(
            "floor.bucket",
            format!("{} is not below {BUCKETS}", floor.bucket),
        )
    })?;
    Ok(Floor {
        top,
        bucket,
        vector: read_dots(&floor.vector)?,
    })
}

fn bump_event(event: &BumpEvent) -> v1::BumpEvent {
    let kind = match event {
        BumpEvent::Bump(bump) => v1::bump_event::Kind::Bump(v1::Bump {
            classes: bump
                .classes
                .iter()
                .map(|class| class.as_str().to_owned())
                .collect(),
            match_all: bump.matching == Match::All,
            soft: bump.purge == PurgeMode::Soft,
        }),
        BumpEvent::Floor(it) => v1::bump_event::Kind::Floor(floor(it)),
    };
    v1::BumpEvent { kind: Some(kind) }
}

fn read_bump_event(event: v1::BumpEvent) -> Checked<Arc<BumpEvent>> {
    Ok(Arc::new(
        match event.kind.ok_or_else(|| field("event", "no kind"))? {
            v1::bump_event::Kind::Floor(floor) => BumpEvent::Floor(read_floor(&floor)?),
            v1::bump_event::Kind::Bump(bump) => {
                let limit = if bump.match_all {
                    CONJUNCTION_CLASSES_MAX
                } else {
                    BUMP_CLASSES_MAX
                };
                count("bump.classes", bump.classes.len(), limit)?;
                let classes: Vec<_> = bump
                    .classes
                    .iter()
                    .map(|value| class(value))
                    .collect::<Checked<_>>()?;
                let classes = sorted_classes(&classes);
                if classes.len() < if bump.match_all { 2 } else { 1 } {
                    return Err(field("bump.classes", "too few"));
                }
                BumpEvent::Bump(Bump {
                    classes,
                    matching: if bump.match_all {
                        Match::All
                    } else {
                        Match::Any
                    },
                    purge: if bump.soft {
                        PurgeMode::Soft
                    } else {
                        PurgeMode::Hard
                    },
                })
            }
        },
    ))
}

fn batch(stamp: &VersionVector, registrations: &[Registration]) -> v1::RegistrationBatch {
    let mut classes: Vec<&ClassPath> = registrations
        .iter()
        .flat_map(|item| &item.classes)
        .collect();
    classes.sort_unstable();
    classes.dedup();
    let position = |class: &ClassPath| {
        let at = classes
            .binary_search(&class)
            .expect("invariant: every class was gathered");
        u32::try_from(at).expect("invariant: a batch has at most 160,000 classes")
    };
    v1::RegistrationBatch {
        stamp: dots(stamp),
        registrations: registrations
            .iter()
            .map(|item| v1::PackedRegistration {
                address: item.address.as_str().to_owned(),
                classes: item.classes.iter().map(position).collect(),
                expires_unix_s: item.expires.0,
            })
            .collect(),
        classes: classes
            .iter()
            .map(|class| class.as_str().to_owned())
            .collect(),
    }
}

fn read_batch(batch: v1::RegistrationBatch) -> Checked<RegistrationBatch> {
    count(
        "batch.registrations",
        batch.registrations.len(),
        BATCH_REGISTRATIONS_MAX,
    )?;
    count(
        "batch.classes",
        batch.classes.len(),
        BATCH_REGISTRATIONS_MAX * ADDRESS_CLASSES_MAX,
    )?;
    let classes: Vec<_> = batch
        .classes
        .iter()
        .map(|value| class(value))
        .collect::<Checked<_>>()?;
    let registrations = batch
        .registrations
        .into_iter()
        .map(|item| {
            count(
                "registration.classes",
                item.classes.len(),
                ADDRESS_CLASSES_MAX,
            )?;
            let address = Address::parse(&item.address)
                .map_err(|error| field("registration.address", error.to_string()))?;
            let named: Vec<_> = item
                .classes
                .iter()
                .map(|at| {
                    classes
                        .get(*at as usize)
                        .cloned()
                        .ok_or_else(|| field("registration.classes", "no such class"))
                })
                .collect::<Checked<_>>()?;
            if named.is_empty() {
                return Err(field("registration.classes", "none"));
            }
            let expires = UnixSeconds(item.expires_unix_s);
            Ok(Registration {
                address,
                classes: sorted_classes(&named),
                expires,
            })
        })
        .collect::<Checked<_>>()?;
    Ok(RegistrationBatch {
        stamp: read_dots(&batch.stamp)?,
        registrations,
    })
}

fn class_version(class: &RecoveredClass) -> v1::ClassVersion {
    v1::ClassVersion {
        class: class.class.as_str().to_owned(),
        entries: dots(&class.entries),
        conjunctions: class
            .conjunctions
            .iter()
            .map(|(others, entries)| v1::Conjunction {
                others: others
                    .iter()
                    .map(|other| other.as_str().to_owned())
                    .collect(),
                entries: dots(entries),
            })
            .collect(),
    }
}

fn read_class_version(version: &v1::ClassVersion) -> Checked<RecoveredClass> {
    let conjunctions = version
        .conjunctions
        .iter()
        .map(|conjunction| {
            count(
                "conjunction.others",
                conjunction.others.len(),
                CONJUNCTION_CLASSES_MAX,
            )?;
            let others: Vec<_> = conjunction
                .others
                .iter()
                .map(|value| class(value))
                .collect::<Checked<_>>()?;
            Ok((sorted_classes(&others), read_dots(&conjunction.entries)?))
        })
        .collect::<Checked<_>>()?;
    Ok(RecoveredClass {
        class: class(&version.class)?,
        entries: read_dots(&version.entries)?,
        conjunctions,
    })
}

fn lane(lane: Lane) -> v1::Lane {
    match lane {
        Lane::Bump => v1::Lane::Bump,
        Lane::Directory => v1::Lane::Directory,
    }
}

fn read_lane(value: i32) -> Checked<Lane> {
    match v1::Lane::try_from(value) {
        Ok(v1::Lane::Bump) => Ok(Lane::Bump),
        Ok(v1::Lane::Directory) => Ok(Lane::Directory),
        _ => Err(field("lane", format!("{value} is not a lane"))),
    }
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
