//! Values that are possible one by one but not together, and values that are possible but surprising.

use std::net::SocketAddr;

use grapevine_core::policy::{Policy, Strategy};

use super::Config;
use super::error::{ConfigError, Origin, Problem};

/// Everything that does not go together.
pub(super) fn conflicts(config: &Config) -> Vec<ConfigError> {
    let mut found = Vec::new();
    let mut conflict = |key: &str, reason: String| {
        found.push(Problem::Conflict { reason }.at(Origin::Together, key));
    };
    addresses(config, &mut conflict);
    numbers(config, &mut conflict);
    found
}

/// Where to listen, and where to be reached.
fn addresses(config: &Config, conflict: &mut impl FnMut(&str, String)) {
    if config.app.unix.is_none() && config.app.tcp.is_none() {
        let reason = "both empty: applications could not call this sidecar".to_owned();
        conflict("app.unix, app.tcp", reason);
    }
    let listeners = [
        ("app.tcp", config.app.tcp),
        ("peer.listen", Some(config.peer.listen)),
        ("health.listen", config.health.listen),
        ("metrics.listen", config.metrics.listen),
    ];
    for (number, (knob, address)) in listeners.into_iter().enumerate() {
        for (other_knob, other) in listeners.into_iter().skip(number + 1) {
            if let (Some(address), Some(other)) = (address, other)
                && collide(address, other)
            {
                let reason = format!("both listen on TCP port {}", address.port());
                conflict(&format!("{knob}, {other_knob}"), reason);
            }
        }
    }
    let unreachable =
        |address: SocketAddr| address.ip().is_unspecified() || address.ip().is_multicast();
    if unreachable(config.peer.listen) && config.peer.advertise.is_none() {
        let reason = format!(
            "{} is no address that peers can reach; say in peer.advertise where they reach it",
            config.peer.listen
        );
        conflict("peer.listen", reason);
    }
    let gossip = &config.gossip;
    let advertised = gossip.advertise.unwrap_or(gossip.listen);
    if unreachable(advertised) {
        let reason =
            format!("{advertised} is no address that peers can reach; name one of this host's");
        conflict("gossip.advertise", reason);
    }
    if advertised.is_ipv6() && gossip.listen.is_ipv4() {
        let reason = format!(
            "{advertised} is IPv6, but gossip.listen = {} is IPv4",
            gossip.listen
        );
        conflict("gossip.advertise", reason);
    }
}

/// Counts and durations that bound each other.
fn numbers(config: &Config, conflict: &mut impl FnMut(&str, String)) {
    let gossip = &config.gossip;
    let (expected, peers) = (config.cluster.expected_members, gossip.max_peers);
    if expected > peers + 1 {
        let reason = format!(
            "{expected} members are expected, but gossip tracks only {peers} others: raise gossip.max_peers"
        );
        conflict("cluster.expected_members, gossip.max_peers", reason);
    }
    at_least(
        conflict,
        "gossip.suspect_after",
        gossip.suspect_after,
        "five times gossip.interval",
        gossip.interval * 5,
    );
    at_least(
        conflict,
        "gossip.dead_grace",
        gossip.dead_grace,
        "twice gossip.suspect_after",
        gossip.suspect_after * 2,
    );
    let freshness = &config.freshness;
    at_least(
        conflict,
        "freshness.member_timeout",
        freshness.member_timeout,
        "freshness.max_staleness",
        freshness.max_staleness,
    );
    let purge = &config.purge;
    at_least(
        conflict,
        "purge.retry_interval_max",
        purge.retry_interval_max,
        "purge.retry_interval_min",
        purge.retry_interval_min,
    );
    let limits = &config.limits;
    at_least(
        conflict,
        "limits.classes_max",
        limits.classes_max,
        "limits.classes_per_top_max",
        limits.classes_per_top_max,
    );
}

fn at_least<T: PartialOrd + Copy + std::fmt::Debug>(
    conflict: &mut impl FnMut(&str, String),
    key: &str,
    value: T,
    limit_name: &str,
    limit: T,
) {
    if value < limit {
        conflict(
            key,
            format!("{value:?} is below {limit_name}, which is {limit:?}"),
        );
    }
}

/// Whether two TCP listeners could not both be opened.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let same_host = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && same_host
}

/// What is allowed and yet likely to be a mistake: to be logged at start.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(app) = config.app.tcp
        && !app.ip().is_loopback()
    {
        found.push(format!(
            "app.tcp = {app} is not a loopback address: whoever reaches it may invalidate and register, for there is no authentication"
        ));
    }
    if let (None, Some(mode)) = (&config.app.unix, config.app.unix_mode) {
        found.push(format!(
            "app.unix_mode = {mode} is for no socket, since app.unix is empty"
        ));
    }
    if config.cluster.expected_members == 1 && !config.gossip.seeds.is_empty() {
        found.push(
            "gossip.seeds are set but cluster.expected_members is 1: a sidecar that finds none of them will not insist"
                .to_owned(),
        );
    }
    let loopback = config.peer.advertise.is_none() && config.peer.listen.ip().is_loopback();
    let away = |seed: &str| {
        !["127.", "[::1]", "localhost"]
            .iter()
            .any(|local| seed.starts_with(local))
    };
    if loopback && config.gossip.seeds.iter().any(|seed| away(seed.as_str())) {
        found.push(format!(
            "peer.listen = {} is a loopback address, but gossip.seeds name other hosts: they will not reach this sidecar",
            config.peer.listen
        ));
    }
    let registered = |policy: &&Policy| policy.strategy == Strategy::Registered;
    if config.cache.url.is_empty()
        && let Some(policy) = config.policies.iter().find(registered)
    {
        found.push(format!(
            "the policy of {} is registered, but cache.url is empty: this sidecar can delete nothing, and addresses that other \
             programs fill stay until they lapse",
            policy.pattern
        ));
    }
    found
}
