//! Real processes on a real network: five sidecars in network namespaces, a real memcached, a real database, and trouble between
//! them, under load. A judge outside Grapevine counts stale reads (G5, G7), and hits, for never serving anything is no feat.
//!
//! `cargo test --release -p grapevine-integration-tests --test net -- --ignored --skip figure_` takes root, `ip`, `iptables` and for
//! one test libfaketime; `python3` with python/requirements.txt, for applications that are not in Rust. What begins with `figure_` prints figures and judges none; docs/benchmarks.md keeps them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod figures;
mod links;
mod load;
mod processes;
mod stage;
