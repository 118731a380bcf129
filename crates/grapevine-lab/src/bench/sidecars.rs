//! Sidecars as their users run them: what is set is where they listen, who their peers are, and where their disk is.

use std::time::Duration;

use super::stage::Stage;
use crate::cluster::{Cluster, ClusterConfig};

const READY_TIMEOUT: Duration = Duration::from_mins(1);

/// Starts so many of them, and waits until each is fresh.
pub(super) async fn start(
    stage: &mut Stage<'_>,
    nodes: u32,
    config_toml: &str,
    cache_urls: Vec<String>,
) -> anyhow::Result<Cluster> {
    stage.say(&format!("starting {nodes} sidecars"));
    let cluster = Cluster::start(ClusterConfig {
        executable: stage.options.executable.clone(),
        nodes,
        name: "bench".to_owned(),
        config_toml: config_toml.to_owned(),
        cache_urls,
        ready_timeout: READY_TIMEOUT,
    })
    .await?;
    if cfg!(debug_assertions) {
        stage.started(["a debug build: its figures mean nothing".to_owned()]);
    }
    stage.started(cluster.settings());
    Ok(cluster)
}
