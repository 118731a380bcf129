//! What has changed, as counters: a fixed array of them, by the hash of a class's path, and one for everything.
//!
//! An entry of the table remembers the sum of the counters of all prefixes of its classes, as it was before its look-up was sent, and
//! holds while the sum is the same: counters only rise, so the sum is the same only if each of them is. A notice of a class counts its
//! own path; whatever lies below has that among its prefixes. Two paths that share a counter cost each other hits, and nothing else.

use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::xxh3_64;

/// The class that stands for all.
const EVERYTHING: &str = "*";
/// The most prefixes that an entry's classes have together.
pub(crate) const PREFIXES_MAX: usize = 24;

/// How things stood at some moment for some classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) counters: [u32; PREFIXES_MAX],
    pub(crate) count: usize,
    pub(crate) sum: u64,
}

/// The counters.
#[derive(Debug)]
pub(crate) struct Changes {
    counters: Box<[AtomicU64]>,
    everything: AtomicU64,
}

impl Changes {
    /// So many counters, rounded up to a power of two, of which there are at most 2^20.
    pub(crate) fn new(counters: usize) -> Self {
        let count = counters.clamp(1 << 12, 1 << 20).next_power_of_two();
        Self {
            counters: (0..count).map(|_| AtomicU64::new(0)).collect(),
            everything: AtomicU64::new(0),
        }
    }

    fn counter(&self, path: &str) -> u32 {
        let mask = self.counters.len() as u64 - 1;
        u32::try_from(xxh3_64(path.as_bytes()) & mask).expect("invariant: at most 2^20")
    }

    /// A class and all below it has changed.
    pub(crate) fn note(&self, class: &str) {
        if class == EVERYTHING {
            return self.note_everything();
        }
        self.counters[self.counter(class) as usize].fetch_add(1, Ordering::SeqCst);
    }

    /// Whatever there is has changed.
    pub(crate) fn note_everything(&self) {
        self.everything.fetch_add(1, Ordering::SeqCst);
    }

    /// How things stand for these classes; `None` if they have too many prefixes.
    pub(crate) fn mark<C: AsRef<str>>(&self, classes: &[C]) -> Option<Mark> {
        let mut mark = Mark {
            counters: [0; PREFIXES_MAX],
            count: 0,
            sum: 0,
        };
        for class in classes {
            let class = class.as_ref();
            let ends = class.match_indices('/').map(|(end, _)| end);
            for end in ends.chain([class.len()]) {
                *mark.counters.get_mut(mark.count)? = self.counter(&class[..end]);
                mark.count += 1;
            }
        }
        mark.sum = self.sum(mark.counters[..mark.count].iter().copied());
        Some(mark)
    }

    /// The sum of some counters and that of everything.
    pub(crate) fn sum(&self, counters: impl IntoIterator<Item = u32>) -> u64 {
        let mask = self.counters.len() - 1;
        let each = counters.into_iter().map(|counter| {
            // Whatever an entry says that is being written, it is one of them.
            self.counters[counter as usize & mask].load(Ordering::Acquire)
        });
        each.fold(self.everything.load(Ordering::Acquire), u64::wrapping_add)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn g3_what_lies_at_or_below_a_changed_class_does_not_stand_and_neighbours_do() {
        let changes = Changes::new(1 << 16);
        let holds =
            |mark: &Mark| changes.sum(mark.counters[..mark.count].iter().copied()) == mark.sum;
        let marks = |paths: &[&[&str]]| -> Vec<Mark> {
            paths
                .iter()
                .map(|classes| changes.mark(classes).unwrap())
                .collect()
        };
        let paths: [&[&str]; 5] = [&["a/1"], &["a/1/x", "b"], &["a"], &["a/12"], &["b/2"]];
        for (changed, stand) in [
            ("a/1", [false, false, true, true, true]),
            ("b", [true, false, true, true, false]),
            ("a", [false, false, false, false, true]),
            ("*", [false; 5]),
            ("c", [true; 5]),
        ] {
            let before = marks(&paths);
            changes.note(changed);
            let after: Vec<_> = before.iter().map(holds).collect();
            assert_eq!(after, stand, "{changed}");
        }
        let long = "a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p";
        assert!(changes.mark(&[long]).is_some());
        assert!(changes.mark(&[long, long]).is_none());
    }
}
