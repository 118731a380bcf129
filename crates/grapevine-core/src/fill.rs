//! Elected fills: the names of what sidecars elect about, and their words for it.
//!
//! Where policy says `fill = "one"`, a caller that misses asks its sidecar for the right to compute the value before it
//! reads the source. An election is about an address *and the token* that its look-up got: a bump makes another token,
//! and so another election, and nobody waits for a value that the bump has made stale. No safety rests on who wins:
//! tokens alone say what may be served (G3). What an election saves is work.

use xxhash_rust::xxh3::xxh3_128;

use crate::id::Incarnation;
use crate::names::Address;
use crate::token::Token;

/// What an election is about: a 128-bit hash of a token and a cache address. Two that collide share their turns, which
/// costs a wait and a second look into the cache.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FillKey(u128);

impl FillKey {
    /// The length of the byte form.
    pub const LEN: usize = 16;

    /// The key of a value at a cache address under a token.
    pub fn new(address: &Address, token: Token) -> Self {
        let address = address.as_str().as_bytes();
        let mut bytes = Vec::with_capacity(8 + address.len());
        bytes.extend_from_slice(&token.0.to_be_bytes());
        bytes.extend_from_slice(address);
        Self(xxh3_128(&bytes))
    }

    /// The byte form.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        self.0.to_be_bytes()
    }

    /// Reads the byte form; `None` if it is none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(u128::from_be_bytes(bytes.try_into().ok()?)))
    }

    /// How much a run may say for being the arbiter: the one with the most is it (rendezvous hashing), so a run that
    /// comes or goes moves only its own share of the keys.
    pub(crate) fn weight(self, run: Incarnation) -> u128 {
        let mut bytes = [0; 2 * Self::LEN];
        bytes[..Self::LEN].copy_from_slice(&self.to_bytes());
        bytes[Self::LEN..].copy_from_slice(&run.to_bytes());
        xxh3_128(&bytes)
    }
}

impl std::fmt::Debug for FillKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "f{:08x}", self.0 >> 96)
    }
}

/// The version of the byte form of a [`FillId`], first in it.
const FILL_VERSION: u8 = 1;

/// Names one won turn. The bytes are opaque to applications; docs/formats.md draws them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FillId {
    /// The run whose caller won.
    pub origin: Incarnation,
    /// Its number there, from 1.
    pub number: u64,
}

impl FillId {
    /// The length of the byte form.
    pub const LEN: usize = 1 + Incarnation::LEN + 8;

    /// The byte form.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = FILL_VERSION;
        bytes[1..17].copy_from_slice(&self.origin.to_bytes());
        bytes[17..].copy_from_slice(&self.number.to_be_bytes());
        bytes
    }

    /// Reads the byte form; `None` if it is none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::LEN || bytes[0] != FILL_VERSION {
            return None;
        }
        Some(Self {
            origin: Incarnation::from_bytes(&bytes[1..17])?,
            number: u64::from_be_bytes(bytes[17..].try_into().ok()?),
        })
    }
}

/// What a sidecar and the arbiter of a key say to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillWord {
    /// To the arbiter: "a caller of mine misses it."
    Ask,
    /// To the arbiter: "mine has ended", with or without the value in the cache.
    Done {
        /// Whether the value is in the cache.
        stored: bool,
    },
    /// From the arbiter: "your caller fills it."
    Won,
    /// From the arbiter: "another sidecar's caller fills it, and has so much left of its turn."
    Wait {
        /// At most so long.
        left: std::time::Duration,
    },
    /// From the arbiter: "it is in the cache now."
    Filled,
    /// From the arbiter: "your caller's turn is over, and another one's may have begun."
    Superseded,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn names_read_back_and_keys_tell_tokens_apart() {
        let origin = Incarnation::new(0xa1).unwrap();
        let id = FillId { origin, number: 7 };
        assert_eq!(FillId::from_bytes(&id.to_bytes()), Some(id));
        assert_eq!(FillId::from_bytes(&[0; FillId::LEN]), None);
        let address = Address::parse("items::1").unwrap();
        let key = FillKey::new(&address, Token(1));
        assert_eq!(FillKey::from_bytes(&key.to_bytes()), Some(key));
        assert_ne!(key, FillKey::new(&address, Token(2)));
    }
}
