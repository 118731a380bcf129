//! chitchat 0.13's datagrams, read far enough to know that chitchat will survive them.
//!
//! chitchat trusts its peers: a digest larger than a datagram, a key that begins with a multi-byte character, or a delta
//! whose maximum is below its versions each panic its task, and with it the process where panics abort. Its own decoder
//! is private, so this module reads the bytes itself. All integers are little-endian; a string is a `u16` length and that
//! many bytes of UTF-8.
//!
//! ```text
//! datagram = u16 45139, u8 protocol version (0), u8 type, body
//! body     = 0 Syn:    digest, cluster id (string)
//!            1 SynAck: digest, delta
//!            2 Ack:    delta
//!            3 BadCluster: nothing
//! digest   = u16 count, count x entry
//! entry    = node, u64 heartbeat, u64 last collected version, u64 max version
//! node     = string node id, u64 generation, address
//! address  = u8 4 and 4 bytes, or u8 6 and 16 bytes; then u16 port
//! delta    = blocks: u8 1, u16 length, zstd | u8 2, u16 length, plain | u8 0, the end
//!            which joined are operations: u8 0, node, u64 last collected, u64 from
//!                                       | u8 1, string key, string value, u64 version, u8 status
//!                                       | u8 2, u64 max version
//! ```
//!
//! Protocol version 1 differs in compressing the digest; this cluster never speaks it, because a compressed digest has
//! no useful bound before it is made. What is refused here and why is the doc of [`Refusal`].

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::config::{NAME_BYTES_MAX, is_name};

/// The most a UDP datagram carries over IPv4, and chitchat's own limit.
pub(crate) const DATAGRAM_BYTES_MAX: usize = 65_507;
/// Longest cluster id: our prefix and a cluster's name.
pub(crate) const CLUSTER_ID_BYTES_MAX: usize = 96;
/// Kept free in every reply for what the peer lacks. chitchat panics below 100 bytes; a delta of our six keys for one
/// node is under 500, so this carries news of 16 nodes even beside a full digest.
pub(crate) const DELTA_RESERVE_BYTES: usize = 8_192;
/// What all entries of a digest may take together, so that `header + count + entries + cluster id` and `header + count +
/// entries + delta` both fit a datagram.
pub(crate) const DIGEST_BYTES_MAX: usize =
    DATAGRAM_BYTES_MAX - HEADER_BYTES - 2 - (2 + CLUSTER_ID_BYTES_MAX) - DELTA_RESERVE_BYTES;

const HEADER_BYTES: usize = 4;
const MAGIC: u16 = 45_139;
/// A datagram's delta unpacks to little more than itself when it is honest; zstd can be made to say 1,000 times more.
const DELTA_BYTES_MAX: usize = 1 << 20;
const BLOCK_BYTES_MAX: usize = u16::MAX as usize;
const KEY_BYTES_MAX: usize = 32;
const VALUE_BYTES_MAX: usize = 300;
/// Counters above this are not honest, and adding to them could overflow.
const COUNTER_MAX: u64 = 1 << 62;

/// Why a datagram is not given to chitchat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not chitchat's format, cut short, with bytes left over, or of a protocol version that nobody here speaks.
    Malformed,
    /// A Syn for another cluster, or a peer's word that we belong to another one.
    ForeignCluster,
    /// A delta that unpacks to more than 1 MiB, or says what no sidecar says: deleted keys, keys that are not 1 to 32
    /// lowercase letters, values over 300 bytes, versions that do not rise, a node twice, or our own state.
    BadDelta,
}

/// A run of a sidecar, as chitchat names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Node<'a> {
    pub(crate) id: &'a str,
    pub(crate) generation: u64,
    pub(crate) addr: SocketAddr,
}

/// One node in a digest.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) node: Node<'a>,
    pub(crate) heartbeat: u64,
    raw: &'a [u8],
    /// Whether name, address and counters are what a sidecar would say.
    pub(crate) sane: bool,
}

/// A datagram that chitchat can take, once its digest is cut to the entries that may be admitted.
#[derive(Debug)]
pub(crate) struct Datagram<'a> {
    /// [`SYN`], [`SYN_ACK`] or [`ACK`].
    pub(crate) kind: u8,
    /// The digest's entries; empty for a type without digest.
    pub(crate) entries: Vec<Entry<'a>>,
    /// What follows the digest.
    rest: &'a [u8],
}

impl Datagram<'_> {
    /// The datagram with the entries at positions where `keep` is true.
    pub(crate) fn with_entries(&self, keep: &[bool]) -> Vec<u8> {
        let kept = || {
            self.entries
                .iter()
                .zip(keep)
                .filter(|(_, keep)| **keep)
                .map(|(entry, _)| entry.raw)
        };
        let mut bytes = header(self.kind);
        if matches!(self.kind, SYN | SYN_ACK) {
            let count =
                u16::try_from(kept().count()).expect("invariant: a u16 counted the entries");
            bytes.extend(count.to_le_bytes());
            kept().for_each(|raw| bytes.extend(raw));
        }
        bytes.extend(self.rest);
        bytes
    }
}

pub(crate) const SYN: u8 = 0;
pub(crate) const SYN_ACK: u8 = 1;
pub(crate) const ACK: u8 = 2;
const BAD_CLUSTER: u8 = 3;

/// The first bytes of a datagram of `kind`.
pub(crate) fn header(kind: u8) -> Vec<u8> {
    let mut bytes = MAGIC.to_le_bytes().to_vec();
    bytes.extend([0, kind]);
    bytes
}

/// What an entry of a node with this id and address takes in a digest.
pub(crate) fn entry_bytes(node_id: &str, addr: SocketAddr) -> usize {
    let ip_bytes = if addr.is_ipv4() { 4 } else { 16 };
    (2 + node_id.len()) + 8 + (1 + ip_bytes + 2) + 3 * 8
}

/// The most that one takes.
pub(crate) const ENTRY_BYTES_MAX: usize = (2 + NAME_BYTES_MAX) + 8 + (1 + 16 + 2) + 3 * 8;

/// Reads the digest of a datagram that chitchat made here; `None` for one without.
pub(crate) fn read_own(bytes: &[u8]) -> Option<Datagram<'_>> {
    let mut cursor = Cursor(bytes);
    let kind = cursor
        .header()
        .filter(|kind| matches!(*kind, SYN | SYN_ACK))?;
    let entries = cursor.digest()?;
    Some(Datagram {
        kind,
        entries,
        rest: cursor.0,
    })
}

/// Reads a datagram for the sidecar `own` of the cluster `cluster_id`.
pub(crate) fn read<'a>(
    bytes: &'a [u8],
    cluster_id: &str,
    own: &Node<'_>,
) -> Result<Datagram<'a>, Refusal> {
    let mut cursor = Cursor(bytes);
    let kind = cursor.header().ok_or(Refusal::Malformed)?;
    let entries = match kind {
        SYN | SYN_ACK => cursor.digest().ok_or(Refusal::Malformed)?,
        ACK => Vec::new(),
        BAD_CLUSTER => return Err(Refusal::ForeignCluster),
        _ => return Err(Refusal::Malformed),
    };
    let rest = cursor.0;
    if kind == SYN {
        let theirs = cursor
            .string()
            .filter(|_| cursor.0.is_empty())
            .ok_or(Refusal::Malformed)?;
        if theirs != cluster_id {
            return Err(Refusal::ForeignCluster);
        }
    } else {
        let operations = unpack(&mut cursor)?;
        if !cursor.0.is_empty() {
            return Err(Refusal::Malformed);
        }
        check_delta(&operations, own).ok_or(Refusal::BadDelta)?;
    }
    Ok(Datagram {
        kind,
        entries,
        rest,
    })
}

/// Joins the blocks of a delta.
fn unpack(cursor: &mut Cursor<'_>) -> Result<Vec<u8>, Refusal> {
    let mut joined = Vec::new();
    let mut block = Vec::new();
    loop {
        let kind = cursor.u8().ok_or(Refusal::Malformed)?;
        if kind == 0 {
            return Ok(joined);
        }
        let len = cursor.u16().ok_or(Refusal::Malformed)?;
        let packed = cursor.take(usize::from(len)).ok_or(Refusal::Malformed)?;
        match kind {
            1 => {
                block.resize(BLOCK_BYTES_MAX, 0);
                let len = zstd::bulk::decompress_to_buffer(packed, &mut block[..])
                    .map_err(|_| Refusal::Malformed)?;
                joined.extend_from_slice(&block[..len]);
            }
            2 => joined.extend_from_slice(packed),
            _ => return Err(Refusal::Malformed),
        }
        if joined.len() > DELTA_BYTES_MAX {
            return Err(Refusal::BadDelta);
        }
    }
}

/// Checks the operations of a delta; `None` is a refusal.
fn check_delta(operations: &[u8], own: &Node<'_>) -> Option<()> {
    let mut cursor = Cursor(operations);
    let mut seen = BTreeSet::new();
    // The highest version given for the current node, and whether its keys have begun.
    let mut current: Option<u64> = None;
    while !cursor.0.is_empty() {
        match cursor.u8()? {
            0 => {
                let node = cursor.node()?;
                let (collected, from) = (cursor.u64()?, cursor.u64()?);
                let acceptable =
                    is_sane(&node) && collected == 0 && from < COUNTER_MAX && node != *own;
                (acceptable && seen.insert(node)).then_some(())?;
                current = Some(0);
            }
            1 => {
                let (key, value) = (cursor.string()?, cursor.string()?);
                let (version, status) = (cursor.u64()?, cursor.u8()?);
                let key_ok = (1..=KEY_BYTES_MAX).contains(&key.len())
                    && key.bytes().all(|b| b.is_ascii_lowercase());
                let rises = version > current? && version < COUNTER_MAX;
                (key_ok && value.len() <= VALUE_BYTES_MAX && rises && status == 0).then_some(())?;
                current = Some(version);
            }
            2 => {
                // Only for a node without news; after keys it could lower the maximum below their versions.
                let version = cursor.u64()?;
                (current? == 0 && version < COUNTER_MAX).then_some(())?;
                current = Some(version);
            }
            _ => return None,
        }
    }
    Some(())
}

fn is_sane(node: &Node<'_>) -> bool {
    is_name(node.id)
        && node.addr.port() != 0
        && !node.addr.ip().is_unspecified()
        && !node.addr.ip().is_multicast()
}

/// What has not been read yet. Every method gives `None` when too little is left.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn string(&mut self) -> Option<&'a str> {
        let len = self.u16()?;
        std::str::from_utf8(self.take(usize::from(len))?).ok()
    }

    fn header(&mut self) -> Option<u8> {
        let (magic, version, kind) = (self.u16()?, self.u8()?, self.u8()?);
        (magic == MAGIC && version == 0).then_some(kind)
    }

    fn node(&mut self) -> Option<Node<'a>> {
        let id = self.string()?;
        let generation = self.u64()?;
        let ip = match self.u8()? {
            4 => IpAddr::from(self.array::<4>()?),
            6 => IpAddr::from(self.array::<16>()?),
            _ => return None,
        };
        Some(Node {
            id,
            generation,
            addr: SocketAddr::new(ip, self.u16()?),
        })
    }

    fn digest(&mut self) -> Option<Vec<Entry<'a>>> {
        let count = self.u16()?;
        (0..count).map(|_| self.entry()).collect()
    }

    fn entry(&mut self) -> Option<Entry<'a>> {
        let before = self.0;
        let node = self.node()?;
        let (heartbeat, collected, version) = (self.u64()?, self.u64()?, self.u64()?);
        let sane =
            is_sane(&node) && collected == 0 && heartbeat < COUNTER_MAX && version < COUNTER_MAX;
        Some(Entry {
            node,
            heartbeat,
            raw: &before[..before.len() - self.0.len()],
            sane,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
