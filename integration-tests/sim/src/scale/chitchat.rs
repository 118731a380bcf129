//! A model of chitchat 0.13, by its own rules: in every interval each node sends a digest of all nodes to three others at
//! random, who answer with theirs and what they have more of, and are answered with what the first one has more of.
//!
//! So a change travels both ways along each exchange. A digest has 46 bytes a node before compression: a name of 5 letters, a generation, an
//! address, a heartbeat and two versions. What is compressed is smaller by `DIGEST_RATIO`, measured apart.

use rand::Rng as _;
use rand::seq::IteratorRandom as _;

use crate::rng::stream;

/// Whom a node speaks to in an interval.
const PEERS: usize = 3;
/// Bytes of a node in a digest, before compression.
const DIGEST_NODE: u64 = 46;
/// What is left of a digest after compression, in hundredths.
const DIGEST_RATIO: u64 = 30;
/// A changed key: the node's name and versions, the key, its value and its version.
const CHANGE: u64 = 75;
/// UDP and IPv4, the envelope and the cluster's name.
const DATAGRAM: u64 = 28 + 24;

/// What the model comes to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures {
    /// Intervals until all nodes have a change: the median of the runs, and the most.
    pub(super) rounds: (u32, u32),
    /// Bytes that a node sends in an interval, whatever changes.
    pub(super) interval_bytes: u64,
    /// Datagrams that a node sends in an interval.
    pub(super) interval_messages: u64,
    /// Bytes that a change adds for each node.
    pub(super) change_bytes: u64,
}

/// Spreads one change through so many nodes, a few times over.
pub(super) fn spread(nodes: usize, seed: u64, runs: u32) -> Figures {
    let mut rng = stream(seed, 90);
    let mut all: Vec<u32> = (0..runs)
        .map(|_| {
            let mut has = vec![false; nodes];
            has[rng.random_range(0..nodes)] = true;
            let mut rounds = 0;
            while has.iter().any(|has| !has) {
                rounds += 1;
                // Intervals of different nodes are not in step: exchanges of one round build on each other in random order.
                let mut order: Vec<usize> = (0..nodes).collect();
                rand::seq::SliceRandom::shuffle(order.as_mut_slice(), &mut rng);
                for at in order {
                    let others = (0..nodes).filter(|other| *other != at);
                    for other in others.choose_multiple(&mut rng, PEERS) {
                        let either = has[at] || has[other];
                        (has[at], has[other]) = (either, either);
                    }
                }
            }
            rounds
        })
        .collect();
    all.sort_unstable();
    let digest = nodes as u64 * DIGEST_NODE * DIGEST_RATIO / 100;
    Figures {
        rounds: (
            all.get(all.len() / 2).copied().unwrap_or(0),
            all.last().copied().unwrap_or(0),
        ),
        // It begins three exchanges and, on average, answers three.
        interval_bytes: PEERS as u64 * (2 * digest + 3 * DATAGRAM),
        interval_messages: 3 * PEERS as u64,
        change_bytes: CHANGE,
    }
}
