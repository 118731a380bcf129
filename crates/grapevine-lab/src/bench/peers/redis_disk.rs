//! Redis as a registry of addresses by class: a set for each class, kept on disk by an append-only file that is synced every second.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use redis::{Connection, ConnectionLike, Pipeline};

use crate::bench::registrations::Pair;
use crate::bench::usage;
use crate::caches::CacheServerError;
use crate::process::{Process, ProcessError, find_program};

const START_TIMEOUT: Duration = Duration::from_mins(5);
const POLL_EVERY: Duration = Duration::from_millis(5);
const NAME: &str = "redis-server";

/// A Redis server with a disk.
pub(in crate::bench) struct RedisOnDisk {
    program: PathBuf,
    arguments: Vec<String>,
    dir: PathBuf,
    socket: PathBuf,
    /// Nothing while it is killed.
    process: Option<Process>,
}

impl RedisOnDisk {
    /// Starts it in a directory of its own, and waits until it has loaded what is there. With `port` it listens there for
    /// replicas, with `master` it is one of the server at that port.
    pub(in crate::bench) async fn start(
        dir: &Path,
        port: u16,
        master: Option<u16>,
    ) -> Result<Self, CacheServerError> {
        let program = find_program(NAME).ok_or(CacheServerError::NotInstalled(NAME))?;
        std::fs::create_dir_all(dir).map_err(|source| CacheServerError::Directory {
            path: dir.to_owned(),
            source,
        })?;
        let socket = dir.join("redis.sock");
        let mut options = vec![
            ("--bind", "127.0.0.1".to_owned()),
            ("--port", port.to_string()),
            ("--unixsocket", socket.display().to_string()),
            ("--dir", dir.display().to_string()),
            ("--save", String::new()),
            ("--appendonly", "yes".to_owned()),
            ("--appendfsync", "everysec".to_owned()),
            // It would wait for five seconds whether more replicas come.
            ("--repl-diskless-sync-delay", "0".to_owned()),
        ];
        if let Some(master) = master {
            options.push(("--replicaof", format!("127.0.0.1 {master}")));
        }
        let arguments = options.into_iter();
        let arguments = arguments.flat_map(|(name, value)| [name.to_owned(), value]);
        let mut server = Self {
            program,
            arguments: arguments.collect(),
            dir: dir.to_owned(),
            socket,
            process: None,
        };
        server.restart().await?;
        Ok(server)
    }

    /// How it was started.
    pub(in crate::bench) fn command(&self) -> String {
        let process = self.process.as_ref().map(Process::command);
        process.unwrap_or_default().to_owned()
    }

    /// Where it is connected to.
    pub(in crate::bench) fn url(&self) -> String {
        format!("redis+unix://{}", self.socket.display())
    }

    /// Its process.
    pub(in crate::bench) fn process(&self) -> anyhow::Result<u32> {
        let process = self.process.as_ref().and_then(Process::id);
        process.context("redis: it does not run")
    }

    /// The room of its files.
    pub(in crate::bench) fn disk(&self) -> anyhow::Result<u64> {
        usage::disk(&self.dir)
    }

    /// Waits until what it answered is in its file: while a sync goes on it puts that off, for up to two seconds.
    pub(in crate::bench) async fn written(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let url = self.url();
            let asked = tokio::task::spawn_blocking(move || {
                let info = redis::cmd("INFO")
                    .arg("persistence")
                    .query(&mut connect(&url)?)?;
                anyhow::Ok::<String>(info)
            });
            let told = asked.await??;
            if told
                .lines()
                .any(|line| line.trim() == "aof_buffer_length:0")
            {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < START_TIMEOUT,
                "redis: its file falls behind"
            );
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// Kills it as `kill -9` does.
    pub(in crate::bench) async fn kill(&mut self) -> Result<(), ProcessError> {
        match self.process.take() {
            Some(process) => process.kill().await,
            None => Ok(()),
        }
    }

    /// Starts it on its directory, and waits until it has loaded what is there.
    pub(in crate::bench) async fn restart(&mut self) -> Result<(), ProcessError> {
        let log = self.dir.with_extension("log");
        let mut process = Process::start(NAME, &self.program, &self.arguments, &log)?;
        let url = self.url();
        let begun = Instant::now();
        loop {
            let url = url.clone();
            let asked = tokio::task::spawn_blocking(move || ping(&url)).await;
            let state = match asked {
                Ok(Ok(())) => break,
                Ok(Err(error)) => format!("{error:#}"),
                Err(error) => error.to_string(),
            };
            let ended = process.wait_end(POLL_EVERY).await;
            if ended || begun.elapsed() > START_TIMEOUT {
                return Err(ProcessError::NotReady {
                    name: NAME.to_owned(),
                    waited: begun.elapsed(),
                    state,
                    tail: process.tail(),
                });
            }
        }
        self.process = Some(process);
        Ok(())
    }
}

/// A connection that blocks.
pub(in crate::bench) fn connect(url: &str) -> anyhow::Result<Connection> {
    let client = redis::Client::open(url).context("redis")?;
    client.get_connection().context("redis")
}

/// A server that loads its file answers everything with an error.
fn ping(url: &str) -> anyhow::Result<()> {
    let answer: String = redis::cmd("PING").query(&mut connect(url)?)?;
    ensure!(answer == "PONG", "redis: {answer}");
    Ok(())
}

/// A pipeline of one SADD for each registration, as it goes over the socket.
pub(in crate::bench) fn packed(pairs: &[Pair]) -> Vec<u8> {
    let mut pipeline = Pipeline::with_capacity(pairs.len());
    for (class, address) in pairs {
        pipeline.sadd(class, address);
    }
    pipeline.get_packed_pipeline()
}

/// Sends a pipeline of so many, each of which must be new.
pub(in crate::bench) fn add(
    connection: &mut Connection,
    packed: &[u8],
    count: usize,
) -> anyhow::Result<()> {
    let answers = connection
        .req_packed_commands(packed, 0, count)
        .context("redis: SADD")?;
    let new = answers
        .iter()
        .filter(|&answer| *answer == redis::Value::Int(1));
    let new = new.count();
    ensure!(
        new == count,
        "redis: {new} of {count} registrations were new"
    );
    Ok(())
}

/// The addresses of a class, sorted.
pub(in crate::bench) fn members(
    connection: &mut Connection,
    class: &str,
) -> anyhow::Result<Vec<String>> {
    let members = redis::cmd("SMEMBERS").arg(class).query(connection);
    members.context("redis: SMEMBERS")
}

/// Waits until so many replicas have acknowledged all that this connection wrote.
pub(in crate::bench) fn wait_for_replicas(
    connection: &mut Connection,
    replicas: usize,
) -> anyhow::Result<()> {
    if replicas == 0 {
        return Ok(());
    }
    let within = START_TIMEOUT.as_secs() * 1_000;
    let told: usize = redis::cmd("WAIT")
        .arg(replicas)
        .arg(within)
        .query(connection)?;
    ensure!(
        told >= replicas,
        "redis: {told} of {replicas} replicas acknowledged"
    );
    Ok(())
}

/// Whether a replica's link is up and it has so many keys.
pub(in crate::bench) fn is_in_sync(url: &str, keys: u64) -> anyhow::Result<bool> {
    let mut connection = connect(url)?;
    let told: String = redis::cmd("INFO")
        .arg("replication")
        .query(&mut connection)?;
    if !told.contains("master_link_status:up") {
        return Ok(false);
    }
    // It refuses while it loads what came.
    let held: Option<u64> = redis::cmd("DBSIZE").query(&mut connection).ok();
    Ok(held == Some(keys))
}
