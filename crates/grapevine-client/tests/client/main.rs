//! The client against a scripted sidecar: real gRPC over Unix sockets and TCP, versions in memory.
#![allow(clippy::unwrap_used, reason = "tests")]

mod audit;
mod bypass;
mod cached;
mod calls;
mod dependencies;
mod fake;
mod flights;
mod index;
mod index_objects;
mod invalidate;
mod local;
mod local_orders;
mod pages;
mod queries;
mod reports;
mod resolve;
mod snapshots;
mod support;
mod traces;
mod turns;
mod watch;
mod writes;
