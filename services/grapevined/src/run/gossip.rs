//! Gossip: started, and followed from view to view.

use std::collections::BTreeSet;
use std::time::Duration;

use grapevine_core::id::Incarnation;
use grapevine_core::machine::effects::{Input, PeerHello, Sighting};
use grapevine_core::names::NodeId;
use grapevine_core::progress::OriginHead;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::engine::{Command, Engine};
use crate::wire;

/// How often the machine is told what gossip sees although that has not changed.
const TELL_AGAIN: Duration = Duration::from_secs(2);

pub(super) async fn start_gossip(
    config: &Config,
    hello: &PeerHello,
) -> anyhow::Result<(
    grapevine_gossip::Gossip,
    watch::Receiver<grapevine_gossip::View>,
)> {
    let gossip_config = grapevine_gossip::GossipConfig {
        seeds: config
            .gossip
            .seeds
            .iter()
            .map(ToString::to_string)
            .collect(),
        interval: config.gossip.interval,
        suspect_after: config.gossip.suspect_after,
        dead_grace: config.gossip.dead_grace,
        expected_members: config.cluster.expected_members,
        max_peers: config.gossip.max_peers,
        ..grapevine_gossip::GossipConfig::new(
            config.cluster.name.as_str(),
            hello.node_id.as_str(),
            hello.incarnation.get(),
            config.gossip.listen,
            config.gossip_advertise(),
        )
    };
    let facts = grapevine_gossip::Facts {
        peer_address: hello.peer_address.clone(),
        bump_head: 0,
        directory_head: 0,
        protocol: wire::peer::PROTOCOL,
        policy_digest: hello.policy_digest,
    };
    // Its errors name their knob.
    let started = grapevine_gossip::Gossip::start(gossip_config, facts).await?;
    Ok(started)
}

/// Turns gossip's views into inputs, and says what an operator should know of them.
pub(super) async fn follow_gossip(
    engine: Engine,
    mut views: watch::Receiver<grapevine_gossip::View>,
    hello: PeerHello,
    expected: usize,
) {
    let mut conflicts = BTreeSet::new();
    let mut mismatched = Vec::new();
    let mut alive_before = 0;
    let mut told = grapevine_gossip::View::default();
    let mut tell_by = Instant::now();
    loop {
        let view = views.borrow_and_update().clone();
        let heads: Vec<_> = view
            .heads_since(&told)
            .into_iter()
            .filter_map(head)
            .collect();
        if !heads.is_empty() && !send(&engine, Input::HeadsSeen(heads)).await {
            return;
        }
        // Heads move with every event; who the members are is looked at only when that changed, or after a while.
        if Instant::now() >= tell_by || !view.same_members(&told) {
            // Told again when nothing changed: links that broke meanwhile leave members whom gossip has to vouch for anew.
            tell_by = Instant::now() + TELL_AGAIN;
            tell_conflicts(&view, &mut conflicts);
            let peers = view.peers.iter();
            let sightings: Vec<_> = peers
                .filter_map(|(node, peer)| sighting(node, peer))
                .collect();
            tell_policies(&sightings, &hello, &mut mismatched);
            let alive = sightings.iter().filter(|seen| seen.alive).count() + 1;
            if alive != alive_before {
                info!(alive, expected, "gossip");
                alive_before = alive;
            }
            if !send(&engine, Input::Seen(sightings)).await {
                return;
            }
        }
        told = view;
        if let Ok(Err(_)) = tokio::time::timeout_at(tell_by, views.changed()).await {
            return;
        }
    }
}

async fn send(engine: &Engine, input: Input) -> bool {
    engine.urgent.send(Command::Input(input)).await.is_ok()
}

/// Told once; the view comes again every few seconds.
fn tell_conflicts(view: &grapevine_gossip::View, told: &mut BTreeSet<String>) {
    let conflicts = view.conflicts.iter();
    let found: BTreeSet<_> = conflicts.map(|conflict| conflict.node_id.clone()).collect();
    for node in found.difference(told) {
        error!(
            node,
            "several processes use one node id: give every sidecar its own node.id"
        );
    }
    *told = found;
}

fn tell_policies(sightings: &[Sighting], hello: &PeerHello, told: &mut Vec<NodeId>) {
    let differing: Vec<_> = sightings
        .iter()
        .filter(|seen| seen.alive && seen.hello.policy_digest != hello.policy_digest)
        .map(|seen| seen.hello.node_id.clone())
        .collect();
    if differing == *told {
        return;
    }
    if !differing.is_empty() {
        warn!(
            ?differing,
            "members hold other policies: roll the same configuration out to all of them"
        );
    }
    *told = differing;
}

fn head(heads: grapevine_gossip::Heads) -> Option<OriginHead> {
    Some(OriginHead {
        incarnation: Incarnation::new(heads.incarnation)?,
        bump: heads.bump,
        directory: heads.directory,
    })
}

fn sighting(node: &str, peer: &grapevine_gossip::Peer) -> Option<Sighting> {
    let hello = PeerHello {
        node_id: NodeId::parse(node).ok()?,
        incarnation: Incarnation::new(peer.incarnation)?,
        peer_address: peer.facts.peer_address.clone(),
        policy_digest: peer.facts.policy_digest,
    };
    // One that left, or that speaks another protocol, is not worth dialling.
    Some(Sighting {
        hello,
        alive: peer.alive && !peer.left && peer.facts.protocol == wire::peer::PROTOCOL,
    })
}
