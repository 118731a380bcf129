//! Sidecars as their users run them: what is set is where they listen, who their peers are, and where their disk is.

use std::time::{Duration, Instant};

use anyhow::bail;
use grapevine_proto::v1::{Freshness, StatusResponse};

use super::stage::Stage;
use crate::cluster::{Cluster, ClusterConfig, Place};

const READY_TIMEOUT: Duration = Duration::from_mins(1);
/// How long they may take to get what was registered at another one.
const WAIT_MAX: Duration = Duration::from_mins(10);
const POLL_EVERY: Duration = Duration::from_millis(5);

/// Starts so many of them, and waits until each is fresh.
pub(super) async fn start(
    stage: &mut Stage<'_>,
    nodes: u32,
    config_toml: &str,
    cache_urls: Vec<String>,
) -> anyhow::Result<Cluster> {
    start_some(stage, nodes, nodes as usize, config_toml, cache_urls).await
}

/// Starts the first `running` of so many of them, and waits until each is fresh and seated with the others: one that was alone
/// until then invalidates everything when it meets them.
pub(super) async fn start_some(
    stage: &mut Stage<'_>,
    nodes: u32,
    running: usize,
    config_toml: &str,
    cache_urls: Vec<String>,
) -> anyhow::Result<Cluster> {
    stage.say(&format!("starting {running} sidecars"));
    let config = config(stage, nodes, config_toml, cache_urls);
    let cluster = Cluster::start_some(config, running).await?;
    ready(stage, cluster, running).await
}

/// The same at these places, all of them; `started` is told the process ids before any is waited for.
pub(super) async fn start_at(
    stage: &mut Stage<'_>,
    places: &[Place],
    config_toml: &str,
    started: impl FnOnce(Vec<u32>),
) -> anyhow::Result<Cluster> {
    let running = places.len();
    stage.say(&format!("starting {running} sidecars"));
    let config = config(stage, u32::try_from(running)?, config_toml, Vec::new());
    let cluster = Cluster::start_at(config, places, running, started).await?;
    ready(stage, cluster, running).await
}

fn config(
    stage: &Stage<'_>,
    nodes: u32,
    config_toml: &str,
    cache_urls: Vec<String>,
) -> ClusterConfig {
    ClusterConfig {
        executable: stage.options.executable.clone(),
        nodes,
        name: "bench".to_owned(),
        config_toml: config_toml.to_owned(),
        cache_urls,
        ready_timeout: READY_TIMEOUT,
    }
}

/// Tells how they were started, and waits until each has them all.
async fn ready(stage: &mut Stage<'_>, cluster: Cluster, running: usize) -> anyhow::Result<Cluster> {
    if cfg!(debug_assertions) {
        stage.started(["a debug build: its figures mean nothing".to_owned()]);
    }
    stage.started(cluster.settings());
    for node in 0..running {
        wait(&cluster, node, |status| {
            usize::try_from(status.seats).is_ok_and(|seats| seats == running)
        })
        .await?;
    }
    Ok(cluster)
}

/// The setting of a cluster of so many: one of them that starts first waits for the others, and a newcomer joins them, in place of
/// beginning a history of its own, which would invalidate everything when the two meet.
pub(super) fn expecting(members: u32) -> String {
    format!("[cluster]\nexpected_members = {members}\n")
}

/// Asks a sidecar how it is, until it is fresh and `when` says that it is as it should be.
pub(super) async fn wait(
    cluster: &Cluster,
    node: usize,
    when: impl Fn(&StatusResponse) -> bool,
) -> anyhow::Result<StatusResponse> {
    let begun = Instant::now();
    loop {
        let status = cluster.status(node).await;
        match status {
            Ok(status) if status.freshness() == Freshness::Fresh && when(&status) => {
                return Ok(status);
            }
            _ if begun.elapsed() < WAIT_MAX => tokio::time::sleep(POLL_EVERY).await,
            Ok(status) => bail!("sidecar {node} is not as it should be: {status:?}"),
            Err(error) => return Err(error.into()),
        }
    }
}
