//! Calls about leaves, and their answers.

use std::time::Duration;

use super::Filling;
use crate::index::{Combine, Found, LeafKey, Place, Window};
use crate::lease::Lease;

pub use crate::machine::leaves::LoadId;

/// A read of a part of a leaf, or of several that are of one table and in one order.
#[derive(Clone, Debug)]
pub struct LeafQuery {
    /// Which leaves, one at least.
    pub leaves: Vec<LeafKey>,
    /// What is wanted of several.
    pub combine: Combine,
    /// Which part.
    pub window: Window,
    /// Leave out members of whose row a newer version is known that is elsewhere.
    pub verified: bool,
}

/// What a read of a leaf came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeafAnswer {
    /// Its members.
    Found {
        /// What was found.
        found: Found,
        /// Whoever reads rows of the primary database after this may show what it does not find.
        evidence: Lease,
        /// The numbers of leaves of which too little is known: whoever reads on in the database is asked to load them anew.
        refill: Vec<usize>,
    },
    /// The leaves of these numbers are not known here.
    Absent(Vec<usize>),
    /// This sidecar cannot show that it is fresh: read the database.
    Bypass,
}

/// What asking for the right to load a leaf came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafTurn {
    /// Load it.
    Load {
        /// The right.
        load: LoadId,
        /// How long it holds.
        lease: Duration,
        /// Where to read it.
        filling: Filling,
    },
    /// Another caller loads it, or the shape of its rows is being made known.
    Wait {
        /// When to look again.
        after: Duration,
    },
    /// Nothing is to be loaded here now, for one because too many other leaves are being loaded: read the database.
    Bypass,
}

/// A part of what the database has of a leaf.
#[derive(Clone, Debug)]
pub struct LeafFill {
    /// Which leaf.
    pub leaf: LeafKey,
    /// The right to load it.
    pub load: LoadId,
    /// Members and the versions of their rows, 0 where none is known.
    pub members: Vec<(Place, u64)>,
    /// Another part follows.
    pub more: bool,
    /// These are all, and not only the first ones in the leaf's order; the same of every part. First ones come in that order.
    pub whole: bool,
    /// Of the last part, where they are not all: how many members there are to be; 0 for as many as came.
    pub keep: usize,
}

/// What a fill came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillOutcome {
    /// The leaf is present.
    Stored,
    /// The part was taken; the next one is awaited.
    More,
    /// Something changed meanwhile that could not be followed: what was read may be shown, and is not kept.
    Condemned,
    /// The right is over, or was never given here.
    Over,
}

/// Members whose rows were found to be elsewhere.
#[derive(Clone, Debug)]
pub struct Prune {
    /// Of which leaf.
    pub leaf: LeafKey,
    /// Which.
    pub places: Vec<Place>,
    /// Of a read of a leaf, before the rows were read in the primary database.
    pub evidence: Lease,
}
