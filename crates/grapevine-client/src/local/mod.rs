//! A local table: look-ups in this process, as good as the sidecar's own (docs/formats.md has the protocol).
//!
//! The sidecar tells the table of whatever changes, in order, and leases it. While the lease holds, what it was answered before and
//! nothing has changed is what the sidecar would answer; without a lease, or an entry, the caller asks the sidecar. `slots` are
//! the entries, `changes` what makes them stale, `stream` keeps both in step with the sidecar.
//!
//! A look-up reads the lease first, and the counters last. A lease that is seen is behind all notices that were counted before it
//! was set: so who sees a lease that holds sees whatever the sidecar may take for heard.
//!
//! The sidecar's answers may be ahead of its notices. Each names the position of the notices that it rests on, and until that much was
//! heard the table says nothing: nobody in this process is told of the new by an answer and then of the old by the table.

mod changes;
mod clock;
mod slots;
mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use grapevine_proto::v1;
use tokio::sync::{oneshot, watch};
use xxhash_rust::xxh3::xxh3_64;

use self::changes::{Changes, Mark};
use self::slots::{Entry, Slots};
use crate::channel::Link;
use crate::names::{ADDRESS_BYTES_MAX, check_address};
use crate::stats::ClientCounters;

pub(crate) use self::clock::counts_suspension;

/// The most entries that a table can be told to have: 256 bytes each.
pub(crate) const CAPACITY_MAX: usize = 1 << 26;

/// What a local table knows of an address: where to look in the cache, and how to recognise the value.
///
/// It is good for reading only. A value that is missing is filled by what the sidecar answers, which alone stamps fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalHit {
    /// The token of the classes.
    pub token: u64,
    /// The strategy that policy chose.
    pub strategy: v1::Strategy,
    /// The value at the address is wrapped in an envelope, which carries the token.
    pub envelope: bool,
    commit_required: bool,
}

/// Up to where a table was told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Heard {
    /// By which run; empty without a stream.
    run: Bytes,
    /// What the run calls the table; 0 without a stream.
    name: u64,
    position: u64,
}

/// A table, shared by a client and its stream's task.
#[derive(Debug)]
pub(crate) struct Table {
    slots: Slots,
    changes: Changes,
    /// When the lease ends on this process's clock; 0 for none.
    lease_ends: AtomicU64,
    /// What the sidecar calls the table; 0 without a stream.
    name: AtomicU64,
    /// Up to which position notices are counted, and up to which there are some that answers were ahead of. Both are written under the lock
    /// in `heard`, which knows of which stream they are.
    counted: AtomicU64,
    needed: AtomicU64,
    heard: watch::Sender<Heard>,
}

/// How things stood before a look-up was sent.
#[derive(Debug)]
pub(crate) struct Before {
    mark: Mark,
    /// The table's name then.
    pub(crate) name: u64,
}

/// A table that is kept in step, until this is dropped.
#[derive(Debug)]
pub(crate) struct LocalTable {
    table: Arc<Table>,
    /// Dropped with this, which has the table released.
    _ends: oneshot::Sender<()>,
}

impl LocalTable {
    /// Opens a table of the sidecar behind a link. Needs a runtime.
    pub(crate) fn open(capacity: usize, link: &Arc<Link>, counters: &Arc<ClientCounters>) -> Self {
        let table = Arc::new(Table::new(capacity));
        let (ends, ended) = oneshot::channel();
        let stream = stream::Stream {
            table: Arc::clone(&table),
            link: Arc::clone(link),
            counters: Arc::clone(counters),
        };
        tokio::spawn(stream.run(ended));
        Self { table, _ends: ends }
    }

    #[inline]
    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    pub(crate) fn shared(&self) -> Arc<Table> {
        Arc::clone(&self.table)
    }
}

impl Table {
    fn new(capacity: usize) -> Self {
        Self {
            slots: Slots::new(capacity),
            changes: Changes::new(capacity),
            lease_ends: AtomicU64::new(0),
            name: AtomicU64::new(0),
            counted: AtomicU64::new(0),
            needed: AtomicU64::new(0),
            heard: watch::Sender::new(Heard::default()),
        }
    }

    fn is_leased(&self) -> bool {
        let ends = self.lease_ends.load(Ordering::Acquire);
        ends != 0 && clock::now() < ends
    }

    /// Whether it may say anything: it is leased, and no answer was ahead of it. To be asked before anything is looked up.
    #[inline]
    fn speaks(&self) -> bool {
        let needed = self.needed.load(Ordering::Acquire);
        needed <= self.counted.load(Ordering::Acquire) && self.is_leased()
    }

    /// Where to look for an address: its cache address is written into `into`.
    #[inline]
    pub(crate) fn look_up<C: AsRef<str>>(
        &self,
        address: &str,
        classes: &[C],
        into: &mut String,
    ) -> Option<LocalHit> {
        // Before anything else: see above.
        if !self.speaks() {
            return None;
        }
        let entry = self.slots.find(classes, &self.changes)?;
        check_address("", address).ok()?;
        into.clear();
        if entry.buckets > 0 {
            let (class, bucket) = (classes.first()?, bucket_of(address, entry.buckets));
            write_bucket(into, class.as_ref(), entry.buckets, bucket);
        } else {
            into.push_str(address);
            into.push_str(entry.suffix());
            if into.len() > ADDRESS_BYTES_MAX {
                return None;
            }
        }
        Some(LocalHit {
            token: entry.token,
            strategy: v1::Strategy::try_from(i32::from(entry.strategy)).unwrap_or_default(),
            envelope: entry.envelope,
            commit_required: entry.commit_required,
        })
    }

    /// The token of some classes, if it is known.
    pub(crate) fn token<C: AsRef<str>>(&self, classes: &[C]) -> Option<u64> {
        let speaks = self.speaks();
        let entry = speaks.then(|| self.slots.find(classes, &self.changes));
        entry.flatten().map(|entry| entry.token)
    }

    /// To be taken before a look-up is sent whose answer is to be kept.
    pub(crate) fn before<C: AsRef<str>>(&self, classes: &[C]) -> Option<Before> {
        let name = self.name.load(Ordering::Acquire);
        let mark = self.changes.mark(classes)?;
        (name != 0).then_some(Before { mark, name })
    }

    /// What the sidecar calls it; 0 without a stream.
    pub(crate) fn name(&self) -> u64 {
        self.name.load(Ordering::Acquire)
    }

    /// The sidecar has answered a call that named the table so, and has told, or is about to tell, it of all that the answer rests on up to
    /// this position. To be called before anybody has the answer.
    pub(crate) fn answered(&self, name: u64, position: Option<u64>) {
        self.heard.send_if_modified(|heard| {
            if let Some(position) = position.filter(|_| heard.name == name) {
                if position > heard.position {
                    self.needed.fetch_max(position, Ordering::AcqRel);
                }
            } else if heard.name != 0 {
                // How far it is ahead of this stream nobody can say.
                self.changes.note_everything();
            }
            false
        });
    }

    /// A stream has begun.
    fn opened(&self, run: Bytes, name: u64, position: u64) {
        self.heard.send_modify(|heard| {
            *heard = Heard {
                run,
                name,
                position,
            };
            self.counted.store(position, Ordering::Release);
        });
        self.name.store(name, Ordering::Release);
    }

    /// Whatever was told up to a position is counted.
    fn told(&self, position: u64) {
        self.heard.send_modify(|heard| {
            heard.position = position;
            self.counted.store(position, Ordering::Release);
        });
    }

    /// Keeps what was answered, if it is something that says of any address of these classes where to look.
    pub(crate) fn keep<C: AsRef<str>>(
        &self,
        before: &Before,
        (address, classes): (&str, &[C]),
        resolution: &v1::Resolution,
    ) -> bool {
        let [target] = &*resolution.targets else {
            return false;
        };
        if resolution.bypass || target.page_size > 0 {
            return false;
        }
        let entry = entry_of(address, classes, resolution, &target.address);
        entry.is_some_and(|entry| {
            self.slots
                .keep(classes, &entry, &before.mark, &self.changes)
        })
    }

    /// This client has declared classes changed: its own reads see that at once.
    pub(crate) fn note<C: AsRef<str>>(&self, classes: &[C]) {
        for class in classes {
            self.changes.note(class.as_ref());
        }
    }

    /// This client has declared something changed, and does not know which classes. Where its own sidecar has done that, and says up to
    /// which position it tells of it, that is waited for; else everything counts as changed.
    pub(crate) async fn catch_up(&self, run: &[u8], position: u64) {
        let mut heard = self.heard.subscribe();
        let of_run = position > 0 && heard.borrow().run == run;
        if of_run {
            // Once the stream is over the table is empty, which does as well.
            let there = |heard: &Heard| heard.run != run || heard.position >= position;
            let caught_up = heard.wait_for(there);
            let left = self
                .lease_ends
                .load(Ordering::Acquire)
                .saturating_sub(clock::now());
            let caught_up = tokio::time::timeout(Duration::from_nanos(left), caught_up).await;
            if matches!(caught_up, Ok(Ok(_))) {
                return;
            }
        }
        self.changes.note_everything();
    }

    /// What a stream has brought is over.
    fn empty(&self) {
        self.name.store(0, Ordering::Release);
        self.lease_ends.store(0, Ordering::Release);
        self.changes.note_everything();
        self.heard.send_modify(|heard| {
            *heard = Heard::default();
            self.needed.store(0, Ordering::Release);
        });
    }
}

fn bucket_of(address: &str, buckets: u16) -> u64 {
    xxh3_64(address.as_bytes()) % u64::from(buckets)
}

fn write_bucket(into: &mut String, class: &str, buckets: u16, bucket: u64) {
    use std::fmt::Write as _;
    // Writing to a string does not fail.
    let _ = write!(into, "{class}~b{buckets}.{bucket}");
}

/// What an answer says of every address of its classes; `None` if it does not, for the address was hashed.
fn entry_of<C: AsRef<str>>(
    address: &str,
    classes: &[C],
    resolution: &v1::Resolution,
    target: &str,
) -> Option<Entry> {
    let strategy = u8::try_from(resolution.strategy).ok()?;
    let mut entry = Entry::new(resolution.token, strategy);
    entry.envelope = resolution.envelope;
    entry.commit_required = resolution.commit_required;
    if resolution.strategy() != v1::Strategy::Bucketed {
        return entry.with_suffix(target.strip_prefix(address)?);
    }
    let class = classes.first()?.as_ref();
    let rest = target.strip_prefix(class)?.strip_prefix("~b")?;
    entry.buckets = rest.split_once('.')?.0.parse().ok().filter(|it| *it > 0)?;
    let mut again = String::new();
    write_bucket(
        &mut again,
        class,
        entry.buckets,
        bucket_of(address, entry.buckets),
    );
    (again == target).then_some(entry)
}

impl LocalHit {
    /// As the answer to a look-up, for reading. It cannot be filled by: it has no lease.
    pub(crate) fn resolution(self, target: String) -> v1::Resolution {
        v1::Resolution {
            targets: vec![v1::Target {
                address: target,
                ..Default::default()
            }],
            token: self.token,
            strategy: self.strategy.into(),
            envelope: self.envelope,
            commit_required: self.commit_required,
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests;
