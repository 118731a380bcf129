//! The task that keeps gossip going: it starts chitchat and starts it again when it dies, turns what chitchat lists into
//! a view, publishes heads, makes rounds of the seeds, and leaves in order.
//!
//! It looks at chitchat twice per interval (heartbeats and suspicion are a matter of time) and soon after any key of any
//! node was set. Everything that callers ask for more often than it can be done is merged: heads are two counters of
//! which the latest is published, a nudge is a flag.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use chitchat::ChitchatId;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::config::GossipConfig;
use crate::engine::{Death, Engine, generation};
use crate::facts::Facts;
use crate::guard::{Guard, Sent};
use crate::health::{Vitals, count};
use crate::seeds::{Seeds, jittered, some_of};
use crate::view::{Rules, Tracker, View};

/// Peers that a nudge or a farewell speaks to; gossip carries it on to others.
const FANOUT: usize = 64;
/// Silent peers that a round of seeds also tries, so that a long partition heals without seeds.
const SILENT_TRIES: usize = 4;
/// Between two nudges; those asked for meanwhile become one.
const NUDGE_GAP: Duration = Duration::from_millis(50);
/// Between two looks at chitchat because keys were set; those set meanwhile are seen together.
const REFRESH_GAP: Duration = Duration::from_millis(5);
/// Waits before chitchat is started again: the first, and the longest.
const RESTART_WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// A run that lasted so long was sound; the wait after it is the first again.
const SOUND_RUN: Duration = Duration::from_mins(1);
/// What a farewell may take at most.
const FAREWELL_MAX: Duration = Duration::from_millis(500);

/// What the handle asks for.
pub(crate) enum Command {
    /// Forget a peer.
    Forget(String),
    /// Leave, and say when done.
    Shutdown(oneshot::Sender<()>),
    /// Make chitchat's task panic.
    #[cfg(test)]
    Panic,
}

/// What the handle and the driver share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) bump_head: AtomicU64,
    pub(crate) directory_head: AtomicU64,
    pub(crate) nudge: Notify,
    pub(crate) changed: Arc<Notify>,
    pub(crate) vitals: Arc<Vitals>,
}

impl Shared {
    fn heads(&self) -> (u64, u64) {
        (
            self.bump_head.load(Ordering::Relaxed),
            self.directory_head.load(Ordering::Relaxed),
        )
    }
}

pub(crate) struct Driver {
    config: GossipConfig,
    facts: Facts,
    cluster_id: String,
    advertise: SocketAddr,
    front: Arc<UdpSocket>,
    shared: Arc<Shared>,
    tracker: Tracker,
    view_tx: watch::Sender<View>,
    seeds: Seeds,
    engine: Option<Engine>,
    death: Death,
    last_generation: Option<u64>,
    published: (u64, u64),
    restart_wait: Duration,
    restart_at: Instant,
    seed_round_at: Instant,
    /// Whether the cluster was smaller than expected when the next round of seeds was planned.
    hungry: bool,
    nudge_at: Option<Instant>,
    nudged: Instant,
    refresh_at: Option<Instant>,
    refreshed: Instant,
}

impl Driver {
    /// Takes the open socket; nothing runs yet.
    pub(crate) fn new(
        config: GossipConfig,
        facts: Facts,
        front: UdpSocket,
        advertise: SocketAddr,
        shared: Arc<Shared>,
        view_tx: watch::Sender<View>,
    ) -> Self {
        let now = Instant::now();
        let rules = Rules {
            node_id: config.node_id.clone(),
            incarnation: config.incarnation,
            own_addr: advertise,
            interval: config.interval,
            suspect_after: config.suspect_after,
            max_peers: config.max_peers,
        };
        Self {
            // The prefix keeps other programs' chitchat apart, and is to change with the meaning of the keys.
            cluster_id: format!("grapevine1:{}", config.cluster),
            seeds: Seeds::new(&config.seeds, advertise, config.interval),
            tracker: Tracker::new(rules),
            published: (facts.bump_head, facts.directory_head),
            front: Arc::new(front),
            engine: None,
            death: Box::pin(std::future::pending()),
            last_generation: None,
            restart_wait: RESTART_WAIT.0,
            restart_at: now,
            seed_round_at: now,
            hungry: false,
            nudge_at: None,
            nudged: now - NUDGE_GAP,
            refresh_at: None,
            refreshed: now,
            config,
            facts,
            advertise,
            shared,
            view_tx,
        }
    }

    /// Starts chitchat, with a new generation.
    pub(crate) async fn revive(&mut self) -> anyhow::Result<()> {
        let generation = generation(
            SystemTime::now(),
            self.config.incarnation,
            self.last_generation,
        );
        self.last_generation = Some(generation);
        let guard = Guard {
            front: Arc::clone(&self.front),
            cluster_id: self.cluster_id.clone(),
            own: ChitchatId::new(self.config.node_id.clone(), generation, self.advertise),
            max_nodes: self.config.max_peers,
            vitals: Arc::clone(&self.shared.vitals),
            sent: Sent::default(),
            told: std::sync::Mutex::default(),
            chitchat: std::sync::OnceLock::new(),
        };
        let (bump_head, directory_head) = self.shared.heads();
        let facts = Facts {
            bump_head,
            directory_head,
            ..self.facts.clone()
        };
        let engine = Engine::start(
            &self.config,
            &facts,
            guard,
            Arc::clone(&self.shared.changed),
        )
        .await?;
        self.published = (bump_head, directory_head);
        self.death = engine.death();
        self.engine = Some(engine);
        self.shared.vitals.set_running(true, None);
        // A new run knows nobody.
        self.seed_round_at = Instant::now();
        Ok(())
    }

    /// Runs until told to stop, or until the handle is dropped, which ends it as a crash would.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut tick = interval(self.config.interval / 2);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let never = Instant::now() + Duration::from_hours(1);
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Forget(node_id)) => {
                        self.tracker.forget(&node_id);
                        self.refresh().await;
                    }
                    Some(Command::Shutdown(done)) => {
                        self.leave().await;
                        let _ = done.send(());
                        return;
                    }
                    #[cfg(test)]
                    Some(Command::Panic) => self.engine.iter().for_each(Engine::panic_next),
                    None => {
                        self.engine.take().into_iter().for_each(Engine::abort);
                        return;
                    }
                },
                reason = &mut self.death => self.bury(reason),
                () = sleep_until(self.restart_at), if self.engine.is_none() => self.restart().await,
                _ = tick.tick() => {
                    self.publish().await;
                    self.refresh().await;
                    if let Some(engine) = &mut self.engine {
                        engine.weigh(&self.shared.vitals).await;
                        engine.greet_told();
                    }
                }
                () = self.shared.changed.notified() => {
                    self.refresh_at.get_or_insert(self.refreshed + REFRESH_GAP);
                }
                () = sleep_until(self.refresh_at.unwrap_or(never)), if self.refresh_at.is_some() => self.refresh().await,
                () = self.shared.nudge.notified() => {
                    self.nudge_at.get_or_insert(self.nudged + NUDGE_GAP);
                }
                () = sleep_until(self.nudge_at.unwrap_or(never)), if self.nudge_at.is_some() => self.nudge().await,
                found = self.seeds.found() => self.greet(found),
                () = sleep_until(self.seed_round_at) => self.seed_round(),
            }
        }
    }

    fn bury(&mut self, reason: String) {
        let age = self
            .engine
            .take()
            .map_or(Duration::ZERO, |engine| engine.age());
        self.death = Box::pin(std::future::pending());
        if age >= SOUND_RUN {
            self.restart_wait = RESTART_WAIT.0;
        }
        let wait = jittered(self.restart_wait);
        tracing::error!(
            reason,
            ?wait,
            generation = self.last_generation,
            "gossip stopped; it will be started again"
        );
        count(&self.shared.vitals.meters.restarts);
        self.shared.vitals.set_running(false, Some(reason));
        self.restart_at = Instant::now() + wait;
        self.restart_wait = (self.restart_wait * 2).min(RESTART_WAIT.1);
    }

    async fn restart(&mut self) {
        match self.revive().await {
            Ok(()) => {
                let generation = self.engine.as_ref().map(Engine::generation);
                tracing::info!(generation, "gossip was started again");
            }
            Err(error) => self.bury(format!("gossip could not be started: {error:#}")),
        }
    }

    async fn publish(&mut self) {
        let heads = self.shared.heads();
        if let Some(engine) = self.engine.as_ref().filter(|_| heads != self.published) {
            engine.publish(heads.0, heads.1).await;
            self.published = heads;
        }
    }

    /// Looks at chitchat, and tells watchers if that changes anything.
    async fn refresh(&mut self) {
        let now = Instant::now();
        (self.refreshed, self.refresh_at) = (now, None);
        self.tracker.begin();
        if let Some(engine) = &self.engine {
            engine.sight(now, &mut self.tracker).await;
        }
        self.tracker.settle(now);
        let malformed = self.tracker.take_malformed();
        self.shared
            .vitals
            .meters
            .malformed_facts
            .fetch_add(malformed, Ordering::Relaxed);
        let view = self.tracker.view(now);
        let live = view.peers.values().filter(|peer| peer.alive).count();
        if !self.hungry && live + 1 < self.config.expected_members {
            // A round planned for a settled cluster would come too late.
            self.hungry = true;
            self.seed_round_at = self.seed_round_at.min(now + self.seeds.wait(true));
        }
        // Nothing is logged inside: readers of the view wait there.
        let mut before = View::default();
        self.view_tx.send_if_modified(|current| {
            before = std::mem::replace(current, view);
            !before.says_what(current)
        });
        for conflict in &self.view_tx.borrow().conflicts.clone() {
            if !before.conflicts.contains(conflict) {
                tracing::error!(
                    node_id = conflict.node_id,
                    runs = ?conflict.incarnations,
                    "a node id is used twice"
                );
            }
        }
    }

    async fn nudge(&mut self) {
        (self.nudged, self.nudge_at) = (Instant::now(), None);
        self.publish().await;
        let (live, _) = Tracker::gossip_addrs(&self.view_tx.borrow());
        if let Some(engine) = &mut self.engine
            && engine.gossip(&some_of(&live, FANOUT))
        {
            count(&self.shared.vitals.meters.nudges);
        }
    }

    fn seed_round(&mut self) {
        let (live, silent) = Tracker::gossip_addrs(&self.view_tx.borrow());
        self.hungry = live.len() + 1 < self.config.expected_members;
        self.seed_round_at = Instant::now() + self.seeds.wait(self.hungry);
        let mut addrs = self.seeds.round();
        addrs.extend(some_of(&silent, SILENT_TRIES));
        count(&self.shared.vitals.meters.seed_rounds);
        if let Some(engine) = &mut self.engine {
            engine.gossip(&addrs);
        }
    }

    fn greet(&mut self, found: Result<Vec<SocketAddr>, String>) {
        match found {
            Ok(addrs) => {
                if let Some(engine) = &mut self.engine {
                    engine.gossip(&addrs);
                }
            }
            Err(failure) => {
                count(&self.shared.vitals.meters.seed_lookup_failures);
                tracing::debug!(failure, "a seed did not resolve");
            }
        }
    }

    async fn leave(&mut self) {
        self.publish().await;
        let (live, _) = Tracker::gossip_addrs(&self.view_tx.borrow());
        if let Some(mut engine) = self.engine.take() {
            let patience = (self.config.interval * 2).min(FAREWELL_MAX);
            engine.leave(&some_of(&live, FANOUT), patience).await;
            engine.stop().await;
        }
        self.shared.vitals.set_running(false, None);
    }
}
