//! Whom Grapevine is held against.

pub(super) mod memcached;
pub(super) mod redis;
pub(super) mod redis_disk;

use std::fmt;

use serde::Serialize;

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
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
