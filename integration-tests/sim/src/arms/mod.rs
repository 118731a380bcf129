//! Control arms: Grapevine with one thing done wrong, each of which must be caught.
//!
//! An arm shows that the simulator can see: a checker that passes the right thing and the wrong thing alike says nothing.
//! None of them lives in core. They stand around it: a client that ignores tokens, a table of versions by a simpler rule
//! kept beside the core's from what the sidecar applied, a loop that tells of a flush too early, a server of snapshots
//! that reads in the wrong order, a clock that is a wall.

pub(crate) mod rules;

use clap::ValueEnum;

use crate::scenario::Scenario;

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Arm {
    /// Versions are the issuer's wall clock, and the highest wins.
    LastWriterWins,
    /// A token is of a class's entries if there are any, else of its floor.
    EntryElseFloor,
    /// Readers ignore tokens; an invalidation deletes addresses.
    NoFence,
    /// A fill's stamp and token are taken when it is stored, not when it was looked up.
    StampAtCommit,
    /// An own event is told and answered before it is flushed.
    ReceiptBeforeFlush,
    /// Members that are silent for a moment are forgotten, and nobody's grant is missed.
    FreshnessByTimeout,
    /// Leases and grants are counted on wall clocks.
    WallClockLease,
    /// A sidecar that has just started serves with unsalted tokens.
    UnsaltedRestart,
    /// Grants tell the heads of running incarnations only.
    RunningHeadsOnly,
    /// A snapshot's cut is read after its chunks.
    VectorAfterChunks,
    /// Whoever had the turn stores under the token of that moment, and asks nobody.
    TurnIsALicence,
    /// What a hard write replaced is served like what a soft one did.
    StaleAfterHard,
    /// Readers with a session are served what soft writes replaced.
    StaleToSessions,
    /// Fills inside a database snapshot are stored whatever it shows, and however long ago it was opened.
    SnapshotNeverEnds,
    /// Reads of a shape that a sidecar does not know yet are served from the cache.
    NewShapesServed,
    /// Who finds that members have moved on writes back the list that it has read, without them.
    ListWrittenBack,
    /// What a peer has pruned is removed, whatever was applied here since.
    RemoveByValue,
    /// What a reader prunes is removed, whenever it was added.
    PruneWithoutStamp,
    /// What was added while a leaf was loaded is thrown away for the database's answer.
    FillOverwrites,
    /// An answer whose right is over, or whose leaf was dropped meanwhile, is stored under a later right.
    EpochsMerged,
    /// Every read goes to the database: safe, and useless.
    BypassAll,
    /// A sidecar takes its tables' word for given as soon as it has told them.
    TablesNotAwaited,
    /// Clients count the leases of their tables from the answer.
    LeaseFromAnswer,
    /// Clients note how things stand when an answer comes to their table, not when they ask.
    TableKeepsLate,
    /// Clients look up in their tables although they were answered what those have not heard of.
    TableRunsBehind,
    /// Fills store what a replica shows right after a bump; in scenario `replica-lag`.
    SourceLagIgnored,
    /// Who passes a bump on acknowledges it for those it is for; in scenario `relayed`.
    RelaySpeaksForOthers,
    /// What a grant has told is not told again, whether it was applied or not; in scenario `relayed`.
    HeadsToldOnce,
    /// The digest of what is applied leaves one run out; in scenario `relayed`.
    DigestLacksARun,
}

impl Arm {
    /// The scenario in which it makes a difference, if that is a certain one.
    pub fn scenario(self) -> Option<Scenario> {
        match self {
            Self::SourceLagIgnored => Some(Scenario::ReplicaLag),
            Self::RelaySpeaksForOthers | Self::HeadsToldOnce | Self::DigestLacksARun => {
                Some(Scenario::Relayed)
            }
            _ => None,
        }
    }

    /// Whether it is something about local tables that is done wrong.
    pub(crate) fn is_of_tables(self) -> bool {
        matches!(
            self,
            Self::TablesNotAwaited
                | Self::LeaseFromAnswer
                | Self::TableKeepsLate
                | Self::TableRunsBehind
        )
    }

    /// Its name on the command line and in reports.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }
}
