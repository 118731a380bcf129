//! How gossip fares: counters that only rise, and a snapshot of them with what an operator asks first.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Counters since the start, as they are incremented.
        #[derive(Debug, Default)]
        pub(crate) struct Meters {
            $(pub(crate) $name: AtomicU64,)+
        }

        /// Counters since the start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Meters {
            pub(crate) fn snapshot(&self) -> Counters {
                Counters { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }
        }

        impl Counters {
            /// Every counter: its stable name, what it counts, and its number; for metrics and `Status`.
            pub fn by_name(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((
                    concat!("gossip_", stringify!($name)),
                    concat!($($doc),+).trim_ascii(),
                    self.$name,
                ),)+]
            }
        }
    };
}

counters! {
    /// Datagrams given to chitchat.
    datagrams_received,
    /// Datagrams sent.
    datagrams_sent,
    /// Bytes of datagrams sent.
    bytes_sent,
    /// Datagrams that the system refused to send; gossip makes up for them.
    send_failures,
    /// Datagrams refused because they are not chitchat's format.
    malformed_datagrams,
    /// Datagrams refused because they belong to another cluster.
    foreign_datagrams,
    /// Datagrams refused because their delta says what no sidecar says.
    bad_deltas,
    /// Datagrams refused because they answer what was not asked: their sender has no handshake open with us.
    unasked_datagrams,
    /// Digest entries left out because their node id, address or counters are absurd.
    bad_entries,
    /// Digest entries left out because a bound on nodes, restarts of a node or digest bytes was reached.
    refused_entries,
    /// Nodes ignored because their published facts are malformed, once per change of them.
    malformed_facts,
    /// Datagrams lost between the public socket and chitchat's own.
    relay_losses,
    /// Failed look-ups of seeds that are DNS names.
    seed_lookup_failures,
    /// Rounds in which the seeds were tried.
    seed_rounds,
    /// Rounds of gossip to every peer at once.
    nudges,
    /// Times the gossip task died and was replaced.
    restarts,
}

pub(crate) fn count(meter: &AtomicU64) {
    meter.fetch_add(1, Ordering::Relaxed);
}

/// How gossip fares.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Whether the gossip task runs. While it does not, the view ages and everybody comes to be suspected.
    pub running: bool,
    /// Why the gossip task last died; `None` if it never did.
    pub last_failure: Option<String>,
    /// Nodes in chitchat's state, this one and dead runs included.
    pub entries: usize,
    /// What those take in a digest, in bytes.
    pub digest_bytes: usize,
    /// Bytes at most; beyond it nodes are refused.
    pub digest_bytes_max: usize,
    /// Counters since the start.
    pub counters: Counters,
}

/// What the tasks write and `Gossip::health` reads.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    pub(crate) meters: Meters,
    pub(crate) entries: AtomicUsize,
    pub(crate) digest_bytes: AtomicUsize,
    pub(crate) state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) running: bool,
    pub(crate) last_failure: Option<String>,
}

impl Vitals {
    pub(crate) fn set_running(&self, running: bool, failure: Option<String>) {
        let mut state = self
            .state
            .lock()
            .expect("invariant: nothing panics under this lock");
        state.running = running;
        if failure.is_some() {
            state.last_failure = failure;
        }
    }

    pub(crate) fn snapshot(&self, digest_bytes_max: usize) -> Health {
        let state = self
            .state
            .lock()
            .expect("invariant: nothing panics under this lock");
        Health {
            running: state.running,
            last_failure: state.last_failure.clone(),
            entries: self.entries.load(Ordering::Relaxed),
            digest_bytes: self.digest_bytes.load(Ordering::Relaxed),
            digest_bytes_max,
            counters: self.meters.snapshot(),
        }
    }
}
