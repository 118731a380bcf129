//! How own events reach the peers: directly, or among many by way of some of them.
//!
//! With up to `direct_pushes_max` peers the origin tells each of them itself. With more it tells as many as the root of
//! their number, each together with a list of others to pass the events on to, who do the same with what they are given: so
//! no sidecar says an event more than [`SPREAD_MAX`] times, and all have it after two trips where views have seats.
//! The lists travel with the events, so nobody has to agree on them. They are the same from one push to the next while the
//! peers are, and so events keep their order on the way; each origin has others, so the work is shared.
//!
//! Nothing rests on it. What is not passed on is found by heads and pulled as ever. Relays are peers that answered the last
//! question at once. One that has not acknowledged what it was to pass on after a moment, or whose link ends, is stood in for:
//! the origin tells those behind it from its log, and has others relay until it has caught up. Who is not linked to one of
//! those that it is to tell hands it on to another; who is linked to none of them leaves them to heads and pulls. Whoever passes an event on had it from its origin's disk, so it need not
//! wait for its own.
//!
//! Acknowledgements are each member's own word to the origin. Those to whom the origin spoke itself say it at once, and that is enough
//! for a receipt of one; the others say it with their next grant, unless a call waits for a quorum or all.

use std::collections::BTreeMap;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use super::Core;
use super::effects::{Action, Effects, PeerMessage};
use super::members::Member;
use crate::id::{Incarnation, Lane, Time};

/// To how many peers a sidecar says the same events itself when there are more to tell than `direct_pushes_max`.
pub(super) const SPREAD_MAX: usize = 32;
/// Events that are told in place of a relay at once; what is behind them is pulled.
const STOOD_IN_MAX: u64 = 1_000;

/// What a relay was given to pass on and has not acknowledged.
#[derive(Clone, Debug)]
struct Owed {
    first: u64,
    last: u64,
    /// To whom.
    to: Vec<Incarnation>,
    until: Time,
}

/// The relays of this sidecar's events.
#[derive(Clone, Debug, Default)]
pub(super) struct Relaying {
    owed: BTreeMap<Incarnation, Owed>,
    /// Relays that were stood in for, and what they have to have acknowledged before they are relays again.
    late: BTreeMap<Incarnation, u64>,
}

impl Relaying {
    pub(super) fn next_wake(&self) -> Option<Time> {
        self.owed.values().map(|owed| owed.until).min()
    }
}

/// Bump-lane events of a message: the first and the last.
fn bumps_of(message: &PeerMessage) -> Option<(u64, u64)> {
    match message {
        PeerMessage::Bumps { first, events, .. } => {
            Some((*first, (first + events.len() as u64).saturating_sub(1)))
        }
        _ => None,
    }
}

/// A message to be passed on to some.
fn relayed(to: Vec<Incarnation>, acknowledge: bool, message: &PeerMessage) -> PeerMessage {
    PeerMessage::Relayed {
        to,
        acknowledge,
        message: Box::new(message.clone()),
    }
}

/// Deals those who remain out to so many.
fn dealt(rest: &[Incarnation], hands: usize) -> Vec<Vec<Incarnation>> {
    (0..hands)
        .map(|hand| rest.iter().skip(hand).step_by(hands).copied().collect())
        .collect()
}

impl Core {
    /// How long a relay may take to acknowledge.
    fn relay_patience(&self) -> Duration {
        self.config.max_staleness / 8
    }

    /// Tells all peers of own events. Whoever is told by another peer is to acknowledge at once if that is said.
    pub(super) fn push(
        &mut self,
        message: PeerMessage,
        acknowledge: bool,
        now: Time,
    ) -> Vec<Action> {
        let linked = || self.members.iter().filter(|member| member.linked());
        let most = self.config.limits.direct_pushes_max;
        if linked().count() <= most {
            return vec![Action::Broadcast(message)];
        }
        let own = self.config.incarnation;
        let order = |peer: Incarnation| {
            let mut seed = [0; 2 * Incarnation::LEN];
            seed[..Incarnation::LEN].copy_from_slice(&own.to_bytes());
            seed[Incarnation::LEN..].copy_from_slice(&peer.to_bytes());
            xxh3_64(&seed)
        };
        let mut peers: Vec<_> = linked()
            .map(|member| {
                let run = member.hello.incarnation;
                (!self.may_relay(member), order(run), run)
            })
            .collect();
        peers.sort_unstable();
        let able = peers.iter().take_while(|(unable, ..)| !unable).count();
        let relays = peers.len().isqrt().clamp(1, SPREAD_MAX).min(able);
        if relays == 0 {
            return vec![Action::Broadcast(message)];
        }
        let mut peers: Vec<_> = peers.into_iter().map(|(.., run)| run).collect();
        let rest = peers.split_off(relays);
        self.counters.pushes_relayed += 1;
        let hands = dealt(&rest, relays).into_iter();
        let said = peers.into_iter().zip(hands).map(|(relay, to)| {
            if let Some(bumps) = bumps_of(&message) {
                self.owes(relay, bumps, &to, now);
            }
            let message = relayed(to, acknowledge, &message);
            Action::Send { to: relay, message }
        });
        said.collect()
    }

    /// Whether a peer is quick and reliable enough to pass events on.
    fn may_relay(&self, member: &Member) -> bool {
        let late = self.relaying.late.contains_key(&member.hello.incarnation);
        member.probing().is_prompt() && !late
    }

    fn owes(
        &mut self,
        relay: Incarnation,
        (first, last): (u64, u64),
        to: &[Incarnation],
        now: Time,
    ) {
        if to.is_empty() {
            return;
        }
        let until = now.plus(self.relay_patience());
        let owed = self.relaying.owed.entry(relay).or_insert_with(|| Owed {
            first,
            last,
            to: Vec::new(),
            until,
        });
        owed.last = last;
        for &peer in to {
            if !owed.to.contains(&peer) {
                owed.to.push(peer);
            }
        }
    }

    /// A member acknowledged own events up to a number.
    pub(super) fn relay_acknowledged(&mut self, relay: Incarnation, watermark: u64, now: Time) {
        let until = now.plus(self.relay_patience());
        if let Some(owed) = self.relaying.owed.get_mut(&relay) {
            if owed.last <= watermark {
                self.relaying.owed.remove(&relay);
            } else if owed.first <= watermark {
                (owed.first, owed.until) = (watermark + 1, until);
            }
        }
        if self
            .relaying
            .late
            .get(&relay)
            .is_some_and(|last| *last <= watermark)
        {
            self.relaying.late.remove(&relay);
        }
    }

    /// Stands in for relays whose time is up, or whose link is gone.
    pub(super) fn review_relays(&mut self, now: Time, effects: &mut Effects) {
        if self.relaying.owed.is_empty() && self.relaying.late.is_empty() {
            return;
        }
        let linked = |run: Incarnation| self.members.of_run(run).is_some_and(Member::linked);
        let overdue = self.relaying.owed.iter();
        let overdue = overdue.filter(|(relay, owed)| owed.until <= now || !linked(**relay));
        let overdue: Vec<_> = overdue.map(|(relay, _)| *relay).collect();
        for relay in overdue {
            let Some(owed) = self.relaying.owed.remove(&relay) else {
                continue;
            };
            self.relaying.late.insert(relay, owed.last);
            self.counters.relays_stood_in_for += 1;
            for to in owed.to {
                effects.actions.push(Action::ServeLog {
                    to,
                    origin: self.config.incarnation,
                    lane: Lane::Bump,
                    first: owed.first,
                    last: owed.last.min(owed.first + STOOD_IN_MAX - 1),
                });
            }
        }
        let members = &self.members;
        self.relaying
            .late
            .retain(|relay, _| members.of_run(*relay).is_some());
    }

    /// Takes events that came by way of a peer, and passes them on to those that they are for as well.
    pub(super) fn relayed(
        &mut self,
        from: Incarnation,
        (to, acknowledge): (Vec<Incarnation>, bool),
        message: &PeerMessage,
        now: Time,
        effects: &mut Effects,
    ) {
        match message {
            PeerMessage::Bumps {
                origin,
                first,
                events,
            } => {
                if self.may_take(*origin, Lane::Bump, *first, events.len()) {
                    self.pass_on(to, *origin, acknowledge, message, effects);
                }
                let events = (*origin, *first, &events[..]);
                self.remote_bumps((from, Some(acknowledge)), events, now, effects);
            }
            PeerMessage::Directory {
                origin,
                first,
                batches,
            } => {
                if self.may_take(*origin, Lane::Directory, *first, batches.len()) {
                    self.pass_on(to, *origin, acknowledge, message, effects);
                }
                self.remote_batches(from, (*origin, *first), batches, effects);
            }
            _ => self.counters.peer_messages_refused += 1,
        }
    }

    fn pass_on(
        &mut self,
        mut to: Vec<Incarnation>,
        origin: Incarnation,
        acknowledge: bool,
        message: &PeerMessage,
        effects: &mut Effects,
    ) {
        to.retain(|run| *run != self.config.incarnation && *run != origin);
        let linked = |run: &Incarnation| self.members.of_run(*run).is_some_and(Member::linked);
        let (mut reached, unreached): (Vec<_>, Vec<_>) = to.into_iter().partition(linked);
        let rest = reached.split_off(reached.len().min(SPREAD_MAX));
        let mut hands = dealt(&rest, reached.len().max(1));
        // Whom this sidecar does not reach the first of the others may.
        hands[0].extend(unreached);
        for (run, to) in reached.into_iter().zip(hands) {
            self.counters.events_passed_on += 1;
            effects.send(run, relayed(to, acknowledge, message));
        }
    }
}
