//! What sidecars tell each other and write to their logs.

use std::sync::Arc;

use crate::criteria::{Conjunction, Shape};
use crate::id::UnixSeconds;
use crate::index::RowIdentity;
use crate::names::{Address, ClassPath};
use crate::vector::VersionVector;

/// The most classes that one bump may name.
pub const BUMP_CLASSES_MAX: usize = 1_000;
/// The most classes that one conjunction (`match all`) may name.
pub const CONJUNCTION_CLASSES_MAX: usize = 8;
/// The most classes that one address may belong to.
pub const ADDRESS_CLASSES_MAX: usize = 16;
/// The most conjunctions that one change of rows may name.
pub const CHANGED_ROWS_MAX: usize = 64;
/// What a row weighs beside its columns: about as much as the classes that it concerns of two shapes, one with a range.
pub const ROW_WEIGHT: usize = 16;
/// The most bytes of names and values in one change of rows.
pub const CHANGED_ROWS_BYTES_MAX: usize = 64 * 1024;
/// The most registrations in one batch.
pub const BATCH_REGISTRATIONS_MAX: usize = 10_000;

/// Which addresses a bump's classes mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Match {
    /// Those in at least one of them.
    #[default]
    Any,
    /// Those in every one of them.
    All,
}

/// What a bump does to values at known addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PurgeMode {
    /// Delete them.
    #[default]
    Hard,
    /// Mark them stale where the cache can, else delete.
    Soft,
}

/// "These classes changed."
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bump {
    /// Sorted in byte order, without repetitions, at least one; at least two with [`Match::All`].
    pub classes: Vec<ClassPath>,
    /// Any or all of them.
    pub matching: Match,
    /// What to do with known addresses.
    pub purge: PurgeMode,
}

impl Bump {
    /// Whether whatever the other one makes stale is made stale by this one, and as hard. An answer no may be wrong where
    /// this one is of all of its classes.
    pub fn covers(&self, other: &Self) -> bool {
        if self.purge == PurgeMode::Soft && other.purge == PurgeMode::Hard {
            return false;
        }
        if self.classes == other.classes && self.matching == other.matching {
            return true;
        }
        let named = |class: &ClassPath| {
            let mut above = class.prefixes();
            above.any(|prefix| {
                let found = self
                    .classes
                    .binary_search_by(|own| own.as_str().cmp(prefix));
                found.is_ok()
            })
        };
        let all = self.classes.binary_search(&ClassPath::everything()).is_ok();
        let covered = match other.matching {
            Match::Any => other.classes.iter().all(named),
            Match::All => other.classes.iter().any(named),
        };
        self.matching == Match::Any && (all || covered)
    }

    /// The two in one, which makes at least as much stale as they do; `None` where it would have too many classes.
    pub fn join(&self, other: &Self) -> Option<Self> {
        let both = self.classes.iter().chain(&other.classes).cloned();
        let mut classes: Vec<_> = both.collect();
        classes.sort_unstable();
        classes.dedup();
        let purge = if self.purge == other.purge {
            self.purge
        } else {
            PurgeMode::Hard
        };
        let joined = Self {
            classes,
            matching: Match::Any,
            purge,
        };
        (joined.classes.len() <= BUMP_CLASSES_MAX).then_some(joined)
    }
}

/// "This bucket's entries are swallowed." The vector is the join of the old floor, every evicted entry and the
/// event itself, so that a floor is larger than all it replaces wherever it arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Floor {
    /// The bucket's top-level class.
    pub top: ClassPath,
    /// The bucket, below 256.
    pub bucket: u16,
    /// The join.
    pub vector: VersionVector,
}

/// "Rows changed." Where it is applied it becomes a bump of the classes of those reads, of shapes known there, that may have found one of
/// them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowsChanged {
    /// What is known of them, as they were and as they are: 1 to [`CHANGED_ROWS_MAX`], of
    /// [`CHANGED_ROWS_BYTES_MAX`] together.
    pub rows: Vec<RowImage>,
    /// What to do with known addresses.
    pub purge: PurgeMode,
}

/// What is known of rows that changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RowImage {
    /// What they have in common.
    pub rows: Conjunction,
    /// Of how many of them it speaks, and of when.
    pub moment: Moment,
    /// Which row it is, where it is one and the application says so.
    pub identity: Option<RowIdentity>,
}

/// Of which rows an image speaks, and of when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Moment {
    /// Of any number of rows, before and after.
    #[default]
    Any,
    /// Of one row as it was before the change.
    Before,
    /// Of one row as it is since the change.
    After,
}

impl RowImage {
    /// How long its names and values are.
    pub fn bytes(&self) -> usize {
        let id = self.identity.as_ref();
        self.rows.bytes() + id.map_or(0, |identity| identity.id.bytes() + size_of::<u64>())
    }
}

impl From<Conjunction> for RowImage {
    fn from(rows: Conjunction) -> Self {
        Self {
            rows,
            moment: Moment::Any,
            identity: None,
        }
    }
}

/// "Reads of this shape are made." Changes of rows that were applied without knowledge of it may have concerned them: the vector joins them
/// all, and the event itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewShape {
    /// The shape, which has columns.
    pub shape: Shape,
    /// The join.
    pub vector: VersionVector,
}

/// An event of the bump lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BumpEvent {
    /// Classes changed.
    Bump(Bump),
    /// A bucket was evicted.
    Floor(Floor),
    /// Rows changed.
    Rows(RowsChanged),
    /// A shape became known.
    Shape(NewShape),
}

impl BumpEvent {
    /// The events of others that it stands for, if it does.
    pub fn vector(&self) -> Option<&VersionVector> {
        match self {
            Self::Bump(_) | Self::Rows(_) => None,
            Self::Floor(floor) => Some(&floor.vector),
            Self::Shape(new) => Some(&new.vector),
        }
    }

    /// How much there is of it: of classes, of entries of vectors, or of what is known of rows, each of which concerns several classes.
    pub fn weight(&self) -> usize {
        match self {
            Self::Bump(bump) => bump.classes.len(),
            Self::Rows(changed) => {
                let cells = changed
                    .rows
                    .iter()
                    .map(|image| ROW_WEIGHT + image.rows.cells.len());
                cells.sum()
            }
            Self::Floor(Floor { vector, .. }) | Self::Shape(NewShape { vector, .. }) => {
                vector.len()
            }
        }
    }
}

/// "This address, of these classes, may exist in the cache until then."
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The cache address.
    pub address: Address,
    /// 1 to 16 classes, sorted, without repetitions.
    pub classes: Vec<ClassPath>,
    /// When the value is certain to be gone.
    pub expires: UnixSeconds,
}

/// An event of the directory lane: registrations, and the pointwise minimum of their stamps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistrationBatch {
    /// What was known when the oldest of them was resolved.
    pub stamp: VersionVector,
    /// 1 to 10,000 of them.
    pub registrations: Vec<Registration>,
}

/// An event of either lane, shared between the log, the peers and the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Of the bump lane.
    Bump(Arc<BumpEvent>),
    /// Of the directory lane.
    Directory(Arc<RegistrationBatch>),
}

impl Event {
    /// The lane that it belongs to.
    pub fn lane(&self) -> crate::id::Lane {
        match self {
            Self::Bump(_) => crate::id::Lane::Bump,
            Self::Directory(_) => crate::id::Lane::Directory,
        }
    }
}
