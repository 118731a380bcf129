//! memcached and Redis as child processes, on ports of their own.
//!
//! Where one is not installed, its tests are skipped loudly; with `GRAPEVINE_REQUIRE_PEERS=1`, as in CI, they fail.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use grapevine_cache::Cache;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::conditions::eventually;
use crate::ports::free_ports;
use crate::process::Process;
use crate::skip::skip;

/// How long a process may take to listen on a busy machine.
pub const TIME_TO_START: Duration = Duration::from_secs(30);

/// A cache server. It ends when dropped.
#[derive(Debug)]
pub struct CacheServer {
    /// Its URL, as sidecars and clients take it.
    pub url: String,
    address: SocketAddr,
    program: PathBuf,
    arguments: Vec<String>,
    process: Option<Process>,
    dir: TempDir,
}

impl CacheServer {
    /// Starts memcached; nothing when it is not installed and `test` may be skipped.
    pub async fn memcached(test: &str) -> Result<Option<Self>> {
        Self::memcached_at(test, Ipv4Addr::LOCALHOST).await
    }

    /// Starts memcached at an address of this machine; nothing when it is not installed and `test` may be skipped.
    pub async fn memcached_at(test: &str, address: Ipv4Addr) -> Result<Option<Self>> {
        let Some(program) = find("memcached", test)? else {
            return Ok(None);
        };
        let port = free_ports(1)?[0];
        let mut arguments = words("-U 0 -m 64 -t 2 -l");
        arguments.extend([address.to_string(), "-p".to_owned(), port.to_string()]);
        // It refuses to be root unless told so, and ignores the flag otherwise.
        arguments.extend(words("-u root"));
        let url = format!("memcached://{address}:{port}");
        Self::start(program, arguments, (address, port).into(), url)
            .await
            .map(Some)
    }

    /// Starts Redis; nothing when it is not installed and `test` may be skipped.
    pub async fn redis(test: &str) -> Result<Option<Self>> {
        let Some(program) = find("redis-server", test)? else {
            return Ok(None);
        };
        let port = free_ports(1)?[0];
        let mut arguments = words("--bind 127.0.0.1 --appendonly no --daemonize no --save");
        arguments.extend([String::new(), "--port".to_owned(), port.to_string()]);
        let url = format!("redis://127.0.0.1:{port}");
        let address = (Ipv4Addr::LOCALHOST, port).into();
        Self::start(program, arguments, address, url)
            .await
            .map(Some)
    }

    async fn start(
        program: PathBuf,
        arguments: Vec<String>,
        address: SocketAddr,
        url: String,
    ) -> Result<Self> {
        let mut server = Self {
            url,
            address,
            program,
            arguments,
            process: None,
            dir: TempDir::new()?,
        };
        server.restart().await?;
        Ok(server)
    }

    /// Starts it again, empty, at the same place.
    pub async fn restart(&mut self) -> Result<()> {
        let log = self.dir.path().join("log");
        let process = Process::start(&self.url, &self.program, &self.arguments, &log)?;
        self.process = Some(process);
        let address = self.address;
        eventually("the cache server listens", TIME_TO_START, async || {
            Ok(TcpStream::connect(address).await?)
        })
        .await?;
        Ok(())
    }

    /// A client with time for a busy machine.
    pub fn client(&self) -> Result<Arc<dyn Cache>> {
        Ok(grapevine_cache::connect(&format!(
            "{}?timeout=5s",
            self.url
        ))?)
    }

    /// Kills it.
    pub async fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.kill().await,
            None => Ok(()),
        }
    }

    /// Stops it without ending it: it accepts connections, answers nothing and keeps its values.
    pub async fn pause(&self) -> Result<()> {
        match &self.process {
            Some(process) => process.pause().await,
            None => bail!("{} is not running", self.url),
        }
    }

    /// Lets it go on.
    pub async fn resume(&self) -> Result<()> {
        match &self.process {
            Some(process) => process.resume().await,
            None => bail!("{} is not running", self.url),
        }
    }
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn find(program: &str, test: &str) -> Result<Option<PathBuf>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file: &PathBuf| Path::is_file(file));
    if found.is_none() {
        skip(test, &format!("{program} is not installed"))?;
    }
    Ok(found)
}
