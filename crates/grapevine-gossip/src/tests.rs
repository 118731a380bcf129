//! Several sidecars' gossip in one process, over UDP on the loopback interface: the guarded socket is part of what is
//! tested, so chitchat's in-memory transport would test less. Every wait is for a condition, with a deadline.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::time::{Instant, interval, timeout};

use super::*;
use crate::wire::tests::{Op, ack, node, syn, syn_ack};

const CLUSTER: &str = "shop";
const CLUSTER_ID: &str = "grapevine1:shop";
/// Longer than any condition takes on a machine that does much else.
const DEADLINE: Duration = Duration::from_mins(2);

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn config(node_id: &str, incarnation: u128, seeds: &[SocketAddr]) -> GossipConfig {
    GossipConfig {
        seeds: seeds.iter().map(ToString::to_string).collect(),
        interval: Duration::from_millis(20),
        suspect_after: Duration::from_millis(600),
        dead_grace: Duration::from_secs(20),
        expected_members: 2,
        ..GossipConfig::new(CLUSTER, node_id, incarnation, loopback(), loopback())
    }
}

fn facts(peer_address: &str) -> Facts {
    Facts {
        peer_address: peer_address.into(),
        protocol: 1,
        policy_digest: 0xabc,
        ..Facts::default()
    }
}

async fn start(config: GossipConfig) -> Gossip {
    Gossip::start(config, facts("127.0.0.1:7103"))
        .await
        .unwrap()
        .0
}

/// Waits until `gossip`'s view satisfies `wanted`.
async fn until(gossip: &Gossip, what: &str, wanted: impl FnMut(&View) -> bool) -> View {
    let mut view = gossip.view();
    let Ok(found) = timeout(DEADLINE, view.wait_for(wanted)).await else {
        panic!(
            "not within {DEADLINE:?}: {what}; view {:#?}, {:?}",
            gossip.view().borrow(),
            gossip.health()
        );
    };
    found.unwrap().clone()
}

/// Waits until `gossip`'s health satisfies `wanted`.
async fn until_health(gossip: &Gossip, what: &str, wanted: impl Fn(&Health) -> bool) -> Health {
    let deadline = Instant::now() + DEADLINE;
    let mut tick = interval(Duration::from_millis(5));
    loop {
        tick.tick().await;
        let health = gossip.health();
        if wanted(&health) {
            return health;
        }
        assert!(
            Instant::now() < deadline,
            "not within {DEADLINE:?}: {what}; {health:?}"
        );
    }
}

fn alive(view: &View, node_id: &str, incarnation: u128) -> bool {
    view.peers
        .get(node_id)
        .is_some_and(|peer| peer.alive && peer.incarnation == incarnation)
}

async fn until_alive(gossip: &Gossip, node_id: &str, incarnation: u128) -> View {
    until(gossip, &format!("{node_id} alive"), |view| {
        alive(view, node_id, incarnation)
    })
    .await
}

#[tokio::test]
async fn three_sidecars_find_each_other_through_one_and_learn_everything() {
    let a = start(config("a", 1, &[])).await;
    let b = Gossip::start(config("b", 2, &[a.local_addr()]), facts("b.example:1"))
        .await
        .unwrap()
        .0;
    let c = Gossip::start(config("c", 3, &[a.local_addr()]), facts("c.example:2"))
        .await
        .unwrap()
        .0;
    for (gossip, others) in [(&a, ["b", "c"]), (&b, ["a", "c"]), (&c, ["a", "b"])] {
        let all_alive = |view: &View| {
            others
                .iter()
                .all(|id| view.peers.get(*id).is_some_and(|peer| peer.alive))
        };
        let view = until(gossip, "everybody alive", all_alive).await;
        assert_eq!(view.peers.keys().collect::<Vec<_>>(), others);
        assert!(view.conflicts.is_empty());
    }
    let seen = a.view().borrow().peers["c"].clone();
    assert_eq!(
        (seen.incarnation, seen.gossip_addr, seen.facts),
        (3, c.local_addr(), facts("c.example:2"))
    );
    // The guard understands everything that chitchat says.
    for gossip in [&a, &b, &c] {
        let counters = gossip.health().counters;
        assert_eq!(
            counters,
            Counters {
                datagrams_received: counters.datagrams_received,
                datagrams_sent: counters.datagrams_sent,
                bytes_sent: counters.bytes_sent,
                seed_rounds: counters.seed_rounds,
                ..Counters::default()
            }
        );
    }
}

fn heads(view: &View, node_id: &str) -> Option<(u64, u64)> {
    view.peers
        .get(node_id)
        .map(|peer| (peer.facts.bump_head, peer.facts.directory_head))
}

#[tokio::test]
async fn heads_spread_with_the_rounds_and_never_sink() {
    let a = start(config("a", 1, &[])).await;
    let b = start(config("b", 2, &[a.local_addr()])).await;
    until_alive(&a, "b", 2).await;
    b.set_heads(41, 9);
    b.set_heads(42, 8);
    until(&a, "b's heads", |view| heads(view, "b") == Some((42, 9))).await;
    assert_eq!(b.health().counters.nudges, 0);
}

/// Waits until `gossip` thinks so, making it look.
async fn until_seen(gossip: &Gossip, node_id: &str, incarnation: u128) {
    let deadline = Instant::now() + DEADLINE;
    let mut tick = interval(Duration::from_millis(20));
    while !alive(&gossip.view().borrow(), node_id, incarnation) {
        tick.tick().await;
        // Nobody is forgotten by it, but chitchat is looked at.
        gossip.forget("nobody").await;
        assert!(Instant::now() < deadline, "{:#?}", gossip.view().borrow());
    }
}

#[tokio::test]
async fn a_nudge_spreads_heads_at_once() {
    // So slow that only a nudge or a round of seeds can carry anything within the test: the next regular round, before
    // which heads are not even published, is 40 s from the start.
    let slow = |node_id, incarnation, seeds: &[SocketAddr]| GossipConfig {
        interval: Duration::from_secs(40),
        suspect_after: Duration::from_secs(400),
        dead_grace: Duration::from_secs(1_600),
        ..config(node_id, incarnation, seeds)
    };
    let began = Instant::now();
    let a = start(slow("a", 1, &[])).await;
    let b = start(slow("b", 2, &[a.local_addr()])).await;
    until_seen(&b, "a", 1).await;
    until_seen(&a, "b", 2).await;
    let rounds = || [&a, &b].map(|gossip| gossip.health().counters.seed_rounds);
    // While they find each other there are rounds of seeds, and one that comes in between proves nothing.
    for head in 1.. {
        let before = rounds();
        b.set_heads(head, head);
        b.nudge();
        until(&a, "b's heads", |view| {
            heads(view, "b") == Some((head, head))
        })
        .await;
        let took = began.elapsed();
        assert!(
            took < Duration::from_secs(30),
            "too late to prove it: {took:?}"
        );
        if rounds() == before {
            assert_eq!(b.health().counters.nudges, head);
            return;
        }
    }
}

#[tokio::test]
async fn a_dead_sidecar_is_suspected_remembered_and_found_again() {
    let a = start(GossipConfig {
        dead_grace: Duration::from_millis(1_200),
        ..config("a", 1, &[])
    })
    .await;
    let b = start(config("b", 2, &[a.local_addr()])).await;
    let b_addr = b.local_addr();
    b.set_heads(5, 6);
    until(&a, "b's heads", |view| {
        alive(view, "b", 2) && view.peers["b"].facts.bump_head == 5
    })
    .await;
    until_alive(&b, "a", 1).await;
    drop(b);
    let view = until(&a, "b suspected", |view| !view.peers["b"].alive).await;
    assert!(!view.peers["b"].left);
    until_health(&a, "chitchat forgot b", |health| health.entries == 1).await;
    assert_eq!(
        a.view().borrow().peers["b"].facts.directory_head,
        6,
        "its peer is remembered"
    );

    // It returns where it was, without knowing anybody: the remembered address finds it.
    let again = Gossip::start(
        GossipConfig {
            listen: b_addr,
            advertise: b_addr,
            ..config("b", 3, &[])
        },
        facts("127.0.0.1:7103"),
    );
    let again = again.await.unwrap().0;
    until_alive(&a, "b", 3).await;
    until_alive(&again, "a", 1).await;
    assert!(a.view().borrow().conflicts.is_empty());
}

#[tokio::test]
async fn a_restart_supersedes_the_former_incarnation() {
    let a = start(config("a", 1, &[])).await;
    let first = start(config("b", 20, &[a.local_addr()])).await;
    until_alive(&a, "b", 20).await;
    drop(first);
    // Right away, at another address, while the former run is not suspected yet.
    let _second = start(config("b", 21, &[a.local_addr()])).await;
    until_alive(&a, "b", 21).await;
    assert!(a.view().borrow().conflicts.is_empty());
}

#[tokio::test]
async fn one_name_used_twice_is_reported_to_all_who_are_concerned() {
    let a = start(config("a", 1, &[])).await;
    let one = start(config("b", 2, &[a.local_addr()])).await;
    let two = start(config("b", 3, &[a.local_addr()])).await;
    let expected = vec![(2, one.local_addr()), (3, two.local_addr())];
    for gossip in [&a, &one, &two] {
        let view = until(gossip, "the conflict", |view| !view.conflicts.is_empty()).await;
        assert_eq!(
            view.conflicts,
            [Conflict {
                node_id: "b".into(),
                incarnations: expected.clone()
            }]
        );
    }
    drop(one);
    until(&a, "the conflict's end", |view| view.conflicts.is_empty()).await;
    until_alive(&a, "b", 3).await;
}

#[tokio::test]
async fn a_sidecar_that_leaves_in_order_is_known_to_have_left() {
    let a = start(config("a", 1, &[])).await;
    let b = start(config("b", 2, &[a.local_addr()])).await;
    until_alive(&a, "b", 2).await;
    until_alive(&b, "a", 1).await;
    b.set_heads(77, 0);
    b.shutdown().await;
    let view = until(&a, "b left", |view| view.peers["b"].left).await;
    assert!(!view.peers["b"].alive);
    assert_eq!(
        view.peers["b"].facts.bump_head, 77,
        "its last heads came with the farewell"
    );
}

#[tokio::test]
async fn seeds_may_be_names_and_may_appear_later() {
    // A port that is free now and taken later.
    let free = std::net::UdpSocket::bind(loopback())
        .unwrap()
        .local_addr()
        .unwrap();
    let seeds = vec![
        format!("localhost:{}", free.port()),
        "no-such-host.invalid:1".to_owned(),
    ];
    let b = start(GossipConfig {
        seeds,
        ..config("b", 2, &[])
    })
    .await;
    until_health(&b, "rounds in vain", |health| {
        health.counters.seed_rounds > 2 && health.counters.seed_lookup_failures > 0
    })
    .await;
    let a = start(GossipConfig {
        listen: free,
        advertise: free,
        expected_members: 1,
        ..config("a", 1, &[])
    })
    .await;
    until_alive(&b, "a", 1).await;
    until_alive(&a, "b", 2).await;
}

#[tokio::test]
async fn other_clusters_are_ignored_and_counted() {
    let a = start(config("a", 1, &[])).await;
    let foreign = start(GossipConfig {
        cluster: "bank".into(),
        ..config("x", 9, &[a.local_addr()])
    })
    .await;
    until_health(&a, "foreign datagrams", |health| {
        health.counters.foreign_datagrams > 3
    })
    .await;
    assert!(a.view().borrow().peers.is_empty() && foreign.view().borrow().peers.is_empty());
    let b = start(config("b", 2, &[a.local_addr()])).await;
    until_alive(&a, "b", 2).await;
    until_alive(&b, "a", 1).await;
    assert_eq!(a.view().borrow().peers.len(), 1);
}

#[tokio::test]
async fn garbage_and_crafted_datagrams_do_not_kill_gossip() {
    let a = start(config("a", 1, &[])).await;
    let b = start(config("b", 2, &[a.local_addr()])).await;
    until_alive(&a, "b", 2).await;
    let stranger = UdpSocket::bind(loopback()).await.unwrap();
    let mut rng = SmallRng::seed_from_u64(1);
    // chitchat takes a delta only for a node it has heard of.
    let ghost = || node("ghost", 9);
    stranger
        .send_to(&syn(CLUSTER_ID, &[(ghost(), 1)]), a.local_addr())
        .await
        .unwrap();
    until_health(&a, "the ghost", |health| health.entries == 3).await;
    let crafted = [
        // The first two panic an unguarded chitchat.
        ack(&[Op::Node(ghost()), Op::Set("é", "1", 1)]),
        ack(&[Op::Node(ghost()), Op::Set("heads", "1 1", 10), Op::Max(5)]),
        syn(
            CLUSTER_ID,
            &[
                (node("b", u64::MAX), u64::MAX),
                (node(&"n".repeat(5_000), 1), 1),
            ],
        ),
        syn("bank", &[(node("x", 1), 1)]),
    ];
    for round in 0..4_000_usize {
        let mut bytes = crafted[round % crafted.len()].clone();
        if (round / crafted.len()).is_multiple_of(2) {
            bytes.truncate(rng.random_range(0..bytes.len()));
            bytes.extend((0..rng.random_range(0..200)).map(|_| rng.random::<u8>()));
        }
        stranger.send_to(&bytes, a.local_addr()).await.unwrap();
    }
    until_health(&a, "refusals counted", |health| {
        let counters = health.counters;
        counters.malformed_datagrams > 0 && counters.bad_deltas > 0 && counters.bad_entries > 0
    })
    .await;
    let c = start(config("c", 3, &[a.local_addr()])).await;
    until_alive(&a, "c", 3).await;
    until_alive(&c, "b", 2).await;
    assert_eq!(a.health().counters.restarts, 0, "{:?}", a.health());
    assert_eq!(
        a.view().borrow().peers.keys().collect::<Vec<_>>(),
        ["b", "c"]
    );
    drop(b);
}

#[tokio::test]
async fn answers_that_nobody_asked_for_are_refused() {
    let a = start(config("a", 1, &[])).await;
    let b = start(config("b", 2, &[a.local_addr()])).await;
    until_alive(&a, "b", 2).await;
    let stranger = UdpSocket::bind(loopback()).await.unwrap();
    let ghost = || node("ghost", 9);
    // Neither names a cluster: it could be any. The first would make a node known.
    for bytes in [
        syn_ack(&[(ghost(), 1)]),
        ack(&[Op::Node(ghost()), Op::Set("heads", "1 1", 3)]),
    ] {
        let before = a.health().counters.unasked_datagrams;
        stranger.send_to(&bytes, a.local_addr()).await.unwrap();
        until_health(&a, "the refusal", |health| {
            health.counters.unasked_datagrams > before
        })
        .await;
    }
    assert_eq!(a.health().entries, 2);
    // Who begins a handshake may end it, and has not begun one in the other direction by that.
    stranger
        .send_to(&syn(CLUSTER_ID, &[(ghost(), 1)]), a.local_addr())
        .await
        .unwrap();
    until_health(&a, "the ghost", |health| health.entries == 3).await;
    let mut answer = vec![0; 65_536];
    let answered = timeout(DEADLINE, stranger.recv_from(&mut answer)).await;
    assert_eq!(answered.unwrap().unwrap().1, a.local_addr());
    let before = a.health().counters;
    stranger
        .send_to(&syn_ack(&[(node("other", 9), 1)]), a.local_addr())
        .await
        .unwrap();
    until_health(&a, "the refusal", |health| {
        health.counters.unasked_datagrams > before.unasked_datagrams
    })
    .await;
    stranger
        .send_to(
            &ack(&[Op::Node(ghost()), Op::Delete("heads", 3)]),
            a.local_addr(),
        )
        .await
        .unwrap();
    until_health(&a, "the ghost's bad delta, which was read", |health| {
        health.counters.bad_deltas > before.bad_deltas
    })
    .await;
    // Between those who belong together, nothing was refused.
    assert_eq!(b.health().counters.unasked_datagrams, 0);
    assert!(alive(&a.view().borrow(), "b", 2));
}

#[tokio::test]
async fn an_absurd_heartbeat_does_not_silence_a_run() {
    let a = start(config("a", 1, &[])).await;
    let stranger = UdpSocket::bind(loopback()).await.unwrap();
    let say = async |heartbeat| {
        stranger
            .send_to(
                &syn(CLUSTER_ID, &[(node("ghost", 9), heartbeat)]),
                a.local_addr(),
            )
            .await
            .unwrap();
    };
    say(1).await;
    until_health(&a, "the ghost", |health| health.entries == 2).await;
    say(1 << 50).await;
    until_health(&a, "the refusal", |health| health.counters.bad_entries == 1).await;
    say(2).await;
    let before = a.health().counters.datagrams_received;
    until_health(&a, "an ordinary one", |health| {
        health.counters.datagrams_received > before
    })
    .await;
    assert_eq!(a.health().counters.bad_entries, 1);
}

#[tokio::test]
async fn g10_a_thousand_invented_nodes_do_not_overflow_the_digest() {
    let a = start(config("a", 1, &[])).await;
    let b = start(config("b", 2, &[a.local_addr()])).await;
    until_alive(&a, "b", 2).await;
    let stranger = UdpSocket::bind(loopback()).await.unwrap();
    let names: Vec<String> = (0..1_500).map(|n| format!("{n:060}")).collect();
    for chunk in names.chunks(300) {
        let nodes: Vec<_> = chunk.iter().map(|name| (node(name, 1), 5)).collect();
        stranger
            .send_to(&syn(CLUSTER_ID, &nodes), a.local_addr())
            .await
            .unwrap();
    }
    // Hearsay gets three quarters.
    let health = until_health(&a, "refusals", |health| {
        health.counters.refused_entries > 0
            && health.digest_bytes * 100 > health.digest_bytes_max * 74
    })
    .await;
    assert!(
        health.digest_bytes * 4 <= health.digest_bytes_max * 3 + 4,
        "{health:?}"
    );
    // Full digests still travel: both sides go on hearing each other and each other's news.
    b.set_heads(1, 2);
    until(&a, "b's heads", |view| {
        alive(view, "b", 2) && view.peers["b"].facts.directory_head == 2
    })
    .await;
    let heard = a.view().borrow().peers["b"].last_heard;
    until_health(&a, "b heard again", |_| {
        a.view().borrow().peers["b"].last_heard > heard
    })
    .await;
    for gossip in [&a, &b] {
        let counters = gossip.health().counters;
        assert_eq!(
            (counters.restarts, counters.send_failures),
            (0, 0),
            "{counters:?}"
        );
    }
}

#[tokio::test]
async fn g10_members_find_each_other_although_all_are_full_of_invented_nodes() {
    // What is invented does not lapse within the test.
    let patient = |node_id, incarnation, seeds: &[SocketAddr]| GossipConfig {
        dead_grace: Duration::from_mins(10),
        ..config(node_id, incarnation, seeds)
    };
    let stranger = UdpSocket::bind(loopback()).await.unwrap();
    let flood = async |gossip: &Gossip, whose: &str| {
        let names: Vec<String> = (0..1_500).map(|n| format!("{whose}-{n}")).collect();
        for chunk in names.chunks(300) {
            // Told twice, so that they seem to live for a while.
            for heartbeat in [5, 6] {
                let nodes: Vec<_> = chunk
                    .iter()
                    .map(|name| (node(name, 1), heartbeat))
                    .collect();
                let datagram = syn(CLUSTER_ID, &nodes);
                stranger
                    .send_to(&datagram, gossip.local_addr())
                    .await
                    .unwrap();
            }
        }
        until_health(gossip, "it is full", |health| health.entries >= 768).await;
    };
    // The seed comes last: until then the others know nobody.
    let seed = std::net::UdpSocket::bind(loopback()).unwrap();
    let seed_addr = seed.local_addr().unwrap();
    let b = start(patient("b", 2, &[seed_addr])).await;
    let m = start(patient("m", 3, &[seed_addr])).await;
    for (gossip, whose) in [(&b, "at-b"), (&m, "at-m")] {
        flood(gossip, whose).await;
    }
    drop(seed);
    let a = start(GossipConfig {
        listen: seed_addr,
        advertise: seed_addr,
        ..patient("a", 1, &[])
    })
    .await;
    flood(&a, "at-a").await;
    for (gossip, others) in [
        (&a, [("b", 2), ("m", 3)]),
        (&b, [("a", 1), ("m", 3)]),
        (&m, [("a", 1), ("b", 2)]),
    ] {
        for (node_id, incarnation) in others {
            until_alive(gossip, node_id, incarnation).await;
        }
    }
    // Runs of its name that others invented do not hide its next one, either.
    let ghosts: Vec<_> = (1..=20).map(|run| (node("b", run), 5)).collect();
    let datagram = syn(CLUSTER_ID, &ghosts);
    for gossip in [&a, &m] {
        stranger
            .send_to(&datagram, gossip.local_addr())
            .await
            .unwrap();
    }
    drop(b);
    let b = start(patient("b", 20, &[seed_addr])).await;
    for gossip in [&a, &m] {
        until_alive(gossip, "b", 20).await;
    }
    until_alive(&b, "m", 3).await;
    for gossip in [&a, &b, &m] {
        let health = gossip.health();
        assert!(health.entries <= 1_024, "{health:?}");
        assert_eq!(health.counters.restarts, 0, "{health:?}");
    }
}

#[tokio::test]
async fn g10_who_is_full_of_invented_nodes_does_not_fill_others() {
    let patient = |node_id, incarnation, seeds: &[SocketAddr]| GossipConfig {
        dead_grace: Duration::from_mins(10),
        ..config(node_id, incarnation, seeds)
    };
    let a = start(patient("a", 1, &[])).await;
    let b = start(patient("b", 2, &[a.local_addr()])).await;
    until_alive(&a, "b", 2).await;
    let names: Vec<String> = (0..900).map(|n| format!("invented-{n}")).collect();
    let stranger = UdpSocket::bind(loopback()).await.unwrap();
    for chunk in names.chunks(300) {
        let nodes: Vec<_> = chunk.iter().map(|name| (node(name, 1), 5)).collect();
        let datagram = syn(CLUSTER_ID, &nodes);
        stranger.send_to(&datagram, a.local_addr()).await.unwrap();
    }
    until_health(&a, "it is full", |health| health.entries >= 768).await;
    // One that asks hears of those who live, and nothing else; it may take a look until it is known to be full.
    let asks = UdpSocket::bind(loopback()).await.unwrap();
    let mut answer = vec![0; 65_536];
    let deadline = Instant::now() + DEADLINE;
    loop {
        let datagram = syn(CLUSTER_ID, &[]);
        asks.send_to(&datagram, a.local_addr()).await.unwrap();
        let answered = timeout(DEADLINE, asks.recv_from(&mut answer)).await;
        let told = wire::read_own(&answer[..answered.unwrap().unwrap().0]).unwrap();
        let told: Vec<_> = told.entries.iter().map(|entry| entry.node.id).collect();
        if told == ["a", "b"] {
            break;
        }
        assert!(Instant::now() < deadline, "{} are told", told.len());
    }
    assert!(a.health().entries >= 768);
    assert!(b.health().entries < 768, "{:?}", b.health());
}

#[tokio::test]
async fn g10_sixty_four_restarts_of_one_sidecar_stay_within_its_quota() {
    let quick = |node_id, incarnation, seeds: &[SocketAddr]| GossipConfig {
        interval: Duration::from_millis(10),
        suspect_after: Duration::from_millis(200),
        dead_grace: Duration::from_millis(800),
        ..config(node_id, incarnation, seeds)
    };
    let a = start(quick("a", 1, &[])).await;
    let c = start(quick("c", 2, &[a.local_addr()])).await;
    until_alive(&a, "c", 2).await;
    for incarnation in 100..164 {
        let b = start(quick("b", incarnation, &[a.local_addr()])).await;
        // Long enough to be told to somebody; the last run waits for room below.
        until_health(&b, "a datagram answered", |health| {
            health.counters.datagrams_received > 0
        })
        .await;
        let health = a.health();
        assert!(health.entries <= 2 + guard::RUNS_PER_NODE_MAX, "{health:?}");
        drop(b);
    }
    let _last = start(quick("b", 999, &[a.local_addr()])).await;
    until_alive(&a, "b", 999).await;
    until_alive(&c, "b", 999).await;
    until_health(&a, "dead runs lapse", |health| health.entries == 3).await;
    for gossip in [&a, &c] {
        assert_eq!(gossip.health().counters.restarts, 0);
    }
}

#[tokio::test]
async fn a_panic_of_chitchat_is_noticed_and_gossip_starts_again() {
    // Longer than a busy machine takes to start it again.
    let a = start(GossipConfig {
        suspect_after: Duration::from_secs(5),
        ..config("a", 1, &[])
    })
    .await;
    let b = start(config("b", 2, &[a.local_addr()])).await;
    until_alive(&a, "b", 2).await;
    until_alive(&b, "a", 1).await;
    a.set_heads(3, 4);
    let mut flapped = a.view();
    a.panic_engine().await;
    let health = until_health(&a, "the restart", |health| {
        health.running && health.counters.restarts == 1
    })
    .await;
    assert!(health.last_failure.unwrap().contains("panicked"));
    a.set_heads(5, 6);
    until(&b, "heads of the new run", |view| {
        view.peers["a"].facts.bump_head == 5 && alive(view, "a", 1)
    })
    .await;
    assert!(
        alive(&flapped.borrow_and_update(), "b", 2),
        "a short restart suspects nobody"
    );
    assert!(
        b.view().borrow().conflicts.is_empty(),
        "two generations of one incarnation are no conflict"
    );
}

#[tokio::test]
async fn a_port_in_use_and_a_wrong_configuration_are_clear_errors() {
    let a = start(config("a", 1, &[])).await;
    let taken = GossipConfig {
        listen: a.local_addr(),
        ..config("b", 2, &[])
    };
    let error = Gossip::start(taken, facts("h:1"))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with(&format!(
            "gossip.listen: cannot listen for UDP on {}",
            a.local_addr()
        )),
        "{error}"
    );
    let wrong = GossipConfig {
        cluster: "no spaces".into(),
        max_peers: 0,
        ..config("b", 2, &[])
    };
    let error = Gossip::start(wrong, facts("nowhere"))
        .await
        .unwrap_err()
        .to_string();
    for field in [
        "gossip.cluster",
        "gossip.max_peers: 0",
        "peer address: \"nowhere\"",
    ] {
        assert!(error.contains(field), "{field}: {error}");
    }
}

#[tokio::test]
async fn a_forgotten_peer_is_gone_and_a_dropped_handle_frees_the_port() {
    let a = start(GossipConfig {
        dead_grace: Duration::from_millis(1_200),
        ..config("a", 1, &[])
    })
    .await;
    let b = start(config("b", 2, &[a.local_addr()])).await;
    until_alive(&a, "b", 2).await;
    let b_addr = b.local_addr();
    drop(b);
    until_health(&a, "chitchat forgot b", |health| health.entries == 1).await;
    a.forget("b").await;
    until(&a, "b gone", |view| view.peers.is_empty()).await;
    let deadline = Instant::now() + DEADLINE;
    while UdpSocket::bind(b_addr).await.is_err() {
        assert!(Instant::now() < deadline, "the port stays taken");
        tokio::task::yield_now().await;
    }
}

/// Prints what `docs/decisions/0201-chitchat-use.md` quotes:
/// `cargo test --release -p grapevine-gossip -- --ignored --nocapture spread_to_fifty`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn spread_to_fifty() {
    let usual = |node: usize, seeds: &[SocketAddr]| GossipConfig {
        expected_members: 50,
        ..GossipConfig {
            seeds: seeds.iter().map(ToString::to_string).collect(),
            ..{
                let incarnation = u128::try_from(node).unwrap() + 1;
                GossipConfig::new(
                    CLUSTER,
                    format!("node-{node}"),
                    incarnation,
                    loopback(),
                    loopback(),
                )
            }
        }
    };
    let began = Instant::now();
    let mut nodes = vec![start(usual(0, &[])).await];
    let seed = [nodes[0].local_addr()];
    for node in 1..50 {
        nodes.push(start(usual(node, &seed)).await);
    }
    for gossip in &nodes {
        until(gossip, "everybody", |view| {
            view.peers.values().filter(|peer| peer.alive).count() == 49
        })
        .await;
    }
    println!(
        "50 nodes at 200 ms: all alive everywhere after {:?}",
        began.elapsed()
    );
    for nudged in [false, true] {
        let mut taken = Vec::new();
        for round in 1..=20_u64 {
            let head = round + if nudged { 1_000 } else { 0 };
            // So that one nudge does not wait for the former's gap.
            let rested = Instant::now() + Duration::from_millis(60);
            until_health(&nodes[7], "a rest", |_| Instant::now() > rested).await;
            let from = Instant::now();
            nodes[7].set_heads(head, 0);
            if nudged {
                nodes[7].nudge();
            }
            for gossip in nodes
                .iter()
                .filter(|gossip| gossip.local_addr() != nodes[7].local_addr())
            {
                until(gossip, "the head", |view| {
                    view.peers["node-7"].facts.bump_head == head
                })
                .await;
            }
            taken.push(from.elapsed());
        }
        taken.sort();
        println!(
            "to all nodes, nudged {nudged}: median {:?}, max {:?}",
            taken[10], taken[19]
        );
    }
    let cpu = || {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<i64> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split(' ')
            .filter_map(|field| field.parse().ok())
            .collect();
        // utime and stime, in hundredths of a second; the state letter before them does not parse.
        fields[10] + fields[11]
    };
    let (before, began) = (cpu(), Instant::now());
    until_health(&nodes[0], "ten seconds", |_| {
        began.elapsed() > Duration::from_secs(10)
    })
    .await;
    println!("idle: {} % of a core for all 50", (cpu() - before) / 10);
}
