//! The paths that a sidecar spends its time on, for counting instructions: `hot_paths resolve|register|apply TIMES`.
//!
//! One machine without a disk or a network does one of them so often, with the same inputs each time it is run:
//!
//! - `resolve`: a look-up of one of 10,000 addresses, each of a class of its own in a family, every other one bumped before;
//! - `register`: one of 100 registrations of a batch, from the call to its flush;
//! - `apply`: a peer's bump of one of 10,000 classes, ten in a message, from the message to its flush.
//!
//! What is counted for twice as many, less what is counted for so many, is theirs alone: `integration-tests/instructions/run.py`.

mod alone;

use std::sync::Arc;
use std::time::Duration;

use alone::{Alone, node, run};
use grapevine_core::event::{Bump, BumpEvent, Match, PurgeMode};
use grapevine_core::id::UnixSeconds;
use grapevine_core::machine::Limits;
use grapevine_core::machine::effects::{
    Input, Invalidate, LeaseClaim, PeerHello, PeerMessage, Purpose, Query, ReceiptLevel,
    RegisterItem, Reply, Side, Verdict,
};
use grapevine_core::names::{Address, ClassPath};
use grapevine_core::policy::{Policy, Strategy};
use grapevine_core::token::Token;

const CARTS: usize = 10_000;
const BATCH: usize = 100;
const MESSAGE: usize = 10;

fn start(strategy: Strategy) -> Alone {
    let policy = Policy {
        strategy,
        ..Policy::fallback()
    };
    Alone::start(policy, Limits::default())
}

impl Alone {
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

fn class(cart: usize) -> ClassPath {
    let path = format!("get_items_in_cart/{cart}");
    ClassPath::parse(&path).expect("invariant: it is a path")
}

fn query(cart: usize) -> Query {
    let address = format!("get_items_in_cart::{cart}:10:30");
    Query {
        address: Address::parse(&address).expect("invariant: it is an address"),
        classes: vec![class(cart)],
        slice: None,
    }
}

fn resolve(times: usize) {
    let mut alone = start(Strategy::Versioned);
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
    let mut alone = start(Strategy::Registered);
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
    // One that is known already takes another path.
    assert_eq!(alone.core.counters().registrations_suppressed, 0);
}

fn apply(times: usize) {
    let mut alone = start(Strategy::Versioned);
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
