//! Three real sidecars send their spans to a collector that has Jaeger's query API and its user interface; one invalidation is made as
//! a part of a caller's trace; and through that API it is asked whether the trace shows what happened at every sidecar.
//!
//! `cargo run --manifest-path integration-tests/jaeger/Cargo.toml [PICTURE.png]`; `GRAPEVINE_BIN` names the program. It takes `protoc` to
//! build (Debian: protobuf-compiler). With a path, Chromium makes a picture of the trace's timeline (Debian: chromium).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use grapevine_integration_tests::{Api, Cluster, Setup, eventually, http};
use grapevine_proto::v1;
use otlp_embedded::{Config, State, TraceServiceImpl, TraceServiceServer, ui_app};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Request;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const SOON: Duration = Duration::from_secs(30);
/// What a trace shows of each peer, and of the sidecar that was called.
const AT_PEERS: [&str; 3] = ["grapevine.receive", "grapevine.apply", "grapevine.persist"];
const AT_THE_ORIGIN: [&str; 4] = [
    "grapevine.v1.ApplicationService/Invalidate",
    "grapevine.apply",
    "grapevine.persist",
    "grapevine.push",
];
/// How long Chromium may take for a picture.
const PICTURE_MAX: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<()> {
    let (otlp, ui) = collect().await?;
    let cluster = start(otlp).await?;
    // Not the first one, which waits until everybody has told of itself to everybody.
    let api = &cluster[0].api;
    api.invalidate("warm", v1::ReceiptLevel::All).await?;
    invalidate(&cluster[0].api).await?;
    let shown = eventually("the trace shows all of it", SOON, async || shown(ui).await).await?;
    for (node, spans) in &shown {
        println!("{node}: {}", spans.join(", "));
    }
    if let Some(picture) = std::env::args().nth(1) {
        take(ui, Path::new(&picture)).await?;
        println!("{picture}");
    }
    Ok(())
}

/// Starts the collector: where it takes spans, and where it answers and shows.
async fn collect() -> Result<(SocketAddr, SocketAddr)> {
    let state = State::new(Config {
        max_length: 1_000,
        max_memory_usage: 1 << 27,
    });
    let otlp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let ui = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let addresses = (otlp.local_addr()?, ui.local_addr()?);
    let service = TraceServiceServer::new(TraceServiceImpl::new(state.clone()));
    let takes = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(TcpListenerStream::new(otlp));
    tokio::spawn(takes);
    tokio::spawn(async move { axum::serve(ui, ui_app(state, "/")).await });
    Ok(addresses)
}

async fn start(otlp: SocketAddr) -> Result<Cluster> {
    let mut cluster = Setup::of(3).prepare().await?;
    let endpoint = format!("OTEL_EXPORTER_OTLP_ENDPOINT=http://{otlp}");
    for at in 0..3 {
        // The picture shows this name of each span.
        let name = format!("OTEL_SERVICE_NAME=sidecar {}", cluster[at].id);
        cluster[at].start_by(&["env", &endpoint, &name, "OTEL_BSP_SCHEDULE_DELAY=20"]);
        cluster[at].start()?;
    }
    cluster.wait_fresh().await?;
    Ok(cluster)
}

async fn invalidate(api: &Api) -> Result<()> {
    let mut request = Request::new(v1::InvalidateRequest {
        classes: vec!["get_items_in_cart/13".to_owned()],
        receipt: v1::ReceiptLevel::All.into(),
        ..Default::default()
    });
    let parent = format!("00-{TRACE}-{CALLER}-01");
    request
        .metadata_mut()
        .insert("traceparent", parent.parse()?);
    api.app.clone().invalidate(request).await?;
    Ok(())
}

/// What the query API tells of the trace, by sidecar; an error while something is missing.
async fn shown(ui: SocketAddr) -> Result<BTreeMap<String, Vec<String>>> {
    let (status, body) = http::get(ui, &format!("/api/traces/{TRACE}")).await?;
    ensure!(status == 200, "{status}: {body}");
    let answer: Value = serde_json::from_str(&body)?;
    let spans = answer["data"][0]["spans"].as_array();
    let mut shown: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for span in spans.context("no spans")? {
        ensure!(span["traceID"] == TRACE, "{span}");
        let text = |key: &str| span[key].as_str().unwrap_or_default().to_owned();
        let spans = shown.entry(text("processID")).or_default();
        spans.push(text("operationName"));
    }
    for (node, wanted) in [
        ("n1", &AT_THE_ORIGIN[..]),
        ("n2", &AT_PEERS),
        ("n3", &AT_PEERS),
    ] {
        let spans = shown.get(node).map(Vec::as_slice).unwrap_or_default();
        for name in wanted {
            ensure!(
                spans.iter().any(|it| it == name),
                "{node} has no {name}: {spans:?}"
            );
        }
    }
    Ok(shown)
}

/// Has Chromium make a picture of the timeline.
async fn take(ui: SocketAddr, picture: &Path) -> Result<()> {
    let profile = tempfile::TempDir::new()?;
    let mut chromium = Command::new("chromium");
    chromium
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
        ])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ])
        .args([
            "--hide-scrollbars",
            "--window-size=1400,760",
            "--virtual-time-budget=15000",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--screenshot={}", picture.display()))
        .arg(format!("http://{ui}/trace/{TRACE}"))
        .kill_on_drop(true);
    let ended = tokio::time::timeout(PICTURE_MAX, chromium.output()).await??;
    let size = std::fs::metadata(picture)
        .map(|file| file.len())
        .unwrap_or(0);
    ensure!(
        ended.status.success() && size > 20_000,
        "a picture of {size} bytes: {}",
        String::from_utf8_lossy(&ended.stderr)
    );
    Ok(())
}
