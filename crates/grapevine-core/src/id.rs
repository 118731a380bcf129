//! Who issued an event, which one it was, and when things happen.
//!
//! A sidecar's run is an [`Incarnation`]; it numbers its events from 1 in each of two [`Lane`]s. Bumps and floors
//! travel in one lane and registrations in the other, so that tokens and freshness, which rest on the bump lane
//! alone, never wait for bulk.

use std::fmt;
use std::time::Duration;

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_128;

/// The admission epoch of what is not a run but a history.
const HISTORY_EPOCH: u128 = 0xffff_ffff;

/// The admission epoch of what is not a run but the retirements of a history.
const RETIREMENTS_EPOCH: u128 = HISTORY_EPOCH - 1;

/// One run of one sidecar: 16 bytes, new at every start.
///
/// The upper 32 bits are reserved for the admission epoch (zero until a roster hands one out), the lower 96 are
/// random, drawn by the caller. Zero is not a valid incarnation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(u128);

impl Incarnation {
    /// The lowest name of a history; those of runs are below.
    pub(crate) const FIRST_HISTORY: Self = Self(HISTORY_EPOCH << 96);
    /// The lowest name of a history's retirements; those of runs are below.
    pub(crate) const FIRST_RETIREMENTS: Self = Self(RETIREMENTS_EPOCH << 96);
    /// The lowest name of all: a run draws it only if all of its 96 bits but the last are zero.
    pub(crate) const FIRST: Self = Self(1);
    /// The highest name of all.
    pub(crate) const LAST: Self = Self(u128::MAX);
    /// The length of the byte form.
    pub const LEN: usize = 16;

    /// From its number; `None` for zero.
    pub const fn new(value: u128) -> Option<Self> {
        if value == 0 { None } else { Some(Self(value)) }
    }

    /// From 96 random bits (higher bits are ignored) and an admission epoch.
    pub const fn from_random(random: u128, epoch: u32) -> Self {
        let low = random & ((1 << 96) - 1);
        // An all-zero draw has a chance of 2^-96; it still must not make the invalid value.
        let low = if low == 0 { 1 } else { low };
        Self(((epoch as u128) << 96) | low)
    }

    /// The name under which a roster that this run begins bumps everything: not that of any run.
    #[must_use]
    pub const fn as_history(self) -> Self {
        Self(self.0 | (HISTORY_EPOCH << 96))
    }

    /// The name of a history that this run begins although it is a member of one: of what it leaves and of how many it
    /// began before, so that no two have one name.
    #[must_use]
    pub(crate) fn begins_after(self, history: Option<Self>, number: u64, nth: u64) -> Self {
        let mut seed = [0; 2 * Self::LEN + 16];
        seed[..Self::LEN].copy_from_slice(&self.to_bytes());
        if let Some(history) = history {
            seed[Self::LEN..2 * Self::LEN].copy_from_slice(&history.to_bytes());
        }
        seed[2 * Self::LEN..2 * Self::LEN + 8].copy_from_slice(&number.to_be_bytes());
        seed[2 * Self::LEN + 8..].copy_from_slice(&nth.to_be_bytes());
        Self(xxh3_128(&seed)).as_history()
    }

    /// Whether it names a history, and no run.
    pub const fn is_history(self) -> bool {
        self.0 >> 96 == HISTORY_EPOCH
    }

    /// The name under which a history has bumps of its retired runs go on: not that of any run.
    #[must_use]
    pub const fn as_retirements(self) -> Self {
        Self(self.0 & ((1 << 96) - 1) | (RETIREMENTS_EPOCH << 96))
    }

    /// Whether it names the retirements of a history, and no run.
    pub const fn is_retirements(self) -> bool {
        self.0 >> 96 == RETIREMENTS_EPOCH
    }

    /// What salts tokens while this run catches up for the `nth` time, from 0: another one each time, for with the last one's
    /// token go values of who knew less.
    pub(crate) const fn salt(self, nth: u32) -> Self {
        Self(self.0 & ((1 << 96) - 1) | ((nth as u128) << 96))
    }

    /// From its byte form; `None` unless it is 16 bytes and not zero.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::new(u128::from_be_bytes(bytes.try_into().ok()?))
    }

    /// The byte form, big-endian.
    pub const fn to_bytes(self) -> [u8; Self::LEN] {
        self.0.to_be_bytes()
    }

    /// The number.
    pub const fn get(self) -> u128 {
        self.0
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The last eight digits tell runs apart in a transcript; the whole number drowns it.
        write!(f, "i{:x}", self.0 & 0xffff_ffff)
    }
}

/// Which of an incarnation's two sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Bumps and floors: small and urgent.
    Bump,
    /// Registration batches: bulk.
    Directory,
}

impl Lane {
    /// Both, in the order in which they are served.
    pub const ALL: [Self; 2] = [Self::Bump, Self::Directory];
}

/// An event of the bump lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    /// Who issued it.
    pub origin: Incarnation,
    /// Its number there, from 1.
    pub sequence: u64,
}

/// The length of what names something of a run: a version, the run, a number.
pub const NAMED_BYTES: usize = 1 + Incarnation::LEN + 8;

/// What is wrong with bytes that are to name something of a run.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NamedError {
    /// Too few or too many.
    #[error("{given} bytes; it has {NAMED_BYTES}")]
    Length {
        /// How many.
        given: usize,
    },
    /// Of another version.
    #[error("version {given}; it must be {wanted}")]
    Version {
        /// Of which.
        given: u8,
        /// Of which it must be.
        wanted: u8,
    },
    /// Of no run.
    #[error("a run whose number is 0, which no run has")]
    NoRun,
}

/// The byte form of what names something of a run.
pub fn named_bytes(version: u8, run: Incarnation, number: u64) -> [u8; NAMED_BYTES] {
    let mut bytes = [0; NAMED_BYTES];
    let (head, last) = bytes.split_at_mut(1 + Incarnation::LEN);
    head[0] = version;
    head[1..].copy_from_slice(&run.to_bytes());
    last.copy_from_slice(&number.to_be_bytes());
    bytes
}

/// Reads it: the run and the number.
pub fn read_named(bytes: &[u8], version: u8) -> Result<(Incarnation, u64), NamedError> {
    let bytes: [u8; NAMED_BYTES] = bytes
        .try_into()
        .map_err(|_| NamedError::Length { given: bytes.len() })?;
    if bytes[0] != version {
        let (given, wanted) = (bytes[0], version);
        return Err(NamedError::Version { given, wanted });
    }
    let (run, number) = bytes[1..].split_at(Incarnation::LEN);
    let run = Incarnation::from_bytes(run).ok_or(NamedError::NoRun)?;
    let number = number.try_into().expect("invariant: 8 bytes are left");
    Ok((run, u64::from_be_bytes(number)))
}

/// A moment on the sidecar's own clock: monotonic, counting suspended time, from an arbitrary start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(Duration);

impl Time {
    /// The clock's start.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// So long after the clock's start.
    pub const fn from_start(elapsed: Duration) -> Self {
        Self(elapsed)
    }

    /// The time since the clock's start.
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// From `earlier` to here; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// This much later.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// Seconds since the Unix epoch: for the expiry of registrations, where an error costs hygiene and no safety.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixSeconds(pub u32);

impl UnixSeconds {
    /// This much later, rounded up to a whole second.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
        Self(
            self.0
                .saturating_add(u32::try_from(seconds).unwrap_or(u32::MAX)),
        )
    }
}
