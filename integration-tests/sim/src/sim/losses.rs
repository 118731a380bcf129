//! One disk at a time: which losses of disks G1 promises to survive.
//!
//! A disk that was wiped, or put back from an older copy, counts as lost until every sidecar is *whole* again: each of them
//! is up, all of them are fresh in one view that seats all of their runs, every event that was ever acknowledged is on
//! every disk, and what the lost disk held of write intents is on two disks again or has ended. Until then no other disk
//! may be lost, and that one may be lost again. The first loss may come at any moment: while another sidecar is down, or
//! has just lost its seat, whatever only that one's disk holds besides.
//!
//! What is put off, and why G1 says nothing of it:
//!
//! - a second disk, as told;
//! - the disk of the only seat of a roster: what is acknowledged there is on one disk, for there is no second one;
//! - a disk that, of those of nodes with a seat, alone holds an event that never was on those of two runs with a seat: no
//!   receipt called it acknowledged, or the only seat did. Those who heard of its number wait for `member_timeout` before
//!   they write it off, which is longer than a run here;
//! - the only disk that remembers having dropped events, as one that starts over does, which nobody with a seat has and no view
//!   has closed: without that memory nobody knows that they need not be waited for, which lasts as long;
//! - a copy from when its node had the only seat, put back since others have seats: whoever starts from that takes itself for
//!   the only member until it meets another, and no disk can tell it better (docs/decisions/0010).
//!
//! The loss of all disks together is another matter: nobody is left who remembers a head (docs/decisions/0008).

use grapevine_core::id::EventId;
use grapevine_core::machine::Core;
use grapevine_core::machine::effects::Freshness;
use grapevine_core::roster::View;

use super::Sim;
use crate::disk::Disk;

impl Sim<'_> {
    /// Why the loss of a disk, in whose place this one is found, is none that G1 promises to survive; `None` if it is one.
    pub(super) fn why_put_off(&mut self, at: usize, found: &Disk) -> Option<&'static str> {
        self.review_losses();
        if self.lost & !(1 << at) != 0 {
            Some("put_off_second_disk")
        } else if self.is_only_seat(at) {
            Some("put_off_only_seat")
        } else if found
            .view()
            .is_some_and(|view| view.is_lone(&self.nodes[at].name))
        {
            Some("put_off_lone_copy")
        } else if self.holds_alone(at) {
            Some("put_off_unshared")
        } else if self.remembers_alone(at) {
            Some("put_off_dropped")
        } else {
            None
        }
    }

    /// A disk is lost: what was on two disks may be on one now.
    pub(super) fn note_loss(&mut self, at: usize) {
        self.lost |= 1 << at;
        let intents: Vec<_> = self.nodes[at].disk.intents().collect();
        self.bereft.extend(intents);
    }

    /// Whether everything is on all disks again, so that any one of them may be lost.
    pub(super) fn review_losses(&mut self) {
        if self.lost != 0 && self.is_whole() {
            self.lost = 0;
            self.bereft.clear();
        }
    }

    fn is_whole(&self) -> bool {
        let mut marks = Vec::new();
        for at in 0..self.size {
            let Some(core) = &self.nodes[at].core else {
                return false;
            };
            let view = core.roster();
            // Those that are fresh have a seat; only all of them together leave nobody out.
            if core.freshness(self.time(at)) != Freshness::Fresh || view.seats.len() != self.size {
                return false;
            }
            marks.push(view.mark());
        }
        marks.dedup();
        marks.len() == 1 && self.checker.all_hold_acknowledged(self.size) && !self.is_bereft()
    }

    /// Whether the copy of a write intent that a lost disk held was the last but one, and no other was made.
    fn is_bereft(&self) -> bool {
        let nodes = &self.nodes[..self.size];
        self.bereft.iter().any(|intent| {
            let holders = nodes.iter().filter(|node| node.disk.holds_intent(*intent));
            holders.count() == 1
        })
    }

    /// The latest view of any, if there is one.
    fn latest_view(&self) -> Option<&View> {
        let cores = self.nodes.iter().filter_map(|node| node.core.as_ref());
        let views = cores.map(Core::roster).filter(|view| view.number > 0);
        views.max_by_key(|view| view.number)
    }

    /// The number of the latest view of any.
    pub(super) fn latest_number(&self) -> u64 {
        self.latest_view().map_or(0, |view| view.number)
    }

    /// Whether a disk is that of the only seat in the latest view of any.
    fn is_only_seat(&self, at: usize) -> bool {
        let name = &self.nodes[at].name;
        self.latest_view().is_some_and(|view| view.is_lone(name))
    }

    /// Whether a disk alone holds an event that was never shared by two runs with a seat: alone among the disks of nodes with
    /// a seat, or, for what nobody asked for, as a floor, among all.
    pub(super) fn holds_alone(&self, at: usize) -> bool {
        let others = self.others(at);
        let seated = self.others_with_seat(at);
        let holds = |at: usize, event| self.checker.holds(&self.nodes[at].disk, event);
        let lacks = |disks: &[usize], event| !disks.iter().any(|at| holds(*at, event));
        let alone = |event| match self.checker.known(event) {
            Some(known) => !known.was_shared() && lacks(&seated, event),
            None => lacks(&others, event),
        };
        self.nodes[at].disk.held().into_iter().any(alone)
    }

    /// Whether a disk alone remembers having dropped an event that nobody with a seat has, and that no view has closed.
    fn remembers_alone(&self, at: usize) -> bool {
        let seated = self.others_with_seat(at);
        let disks = || seated.iter().map(|other| &self.nodes[*other].disk);
        let closed = |event: &EventId| {
            let end = self
                .latest_view()
                .map(|view| view.closed.get(&event.origin));
            end.flatten().is_some_and(|end| event.sequence <= *end)
        };
        let alone = |event: EventId| {
            !closed(&event) && !disks().any(|disk| disk.holds(event) || disk.has_dropped(event))
        };
        self.nodes[at].disk.dropped().any(alone)
    }

    /// Whether the loss of a disk leaves something acknowledged with nobody who has a seat: what sparing must survive.
    pub(super) fn is_last_with_seat(&self, at: usize) -> bool {
        let seated = self.others_with_seat(at);
        let holds = |at: usize, event| self.checker.holds(&self.nodes[at].disk, event);
        let mut shared = self
            .checker
            .events()
            .filter(|(_, known)| known.was_shared());
        shared
            .any(|(event, _)| holds(at, event) && !seated.iter().any(|other| holds(*other, event)))
    }

    fn others(&self, at: usize) -> Vec<usize> {
        (0..self.size).filter(|other| *other != at).collect()
    }

    fn others_with_seat(&self, at: usize) -> Vec<usize> {
        let view = self.latest_view();
        let has_seat = |other: &usize| {
            let name = &self.nodes[*other].name;
            view.is_none_or(|view| view.seats.contains_key(name))
        };
        self.others(at).into_iter().filter(has_seat).collect()
    }
}
