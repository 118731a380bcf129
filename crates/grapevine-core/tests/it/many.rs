//! A hundred million classes bumped at a pair of sidecars with room for few: memory stays within the bound all along, both
//! give the same tokens, and none of them comes back.
//!
//! The machines are real, and linked by a wire that loses nothing; a flush takes no time and nothing is kept of it. By
//! turns one of them is asked for a bump of a thousand classes, the other one applies it, and whoever issued it evicts.
//! `GRAPEVINE_PAIR_CLASSES` sets how many are bumped in all; see docs/benchmarks.md for the run with all of them.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use grapevine_core::event::{Match, PurgeMode};
use grapevine_core::id::{Incarnation, Time, UnixSeconds};
use grapevine_core::machine::effects::{
    Action, Effects, Freshness, Input, Invalidate, PeerHello, Query, ReceiptLevel, Side, Ticket,
};
use grapevine_core::machine::{Core, CoreConfig, Limits};
use grapevine_core::names::NodeId;
use grapevine_core::store::Recovered;
use grapevine_core::token::Token;

use crate::world::{MAX_STALENESS, address, class, registered};

/// Top-level classes.
const TOPS: u64 = 2;
/// Classes bumped by one call.
const CALL: u64 = 1_000;
/// Bumped classes that there is room for, and how many of them of one top-level class.
const ROOM: usize = 20_000;
const ROOM_PER_TOP: usize = 12_000;
/// Classes looked at again and again, spread over all of them, and after how many calls.
const WATCHED: u64 = 200;
const LOOK_EVERY: u64 = 50;

struct Pair {
    cores: Vec<Core>,
    now: Time,
    inputs: VecDeque<(usize, Input)>,
    calls: u64,
}

impl Pair {
    fn linked() -> Self {
        let limits = Limits {
            classes_max: ROOM,
            classes_per_top_max: ROOM_PER_TOP,
            ..Limits::default()
        };
        let mut this = Self {
            cores: Vec::new(),
            now: Time::from_start(Duration::from_secs(1)),
            inputs: VecDeque::new(),
            calls: 0,
        };
        for (at, name) in ["a", "b"].iter().enumerate() {
            let config = CoreConfig {
                node_id: NodeId::parse(name).unwrap(),
                incarnation: Incarnation::new(0xa1 + at as u128).unwrap(),
                policies: registered(),
                expected_members: 2,
                max_staleness: MAX_STALENESS,
                member_timeout: Duration::from_hours(1),
                crash_timeout: Duration::from_hours(1),
                retire_after: Duration::from_hours(1),
                lease_duration: Duration::from_mins(1),
                clock_rate_ppm: 200,
                limits,
            };
            let (core, effects) = Core::start(config, &Recovered::default(), this.now);
            this.cores.push(core);
            this.take(at, effects);
        }
        let hellos: Vec<_> = this.cores.iter().map(hello).collect();
        for (at, of) in [(0, 1), (1, 0)] {
            for side in [Side::Inbound, Side::Outbound] {
                let hello = hellos[of].clone();
                this.inputs.push_back((at, Input::LinkUp { hello, side }));
            }
        }
        this.settle();
        for _ in 0..100 {
            this.pass(Duration::from_millis(50));
        }
        this
    }

    fn take(&mut self, at: usize, effects: Effects) {
        if let Some(commit) = effects.commit {
            self.inputs.push_back((at, Input::Flushed(commit)));
        }
        let from = self.cores[at].incarnation();
        for action in effects.actions {
            match action {
                Action::Broadcast(message) | Action::Send { message, .. } => {
                    self.inputs
                        .push_back((1 - at, Input::Peer { from, message }));
                }
                Action::ServeLog { .. } | Action::ServeSnapshot { .. } => {
                    panic!("the wire loses nothing, and something was asked for again")
                }
                Action::Stop(reason) => panic!("{reason}"),
                _ => {}
            }
        }
    }

    fn settle(&mut self) {
        while let Some((at, input)) = self.inputs.pop_front() {
            let effects = self.cores[at].handle(input, self.now, UnixSeconds(1_000_000));
            self.take(at, effects);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.plus(time);
        (0..2).for_each(|at| self.inputs.push_back((at, Input::Wake)));
        self.settle();
    }

    fn bump(&mut self, at: usize, numbers: std::ops::Range<u64>) {
        self.calls += 1;
        let call = Invalidate {
            classes: numbers.map(|number| class(&path(number))).collect(),
            matching: Match::Any,
            purge: PurgeMode::Hard,
            level: ReceiptLevel::None,
            deadline: self.now,
        };
        let ticket = Ticket(self.calls);
        self.inputs.push_back((at, Input::Invalidate(ticket, call)));
        self.pass(Duration::from_millis(20));
    }

    fn token(&self, at: usize, path: &str) -> Token {
        let query = Query {
            address: address("x"),
            classes: vec![class(path)],
            slice: None,
        };
        let core = &self.cores[at];
        core.resolve(&query, self.now, 0).unwrap().token
    }

    fn held(&self) -> usize {
        let held = self.cores.iter().map(|core| core.versions().len());
        held.max().unwrap()
    }
}

fn hello(core: &Core) -> PeerHello {
    PeerHello {
        node_id: core.config().node_id.clone(),
        incarnation: core.incarnation(),
        peer_address: "x:1".to_owned(),
        policy_digest: core.config().policies.digest(),
    }
}

fn path(number: u64) -> String {
    format!("t{}/{number}", number % TOPS)
}

#[test]
fn g2_g10_g12_a_pair_with_little_room_keeps_to_it_whatever_is_bumped_with_the_same_tokens() {
    let total = std::env::var("GRAPEVINE_PAIR_CLASSES").ok();
    let total: u64 = total.map_or(100_000, |text| text.parse().unwrap());
    let mut pair = Pair::linked();
    for core in &pair.cores {
        assert_eq!(core.freshness(pair.now), Freshness::Fresh);
    }
    let step = total / WATCHED;
    let watched: Vec<String> = (0..WATCHED).map(|at| path(at * step)).collect();
    let mut seen: Vec<HashSet<Token>> = vec![HashSet::new(); watched.len()];
    let mut current: Vec<Token> = watched.iter().map(|path| pair.token(0, path)).collect();
    let mut most = 0;
    for (call, first) in (0..total)
        .step_by(usize::try_from(CALL).unwrap())
        .enumerate()
    {
        let last = (first + CALL).min(total);
        let before = pair.token(0, &path(first));
        pair.bump(call % 2, first..last);
        assert_ne!(
            pair.token(0, &path(first)),
            before,
            "G1: {first} was bumped"
        );
        most = most.max(pair.held());
        if !(call as u64).is_multiple_of(LOOK_EVERY) && last < total {
            continue;
        }
        for (at, path) in watched.iter().enumerate() {
            let (token, before) = (pair.token(0, path), current[at]);
            assert_eq!(token, pair.token(1, path), "G12: {path} at {first}");
            if token != before {
                assert!(seen[at].insert(before), "G2: {path} left a token twice");
                current[at] = token;
            }
            assert!(!seen[at].contains(&token), "G2: {path} has an old token");
        }
    }
    // What others evict beyond their limits, they evict together: an eighth more. And those of one call come in together.
    let bound = ROOM + ROOM / 8 + usize::try_from(CALL + TOPS).unwrap();
    let floors: u64 = pair.cores.iter().map(|it| it.counters().floors_own).sum();
    println!("{total} classes bumped, at most {most} held, {floors} floors; the limit is {ROOM}");
    assert!(most <= bound, "{most} held; the limit is {ROOM}");
    assert!(floors > 0);
}
