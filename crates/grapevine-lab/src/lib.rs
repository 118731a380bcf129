//! Demo, replay and auditor: what shows Grapevine right, and no part of production.

pub mod arm;
pub mod auditor;
pub mod bench;
pub mod caches;
mod clock;
pub mod cluster;
pub mod converge;
pub mod demo;
pub mod histogram;
mod interrupt;
pub mod memcached_server;
pub mod oracle;
pub mod pool;
mod ports;
pub mod process;
pub mod replay;
pub mod report;
pub mod sequence;
pub mod shop;
mod table;
pub mod trace;
pub mod truth;
pub mod value;
mod watchers;
pub mod workload;

pub use interrupt::{Interrupted, output, print, until_interrupted};
