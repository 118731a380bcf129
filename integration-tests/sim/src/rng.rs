//! Randomness: everything that a run draws comes from its seed.
//!
//! Each part of the world draws from a stream of its own, so that taking one operation out of a schedule, as shrinking
//! does, leaves the draws of the other parts alone.

use rand::SeedableRng as _;
use rand::rngs::SmallRng;

/// The stream of one part of the world.
pub(crate) fn stream(seed: u64, part: u64) -> SmallRng {
    SmallRng::seed_from_u64(mix(seed ^ mix(part)))
}

/// Spreads a number over all 64 bits (the finalizer of `SplitMix64`).
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
