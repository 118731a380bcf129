//! One sidecar: its place, its process, and what can be done to it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use grapevine_proto::v1::{Freshness, StatusResponse};

use crate::api::Api;
use crate::binary::grapevine;
use crate::caches::TIME_TO_START;
use crate::conditions::eventually;
use crate::process::{Ended, Process, read};
use crate::relay::{Fault, Relay};

/// One sidecar, running or not.
#[derive(Debug)]
pub struct Node {
    /// Its configured name.
    pub id: String,
    /// Its services, over TCP.
    pub api: Api,
    /// Its Unix socket for applications.
    pub app_unix: PathBuf,
    /// Its TCP address for applications.
    pub app_tcp: SocketAddr,
    /// Where it listens for peers, behind its relay if it has one.
    pub peer: SocketAddr,
    /// Its UDP address for gossip.
    pub gossip: SocketAddr,
    /// Its directory.
    pub data_dir: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// What stands before the program: the words that limit it or bring it somewhere, and then become it.
    pub(crate) prefix: Vec<String>,
    pub(crate) process: Option<Process>,
    pub(crate) relay: Option<Relay>,
}

impl Node {
    /// Starts it, and does not wait.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{} is running", self.id);
        let binary = grapevine()?;
        let binary = binary.display().to_string();
        let mut words = self.prefix.iter().chain([&binary]).chain(&self.arguments);
        let program = words.next().expect("invariant: the binary is among them");
        let program = Path::new(program);
        self.process = Some(Process::start(&self.id, program, words, &self.log)?);
        Ok(())
    }

    /// Gives it another value for a flag that it has, from its next start on.
    pub fn set(&mut self, flag: &str, value: &str) -> Result<()> {
        let named = |argument: &String| argument.strip_prefix("--") == Some(flag);
        let position = self.arguments.iter().position(named);
        let position = position.with_context(|| format!("{} has no flag {flag}", self.id))?;
        value.clone_into(&mut self.arguments[position + 1]);
        Ok(())
    }

    /// Starts it, from its next start on, by these words in front of its own, after those that it has: `env NAME=value`, say. They
    /// must become the program, as `exec` does.
    pub fn start_by(&mut self, words: &[&str]) {
        self.prefix
            .extend(words.iter().map(|word| (*word).to_owned()));
    }

    /// Starts it and waits until it is fresh.
    pub async fn start_fresh(&mut self) -> Result<()> {
        self.start()?;
        self.wait_fresh().await?;
        Ok(())
    }

    /// Its command line, without the program.
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// Its process id, while it runs.
    pub fn process_id(&self) -> Result<u32> {
        self.running()?.id()
    }

    fn running(&self) -> Result<&Process> {
        self.process
            .as_ref()
            .with_context(|| format!("{} is not running", self.id))
    }

    /// Ends it as `kill -9` does; its directory stays.
    pub async fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.kill().await,
            None => Ok(()),
        }
    }

    /// Asks it to drain with SIGTERM, and does not wait.
    pub async fn terminate(&self) -> Result<()> {
        self.running()?.signal("TERM").await
    }

    /// Waits until it ends by itself.
    pub async fn end(&mut self, deadline: Duration) -> Result<Ended> {
        match self.process.take() {
            Some(process) => process.end(deadline).await,
            None => bail!("{} is not running", self.id),
        }
    }

    /// Stops it without ending it.
    pub async fn pause(&self) -> Result<()> {
        self.running()?.pause().await
    }

    /// Lets it go on.
    pub async fn resume(&self) -> Result<()> {
        self.running()?.resume().await
    }

    /// Says whether it runs.
    pub fn is_running(&mut self) -> Result<bool> {
        match &mut self.process {
            Some(process) => Ok(process.try_end()?.is_none()),
            None => Ok(false),
        }
    }

    /// Everything it has written, over all its runs.
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// Removes its directory. It must not run.
    pub fn wipe(&self) -> Result<()> {
        ensure!(self.process.is_none(), "{} is running", self.id);
        Ok(fs::remove_dir_all(&self.data_dir)?)
    }

    /// Copies its directory, as a backup does. It must not run.
    pub fn back_up(&self) -> Result<PathBuf> {
        ensure!(self.process.is_none(), "{} is running", self.id);
        let backup = self.data_dir.with_extension("backup");
        copy(&self.data_dir, &backup)?;
        Ok(backup)
    }

    /// Puts a backup in the place of its directory. It must not run.
    pub fn restore(&self, backup: &Path) -> Result<()> {
        self.wipe()?;
        copy(backup, &self.data_dir)
    }

    /// What it hears from its peers from now on. It must have a relay.
    pub fn hears(&self, fault: Fault) -> Result<()> {
        let relay = self.relay.as_ref();
        relay
            .with_context(|| format!("{} has no relay", self.id))?
            .set(fault);
        Ok(())
    }

    /// Waits until it answers at all.
    pub async fn wait_serving(&mut self) -> Result<StatusResponse> {
        let api = self.api.clone();
        self.wait("serves", async move || Ok(api.status().await?))
            .await
    }

    /// Waits until it says that it is fresh and misses nothing that it knows to exist.
    pub async fn wait_fresh(&mut self) -> Result<StatusResponse> {
        let api = self.api.clone();
        let probe = async move || {
            let status = api.status().await?;
            ensure!(
                status.freshness() == Freshness::Fresh,
                "{}",
                status.freshness_reason
            );
            ensure!(
                status.missing_events == 0,
                "{} events are missing",
                status.missing_events
            );
            Ok(status)
        };
        self.wait("is fresh", probe).await
    }

    async fn wait<T>(
        &mut self,
        what: &str,
        mut probe: impl AsyncFnMut() -> Result<T>,
    ) -> Result<T> {
        let what = format!("{} {what}", self.id);
        let mut ended = false;
        let answer = eventually(&what, TIME_TO_START, async || {
            if ended || !self.is_running()? {
                ended = true;
                return Ok(None);
            }
            probe().await.map(Some)
        })
        .await?;
        answer.with_context(|| {
            format!(
                "{what}: it has ended; its log:\n{}",
                crate::process::tail(&self.log)
            )
        })
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
