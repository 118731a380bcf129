//! Tests against real servers, and against servers that misbehave.

#![allow(clippy::unwrap_used, reason = "tests")]

mod memcached;
mod memory;
mod redis;
mod servers;
mod trouble;
