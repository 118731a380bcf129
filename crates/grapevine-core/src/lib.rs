//! All decisions of a Grapevine sidecar, as a pure state machine.

pub mod event;
pub mod id;
pub mod names;
pub mod policy;
pub mod store;
pub mod vector;
