//! Serving pulls and snapshots from the disk.
//!
//! A snapshot is read in small parts with time between them, so that much can happen in between; its cut is announced
//! before the first part is read. The arm that does it the other way round holds the parts back until it has read the cut.

use grapevine_core::event::Event as Logged;
use grapevine_core::id::{Incarnation, Lane};
use grapevine_core::machine::effects::PeerMessage;
use grapevine_core::progress::OriginHead;
use rand::Rng as _;

use super::Sim;
use crate::arms::Arm;
use crate::clock::MILLISECOND;
use crate::disk::Disk;
use crate::events::Event;
use crate::network::LinkId;
use crate::node::{Part, Sending};

/// Classes in one part of a snapshot.
const CLASSES: usize = 2;

impl Sim<'_> {
    /// Reads a part of the log and sends it, or says that it is compacted.
    pub(super) fn serve_log(
        &mut self,
        at: usize,
        to: Incarnation,
        (origin, lane): (Incarnation, Lane),
        (first, last): (u64, u64),
    ) {
        let Some(&link) = self.nodes[at].outs.get(&to) else {
            return;
        };
        let disk = &self.nodes[at].disk;
        let mut events = Vec::new();
        let mut batches = Vec::new();
        for event in disk.log(origin, lane, first, last) {
            match event {
                Logged::Bump(event) => events.push(event),
                Logged::Directory(batch) => batches.push(batch),
            }
        }
        let message = match lane {
            _ if events.is_empty() && batches.is_empty() => {
                if disk.watermark(origin, lane) < first {
                    return;
                }
                PeerMessage::Compacted {
                    origin,
                    lane,
                    first,
                }
            }
            Lane::Bump => PeerMessage::Bumps {
                origin,
                first,
                events,
            },
            Lane::Directory => PeerMessage::Directory {
                origin,
                first,
                batches,
            },
        };
        self.say(at, link, message);
    }

    /// Begins to send a snapshot; one at a time on a link.
    pub(super) fn serve_snapshot(
        &mut self,
        at: usize,
        to: Incarnation,
        id: u64,
        cut: Vec<OriginHead>,
    ) {
        let Some(&link) = self.nodes[at].outs.get(&to) else {
            return;
        };
        if self.nodes[at]
            .sending
            .iter()
            .any(|sending| sending.link == link)
        {
            return;
        }
        self.nodes[at].sending.push(Sending {
            link,
            id,
            next: Part::Begin(cut),
            held_back: Vec::new(),
        });
        self.pump(at, link);
    }

    /// Reads and sends the next part of a snapshot.
    pub(super) fn pump(&mut self, at: usize, link: LinkId) {
        let late_cut = self.is(Arm::VectorAfterChunks);
        let node = &mut self.nodes[at];
        let Some(position) = node.sending.iter().position(|sending| sending.link == link) else {
            return;
        };
        let sending = &mut node.sending[position];
        let next = std::mem::replace(&mut sending.next, Part::End);
        let (message, next) = read_part(&node.disk, sending.id, next);
        let over = next.is_none();
        if let Some(next) = next {
            sending.next = next;
        }
        let mut messages: Vec<_> = message.into_iter().collect();
        if late_cut {
            sending.held_back.append(&mut messages);
            if over {
                messages = std::mem::take(&mut sending.held_back);
                cut_now(&node.disk, &mut messages);
            }
        }
        let run = node.run;
        if over {
            node.sending.remove(position);
        } else {
            let time = node.rng.random_range(200..8 * MILLISECOND);
            self.after(
                time,
                Event::Pump {
                    node: at,
                    run,
                    link,
                },
            );
        }
        for message in messages {
            self.say(at, link, message);
        }
    }
}

/// What the disk holds of a part, and which part is next.
fn read_part(disk: &Disk, id: u64, part: Part) -> (Option<PeerMessage>, Option<Part>) {
    match part {
        Part::Begin(cut) => {
            let message = PeerMessage::SnapshotBegin { id, cut };
            (Some(message), Some(Part::Classes(None)))
        }
        Part::Classes(after) => {
            let classes = disk.classes_after(after.as_ref(), CLASSES);
            let Some(last) = classes.last().map(|class| class.class.clone()) else {
                return (None, Some(Part::Floors));
            };
            let shapes = match after {
                None => disk.shapes(),
                Some(_) => Vec::new(),
            };
            let message = PeerMessage::SnapshotVersions {
                id,
                classes,
                floors: Vec::new(),
                shapes,
            };
            (Some(message), Some(Part::Classes(Some(last))))
        }
        Part::Floors => {
            let message = PeerMessage::SnapshotVersions {
                id,
                classes: Vec::new(),
                floors: disk.floors(),
                shapes: Vec::new(),
            };
            (Some(message), Some(Part::Directory))
        }
        Part::Directory => {
            let registrations = disk.registrations();
            let message = PeerMessage::SnapshotDirectory { id, registrations };
            (Some(message), Some(Part::End))
        }
        Part::End => (Some(PeerMessage::SnapshotEnd { id }), None),
    }
}

/// Puts the watermarks of this very moment into the cut of a snapshot that was read before.
fn cut_now(disk: &Disk, messages: &mut [PeerMessage]) {
    let mut late: Vec<OriginHead> = Vec::new();
    for (incarnation, lane, watermark) in disk.watermarks() {
        if late
            .last()
            .is_none_or(|head| head.incarnation != incarnation)
        {
            late.push(OriginHead {
                incarnation,
                bump: 0,
                directory: 0,
            });
        }
        if let Some(head) = late.last_mut() {
            match lane {
                Lane::Bump => head.bump = watermark,
                Lane::Directory => head.directory = watermark,
            }
        }
    }
    for message in messages {
        if let PeerMessage::SnapshotBegin { cut, .. } = message {
            cut.clone_from(&late);
        }
    }
}
