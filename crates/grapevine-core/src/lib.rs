//! All decisions of a Grapevine sidecar, as a pure state machine.
//!
//! Nothing here does I/O, reads a clock, starts a task or draws a random number: the sidecar turns bytes into inputs and
//! effects into I/O, and a simulator can drive the very same code through any schedule.

pub mod address;
pub mod criteria;
mod entries;
pub mod event;
pub mod fill;
pub mod id;
pub mod index;
pub mod intent;
pub mod lease;
pub mod machine;
pub mod names;
pub mod policy;
pub mod progress;
pub mod roster;
pub mod store;
pub mod table;
pub mod token;
pub mod vector;
pub mod versions;
