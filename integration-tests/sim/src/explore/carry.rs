//! What a sidecar's loop does around core: inputs go in, effects are carried out, writes wait for their flush.

use std::sync::Arc;

use grapevine_core::event::Event as Logged;
use grapevine_core::id::{Incarnation, Lane, UnixSeconds};
use grapevine_core::machine::effects::{Action, Effects, Input, PeerMessage, Reply};

use super::judge::Wrong;
use super::sidecar::{Setting, name};
use super::world::{SIZE, World};
use crate::arms::Arm;
use crate::violation::Guarantee;

impl World {
    pub(super) fn flush(&mut self, setting: &Setting, at: usize) -> Result<(), Wrong> {
        let sidecar = Arc::make_mut(&mut self.sidecars[at]);
        let Some(commit) = sidecar.commit.take() else {
            return Ok(());
        };
        for write in std::mem::take(&mut sidecar.waiting) {
            sidecar.disk.commit(&write);
        }
        self.input(setting, at, Input::Flushed(commit))
    }

    pub(super) fn handle(&mut self, at: usize, input: Input) -> Effects {
        let sidecar = Arc::make_mut(&mut self.sidecars[at]);
        sidecar.digest = 0;
        sidecar.core.handle(input, self.now, UnixSeconds(1))
    }

    pub(super) fn input(
        &mut self,
        setting: &Setting,
        at: usize,
        input: Input,
    ) -> Result<(), Wrong> {
        let effects = self.handle(at, input);
        self.carry_out(setting, at, effects)?;
        self.settle(setting, at)
    }

    pub(super) fn settle(&mut self, setting: &Setting, at: usize) -> Result<(), Wrong> {
        if self.sidecars[at].commit.is_none() {
            let effects = self.handle(at, Input::Seal);
            self.carry_out(setting, at, effects)?;
        }
        self.judge(setting, at)
    }

    pub(super) fn carry_out(
        &mut self,
        setting: &Setting,
        at: usize,
        effects: Effects,
    ) -> Result<(), Wrong> {
        let Effects {
            writes,
            commit,
            actions,
        } = effects;
        let sidecar = Arc::make_mut(&mut self.sidecars[at]);
        sidecar.digest = 0;
        sidecar.waiting.extend(writes);
        sidecar.commit = commit.or(sidecar.commit);
        for action in actions {
            self.act(at, action)?;
        }
        if let Some(commit) = commit
            && setting.is(Arm::ReceiptBeforeFlush)
        {
            let effects = self.handle(at, Input::Flushed(commit));
            self.carry_out(setting, at, effects)?;
        }
        Ok(())
    }

    fn act(&mut self, at: usize, action: Action) -> Result<(), Wrong> {
        match action {
            Action::Send {
                message: PeerMessage::Ack { .. },
                ..
            } if !self.left.acks => {}
            Action::Send { to, message } => {
                let slot = self
                    .sidecars
                    .iter()
                    .position(|it| it.core.incarnation() == to);
                if let Some(to) = slot {
                    self.links[at][to].push_back(Arc::new(message));
                }
            }
            Action::Broadcast(message) => {
                let message = Arc::new(message);
                for to in (0..SIZE).filter(|to| *to != at) {
                    self.links[at][to].push_back(message.clone());
                }
            }
            Action::Applied(event, what) => {
                let known = self.events.get(&event).copied();
                let sidecar = Arc::make_mut(&mut self.sidecars[at]);
                if let Some(rule) = &mut sidecar.rule {
                    rule.apply(event, &what);
                }
                if let Some((class, index)) = known {
                    sidecar.applied[class] = sidecar.applied[class].max(index);
                }
            }
            Action::Reply(_, Reply::Invalidated { event, receipt, .. }) => {
                return self.answered(event, &receipt);
            }
            Action::ServeLog {
                to,
                origin,
                lane,
                first,
                last,
            } => {
                self.serve_log(at, to, (origin, lane), (first, last));
            }
            Action::Stop(reason) => {
                let guarantee = Guarantee::Recovery;
                let what = format!("{} ends itself: {reason}", name(at));
                return Err(Wrong { guarantee, what });
            }
            // Nothing is compacted here, deletes are hygiene, and there are no local tables.
            Action::Reply(..)
            | Action::Notice { .. }
            | Action::Lease(..)
            | Action::EndTable(_)
            | Action::Resync
            | Action::Purge { .. }
            | Action::ServeSnapshot { .. } => {}
        }
        Ok(())
    }

    fn serve_log(
        &mut self,
        at: usize,
        to: Incarnation,
        (origin, lane): (Incarnation, Lane),
        (first, last): (u64, u64),
    ) {
        let (mut events, mut batches) = (Vec::new(), Vec::new());
        for event in self.sidecars[at].disk.log(origin, lane, first, last) {
            match event {
                Logged::Bump(event) => events.push(event),
                Logged::Directory(batch) => batches.push(batch),
            }
        }
        let message = match lane {
            Lane::Bump => PeerMessage::Bumps {
                origin,
                first,
                events,
            },
            Lane::Directory => PeerMessage::Directory {
                origin,
                first,
                batches,
            },
        };
        let slot = self
            .sidecars
            .iter()
            .position(|it| it.core.incarnation() == to);
        if let Some(to) = slot {
            self.links[at][to].push_back(Arc::new(message));
        }
    }
}
