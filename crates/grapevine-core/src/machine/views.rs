//! The roster at work: who is a member, and what this sidecar does to have it changed.
//!
//! [`crate::roster`] decides views; here stands what follows from it, and in `wishes` when another one is wanted. Every
//! probe names the view that its sender has on disk: whoever is behind is told, and a run that knows the present view
//! and has no seat is given one. A run that says it leaves loses its seat without further ado. The only one that is silent
//! loses it after `crash_timeout`, and nothing is bumped if what it had acknowledged is with those who stay
//! (docs/decisions/0015). Otherwise one that was silent for `member_timeout` loses its seat together with a bump of
//! everything, for nobody can tell what it and others that are gone have acknowledged among themselves.

mod histories;
mod standing;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub(super) use histories::everything;

use super::Core;
use super::derived::Derived;
use super::effects::{CommitId, Effects, PeerMessage};
use super::flushed::Pending;
use super::freshness::stretched;
use super::members::Member;
use super::wishes::TURN;
use crate::id::{Incarnation, Time};
use crate::names::NodeId;
use crate::progress::OriginHead;
use crate::roster::{Mark, Memory, Outcome, Record, Roster, Say, View};
use crate::store::Write;

/// How long a member whose ballot was refused leaves the field to the other one.
const OUTBID: Duration = Duration::from_millis(50);
/// No wait grows beyond this.
const OUTBID_MAX: Duration = Duration::from_secs(20);
/// The most by which one that recovers waits for those with earlier names.
const RECOVERS_LATER_MAX: Duration = Duration::from_millis(500);
/// For how long after a view was taken over it is left to who decided it to tell those that are still at the one before it. Nobody is left
/// out by that: who has not heard of it asks again within a second.
const TELLS_LATER: Duration = Duration::from_millis(250);
/// How long a sidecar that leaves takes part in agreeing on that.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a sidecar does about the roster.
#[derive(Clone, Debug)]
pub(super) struct Views {
    pub(super) roster: Roster,
    /// The latest view whose record is flushed.
    durable: Mark,
    /// From when on this run, which has a seat, knows of every grant that lets others vouch: one `max_staleness` after it
    /// learned of its seat, or, alone, after it started.
    knows_from: Option<Time>,
    /// The number of the view that was adopted last, and when, if this run did that.
    adopted: u64,
    adopted_at: Option<Time>,
    /// When others began to decide a next view in which this run, which is not sure of what its seat promised, has the seat: that
    /// makes it sure.
    pub(super) coming: Option<Time>,
    /// Since when something is wanted of the roster, how often this sidecar tried, and when it may again.
    pub(super) wanted: Option<Time>,
    pub(super) attempts: u32,
    pub(super) next: Option<Time>,
    /// Whether this member is sure of what its seat promised.
    sure: bool,
    /// Whether an attempt of this member was under way.
    trying: bool,
    /// Since when the next view is accepted here and not decided.
    pub(super) accepted: Option<Time>,
    /// Since when too few of this sidecar's history are there.
    pub(super) stuck: Option<Time>,
    /// What was known to exist when the present view was taken over, until all of it is applied: who told of it may have
    /// lost his seat, so that no grant waits for it.
    pub(super) debts: Vec<OriginHead>,
    /// Whether this run had a seat in the last view.
    was_seated: bool,
    /// The last view in which this sidecar called itself fresh, and the last group of writes then: once that is flushed, its
    /// disk has whatever the view's members had acknowledged in earlier ones.
    pub(super) settled: Option<(Mark, CommitId)>,
    /// When this sidecar told the others that it leaves.
    pub(super) farewell: Option<Time>,
    /// Runs that said they leave.
    pub(super) leaving: BTreeSet<Incarnation>,
    /// Nodes that an operator said are gone for good.
    pub(super) forgotten: BTreeSet<NodeId>,
    /// The runs that have a seat.
    seated: Derived<BTreeSet<Incarnation>>,
    /// Histories that found no room, and up to which number everything was bumped for them. At most [`REFUSED_MAX`].
    refused: BTreeMap<Incarnation, u64>,
}

impl Views {
    pub(super) fn start(node: NodeId, run: Incarnation, record: Option<Record>) -> Self {
        let roster = Roster::start(node, run, record);
        let seated = roster.view().seats.values().copied().collect();
        Self {
            durable: roster.view().mark(),
            adopted: roster.view().number,
            adopted_at: None,
            coming: None,
            roster,
            knows_from: None,
            wanted: None,
            attempts: 0,
            next: None,
            sure: false,
            trying: false,
            accepted: None,
            stuck: None,
            debts: Vec::new(),
            was_seated: false,
            settled: None,
            farewell: None,
            leaving: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            seated: Derived(seated),
            refused: BTreeMap::new(),
        }
    }

    pub(super) fn view(&self) -> &View {
        self.roster.view()
    }

    /// What a probe tells.
    pub(super) fn durable(&self) -> Mark {
        self.durable
    }

    pub(super) fn next_wake(&self, now: Time) -> Option<Time> {
        let farewell = self.farewell.map(|at| at.plus(FAREWELL));
        let farewell = farewell.filter(|at| *at > now);
        self.next.into_iter().chain(farewell).min()
    }
}

impl Core {
    /// The members that were agreed on.
    pub fn roster(&self) -> &View {
        self.views.view()
    }

    /// Whether a sidecar that drains may end: the others were told, and have agreed to it or cannot in this time.
    pub fn may_end(&self, now: Time) -> bool {
        let Some(at) = self.views.farewell else {
            return false;
        };
        let alone = self.linked_seats() == 0;
        !self.seated() || alone || now.since(at) >= FAREWELL
    }

    /// Whether this run holds a seat.
    pub(super) fn seated(&self) -> bool {
        self.views.roster.seated()
    }

    /// Whether nobody can call himself fresh by grants of which this run does not know. Members of earlier views do not
    /// ask for its grants; theirs stopped when a majority accepted the view that seats it.
    pub(super) fn knows_grants(&self, now: Time) -> bool {
        self.seated() && self.views.knows_from.is_some_and(|at| now >= at)
    }

    /// Whether no later view can be one whose members vouch without an event of this sidecar: whatever majority of the
    /// present view decides it has this sidecar in it, or one that has the event on its disk. Who was cut off for long may
    /// have been removed meanwhile, and nobody has told it. That a member knows of the event, as its grants may tell, is
    /// not enough: its next run knows what the disk knows.
    pub(super) fn is_waited_for(&self, sequence: u64) -> bool {
        let view = self.views.view();
        let waits = |member: &&Member| {
            view.seats_run(&member.hello.node_id, member.hello.incarnation)
                && member.flushed.has(sequence)
        };
        let waiting = self.members.iter().filter(waits).count() + 1;
        self.seated()
            && self.views.roster.accepted_next().is_none()
            && view.seats.len().saturating_sub(waiting) < view.majority()
    }

    /// When [`Self::knows_grants`] may change by itself.
    pub(super) fn knows_grants_at(&self) -> Option<Time> {
        self.views.knows_from
    }

    /// Whether this sidecar called itself fresh in the present view, and what it had for that is on its disk: it is asked
    /// where that disk is to be the second one, and its next run knows only what is there.
    pub(super) fn is_settled(&self) -> bool {
        let flushed = |to: CommitId| self.pending.front().is_none_or(|(next, _)| *next > to);
        let mark = self.views.view().mark();
        self.views
            .settled
            .is_some_and(|(view, commit)| view == mark && flushed(commit))
    }

    /// Whether a run is to be told what of its events is flushed here. One that lost its seat is not: what it acknowledges
    /// with the help of a member must be known to whoever vouches in this view, and nobody waits for its word there.
    pub(super) fn may_acknowledge(&self, to: Incarnation) -> bool {
        self.views.view().number == 0 || self.has_seat(to)
    }

    /// Whether a run has a seat in the present view.
    pub(super) fn has_seat(&self, run: Incarnation) -> bool {
        let has = self.views.seated.contains(&run);
        debug_assert_eq!(
            has,
            self.views
                .view()
                .seats
                .values()
                .any(|seated| *seated == run),
            "invariant: runs with a seat are those of the view"
        );
        has
    }

    /// Whether a probe of this view by this run may be answered with a grant: both are members of the same view, and
    /// this sidecar has accepted no other one.
    pub(super) fn may_grant(&self, node: &NodeId, run: Incarnation, mark: Mark) -> bool {
        let view = self.views.view();
        mark == view.mark()
            && self.seated()
            && view.seats_run(node, run)
            && !self.views.leaving.contains(&run)
            && self.views.roster.accepted_next().is_none()
    }

    /// Takes note of the view that a member has; whoever is behind, or elsewhere, is told this one, and who has reached
    /// it is asked for a grant.
    pub(super) fn marked(
        &mut self,
        from: Incarnation,
        mark: Mark,
        now: Time,
        effects: &mut Effects,
    ) {
        let own = self.views.view().mark();
        let Some(member) = self.members.by_incarnation(from) else {
            return;
        };
        let node = member.hello.node_id.clone();
        // Who has just come was perhaps not there when the view was decided.
        let new = member.mark.is_none();
        let changed = member.mark != Some(mark);
        if changed {
            self.members
                .change(&node, |member| member.mark = Some(mark));
        }
        let arrived = changed && mark == own;
        if arrived && own.number > 0 {
            self.probe(&node, now, effects);
        }
        let behind = mark.history != own.history || mark.number < own.number;
        if own.number > 0 && behind && (new || !self.is_being_told(mark, now)) {
            let history = own.history;
            let say = Say::Decided(self.views.view().clone());
            effects.send(from, PeerMessage::Roster { history, say });
        }
    }

    /// Whether a member at this view is being told the present one by who decided that. Where each of many told the others that have not
    /// heard of it yet, whole, a view would be said many times over.
    fn is_being_told(&self, mark: Mark, now: Time) -> bool {
        let own = self.views.view().mark();
        let recent = |at: Time| now.since(at) < TELLS_LATER;
        let follows = mark.history == own.history || mark.number == 0;
        follows
            && mark.number.checked_add(1) == Some(own.number)
            && self.views.adopted_at.is_some_and(recent)
    }

    pub(super) fn roster_said(
        &mut self,
        from: Incarnation,
        history: Option<Incarnation>,
        say: Say,
        now: Time,
        effects: &mut Effects,
    ) {
        let Some(member) = self.members.by_incarnation(from) else {
            return;
        };
        let node = member.hello.node_id.clone();
        if let Say::Accept { next, .. } = &say
            && self.views.roster.memory() != Memory::Sure
            && next.number == self.views.view().number + 1
            && history == self.views.view().history
            && next.seats_run(&self.config.node_id, self.config.incarnation)
        {
            self.views.coming = self.views.coming.or(Some(now));
        }
        let number = say.number();
        if !matches!(say, Say::Decided(_)) && self.is_being_told(Mark { history, number }, now) {
            return;
        }
        let outcome = match say {
            Say::Decided(view) if self.defects_to(&view, now) => {
                // There it waits anew: going back and forth with every word from either side would have nobody else see how
                // long he has been stuck.
                self.views.stuck = None;
                self.views.roster.defect(view)
            }
            say => self.views.roster.heard(&node, history, say),
        };
        self.roster_outcome(outcome, now, effects);
    }

    /// Whether this member has waited long enough for a majority of its own history, and should follow another one. It is
    /// as if it had gone for good: its history goes on without it, or never. Two that wait for each other follow the one
    /// with the lower name.
    fn defects_to(&self, view: &View, now: Time) -> bool {
        let own = self.views.view();
        let patience = self.patience_for(view.history);
        let stuck = self.views.stuck;
        own.number > 0
            && view.history != own.history
            && stuck.is_some_and(|since| now.since(since) >= patience)
    }

    /// Keeps what is to be kept, and says the rest behind it.
    pub(super) fn roster_outcome(&mut self, outcome: Outcome, now: Time, effects: &mut Effects) {
        let mut writes = Vec::new();
        let sure = self.views.roster.memory() == Memory::Sure;
        let trying = self.views.roster.is_trying();
        if std::mem::replace(&mut self.views.sure, sure) != sure {
            // What was wanted was to be sure. The next wish has its own turns.
            (self.views.wanted, self.views.attempts) = (None, 0);
        } else if std::mem::replace(&mut self.views.trying, trying) && !trying {
            // Outbid, most likely by a member that recovers: it asks once or twice and is in nobody's way any more. Who recovers itself is
            // refused by members before 0.5 only. It leaves the field to others for a shorter while, for their recovering is in the way of
            // none that comes later.
            let recovers = !sure && self.views.view().number > 0;
            let turn = if recovers {
                (OUTBID * self.turn()).min(RECOVERS_LATER_MAX)
            } else {
                TURN * self.turn()
            };
            let wait = outbid_for(turn, self.views.attempts);
            self.views.next = Some(now.plus(wait));
        }
        if outcome.adopted {
            writes.extend(self.adopted(now, effects));
        }
        let mark = self.views.view().mark();
        let say: Vec<_> = outcome.say;
        if let Some(record) = outcome.keep {
            writes.push(Write::Roster(Box::new(record)));
            let history = mark.history;
            self.write(effects, writes, Pending::Roster { mark, history, say });
        } else if outcome.after_kept && !self.pending.is_empty() {
            let history = mark.history;
            self.write(effects, [], Pending::Roster { mark, history, say });
        } else {
            self.say(mark.history, say, now, effects);
        }
        self.views.accepted = match self.views.roster.accepted_next() {
            Some(_) => self.views.accepted.or(Some(now)),
            None => None,
        };
    }

    /// A record is flushed.
    pub(super) fn roster_flushed(
        &mut self,
        mark: Mark,
        (history, say): (Option<Incarnation>, Vec<(NodeId, Say)>),
        now: Time,
        effects: &mut Effects,
    ) {
        if self.views.durable != mark {
            self.views.durable = mark;
            let linked = self.members.iter().filter(|member| member.linked());
            let linked: Vec<_> = linked.map(|member| member.hello.node_id.clone()).collect();
            for node in linked {
                self.probe(&node, now, effects);
            }
        }
        self.say(history, say, now, effects);
        self.review_roster(now, effects);
    }

    fn say(
        &mut self,
        history: Option<Incarnation>,
        say: Vec<(NodeId, Say)>,
        now: Time,
        effects: &mut Effects,
    ) {
        for (to, say) in say {
            if to == self.config.node_id {
                let outcome = self.views.roster.heard(&to, history, say);
                self.roster_outcome(outcome, now, effects);
            } else if let Some(member) = self.members.by_node(&to) {
                let to = member.hello.incarnation;
                effects.send(to, PeerMessage::Roster { history, say });
            }
        }
    }

    /// What follows from a new view.
    fn adopted(&mut self, now: Time, effects: &mut Effects) -> Vec<Write> {
        let lease = stretched(self.table_lease(), self.config.clock_rate_ppm);
        let views = &mut self.views;
        (views.wanted, views.attempts) = (None, 0);
        let seats = &views.roster.view().seats;
        views.forgotten.retain(|node| seats.contains_key(node));
        views.seated = Derived(seats.values().copied().collect());
        // Also where a history begins: this run cannot tell a first start from that of disks that were wiped, so it allows
        // for grants of former lives of all who are seated, and these lives ended before the view was decided. That few
        // members are expected says nothing against it: the number may be older than the cluster. Alone, only its own
        // node's former lives granted anything that matters, and they ended when it started.
        let since = if views.view().is_lone(&self.config.node_id) {
            self.started
        } else {
            now
        };
        let longest = stretched(self.config.max_staleness, self.config.clock_rate_ppm);
        let from = since.plus(longest);
        let seated = views.roster.seated();
        let number = views.view().number;
        let last = std::mem::replace(&mut views.adopted, number);
        views.adopted_at = Some(now);
        views.coming = None;
        // Members of a view without this run were fresh without it, until the next view. What they leased to tables holds for longer.
        let follows = views.knows_from.is_some() && number == last + 1;
        let leased = if follows || last == 0 {
            Time::ZERO
        } else {
            now.plus(lease)
        };
        let known = views.knows_from.unwrap_or(from).max(leased);
        views.knows_from = seated.then_some(known);
        let view = views.view().clone();
        self.members.renew();
        let views = &self.views;
        let gone = |run: &Incarnation| !views.seated.contains(run);
        let left: Vec<_> = views.leaving.iter().copied().filter(gone).collect();
        for run in left {
            self.views.leaving.remove(&run);
            self.depart(run, effects);
        }
        let Some(history) = view.history else {
            return Vec::new();
        };
        self.write_off(&view);
        self.views.debts = self.progress.told_heads();
        let mut writes = self.retirements_adopted(now, effects);
        let restarted = seated && !std::mem::replace(&mut self.views.was_seated, seated);
        if restarted && view.number > 1 && view.is_lone(&self.config.node_id) {
            self.bump_all(effects);
        }
        writes.extend(self.everything_bumped(history, view.everything, effects));
        writes
    }
}

/// How long a member whose ballot was refused leaves the field to others, if it leaves them `turn` in any case: longer each time, up to
/// sixteenfold, for an answer may take longer than a turn, and then each outbids the one before it. Never much longer than [`OUTBID_MAX`],
/// unless its turn alone is.
fn outbid_for(turn: Duration, attempts: u32) -> Duration {
    let growing = 1 << attempts.saturating_sub(1).min(4);
    OUTBID * growing + (turn * growing).min(OUTBID_MAX.max(turn))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g7_who_is_outbid_waits_twice_as_long_each_time_and_never_without_end() {
        let third = TURN * 3;
        let waits: Vec<_> = (1..=7).map(|nth| outbid_for(third, nth)).collect();
        let first = OUTBID + third;
        let grown = [1, 2, 4, 8, 16, 16, 16];
        assert_eq!(waits, grown.map(|times| first * times));
        // Of the hundredth the turn is 30 s: it does not wait for less than that, and not sixteen times as long.
        let hundredth = TURN * 100;
        let longest = outbid_for(hundredth, u32::MAX);
        assert_eq!(longest, OUTBID * 16 + hundredth);
        // Of the twentieth it is 6 s.
        let longest = outbid_for(TURN * 20, u32::MAX);
        assert_eq!(longest, OUTBID * 16 + OUTBID_MAX);
        assert_eq!(outbid_for(Duration::ZERO, 0), OUTBID);
    }
}
