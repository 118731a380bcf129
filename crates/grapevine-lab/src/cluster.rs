//! Sidecars as processes of their own, on this machine: started, killed, brought back, and all ended when the run ends.
//!
//! Each sidecar is this executable (or another one) with the argument `sidecar`. All have directories below one temporary
//! directory, which goes with them. Every sidecar is given every gossip address as seed. The policies are one TOML file
//! for all. A sidecar counts as ready when it says that it is fresh.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use grapevine_proto::v1::admin_service_client::AdminServiceClient;
use grapevine_proto::v1::{DrainRequest, Freshness, StatusRequest, StatusResponse};
use tempfile::TempDir;
use thiserror::Error;

use crate::ports::free_ports;
use crate::process::{Process, ProcessError, Readiness};

/// Beyond what a drain is granted by the sidecar itself, before it is killed.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
const NODES_MAX: u32 = 50;
/// Of a larger cluster one command is told: they differ in names, ports and directories.
const COMMANDS_TOLD: usize = 4;

/// What to start.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// The executable that understands `sidecar`, usually this one.
    pub executable: PathBuf,
    /// Sidecars, 1 to 50.
    pub nodes: u32,
    /// The cluster's name.
    pub name: String,
    /// TOML that every sidecar is given with `--config`: the policies, and other knobs.
    pub config_toml: String,
    /// Where the cache servers are.
    pub cache_urls: Vec<String>,
    /// How long a sidecar may take to become fresh.
    pub ready_timeout: Duration,
}

/// Why there is no cluster.
#[derive(Debug, Error)]
pub enum ClusterError {
    /// The number of nodes.
    #[error("nodes: {0} is not between 1 and {NODES_MAX}")]
    Nodes(u32),
    /// The temporary directory or the ports.
    #[error("cluster: {what}: {source}")]
    Prepare {
        /// What could not be had.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// One sidecar.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// One sidecar's answer.
    #[error("{node}: {problem}")]
    Call {
        /// The sidecar.
        node: String,
        /// What went wrong.
        problem: String,
    },
}

/// Where a sidecar listens, and where it says that others reach it if that is somewhere else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) app_tcp: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) gossip: SocketAddr,
    /// What it advertises for its peers and for gossip.
    pub(crate) advertised: Option<[SocketAddr; 2]>,
}

impl Place {
    /// Free ones on this machine.
    pub(crate) fn free(count: u32) -> Result<Vec<Self>, ClusterError> {
        if !(1..=NODES_MAX).contains(&count) {
            return Err(ClusterError::Nodes(count));
        }
        let ports = free_ports(count as usize * 3);
        let ports = ports.map_err(|source| ClusterError::Prepare {
            what: "find free ports",
            source,
        })?;
        let address = |port| (Ipv4Addr::LOCALHOST, port).into();
        let places = ports.chunks_exact(3).map(|ports| Self {
            app_tcp: address(ports[0]),
            peer: address(ports[1]),
            gossip: address(ports[2]),
            advertised: None,
        });
        Ok(places.collect())
    }
}

/// One sidecar's place.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its configured name: n1, n2, ...
    pub id: String,
    /// Its Unix socket for applications.
    pub app_unix: PathBuf,
    /// Its TCP address for applications.
    pub app_tcp: SocketAddr,
    /// Where it keeps its disk's part.
    pub(crate) data_dir: PathBuf,
    log: PathBuf,
    arguments: Vec<String>,
}

/// A running cluster. Dropping it kills every sidecar and removes their directories.
pub struct Cluster {
    config: ClusterConfig,
    nodes: Vec<Node>,
    /// One per node, in their order; nothing where the sidecar was killed.
    processes: Vec<Option<Process>>,
    // After the processes, so that it is removed once they are ended.
    dir: TempDir,
}

impl Cluster {
    /// Starts all sidecars and waits until each is fresh.
    pub async fn start(config: ClusterConfig) -> Result<Self, ClusterError> {
        let all = config.nodes as usize;
        Self::start_some(config, all).await
    }

    /// Starts the first `running` of them, and waits until each is fresh. The others are known to them as seeds, and are started by
    /// [`Cluster::restart`].
    pub(crate) async fn start_some(
        config: ClusterConfig,
        running: usize,
    ) -> Result<Self, ClusterError> {
        let places = Place::free(config.nodes)?;
        Self::start_at(config, &places, running, |_| ()).await
    }

    /// The same at these places, one for each node. `started` is told the process ids of those that run, in the nodes' order, before
    /// any of them is waited for.
    pub(crate) async fn start_at(
        config: ClusterConfig,
        places: &[Place],
        running: usize,
        started: impl FnOnce(Vec<u32>),
    ) -> Result<Self, ClusterError> {
        let (dir, nodes) = prepare(&config, places)?;
        let processes = nodes.iter().map(|_| None).collect();
        let mut cluster = Self {
            config,
            nodes,
            processes,
            dir,
        };
        let running = running.min(cluster.nodes.len());
        for node in 0..running {
            cluster.spawn(node)?;
        }
        let ids = cluster.processes.iter().flatten().filter_map(Process::id);
        started(ids.collect());
        for node in 0..running {
            cluster.wait_fresh(node).await?;
        }
        Ok(cluster)
    }

    /// The sidecars, running or not.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The directory that holds everything of the run.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// How those that run were started, and the configuration file of all, for people.
    pub(crate) fn settings(&self) -> Vec<String> {
        let processes = || self.processes.iter().flatten();
        let all = processes().count();
        let told = if all > COMMANDS_TOLD { 1 } else { all };
        let commands = processes().take(told);
        let mut commands: Vec<_> = commands.map(|it| it.command().to_owned()).collect();
        if told < all {
            let others = all - told;
            commands.push(format!(
                "and {others} more, with names, ports and directories of their own"
            ));
        }
        let file = match self.config.config_toml.trim() {
            "" => "grapevine.toml: empty".to_owned(),
            text => format!("grapevine.toml: {}", text.replace('\n', "; ")),
        };
        commands.push(file);
        commands.extend(inherited(std::env::vars_os()));
        commands
    }

    /// The process id of a sidecar; nothing when it was killed.
    pub fn process_id(&self, node: usize) -> Option<u32> {
        self.processes[node].as_ref().and_then(Process::id)
    }

    fn spawn(&mut self, node: usize) -> Result<(), ClusterError> {
        let Node {
            id, arguments, log, ..
        } = &self.nodes[node];
        let process = Process::start(id, &self.config.executable, arguments, log)?;
        self.processes[node] = Some(process);
        Ok(())
    }

    /// Kills a sidecar as `kill -9` does; its directory stays. Nothing happens if it is not running.
    pub async fn kill(&mut self, node: usize) -> Result<(), ClusterError> {
        if let Some(process) = self.processes[node].take() {
            process.kill().await?;
        }
        Ok(())
    }

    /// Drains a sidecar, so that it leaves; its directory stays. Nothing happens if it is not running.
    pub(crate) async fn leave(&mut self, node: usize) -> Result<(), ClusterError> {
        match self.processes[node].take() {
            Some(process) => drain(&self.nodes[node], process).await,
            None => Ok(()),
        }
    }

    /// Brings a killed sidecar back on its own directory and ports, without waiting until it is fresh.
    pub fn restart(&mut self, node: usize) -> Result<(), ClusterError> {
        if self.processes[node].is_none() {
            self.spawn(node)?;
        }
        Ok(())
    }

    /// Removes the directory of a sidecar that was killed, so that it comes back knowing nothing.
    pub fn wipe(&mut self, node: usize) -> Result<(), ClusterError> {
        assert!(
            self.processes[node].is_none(),
            "invariant: only a killed sidecar is wiped"
        );
        let data_dir = &self.nodes[node].data_dir;
        fs::remove_dir_all(data_dir).map_err(|source| ClusterError::Prepare {
            what: "remove a data directory",
            source,
        })
    }

    /// Waits until a sidecar says that it is fresh.
    pub async fn wait_fresh(&mut self, node: usize) -> Result<(), ClusterError> {
        let timeout = self.config.ready_timeout;
        let place = &self.nodes[node];
        let Some(process) = &mut self.processes[node] else {
            let problem = "is not running".to_owned();
            return Err(ClusterError::Call {
                node: place.id.clone(),
                problem,
            });
        };
        let probe = async || match status_of(place).await {
            Ok(status) if status.freshness == i32::from(Freshness::Fresh) => Readiness::Ready,
            Ok(status) => Readiness::NotYet(status.freshness_reason),
            Err(error) => Readiness::NotYet(error.to_string()),
        };
        Ok(process.wait_ready(timeout, probe).await?)
    }

    /// What a sidecar says of itself.
    pub async fn status(&self, node: usize) -> Result<StatusResponse, ClusterError> {
        status_of(&self.nodes[node]).await
    }

    /// Drains every sidecar that runs, all at once, and kills those that do not end in time.
    pub async fn stop(mut self) -> Result<(), ClusterError> {
        let ends = self
            .nodes
            .iter()
            .zip(&mut self.processes)
            .filter_map(|(node, process)| {
                let process = process.take()?;
                Some(drain(node, process))
            });
        for end in futures::future::join_all(ends).await {
            end?;
        }
        Ok(())
    }
}

async fn drain(node: &Node, mut process: Process) -> Result<(), ClusterError> {
    let asked = async {
        let mut client = AdminServiceClient::connect(format!("http://{}", node.app_tcp))
            .await
            .ok()?;
        client.drain(DrainRequest::default()).await.ok()
    };
    let asked = tokio::time::timeout(DRAIN_TIMEOUT, asked)
        .await
        .ok()
        .flatten();
    if asked.is_none() || !process.wait_end(DRAIN_TIMEOUT).await {
        tracing::debug!(node = node.id, "did not drain in time, killed");
        process.kill().await?;
    }
    Ok(())
}

async fn status_of(node: &Node) -> Result<StatusResponse, ClusterError> {
    let failed = |problem: String| ClusterError::Call {
        node: node.id.clone(),
        problem,
    };
    let url = format!("http://{}", node.app_tcp);
    let mut client = AdminServiceClient::connect(url)
        .await
        .map_err(|error| failed(error.to_string()))?;
    let answer = client.status(StatusRequest {}).await;
    Ok(answer
        .map_err(|status| failed(status.to_string()))?
        .into_inner())
}

/// What of an environment counts for sidecars that inherit it, sorted. Where there may be a password or a token the value is hidden.
fn inherited(environment: impl Iterator<Item = (OsString, OsString)>) -> Vec<String> {
    const SECRET: [&str; 4] = ["HEADERS", "URL", "ENDPOINT", "KEY"];
    let variables = environment.filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        let theirs = name.starts_with("GRAPEVINE_") || name.starts_with("OTEL_");
        let secret = SECRET.iter().any(|word| name.contains(word));
        let value = if secret {
            "***".into()
        } else {
            value.to_string_lossy()
        };
        theirs.then(|| format!("{name}={value}"))
    });
    let mut variables: Vec<_> = variables.collect();
    variables.sort_unstable();
    variables
}

fn prepare(config: &ClusterConfig, places: &[Place]) -> Result<(TempDir, Vec<Node>), ClusterError> {
    let failed = |what| move |source| ClusterError::Prepare { what, source };
    let dir = tempfile::Builder::new()
        .prefix("grapevine-")
        .tempdir()
        .map_err(failed("make a temporary directory"))?;
    let config_file = dir.path().join("grapevine.toml");
    fs::write(&config_file, &config.config_toml).map_err(failed("write the configuration"))?;
    let reached = |place: &Place| place.advertised.map_or(place.gossip, |[_, gossip]| gossip);
    let seeds = places
        .iter()
        .map(|place| reached(place).to_string())
        .collect::<Vec<_>>()
        .join(",");
    let nodes = places.iter().enumerate().map(|(node, place)| {
        let id = format!("n{}", node + 1);
        let data_dir = dir.path().join(&id);
        let app_unix = dir.path().join(format!("{id}.sock"));
        let log = dir.path().join(format!("{id}.log"));
        let mut arguments = vec!["sidecar".to_owned()];
        for (flag, value) in [
            ("--node-id", id.clone()),
            ("--cluster", config.name.clone()),
            ("--data-dir", data_dir.display().to_string()),
            ("--app-unix", app_unix.display().to_string()),
            ("--app-tcp", place.app_tcp.to_string()),
            ("--peer-listen", place.peer.to_string()),
            ("--gossip-listen", place.gossip.to_string()),
            ("--seeds", seeds.clone()),
            ("--config", config_file.display().to_string()),
        ] {
            arguments.extend([flag.to_owned(), value]);
        }
        if let Some([peer, gossip]) = place.advertised {
            for (flag, value) in [("--peer-advertise", peer), ("--gossip-advertise", gossip)] {
                arguments.extend([flag.to_owned(), value.to_string()]);
            }
        }
        for url in &config.cache_urls {
            arguments.extend(["--cache".to_owned(), url.clone()]);
        }
        Node {
            id,
            app_unix,
            app_tcp: place.app_tcp,
            data_dir,
            log,
            arguments,
        }
    });
    let nodes = nodes.collect();
    Ok((dir, nodes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn config(executable: &str, nodes: u32) -> ClusterConfig {
        ClusterConfig {
            executable: executable.into(),
            nodes,
            name: "test".to_owned(),
            config_toml: "# nothing\n".to_owned(),
            cache_urls: vec!["memcached://unix:/c.sock".to_owned()],
            ready_timeout: Duration::from_secs(20),
        }
    }

    fn value<'a>(node: &'a Node, flag: &str) -> &'a str {
        let at = node
            .arguments
            .iter()
            .position(|argument| argument == flag)
            .unwrap();
        &node.arguments[at + 1]
    }

    #[test]
    fn what_sidecars_inherit_is_told_without_what_may_be_secret() {
        let environment = [
            ("PATH", "/bin"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=secret"),
            ("OTEL_TRACES_EXPORTER", "none"),
            ("GRAPEVINE_CACHE_URL", "redis://u:secret@h"),
            ("GRAPEVINE_LIMITS_DIRECT_PUSHES_MAX", "8"),
        ];
        let environment = environment.map(|(name, value)| (name.into(), value.into()));
        assert_eq!(
            inherited(environment.into_iter()),
            [
                "GRAPEVINE_CACHE_URL=***",
                "GRAPEVINE_LIMITS_DIRECT_PUSHES_MAX=8",
                "OTEL_EXPORTER_OTLP_HEADERS=***",
                "OTEL_TRACES_EXPORTER=none",
            ]
        );
    }

    #[test]
    fn every_sidecar_has_its_own_places_and_knows_all_seeds() {
        let places = Place::free(3).unwrap();
        let (dir, nodes) = prepare(&config("x", 3), &places).unwrap();
        assert_eq!(
            nodes
                .iter()
                .map(|node| node.id.as_str())
                .collect::<Vec<_>>(),
            ["n1", "n2", "n3"]
        );
        let gossip: Vec<&str> = nodes
            .iter()
            .map(|node| value(node, "--gossip-listen"))
            .collect();
        for node in &nodes {
            assert_eq!(node.arguments[0], "sidecar");
            assert_eq!(value(node, "--seeds"), gossip.join(","));
            assert_eq!(value(node, "--app-tcp"), node.app_tcp.to_string());
            assert_eq!(value(node, "--cache"), "memcached://unix:/c.sock");
            assert!(node.app_unix.starts_with(dir.path()) && node.data_dir.starts_with(dir.path()));
        }
        assert_ne!(nodes[0].data_dir, nodes[1].data_dir);
        let written = fs::read_to_string(value(&nodes[0], "--config")).unwrap();
        assert_eq!(written, "# nothing\n");
    }

    #[test]
    fn what_is_reached_elsewhere_is_advertised_and_a_seed_there() {
        let mut places = Place::free(2).unwrap();
        let [peer, gossip] = [7, 8].map(|port| (Ipv4Addr::LOCALHOST, port).into());
        places[1].advertised = Some([peer, gossip]);
        let (_dir, nodes) = prepare(&config("x", 2), &places).unwrap();
        assert!(!nodes[0].arguments.contains(&"--peer-advertise".to_owned()));
        assert_eq!(value(&nodes[1], "--peer-advertise"), peer.to_string());
        assert_eq!(value(&nodes[1], "--gossip-advertise"), gossip.to_string());
        let listens = value(&nodes[1], "--gossip-listen");
        assert_eq!(listens, places[1].gossip.to_string());
        let seeds = format!("{},{gossip}", places[0].gossip);
        assert!(nodes.iter().all(|node| value(node, "--seeds") == seeds));
    }

    #[tokio::test]
    async fn a_cluster_of_no_or_too_many_nodes_is_refused() {
        for nodes in [0, 51] {
            let refused = Cluster::start(config("x", nodes)).await.err().unwrap();
            assert!(matches!(refused, ClusterError::Nodes(n) if n == nodes));
        }
    }

    #[tokio::test]
    async fn a_sidecar_that_ends_at_once_fails_the_start() {
        let error = Cluster::start(config("/bin/false", 2)).await.err().unwrap();
        let ClusterError::Process(ProcessError::Ended { name, .. }) = error else {
            panic!("{error}")
        };
        assert_eq!(name, "n1");
    }
}
