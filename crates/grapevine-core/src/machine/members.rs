//! Who is there, and who may call itself fresh.
//!
//! Every sidecar probes each member; the answer is a *grant*: the member's heads, and leave to call oneself fresh for
//! `max_staleness` once those heads are applied. The requester counts a grant from sending its probe, the grantor from
//! sending the grant, each on its own clock, the requester shorter and the grantor longer by the clock-rate bound. A
//! sidecar is fresh while it holds unexpired grants from every member and they, with itself, are a majority of the
//! members the cluster is to have. A grantor knows until when each peer may call itself fresh without one of its events:
//! that is what a receipt waits for.
//!
//! A member enters by a link or by gossip. It leaves by saying so, or after `member_timeout` of silence and suspicion.
//! There is no agreed roster yet: sidecars cut off from each other for longer than `member_timeout` drop each other, and
//! what keeps a minority from calling itself fresh then is `expected_members` alone.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::effects::{Action, Effects, MemberView, PeerHello, PeerMessage, Side, Sighting};
use super::flushed::Pending;
use super::{Core, CoreConfig};
use crate::id::{Incarnation, Lane, Time, UnixSeconds};
use crate::names::NodeId;
use crate::progress::{LaneProgress, OriginHead, Progress};
use crate::store::{MemberRecord, Write};

/// The most members remembered.
const MEMBERS_MAX: usize = 1_024;
/// How often lapsed registrations are swept.
pub(super) const EXPIRY_SWEEP: Duration = Duration::from_secs(10);
/// Lapsed registrations removed in one sweep.
const EXPIRY_SWEEP_MAX: usize = 10_000;
/// How long peers may refuse this sidecar's node id before it stops: long enough for them to notice a crash.
const NODE_ID_REFUSED_FOR: Duration = Duration::from_secs(10);

/// One member.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) hello: PeerHello,
    inbound: bool,
    outbound: bool,
    suspected: bool,
    last_heard: Time,
    probe: Option<(u64, Time)>,
    next_probe: Time,
    fresh_until: Option<Time>,
    /// Grants whose heads are not applied yet, with when they end.
    unapplied: Option<(Time, Vec<OriginHead>)>,
    /// Grants given: this sidecar's own head in each, and until when the peer may rely on it.
    given: VecDeque<(u64, Time)>,
    /// What of this sidecar's bump lane it acknowledged.
    pub(super) acked: LaneProgress,
}

impl Member {
    fn new(hello: PeerHello, now: Time) -> Self {
        Self {
            hello,
            inbound: false,
            outbound: false,
            suspected: false,
            last_heard: now,
            probe: None,
            next_probe: now,
            fresh_until: None,
            unapplied: None,
            given: VecDeque::new(),
            acked: LaneProgress::default(),
        }
    }

    /// Whether anything can be said to it.
    pub(super) fn linked(&self) -> bool {
        self.outbound
    }

    /// Until when it may call itself fresh without this sidecar's event.
    pub(super) fn may_serve_without(&self, sequence: u64) -> Option<Time> {
        self.given
            .iter()
            .filter(|(head, _)| *head < sequence)
            .map(|(_, ends)| *ends)
            .max()
    }
}

/// The members, this sidecar not among them.
#[derive(Debug, Default)]
pub(super) struct Members {
    by_node: BTreeMap<NodeId, Member>,
    fresh_until: Time,
    nonce: u64,
    next_sweep: Time,
}

impl Members {
    pub(super) fn recover(records: &[MemberRecord], config: &CoreConfig, now: Time) -> Self {
        let by_node = records
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
        Self {
            by_node,
            ..Self::default()
        }
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

    fn by_incarnation(&mut self, incarnation: Incarnation) -> Option<&mut Member> {
        self.by_node
            .values_mut()
            .find(|member| member.hello.incarnation == incarnation)
    }

    /// Notes a sign of life; tells whether the speaker is a member.
    pub(super) fn heard(&mut self, from: Incarnation, now: Time) -> bool {
        self.by_incarnation(from)
            .map(|member| member.last_heard = now)
            .is_some()
    }

    pub(super) fn fresh_until(&self) -> Time {
        self.fresh_until
    }

    pub(super) fn next_wake(&self, config: &CoreConfig) -> Option<Time> {
        let probes = self
            .iter()
            .filter(|member| member.outbound)
            .map(|member| member.next_probe);
        let departures = self
            .iter()
            .filter(|member| member.suspected && !member.outbound)
            .map(|member| member.last_heard.plus(config.member_timeout));
        probes.chain(departures).chain([self.next_sweep]).min()
    }

    pub(super) fn views(&self, progress: &Progress, now: Time) -> Vec<MemberView> {
        let lane = |origin| progress.lane(origin, Lane::Bump);
        self.iter()
            .map(|member| MemberView {
                hello: member.hello.clone(),
                alive: member.outbound && member.inbound && !member.suspected,
                silent: now.since(member.last_heard),
                grant_left: member
                    .fresh_until
                    .map_or(Duration::ZERO, |until| until.since(now)),
                head: lane(member.hello.incarnation).map_or(0, LaneProgress::head),
                watermark: lane(member.hello.incarnation).map_or(0, LaneProgress::watermark),
            })
            .collect()
    }

    /// Until when this sidecar may call itself fresh.
    fn review(&self, config: &CoreConfig, progress: &Progress, now: Time) -> Time {
        if progress.len() > config.limits.origins_max {
            return Time::ZERO;
        }
        let majority = config.expected_members / 2 + 1;
        let granted = self
            .iter()
            .filter(|member| member.fresh_until.is_some_and(|until| until > now))
            .count();
        if granted + 1 < majority {
            return Time::ZERO;
        }
        // No members at all, and none expected: nothing can change behind its back.
        let forever = Time::from_start(Duration::MAX);
        self.iter()
            .map(|member| member.fresh_until.unwrap_or(Time::ZERO))
            .fold(forever, Time::min)
    }

    pub(super) fn why_not_fresh(&self, config: &CoreConfig, now: Time) -> String {
        let lacking: Vec<_> = self
            .iter()
            .filter(|member| member.fresh_until.is_none_or(|until| until <= now))
            .map(|member| {
                let node = &member.hello.node_id;
                let silent = now.since(member.last_heard).as_millis();
                match (&member.unapplied, member.outbound) {
                    (Some(_), _) => format!("{node} has events that are not applied here yet"),
                    (None, true) => {
                        format!("{node} has not granted freshness; last heard {silent} ms ago")
                    }
                    (None, false) => format!("{node} is not connected; last heard {silent} ms ago"),
                }
            })
            .take(5)
            .collect();
        let majority = config.expected_members / 2 + 1;
        if lacking.is_empty() && self.len() + 1 < majority {
            let (met, expected) = (self.len() + 1, config.expected_members);
            return format!("{met} of {expected} expected members met; {majority} are needed");
        }
        lacking.join("; ")
    }
}

/// Why a peer is not let in.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AdmitError {
    /// It carries this sidecar's own name.
    #[error(
        "node id {node_id} is this sidecar's own, incarnation {incarnation}: give every sidecar its own node.id"
    )]
    OwnNodeId {
        /// The name.
        node_id: NodeId,
        /// This sidecar's run.
        incarnation: Incarnation,
    },
    /// It carries a linked member's name.
    #[error(
        "node id {node_id} is in use by incarnation {incarnation} at {peer_address}, heard {silent_ms} ms ago: give every sidecar its own node.id"
    )]
    NodeIdInUse {
        /// The name.
        node_id: NodeId,
        /// Who uses it.
        incarnation: Incarnation,
        /// Where.
        peer_address: String,
        /// Since when it has been silent, in milliseconds.
        silent_ms: u128,
    },
    /// There are too many members.
    #[error("{limit} members are known already; the limit is {limit}")]
    TooMany {
        /// The limit.
        limit: usize,
    },
}

impl Core {
    /// Whether a peer that introduces itself may have a link.
    pub fn admit_peer(&self, hello: &PeerHello, now: Time) -> Result<(), AdmitError> {
        if hello.node_id == self.config.node_id && hello.incarnation != self.config.incarnation {
            let (node_id, incarnation) = (hello.node_id.clone(), self.config.incarnation);
            return Err(AdmitError::OwnNodeId {
                node_id,
                incarnation,
            });
        }
        let Some(member) = self.members.by_node(&hello.node_id) else {
            return if self.members.len() < MEMBERS_MAX {
                Ok(())
            } else {
                Err(AdmitError::TooMany { limit: MEMBERS_MAX })
            };
        };
        let silent = now.since(member.last_heard);
        let other = member.hello.incarnation != hello.incarnation;
        if other && member.inbound && silent < self.config.max_staleness * 2 {
            return Err(AdmitError::NodeIdInUse {
                node_id: hello.node_id.clone(),
                incarnation: member.hello.incarnation,
                peer_address: member.hello.peer_address.clone(),
                silent_ms: silent.as_millis(),
            });
        }
        Ok(())
    }

    /// Makes or renews a member; tells whether it is one now.
    fn meet(&mut self, hello: &PeerHello, now: Time, effects: &mut Effects) -> bool {
        if hello.node_id == self.config.node_id || hello.incarnation == self.config.incarnation {
            return false;
        }
        if !self.members.by_node.contains_key(&hello.node_id) && self.members.len() >= MEMBERS_MAX {
            return false;
        }
        let known = self.members.by_node.get(&hello.node_id);
        let changed = known.is_none_or(|member| {
            member.hello.incarnation != hello.incarnation
                || member.hello.peer_address != hello.peer_address
        });
        match self.members.by_node.get_mut(&hello.node_id) {
            Some(member) if member.hello.incarnation == hello.incarnation => {
                member.hello = hello.clone();
            }
            older => {
                let mut member = Member::new(hello.clone(), now);
                if let Some(older) = older {
                    // The old run may not be over although a new one has begun: what it was granted holds on.
                    member.given.append(&mut older.given);
                }
                self.members.by_node.insert(hello.node_id.clone(), member);
            }
        }
        if changed {
            let record = MemberRecord {
                node_id: hello.node_id.clone(),
                incarnation: hello.incarnation,
                peer_address: hello.peer_address.clone(),
            };
            self.write(effects, [Write::PutMember(record)], Pending::Nothing);
        }
        true
    }

    pub(super) fn link_up(
        &mut self,
        hello: &PeerHello,
        side: Side,
        now: Time,
        effects: &mut Effects,
    ) {
        if !self.meet(hello, now, effects) {
            return;
        }
        self.refused_since = None;
        if let Some(member) = self.members.by_node.get_mut(&hello.node_id) {
            member.suspected = false;
            member.last_heard = now;
            match side {
                Side::Inbound => member.inbound = true,
                Side::Outbound => member.outbound = true,
            }
        }
        if side == Side::Outbound {
            self.probe(&hello.node_id, now, effects);
        }
        self.review_freshness(now);
    }

    pub(super) fn link_down(&mut self, peer: Incarnation, side: Side, now: Time) {
        if let Some(member) = self.members.by_incarnation(peer) {
            match side {
                Side::Inbound => member.inbound = false,
                Side::Outbound => {
                    member.outbound = false;
                    member.probe = None;
                }
            }
        }
        self.review_freshness(now);
    }

    pub(super) fn seen(&mut self, sightings: Vec<Sighting>, now: Time, effects: &mut Effects) {
        for sighting in sightings {
            let known = self.members.by_node.get(&sighting.hello.node_id);
            let same =
                known.is_some_and(|member| member.hello.incarnation == sighting.hello.incarnation);
            // A link is better evidence than gossip, and a suspected newcomer is none at all.
            let linked = known.is_some_and(|member| member.inbound || member.outbound);
            if !same && (linked || !sighting.alive) {
                continue;
            }
            let met = same || self.meet(&sighting.hello, now, effects);
            if let Some(member) = self.members.by_node.get_mut(&sighting.hello.node_id)
                && met
            {
                member.suspected = !sighting.alive;
                member.hello.policy_digest = sighting.hello.policy_digest;
                if sighting.alive {
                    member.last_heard = member.last_heard.max(now);
                }
            }
        }
        self.review_freshness(now);
    }

    pub(super) fn node_id_refused(&mut self, reason: &str, now: Time, effects: &mut Effects) {
        let since = *self.refused_since.get_or_insert(now);
        let linked = self.members.iter().any(|member| member.outbound);
        if !linked && now.since(since) >= NODE_ID_REFUSED_FOR {
            effects.actions.push(Action::Stop(reason.to_owned()));
        }
    }

    pub(super) fn left(
        &mut self,
        from: Incarnation,
        bump: u64,
        directory: u64,
        effects: &mut Effects,
    ) {
        if self.may_follow(from) {
            self.progress.lane_mut(from, Lane::Bump).learn_head(bump);
            self.progress
                .lane_mut(from, Lane::Directory)
                .learn_head(directory);
        }
        let gone = self
            .members
            .iter()
            .find(|member| member.hello.incarnation == from);
        if let Some(node) = gone.map(|member| member.hello.node_id.clone()) {
            self.remove(&node, effects);
        }
    }

    fn remove(&mut self, node: &NodeId, effects: &mut Effects) {
        self.members.by_node.remove(node);
        self.write(
            effects,
            [Write::RemoveMember(node.clone())],
            Pending::Nothing,
        );
    }

    fn probe(&mut self, node: &NodeId, now: Time, effects: &mut Effects) {
        self.members.nonce += 1;
        let nonce = self.members.nonce;
        let Some(member) = self.members.by_node.get_mut(node) else {
            return;
        };
        member.probe = Some((nonce, now));
        member.next_probe = now.plus(self.config.max_staleness / 4);
        let to = member.hello.incarnation;
        effects.send(to, PeerMessage::Probe { nonce });
    }

    pub(super) fn probed(
        &mut self,
        from: Incarnation,
        nonce: u64,
        now: Time,
        effects: &mut Effects,
    ) {
        let duration = self.config.max_staleness;
        let head = self
            .progress
            .lane(self.config.incarnation, Lane::Bump)
            .map_or(0, LaneProgress::watermark);
        let heads = self.progress.heads();
        // Longer here than there, by the rate bound: this sidecar must never think a grant over before its holder does.
        let ends = now.plus(stretched(duration, self.config.clock_rate_ppm));
        if let Some(member) = self.members.by_incarnation(from) {
            member.given.retain(|(_, ends)| *ends > now);
            member.given.push_back((head, ends));
        }
        effects.send(
            from,
            PeerMessage::Grant {
                nonce,
                duration,
                heads,
            },
        );
    }

    pub(super) fn granted(
        &mut self,
        from: Incarnation,
        nonce: u64,
        duration: Duration,
        heads: &[OriginHead],
        now: Time,
        effects: &mut Effects,
    ) {
        for head in heads {
            let own = head.incarnation == self.config.incarnation;
            let issued = self
                .progress
                .lane(head.incarnation, Lane::Bump)
                .map_or(0, LaneProgress::head);
            if own && head.bump > issued.max(self.next_bump - 1) {
                let told = head.bump;
                effects.actions.push(Action::Stop(format!(
                    "peers know event {told} of this sidecar's own incarnation, which issued {issued}: its memory or disk was copied"
                )));
                return;
            }
            if own || !self.may_follow(head.incarnation) {
                continue;
            }
            self.progress
                .lane_mut(head.incarnation, Lane::Bump)
                .learn_head(head.bump);
            self.progress
                .lane_mut(head.incarnation, Lane::Directory)
                .learn_head(head.directory);
        }
        let rate = self.config.clock_rate_ppm;
        let most = self.config.max_staleness;
        if let Some(member) = self.members.by_incarnation(from)
            && let Some((asked, sent)) = member.probe
            && asked == nonce
        {
            member.probe = None;
            let ends = sent.plus(shortened(duration.min(most), rate));
            member.unapplied = (ends > now).then(|| (ends, heads.to_vec()));
        }
    }

    pub(super) fn acked(
        &mut self,
        from: Incarnation,
        watermark: u64,
        above: &[u64],
        now: Time,
        effects: &mut Effects,
    ) {
        let issued = self.next_bump - 1;
        if let Some(member) = self.members.by_incarnation(from) {
            member.acked.adopt(watermark.min(issued));
            for &sequence in above.iter().filter(|sequence| **sequence <= issued) {
                member.acked.apply(sequence);
            }
        }
        self.settle_receipts(now, effects);
    }

    /// Takes grants whose heads are applied by now into account, and ends the catching up.
    pub(super) fn review_freshness(&mut self, now: Time) {
        for member in self.members.by_node.values_mut() {
            if let Some((ends, heads)) = &member.unapplied
                && self.progress.covers(heads)
            {
                member.fresh_until = Some(*ends);
                member.unapplied = None;
            }
        }
        self.members.fresh_until = self.members.review(&self.config, &self.progress, now);
        if !self.caught_up && now < self.members.fresh_until {
            self.caught_up = true;
            // Leases given while catching up are salted with a token nobody will see again.
            self.history.cut(self.versions.stamp());
            self.versions.note_change();
        }
    }

    pub(super) fn wake(&mut self, now: Time, unix: UnixSeconds, effects: &mut Effects) {
        let due: Vec<_> = self
            .members
            .iter()
            .filter(|member| member.outbound && member.next_probe <= now)
            .map(|member| member.hello.node_id.clone())
            .collect();
        for node in due {
            self.probe(&node, now, effects);
        }
        let gone: Vec<_> = self
            .members
            .iter()
            .filter(|member| member.suspected && !member.outbound && !member.inbound)
            .filter(|member| now.since(member.last_heard) >= self.config.member_timeout)
            .map(|member| member.hello.node_id.clone())
            .collect();
        for node in gone {
            self.remove(&node, effects);
        }
        if self.members.next_sweep <= now {
            self.members.next_sweep = now.plus(EXPIRY_SWEEP);
            self.write(
                effects,
                [Write::Expire {
                    now: unix,
                    limit: EXPIRY_SWEEP_MAX,
                }],
                Pending::Nothing,
            );
        }
        self.review_freshness(now);
        self.review_repair(now, effects);
        self.settle_receipts(now, effects);
    }
}

fn stretched(duration: Duration, ppm: u32) -> Duration {
    duration.mul_f64(1.0 + f64::from(ppm) / 1e6)
}

fn shortened(duration: Duration, ppm: u32) -> Duration {
    duration.mul_f64(1.0 - f64::from(ppm) / 1e6)
}
