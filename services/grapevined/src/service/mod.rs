//! The services that applications and operators call.

pub(crate) mod admin;
pub(crate) mod application;
mod deadline;
mod index;
pub(crate) mod intake;
mod listing;
mod local_table;
mod look_up;
mod resolve_stream;
mod turns;
pub(crate) mod unread;
mod watch;
mod writes;
