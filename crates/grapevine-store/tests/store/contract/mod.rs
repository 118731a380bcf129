//! What every store does, run on both.

use grapevine_core::store::Recovered;
use grapevine_store::{MemoryStore, SledStore, Store};

use crate::make::*;

mod directory;
mod state;

/// A store that the suite can look into.
trait Inspect: Store {
    fn recovered(&self) -> Recovered;
    fn checked(&self);
}

impl Inspect for MemoryStore {
    fn recovered(&self) -> Recovered {
        self.recover()
    }

    fn checked(&self) {}
}

impl Inspect for SledStore {
    fn recovered(&self) -> Recovered {
        self.recover().unwrap()
    }

    fn checked(&self) {
        self.verify().unwrap();
    }
}

const LOG_BYTES_MAX: u64 = 4096;

macro_rules! on_both {
    ($($module:ident: $($name:ident)*;)*) => {
        mod memory {
            use super::*;
            $($(
                #[test]
                fn $name() {
                    super::$module::$name(&MemoryStore::new(LOG_BYTES_MAX));
                }
            )*)*
        }
        mod sled {
            use super::*;
            $($(
                #[test]
                fn $name() {
                    let directory = tempfile::tempdir().unwrap();
                    let mut config = config(directory.path());
                    config.log_bytes_max = LOG_BYTES_MAX;
                    let (store, _, _) = grapevine_store::open(&config).unwrap();
                    super::$module::$name(&store);
                    store.verify().unwrap();
                    let before = store.recover().unwrap();
                    drop(store);
                    let (store, recovered, report) = grapevine_store::open(&config).unwrap();
                    assert_eq!(report, grapevine_store::OpenReport::default());
                    assert_eq!(recovered, before, "an opening recovers what a closing left");
                    store.verify().unwrap();
                }
            )*)*
        }
    };
}

on_both! {
    directory:
        registrations_are_listed_in_order_and_pages
        a_repeated_registration_keeps_the_later_expiry
        a_large_class_splits_and_comes_back_whole
        a_take_removes_at_and_below
        a_take_of_all_removes_what_is_in_each
        a_take_can_report_own_addresses_only
        a_take_tells_when_the_last_of_its_values_ends
        a_take_of_everything_takes_the_whole_directory
        unregistering_removes_from_each_class
        lapsed_registrations_leave_and_no_others
        expiry_is_bounded_and_goes_on
        g10_sustained_registrations_with_a_short_ttl_keep_the_directory_bounded
        g10_takes_and_registrations_in_turn_leave_nothing_behind
        an_emptied_class_can_be_used_again
        listings_beside_commits_miss_nothing_that_stays;
    state:
        an_empty_store_answers
        a_commit_sees_its_own_writes_in_order
        entries_join_and_floors_swallow
        g1_retired_runs_are_rewritten_and_forgotten
        progress_never_goes_back_and_recovery_extends_it
        the_log_reads_consecutively
        the_log_forgets_the_oldest
        what_was_never_logged_is_told_from_what_was_dropped
        a_large_batch_comes_back_from_the_log
        members_and_incarnations_are_kept
        g8_intents_are_kept_until_they_are_removed
        classes_are_merged_from_versions_and_directory
        long_vectors_come_back_and_go
        snapshots_page_through_everything
        foreign_cursors_are_refused;
}
