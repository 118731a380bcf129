//! Sidecars that know each other.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Index, IndexMut};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use tempfile::TempDir;

use crate::api::Api;
use crate::conditions::eventually;
use crate::netns::Network;
use crate::node::Node;
use crate::ports::free_ports;
use crate::process::tail;
use crate::relay::Relay;

/// Short times, so that tests are; long enough for a machine that is busy with other tests. And nothing is served whose
/// freshness is not known.
const KNOBS: &str = "
[freshness]
max_staleness = \"1s\"
[gossip]
interval = \"100ms\"
suspect_after = \"2s\"
[policy_default]
on_unknown = \"bypass\"
";

/// What cluster to start.
#[derive(Clone, Debug)]
pub struct Setup {
    nodes: usize,
    toml: String,
    arguments: Vec<String>,
    relays: bool,
    prefix: Vec<String>,
    network: Option<Arc<Network>>,
}

impl Setup {
    /// So many sidecars, named n1, n2 and so on, that expect each other.
    pub fn of(nodes: usize) -> Self {
        Self {
            nodes,
            toml: KNOBS.to_owned(),
            arguments: Vec::new(),
            relays: false,
            prefix: Vec::new(),
            network: None,
        }
    }

    /// So many sidecars with every knob as it comes, for figures.
    pub fn defaults(nodes: usize) -> Self {
        Self::of(nodes).as_it_comes()
    }

    /// Takes back what the kit and `toml` have set: every knob has its default.
    #[must_use]
    pub fn as_it_comes(mut self) -> Self {
        self.toml.clear();
        self
    }

    /// Adds policies and other tables to everyone's configuration file.
    #[must_use]
    pub fn toml(mut self, toml: &str) -> Self {
        self.toml.push_str(toml);
        self
    }

    /// Gives everyone a flag: `limits-watchers-max`, say.
    #[must_use]
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.arguments
            .extend([format!("--{name}"), value.to_owned()]);
        self
    }

    /// Puts a relay before everyone's peer port.
    #[must_use]
    pub fn relays(mut self) -> Self {
        self.relays = true;
        self
    }

    /// Lets every process open so many files and connections only.
    #[must_use]
    pub fn descriptors(mut self, most: u32) -> Self {
        let script = format!("ulimit -n {most} && exec \"$0\" \"$@\"");
        self.prefix = vec!["/bin/sh".to_owned(), "-c".to_owned(), script];
        self
    }

    /// Gives each a network namespace of its own. With relays, these stand outside, where the test is.
    #[must_use]
    pub fn network(mut self, network: &Arc<Network>) -> Self {
        self.network = Some(Arc::clone(network));
        self
    }

    /// Makes the places and starts nothing.
    pub async fn prepare(self) -> Result<Cluster> {
        let mut cluster = Cluster {
            nodes: Vec::new(),
            seeds: Vec::new(),
            setup: self,
            dir: TempDir::with_prefix("grapevine-test-")?,
        };
        fs::write(cluster.dir.path().join("config.toml"), &cluster.setup.toml)?;
        for number in 1..=cluster.setup.nodes {
            cluster.add(&format!("n{number}")).await?;
        }
        Ok(cluster)
    }

    /// Starts all of them and waits until each is fresh.
    pub async fn start(self) -> Result<Cluster> {
        let mut cluster = self.prepare().await?;
        for node in &mut cluster.nodes {
            node.start()?;
        }
        cluster.wait_fresh().await?;
        Ok(cluster)
    }
}

/// The sidecars of a test, by position from 0. Dropping it kills them; after a failure it shows the end of their logs.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    seeds: Vec<SocketAddr>,
    setup: Setup,
    // After the nodes, so that it is removed once they have ended.
    dir: TempDir,
}

impl Cluster {
    /// Makes a place for one more sidecar; it is not started. Those before it are its seeds.
    pub async fn add(&mut self, id: &str) -> Result<&mut Node> {
        let [app, peer, gossip] = free_ports(3)?[..] else {
            unreachable!("invariant: as many ports as asked for");
        };
        let (mut place_ip, mut relay_ip) = (Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST);
        let mut prefix = Vec::new();
        if let Some(network) = &self.setup.network {
            let space = network.add()?;
            (place_ip, relay_ip) = (network.of(space), network.host());
            prefix = network.enter(space);
        }
        prefix.extend(self.setup.prefix.iter().cloned());
        let [app_tcp, peer, gossip] =
            [app, peer, gossip].map(|port| SocketAddr::from((place_ip, port)));
        // Two sidecars may be given one name, and then they differ in their place.
        let place = self.dir.path().join(format!("{}-{id}", self.nodes.len()));
        let relay = if self.setup.relays {
            Some(Relay::start_at(relay_ip, peer).await?)
        } else {
            None
        };
        self.seeds.push(gossip);
        let seeds: Vec<_> = self.seeds.iter().map(SocketAddr::to_string).collect();
        let app_unix = place.with_extension("sock");
        let mut arguments = vec!["sidecar".to_owned()];
        let advertised = relay.as_ref().map_or(peer, |relay| relay.address);
        for (flag, value) in [
            (
                "--config",
                self.dir.path().join("config.toml").display().to_string(),
            ),
            ("--node-id", id.to_owned()),
            ("--cluster", "test".to_owned()),
            ("--data-dir", place.display().to_string()),
            ("--app-unix", app_unix.display().to_string()),
            ("--app-tcp", app_tcp.to_string()),
            ("--peer-listen", peer.to_string()),
            ("--peer-advertise", advertised.to_string()),
            ("--gossip-listen", gossip.to_string()),
            ("--seeds", seeds.join(",")),
            ("--expected-members", self.setup.nodes.to_string()),
        ] {
            arguments.extend([flag.to_owned(), value]);
        }
        arguments.extend(self.setup.arguments.iter().cloned());
        self.nodes.push(Node {
            id: id.to_owned(),
            api: Api::new(app_tcp),
            app_unix,
            app_tcp,
            peer,
            gossip,
            log: place.with_extension("log"),
            data_dir: place,
            arguments,
            prefix,
            process: None,
            relay,
        });
        let last = self.nodes.len() - 1;
        Ok(&mut self.nodes[last])
    }

    /// All of them.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Waits until every running sidecar is fresh and misses nothing.
    pub async fn wait_fresh(&mut self) -> Result<()> {
        for node in self.nodes.iter_mut().filter(|node| node.process.is_some()) {
            node.wait_fresh().await?;
        }
        Ok(())
    }

    /// Waits until all running sidecars give the same token for each class; answers the tokens (G12).
    pub async fn wait_agree(&self, classes: &[String], deadline: Duration) -> Result<Vec<u64>> {
        let running: Vec<_> = self
            .nodes
            .iter()
            .filter(|node| node.process.is_some())
            .collect();
        eventually("all sidecars agree on every token", deadline, async || {
            let mut agreed: Option<Vec<u64>> = None;
            for node in &running {
                let tokens = node.api.tokens(classes).await?;
                if let Some(agreed) = &agreed {
                    let differing = classes.iter().zip(agreed.iter().zip(&tokens));
                    let differing: Vec<_> = differing
                        .filter(|(_, (a, b))| a != b)
                        .map(|(class, _)| class)
                        .take(5)
                        .collect();
                    ensure!(differing.is_empty(), "{} differs in {differing:?}", node.id);
                }
                agreed = Some(tokens);
            }
            Ok(agreed.unwrap_or_default())
        })
        .await
    }
}

impl Index<usize> for Cluster {
    type Output = Node;

    fn index(&self, position: usize) -> &Node {
        &self.nodes[position]
    }
}

impl IndexMut<usize> for Cluster {
    fn index_mut(&mut self, position: usize) -> &mut Node {
        &mut self.nodes[position]
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        self.dir.disable_cleanup(true);
        eprintln!(
            "the test failed; what the sidecars left is in {}",
            self.dir.path().display()
        );
        for node in &self.nodes {
            eprintln!(
                "---- the end of {}'s log ----\n{}",
                node.id,
                tail(&node.log)
            );
        }
    }
}
