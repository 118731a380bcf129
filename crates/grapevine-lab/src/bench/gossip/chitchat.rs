//! chitchat as it comes, with nothing but its interval shortened: each member is a process that sets one key, and tells when it
//! sees another's.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use chitchat::transport::UdpTransport;
use chitchat::{ChitchatConfig, ChitchatId, FailureDetectorConfig, ProtocolVersion};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc::{Receiver, channel};
use tokio_stream::StreamExt as _;

use super::{Kind, Told};
use crate::caches::CacheServerError;
use crate::ports::free_ports;
use crate::process::Piped;

/// How often a member gossips.
const INTERVAL: Duration = Duration::from_millis(100);
const KEY: &str = "change";
/// Longer than a bench.
const TOMBSTONE_GRACE: Duration = Duration::from_hours(1);

/// Gossips until its input ends: each line of that is a number, which is set; what is set by anybody is told on the output, and so
/// is whoever is met.
pub async fn serve(listen: SocketAddr, seed: Option<SocketAddr>) -> anyhow::Result<()> {
    let config = ChitchatConfig {
        chitchat_id: ChitchatId::new(listen.to_string(), 0, listen),
        cluster_id: "bench".to_owned(),
        gossip_interval: INTERVAL,
        listen_addr: listen,
        seed_nodes: seed.iter().map(ToString::to_string).collect(),
        failure_detector_config: FailureDetectorConfig::default(),
        marked_for_deletion_grace_period: TOMBSTONE_GRACE,
        catchup_callback: None,
        extra_liveness_predicate: None,
        protocol_version: ProtocolVersion::V1,
    };
    let handle = chitchat::spawn_chitchat(config, Vec::new(), &UdpTransport).await?;
    let chitchat = handle.chitchat();
    let (told, mut live) = {
        let chitchat = chitchat.lock().await;
        let told =
            chitchat.subscribe_event(KEY, |change| tell(format_args!("has {}", change.value)));
        (told, chitchat.live_nodes_watch_stream())
    };
    told.forever();
    let mut numbers = input();
    let mut met = BTreeSet::new();
    loop {
        tokio::select! {
            number = numbers.recv() => match number {
                Some(number) => chitchat.lock().await.self_node_state().set(KEY, number),
                None => return handle.shutdown().await,
            },
            live = live.next() => {
                for member in live.context("chitchat has ended")?.keys() {
                    if met.insert(member.node_id.clone()) {
                        tell(format_args!("met {}", member.node_id));
                    }
                }
            }
        }
    }
}

/// The lines of the standard input, which a thread waits for.
fn input() -> Receiver<String> {
    // Whoever writes them waits for each to be everywhere.
    let (sender, receiver) = channel(1);
    std::thread::spawn(move || {
        let lines = std::io::stdin().lines().map_while(Result::ok);
        for line in lines {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Writes a line, at once. Whoever does not listen any more is about to end this process.
fn tell(what: std::fmt::Arguments<'_>) {
    let mut output = std::io::stdout().lock();
    let _ = writeln!(output, "{what}").and_then(|()| output.flush());
}

/// What a line tells.
pub(super) fn told(line: &str) -> Option<Told> {
    match line.split_once(' ')? {
        ("met", name) => Some(Told::Met(name.to_owned())),
        ("has", number) => number.parse().ok().map(Told::Has),
        _ => None,
    }
}

/// Has a member set a number.
pub(super) async fn write(member: &mut Piped, number: usize) -> anyhow::Result<()> {
    let line = format!("{number}\n");
    Ok(member.input.write_all(line.as_bytes()).await?)
}

/// So many members.
#[derive(Debug, Clone)]
pub(in crate::bench) struct Chitchat {
    executable: PathBuf,
    ports: Vec<u16>,
}

impl Chitchat {
    /// Members that are run by `executable`, on ports that are free.
    pub(in crate::bench) fn new(
        executable: &Path,
        members: usize,
    ) -> Result<Self, CacheServerError> {
        Ok(Self {
            executable: executable.to_owned(),
            ports: free_ports(members).map_err(CacheServerError::Embedded)?,
        })
    }

    fn address(&self, at: usize) -> String {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[at])).to_string()
    }
}

impl Kind for Chitchat {
    const NAME: &'static str = "chitchat";

    fn members(&self) -> usize {
        self.ports.len()
    }

    fn program(&self) -> &Path {
        &self.executable
    }

    fn arguments(&self, at: usize) -> Vec<String> {
        let mut arguments = vec!["bench-peer".to_owned(), "--chitchat".to_owned()];
        arguments.push(self.address(at));
        if at > 0 {
            arguments.extend(["--seed".to_owned(), self.address(0)]);
        }
        arguments
    }

    fn told(line: &str) -> Option<Told> {
        told(line)
    }

    async fn change(&self, _: usize, member: &mut Piped, number: usize) -> anyhow::Result<()> {
        write(member, number).await
    }
}
