//! A dozen regions, and how long a packet takes from one to another.
//!
//! The delays are reckoned, not measured: the great circle between two places, light in glass at 200 km a millisecond, 60 % more for the
//! detours of cables and routers, and a millisecond. What clouds tell of their regions lies within some 25 % of that.

use std::time::Duration;

/// A region: its place, in degrees north and east.
struct Region {
    name: &'static str,
    north: f64,
    east: f64,
}

const fn region(name: &'static str, north: f64, east: f64) -> Region {
    Region { name, north, east }
}

const REGIONS: [Region; 12] = [
    region("Virginia", 38.9, -77.4),
    region("Oregon", 45.8, -119.7),
    region("Sao Paulo", -23.5, -46.6),
    region("Dublin", 53.3, -6.3),
    region("Frankfurt", 50.1, 8.7),
    region("Stockholm", 59.3, 18.1),
    region("Cape Town", -33.9, 18.4),
    region("Bahrain", 26.2, 50.6),
    region("Mumbai", 19.1, 72.9),
    region("Singapore", 1.3, 103.8),
    region("Tokyo", 35.7, 139.7),
    region("Sydney", -33.9, 151.2),
];

const EARTH_RADIUS_KM: f64 = 6_371.0;
const KM_PER_MS: f64 = 200.0;
const DETOURS: f64 = 1.6;
const AT_LEAST_MS: f64 = 1.0;

/// So many there are.
pub(super) const COUNT: usize = REGIONS.len();

/// One-way delays, by whence and whither.
pub(super) type Delays = [[Duration; COUNT]; COUNT];

/// The delay between any two; none of a region to itself.
pub(super) fn delays() -> Delays {
    let mut delays = [[Duration::ZERO; COUNT]; COUNT];
    for (from, row) in delays.iter_mut().enumerate() {
        for (to, delay) in row.iter_mut().enumerate() {
            if from != to {
                let km = distance_km(&REGIONS[from], &REGIONS[to]);
                let ms = km / KM_PER_MS * DETOURS + AT_LEAST_MS;
                *delay = Duration::from_secs_f64(ms / 1e3);
            }
        }
    }
    delays
}

/// The two that are farthest from each other: how far, and their names.
pub(super) fn slowest(delays: &Delays) -> (Duration, String) {
    let pairs = (0..COUNT).flat_map(|from| (0..COUNT).map(move |to| (from, to)));
    let (from, to) = pairs
        .max_by_key(|&(from, to)| delays[from][to])
        .expect("invariant: there are regions");
    let names = format!("{} to {}", REGIONS[from].name, REGIONS[to].name);
    (delays[from][to], names)
}

/// Haversine: the shortest way on a sphere.
fn distance_km(one: &Region, other: &Region) -> f64 {
    let square = |angle: f64| (angle.to_radians() / 2.0).sin().powi(2);
    let across = one.north.to_radians().cos() * other.north.to_radians().cos();
    let chord = square(other.north - one.north) + across * square(other.east - one.east);
    2.0 * EARTH_RADIUS_KM * chord.sqrt().asin()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_those_of_the_globe() {
        let delays = delays();
        let at = |name| REGIONS.iter().position(|region| region.name == name);
        let ms = |one, other| {
            let pair = at(one).zip(at(other));
            pair.map(|(one, other)| delays[one][other].as_millis())
        };
        // 5,450 km, 1,090 km and 18,540 km.
        assert_eq!(ms("Virginia", "Dublin"), Some(44));
        assert_eq!(ms("Dublin", "Frankfurt"), Some(9));
        assert_eq!(ms("Tokyo", "Sao Paulo"), Some(149));
        assert_eq!(ms("Tokyo", "Tokyo"), Some(0));
        for (one, row) in delays.iter().enumerate() {
            for (other, delay) in row.iter().enumerate() {
                assert!(delay.abs_diff(delays[other][one]) < Duration::from_micros(1));
                assert!(one == other || *delay > Duration::from_millis(1));
            }
        }
        let (slowest, names) = slowest(&delays);
        assert!(
            delays.iter().flatten().all(|delay| *delay <= slowest),
            "{names}"
        );
    }
}
