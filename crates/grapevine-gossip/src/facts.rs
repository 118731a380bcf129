//! What each sidecar publishes, and how it stands in chitchat's keys.
//!
//! | key | value | changes |
//! | --- | --- | --- |
//! | `addr` | where peers dial it, `host:port` | never in one run |
//! | `inc` | its incarnation, 32 hexadecimal digits | never in one run |
//! | `proto` | the peer protocol's number, decimal | never in one run |
//! | `policy` | the digest of its policies, 16 hexadecimal digits | never in one run |
//! | `heads` | heads of its bump and directory lanes, decimal, a space between | often |
//! | `left` | `1`, set once when it leaves in order | once |
//!
//! Both heads stand in one key so that they change together. Keys are set and never deleted: chitchat's tombstones, and
//! the resets that follow their collection, are not in play. A node whose keys are incomplete (a delta may be cut by the
//! datagram) is not reported yet; one whose keys are malformed is ignored and counted.

use crate::config::is_host_and_port;

pub(crate) const ADDR: &str = "addr";
pub(crate) const INCARNATION: &str = "inc";
pub(crate) const PROTOCOL: &str = "proto";
pub(crate) const POLICY: &str = "policy";
pub(crate) const HEADS: &str = "heads";
pub(crate) const LEFT: &str = "left";

/// What a sidecar tells of itself, beside its names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Where peers dial it: `host:port`, at most 259 bytes.
    pub peer_address: String,
    /// The highest sequence of its bump lane.
    pub bump_head: u64,
    /// The highest sequence of its directory lane.
    pub directory_head: u64,
    /// The number of the peer protocol it speaks.
    pub protocol: u32,
    /// A hash of its policies; sidecars of one cluster should agree.
    pub policy_digest: u64,
}

/// `Facts` with what the keys say besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) incarnation: u128,
    pub(crate) facts: Facts,
    pub(crate) left: bool,
}

/// What a look at a node's keys gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// All there.
    Whole(Published),
    /// A key has not arrived yet.
    Partial,
    /// A key's value is not what this version of Grapevine writes.
    Malformed(&'static str),
}

/// The keys of a start. Later only `heads` and `left` are set again.
pub(crate) fn key_values(incarnation: u128, facts: &Facts) -> Vec<(String, String)> {
    [
        (ADDR, facts.peer_address.clone()),
        (INCARNATION, format!("{incarnation:032x}")),
        (PROTOCOL, facts.protocol.to_string()),
        (POLICY, format!("{:016x}", facts.policy_digest)),
        (HEADS, heads_value(facts.bump_head, facts.directory_head)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .to_vec()
}

pub(crate) fn heads_value(bump: u64, directory: u64) -> String {
    format!("{bump} {directory}")
}

/// Reads a node's keys through `get`.
pub(crate) fn read<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Reading {
    let (Some(addr), Some(incarnation), Some(protocol), Some(policy), Some(heads)) = (
        get(ADDR),
        get(INCARNATION),
        get(PROTOCOL),
        get(POLICY),
        get(HEADS),
    ) else {
        return Reading::Partial;
    };
    if !is_host_and_port(addr) {
        return Reading::Malformed(ADDR);
    }
    let Some(incarnation) = hex(incarnation, 32).filter(|incarnation| *incarnation != 0) else {
        return Reading::Malformed(INCARNATION);
    };
    let Some(protocol) = decimal(protocol).and_then(|protocol| u32::try_from(protocol).ok()) else {
        return Reading::Malformed(PROTOCOL);
    };
    let Some(policy_digest) = hex(policy, 16).and_then(|policy| u64::try_from(policy).ok()) else {
        return Reading::Malformed(POLICY);
    };
    let Some((bump_head, directory_head)) = heads
        .split_once(' ')
        .and_then(|(bump, directory)| Some((decimal(bump)?, decimal(directory)?)))
    else {
        return Reading::Malformed(HEADS);
    };
    let facts = Facts {
        peer_address: addr.to_owned(),
        bump_head,
        directory_head,
        protocol,
        policy_digest,
    };
    Reading::Whole(Published {
        incarnation,
        facts,
        left: get(LEFT) == Some("1"),
    })
}

/// Exactly `digits` lowercase hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let plain = text.len() == digits
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

/// Decimal digits only: `parse` alone would take a plus sign.
fn decimal(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn facts() -> Facts {
        Facts {
            peer_address: "db-3.example:7103".into(),
            bump_head: u64::MAX,
            directory_head: 0,
            protocol: 1,
            policy_digest: 0xfeed,
        }
    }

    fn read_map(keys: &BTreeMap<String, String>) -> Reading {
        read(|key| keys.get(key).map(String::as_str))
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut keys: BTreeMap<_, _> = key_values(u128::MAX - 5, &facts()).into_iter().collect();
        let whole = |left| {
            Reading::Whole(Published {
                incarnation: u128::MAX - 5,
                facts: facts(),
                left,
            })
        };
        assert_eq!(read_map(&keys), whole(false));
        keys.insert(LEFT.into(), "1".into());
        assert_eq!(read_map(&keys), whole(true));
    }

    #[test]
    fn missing_keys_wait_for_the_rest() {
        let keys: BTreeMap<_, _> = key_values(1, &facts()).into_iter().collect();
        for missing in [ADDR, INCARNATION, PROTOCOL, POLICY, HEADS] {
            let mut keys = keys.clone();
            keys.remove(missing);
            assert_eq!(read_map(&keys), Reading::Partial, "{missing}");
        }
    }

    #[test]
    fn malformed_values_are_named_and_refused() {
        let keys: BTreeMap<_, _> = key_values(1, &facts()).into_iter().collect();
        for (key, bad) in [
            (ADDR, "noport"),
            (ADDR, "host:0"),
            (ADDR, "a b:1"),
            (INCARNATION, "12"),
            (INCARNATION, "00000000000000000000000000000000"),
            (INCARNATION, "+0000000000000000000000000000001"),
            (PROTOCOL, "4294967296"),
            (PROTOCOL, "-1"),
            (PROTOCOL, ""),
            (POLICY, "FEED000000000000"),
            (HEADS, "1"),
            (HEADS, "one 2"),
            (HEADS, "1 +2"),
            (HEADS, "99999999999999999999 1"),
        ] {
            let mut keys = keys.clone();
            keys.insert(key.into(), bad.into());
            assert_eq!(read_map(&keys), Reading::Malformed(key), "{key} = {bad:?}");
        }
    }
}
