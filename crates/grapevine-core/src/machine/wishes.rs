//! What a sidecar wants of the roster, and when it asks for it.
//!
//! The lowest linked seat proposes at once, each further one a little later, with growing pauses: two that outbid each
//! other decide nothing. Nobody asks for anything while too few could answer.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Core;
use super::effects::{Action, Effects, Forget, Refusal, Reply, Ticket};
use super::members::{Member, Tally};
use crate::id::{Incarnation, Time};
use crate::names::NodeId;
use crate::roster::{Draft, Mark, Memory, SEATS_MAX, View};

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
    /// This view; the next one as it should be then if it is yet to be drafted.
    View(Option<Draft>),
}

impl Core {
    /// Does what is due: recovers, proposes, or waits for its turn.
    pub(super) fn review_roster(&mut self, now: Time, effects: &mut Effects) {
        let (own, view) = (&self.config.node_id, self.views.roster.view());
        self.members.count_seats(own, view);
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
        let recovers = wish == Wish::Recovery;
        let outcome = match wish {
            Wish::Recovery => self.views.roster.recover(),
            Wish::View(draft) => {
                let draft = draft.unwrap_or_else(|| self.next_draft(now));
                self.views.roster.propose(draft)
            }
        };
        self.roster_outcome(outcome, now, effects);
        if recovers && self.views.roster.memory() == Memory::Sure {
            // Alone there was nobody to ask, and no answer will have this looked at again.
            self.review_roster(now, effects);
        }
    }

    /// Whether a view is being decided that makes this run sure. Who accepts it has to say so with each promise, and all who start
    /// would be promised it by all others, whole.
    fn is_seated_soon(&self, now: Time) -> bool {
        let coming = self.views.coming;
        coming.is_some_and(|at| now < at.plus(UNDECIDED))
    }

    /// When a wish may come up by itself.
    fn roster_patience(&self, now: Time) -> Option<Time> {
        let timeout = self.config.member_timeout;
        let view = self.views.view();
        let unmet = view.number == 0 || self.seats().met < self.others_with_seats();
        let unmet = unmet.then(|| self.started.plus(timeout));
        let undecided = self.views.accepted.map(|at| at.plus(UNDECIDED));
        let coming = self.views.coming.map(|at| at.plus(UNDECIDED));
        let times = [unmet, undecided, coming].into_iter().flatten();
        times.filter(|at| *at > now).min()
    }

    /// How many linked seats come before this one.
    pub(super) fn turn(&self) -> u32 {
        let view = self.views.view();
        if self.views.leaving.is_empty() {
            return u32::try_from(self.seats().before).unwrap_or(u32::MAX);
        }
        let comes_before = |member: &&Member| {
            let leaves = self.views.leaving.contains(&member.hello.incarnation);
            member.linked() && !leaves && member.hello.node_id < self.config.node_id
        };
        let before = if view.number == 0 {
            self.members.iter().filter(comes_before).count()
        } else {
            let seats = self.members.of_seats(view);
            let members = seats.filter_map(|(.., member)| member);
            members.filter(comes_before).count()
        };
        u32::try_from(before).unwrap_or(u32::MAX)
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
            if self.waits_for_expected().is_some() || self.is_seated_soon(now) {
                return None;
            }
            return (linked >= view.recovery()).then_some(Wish::Recovery);
        }
        if linked + 1 < view.majority() {
            return None;
        }
        let at_a_glance = self.changes_seats(view);
        debug_assert!(
            at_a_glance.is_none_or(|changes| changes == self.changed_draft(now).is_some()),
            "invariant: a glance tells what a draft does"
        );
        match at_a_glance {
            Some(true) => Some(Wish::View(None)),
            Some(false) => None,
            None => {
                let draft = self.changed_draft(now);
                draft.map(|draft| Wish::View(Some(draft)))
            }
        }
    }

    /// Whether the next view would differ, where that can be told without drafting it: among many most members either find nothing to
    /// change, or wait for their turn to have newcomers seated.
    fn changes_seats(&self, view: &View) -> Option<bool> {
        let special = self.draining
            || !self.views.leaving.is_empty()
            || !self.views.forgotten.is_empty()
            || view.retired.latest() > 0;
        if special {
            return None;
        }
        let own = &self.config.node_id;
        if !view.seats_run(own, self.config.incarnation) {
            return Some(true);
        }
        let seats = self.seats();
        if seats.anew > 0 {
            return Some(true);
        }
        let calm = seats.met == self.others_with_seats()
            && seats.met == self.members.len()
            && self.views.accepted.is_none()
            && !self.members.has_suspects()
            && !self.retirements.has_lot()
            && self.missing_bumps().next().is_none();
        calm.then_some(false)
    }

    /// The next view as it should be.
    fn next_draft(&self, now: Time) -> Draft {
        Draft {
            closed: self.losses(now),
            retired: self.lot(now),
            ..self.draft(self.views.view(), now)
        }
    }

    /// The same, if it is another one than the present view.
    fn changed_draft(&self, now: Time) -> Option<Draft> {
        let view = self.views.view();
        let draft = self.next_draft(now);
        let undecided = self
            .views
            .accepted
            .is_some_and(|at| now >= at.plus(UNDECIDED));
        let changed = draft.seats != view.seats || draft.bump || undecided;
        let changed = changed || !draft.closed.is_empty() || !draft.retired.runs.is_empty();
        (changed && !draft.seats.is_empty()).then_some(draft)
    }

    /// How the others' seats stand.
    pub(super) fn seats(&self) -> Tally {
        self.members.tally(&self.config.node_id, self.views.view())
    }

    /// How many seats others have.
    fn others_with_seats(&self) -> usize {
        let seats = &self.views.view().seats;
        seats.len() - usize::from(seats.contains_key(&self.config.node_id))
    }

    /// How many others with a seat can be asked.
    pub(super) fn linked_seats(&self) -> usize {
        self.seats().linked
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
                    let outcome = self.views.roster.secede(self.fresh_history());
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

    /// The name of a history that this run begins now.
    fn fresh_history(&self) -> Incarnation {
        let Mark { history, number } = self.views.view().mark();
        let names = (0..).map(|nth| {
            let run = self.config.incarnation;
            run.begins_after(history, number, nth)
        });
        let mut fresh = names.filter(|name| !self.progress.knows(*name));
        fresh.next().expect("invariant: finitely many are known")
    }

    /// Whether a member may be forgotten, and whether this sidecar goes on alone then. One of two does: nobody else
    /// could agree.
    fn may_forget(&self, forget: &Forget) -> Result<bool, Refusal> {
        let view = self.views.view();
        let node_id = forget.node_id.clone();
        if self.draining {
            return Err(Refusal::Draining);
        }
        if node_id == self.config.node_id {
            return Err(Refusal::ForgetOneself { node_id });
        }
        let waits = self.waits_for_expected();
        if waits.is_none() && !view.seats.contains_key(&node_id) {
            let view = view.number;
            return Err(Refusal::NoSeat { node_id, view });
        }
        if self.is_linked(&node_id) {
            return Err(Refusal::Connected { node_id });
        }
        if let Some(seen) = waits {
            let expected = self.config.expected_members;
            return forget.alone.then_some(true).ok_or(Refusal::NoMajority {
                node_id,
                seen,
                seats: expected,
                needed: expected,
            });
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
        let leaves = |member: &&Member| self.views.leaving.contains(&member.hello.incarnation);
        let arrived = |member: &&Member| member.linked() && member.mark == blank;
        let met = || self.members.iter().filter(arrived).filter(|it| !leaves(it));
        let number = 1 + if self.views.leaving.is_empty() {
            self.seats().arrived
        } else {
            met().count()
        };
        let expected = self.config.expected_members;
        let patient = now.since(self.started) < self.config.member_timeout;
        let enough = number >= expected || (!patient && number > expected / 2);
        if !enough || self.draining {
            return None;
        }
        let mut seats: BTreeMap<_, _> = met().map(Member::seat).collect();
        seats.insert(self.config.node_id.clone(), self.config.incarnation);
        let draft = Draft {
            seats,
            ..Draft::default()
        };
        Some(Wish::View(Some(draft)))
    }

    /// The next view as it should be, but for logs to close.
    fn draft(&self, view: &View, now: Time) -> Draft {
        let own = &self.config.node_id;
        let (mut seats, gone) = self.others_seats(view, now);
        if !self.draining {
            // One that leaves and is alone just ends: its seat waits for its next run.
            seats.insert(own.clone(), self.config.incarnation);
        }
        if !gone && let Some(crashed) = self.crashed(view, now) {
            let mut without = seats.clone();
            without.remove(crashed);
            if self.can_spare(view, &without) {
                return Draft {
                    seats: without,
                    spared: true,
                    ..Draft::default()
                };
            }
        }
        let spare = gone && self.can_spare(view, &seats);
        let confirmed = self.is_confirmed(view);
        let leaves = view
            .seats
            .values()
            .filter(|run| self.views.leaving.contains(run))
            .count()
            + usize::from(self.draining);
        let missing = missing(view, &seats);
        // Who leaves has told what it knows of. What it had acknowledged may be on one disk now all the same.
        let bump = gone && !spare || !confirmed && missing > leaves;
        // Alone, there is no second disk that it could be on.
        let others = seats.len() > 1;
        Draft {
            seats,
            bump,
            spared: others && (spare || leaves > 0 || !confirmed),
            ..Draft::default()
        }
    }

    /// The others' seats as they should be, and whether somebody loses one whose last word nobody knows.
    fn others_seats(&self, view: &View, now: Time) -> (BTreeMap<NodeId, Incarnation>, bool) {
        let own = &self.config.node_id;
        // One that is retired by that view ends as soon as it is told.
        let is_new = |member: &Member| {
            let retired = view.retired.head(member.hello.incarnation).is_some();
            member.linked() && member.mark == Some(view.mark()) && !retired
        };
        let mut seats = BTreeMap::new();
        let mut gone = false;
        for (node, seat) in view.seats.iter().filter(|(node, _)| *node != own) {
            if self.views.leaving.contains(seat) {
                continue;
            }
            let seat = match self.members.by_node(node) {
                _ if self.views.forgotten.contains(node) => None,
                Some(member) if member.departs(&self.config).is_some_and(|at| at <= now) => None,
                None if now.since(self.started) >= self.config.member_timeout => None,
                // A new run that has the present view on disk, so that it cannot forget that it was seated.
                Some(member) if is_new(member) => Some(member.seat().1),
                _ => Some(*seat),
            };
            gone |= seat.is_none();
            seats.extend(seat.map(|seat| (node.clone(), seat)));
        }
        let newcomers = self.members.iter().filter(|member| {
            is_new(member)
                && !view.seats.contains_key(&member.hello.node_id)
                && !self.views.leaving.contains(&member.hello.incarnation)
        });
        // Seats of members that were never met here count as well, so there may be room for a part only.
        let room = SEATS_MAX.saturating_sub(seats.len() + usize::from(!self.draining));
        seats.extend(newcomers.take(room).map(Member::seat));
        (seats, gone)
    }

    /// The only one of the members that is silent, if it has been so for `crash_timeout`.
    fn crashed<'a>(&self, view: &'a View, now: Time) -> Option<&'a NodeId> {
        let others = view.seats.keys();
        let others = others.filter(|node| **node != self.config.node_id);
        let mut crashed = others.clone().filter(|node| {
            let member = self.members.by_node(node);
            let at = member.and_then(|member| member.crashes(&self.config));
            at.is_some_and(|at| at <= now)
        });
        let found = crashed.next()?;
        let mut rest = others.filter(|node| *node != found);
        (crashed.next().is_none() && rest.all(|node| self.is_linked(node))).then_some(found)
    }

    /// Whether the seats that are left have all that was ever acknowledged, so that nothing has to be bumped. They do if one
    /// seat is missing: what was acknowledged in this view is on two disks of its members. What was acknowledged in
    /// earlier ones, perhaps by that seat and one that is gone since, is here if this sidecar called itself fresh in this
    /// view.
    fn can_spare(&self, view: &View, seats: &BTreeMap<NodeId, Incarnation>) -> bool {
        self.is_settled() && missing(view, seats) == 1 && self.is_confirmed(view)
    }

    /// Whether what a seat that was spared had acknowledged with one other member is on two disks of members again: two
    /// of them have called themselves fresh without it, and for that they took over what each of the members had.
    fn is_confirmed(&self, view: &View) -> bool {
        !view.spared || self.is_settled() && self.members.iter().any(|member| settled(member, view))
    }

    /// Whether every member has called itself fresh in this view, and who is linked without a seat knows it.
    pub(super) fn all_settled(&self) -> bool {
        let view = self.views.view();
        let mut others = view
            .seats
            .keys()
            .filter(|node| **node != self.config.node_id);
        let behind = |member: &Member| member.has_link() && member.mark != Some(view.mark());
        self.is_settled()
            && !self.members.iter().any(behind)
            && others.all(|node| {
                let member = self.members.by_node(node);
                member.is_some_and(|member| settled(member, view))
            })
    }
}

/// Whether the run that has a seat has called itself fresh in a view.
fn settled(member: &Member, view: &View) -> bool {
    let hello = &member.hello;
    member.settled == Some(view.mark()) && view.seats_run(&hello.node_id, hello.incarnation)
}

/// How many seats of a view are not, or not by the same runs, among others.
fn missing(view: &View, seats: &BTreeMap<NodeId, Incarnation>) -> usize {
    let seated = view.seats.iter();
    seated
        .filter(|(node, run)| seats.get(*node) != Some(run))
        .count()
}
