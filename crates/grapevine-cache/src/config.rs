//! Caches by URL, so that a configuration file, an environment variable and a flag say it in one line.
//!
//! An URL is `scheme://servers?option=value&option=value`. Options are those of the scheme, each at most once; whatever
//! is not understood is refused with the part that is wrong and what is expected, never skipped.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::{
    Cache, MemcachedCache, MemcachedConfig, MemoryCache, MemoryConfig, Placement, RedisCache,
    RedisConfig,
};

/// Which cache, and how to reach it.
///
/// | URL | options |
/// | --- | --- |
/// | `memcached://host:port,host:port,unix:/path` | `placement=all\|ketama\|single`, `pool=2`, `timeout=250ms`, `max_value=1MiB` |
/// | `redis://[user][:password@]host[:port][/db]`, `redis+unix:///path?db=..` | `timeout=250ms`, `max_value=16MiB`, and those of the `redis` crate |
/// | `memory://` | `max_bytes=64MiB`, `max_entries=1000000` |
///
/// Several memcached servers without a placement are replicas (`all`). Sizes are numbers of bytes or carry `KiB`, `MiB`
/// or `GiB`; durations carry their unit (`100ms`, `2s`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheConfig {
    /// memcached.
    Memcached(MemcachedConfig),
    /// Redis.
    Redis(RedisConfig),
    /// In this process.
    Memory(MemoryConfig),
}

/// What is wrong with a cache's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The URL does not begin with a scheme that is known.
    #[error(
        "a cache URL begins with memcached://, redis://, redis+unix:// or memory://, not with {scheme:?}"
    )]
    UnknownScheme {
        /// What it begins with, up to `://`.
        scheme: String,
    },
    /// No server is named.
    #[error("no cache server is named; expected memcached://host:port")]
    NoServers,
    /// A server's address is malformed.
    #[error("bad cache server {server:?}: {problem}")]
    BadServer {
        /// The address.
        server: String,
        /// What is wrong with it.
        problem: String,
    },
    /// `placement=single` with several servers.
    #[error("placement=single takes one server, {servers} are named; use all or ketama")]
    SingleOfMany {
        /// How many are named.
        servers: usize,
    },
    /// An option that this kind of cache does not have.
    #[error("unknown option {option:?}; there are {known}")]
    UnknownOption {
        /// The option.
        option: String,
        /// Those there are.
        known: &'static str,
    },
    /// An option given twice.
    #[error("option {option:?} is given twice")]
    DuplicateOption {
        /// The option.
        option: String,
    },
    /// An option's value is malformed or out of range.
    #[error("bad value {value:?} of option {option}: expected {expected}")]
    BadValue {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
}

impl CacheConfig {
    /// Opens the cache. Must be called inside a Tokio runtime; does not wait for servers.
    pub fn open(&self) -> Result<Arc<dyn Cache>, ConfigError> {
        Ok(match self {
            Self::Memcached(config) => Arc::new(MemcachedCache::new(config)?),
            Self::Redis(config) => Arc::new(RedisCache::new(config)?),
            Self::Memory(config) => Arc::new(MemoryCache::new(*config)),
        })
    }
}

impl FromStr for CacheConfig {
    type Err = ConfigError;

    fn from_str(url: &str) -> Result<Self, ConfigError> {
        let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let options = parse_options(query)?;
        match scheme {
            "memcached" => memcached(place, &options).map(Self::Memcached),
            "redis" | "redis+unix" => {
                redis(&format!("{scheme}://{place}"), &options).map(Self::Redis)
            }
            "memory" => memory(place, &options).map(Self::Memory),
            _ => Err(ConfigError::UnknownScheme {
                // Cut: it may be anything at all, a password included.
                scheme: scheme.chars().take(20).collect(),
            }),
        }
    }
}

type Options<'a> = Vec<(&'a str, &'a str)>;

fn parse_options(query: &str) -> Result<Options<'_>, ConfigError> {
    let mut options = Options::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (option, value) = part.split_once('=').unwrap_or((part, ""));
        if options.iter().any(|(other, _)| *other == option) {
            return Err(ConfigError::DuplicateOption {
                option: option.to_owned(),
            });
        }
        options.push((option, value));
    }
    Ok(options)
}

fn memcached(place: &str, options: &Options<'_>) -> Result<MemcachedConfig, ConfigError> {
    let mut servers = Vec::new();
    for server in place.split(',').filter(|server| !server.is_empty()) {
        servers.push(
            server
                .parse()
                .map_err(|problem: &str| ConfigError::BadServer {
                    server: server.to_owned(),
                    problem: problem.to_owned(),
                })?,
        );
    }
    let mut config = MemcachedConfig::new(servers);
    for (option, value) in options {
        match *option {
            "placement" => config.placement = placement(value)?,
            "pool" => config.connections_per_server = number("pool", value)?,
            "timeout" => config.timeout = duration("timeout", value)?,
            "max_value" => config.max_value_bytes = size("max_value", value)?,
            _ => return Err(unknown(option, "placement, pool, timeout and max_value")),
        }
    }
    config.validate()?;
    Ok(config)
}

fn redis(place: &str, options: &Options<'_>) -> Result<RedisConfig, ConfigError> {
    const THEIRS: [&str; 4] = ["db", "user", "pass", "protocol"];
    let passed: Vec<_> = options
        .iter()
        .filter(|(option, _)| THEIRS.contains(option))
        .map(|(option, value)| format!("{option}={value}"))
        .collect();
    let url = if passed.is_empty() {
        place.to_owned()
    } else {
        format!("{place}?{}", passed.join("&"))
    };
    let mut config = RedisConfig::new(&url)?;
    for (option, value) in options {
        match *option {
            "timeout" => config.timeout = duration("timeout", value)?,
            "max_value" => config.max_value_bytes = size("max_value", value)?,
            option if THEIRS.contains(&option) => {}
            _ => {
                return Err(unknown(
                    option,
                    "timeout, max_value, db, user, pass and protocol",
                ));
            }
        }
    }
    config.validate()?;
    Ok(config)
}

fn memory(place: &str, options: &Options<'_>) -> Result<MemoryConfig, ConfigError> {
    if !place.is_empty() {
        return Err(ConfigError::BadServer {
            server: place.to_owned(),
            problem: "memory:// is in this process and names no server".to_owned(),
        });
    }
    let mut config = MemoryConfig::default();
    for (option, value) in options {
        match *option {
            "max_bytes" => config.max_bytes = size("max_bytes", value)?,
            "max_entries" => config.max_entries = number("max_entries", value)?,
            _ => return Err(unknown(option, "max_bytes and max_entries")),
        }
    }
    Ok(config)
}

fn unknown(option: &str, known: &'static str) -> ConfigError {
    ConfigError::UnknownOption {
        option: option.to_owned(),
        known,
    }
}

fn placement(value: &str) -> Result<Placement, ConfigError> {
    match value {
        "all" => Ok(Placement::All),
        "ketama" => Ok(Placement::Ketama),
        "single" => Ok(Placement::Single),
        _ => Err(bad("placement", value, "all, ketama or single")),
    }
}

fn duration(option: &'static str, value: &str) -> Result<Duration, ConfigError> {
    const EXPECTED: &str = "a duration from 1ms to 1h, as in 100ms or 2s";
    let duration = humantime::parse_duration(value).map_err(|_| bad(option, value, EXPECTED))?;
    if !(Duration::from_millis(1)..=Duration::from_hours(1)).contains(&duration) {
        return Err(bad(option, value, EXPECTED));
    }
    Ok(duration)
}

fn number(option: &'static str, value: &str) -> Result<usize, ConfigError> {
    match value.parse() {
        Ok(0) | Err(_) => Err(bad(option, value, "a whole number above zero")),
        Ok(number) => Ok(number),
    }
}

fn size(option: &'static str, value: &str) -> Result<usize, ConfigError> {
    let (digits, shift) = [("KiB", 10), ("MiB", 20), ("GiB", 30)]
        .into_iter()
        .find_map(|(unit, shift)| Some((value.strip_suffix(unit)?, shift)))
        .unwrap_or((value, 0));
    digits
        .trim_end()
        .parse::<usize>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| {
            bad(
                option,
                value,
                "a number of bytes above zero, or with a unit as in 64MiB",
            )
        })
}

fn bad(option: &'static str, value: &str, expected: &'static str) -> ConfigError {
    ConfigError::BadValue {
        option,
        value: value.to_owned(),
        expected,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn parse(url: &str) -> Result<CacheConfig, ConfigError> {
        url.parse()
    }

    #[test]
    fn a_full_memcached_url_sets_everything() {
        let url = "memcached://one:11212,unix:/run/m.sock,[::1]?placement=ketama&pool=4&timeout=100ms&max_value=2MiB";
        let Ok(CacheConfig::Memcached(config)) = parse(url) else {
            panic!("{:?}", parse(url));
        };
        let servers: Vec<_> = config.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["one:11212", "unix:/run/m.sock", "[::1]:11211"]);
        assert_eq!(config.placement, Placement::Ketama);
        assert_eq!(
            (config.connections_per_server, config.max_value_bytes),
            (4, 2 << 20)
        );
        assert_eq!(config.timeout, Duration::from_millis(100));
    }

    #[test]
    fn defaults_are_single_for_one_server_and_all_for_several() {
        for (url, placement) in [
            ("memcached://a", Placement::Single),
            ("memcached://a,b", Placement::All),
        ] {
            assert!(
                matches!(parse(url), Ok(CacheConfig::Memcached(config)) if config.placement == placement)
            );
        }
        assert_eq!(
            parse("memory://"),
            Ok(CacheConfig::Memory(MemoryConfig::default()))
        );
        let small = MemoryConfig {
            max_bytes: 5 << 20,
            max_entries: 7,
        };
        assert_eq!(
            parse("memory://?max_bytes=5MiB&max_entries=7"),
            Ok(CacheConfig::Memory(small))
        );
    }

    #[test]
    fn redis_urls_keep_their_own_options_and_hide_the_password() {
        let Ok(CacheConfig::Redis(config)) =
            parse("redis://u:secret@r1:7000/2?timeout=2s&protocol=resp3")
        else {
            panic!("a good URL");
        };
        assert_eq!(config.timeout, Duration::from_secs(2));
        let shown = format!("{config:?}");
        assert!(
            shown.contains("r1:7000/2") && !shown.contains("secret"),
            "{shown}"
        );
        assert!(matches!(
            parse("redis+unix:///run/r.sock?db=1&max_value=1KiB"),
            Ok(CacheConfig::Redis(_))
        ));
        let error = parse("redis://u:secret@r1:notaport").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (url, words) in [
            ("", "not with \"\""),
            ("http://a", "not with \"http\""),
            ("memcached://", "no cache server"),
            (
                "memcached://a:b",
                "bad cache server \"a:b\": the port is not a number",
            ),
            ("memcached://a,b?placement=single", "2 are named"),
            ("memcached://a,b,a:11211", "\"a:11211\": it is named twice"),
            ("memcached://a?max_value=2GiB", "to 1GiB"),
            (
                "memcached://a?placement=best",
                "\"best\" of option placement: expected all, ketama or single",
            ),
            ("memcached://a?pool=0", "\"0\" of option pool"),
            ("memcached://a?pool=65", "from 1 to 64"),
            (
                "memcached://a?timeout=100",
                "\"100\" of option timeout: expected a duration",
            ),
            ("memcached://a?timeout=0s", "expected a duration from 1ms"),
            ("memcached://a?max_value=-1", "\"-1\" of option max_value"),
            ("memcached://a?max_value=99999999999GiB", "option max_value"),
            (
                "memcached://a?colour=red",
                "unknown option \"colour\"; there are placement",
            ),
            ("memcached://a?pool=1&pool=2", "\"pool\" is given twice"),
            ("memory://here", "names no server"),
            ("memory://?max_entries=many", "option max_entries"),
            ("redis://", "redis URL"),
            ("redis://a?max_value=1GiB", "at most 512MiB"),
            ("redis://a?colour=red", "unknown option"),
        ] {
            let error = parse(url).unwrap_err().to_string();
            assert!(error.contains(words), "{url}: {error}");
        }
    }
}
