//! Policies: which strategy, paging and lifetimes the addresses of a class get.
//!
//! A policy's pattern is a class path in which a segment may be `*` (any one segment) and the last may be `**` (any
//! number of segments, also none). The first policy whose pattern matches an address's first class governs the
//! address; the last policy of every set is the default one, with the pattern `**`. Sidecars of a cluster must hold
//! equal sets; they compare digests.

use std::time::Duration;

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use crate::names::ClassPath;

/// The most policies in a set, the default not counted.
pub const POLICIES_MAX: usize = 1_000;
/// The most buckets of a `bucketed` class.
pub const CLASS_BUCKETS_MAX: u16 = 4_096;
/// The most items on a page.
pub const PAGE_SIZE_MAX: u32 = 10_000;
/// The longest TTL: ten years.
pub const TTL_MAX: Duration = Duration::from_hours(10 * 8_766);
/// How long the default policy serves while freshness is unknown: longer than a crashed member is waited for, so that
/// one crash does not send every read of the cluster to the database. Classes that must never be stale say `bypass`.
pub const SERVE_UNKNOWN_FOR: Duration = Duration::from_mins(2);
/// The longest time for which a soft bump may leave values in use.
pub const STALE_WHILE_REVALIDATE_MAX: Duration = Duration::from_hours(1);
/// The longest time by which a source may lag.
pub const SOURCE_LAG_MAX: Duration = Duration::from_mins(10);
/// The shortest TTL.
pub const TTL_MIN: Duration = Duration::from_millis(1);

/// How stale entries are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// The token is part of the address.
    #[default]
    Versioned,
    /// A fixed address, an envelope, and a directory entry so that a bump can delete it.
    Registered,
    /// One of so many addresses per class, and an envelope.
    Bucketed(u16),
    /// A fixed address, stale until its TTL.
    Ttl,
}

/// What to do while freshness is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnUnknown {
    /// Serve for at most this long after freshness was last shown, then bypass.
    Serve(Duration),
    /// Read the source and store nothing.
    #[default]
    Bypass,
}

/// What to do with an address that is too long once decorated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LongAddress {
    /// Refuse the call, naming the limit.
    #[default]
    Refuse,
    /// Put a 128-bit hash in its place.
    Hash,
}

/// Who fills a value that many callers miss at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FillRule {
    /// Whoever misses it; clients have one fill per process.
    #[default]
    Any,
    /// One caller in the cluster; the others wait for it.
    One,
}

/// What a fill does that begins so soon after a bump that a lagging source may not show it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LagRule {
    /// It is given to its caller and not stored.
    #[default]
    NoStore,
    /// It reads the primary, and is stored; its caller sees to that.
    Primary,
}

/// How the addresses of matching classes are treated.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Which classes it is for.
    pub pattern: Pattern,
    /// How stale entries are found.
    pub strategy: Strategy,
    /// Items per page, for slices of lists; `None` refuses slices.
    pub page_size: Option<u32>,
    /// How long a value may live.
    pub ttl: Duration,
    /// The largest fraction of the TTL taken off at random, in percent, so that values stored together do not lapse together.
    pub jitter_percent: u8,
    /// What to do while freshness is unknown.
    pub on_unknown: OnUnknown,
    /// What to do with addresses that are too long.
    pub long_address: LongAddress,
    /// Who fills a value that many miss at once.
    pub fill: FillRule,
    /// For how long after a soft bump the value from before may be served while it is computed anew; zero for never.
    pub stale_while_revalidate: Duration,
    /// How far what fills read may lag behind the commit that a bump announces; zero if fills read what is committed.
    pub source_lag: Duration,
    /// What a fill does within that time after a bump.
    pub on_source_lag: LagRule,
}

impl Policy {
    /// The default: `versioned`, one hour, 10 % jitter, serve for two minutes, refuse.
    pub fn fallback() -> Self {
        Self {
            pattern: Pattern::anything(),
            strategy: Strategy::default(),
            page_size: None,
            ttl: Duration::from_hours(1),
            jitter_percent: 10,
            on_unknown: OnUnknown::Serve(SERVE_UNKNOWN_FOR),
            long_address: LongAddress::default(),
            fill: FillRule::default(),
            stale_while_revalidate: Duration::ZERO,
            source_lag: Duration::ZERO,
            on_source_lag: LagRule::default(),
        }
    }

    /// The checks that types do not make.
    fn check(&self) -> Result<(), PolicyError> {
        let pattern = || self.pattern.to_string();
        if self.ttl < TTL_MIN || self.ttl > TTL_MAX {
            return Err(PolicyError::Ttl {
                pattern: pattern(),
                value: self.ttl,
            });
        }
        if self.jitter_percent > 90 {
            return Err(PolicyError::Jitter {
                pattern: pattern(),
                value: self.jitter_percent,
            });
        }
        if let Some(size) = self.page_size
            && (size == 0 || size > PAGE_SIZE_MAX)
        {
            return Err(PolicyError::PageSize {
                pattern: pattern(),
                value: size,
            });
        }
        if self.stale_while_revalidate > STALE_WHILE_REVALIDATE_MAX {
            return Err(PolicyError::StaleWhileRevalidate {
                pattern: pattern(),
                value: self.stale_while_revalidate,
            });
        }
        if self.source_lag > SOURCE_LAG_MAX {
            return Err(PolicyError::SourceLag {
                pattern: pattern(),
                value: self.source_lag,
            });
        }
        match self.strategy {
            Strategy::Bucketed(n) if n == 0 || n > CLASS_BUCKETS_MAX => Err(PolicyError::Buckets {
                pattern: pattern(),
                value: n,
            }),
            _ => Ok(()),
        }
    }
}

/// Why a policy was refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PolicyError {
    /// The pattern is not one.
    #[error("policy pattern {value:?}: {reason}")]
    Pattern {
        /// As written.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The TTL is out of range.
    #[error("policy {pattern:?}: ttl {value:?} is outside 1 ms to 10 years")]
    Ttl {
        /// The policy.
        pattern: String,
        /// As written.
        value: Duration,
    },
    /// The jitter is out of range.
    #[error("policy {pattern:?}: jitter {value} % is above 90 %")]
    Jitter {
        /// The policy.
        pattern: String,
        /// As written.
        value: u8,
    },
    /// The page size is out of range.
    #[error("policy {pattern:?}: paging of {value} items is outside 1 to {PAGE_SIZE_MAX}")]
    PageSize {
        /// The policy.
        pattern: String,
        /// As written.
        value: u32,
    },
    /// The number of buckets is out of range.
    #[error("policy {pattern:?}: bucketed({value}) is outside 1 to {CLASS_BUCKETS_MAX}")]
    Buckets {
        /// The policy.
        pattern: String,
        /// As written.
        value: u16,
    },
    /// Stale values would be served for too long.
    #[error("policy {pattern:?}: stale_while_revalidate {value:?} is above 1 hour")]
    StaleWhileRevalidate {
        /// The policy.
        pattern: String,
        /// As written.
        value: Duration,
    },
    /// The source would lag by too much.
    #[error("policy {pattern:?}: source_lag {value:?} is above 10 minutes")]
    SourceLag {
        /// The policy.
        pattern: String,
        /// As written.
        value: Duration,
    },
    /// Too many of them.
    #[error("{value} policies; the limit is {POLICIES_MAX}")]
    TooMany {
        /// How many.
        value: usize,
    },
}

/// A class pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    segments: Vec<Segment>,
    open: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Segment {
    Exact(String),
    Any,
}

impl Pattern {
    /// The pattern `**`.
    pub const fn anything() -> Self {
        Self {
            segments: Vec::new(),
            open: true,
        }
    }

    /// Checks and takes a pattern such as `get_items_in_cart/*` or `item/**`.
    pub fn parse(value: &str) -> Result<Self, PolicyError> {
        let refuse = |reason: String| PolicyError::Pattern {
            value: value.to_owned(),
            reason,
        };
        // A pattern obeys a class path's rules, for stars are ordinary bytes there.
        ClassPath::parse(value).map_err(|error| refuse(error.to_string()))?;
        let (path, open) = match value.strip_suffix("**") {
            Some("") => return Ok(Self::anything()),
            Some(rest) => match rest.strip_suffix('/') {
                Some(path) => (path, true),
                None => return Err(refuse("`**` must be a whole segment".to_owned())),
            },
            None => (value, false),
        };
        let segments = path
            .split('/')
            .map(|segment| match segment {
                "*" => Ok(Segment::Any),
                "**" => Err(refuse("`**` may only be the last segment".to_owned())),
                text => Ok(Segment::Exact(text.to_owned())),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { segments, open })
    }

    /// Whether the class falls under the pattern.
    pub fn matches(&self, class: &ClassPath) -> bool {
        let mut path = class.as_str().split('/');
        for segment in &self.segments {
            match (segment, path.next()) {
                (_, None) => return false,
                (Segment::Exact(text), Some(found)) if text != found => return false,
                _ => {}
            }
        }
        self.open || path.next().is_none()
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let segments = self.segments.iter().map(|segment| match segment {
            Segment::Exact(text) => text.as_str(),
            Segment::Any => "*",
        });
        let path = segments
            .chain(self.open.then_some("**"))
            .collect::<Vec<_>>();
        f.write_str(&path.join("/"))
    }
}

/// The policies of a cluster, first match first, with a default behind them.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicySet {
    policies: Vec<Policy>,
    fallback: Policy,
}

impl PolicySet {
    /// Checks and takes policies. `fallback` is used where none matches; its pattern is ignored.
    /// All that is wrong is told at once.
    pub fn new(policies: Vec<Policy>, mut fallback: Policy) -> Result<Self, Vec<PolicyError>> {
        let mut errors: Vec<_> = policies
            .iter()
            .chain([&fallback])
            .filter_map(|p| p.check().err())
            .collect();
        if policies.len() > POLICIES_MAX {
            errors.push(PolicyError::TooMany {
                value: policies.len(),
            });
        }
        if errors.is_empty() {
            fallback.pattern = Pattern::anything();
            Ok(Self { policies, fallback })
        } else {
            Err(errors)
        }
    }

    /// The policy of a class.
    pub fn of(&self, class: &ClassPath) -> &Policy {
        self.policies
            .iter()
            .find(|policy| policy.pattern.matches(class))
            .unwrap_or(&self.fallback)
    }

    /// The policies in order, the default last.
    pub fn iter(&self) -> impl Iterator<Item = &Policy> {
        self.policies.iter().chain([&self.fallback])
    }

    /// The longest time for which any policy lets stale values be served.
    pub fn stale_while_revalidate_max(&self) -> Duration {
        let each = self.iter().map(|policy| policy.stale_while_revalidate);
        each.max().unwrap_or_default()
    }

    /// The longest lag of a source.
    pub fn source_lag_max(&self) -> Duration {
        let each = self.iter().map(|policy| policy.source_lag);
        each.max().unwrap_or_default()
    }

    /// A hash of the whole set, equal on sidecars whose sets are equal.
    pub fn digest(&self) -> u64 {
        let described: Vec<String> = self
            .iter()
            .map(|p| {
                format!(
                    "{}\u{0}{:?}\u{0}{:?}\u{0}{:?}\u{0}{}\u{0}{:?}\u{0}{:?}\u{0}{:?}\u{0}{:?}\u{0}{:?}\u{0}{:?}\n",
                    p.pattern,
                    p.strategy,
                    p.page_size,
                    p.ttl,
                    p.jitter_percent,
                    p.on_unknown,
                    p.long_address,
                    p.fill,
                    p.stale_while_revalidate,
                    p.source_lag,
                    p.on_source_lag
                )
            })
            .collect();
        let text = described.concat();
        xxh3_64(text.as_bytes())
    }
}

impl Default for PolicySet {
    fn default() -> Self {
        Self {
            policies: Vec::new(),
            fallback: Policy::fallback(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn class(path: &str) -> ClassPath {
        ClassPath::parse(path).unwrap()
    }

    #[test]
    fn patterns_match_by_segment() {
        let matches =
            |pattern: &str, path: &str| Pattern::parse(pattern).unwrap().matches(&class(path));
        assert!(matches("cart/*", "cart/13"));
        assert!(!matches("cart/*", "cart"));
        assert!(!matches("cart/*", "cart/13/x"));
        assert!(matches("cart/**", "cart"));
        assert!(matches("cart/**", "cart/13/x"));
        assert!(matches("*/g1/**", "a/g1/2"));
        assert!(matches("**", "anything/at/all"));
        assert!(!matches("cart", "cartoon"));
        for bad in ["", "a//b", "a**", "**/a", "a b"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
        for text in ["cart/*", "cart/**", "**", "a/*/b"] {
            assert_eq!(Pattern::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_first_match_governs_and_the_digest_tells_sets_apart() {
        let policy = |pattern: &str, strategy| Policy {
            pattern: Pattern::parse(pattern).unwrap(),
            strategy,
            ..Policy::fallback()
        };
        let set = PolicySet::new(
            vec![
                policy("a/*", Strategy::Ttl),
                policy("a/**", Strategy::Registered),
            ],
            Policy::fallback(),
        )
        .unwrap();
        assert_eq!(set.of(&class("a/1")).strategy, Strategy::Ttl);
        assert_eq!(set.of(&class("a/1/2")).strategy, Strategy::Registered);
        assert_eq!(set.of(&class("b")).strategy, Strategy::Versioned);
        assert_ne!(set.digest(), PolicySet::default().digest());
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let bad = Policy {
            ttl: Duration::ZERO,
            ..Policy::fallback()
        };
        let worse = Policy {
            strategy: Strategy::Bucketed(0),
            ..Policy::fallback()
        };
        let errors = PolicySet::new(vec![bad, worse], Policy::fallback()).unwrap_err();
        assert_eq!(errors.len(), 2);
        assert!(errors[0].to_string().contains("10 years"), "{}", errors[0]);
        // As durations are written: a year of 365.25 days.
        let ten_years = Policy {
            ttl: Duration::from_hours(87_660),
            ..Policy::fallback()
        };
        PolicySet::new(vec![ten_years], Policy::fallback()).unwrap();
    }
}
