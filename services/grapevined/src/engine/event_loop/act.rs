//! Carrying out what the machine wants done. Nothing here waits: a peer's queue that is full drops its message, and heads
//! and pulls repair that; deletes are handed to the purger.

use std::time::{Duration, Instant};

use grapevine_core::event::BumpEvent;
use grapevine_core::fill::FillId;
use grapevine_core::id::{EventId, Incarnation, Lane, Time};
use grapevine_core::machine::effects::{Action, FillTurn, PeerMessage, Refusal, Reply, Ticket};
use grapevine_core::progress::LaneProgress;
use grapevine_core::store::Taken;
use grapevine_core::table::Notice;

use super::EventLoop;
use crate::engine::{Clock, Held, News};
use crate::peers::{LinkSender, serve_log, serve_snapshot};
use crate::purge::{Job, Submission};
use crate::telemetry::Counter;

/// How long a bump is left to the links alone before gossip tells all of it, if somebody has not acknowledged it: several times what it takes in one
/// region. From farther away nobody has by then.
const NUDGE_AFTER: Duration = Duration::from_millis(25);

impl EventLoop {
    pub(super) fn act(&mut self, actions: Vec<Action>) {
        let mut applied = 0;
        for action in actions {
            match action {
                Action::Send { to, message } => self.send(to, message),
                Action::Broadcast(message) => self.broadcast(&message),
                Action::Reply(ticket, reply) => self.reply(ticket, reply),
                Action::Applied(event, what) => {
                    applied += 1;
                    if self.parts.engine.traces.know_any() {
                        self.parts.engine.traces.applied(event, self.handled);
                    }
                    self.wake_sessions(event);
                    self.log_floor(event, &what);
                    // Nobody listening is no error.
                    let _ = self.parts.engine.news.send(News::Applied(event, what));
                }
                Action::Resync => {
                    applied += 1;
                    self.parts.engine.sessions.all_applied();
                    let _ = self.parts.engine.news.send(News::Resync);
                }
                Action::Notice {
                    position, notice, ..
                } => self.tell_tables(position, &notice),
                Action::Lease(id, lease) => {
                    if let Some(table) = self.tables.get(&id) {
                        table.lease(lease);
                    }
                }
                Action::EndTable(id) => drop(self.tables.remove(&id)),
                Action::Purge {
                    addresses,
                    expires,
                    mode,
                } => {
                    self.parts.purger.submit(Job {
                        addresses,
                        mode,
                        lifetime: Clock::until(expires),
                    });
                }
                Action::ServeLog {
                    to,
                    origin,
                    lane,
                    first,
                    last,
                } => {
                    if let Some((_, link)) = self.links.get(&to) {
                        let (engine, link) = (&self.parts.engine, link.clone());
                        serve_log(engine, link, origin, lane, (first, last));
                    }
                }
                Action::ServeSnapshot { to, id, cut } => {
                    if let Some((_, link)) = self.links.get(&to) {
                        serve_snapshot(&self.parts.engine, link.clone(), id, cut);
                    }
                }
                Action::Stop(reason) => self.stop = Some(reason),
            }
        }
        if applied > 0 {
            self.parts.applied.send_modify(|count| *count += applied);
            self.publish_heads();
        }
    }

    /// Lets gossip tell how far this sidecar's own events have come.
    fn publish_heads(&mut self) {
        let (bump, directory) = (self.own_head(Lane::Bump), self.own_head(Lane::Directory));
        self.parts.gossip.set_heads(bump, directory);
        if bump > self.told_bump {
            self.told_bump = bump;
            self.convergence.flushed(bump, Instant::now());
            let soon = tokio::time::Instant::now() + NUDGE_AFTER;
            self.nudge_at.get_or_insert(soon);
        }
    }

    /// Has gossip tell at once of a bump that somebody has not acknowledged: a peer whose push was lost asks when it hears of it.
    /// Where all have it there is nothing to tell, and what would be told of a bump on its way keeps everybody from taking it.
    pub(super) fn nudge(&mut self) {
        self.nudge_at = None;
        if !self.parts.engine.core.read().is_heard_by_all() {
            self.parts.gossip.nudge();
        }
    }

    fn send(&self, to: Incarnation, message: PeerMessage) {
        if let Some((_, link)) = self.links.get(&to) {
            self.offer(link, message);
        }
    }

    fn broadcast(&self, message: &PeerMessage) {
        for (_, link) in self.links.values() {
            self.offer(link, message.clone());
        }
    }

    /// Wakes who waits with a session for an event, or for one behind it. A bump of everything may stand for what is missing.
    fn wake_sessions(&self, event: EventId) {
        let engine = &self.parts.engine;
        if event.origin.is_history() {
            return engine.sessions.all_applied();
        }
        engine.sessions.applied(event, || {
            let core = engine.core.read();
            let lane = core.progress().lane(event.origin, Lane::Bump);
            lane.map_or(0, LaneProgress::covered)
        });
    }

    /// Tells the log of a class family that had to give way here. What others evict, their logs tell.
    fn log_floor(&self, event: EventId, what: &BumpEvent) {
        if let BumpEvent::Floor(floor) = what
            && event.origin == self.parts.engine.core.read().incarnation()
        {
            self.parts.engine.counters.at_limit(
                (
                    "limits.classes_per_top_max, limits.classes_max",
                    floor.top.as_str(),
                ),
                "a part of this family of classes is invalidated together",
                1,
            );
        }
    }

    fn offer(&self, link: &LinkSender, message: PeerMessage) {
        if !link.offer(message) {
            self.parts.engine.counters.inc(Counter::PushesDropped);
        }
    }

    /// Tells every local table of a change. One that does not read forgets all that it has.
    fn tell_tables(&self, position: u64, notice: &Notice) {
        for table in self.tables.values() {
            if table.notice(position, notice) {
                self.parts.engine.counters.inc(Counter::TablesOverrun);
            }
        }
    }

    fn reply(&mut self, ticket: Ticket, reply: Reply) {
        if let Some((id, table)) = self.opening.remove(&ticket)
            && matches!(reply, Reply::TableOpened { .. })
        {
            self.tables.insert(id, table);
        }
        let limit = match &reply {
            Reply::Refused(Refusal::Receipts { .. }) => Some("limits.receipts_max"),
            Reply::Refused(Refusal::TopLevelClasses { .. }) => Some("limits.top_level_classes_max"),
            Reply::Refused(Refusal::Intents { .. }) => Some("limits.intents_max"),
            Reply::Refused(Refusal::Tables { .. }) => Some("limits.local_tables_max"),
            _ => None,
        };
        if let Some(limit) = limit {
            self.parts.engine.counters.refused(limit);
        }
        let purges = match &reply {
            Reply::Invalidated { event, .. } => self.purges.remove(event).unwrap_or_default(),
            _ => Vec::new(),
        };
        let held = self.held(&reply);
        if let Some(caller) = self.callers.remove(&ticket) {
            caller.answer(reply, purges, held);
        }
    }

    /// The turn to fill that a reply brings.
    fn held(&self, reply: &Reply) -> Option<Held> {
        let Reply::Fill(FillTurn::Won { fill: Some(number) }) = reply else {
            return None;
        };
        let engine = &self.parts.engine;
        let fill = FillId {
            origin: engine.core.read().incarnation(),
            number: *number,
        };
        Some(Held::new(fill, engine.urgent.clone()))
    }

    pub(super) fn purge_taken(&mut self, taken: Taken) {
        if taken.addresses.is_empty() {
            return;
        }
        let Taken {
            event,
            purge,
            addresses,
            expires,
        } = taken;
        let count = addresses.len();
        let attempt = self.parts.purger.submit(Job {
            addresses,
            mode: purge,
            lifetime: Clock::until(expires),
        });
        self.parts.engine.traces.purging(event, count, &attempt);
        self.note_purge(event, attempt);
    }

    /// Keeps the first attempt of an own event's purge until its call is answered.
    fn note_purge(&mut self, event: EventId, attempt: Submission) {
        if event.origin == self.parts.engine.core.read().incarnation() {
            self.purges.entry(event).or_default().push(attempt);
            self.purged.push(event);
        }
    }

    /// Forgets the attempts of events that nobody waits for: those of writes that ended with their lease, say.
    pub(super) fn forget_unasked(&mut self) {
        if self.purged.is_empty() {
            return;
        }
        let core = self.parts.engine.core.read();
        for event in std::mem::take(&mut self.purged) {
            if !core.owes_receipt(event) {
                self.purges.remove(&event);
            }
        }
    }

    /// Tells the dialler whom there is to dial.
    pub(super) fn tell_members(&mut self) {
        let now = Time::ZERO;
        let members: Vec<_> = {
            let core = self.parts.engine.core.read();
            let views = core.members(now);
            views
                .into_iter()
                .map(|view| (view.hello.node_id, view.hello.peer_address))
                .collect()
        };
        if members != self.told_members {
            self.told_members.clone_from(&members);
            self.parts.members.send_replace(members);
        }
    }
}
