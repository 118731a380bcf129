#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

pub(crate) const CLUSTER: &str = "grapevine1:shop";

pub(crate) fn node(id: &str, generation: u64) -> Node<'_> {
    Node {
        id,
        generation,
        addr: SocketAddr::from(([127, 0, 0, 1], 7101)),
    }
}

fn own() -> Node<'static> {
    node("own", 1)
}

fn put_str(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend(u16::try_from(text.len()).unwrap().to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn put_node(bytes: &mut Vec<u8>, node: &Node<'_>) {
    put_str(bytes, node.id);
    bytes.extend(node.generation.to_le_bytes());
    match node.addr.ip() {
        IpAddr::V4(ip) => {
            bytes.push(4);
            bytes.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.push(6);
            bytes.extend(ip.octets());
        }
    }
    bytes.extend(node.addr.port().to_le_bytes());
}

pub(crate) fn put_digest(bytes: &mut Vec<u8>, nodes: &[(Node<'_>, u64)]) {
    bytes.extend(u16::try_from(nodes.len()).unwrap().to_le_bytes());
    for (node, heartbeat) in nodes {
        put_node(bytes, node);
        for counter in [*heartbeat, 0, 5] {
            bytes.extend(counter.to_le_bytes());
        }
    }
}

pub(crate) fn syn(cluster: &str, nodes: &[(Node<'_>, u64)]) -> Vec<u8> {
    let mut bytes = header(SYN);
    put_digest(&mut bytes, nodes);
    put_str(&mut bytes, cluster);
    bytes
}

/// With a digest, and no news.
pub(crate) fn syn_ack(nodes: &[(Node<'_>, u64)]) -> Vec<u8> {
    let mut bytes = header(SYN_ACK);
    put_digest(&mut bytes, nodes);
    bytes.push(0);
    bytes
}

pub(crate) enum Op<'a> {
    Node(Node<'a>),
    Set(&'a str, &'a str, u64),
    Delete(&'a str, u64),
    Max(u64),
}

fn operations(ops: &[Op<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for op in ops {
        match op {
            Op::Node(node) => {
                bytes.push(0);
                put_node(&mut bytes, node);
                bytes.extend([0; 16]);
            }
            Op::Set(key, value, version) => {
                bytes.push(1);
                put_str(&mut bytes, key);
                put_str(&mut bytes, value);
                bytes.extend(version.to_le_bytes());
                bytes.push(0);
            }
            Op::Delete(key, version) => {
                bytes.push(1);
                put_str(&mut bytes, key);
                put_str(&mut bytes, "");
                bytes.extend(version.to_le_bytes());
                bytes.push(1);
            }
            Op::Max(version) => {
                bytes.push(2);
                bytes.extend(version.to_le_bytes());
            }
        }
    }
    bytes
}

pub(crate) fn ack(ops: &[Op<'_>]) -> Vec<u8> {
    let mut bytes = header(ACK);
    bytes.push(2);
    let operations = operations(ops);
    bytes.extend(u16::try_from(operations.len()).unwrap().to_le_bytes());
    bytes.extend(operations);
    bytes.push(0);
    bytes
}

fn refusal(bytes: &[u8]) -> Option<Refusal> {
    read(bytes, CLUSTER, &own()).err()
}

#[test]
fn an_entry_takes_as_many_bytes_as_computed() {
    for addr in ["127.0.0.1:9", "[2001:db8::1]:9"] {
        let node = Node {
            id: "node-12",
            generation: 3,
            addr: addr.parse().unwrap(),
        };
        let mut bytes = Vec::new();
        put_digest(&mut bytes, &[(node.clone(), 1)]);
        assert_eq!(bytes.len() - 2, entry_bytes(node.id, node.addr));
    }
}

#[test]
fn a_full_digest_leaves_its_reserve_and_fits_every_datagram() {
    let syn = HEADER_BYTES + 2 + DIGEST_BYTES_MAX + 2 + CLUSTER_ID_BYTES_MAX;
    let syn_ack = HEADER_BYTES + 2 + DIGEST_BYTES_MAX + DELTA_RESERVE_BYTES;
    assert!(syn <= DATAGRAM_BYTES_MAX && syn_ack <= DATAGRAM_BYTES_MAX);
    // The figures that `GossipConfig::node_id` promises.
    let fit = |id_bytes: usize, addr: &str| {
        DIGEST_BYTES_MAX / entry_bytes(&"n".repeat(id_bytes), addr.parse().unwrap())
    };
    assert_eq!(fit(64, "[::1]:1"), 488);
    assert_eq!(fit(14, "[::1]:1"), 853);
    assert!(fit(14, "127.0.0.1:1") >= crate::config::PEERS_MAX);
}

#[test]
fn only_kept_entries_remain_in_a_digest() {
    let bytes = syn(
        CLUSTER,
        &[(node("a", 1), 10), (node("b", 2), 20), (node("c", 3), 30)],
    );
    let datagram = read(&bytes, CLUSTER, &own()).unwrap();
    assert_eq!(datagram.with_entries(&[true, true, true]), bytes);
    let cut = datagram.with_entries(&[true, false, true]);
    assert_eq!(cut, syn(CLUSTER, &[(node("a", 1), 10), (node("c", 3), 30)]));
}

#[test]
fn odd_names_addresses_and_counters_are_marked() {
    let nowhere = Node {
        addr: SocketAddr::from(([0, 0, 0, 0], 7)),
        ..node("a", 1)
    };
    let no_port = Node {
        addr: SocketAddr::from(([10, 0, 0, 1], 0)),
        ..node("a", 1)
    };
    let long = "n".repeat(65);
    let bytes = syn(
        CLUSTER,
        &[
            (node("fine", 1), 1),
            (node("", 1), 1),
            (node("sp ace", 1), 1),
            (node(&long, 1), 1),
            (nowhere, 1),
            (no_port, 1),
            (node("b", 1), u64::MAX),
        ],
    );
    let sane: Vec<bool> = read(&bytes, CLUSTER, &own())
        .unwrap()
        .entries
        .iter()
        .map(|entry| entry.sane)
        .collect();
    assert_eq!(sane, [true, false, false, false, false, false, false]);
}

#[test]
fn other_clusters_are_refused() {
    assert_eq!(
        refusal(&syn("grapevine1:other", &[])),
        Some(Refusal::ForeignCluster)
    );
    assert_eq!(refusal(&header(BAD_CLUSTER)), Some(Refusal::ForeignCluster));
}

#[test]
fn a_datagram_cut_anywhere_or_with_bytes_left_over_is_malformed() {
    let whole = [
        syn(CLUSTER, &[(node("a", 1), 10)]),
        ack(&[Op::Node(node("a", 1)), Op::Set("heads", "1 2", 3)]),
        [header(SYN_ACK), vec![0, 0], vec![0]].concat(),
    ];
    for bytes in whole {
        assert_eq!(refusal(&bytes), None);
        for len in 0..bytes.len() {
            assert_eq!(
                refusal(&bytes[..len]),
                Some(Refusal::Malformed),
                "cut at {len}"
            );
        }
        assert!(refusal(&[bytes, vec![9]].concat()).is_some());
    }
}

#[test]
fn deltas_that_would_panic_or_poison_chitchat_are_refused() {
    let a = || Op::Node(node("a", 1));
    let long_key = "k".repeat(33);
    let long_value = "v".repeat(301);
    let bad = [
        // Panics chitchat's listeners, which slice the first byte.
        vec![a(), Op::Set("é", "1", 1)],
        vec![a(), Op::Set("", "1", 1)],
        vec![a(), Op::Set(&long_key, "1", 1)],
        vec![a(), Op::Set("heads", &long_value, 1)],
        // Panics chitchat's assertion that the maximum covers the versions.
        vec![a(), Op::Set("heads", "1 1", 10), Op::Max(5)],
        vec![a(), Op::Set("heads", "1 1", 2), Op::Set("addr", "h:1", 2)],
        vec![a(), Op::Set("heads", "1 1", u64::MAX)],
        vec![a(), Op::Max(u64::MAX)],
        vec![a(), Op::Delete("heads", 2)],
        vec![a(), a()],
        vec![Op::Node(own()), Op::Set("heads", "1 1", 3)],
        vec![Op::Set("heads", "1 1", 3)],
        vec![Op::Max(3)],
    ];
    for (case, ops) in bad.iter().enumerate() {
        assert_eq!(refusal(&ack(ops)), Some(Refusal::BadDelta), "case {case}");
    }
    assert_eq!(
        refusal(&ack(&[
            a(),
            Op::Max(3),
            Op::Node(node("own", 2)),
            Op::Set("inc", "", 3)
        ])),
        None
    );
}

#[test]
fn a_delta_that_unpacks_without_end_is_refused() {
    let packed = zstd::bulk::compress(&vec![0_u8; BLOCK_BYTES_MAX], 0).unwrap();
    let mut bytes = header(ACK);
    for _ in 0..100 {
        bytes.push(1);
        bytes.extend(u16::try_from(packed.len()).unwrap().to_le_bytes());
        bytes.extend(&packed);
    }
    bytes.push(0);
    assert!(bytes.len() < DATAGRAM_BYTES_MAX);
    assert_eq!(refusal(&bytes), Some(Refusal::BadDelta));
}

#[test]
fn no_bytes_panic_the_reader() {
    use rand::{Rng, SeedableRng, rngs::SmallRng};
    let mut rng = SmallRng::seed_from_u64(7);
    let base = [
        syn(CLUSTER, &[(node("a", 1), 10)]),
        ack(&[Op::Node(node("a", 1)), Op::Set("heads", "1 2", 3)]),
    ];
    for round in 0..20_000 {
        let mut bytes = base[round % 2].clone();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
        }
        if let Ok(datagram) = read(&bytes, CLUSTER, &own()) {
            let keep = vec![true; datagram.entries.len()];
            assert_eq!(datagram.with_entries(&keep), bytes);
        }
    }
}
