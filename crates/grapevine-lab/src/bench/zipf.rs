//! Draws by Zipf's law with exponent 1: the second most popular is drawn half as often as the first, the third a third as often.

use rand::Rng;
use rand::rngs::SmallRng;

/// The weights, each with those before it; a draw is a binary search among them.
#[derive(Debug)]
pub(super) struct Zipf(Vec<f64>);

impl Zipf {
    /// Of so many things, the most popular one first; one at least.
    pub(super) fn new(count: u32) -> Self {
        let mut sum = 0.0;
        let weights = (1..=count.max(1)).map(|rank| {
            sum += f64::from(rank).recip();
            sum
        });
        Self(weights.collect())
    }

    /// The place of one of them.
    pub(super) fn draw(&self, random: &mut SmallRng) -> usize {
        let sum = self.0.last().copied().unwrap_or_default();
        let at = random.random_range(0.0..sum);
        self.0.partition_point(|upto| *upto <= at)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn the_first_is_drawn_twice_as_often_as_the_second() {
        let zipf = Zipf::new(1_000);
        let mut random = SmallRng::seed_from_u64(1);
        let mut drawn = vec![0_u32; 1_000];
        for _ in 0..100_000 {
            drawn[zipf.draw(&mut random)] += 1;
        }
        // The sum of the weights is 7.485.
        assert!((12_900..=13_800).contains(&drawn[0]), "{}", drawn[0]);
        assert!((6_300..=7_100).contains(&drawn[1]), "{}", drawn[1]);
        assert!(drawn[500..].iter().any(|&times| times > 0));
        assert_eq!(Zipf::new(0).draw(&mut random), 0);
    }
}
