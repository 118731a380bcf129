//! Discovery and failure suspicion for Grapevine, on chitchat.
//!
//! Each sidecar publishes a handful of [`Facts`]: where peers dial it, its incarnation, its heads, its peer protocol and
//! a digest of its policies. Gossip carries them to everybody, finds newcomers through seeds, and suspects the silent.
//! Nothing that correctness rests on travels here: events, grants and the roster go over peer streams, and what is
//! suspected dead is never forgotten for it. Datagrams are neither authenticated nor encrypted: keep the port inside the
//! cluster's network.
//!
//! Code map: `config` says what can be set; `facts` is what stands in chitchat's keys; `wire` reads datagrams and
//! `guard` keeps those from chitchat that it would not survive; `handshake` says whose answers are taken; `engine` is one run of chitchat; `view` turns runs into
//! peers; `seeds` finds others; `driver` is the task that holds these together; `health` counts. This is the only crate
//! of a sidecar that names chitchat, and no type of chitchat shows.

mod config;
mod driver;
mod engine;
mod facts;
mod guard;
mod handshake;
mod health;
mod seeds;
mod view;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub use crate::config::{
    ConfigError, DEAD_GRACE_MAX, GossipConfig, INTERVAL_RANGE, NAME_BYTES_MAX, PEERS_MAX,
    SEED_BYTES_MAX, SEEDS_MAX, SUSPECT_AFTER_MAX,
};
pub use crate::facts::Facts;
pub use crate::health::{Counters, Health};
pub use crate::view::{Conflict, Heads, Peer, View};

use crate::driver::{Command, Driver, Shared};

/// Commands under way from the handle to the task. Callers wait while it is full; there is no hurry in any of them.
const COMMANDS_MAX: usize = 16;

/// Why gossip did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong; every problem is listed.
    #[error("the gossip configuration is wrong: {}", list(.0))]
    Config(Vec<ConfigError>),
    /// The address to listen on cannot be had.
    #[error("gossip.listen: cannot listen for UDP on {addr}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// chitchat did not start; it needs two free ports on the loopback interface.
    #[error("gossip did not start: {reason}")]
    Engine {
        /// What it said.
        reason: String,
    },
}

fn list(problems: &[ConfigError]) -> String {
    problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// Running gossip. Dropping it ends gossip at once, as a crash would; [`Gossip::shutdown`] leaves in order.
#[derive(Debug)]
pub struct Gossip {
    local_addr: SocketAddr,
    shared: Arc<Shared>,
    view: watch::Receiver<View>,
    commands: mpsc::Sender<Command>,
    driver: JoinHandle<()>,
}

impl Gossip {
    /// Listens, and begins to gossip `facts`. The receiver holds the latest view; it wakes when anything but
    /// [`Peer::last_heard`] changed, and readers who are slow see the latest view and not those between. What changed
    /// tell [`View::same_members`] and [`View::heads_since`].
    pub async fn start(
        config: GossipConfig,
        facts: Facts,
    ) -> Result<(Self, watch::Receiver<View>), StartError> {
        let mut problems = config.problems();
        if !config::is_host_and_port(&facts.peer_address) {
            let value = config::shortened(&facts.peer_address);
            problems.push(ConfigError::PeerAddress {
                value,
                limit: SEED_BYTES_MAX,
            });
        }
        if !problems.is_empty() {
            return Err(StartError::Config(problems));
        }
        let listen_error = |source| StartError::Listen {
            addr: config.listen,
            source,
        };
        let front = UdpSocket::bind(config.listen).await.map_err(listen_error)?;
        let local_addr = front.local_addr().map_err(listen_error)?;
        let mut advertise = config.advertise;
        if advertise.port() == 0 {
            advertise.set_port(local_addr.port());
        }
        let shared = Arc::new(Shared::default());
        shared.bump_head.store(facts.bump_head, Ordering::Relaxed);
        shared
            .directory_head
            .store(facts.directory_head, Ordering::Relaxed);
        let (view_tx, view) = watch::channel(View::default());
        let mut driver = Driver::new(
            config,
            facts,
            front,
            advertise,
            Arc::clone(&shared),
            view_tx,
        );
        driver.revive().await.map_err(|error| StartError::Engine {
            reason: format!("{error:#}"),
        })?;
        let (commands, command_rx) = mpsc::channel(COMMANDS_MAX);
        let driver = tokio::spawn(driver.run(command_rx));
        let gossip = Self {
            local_addr,
            shared,
            view: view.clone(),
            commands,
            driver,
        };
        Ok((gossip, view))
    }

    /// Where it listens: with the port that was free if the configuration said 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Another receiver of the latest view.
    pub fn view(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// Publishes heads, with the next round of gossip; a head never sinks. As cheap as two atomic operations, so it may
    /// be called for every event: only the latest is published, twice per interval at most.
    pub fn set_heads(&self, bump: u64, directory: u64) {
        self.shared.bump_head.fetch_max(bump, Ordering::Relaxed);
        self.shared
            .directory_head
            .fetch_max(directory, Ordering::Relaxed);
    }

    /// Gossips at once to all live peers, to 64 at random if there are more. Calls within 50 ms become one; while chitchat
    /// is far behind, one is skipped, and the regular rounds carry the news.
    pub fn nudge(&self) {
        self.shared.nudge.notify_one();
    }

    /// Forgets a peer that is gone for good. One that still gossips comes back.
    pub async fn forget(&self, node_id: &str) {
        // An error means that the driver is gone, and with it all it remembered.
        let _ = self
            .commands
            .send(Command::Forget(node_id.to_owned()))
            .await;
    }

    /// How gossip fares.
    pub fn health(&self) -> Health {
        let mut health = self.shared.vitals.snapshot(wire::DIGEST_BYTES_MAX);
        health.running &= !self.driver.is_finished();
        health
    }

    /// Leaves in order: tells live peers, waits half a second at most until they know, and stops.
    pub async fn shutdown(self) {
        let (done_tx, done_rx) = oneshot::channel();
        if self.commands.send(Command::Shutdown(done_tx)).await.is_ok() {
            let _ = done_rx.await;
        }
        let _ = self.driver.await;
    }

    #[cfg(test)]
    async fn panic_engine(&self) {
        self.commands
            .send(Command::Panic)
            .await
            .expect("invariant: the driver runs");
    }
}

#[cfg(test)]
mod tests;
