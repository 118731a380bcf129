//! An auction with the pages, the mix and the query shapes of the RUBiS benchmark, on three nodes, cached by Grapevine and by two baselines in
//! the same run, and judged from outside.
//!
//! [`run::run`] has the arms ([`arm::Arm`]) play one after another, each with a fresh cache and a fresh database, and with the same
//! [visitors](visitor). The [judge](mod@judge) afterwards does every write once more, on a database of its own, and says which answers were stale,
//! and what a cache with perfect knowledge would have had.
//!
//! Nothing is taken of the benchmark but facts: its pages, its mix of 15 % that write, its tables and what is asked of them.

pub mod answer;
pub mod arm;
pub mod ask;
pub mod catalogue;
pub mod cli;
pub mod database;
pub mod figures;
pub mod judge;
pub mod ledger;
mod lists;
pub mod report;
pub mod run;
pub mod states;
pub mod visitor;
pub mod write;
