//! What lies between regions: a relay before each sidecar, at the addresses that it advertises, through which everything that others say to
//! it has to go, and takes its time.
//!
//! *Streams.* Bytes arrive after the delay from their sender to their receiver, in order. Of their packets some are lost. TCP sends a
//! lost packet again, and what is behind it waits: so the piece in which it is arrives later by one retransmission timeout, and by
//! twice the last one for each further time that it is lost. The timeout is the one that Linux comes to on a steady path: a round trip
//! and 200 ms. What TCP recovers earlier, from later packets' acknowledgements, and what losses do to its window is not modelled, nor is the
//! round trip of connecting.
//!
//! *Datagrams* arrive after the same delay, or are dropped. One is passed on from the socket of its sender's relay: so what is answered
//! comes through this relay too.
//!
//! Who has dialled is asked of the system ([`super::dialer`]): sidecars say it only within their stream.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::dialer;
use super::regions::{COUNT, Delays};
use crate::cluster::Place;

/// What a packet carries on most paths.
const SEGMENT_BYTES: usize = 1_448;
/// Linux adds it to the round trip.
const RTO_EXTRA: Duration = Duration::from_millis(200);
/// Pieces of one stream that are under way; then the reader waits, as at a window that is full.
const PIECES_MAX: usize = 1_024;
/// Datagrams to one sidecar that are under way; more are dropped.
const DATAGRAMS_MAX: usize = 4_096;
const DATAGRAM_BYTES_MAX: usize = 65_536;
const BUFFER_BYTES: usize = 64 << 10;

/// Relays before all sidecars; dropping them ends them.
pub(super) struct Relays {
    between: Arc<Between>,
    know: watch::Sender<Vec<u32>>,
    _tasks: JoinSet<()>,
}

/// What relays share.
struct Between {
    delays: Delays,
    /// The share of packets that are lost.
    loss: f64,
    /// Where the sidecars listen.
    places: Vec<Place>,
    /// The sockets that are advertised for gossip.
    gossip: Vec<UdpSocket>,
    /// The sidecars' processes, once they are known.
    processes: watch::Receiver<Vec<u32>>,
    passed: Passed,
}

/// What was passed on, and what was not.
#[derive(Debug, Default)]
struct Passed {
    pieces: AtomicU64,
    late: AtomicU64,
    datagrams: AtomicU64,
    dropped: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Relays {
    /// Begins to relay to these places, which from now on advertise where the relays listen.
    pub(super) async fn start(
        places: &mut [Place],
        delays: &Delays,
        loss: f64,
    ) -> io::Result<Self> {
        let (mut listeners, mut gossip) = (Vec::new(), Vec::new());
        for place in &mut *places {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            place.advertised = Some([listener.local_addr()?, socket.local_addr()?]);
            listeners.push(listener);
            gossip.push(socket);
        }
        let (know, processes) = watch::channel(Vec::new());
        let between = Arc::new(Between {
            delays: *delays,
            loss,
            places: places.to_vec(),
            gossip,
            processes,
            passed: Passed::default(),
        });
        let mut tasks = JoinSet::new();
        for (to, listener) in listeners.into_iter().enumerate() {
            tasks.spawn(Arc::clone(&between).streams(to, listener));
            tasks.spawn(Arc::clone(&between).datagrams(to));
        }
        Ok(Self {
            between,
            know,
            _tasks: tasks,
        })
    }

    /// The processes of the sidecars, in their order. What they dial waits for it.
    pub(super) fn know(&self, processes: Vec<u32>) {
        self.know.send_replace(processes);
    }

    /// What they have passed on so far.
    pub(super) fn told(&self) -> String {
        let passed = &self.between.passed;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        format!(
            "{} pieces of streams, {} of them late for a loss; {} datagrams, and {} dropped",
            load(&passed.pieces),
            load(&passed.late),
            load(&passed.datagrams),
            load(&passed.dropped)
        )
    }
}

impl Between {
    /// Takes what is dialled to one sidecar.
    async fn streams(self: Arc<Self>, to: usize, listener: TcpListener) {
        // They end with the relay.
        let mut streams = JoinSet::new();
        while let Ok((inbound, dialer)) = listener.accept().await {
            while streams.try_join_next().is_some() {}
            streams.spawn(Arc::clone(&self).stream(to, inbound, dialer));
        }
    }

    async fn stream(self: Arc<Self>, to: usize, inbound: TcpStream, dialer: SocketAddr) {
        // Either end's going away is the other's to notice.
        let _ = self.pass_both_ways(to, inbound, dialer).await;
    }

    async fn pass_both_ways(
        &self,
        to: usize,
        inbound: TcpStream,
        dialer: SocketAddr,
    ) -> io::Result<()> {
        let mut processes = self.processes.clone();
        let known = processes.wait_for(|known| !known.is_empty()).await;
        let known = known.map_err(io::Error::other)?.clone();
        let here = inbound.local_addr()?;
        let asked = tokio::task::spawn_blocking(move || dialer::of(dialer, here, &known));
        let Some(from) = asked.await??.filter(|from| *from < COUNT) else {
            return Ok(());
        };
        let outbound = TcpStream::connect(self.places[to].peer).await?;
        inbound.set_nodelay(true)?;
        outbound.set_nodelay(true)?;
        let (from_dialer, to_dialer) = inbound.into_split();
        let (from_dialled, to_dialled) = outbound.into_split();
        tokio::try_join!(
            self.pass(from, to, from_dialer, to_dialled),
            self.pass(to, from, from_dialled, to_dialer),
        )?;
        Ok(())
    }

    /// Passes on what one says to the other until it has said all.
    async fn pass(
        &self,
        from: usize,
        to: usize,
        mut read: OwnedReadHalf,
        mut write: OwnedWriteHalf,
    ) -> io::Result<()> {
        let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
        let delay = self.delays[from][to];
        let round_trip = delay + self.delays[to][from];
        let reader = async move {
            let mut random = SmallRng::from_rng(&mut rand::rng());
            let mut buffer = vec![0; BUFFER_BYTES];
            let mut due = Instant::now();
            loop {
                let bytes = read.read(&mut buffer).await?;
                if bytes == 0 {
                    return io::Result::Ok(());
                }
                count(&self.passed.pieces);
                let late = late(bytes, self.loss, round_trip, &mut random);
                if !late.is_zero() {
                    count(&self.passed.late);
                }
                // Never before what was said before.
                due = due.max(Instant::now() + delay + late);
                let piece = (due, buffer[..bytes].to_vec());
                if sender.send(piece).await.is_err() {
                    return Ok(());
                }
            }
        };
        let writer = async move {
            while let Some((due, bytes)) = pieces.recv().await {
                tokio::time::sleep_until(due).await;
                write.write_all(&bytes).await?;
            }
            write.shutdown().await
        };
        tokio::try_join!(reader, writer)?;
        Ok(())
    }

    /// Takes the datagrams to one sidecar.
    async fn datagrams(self: Arc<Self>, to: usize) {
        let mut random = SmallRng::from_rng(&mut rand::rng());
        let room = Arc::new(Semaphore::new(DATAGRAMS_MAX));
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        let mut under_way = JoinSet::new();
        loop {
            while under_way.try_join_next().is_some() {}
            // What could not be delivered is told by an error, as an answer of the system's.
            let Ok((bytes, sender)) = self.gossip[to].recv_from(&mut buffer).await else {
                continue;
            };
            let from = self.places.iter().position(|place| place.gossip == sender);
            let room = Arc::clone(&room).try_acquire_owned();
            let (Some(from), Ok(room)) = (from, room) else {
                continue;
            };
            if random.random_bool(self.loss) {
                count(&self.passed.dropped);
                continue;
            }
            count(&self.passed.datagrams);
            let due = Instant::now() + self.delays[from][to];
            let (between, datagram) = (Arc::clone(&self), buffer[..bytes].to_vec());
            under_way.spawn(async move {
                tokio::time::sleep_until(due).await;
                let receiver = between.places[to].gossip;
                // Whether it is there is not a datagram's concern.
                let _ = between.gossip[from].send_to(&datagram, receiver).await;
                drop(room);
            });
        }
    }
}

/// How much later a piece of a stream comes for the packets of it that are lost.
fn late(bytes: usize, loss: f64, round_trip: Duration, random: &mut SmallRng) -> Duration {
    let segments = u16::try_from(bytes.div_ceil(SEGMENT_BYTES)).unwrap_or(u16::MAX);
    let mut timeout = round_trip + RTO_EXTRA;
    let mut late = Duration::ZERO;
    let mut lost = 1.0 - (1.0 - loss).powi(segments.into());
    while random.random_bool(lost) {
        late += timeout;
        timeout *= 2;
        lost = loss;
    }
    late
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn delays(delay: Duration) -> Delays {
        [[delay; COUNT]; COUNT]
    }

    #[test]
    fn a_loss_costs_a_timeout_and_one_more_twice_that() {
        let mut random = SmallRng::seed_from_u64(1);
        let round_trip = Duration::from_millis(100);
        let mut each = std::collections::BTreeMap::new();
        for _ in 0..100_000 {
            let late = late(100, 0.02, round_trip, &mut random).as_millis();
            *each.entry(late).or_insert(0_u32) += 1;
        }
        assert!((97_700..98_300).contains(&each[&0]), "{each:?}");
        assert!((1_750..2_150).contains(&each[&300]), "{each:?}");
        assert!((15..75).contains(&each[&900]), "{each:?}");
        // Of 45 packets one is lost in six of ten pieces.
        let pieces = (0..10_000).filter(|_| !late(65_000, 0.02, round_trip, &mut random).is_zero());
        assert!((5_700..6_250).contains(&pieces.count()));
        assert_eq!(late(65_000, 0.0, round_trip, &mut random), Duration::ZERO);
    }

    /// Two sidecars that are not there: what they would say is said by the test, which is the first one's process.
    #[tokio::test]
    async fn what_is_said_takes_its_time_in_both_directions() {
        let mut places = Place::free(2).unwrap();
        let delay = Duration::from_millis(40);
        let relays = Relays::start(&mut places, &delays(delay), 0.0)
            .await
            .unwrap();
        let second = TcpListener::bind(places[1].peer).await.unwrap();
        let [peer, gossip] = places[1].advertised.unwrap();
        let mut dialled = TcpStream::connect(peer).await.unwrap();
        relays.know(vec![std::process::id(), 1 << 30]);
        let (mut taken, _) = second.accept().await.unwrap();
        let begun = Instant::now();
        dialled.write_all(b"question").await.unwrap();
        let mut said = [0; 8];
        taken.read_exact(&mut said).await.unwrap();
        assert!(&said == b"question" && begun.elapsed() >= delay);
        taken.write_all(b"answered").await.unwrap();
        dialled.read_exact(&mut said).await.unwrap();
        assert!(&said == b"answered" && begun.elapsed() >= 2 * delay);
        // The end of what is said passes, too.
        dialled.shutdown().await.unwrap();
        assert_eq!(taken.read(&mut said).await.unwrap(), 0);

        let one = UdpSocket::bind(places[0].gossip).await.unwrap();
        let other = UdpSocket::bind(places[1].gossip).await.unwrap();
        let begun = Instant::now();
        one.send_to(b"question", gossip).await.unwrap();
        let (_, sender) = other.recv_from(&mut said).await.unwrap();
        assert!(&said == b"question" && begun.elapsed() >= delay);
        assert_eq!(sender, places[0].advertised.unwrap()[1]);
        other.send_to(b"answered", sender).await.unwrap();
        let (_, sender) = one.recv_from(&mut said).await.unwrap();
        assert!(&said == b"answered" && begun.elapsed() >= 2 * delay);
        assert_eq!(sender, gossip);
        assert!(relays.told().starts_with("2 pieces of streams, 0 "));
    }
}
