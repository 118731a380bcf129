//! Gossip: each sidecar is told from time to time whom it sees.
//!
//! It proposes and no more: it sees nobody through a path that is cut, it may suspect one that is well, it goes on naming
//! runs that are over, and where two processes have one node id it names both.

use std::time::Duration;

use grapevine_core::machine::effects::{Forget, Input, Sighting, Ticket};
use rand::Rng as _;

use super::Sim;
use crate::arms::Arm;
use crate::clock::MILLISECOND;
use crate::events::Event;

/// How long the arm that forgets silent members remembers them.
const SHORT_MEMORY: Duration = Duration::from_millis(700);

impl Sim<'_> {
    /// Tells a sidecar whom it sees.
    pub(super) fn gossip(&mut self, at: usize) {
        let mut sightings = Vec::new();
        for other in (0..self.nodes.len()).filter(|other| *other != at) {
            let cut = self.net.is_cut(self.now, other, at) || self.net.is_cut(self.now, at, other);
            let seen = self.nodes[other].answers(self.now) && !cut;
            if seen {
                let hello = self.hello(other);
                self.nodes[at].seen[other] = Some(hello);
            }
            let Some(hello) = self.nodes[at].seen[other].clone() else {
                continue;
            };
            let alive = seen && self.now >= self.nodes[at].suspects[other];
            sightings.push(Sighting { hello, alive });
        }
        self.input(at, Input::Seen(sightings));
        if self.is(Arm::FreshnessByTimeout) {
            self.forget_the_silent(at);
        }
        self.tend(at);
        self.review_losses();
        let node = &mut self.nodes[at];
        if !node.up() {
            return;
        }
        let (run, pause) = (node.run, node.rng.random_range(150..300) * MILLISECOND);
        self.after(pause, Event::Gossip { node: at, run });
    }

    /// The arm's rule: whoever was silent for a moment is no member any more, whatever the others think.
    fn forget_the_silent(&mut self, at: usize) {
        let now = self.time(at);
        let Some(core) = &self.nodes[at].core else {
            return;
        };
        let members = core.members(now).into_iter();
        let silent = members.filter(|member| !member.alive && member.silent >= SHORT_MEMORY);
        let silent: Vec<_> = silent.map(|member| member.hello.node_id).collect();
        for node_id in silent {
            self.tickets += 1;
            let ticket = Ticket(self.tickets);
            let alone = true;
            self.input(at, Input::Forget(ticket, Forget { node_id, alone }));
        }
    }
}
