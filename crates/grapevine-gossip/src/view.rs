//! From runs of sidecars, as chitchat lists them, to peers, as Grapevine thinks of them. Pure: the caller brings the
//! clock and what chitchat says.
//!
//! chitchat lists every *run*: a node id, a generation and an address. A restart adds a run, and the old one stays until
//! `dead_grace` after its death. A peer is a node id; its run is chosen among those whose facts are whole, preferring
//! one that is alive, then one whose heartbeat moved just now, then the highest generation. Generations come from a wall
//! clock and only break ties: a sidecar whose clock stepped back is chosen as soon as its predecessor falls silent.
//!
//! A run's first heartbeat proves nothing (it may be told by somebody who remembers the dead), so a run is alive only
//! after its heartbeat has moved, and from then on until it was silent for `suspect_after` *and* chitchat's detector
//! suspects it. When chitchat forgets a run, its peer is remembered here: dead does not mean forgotten.
//!
//! Two runs of one node id, of different incarnations and addresses, both moving for [`CONFLICT_INTERVALS`] together, are a
//! conflict: two processes use one name. A run that was just replaced falls silent before that, also in a crash loop, in
//! which there are always two that move, but never the same. Of runs that share an address only the newest can be there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::facts::{self, Facts, Published, Reading};

/// A run whose heartbeat moved within this many intervals is moving.
const MOVING_INTERVALS: u32 = 5;
/// Two runs of one node id that move for this many intervals together are a conflict.
pub(crate) const CONFLICT_INTERVALS: u32 = 15;

/// The peers as this sidecar knows them.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// By node id, without this sidecar. At most `max_peers`; beyond it the longest silent are forgotten.
    pub peers: BTreeMap<String, Peer>,
    /// Node ids that two or more processes use at once, this sidecar's own included.
    pub conflicts: Vec<Conflict>,
}

/// One peer.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its run's incarnation.
    pub incarnation: u128,
    /// Where it receives gossip.
    pub gossip_addr: SocketAddr,
    /// What it last told of itself.
    pub facts: Facts,
    /// Whether it is believed to run. False is a suspicion, never a reason to forget its data.
    pub alive: bool,
    /// Whether it said that it leaves; `alive` is then false.
    pub left: bool,
    /// When its heartbeat last moved as seen here, or when it was first heard of. Changes of this alone wake nobody.
    pub last_heard: Instant,
}

/// One node id in use by several processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The name.
    pub node_id: String,
    /// The incarnations that are alive under it, with where they receive gossip; two at least, ascending.
    pub incarnations: Vec<(u128, SocketAddr)>,
}

impl Facts {
    fn same_but_heads(&self, other: &Self) -> bool {
        let with_heads_of_other = Self {
            bump_head: other.bump_head,
            directory_head: other.directory_head,
            ..self.clone()
        };
        with_heads_of_other == *other
    }
}

/// What a peer tells of its run's lanes: hints of what there is to pull, from datagrams that anybody may send. They
/// may be late and must not be believed for more than a question to the peer itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Its run's incarnation.
    pub incarnation: u128,
    /// The highest sequence of its bump lane.
    pub bump: u64,
    /// The highest sequence of its directory lane.
    pub directory: u64,
}

impl View {
    /// Whether `other` says the same of who is a member, where, and in which state: heads, which move with every event,
    /// and when peers were last heard are left out. Who rebuilds something by the members asks this first.
    pub fn same_members(&self, other: &Self) -> bool {
        let same = |a: &Peer, b: &Peer| {
            (a.incarnation, a.gossip_addr, a.alive, a.left)
                == (b.incarnation, b.gossip_addr, b.alive, b.left)
                && a.facts.same_but_heads(&b.facts)
        };
        self.conflicts == other.conflicts
            && self.peers.len() == other.peers.len()
            && self
                .peers
                .iter()
                .zip(&other.peers)
                .all(|(a, b)| a.0 == b.0 && same(a.1, b.1))
    }

    /// The heads of those peers that tell others than they did in `before`: of all for an empty one.
    pub fn heads_since(&self, before: &Self) -> Vec<Heads> {
        let heads = |peer: &Peer| Heads {
            incarnation: peer.incarnation,
            bump: peer.facts.bump_head,
            directory: peer.facts.directory_head,
        };
        self.peers
            .iter()
            .map(|(node_id, peer)| (before.peers.get(node_id), heads(peer)))
            .filter(|(before, now)| before.map(heads) != Some(*now))
            .map(|(_, now)| now)
            .collect()
    }

    /// Whether `other` says the same, but for when peers were last heard.
    pub(crate) fn says_what(&self, other: &Self) -> bool {
        self.same_members(other) && self.heads_since(other).is_empty()
    }
}

/// What chitchat says of one run.
pub(crate) struct Sighting<'a> {
    pub(crate) node_id: &'a str,
    pub(crate) generation: u64,
    pub(crate) addr: SocketAddr,
    pub(crate) heartbeat: u64,
    /// Rises with every change of a key.
    pub(crate) version: u64,
    /// What chitchat's phi-accrual detector thinks.
    pub(crate) believed_live: bool,
}

#[derive(Debug)]
struct Run {
    addr: SocketAddr,
    heartbeat: u64,
    version: u64,
    believed_live: bool,
    published: Option<Published>,
    last_heard: Instant,
    /// Whether the heartbeat has moved since it was first heard.
    moved: bool,
    listed: bool,
}

/// What the tracker is told at start.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) node_id: String,
    pub(crate) incarnation: u128,
    pub(crate) own_addr: SocketAddr,
    pub(crate) interval: Duration,
    pub(crate) suspect_after: Duration,
    pub(crate) max_peers: usize,
}

/// Follows runs over time.
#[derive(Debug)]
pub(crate) struct Tracker {
    rules: Rules,
    /// By node id, then by generation and address. Bounded by what chitchat lists, which the guard bounds.
    runs: BTreeMap<String, BTreeMap<(u64, SocketAddr), Run>>,
    /// Peers whose every run chitchat forgot. At most `max_peers`.
    remembered: BTreeMap<String, Peer>,
    /// Since when each of several incarnations of a node id moves beside another.
    rivals_since: BTreeMap<String, BTreeMap<u128, Instant>>,
    malformed: u64,
}

impl Tracker {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            runs: BTreeMap::new(),
            remembered: BTreeMap::new(),
            rivals_since: BTreeMap::new(),
            malformed: 0,
        }
    }

    /// Begins a round of sightings: every run that chitchat lists is told to `sight`, and `settle` ends it.
    pub(crate) fn begin(&mut self) {
        for run in self.runs.values_mut().flat_map(BTreeMap::values_mut) {
            run.listed = false;
        }
    }

    /// Takes in what chitchat says of one run; `get` looks up its keys, and is called only when they changed.
    pub(crate) fn sight<'a>(
        &mut self,
        now: Instant,
        seen: &Sighting<'_>,
        get: impl Fn(&str) -> Option<&'a str>,
    ) {
        if !self.runs.contains_key(seen.node_id) {
            self.runs.insert(seen.node_id.to_owned(), BTreeMap::new());
        }
        let runs = self
            .runs
            .get_mut(seen.node_id)
            .expect("invariant: inserted just above");
        let run = runs
            .entry((seen.generation, seen.addr))
            .or_insert_with(|| Run {
                addr: seen.addr,
                heartbeat: seen.heartbeat,
                version: 0,
                believed_live: false,
                published: None,
                last_heard: now,
                moved: false,
                listed: true,
            });
        run.listed = true;
        run.believed_live = seen.believed_live;
        if seen.heartbeat > run.heartbeat {
            run.heartbeat = seen.heartbeat;
            run.last_heard = now;
            run.moved = true;
        }
        if seen.version != run.version {
            run.version = seen.version;
            match facts::read(get) {
                Reading::Whole(published) => run.published = Some(published),
                Reading::Partial => {}
                Reading::Malformed(key) => {
                    self.malformed += 1;
                    tracing::warn!(
                        node_id = seen.node_id,
                        key,
                        "a node's published facts are malformed; ignored"
                    );
                }
            }
        }
    }

    /// Ends a round: runs that chitchat no longer lists, and that are silent, are dropped and their peers remembered.
    pub(crate) fn settle(&mut self, now: Instant) {
        let suspect_after = self.rules.suspect_after;
        let mut gone = Vec::new();
        for (node_id, runs) in &mut self.runs {
            let best = best_run(runs, now, &self.rules)
                .map(|(run, published)| peer(run, published, now, &self.rules));
            // A replaced gossip task begins with an empty list; what was heard of just now will be listed again.
            runs.retain(|_, run| run.listed || now.duration_since(run.last_heard) <= suspect_after);
            if !tells_anything(runs) {
                gone.extend(best.map(|peer| (node_id.clone(), peer)));
            }
        }
        self.runs.retain(|_, runs| !runs.is_empty());
        for (node_id, peer) in gone {
            if node_id != self.rules.node_id && !peer.left {
                self.remembered.insert(
                    node_id,
                    Peer {
                        alive: false,
                        ..peer
                    },
                );
            }
        }
        let Self {
            remembered, runs, ..
        } = self;
        remembered.retain(|node_id, _| runs.get(node_id).is_none_or(|runs| !tells_anything(runs)));
        self.find_rivals(now);
        self.forget_beyond_bound();
    }

    fn find_rivals(&mut self, now: Instant) {
        let mut rivals = BTreeMap::new();
        for node_id in self.runs.keys() {
            let moving = self.moving(node_id, now);
            if moving.len() > 1 {
                let known = self.rivals_since.get(node_id);
                let since = |run: &u128| known.and_then(|known| known.get(run)).copied();
                let runs = moving
                    .into_keys()
                    .map(|run| (run, since(&run).unwrap_or(now)));
                rivals.insert(node_id.clone(), runs.collect());
            }
        }
        self.rivals_since = rivals;
    }

    /// The incarnations of a node id that have moved beside each other for long, if there are several.
    fn conflict(
        &self,
        node_id: &str,
        since: &BTreeMap<u128, Instant>,
        now: Instant,
    ) -> Option<Conflict> {
        let settle = self.rules.interval * CONFLICT_INTERVALS;
        let settled = |run: &u128| {
            let since = since.get(run);
            since.is_some_and(|since| now.duration_since(*since) >= settle)
        };
        let moving = self.moving(node_id, now).into_iter();
        let incarnations: Vec<_> = moving.filter(|(run, _)| settled(run)).collect();
        (incarnations.len() > 1).then(|| Conflict {
            node_id: node_id.to_owned(),
            incarnations,
        })
    }

    /// The incarnations of a node id whose runs are moving; this process is one of its own name's.
    fn moving(&self, node_id: &str, now: Instant) -> BTreeMap<u128, SocketAddr> {
        // Runs come by their generation, so that the newest of an address is what is found there.
        let mut found = BTreeMap::new();
        for run in self
            .runs
            .get(node_id)
            .into_iter()
            .flat_map(BTreeMap::values)
        {
            if let Some(published) = run.published.as_ref().filter(|published| !published.left)
                && is_moving(run, now, &self.rules)
            {
                found.insert(run.addr, published.incarnation);
            }
        }
        if node_id == self.rules.node_id {
            found.insert(self.rules.own_addr, self.rules.incarnation);
        }
        found.into_iter().map(|(addr, run)| (run, addr)).collect()
    }

    fn forget_beyond_bound(&mut self) {
        while self.remembered.len() + self.runs.len() > self.rules.max_peers {
            let longest_silent = self
                .remembered
                .iter()
                .min_by_key(|(_, peer)| peer.last_heard);
            let Some(node_id) = longest_silent.map(|(node_id, _)| node_id.clone()) else {
                return;
            };
            self.remembered.remove(&node_id);
        }
    }

    /// Forgets a peer that is gone for good. One that chitchat still lists comes back at its next sighting.
    pub(crate) fn forget(&mut self, node_id: &str) {
        self.remembered.remove(node_id);
        self.runs.remove(node_id);
    }

    /// How often facts were malformed since the last call.
    pub(crate) fn take_malformed(&mut self) -> u64 {
        std::mem::take(&mut self.malformed)
    }

    /// Addresses to send gossip to: of peers that are alive, and of the remembered ones.
    pub(crate) fn gossip_addrs(view: &View) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
        let (live, silent): (Vec<&Peer>, Vec<&Peer>) =
            view.peers.values().partition(|peer| peer.alive);
        let silent = silent.into_iter().filter(|peer| !peer.left);
        (
            live.iter().map(|peer| peer.gossip_addr).collect(),
            silent.map(|peer| peer.gossip_addr).collect(),
        )
    }

    pub(crate) fn view(&self, now: Instant) -> View {
        let mut peers = self.remembered.clone();
        for (node_id, runs) in &self.runs {
            if *node_id == self.rules.node_id {
                continue;
            }
            if let Some((run, published)) = best_run(runs, now, &self.rules) {
                peers.insert(node_id.clone(), peer(run, published, now, &self.rules));
            }
        }
        let conflicts = self
            .rivals_since
            .iter()
            .filter_map(|(node_id, since)| self.conflict(node_id, since, now))
            .collect();
        View { peers, conflicts }
    }
}

fn tells_anything(runs: &BTreeMap<(u64, SocketAddr), Run>) -> bool {
    runs.values().any(|run| run.published.is_some())
}

fn is_moving(run: &Run, now: Instant, rules: &Rules) -> bool {
    run.moved && now.duration_since(run.last_heard) <= rules.interval * MOVING_INTERVALS
}

fn is_alive(run: &Run, published: &Published, now: Instant, rules: &Rules) -> bool {
    let heard = now.duration_since(run.last_heard) <= rules.suspect_after;
    run.moved && !published.left && (heard || run.listed && run.believed_live)
}

fn best_run<'a>(
    runs: &'a BTreeMap<(u64, SocketAddr), Run>,
    now: Instant,
    rules: &Rules,
) -> Option<(&'a Run, &'a Published)> {
    runs.iter()
        .filter_map(|(key, run)| Some((key, run, run.published.as_ref()?)))
        .max_by_key(|(key, run, published)| {
            (
                is_alive(run, published, now, rules),
                is_moving(run, now, rules),
                *key,
            )
        })
        .map(|(_, run, published)| (run, published))
}

fn peer(run: &Run, published: &Published, now: Instant, rules: &Rules) -> Peer {
    Peer {
        incarnation: published.incarnation,
        gossip_addr: run.addr,
        facts: published.facts.clone(),
        alive: is_alive(run, published, now, rules),
        left: published.left,
        last_heard: run.last_heard,
    }
}

#[cfg(test)]
mod tests;
