//! The peer service's messages: `cut` keeps them small, `say` and `hear` turn them into wire messages and back, `parts`
//! and `rows` have what they are made of, `size` how large they are, and `traces` what they carry of traces.

mod cut;
mod hear;
mod parts;
mod roster;
mod rows;
mod say;
mod size;
mod traces;

use grapevine_core::id::Incarnation;
use grapevine_core::machine::effects::PeerHello;
use grapevine_core::names::{ClassPath, NodeId};
use grapevine_proto::v1;
use thiserror::Error;

use super::incarnation as bytes;
use crate::config::{HOST_PORT_BYTES_MAX, HostPort};
pub(crate) use cut::{FRAME_BYTES_MAX, cut, event_bytes};
pub(crate) use hear::read_message;
pub(crate) use say::message;
pub(crate) use size::message_bytes;
pub(crate) use traces::{carried, carry, events};

/// The peer protocol that this version speaks.
pub(crate) const PROTOCOL: u32 = 3;

/// The largest message that a sidecar takes from a peer, on either side of a link, whatever `limits.message_bytes_max`
/// says: sidecars cut what they send to [`FRAME_BYTES_MAX`], and what cannot be cut (one event, the heads of every run)
/// is smaller than this.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// The most events in one message.
const EVENTS_MAX: usize = 1_000;
/// The most batches in one message.
const BATCHES_MAX: usize = 100;

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

/// Checks a count of what may not be missing.
fn some(name: &'static str, value: usize, limit: usize) -> Checked<()> {
    if value == 0 {
        return Err(field(name, "none"));
    }
    count(name, value, limit)
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
    let address = &message.peer_address;
    count("hello.peer_address", address.len(), HOST_PORT_BYTES_MAX)?;
    // It is dialled and told to others: what is none would fail there, again and again.
    address
        .parse::<HostPort>()
        .map_err(|error| field("hello.peer_address", format!("{address:?} {error}")))?;
    Ok(PeerHello {
        node_id: NodeId::parse(&message.node_id)
            .map_err(|error| field("hello.node_id", error.to_string()))?,
        incarnation: origin("hello.incarnation", &message.incarnation)?,
        peer_address: message.peer_address,
        policy_digest: message.policy_digest,
    })
}
