//! What the machine did at its limits, told to the log: it counts, and does not log.

use std::time::Duration;

use grapevine_core::machine::effects::Counters;
use tokio::time::MissedTickBehavior;

use super::Engine;

/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// A limit, what happens at it, and its counter. Class families that give way are told where they are applied, by name.
type Limit = (&'static str, &'static str, fn(&Counters) -> u64);

const LIMITS: [Limit; 5] = [
    (
        "conjunctions of a class",
        "an invalidation of `match = all` is one of its first class",
        |counters| counters.escalations,
    ),
    (
        "histories of rosters that are followed",
        "everything is invalidated for each further one",
        |counters| counters.histories_refused,
    ),
    (
        "limits.intents_max",
        "write intents of peers are declined; they ask another",
        |counters| counters.intents_declined,
    ),
    (
        "limits.fill_waits_max, or callers who wait for one value",
        "callers are told to ask again for their turn to fill",
        |counters| counters.fills_put_off,
    ),
    (
        "elections that are remembered, or limits.fill_waits_max",
        "turns to fill are given without being remembered",
        |counters| counters.elections_overfull,
    ),
];

/// Tells the log, once a burst, for as long as the sidecar runs.
pub(crate) async fn follow_limits(engine: Engine) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Counters::default();
    loop {
        ticks.tick().await;
        let counted = engine.core.read().counters();
        for (limit, what, counter) in LIMITS {
            let more = counter(&counted).saturating_sub(counter(&told));
            engine.counters.at_limit((limit, ""), what, more);
        }
        told = counted;
        engine.counters.review_limits();
        engine.traces.review();
    }
}
