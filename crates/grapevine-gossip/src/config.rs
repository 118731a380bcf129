//! What gossip is told at start, and the bounds on it. `GossipConfig::problems` names every wrong field at once, with
//! the value and the limit, so that an operator corrects a file in one round.

use std::net::SocketAddr;
use std::time::Duration;

/// Longest cluster name and longest node id, in bytes. Both stand in datagrams, node ids once per known node.
pub const NAME_BYTES_MAX: usize = 64;
/// Most seeds in a configuration. One DNS name may stand for many sidecars, so more is a mistake.
pub const SEEDS_MAX: usize = 64;
/// Longest seed, in bytes: a DNS name of 253 bytes, a colon and a port.
pub const SEED_BYTES_MAX: usize = 259;
/// Most peers a sidecar can be told to track.
pub const PEERS_MAX: usize = 1_024;
/// Shortest and longest gossip interval.
pub const INTERVAL_RANGE: (Duration, Duration) =
    (Duration::from_millis(10), Duration::from_mins(1));
/// Longest `suspect_after`.
pub const SUSPECT_AFTER_MAX: Duration = Duration::from_hours(1);
/// Longest `dead_grace`.
pub const DEAD_GRACE_MAX: Duration = Duration::from_hours(24);

/// What gossip is told at start.
#[derive(Clone, Debug)]
pub struct GossipConfig {
    /// The cluster's name: 1 to 64 letters, digits, `.`, `_` or `-`. Datagrams of other clusters are ignored.
    pub cluster: String,
    /// This sidecar's name, unique in the cluster and kept over restarts: as `cluster`. Long names cost digest
    /// bytes: with 64-byte names a datagram holds 488 nodes, with 14-byte names 853 over IPv6 and 1,024 over IPv4.
    pub node_id: String,
    /// This run of this sidecar: at least 64 random bits, new at every start, never zero.
    pub incarnation: u128,
    /// Where to listen for UDP. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The address peers are told. A port of 0 means the port that `listen` got. It must be an address that others can
    /// reach, so never an unspecified one such as `0.0.0.0`.
    pub advertise: SocketAddr,
    /// Where to find others: `host:port` or `ip:port`, at most 64. A DNS name may stand for many sidecars; every one of
    /// its addresses is tried. Naming oneself is harmless.
    pub seeds: Vec<String>,
    /// How often a sidecar gossips, 10 ms to 60 s. Raising it costs time to notice changes and deaths (a change reaches
    /// 50 sidecars after about two intervals when nobody nudges); lowering it costs CPU on every sidecar (50 nodes at
    /// 100 ms: about 1 % of a core each).
    pub interval: Duration,
    /// A peer that was silent for so long, and that chitchat's detector suspects too, is suspected. At least five
    /// intervals. Raising it costs time to notice a death; lowering it suspects healthy peers on a busy machine.
    pub suspect_after: Duration,
    /// How long after its death a run of a sidecar stays in chitchat's state; it travels in digests for half of that.
    /// At least twice `suspect_after`. Raising it costs digest bytes in every datagram for each restart, and after 16
    /// restarts of one node id within it the newest ones are not seen until older ones have lapsed; lowering it below
    /// the time that news needs to reach everybody lets the dead reappear as suspects. Peers are remembered beyond it.
    pub dead_grace: Duration,
    /// How many sidecars the cluster should have, this one included. While fewer are alive, seeds are resolved and
    /// tried every few seconds; else once or twice a minute. Raising it above the truth costs those look-ups for ever.
    pub expected_members: usize,
    /// How many nodes are tracked at most: runs of sidecars in datagrams, and names remembered. 1 to 1,024. A quarter is
    /// kept for nodes whose own datagrams arrive from where they say; beyond the rest others are found later. Raising it
    /// costs memory (some 2 KB each) and datagram bytes; a datagram's 65,507 bytes bound it whatever is set here.
    pub max_peers: usize,
}

impl GossipConfig {
    /// A configuration with the usual intervals and bounds, no seeds, and one expected member.
    pub fn new(
        cluster: impl Into<String>,
        node_id: impl Into<String>,
        incarnation: u128,
        listen: SocketAddr,
        advertise: SocketAddr,
    ) -> Self {
        Self {
            cluster: cluster.into(),
            node_id: node_id.into(),
            incarnation,
            listen,
            advertise,
            seeds: Vec::new(),
            interval: Duration::from_millis(500),
            suspect_after: Duration::from_secs(3),
            dead_grace: Duration::from_mins(2),
            expected_members: 1,
            max_peers: PEERS_MAX,
        }
    }

    /// Everything that is wrong with it; empty when it can be used.
    pub fn problems(&self) -> Vec<ConfigError> {
        let mut found = Vec::new();
        name_problem("gossip.cluster", &self.cluster, &mut found);
        name_problem("gossip.node_id", &self.node_id, &mut found);
        if self.incarnation == 0 {
            found.push(ConfigError::ZeroIncarnation);
        }
        if self.advertise.ip().is_unspecified() || self.advertise.ip().is_multicast() {
            found.push(ConfigError::Unreachable {
                value: self.advertise,
            });
        }
        // The socket is opened for one family; peers of the other could never be answered.
        if self.advertise.is_ipv4() != self.listen.is_ipv4() && self.listen.is_ipv4() {
            found.push(ConfigError::Family {
                advertise: self.advertise,
                listen: self.listen,
            });
        }
        self.seed_problems(&mut found);
        self.duration_problems(&mut found);
        count_problem("gossip.max_peers", self.max_peers, PEERS_MAX, &mut found);
        count_problem(
            "gossip.expected_members",
            self.expected_members,
            PEERS_MAX,
            &mut found,
        );
        found
    }

    fn seed_problems(&self, found: &mut Vec<ConfigError>) {
        if self.seeds.len() > SEEDS_MAX {
            found.push(ConfigError::TooManySeeds {
                value: self.seeds.len(),
                limit: SEEDS_MAX,
            });
        }
        for (index, seed) in self.seeds.iter().enumerate() {
            if !is_host_and_port(seed) {
                found.push(ConfigError::Seed {
                    index,
                    value: shortened(seed),
                    limit: SEED_BYTES_MAX,
                });
            }
        }
    }

    fn duration_problems(&self, found: &mut Vec<ConfigError>) {
        let checks = [
            (
                "gossip.interval",
                self.interval,
                INTERVAL_RANGE.0,
                INTERVAL_RANGE.1,
            ),
            (
                "gossip.suspect_after",
                self.suspect_after,
                self.interval.saturating_mul(5),
                SUSPECT_AFTER_MAX,
            ),
            (
                "gossip.dead_grace",
                self.dead_grace,
                self.suspect_after.saturating_mul(2),
                DEAD_GRACE_MAX,
            ),
        ];
        for (field, value, min, max) in checks {
            if value < min || value > max {
                found.push(ConfigError::Duration {
                    field,
                    value,
                    min,
                    max,
                });
            }
        }
    }
}

fn count_problem(field: &'static str, value: usize, max: usize, found: &mut Vec<ConfigError>) {
    if !(1..=max).contains(&value) {
        found.push(ConfigError::Count { field, value, max });
    }
}

fn name_problem(field: &'static str, value: &str, found: &mut Vec<ConfigError>) {
    if !is_name(value) {
        found.push(ConfigError::Name {
            field,
            value: shortened(value),
            limit: NAME_BYTES_MAX,
        });
    }
}

/// Whether `name` may name a cluster or a node: 1 to 64 letters, digits, `.`, `_` or `-`.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Whether `text` is `host:port` with a port above 0. The host is not resolved here.
pub(crate) fn is_host_and_port(text: &str) -> bool {
    text.len() <= SEED_BYTES_MAX
        && text.bytes().all(|byte| byte.is_ascii_graphic())
        && text.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
        })
}

/// Enough of a wrong value to recognise it in an error.
pub(crate) fn shortened(value: &str) -> String {
    value.chars().take(80).collect()
}

/// One wrong field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not a name.
    #[error("{field}: {value:?} is not 1 to {limit} letters, digits, '.', '_' or '-'")]
    Name {
        /// Its path in the configuration.
        field: &'static str,
        /// What it says, shortened.
        value: String,
        /// Bytes at most.
        limit: usize,
    },
    /// No incarnation.
    #[error(
        "gossip.incarnation: 0 is not an incarnation; it must be random and new at every start"
    )]
    ZeroIncarnation,
    /// An address that nobody can send to.
    #[error("gossip.advertise: peers cannot reach {value}; name an address of this host")]
    Unreachable {
        /// What it says.
        value: SocketAddr,
    },
    /// IPv6 peers cannot be spoken to from an IPv4 socket.
    #[error("gossip.advertise: {advertise} is IPv6, but gossip.listen is {listen}, which is IPv4")]
    Family {
        /// What is advertised.
        advertise: SocketAddr,
        /// What is listened on.
        listen: SocketAddr,
    },
    /// Too many seeds.
    #[error(
        "gossip.seeds: {value} seeds, at most {limit} allowed; one DNS name may stand for many"
    )]
    TooManySeeds {
        /// How many there are.
        value: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A seed that names no host or no port.
    #[error(
        "gossip.seeds[{index}]: {value:?} is not host:port of at most {limit} bytes with a port of 1 to 65535"
    )]
    Seed {
        /// Its position.
        index: usize,
        /// What it says, shortened.
        value: String,
        /// Bytes at most.
        limit: usize,
    },
    /// The peer address in the facts names no host or no port.
    #[error(
        "peer address: {value:?} is not host:port of at most {limit} bytes with a port of 1 to 65535"
    )]
    PeerAddress {
        /// What it says, shortened.
        value: String,
        /// Bytes at most.
        limit: usize,
    },
    /// A duration out of its range.
    #[error("{field}: {value:?} is not within {min:?} to {max:?}")]
    Duration {
        /// Its path in the configuration.
        field: &'static str,
        /// What it says.
        value: Duration,
        /// The shortest allowed.
        min: Duration,
        /// The longest allowed.
        max: Duration,
    },
    /// A count out of its range.
    #[error("{field}: {value} is not within 1 to {max}")]
    Count {
        /// Its path in the configuration.
        field: &'static str,
        /// What it says.
        value: usize,
        /// The largest allowed.
        max: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> GossipConfig {
        let addr = SocketAddr::from(([127, 0, 0, 1], 7101));
        GossipConfig::new("shop", "node-1", 7, addr, addr)
    }

    #[test]
    fn the_defaults_are_sound() {
        assert_eq!(sound().problems(), []);
    }

    #[test]
    fn every_wrong_field_is_named_at_once_with_value_and_limit() {
        let mut config = sound();
        config.cluster = String::new();
        config.node_id = "a b".into();
        config.incarnation = 0;
        config.advertise = SocketAddr::from(([0, 0, 0, 0], 1));
        config.seeds = vec![
            "nohost".into(),
            "h:0".into(),
            "fine:7000".into(),
            "[::1]:7000".into(),
        ];
        config.interval = Duration::from_millis(1);
        config.suspect_after = Duration::from_millis(2);
        config.dead_grace = Duration::from_millis(3);
        config.expected_members = 0;
        config.max_peers = PEERS_MAX + 1;
        let told: Vec<String> = config.problems().iter().map(ToString::to_string).collect();
        for field in [
            "gossip.cluster: \"\" is not 1 to 64",
            "gossip.node_id: \"a b\"",
            "gossip.incarnation: 0",
            "gossip.advertise: peers cannot reach 0.0.0.0:1",
            "gossip.seeds[0]: \"nohost\"",
            "gossip.seeds[1]: \"h:0\"",
            "gossip.interval: 1ms is not within 10ms to 60s",
            "gossip.suspect_after: 2ms is not within 5ms",
            "gossip.dead_grace: 3ms is not within 4ms",
            "gossip.expected_members: 0 is not within 1 to 1024",
            "gossip.max_peers: 1025 is not within 1 to 1024",
        ] {
            assert!(
                told.iter().any(|line| line.starts_with(field)),
                "{field} missing from {told:#?}"
            );
        }
        assert_eq!(told.len(), 11, "{told:#?}");
    }

    #[test]
    fn too_many_seeds_and_a_family_mix_are_refused() {
        let mut config = sound();
        config.seeds = vec!["h:1".into(); SEEDS_MAX + 1];
        config.advertise = "[2001:db8::1]:7".parse().unwrap();
        let told: Vec<String> = config.problems().iter().map(ToString::to_string).collect();
        assert!(told[0].contains("IPv6"), "{told:?}");
        assert!(told[1].contains("65 seeds, at most 64"), "{told:?}");
    }
}
