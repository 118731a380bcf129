//! What can be violated, and one violation as it is told.

use crate::scenario::Gap;

/// What was violated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guarantee {
    /// Nothing acknowledged is lost.
    G1,
    /// A superseded token does not come back.
    G2,
    /// Fill fence.
    G3,
    /// Late registrations are caught.
    G4,
    /// Read your writes.
    G5,
    /// Receipts tell the truth.
    G6,
    /// Bounded staleness.
    G7,
    /// Write intents.
    G8,
    /// Leaf contains truth.
    G9,
    /// Bounded tables.
    G10,
    /// Absence is not freshness.
    G11,
    /// Same knowledge, same token.
    G12,
    /// Turns to fill (decision 0012): nobody waits beyond its deadline and the patience that an arbiter is given, a commit is
    /// refused once the lease of its turn is over, and nothing is left of a turn in the end.
    Turns,
    /// Never serving anything is safe and useless: at least 0.95 of the oracle's hits in calm weather.
    Hits,
    /// Once everything is well again, every sidecar is fresh and misses nothing after a while; and none ends itself.
    Recovery,
}

impl Guarantee {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::G1 => "G1",
            Self::G2 => "G2",
            Self::G3 => "G3",
            Self::G4 => "G4",
            Self::G5 => "G5",
            Self::G6 => "G6",
            Self::G7 => "G7",
            Self::G8 => "G8",
            Self::G9 => "G9",
            Self::G10 => "G10",
            Self::G11 => "G11",
            Self::G12 => "G12",
            Self::Turns => "turns",
            Self::Hits => "hits",
            Self::Recovery => "recovery",
        }
    }
}

/// One violation.
#[derive(Clone, Debug)]
pub struct Violation {
    /// What was violated.
    pub guarantee: Guarantee,
    /// At which step of the run.
    pub step: u64,
    /// At which microsecond.
    pub at: u64,
    /// What happened.
    pub what: String,
    /// What is not promised and explains it.
    pub gap: Option<Gap>,
}
