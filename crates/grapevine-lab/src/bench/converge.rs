//! How long a bump takes until every sidecar has applied it: 10 and 50 of them, on this machine.
//!
//! One bump after the other, each at the next sidecar, with a pause between them. The time runs from the call until the last
//! sidecar's watcher, a stream on its Unix socket, has told of the event. Every event must come to every watcher exactly once.
//!
//! The floor: as many processes, each sent the same hundred bytes over TCP, until all of them have sent them back. It has no
//! disk, and no HTTP/2. The other peers spread a change by gossip ([`super::gossip`]): they keep nothing either, and nobody
//! is told that all have it. What gossips all the time runs only while it is measured: sidecars are started for each round, and killed
//! after it.
//!
//! With sidecars in a dozen regions ([`super::wan`]) none of them is held, but the same is measured.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use grapevine_proto::v1::application_service_client::ApplicationServiceClient;
use grapevine_proto::v1::watch_response::Kind;
use grapevine_proto::v1::{self, ReceiptLevel};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::clients::{alone, application};
use super::contest::{Contest, Side, blocking, on_own_thread};
use super::echo::Echoes;
use super::figure::{Figure, median};
use super::gossip::{self, Chitchat, Serf};
use super::peers::Peer;
use super::plot::{Line, Plot, Scale};
use super::sidecars;
use super::stage::Stage;
use crate::cluster::Cluster;
use crate::histogram::Histogram;
use crate::ports::free_ports;

/// Between two bumps: what the last one left to do is done by then.
const PAUSE: Duration = Duration::from_millis(50);
/// How long sidecars have run before they are measured: they ask each other less often once they have answered for a while, which is how services
/// find them.
const WARM_UP: Duration = Duration::from_secs(15);
/// What takes longer has not come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster of some size, and what its figures are called.
struct Size {
    nodes: u32,
    what: &'static str,
    names: [&'static str; 2],
}

macro_rules! size {
    ($nodes:literal) => {
        Size {
            nodes: $nodes,
            what: concat!($nodes, " processes"),
            names: [
                concat!($nodes, " processes, p50"),
                concat!($nodes, " processes, p99"),
            ],
        }
    };
}

const SIZES: [Size; 2] = [size!(10), size!(50)];
/// For a picture.
const MORE_SIZES: [Size; 4] = [size!(5), size!(10), size!(25), size!(50)];

/// Holds the bench.
pub(super) async fn hold(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let sizes: &[Size] = match stage.options.plot {
        Some(_) => &MORE_SIZES,
        None => &SIZES,
    };
    for size in sizes {
        let dir = tempfile::Builder::new().prefix("grapevine-").tempdir()?;
        let config = format!("[cluster]\nexpected_members = {}\n", size.nodes);
        let cluster = sidecars::start(stage, size.nodes, &config, Vec::new()).await?;
        let executable = stage.options.executable.clone();
        let ports = free_ports(size.nodes as usize)?;
        let echoes = Echoes::start(&executable, dir.path(), ports);
        let echoes = stage.peer(Peer::Tcp, echoes).await?;
        stage.started(echoes.as_ref().map(Echoes::command));
        let count = stage.amount(200, 10);
        let names = size.names;
        let grapevine = Box::new(Ours {
            cluster,
            runs: true,
            warm_up: stage.amount(WARM_UP, Duration::ZERO),
            count,
            names,
        });
        let mut peers: Vec<(Peer, Box<dyn Side>)> = Vec::new();
        if let Some(echoes) = &echoes {
            let mut fan = echoes.connect()?;
            let measure = move || {
                let mut times = Histogram::default();
                for _ in 0..count {
                    std::thread::sleep(PAUSE);
                    let begin = Instant::now();
                    fan.round()?;
                    times.record(begin.elapsed());
                }
                Ok(figures(names, &times).into())
            };
            peers.push((Peer::Tcp, blocking(measure)));
        }
        let members = size.nodes as usize;
        let serf = stage.peer(Peer::Serf, async { Serf::find(members) });
        if let Some(serf) = serf.await? {
            peers.push((Peer::Serf, gossips(stage, serf, names)));
        }
        let executable = stage.options.executable.clone();
        let chitchat = stage.peer(Peer::Chitchat, async {
            Chitchat::new(&executable, members)
        });
        if let Some(chitchat) = chitchat.await? {
            peers.push((Peer::Chitchat, gossips(stage, chitchat, names)));
        }
        stage
            .contest(size.what, Contest { grapevine, peers })
            .await?;
        stage.say("ending");
        drop(echoes);
    }
    let plot = plot(stage, sizes);
    stage.plot(plot);
    Ok(())
}

/// Sidecars that run while they are measured.
struct Ours {
    cluster: Cluster,
    runs: bool,
    warm_up: Duration,
    count: usize,
    names: [&'static str; 2],
}

impl Ours {
    /// Has all run, fresh and with all others, for as long as is wanted.
    async fn start(&mut self) -> anyhow::Result<()> {
        let nodes = self.cluster.nodes().len();
        if !std::mem::replace(&mut self.runs, true) {
            for node in 0..nodes {
                self.cluster.restart(node)?;
            }
        }
        for node in 0..nodes {
            let all = |status: &v1::StatusResponse| status.seats as usize == nodes;
            sidecars::wait(&self.cluster, node, all).await?;
        }
        tokio::time::sleep(self.warm_up).await;
        Ok(())
    }

    async fn kill(&mut self) -> anyhow::Result<()> {
        self.runs = false;
        for node in 0..self.cluster.nodes().len() {
            self.cluster.kill(node).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Side for Ours {
    async fn measure(&mut self) -> anyhow::Result<Vec<Figure>> {
        self.start().await?;
        let nodes = self.cluster.nodes().iter();
        let sockets: Vec<_> = nodes.map(|node| node.app_unix.clone()).collect();
        let count = self.count;
        let times = alone(async move || {
            let mut clients = Vec::new();
            for socket in &sockets {
                clients.push(application(socket).await?);
            }
            converge(clients, count).await
        });
        let mut all = Histogram::default();
        times.await?.into_iter().for_each(|time| all.record(time));
        self.kill().await?;
        Ok(figures(self.names, &all).into())
    }
}

/// A side that spreads changes by gossip.
fn gossips<K: gossip::Kind>(
    stage: &mut Stage<'_>,
    kind: K,
    names: [&'static str; 2],
) -> Box<dyn Side> {
    stage.started([gossip::command(&kind)]);
    // Each takes half a second or so; fewer would have no 99th of a hundred.
    let count = stage.amount(100, 2);
    on_own_thread(move || {
        let kind = kind.clone();
        async move {
            let mut times = Histogram::default();
            for time in gossip::spread(kind, count).await? {
                times.record(time);
            }
            Ok(figures(names, &times).into())
        }
    })
}

/// Both figures of every side, by the number of processes.
fn plot(stage: &Stage<'_>, sizes: &[Size]) -> Plot {
    let mut lines: Vec<Line> = Vec::new();
    let mut add = |side: &str, what: &'static str, dashed, point| {
        let mut same = lines.iter_mut();
        match same.find(|line| line.side == side && line.what == what) {
            Some(line) => line.points.push(point),
            None => lines.push(Line {
                side: side.to_owned(),
                what,
                dashed,
                points: vec![point],
            }),
        }
    };
    for (at, quantile) in ["p50", "p99"].into_iter().enumerate() {
        let dashed = at > 0;
        for size in sizes {
            let nodes = f64::from(size.nodes);
            let ms = |values: &[f64]| median(values) / 1e3;
            for row in stage.found(size.names[at]) {
                add("grapevine", quantile, dashed, (nodes, ms(&row.values)));
                if let Some(theirs) = &row.peer {
                    let peer = theirs.peer.to_string();
                    add(&peer, quantile, dashed, (nodes, ms(&theirs.values)));
                }
            }
        }
    }
    Plot {
        name: "converge",
        title: "A bump until all have it",
        across: "processes",
        up: "ms",
        scale: Scale::Logarithmic,
        lines,
    }
}

/// How long half of the bumps took at most, and 99 of a hundred.
pub(super) fn figures([p50, p99]: [&'static str; 2], times: &Histogram) -> [Figure; 2] {
    [
        Figure::quantile(p50, times, 500),
        Figure::quantile(p99, times, 990),
    ]
}

/// Makes so many bumps, the first one at the first client's sidecar, the second one at the second's and so on; tells how long each took
/// until all had it.
pub(super) async fn converge(
    mut clients: Vec<ApplicationServiceClient<Channel>>,
    count: usize,
) -> anyhow::Result<Vec<Duration>> {
    let mut watches = SelectAll::new();
    for (at, client) in clients.iter_mut().enumerate() {
        let told = watch(client).await?.map(move |told| (at, told));
        watches.push(told.boxed());
    }
    let nodes = clients.len();
    let mut times = Vec::with_capacity(count);
    for number in 0..count {
        tokio::time::sleep(PAUSE).await;
        let request = v1::InvalidateRequest {
            classes: vec![format!("get_items_in_cart/{number}")],
            receipt: ReceiptLevel::One.into(),
            ..v1::InvalidateRequest::default()
        };
        let client = &mut clients[number % nodes];
        let begin = Instant::now();
        let call = client.invalidate(request);
        let seen = tokio::time::timeout(PATIENCE, all_see(&mut watches, nodes));
        let (answer, seen) = tokio::join!(call, seen);
        let (event, at) = seen.with_context(|| {
            format!("converge: not all of {nodes} sidecars had a bump after {PATIENCE:?}")
        })??;
        let own = answer?.into_inner().event;
        ensure!(
            own.as_ref() == Some(&event),
            "converge: watchers told of {event:?}, and the call was answered with {own:?}"
        );
        times.push(at.saturating_duration_since(begin));
    }
    Ok(times)
}

/// What watchers tell, and which of them.
type Watches = SelectAll<BoxStream<'static, (usize, Result<v1::WatchResponse, Status>)>>;

/// Waits until each of so many watchers has told of one event, once, and none of another; tells which and when.
async fn all_see(watches: &mut Watches, nodes: usize) -> anyhow::Result<(v1::EventId, Instant)> {
    let (mut event, mut have) = (None, BTreeSet::new());
    while have.len() < nodes {
        let (at, told) = watches.next().await.context("converge: a watch ended")?;
        let bump = match told?.kind {
            Some(Kind::Bump(bump)) => bump.event.unwrap_or_default(),
            other => bail!("converge: watcher {at} was told {other:?}"),
        };
        let first = event.get_or_insert_with(|| bump.clone());
        ensure!(
            *first == bump && have.insert(at),
            "converge: watcher {at} told of {bump:?} before {first:?} was everywhere"
        );
    }
    Ok((event.unwrap_or_default(), Instant::now()))
}

async fn watch(
    client: &mut ApplicationServiceClient<Channel>,
) -> anyhow::Result<Streaming<v1::WatchResponse>> {
    let mut watch = client
        .watch(v1::WatchRequest::default())
        .await?
        .into_inner();
    match watch.message().await?.and_then(|told| told.kind) {
        Some(Kind::Started(_)) => Ok(watch),
        other => bail!("converge: a watch began with {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn bump(at: usize, sequence: u64) -> (usize, Result<v1::WatchResponse, Status>) {
        let event = v1::EventId {
            sequence,
            ..v1::EventId::default()
        };
        let bump = v1::WatchBump {
            event: Some(event),
            ..v1::WatchBump::default()
        };
        let told = v1::WatchResponse {
            kind: Some(Kind::Bump(bump)),
        };
        (at, Ok(told))
    }

    #[tokio::test]
    async fn a_bump_is_everywhere_once_each_watcher_has_told_of_it() {
        let seen = async |told: Vec<_>| {
            let mut watches = Watches::from_iter([futures::stream::iter(told).boxed()]);
            all_see(&mut watches, 2)
                .await
                .map(|(event, _)| event.sequence)
                .map_err(|error| error.to_string())
        };
        assert_eq!(seen(vec![bump(0, 7), bump(1, 7)]).await, Ok(7));
        let twice = seen(vec![bump(0, 7), bump(0, 7), bump(1, 7)]).await;
        assert!(twice.unwrap_err().contains("watcher 0 told of"));
        let other = seen(vec![bump(0, 7), bump(1, 8)]).await;
        assert!(other.unwrap_err().contains("watcher 1 told of"));
        let missing = seen(vec![bump(0, 7)]).await;
        assert_eq!(missing.unwrap_err(), "converge: a watch ended");
    }
}
