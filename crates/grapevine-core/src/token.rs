//! Tokens: the short opaque form of what a sidecar knows of a class's bumps.
//!
//! A token is xxh3-64 (seed 0) over a canonical byte string; docs/formats.md draws it. Equal knowledge gives equal
//! bytes and so equal tokens (G12); different knowledge gives different tokens but for a 64-bit collision (G2).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use xxhash_rust::xxh3::xxh3_64;

use crate::id::Incarnation;

/// The version of the token's byte string, first in it.
pub const TOKEN_VERSION: u8 = 1;

/// The length of a token's text form.
pub(crate) const TOKEN_TEXT_BYTES: usize = 11;
/// Bytes of a token's string that take no allocation: a class of three segments with two bumps each has fewer.
const INLINE_BYTES: usize = 384;

/// A 64-bit token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

impl Token {
    /// The token of addresses that no bump concerns: those of a `ttl` policy.
    pub const NONE: Self = Self(0);

    /// The text form: 11 characters of unpadded base64url over the 8 bytes, big-endian.
    pub fn text(self) -> String {
        let mut text = String::with_capacity(TOKEN_TEXT_BYTES);
        self.push_text(&mut text);
        text
    }

    /// Puts the text form behind what is there.
    pub(crate) fn push_text(self, text: &mut String) {
        let mut bytes = [0; TOKEN_TEXT_BYTES];
        let encoded = URL_SAFE_NO_PAD.encode_slice(self.0.to_be_bytes(), &mut bytes);
        debug_assert_eq!(encoded, Ok(TOKEN_TEXT_BYTES));
        text.push_str(std::str::from_utf8(&bytes).expect("invariant: base64 is ASCII"));
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{:016x}", self.0)
    }
}

/// Builds the canonical byte string of a token.
#[derive(Debug)]
pub(crate) struct TokenHasher {
    /// The string, as long as it fits; then all of it is in `more`.
    inline: [u8; INLINE_BYTES],
    length: usize,
    more: Vec<u8>,
}

impl TokenHasher {
    /// Begins with the version and the salt: 16 zero bytes, or the incarnation of a sidecar that is catching up.
    pub(crate) fn new(salt: Option<Incarnation>) -> Self {
        let mut hasher = Self {
            inline: [0; INLINE_BYTES],
            length: 0,
            more: Vec::new(),
        };
        hasher.add(&[TOKEN_VERSION]);
        hasher.add(&salt.map_or([0; 16], Incarnation::to_bytes));
        hasher
    }

    fn add(&mut self, bytes: &[u8]) {
        if self.more.is_empty() {
            let end = self.length + bytes.len();
            if let Some(place) = self.inline.get_mut(self.length..end) {
                place.copy_from_slice(bytes);
                self.length = end;
                return;
            }
            self.more.reserve(2 * INLINE_BYTES);
            self.more.extend_from_slice(&self.inline[..self.length]);
        }
        self.more.extend_from_slice(bytes);
    }

    /// Adds the path of a class whose entries follow.
    pub(crate) fn path(&mut self, path: &str) {
        let length =
            u16::try_from(path.len()).expect("invariant: a class path has at most 200 bytes");
        self.add(&length.to_be_bytes());
        self.add(path.as_bytes());
    }

    /// Adds how many things follow.
    pub(crate) fn count(&mut self, count: usize) {
        let count = u32::try_from(count).expect("invariant: tables are bounded far below 2^32");
        self.add(&count.to_be_bytes());
    }

    /// Adds an entry.
    pub(crate) fn entry(&mut self, origin: Incarnation, sequence: u64) {
        self.add(&origin.to_bytes());
        self.add(&sequence.to_be_bytes());
    }

    /// The token.
    pub(crate) fn finish(&self) -> Token {
        let bytes = if self.more.is_empty() {
            &self.inline[..self.length]
        } else {
            &self.more[..]
        };
        match xxh3_64(bytes) {
            // Zero means "no bump concerns this": a chance of 2^-64 must not turn into that.
            0 => Token(1),
            hash => Token(hash),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_long_string_is_hashed_as_a_short_one() {
        for paths in 0..20 {
            let mut hasher = TokenHasher::new(None);
            let mut bytes = vec![TOKEN_VERSION];
            bytes.extend([0; 16]);
            for path in 0..paths {
                let path = "p".repeat(path * 7);
                hasher.path(&path);
                bytes.extend(u16::try_from(path.len()).unwrap().to_be_bytes());
                bytes.extend(path.as_bytes());
            }
            assert_eq!(hasher.finish(), Token(xxh3_64(&bytes)), "{paths}");
        }
    }

    #[test]
    fn the_text_form_is_eleven_characters_that_tell_all_of_it() {
        for value in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX] {
            let text = Token(value).text();
            assert_eq!(text.len(), TOKEN_TEXT_BYTES);
            let back = URL_SAFE_NO_PAD.decode(&text).unwrap();
            assert_eq!(back, value.to_be_bytes());
        }
    }
}
