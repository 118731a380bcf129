//! How long a bump takes until sidecars in a dozen regions have it, with two packets of a hundred lost: `converge` with relays that take
//! as long as a packet from region to region does ([`regions`], [`relay`]).
//!
//! What is measured is what [`super::converge`] measures; the callers and the watchers have no relay before them. A bump that is
//! everywhere sooner than the slowest delay from its region has not gone through the relays, and ends the bench.
//!
//! The peer: the delay itself, from the bump's region to the one that is farthest from it. Told beside it is the 99th percentile
//! as a multiple of what is allowed to it: the slowest delay of all, and two round trips.

mod dialer;
mod regions;
mod relay;

use std::time::Duration;

use anyhow::ensure;

use self::regions::{COUNT, Delays};
use self::relay::Relays;
use super::clients::application;
use super::contest::{Contest, Side, blocking, on_own_thread};
use super::converge::{converge, figures};
use super::figure::{Figure, Unit};
use super::peers::Peer;
use super::sidecars;
use super::stage::Stage;
use crate::cluster::Place;
use crate::histogram::Histogram;

const LOSS: f64 = 0.02;
const NAMES: [&str; 2] = ["12 regions, p50", "12 regions, p99"];
const OF_ALLOWED: &str = "12 regions, p99, of the slowest delay and two round trips";
/// Clocks and timers may differ by so much.
const TICK: Duration = Duration::from_millis(2);

/// Holds the bench.
pub(super) async fn hold(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let delays = regions::delays();
    let (slowest, names) = regions::slowest(&delays);
    let mut places = Place::free(u32::try_from(COUNT)?)?;
    let relays = Relays::start(&mut places, &delays, LOSS).await?;
    stage.started([format!(
        "relays: {COUNT} regions, slowest from {names}, {} ms one way; {LOSS} of all packets lost",
        slowest.as_millis()
    )]);
    let config = sidecars::expecting(u32::try_from(COUNT)?);
    let know = |processes| relays.know(processes);
    let cluster = sidecars::start_at(stage, &places, &config, know).await?;
    let count = stage.amount(200, COUNT);
    let sockets = cluster.nodes().iter().map(|node| node.app_unix.clone());
    let sockets: Vec<_> = sockets.collect();
    let allowed = slowest * 5;
    let grapevine = on_own_thread(move || {
        let sockets = sockets.clone();
        async move {
            let mut clients = Vec::new();
            for socket in &sockets {
                clients.push(application(socket).await?);
            }
            let times = converge(clients, count).await?;
            told(&delays, &times, allowed)
        }
    });
    let mut peers: Vec<(Peer, Box<dyn Side>)> = Vec::new();
    if stage.options.wants(Peer::Delay) {
        let times = (0..count).map(|number| farthest(&delays, number));
        let times = histogram(times);
        let measure = move || Ok(figures(NAMES, &times).into());
        peers.push((Peer::Delay, blocking(measure)));
    }
    let contest = Contest { grapevine, peers };
    stage.contest("12 regions", contest).await?;
    stage.started([format!("relays: passed on {}", relays.told())]);
    stage.say("ending");
    Ok(cluster.stop().await?)
}

/// How long the slowest packet takes from where a bump is made. Bumps go round the regions.
fn farthest(delays: &Delays, number: usize) -> Duration {
    let from = &delays[number % COUNT];
    from.iter().copied().max().unwrap_or_default()
}

fn histogram(times: impl IntoIterator<Item = Duration>) -> Histogram {
    let mut histogram = Histogram::default();
    for time in times {
        histogram.record(time);
    }
    histogram
}

/// The figures of bumps that took so long, if they can have.
fn told(delays: &Delays, times: &[Duration], allowed: Duration) -> anyhow::Result<Vec<Figure>> {
    for (number, time) in times.iter().enumerate() {
        let delay = farthest(delays, number);
        ensure!(
            *time + TICK >= delay,
            "converge: a bump was everywhere after {time:?}, and no packet can be sooner than {delay:?}"
        );
    }
    let times = histogram(times.iter().copied());
    let p99 = times.quantile(990).unwrap_or_default();
    let mut figures = Vec::from(figures(NAMES, &times));
    figures.push(Figure {
        what: OF_ALLOWED.into(),
        unit: Unit::Times,
        value: p99.as_secs_f64() / allowed.as_secs_f64(),
    });
    Ok(figures)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_bump_that_outruns_light_is_no_figure() {
        let delays = regions::delays();
        let mut times: Vec<_> = (0..COUNT).map(|number| farthest(&delays, number)).collect();
        let slowest = regions::slowest(&delays).0;
        let figures = told(&delays, &times, slowest * 5).unwrap();
        assert_eq!(figures[2].what, OF_ALLOWED);
        assert!((figures[2].value - 0.2).abs() < 0.01, "{figures:?}");
        times[3] -= TICK * 2;
        let error = told(&delays, &times, slowest).unwrap_err().to_string();
        assert!(error.contains("no packet can be sooner"), "{error}");
    }
}
