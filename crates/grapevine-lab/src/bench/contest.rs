//! Several sides doing the same work, measured in turn.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::clients::alone;
use super::figure::{Figure, Unit, What, median};
use super::peers::Peer;

/// One side.
#[async_trait]
pub(crate) trait Side: Send {
    /// Does the work once and tells its figures, after it has looked at the answers.
    async fn measure(&mut self) -> anyhow::Result<Vec<Figure>>;
}

/// A side that asks asynchronously, on a thread of its own with a runtime of its own.
pub(crate) fn on_own_thread<W, F>(work: W) -> Box<dyn Side>
where
    W: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = anyhow::Result<Vec<Figure>>>,
{
    struct Own<W>(Arc<W>);
    #[async_trait]
    impl<W, F> Side for Own<W>
    where
        W: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = anyhow::Result<Vec<Figure>>>,
    {
        async fn measure(&mut self) -> anyhow::Result<Vec<Figure>> {
            let work = Arc::clone(&self.0);
            alone(move || work()).await
        }
    }
    Box::new(Own(Arc::new(work)))
}

/// A side that waits for its sockets.
pub(crate) fn blocking(
    work: impl FnMut() -> anyhow::Result<Vec<Figure>> + Send + 'static,
) -> Box<dyn Side> {
    struct Blocking<W>(Arc<Mutex<W>>);
    #[async_trait]
    impl<W: FnMut() -> anyhow::Result<Vec<Figure>> + Send + 'static> Side for Blocking<W> {
        async fn measure(&mut self) -> anyhow::Result<Vec<Figure>> {
            let work = Arc::clone(&self.0);
            tokio::task::spawn_blocking(move || (*work.lock())()).await?
        }
    }
    Box::new(Blocking(Arc::new(Mutex::new(work))))
}

/// Grapevine's side and those of its peers.
pub(crate) struct Contest {
    pub(crate) grapevine: Box<dyn Side>,
    pub(crate) peers: Vec<(Peer, Box<dyn Side>)>,
}

/// One figure of Grapevine's, beside one peer's where it has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) what: What,
    pub(crate) unit: Unit,
    /// One per round.
    pub(crate) values: Vec<f64>,
    pub(crate) peer: Option<PeerValues>,
}

/// A peer's figure.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PeerValues {
    pub(crate) peer: Peer,
    /// One per round, of the same rounds.
    pub(crate) values: Vec<f64>,
}

impl Row {
    /// Grapevine's figure as a multiple of the peer's: the median of the rounds' ratios, in each of which both had the same machine.
    pub(crate) fn ratio(&self) -> Option<f64> {
        let peer = self.peer.as_ref()?;
        let ratios: Vec<f64> = self
            .values
            .iter()
            .zip(&peer.values)
            .map(|(ours, theirs)| ours / theirs)
            .collect();
        Some(median(&ratios))
    }
}

/// All rounds' figures of one side, in the order in which it told them.
#[derive(Default)]
struct Rounds {
    order: Vec<(What, Unit)>,
    values: BTreeMap<What, Vec<f64>>,
}

impl Rounds {
    fn add(&mut self, figures: Vec<Figure>) {
        for figure in figures {
            let values = self.values.entry(figure.what.clone()).or_default();
            if values.is_empty() {
                self.order.push((figure.what, figure.unit));
            }
            values.push(figure.value);
        }
    }
}

impl Contest {
    /// Measures every side `runs` times in turn, each round beginning with the next side, after once for nothing. `say` is told what
    /// is being done.
    pub(crate) async fn hold(self, runs: u32, say: impl Fn(&str)) -> anyhow::Result<Vec<Row>> {
        let (peers, others): (Vec<Peer>, Vec<_>) = self.peers.into_iter().unzip();
        let mut sides: Vec<_> = std::iter::once(self.grapevine).chain(others).collect();
        let name = |side: usize| {
            side.checked_sub(1)
                .map_or("grapevine", |at| peers[at].as_str())
        };
        for (at, side) in sides.iter_mut().enumerate() {
            say(&format!("warm-up: {}", name(at)));
            side.measure().await?;
        }
        let mut rounds: Vec<Rounds> = sides.iter().map(|_| Rounds::default()).collect();
        for run in 0..runs as usize {
            for turn in 0..sides.len() {
                let at = (run + turn) % sides.len();
                say(&format!("round {} of {runs}: {}", run + 1, name(at)));
                rounds[at].add(sides[at].measure().await?);
            }
        }
        let mut rounds = rounds.into_iter();
        let ours = rounds.next().expect("invariant: Grapevine's is the first");
        Ok(rows(&ours, &peers, &rounds.collect::<Vec<_>>()))
    }
}

fn rows(ours: &Rounds, peers: &[Peer], theirs: &[Rounds]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (what, unit) in &ours.order {
        let values = &ours.values[what];
        let row = |peer| Row {
            what: what.clone(),
            unit: *unit,
            values: values.clone(),
            peer,
        };
        let before = rows.len();
        for (&peer, rounds) in peers.iter().zip(theirs) {
            if let Some(values) = rounds.values.get(what).cloned() {
                rows.push(row(Some(PeerValues { peer, values })));
            }
        }
        if rows.len() == before {
            rows.push(row(None));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Tells how many have been measured before it, times a factor.
    struct Counting {
        clock: Arc<AtomicU32>,
        whats: &'static [&'static str],
        factor: f64,
    }

    #[async_trait]
    impl Side for Counting {
        async fn measure(&mut self) -> anyhow::Result<Vec<Figure>> {
            let value = f64::from(self.clock.fetch_add(1, Ordering::Relaxed)) * self.factor;
            let unit = Unit::PerSecond;
            let figure = |&what: &&'static str| Figure {
                what: what.into(),
                unit,
                value,
            };
            Ok(self.whats.iter().map(figure).collect())
        }
    }

    #[tokio::test]
    async fn sides_are_measured_in_turn_and_met_by_name() {
        let clock = Arc::new(AtomicU32::new(0));
        let side = |whats, factor| -> Box<dyn Side> {
            Box::new(Counting {
                clock: Arc::clone(&clock),
                whats,
                factor,
            })
        };
        let contest = Contest {
            grapevine: side(&["first", "alone"], 1.0),
            peers: vec![
                (Peer::Redis, side(&["first"], 10.0)),
                (Peer::Tonic, side(&["first"], 100.0)),
            ],
        };
        let said = parking_lot::Mutex::new(Vec::new());
        let rows = contest
            .hold(2, |line| said.lock().push(line.to_owned()))
            .await
            .unwrap();
        // The warm-up takes 0, 1 and 2; the second round begins with the second side.
        let told: Vec<_> = rows
            .iter()
            .map(|row| {
                let peer = row
                    .peer
                    .as_ref()
                    .map(|peer| (peer.peer, peer.values.clone()));
                (row.what.as_ref(), row.values.clone(), peer)
            })
            .collect();
        assert_eq!(
            told,
            [
                (
                    "first",
                    vec![3.0, 8.0],
                    Some((Peer::Redis, vec![40.0, 60.0]))
                ),
                (
                    "first",
                    vec![3.0, 8.0],
                    Some((Peer::Tonic, vec![500.0, 700.0]))
                ),
                ("alone", vec![3.0, 8.0], None),
            ]
        );
        let ratio = f64::midpoint(3.0 / 40.0, 8.0 / 60.0);
        assert!((rows[0].ratio().unwrap() - ratio).abs() < 1e-9);
        assert_eq!(rows[2].ratio(), None);
        assert_eq!(said.lock()[3], "round 1 of 2: grapevine");
        assert_eq!(said.lock()[6], "round 2 of 2: redis");
    }

    #[tokio::test]
    async fn a_side_that_fails_ends_the_contest() {
        struct Failing;
        #[async_trait]
        impl Side for Failing {
            async fn measure(&mut self) -> anyhow::Result<Vec<Figure>> {
                anyhow::bail!("a wrong answer")
            }
        }
        let contest = Contest {
            grapevine: Box::new(Failing),
            peers: Vec::new(),
        };
        let error = contest.hold(1, |_| ()).await.unwrap_err();
        assert_eq!(error.to_string(), "a wrong answer");
    }
}
