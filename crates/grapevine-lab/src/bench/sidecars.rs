//! Sidecars as their users run them: what is set is where they listen, who their peers are, and where their disk is.

use std::time::{Duration, Instant};

use anyhow::bail;
use grapevine_proto::v1::{Freshness, StatusResponse};

use super::stage::Stage;
use crate::cluster::{Cluster, ClusterConfig};

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
    let config = ClusterConfig {
        executable: stage.options.executable.clone(),
        nodes,
        name: "bench".to_owned(),
        config_toml: config_toml.to_owned(),
        cache_urls,
        ready_timeout: READY_TIMEOUT,
    };
    let cluster = Cluster::start_some(config, running).await?;
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
