//! The ways of caching that a replay can be run with: Grapevine's strategies, and control arms that show that the auditor sees
//! what it should see.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Enough that the values of most classes of a trace do not push each other out.
const BUCKETS_DEFAULT: u32 = 1_024;
/// The policy's own limit: the lab must not know the core, and a sidecar would refuse more in its configuration.
const BUCKETS_MAX: u32 = 4_096;

/// How a replay reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arm {
    /// Grapevine, the token in the address.
    Versioned,
    /// Grapevine, fixed addresses in a directory.
    Registered,
    /// Grapevine, this many fixed addresses per class.
    Bucketed(u32),
    /// Grapevine, values that live until their time to live.
    Ttl,
    /// Control: a cache that is never told of a write. Shows stale reads.
    None,
    /// Control: a write deletes every address of its class that was ever filled; fills are not fenced. Shows stale reads.
    NaiveDelete,
    /// Control: the cache is never asked. Never stale, never a hit.
    BypassAll,
    /// Control: values that live until their time to live, without sidecars: nobody tells of a write. As old as their time to live.
    TtlAlone,
    /// Control, with sidecars: `versioned` whose writes wait for nobody, and whose sessions are owed what they wrote and
    /// carry no token. Shows stale reads.
    IgnoreSession,
}

/// A name that no arm has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UnknownArm {
    /// No such name.
    #[error(
        "strategy: `{0}` is none of versioned, registered, bucketed, bucketed(N) with N from 1 to {BUCKETS_MAX}, ttl, none, naive-delete, bypass-all, ttl-alone, ignore-session"
    )]
    Name(String),
    /// More or fewer buckets than a policy may have.
    #[error("strategy: bucketed({0}) is outside 1 to {BUCKETS_MAX}")]
    Buckets(u64),
}

impl Arm {
    /// Grapevine's own strategies, in the order they are shown.
    pub const STRATEGIES: [Self; 4] = [
        Self::Versioned,
        Self::Registered,
        Self::Bucketed(BUCKETS_DEFAULT),
        Self::Ttl,
    ];

    /// Whether sidecars take part. The other control arms run on the cache alone.
    pub fn is_grapevine(self) -> bool {
        match self {
            Self::Versioned
            | Self::Registered
            | Self::Bucketed(_)
            | Self::Ttl
            | Self::IgnoreSession => true,
            Self::None | Self::NaiveDelete | Self::BypassAll | Self::TtlAlone => false,
        }
    }

    /// Whether a read that begins after a write call returned must show the write.
    pub fn promises_writes(self) -> bool {
        !matches!(self, Self::Ttl | Self::TtlAlone)
    }

    /// The name of the strategy in a policy file; nothing where no sidecar takes part.
    pub fn policy_strategy(self) -> Option<String> {
        match self {
            Self::Versioned | Self::IgnoreSession => Some("versioned".to_owned()),
            Self::Registered => Some("registered".to_owned()),
            Self::Bucketed(buckets) => Some(format!("bucketed({buckets})")),
            Self::Ttl => Some("ttl".to_owned()),
            Self::None | Self::NaiveDelete | Self::BypassAll | Self::TtlAlone => None,
        }
    }
}

impl FromStr for Arm {
    type Err = UnknownArm;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownArm::Name(name.to_owned());
        Ok(match name {
            "versioned" => Self::Versioned,
            "registered" => Self::Registered,
            "bucketed" => Self::Bucketed(BUCKETS_DEFAULT),
            "ttl" => Self::Ttl,
            "none" => Self::None,
            "naive-delete" => Self::NaiveDelete,
            "bypass-all" => Self::BypassAll,
            "ttl-alone" => Self::TtlAlone,
            "ignore-session" => Self::IgnoreSession,
            _ => {
                let buckets = name
                    .strip_prefix("bucketed(")
                    .and_then(|rest| rest.strip_suffix(')'));
                let buckets: u64 = buckets
                    .and_then(|buckets| buckets.parse().ok())
                    .ok_or_else(unknown)?;
                match u32::try_from(buckets) {
                    Ok(few @ 1..=BUCKETS_MAX) => Self::Bucketed(few),
                    _ => return Err(UnknownArm::Buckets(buckets)),
                }
            }
        })
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::NaiveDelete => f.write_str("naive-delete"),
            Self::BypassAll => f.write_str("bypass-all"),
            Self::TtlAlone => f.write_str("ttl-alone"),
            Self::IgnoreSession => f.write_str("ignore-session"),
            strategy => f.write_str(&strategy.policy_strategy().unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn every_name_comes_back() {
        for name in [
            "versioned",
            "registered",
            "bucketed(7)",
            "ttl",
            "none",
            "naive-delete",
            "bypass-all",
            "ttl-alone",
            "ignore-session",
        ] {
            assert_eq!(name.parse::<Arm>().unwrap().to_string(), name);
        }
        assert_eq!("bucketed".parse::<Arm>().unwrap(), Arm::Bucketed(1_024));
    }

    #[test]
    fn an_unknown_name_is_told_with_the_known_ones() {
        for name in ["", "Versioned", "bucketed(x)", "bucketed(-1)", "bucketed(3"] {
            let error = name.parse::<Arm>().unwrap_err();
            assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
            assert!(error.to_string().contains("naive-delete"));
        }
    }

    #[test]
    fn buckets_have_the_limit_of_the_policy() {
        assert_eq!(
            "bucketed(4096)".parse::<Arm>().unwrap(),
            Arm::Bucketed(4_096)
        );
        for buckets in [0, 4_097, 65_536, u64::MAX] {
            let error = format!("bucketed({buckets})").parse::<Arm>().unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("strategy: bucketed({buckets}) is outside 1 to 4096")
            );
        }
    }
}
