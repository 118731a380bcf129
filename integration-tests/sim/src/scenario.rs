//! Scenarios: what may go wrong in a run.
//!
//! `calm` has latencies and nothing else, and there hits are asserted. `storm`, the default, takes each seed through one
//! of several climates, from calm to everything at once. What Grapevine does not promise is told apart: see [`Gap`].

use clap::ValueEnum;

use crate::violation::Guarantee;

/// What may go wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Each seed goes through one of the climates below, or all of them at once.
    #[default]
    Storm,
    /// Nothing but latencies. At least 0.95 of the oracle's hits are asserted here.
    Calm,
    /// Messages are lost, late, twice and out of order; paths are cut, one way, both ways and again and again.
    Network,
    /// Crashes, restarts, wiped and restored disks, slow flushes, compacted logs.
    Disks,
    /// Processes are stopped for longer than every lease, and wall clocks are stepped.
    Pauses,
    /// The cache evicts, loses deletes and comes back from partitions with old values.
    Caches,
    /// Readers read a replica that lags, as policy says.
    ReplicaLag,
    /// Members lose their seats after a short silence.
    ShortMemory,
    /// Every run that is over is retired soon, as after years of restarts.
    LongLife,
    /// The same, and views repeat three retirements only: who was away for a moment has lost track.
    LostTrack,
    /// As in `storm`, and every bump goes by way of some members, and grants tell no more than what has changed.
    Relayed,
}

impl Scenario {
    /// Whether what fills read lags.
    pub(crate) fn source_lags(self) -> bool {
        self == Self::ReplicaLag
    }
}

/// What may be violated because it is not promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// A second process with the node id and a disk of its own was let in. It counts as the loss of the first one's disk,
    /// which may come on top of another loss: two at once are not promised.
    NodeIdTwice,
}

impl Gap {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::NodeIdTwice => "node-id-twice",
        }
    }

    /// Whether it can be what a guarantee failed by. Those rest on disks; the fences that fills meet, tables, turns and hits do not.
    pub(crate) fn explains(self, guarantee: Guarantee) -> bool {
        let unmoved = [
            Guarantee::G3,
            Guarantee::G4,
            Guarantee::G9,
            Guarantee::G10,
            Guarantee::Turns,
            Guarantee::Hits,
        ];
        match self {
            Self::NodeIdTwice => !unmoved.contains(&guarantee),
        }
    }
}
