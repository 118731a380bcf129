//! Demo, replay and auditor: what shows Grapevine right, and no part of production.

pub mod arm;
pub mod auditor;
pub mod converge;
pub mod histogram;
pub mod oracle;
pub mod report;
pub mod sequence;
mod table;
pub mod trace;
pub mod truth;
pub mod value;
pub mod workload;
