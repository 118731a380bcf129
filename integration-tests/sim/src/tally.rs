//! What occurred: reads and hits, races of design section 7, faults.
//!
//! A race counts when it has really happened, not when a fault that may lead to it was injected. Each is defined at its
//! variant.

use std::collections::BTreeMap;

/// A race of design section 7, by its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Race {
    /// A store arrives at the cache with a value that is older than a write whose bump some sidecar has applied by then.
    LateSet = 1,
    /// A batch of registrations arrives at a peer that condemns some of them: a bump was there first.
    LateRegistration = 2,
    /// A value read inside a database snapshot is to be stored after its sidecar applied a bump of a write that the
    /// snapshot does not have.
    OldSnapshot = 3,
    /// Between a look-up and the cache's answer to its reader, the sidecar applied a bump that concerns the address: the
    /// reader holds a token that was overtaken.
    OvertakenToken = 4,
    /// A reader finds a value in the cache whose delete was lost, or which a partition of the cache kept alive.
    Undead = 5,
    /// A sidecar starts on a wiped disk, on an older copy, or under a node id that is in use.
    OldDisk = 6,
    /// A reader that has seen a member's row elsewhere comes to prune it, and by now it is back in the list.
    CameBack = 7,
    /// A leaf is stored that must hold a row which the database's answer did not have: it was added while that was under way; or
    /// something else changed meanwhile, so that the leaf that was to be loaded is dropped.
    LoadedWhileAdded = 8,
    /// While a sidecar was cut off, writes were made on both sides of the cut.
    SplitBrain = 9,
    /// An application dies between the commit of a write that it had declared and the call that tells of it; or the
    /// sidecar that took the declaration is gone by the commit; or the commit comes after the lease.
    Orphaned = 10,
    /// A reader that missed is told that another one, whose turn it was, has stored the value by now.
    Stampede = 11,
    /// All sidecars were started again within a moment.
    MassRestart = 12,
    /// A fill read a replica that did not have a write whose bump its sidecar had applied.
    LaggingFill = 13,
    /// A sidecar died while an event of it had reached some of the others and not all.
    HalfPushed = 14,
    /// A write is made at a run that has no seat in the roster it knows, and that some running sidecars have met and others
    /// have not.
    Newcomer = 15,
    /// A sidecar died between the begin and the end of a snapshot that it was receiving.
    HalfSnapshot = 16,
}

impl Race {
    /// All that are counted.
    pub const ALL: [Self; 16] = [
        Self::LateSet,
        Self::LateRegistration,
        Self::OldSnapshot,
        Self::OvertakenToken,
        Self::Undead,
        Self::OldDisk,
        Self::CameBack,
        Self::LoadedWhileAdded,
        Self::SplitBrain,
        Self::Orphaned,
        Self::Stampede,
        Self::MassRestart,
        Self::LaggingFill,
        Self::HalfPushed,
        Self::Newcomer,
        Self::HalfSnapshot,
    ];

    /// Its number in design section 7.
    pub fn number(self) -> usize {
        self as usize
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::LateSet => "late set",
            Self::LateRegistration => "late registration",
            Self::OldSnapshot => "old database snapshot",
            Self::OvertakenToken => "overtaken token",
            Self::Undead => "cache came back",
            Self::OldDisk => "old disk, node id twice",
            Self::CameBack => "came back while pruned",
            Self::LoadedWhileAdded => "leaf loaded while a row is added",
            Self::SplitBrain => "both sides write",
            Self::Orphaned => "declared, and left alone",
            Self::Stampede => "many miss at once",
            Self::MassRestart => "mass restart",
            Self::LaggingFill => "fill from a lagging replica",
            Self::HalfPushed => "pushed to some, origin died",
            Self::Newcomer => "a newcomer writes",
            Self::HalfSnapshot => "crash in a snapshot",
        }
    }
}

/// What became of write intents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Intents {
    /// Taken, and answered in time.
    pub(crate) begun: u64,
    /// Writes committed within the lease.
    pub(crate) owed: u64,
    /// Aborts answered as in time.
    pub(crate) aborted: u64,
    /// Bumps that nobody called for.
    pub(crate) ended: u64,
}

impl Intents {
    fn add(&mut self, other: Self) {
        self.begun += other.begun;
        self.owed += other.owed;
        self.aborted += other.aborted;
        self.ended += other.ended;
    }
}

/// What became of reads inside database snapshots that sidecars were told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inside {
    /// Snapshots told of.
    pub(crate) opened: u64,
    /// Look-ups inside them.
    pub(crate) reads: u64,
    /// Of these, after its lease had ended, or at another run than the one that was told of it.
    pub(crate) ended: u64,
    /// Values computed inside one and not stored, as the look-up had said.
    pub(crate) forbidden: u64,
}

impl Inside {
    fn add(&mut self, other: Self) {
        self.opened += other.opened;
        self.reads += other.reads;
        self.ended += other.ended;
        self.forbidden += other.forbidden;
    }
}

/// What became of turns to fill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turns {
    /// Questions for a turn that a sidecar was asked.
    pub(crate) asked: u64,
    /// Turns won, with or without an arbiter's word.
    pub(crate) won: u64,
    /// Of these, without an arbiter's word: it was silent.
    pub(crate) unelected: u64,
    /// Readers served what another one had stored while they waited.
    pub(crate) waited: u64,
    /// Questions answered by when to ask again.
    pub(crate) put_off: u64,
    /// Winners whose process was gone before their turn was over.
    pub(crate) abandoned: u64,
    /// Values computed by winners whose turn was over by then.
    pub(crate) outlived: u64,
    /// Commits refused because their turn was over.
    pub(crate) superseded: u64,
    /// Turns won while another reader had one for the same value: allowed, it costs a read of the source.
    pub(crate) doubled: u64,
}

impl Turns {
    fn add(&mut self, other: Self) {
        self.asked += other.asked;
        self.won += other.won;
        self.unelected += other.unelected;
        self.waited += other.waited;
        self.put_off += other.put_off;
        self.abandoned += other.abandoned;
        self.outlived += other.outlived;
        self.superseded += other.superseded;
        self.doubled += other.doubled;
    }

    /// By name.
    pub(crate) fn named(self) -> [(&'static str, u64); 9] {
        [
            ("asked", self.asked),
            ("won", self.won),
            ("unelected", self.unelected),
            ("waited", self.waited),
            ("put_off", self.put_off),
            ("abandoned", self.abandoned),
            ("outlived", self.outlived),
            ("superseded", self.superseded),
            ("doubled", self.doubled),
        ]
    }
}

/// What became of leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leaves {
    /// Readers of single leaves.
    pub(crate) asked: u64,
    /// Of these, answered with members at once, and after they had to wait for another one to load it.
    pub(crate) found: u64,
    pub(crate) found_later: u64,
    /// Of what was found, all that was asked for, and such as is too short.
    pub(crate) whole: u64,
    pub(crate) short: u64,
    /// Readers of several leaves as one, and those of them that were answered with members at once; not counted above.
    pub(crate) together_asked: u64,
    pub(crate) together_found: u64,
    /// Of what was found, what was read of several leaves, of any of them and of all of them.
    pub(crate) united: u64,
    pub(crate) intersected: u64,
    /// Rows of writes that were begun and not decided, in what their sidecar answered.
    pub(crate) begun_shown: u64,
    /// Of the readers, answered as absent at first, and told to bypass.
    pub(crate) absent: u64,
    pub(crate) bypassed: u64,
    /// Members answered, and of these such as were not in the list at that moment.
    pub(crate) members: u64,
    pub(crate) extra: u64,
    /// Questions for the right to load one that were put off.
    pub(crate) waited: u64,
    /// Loads that came to a leaf, that were condemned, and whose right was over.
    pub(crate) stored: u64,
    pub(crate) condemned: u64,
    pub(crate) over: u64,
    /// Members that readers pruned, and members removed by these and by the hints of peers.
    pub(crate) pruned: u64,
    pub(crate) removed: u64,
    /// Leaves evicted, and loads that made way for others or for want of room.
    pub(crate) evicted: u64,
    pub(crate) displaced: u64,
    /// Rows that came, as a sidecar applies it, into a list whose leaf it does not have.
    pub(crate) added_absent: u64,
}

impl Leaves {
    fn add(&mut self, other: Self) {
        self.asked += other.asked;
        self.found += other.found;
        self.found_later += other.found_later;
        self.whole += other.whole;
        self.short += other.short;
        self.together_asked += other.together_asked;
        self.together_found += other.together_found;
        self.united += other.united;
        self.intersected += other.intersected;
        self.begun_shown += other.begun_shown;
        self.absent += other.absent;
        self.bypassed += other.bypassed;
        self.members += other.members;
        self.extra += other.extra;
        self.waited += other.waited;
        self.stored += other.stored;
        self.condemned += other.condemned;
        self.over += other.over;
        self.pruned += other.pruned;
        self.removed += other.removed;
        self.evicted += other.evicted;
        self.displaced += other.displaced;
        self.added_absent += other.added_absent;
    }

    /// By name.
    pub(crate) fn named(self) -> [(&'static str, u64); 23] {
        [
            ("asked", self.asked),
            ("found", self.found),
            ("found_later", self.found_later),
            ("whole", self.whole),
            ("short", self.short),
            ("together_asked", self.together_asked),
            ("together_found", self.together_found),
            ("united", self.united),
            ("intersected", self.intersected),
            ("begun_shown", self.begun_shown),
            ("absent", self.absent),
            ("bypassed", self.bypassed),
            ("members", self.members),
            ("extra", self.extra),
            ("waited", self.waited),
            ("stored", self.stored),
            ("condemned", self.condemned),
            ("over", self.over),
            ("pruned", self.pruned),
            ("removed", self.removed),
            ("evicted", self.evicted),
            ("displaced", self.displaced),
            ("added_absent", self.added_absent),
        ]
    }
}

/// What became of local tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Locals {
    /// Streams opened.
    pub(crate) opened: u64,
    /// Leases that clients had.
    pub(crate) leases: u64,
    /// Readers whose table said where to look, and those of them that found it there.
    pub(crate) looked_up: u64,
    pub(crate) hits: u64,
    /// Messages by which tables became empty.
    pub(crate) everything: u64,
    /// Queues for a table that were full.
    pub(crate) overrun: u64,
    /// Tables given up for their silence.
    pub(crate) given_up: u64,
    /// Tables that were released, and whose sidecars have heard that.
    pub(crate) released: u64,
    /// Readers whose table had heard less than the process was answered.
    pub(crate) behind: u64,
    /// Sidecars that left behind tables which had lapsed.
    pub(crate) left_late: u64,
}

impl Locals {
    fn add(&mut self, other: Self) {
        self.opened += other.opened;
        self.leases += other.leases;
        self.looked_up += other.looked_up;
        self.hits += other.hits;
        self.everything += other.everything;
        self.overrun += other.overrun;
        self.given_up += other.given_up;
        self.released += other.released;
        self.behind += other.behind;
        self.left_late += other.left_late;
    }

    /// By name.
    pub(crate) fn named(self) -> [(&'static str, u64); 10] {
        [
            ("opened", self.opened),
            ("leases", self.leases),
            ("looked_up", self.looked_up),
            ("hits", self.hits),
            ("everything", self.everything),
            ("overrun", self.overrun),
            ("given_up", self.given_up),
            ("released", self.released),
            ("behind", self.behind),
            ("left_late", self.left_late),
        ]
    }
}

/// Counts of one run, or of many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Values computed after a miss.
    pub(crate) fills: u64,
    /// Reads begun.
    pub(crate) reads: u64,
    /// Reads served from the cache.
    pub(crate) hits: u64,
    /// Reads that the oracle would have served.
    pub(crate) oracle_hits: u64,
    /// Reads that were told to bypass, or found no sidecar.
    pub(crate) bypassed: u64,
    /// Writes committed.
    pub(crate) writes: u64,
    /// Invalidations answered.
    pub(crate) answered: u64,
    /// Invalidations whose receipt `all` was satisfied.
    pub(crate) all_satisfied: u64,
    /// Write intents.
    pub(crate) intents: Intents,
    /// Turns to fill.
    pub(crate) turns: Turns,
    /// Database snapshots that sidecars were told of.
    pub(crate) inside: Inside,
    /// Leaves.
    pub(crate) leaves: Leaves,
    /// Local tables.
    pub(crate) locals: Locals,
    /// Look-ups of readers that were offered what a soft write replaced, and those of them that found and were served it.
    pub(crate) stale: (u64, u64),
    /// Reads with a session, and those of them that timed out.
    pub(crate) sessions: (u64, u64),
    /// Floors applied.
    pub(crate) floors: u64,
    /// Shapes that were told of, at each that applied it.
    pub(crate) shapes: u64,
    /// Look-ups of a shape that was not known there.
    pub(crate) new_shapes: u64,
    /// Snapshots adopted.
    pub(crate) snapshots: u64,
    /// Events of the queue.
    pub(crate) steps: u64,
    /// By race.
    pub(crate) races: BTreeMap<Race, u64>,
    /// By fault.
    pub(crate) faults: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Counts a race.
    pub(crate) fn race(&mut self, race: Race) {
        *self.races.entry(race).or_default() += 1;
    }

    /// Counts a fault.
    pub(crate) fn fault(&mut self, fault: &'static str) {
        *self.faults.entry(fault).or_default() += 1;
    }

    /// Adds another run's counts.
    pub(crate) fn add(&mut self, other: &Self) {
        self.fills += other.fills;
        self.reads += other.reads;
        self.hits += other.hits;
        self.oracle_hits += other.oracle_hits;
        self.bypassed += other.bypassed;
        self.writes += other.writes;
        self.answered += other.answered;
        self.all_satisfied += other.all_satisfied;
        self.intents.add(other.intents);
        self.turns.add(other.turns);
        self.inside.add(other.inside);
        self.leaves.add(other.leaves);
        self.locals.add(other.locals);
        self.stale.0 += other.stale.0;
        self.stale.1 += other.stale.1;
        self.sessions.0 += other.sessions.0;
        self.sessions.1 += other.sessions.1;
        self.floors += other.floors;
        self.shapes += other.shapes;
        self.new_shapes += other.new_shapes;
        self.snapshots += other.snapshots;
        self.steps += other.steps;
        for (race, count) in &other.races {
            *self.races.entry(*race).or_default() += count;
        }
        for (fault, count) in &other.faults {
            *self.faults.entry(fault).or_default() += count;
        }
    }
}
