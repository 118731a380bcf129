//! Runs that are over, and under which name their bumps go on.
//!
//! Every start of a sidecar leaves a run behind. A view may *retire* some: from then on the bump (run, sequence), if the
//! sequence is at most the run's head as the view tells it, counts as (*the history's retirements*, the view's number).
//! That name is no run's, and it is numbered by views. Read as a map over entries this commutes with joins: whoever maps
//! what he knows and joins afterwards has what he would have had the other way round, so tokens stay functions of what
//! is known (G12). A later bump of a retired run keeps its own number *beside* that name's, as if the run had bumped the
//! class before: whether it had, nobody could tell from the highest number alone. See docs/decisions/0014.
//!
//! Views repeat what earlier ones retired, so that who was away for a few of them can follow. The list is bounded; who
//! knows less than is left of it takes a snapshot.
//!
//! Where a view *closed* the lane of retirements, since nobody had some retired run whole, what counts under that name up to
//! there is *dropped*: each knew another part of it, and that view bumped everything.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use crate::id::{EventId, Incarnation};
use crate::vector::VersionVector;

/// The most retirements that a view can repeat; the oldest are forgotten, all of a view together.
pub const RETIRED_MAX: usize = 1_024;
/// The most runs that one view retires.
pub const LOT_MAX: usize = 256;

/// What a view retires, and how much of what was retired before it repeats.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lot {
    /// The runs to retire, each with its head. At most [`LOT_MAX`].
    pub runs: BTreeMap<Incarnation, u64>,
    /// Runs that were retired before and are followed again, for bumps of them came later. To forget that they are retired
    /// would have such a bump count otherwise where it comes after that.
    pub followed: BTreeSet<Incarnation>,
    /// How many retirements the view repeats at most, [`RETIRED_MAX`] if that is less.
    pub most: usize,
}

/// Retirements: of which run, up to which head, by the view of which number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retired {
    /// At most [`RETIRED_MAX`], or as many as who proposes views will have. A run has several if bumps of it turned up after it was retired.
    numbers: BTreeMap<(Incarnation, u64), u64>,
    forgotten: u64,
    latest: u64,
    /// Numbers up to here count for nothing. Not part of a view: it follows from what that closed.
    dropped: u64,
}

impl Retired {
    /// From its parts: (run, head, number), and the number of the latest view whose retirements are not among them.
    pub fn new(parts: impl IntoIterator<Item = (Incarnation, u64, u64)>, forgotten: u64) -> Self {
        let parts = parts.into_iter();
        let numbers = parts.map(|(run, head, number)| ((run, head), number));
        Self::of(numbers.collect(), forgotten)
    }

    fn of(numbers: BTreeMap<(Incarnation, u64), u64>, forgotten: u64) -> Self {
        Self {
            latest: numbers.values().copied().max().unwrap_or(0),
            numbers,
            forgotten,
            dropped: 0,
        }
    }

    /// Each of them: the run, its head, and the number of the view.
    pub fn iter(&self) -> impl Iterator<Item = (Incarnation, u64, u64)> + '_ {
        let all = self.numbers.iter();
        all.map(|(&(run, head), &number)| (run, head, number))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// The latest view whose retirements are not among these; 0 if they are all.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// The latest view that retired anything; 0 if none did.
    pub fn latest(&self) -> u64 {
        self.latest
    }

    /// These and a further view's, without the oldest if they are too many: all of a view together, but for runs that are
    /// followed, or that a later one retires again. Of a run that is forgotten by halves some would count bumps under the
    /// earlier number and others under the later one.
    #[must_use]
    pub fn with(&self, lot: &Lot, number: u64) -> Self {
        let mut all = self.clone();
        for (&run, &head) in &lot.runs {
            // What was retired before keeps its number, for some have mapped it already.
            if all.head(run).is_none_or(|before| before < head) {
                all.numbers.insert((run, head), number);
            }
        }
        // Who retires nothing forgets nothing; and no view forgets what it retires itself.
        if !lot.runs.is_empty() {
            all.forget(number, lot.most.min(RETIRED_MAX), &lot.followed);
            all.forget(number, RETIRED_MAX, &BTreeSet::new());
            if all.numbers.len() > RETIRED_MAX {
                // Runs that were retired again and again.
                all.numbers.retain(|_, of| *of == number);
                all.forgotten = self.latest;
            }
        }
        Self::of(all.numbers, all.forgotten)
    }

    /// Forgets the runs that views before one retired last, the oldest first, until there is no more than `most`, or none
    /// but those kept.
    fn forget(&mut self, before: u64, most: usize, kept: &BTreeSet<Incarnation>) {
        while self.numbers.len() > most {
            // Of a run the last number is the highest.
            let last: BTreeMap<_, _> = self.iter().map(|(run, _, number)| (run, number)).collect();
            let others = last.iter().filter(|(run, _)| !kept.contains(run));
            let oldest = others.map(|(_, number)| *number).min();
            let Some(oldest) = oldest.filter(|oldest| *oldest < before) else {
                return;
            };
            self.numbers
                .retain(|(run, _), _| last[run] > oldest || kept.contains(run));
            self.forgotten = self.forgotten.max(oldest);
        }
    }

    /// Those of views up to a number.
    #[must_use]
    pub fn up_to(&self, number: u64) -> Self {
        let mut numbers = self.numbers.clone();
        numbers.retain(|_, of| *of <= number);
        Self::of(numbers, self.forgotten)
    }

    /// These, where what counts up to a number counts for nothing.
    #[must_use]
    pub fn dropping(mut self, number: u64) -> Self {
        self.dropped = number;
        self
    }

    /// Nothing but that whatever these runs bumped counts for nothing.
    pub fn strip(runs: impl IntoIterator<Item = Incarnation>) -> Self {
        Self::new(runs.into_iter().map(|run| (run, u64::MAX, 0)), 0)
    }

    /// Whether it leaves every vector as it is.
    pub fn is_identity(&self) -> bool {
        self.is_empty() && self.dropped == 0
    }

    /// Whether entries of an origin may count otherwise.
    pub fn concerns(&self, origin: Incarnation, name: Incarnation) -> bool {
        self.head(origin).is_some() || origin == name && self.dropped > 0
    }

    /// Whether each of the others is among these, and counts as it does there.
    pub fn has_all(&self, others: &Self) -> bool {
        let mut all = others.numbers.iter();
        self.dropped == others.dropped
            && all.all(|(key, number)| self.numbers.get(key) == Some(number))
    }

    /// Up to where a run is retired; `None` if it is not.
    pub fn head(&self, run: Incarnation) -> Option<u64> {
        let last = self.numbers.range(heads_of(run, 0)).next_back();
        last.map(|(&(_, head), _)| head)
    }

    /// For an event of a retired run: the number that it counts under, and whether it keeps its own beside it.
    pub fn fate(&self, event: EventId) -> Option<(u64, bool)> {
        let EventId { origin, sequence } = event;
        let first = self.numbers.range(heads_of(origin, sequence)).next();
        if let Some((_, &number)) = first {
            return Some((number, false));
        }
        let last = self.numbers.range(heads_of(origin, 0)).next_back();
        last.map(|(_, &number)| (number, true))
    }

    /// A vector as it counts, with the name of the history's retirements.
    pub fn image(&self, name: Incarnation, vector: &VersionVector) -> VersionVector {
        if self.is_identity() {
            return vector.clone();
        }
        let mut image = VersionVector::new();
        for (origin, sequence) in vector.iter() {
            let fate = self.fate(EventId { origin, sequence });
            if let Some((number, _)) = fate.filter(|(number, _)| *number > self.dropped) {
                image.raise(name, number);
            }
            let dropped = origin == name && sequence <= self.dropped;
            if !dropped && fate.is_none_or(|(_, keeps)| keeps) {
                image.raise(origin, sequence);
            }
        }
        image
    }
}

fn heads_of(run: Incarnation, from: u64) -> RangeInclusive<(Incarnation, u64)> {
    (run, from)..=(run, u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    fn run(number: u128) -> Incarnation {
        Incarnation::new(number).unwrap()
    }

    fn name() -> Incarnation {
        run(9).as_history().as_retirements()
    }

    fn lot_of(runs: BTreeMap<Incarnation, u64>) -> Lot {
        Lot {
            runs,
            most: RETIRED_MAX,
            ..Lot::default()
        }
    }

    fn lots() -> impl Strategy<Value = Retired> {
        (all_lots(), 0_u64..6).prop_map(|(lots, dropped)| lots.dropping(dropped))
    }

    fn all_lots() -> impl Strategy<Value = Retired> {
        let lot = proptest::collection::btree_map((1_u128..5).prop_map(run), 0_u64..6, 0..3);
        proptest::collection::vec(lot, 0..5).prop_map(|lots| {
            let mut all = Retired::default();
            for (number, lot) in (1..).zip(lots) {
                all = all.with(&lot_of(lot), number);
            }
            all
        })
    }

    fn vectors() -> impl Strategy<Value = VersionVector> {
        let origin = prop_oneof![4 => (1_u128..6).prop_map(run), 1 => Just(name())];
        proptest::collection::vec((origin, 0_u64..8), 0..6)
            .prop_map(|entries| entries.into_iter().collect())
    }

    fn joined(one: &VersionVector, other: &VersionVector) -> VersionVector {
        let mut joined = one.clone();
        joined.join(other);
        joined
    }

    proptest! {
        #[test]
        fn g12_the_image_of_a_join_is_the_join_of_the_images(lots in lots(), a in vectors(), b in vectors()) {
            let image = |vector: &VersionVector| lots.image(name(), vector);
            prop_assert_eq!(image(&joined(&a, &b)), joined(&image(&a), &image(&b)));
        }

        #[test]
        fn g12_retiring_view_by_view_is_retiring_at_once(lots in lots(), a in vectors()) {
            let mut stepwise = a.clone();
            for number in 1..=lots.latest() {
                stepwise = lots.up_to(number).image(name(), &stepwise);
            }
            stepwise = lots.image(name(), &stepwise);
            prop_assert_eq!(&stepwise, &lots.image(name(), &a));
            prop_assert_eq!(&lots.image(name(), &stepwise), &stepwise);
        }
    }

    #[test]
    fn g10_the_oldest_retirements_are_forgotten_all_of_a_view_together() {
        let mut all = Retired::default();
        for number in 1..=6 {
            let lot =
                (0..LOT_MAX as u128).map(|at| (run((u128::from(number) << 32) | (at + 1)), 1));
            all = all.with(&lot_of(lot.collect()), number);
            assert!(all.len() <= RETIRED_MAX);
        }
        assert_eq!(
            (all.len(), all.forgotten(), all.latest()),
            (RETIRED_MAX, 2, 6)
        );
        assert_eq!(all.head(run((2 << 32) | 1)), None);
        assert_eq!(all.head(run((3 << 32) | 1)), Some(1));
    }

    #[test]
    fn g12_a_run_that_was_retired_twice_is_not_forgotten_by_halves() {
        let mut all = Retired::default();
        let lots = [(1, 1), (2, 1), (1, 3), (3, 1), (4, 1)];
        for (number, (of, head)) in (1..).zip(lots) {
            let lot = Lot {
                runs: BTreeMap::from([(run(of), head)]),
                most: 3,
                ..Lot::default()
            };
            all = all.with(&lot, number);
            if number == 4 {
                let left: Vec<_> = all.iter().collect();
                assert_eq!(left, [(run(1), 1, 1), (run(1), 3, 3), (run(3), 1, 4)]);
                assert_eq!(all.forgotten(), 2);
            }
        }
        let left: Vec<_> = all.iter().collect();
        assert_eq!(left, [(run(3), 1, 4), (run(4), 1, 5)]);
        assert_eq!(all.forgotten(), 3);
    }

    #[test]
    fn g10_runs_that_are_retired_again_and_again_are_forgotten_too() {
        let lot = |head| lot_of((1..=LOT_MAX as u128).map(|of| (run(of), head)).collect());
        let mut all = Retired::default();
        for number in 1..=5 {
            all = all.with(&lot(number), number);
            assert!(all.len() <= RETIRED_MAX);
        }
        assert_eq!((all.len(), all.forgotten()), (LOT_MAX, 4));
    }

    #[test]
    fn g12_a_retirement_is_not_forgotten_while_its_run_is_followed() {
        let mut all = Retired::default();
        for number in 1..=4 {
            let lot = Lot {
                runs: BTreeMap::from([(run(u128::from(number)), 1)]),
                followed: BTreeSet::from([run(1)]),
                most: 2,
            };
            all = all.with(&lot, number);
        }
        let left: Vec<_> = all.iter().collect();
        assert_eq!(left, [(run(1), 1, 1), (run(4), 1, 4)]);
        assert_eq!(all.forgotten(), 3);
    }
}
