//! Whom Grapevine is held against.

pub(super) mod memcached;
pub(super) mod redis;
pub(super) mod redis_disk;

use std::fmt;

use serde::Serialize;

use crate::process::find_program;

/// A peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// An empty call to a tonic server in a process of its own.
    Tonic,
    /// Redis.
    Redis,
    /// memcached.
    Memcached,
    /// As many processes that send back what they are sent over TCP.
    Tcp,
    /// As many agents of Serf, and its user events.
    Serf,
    /// As many processes with chitchat alone, at an interval of 100 ms.
    Chitchat,
    /// The same workers and the same cache with times to live only, and no sidecar.
    Timeouts,
    /// The time that a packet takes to the farthest region, and nothing else.
    Delay,
    /// A hash map of the standard library.
    HashMap,
}

impl Peer {
    /// The name on the command line, and in figures.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tonic => "tonic",
            Self::Redis => "redis",
            Self::Memcached => "memcached",
            Self::Tcp => "tcp",
            Self::Serf => "serf",
            Self::Chitchat => "chitchat",
            Self::Timeouts => "timeouts",
            Self::Delay => "delay",
            Self::HashMap => "hash-map",
        }
    }

    /// How its program tells its version. The others are in this one.
    fn tells_version(self) -> Option<[&'static str; 2]> {
        match self {
            Self::Redis => Some(["redis-server", "--version"]),
            Self::Memcached => Some(["memcached", "--version"]),
            Self::Serf => Some(["serf", "version"]),
            _ => None,
        }
    }

    /// What its program says of its version: the first line.
    pub(in crate::bench) async fn version(self) -> Option<String> {
        let [program, ask] = self.tells_version()?;
        let mut command = tokio::process::Command::new(find_program(program)?);
        let told = command.arg(ask).kill_on_drop(true).output().await.ok()?;
        let told = String::from_utf8_lossy(&told.stdout);
        Some(format!("{self}: {}", told.lines().next()?))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
