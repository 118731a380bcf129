//! Ranges of ordered values, and the tree of nodes that stands for them in classes.
//!
//! A read of prices from 100 to 200 is to be found by a change of a row with price 150, without a list of all ranges that are read. So
//! values are placed on an axis of 64 bits ([`Value::position`](super::Value)), and the axis is cut into nodes: for each of a fixed set of widths,
//! 2^s positions, all aligned pieces of that width. A read belongs to the few nodes that cover its range; a value lies in one node of
//! each width, and its change concerns the reads of all of these. (As in segment trees,
//! and in Lucene's numeric fields of old.) A range that is open on one side is covered by wide nodes only: by all positive values, say.
//!
//! Times are widened by two days on both sides, which covers what is not known of them: the session's time zone, and whether a
//! column of text is compared as text.

use super::value::{Datum, Order, Value};

/// The most nodes that cover a range.
pub(super) const COVER_MAX: u64 = 4;
/// The widths of nodes, as powers of two. The last one cuts the axis in four.
const WIDTHS: [u32; 14] = [0, 12, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60, 62];
const TIME_SLACK_MICROS: u64 = 2 * 86_400_000_000;

/// A range of ordered values, ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// What of.
    pub order: Order,
    low: u64,
    high: u64,
}

/// An aligned piece of the axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Node {
    /// Its width, as a power of two.
    pub(super) width: u32,
    /// Which of those of this width.
    pub(super) index: u64,
}

impl Range {
    /// From the lower to the higher value, either of which may be missing; `None` if both are, or if they are not in one order.
    /// Ends are included whether the comparison includes them or not.
    pub fn between(low: Option<&Datum>, high: Option<&Datum>) -> Option<Self> {
        let order = low.or(high)?.order?;
        let position = |end: &Datum| {
            let position = end.value.position();
            position.filter(|_| end.order == Some(order))
        };
        let slack = match order {
            Order::Number => 0,
            Order::Time => TIME_SLACK_MICROS,
        };
        let low = low.map_or(Some(0), |low| Some(position(low)?.saturating_sub(slack)))?;
        let high = high.map_or(Some(u64::MAX), |high| {
            Some(position(high)?.saturating_add(slack))
        })?;
        Some(Self { order, low, high })
    }

    /// What lies in both; ends that have crossed hold nothing, and then one of the two is as good: `None` if their orders differ.
    pub fn and(self, other: Self) -> Option<Self> {
        let (low, high) = (self.low.max(other.low), self.high.min(other.high));
        (self.order == other.order).then_some(if low <= high {
            Self { low, high, ..self }
        } else {
            self
        })
    }

    /// Its lower end, if it has one; times with the two days that they were widened by.
    pub fn low(self) -> Option<Value> {
        Value::at(self.order, self.low)
    }

    /// Its upper end, likewise.
    pub fn high(self) -> Option<Value> {
        Value::at(self.order, self.high)
    }

    /// Its ends as positions, for those who write it down; [`Self::of`] reads them.
    pub fn ends(self) -> (u64, u64) {
        (self.low, self.high)
    }

    /// A range with these ends, as [`Self::ends`] told them.
    pub fn of(order: Order, low: u64, high: u64) -> Self {
        Self { order, low, high }
    }

    /// Whether both ends are known.
    pub(super) fn is_closed(self) -> bool {
        self.low > 0 && self.high < u64::MAX
    }

    /// Whether a value may lie in it. NULL lies in no range; a value of no order, or of another one, may.
    pub(super) fn may_hold(self, datum: &Datum) -> bool {
        if *datum == Datum::NULL {
            return false;
        }
        let position = datum.value.position();
        let position = position.filter(|_| datum.order == Some(self.order));
        position.is_none_or(|at| (self.low..=self.high).contains(&at))
    }

    /// Whether a value may lie in both.
    pub(super) fn may_meet(self, other: Self) -> bool {
        self.order != other.order || (self.low <= other.high && other.low <= self.high)
    }

    /// The nodes that cover it: those of the smallest width of which at most [`COVER_MAX`] do.
    pub(super) fn cover(self) -> impl Iterator<Item = Node> {
        let high = self.high.max(self.low);
        let at = move |width: u32| (self.low >> width, high >> width);
        let fits = |width: &&u32| {
            let (first, last) = at(**width);
            last - first < COVER_MAX
        };
        let width = *WIDTHS
            .iter()
            .find(fits)
            .expect("invariant: four of the last width cover everything");
        let (first, last) = at(width);
        (first..=last).map(move |index| Node { width, index })
    }

    /// The nodes that a position lies in, one of each width.
    pub(super) fn nodes_of(position: u64) -> impl Iterator<Item = Node> {
        WIDTHS.into_iter().map(move |width| Node {
            width,
            index: position >> width,
        })
    }
}
