//! How members come, are seen, and go.

use std::time::Duration;

use super::{Former, MEMBERS_MAX, Member};
use crate::id::{Incarnation, Time};
use crate::machine::Core;
use crate::machine::effects::{Action, Effects, PeerHello, Side, Sighting};
use crate::machine::flushed::Pending;
use crate::machine::grants::Given;
use crate::names::NodeId;
use crate::progress::OriginHead;
use crate::store::{MemberRecord, Write};

/// How long peers may refuse this sidecar's node id before it stops: long enough for them to notice a crash.
const NODE_ID_REFUSED_FOR: Duration = Duration::from_secs(10);

impl Core {
    /// Whether a link with this run may end without anything being wrong: it, or this sidecar, has said that it leaves.
    pub fn is_parting(&self, run: Incarnation) -> bool {
        let leaves = self.views.leaving.contains(&run);
        self.draining || leaves || self.members.departed.contains(&run)
    }

    /// Makes or renews a member; tells whether it is one now.
    fn meet(&mut self, hello: &PeerHello, now: Time, effects: &mut Effects) -> bool {
        if hello.node_id == self.config.node_id
            || hello.incarnation == self.config.incarnation
            || self.members.departed.contains(&hello.incarnation)
            || self
                .members
                .run_of_another(hello, self.views.view())
                .is_some()
        {
            return false;
        }
        let members = &mut self.members;
        let full = members.by_node.len() >= MEMBERS_MAX;
        let changed = match members.by_node.get_mut(&hello.node_id) {
            Some(member) if member.hello.incarnation == hello.incarnation => {
                // A run keeps its address: another one in a later introduction is a mistake or a lie.
                member.hello.policy_digest = hello.policy_digest;
                false
            }
            Some(_) => {
                members.former.retain(|former| former.given.until() > now);
                if members.former.len() >= MEMBERS_MAX {
                    return false;
                }
                if let Some(older) = members.put(Member::new(hello.clone(), now)) {
                    let incarnation = older.hello.incarnation;
                    members.former.push(Former {
                        node_id: older.hello.node_id,
                        incarnation,
                        given: older.given,
                    });
                    self.abandon_snapshot(incarnation);
                }
                true
            }
            None if full => return false,
            None => {
                members.put(Member::new(hello.clone(), now));
                true
            }
        };
        // A run that was superseded and is back, as one whose node id two processes use: what it was granted still holds.
        let members = &mut self.members;
        if let Some(at) = members
            .former
            .iter()
            .position(|former| former.incarnation == hello.incarnation)
            && let Some(member) = members.by_node.get_mut(&hello.node_id)
        {
            member.given = members.former.swap_remove(at).given;
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

    pub(in crate::machine) fn link_up(
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
        self.members.change(&hello.node_id, |member| {
            member.suspected = false;
            member.last_heard = now;
            match side {
                Side::Inbound => member.inbound = true,
                Side::Outbound => member.outbound = true,
            }
        });
        match side {
            Side::Inbound => self.abandon_snapshot(hello.incarnation),
            Side::Outbound => {
                self.members.last_link_up = now;
                self.probe(&hello.node_id, now, effects);
                self.acknowledge_again(hello.incarnation, effects);
                self.renew_pulls();
            }
        }
        self.review_roster(now, effects);
        self.review_freshness(now);
        self.review_repair(now, effects);
        self.settle_receipts(now, effects);
    }

    pub(in crate::machine) fn link_down(&mut self, peer: Incarnation, side: Side, now: Time) {
        let node = self.members.of_run(peer).map(|member| member.seat().0);
        node.and_then(|node| {
            self.members.change(&node, |member| match side {
                Side::Inbound => member.inbound = false,
                Side::Outbound => member.outbound = false,
            })
        });
        if side == Side::Inbound {
            self.abandon_snapshot(peer);
        }
        self.review_freshness(now);
    }

    pub(in crate::machine) fn seen(
        &mut self,
        sightings: Vec<Sighting>,
        now: Time,
        effects: &mut Effects,
    ) {
        // Whom gossip has forgotten it does not vouch for. A link still does.
        for member in self.members.by_node.values_mut() {
            member.suspected = true;
        }
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
                    member.last_seen = now;
                }
            }
        }
        self.members.index_suspects();
        self.review_roster(now, effects);
        self.review_freshness(now);
    }

    pub(in crate::machine) fn node_id_refused(
        &mut self,
        reason: &str,
        now: Time,
        effects: &mut Effects,
    ) {
        let since = *self.refused_since.get_or_insert(now);
        let linked = self.members.iter().any(|member| member.outbound);
        if !linked && now.since(since) >= NODE_ID_REFUSED_FOR {
            effects.actions.push(Action::Stop(reason.to_owned()));
        }
    }

    pub(in crate::machine) fn left(
        &mut self,
        from: Incarnation,
        bump: u64,
        directory: u64,
        effects: &mut Effects,
    ) {
        let told = OriginHead {
            incarnation: from,
            bump,
            directory,
        };
        self.learn_heads(told);
        if self.has_seat(from) {
            // It takes part until it has lost its seat, but calls itself fresh no more.
            self.views.leaving.insert(from);
            if let Some(member) = self.members.by_incarnation(from) {
                member.given = Given::default();
            }
        } else {
            self.depart(from, effects);
        }
    }

    /// Forgets a run that left in order.
    pub(in crate::machine) fn depart(&mut self, run: Incarnation, effects: &mut Effects) {
        let gone = self.members.of_run(run);
        if let Some(node) = gone.map(|member| member.hello.node_id.clone()) {
            if self.members.departed.len() >= MEMBERS_MAX {
                self.members.departed.pop_front();
            }
            self.members.departed.push_back(run);
            self.remove(&node, effects);
        }
    }

    pub(in crate::machine) fn remove(&mut self, node: &NodeId, effects: &mut Effects) {
        if let Some(gone) = self.members.take(node) {
            self.abandon_snapshot(gone.hello.incarnation);
        }
        self.write(
            effects,
            [Write::RemoveMember(node.clone())],
            Pending::Nothing,
        );
    }
}
