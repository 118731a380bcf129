//! Trouble, one module per kind: each test names the guarantee it checks or the trouble it makes.

#![allow(clippy::unwrap_used, reason = "tests")]

mod directory;
mod receipts;
mod support;
