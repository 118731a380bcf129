//! What is measured, and what becomes of several measurements.

use std::borrow::Cow;
use std::time::Duration;

use serde::Serialize;

use crate::histogram::Histogram;

/// The unit of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Unit {
    /// Nanoseconds.
    #[serde(rename = "ns")]
    Nanoseconds,
    /// Microseconds.
    #[serde(rename = "us")]
    Microseconds,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Bytes.
    #[serde(rename = "B")]
    Bytes,
    /// Millions of bytes.
    #[serde(rename = "MB")]
    Megabytes,
    /// A part of the whole, 0 to 1.
    #[serde(rename = "share")]
    Share,
    /// So many times as much.
    #[serde(rename = "x")]
    Times,
    /// In a second.
    #[serde(rename = "/s")]
    PerSecond,
}

impl Unit {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Microseconds => "us",
            Self::Milliseconds => "ms",
            Self::Bytes => "B",
            Self::Megabytes => "MB",
            Self::Share => "share",
            Self::Times => "x",
            Self::PerSecond => "/s",
        }
    }
}

/// What a figure is of. What depends on how much work was asked for is known when the bench runs only.
pub(crate) type What = Cow<'static, str>;

/// One measurement of one side. Sides that measure the same name it alike.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Figure {
    pub(crate) what: What,
    pub(crate) unit: Unit,
    pub(crate) value: f64,
}

#[allow(
    clippy::cast_precision_loss,
    reason = "counts of a bench stay far below 2^53"
)]
pub(super) fn number(count: u64) -> f64 {
    count as f64
}

impl Figure {
    /// What one of so many took on a core, all of them together having taken that.
    pub(crate) fn cpu_each(what: impl Into<What>, cpu: Duration, count: u64) -> Self {
        Self {
            what: what.into(),
            unit: Unit::Microseconds,
            value: cpu.as_secs_f64() * 1e6 / number(count),
        }
    }

    /// So many in such a time.
    pub(crate) fn rate(what: impl Into<What>, count: u64, elapsed: Duration) -> Self {
        Self {
            what: what.into(),
            unit: Unit::PerSecond,
            value: number(count) / elapsed.as_secs_f64().max(f64::EPSILON),
        }
    }

    /// So long.
    pub(crate) fn time(what: impl Into<What>, time: Duration) -> Self {
        Self {
            what: what.into(),
            unit: Unit::Milliseconds,
            value: time.as_secs_f64() * 1e3,
        }
    }

    /// So many bytes.
    pub(crate) fn bytes(what: impl Into<What>, bytes: u64) -> Self {
        Self {
            what: what.into(),
            unit: Unit::Megabytes,
            value: number(bytes) / 1e6,
        }
    }

    /// The time that so many of a thousand do not exceed. A histogram without durations breaks the caller's contract.
    pub(crate) fn quantile(what: impl Into<What>, times: &Histogram, per_mille: u64) -> Self {
        let time = times
            .quantile(per_mille)
            .expect("invariant: something was measured");
        Self {
            what: what.into(),
            unit: Unit::Microseconds,
            value: time.as_secs_f64() * 1e6,
        }
    }
}

/// The middle of some values; of an even number of them the mean of the two in the middle. No value breaks the caller's contract.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_in_the_middle() {
        for (values, middle) in [
            (&[3.0][..], 3.0),
            (&[5.0, 1.0], 3.0),
            (&[9.0, 1.0, 2.0], 2.0),
            (&[4.0, 1.0, 2.0, 100.0], 3.0),
        ] {
            assert!((median(values) - middle).abs() < f64::EPSILON, "{values:?}");
        }
    }
}
