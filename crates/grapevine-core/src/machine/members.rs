//! Who is there.
//!
//! A member enters by a link or by gossip. It leaves by saying so, or after `member_timeout` of silence and suspicion, and
//! not before the last grant that it was given is over. A new run of a node takes the place of the old one at once, but
//! what the old run was granted is remembered until it is over: it may still be there.
//!
//! This is whom a sidecar knows and talks to. Who counts is another matter: the roster is agreed on (`views`), and a member
//! with a seat stays until it has lost it.

mod admission;
mod index;
mod meeting;
mod seats;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

pub use admission::AdmitError;
use index::Moments;
pub(super) use seats::Tally;
use seats::{Seat, Seats};

use super::CoreConfig;
use super::derived::Derived;
use super::effects::{MemberView, PeerHello};
use super::grants::{Asked, Given};
use super::probing::{Calm, Pace, Probing};
use crate::id::{Incarnation, Lane, Time};
use crate::names::NodeId;
use crate::progress::{LaneProgress, Progress, Revision};
use crate::roster::{Mark, SEATS_MAX, View};
use crate::store::MemberRecord;

/// The most members remembered: with this sidecar, as many as a view has seats.
const MEMBERS_MAX: usize = SEATS_MAX - 1;

/// One member.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) hello: PeerHello,
    inbound: bool,
    outbound: bool,
    suspected: bool,
    /// When it said something itself, or a link to it was made.
    pub(super) last_heard: Time,
    /// When gossip vouched for it last.
    last_seen: Time,
    /// When it is asked for grants.
    probing: Probing,
    /// The view that it said it has.
    pub(super) mark: Option<Mark>,
    /// Grants that it gave, in the present view.
    asked: Asked,
    /// Its node's seat of the view that `Members::seats` is of.
    seat: Derived<Option<Seat>>,
    /// The last view in which it says that it has called itself fresh.
    pub(super) settled: Option<Mark>,
    /// Grants given to it.
    pub(super) given: Given,
    /// What of this sidecar's bump lane is on its disk.
    pub(super) flushed: LaneProgress,
    /// What of that no table of its clients serves around any more.
    pub(super) acked: LaneProgress,
    /// What of its bump lane was acknowledged to it last: said again with every grant, for an answer may be lost.
    pub(super) told: Option<(u64, Vec<u64>)>,
}

/// A run whose node has a new one, which is no proof that it is over: it may call itself fresh while its grants hold.
#[derive(Clone, Debug)]
pub(super) struct Former {
    pub(super) node_id: NodeId,
    pub(super) incarnation: Incarnation,
    pub(super) given: Given,
}

impl Member {
    fn new(hello: PeerHello, now: Time) -> Self {
        Self {
            hello,
            inbound: false,
            outbound: false,
            suspected: false,
            last_heard: now,
            last_seen: now,
            probing: Probing::start(now),
            mark: None,
            asked: Asked::default(),
            seat: Derived(None),
            settled: None,
            given: Given::default(),
            flushed: LaneProgress::default(),
            acked: LaneProgress::default(),
            told: None,
        }
    }

    /// What it would have in a roster.
    pub(super) fn seat(&self) -> (NodeId, Incarnation) {
        (self.hello.node_id.clone(), self.hello.incarnation)
    }

    /// Whether it can say anything, or be told.
    pub(super) fn has_link(&self) -> bool {
        self.inbound || self.outbound
    }

    /// Whether it is this run of this node.
    fn seat_is(&self, node: &NodeId, run: Incarnation) -> bool {
        self.hello.incarnation == run && self.hello.node_id == *node
    }

    /// Whether anything can be said to it.
    pub(super) fn linked(&self) -> bool {
        self.outbound
    }

    /// When it is asked for grants.
    pub(super) fn probing(&self) -> &Probing {
        &self.probing
    }

    /// Grants that it gave, in the present view.
    pub(super) fn asked(&self) -> &Asked {
        &self.asked
    }

    /// When it may be forgotten: after so long a silence, and no sooner than its last grant is over. `None` while there
    /// is a sign of it. A link from it is none by itself: the end of a host that vanished shows there late, and while
    /// it is there it brings probes.
    pub(super) fn departs(&self, config: &CoreConfig) -> Option<Time> {
        let silent = self.suspected && !self.outbound;
        silent.then(|| self.silent_for(config.member_timeout))
    }

    /// When it may lose its seat if that costs nothing. A link to it does not count: a host that vanished, or a process
    /// that was stopped, leaves its links behind.
    pub(super) fn crashes(&self, config: &CoreConfig) -> Option<Time> {
        let timeout = config.crash_timeout.min(config.member_timeout);
        // Gossip goes on vouching for a while; once it suspects, its word from before says nothing.
        let silent = self.last_heard.plus(timeout);
        self.suspected.then(|| silent.max(self.given.until()))
    }

    fn silent_for(&self, timeout: Duration) -> Time {
        let silent = self.last_heard.max(self.last_seen).plus(timeout);
        silent.max(self.given.until())
    }
}

/// The members, this sidecar not among them.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    by_node: BTreeMap<NodeId, Member>,
    /// The node of each run that is a member: of several the first.
    by_run: Derived<BTreeMap<Incarnation, NodeId>>,
    /// When those that can be told something are to be asked.
    probes: Derived<Moments>,
    /// Whom gossip suspects.
    suspects: Derived<BTreeSet<NodeId>>,
    /// Those with grants that wait for events.
    waiting: Derived<BTreeSet<NodeId>>,
    /// The state for which these were looked at last, and until when that says everything.
    reviewed: Derived<Option<(Revision, Time)>>,
    /// Who has a seat, and until when they vouch; `None` where that is to be looked at anew.
    seats: Derived<Option<Seats>>,
    /// Whether their answers come at once.
    pub(super) calm: Calm,
    /// At most [`MEMBERS_MAX`]; beyond, a new run has to wait until a grant of an old one is over.
    former: Vec<Former>,
    /// Runs that left in order: gossip may see them for a while. At most [`MEMBERS_MAX`], the oldest forgotten first.
    departed: VecDeque<Incarnation>,
    fresh_until: Time,
    /// Until when freshness was shown last.
    shown_until: Time,
    pub(super) nonce: u64,
    pub(super) next_sweep: Time,
    /// When a link to a member was made last.
    last_link_up: Time,
}

impl Members {
    pub(super) fn recover(records: &[MemberRecord], config: &CoreConfig, now: Time) -> Self {
        let by_node: BTreeMap<_, _> = records
            .iter()
            .filter(|record| record.node_id != config.node_id)
            .take(MEMBERS_MAX)
            .map(|record| {
                let hello = PeerHello {
                    node_id: record.node_id.clone(),
                    incarnation: record.incarnation,
                    peer_address: record.peer_address.clone(),
                    policy_digest: 0,
                };
                let mut member = Member::new(hello, now);
                member.suspected = true;
                (record.node_id.clone(), member)
            })
            .collect();
        let mut members = Self {
            by_node,
            ..Self::default()
        };
        members.index_all();
        members
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.by_node.values()
    }

    pub(super) fn len(&self) -> usize {
        self.by_node.len()
    }

    pub(super) fn by_node(&self, node: &NodeId) -> Option<&Member> {
        self.by_node.get(node)
    }

    /// Superseded runs whose grants hold.
    pub(super) fn former(&self, now: Time) -> impl Iterator<Item = &Former> {
        let holds = move |former: &&Former| former.given.until() > now;
        self.former.iter().filter(holds)
    }

    pub(super) fn by_incarnation(&mut self, incarnation: Incarnation) -> Option<&mut Member> {
        self.by_node.get_mut(self.by_run.get(&incarnation)?)
    }

    /// The member that is this run.
    pub(super) fn of_run(&self, run: Incarnation) -> Option<&Member> {
        let member = self
            .by_run
            .get(&run)
            .and_then(|node| self.by_node.get(node));
        debug_assert_eq!(
            member.map(Member::seat),
            self.of_run_linear(run).map(Member::seat),
            "invariant: runs are found by their names as by looking at all members"
        );
        member
    }

    /// Whether a run has said before that it has this view.
    pub(super) fn is_marked(&self, from: Incarnation, mark: Mark) -> bool {
        let member = self.of_run(from);
        member.is_some_and(|member| member.mark == Some(mark))
    }

    /// Notes a sign of life; tells whether the speaker is a member.
    pub(super) fn heard(&mut self, from: Incarnation, now: Time) -> bool {
        self.by_incarnation(from)
            .map(|member| member.last_heard = now)
            .is_some()
    }

    /// Whether gossip suspects any of them.
    pub(super) fn has_suspects(&self) -> bool {
        !self.suspects.is_empty()
    }

    pub(super) fn last_link_up(&self) -> Time {
        self.last_link_up
    }

    pub(super) fn fresh_until(&self) -> Time {
        self.fresh_until
    }

    /// Until when freshness was shown, or is.
    pub(super) fn shown_until(&self) -> Time {
        self.shown_until.max(self.fresh_until)
    }

    /// Takes note of until when this sidecar may call itself fresh from now on.
    pub(super) fn set_fresh_until(&mut self, until: Time, now: Time) {
        self.shown_until = self.shown_until.max(self.fresh_until.min(now));
        self.fresh_until = until;
    }

    /// The members that may be forgotten now.
    pub(super) fn departing(&self, config: &CoreConfig, view: &View, now: Time) -> Vec<NodeId> {
        self.iter()
            .filter(|member| !view.seats.contains_key(&member.hello.node_id))
            .filter(|member| member.departs(config).is_some_and(|at| at <= now))
            .map(|member| member.hello.node_id.clone())
            .collect()
    }

    /// The members to probe: none before one is due, and then those too that are due soon, but for those that are likely to ask
    /// first, or that may be about to answer. So all of them come to be probed at one moment, and a sidecar among many wakes up
    /// once a second instead of a hundred times.
    pub(super) fn to_probe(&self, now: Time, pace: Pace) -> Vec<NodeId> {
        let outbound = || self.iter().filter(|member| member.outbound);
        let is_due = |member: &Member| member.probing.next() <= now;
        if !outbound().any(is_due) {
            return Vec::new();
        }
        let soon = |member: &Member| member.probing.is_due_soon(now, pace);
        let due = outbound().filter(|member| is_due(member) || soon(member));
        due.map(|member| member.hello.node_id.clone()).collect()
    }

    pub(super) fn next_wake(&self, config: &CoreConfig, view: &View, now: Time) -> Option<Time> {
        debug_assert!(
            self.tables_agree(),
            "invariant: tables of members say what looking at all says"
        );
        // One with a seat keeps it until others agree: its time comes once.
        let suspects = self.suspects.iter();
        let suspects = suspects.filter_map(|node| self.by_node.get(node));
        let departures = suspects.flat_map(|member| {
            let seated = view.seats.contains_key(&member.hello.node_id);
            let departs = member.departs(config).filter(|at| !seated || *at > now);
            let crashes = member.crashes(config).filter(|at| seated && *at > now);
            departs.into_iter().chain(crashes)
        });
        let soonest = self.probes.first().into_iter();
        soonest.chain(departures).chain([self.next_sweep]).min()
    }

    /// `flushed` is how far the own bumps are on disk.
    pub(super) fn views(&self, progress: &Progress, flushed: u64, now: Time) -> Vec<MemberView> {
        let lane = |origin| progress.lane(origin, Lane::Bump);
        self.iter()
            .map(|member| MemberView {
                hello: member.hello.clone(),
                alive: member.outbound && member.inbound && !member.suspected,
                silent: now.since(member.last_heard),
                grant_left: member
                    .asked
                    .fresh_until()
                    .map_or(Duration::ZERO, |until| until.since(now)),
                head: lane(member.hello.incarnation).map_or(0, LaneProgress::head),
                watermark: lane(member.hello.incarnation).map_or(0, LaneProgress::watermark),
                missing: lane(member.hello.incarnation).map_or(0, LaneProgress::missing),
                unacknowledged: unacknowledged(&member.flushed, flushed),
            })
            .collect()
    }

    /// Until when this sidecar may call itself fresh: while it has a seat and everybody else's grant.
    pub(super) fn review(&mut self, config: &CoreConfig, view: &View, progress: &Progress) -> Time {
        if progress.len() >= config.limits.origins_max
            || !view.seats_run(&config.node_id, config.incarnation)
        {
            return Time::ZERO;
        }
        let until = self.seats_vouch_until(config, view);
        debug_assert_eq!(
            until,
            self.seats_vouch_until_linear(config, view),
            "invariant: the end that is kept is that of looking at all members"
        );
        until
    }

    pub(super) fn why_not_fresh(&self, config: &CoreConfig, view: &View, now: Time) -> String {
        if view.number == 0 {
            let (met, expected) = (self.len() + 1, config.expected_members);
            return if met < expected / 2 + 1 {
                let majority = expected / 2 + 1;
                format!("{met} of {expected} expected members met; {majority} are needed")
            } else if met < expected {
                let patience = config.member_timeout;
                format!("{met} of {expected} expected members met; waiting {patience:?} for all")
            } else if met == 1 {
                "this sidecar is agreeing with itself on the first roster".to_owned()
            } else {
                format!("{met} members are agreeing on the first roster")
            };
        }
        let others = view
            .seats
            .iter()
            .filter(|(node, _)| **node != config.node_id);
        let lacking = others.filter_map(|(node, run)| self.why_not_granted(node, *run, now));
        lacking.take(5).collect::<Vec<_>>().join("; ")
    }

    /// Why the run that has this node's seat does not vouch for this sidecar; none when it does.
    pub(super) fn why_not_granted(
        &self,
        node: &NodeId,
        run: Incarnation,
        now: Time,
    ) -> Option<String> {
        let Some(member) = self.by_node(node) else {
            return Some(format!("{node} was not met since the start"));
        };
        if member.hello.incarnation != run {
            return Some(format!("{node} started anew and has no seat yet"));
        }
        if member.asked.fresh_until().is_some_and(|until| until > now) {
            return None;
        }
        let silent = now.since(member.last_heard).as_millis();
        Some(if member.asked.waits() {
            format!("{node} has events that are not applied here yet")
        } else if member.outbound {
            format!("{node} has not granted freshness; last heard {silent} ms ago")
        } else {
            format!("{node} is not connected; last heard {silent} ms ago")
        })
    }
}

/// How many of so many bumps are not among what was acknowledged.
fn unacknowledged(acked: &LaneProgress, flushed: u64) -> u64 {
    let above = acked.above().map(|(first, last)| last - first + 1);
    let has = above.fold(acked.watermark(), u64::saturating_add);
    flushed.saturating_sub(has)
}
