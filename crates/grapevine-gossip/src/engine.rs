//! One run of chitchat, from its start to its death.
//!
//! chitchat names a run by node id, generation and advertised address, and treats another generation as another node: it
//! never compares generations. What must hold is that a run's name is never used again, because the state of the former
//! user would come back from the others and overrule the new one. Hence [`generation`].

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chitchat::{
    Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, ListenerHandle,
    ProtocolVersion, spawn_chitchat,
};
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, timeout};

use crate::config::GossipConfig;
use crate::facts::{self, Facts, HEADS, LEFT};
use crate::guard::{Census, Guard, GuardedTransport};
use crate::health::Vitals;
use crate::view::{Sighting, Tracker};

/// Gossip asked of chitchat and not yet done. Its command queue has no bound of its own; beyond this a round is skipped.
const BACKLOG_MAX: u64 = 256;
/// How long a stop may take before the task is aborted.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// Intervals between heartbeats that chitchat averages, per run; each takes 8 bytes.
const SAMPLES: usize = 100;
/// No key is ever deleted, so nothing waits for this.
const TOMBSTONE_GRACE: Duration = Duration::from_hours(1);

/// How many mean intervals between heartbeats chitchat's detector waits at most. Fewer are jumpy on busy machines.
const PHI_MAX: f64 = 8.0;

/// How many it waits: not much longer than `suspect_after`, before which no suspicion counts.
fn phi(config: &GossipConfig) -> f64 {
    let silent = config.suspect_after.as_secs_f64() / config.interval.as_secs_f64();
    silent.min(PHI_MAX)
}

/// How the end of a run is told: with its reason.
pub(crate) type Death = Pin<Box<dyn Future<Output = String> + Send>>;

/// A run of chitchat.
pub(crate) struct Engine {
    handle: ChitchatHandle,
    chitchat: Arc<Mutex<Chitchat>>,
    guard: Arc<Guard>,
    started: Instant,
    /// Handshakes begun when all that was asked for is done.
    asked: u64,
    /// Dropping it ends the subscription.
    _listener: ListenerHandle,
}

impl Engine {
    /// Starts a run behind `guard`, which must be fresh. `changed` is told whenever a key of any node is set.
    pub(crate) async fn start(
        config: &GossipConfig,
        facts: &Facts,
        guard: Guard,
        changed: Arc<Notify>,
    ) -> anyhow::Result<Self> {
        let guard = Arc::new(guard);
        let chitchat_config = ChitchatConfig {
            chitchat_id: guard.own.clone(),
            cluster_id: guard.cluster_id.clone(),
            gossip_interval: config.interval,
            listen_addr: config.listen,
            // Resolved and tried by `seeds`.
            seed_nodes: Vec::new(),
            failure_detector_config: FailureDetectorConfig::new(
                phi(config),
                SAMPLES,
                config.suspect_after.max(config.interval * 10),
                config.interval * 2,
                config.dead_grace,
            ),
            marked_for_deletion_grace_period: TOMBSTONE_GRACE,
            catchup_callback: None,
            extra_liveness_predicate: None,
            // `wire` reads uncompressed digests, whose size is known before they are made.
            protocol_version: ProtocolVersion::V0,
        };
        let key_values = facts::key_values(config.incarnation, facts);
        let handle = spawn_chitchat(
            chitchat_config,
            key_values,
            &GuardedTransport(Arc::clone(&guard)),
        )
        .await?;
        let chitchat = handle.chitchat();
        // Called under chitchat's lock, so it only leaves word.
        let listener = chitchat
            .lock()
            .await
            .subscribe_event("", move |_| changed.notify_one());
        let _ = guard.chitchat.set(Arc::clone(&chitchat));
        Ok(Self {
            handle,
            chitchat,
            guard,
            started: Instant::now(),
            asked: 0,
            _listener: listener,
        })
    }

    /// Ends when the run does.
    pub(crate) fn death(&self) -> Death {
        let ended = self.handle.termination_watcher();
        Box::pin(async move {
            match ended.await {
                Ok(()) => "the gossip task ended".to_owned(),
                Err(error) => format!("the gossip task died: {error:#}"),
            }
        })
    }

    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.guard.own.generation_id
    }

    /// Publishes heads; the next rounds of gossip carry them.
    pub(crate) async fn publish(&self, bump: u64, directory: u64) {
        self.chitchat
            .lock()
            .await
            .self_node_state()
            .set(HEADS, facts::heads_value(bump, directory));
    }

    /// Shakes hands with each of `addrs` as soon as possible. Skipped when much is still to be done.
    pub(crate) fn gossip(&mut self, addrs: &[SocketAddr]) -> bool {
        let done = self.guard.sent.syns.load(Ordering::Relaxed);
        self.asked = self.asked.max(done);
        if self.asked - done + addrs.len() as u64 > BACKLOG_MAX {
            return false;
        }
        self.asked += addrs.len() as u64;
        // An error means that the task is gone, which its death tells.
        addrs.iter().all(|addr| self.handle.gossip(*addr).is_ok())
    }

    /// Greets some of those that were told of and found no room: theirs is what their own answer gets them.
    pub(crate) fn greet_told(&mut self) {
        let told = &self.guard.told;
        let some = told
            .lock()
            .expect("invariant: nothing panics under this lock")
            .take();
        self.gossip(&some);
    }

    /// Tells the tracker of every run that chitchat lists, but this one.
    pub(crate) async fn sight(&self, now: Instant, tracker: &mut Tracker) {
        let chitchat = self.chitchat.lock().await;
        let live: std::collections::HashSet<&ChitchatId> = chitchat.live_nodes().collect();
        for (id, state) in chitchat.node_states() {
            if *id == self.guard.own {
                continue;
            }
            let seen = Sighting {
                node_id: &id.node_id,
                generation: id.generation_id,
                addr: id.gossip_advertise_addr,
                heartbeat: state.heartbeat().into(),
                version: state.max_version(),
                believed_live: live.contains(id),
            };
            tracker.sight(now, &seen, |key| state.get(key));
        }
    }

    /// Notes how full chitchat's state is.
    pub(crate) async fn weigh(&self, vitals: &Vitals) {
        let chitchat = self.chitchat.lock().await;
        let census = Census::of(chitchat.node_states());
        vitals.entries.store(census.nodes, Ordering::Relaxed);
        vitals.digest_bytes.store(census.bytes, Ordering::Relaxed);
    }

    /// Tells `addrs` that this sidecar leaves, and waits until they were told, for `patience` at most.
    pub(crate) async fn leave(&mut self, addrs: &[SocketAddr], patience: Duration) {
        self.chitchat.lock().await.self_node_state().set(LEFT, "1");
        let enough = self.guard.sent.acks.load(Ordering::Relaxed) + addrs.len() as u64;
        if self.gossip(addrs) {
            let told = async {
                while self.guard.sent.acks.load(Ordering::Relaxed) < enough {
                    self.guard.sent.ack.notified().await;
                }
            };
            // Those who were not told will suspect us a little later.
            let _ = timeout(patience, told).await;
        }
    }

    /// Ends the run.
    pub(crate) async fn stop(self) {
        let ended = self.handle.termination_watcher();
        let _ = self.handle.initiate_shutdown();
        if timeout(STOP_TIMEOUT, ended).await.is_err() {
            self.handle.abort();
        }
    }

    /// Ends the run at once, as a crash would.
    pub(crate) fn abort(self) {
        self.handle.abort();
    }

    #[cfg(test)]
    pub(crate) fn panic_next(&self) {
        self.guard.sent.panic_next.store(true, Ordering::Relaxed);
    }
}

/// A generation for a start at `now`: 44 bits of milliseconds since 1970, which order generations where the clock is
/// right, then 20 bits of the incarnation, which keep them apart where it is not; and above `above`, the last one of this
/// process. Nothing but the order of two runs that are alive at once rests on the clock.
pub(crate) fn generation(now: SystemTime, incarnation: u128, above: Option<u64>) -> u64 {
    const MILLIS: u128 = (1 << 44) - 1;
    const LOW: u128 = (1 << 20) - 1;
    let millis = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis())
        & MILLIS;
    let fresh = u64::try_from(millis << 20 | incarnation & LOW).expect("invariant: 44 and 20 bits");
    above.map_or(fresh, |above| fresh.max(above.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_of_suspect_after_is_not_outwaited() {
        let config = |interval_ms, suspect_after_ms| {
            let here = SocketAddr::from(([127, 0, 0, 1], 1));
            let mut config = GossipConfig::new("test", "a", 1, here, here);
            config.interval = Duration::from_millis(interval_ms);
            config.suspect_after = Duration::from_millis(suspect_after_ms);
            config
        };
        for (config, intervals) in [
            (config(500, 3_000), 6.0),
            (config(200, 3_000), PHI_MAX),
            (config(200, 1_000), 5.0),
        ] {
            assert!((phi(&config) - intervals).abs() < 1e-9, "{config:?}");
        }
    }

    #[test]
    fn generations_rise_with_time_differ_by_incarnation_and_never_repeat_in_a_process() {
        let at = |millis| UNIX_EPOCH + Duration::from_millis(millis);
        assert!(generation(at(2_000), 1, None) > generation(at(1_999), 0xf_ffff, None));
        assert_ne!(
            generation(at(2_000), 1, None),
            generation(at(2_000), 2, None)
        );
        let first = generation(at(2_000), 1, None);
        assert_eq!(
            generation(at(1_000), 1, Some(first)),
            first + 1,
            "the clock stepped back"
        );
        assert_eq!(
            generation(UNIX_EPOCH - Duration::from_secs(1), 5, None),
            5,
            "before 1970"
        );
    }
}
