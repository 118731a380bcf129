//! The table itself: a fixed number of slots of atomic words, in sets of four, that are read without a lock.
//!
//! A slot is written by whoever takes its sequence from even to odd, and counts for nothing until that is even again; who finds it
//! taken writes nothing. A reader copies what it needs and looks whether the sequence is still what it was: if not, it has missed.
//! What is compared is the whole list of classes, so two lists whose hashes are the same are told apart for certain.
//!
//! | word | what it holds |
//! | --- | --- |
//! | 0 | the sequence |
//! | 1 | the hash of the classes; 0 for a slot that was never used |
//! | 2 | the token |
//! | 3 | the sum of its counters ([`Changes`]) |
//! | 4 | from the lowest bits: strategy 8, flags 8, counters 8, bytes of the suffix 8, buckets 16, bytes of the classes 16 |
//! | 5 to 7 | the suffix that makes a cache address |
//! | 8 to 30 | its counters, two a word, and then the classes, with a zero byte between two |
//! | 31 | whether it was found since it was passed over last |
//!
//! A set that is full gives up a slot whose entry does not hold any more, else one that was not found for long (second chance).

use std::sync::atomic::{AtomicU64, Ordering, fence};

use xxhash_rust::xxh3::xxh3_64;

use super::changes::{Changes, Mark};

const WORDS: usize = 32;
const SEQUENCE: usize = 0;
const HASH: usize = 1;
const TOKEN: usize = 2;
const SUM: usize = 3;
const META: usize = 4;
const SUFFIX: usize = 5;
const BODY: usize = SUFFIX + SUFFIX_MAX / 8;
const FOUND: usize = 31;
/// Words of counters and classes.
const BODY_WORDS: usize = FOUND - BODY;
/// The longest list of classes, with a byte between two.
const NAMES_MAX: usize = BODY_WORDS * 8;
/// The longest suffix.
pub(crate) const SUFFIX_MAX: usize = 24;
/// Slots of a set.
const WAYS: usize = 4;

/// What an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) token: u64,
    /// As the wire numbers it.
    pub(crate) strategy: u8,
    pub(crate) envelope: bool,
    pub(crate) commit_required: bool,
    /// Of how many buckets a class has one for an address; 0 where the address tells all.
    pub(crate) buckets: u16,
    suffix: [u8; SUFFIX_MAX],
    suffix_len: u8,
}

impl Entry {
    pub(crate) fn new(token: u64, strategy: u8) -> Self {
        Self {
            token,
            strategy,
            envelope: false,
            commit_required: false,
            buckets: 0,
            suffix: [0; SUFFIX_MAX],
            suffix_len: 0,
        }
    }

    /// The same, with what comes behind an application's address; `None` if that is too long.
    pub(crate) fn with_suffix(mut self, suffix: &str) -> Option<Self> {
        self.suffix
            .get_mut(..suffix.len())?
            .copy_from_slice(suffix.as_bytes());
        self.suffix_len = u8::try_from(suffix.len()).ok()?;
        Some(self)
    }

    pub(crate) fn suffix(&self) -> &str {
        let bytes = self.suffix.get(..usize::from(self.suffix_len));
        bytes
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or("")
    }

    fn meta(&self, counters: usize, names: usize) -> u64 {
        let flags = u64::from(self.envelope) | u64::from(self.commit_required) << 1;
        u64::from(self.strategy)
            | flags << 8
            | (counters as u64) << 16
            | u64::from(self.suffix_len) << 24
            | u64::from(self.buckets) << 32
            | (names as u64) << 48
    }
}

#[derive(Debug)]
#[repr(align(64))]
struct Slot([AtomicU64; WORDS]);

/// A list of classes as it stands in a slot.
struct Names {
    words: [u64; BODY_WORDS],
    bytes: usize,
    hash: u64,
}

impl Names {
    #[inline]
    fn of<C: AsRef<str>>(classes: &[C]) -> Option<Self> {
        let mut text = [0_u8; NAMES_MAX];
        let mut bytes = 0;
        for (at, class) in classes.iter().enumerate() {
            let class = class.as_ref().as_bytes();
            // What was zero stays so between two.
            bytes += usize::from(at > 0);
            text.get_mut(bytes..bytes + class.len())?
                .copy_from_slice(class);
            bytes += class.len();
        }
        let hash = xxh3_64(text.get(..bytes)?).max(1);
        let mut words = [0; BODY_WORDS];
        for (word, eight) in words.iter_mut().zip(text.chunks_exact(8)) {
            *word = u64::from_le_bytes(eight.try_into().ok()?);
        }
        Some(Self { words, bytes, hash })
    }

    fn words(&self) -> &[u64] {
        &self.words[..self.bytes.div_ceil(8)]
    }
}

impl Slot {
    fn load(&self, word: usize) -> u64 {
        self.0[word].load(Ordering::Relaxed)
    }

    /// What it says of these classes, if it speaks of them and that still holds.
    #[inline]
    fn read(&self, names: &Names, changes: &Changes) -> Option<Entry> {
        let sequence = self.0[SEQUENCE].load(Ordering::Acquire);
        if sequence % 2 == 1 {
            return None;
        }
        let meta = self.load(META);
        let [strategy, flags, counters, suffix_len, ..] = meta.to_le_bytes();
        let buckets = (meta >> 32 & 0xffff) as u16;
        let counters = usize::from(counters);
        let first = BODY + counters.div_ceil(2);
        let body = self.0.get(first..FOUND)?;
        let wanted = names.words();
        if meta >> 48 != names.bytes as u64 || wanted.len() > body.len() {
            return None;
        }
        let same = body.iter().zip(wanted);
        if !same
            .into_iter()
            .all(|(word, wanted)| word.load(Ordering::Relaxed) == *wanted)
        {
            return None;
        }
        let mut each = [0_u32; super::changes::PREFIXES_MAX];
        let pairs = each.get_mut(..counters)?.chunks_mut(2);
        for (pair, word) in pairs.zip(&self.0[BODY..first]) {
            let word = word.load(Ordering::Relaxed);
            pair[0] = (word & 0xffff_ffff) as u32;
            if let Some(second) = pair.get_mut(1) {
                *second = (word >> 32) as u32;
            }
        }
        let (token, sum) = (self.load(TOKEN), self.load(SUM));
        let mut suffix = [0; SUFFIX_MAX];
        for (eight, word) in suffix.chunks_exact_mut(8).zip(&self.0[SUFFIX..BODY]) {
            eight.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        fence(Ordering::Acquire);
        if self.load(SEQUENCE) != sequence {
            return None;
        }
        (changes.sum(each[..counters].iter().copied()) == sum).then_some(Entry {
            token,
            strategy,
            envelope: flags & 1 == 1,
            commit_required: flags & 2 == 2,
            buckets,
            suffix,
            suffix_len,
        })
    }

    /// Whether what it holds does not stand any more. What is being written may be taken for that: nothing rests on it.
    fn is_stale(&self, changes: &Changes) -> bool {
        let [_, _, counters, ..] = self.load(META).to_le_bytes();
        let words = self.0[BODY..FOUND]
            .iter()
            .take(usize::from(counters).div_ceil(2));
        let each = words.flat_map(|word| {
            let word = word.load(Ordering::Relaxed);
            [(word & 0xffff_ffff) as u32, (word >> 32) as u32]
        });
        changes.sum(each.take(usize::from(counters))) != self.load(SUM)
    }

    /// Writes an entry, unless somebody else writes here.
    fn write(&self, names: &Names, entry: &Entry, mark: &Mark) -> bool {
        let sequence = self.load(SEQUENCE);
        let taken = sequence.is_multiple_of(2)
            && self.0[SEQUENCE]
                .compare_exchange(sequence, sequence + 1, Ordering::Acquire, Ordering::Relaxed)
                .is_ok();
        if !taken {
            return false;
        }
        // No reader may see what follows and the sequence from before.
        fence(Ordering::Release);
        let store = |word: usize, value: u64| self.0[word].store(value, Ordering::Relaxed);
        store(HASH, names.hash);
        store(TOKEN, entry.token);
        store(SUM, mark.sum);
        store(META, entry.meta(mark.count, names.bytes));
        for (at, eight) in entry.suffix.chunks_exact(8).enumerate() {
            let eight = eight.try_into();
            store(SUFFIX + at, u64::from_le_bytes(eight.unwrap_or_default()));
        }
        let counters = mark.counters[..mark.count].chunks(2).map(|pair| {
            let second = pair.get(1).copied().unwrap_or(0);
            u64::from(pair[0]) | u64::from(second) << 32
        });
        let body = counters.chain(names.words().iter().copied());
        for (word, value) in (BODY..FOUND).zip(body) {
            store(word, value);
        }
        store(FOUND, 0);
        self.0[SEQUENCE].store(sequence + 2, Ordering::Release);
        true
    }
}

/// The slots.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Box<[Slot]>,
}

impl Slots {
    /// Room for so many entries, rounded up so that the number of sets is a power of two.
    pub(crate) fn new(entries: usize) -> Self {
        let sets = entries.div_ceil(WAYS).max(1).next_power_of_two();
        let slot = || Slot(std::array::from_fn(|_| AtomicU64::new(0)));
        Self {
            slots: std::iter::repeat_with(slot).take(sets * WAYS).collect(),
        }
    }

    #[inline]
    fn set(&self, hash: u64) -> &[Slot] {
        let sets = self.slots.len() / WAYS;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "any bits of the hash will do"
        )]
        let at = (hash as usize & (sets - 1)) * WAYS;
        &self.slots[at..at + WAYS]
    }

    /// What is known of these classes and still holds.
    #[inline]
    pub(crate) fn find<C: AsRef<str>>(&self, classes: &[C], changes: &Changes) -> Option<Entry> {
        let names = Names::of(classes)?;
        let set = self.set(names.hash);
        // All four at once: they are as far away as memory is.
        let hashes: [u64; WAYS] = std::array::from_fn(|way| set[way].load(HASH));
        for (slot, hash) in set.iter().zip(hashes) {
            if hash == names.hash
                && let Some(entry) = slot.read(&names, changes)
            {
                if slot.load(FOUND) == 0 {
                    slot.0[FOUND].store(1, Ordering::Relaxed);
                }
                return Some(entry);
            }
        }
        None
    }

    /// Keeps what was answered, as things stood before it was asked. Tells whether there was room.
    pub(crate) fn keep<C: AsRef<str>>(
        &self,
        classes: &[C],
        entry: &Entry,
        mark: &Mark,
        changes: &Changes,
    ) -> bool {
        let Some(names) = Names::of(classes) else {
            return false;
        };
        if mark.count.div_ceil(2) + names.words().len() > BODY_WORDS {
            return false;
        }
        let set = self.set(names.hash);
        let hash = |slot: &&Slot| slot.load(HASH);
        let slot = set
            .iter()
            .find(|slot| hash(slot) == names.hash)
            .or_else(|| set.iter().find(|slot| hash(slot) == 0))
            .or_else(|| set.iter().find(|slot| slot.is_stale(changes)))
            .or_else(|| set.iter().find(|slot| slot.load(FOUND) == 0));
        let slot = slot.unwrap_or_else(|| {
            for slot in set {
                slot.0[FOUND].store(0, Ordering::Relaxed);
            }
            &set[usize::from(names.hash >> 63 == 1) * 2 + usize::from(names.hash >> 62 & 1 == 1)]
        });
        slot.write(&names, entry, mark)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn entry(token: u64) -> Entry {
        Entry::new(token, 1).with_suffix("~1AAAAAAAAAAA").unwrap()
    }

    #[test]
    fn g3_an_entry_is_found_under_its_classes_until_one_of_them_changes() {
        let (slots, changes) = (Slots::new(64), Changes::new(1 << 12));
        let lists: [&[&str]; 5] = [&["a/1"], &["a", "1"], &["a/1", "b"], &["b", "a/1"], &["a"]];
        for (token, classes) in (1..).zip(lists) {
            let mark = changes.mark(classes).unwrap();
            assert!(slots.keep(classes, &entry(token), &mark, &changes));
        }
        for (token, classes) in (1..).zip(lists) {
            assert_eq!(
                slots.find(classes, &changes),
                Some(entry(token)),
                "{classes:?}"
            );
        }
        changes.note("b");
        let found = lists.map(|classes| slots.find(classes, &changes).is_some());
        assert_eq!(found, [true, true, false, false, true]);
        // What was asked before a change, and is answered behind it, does not hold.
        let mark = changes.mark(&["c"]).unwrap();
        changes.note("c");
        assert!(slots.keep(&["c"], &entry(9), &mark, &changes));
        assert_eq!(slots.find(&["c"], &changes), None);
    }

    #[test]
    fn lists_of_one_hash_are_told_apart_by_their_names() {
        let changes = Changes::new(1 << 12);
        let slot = Slot(std::array::from_fn(|_| AtomicU64::new(0)));
        let mut names = Names::of(&["a/1"]).unwrap();
        let mark = changes.mark(&["a/1"]).unwrap();
        assert!(slot.write(&names, &entry(1), &mark));
        assert_eq!(slot.read(&names, &changes), Some(entry(1)));
        let other = Names::of(&["a/2"]).unwrap();
        names.words = other.words;
        assert_eq!(
            slot.read(&names, &changes),
            None,
            "of the same hash and length"
        );
    }

    #[test]
    fn g10_it_is_bounded_and_keeps_what_is_found_again() {
        let (slots, changes) = (Slots::new(256), Changes::new(1 << 12));
        let keep = |name: &str| {
            let mark = changes.mark(&[name]).unwrap();
            slots.keep(&[name], &entry(1), &mark, &changes);
        };
        let hot: Vec<_> = (0..64).map(|n| format!("hot/{n}")).collect();
        for round in 0..40 {
            for name in &hot {
                if slots.find(&[name], &changes).is_none() {
                    keep(name);
                }
                slots.find(&[name], &changes);
            }
            for n in 0..16 {
                keep(&format!("cold/{round}/{n}"));
            }
        }
        let kept = hot
            .iter()
            .filter(|name| slots.find(&[name], &changes).is_some());
        assert!(kept.count() > 56);
        assert_eq!(slots.slots.len(), 256);
        let long = "x".repeat(200);
        let mark = changes.mark(&[&long]).unwrap();
        assert!(
            !slots.keep(&[&long], &entry(1), &mark, &changes),
            "no room in a slot"
        );
        assert_eq!(slots.find(&[&long], &changes), None);
    }

    /// Readers never see a mixture of two entries, and nothing that a change made stale before they looked.
    #[test]
    fn g3_readers_beside_writers_and_changes_see_whole_entries_that_hold() {
        let (slots, changes) = (Slots::new(4), Changes::new(1 << 12));
        let (stop, found) = (AtomicBool::new(false), AtomicU64::new(0));
        let names: Vec<_> = (0..6).map(|n| format!("c/{n}")).collect();
        // The least token that may be found of each.
        let least: Vec<_> = names.iter().map(|_| AtomicU64::new(0)).collect();
        let versions: Vec<_> = names.iter().map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::SeqCst) {
                        for (n, name) in names.iter().enumerate() {
                            let mark = changes.mark(&[name]).unwrap();
                            // The answer of a sidecar: what it has applied by then.
                            let version = versions[n].load(Ordering::SeqCst);
                            let token = version << 8 | n as u64;
                            let kept = Entry::new(token, 1).with_suffix(&format!("{token:016x}"));
                            slots.keep(&[name], &kept.unwrap(), &mark, &changes);
                        }
                        std::thread::yield_now();
                    }
                });
            }
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    for (n, name) in names.iter().enumerate() {
                        let least = least[n].load(Ordering::SeqCst);
                        let Some(entry) = slots.find(&[name], &changes) else {
                            continue;
                        };
                        assert_eq!(entry.token & 0xff, n as u64);
                        assert_eq!(entry.suffix(), format!("{:016x}", entry.token));
                        assert!(entry.token >> 8 >= least, "it was acknowledged");
                        found.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
            let deadline = std::time::Instant::now() + std::time::Duration::from_mins(1);
            let mut step = 0;
            while step < 2_000 || found.load(Ordering::SeqCst) < 500 {
                assert!(
                    std::time::Instant::now() < deadline,
                    "hardly anything is found"
                );
                step += 1;
                let n = usize::try_from(step).unwrap() % names.len();
                versions[n].store(step, Ordering::SeqCst);
                // The notice, and its acknowledgement.
                changes.note(&names[n]);
                least[n].store(step, Ordering::SeqCst);
                std::thread::yield_now();
            }
            stop.store(true, Ordering::SeqCst);
        });
    }
}
