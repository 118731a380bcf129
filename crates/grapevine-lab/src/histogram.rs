//! Durations, counted in buckets that are a 64th of their value wide: a quantile is told at most 1.6 % too high, and never too
//! low; the maximum is exact. A fixed 4 K counters, whatever is counted.
//!
//! Values below 64 have a bucket each. Above, a value of n significant bits goes by its n - 6 (an *octave*) and by the six
//! bits after its leading one (the *step*).

use std::time::Duration;

const STEP_BITS: u32 = 6;
const STEPS: usize = 1 << STEP_BITS;
const OCTAVES: usize = 64 - STEP_BITS as usize + 1;

/// Counts of durations, in nanoseconds.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Box<[u64]>,
    total: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; STEPS * OCTAVES].into(),
            total: 0,
            max_ns: 0,
        }
    }
}

impl Histogram {
    /// Counts one duration; over 584 years counts as that.
    pub fn record(&mut self, duration: Duration) {
        self.record_ns(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts one duration in nanoseconds.
    pub fn record_ns(&mut self, value_ns: u64) {
        self.counts[bucket(value_ns)] += 1;
        self.total += 1;
        self.max_ns = self.max_ns.max(value_ns);
    }

    /// Adds another histogram's counts.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// Durations counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The longest, exactly; nothing when nothing was counted.
    pub fn max(&self) -> Option<Duration> {
        (self.total > 0).then(|| Duration::from_nanos(self.max_ns))
    }

    /// The duration that `per_mille` of a thousand do not exceed; nothing when nothing was counted.
    pub fn quantile(&self, per_mille: u64) -> Option<Duration> {
        if self.total == 0 {
            return None;
        }
        let rank = (u128::from(self.total) * u128::from(per_mille))
            .div_ceil(1_000)
            .max(1);
        let mut seen = 0_u128;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= rank {
                return Some(Duration::from_nanos(
                    upper_bound_ns(bucket).min(self.max_ns),
                ));
            }
        }
        self.max()
    }

    /// Median, 99th percentile and maximum in milliseconds; nothing when nothing was counted.
    pub fn summary_ms(&self) -> Option<SummaryMs> {
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        Some(SummaryMs {
            p50: ms(self.quantile(500)?),
            p99: ms(self.quantile(990)?),
            max: ms(self.max()?),
        })
    }
}

/// What a report tells of a histogram, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SummaryMs {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The maximum.
    pub max: f64,
}

impl SummaryMs {
    /// The same to a microsecond.
    #[must_use]
    pub fn rounded(self) -> Self {
        let to_us = |ms: f64| (ms * 1e3).round() / 1e3;
        Self {
            p50: to_us(self.p50),
            p99: to_us(self.p99),
            max: to_us(self.max),
        }
    }
}

fn bucket(value_ns: u64) -> usize {
    let bits = u64::BITS - value_ns.leading_zeros();
    let octave = bits.saturating_sub(STEP_BITS + 1);
    // The leading one and the six bits after it: 64 to 127 where the octave is above 0.
    let step = usize::try_from(value_ns >> octave).expect("invariant: seven bits are left");
    octave as usize * STEPS + step
}

fn upper_bound_ns(bucket: usize) -> u64 {
    if bucket < 2 * STEPS {
        return bucket as u64;
    }
    let octave = bucket / STEPS - 1;
    let step = (bucket - octave * STEPS) as u128;
    let bound = ((step + 1) << octave) - 1;
    u64::try_from(bound).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_counted_has_no_quantiles() {
        let histogram = Histogram::default();
        assert_eq!(histogram.quantile(500), None);
        assert_eq!(histogram.max(), None);
        assert_eq!(histogram.summary_ms(), None);
    }

    #[test]
    fn the_extremes_have_buckets() {
        let mut histogram = Histogram::default();
        for value in [0, 1, 63, 64, 127, 128, u64::MAX] {
            histogram.record_ns(value);
        }
        assert_eq!(histogram.total(), 7);
        assert_eq!(
            histogram.quantile(1_000),
            Some(Duration::from_nanos(u64::MAX))
        );
        assert_eq!(histogram.quantile(0), Some(Duration::ZERO));
    }

    #[test]
    fn a_merge_is_as_if_counted_together() {
        let (mut one, mut other, mut both) = (
            Histogram::default(),
            Histogram::default(),
            Histogram::default(),
        );
        for value in 0..1_000_u64 {
            one.record_ns(value * 7);
            other.record_ns(value * value);
            both.record_ns(value * 7);
            both.record_ns(value * value);
        }
        one.merge(&other);
        assert_eq!(one.counts, both.counts);
        assert_eq!((one.total(), one.max()), (both.total(), both.max()));
    }

    proptest! {
        #[test]
        fn a_bucket_holds_its_values_and_is_narrow(value in any::<u64>()) {
            let bound = upper_bound_ns(bucket(value));
            prop_assert!(bound >= value);
            prop_assert!(bound - value <= value / 64);
            prop_assert!(value == 0 || upper_bound_ns(bucket(value) - usize::from(bucket(value) > 0)) <= bound);
        }

        #[test]
        fn quantiles_are_those_of_the_sorted_list(mut values in prop::collection::vec(0_u64..10_000_000_000, 1..300)) {
            let mut histogram = Histogram::default();
            for value in &values {
                histogram.record_ns(*value);
            }
            values.sort_unstable();
            for per_mille in [500_usize, 990, 1_000] {
                let exact = values[(values.len() * per_mille).div_ceil(1_000) - 1];
                let told = histogram.quantile(per_mille as u64).unwrap().as_nanos();
                prop_assert!(told >= u128::from(exact));
                prop_assert!(told <= u128::from(exact + exact / 64));
            }
        }
    }
}
