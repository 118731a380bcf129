//! Calls of applications.
//!
//! An invalidation becomes one event of the bump lane: written, flushed, and only then applied, pushed and answered.
//! Registrations are gathered while the writer is busy and sealed into batches when it is idle. A batch carries the
//! pointwise minimum of its registrations' stamps. A registration that the minimum would condemn at a peer although its
//! own stamp does not goes into a batch of its own.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use super::Core;
use super::effects::{
    Action, CondemnReason, Effects, Invalidate, LeaseClaim, Purpose, ReceiptLevel, Refusal,
    RegisterItem, Reply, Ticket, Verdict,
};
use super::flushed::{OwnBatch, Pending};
use crate::event::{
    BATCH_REGISTRATIONS_MAX, BUMP_CLASSES_MAX, Bump, BumpEvent, CONJUNCTION_CLASSES_MAX, Event,
    Match, PurgeMode, Registration, RegistrationBatch,
};
use crate::id::{EventId, Lane, Time, UnixSeconds};
use crate::names::ClassPath;
use crate::store::Write;
use crate::token::Token;
use crate::versions::{CONJUNCTIONS_MAX, Stamp, Versions, sorted_classes};

/// Registrations and their callers, not yet sealed.
#[derive(Clone, Debug, Default)]
pub(super) struct Gathered {
    pub(super) registrations: Vec<(Registration, Stamp)>,
    pub(super) calls: Vec<Call>,
}

/// A call whose answer waits for the flush.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) ticket: Ticket,
    pub(super) verdicts: Vec<Verdict>,
    /// What was accepted, and is judged again when the call is answered.
    pub(super) waiting: Vec<Accepted>,
}

/// An item that nothing condemned so far.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    /// Its position in the call's verdicts.
    pub(super) position: usize,
    pub(super) registration: Registration,
    pub(super) stamp: Stamp,
    pub(super) directory: InDirectory,
}

/// What the directory has of an accepted item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InDirectory {
    /// It is to be put there.
    New,
    /// An earlier call put it there.
    Known,
    /// It has no place there.
    No,
}

/// What unflushed own bumps will add where limits count.
#[derive(Clone, Debug, Default)]
pub(super) struct Admitted {
    /// Top-level classes that nobody has bumped yet.
    tops: HashSet<Box<str>>,
    /// Conjunctions, by anchor.
    conjunctions: HashMap<ClassPath, usize>,
}

impl Admitted {
    fn note(&mut self, bump: &Bump, versions: &Versions) {
        for class in &bump.classes {
            if !versions.has_top(class) {
                self.tops.insert(class.top().into());
            }
        }
        if bump.matching == Match::All {
            let anchor = bump.classes[0].clone();
            *self.conjunctions.entry(anchor).or_default() += 1;
        }
    }

    /// The bump was applied: `versions` count it from now on.
    pub(super) fn applied(&mut self, bump: &Bump) {
        for class in &bump.classes {
            self.tops.remove(class.top());
        }
        if bump.matching == Match::All
            && let Some(count) = self.conjunctions.get_mut(&bump.classes[0])
        {
            *count -= 1;
            if *count == 0 {
                self.conjunctions.remove(&bump.classes[0]);
            }
        }
    }
}

/// The most batches that one seal makes of registrations whose stamps differ.
const GROUPS_MAX: usize = 64;
/// The most registrations remembered as known.
const SUPPRESSED_MAX: usize = 262_144;

/// Registrations made lately, so that a repeated one costs nothing. A key covers the token, so a bump forgets what it
/// made stale; two generations bound it.
#[derive(Clone, Debug, Default)]
pub(super) struct Suppressed {
    young: HashSet<u64>,
    old: HashSet<u64>,
}

impl Suppressed {
    /// Whether the registration was made before, with the same token and the same end, to the directory's grain.
    fn knows(&self, key: u64) -> bool {
        self.young.contains(&key) || self.old.contains(&key)
    }

    fn remember(&mut self, key: u64) {
        if self.young.len() >= SUPPRESSED_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key);
    }
}

impl Core {
    pub(super) fn invalidate(
        &mut self,
        ticket: Ticket,
        call: &Invalidate,
        now: Time,
        effects: &mut Effects,
    ) {
        let bump = match self.admit(call, now) {
            Ok(bump) => bump,
            Err(refusal) => {
                return effects
                    .actions
                    .push(Action::Reply(ticket, Reply::Refused(refusal)));
            }
        };
        self.receipts.reserve(call.level);
        self.issue(bump, Some((ticket, call.level, call.deadline)), effects);
    }

    /// Issues a bump.
    pub(super) fn issue(
        &mut self,
        bump: Bump,
        call: Option<(Ticket, ReceiptLevel, Time)>,
        effects: &mut Effects,
    ) -> EventId {
        self.issue_event(BumpEvent::Bump(bump), call, effects)
    }

    /// Gives a bump, or a change of rows, its number and has it written; a call that wants a receipt waits for that.
    pub(super) fn issue_event(
        &mut self,
        event: BumpEvent,
        call: Option<(Ticket, ReceiptLevel, Time)>,
        effects: &mut Effects,
    ) -> EventId {
        self.counters.bumps_own += 1;
        let id = self.next_bump_id();
        let event = Arc::new(event);
        let meant = self.meant_here(&event);
        let mut writes = Vec::new();
        if let BumpEvent::Bump(bump) = &*meant {
            self.admitted.note(bump, &self.versions);
            writes = bump_writes(id, bump, false);
        }
        self.write_own(id, (event, meant), writes, call, effects);
        id
    }

    /// Has an own event of the bump lane written: its record in the log, what it means here, and the watermark.
    pub(super) fn write_own(
        &mut self,
        id: EventId,
        (event, meant): (Arc<BumpEvent>, Arc<BumpEvent>),
        meaning: impl IntoIterator<Item = Write>,
        call: Option<(Ticket, ReceiptLevel, Time)>,
        effects: &mut Effects,
    ) {
        let log = Write::Log {
            origin: id.origin,
            sequence: id.sequence,
            event: Event::Bump(event.clone()),
        };
        let progress = Write::Progress {
            origin: id.origin,
            lane: Lane::Bump,
            watermark: id.sequence,
        };
        let pending = Pending::OwnBump {
            id,
            event,
            meant,
            call,
        };
        let writes = [log].into_iter().chain(meaning).chain([progress]);
        self.write(effects, writes, pending);
    }

    pub(super) fn admit(&mut self, call: &Invalidate, now: Time) -> Result<Bump, Refusal> {
        self.admit_receipt(call.level, now)?;
        self.admit_bump(&call.classes, call.matching, call.purge)
    }

    /// Whether there is a place to wait for a receipt. A call that wants none is answered by its flush.
    pub(super) fn admit_receipt(&self, level: ReceiptLevel, now: Time) -> Result<(), Refusal> {
        let wants_place = level != ReceiptLevel::None && !self.draining;
        if wants_place && self.receipt_places() == 0 {
            return Err(Refusal::Receipts {
                limit: self.config.limits.receipts_max,
                after: self.receipts.next_place(now),
            });
        }
        Ok(())
    }

    /// What a bump of these classes is to be, if it may be.
    pub(super) fn admit_bump(
        &mut self,
        classes: &[ClassPath],
        matching: Match,
        purge: PurgeMode,
    ) -> Result<Bump, Refusal> {
        if self.draining {
            return Err(Refusal::Draining);
        }
        let classes = sorted_classes(classes);
        let (least, most) = match matching {
            Match::Any => (1, BUMP_CLASSES_MAX),
            Match::All => (1, CONJUNCTION_CLASSES_MAX),
        };
        if classes.len() < least || classes.len() > most {
            return Err(Refusal::ClassCount {
                value: classes.len(),
                least,
                most,
            });
        }
        let limits = self.config.limits;
        let mut fresh_tops = HashSet::new();
        for class in &classes {
            let top = class.top();
            let known = class.is_reserved()
                || self.versions.has_top(class)
                || self.admitted.tops.contains(top)
                || self.intents.reserves(top);
            if !known && fresh_tops.insert(top) {
                let reserved = self.intents.reserved(|class| {
                    self.admitted.tops.contains(class.top()) || self.versions.has_top(class)
                });
                let count =
                    self.versions.tops() + self.admitted.tops.len() + reserved + fresh_tops.len();
                if count > limits.top_level_classes_max {
                    return Err(Refusal::TopLevelClasses {
                        class: class.clone(),
                        count,
                        limit: limits.top_level_classes_max,
                    });
                }
            }
        }
        Ok(self.shape(classes, matching, purge))
    }

    /// A conjunction of one class, or a further one too many for its anchor, is a plain bump. The class that stands for
    /// all narrows nothing down.
    pub(super) fn shape(
        &mut self,
        mut classes: Vec<ClassPath>,
        mut matching: Match,
        purge: PurgeMode,
    ) -> Bump {
        if matching == Match::All && classes.len() > 1 {
            classes.retain(|class| !class.is_reserved());
        }
        if matching == Match::All && classes.len() == 1 {
            matching = Match::Any;
        }
        if matching == Match::All && !self.versions.has_conjunction(&classes[0], &classes[1..]) {
            let admitted = self.admitted.conjunctions.get(&classes[0]);
            let held = self.versions.conjunction_count(&classes[0]);
            if held + admitted.copied().unwrap_or(0) >= CONJUNCTIONS_MAX {
                self.counters.escalations += 1;
                classes.truncate(1);
                matching = Match::Any;
            }
        }
        Bump {
            classes,
            matching,
            purge,
        }
    }

    pub(super) fn next_bump_id(&mut self) -> EventId {
        let id = EventId {
            origin: self.config.incarnation,
            sequence: self.next_bump,
        };
        self.next_bump += 1;
        id
    }

    pub(super) fn register(
        &mut self,
        ticket: Ticket,
        items: Vec<RegisterItem>,
        now: Time,
        effects: &mut Effects,
    ) {
        let mut call = Call {
            ticket,
            verdicts: Vec::with_capacity(items.len()),
            waiting: Vec::new(),
        };
        let mut condemned = Vec::new();
        let mut expires = UnixSeconds::default();
        for item in items {
            if let LeaseClaim::Elected(_, fill) = item.lease
                && self.is_superseded(fill)
            {
                // Another caller's value may lie at the address by now: it is not deleted.
                self.counters.registrations_condemned += 1;
                let reason = CondemnReason::Superseded;
                call.verdicts.push(Verdict::Condemned(reason));
                continue;
            }
            if item.purpose == Purpose::Lapses {
                call.verdicts.push(Verdict::Accepted(Token::NONE));
                continue;
            }
            self.meet_shapes(&item.classes, effects);
            match self.judge(&item, now) {
                Err(reason) => {
                    self.counters.registrations_condemned += 1;
                    call.verdicts.push(Verdict::Condemned(reason));
                    if item.purpose == Purpose::Directory {
                        condemned.push(item.address);
                        expires = expires.max(item.expires);
                    }
                }
                Ok(stamp) => self.accept(item, stamp, &mut call),
            }
        }
        if !condemned.is_empty() {
            effects.actions.push(Action::Purge {
                addresses: condemned,
                expires,
                mode: PurgeMode::Hard,
            });
        }
        // A suppressed registration may still be on its way to the disk, so the answer goes with the next flush.
        self.gathered.calls.push(call);
        if self.gathered.registrations.len() >= BATCH_REGISTRATIONS_MAX {
            self.seal(effects);
        }
    }

    /// Takes an item that nothing condemns into its call, and what is new of it into the next batch.
    fn accept(&mut self, item: RegisterItem, stamp: Stamp, call: &mut Call) {
        let position = call.verdicts.len();
        let token = self.token(&item.classes);
        call.verdicts.push(Verdict::Accepted(token));
        let directory = if item.purpose != Purpose::Directory {
            InDirectory::No
        } else if self.suppress(&item, token.0) {
            InDirectory::Known
        } else {
            InDirectory::New
        };
        let registration = Registration {
            address: item.address,
            classes: item.classes,
            expires: item.expires,
        };
        if directory == InDirectory::New {
            let gathered = (registration.clone(), stamp);
            self.gathered.registrations.push(gathered);
        }
        call.waiting.push(Accepted {
            position,
            registration,
            stamp,
            directory,
        });
    }

    fn judge(&self, item: &RegisterItem, now: Time) -> Result<Stamp, CondemnReason> {
        if !self.shapes_are_known(&item.classes) {
            return Err(CondemnReason::ShapeUnknown);
        }
        let stamp = match item.lease {
            LeaseClaim::Absent => return Ok(self.versions.stamp()),
            LeaseClaim::Malformed => return Err(CondemnReason::LeaseUnknown),
            LeaseClaim::Lease(lease) | LeaseClaim::Elected(lease, _) => {
                let ours = lease.incarnation == self.config.incarnation
                    && lease.stamp <= self.versions.stamp();
                if !ours || now >= lease.ends || !self.history.knows(lease.stamp) {
                    return Err(CondemnReason::LeaseUnknown);
                }
                lease.stamp
            }
        };
        if self.versions.changed_since(&item.classes, stamp) {
            Err(CondemnReason::Bumped)
        } else {
            Ok(stamp)
        }
    }

    fn suppress(&mut self, item: &RegisterItem, token: u64) -> bool {
        let mut hasher = Xxh3::new();
        hasher.update(item.address.as_str().as_bytes());
        hasher.update(&token.to_be_bytes());
        for class in &item.classes {
            hasher.update(&[0]);
            hasher.update(class.as_str().as_bytes());
        }
        // A registration that lapses later is news: the directory must keep the address that much longer. Steps of 64 s
        // are the directory's own grain.
        hasher.update(&item.expires.0.div_ceil(64).to_be_bytes());
        let key = hasher.digest();
        if self.suppressed.knows(key) {
            self.counters.registrations_suppressed += 1;
            return true;
        }
        self.suppressed.remember(key);
        false
    }

    /// Seals what was gathered into batches and lets the calls wait for their flush.
    pub(super) fn seal(&mut self, effects: &mut Effects) {
        let Gathered {
            registrations,
            calls,
        } = std::mem::take(&mut self.gathered);
        if calls.is_empty() {
            return;
        }
        let mut writes = Vec::new();
        let mut batches = Vec::new();
        let groups = self.grouped(registrations);
        let stamps: Vec<_> = groups.iter().map(|(stamp, _)| *stamp).collect();
        let vectors = self
            .history
            .vectors_at(&stamps, &self.progress.covered_bumps());
        for ((_, fit), vector) in groups.into_iter().zip(vectors) {
            for chunk in fit.chunks(BATCH_REGISTRATIONS_MAX) {
                let batch = Arc::new(RegistrationBatch {
                    stamp: vector.clone(),
                    registrations: chunk.to_vec(),
                });
                let sequence = self.next_batch;
                self.next_batch += 1;
                let origin = self.config.incarnation;
                writes.push(Write::Log {
                    origin,
                    sequence,
                    event: Event::Directory(batch.clone()),
                });
                writes.push(Write::Register {
                    registrations: batch.registrations.clone(),
                    own: true,
                });
                writes.push(Write::Progress {
                    origin,
                    lane: Lane::Directory,
                    watermark: sequence,
                });
                batches.push((sequence, batch));
            }
        }
        self.write(
            effects,
            writes,
            Pending::OwnBatch(OwnBatch { batches, calls }),
        );
    }

    /// Groups registrations by stamps that speak for each of the group: no later than the registration's own, no
    /// earlier than the last change of its classes. Going by rising stamps makes the fewest groups. Beyond
    /// [`GROUPS_MAX`] the rest goes under the oldest stamp among them, by which peers may condemn what they need not.
    fn grouped(
        &self,
        registrations: Vec<(Registration, Stamp)>,
    ) -> Vec<(Stamp, Vec<Registration>)> {
        let mut by_own: Vec<_> = registrations
            .into_iter()
            .map(|(item, own)| (own, self.versions.last_change(&item.classes), Some(item)))
            .collect();
        by_own.sort_by_key(|(own, _, _)| *own);
        let mut by_change: Vec<_> = (0..by_own.len()).collect();
        by_change.sort_by_key(|&at| by_own[at].1);
        let mut by_change = by_change.into_iter().peekable();
        let mut groups = Vec::new();
        let mut next = 0;
        while let Some((stamp, _, item)) = by_own.get(next) {
            if item.is_none() {
                next += 1;
                continue;
            }
            let (stamp, last) = (*stamp, groups.len() + 1 == GROUPS_MAX);
            let mut fit = Vec::new();
            // What changed after its own stamp is condemned wherever it goes.
            while let Some((own, _, item)) = by_own.get_mut(next)
                && (*own == stamp || last)
            {
                fit.extend(item.take());
                next += 1;
            }
            while let Some(at) = by_change.next_if(|&at| by_own[at].1 <= stamp) {
                fit.extend(by_own[at].2.take());
            }
            groups.push((stamp, fit));
        }
        groups
    }
}

/// The writes by which a bump enters the store, its log record aside.
pub(super) fn bump_writes(id: EventId, bump: &Bump, own_only: bool) -> Vec<Write> {
    let entries: crate::vector::VersionVector = [(id.origin, id.sequence)].into_iter().collect();
    let mut writes: Vec<_> = match bump.matching {
        Match::Any => bump
            .classes
            .iter()
            .map(|class| Write::JoinClass {
                class: class.clone(),
                others: Vec::new(),
                entries: entries.clone(),
            })
            .collect(),
        Match::All => {
            let (anchor, others) = bump
                .classes
                .split_first()
                .expect("invariant: a bump names a class");
            vec![Write::JoinClass {
                class: anchor.clone(),
                others: others.to_vec(),
                entries,
            }]
        }
    };
    writes.push(Write::Take {
        event: id,
        classes: bump.classes.clone(),
        matching: bump.matching,
        own_only,
        purge: bump.purge,
    });
    writes
}
