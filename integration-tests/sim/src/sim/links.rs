//! Links: who dials whom, what is said, and how links end.

use grapevine_core::machine::AdmitError;
use grapevine_core::machine::effects::{Input, PeerMessage, Side};
use grapevine_core::progress::OriginHead;
use grapevine_core::roster::Say;

use super::Sim;
use crate::arms::Arm;
use crate::clock::{MILLISECOND, Micros};
use crate::events::Event;
use crate::network::{End, Fate, LinkId};
use crate::scenario::Gap;
use crate::tally::Race;

/// The first pause before dialling again, and the longest.
const PAUSE_MIN: Micros = 20 * MILLISECOND;
const PAUSE_MAX: Micros = 1_000 * MILLISECOND;

impl Sim<'_> {
    /// Dials every member without a link, and ends links to whoever is none.
    pub(super) fn tend(&mut self, at: usize) {
        let now = self.time(at);
        let Some(core) = &self.nodes[at].core else {
            return;
        };
        let slot = |address: &str| address.split(':').next()?.parse::<usize>().ok();
        let views = core.members(now);
        let wanted: Vec<_> = views
            .iter()
            .filter_map(|view| slot(&view.hello.peer_address))
            .collect();
        let linked: Vec<_> = self.nodes[at].outs.values().copied().collect();
        let mut have = Vec::new();
        for link in linked {
            let to = self.net.link(link).to.slot;
            if wanted.contains(&to) {
                have.push(to);
            } else {
                self.break_link(link);
            }
        }
        for to in wanted {
            let (dialling, pause) = self.nodes[at].dials[to];
            if to == at || dialling || have.contains(&to) {
                continue;
            }
            self.nodes[at].dials[to].0 = true;
            let run = self.nodes[at].run;
            let pause = pause.max(PAUSE_MIN / 4) / 2 + self.net.latency();
            self.after(pause, Event::Dial { node: at, run, to });
        }
    }

    fn end(&self, slot: usize, up: bool) -> End {
        End {
            slot,
            run: self.nodes[slot].run,
            incarnation: self.nodes[slot].incarnation,
            up,
        }
    }

    /// One attempt to link.
    pub(super) fn dial(&mut self, at: usize, to: usize) {
        self.nodes[at].dials[to].0 = false;
        let linked = self.nodes[at]
            .outs
            .values()
            .any(|link| self.net.link(*link).to.slot == to);
        if linked {
            return;
        }
        let reached = !self.net.is_cut(self.now, at, to)
            && !self.net.is_cut(self.now, to, at)
            && self.nodes[to].answers(self.now);
        if !reached {
            return self.dial_later(at, to);
        }
        let (hello, now) = (self.hello(at), self.time(to));
        let admitted = self.nodes[to]
            .core
            .as_ref()
            .map(|core| core.admit_peer(&hello, now));
        match admitted {
            Some(Ok(())) => {}
            Some(Err(error @ (AdmitError::OwnNodeId { .. } | AdmitError::NodeIdInUse { .. }))) => {
                let reason = error.to_string();
                self.input(at, Input::NodeIdRefused { reason });
                return self.dial_later(at, to);
            }
            _ => return self.dial_later(at, to),
        }
        if at == self.size || to == self.size {
            // Somebody took the second holder of a name for a member.
            self.checker.excuse = Some(Gap::NodeIdTwice);
            self.tally.fault("twin_let_in");
        }
        let link = self.net.dialled(self.end(at, false), self.end(to, true));
        self.transcript
            .fold(&[10, at as u64, to as u64, link as u64]);
        let (from, target) = (self.nodes[at].letter, self.nodes[to].letter);
        self.transcript
            .say(self.now, || format!("{from} dials {target}: link {link}"));
        self.nodes[to]
            .ins
            .entry(hello.incarnation)
            .or_default()
            .insert(link);
        let side = Side::Inbound;
        self.input(to, Input::LinkUp { hello, side });
        // Who is a member may have changed, and with it whom to dial.
        self.tend(to);
        let back = self.net.latency();
        self.after(back, Event::Welcomed { link });
    }

    fn dial_later(&mut self, at: usize, to: usize) {
        if !self.nodes[at].up() {
            return;
        }
        let pause = &mut self.nodes[at].dials[to].1;
        *pause = (*pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        let later = *pause;
        self.nodes[at].dials[to].0 = true;
        let run = self.nodes[at].run;
        self.after(later, Event::Dial { node: at, run, to });
    }

    /// The caller learns that its link stands, unless one end is gone by now.
    pub(super) fn welcomed(&mut self, link: LinkId) {
        let (from, to) = (self.net.link(link).from, self.net.link(link).to);
        let calls = self.nodes[from.slot].up() && self.nodes[from.slot].run == from.run;
        if !calls {
            let side = Side::Inbound;
            return self.after(0, Event::LinkLost { link, side });
        }
        if self.nodes[from.slot].stopped(self.now) {
            self.nodes[from.slot]
                .deferred
                .push(Event::Welcomed { link });
            return;
        }
        let broken = self.net.link(link).broken || !to.up;
        let stands = !broken && self.nodes[to.slot].up() && self.nodes[to.slot].run == to.run;
        if !stands {
            return self.dial_later(from.slot, to.slot);
        }
        self.net.link_mut(link).from.up = true;
        self.nodes[from.slot].dials[to.slot].1 = 0;
        if let Some(older) = self.nodes[from.slot].outs.insert(to.incarnation, link) {
            self.break_link(older);
        }
        let (hello, side) = (self.hello(to.slot), Side::Outbound);
        self.input(from.slot, Input::LinkUp { hello, side });
        self.tend(from.slot);
    }

    /// Ends a link; its ends learn of it one after the other.
    pub(super) fn break_link(&mut self, link: LinkId) {
        self.net.link_mut(link).broken = true;
        for side in [Side::Outbound, Side::Inbound] {
            let late = self.net.latency();
            self.after(late, Event::LinkLost { link, side });
        }
    }

    /// Ends every link from one slot to another.
    pub(super) fn break_links(&mut self, from: usize, to: usize) {
        let stands = |link: &crate::network::Link| {
            (link.from.slot, link.to.slot) == (from, to) && (link.from.up || link.to.up)
        };
        let links = self.net.links().filter(|(_, link)| stands(link));
        let links: Vec<_> = links.map(|(id, _)| id).collect();
        for link in links {
            self.break_link(link);
        }
    }

    /// One end of a link learns that it is over.
    pub(super) fn link_lost(&mut self, id: LinkId, side: Side) {
        let link = self.net.link_mut(id);
        let (from, to) = (link.from, link.to);
        let end = if side == Side::Inbound {
            &mut link.to
        } else {
            &mut link.from
        };
        if !std::mem::replace(&mut end.up, false) {
            return;
        }
        let (at, peer) = match side {
            Side::Inbound => (to.slot, from.incarnation),
            Side::Outbound => (from.slot, to.incarnation),
        };
        self.transcript.fold(&[11, at as u64, id as u64]);
        let letter = self.nodes[at].letter;
        self.transcript
            .say(self.now, || format!("{letter} loses link {id} ({side:?})"));
        let node = &mut self.nodes[at];
        let last = match side {
            Side::Outbound => {
                node.sending.retain(|sending| sending.link != id);
                let newest = node.outs.get(&peer) == Some(&id);
                newest && node.outs.remove(&peer).is_some()
            }
            Side::Inbound => node.ins.get_mut(&peer).is_some_and(|links| {
                links.remove(&id);
                links.is_empty()
            }),
        };
        if last {
            node.receiving &= side == Side::Outbound;
            self.input(at, Input::LinkDown { peer, side });
        }
        if side == Side::Outbound {
            self.tend(at);
        }
    }

    /// Says something on a link.
    pub(super) fn say(&mut self, at: usize, link: LinkId, mut message: PeerMessage) {
        if self.is(Arm::RunningHeadsOnly)
            && let PeerMessage::Grant { heads, .. } = &mut message
        {
            let runs = self.running(at);
            heads.retain(|head: &OriginHead| runs.contains(&head.incarnation));
        }
        if self.is(Arm::HeadsToldOnce)
            && let PeerMessage::Grant { heads, .. } = &mut message
        {
            let told = self.told_once.entry(link).or_default();
            let news: Vec<_> = heads
                .iter()
                .filter(|head| !told.contains(head))
                .copied()
                .collect();
            told.extend(&news);
            *heads = news;
        }
        let ordered = matches!(
            message,
            PeerMessage::SnapshotBegin { .. }
                | PeerMessage::SnapshotVersions { .. }
                | PeerMessage::SnapshotDirectory { .. }
                | PeerMessage::SnapshotEnd { .. }
        );
        match self.net.fate(self.now, link, ordered) {
            Fate::Arrives(at) => self.queue.push(
                at,
                Event::Deliver {
                    link,
                    message: Box::new(message),
                },
            ),
            Fate::Twice(at, again) => {
                for at in [at, again] {
                    let message = Box::new(message.clone());
                    self.queue.push(at, Event::Deliver { link, message });
                }
                self.tally.fault("message_twice");
            }
            Fate::Lost => {
                self.tally.fault("message_lost");
                let letter = self.nodes[at].letter;
                self.transcript.say(self.now, || {
                    format!(
                        "{letter} says on link {link}, and it is lost: {}",
                        word(&message)
                    )
                });
            }
            Fate::Breaks => {
                self.tally.fault("link_broken");
                self.break_link(link);
            }
        }
    }

    /// The digest that is asked for, where what was applied differs from it in one run alone.
    fn digest_but_for_a_run(&self, asks: usize, grants: usize) -> Option<u128> {
        let progress = |at: usize| Some(self.nodes[at].core.as_ref()?.progress());
        let heads = |at: usize| Some(progress(at)?.told_heads());
        let (applied, told) = (heads(asks)?, heads(grants)?);
        let news = told.iter().filter(|head| !applied.contains(head));
        let news: Vec<_> = news.filter(|head| head.bump > 0).collect();
        (news.len() == 1)
            .then(|| progress(grants).map(grapevine_core::progress::Progress::told_digest))?
    }

    /// The incarnations that a sidecar believes to run.
    fn running(&self, at: usize) -> Vec<grapevine_core::id::Incarnation> {
        let now = self.time(at);
        let members = self.nodes[at]
            .core
            .iter()
            .flat_map(|core| core.members(now));
        let members = members.map(|view| view.hello.incarnation);
        members.chain([self.nodes[at].incarnation]).collect()
    }

    /// A message arrives.
    pub(super) fn deliver(&mut self, link: LinkId, mut message: PeerMessage) {
        let (from, to) = (self.net.link(link).from, self.net.link(link).to);
        if !to.up {
            return;
        }
        let at = to.slot;
        self.transcript
            .fold(&[12, at as u64, link as u64, code(&message)]);
        let (letter, sender) = (self.nodes[at].letter, self.nodes[from.slot].letter);
        self.transcript.say(self.now, || {
            format!("{letter} hears from {sender}: {}", word(&message))
        });
        match &message {
            PeerMessage::SnapshotBegin { .. } => self.nodes[at].receiving = true,
            PeerMessage::SnapshotVersions { .. } if self.nodes[at].receiving => {
                if let Some(down) = self.nodes[at].trap.take() {
                    return self.crash_for(at, down, 128);
                }
            }
            _ => {}
        }
        if let PeerMessage::Pruned { stamp, .. } = &mut message
            && self.is(Arm::RemoveByValue)
            && let Some(core) = &self.nodes[at].core
        {
            stamp.join(&core.progress().covered_bumps());
        }
        if self.is(Arm::RelaySpeaksForOthers) {
            self.speak_for_others(&message);
        }
        if self.is(Arm::DigestLacksARun)
            && let PeerMessage::Probe {
                applied: Some(applied),
                ..
            } = &mut message
            && let Some(digest) = self.digest_but_for_a_run(from.slot, at)
        {
            *applied = digest;
        }
        let registers = matches!(message.relieved(), PeerMessage::Directory { .. });
        let condemned = |sim: &Self| {
            let core = sim.nodes[at].core.as_ref();
            core.map_or(0, |core| core.counters().registrations_condemned)
        };
        let before = condemned(self);
        let from = from.incarnation;
        self.input(at, Input::Peer { from, message });
        if registers && condemned(self) > before {
            self.tally.race(Race::LateRegistration);
        }
    }
}

impl Sim<'_> {
    /// The arm's wrong: the origin of a bump hears from those it is to be passed on to that they have it.
    fn speak_for_others(&mut self, message: &PeerMessage) {
        let PeerMessage::Relayed { to, message, .. } = message else {
            return;
        };
        let PeerMessage::Bumps {
            origin,
            first,
            events,
        } = &**message
        else {
            return;
        };
        let runs = |node: &crate::node::Node| node.up() && node.incarnation == *origin;
        let Some(at) = self.nodes.iter().position(runs) else {
            return;
        };
        let above: Vec<_> = (*first..).take(events.len()).collect();
        for &from in to {
            let above = above.clone();
            let message = PeerMessage::Ack {
                watermark: 0,
                above,
                flushed: None,
            };
            self.input(at, Input::Peer { from, message });
        }
    }
}

/// A message as a number, for the transcript's hash.
fn code(message: &PeerMessage) -> u64 {
    match message {
        PeerMessage::Bumps { first, events, .. } => 100 + first * 64 + events.len() as u64,
        PeerMessage::Directory { first, batches, .. } => 200 + first * 64 + batches.len() as u64,
        PeerMessage::Relayed { to, message, .. } => {
            20_000_000 + to.len() as u64 * 1_000_000 + code(message)
        }
        PeerMessage::Ack {
            watermark, above, ..
        } => 300 + watermark * 64 + above.len() as u64,
        PeerMessage::Probe { nonce, mark, .. } => 1_000_000 + nonce * 64 + mark.number,
        PeerMessage::Grant { nonce, heads, .. } => 2_000_000 + nonce * 64 + heads.len() as u64,
        PeerMessage::Pull { first, last, .. } => 3_000_000 + first * 64 + last,
        PeerMessage::Compacted { first, .. } => 4_000_000 + first,
        PeerMessage::SnapshotRequest { id } => 5_000_000 + id,
        PeerMessage::SnapshotBegin { cut, .. } => 6_000_000 + cut.len() as u64,
        PeerMessage::SnapshotVersions {
            classes, floors, ..
        } => 7_000_000 + (classes.len() * 64 + floors.len()) as u64,
        PeerMessage::SnapshotDirectory { registrations, .. } => {
            8_000_000 + registrations.len() as u64
        }
        PeerMessage::SnapshotEnd { id } => 9_000_000 + id,
        PeerMessage::Leave { bump_head, .. } => 10_000_000 + bump_head,
        PeerMessage::Intent(intent) => 14_000_000 + intent.id.number,
        PeerMessage::IntentHeld(intents) => 12_000_000 + intents.len() as u64,
        PeerMessage::IntentSettled { intent, .. } => 13_000_000 + intent.number,
        PeerMessage::RowsCome(intent) => 17_000_000 + intent.id.number,
        PeerMessage::Fill { .. } => 15_000_000,
        PeerMessage::Pruned { places, .. } => 16_000_000 + places.len() as u64,
        PeerMessage::Roster { say, .. } => 11_000_000 + roster_code(say),
    }
}

fn roster_code(say: &Say) -> u64 {
    match say {
        Say::Prepare { number, ballot, .. } => number * 64 + ballot.round,
        Say::Promise { number, ballot, .. } => 10_000 + number * 64 + ballot.round,
        Say::Accept { ballot, next } => 20_000 + next.number * 64 + ballot.round,
        Say::Accepted { number, ballot } => 30_000 + number * 64 + ballot.round,
        Say::Refuse { number, promised } => 40_000 + number * 64 + promised.round,
        Say::Decided(view) => 50_000 + view.number * 64 + view.seats.len() as u64,
    }
}

/// A message in a few words.
fn word(message: &PeerMessage) -> String {
    match message {
        PeerMessage::Bumps {
            origin,
            first,
            events,
        } => {
            let events: Vec<_> = events
                .iter()
                .map(|event| super::process::describe(event))
                .collect();
            format!("{origin:?} from {first}: {}", events.join(", "))
        }
        PeerMessage::Directory {
            origin,
            first,
            batches,
        } => {
            let count: usize = batches.iter().map(|batch| batch.registrations.len()).sum();
            format!("{origin:?} from {first}: {count} registrations")
        }
        PeerMessage::Relayed { to, message, .. } => {
            format!("for {to:?} too: {}", word(message))
        }
        PeerMessage::Grant { heads, .. } => {
            let heads: Vec<_> = heads
                .iter()
                .map(|head| format!("{:?} {}", head.incarnation, head.bump))
                .collect();
            format!("grant, heads {}", heads.join(", "))
        }
        PeerMessage::SnapshotBegin { cut, .. } => {
            let cut: Vec<_> = cut
                .iter()
                .map(|head| format!("{:?} {}", head.incarnation, head.bump))
                .collect();
            format!("snapshot begins, cut {}", cut.join(", "))
        }
        PeerMessage::SnapshotVersions {
            classes, floors, ..
        } => {
            let names: Vec<_> = classes.iter().map(|class| class.class.as_str()).collect();
            format!(
                "snapshot of {} and {} floors",
                names.join(" "),
                floors.len()
            )
        }
        PeerMessage::SnapshotDirectory { registrations, .. } => {
            format!("snapshot of {} registrations", registrations.len())
        }
        other => format!("{other:?}"),
    }
}
