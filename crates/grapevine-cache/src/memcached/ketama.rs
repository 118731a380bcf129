//! Ketama: which server holds a key, so that adding or losing a server moves few keys, and so that programs in other
//! languages agree.
//!
//! It is libketama's ring as libmemcached builds it with `KETAMA_WEIGHTED` and equal weights (PHP's
//! `OPT_LIBKETAMA_COMPATIBLE`; pylibmc's `ketama_weighted`), with MD5 for keys. A server's label is `host:port`, or `host`
//! alone when the port is 11211, or `path:0` for a Unix socket. For i from 0 to 39 the MD5 of `label-i` gives four points: its
//! four 32-bit little-endian words. A key's point is the first such word of its MD5, and the server is that of the
//! first point not below it, around the ring. Labels are hashed as configured: names and addresses of one machine differ.

/// 40 digests with four points each.
const DIGESTS_PER_SERVER: usize = 40;

/// The ring. Holds 160 points per server.
#[derive(Debug)]
pub(crate) struct Ring {
    /// (point, server), sorted by point.
    points: Vec<(u32, usize)>,
}

impl Ring {
    pub(crate) fn new<'a>(labels: impl Iterator<Item = &'a str>) -> Self {
        let mut points = Vec::new();
        for (server, label) in labels.enumerate() {
            for number in 0..DIGESTS_PER_SERVER {
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
