//! The socket that chitchat is given: nothing reaches chitchat unread, and nothing leaves but through one port.
//!
//! chitchat decodes datagrams in its own `UdpSocket` and offers no way to decode bytes that somebody else received. So
//! the public socket is ours, and chitchat's own one is bound to a free loopback port behind it:
//!
//! ```text
//! network -> front -> read, cut -> relay -> inner (chitchat's UdpSocket, decodes)   -> chitchat
//! network <- front <------------- relay <- inner (chitchat's UdpSocket, encodes)   <- chitchat
//! ```
//!
//! One datagram at a time is under way between relay and inner, in each direction, so the sender's address, which the
//! loopback hop hides, is simply remembered. Both directions run inside chitchat's own task; there is no queue here but
//! the kernel's (when the front's is full, datagrams are dropped, and the next round of gossip makes up for them).
//!
//! Incoming digests are cut to the nodes that [`Census`] admits. A node state comes into being in chitchat only
//! through a digest, so the digest that chitchat itself sends is bounded too, and its panic on a full datagram is out of
//! reach. Answers are taken only from those who were asked (`handshake.rs`). Everything refused is counted.
//!
//! chitchat forgets nobody before `dead_grace`, so whoever invents nodes may fill its state for minutes. Hearsay, which is
//! what anybody tells of others, therefore fills three quarters of it at most; the rest is for nodes whose own datagrams
//! come from where they say. While hearsay finds no room, some of those who are told of are greeted, so that the answer
//! gets them theirs ([`Told`]), and what goes out says nothing of nodes that neither live nor have told anything.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use chitchat::transport::{RecvOutcome, SendOutcome, Socket, Transport, UdpSocket as InnerSocket};
use chitchat::{Chitchat, ChitchatEnvelope, ChitchatId, ChitchatMessage, NodeState};
use rand::Rng as _;
use tokio::net::UdpSocket;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::warn;

use crate::handshake::{Handshakes, Heartbeats, plain};
use crate::health::{Vitals, count};
use crate::wire::{
    self, DATAGRAM_BYTES_MAX, DIGEST_BYTES_MAX, Datagram, ENTRY_BYTES_MAX, Node, Refusal,
};

/// Runs of one node id in chitchat's state at once. One that restarts faster hides only its own newest runs.
pub(crate) const RUNS_PER_NODE_MAX: usize = 16;
/// Addresses greeted between two looks at chitchat because they were told of and found no room. Each costs a datagram.
const GREETED_MAX: usize = 4;
/// The hop over loopback is synchronous in the kernel; a datagram that is not there after this was dropped.
const RELAY_TIMEOUT: Duration = Duration::from_millis(500);

/// What outlives one chitchat instance, and what the guard must know to judge datagrams.
pub(crate) struct Guard {
    pub(crate) front: Arc<UdpSocket>,
    pub(crate) cluster_id: String,
    pub(crate) own: ChitchatId,
    pub(crate) max_nodes: usize,
    pub(crate) vitals: Arc<Vitals>,
    /// Counts what was sent, for those who wait for it.
    pub(crate) sent: Sent,
    pub(crate) told: std::sync::Mutex<Told>,
    /// chitchat's state, set right after it starts; datagrams before that are dropped.
    pub(crate) chitchat: OnceLock<Arc<Mutex<Chitchat>>>,
}

/// What chitchat has sent, by type.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// Handshakes begun.
    pub(crate) syns: AtomicU64,
    /// Handshakes ended: a peer has then been given our news.
    pub(crate) acks: AtomicU64,
    /// Told after each Ack.
    pub(crate) ack: Notify,
    /// Makes the next send panic, as chitchat itself may.
    #[cfg(test)]
    pub(crate) panic_next: std::sync::atomic::AtomicBool,
}

/// A few of the addresses of nodes that were told of and found no room, each as likely as any other.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// All that were told of since the last look.
    seen: usize,
    some: Vec<SocketAddr>,
}

impl Told {
    fn note(&mut self, addr: SocketAddr) {
        if self.some.contains(&addr) {
            return;
        }
        self.seen += 1;
        if self.some.len() < GREETED_MAX {
            self.some.push(addr);
        } else if let Some(place) = self.some.get_mut(rand::rng().random_range(0..self.seen)) {
            *place = addr;
        }
    }

    /// Gives them, and begins anew.
    pub(crate) fn take(&mut self) -> Vec<SocketAddr> {
        std::mem::take(self).some
    }
}

/// Hands chitchat a guarded socket.
pub(crate) struct GuardedTransport(pub(crate) Arc<Guard>);

#[async_trait]
impl Transport for GuardedTransport {
    async fn open(&self, _listen_addr: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let inner = match InnerSocket::open((Ipv4Addr::LOCALHOST, 0).into()).await {
            Ok(inner) => inner,
            Err(_) => InnerSocket::open((Ipv6Addr::LOCALHOST, 0).into()).await?,
        };
        let relay = Relay::open(inner.local_addr()?).await?;
        Ok(Box::new(GuardedSocket {
            guard: Arc::clone(&self.0),
            inner,
            relay,
            inbound: vec![0; DATAGRAM_BYTES_MAX],
            outbound: vec![0; DATAGRAM_BYTES_MAX],
            stage: Stage::Idle,
            handshakes: Handshakes::default(),
            heartbeats: Heartbeats::default(),
        }))
    }
}

/// Our end of the loopback hop; connected, so that the kernel drops what others send to it.
struct Relay {
    socket: UdpSocket,
    addr: SocketAddr,
}

impl Relay {
    async fn open(inner: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind((inner.ip(), 0)).await?;
        socket.connect(inner).await?;
        let addr = socket.local_addr()?;
        Ok(Self { socket, addr })
    }
}

/// How far the current incoming datagram has come. Kept in the socket because chitchat cancels `recv` at will.
enum Stage {
    Idle,
    Received { len: usize, from: SocketAddr },
    Relayed { from: SocketAddr, deadline: Instant },
}

struct GuardedSocket {
    guard: Arc<Guard>,
    inner: InnerSocket,
    relay: Relay,
    inbound: Vec<u8>,
    outbound: Vec<u8>,
    stage: Stage,
    handshakes: Handshakes,
    heartbeats: Heartbeats,
}

#[async_trait]
impl Socket for GuardedSocket {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.guard.front.local_addr()?)
    }

    /// Never fails for a single datagram: gossip repeats itself, and a warning each time would fill the log.
    async fn send(
        &mut self,
        to: SocketAddr,
        envelope: ChitchatEnvelope,
    ) -> anyhow::Result<SendOutcome> {
        #[cfg(test)]
        assert!(
            !self.guard.sent.panic_next.load(Ordering::Relaxed),
            "a test asked for it"
        );
        let is_syn = matches!(envelope.message, ChitchatMessage::Syn { .. });
        let is_ack = matches!(envelope.message, ChitchatMessage::Ack { .. });
        // Before it is sent: the answer may be here before we go on.
        if is_syn {
            self.handshakes.syn_sent(to, Instant::now());
        } else if matches!(envelope.message, ChitchatMessage::SynAck { .. }) {
            self.handshakes.syn_ack_sent(to, Instant::now());
        }
        let sent = self.send_through(to, envelope).await;
        let meters = &self.guard.vitals.meters;
        let num_bytes_sent = if let Ok(bytes) = sent {
            count(&meters.datagrams_sent);
            meters.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
            bytes
        } else {
            count(&meters.send_failures);
            0
        };
        if is_syn {
            count(&self.guard.sent.syns);
        }
        if is_ack {
            count(&self.guard.sent.acks);
            self.guard.sent.ack.notify_one();
        }
        Ok(SendOutcome { num_bytes_sent })
    }

    /// Cancel safe: whatever was taken from the front waits in `stage`.
    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        loop {
            match self.stage {
                Stage::Idle => {
                    let (len, from) = self.receive().await?;
                    self.stage = Stage::Received { len, from };
                }
                Stage::Received { len, from } => {
                    let GuardedSocket {
                        guard,
                        inbound,
                        handshakes,
                        heartbeats,
                        ..
                    } = self;
                    let bytes = &inbound[..len];
                    let accepted = guard.judge(bytes, from, handshakes, heartbeats).await;
                    let Some(bytes) = accepted else {
                        self.stage = Stage::Idle;
                        continue;
                    };
                    let relayed = self.relay.socket.send(&bytes).await;
                    // No await between the send and this: a cancelled send has sent nothing.
                    self.stage = Stage::Relayed {
                        from,
                        deadline: Instant::now() + RELAY_TIMEOUT,
                    };
                    if relayed.is_err() {
                        self.stage = Stage::Idle;
                        count(&self.guard.vitals.meters.relay_losses);
                    }
                }
                Stage::Relayed { from, deadline } => {
                    if let Ok(outcome) = timeout_at(deadline, self.inner.recv()).await {
                        let outcome = outcome?;
                        if outcome.from_addr == self.relay.addr {
                            self.stage = Stage::Idle;
                            count(&self.guard.vitals.meters.datagrams_received);
                            return Ok(RecvOutcome {
                                from_addr: from,
                                ..outcome
                            });
                        }
                    } else {
                        self.replace_relay().await?;
                        self.stage = Stage::Idle;
                    }
                }
            }
        }
    }
}

impl GuardedSocket {
    async fn receive(&mut self) -> io::Result<(usize, SocketAddr)> {
        loop {
            match self.guard.front.recv_from(&mut self.inbound).await {
                Ok(received) => return Ok(received),
                // An ICMP answer to something we sent, or a moment without memory: the socket is sound.
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn send_through(
        &mut self,
        to: SocketAddr,
        envelope: ChitchatEnvelope,
    ) -> anyhow::Result<usize> {
        self.inner.send(self.relay.addr, envelope).await?;
        let received = timeout(RELAY_TIMEOUT, self.relay.socket.recv(&mut self.outbound)).await;
        let Ok(Ok(len)) = received else {
            self.replace_relay().await?;
            anyhow::bail!("lost between chitchat's socket and the public one");
        };
        let bytes = &self.outbound[..len];
        let cut = self.guard.cut(bytes).await;
        let bytes = cut.as_deref().unwrap_or(bytes);
        Ok(self.guard.front.send_to(bytes, to).await?)
    }

    /// A new port, so that a datagram that was late cannot be taken for a later one.
    async fn replace_relay(&mut self) -> anyhow::Result<()> {
        count(&self.guard.vitals.meters.relay_losses);
        self.relay = Relay::open(self.inner.local_addr()?).await?;
        Ok(())
    }
}

fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkUnreachable,
        OutOfMemory,
    };
    matches!(
        error.kind(),
        ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkUnreachable
            | OutOfMemory
    )
}

impl Guard {
    /// The datagram as chitchat may have it, or `None` when it may not.
    async fn judge(
        &self,
        bytes: &[u8],
        from: SocketAddr,
        handshakes: &Handshakes,
        heartbeats: &mut Heartbeats,
    ) -> Option<Vec<u8>> {
        let meters = &self.vitals.meters;
        let own = Node {
            id: &self.own.node_id,
            generation: self.own.generation_id,
            addr: self.own.gossip_advertise_addr,
        };
        let datagram = match wire::read(bytes, &self.cluster_id, &own) {
            Ok(datagram) => datagram,
            Err(refusal) => {
                count(match refusal {
                    Refusal::Malformed => &meters.malformed_datagrams,
                    Refusal::ForeignCluster => {
                        self.tell_of_strangers(from);
                        &meters.foreign_datagrams
                    }
                    Refusal::BadDelta => &meters.bad_deltas,
                });
                return None;
            }
        };
        let now = Instant::now();
        let asked = match datagram.kind {
            wire::SYN_ACK => handshakes.awaits_syn_ack(from, now),
            wire::ACK => handshakes.awaits_ack(from, now),
            _ => true,
        };
        if !asked {
            count(&meters.unasked_datagrams);
            return None;
        }
        let chitchat = self.chitchat.get()?;
        let keep = {
            let chitchat = chitchat.lock().await;
            let known = chitchat.node_states();
            heartbeats.keep(known);
            self.admit(&datagram, from, known, heartbeats, now)
        };
        Some(datagram.with_entries(&keep))
    }

    /// Says that another cluster gossips here: most likely a seed or `cluster.name` is wrong. The first, the tenth and the
    /// hundredth time and so on, for it goes on several times a second, and anybody can send a datagram.
    fn tell_of_strangers(&self, from: SocketAddr) {
        let before = self.vitals.meters.foreign_datagrams.load(Ordering::Relaxed);
        let datagrams = before.saturating_add(1);
        if before == 0 || datagrams.ilog10() > before.ilog10() {
            let cluster = self.cluster_id.as_str();
            warn!(%from, cluster, datagrams, "gossip of another cluster is ignored: is a seed wrong, or cluster.name?");
        }
    }

    /// While hearsay fills its share: a datagram of ours without those nodes that neither live nor have told anything.
    /// They may be invented, and would crowd others. Of those that told something nothing is left out: peers would tell
    /// it all to us again and again.
    async fn cut(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let chitchat = self.chitchat.get()?.lock().await;
        let known = chitchat.node_states();
        if !is_crowded(known, self.max_nodes) {
            return None;
        }
        let datagram = wire::read_own(bytes)?;
        let live: HashSet<&ChitchatId> = chitchat.live_nodes().collect();
        let worth_telling = |entry: &wire::Entry<'_>| {
            let run = run_of(entry);
            let told_something = |state: &NodeState| state.max_version() > 0;
            live.contains(&run) || known.get(&run).is_some_and(told_something)
        };
        let keep: Vec<bool> = datagram.entries.iter().map(worth_telling).collect();
        Some(datagram.with_entries(&keep))
    }

    fn admit<S>(
        &self,
        datagram: &Datagram<'_>,
        from: SocketAddr,
        known: &BTreeMap<ChitchatId, S>,
        heartbeats: &mut Heartbeats,
        now: Instant,
    ) -> Vec<bool> {
        let meters = &self.vitals.meters;
        // Counted only when something unknown comes: in a settled cluster nothing does.
        let mut census: Option<Census<'_>> = None;
        let mut judge_entry = |entry: &wire::Entry<'_>| {
            if !entry.sane {
                count(&meters.bad_entries);
                return false;
            }
            let Node { id, addr, .. } = entry.node;
            let run = run_of(entry);
            if known.contains_key(&run) {
                let plausible = run == self.own || heartbeats.plausible(&run, entry.heartbeat, now);
                if !plausible {
                    count(&meters.bad_entries);
                }
                return plausible;
            }
            let by_itself = plain(addr) == plain(from);
            let census = census.get_or_insert_with(|| Census::of(known));
            let admitted = census.admit(id, addr, self.max_nodes, by_itself);
            if !admitted {
                count(&meters.refused_entries);
                if !by_itself {
                    self.told
                        .lock()
                        .expect("invariant: nothing panics under this lock")
                        .note(addr);
                }
            }
            admitted && heartbeats.plausible(&run, entry.heartbeat, now)
        };
        datagram.entries.iter().map(&mut judge_entry).collect()
    }
}

fn run_of(entry: &wire::Entry<'_>) -> ChitchatId {
    let Node {
        id,
        generation,
        addr,
    } = entry.node;
    ChitchatId::new(id, generation, addr)
}

/// How much of a bound hearsay may fill.
fn hearsay(bound: usize) -> usize {
    bound - bound / 4
}

/// Whether hearsay may find no room.
fn is_crowded<S>(known: &BTreeMap<ChitchatId, S>, max_nodes: usize) -> bool {
    let bytes = known
        .keys()
        .map(|id| wire::entry_bytes(&id.node_id, id.gossip_advertise_addr))
        .sum::<usize>();
    known.len() >= hearsay(max_nodes) || bytes + ENTRY_BYTES_MAX > hearsay(DIGEST_BYTES_MAX)
}

/// How full chitchat's state is: nodes, runs per node id, and bytes in a digest.
pub(crate) struct Census<'a> {
    pub(crate) nodes: usize,
    pub(crate) bytes: usize,
    runs: HashMap<std::borrow::Cow<'a, str>, usize>,
}

impl<'a> Census<'a> {
    pub(crate) fn of<S>(known: &'a BTreeMap<ChitchatId, S>) -> Self {
        let mut census = Self {
            nodes: 0,
            bytes: 0,
            runs: HashMap::new(),
        };
        for id in known.keys() {
            census.nodes += 1;
            census.bytes += wire::entry_bytes(&id.node_id, id.gossip_advertise_addr);
            *census.runs.entry((&*id.node_id).into()).or_default() += 1;
        }
        census
    }

    /// Takes in one more node if every bound allows; for hearsay they are narrower than for who tells of itself.
    fn admit(
        &mut self,
        node_id: &str,
        addr: SocketAddr,
        max_nodes: usize,
        by_itself: bool,
    ) -> bool {
        let share = |bound| if by_itself { bound } else { hearsay(bound) };
        let bytes = self.bytes + wire::entry_bytes(node_id, addr);
        let runs = self.runs.get(node_id).copied().unwrap_or(0);
        if self.nodes >= share(max_nodes)
            || bytes > share(DIGEST_BYTES_MAX)
            || runs >= share(RUNS_PER_NODE_MAX)
        {
            return false;
        }
        self.nodes += 1;
        self.bytes = bytes;
        self.runs.insert(node_id.to_owned().into(), runs + 1);
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn addr() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 7101))
    }

    fn known(count: usize) -> BTreeMap<ChitchatId, bool> {
        (0..count)
            .map(|n| (ChitchatId::new(format!("node-{n:04}"), 1, addr()), true))
            .collect()
    }

    #[test]
    fn nodes_are_admitted_up_to_the_bound() {
        let known = known(9);
        let mut census = Census::of(&known);
        assert!(census.admit("new-1", addr(), 10, true));
        assert!(!census.admit("new-2", addr(), 10, true));
        assert_eq!(census.nodes, 10);
    }

    #[test]
    fn g10_hearsay_leaves_room_for_those_who_tell_of_themselves() {
        let known = known(0);
        let admitted = |names: &mut dyn FnMut(usize) -> String, census: &mut Census<'_>, itself| {
            (0..2_000)
                .filter(|n| census.admit(&names(*n), addr(), 100, itself))
                .count()
        };
        // Nodes.
        let mut census = Census::of(&known);
        let mut named = |n| format!("invented-{n}");
        assert_eq!(admitted(&mut named, &mut census, false), 75);
        let mut named = |n| format!("real-{n}");
        assert_eq!(admitted(&mut named, &mut census, true), 25);
        // Runs of one.
        let mut census = Census::of(&known);
        let mut named = |_| "one".to_owned();
        assert_eq!(admitted(&mut named, &mut census, false), 12);
        assert_eq!(admitted(&mut named, &mut census, true), 4);
        // Bytes.
        let mut census = Census::of(&known);
        while census.admit(&format!("{:064}", census.nodes), addr(), 2_000, false) {}
        assert!(census.bytes <= DIGEST_BYTES_MAX * 3 / 4 + 1);
        let before = census.nodes;
        while census.admit(&format!("{:064}", census.nodes), addr(), 2_000, true) {}
        assert!(census.nodes > before && census.bytes <= DIGEST_BYTES_MAX);
    }

    #[test]
    fn g10_few_of_those_told_of_are_greeted_and_any_may_be() {
        let told_of = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let mut greeted = [0_usize; 3];
        for _ in 0..300 {
            let mut told = Told::default();
            (1..=1_000).for_each(|port| told.note(told_of(port)));
            let some = told.take();
            assert_eq!(some.len(), GREETED_MAX);
            for (count, ports) in greeted.iter_mut().zip([1..334, 334..667, 667..1_001]) {
                *count += some
                    .iter()
                    .filter(|addr| ports.contains(&addr.port()))
                    .count();
            }
            assert_eq!(told.take(), []);
        }
        assert!(greeted.iter().all(|count| *count > 250), "{greeted:?}");
        let mut told = Told::default();
        (0..100).for_each(|_| told.note(told_of(1)));
        assert_eq!(told.take(), [told_of(1)]);
    }

    #[test]
    fn g10_a_node_that_restarts_without_end_takes_only_its_own_quota() {
        let known = known(3);
        let mut census = Census::of(&known);
        let admitted = (0..100)
            .filter(|_| census.admit("node-0000", addr(), 1_000, true))
            .count();
        assert_eq!(admitted, RUNS_PER_NODE_MAX - 1);
        assert!(census.admit("neighbour", addr(), 1_000, false));
    }

    #[test]
    fn digest_bytes_stay_within_a_datagram_whatever_the_names() {
        let known = known(0);
        let mut census = Census::of(&known);
        let addr: SocketAddr = "[2001:db8::1]:9".parse().unwrap();
        let admitted = (0..2_000)
            .filter(|n| census.admit(&format!("{n:064}"), addr, 2_000, true))
            .count();
        assert_eq!(admitted, 488);
        assert!(census.bytes <= DIGEST_BYTES_MAX);
    }
}
