//! Redis, over one multiplexed connection.
//!
//! Values are plain strings: `SET key value PX ms`, `GET`, `MGET`, `UNLINK`. Redis cannot mark stale, so a soft purge
//! deletes. One connection is enough, because Redis itself serves one command at a time; the `redis` crate pipelines
//! what many tasks send, and drops the answer to a request whose sender went away.
//!
//! A supervisor task owns the connection's life, in the states of the memcached client: *connecting* (requests wait,
//! until their own deadline), *up*, and *down* (requests fail at once while it tries again, at growing intervals of at
//! most one second; it is up again when `PING` is answered). A request that times out takes the connection down. A
//! connection that was closed leads to *connecting* (after a delay, unless it had lived for a second), and the requests
//! that noticed are sent once more: all of them have the same effect twice as once.
//!
//! A value above the limit is refused when it has arrived, as it was not stored by this client: Redis tells a value's
//! length only in front of the value, and a command that reads a part of it cannot tell an absent one from an empty one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, RedisError};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::backoff::{Backoff, SOUND_LIFE};
use crate::key::check_size;
use crate::{Cache, CacheError, ConfigError, DeleteOutcome, Hit, check_key, check_ttl};

/// Keys per `MGET` and `UNLINK`, so that one of them does not hold up Redis for long.
const KEYS_PER_COMMAND: usize = 512;

/// `PX` counts in milliseconds.
const TTL_GRAIN: Duration = Duration::from_millis(1);

/// Requests waiting to be written; more wait for room, until their own deadline.
const QUEUE_REQUESTS_MAX: usize = 1_024;

/// Requests waiting for an answer; more wait, until their own deadline.
const IN_FLIGHT_MAX: usize = 4_096;

/// How to reach Redis.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisConfig {
    url: String,
    shown: String,
    /// The deadline of an operation (of each part of 512 keys of a bulk one). Raising it lets a slow server answer, and
    /// callers hang for longer when it is lost.
    pub timeout: Duration,
    /// The largest value, in bytes; at most 512 MiB. Larger ones are not sent; one that somebody else stored is read and
    /// refused.
    pub max_value_bytes: usize,
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("server", &self.shown)
            .field("timeout", &self.timeout)
            .field("max_value_bytes", &self.max_value_bytes)
            .finish_non_exhaustive()
    }
}

impl RedisConfig {
    const VALUE_BYTES_MAX: usize = 512 << 20;

    /// 250 ms and values of up to 16 MiB.
    ///
    /// `url` is `redis://[user][:password@]host[:port][/db]` or `redis+unix:///path[?db=..&user=..&pass=..]`.
    pub fn new(url: &str) -> Result<Self, ConfigError> {
        // The message names only what is wrong; the URL may hold a password.
        let client = Client::open(url).map_err(|error| ConfigError::BadServer {
            server: "of the redis URL".to_owned(),
            problem: error.to_string(),
        })?;
        let info = client.get_connection_info();
        let shown = match info.redis_settings().db() {
            0 => info.addr().to_string(),
            db => format!("{}/{db}", info.addr()),
        };
        Ok(Self {
            url: url.to_owned(),
            shown,
            timeout: Duration::from_millis(250),
            max_value_bytes: 16 << 20,
        })
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if self.timeout.is_zero() {
            return Err(ConfigError::BadValue {
                option: "timeout",
                value: format!("{:?}", self.timeout),
                expected: "a duration above zero",
            });
        }
        if self.max_value_bytes > Self::VALUE_BYTES_MAX {
            return Err(ConfigError::BadValue {
                option: "max_value",
                value: self.max_value_bytes.to_string(),
                expected: "at most 512MiB",
            });
        }
        Ok(())
    }
}

/// A client of one Redis server; clones share its connection.
#[derive(Debug, Clone)]
pub struct RedisCache {
    server: Arc<str>,
    timeout: Duration,
    max_value_bytes: usize,
    link: watch::Receiver<Link>,
    /// Holds one report; when full, the supervisor is about to hear the same from somebody else. The supervisor ends
    /// when every clone is dropped.
    reports: mpsc::Sender<Report>,
}

#[derive(Clone)]
enum Link {
    Connecting,
    Up {
        connection: MultiplexedConnection,
        number: u64,
    },
    Down(CacheError),
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "Connecting",
            Self::Up { .. } => "Up",
            Self::Down(_) => "Down",
        })
    }
}

/// That connection `number` is no good any more.
#[derive(Debug)]
struct Report {
    number: u64,
    error: CacheError,
    /// It was closed; otherwise it is stuck.
    closed: bool,
}

impl RedisCache {
    /// Starts connecting. Does not wait: operations do, until their deadline.
    pub fn new(config: &RedisConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let client = Client::open(config.url.as_str()).map_err(|error| ConfigError::BadServer {
            server: config.shown.clone(),
            problem: error.to_string(),
        })?;
        let (link, link_seen) = watch::channel(Link::Connecting);
        let (reports, reports_seen) = mpsc::channel(1);
        let supervisor = Supervisor {
            client,
            server: config.shown.clone(),
            timeout: config.timeout,
            link,
            reports: reports_seen,
        };
        tokio::spawn(supervisor.run());
        Ok(Self {
            server: config.shown.as_str().into(),
            timeout: config.timeout,
            max_value_bytes: config.max_value_bytes,
            link: link_seen,
            reports,
        })
    }

    async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, CacheError> {
        let deadline = Instant::now() + self.timeout;
        let mut tried = None;
        loop {
            let (mut connection, number) = self.connection(tried, deadline).await?;
            let error = match timeout_at(deadline, command.query_async(&mut connection)).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => error,
                Err(_) => return Err(self.report(number, self.timed_out(), false)),
            };
            if error.is_timeout() {
                return Err(self.report(number, self.timed_out(), false));
            }
            if !error.is_unrecoverable_error() && !error.is_connection_dropped() {
                return Err(self.refused(&error));
            }
            let error = self.report(number, unreachable(&self.server, &error), true);
            if tried.replace(number).is_some() {
                return Err(error);
            }
        }
    }

    /// The connection, once there is one other than `not`.
    async fn connection(
        &self,
        not: Option<u64>,
        deadline: Instant,
    ) -> Result<(MultiplexedConnection, u64), CacheError> {
        let mut link = self.link.clone();
        loop {
            match &*link.borrow_and_update() {
                Link::Up { connection, number } if Some(*number) != not => {
                    return Ok((connection.clone(), *number));
                }
                Link::Down(error) => return Err(error.clone()),
                Link::Up { .. } | Link::Connecting => {}
            }
            match timeout_at(deadline, link.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => {
                    return Err(CacheError::Unreachable {
                        server: self.server.to_string(),
                        cause: "the runtime that held its connection is shutting down".to_owned(),
                    });
                }
                Err(_) => return Err(self.timed_out()),
            }
        }
    }

    fn report(&self, number: u64, error: CacheError, closed: bool) -> CacheError {
        // A full queue holds a report on this connection already.
        drop(self.reports.try_send(Report {
            number,
            error: error.clone(),
            closed,
        }));
        error
    }

    fn timed_out(&self) -> CacheError {
        CacheError::TimedOut {
            server: self.server.to_string(),
            after: self.timeout,
        }
    }

    fn refused(&self, error: &RedisError) -> CacheError {
        let server = self.server.to_string();
        if error.code().is_some() {
            CacheError::Refused {
                server,
                answer: error.to_string(),
            }
        } else {
            CacheError::Protocol {
                server,
                what: error.to_string(),
            }
        }
    }
}

fn unreachable(server: &str, error: &RedisError) -> CacheError {
    CacheError::Unreachable {
        server: server.to_owned(),
        cause: error.to_string(),
    }
}

#[async_trait]
impl Cache for RedisCache {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn target(&self) -> &str {
        &self.server
    }

    fn ttl_grain(&self) -> Duration {
        TTL_GRAIN
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, CacheError> {
        check_key(key)?;
        let value: Option<Vec<u8>> = self.run(redis::cmd("GET").arg(key)).await?;
        if let Some(value) = &value {
            check_size(key, value.len(), self.max_value_bytes)?;
        }
        Ok(value.map(Bytes::from))
    }

    async fn get_even_stale(&self, key: &str) -> Result<Option<Hit>, CacheError> {
        let fresh = |value| Hit {
            value,
            stale: false,
            refill: false,
        };
        Ok(self.get(key).await?.map(fresh))
    }

    async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Bytes>>, CacheError> {
        keys.iter().try_for_each(|key| check_key(key))?;
        let mut found = Vec::with_capacity(keys.len());
        for part in keys.chunks(KEYS_PER_COMMAND) {
            let values: Vec<Option<Vec<u8>>> = self.run(redis::cmd("MGET").arg(part)).await?;
            if values.len() != part.len() {
                return Err(CacheError::Protocol {
                    server: self.server.to_string(),
                    what: format!("{} values to an MGET of {} keys", values.len(), part.len()),
                });
            }
            // One too large among many is absent, as it is in memcached.
            found.extend(values.into_iter().map(|value| {
                value
                    .filter(|value| value.len() <= self.max_value_bytes)
                    .map(Bytes::from)
            }));
        }
        Ok(found)
    }

    async fn set(&self, key: &str, value: Bytes, ttl: Duration) -> Result<(), CacheError> {
        check_key(key)?;
        let ttl = check_ttl(ttl)?;
        check_size(key, value.len(), self.max_value_bytes)?;
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut command = redis::cmd("SET");
        command.arg(key).arg(&value[..]).arg("PX").arg(ttl_ms);
        self.run(&command).await
    }

    async fn delete_many(&self, keys: &[String]) -> DeleteOutcome {
        let mut outcome = DeleteOutcome::default();
        let (valid, invalid): (Vec<_>, Vec<_>) =
            keys.iter().partition(|key| check_key(key).is_ok());
        outcome.absent = invalid.len();
        for part in valid.chunks(KEYS_PER_COMMAND) {
            match self.run::<usize>(redis::cmd("UNLINK").arg(part)).await {
                Ok(deleted) => {
                    outcome.deleted += deleted;
                    outcome.absent += part.len().saturating_sub(deleted);
                }
                Err(error) => {
                    outcome.failed.extend(part.iter().map(ToString::to_string));
                    outcome.cause.get_or_insert(error);
                }
            }
        }
        outcome
    }

    async fn mark_stale_many(&self, keys: &[String]) -> DeleteOutcome {
        self.delete_many(keys).await
    }
}

struct Supervisor {
    client: Client,
    server: String,
    timeout: Duration,
    link: watch::Sender<Link>,
    reports: mpsc::Receiver<Report>,
}

impl Supervisor {
    async fn run(mut self) {
        let mut backoff = Backoff::new();
        let mut number = 0;
        // Told once for each outage, however often it is tried meanwhile.
        let mut told = false;
        loop {
            let error = match self.connect().await {
                Ok(connection) => {
                    number += 1;
                    told = false;
                    tracing::debug!(server = %self.server, "connected");
                    let born = Instant::now();
                    self.link.send_replace(Link::Up { connection, number });
                    let Some(report) = self.report_on(number).await else {
                        return;
                    };
                    let life = born.elapsed();
                    if report.closed {
                        self.link.send_replace(Link::Connecting);
                        sleep(backoff.delay_after(life)).await;
                        continue;
                    }
                    if life >= SOUND_LIFE {
                        backoff = Backoff::new();
                    }
                    report.error
                }
                Err(error) => error,
            };
            if self.reports.is_closed() {
                // The server goes after the cache, as where both end: nobody asks any more whether it is there.
                return;
            }
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(server = %self.server, %error, "cache server is down, requests fail at once");
            }
            self.link.send_replace(Link::Down(self.refusal(error)));
            sleep(backoff.next_delay()).await;
            if self.reports.is_closed() {
                return;
            }
        }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, CacheError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE_REQUESTS_MAX)
            .set_concurrency_limit(IN_FLIGHT_MAX);
        // One deadline over all of it: resolving, connecting, authenticating and the answer to PING.
        let attempt = async {
            let mut connection = self
                .client
                .get_multiplexed_async_connection_with_config(&config)
                .await?;
            redis::cmd("PING")
                .query_async::<()>(&mut connection)
                .await?;
            Ok::<_, RedisError>(connection)
        };
        match timeout(self.timeout, attempt).await {
            Ok(result) => result.map_err(|error| unreachable(&self.server, &error)),
            Err(_) => Err(CacheError::TimedOut {
                server: self.server.clone(),
                after: self.timeout,
            }),
        }
    }

    /// Waits for a report on the connection in use; `None` when the cache was dropped.
    async fn report_on(&mut self, number: u64) -> Option<Report> {
        loop {
            let report = self.reports.recv().await?;
            if report.number == number {
                return Some(report);
            }
        }
    }

    fn refusal(&self, error: CacheError) -> CacheError {
        let cause = match error {
            CacheError::Unreachable { cause, .. } => cause,
            other => other.to_string(),
        };
        CacheError::Unreachable {
            server: self.server.clone(),
            cause: format!("{cause} (it is tried again soon, until then requests fail at once)"),
        }
    }
}
