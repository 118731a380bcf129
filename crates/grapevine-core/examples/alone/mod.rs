//! One machine without a disk or a network, for measuring what its steps take.

use std::time::Duration;

use grapevine_core::id::{Incarnation, Time, UnixSeconds};
use grapevine_core::machine::effects::{Action, Effects, Input, Reply, Ticket};
use grapevine_core::machine::{Core, CoreConfig, Limits};
use grapevine_core::names::NodeId;
use grapevine_core::policy::{Policy, PolicySet};
use grapevine_core::store::Recovered;

/// A machine whose disk is always done.
pub(crate) struct Alone {
    pub(crate) core: Core,
    pub(crate) now: Time,
    ticket: u64,
}

impl Alone {
    /// One with the same policy for all classes, which has caught up.
    pub(crate) fn start(policy: Policy, limits: Limits) -> Self {
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
            limits,
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

    /// Gives an input, and flushes what it wrote; the reply to the last call.
    pub(crate) fn give(&mut self, input: Input) -> Option<Reply> {
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

    pub(crate) fn ticket(&mut self) -> Ticket {
        self.ticket += 1;
        Ticket(self.ticket)
    }
}

pub(crate) fn node(name: &str) -> NodeId {
    NodeId::parse(name).expect("invariant: it is a name")
}

pub(crate) fn run(number: u128) -> Incarnation {
    Incarnation::new(number).expect("invariant: it is not 0")
}
