//! How many bytes a message takes, at most, on the wire; in memory it is about as much. Queues to peers are bounded by it.

use std::collections::BTreeMap;

use grapevine_core::event::BumpEvent;
use grapevine_core::id::Incarnation;
use grapevine_core::index::{ID_BYTES_MAX, SORT_BYTES_MAX};
use grapevine_core::machine::effects::PeerMessage;
use grapevine_core::names::NodeId;
use grapevine_core::roster::{Say, View};

use super::cut::{
    DOT_BYTES, HEAD_BYTES, NESTED_BYTES, batch_bytes, bump_bytes, class_bytes, floor_bytes,
    registration_bytes, shape_bytes, text_bytes,
};

/// The heads of one run: its name and two numbers.
const ORIGIN_BYTES: usize = 42;
/// A run's name.
const RUN_BYTES: usize = 18;
/// Three ballots and a run's name, or anything else of a roster's message but its views and seats.
const SAY_BYTES: usize = 128;

/// The most bytes that a message takes.
pub(crate) fn message_bytes(message: &PeerMessage) -> usize {
    let parts = match message {
        PeerMessage::Bumps { events, .. } => events.iter().map(|event| bump_bytes(event)).sum(),
        PeerMessage::Directory { batches, .. } => batches.iter().map(batch_bytes).sum(),
        PeerMessage::Relayed { to, message, .. } => to.len() * RUN_BYTES + message_bytes(message),
        PeerMessage::Ack { above, flushed, .. } => {
            let flushed = flushed.as_ref().map_or(0, |(_, above)| above.len());
            (above.len() + flushed) * 10
        }
        // A hole takes what the heads of a run take.
        PeerMessage::Grant { heads, lacked, .. } => (heads.len() + lacked.len()) * ORIGIN_BYTES,
        PeerMessage::SnapshotBegin { cut, .. } => cut.len() * ORIGIN_BYTES,
        PeerMessage::Roster { say, .. } => SAY_BYTES + say_bytes(say),
        PeerMessage::SnapshotVersions {
            classes,
            floors,
            shapes,
            ..
        } => {
            let classes = classes.iter().map(class_bytes);
            let shapes = shapes.iter().map(shape_bytes);
            let floors = floors.iter().map(floor_bytes);
            classes.chain(shapes).chain(floors).sum()
        }
        PeerMessage::SnapshotDirectory { registrations, .. } => {
            registrations.iter().map(registration_bytes).sum()
        }
        PeerMessage::Intent(intent) | PeerMessage::RowsCome(intent) => {
            bump_bytes(&BumpEvent::from(intent.owed.clone()))
        }
        PeerMessage::IntentHeld(intents) => intents.len() * DOT_BYTES,
        PeerMessage::Pruned { places, stamp, .. } => {
            places.len() * (ID_BYTES_MAX + SORT_BYTES_MAX) + stamp.len() * DOT_BYTES
        }
        PeerMessage::Probe { .. }
        | PeerMessage::Fill { .. }
        | PeerMessage::Pull { .. }
        | PeerMessage::Compacted { .. }
        | PeerMessage::SnapshotRequest { .. }
        | PeerMessage::SnapshotEnd { .. }
        | PeerMessage::IntentSettled { .. }
        | PeerMessage::Leave { .. } => 0,
    };
    HEAD_BYTES + parts
}

fn say_bytes(say: &Say) -> usize {
    match say {
        Say::Decided(view) | Say::Accept { next: view, .. } => view_bytes(view),
        Say::Promise {
            accepted,
            recovering,
            ..
        } => {
            let accepted = accepted.as_ref().map_or(0, |(_, view)| view_bytes(view));
            accepted + seats_bytes(recovering)
        }
        _ => 0,
    }
}

fn view_bytes(view: &View) -> usize {
    seats_bytes(&view.seats) + view.closed.len() * DOT_BYTES
}

fn seats_bytes(seats: &BTreeMap<NodeId, Incarnation>) -> usize {
    let seats = seats.keys();
    let seats = seats.map(|node| NESTED_BYTES + text_bytes(node.as_str()) + DOT_BYTES);
    seats.sum()
}
