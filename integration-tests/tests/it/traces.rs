//! Traces: one shows what a call did at every sidecar, and costs nothing where nobody collects.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use grapevine_integration_tests::{
    Api, CacheServer, Cluster, Collector, Fault, Seen, Setup, eventually, free_ports,
};
use grapevine_proto::v1;
use tonic::Request;

use crate::support::SOON;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// So many sidecars, not started, that send their spans there, soon, by the variables that any OpenTelemetry program knows.
async fn prepared(setup: Setup, count: usize, endpoint: &str, more: &[&str]) -> Cluster {
    let mut cluster = setup.prepare().await.unwrap();
    let endpoint = format!("OTEL_EXPORTER_OTLP_ENDPOINT={endpoint}");
    let words = ["env", &endpoint, "OTEL_BSP_SCHEDULE_DELAY=20"];
    for at in 0..count {
        cluster[at].start_by(&[&words[..], more].concat());
    }
    cluster
}

/// The same, started and fresh.
async fn traced(setup: Setup, count: usize, endpoint: &str, more: &[&str]) -> Cluster {
    let mut cluster = prepared(setup, count, endpoint, more).await;
    for at in 0..count {
        cluster[at].start().unwrap();
    }
    cluster.wait_fresh().await.unwrap();
    cluster
}

/// Invalidates a class as a part of a caller's trace, that is sampled or not.
async fn invalidate(api: &Api, class: &str, sampled: bool, level: v1::ReceiptLevel) {
    let mut request = Request::new(v1::InvalidateRequest {
        classes: vec![class.to_owned()],
        receipt: level.into(),
        ..Default::default()
    });
    let flags = if sampled { "01" } else { "00" };
    let parent = format!("00-{TRACE}-{CALLER}-{flags}");
    request
        .metadata_mut()
        .insert("traceparent", parent.parse().unwrap());
    api.app.clone().invalidate(request).await.unwrap();
}

/// Waits for spans of the caller's trace, each by its sidecar and name.
async fn wait_for(collector: &Collector, wanted: &[(&str, &str)]) -> Vec<Seen> {
    eventually("all spans are collected", SOON, async || {
        let mut spans = collector.spans();
        spans.retain(|span| span.trace == TRACE);
        let seen: BTreeSet<_> = spans
            .iter()
            .map(|it| (it.node.as_str(), it.name.as_str()))
            .collect();
        let missing: Vec<_> = wanted.iter().filter(|it| !seen.contains(*it)).collect();
        ensure!(missing.is_empty(), "{missing:?} are missing among {seen:?}");
        Ok(spans)
    })
    .await
    .unwrap()
}

fn one<'a>(spans: &'a [Seen], node: &str, name: &str) -> &'a Seen {
    let mut found = spans.iter().filter(|it| it.node == node && it.name == name);
    let first = found.next().unwrap();
    assert!(found.next().is_none(), "{node} has one {name}");
    first
}

const INVALIDATE: &str = "grapevine.v1.ApplicationService/Invalidate";

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidation_is_one_trace_over_all_sidecars_down_to_its_purges() {
    let test = "an_invalidation_is_one_trace";
    let Some(memcached) = CacheServer::memcached(test).await.unwrap() else {
        return;
    };
    let collector = Collector::start().await.unwrap();
    let policies = "[[policy]]\npattern = \"carts/**\"\nstrategy = \"registered\"\n";
    let setup = Setup::of(3).toml(policies).flag("cache", &memcached.url);
    let endpoint = format!("http://{}", collector.address);
    let cluster = traced(setup, 3, &endpoint, &[]).await;
    let [a, b, c] = [0, 1, 2].map(|at| cluster[at].id.clone());
    let api = &cluster[0].api;
    // Each purges what was registered with it.
    for node in cluster.nodes() {
        register(&node.api, &format!("carts::13:{}", node.id), "carts/13").await;
    }
    invalidate(api, "carts/13", true, v1::ReceiptLevel::All).await;
    let mut wanted = vec![(a.as_str(), INVALIDATE)];
    for node in [&a, &b, &c] {
        let parts = ["grapevine.apply", "grapevine.persist", "grapevine.purge"];
        wanted.extend(parts.map(|part| (node.as_str(), part)));
    }
    for node in [&b, &c] {
        wanted.push((node, "grapevine.receive"));
    }
    wanted.push((&a, "grapevine.push"));
    let spans = wait_for(&collector, &wanted).await;
    // The call is the caller's, and all else hangs below it.
    let call = one(&spans, &a, INVALIDATE);
    assert_eq!(call.parent, CALLER);
    assert_eq!(call.tags["rpc.system.name"], "grpc");
    assert_eq!(call.tags["rpc.response.status_code"], "OK");
    for part in ["grapevine.apply", "grapevine.persist", "grapevine.purge"] {
        assert_eq!(one(&spans, &a, part).parent, call.id, "{part}");
    }
    for node in [&b, &c] {
        let receive = one(&spans, node, "grapevine.receive");
        let push = spans.iter().find(|it| it.id == receive.parent).unwrap();
        assert_eq!(
            (push.node.as_str(), push.name.as_str()),
            (a.as_str(), "grapevine.push")
        );
        assert_eq!(push.parent, call.id);
        assert_eq!(push.tags["grapevine.peer"], *node);
        assert_eq!(receive.tags["grapevine.repaired"], "false");
        for part in ["grapevine.apply", "grapevine.persist", "grapevine.purge"] {
            assert_eq!(one(&spans, node, part).parent, receive.id, "{node} {part}");
        }
    }
}

async fn register(api: &Api, address: &str, class: &str) {
    let request = v1::RegisterRequest {
        registrations: vec![v1::Registration {
            address: address.to_owned(),
            classes: vec![class.to_owned()],
            ttl_ms: 3_600_000,
            lease: Vec::new().into(),
        }],
    };
    api.app.clone().register(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_belongs_to_the_trace_and_is_linked_to_who_sent_it() {
    let collector = Collector::start().await.unwrap();
    let endpoint = format!("http://{}", collector.address);
    let cluster = traced(Setup::of(3).relays(), 3, &endpoint, &[]).await;
    let c = cluster[2].id.clone();
    cluster[2].hears(Fault::Cut).unwrap();
    eventually("its links are gone", SOON, async || {
        let members = cluster[0].api.members().await?;
        let alone = members
            .iter()
            .any(|it| it.node_id == c && it.state() != v1::MemberState::Alive);
        ensure!(alone, "{members:?}");
        Ok(())
    })
    .await
    .unwrap();
    invalidate(&cluster[0].api, "carts/13", true, v1::ReceiptLevel::One).await;
    cluster[2].hears(Fault::Nothing).unwrap();
    let wanted = [
        (c.as_str(), "grapevine.receive"),
        (c.as_str(), "grapevine.apply"),
    ];
    let spans = wait_for(&collector, &wanted).await;
    let receive = one(&spans, &c, "grapevine.receive");
    assert_eq!(receive.tags["grapevine.repaired"], "true");
    let repair = eventually("who sent it tells of that", SOON, async || {
        let spans = collector.spans();
        let repair = spans.into_iter().find(|it| receive.links.contains(&it.id));
        repair.with_context(|| format!("no span has an id of {:?}", receive.links))
    })
    .await
    .unwrap();
    assert_eq!(repair.name, "grapevine.repair");
    assert_eq!(repair.tags["grapevine.peer"], c);
    assert_eq!(repair.parent, receive.parent, "side by side");
    assert_eq!(repair.trace, TRACE);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_caller_does_not_sample_is_not_recorded() {
    let collector = Collector::start().await.unwrap();
    let endpoint = format!("http://{}", collector.address);
    // Calls without a trace of their caller's are not sampled either.
    let sampler = ["OTEL_TRACES_SAMPLER=parentbased_always_off"];
    let cluster = traced(Setup::of(2), 2, &endpoint, &sampler).await;
    let api = &cluster[0].api;
    invalidate(api, "carts/12", false, v1::ReceiptLevel::All).await;
    api.invalidate("carts/12", v1::ReceiptLevel::All)
        .await
        .unwrap();
    // What is sampled comes later, and is there.
    invalidate(api, "carts/13", true, v1::ReceiptLevel::All).await;
    let a = cluster[0].id.clone();
    let spans = wait_for(&collector, &[(&a, INVALIDATE)]).await;
    one(&spans, &a, INVALIDATE);
    let traces = collector.spans().into_iter().map(|span| span.trace);
    assert_eq!(traces.collect::<BTreeSet<_>>().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_collector_costs_nothing_but_a_counter() {
    let port = free_ports(1).unwrap()[0];
    let endpoint = format!("http://127.0.0.1:{port}");
    let cluster = traced(Setup::of(1), 1, &endpoint, &[]).await;
    let api = &cluster[0].api;
    for _ in 0..50 {
        invalidate(api, "carts/13", true, v1::ReceiptLevel::One).await;
    }
    eventually("its spans are counted as dropped", SOON, async || {
        let counters = api.status().await?.counters;
        let (dropped, exported) = (counters["spans_dropped"], counters["spans_exported"]);
        ensure!(dropped > 50 && exported == 0, "{dropped} and {exported}");
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_that_is_not_supported_is_told_by_its_name() {
    let mut cluster = prepared(Setup::of(1), 1, "https://collector:4317", &[]).await;
    cluster[0].start().unwrap();
    let ended = cluster[0].end(SOON).await.unwrap();
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let log = cluster[0].log();
    assert!(
        log.contains("OTEL_EXPORTER_OTLP_ENDPOINT: \"https://collector:4317\" is not supported"),
        "{log}"
    );
}

const RESOLVES: usize = 40_000;
const INVALIDATIONS: usize = 1_000;
/// Calls to the one side, then as many to the other.
const TURN: usize = 100;

/// What each call took, one after another.
async fn times(count: usize, mut call: impl AsyncFnMut()) -> Vec<Duration> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let began = Instant::now();
        call().await;
        times.push(began.elapsed());
    }
    times
}

fn told(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |per_mille: usize| times[(times.len() - 1) * per_mille / 1_000];
    println!("{what}: p50 {:.1?}, p99 {:.1?}", at(500), at(990));
}

/// Look-ups and invalidations at two clusters of three, of which one traces a call in a hundred. `GRAPEVINE_BIN` names a release build.
#[ignore = "a figure: a minute"]
#[tokio::test(flavor = "multi_thread")]
async fn figure_what_tracing_costs_at_one_percent() {
    let collector = Collector::start().await.unwrap();
    let endpoint = format!("http://{}", collector.address);
    let sampler = [
        "OTEL_TRACES_SAMPLER=parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG=0.01",
    ];
    let mut off = Setup::of(3).prepare().await.unwrap();
    for at in 0..3 {
        off[at].start().unwrap();
    }
    off.wait_fresh().await.unwrap();
    let on = traced(Setup::of(3), 3, &endpoint, &sampler).await;
    let sides = [("without", &off), ("with", &on)];
    let mut resolves = [Vec::new(), Vec::new()];
    let mut invalidations = [Vec::new(), Vec::new()];
    for turn in 0..RESOLVES / TURN {
        for (side, (_, cluster)) in sides.iter().enumerate() {
            let api = &cluster[0].api;
            let look_up = async || {
                api.resolve("cart::13", "carts/13").await.unwrap();
            };
            resolves[side].extend(times(TURN, look_up).await);
        }
        if turn < INVALIDATIONS / TURN {
            for (side, (_, cluster)) in sides.iter().enumerate() {
                let api = &cluster[0].api;
                let bump = async || {
                    let answer = api.invalidate("carts/13", v1::ReceiptLevel::All).await;
                    answer.unwrap();
                };
                invalidations[side].extend(times(TURN, bump).await);
            }
        }
    }
    let traces: BTreeSet<_> = collector.spans().into_iter().map(|it| it.trace).collect();
    println!("{} traces of {}", traces.len(), RESOLVES + INVALIDATIONS);
    assert!(!traces.is_empty());
    for (what, of) in [
        ("resolve", resolves),
        ("invalidate, receipt all", invalidations),
    ] {
        for ((side, _), times) in sides.iter().zip(of) {
            told(&format!("{what}, {side} tracing"), times);
        }
    }
}
