//! A trace that is made, for whoever has none that was recorded.
//!
//! It takes after `orm-busy.trace.xz` in what a cache feels. *Popularity*: 64,849 objects of 30 types, the one of rank `r` drawn in proportion
//! to `(r + 800)^-1.5`, so that the 100 most popular ones have 7 % of the accesses, 1,000 have 38 % and 10,000 have 88 % (recorded: 11,
//! 38 and 82 %). *Locality*: 64 of 100 accesses are of what was accessed up to 1,500 accesses ago, at a distance whose
//! logarithm is drawn evenly, so that 23 % come again within 10, 44 % within 100 and 65 % within 1,000 (recorded: 19, 47 and 68 %). One object
//! in eighteen has five indices, the others one. It does not have the recorded one's hours, nor its objects of hundreds of indices.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use liblzma::write::XzEncoder;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::trace::Record;

/// Records of a trace that is not for a short form.
pub(super) const RECORDS: u64 = 1_000_000;

const OBJECTS: u32 = 64_849;
const KINDS: u32 = 30;
const SHIFT: f64 = 800.0;
const RECENT: u16 = 1_500;
const AGAIN: f64 = 0.64;
const SEED: u64 = 7;
/// Of xz: a trace is read many times and written once, but nobody waits for the last byte that could be saved.
const PRESET: u32 = 1;

/// Writes a trace of so many records.
pub(super) fn write(path: &Path, records: u64) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| path.display().to_string())?;
    let mut encoder = XzEncoder::new(BufWriter::new(file), PRESET);
    let mut accesses = Accesses::new();
    for _ in 0..records {
        encoder.write_all(&accesses.next().bits().to_be_bytes())?;
    }
    encoder.finish()?.flush()?;
    Ok(())
}

struct Accesses {
    random: SmallRng,
    /// Of each rank, with those before it.
    weights: Vec<f64>,
    /// The last ones, in a ring.
    recent: Vec<Record>,
    made: usize,
}

impl Accesses {
    fn new() -> Self {
        let mut sum = 0.0;
        let weights = (1..=OBJECTS).map(|rank| {
            sum += (f64::from(rank) + SHIFT).powf(-1.5);
            sum
        });
        Self {
            random: SmallRng::seed_from_u64(SEED),
            weights: weights.collect(),
            recent: Vec::with_capacity(RECENT.into()),
            made: 0,
        }
    }

    fn next(&mut self) -> Record {
        let room = usize::from(RECENT);
        let record = if self.recent.len() == room && self.random.random_bool(AGAIN) {
            let back = self.distance();
            self.recent[(self.made + room - back) % room]
        } else {
            self.fresh()
        };
        if self.recent.len() < room {
            self.recent.push(record);
        } else {
            self.recent[self.made % room] = record;
        }
        self.made += 1;
        record
    }

    /// How many accesses ago, 1 to [`RECENT`].
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and RECENT"
    )]
    fn distance(&mut self) -> usize {
        let logarithm = self.random.random_range(0.0..=f64::from(RECENT).ln());
        (logarithm.exp() as usize).clamp(1, RECENT.into())
    }

    fn fresh(&mut self) -> Record {
        let sum = self.weights.last().copied().unwrap_or_default();
        let at = self.random.random_range(0.0..sum);
        let object = self.weights.partition_point(|upto| *upto <= at);
        let object = u32::try_from(object).expect("invariant: below OBJECTS");
        let index = if object.is_multiple_of(18) {
            self.random.random_range(0..5)
        } else {
            0
        };
        Record::new(object % KINDS, object / KINDS, index)
            .expect("invariant: types, ids and indices are far below their maxima")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::collections::{HashMap, HashSet};

    use super::*;
    use crate::trace::TraceReader;

    #[test]
    fn it_has_the_shape_that_it_is_said_to_have() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made.xz");
        write(&path, 200_000).unwrap();
        let records: Vec<Record> = TraceReader::open(&path, None)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(records.len(), 200_000);
        let kinds: HashSet<u32> = records.iter().map(|record| record.kind()).collect();
        assert_eq!(kinds.len(), KINDS as usize);
        let mut last = HashMap::new();
        let mut within = [0_u32; 2];
        for (at, record) in records.iter().enumerate() {
            if let Some(before) = last.insert(record, at) {
                within[0] += u32::from(at - before <= 10);
                within[1] += u32::from(at - before <= 100);
            }
        }
        let [ten, hundred] = within.map(|count| f64::from(count) / 200_000.0);
        assert!((0.20..0.28).contains(&ten), "{ten}");
        assert!((0.42..0.47).contains(&hundred), "{hundred}");
        let mut counts: HashMap<u32, u32> = HashMap::new();
        for record in &records {
            *counts.entry(record.object().bits()).or_default() += 1;
        }
        let mut counts: Vec<u32> = counts.into_values().collect();
        counts.sort_unstable_by(|one, other| other.cmp(one));
        let thousand: u32 = counts[..1_000].iter().sum();
        let share = f64::from(thousand) / 200_000.0;
        assert!((0.33..0.48).contains(&share), "{share}");
    }
}
