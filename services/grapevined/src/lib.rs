//! The Grapevine sidecar.

pub mod cli;
pub mod config;
pub mod purge;
pub mod telemetry;
