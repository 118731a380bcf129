//! What a sidecar is told at start: a TOML file, then environment variables, then flags, each overriding the one before.
//!
//! One table (`table.rs`) lists every knob once, with its explanation, type, default, limits, flag names and price. The
//! file's keys are `section.name`; the variable of `store.cache_bytes` is `GRAPEVINE_STORE_CACHE_BYTES` and its flag
//! `--store-cache-bytes`. Policies stand in the file only, as `[[policy]]` and `[policy_default]` (see `policies.rs`).
//!
//! [`load`] reports every wrong value of every source at once, unknown keys included, each with its place, the value and
//! what would be right. With nothing given at all, the defaults make a cluster of one member.

mod cache_url;
mod check;
mod declared_index;
mod error;
mod file;
mod flags;
mod hostname;
mod knob;
mod nearest;
mod policies;
mod print;
mod table;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;

use clap::ArgMatches;
use grapevine_core::policy::PolicySet;

pub use cache_url::CacheUrl;
pub use declared_index::DeclaredIndex;
pub use error::{ConfigError, ConfigErrors, Origin, Problem};
pub use file::FILE_BYTES_MAX;
pub use flags::{CONFIG_FLAG, CONFIG_VARIABLE, arguments};
pub use knob::Knob;
pub use print::default_config;
pub use table::{
    AppConfig, CacheConfig, ClusterConfig, Config, DrainConfig, FreshnessConfig, GossipConfig,
    IndexConfig, KNOBS, LeaseConfig, LimitsConfig, LogConfig, NodeConfig, PeerConfig, PurgeConfig,
    StoreConfig,
};
pub use value::{
    ByteSize, ClusterName, FileMode, HOST_PORT_BYTES_MAX, HostPort, LIST_MAX, LogFilter, LogFormat,
    NAME_BYTES_MAX, Shape, UNIX_PATH_BYTES_MAX, UnixPath,
};

/// A checked configuration, and where each of its values came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The deciding source of every knob that some source gave, by key.
    pub origins: BTreeMap<&'static str, Origin>,
}

impl Loaded {
    /// The configuration as TOML, each value that was given with where it came from; passwords are hidden.
    pub fn describe(&self) -> String {
        print::effective(&self.config, &self.origins)
    }
}

/// Reads the file that flags or environment name, the environment, and the flags.
///
/// `environment` is usually [`std::env::vars_os`]; variables that are not Grapevine's are skipped.
pub fn load(
    matches: Option<&ArgMatches>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded, ConfigErrors> {
    let environment: Vec<(OsString, OsString)> = environment.into_iter().collect();
    let mut given = knob::Given::default();
    let policies = flags::config_file(matches, &environment)
        .map_or_else(PolicySet::default, |path| file::read(&path, &mut given));
    flags::from_environment(&environment, &mut given);
    if let Some(matches) = matches {
        flags::from_flags(matches, &mut given);
    }
    let origins = given.origins();
    let config = Config::build(&mut given, policies);
    let mut errors = given.errors;
    if errors.is_empty() {
        // A knob with a wrong value stands at its default here, so what does not go together is judged only then.
        errors = check::conflicts(&config);
    }
    if errors.is_empty() {
        Ok(Loaded { config, origins })
    } else {
        errors.sort_by(|a, b| a.origin.cmp(&b.origin));
        Err(ConfigErrors(errors))
    }
}

impl Config {
    /// What is allowed and yet likely to be a mistake, for the log.
    pub fn warnings(&self) -> Vec<String> {
        check::warnings(self)
    }

    /// Where other sidecars send gossip. A port of 0 stands for the one that the listener got.
    pub fn gossip_advertise(&self) -> SocketAddr {
        self.gossip.advertise.unwrap_or(self.gossip.listen)
    }

    /// Where other sidecars call, given where the peer listener was bound.
    pub fn peer_advertise(&self, bound: SocketAddr) -> String {
        self.peer
            .advertise
            .as_ref()
            .map_or_else(|| bound.to_string(), ToString::to_string)
    }
}

/// What a sidecar uses when it is told nothing.
impl Default for Config {
    fn default() -> Self {
        Self::build(&mut knob::Given::default(), PolicySet::default())
    }
}
