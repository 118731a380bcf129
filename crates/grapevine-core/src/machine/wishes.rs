//! What a sidecar wants of the roster, and when it asks for it.
//!
//! The lowest linked seat proposes at once, each further one a little later, with growing pauses: two that outbid each
//! other decide nothing. Nobody asks for anything while too few could answer.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Core;
use super::effects::{Action, Effects, Forget, Refusal, Reply, Ticket};
use super::members::Member;
use crate::id::{Incarnation, Time};
use crate::names::NodeId;
use crate::roster::{Draft, Mark, Memory, View};

/// How long each seat leaves a proposal to those before it.
pub(super) const TURN: Duration = Duration::from_millis(300);
/// How long an attempt may take before it is made again; doubled each time, up to sixteenfold.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a view that was accepted may stay undecided before its acceptors care.
const UNDECIDED: Duration = Duration::from_secs(1);

/// What is wanted of the roster.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    /// To be sure of what this seat promised.
    Recovery,
    /// This view.
    View(Draft),
}

impl Core {
    /// Does what is due: recovers, proposes, or waits for its turn.
    pub(super) fn review_roster(&mut self, now: Time, effects: &mut Effects) {
        self.views.stuck = if self.is_stuck() {
            self.views.stuck.or(Some(now))
        } else {
            None
        };
        let Some(wish) = self.wish(now) else {
            self.views.wanted = None;
            self.views.attempts = 0;
            self.views.next = self.roster_patience(now);
            return;
        };
        let since = *self.views.wanted.get_or_insert(now);
        let turn = match wish {
            Wish::Recovery => Duration::ZERO,
            Wish::View(..) => TURN * self.turn(),
        };
        if self.views.attempts == 0 {
            self.views.next = Some(since.plus(turn));
        }
        if self.views.next.is_some_and(|at| at > now) {
            return;
        }
        let pause = PAUSE * (1 << self.views.attempts.min(4));
        self.views.attempts += 1;
        self.views.next = Some(now.plus(pause + turn));
        let outcome = match wish {
            Wish::Recovery => self.views.roster.recover(),
            Wish::View(draft) => self.views.roster.propose(draft),
        };
        self.roster_outcome(outcome, now, effects);
    }

    /// When a wish may come up by itself.
    fn roster_patience(&self, now: Time) -> Option<Time> {
        let timeout = self.config.member_timeout;
        let view = self.views.view();
        let first = (view.number == 0).then(|| self.started.plus(timeout));
        let unmet = view
            .seats
            .keys()
            .any(|node| *node != self.config.node_id && self.members.by_node(node).is_none())
            .then(|| self.started.plus(timeout));
        let undecided = self.views.accepted.map(|at| at.plus(UNDECIDED));
        let times = [first, unmet, undecided].into_iter().flatten();
        times.filter(|at| *at > now).min()
    }

    /// How many linked seats come before this one.
    pub(super) fn turn(&self) -> u32 {
        let view = self.views.view();
        let has_a_say = |node: &NodeId| view.number == 0 || view.seats.contains_key(node);
        let before = self.members.iter().filter(|member| {
            let node = &member.hello.node_id;
            let leaves = self.views.leaving.contains(&member.hello.incarnation);
            member.linked() && !leaves && *node < self.config.node_id && has_a_say(node)
        });
        u32::try_from(before.count()).unwrap_or(u32::MAX)
    }

    fn wish(&self, now: Time) -> Option<Wish> {
        let view = self.views.view();
        if view.number == 0 {
            return self.first_view(now);
        }
        let own = &self.config.node_id;
        if !view.seats.contains_key(own) {
            // Others give this run a seat.
            return None;
        }
        // Nobody is asked in vain: a link that is made has this looked at again.
        let linked = self.linked_seats();
        if self.views.roster.memory() != Memory::Sure {
            return (linked >= view.recovery()).then_some(Wish::Recovery);
        }
        if linked + 1 < view.majority() {
            return None;
        }
        let (seats, bump) = self.wanted_seats(view, now);
        let closed = self.losses(now);
        let undecided = self
            .views
            .accepted
            .is_some_and(|at| now >= at.plus(UNDECIDED));
        let changed = seats != view.seats || bump || !closed.is_empty() || undecided;
        let draft = Draft {
            seats,
            bump,
            closed,
        };
        (changed && !draft.seats.is_empty()).then_some(Wish::View(draft))
    }

    /// How many others with a seat can be asked.
    pub(super) fn linked_seats(&self) -> usize {
        let seats = self.views.view().seats.keys();
        seats.filter(|node| self.is_linked(node)).count()
    }

    pub(super) fn is_linked(&self, node: &NodeId) -> bool {
        self.members.by_node(node).is_some_and(Member::linked)
    }

    /// An operator says that a member is gone for good.
    pub(super) fn forget(
        &mut self,
        ticket: Ticket,
        forget: Forget,
        now: Time,
        effects: &mut Effects,
    ) {
        let reply = match self.may_forget(&forget) {
            Err(refusal) => Reply::Refused(refusal),
            Ok(alone) => {
                if alone {
                    let outcome = self.views.roster.secede();
                    self.roster_outcome(outcome, now, effects);
                } else {
                    self.views.forgotten.insert(forget.node_id);
                    self.review_roster(now, effects);
                }
                self.review_freshness(now);
                self.settle_receipts(now, effects);
                Reply::Forgotten { alone }
            }
        };
        effects.actions.push(Action::Reply(ticket, reply));
    }

    /// Whether a member may be forgotten, and whether this sidecar goes on alone then. One of two does: nobody else
    /// could agree.
    fn may_forget(&self, forget: &Forget) -> Result<bool, Refusal> {
        let view = self.views.view();
        let node_id = forget.node_id.clone();
        if self.draining {
            return Err(Refusal::Draining);
        }
        let other = node_id != self.config.node_id;
        if !other || !view.seats.contains_key(&node_id) {
            let view = view.number;
            return Err(Refusal::NoSeat { node_id, view });
        }
        if self.is_linked(&node_id) {
            return Err(Refusal::Connected { node_id });
        }
        let (seen, needed) = (self.linked_seats() + 1, view.majority());
        let sure = self.views.roster.memory() == Memory::Sure;
        if seen >= needed && sure {
            return Ok(false);
        }
        if forget.alone || view.seats.len() == 2 {
            return Ok(true);
        }
        Err(Refusal::NoMajority {
            node_id,
            seen,
            seats: view.seats.len(),
            needed,
        })
    }

    /// The first view seats all that are expected; after `member_timeout`, a majority of them that has met.
    fn first_view(&self, now: Time) -> Option<Wish> {
        let blank = Some(Mark::default());
        let met = self
            .members
            .iter()
            .filter(|member| member.linked() && member.mark == blank)
            .filter(|member| !self.views.leaving.contains(&member.hello.incarnation));
        let mut seats: BTreeMap<_, _> = met.map(Member::seat).collect();
        seats.insert(self.config.node_id.clone(), self.config.incarnation);
        let expected = self.config.expected_members;
        let patient = now.since(self.started) < self.config.member_timeout;
        let enough = seats.len() >= expected || (!patient && seats.len() > expected / 2);
        let draft = Draft {
            seats,
            ..Draft::default()
        };
        (enough && !self.draining).then_some(Wish::View(draft))
    }

    /// The seats as they should be, and whether somebody loses one whose last word nobody knows.
    fn wanted_seats(&self, view: &View, now: Time) -> (BTreeMap<NodeId, Incarnation>, bool) {
        let own = &self.config.node_id;
        let mut seats = BTreeMap::new();
        let mut bump = false;
        for (node, seat) in view.seats.iter().filter(|(node, _)| *node != own) {
            if self.views.leaving.contains(seat) {
                continue;
            }
            let seat = match self.members.by_node(node) {
                _ if self.views.forgotten.contains(node) => None,
                Some(member) if member.departs(&self.config).is_some_and(|at| at <= now) => None,
                None if now.since(self.started) >= self.config.member_timeout => None,
                // A new run that has the present view on disk, so that it cannot forget that it was seated.
                Some(member) if member.linked() && member.mark == Some(view.mark()) => {
                    Some(member.seat().1)
                }
                _ => Some(*seat),
            };
            bump |= seat.is_none();
            seats.extend(seat.map(|seat| (node.clone(), seat)));
        }
        let newcomers = self.members.iter().filter(|member| {
            member.linked()
                && member.mark == Some(view.mark())
                && !view.seats.contains_key(&member.hello.node_id)
                && !self.views.leaving.contains(&member.hello.incarnation)
        });
        seats.extend(newcomers.map(Member::seat));
        if self.draining {
            // Alone it just ends: its seat waits for its next run.
            return (seats, bump);
        }
        // Nobody could tell a member without others that its disk is an older copy.
        bump |= view.is_lone(own) && !self.seated();
        seats.insert(own.clone(), self.config.incarnation);
        (seats, bump)
    }
}
