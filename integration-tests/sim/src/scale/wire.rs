//! What messages take on the wire: protocol buffers by their rules, and what carries them.
//!
//! Of each message of a stream: 5 bytes of gRPC, 9 of a frame of HTTP/2, 52 of TCP over IPv4 with time stamps. Segments that
//! only acknowledge are left out, and so is what is put together into one segment. A message of more than 1,448 bytes takes
//! several segments.

use std::collections::BTreeMap;

use grapevine_core::event::{BumpEvent, Event};
use grapevine_core::id::Incarnation;
use grapevine_core::machine::effects::PeerMessage;
use grapevine_core::names::NodeId;
use grapevine_core::progress::{Hole, OriginHead};
use grapevine_core::roster::{Mark, Say, View};

/// What goes around each message of a stream: gRPC and HTTP/2.
const FRAMES: u64 = 14;
/// What goes around each segment: TCP with time stamps, and IPv4.
const SEGMENT: u64 = 52;
/// The most that a segment carries, with frames of 1,500 bytes.
const SEGMENT_MAX: u64 = 1_448;
/// A new link: three segments of TCP, the prefaces and settings of HTTP/2, the request's heads, two introductions.
pub(super) const LINK: u64 = 1_100;

/// Which kind of message, for the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// New events, from their origin or passed on.
    Push,
    /// "I have flushed these of yours", told at once.
    Ack,
    /// The same, told again with a grant.
    AckAgain,
    /// Questions for grants.
    Probe,
    /// Their answers.
    Grant,
    /// Gaps: what is asked for, and what is sent in answer.
    Repair,
    /// What members say to agree on a view.
    Roster,
    /// A new link.
    Link,
    /// All else.
    Other,
}

impl Kind {
    pub(super) const ALL: [Self; 9] = [
        Self::Push,
        Self::Ack,
        Self::AckAgain,
        Self::Probe,
        Self::Grant,
        Self::Repair,
        Self::Roster,
        Self::Link,
        Self::Other,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Ack => "ack",
            Self::AckAgain => "ack_again",
            Self::Probe => "probe",
            Self::Grant => "grant",
            Self::Repair => "repair",
            Self::Roster => "roster",
            Self::Link => "link",
            Self::Other => "other",
        }
    }

    pub(super) fn of(message: &PeerMessage) -> Self {
        match message {
            PeerMessage::Bumps { .. }
            | PeerMessage::Directory { .. }
            | PeerMessage::Relayed { .. } => Self::Push,
            PeerMessage::Ack { .. } => Self::Ack,
            PeerMessage::Probe { .. } => Self::Probe,
            PeerMessage::Grant { .. } => Self::Grant,
            PeerMessage::Pull { .. } | PeerMessage::Compacted { .. } => Self::Repair,
            PeerMessage::Roster { .. } => Self::Roster,
            _ => Self::Other,
        }
    }
}

/// A number in base 128.
fn number(value: u64) -> u64 {
    u64::from(64 - (value | 1).leading_zeros()).div_ceil(7)
}

/// A field that holds a number; none for zero.
fn field(value: u64) -> u64 {
    if value == 0 { 0 } else { 1 + number(value) }
}

/// A field of so many bytes.
fn nested(bytes: u64) -> u64 {
    1 + number(bytes) + bytes
}

/// A run's name.
const RUN: u64 = 18;
/// A digest of heads.
const DIGEST: u64 = 18;

fn head(head: &OriginHead) -> u64 {
    nested(RUN + field(head.bump) + field(head.directory))
}

fn hole(hole: &Hole) -> u64 {
    nested(RUN + field(hole.first) + field(hole.last))
}

fn mark(mark: &Mark) -> u64 {
    nested(mark.history.map_or(0, |_| RUN) + field(mark.number))
}

fn view(view: &View) -> u64 {
    let dots = (view.closed.len() as u64 + view.retired.iter().count() as u64) * nested(RUN + 4);
    mark(&view.mark()) + field(view.everything) + seats(&view.seats) + dots
}

fn seats(seats: &BTreeMap<NodeId, Incarnation>) -> u64 {
    let seats = seats.keys();
    let seats = seats.map(|node| nested(nested(node.as_str().len() as u64) + RUN));
    seats.sum()
}

fn say(say: &Say) -> u64 {
    let ballot = nested(RUN + 2);
    match say {
        Say::Prepare { .. } | Say::Accepted { .. } | Say::Refuse { .. } => 4 + ballot,
        Say::Promise {
            accepted,
            above,
            recovering,
            ..
        } => {
            6 + ballot
                + above.map_or(0, |_| ballot)
                + RUN
                + seats(recovering)
                + accepted
                    .as_ref()
                    .map_or(0, |(_, it)| ballot + nested(view(it)))
        }
        Say::Accept { next, .. } => ballot + nested(view(next)),
        Say::Decided(it) => view(it),
    }
}

fn event(event: &BumpEvent) -> u64 {
    match event {
        BumpEvent::Bump(bump) => {
            let classes = bump.classes.iter();
            let classes = classes.map(|class| nested(class.as_str().len() as u64));
            nested(nested(classes.sum()))
        }
        // The model writes nothing else.
        _ => nested(nested(64)),
    }
}

/// What a message takes, with all that carries it.
pub(super) fn bytes(message: &PeerMessage) -> u64 {
    on_the_wire(body(message))
}

/// The bytes of a message's own fields.
fn body(message: &PeerMessage) -> u64 {
    match message {
        PeerMessage::Bumps { first, events, .. } => {
            RUN + field(*first) + events.iter().map(|it| event(it)).sum::<u64>()
        }
        PeerMessage::Relayed {
            to,
            acknowledge,
            message,
        } => to.len() as u64 * RUN + field(u64::from(*acknowledge)) + nested(body(message)),
        PeerMessage::Ack {
            watermark, above, ..
        } => {
            let above_bytes: u64 = above.iter().map(|sequence| number(*sequence)).sum();
            field(*watermark)
                + if above.is_empty() {
                    0
                } else {
                    nested(above_bytes)
                }
        }
        PeerMessage::Probe {
            nonce,
            mark: it,
            since,
            applied,
        } => field(*nonce) + mark(it) + field(*since) + applied.map_or(0, |_| DIGEST),
        PeerMessage::Grant {
            nonce,
            duration,
            settled,
            heads,
            span,
            lacked,
        } => {
            field(*nonce)
                + field(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
                + field(u64::from(*settled))
                + field(span.since)
                + field(span.until)
                + field(u64::from(span.same))
                + heads.iter().map(head).sum::<u64>()
                + lacked.iter().map(hole).sum::<u64>()
        }
        PeerMessage::Pull { first, last, .. } => RUN + 2 + field(*first) + field(*last),
        PeerMessage::Roster { say: it, .. } => RUN + nested(say(it)),
        _ => 32,
    }
}

/// A body with the field around it, frames and segments.
fn on_the_wire(body: u64) -> u64 {
    let message = FRAMES + nested(body) + 1;
    message + SEGMENT * message.div_ceil(SEGMENT_MAX)
}

/// What an event of a log is: only bumps are written in the model.
pub(super) fn bump(event: Event) -> Option<std::sync::Arc<BumpEvent>> {
    match event {
        Event::Bump(event) => Some(event),
        Event::Directory(_) => None,
    }
}
