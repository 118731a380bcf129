//! Where to find others. chitchat would resolve its seeds before it starts and then once a minute, so it is given none:
//! rounds are made here. A round looks every DNS name up (one look-up at a time per name, so a resolver that hangs
//! holds up only that name) and gossips to a few of the addresses known. Rounds come quickly at first, then every few
//! seconds while the cluster is smaller than expected, and once or twice a minute otherwise, which heals two halves that
//! had forgotten each other. All waits are jittered, so that a thousand sidecars that start together do not ask in step.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;
use tokio::task::JoinSet;

/// Addresses tried in a round; more are drawn at random in the next ones.
const TRIES_PER_ROUND: usize = 8;
/// Addresses kept of one name; of more, a random part.
const ADDRS_PER_NAME_MAX: usize = 256;
/// The longest mean wait between the first two rounds, however rarely there is gossip.
const FIRST_WAIT_MAX: Duration = Duration::from_millis(200);
/// The longest mean wait between rounds while the cluster is smaller than expected.
const HUNGRY_WAIT_MAX: Duration = Duration::from_secs(4);
/// The mean wait between rounds when it is not.
const SETTLED_WAIT: Duration = Duration::from_secs(45);

struct Name {
    host_and_port: String,
    /// The last answer; kept when a look-up fails.
    addrs: Vec<SocketAddr>,
    looking: bool,
}

/// The configured seeds and what they resolve to.
pub(crate) struct Seeds {
    fixed: Vec<SocketAddr>,
    names: Vec<Name>,
    own: SocketAddr,
    /// At most one per name.
    lookups: JoinSet<(usize, io::Result<Vec<SocketAddr>>)>,
    first_wait: Duration,
    hungry_rounds: u32,
}

impl Seeds {
    pub(crate) fn new(seeds: &[String], own: SocketAddr, interval: Duration) -> Self {
        let (mut fixed, mut names) = (Vec::new(), Vec::new());
        for seed in seeds {
            match seed.parse() {
                Ok(addr) => fixed.push(addr),
                Err(_) => names.push(Name {
                    host_and_port: seed.clone(),
                    addrs: Vec::new(),
                    looking: false,
                }),
            }
        }
        Self {
            fixed,
            names,
            own,
            lookups: JoinSet::new(),
            first_wait: interval.min(FIRST_WAIT_MAX),
            hungry_rounds: 0,
        }
    }

    /// Begins a round: starts look-ups, and gives the addresses to try meanwhile.
    pub(crate) fn round(&mut self) -> Vec<SocketAddr> {
        for (index, name) in self
            .names
            .iter_mut()
            .enumerate()
            .filter(|(_, name)| !name.looking)
        {
            name.looking = true;
            let host_and_port = name.host_and_port.clone();
            self.lookups.spawn(async move {
                let found = tokio::net::lookup_host(host_and_port).await;
                (index, found.map(Iterator::collect))
            });
        }
        let known: Vec<SocketAddr> = self
            .fixed
            .iter()
            .chain(self.names.iter().flat_map(|name| &name.addrs))
            .copied()
            .collect();
        self.some_of(&known)
    }

    /// Waits for a look-up to end; gives addresses to try now, or the name that failed. Never ends when none is under
    /// way. Cancel safe.
    pub(crate) async fn found(&mut self) -> Result<Vec<SocketAddr>, String> {
        let Some(ended) = self.lookups.join_next().await else {
            return std::future::pending().await;
        };
        let (index, answer) =
            ended.expect("invariant: look-ups neither panic nor are aborted while awaited");
        let name = &mut self.names[index];
        name.looking = false;
        match answer {
            Ok(addrs) => {
                let drawn = some_of(&addrs, ADDRS_PER_NAME_MAX);
                // Tried at once only if new: known ones had their turn when the round began.
                let new: Vec<SocketAddr> = drawn
                    .iter()
                    .filter(|addr| !name.addrs.contains(addr))
                    .copied()
                    .collect();
                name.addrs = drawn;
                Ok(self.some_of(&new))
            }
            Err(error) => Err(format!("{}: {error}", name.host_and_port)),
        }
    }

    /// How long to wait before the next round.
    pub(crate) fn wait(&mut self, smaller_than_expected: bool) -> Duration {
        if smaller_than_expected {
            let doubled = self
                .first_wait
                .saturating_mul(1 << self.hungry_rounds.min(16));
            self.hungry_rounds = self.hungry_rounds.saturating_add(1);
            jittered(doubled.min(HUNGRY_WAIT_MAX))
        } else {
            self.hungry_rounds = 0;
            jittered(SETTLED_WAIT)
        }
    }

    fn some_of(&self, addrs: &[SocketAddr]) -> Vec<SocketAddr> {
        let others: Vec<SocketAddr> = addrs
            .iter()
            .filter(|addr| **addr != self.own)
            .copied()
            .collect();
        some_of(&others, TRIES_PER_ROUND)
    }
}

/// At most `count` of `addrs`, at random.
pub(crate) fn some_of(addrs: &[SocketAddr], count: usize) -> Vec<SocketAddr> {
    addrs
        .choose_multiple(&mut rand::rng(), count)
        .copied()
        .collect()
}

/// `mean`, give or take a half.
pub(crate) fn jittered(mean: Duration) -> Duration {
    mean.mul_f64(rand::rng().random_range(0.5..1.5))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn own() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 1))
    }

    #[tokio::test]
    async fn addresses_are_tried_at_once_and_names_when_they_are_found() {
        let seeds = [
            "127.0.0.1:2".to_owned(),
            "localhost:3".to_owned(),
            "127.0.0.1:1".to_owned(),
        ];
        let mut seeds = Seeds::new(&seeds, own(), Duration::from_millis(10));
        assert_eq!(
            seeds.round(),
            [SocketAddr::from(([127, 0, 0, 1], 2))],
            "oneself is left out"
        );
        let found = seeds.found().await.unwrap();
        assert!(found.iter().any(|addr| addr.port() == 3), "{found:?}");
        assert!(
            seeds.round().len() > 1,
            "the answer is kept for later rounds"
        );
    }

    #[tokio::test]
    async fn a_name_that_does_not_resolve_is_told_and_tried_again() {
        let mut seeds = Seeds::new(
            &["no-such-host.invalid:3".to_owned()],
            own(),
            Duration::from_millis(10),
        );
        for _ in 0..2 {
            assert!(seeds.round().is_empty());
            let failure = seeds.found().await.unwrap_err();
            assert!(failure.starts_with("no-such-host.invalid:3: "), "{failure}");
        }
    }

    #[test]
    fn hungry_rounds_slow_down_and_settled_ones_are_rare() {
        let mut seeds = Seeds::new(&[], own(), Duration::from_millis(100));
        let within = |wait: Duration, mean: Duration| wait >= mean / 2 && wait <= mean * 3 / 2;
        for mean_ms in [100, 200, 400, 800, 1_600, 3_200, 4_000, 4_000] {
            assert!(within(seeds.wait(true), Duration::from_millis(mean_ms)));
        }
        assert!(within(seeds.wait(false), SETTLED_WAIT));
        assert!(
            within(seeds.wait(true), Duration::from_millis(100)),
            "hunger begins anew"
        );
        let mut rarely = Seeds::new(&[], own(), Duration::from_secs(5));
        assert!(within(rarely.wait(true), FIRST_WAIT_MAX));
    }
}
