//! The paths that a sidecar spends its time on, for counting instructions: `hot_paths resolve|register|apply TIMES`.
//!
//! One machine without a disk or a network does one of them so often, with the same inputs each time it is run:
//!
//! - `resolve`: a look-up of one of 10,000 addresses, each of a class of its own in a family, every other one bumped before;
//! - `register`: one of 100 registrations of a batch, from the call to its flush;
//! - `apply`: a peer's bump of one of 10,000 classes, ten in a message, from the message to its flush.
//!
//! What is counted for twice as many, less what is counted for so many, is theirs alone: `integration-tests/instructions/run.py`.

use std::sync::Arc;
use std::time::Duration;

use grapevine_core::event::{Bump, BumpEvent, Match, PurgeMode};
use grapevine_core::id::{Incarnation, Time, UnixSeconds};
use grapevine_core::machine::effects::{
    Action, Effects, Input, Invalidate, LeaseClaim, PeerHello, PeerMessage, Purpose, Query,
    ReceiptLevel, RegisterItem, Reply, Side, Ticket, Verdict,
};
use grapevine_core::machine::{Core, CoreConfig, Limits};
use grapevine_core::names::{Address, ClassPath, NodeId};
use grapevine_core::policy::{Policy, PolicySet, Strategy};
use grapevine_core::store::Recovered;
use grapevine_core::token::Token;

const CARTS: usize = 10_000;
const BATCH: usize = 100;
const MESSAGE: usize = 10;

/// A machine whose disk is always done.
struct Alone {
    core: Core,
    now: Time,
    ticket: u64,
}

impl Alone {
    fn start(strategy: Strategy) -> Self {
        let policy = Policy {
            strategy,
            ..Policy::fallback()
        };
        let config = CoreConfig {
            node_id: node("a"),
            incarnation: run(1),
            policies: PolicySet::new(Vec::new(), policy).expect("invariant: one policy is fine"),
            expected_members: 1,
            max_staleness: Duration::from_secs(1),
            member_timeout: Duration::from_mins(1),
            crash_timeout: Duration::from_secs(5),
            retire_after: Duration::from_mins(1),
            lease_duration: Duration::from_mins(10),
            clock_rate_ppm: 200,
            limits: Limits::default(),
        };
        let now = Time::from_start(Duration::from_secs(1));
        let (core, effects) = Core::start(config, &Recovered::default(), now);
        let mut alone = Self {
            core,
            now,
            ticket: 0,
        };
        alone.carry_out(effects);
        for _ in 0..100 {
            alone.now = alone.now.plus(Duration::from_millis(50));
            alone.give(Input::Wake);
        }
        assert!(alone.core.has_caught_up(), "it does not catch up");
        alone
    }

    /// Gives an input, and flushes what it wrote; the reply to a call.
    fn give(&mut self, input: Input) -> Option<Reply> {
        let effects = self
            .core
            .handle(input, self.now, UnixSeconds(1_760_000_000));
        self.carry_out(effects)
    }

    fn carry_out(&mut self, effects: Effects) -> Option<Reply> {
        let reply = effects.actions.into_iter().find_map(|action| match action {
            Action::Reply(_, reply) => Some(reply),
            _ => None,
        });
        let flushed = effects
            .commit
            .and_then(|commit| self.give(Input::Flushed(commit)));
        reply.or(flushed)
    }

    fn ticket(&mut self) -> Ticket {
        self.ticket += 1;
        Ticket(self.ticket)
    }

    fn invalidate(&mut self, class: ClassPath) {
        let ticket = self.ticket();
        let call = Invalidate {
            classes: vec![class],
            matching: Match::Any,
            purge: PurgeMode::Hard,
            level: ReceiptLevel::None,
            deadline: self.now.plus(Duration::from_secs(5)),
        };
        self.give(Input::Invalidate(ticket, call));
    }

    fn token(&self, query: &Query) -> Token {
        let resolution = self.core.resolve(query, self.now, 0);
        resolution.expect("invariant: it is well-formed").token
    }
}

fn node(name: &str) -> NodeId {
    NodeId::parse(name).expect("invariant: it is a name")
}

fn run(number: u128) -> Incarnation {
    Incarnation::new(number).expect("invariant: it is not 0")
}

fn class(cart: usize) -> ClassPath {
    let path = format!("get_items_in_cart/{}", cart % CARTS);
    ClassPath::parse(&path).expect("invariant: it is a path")
}

fn query(cart: usize) -> Query {
    let address = format!("get_items_in_cart::{}:10:30", cart % CARTS);
    Query {
        address: Address::parse(&address).expect("invariant: it is an address"),
        classes: vec![class(cart)],
        slice: None,
    }
}

fn resolve(times: usize) {
    let mut alone = Alone::start(Strategy::Versioned);
    for cart in (0..CARTS).step_by(2) {
        alone.invalidate(class(cart));
    }
    let queries: Vec<Query> = (0..CARTS).map(query).collect();
    // Neighbours in the order are no neighbours in memory.
    let order = (0..times).map(|n| n * 7_919 % CARTS);
    let tokens = order.map(|cart| alone.token(&queries[cart]).0);
    assert_ne!(tokens.fold(0, u64::wrapping_add), 0);
}

fn register(times: usize) {
    let mut alone = Alone::start(Strategy::Registered);
    let mut accepted = 0;
    for batch in 0..times / BATCH {
        let item = |n| RegisterItem {
            address: query(n).address,
            classes: vec![class(n)],
            expires: UnixSeconds(1_760_003_600),
            lease: LeaseClaim::Absent,
            purpose: Purpose::Directory,
        };
        let items = (batch * BATCH..(batch + 1) * BATCH).map(item).collect();
        let ticket = alone.ticket();
        let reply = alone.give(Input::Register(ticket, items));
        match reply.or_else(|| alone.give(Input::Seal)) {
            Some(Reply::Registered(verdicts)) => {
                let verdicts = verdicts.iter();
                accepted += verdicts
                    .filter(|it| matches!(it, Verdict::Accepted(_)))
                    .count();
            }
            other => panic!("no verdicts: {other:?}"),
        }
    }
    assert_eq!(accepted, times);
}

fn apply(times: usize) {
    let mut alone = Alone::start(Strategy::Versioned);
    let peer = run(2);
    let hello = PeerHello {
        node_id: node("b"),
        incarnation: peer,
        peer_address: "b:7401".to_owned(),
        policy_digest: 0,
    };
    for side in [Side::Inbound, Side::Outbound] {
        let hello = hello.clone();
        alone.give(Input::LinkUp { hello, side });
    }
    let before = alone.token(&query(0));
    let mut first = 1;
    for message in 0..times / MESSAGE {
        let bump = |n| {
            Arc::new(BumpEvent::Bump(Bump {
                classes: vec![class(n * 7_919)],
                matching: Match::Any,
                purge: PurgeMode::Hard,
            }))
        };
        let carts = message * MESSAGE..(message + 1) * MESSAGE;
        let message = PeerMessage::Bumps {
            origin: peer,
            first,
            events: carts.map(bump).collect(),
        };
        alone.give(Input::Peer {
            from: peer,
            message,
        });
        first += MESSAGE as u64;
    }
    assert!(
        times == 0 || alone.token(&query(0)) != before,
        "nothing was applied"
    );
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (path, times) = match &arguments[..] {
        [path, times] => (path.as_str(), times.parse::<usize>().ok()),
        _ => ("", None),
    };
    match (path, times) {
        ("resolve", Some(times)) => resolve(times),
        ("register", Some(times)) => register(times),
        ("apply", Some(times)) => apply(times),
        _ => {
            eprintln!("usage: hot_paths resolve|register|apply TIMES");
            std::process::exit(2);
        }
    }
}
