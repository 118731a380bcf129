//! Who may call itself fresh.
//!
//! Every sidecar probes each member; the answer is a *grant*: the member's heads, and leave to call oneself fresh for
//! `max_staleness` once those heads are applied. The requester counts a grant from sending its probe, the grantor from
//! sending the grant, each on its own clock, the requester shorter and the grantor longer by the clock-rate bound. A
//! sidecar is fresh while it has a seat in the roster and holds unexpired grants from every other seat. Grants are given to
//! members of the same view only. One that leaves vouches for nothing from that moment, for nobody waits for it. A
//! grantor knows until when each peer may call itself fresh without one of its events: that is what a receipt waits for.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Core;
use super::effects::{Action, Effects, PeerMessage};
use super::flushed::Pending;
use super::grants::Told;
use super::probing::Pace;
use crate::id::{Incarnation, Lane, Time, UnixSeconds};
use crate::names::NodeId;
use crate::progress::{LaneProgress, OriginHead};
use crate::store::Write;

/// How often lapsed registrations are swept.
pub(super) const EXPIRY_SWEEP: Duration = Duration::from_secs(10);
/// Lapsed registrations removed in one sweep: bumps of the same group of writes wait for it. When it leaves some, the
/// next one follows its flush.
const EXPIRY_SWEEP_MAX: usize = 2_000;
/// The most sequences above a watermark that one acknowledgement names.
const ACK_ABOVE_MAX: usize = 1_000;

impl Core {
    fn pace(&self) -> Pace {
        let pace = Pace::of(self.config.max_staleness).after(self.members.calm);
        // A view that seats it has everybody asked at once.
        if self.seated() { pace } else { pace.in_vain() }
    }

    pub(super) fn probe(&mut self, node: &NodeId, now: Time, effects: &mut Effects) {
        self.members.nonce += 1;
        let nonce = self.members.nonce;
        let mark = self.named_view();
        // A grant counts in the view that its probe named, and until its record is flushed that is an earlier one. The flush
        // has everybody asked anew.
        let counts = mark == self.views.view().mark();
        let pace = self.pace();
        let Some(member) = self.members.by_node(node) else {
            return;
        };
        let (to, since) = (member.hello.incarnation, member.asked().base());
        let applied = if since == 0 {
            let whole = self.config.limits.whole_heads_max;
            self.telling.applied(&self.progress, whole)
        } else {
            None
        };
        let question = (counts.then_some(nonce), applied.is_some());
        self.members.ask(node, question, now, pace);
        let probe = PeerMessage::Probe {
            nonce,
            mark,
            since,
            applied,
        };
        effects.send(to, probe);
    }

    /// Gossip says that members have issued more than is known here: asks them, for a datagram is no evidence.
    pub(super) fn heads_seen(&mut self, heads: &[OriginHead], now: Time, effects: &mut Effects) {
        let ahead = |head: &OriginHead| {
            let known = |lane| {
                let lane = self.progress.lane(head.incarnation, lane);
                lane.map_or(0, LaneProgress::head)
            };
            Lane::ALL
                .into_iter()
                .any(|lane| head.lane(lane) > known(lane))
        };
        let nodes: Vec<_> = heads
            .iter()
            .filter(|head| ahead(head))
            .filter_map(|head| self.members.of_run(head.incarnation))
            .filter(|member| member.linked() && member.probing().may_ask_again(now))
            .map(|member| member.hello.node_id.clone())
            .collect();
        for node in nodes {
            self.probe(&node, now, effects);
        }
    }

    pub(super) fn probed(
        &mut self,
        from: Incarnation,
        question: &PeerMessage,
        now: Time,
        effects: &mut Effects,
    ) {
        let PeerMessage::Probe {
            nonce,
            mark,
            since,
            applied,
        } = *question
        else {
            return;
        };
        self.marked(from, mark, now, effects);
        let member = self.members.by_incarnation(from);
        let node = member.map(|member| member.hello.node_id.clone());
        let granted = node.filter(|node| self.may_grant(node, from, mark));
        // Who has no seat in this view learns what there is, and no more.
        let duration = if granted.is_some() {
            self.config.max_staleness
        } else {
            Duration::ZERO
        };
        let head = self
            .progress
            .lane(self.config.incarnation, Lane::Bump)
            .map_or(0, LaneProgress::watermark);
        let whole = self.config.limits.whole_heads_max;
        let (heads, lacked, span) = self.telling.tell(&self.progress, (since, applied), whole);
        // Longer here than there, by the rate bound: this sidecar must never think a grant over before its holder does.
        let ends = now.plus(stretched(duration, self.config.clock_rate_ppm));
        if granted.is_some()
            && let Some(member) = self.members.by_incarnation(from)
        {
            member.given.note(head, ends, now);
        }
        self.tell_flushed(from, effects);
        effects.send(
            from,
            PeerMessage::Grant {
                nonce,
                duration,
                settled: self.is_settled(),
                heads,
                span,
                lacked,
            },
        );
        if let Some(node) = granted {
            self.probe_back(&node, now, effects);
        }
    }

    /// Asks a member that was just answered, unless it was asked lately.
    fn probe_back(&mut self, node: &NodeId, now: Time, effects: &mut Effects) {
        let pace = self.pace();
        let member = self.members.by_node(node);
        if !member.is_some_and(|it| it.linked() && it.probing().may_ask_back(now, pace)) {
            return;
        }
        self.probe(node, now, effects);
        self.members.asked_back(node);
    }

    pub(super) fn granted(
        &mut self,
        from: Incarnation,
        (nonce, settled): (u64, bool),
        duration: Duration,
        told: Told,
        now: Time,
        effects: &mut Effects,
    ) {
        let of_old = self.may_speak_of_old(from, nonce, duration);
        let lost = self.may_have_lost_track(from);
        for head in &told.heads {
            let own = head.incarnation == self.config.incarnation;
            let issued = self
                .progress
                .lane(head.incarnation, Lane::Bump)
                .map_or(0, LaneProgress::head);
            if own && head.bump > issued.max(self.next_bump - 1) {
                let event = head.bump;
                effects.actions.push(Action::Stop(format!(
                    "peers know event {event} of this sidecar's own incarnation, which issued {issued}: its memory or disk was copied"
                )));
                return;
            }
            if head.incarnation.is_history() {
                self.history_told(*head, effects);
                continue;
            }
            let known = self.progress.knows(head.incarnation);
            let itself = head.incarnation == from && !lost;
            if !own && (known || itself || !of_old) {
                self.learn_heads(*head);
            }
        }
        let (rate, pace) = (self.config.clock_rate_ppm, self.pace());
        let (most, view) = (self.config.max_staleness, self.views.view().mark());
        let ends = |sent: Time| sent.plus(shortened(duration.min(most), rate));
        let settled = settled.then_some(view);
        let (members, progress) = (&mut self.members, &self.progress);
        members.granted((from, nonce), (told, settled), ends, progress, now, pace);
    }

    /// Tells a peer what of its events is flushed here, for what was told before its link broke may be lost.
    pub(super) fn acknowledge_again(&mut self, to: Incarnation, effects: &mut Effects) {
        let Some(lane) = self.progress.lane(to, Lane::Bump) else {
            return;
        };
        let watermark = lane.watermark();
        let above = lane.above().flat_map(|(first, last)| first..=last);
        let above = above.take(ACK_ABOVE_MAX).collect();
        // Some of it may still be being written.
        let told = Pending::Ack {
            at_once: true,
            to,
            watermark,
            above,
        };
        self.write(effects, [], told);
    }

    pub(super) fn acked(
        &mut self,
        from: Incarnation,
        said: &PeerMessage,
        now: Time,
        effects: &mut Effects,
    ) {
        let issued = self.next_bump - 1;
        let PeerMessage::Ack {
            watermark,
            above,
            flushed,
        } = said
        else {
            return;
        };
        let Some(member) = self.members.by_incarnation(from) else {
            return;
        };
        let receipts = &self.receipts;
        let mut concerned = BTreeSet::new();
        let mut note = |lane: &mut LaneProgress, watermark: u64, above: &[u64]| {
            let before = lane.watermark();
            lane.adopt(watermark.min(issued));
            for &sequence in above.iter().filter(|sequence| **sequence <= issued) {
                lane.apply(sequence);
            }
            concerned.extend(receipts.concerned(before, lane.watermark(), above));
        };
        note(&mut member.acked, *watermark, above);
        // Nothing is served nowhere that is not flushed.
        match flushed {
            Some((up_to, above)) => note(&mut member.flushed, *up_to, above),
            None => note(&mut member.flushed, *watermark, above),
        }
        let flushed = member.flushed.watermark();
        self.relay_acknowledged(from, flushed, now);
        self.settle(concerned.into_iter().collect(), now, effects);
    }

    /// Takes grants whose heads are applied by now into account, and ends the catching up.
    pub(super) fn review_freshness(&mut self, now: Time) {
        self.members.review_asked(&self.progress, now);
        if self.progress.covers(&self.views.debts) {
            self.views.debts.clear();
        }
        let settled = self.retirements_settled();
        // Classes' entries may stand for events that are not applied here: until they are, tokens are this run's own.
        if self.caught_up && !settled {
            self.caught_up = false;
            self.relapses = self.relapses.wrapping_add(1);
        }
        let until = if self.draining || !settled || !self.views.debts.is_empty() {
            Time::ZERO
        } else {
            let view = self.views.view();
            self.members.review(&self.config, view, &self.progress)
        };
        self.members.set_fresh_until(until, now);
        if now < until {
            let mark = self.views.view().mark();
            let settled = self.views.settled.filter(|(last, _)| *last == mark);
            self.views.settled = settled.or(Some((mark, self.commits)));
        }
        if !self.caught_up && now < until {
            self.caught_up = true;
            // Leases given while catching up are salted with a token nobody will see again: they are unknown now.
            self.versions.note_change();
            self.history.cut(self.versions.stamp());
        }
    }

    pub(super) fn wake(&mut self, now: Time, unix: UnixSeconds, effects: &mut Effects) {
        for node in self.members.to_probe(now, self.pace()) {
            self.probe(&node, now, effects);
        }
        let gone = self.members.departing(&self.config, self.views.view(), now);
        for node in &gone {
            self.remove(node, effects);
        }
        self.sweep_old_runs(now);
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
        let knew = self.caught_up;
        self.review_roster(now, effects);
        self.review_retirements(effects);
        self.review_freshness(now);
        self.review_repair(now, effects);
        if self.caught_up != knew || !gone.is_empty() {
            self.settle_receipts(now, effects);
        } else {
            self.settle_due(now, effects);
        }
    }
}

pub(super) fn stretched(duration: Duration, ppm: u32) -> Duration {
    duration.mul_f64(1.0 + f64::from(ppm) / 1e6)
}

pub(super) fn shortened(duration: Duration, ppm: u32) -> Duration {
    duration.mul_f64(1.0 - f64::from(ppm) / 1e6)
}
