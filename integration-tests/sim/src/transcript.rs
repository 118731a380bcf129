//! What happened, as a hash and, when somebody wants to read it, as lines.
//!
//! Every step is folded into the hash, whether lines are kept or not: two runs of one seed must agree on it, and any
//! difference in what was delivered, flushed, resolved or answered shows.

use crate::clock::Micros;
use crate::rng::mix;

/// The transcript of one run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transcript {
    hash: u64,
    keep: bool,
    lines: Vec<String>,
}

impl Transcript {
    /// One that keeps lines, or only the hash.
    pub(crate) fn new(keep: bool) -> Self {
        Self {
            hash: 0,
            keep,
            lines: Vec::new(),
        }
    }

    /// Folds numbers in.
    pub(crate) fn fold(&mut self, numbers: &[u64]) {
        for &number in numbers {
            self.hash = mix(self.hash.rotate_left(5) ^ number);
        }
    }

    /// Adds a line, which is only made if lines are kept.
    pub(crate) fn say(&mut self, now: Micros, line: impl FnOnce() -> String) {
        if self.keep {
            let (seconds, micros) = (now / 1_000_000, now % 1_000_000);
            self.lines
                .push(format!("{seconds:>3}.{micros:06} {}", line()));
        }
    }

    /// The hash so far.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// The lines kept.
    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines
    }
}
