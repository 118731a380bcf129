//! The Grapevine sidecar.
//!
//! `config` says how to run, `run` starts and stops everything, `engine` drives the machine of `grapevine-core`, `service`
//! and `peers` are its two doors, `wire` stands in both of them, `purge` deletes what became stale.

pub mod cli;
pub mod config;
mod engine;
mod peers;
pub mod purge;
mod run;
mod service;
pub mod telemetry;
mod wire;

pub use run::run;
