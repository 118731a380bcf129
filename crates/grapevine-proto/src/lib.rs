//! The wire contract of Grapevine as Rust types, generated from `proto/`.
