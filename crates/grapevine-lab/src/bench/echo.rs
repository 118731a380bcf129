//! The floor under any push: processes that send back what they are sent over TCP, and somebody who sends each of them the same and
//! waits until all have answered.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::caches::CacheServerError;
use crate::process::{Process, Readiness};

const START_TIMEOUT: Duration = Duration::from_secs(10);
/// As long as a small bump is in its message.
const MESSAGE_BYTES: usize = 100;

/// Sends back what comes, until the process is ended.
pub fn serve(address: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        stream.set_nodelay(true)?;
        std::thread::spawn(move || {
            let mut buffer = [0; MESSAGE_BYTES];
            while stream.read_exact(&mut buffer).is_ok() && stream.write_all(&buffer).is_ok() {}
        });
    }
    Ok(())
}

/// So many of these processes; dropping them ends them.
pub(super) struct Echoes {
    processes: Vec<Process>,
    addresses: Vec<SocketAddr>,
}

impl Echoes {
    /// Starts one on each port, with their logs in `dir`, and waits until each can be reached.
    pub(super) async fn start(
        executable: &Path,
        dir: &Path,
        ports: Vec<u16>,
    ) -> Result<Self, CacheServerError> {
        let addresses: Vec<SocketAddr> = ports
            .into_iter()
            .map(|port| (Ipv4Addr::LOCALHOST, port).into())
            .collect();
        let mut processes = Vec::with_capacity(addresses.len());
        for address in &addresses {
            let arguments = ["bench-peer", "--echo", &address.to_string()];
            let log = dir.join(format!("echo-{}.log", address.port()));
            processes.push(Process::start("tcp", executable, &arguments, &log)?);
        }
        for (process, address) in processes.iter_mut().zip(&addresses) {
            let probe = async || match tokio::net::TcpStream::connect(address).await {
                Ok(_) => Readiness::Ready,
                Err(error) => Readiness::NotYet(error.to_string()),
            };
            process.wait_ready(START_TIMEOUT, probe).await?;
        }
        Ok(Self {
            processes,
            addresses,
        })
    }

    /// How one of them was started, and how many there are.
    pub(super) fn command(&self) -> String {
        let first = self.processes.first().map_or("", Process::command);
        format!(
            "{first}, and {} more",
            self.processes.len().saturating_sub(1)
        )
    }

    /// A connection to each.
    pub(super) fn connect(&self) -> anyhow::Result<Fan> {
        let connected = self.addresses.iter().map(|address| {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            Ok(stream)
        });
        let streams = connected.collect::<io::Result<Vec<_>>>();
        Ok(Fan {
            streams: streams.context("tcp")?,
            sent: 0,
        })
    }
}

/// A connection to each of several processes.
pub(super) struct Fan {
    streams: Vec<TcpStream>,
    sent: u64,
}

impl Fan {
    /// Sends all of them the same, and waits for all answers.
    pub(super) fn round(&mut self) -> anyhow::Result<()> {
        self.sent += 1;
        let mut message = [0; MESSAGE_BYTES];
        message[..8].copy_from_slice(&self.sent.to_be_bytes());
        for stream in &mut self.streams {
            stream.write_all(&message).context("tcp")?;
        }
        for stream in &mut self.streams {
            let mut answer = [0; MESSAGE_BYTES];
            stream.read_exact(&mut answer).context("tcp")?;
            ensure!(answer == message, "tcp: another answer than was sent");
        }
        Ok(())
    }
}
