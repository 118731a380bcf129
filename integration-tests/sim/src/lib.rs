//! A deterministic simulator of Grapevine clusters.
//!
//! The real core of several sidecars runs in one thread, in virtual time, in a world that is made from one seed: disks that
//! lose what was not flushed, a network that loses, delays, duplicates and reorders, clocks that drift, processes that
//! stop, die and come back on older disks, a cache that forgets and remembers wrongly, applications that die at any step.
//! A checker that knows the true history judges every read. `README.md` says what is modelled and what is not.
//!
//! `generate` and `motifs` make a plan from a seed, `sim` runs it, `checker` judges, `batch` runs many, `shrink` makes a
//! failing one small. `explore` takes every order of a few events. `scale` counts what a large cluster says. `arms` are the ways to do it wrong that must be caught.

mod arms;
mod batch;
mod cache;
mod checker;
pub mod cli;
mod clock;
mod database;
mod declare;
mod disk;
mod events;
mod explore;
mod generate;
mod inside;
mod leaves;
mod local;
mod local_reads;
mod motifs;
mod network;
mod node;
mod oracle;
mod queue;
mod refresh;
mod report;
mod retired;
mod rng;
mod scale;
mod scenario;
mod schedule;
mod shelves;
mod shop;
mod shrink;
mod sim;
mod soft;
mod stampede;
mod tally;
mod transcript;
mod violation;

pub use arms::Arm;
pub use batch::{Request, first_caught, simulate};
pub use explore::{Case, Explored, Limit, explore};
pub use report::{Found, Report};
pub use scenario::{Gap, Scenario};
pub use tally::Race;
pub use violation::{Guarantee, Violation};
