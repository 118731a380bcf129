//! Ketama: which server holds a key, so that adding or losing a server moves few keys, and so that programs in other
//! languages agree.
//!
//! It is libketama's ring as libmemcached builds it with `KETAMA_WEIGHTED` and equal weights (PHP's
//! `OPT_LIBKETAMA_COMPATIBLE`; pylibmc's `ketama_weighted`), with MD5 for keys. A server's label is `host:port`, or `host`
//! alone when the port is 11211, or `path:0` for a Unix socket. For i from 0 to 39 the MD5 of `label-i` gives four points: its
//! four 32-bit little-endian words. A key's point is the first such word of its MD5, and the server is that of the
//! first point not below it, around the ring. Labels are hashed as configured: names and addresses of one machine differ.
//!
//! libmemcached (1.0.18, `update_continuum` in `libmemcached/hosts.cc`) computes those 40 from a server's share of all
//! weights, in single precision and rounded down: for some numbers of servers, 25 the first of them, it comes to 39. So
//! must we, or one key in forty would be looked for elsewhere than other programs put it.

/// How many digests a server has when `servers` share the ring: the same steps in the same precision.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "as in C; servers are few"
)]
fn digests_per_server(servers: usize) -> usize {
    let live = servers as f32;
    let share = 1.0 / live;
    let digests = f64::from(share * 160.0 / 4.0 * live) + 0.000_000_000_1;
    (digests as f32).floor() as usize
}

/// The ring. Holds 160 points per server, or 156.
#[derive(Debug)]
pub(crate) struct Ring {
    /// (point, server), sorted by point.
    points: Vec<(u32, usize)>,
}

impl Ring {
    pub(crate) fn new<'a>(labels: impl Iterator<Item = &'a str>) -> Self {
        let labels: Vec<_> = labels.collect();
        let digests = digests_per_server(labels.len());
        let mut points = Vec::new();
        for (server, label) in labels.into_iter().enumerate() {
            for number in 0..digests {
                let digest = md5::compute(format!("{label}-{number}")).0;
                points.extend(
                    digest
                        .chunks_exact(4)
                        .map(|word| (little_endian(word), server)),
                );
            }
        }
        points.sort_unstable();
        Self { points }
    }

    /// The index of the server that holds `key`.
    pub(crate) fn server_of(&self, key: &str) -> usize {
        let point = little_endian(&md5::compute(key).0[..4]);
        let at = self.points.partition_point(|(other, _)| *other < point);
        self.points
            .get(at)
            .or(self.points.first())
            .map_or(0, |(_, server)| *server)
    }
}

fn little_endian(word: &[u8]) -> u32 {
    word.iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: [&str; 3] = ["10.0.1.1", "10.0.1.2:11212", "/run/memcached.sock:0"];

    #[test]
    fn servers_are_those_of_an_independent_implementation() {
        // Computed with Python's hashlib and bisect from the description above.
        let ring = Ring::new(LABELS.into_iter());
        let expected = [
            ("a", 0),
            ("user:1", 1),
            ("user:2", 1),
            ("get_items_in_cart::13:10:30", 0),
            ("get_items_in_cart::13:10:40", 2),
            ("get_items_in_cart::14:10:40", 0),
            ("Käse", 1),
            ("item/3333", 0),
            ("item/1111", 0),
        ];
        for (key, server) in expected {
            assert_eq!(ring.server_of(key), server, "{key}");
        }
        assert_eq!(ring.points.len(), 480);
    }

    /// Computed with Python (`struct` for single precision, `hashlib`, `bisect`) from the expression in libmemcached
    /// 1.0.18: `floor((float)(pct * 160 / 4 * (float)live_servers + 0.0000000001)) * 4`.
    #[test]
    fn the_number_of_points_is_libmemcacheds_in_single_precision() {
        let fewer: Vec<_> = (1..=256)
            .filter(|servers| digests_per_server(*servers) != 40)
            .collect();
        let expected = [
            25, 47, 50, 55, 61, 71, 94, 100, 107, 109, 110, 115, 122, 142, 159, 163, 188, 193, 200,
            209, 214, 218, 219, 220, 230, 237, 243, 244,
        ];
        assert_eq!(fewer, expected);
        assert!(
            fewer
                .iter()
                .all(|servers| digests_per_server(*servers) == 39)
        );
    }

    #[test]
    fn twenty_five_servers_are_placed_as_libmemcached_does() {
        let labels: Vec<_> = (1..=25).map(|number| format!("10.0.0.{number}")).collect();
        let ring = Ring::new(labels.iter().map(String::as_str));
        assert_eq!(ring.points.len(), 25 * 39 * 4);
        // By the same Python program; with 40 digests the second six would be on 4, 0, 15, 16, 19 and 7.
        for (number, server) in [(1, 15), (2, 5), (3, 17), (4, 19)].into_iter().chain([
            (10, 15),
            (73, 4),
            (81, 10),
            (132, 13),
            (134, 17),
            (179, 10),
        ]) {
            assert_eq!(
                ring.server_of(&format!("user:{number}")),
                server,
                "{number}"
            );
        }
    }

    #[test]
    fn keys_spread_and_only_a_lost_servers_keys_move() {
        let all = Ring::new(LABELS.into_iter());
        let fewer = Ring::new(LABELS[..2].iter().copied());
        let mut counts = [0_u32; 3];
        for number in 0..30_000 {
            let key = format!("get_items_in_cart::{number}:10:30");
            let before = all.server_of(&key);
            counts[before] += 1;
            if before != 2 {
                assert_eq!(fewer.server_of(&key), before);
            }
        }
        assert!(
            counts.iter().all(|count| (7_000..13_000).contains(count)),
            "{counts:?}"
        );
    }
}
