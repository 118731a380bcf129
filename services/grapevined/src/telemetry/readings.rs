//! What a sidecar can be asked about itself in numbers, in one list: `Status` tells the counts of it, scrapers and collectors all.
//!
//! Labels are few by construction: states and queues, which are named here, and peers, of which a cluster has at most 1,024. A class or an
//! address is never one.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use grapevine_core::machine::Core;
use grapevine_core::machine::effects::{Freshness, MemberView};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Counters;
use crate::engine::Engine;
use crate::purge::Purger;

/// How long a list counts as that of the moment: the instruments of one collection ask one after the other.
const SAME_MOMENT: Duration = Duration::from_millis(100);

/// Whether a number only rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It counts since the start.
    Counter,
    /// It is what it is now.
    Gauge,
}

/// A number, or one for each value of a label.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// Its stable name, in snake case, without the unit.
    pub(crate) name: &'static str,
    /// What it tells.
    pub(crate) doc: &'static str,
    pub(crate) kind: Kind,
    /// Of the Unified Code for Units of Measure; empty for what is counted.
    pub(crate) unit: &'static str,
    /// Each with its label's name and value, if it has one.
    pub(crate) samples: Vec<(Option<(&'static str, String)>, f64)>,
}

/// What the numbers are read from.
pub(crate) struct Sources {
    pub(crate) engine: Engine,
    pub(crate) gossip: Arc<grapevine_gossip::Gossip>,
    pub(crate) purger: Arc<Purger>,
    pub(crate) registrations_max: u64,
}

/// Reads them while the sidecar lives, and keeps nothing of it alive.
pub(crate) struct Reader {
    sources: Weak<Sources>,
    last: Mutex<Option<(Instant, Arc<Vec<Reading>>)>>,
}

impl Reader {
    pub(crate) fn new(sources: &Arc<Sources>) -> Self {
        Self {
            sources: Arc::downgrade(sources),
            last: Mutex::default(),
        }
    }

    /// All numbers, in the same order always; none once the sidecar has ended.
    pub(crate) fn read(&self) -> Arc<Vec<Reading>> {
        let mut last = self.last.lock();
        if let Some((at, readings)) = &*last
            && at.elapsed() < SAME_MOMENT
        {
            return readings.clone();
        }
        let Some(sources) = self.sources.upgrade() else {
            return Arc::default();
        };
        let readings = Arc::new(sources.read());
        *last = Some((Instant::now(), readings.clone()));
        readings
    }
}

impl Sources {
    fn read(&self) -> Vec<Reading> {
        let health = self.gossip.health();
        // Before the machine is locked: look-ups would wait for the disk.
        let store = &self.engine.store;
        let stored = (store.registrations(), store.disk_bytes());
        let core = self.engine.core.read();
        let counts = counts(&self.engine.counters, &core, &health.counters);
        let counts = counts.into_iter().map(|(name, (doc, value))| Reading {
            name,
            doc,
            kind: Kind::Counter,
            unit: "",
            samples: vec![(None, as_f64(value))],
        });
        let mut readings: Vec<_> = counts.collect();
        readings.extend(self.knowledge(&core));
        readings.extend(self.sizes(&core, stored));
        readings.extend(self.peers(&core));
        drop(core);
        readings.extend(self.queues());
        readings.extend(gossip(&health));
        readings
    }

    fn knowledge(&self, core: &Core) -> Vec<Reading> {
        let now = self.engine.clock.now();
        let state = match core.freshness(now) {
            Freshness::Fresh => "fresh",
            Freshness::CatchingUp(_) => "catching_up",
            Freshness::Unknown(_) => "unknown",
        };
        let states = ["fresh", "catching_up", "unknown"].map(|named| {
            let is = if named == state { 1.0 } else { 0.0 };
            (Some(("state", named.to_owned())), is)
        });
        let missing = core.progress().missing();
        let missing_for = core.missing_for(now).unwrap_or_default();
        let view = core.roster();
        vec![
            labelled(
                "freshness",
                "What this sidecar can show of its knowledge: 1 for the state that it is in.",
                "",
                states.into(),
            ),
            seconds("uptime", "Time since the start.", now.since_start()),
            count(
                "missing_events",
                "Events that are known to exist and are not applied here.",
                missing,
            ),
            seconds(
                "missing_age",
                "For how long the event has been missing that has been so for longest.",
                missing_for,
            ),
            count(
                "roster_view",
                "The number of the roster's view; 0 before there is any.",
                view.number,
            ),
            size("seats", "Members that the view seats.", view.seats.len()),
            size(
                "origins",
                "Runs of sidecars whose events are followed.",
                core.progress().len(),
            ),
        ]
    }

    fn sizes(&self, core: &Core, (registrations, disk_bytes): (u64, u64)) -> Vec<Reading> {
        let limits = &core.config().limits;
        let (waiting, elections) = core.fills_open();
        let (leaves, members) = core.leaf_counts();
        vec![
            size("classes", "Bumped classes held.", core.versions().len()),
            size(
                "classes_limit",
                "The limit on bumped classes held (limits.classes_max).",
                limits.classes_max,
            ),
            count(
                "registrations",
                "Registrations in the directory, an address once for each of its classes.",
                registrations,
            ),
            count(
                "registrations_limit",
                "The limit on registrations (limits.registrations_max).",
                self.registrations_max,
            ),
            Reading {
                unit: "By",
                ..count(
                    "store_disk",
                    "What the directory and the logs take on disk.",
                    disk_bytes,
                )
            },
            size(
                "intents_open",
                "Write intents begun here and not ended.",
                core.intents_open(),
            ),
            size(
                "intents_held",
                "Write intents held for peers.",
                core.intents_held(),
            ),
            size(
                "fills_waiting",
                "Callers that wait for their turn to fill.",
                waiting,
            ),
            size(
                "elections_open",
                "Turns to fill that this sidecar has given as the arbiter.",
                elections,
            ),
            size(
                "local_tables",
                "Local tables of clients, those that are gone included until their leases are over.",
                core.tables(),
            ),
            size(
                "leaves_present",
                "Leaves of indices that are loaded.",
                leaves,
            ),
            size(
                "leaf_members",
                "Members of all leaves, and of those that are being loaded.",
                members,
            ),
        ]
    }

    fn peers(&self, core: &Core) -> Vec<Reading> {
        let now = self.engine.clock.now();
        let members = core.members(now);
        let digest = core.config().policies.digest();
        let differs = |member: &&MemberView| ![0, digest].contains(&member.hello.policy_digest);
        let of_each = |value: &dyn Fn(&MemberView) -> f64| {
            let label = |member: &MemberView| ("peer", member.hello.node_id.as_str().to_owned());
            let members = members.iter();
            members
                .map(|member| (Some(label(member)), value(member)))
                .collect()
        };
        let linked = |member: &MemberView| if member.alive { 1.0 } else { 0.0 };
        vec![
            size(
                "policy_mismatches",
                "Members whose policies differ from this sidecar's.",
                members.iter().filter(differs).count(),
            ),
            labelled(
                "peer_linked",
                "Whether the peer is connected and not suspected.",
                "",
                of_each(&linked),
            ),
            labelled(
                "peer_lag",
                "Bumps of the peer that are known to exist and are not applied here.",
                "",
                of_each(&|member| as_f64(member.missing)),
            ),
            labelled(
                "peer_unacknowledged",
                "Bumps of this sidecar that the peer has not said to have on disk.",
                "",
                of_each(&|member| as_f64(member.unacknowledged)),
            ),
            labelled(
                "peer_silence",
                "Time since the peer was last heard from.",
                "s",
                of_each(&|member| member.silent.as_secs_f64()),
            ),
            labelled(
                "peer_grant_left",
                "For how long the peer's word still counts.",
                "s",
                of_each(&|member| member.grant_left.as_secs_f64()),
            ),
        ]
    }

    fn queues(&self) -> Vec<Reading> {
        let Engine { urgent, bulk, .. } = &self.engine;
        let (fresh, retrying) = self.purger.backlog();
        let (fresh_max, retrying_max) = self.purger.limits();
        let queues = [
            (
                "commands",
                urgent.max_capacity() - urgent.capacity(),
                urgent.max_capacity(),
            ),
            (
                "registrations",
                bulk.max_capacity() - bulk.capacity(),
                bulk.max_capacity(),
            ),
            ("purges", fresh, fresh_max),
            ("purge_retries", retrying, retrying_max),
        ];
        let of_each = |value: fn(&(&str, usize, usize)) -> usize| {
            let label = |queue: &(&str, usize, usize)| Some(("queue", queue.0.to_owned()));
            let queues = queues.iter();
            queues
                .map(|queue| (label(queue), as_f64(value(queue) as u64)))
                .collect()
        };
        vec![
            labelled(
                "queue_depth",
                "What waits in a queue.",
                "",
                of_each(|queue| queue.1),
            ),
            labelled(
                "queue_limit",
                "How much may wait in a queue.",
                "",
                of_each(|queue| queue.2),
            ),
        ]
    }
}

/// What was counted since the start, by name, with what it counts.
pub(crate) fn counts(
    own: &Counters,
    core: &Core,
    gossip: &grapevine_gossip::Counters,
) -> BTreeMap<&'static str, (&'static str, u64)> {
    let mut counts = BTreeMap::new();
    let all = own.by_name().into_iter();
    let all = all.chain(core.counters().by_name()).chain(gossip.by_name());
    for (name, doc, value) in all {
        // What was refused at the door and what was refused behind it have one name.
        let count: &mut (_, u64) = counts.entry(name).or_insert((doc, 0));
        count.1 += value;
    }
    counts
}

fn gossip(health: &grapevine_gossip::Health) -> Vec<Reading> {
    let bytes = |name, doc, value| Reading {
        unit: "By",
        ..size(name, doc, value)
    };
    vec![
        size(
            "gossip_running",
            "Whether the gossip task runs: 1 or 0.",
            usize::from(health.running),
        ),
        size(
            "gossip_entries",
            "Nodes in gossip's state, this one and dead runs included.",
            health.entries,
        ),
        bytes(
            "gossip_digest",
            "What these take in a digest.",
            health.digest_bytes,
        ),
        bytes(
            "gossip_digest_limit",
            "How much they may take.",
            health.digest_bytes_max,
        ),
    ]
}

fn labelled(
    name: &'static str,
    doc: &'static str,
    unit: &'static str,
    samples: Vec<(Option<(&'static str, String)>, f64)>,
) -> Reading {
    Reading {
        name,
        doc,
        kind: Kind::Gauge,
        unit,
        samples,
    }
}

fn count(name: &'static str, doc: &'static str, value: u64) -> Reading {
    labelled(name, doc, "", vec![(None, as_f64(value))])
}

fn size(name: &'static str, doc: &'static str, value: usize) -> Reading {
    count(name, doc, value as u64)
}

fn seconds(name: &'static str, doc: &'static str, value: Duration) -> Reading {
    labelled(name, doc, "s", vec![(None, value.as_secs_f64())])
}

#[expect(clippy::cast_precision_loss, reason = "no metric is exact beyond 2^53")]
fn as_f64(value: u64) -> f64 {
    value as f64
}
