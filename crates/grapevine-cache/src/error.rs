//! What can go wrong with a cache operation. Errors are cheap to clone, because one broken connection fails every
//! request that was waiting on it.

use std::time::Duration;

use thiserror::Error;

use crate::KEY_BYTES_MAX;

/// Why a cache operation failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CacheError {
    /// No connection to the server, or it broke before the answer came. A write may or may not have happened.
    #[error("cache server {server} is unreachable: {cause}")]
    Unreachable {
        /// The server's address.
        server: String,
        /// What the system, or the circuit that fails fast, said.
        cause: String,
    },
    /// The server did not answer in time. A write may or may not have happened, now or a moment later.
    #[error("cache server {server} did not answer within {after:?}")]
    TimedOut {
        /// The server's address.
        server: String,
        /// The deadline that passed.
        after: Duration,
    },
    /// The value is larger than the cache takes.
    #[error("value of {size_bytes} bytes at key {key:?} is over the limit of {limit_bytes} bytes")]
    TooLarge {
        /// The key.
        key: String,
        /// The value's size.
        size_bytes: usize,
        /// The largest size allowed.
        limit_bytes: usize,
    },
    /// The key breaks memcached's rule.
    #[error("bad cache key {key:?}: {problem}")]
    BadKey {
        /// The key, cut to its first 250 bytes.
        key: String,
        /// What is wrong with it.
        problem: KeyProblem,
    },
    /// The time to live is zero.
    #[error("a time to live of {ttl:?} stores nothing; it must be above zero")]
    BadTtl {
        /// The time to live that was given.
        ttl: Duration,
    },
    /// The server understood and declined, for instance because it is out of memory or read-only.
    #[error("cache server {server} refused: {answer}")]
    Refused {
        /// The server's address.
        server: String,
        /// Its words.
        answer: String,
    },
    /// The server said something that its protocol does not allow. The connection was closed.
    #[error("cache server {server} broke the protocol: {what}")]
    Protocol {
        /// The server's address.
        server: String,
        /// What it said.
        what: String,
    },
}

/// What is wrong with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyProblem {
    /// It has no bytes.
    #[error("it is empty")]
    Empty,
    /// It is longer than memcached takes.
    #[error("it has {length_bytes} bytes, the limit is {KEY_BYTES_MAX}")]
    TooLong {
        /// Its length.
        length_bytes: usize,
    },
    /// It holds white space or a control byte.
    #[error("byte {byte:#04x} at offset {offset} is white space or a control byte")]
    BadByte {
        /// The first offending byte.
        byte: u8,
        /// Where it stands.
        offset: usize,
    },
}
