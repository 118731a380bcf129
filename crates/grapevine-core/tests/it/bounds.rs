//! A table of classes under a load far beyond its limits: memory stays within them, and tokens stay right.
//!
//! `GRAPEVINE_CLASSES` sets how many different classes are bumped; a hundredth of them fit.

use std::collections::HashSet;
use std::time::Duration;

use grapevine_core::event::{Match, PurgeMode};
use grapevine_core::id::{Incarnation, Time, UnixSeconds};
use grapevine_core::machine::effects::{Freshness, Input, Invalidate, Query, ReceiptLevel, Ticket};
use grapevine_core::machine::{Core, CoreConfig, Limits};
use grapevine_core::names::NodeId;
use grapevine_core::store::Recovered;
use grapevine_core::token::Token;

use crate::world::{MAX_STALENESS, address, class, registered};

/// Classes that are looked at, spread over all of them.
const WATCHED: u64 = 500;
/// Top-level classes.
const TOPS: u64 = 20;
const CALL: u64 = 1_000;

/// A sidecar alone, whose every write is flushed at once.
struct Alone {
    core: Core,
    now: Time,
    tickets: u64,
}

impl Alone {
    fn new(limits: Limits) -> Self {
        let config = CoreConfig {
            node_id: NodeId::parse("a").unwrap(),
            incarnation: Incarnation::new(0xa1).unwrap(),
            policies: registered(),
            expected_members: 1,
            max_staleness: MAX_STALENESS,
            member_timeout: Duration::from_mins(1),
            crash_timeout: Duration::from_mins(1),
            retire_after: Duration::from_hours(1),
            lease_duration: Duration::from_mins(1),
            clock_rate_ppm: 200,
            limits,
        };
        let now = Time::from_start(Duration::from_secs(1));
        let (core, effects) = Core::start(config, &Recovered::default(), now);
        let tickets = 0;
        let mut this = Self { core, now, tickets };
        effects
            .commit
            .into_iter()
            .for_each(|commit| this.input(Input::Flushed(commit)));
        for _ in 0..100 {
            this.now = this.now.plus(Duration::from_millis(100));
            this.input(Input::Wake);
        }
        assert_eq!(this.core.freshness(this.now), Freshness::Fresh);
        this
    }

    fn input(&mut self, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next {
            let effects = self.core.handle(input, self.now, UnixSeconds(1_000_000));
            next = effects.commit.map(Input::Flushed);
        }
    }

    fn bump(&mut self, paths: impl Iterator<Item = String>) {
        self.tickets += 1;
        let call = Invalidate {
            classes: paths.map(|path| class(&path)).collect(),
            matching: Match::Any,
            purge: PurgeMode::Hard,
            level: ReceiptLevel::None,
            deadline: self.now,
        };
        self.input(Input::Invalidate(Ticket(self.tickets), call));
    }

    fn token(&self, path: &str) -> Token {
        let query = Query {
            address: address("x"),
            classes: vec![class(path)],
            slice: None,
        };
        self.core.resolve(&query, self.now, 0).unwrap().token
    }
}

fn path(number: u64) -> String {
    format!("t{}/{number}", number % TOPS)
}

#[test]
fn g2_g10_a_hundred_times_more_classes_than_fit_stay_within_the_limits_with_right_tokens() {
    let total = std::env::var("GRAPEVINE_CLASSES").ok();
    let total: u64 = total.map_or(200_000, |text| text.parse().unwrap());
    let room = usize::try_from(total / 100).unwrap();
    let limits = Limits {
        classes_max: room,
        classes_per_top_max: room / 8,
        ..Limits::default()
    };
    let mut alone = Alone::new(limits);
    let step = total / WATCHED;
    let watched: Vec<String> = (0..WATCHED).map(|at| path(at * step)).collect();
    let mut seen: Vec<HashSet<Token>> = vec![HashSet::new(); watched.len()];
    let mut current: Vec<Token> = watched.iter().map(|path| alone.token(path)).collect();
    let mut look = |alone: &Alone, bumped: std::ops::Range<u64>| {
        for (at, path) in watched.iter().enumerate() {
            let (token, before) = (alone.token(path), current[at]);
            let hit = bumped.contains(&(at as u64 * step));
            assert!(
                !hit || token != before,
                "G1: {path} was bumped and kept its token"
            );
            if token != before {
                assert!(seen[at].insert(before), "G2: {path} left a token twice");
                current[at] = token;
            }
            assert!(!seen[at].contains(&token), "G2: {path} has an old token");
        }
    };
    let mut most = 0;
    for first in (0..total).step_by(usize::try_from(CALL).unwrap()) {
        let last = (first + CALL).min(total);
        alone.bump((first..last).map(path));
        most = most.max(alone.core.versions().len());
        // All of them now and then, for that is what takes the time.
        if first % (step * 5) < CALL {
            look(&alone, first..last);
        }
    }
    // Those of one call come in together.
    let bound = room + usize::try_from(CALL + TOPS).unwrap();
    println!("{total} classes bumped, at most {most} held; the limit is {room}");
    assert!(most <= bound, "{most} held; the limit is {room}");
    assert!(alone.core.counters().floors_own > 0);
}
