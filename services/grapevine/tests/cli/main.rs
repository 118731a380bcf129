//! Drives the built program against sidecars that it is itself, as a script would: arguments and standard input in, output,
//! errors and exit codes out. Every run has a deadline; nothing is waited for without one.

#![allow(clippy::unwrap_used, reason = "tests")]

mod asking;
mod cluster;
mod documents;
mod explaining;
mod feeding;
mod indexing;
mod kit;
mod lab;
mod misuse;
mod writing;
