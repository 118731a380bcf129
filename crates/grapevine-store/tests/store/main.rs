//! What both stores promise, what only a disk can go through, and that one equals the other.

#![allow(clippy::unwrap_used, reason = "tests")]

mod contract;
mod crash;
mod journal;
mod log_files;
mod make;
mod model;
mod snapshots;
mod trouble;
