//! Messages that were begun and are not whole, in the order in which they give way when their pool is full.
//!
//! Whoever begins a message and stops holds its room, and it costs him nothing. So he holds it only while nobody needs it.
//! Small messages give way the oldest first: one that comes in a single frame is never among them, and one of a few frames
//! is the youngest. Of large ones each has its pace, a second and then so many bytes a second; who is furthest behind gives way, and
//! nobody who keeps it. Who gives way is told to try again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Charge;

/// How far behind a large message may be. A caller that is paused for longer, while there is no room, sends it anew.
const GRACE: Duration = Duration::from_secs(1);
/// The pace of a large message: far below what any network within a data centre carries.
const PACE_BYTES_PER_S: u32 = 1 << 20;

/// The most messages that are looked at, and give way, for one call: as many may have begun as there are bytes.
const GOING_MAX: usize = 4_096;

/// Room for messages of one kind.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) room: Arc<Semaphore>,
    bytes: usize,
    /// Whether messages have a pace to keep. Those without one always give way.
    paced: bool,
    begun: Mutex<Begun>,
}

/// At most as many as the pool has bytes, for each of them is charged for one.
#[derive(Debug, Default)]
struct Begun {
    last: u64,
    parts: BTreeMap<Place, Standing>,
}

/// By when the next bytes of a message have to come, and its number.
type Place = (Instant, u64);

/// A message that can give way.
#[derive(Debug)]
struct Standing {
    charge: Charge,
    waker: Arc<Mutex<Option<Waker>>>,
}

/// A message's entry. Dropped, it is none any more.
#[derive(Debug)]
pub(super) struct Part {
    pool: Arc<Pool>,
    since: Instant,
    place: Place,
    /// Who is to be told.
    waker: Arc<Mutex<Option<Waker>>>,
}

impl Pool {
    pub(super) fn small(bytes: usize) -> Self {
        Self::new(bytes, false)
    }

    pub(super) fn large(bytes: usize) -> Self {
        Self::new(bytes, true)
    }

    fn new(bytes: usize, paced: bool) -> Self {
        let room = Arc::new(Semaphore::new(bytes));
        let begun = Mutex::default();
        Self {
            room,
            bytes,
            paced,
            begun,
        }
    }

    /// Has a call take up so many bytes, more or fewer than before, and none of another pool; tells whether there was room.
    pub(super) fn charge(&self, charge: &Charge, bytes: usize) -> bool {
        // One that is larger than all the room takes all of it.
        let wanted = bytes.min(self.bytes);
        let mut held = charge.lock();
        let own = held.as_ref().map_or(0, |held| self.permits(held));
        if own > wanted {
            let spare = held.as_mut().and_then(|held| held.split(own - wanted));
            drop(spare);
            return true;
        }
        let count = u32::try_from(wanted - own).unwrap_or(u32::MAX);
        let Ok(more) = self.room.clone().try_acquire_many_owned(count) else {
            return false;
        };
        match held.as_mut() {
            Some(held) if own > 0 => held.merge(more),
            _ => *held = Some(more),
        }
        true
    }

    /// How much of this pool it is.
    fn permits(&self, held: &OwnedSemaphorePermit) -> usize {
        let of_this = Arc::ptr_eq(held.semaphore(), &self.room);
        if of_this { held.num_permits() } else { 0 }
    }

    /// A message has begun.
    pub(super) fn begin(self: &Arc<Self>, charge: &Charge, came: usize, now: Instant) -> Part {
        let mut begun = self.begun.lock();
        begun.last += 1;
        let place = (self.due(now, came), begun.last);
        let waker = Arc::default();
        let standing = Standing {
            charge: charge.clone(),
            waker: Arc::clone(&waker),
        };
        begun.parts.insert(place, standing);
        drop(begun);
        Part {
            pool: Arc::clone(self),
            since: now,
            place,
            waker,
        }
    }

    /// By when more has to have come of a message of which so much came.
    fn due(&self, since: Instant, came: usize) -> Instant {
        if !self.paced {
            return since;
        }
        let came = u32::try_from(came).unwrap_or(u32::MAX);
        since + GRACE + Duration::from_secs(1) * came / PACE_BYTES_PER_S
    }

    /// Has what is furthest behind give way to a call that is to take up so many bytes, except its own, until there is room;
    /// tells how many did. If all of it would not make room, nothing gives way, and it tells none.
    pub(super) fn make_room(
        &self,
        (charge, bytes): (&Charge, usize),
        own: Option<&Part>,
        now: Instant,
    ) -> Option<usize> {
        let held = |charge: &Charge| charge.lock().as_ref().map_or(0, |held| self.permits(held));
        let mut room = self.room.available_permits() + held(charge);
        let mut begun = self.begun.lock();
        let own = own.map(|own| own.place);
        let behind = begun.parts.iter().take_while(|((due, _), _)| *due <= now);
        let mut going = Vec::new();
        for (place, standing) in behind.take(GOING_MAX) {
            if room >= bytes.min(self.bytes) {
                break;
            }
            if Some(*place) != own {
                room += held(&standing.charge);
                going.push(*place);
            }
        }
        if room < bytes.min(self.bytes) {
            return None;
        }
        let going = going
            .into_iter()
            .filter_map(|place| begun.parts.remove(&place));
        let going: Vec<_> = going.collect();
        // Under this lock, so that whoever finds its entry gone finds its room gone, too.
        for standing in &going {
            *standing.charge.lock() = None;
        }
        drop(begun);
        for standing in &going {
            if let Some(waker) = standing.waker.lock().take() {
                waker.wake();
            }
        }
        Some(going.len())
    }
}

impl Part {
    pub(super) fn is_of(&self, pool: &Arc<Pool>) -> bool {
        Arc::ptr_eq(&self.pool, pool)
    }

    /// Whether it gave way. If not, whoever asks is woken when it does.
    pub(super) fn gave_way(&self, cx: &Context<'_>) -> bool {
        *self.waker.lock() = Some(cx.waker().clone());
        !self.pool.begun.lock().parts.contains_key(&self.place)
    }

    /// More of it came: so much, altogether.
    pub(super) fn goes_on(&mut self, came: usize) {
        let place = (self.pool.due(self.since, came), self.place.1);
        let mut begun = self.pool.begun.lock();
        // If it gave way it is not back.
        if let Some(standing) = begun.parts.remove(&self.place) {
            begun.parts.insert(place, standing);
        }
        drop(begun);
        self.place = place;
    }

    /// It is whole, and gives way no more; false if it has.
    pub(super) fn end(self) -> bool {
        self.pool.begun.lock().parts.remove(&self.place).is_some()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.pool.begun.lock().parts.remove(&self.place);
    }
}
