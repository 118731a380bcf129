//! Who may be a peer: not who carries another's name, belongs to another cluster, speaks another protocol, or garbage.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use grapevine_integration_tests::{Api, Cluster, Setup, always, eventually};
use grapevine_proto::v1;
use grapevine_proto::v1::exchange_request::Kind;
use grapevine_proto::v1::peer_service_client::PeerServiceClient;
use grapevine_proto::v1::{Freshness, MemberState, ReceiptLevel};
use rand::RngCore as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket, UnixStream};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::support::{SOON, Superseded, numbered};

async fn check_fresh(api: &Api) -> Result<()> {
    let status = api.status().await?;
    ensure!(
        status.freshness() == Freshness::Fresh,
        "{}",
        status.freshness_reason
    );
    Ok(())
}

async fn incarnations(api: &Api) -> Result<Vec<(String, Vec<u8>)>> {
    let members = api.members().await?.into_iter();
    Ok(members
        .map(|member| (member.node_id, member.incarnation.to_vec()))
        .collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_process_with_a_node_id_ends_and_the_first_is_left_alone() {
    let mut cluster = Setup::of(2).start().await.unwrap();
    let before = incarnations(&cluster[1].api).await.unwrap();
    cluster.add("n1").await.unwrap().start().unwrap();
    let newcomer = &mut cluster[2];
    // Operators who ask it meanwhile hear what its log says.
    let api = newcomer.api.clone();
    eventually("its status tells why", SOON, async || {
        let reason = api.status().await?.freshness_reason;
        ensure!(reason.contains("node id n1 is in use"), "{reason}");
        Ok(())
    })
    .await
    .unwrap();
    let ended = newcomer.end(Duration::from_mins(1)).await.unwrap();
    assert_eq!(ended.code, Some(1), "{}", ended.output);
    let last = ended.output.lines().last().unwrap_or_default();
    assert!(
        last.contains("n1") && last.contains("node.id"),
        "its last word is {last:?}"
    );
    for node in 0..2 {
        check_fresh(&cluster[node].api).await.unwrap();
    }
    let rows = incarnations(&cluster[1].api).await.unwrap();
    assert_eq!(rows, before, "n2 still knows the first n1");
    let answer = cluster[1]
        .api
        .invalidate("class", ReceiptLevel::All)
        .await
        .unwrap();
    assert!(answer.receipt.unwrap().satisfied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_of_another_cluster_stays_outside() {
    let mut cluster = Setup::of(2).start().await.unwrap();
    let stranger = cluster.add("stranger").await.unwrap();
    stranger.set("cluster", "another").unwrap();
    stranger.start().unwrap();
    stranger.wait_serving().await.unwrap();
    let (inside, outside) = (cluster[0].api.clone(), cluster[2].api.clone());
    always("they keep apart", Duration::from_secs(3), async || {
        check_fresh(&inside).await?;
        ensure!(inside.members().await?.len() == 2);
        ensure!(outside.members().await?.len() == 1);
        ensure!(outside.status().await?.freshness() == Freshness::CatchingUp);
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_with_other_policies_is_noticed_by_all_and_works() {
    let mut cluster = Setup::of(2).start().await.unwrap();
    for node in cluster.nodes() {
        let status = node.api.status().await.unwrap();
        assert!(status.policy_mismatch.is_empty());
    }
    cluster[1].kill().await.unwrap();
    let config = cluster[1].data_dir.with_extension("toml");
    std::fs::write(&config, "[policy_default]\nttl = \"5s\"\n").unwrap();
    cluster[1]
        .set("config", &config.display().to_string())
        .unwrap();
    cluster[1].start_fresh().await.unwrap();
    cluster.wait_fresh().await.unwrap();
    for (node, other) in [(0, "n2"), (1, "n1")] {
        let api = &cluster[node].api;
        eventually("the difference is told", SOON, async || {
            let status = api.status().await?;
            ensure!(
                status.policy_mismatch == [other],
                "{:?}",
                status.policy_mismatch
            );
            let members = api.members().await?;
            let member = members.iter().find(|member| member.node_id == other);
            ensure!(member.is_some_and(|member| !member.policy_agrees));
            Ok(())
        })
        .await
        .unwrap();
        eventually("the log tells", SOON, async || {
            let log = cluster[node].log();
            let told = |line: &str| line.contains("WARN") && line.contains("policies");
            ensure!(log.lines().any(told), "{log}");
            Ok(())
        })
        .await
        .unwrap();
    }
    let answer = cluster[0]
        .api
        .invalidate("class", ReceiptLevel::All)
        .await
        .unwrap();
    assert!(answer.receipt.unwrap().satisfied);
}

#[tokio::test(flavor = "multi_thread")]
async fn seeds_may_be_dns_names_and_may_be_wrong() {
    let mut cluster = Setup::of(2).prepare().await.unwrap();
    let first = cluster[0].gossip.port();
    let seeds = format!("no-such-host.invalid:1,127.0.0.1:9,localhost:{first}");
    cluster[0].set("seeds", "no-such-host.invalid:1").unwrap();
    cluster[1].set("seeds", &seeds).unwrap();
    cluster[0].start().unwrap();
    cluster[1].start().unwrap();
    cluster.wait_fresh().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_sidecar_at_the_address_of_one_that_is_gone_is_not_taken_for_it() {
    let mut cluster = Setup::of(2).start().await.unwrap();
    let place = cluster[1].peer.to_string();
    cluster[1].kill().await.unwrap();
    let heir = cluster.add("n3").await.unwrap();
    heir.set("peer-listen", &place).unwrap();
    heir.set("peer-advertise", &place).unwrap();
    heir.start().unwrap();
    let api = cluster[0].api.clone();
    eventually("n1 knows who answers there", SOON, async || {
        let rows = api.members().await?;
        let of = |node: &str| rows.iter().find(|row| row.node_id == node);
        ensure!(of("n3").is_some_and(|row| row.state() == MemberState::Alive));
        ensure!(of("n2").is_some_and(|row| row.state() == MemberState::Suspect));
        ensure!(cluster[0].log().contains("n3 answers there"));
        Ok(())
    })
    .await
    .unwrap();
    // And the end of the link to the one that was killed was told and counted, on both sides of it.
    let broken = api.counter("peer_links_broken").await.unwrap();
    assert!(broken >= 2, "{broken} of 2");
    let log = cluster[0].log();
    assert!(log.contains("a link to a peer broke") && log.contains("a link from a peer broke"));
}

/// A peer made by hand.
struct Peer {
    client: PeerServiceClient<Channel>,
    hello: v1::Hello,
}

impl Peer {
    fn of(cluster: &Cluster, node: usize) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{}", cluster[node].peer)).unwrap();
        let hello = v1::Hello {
            cluster: "test".to_owned(),
            protocol: 3,
            node_id: format!("made-by-hand-{:016x}", rand::random::<u64>()),
            incarnation: rand::random::<u128>().to_be_bytes().to_vec().into(),
            // Nobody answers there.
            peer_address: "127.0.0.1:1".to_owned(),
            policy_digest: 0,
        };
        Self {
            client: PeerServiceClient::new(endpoint.connect_lazy()),
            hello,
        }
    }

    async fn exchange(&self, said: Vec<Kind>) -> Result<Streaming<v1::ExchangeResponse>, Status> {
        let messages = said
            .into_iter()
            .map(|kind| v1::ExchangeRequest { kind: Some(kind) });
        // It does not hang up by itself: what ends the stream is the other side.
        let messages = tokio_stream::StreamExt::chain(
            tokio_stream::iter(messages.collect::<Vec<_>>()),
            tokio_stream::pending(),
        );
        Ok(self.client.clone().exchange(messages).await?.into_inner())
    }

    /// Introduces itself, says one thing, and waits for the word on it.
    async fn says(&self, kind: Kind) -> Status {
        let mut answers = self
            .exchange(vec![Kind::Hello(self.hello.clone()), kind])
            .await
            .unwrap();
        let welcome = answers.message().await.unwrap().unwrap().welcome.unwrap();
        assert_eq!(welcome.cluster, "test");
        match tokio::time::timeout(SOON, answers.message()).await.unwrap() {
            Ok(None) => Status::ok("the stream ended"),
            Ok(Some(more)) => panic!("more than a welcome: {more:?}"),
            Err(status) => status,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_another_cluster_or_protocol_or_name_is_told_why() {
    let cluster = Setup::of(2).start().await.unwrap();
    let peer = Peer::of(&cluster, 0);
    let hello = |change: &dyn Fn(&mut v1::Hello)| {
        let mut hello = peer.hello.clone();
        change(&mut hello);
        Kind::Hello(hello)
    };
    let refused = [
        (
            hello(&|hello| hello.cluster = "another".to_owned()),
            Code::FailedPrecondition,
            "another",
        ),
        (
            hello(&|hello| hello.cluster.clear()),
            Code::FailedPrecondition,
            "cluster",
        ),
        (
            hello(&|hello| hello.protocol = 999),
            Code::FailedPrecondition,
            "999",
        ),
        (
            hello(&|hello| hello.node_id = "n1".to_owned()),
            Code::AlreadyExists,
            "n1",
        ),
        (
            hello(&|hello| hello.node_id = "n2".to_owned()),
            Code::AlreadyExists,
            "n2",
        ),
        (
            hello(&|hello| hello.node_id.clear()),
            Code::InvalidArgument,
            "node_id",
        ),
        (
            hello(&|hello| hello.node_id = "x".repeat(65)),
            Code::InvalidArgument,
            "64",
        ),
        (
            hello(&|hello| hello.incarnation = vec![1; 15].into()),
            Code::InvalidArgument,
            "incarnation",
        ),
        (
            hello(&|hello| hello.incarnation = vec![0; 16].into()),
            Code::InvalidArgument,
            "incarnation",
        ),
        (
            hello(&|hello| hello.peer_address = "x".repeat(301)),
            Code::InvalidArgument,
            "peer_address",
        ),
        (
            Kind::Probe(v1::Probe {
                nonce: 1,
                view: None,
                ..v1::Probe::default()
            }),
            Code::InvalidArgument,
            "hello",
        ),
    ];
    for (first, code, tells) in refused {
        let shown = format!("{first:?}");
        let Err(status) = peer.exchange(vec![first]).await else {
            panic!("{shown} was welcomed");
        };
        assert_eq!(status.code(), code, "{shown}: {status}");
        assert!(status.message().contains(tells), "{shown}: {status}");
    }
    let api = cluster[0].api.clone();
    assert!(api.counter("peer_rejected").await.unwrap() >= 11);
    check_fresh(&api).await.unwrap();
    assert_eq!(api.members().await.unwrap().len(), 2);
}

fn bumps(origin: Vec<u8>, first: u64, class: &str, count: usize) -> Kind {
    let bump = v1::Bump {
        classes: vec![class.to_owned()],
        ..Default::default()
    };
    let event = v1::BumpEvent {
        kind: Some(v1::bump_event::Kind::Bump(bump)),
    };
    Kind::Bumps(v1::BumpBatch {
        origin: origin.into(),
        first,
        events: vec![event; count],
        ..Default::default()
    })
}

fn floor(top: &str, bucket: u32, incarnation: Vec<u8>) -> Kind {
    let dot = v1::Dot {
        incarnation: incarnation.into(),
        sequence: 7,
    };
    let floor = v1::Floor {
        top: top.to_owned(),
        bucket,
        vector: vec![dot],
    };
    Kind::Bumps(v1::BumpBatch {
        origin: vec![5; 16].into(),
        first: 1,
        events: vec![v1::BumpEvent {
            kind: Some(v1::bump_event::Kind::Floor(floor)),
        }],
        ..Default::default()
    })
}

/// A grant that says this besides.
fn grant(grant: v1::Grant) -> Kind {
    Kind::Grant(v1::Grant {
        nonce: 1,
        duration_ms: 1,
        ..grant
    })
}

/// Bumps that are to be passed on.
fn relayed(to: Vec<Vec<u8>>) -> Kind {
    let Kind::Bumps(batch) = bumps(vec![5; 16], 1, "class", 1) else {
        unreachable!()
    };
    Kind::Bumps(v1::BumpBatch {
        relay: Some(v1::Relay {
            to: to.into_iter().map(Into::into).collect(),
            acknowledge: true,
        }),
        ..batch
    })
}

fn registrations(position: u32, address: &str, count: usize) -> Kind {
    let packed = v1::PackedRegistration {
        address: address.to_owned(),
        classes: vec![position],
        expires_unix_s: u32::MAX,
    };
    Kind::Directory(v1::DirectoryBatch {
        origin: vec![5; 16].into(),
        first: 1,
        batches: vec![v1::RegistrationBatch {
            stamp: Vec::new(),
            classes: vec!["class".to_owned()],
            registrations: vec![packed; count],
        }],
        relay: None,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_messages_of_a_peer_end_its_link_and_nothing_else() {
    let setup = Setup::of(2).flag("freshness-member-timeout", "1s");
    let mut cluster = setup.start().await.unwrap();
    let mut old = Superseded::default();
    let classes = numbered("class/", 3);
    old.bump_all(&cluster[1].api, &classes).await.unwrap();
    let tokens = cluster.wait_agree(&classes, SOON).await.unwrap();
    let five = vec![5; 16];
    let pull = |first, last, lane| {
        Kind::Pull(v1::Pull {
            origin: vec![5; 16].into(),
            lane,
            first,
            last,
        })
    };
    let malformed = [
        bumps(Vec::new(), 1, "class", 1),
        bumps(vec![0; 16], 1, "class", 1),
        bumps(five.clone(), 0, "class", 1),
        bumps(five.clone(), u64::MAX, "class", 1),
        bumps(five.clone(), 1, "a//b", 1),
        bumps(five.clone(), 1, "class", 1_001),
        floor("a/b", 0, five.clone()),
        floor("class", 256, five.clone()),
        floor("class", 0, vec![1]),
        registrations(1, "value", 1),
        registrations(0, "with a space", 1),
        registrations(0, "value", 10_001),
        relayed(vec![vec![7; 15]]),
        relayed(vec![vec![7; 16]; 1_025]),
        pull(1, 1, 77),
        grant(v1::Grant {
            heads: vec![v1::OriginHead::default()],
            ..v1::Grant::default()
        }),
        grant(v1::Grant {
            since: 2,
            until: 1,
            ..v1::Grant::default()
        }),
        grant(v1::Grant {
            same: true,
            ..v1::Grant::default()
        }),
        Kind::Probe(v1::Probe {
            nonce: 1,
            applied: vec![7; 15].into(),
            ..v1::Probe::default()
        }),
        grant(v1::Grant {
            lacked: vec![v1::Hole {
                incarnation: vec![7; 16].into(),
                first: 2,
                last: 1,
            }],
            ..v1::Grant::default()
        }),
    ];
    for kind in malformed {
        let mut shown = format!("{kind:?}");
        shown.truncate(200);
        let status = Peer::of(&cluster, 0).says(kind).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{shown}: {status}");
    }
    // What is well formed and makes no sense, said before one that ends the link: all of it was read.
    let odd = [
        pull(0, 0, 1),
        pull(5, 1, 2),
        pull(1, u64::MAX, 1),
        Kind::Ack(v1::Ack {
            watermark: u64::MAX,
            above: vec![u64::MAX; 10_000],
            flushed: 0,
            flushed_above: Vec::new(),
        }),
        Kind::Compacted(v1::Compacted {
            origin: five.clone().into(),
            lane: 1,
            first: u64::MAX,
        }),
        Kind::SnapshotVersions(v1::SnapshotVersions {
            id: 99,
            ..Default::default()
        }),
        Kind::SnapshotEnd(v1::SnapshotEnd { id: 99 }),
        Kind::SnapshotRequest(v1::SnapshotRequest { id: 1 }),
    ];
    let peer = Peer::of(&cluster, 0);
    let hello = [Kind::Hello(peer.hello.clone())];
    let all = hello
        .into_iter()
        .chain(odd)
        .chain([bumps(five, 0, "class", 1)]);
    let mut answers = peer.exchange(all.collect()).await.unwrap();
    answers.message().await.unwrap();
    let ended = tokio::time::timeout(SOON, answers.message()).await.unwrap();
    assert_eq!(ended.unwrap_err().code(), Code::InvalidArgument);

    // Such a peer was a member for a while, and is given up like any other.
    cluster.wait_fresh().await.unwrap();
    assert_eq!(cluster.wait_agree(&classes, SOON).await.unwrap(), tokens);
    old.check("n1", &cluster[0].api).await.unwrap();
    assert!(cluster[0].api.addresses("class").await.unwrap().is_empty());
}

/// Byte strings that no port expects.
fn garbage() -> Vec<Vec<u8>> {
    let mut random = rand::rng();
    let mut found = vec![
        Vec::new(),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"version\r\nget a\r\n".to_vec(),
        vec![0; 70_000],
    ];
    for length in [1, 10, 100, 1_000, 60_000] {
        let mut bytes = vec![0; length];
        random.fill_bytes(&mut bytes);
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        found.push([&preface[..], &bytes].concat());
        found.push(bytes);
    }
    found
}

async fn throw(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) {
    // It may hang up in the middle; whether and how it answers is its own affair.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut [0; 1_024])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_any_port_is_survived() {
    let mut cluster = Setup::of(2).start().await.unwrap();
    let node = &cluster[0];
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for bytes in garbage() {
        throw(TcpStream::connect(node.app_tcp).await.unwrap(), &bytes).await;
        throw(TcpStream::connect(node.peer).await.unwrap(), &bytes).await;
        throw(UnixStream::connect(&node.app_unix).await.unwrap(), &bytes).await;
        for datagram in [&bytes[..], &bytes[..bytes.len() / 2]] {
            if datagram.len() < 65_000 {
                socket.send_to(datagram, node.gossip).await.unwrap();
            }
        }
    }
    for node in 0..2 {
        assert!(cluster[node].is_running().unwrap());
        check_fresh(&cluster[node].api).await.unwrap();
    }
    let answer = cluster[0]
        .api
        .invalidate("class", ReceiptLevel::All)
        .await
        .unwrap();
    assert!(answer.receipt.unwrap().satisfied);
    // Gossip lives on: a newcomer is found by it.
    cluster
        .add("n3")
        .await
        .unwrap()
        .start_fresh()
        .await
        .unwrap();
    eventually("n1 knows the newcomer", SOON, async || {
        ensure!(cluster[0].api.members().await?.len() == 3);
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn g10_a_flood_of_connections_is_bounded_and_passes() {
    let setup = Setup::of(2)
        .flag("limits-connections-max", "64")
        .descriptors(400);
    let mut cluster = setup.start().await.unwrap();
    let before = cluster[0].api.clone();
    let mut flood = Vec::new();
    for _ in 0..200 {
        for address in [cluster[0].app_tcp, cluster[0].peer] {
            let connected =
                tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(address));
            if let Ok(Ok(stream)) = connected.await {
                flood.push(stream);
            }
        }
    }
    assert!(
        flood.len() > 300,
        "only {} connections: no flood",
        flood.len()
    );
    // Who is connected is served, durably, and its peers hear of it.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        let answer = before.invalidate("class", ReceiptLevel::All).await.unwrap();
        assert!(answer.receipt.unwrap().satisfied);
        before
            .register("kept", numbered("value::", 50))
            .await
            .unwrap();
        check_fresh(&before).await.unwrap();
    }
    let refused = before.counter("connections_refused").await.unwrap();
    assert!(refused >= 200, "{refused} of {} were closed", flood.len());
    // The others say nothing, and are closed for that; a new caller is served though nobody of the flood hung up.
    let newcomer = Api::new(cluster[0].app_tcp);
    eventually("a new caller is served", SOON, async || {
        check_fresh(&newcomer).await
    })
    .await
    .unwrap();
    for mut stream in flood {
        let mut greeting = Vec::new();
        let closed = tokio::time::timeout(SOON, stream.read_to_end(&mut greeting)).await;
        assert!(closed.is_ok(), "a silent connection is not closed");
    }
    assert!(cluster[0].is_running().unwrap());
    assert!(!cluster[0].log().contains("no connections are accepted"));
    cluster.wait_fresh().await.unwrap();
}
