//! The test kit: real sidecar processes, real cache servers, and trouble on purpose.
//!
//! A test asks [`Setup`] for a cluster, talks to its sidecars through their [`Api`], does harm to them through their
//! [`Node`] (kill -9, SIGSTOP, a wiped directory, a cut-off peer port) and then waits for a *condition with a deadline*
//! ([`eventually`]): nothing here sleeps and hopes. Everything lies in one temporary directory, every process ends with
//! the value that holds it, and when a test fails the last lines of every log are shown and the directory is kept.
//!
//! The sidecars are the `grapevine` binary: the one that `GRAPEVINE_BIN` names, or else the one that cargo builds, once,
//! in the profile of the test. The kit speaks the contract (`grapevine-proto`) and sees nothing of a sidecar's inside.

mod api;
mod binary;
mod caches;
mod cluster;
mod collector;
mod conditions;
mod disk;
pub mod http;
mod netns;
mod node;
mod ports;
mod process;
mod python;
mod relay;
mod skip;

pub use api::Api;
pub use binary::grapevine;
pub use caches::{CacheServer, TIME_TO_START};
pub use cluster::{Cluster, Setup};
pub use collector::{Collector, Measured, MeasuredKind, Seen};
pub use conditions::{always, eventually};
pub use disk::SmallDisk;
pub use netns::{Network, Traffic};
pub use node::Node;
pub use ports::free_ports;
pub use process::{Ended, Process, run_to_end};
pub use python::{Python, PythonWorker};
pub use relay::{Fault, Relay};
pub use skip::skip;
