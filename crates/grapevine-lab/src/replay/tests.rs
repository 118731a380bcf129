#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Write;

use liblzma::write::XzEncoder;
use tempfile::NamedTempFile;

use super::workers::Owed;
use super::*;
use crate::arm::Arm;
use crate::caches::CacheKind;
use crate::caches::tests::installed;
use crate::trace::Record;

/// A trace in which few objects are read again and again, so that a race that is there is met.
fn busy_trace(records: u32) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    let mut encoder = XzEncoder::new(&mut file, 1);
    for n in 0..records {
        let record = Record::new(n % 3, n.wrapping_mul(7_919) % 20, n % 2).unwrap();
        encoder.write_all(&record.bits().to_be_bytes()).unwrap();
    }
    encoder.finish().unwrap();
    file
}

async fn replayed(trace: &NamedTempFile, arm: Arm, pages: bool) -> Outcome {
    // No sidecar is started: the executable is never run.
    let options = ReplayOptions {
        pages,
        progress: false,
        ..ReplayOptions::new("none".into(), trace.path().to_owned(), arm)
    };
    replay(&options).await.unwrap()
}

fn sum_of_the_parts(outcome: &Outcome, operations: u64) {
    let counts = &outcome.counts;
    assert_eq!(counts.tally.reads + counts.writes, operations);
    assert_eq!(counts.tally.reads, outcome.oracle_reads_and_hits.0);
    assert_eq!(
        (
            counts.failed_reads,
            counts.failed_writes,
            counts.wrong_values,
            counts.tally.ahead,
            counts.misreported
        ),
        (0, 0, 0, 0, 0)
    );
    assert_eq!(counts.source_reads, outcome.source_queries);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_is_never_told_is_caught() {
    let trace = busy_trace(5_000);
    for pages in [false, true] {
        let outcome = replayed(&trace, Arm::None, pages).await;
        sum_of_the_parts(&outcome, 5_000);
        // Nothing is ever invalidated, so nothing can be without a reason.
        assert_eq!(outcome.counts.over_invalidations, 0);
        assert!(outcome.counts.tally.stale > 1_000);
        assert!(outcome.failures().iter().any(|f| f.contains("stale reads")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g3_deleting_without_a_fence_is_caught() {
    let trace = busy_trace(20_000);
    for pages in [false, true] {
        let outcome = replayed(&trace, Arm::NaiveDelete, pages).await;
        sum_of_the_parts(&outcome, 20_000);
        assert_eq!(outcome.counts.invalidations, outcome.counts.writes);
        assert!(outcome.counts.addresses_purged > 0);
        assert!(outcome.counts.tally.stale > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeouts_alone_serve_what_is_old_and_are_asked_for_nothing() {
    let trace = busy_trace(20_000);
    let outcome = replayed(&trace, Arm::TtlAlone, false).await;
    sum_of_the_parts(&outcome, 20_000);
    let counts = &outcome.counts;
    assert_eq!((counts.invalidations, counts.tally.stale), (0, 0));
    assert!(counts.hits > 0 && counts.tally.lagging > 0);
    assert_eq!(outcome.failures(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_asking_the_cache_is_never_stale_and_fails_on_hits() {
    let trace = busy_trace(5_000);
    let outcome = replayed(&trace, Arm::BypassAll, false).await;
    sum_of_the_parts(&outcome, 5_000);
    assert_eq!((outcome.counts.tally.stale, outcome.counts.hits), (0, 0));
    let failures = outcome.failures();
    assert!(
        failures.len() == 1 && failures[0].contains("hit ratio"),
        "{failures:?}"
    );
}

#[tokio::test]
async fn a_trace_that_ends_too_early_fails_the_run() {
    let whole = busy_trace(50_000);
    let bytes = std::fs::read(whole.path()).unwrap();
    let cut = NamedTempFile::new().unwrap();
    std::fs::write(cut.path(), &bytes[..bytes.len() - 20]).unwrap();
    let options = ReplayOptions {
        progress: false,
        ..ReplayOptions::new("none".into(), cut.path().to_owned(), Arm::BypassAll)
    };
    let error = replay(&options).await.unwrap_err();
    assert!(error.to_string().contains("truncated"), "{error}");
}

/// So many objects, one after the other, and then all of them once more.
fn round_trips(objects: u32) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    let mut encoder = XzEncoder::new(&mut file, 1);
    for n in 0..2 * objects {
        let record = Record::new(1, n % objects, 0).unwrap();
        encoder.write_all(&record.bits().to_be_bytes()).unwrap();
    }
    encoder.finish().unwrap();
    file
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_without_room_costs_hits_and_none_are_asked_for() {
    if !installed(
        "memcached",
        "a_cache_without_room_costs_hits_and_none_are_asked_for",
    ) {
        return;
    }
    let trace = round_trips(40_000);
    let mut ratios = Vec::new();
    for cache_memory_mib in [None, Some(2)] {
        let options = ReplayOptions {
            cache: CacheKind::Memcached,
            cache_memory_mib,
            writes: 0.0,
            progress: false,
            ..ReplayOptions::new("none".into(), trace.path().to_owned(), Arm::None)
        };
        let outcome = replay(&options).await.unwrap();
        assert_eq!(outcome.failures(), Vec::<String>::new());
        ratios.push(outcome.report().hit_ratio);
    }
    let [roomy, cramped] = ratios[..] else {
        unreachable!()
    };
    assert!(cramped < 0.8 * roomy, "{cramped} of {roomy}");
}

#[tokio::test]
async fn knobs_out_of_range_are_named_before_anything_is_started() {
    let trace = busy_trace(1);
    let options = ReplayOptions::new("none".into(), trace.path().to_owned(), Arm::None);
    for (options, word) in [
        (
            ReplayOptions {
                workers: 0,
                ..options.clone()
            },
            "workers: 0",
        ),
        (
            ReplayOptions {
                ttl: Duration::ZERO,
                ..options.clone()
            },
            "ttl: 0ns",
        ),
        (
            ReplayOptions {
                cache_memory_mib: Some(64),
                ..options.clone()
            },
            "--cache-memory: the embedded cache",
        ),
        (
            ReplayOptions {
                nodes: 0,
                ..options.clone()
            },
            "nodes: 0",
        ),
        (
            ReplayOptions {
                writes: 2.0,
                ..options.clone()
            },
            "writes: 2",
        ),
        (
            ReplayOptions {
                trace: "absent".into(),
                ..options
            },
            "absent",
        ),
    ] {
        let error = replay(&options).await.unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn a_receipt_that_promises_nothing_needs_a_session() {
    let with = |strategy: &str, receipt, session| ReplayOptions {
        receipt,
        session,
        ..ReplayOptions::new("x".into(), "t".into(), strategy.parse().unwrap())
    };
    for receipt in [ReplayReceipt::One, ReplayReceipt::None] {
        for strategy in ["versioned", "registered", "bucketed"] {
            let error = with(strategy, receipt, false).check().unwrap_err();
            assert_eq!(error, OptionsError::NothingOwed(receipt));
            let text = error.to_string();
            assert!(text.contains(&format!("--receipt {receipt}")) && text.contains("--session"));
            let options = with(strategy, receipt, true);
            assert_eq!((options.check(), options.owed()), (Ok(()), Owed::Session));
        }
        // Age is what counts of `ttl`; the other arms have calls of their own.
        for strategy in ["ttl", "none", "naive-delete", "bypass-all"] {
            assert_eq!(with(strategy, receipt, false).check(), Ok(()));
        }
    }
    assert_eq!(
        with("none", ReplayReceipt::None, false).owed(),
        Owed::Everyone
    );
}

#[test]
fn the_arm_that_ignores_sessions_is_owed_them_all_the_same() {
    let options = ReplayOptions::new("x".into(), "t".into(), Arm::IgnoreSession);
    assert_eq!(options.check(), Ok(()));
    assert_eq!(
        (options.write_receipt(), options.owed(), options.sessions()),
        (ReplayReceipt::None, Owed::Session, Sessions::Ignored)
    );
    assert!(
        options
            .sidecar_config()
            .contains("strategy = \"versioned\"")
    );
}

#[test]
fn the_sidecars_configuration_says_what_was_asked_for() {
    let mut options = ReplayOptions::new("x".into(), "t".into(), Arm::Bucketed(8));
    options.pages = true;
    let config = options.sidecar_config();
    assert!(config.contains("strategy = \"bucketed(8)\"") && config.contains("paging = 10"));
    assert!(config.contains("ttl = \"43200s\""), "{config}");
    options.strategy = Arm::TtlAlone;
    assert_eq!(options.value_ttl(), Duration::from_secs(10));
    options.strategy = Arm::Ttl;
    options.pages = false;
    let config = options.sidecar_config();
    assert!(config.contains("ttl = \"10s\"") && config.contains("paging = \"off\""));
}
