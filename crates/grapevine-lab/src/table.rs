//! A growing table whose entries are read without a lock: rows of entries are made on first use and never moved or given
//! back. Entries are named by dense numbers from 0; the caller hands those out, and bounds them.

use std::sync::OnceLock;

const ROW_ENTRIES: usize = 1_024;

/// A growing table of at most the entries it was made for.
pub(crate) struct Table<T> {
    rows: Box<[OnceLock<Box<[T]>>]>,
}

impl<T: Default> Table<T> {
    /// An empty table for entries 0 to below `entries_max`, rounded up to whole rows.
    pub(crate) fn new(entries_max: usize) -> Self {
        let rows = entries_max.div_ceil(ROW_ENTRIES);
        Self {
            rows: (0..rows).map(|_| OnceLock::new()).collect(),
        }
    }

    /// The entry of a number; a number beyond the table's bound breaks the caller's contract.
    pub(crate) fn entry(&self, number: u32) -> &T {
        let number = usize::try_from(number).expect("invariant: 32 bits fit a usize");
        let row = &self.rows[number / ROW_ENTRIES];
        let row = row.get_or_init(|| (0..ROW_ENTRIES).map(|_| T::default()).collect());
        &row[number % ROW_ENTRIES]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn entries_begin_at_their_default_and_keep_what_they_get() {
        let table = Table::<AtomicU32>::new(5_000);
        for number in [0, 1_023, 1_024, 4_999] {
            assert_eq!(table.entry(number).load(Ordering::Relaxed), 0);
            table.entry(number).store(number + 1, Ordering::Relaxed);
        }
        assert_eq!(table.entry(1_024).load(Ordering::Relaxed), 1_025);
        assert_eq!(table.entry(1_025).load(Ordering::Relaxed), 0);
    }

    #[test]
    fn many_threads_see_one_entry() {
        let table = Table::<AtomicU32>::new(2_048);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for number in 0..2_048 {
                        table.entry(number).fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert!((0..2_048).all(|number| table.entry(number).load(Ordering::Relaxed) == 8));
    }
}
