//! The subcommands, one per file: the arguments, the call, and how the answer is written.

pub(crate) mod addresses;
#[cfg(feature = "bench")]
pub(crate) mod bench;
pub(crate) mod classes;
pub(crate) mod completions;
pub(crate) mod demo;
pub(crate) mod drain;
pub(crate) mod explain;
pub(crate) mod forget;
pub(crate) mod index;
pub(crate) mod invalidate;
pub(crate) mod members;
pub(crate) mod register;
pub(crate) mod replay;
pub(crate) mod resolve;
pub(crate) mod status;
pub(crate) mod watch;
pub(crate) mod write;

mod listing;
