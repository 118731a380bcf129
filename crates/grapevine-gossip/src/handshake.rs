//! What an answer must be an answer to, and what a heartbeat may have become since it was last heard.
//!
//! Only a Syn names its cluster, and is refused when that is another one. The `SynAck` that answers it, and the Ack
//! that ends the handshake, name none. So they are taken only from an address with which a handshake is open: one that a
//! Syn was sent to is owed a `SynAck`, one that a `SynAck` was sent to an Ack, each for [`OPEN_FOR`]. Several may be
//! under way with one address, and datagrams may be repeated, so an answer does not close it. Whoever answers from
//! another address than the one it advertises is heard through the handshakes that it begins itself.
//!
//! chitchat keeps the highest heartbeat that anybody told of a run. One that is absurdly high would make the run look
//! silent for ever, so a run's heartbeat may rise only as fast as [`HEARTBEATS_PER_S`] from what was first heard of it,
//! and [`HEARTBEATS_AHEAD`] beyond that. It rises by one with each round and each datagram that the run takes; the room
//! ahead is for what was missed while this machine was suspended, which its clock does not count.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use chitchat::ChitchatId;
use tokio::time::Instant;

/// How long an answer is waited for. Longer than any network takes; shorter than who begins nothing would wish.
pub(crate) const OPEN_FOR: Duration = Duration::from_secs(10);
/// Addresses with open handshakes, of each kind. Beyond it new ones are not noted, and their answers are refused; gossip
/// repeats itself. Peers are 1,024 at most.
const OPEN_MAX: usize = 4_096;
/// Handshakes begun by others are answered whoever they are, so one kind must not push out the other.
type Since = BTreeMap<SocketAddr, Instant>;

/// More than a sidecar that gossips with a thousand others every 10 ms makes.
const HEARTBEATS_PER_S: u64 = 10_000;
/// A day at the usual pace.
const HEARTBEATS_AHEAD: u64 = 1_000_000;

/// Handshakes under way.
#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    /// Who was sent a Syn.
    begun: Since,
    /// Who was sent a `SynAck`.
    answered: Since,
}

impl Handshakes {
    pub(crate) fn syn_sent(&mut self, to: SocketAddr, now: Instant) {
        note(&mut self.begun, to, now);
    }

    pub(crate) fn syn_ack_sent(&mut self, to: SocketAddr, now: Instant) {
        note(&mut self.answered, to, now);
    }

    pub(crate) fn awaits_syn_ack(&self, from: SocketAddr, now: Instant) -> bool {
        is_open(&self.begun, from, now)
    }

    pub(crate) fn awaits_ack(&self, from: SocketAddr, now: Instant) -> bool {
        is_open(&self.answered, from, now)
    }
}

/// Sockets that speak IPv6 show IPv4 addresses mapped into it.
pub(crate) fn plain(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn note(since: &mut Since, addr: SocketAddr, now: Instant) {
    let addr = plain(addr);
    if since.len() >= OPEN_MAX && !since.contains_key(&addr) {
        since.retain(|_, sent| now.saturating_duration_since(*sent) < OPEN_FOR);
        if since.len() >= OPEN_MAX {
            return;
        }
    }
    since.insert(addr, now);
}

fn is_open(since: &Since, addr: SocketAddr, now: Instant) -> bool {
    since
        .get(&plain(addr))
        .is_some_and(|sent| now.saturating_duration_since(*sent) < OPEN_FOR)
}

/// What was first heard of each run that chitchat knows.
#[derive(Debug, Default)]
pub(crate) struct Heartbeats {
    first: BTreeMap<ChitchatId, (u64, Instant)>,
}

impl Heartbeats {
    /// Whether a run that is known can have come to this heartbeat. One that was never asked for begins with it.
    pub(crate) fn plausible(&mut self, run: &ChitchatId, heartbeat: u64, now: Instant) -> bool {
        let Some((first, since)) = self.first.get(run) else {
            self.first.insert(run.clone(), (heartbeat, now));
            return true;
        };
        let elapsed_s = now.saturating_duration_since(*since).as_secs();
        let most = HEARTBEATS_AHEAD
            .saturating_add(elapsed_s.saturating_mul(HEARTBEATS_PER_S))
            .saturating_add(*first);
        heartbeat <= most
    }

    /// Forgets runs that chitchat forgot, once there are as many of them as of those it knows.
    pub(crate) fn keep<S>(&mut self, known: &BTreeMap<ChitchatId, S>) {
        if self.first.len() > 2 * known.len() {
            self.first.retain(|run, _| known.contains_key(run));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn an_answer_is_awaited_from_whom_it_is_owed_and_not_for_ever() {
        let now = Instant::now();
        let mut handshakes = Handshakes::default();
        handshakes.syn_sent(addr(1), now);
        handshakes.syn_ack_sent("[::ffff:127.0.0.1]:2".parse().unwrap(), now);
        assert!(handshakes.awaits_syn_ack(addr(1), now));
        assert!(handshakes.awaits_syn_ack(addr(1), now + OPEN_FOR / 2));
        assert!(!handshakes.awaits_ack(addr(1), now));
        assert!(handshakes.awaits_ack(addr(2), now), "mapped or not");
        assert!(!handshakes.awaits_syn_ack(addr(2), now));
        assert!(!handshakes.awaits_syn_ack(addr(3), now));
        assert!(!handshakes.awaits_syn_ack(addr(1), now + OPEN_FOR));
    }

    #[test]
    fn g10_open_handshakes_are_bounded_and_room_comes_back() {
        let now = Instant::now();
        let mut handshakes = Handshakes::default();
        let all: Vec<_> = (1..=u16::MAX).map(addr).collect();
        for addr in &all {
            handshakes.syn_ack_sent(*addr, now);
        }
        assert_eq!(handshakes.answered.len(), OPEN_MAX);
        assert!(!handshakes.awaits_ack(addr(u16::MAX), now));
        handshakes.syn_sent(addr(u16::MAX), now);
        assert!(
            handshakes.awaits_syn_ack(addr(u16::MAX), now),
            "its own room"
        );
        let later = now + OPEN_FOR;
        handshakes.syn_ack_sent(addr(u16::MAX), later);
        assert!(handshakes.awaits_ack(addr(u16::MAX), later));
        assert_eq!(handshakes.answered.len(), 1);
    }

    #[test]
    fn a_heartbeat_rises_no_faster_than_anybody_gossips() {
        let now = Instant::now();
        let run = ChitchatId::new("a".to_owned(), 1, addr(1));
        let mut heartbeats = Heartbeats::default();
        assert!(heartbeats.plausible(&run, 5, now), "the first is believed");
        assert!(heartbeats.plausible(&run, 5 + HEARTBEATS_AHEAD, now));
        assert!(!heartbeats.plausible(&run, 6 + HEARTBEATS_AHEAD, now));
        assert!(!heartbeats.plausible(&run, 1 << 61, now));
        let hour = now + Duration::from_hours(1);
        assert!(heartbeats.plausible(&run, 3_600 * HEARTBEATS_PER_S, hour));
        assert!(!heartbeats.plausible(&run, 1 << 61, hour));
        let successor = ChitchatId::new("a".to_owned(), 2, addr(1));
        assert!(
            heartbeats.plausible(&successor, 0, hour),
            "a run of its own"
        );
        heartbeats.keep(&BTreeMap::from([(successor.clone(), 1)]));
        assert_eq!(heartbeats.first.len(), 2);
        heartbeats.keep(&BTreeMap::<_, u8>::new());
        assert_eq!(heartbeats.first.len(), 0);
    }
}
