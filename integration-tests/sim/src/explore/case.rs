//! What is explored: which calls are made, and how much may go wrong.

use std::time::Duration;

use clap::ValueEnum;
use grapevine_core::machine::effects::ReceiptLevel;

/// A case to explore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// Two classes of one bucket are bumped at three sidecars, with room for one class only, so that floors meet bumps.
    Floors,
    /// An invalidation for `all`, while a sidecar is cut off and comes back and grants lapse.
    Partition,
    /// Both sides of a partition bump a class each, one of them for `all`.
    Sides,
    /// A sidecar is cut off for so long that its seat is taken, while an invalidation asks for `all`, and comes back.
    Removal,
    /// A sidecar crashes in the middle of its invalidation for `all` and starts again on its disk; grants lapse meanwhile.
    Restart,
    /// A sidecar starts again on an older copy of its disk.
    Restored,
    /// A sidecar leaves while another is cut off, and an invalidation asks for `all`.
    Leave,
    /// Fills of an address are registered while its class is bumped elsewhere.
    Fills,
}

/// A call to invalidate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) at: usize,
    pub(super) class: usize,
    pub(super) level: ReceiptLevel,
}

/// What may happen in a case, how often each.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    /// Each at any moment, once.
    pub(super) calls: &'static [Call],
    /// How often another flush or message comes before the one whose turn it is; [`u8::MAX`] for any number of times.
    pub(super) delays: u8,
    /// Whether acknowledgements are told: where no receipt is asked for they change nothing.
    pub(super) acks: bool,
    /// Messages that are lost.
    pub(super) drops: u8,
    /// Crashes of a sidecar with what was not flushed, each followed by a start.
    pub(super) crashes: u8,
    /// Which sidecar crashes.
    pub(super) crasher: usize,
    /// Whether it starts on the copy of its disk that was made at the begin.
    pub(super) restored: bool,
    /// Partitions: the last sidecar is cut off from both others, and comes back.
    pub(super) cuts: u8,
    /// Times at which the clock moves on.
    pub(super) ticks: u8,
    /// How long the only silent member keeps its seat, whom gossip suspects when the clock moves on; without it there is no gossip.
    pub(super) crash_timeout: Option<Duration>,
    /// Whether the first sidecar leaves.
    pub(super) leaves: bool,
    /// Fills at the second sidecar, each a look-up and a commit.
    pub(super) fills: u8,
    /// Classes that a top-level class may have.
    pub(super) classes_per_top: usize,
}

const NONE: Budget = Budget {
    calls: &[],
    delays: u8::MAX,
    acks: true,
    drops: 0,
    crashes: 0,
    crasher: 1,
    restored: false,
    cuts: 0,
    ticks: 0,
    crash_timeout: None,
    leaves: false,
    fills: 0,
    classes_per_top: 1_000,
};

impl Case {
    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    pub(super) fn budget(self) -> Budget {
        const fn call(at: usize, class: usize, level: ReceiptLevel) -> Call {
            Call { at, class, level }
        }
        const FLOORS: [Call; 3] = [
            call(0, 0, ReceiptLevel::None),
            call(1, 1, ReceiptLevel::None),
            call(2, 0, ReceiptLevel::None),
        ];
        const FROM_A: [Call; 1] = [call(0, 0, ReceiptLevel::All)];
        const FROM_B: [Call; 1] = [call(1, 0, ReceiptLevel::All)];
        const BOTH: [Call; 2] = [
            call(0, 0, ReceiptLevel::All),
            call(2, 1, ReceiptLevel::None),
        ];
        const FILLED: [Call; 1] = [call(0, 2, ReceiptLevel::None)];
        match self {
            Self::Floors => Budget {
                calls: &FLOORS,
                delays: 1,
                acks: false,
                classes_per_top: 1,
                ..NONE
            },
            Self::Partition => Budget {
                calls: &FROM_A,
                delays: 2,
                cuts: 1,
                ticks: 2,
                ..NONE
            },
            Self::Sides => Budget {
                calls: &BOTH,
                delays: 1,
                cuts: 1,
                ticks: 1,
                ..NONE
            },
            Self::Removal => Budget {
                calls: &FROM_A,
                delays: 0,
                cuts: 1,
                ticks: 2,
                crash_timeout: Some(Duration::from_millis(400)),
                ..NONE
            },
            Self::Restart => Budget {
                calls: &FROM_B,
                delays: 1,
                crashes: 1,
                ticks: 1,
                ..NONE
            },
            Self::Restored => Budget {
                calls: &FROM_B,
                delays: 1,
                crashes: 1,
                restored: true,
                ticks: 1,
                ..NONE
            },
            Self::Leave => Budget {
                calls: &FROM_B,
                delays: 1,
                cuts: 1,
                ticks: 1,
                leaves: true,
                ..NONE
            },
            Self::Fills => Budget {
                calls: &FILLED,
                fills: 2,
                acks: false,
                drops: 1,
                ..NONE
            },
        }
    }
}
