//! The seats of a view, and who of the members has them: counted, so that what follows from a message is not looked for among all.

use super::index::Moments;
use super::{Member, Members};
use crate::id::{Incarnation, Time};
use crate::machine::CoreConfig;
use crate::machine::derived::Derived;
use crate::names::NodeId;
use crate::roster::{Mark, View};

/// The others' seats of a view.
#[derive(Clone, Debug)]
pub(super) struct Seats {
    of: Mark,
    /// How many there are.
    number: usize,
    /// When the word of each run ends that has its seat: [`Time::ZERO`] for who does not vouch.
    ends: Moments,
    tally: Tally,
}

/// How many of the others' seats are as said here. While there is no view each member counts as if it had a seat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::machine) struct Tally {
    /// Their nodes are members.
    pub(in crate::machine) met: usize,
    /// These are the runs that have the seats.
    held: usize,
    /// They can be told something.
    pub(in crate::machine) linked: usize,
    /// Of the linked: their names come before that of this sidecar.
    pub(in crate::machine) before: usize,
    /// Of the linked: they are at a view of the same history.
    pub(in crate::machine) with_us: usize,
    /// Of the linked: they are at this view.
    pub(in crate::machine) arrived: usize,
    /// Of those at this view: they are other runs than those that have the seats.
    pub(in crate::machine) anew: usize,
}

impl Tally {
    fn change(&mut self, by: Self, change: impl Fn(usize, usize) -> usize) {
        for (count, by) in [
            (&mut self.met, by.met),
            (&mut self.held, by.held),
            (&mut self.linked, by.linked),
            (&mut self.before, by.before),
            (&mut self.with_us, by.with_us),
            (&mut self.arrived, by.arrived),
            (&mut self.anew, by.anew),
        ] {
            *count = change(*count, by);
        }
    }
}

/// A node's seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    /// Which run has it; none while there is no view.
    run: Option<Incarnation>,
    /// Whether the node's name comes before that of this sidecar.
    before: bool,
}

impl Seat {
    fn of(node: &NodeId, own: &NodeId, view: &View) -> Option<Self> {
        let run = view.seats.get(node).copied();
        (run.is_some() || view.number == 0).then_some(Self {
            run,
            before: node < own,
        })
    }
}

/// What is counted of a member that has a seat.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    seat: Seat,
    holds: bool,
    linked: bool,
    mark: Option<Mark>,
    /// When the word of the run that has the seat ends.
    ends: Option<Time>,
}

impl Counted {
    /// Its share of the tally of a view.
    fn tally(&self, of: Mark) -> Tally {
        let linked = |is: bool| usize::from(self.linked && is);
        let arrived = self.mark == Some(of);
        Tally {
            met: 1,
            held: usize::from(self.holds),
            linked: linked(true),
            before: linked(self.seat.before),
            with_us: linked(self.mark.is_some_and(|mark| mark.history == of.history)),
            arrived: linked(arrived),
            anew: linked(arrived && !self.holds),
        }
    }
}

impl Seats {
    fn new(view: &View, own: &NodeId) -> Self {
        let of_own = usize::from(view.seats.contains_key(own));
        Self {
            of: view.mark(),
            number: view.seats.len() - of_own,
            ends: Moments::default(),
            tally: Tally::default(),
        }
    }

    pub(super) fn replace(&mut self, before: Option<Counted>, after: Option<Counted>) {
        let ends = |counted: &Option<Counted>| counted.and_then(|it| it.ends);
        self.ends.replace(ends(&before), ends(&after));
        if let Some(before) = before {
            self.tally
                .change(before.tally(self.of), |count, by| count - by);
        }
        if let Some(after) = after {
            self.tally
                .change(after.tally(self.of), |count, by| count + by);
        }
    }
}

impl Member {
    pub(super) fn counted(&self) -> Option<Counted> {
        self.seat.map(|seat| self.counted_with(seat))
    }

    fn counted_with(&self, seat: Seat) -> Counted {
        let holds = seat.run == Some(self.hello.incarnation);
        let until = || self.asked.fresh_until().unwrap_or(Time::ZERO);
        Counted {
            seat,
            holds,
            linked: self.outbound,
            mark: self.mark,
            ends: holds.then(until),
        }
    }
}

impl Members {
    /// The seats of a view, each with the member that has it: both are in order.
    pub(in crate::machine) fn of_seats<'a>(
        &'a self,
        view: &'a View,
    ) -> impl Iterator<Item = (&'a NodeId, Incarnation, Option<&'a Member>)> {
        let mut members = self.iter().peekable();
        view.seats.iter().map(move |(node, run)| {
            while members
                .next_if(|member| member.hello.node_id < *node)
                .is_some()
            {}
            let member = members.peek().copied();
            let member = member.filter(|member| member.hello.node_id == *node);
            (node, *run, member)
        })
    }

    /// Has the seats of this view counted, if they are not.
    pub(in crate::machine) fn count_seats(&mut self, own: &NodeId, view: &View) {
        if self
            .seats
            .as_ref()
            .is_none_or(|seats| seats.of != view.mark())
        {
            let mut seats = Seats::new(view, own);
            for (node, member) in &mut self.by_node {
                member.seat = Derived(Seat::of(node, own, view));
                seats.replace(None, member.counted());
            }
            self.seats = Derived(Some(seats));
        }
    }

    /// How the others' seats of a view stand.
    pub(in crate::machine) fn tally(&self, own: &NodeId, view: &View) -> Tally {
        let known = self.seats.as_ref();
        let Some(known) = known.filter(|seats| seats.of == view.mark()) else {
            return self.tally_linear(own, view);
        };
        debug_assert_eq!(
            known.tally,
            self.tally_linear(own, view),
            "invariant: seats are counted as by looking at all members"
        );
        known.tally
    }

    /// What [`Self::tally`] tells, by looking at all.
    pub(super) fn tally_linear(&self, own: &NodeId, view: &View) -> Tally {
        let mut seats = Seats::new(view, own);
        for (node, member) in &self.by_node {
            let seat = Seat::of(node, own, view);
            seats.replace(None, seat.map(|seat| member.counted_with(seat)));
        }
        seats.tally
    }

    /// Until when all others with a seat vouch.
    pub(super) fn seats_vouch_until(&mut self, config: &CoreConfig, view: &View) -> Time {
        self.count_seats(&config.node_id, view);
        let seats = self.seats.as_ref().expect("invariant: counted above");
        if seats.tally.held < seats.number {
            return Time::ZERO;
        }
        // Alone, nothing can change behind its back.
        let forever = Time::from_start(std::time::Duration::MAX);
        seats.ends.first().unwrap_or(forever)
    }

    /// What [`Self::seats_vouch_until`] tells, by looking at all.
    pub(super) fn seats_vouch_until_linear(&self, config: &CoreConfig, view: &View) -> Time {
        let others = view.seats.iter();
        let others = others.filter(|(node, _)| **node != config.node_id);
        let ends = others.map(|(node, run)| {
            let member = self.by_node(node);
            let member = member.filter(|member| member.seat_is(node, *run));
            let until = member.and_then(|member| member.asked.fresh_until());
            until.unwrap_or(Time::ZERO)
        });
        ends.min()
            .unwrap_or(Time::from_start(std::time::Duration::MAX))
    }
}
