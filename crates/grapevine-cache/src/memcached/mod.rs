//! The memcached client: several servers, few shared connections to each, everything pipelined.
//!
//! It speaks the meta text protocol itself (`wire`), over multiplexed connections (`connection`); why no client
//! library is used is told in `docs/decisions/0101-memcached-wire.md`. It needs memcached 1.6 or newer.
//!
//! Which servers hold a key is the [`Placement`]. Many keys go as requests of up to 64 reads or 256 deletes, spread over
//! the connections, a bounded number of them at a time; each has its own deadline, so that a bulk delete of a hundred
//! thousand keys does not fail for being large, and single reads slip in between.

mod address;
mod bulk;
mod connection;
mod ketama;
mod server;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub use self::address::ServerAddress;
use self::bulk::LINE_OVERHEAD_BYTES;
use self::ketama::Ring;
use self::server::Server;
use self::wire::{Kind, Reply};
use crate::key::check_size;
use crate::{Cache, CacheError, ConfigError, DeleteOutcome, Hit, check_key, check_ttl};

const READS_PER_REQUEST: usize = 64;
const DELETES_PER_REQUEST: usize = 256;

const SERVERS_MAX: usize = 256;
const CONNECTIONS_PER_SERVER_MAX: usize = 64;

/// The most that memcached's `-I` allows.
const VALUE_BYTES_MAX: usize = 1 << 30;

/// Which servers hold a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// The one server there is.
    Single,
    /// Every server holds every key: set and delete go to all, get to the first in the configured order that answers.
    All,
    /// One server per key, by libketama's ring with MD5 and equal weights: clients agree that use libmemcached's
    /// `KETAMA_WEIGHTED` (pylibmc's `ketama_weighted`, PHP's `OPT_LIBKETAMA_COMPATIBLE`) and name the servers alike.
    Ketama,
}

/// How to reach memcached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemcachedConfig {
    /// The servers, 1 to 256. Their order matters to [`Placement::All`].
    pub servers: Vec<ServerAddress>,
    /// Which of them hold a key.
    pub placement: Placement,
    /// Connections to each server, 1 to 64. The first carries single requests, the others bulk ones and large values.
    /// Raising it lets more of memcached's threads work on bulk requests, and costs sockets.
    pub connections_per_server: usize,
    /// The deadline of an operation on one server (of each part of 64 reads or 256 deletes of a bulk one); a read from
    /// replicas may wait for each in turn, until it is known to be down. Raising it lets slow servers answer, and callers
    /// hang for longer when one is lost.
    pub timeout: Duration,
    /// The largest value, in bytes. Larger ones are neither sent nor accepted. memcached takes 1 MiB less some overhead
    /// unless started with `-I`.
    pub max_value_bytes: usize,
}

impl MemcachedConfig {
    /// One connection pool of two connections, 250 ms, values of up to 1 MiB less 512 bytes. The placement is `Single`
    /// for one server and `All` for several.
    pub fn new(servers: Vec<ServerAddress>) -> Self {
        Self {
            placement: if servers.len() > 1 {
                Placement::All
            } else {
                Placement::Single
            },
            servers,
            connections_per_server: 2,
            timeout: Duration::from_millis(250),
            max_value_bytes: (1 << 20) - 512,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let servers = self.servers.len();
        let out_of_range = |option, value: String, expected| ConfigError::BadValue {
            option,
            value,
            expected,
        };
        if servers == 0 {
            return Err(ConfigError::NoServers);
        }
        if servers > SERVERS_MAX {
            return Err(out_of_range(
                "servers",
                servers.to_string(),
                "at most 256 servers",
            ));
        }
        if self.placement == Placement::Single && servers > 1 {
            return Err(ConfigError::SingleOfMany { servers });
        }
        if !(1..=CONNECTIONS_PER_SERVER_MAX).contains(&self.connections_per_server) {
            return Err(out_of_range(
                "pool",
                self.connections_per_server.to_string(),
                "a number from 1 to 64",
            ));
        }
        for (number, server) in self.servers.iter().enumerate() {
            if self.servers[..number].contains(server) {
                return Err(ConfigError::BadServer {
                    server: server.to_string(),
                    problem: "it is named twice".to_owned(),
                });
            }
        }
        if !(1..=VALUE_BYTES_MAX).contains(&self.max_value_bytes) {
            return Err(out_of_range(
                "max_value",
                self.max_value_bytes.to_string(),
                "from 1 byte to 1GiB",
            ));
        }
        if self.timeout.is_zero() {
            return Err(out_of_range(
                "timeout",
                format!("{:?}", self.timeout),
                "a duration above zero",
            ));
        }
        Ok(())
    }
}

/// A client of one or several memcached servers; clones share its connections.
#[derive(Debug, Clone)]
pub struct MemcachedCache {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    servers: Vec<Server>,
    placement: Placement,
    /// Empty unless the placement is Ketama.
    ring: Option<Ring>,
    max_value_bytes: usize,
    target: String,
}

/// What became of one key on one server, or on all of them: the worst counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Absent,
    Deleted,
    Failed,
}

impl MemcachedCache {
    /// Starts connecting. Does not wait: operations do, until their deadline.
    pub fn new(config: &MemcachedConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let servers: Vec<_> = config
            .servers
            .iter()
            .map(|address| Server::spawn(address, config))
            .collect();
        let names: Vec<_> = servers.iter().map(Server::name).collect();
        let labels: Vec<_> = config
            .servers
            .iter()
            .map(ServerAddress::ketama_label)
            .collect();
        Ok(Self {
            shared: Arc::new(Shared {
                target: names.join(","),
                ring: (config.placement == Placement::Ketama)
                    .then(|| Ring::new(labels.iter().map(String::as_str))),
                servers,
                placement: config.placement,
                max_value_bytes: config.max_value_bytes,
            }),
        })
    }
}

#[async_trait]
impl Cache for MemcachedCache {
    fn name(&self) -> &'static str {
        "memcached"
    }

    fn target(&self) -> &str {
        &self.shared.target
    }

    fn ttl_grain(&self) -> Duration {
        wire::TTL_GRAIN
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, CacheError> {
        Ok(self
            .shared
            .get(key)
            .await?
            .filter(|hit| !hit.stale)
            .map(|hit| hit.value))
    }

    async fn get_even_stale(&self, key: &str) -> Result<Option<Hit>, CacheError> {
        self.shared.get(key).await
    }

    async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Bytes>>, CacheError> {
        keys.iter().try_for_each(|key| check_key(key))?;
        self.shared.get_many(keys).await
    }

    async fn set(&self, key: &str, value: Bytes, ttl: Duration) -> Result<(), CacheError> {
        check_key(key)?;
        let ttl = check_ttl(ttl)?;
        check_size(key, value.len(), self.shared.max_value_bytes)?;
        self.shared.set(key, value, ttl).await
    }

    async fn delete_many(&self, keys: &[String]) -> DeleteOutcome {
        self.shared.change_many(keys, wire::encode_delete).await
    }

    async fn mark_stale_many(&self, keys: &[String]) -> DeleteOutcome {
        self.shared.change_many(keys, wire::encode_mark_stale).await
    }
}

impl Shared {
    /// The servers that hold `key`, in the order to ask them.
    fn servers_of(&self, key: &str) -> &[Server] {
        match &self.ring {
            None => &self.servers,
            Some(ring) => std::slice::from_ref(&self.servers[ring.server_of(key)]),
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Hit>, CacheError> {
        check_key(key)?;
        let mut first_error = None;
        for server in self.servers_of(key) {
            let mut head = Vec::with_capacity(key.len() + LINE_OVERHEAD_BYTES);
            wire::encode_get(&mut head, key);
            let reply = match server.send(Kind::Get, head, None).await {
                Ok(awaited) => server.answer(awaited).await,
                Err(error) => Err(error),
            };
            let error = match reply {
                Ok(Reply::Value {
                    value,
                    stale,
                    refill,
                }) => {
                    return Ok(Some(Hit {
                        value,
                        stale,
                        refill,
                    }));
                }
                Ok(Reply::ValueTooLarge { size_bytes }) => {
                    return check_size(key, size_bytes, self.max_value_bytes).map(|()| None);
                }
                Ok(Reply::Refused(answer)) => server.refused(answer),
                Ok(_) => return Ok(None),
                Err(error) => error,
            };
            first_error.get_or_insert(error);
        }
        first_error.map_or(Ok(None), Err)
    }

    async fn set(&self, key: &str, value: Bytes, ttl: Duration) -> Result<(), CacheError> {
        let servers = self.servers_of(key);
        let (mut first_error, mut stored) = (None, false);
        let mut under_way = Vec::with_capacity(servers.len());
        for server in servers {
            let head = wire::encode_set_line(key, value.len(), ttl);
            match server.send(Kind::Set, head, Some(value.clone())).await {
                Ok(awaited) => under_way.push((server, awaited)),
                Err(error) => drop(first_error.get_or_insert(error)),
            }
        }
        for (server, awaited) in under_way {
            let error = match server.answer(awaited).await {
                Ok(Reply::Done) => {
                    stored = true;
                    continue;
                }
                Ok(Reply::Refused(answer)) => server.refused(answer),
                Ok(reply) => server.refused(reply.name().to_owned()),
                Err(error) => error,
            };
            first_error.get_or_insert(error);
        }
        match first_error {
            Some(error) if !stored => Err(error),
            _ => Ok(()),
        }
    }

    async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Bytes>>, CacheError> {
        let mut found = vec![None; keys.len()];
        let mut left: Vec<_> = (0..keys.len()).collect();
        let (mut first_error, mut answered) = (None, false);
        // One round, but for `All`: there, what one server could not answer the next one is asked.
        let rounds = match self.placement {
            Placement::All => self.servers.len(),
            Placement::Single | Placement::Ketama => 1,
        };
        for round in 0..rounds {
            let places = std::mem::take(&mut left);
            let parts = match &self.ring {
                Some(ring) => self.parts_by_server(
                    places,
                    |place| ring.server_of(&keys[place]),
                    READS_PER_REQUEST,
                ),
                None => self.parts_by_server(places, |_| round, READS_PER_REQUEST),
            };
            for (part, result) in self
                .ask_many(keys, parts, Kind::Get, wire::encode_get)
                .await
            {
                match result {
                    Ok(replies) => {
                        answered = true;
                        for (place, reply) in part.places.into_iter().zip(replies) {
                            if let Reply::Value {
                                value,
                                stale: false,
                                ..
                            } = reply
                            {
                                found[place] = Some(value);
                            }
                        }
                    }
                    Err(error) => {
                        first_error.get_or_insert(error);
                        left.extend(part.places);
                    }
                }
            }
            if left.is_empty() {
                break;
            }
        }
        match first_error {
            Some(error) if !answered => Err(error),
            _ => Ok(found),
        }
    }

    async fn change_many(&self, keys: &[String], encode: fn(&mut Vec<u8>, &str)) -> DeleteOutcome {
        let valid: Vec<_> = (0..keys.len())
            .filter(|place| check_key(&keys[*place]).is_ok())
            .collect();
        let parts = match &self.ring {
            Some(ring) => self.parts_by_server(
                valid,
                |place| ring.server_of(&keys[place]),
                DELETES_PER_REQUEST,
            ),
            None => (0..self.servers.len())
                .flat_map(|server| {
                    self.parts_by_server(valid.clone(), |_| server, DELETES_PER_REQUEST)
                })
                .collect(),
        };
        let mut fates = vec![Fate::Absent; keys.len()];
        let mut outcome = DeleteOutcome::default();
        for (part, result) in self.ask_many(keys, parts, Kind::Delete, encode).await {
            let mut replies = match result {
                Ok(replies) => replies.into_iter(),
                Err(error) => {
                    outcome.cause.get_or_insert(error);
                    Vec::new().into_iter()
                }
            };
            for place in part.places {
                let fate = match replies.next() {
                    Some(Reply::Done) => Fate::Deleted,
                    Some(Reply::NotFound) => Fate::Absent,
                    Some(Reply::Refused(answer)) => {
                        outcome
                            .cause
                            .get_or_insert_with(|| self.servers[part.server].refused(answer));
                        Fate::Failed
                    }
                    Some(_) | None => Fate::Failed,
                };
                fates[place] = fates[place].max(fate);
            }
        }
        for (fate, key) in fates.into_iter().zip(keys) {
            match fate {
                Fate::Absent => outcome.absent += 1,
                Fate::Deleted => outcome.deleted += 1,
                Fate::Failed => outcome.failed.push(key.clone()),
            }
        }
        outcome
    }
}
