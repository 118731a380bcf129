//! Metrics, for scrapers and pushed to a collector, and health for probes; what is listened for has a listener of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use grapevine_integration_tests::{
    Cluster, Collector, Measured, MeasuredKind, Setup, eventually, free_ports, http,
};
use grapevine_proto::v1::ReceiptLevel;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::SOON;

/// A cluster of so many, and where each of them is scraped.
async fn scraped(count: usize) -> (Cluster, Vec<SocketAddr>) {
    let mut cluster = Setup::of(count).prepare().await.unwrap();
    let mut places = Vec::new();
    for (at, port) in free_ports(count).unwrap().into_iter().enumerate() {
        let place = SocketAddr::from(([127, 0, 0, 1], port));
        let variable = format!("GRAPEVINE_METRICS_LISTEN={place}");
        cluster[at].start_by(&["env", &variable]);
        cluster[at].start().unwrap();
        places.push(place);
    }
    cluster.wait_fresh().await.unwrap();
    (cluster, places)
}

/// What was scraped: the samples with their labels, and the kind of each family.
struct Scrape {
    samples: BTreeMap<String, f64>,
    kinds: BTreeMap<String, String>,
    helps: BTreeSet<String>,
}

async fn scrape(place: SocketAddr) -> anyhow::Result<Scrape> {
    let (status, body) = http::get(place, "/metrics").await?;
    ensure!(status == 200, "{status}: {body}");
    let (mut samples, mut kinds, mut helps) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
    for line in body.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), Some(_)) => {
                helps.insert(name.to_owned());
            }
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                kinds.insert(name.to_owned(), kind.to_owned());
            }
            _ => {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                samples.insert(sample.to_owned(), value.parse()?);
            }
        }
    }
    Ok(Scrape {
        samples,
        kinds,
        helps,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_what_was_done_and_how_peers_fare() {
    let (cluster, places) = scraped(3).await;
    let api = &cluster[0].api;
    // Bumps are noted every ten milliseconds at most, so more than a moment is needed for two of them.
    for number in 0..5 {
        let class = format!("secret-class-{number}/13");
        api.invalidate(&class, ReceiptLevel::All).await.unwrap();
        api.resolve("secret-address", &class).await.unwrap();
    }
    api.invalidate("", ReceiptLevel::All).await.unwrap_err();
    let seen = eventually("the peers' convergence is told", SOON, async || {
        let seen = scrape(places[0]).await?;
        for peer in ["n2", "n3"] {
            let count = format!("grapevine_convergence_seconds_count{{peer=\"{peer}\"}}");
            ensure!(
                seen.samples.get(&count).is_some_and(|it| *it >= 1.0),
                "{count}"
            );
        }
        Ok(seen)
    })
    .await
    .unwrap();
    let value = |sample: &str| seen.samples.get(sample).copied();
    assert_eq!(value("grapevine_resolves_total"), Some(5.0));
    assert_eq!(value("grapevine_bumps_own_total"), Some(5.0));
    assert_eq!(value("grapevine_receipts_satisfied_total"), Some(5.0));
    assert_eq!(value("grapevine_freshness{state=\"fresh\"}"), Some(1.0));
    assert_eq!(value("grapevine_freshness{state=\"unknown\"}"), Some(0.0));
    assert_eq!(value("grapevine_peer_linked{peer=\"n2\"}"), Some(1.0));
    assert_eq!(value("grapevine_peer_lag{peer=\"n3\"}"), Some(0.0));
    assert_eq!(value("grapevine_gossip_running"), Some(1.0));
    assert!(value("grapevine_queue_limit{queue=\"commands\"}") > Some(0.0));
    let calls = |status: &str| {
        format!(
            "rpc_server_call_duration_seconds_count{{rpc_method=\"grapevine.v1.ApplicationService/Invalidate\",rpc_response_status_code=\"{status}\",rpc_system_name=\"grpc\"}}"
        )
    };
    assert_eq!(value(&calls("OK")), Some(5.0));
    assert_eq!(value(&calls("INVALID_ARGUMENT")), Some(1.0));
    // By convention: a kind and a help for each, counters that say so, units at the end, and no name of the application's.
    for (name, kind) in &seen.kinds {
        assert!(seen.helps.contains(name), "{name} has a help");
        assert_eq!(
            kind == "counter",
            name.ends_with("_total"),
            "{name}: {kind}"
        );
    }
    let all = format!("{:?}", seen.samples.keys());
    assert!(!all.contains("secret"), "{all}");
    // The other side of the same.
    let other = scrape(places[1]).await.unwrap();
    let remote = other.samples.get("grapevine_bumps_remote_total");
    assert_eq!(remote, Some(&5.0));
    // All but the histograms is there from the start: whoever bumps nothing converges with nobody.
    let always = |scrape: &Scrape| {
        let kinds = scrape.kinds.iter().filter(|(_, kind)| *kind != "histogram");
        kinds.map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(always(&other), always(&seen));
}

/// What a sidecar has pushed of a metric, with these labels at least: as it came last.
fn last<'a>(
    all: &'a [Measured],
    node: &str,
    name: &str,
    tags: &[(&str, &str)],
) -> anyhow::Result<&'a Measured> {
    let mut of_this = all.iter().rev().filter(|it| {
        let tagged = |(tag, value): &(&str, &str)| it.tags.get(*tag).is_some_and(|is| is == value);
        it.resource["service.instance.id"] == node && it.name == name && tags.iter().all(tagged)
    });
    of_this
        .next()
        .with_context(|| format!("{name} of {node} with {tags:?}"))
}

/// What scrapers call it.
fn scraped_name(metric: &Measured) -> String {
    let unit = match metric.unit.as_str() {
        "s" => "_seconds",
        "By" => "_bytes",
        _ => "",
    };
    let counts = match metric.kind {
        MeasuredKind::Counter => "_total",
        _ => "",
    };
    format!("{}{unit}{counts}", metric.name.replace('.', "_"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_pushed_the_same_metrics_and_whose_they_are() {
    let collector = Collector::start().await.unwrap();
    let mut cluster = Setup::of(2).prepare().await.unwrap();
    let place = SocketAddr::from(([127, 0, 0, 1], free_ports(1).unwrap()[0]));
    let endpoint = format!("OTEL_EXPORTER_OTLP_ENDPOINT=http://{}", collector.address);
    let words = ["env", &endpoint, "OTEL_METRIC_EXPORT_INTERVAL=100"];
    for at in 0..2 {
        cluster[at].start_by(&words);
    }
    cluster[0].start_by(&[&format!("GRAPEVINE_METRICS_LISTEN={place}")]);
    cluster[1].start_by(&[
        "OTEL_SERVICE_NAME=shop",
        "OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=here",
    ]);
    for at in 0..2 {
        cluster[at].start().unwrap();
    }
    cluster.wait_fresh().await.unwrap();
    let [a, b] = [0, 1].map(|at| cluster[at].id.as_str());
    let api = &cluster[0].api;
    api.invalidate("secret-class/13", ReceiptLevel::All)
        .await
        .unwrap();
    let call = ("rpc.method", "grapevine.v1.ApplicationService/Invalidate");
    let all = eventually("the metrics are pushed", SOON, async || {
        let all = collector.metrics();
        for (node, name, tags, expected) in [
            (a, "grapevine.bumps_own", &[][..], 1.0),
            (a, "grapevine.bumps_remote", &[], 0.0),
            (b, "grapevine.bumps_own", &[], 0.0),
            (b, "grapevine.bumps_remote", &[], 1.0),
            (a, "grapevine.freshness", &[("state", "fresh")], 1.0),
            (a, "grapevine.convergence", &[("peer", b)], 1.0),
            (a, "rpc.server.call.duration", &[call], 1.0),
        ] {
            let value = last(&all, node, name, tags)?.value;
            ensure!(
                (value - expected).abs() < f64::EPSILON,
                "{name} of {node} is {value}, not {expected}"
            );
        }
        Ok(all)
    })
    .await
    .unwrap();
    let whose = |node: &str| {
        let resource = &last(&all, node, "grapevine.uptime", &[]).unwrap().resource;
        let pairs = resource.iter().map(|(name, it)| (name.clone(), it.clone()));
        pairs.collect::<Vec<_>>()
    };
    let version = env!("CARGO_PKG_VERSION");
    let told = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|&(name, it)| (name.into(), it.into()));
        pairs.collect::<Vec<(String, String)>>()
    };
    let own = told(&[
        ("service.instance.id", a),
        ("service.name", "grapevine"),
        ("service.namespace", "test"),
        ("service.version", version),
    ]);
    assert_eq!(whose(a), own);
    let configured = told(&[
        ("deployment.environment.name", "here"),
        ("service.instance.id", b),
        ("service.name", "shop"),
        ("service.namespace", "test"),
        ("service.version", version),
    ]);
    assert_eq!(whose(b), configured);
    // Whoever scrapes it sees the same ones, and what Prometheus makes of the resource.
    let of_this = all
        .iter()
        .filter(|it| it.resource["service.instance.id"] == a);
    let pushed: BTreeSet<_> = of_this.map(scraped_name).collect();
    let scraped = scrape(place).await.unwrap().kinds.into_keys();
    let scraped: BTreeSet<_> = scraped.filter(|name| name != "target_info").collect();
    assert_eq!(pushed, scraped);
    let labels = all.iter().flat_map(|it| it.tags.values());
    assert!(!labels.into_iter().any(|label| label.contains("secret")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_metrics_are_pushed_at_the_end_and_none_where_they_are_not_wanted() {
    let collector = Collector::start().await.unwrap();
    let mut cluster = Setup::of(2).prepare().await.unwrap();
    let endpoint = format!("OTEL_EXPORTER_OTLP_ENDPOINT=http://{}", collector.address);
    // Of itself no reader sends anything before this test is over.
    let words = ["env", &endpoint, "OTEL_METRIC_EXPORT_INTERVAL=3600000"];
    for at in 0..2 {
        cluster[at].start_by(&words);
    }
    // Scrapers have metrics made there all the same, and spans go to the collector.
    let place = format!("127.0.0.1:{}", free_ports(1).unwrap()[0]);
    let scraped = format!("GRAPEVINE_METRICS_LISTEN={place}");
    cluster[1].start_by(&["OTEL_METRICS_EXPORTER=none", &scraped]);
    for at in 0..2 {
        cluster[at].start().unwrap();
    }
    cluster.wait_fresh().await.unwrap();
    for at in 0..2 {
        let api = &cluster[at].api;
        api.invalidate("carts/13", ReceiptLevel::All).await.unwrap();
    }
    assert!(collector.metrics().is_empty());
    for at in [1, 0] {
        cluster[at].terminate().await.unwrap();
        let ended = cluster[at].end(SOON).await.unwrap();
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    let all = collector.metrics();
    let own = last(&all, &cluster[0].id, "grapevine.bumps_own", &[]).unwrap();
    assert_eq!((own.value, own.kind), (1.0, MeasuredKind::Counter));
    let nodes = |whose: &mut dyn Iterator<Item = String>| whose.collect::<BTreeSet<_>>();
    let instances = &mut all
        .iter()
        .map(|it| it.resource["service.instance.id"].clone());
    assert_eq!(nodes(instances), [cluster[0].id.clone()].into());
    let spans = &mut collector.spans().into_iter().map(|span| span.node);
    assert_eq!(nodes(spans).len(), 2, "both have sent spans");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_gone_shows_in_the_metrics_of_the_others() {
    let (mut cluster, places) = scraped(3).await;
    cluster[2].pause().await.unwrap();
    cluster[0]
        .api
        .invalidate_within("carts/13", ReceiptLevel::One, 1_000)
        .await
        .unwrap();
    eventually("the silence is told", SOON, async || {
        let seen = scrape(places[0]).await?.samples;
        let of = |name: &str| seen[&format!("grapevine_peer_{name}{{peer=\"n3\"}}")];
        let (waiting, silence) = (of("unacknowledged"), of("silence_seconds"));
        ensure!(waiting >= 1.0 && silence > 0.5, "{waiting}, {silence} s");
        Ok(())
    })
    .await
    .unwrap();
    cluster[2].resume().await.unwrap();
    cluster.wait_fresh().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_metrics_are_answered_where_metrics_are_asked_for() {
    let (_cluster, places) = scraped(1).await;
    let (status, _) = http::get(places[0], "/").await.unwrap();
    assert_eq!(status, 404);
    let (status, _) = http::ask(places[0], "POST", "/metrics").await.unwrap();
    assert_eq!(status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_have_a_listener_of_their_own_with_health_alone() {
    let mut cluster = Setup::of(1).prepare().await.unwrap();
    let place = format!("127.0.0.1:{}", free_ports(1).unwrap()[0]);
    cluster[0].start_by(&["env", &format!("GRAPEVINE_HEALTH_LISTEN={place}")]);
    cluster[0].start().unwrap();
    cluster.wait_fresh().await.unwrap();
    let channel = Channel::from_shared(format!("http://{place}")).unwrap();
    let channel = channel.connect().await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "grapevine.v1.ApplicationService"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let mut admin = grapevine_proto::v1::admin_service_client::AdminServiceClient::new(channel);
    let refused = admin.status(grapevine_proto::v1::StatusRequest {}).await;
    assert_eq!(refused.unwrap_err().code(), tonic::Code::Unimplemented);
}
