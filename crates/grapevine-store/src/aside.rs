//! Setting aside: an engine's files that do not read back make room for an empty one, and are kept to be looked at.
//!
//! ```text
//! <path>/sled/             the engine's files
//! <path>/sled.corrupt-<n>/ what was set aside, with growing numbers
//! ```
//!
//! At most [`SET_ASIDE_MAX`] are kept, for a crash loop must not fill the disk. It must not throw away the one that held
//! something, either: that one is the first of such a loop, and what follows was empty when it was started. So the oldest
//! stays, and the newest, and of those between them the smallest goes first.
//!
//! When the empty engine does not open either, the files were not at fault, whatever the first attempt said: they are put
//! back, and the next start tries them again.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::tells_of_lack;
use crate::guard::{Guard, Phase};
use crate::open::{OpenReport, engine_path};
use crate::{StoreConfig, StoreError};

/// How many directories that were set aside are kept.
const SET_ASIDE_MAX: usize = 4;

/// Opens the engine, and if its files are damaged an empty one in their place; `open` is told whether it is that.
pub(crate) fn open_or_begin_anew<T>(
    config: &StoreConfig,
    guard: &Guard,
    report: &mut OpenReport,
    mut open: impl FnMut(bool) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    // Earlier releases noted a lack as well.
    let failed_before = guard
        .note(Phase::Opening)
        .filter(|note| !tells_of_lack(note))
        .map(|note| format!("an earlier start failed: {note}"));
    let reason = match failed_before {
        Some(reason) => reason,
        None => match guard.run(Phase::Opening, || open(false)) {
            Err(error) if error.is_damage() => error.to_string(),
            other => return other,
        },
    };
    set_aside(config, report, reason)?;
    let opened = guard.run(Phase::Opening, || open(true));
    if let Err(error) = &opened {
        put_back(config, guard, report, error);
    }
    opened
}

/// Renames the engine's files.
fn set_aside(
    config: &StoreConfig,
    report: &mut OpenReport,
    reason: String,
) -> Result<(), StoreError> {
    let from = engine_path(config);
    let mut earlier = earlier_numbers(&config.path);
    let number = earlier.last().map_or(1, |last| last + 1);
    let to = aside_path(config, number);
    if from.exists() {
        fs::rename(&from, &to).map_err(|source| StoreError::Unusable {
            path: from.clone(),
            source,
        })?;
        tracing::error!(
            store = %config.path.display(),
            set_aside = %to.display(),
            reason,
            "the store does not read back: set aside, starting empty, to be filled by peers"
        );
        earlier.push(number);
        report.set_aside = Some(to);
        report.reason = Some(reason);
    }
    thin_out(config, earlier);
    Ok(())
}

/// Removes what is too many of those set aside, given by their numbers, ascending.
fn thin_out(config: &StoreConfig, mut numbers: Vec<u64>) {
    while numbers.len() > SET_ASIDE_MAX {
        let between = 1..numbers.len() - 1;
        // Of several that are equal, the oldest.
        let smallest = between.min_by_key(|&at| bytes_in(&aside_path(config, numbers[at])));
        let Some(smallest) = smallest else { return };
        let path = aside_path(config, numbers.remove(smallest));
        match fs::remove_dir_all(&path) {
            Ok(()) => tracing::warn!(path = %path.display(), "removed a store set aside"),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot remove a store set aside");
            }
        }
    }
}

/// What the files of a directory hold; what cannot be read counts nothing.
fn bytes_in(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.metadata().ok())
        .filter(fs::Metadata::is_file)
        .map(|about| about.len())
        .sum()
}

/// Puts back what was set aside in vain.
fn put_back(config: &StoreConfig, guard: &Guard, report: &mut OpenReport, error: &StoreError) {
    // Otherwise the next start would set aside what is put back.
    guard.forget_one(Phase::Opening);
    let Some(aside) = report.set_aside.take() else {
        return;
    };
    report.reason = None;
    let engine = engine_path(config);
    let removed = match fs::remove_dir_all(&engine) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    match removed.and_then(|()| fs::rename(&aside, &engine)) {
        Ok(()) => tracing::error!(
            store = %config.path.display(),
            %error,
            "an empty store does not open either: put back what was set aside, which is not at fault"
        ),
        Err(failed) => tracing::error!(
            set_aside = %aside.display(),
            error = %failed,
            "an empty store does not open either, and what was set aside cannot be put back"
        ),
    }
}

fn aside_path(config: &StoreConfig, number: u64) -> PathBuf {
    config.path.join(format!("sled.corrupt-{number}"))
}

/// The numbers of what was set aside before, ascending.
fn earlier_numbers(directory: &Path) -> Vec<u64> {
    let mut numbers: Vec<u64> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            name.to_str()?.strip_prefix("sled.corrupt-")?.parse().ok()
        })
        .collect();
    numbers.sort_unstable();
    numbers
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn store(bytes: usize) -> (tempfile::TempDir, StoreConfig) {
        let directory = tempfile::tempdir().unwrap();
        let config = StoreConfig::new(directory.path());
        make(&engine_path(&config), bytes);
        (directory, config)
    }

    fn make(engine: &Path, bytes: usize) {
        fs::create_dir_all(engine).unwrap();
        fs::write(engine.join("db"), vec![7; bytes]).unwrap();
    }

    fn damage() -> Result<(), StoreError> {
        Err(StoreError::Corrupt("a page".to_owned()))
    }

    #[test]
    fn g1_what_is_set_aside_in_vain_is_put_back() {
        let (_directory, config) = store(9);
        let guard = Guard::new(&config.path);
        // A panic over what the machine lacks, in words that nobody knows; however often it starts.
        for start in 0..5 {
            let mut report = OpenReport::default();
            let opened = open_or_begin_anew(&config, &guard, &mut report, |_| -> Result<(), _> {
                fs::create_dir_all(engine_path(&config)).unwrap();
                panic!("no luck today");
            });
            assert!(matches!(opened, Err(StoreError::Panicked(_))), "{opened:?}");
            assert_eq!(report, OpenReport::default());
            assert_eq!(bytes_in(&engine_path(&config)), 9, "start {start}");
            assert!(earlier_numbers(&config.path).is_empty(), "start {start}");
            assert_eq!(guard.note(Phase::Opening), None, "start {start}");
        }
    }

    #[test]
    fn g1_a_lack_sets_nothing_aside_nor_does_the_note_of_one() {
        let (_directory, config) = store(9);
        let guard = Guard::new(&config.path);
        let lack = std::io::Error::from_raw_os_error(11);
        let note = format!("called unwrap on {lack:?}");
        fs::write(config.path.join("failed-opening"), &note).unwrap();
        let mut report = OpenReport::default();
        let opened = open_or_begin_anew(
            &config,
            &guard,
            &mut report,
            |begun_anew| -> Result<(), _> {
                assert!(!begun_anew);
                panic!("called unwrap on {lack:?}")
            },
        );
        assert!(
            matches!(opened, Err(StoreError::Unusable { .. })),
            "{opened:?}"
        );
        assert_eq!(bytes_in(&engine_path(&config)), 9);
        assert!(earlier_numbers(&config.path).is_empty());
    }

    #[test]
    fn g1_a_crash_loop_removes_what_was_empty_and_never_what_it_set_aside_first() {
        let (_directory, config) = store(9_000);
        let guard = Guard::new(&config.path);
        for start in 0..10 {
            let mut report = OpenReport::default();
            open_or_begin_anew(&config, &guard, &mut report, |begun_anew| {
                if !begun_anew {
                    return damage();
                }
                // One of them got to hold something before it was damaged.
                make(&engine_path(&config), if start == 4 { 5_000 } else { 10 });
                Ok(())
            })
            .unwrap();
        }
        assert_eq!(earlier_numbers(&config.path), [1, 6, 9, 10]);
        assert_eq!(bytes_in(&aside_path(&config, 1)), 9_000);
        assert_eq!(bytes_in(&aside_path(&config, 6)), 5_000);
    }
}
