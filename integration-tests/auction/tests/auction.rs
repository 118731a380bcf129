//! Short auctions, with real sidecars and the cache in this process.

#![allow(clippy::unwrap_used, reason = "tests")]

use grapevine_auction::arm::Arm;
use grapevine_auction::ask::Table;
use grapevine_auction::figures::{Figures, over_invalidation};
use grapevine_auction::report;
use grapevine_auction::run::{Options, run};
use grapevine_integration_tests::grapevine;
use grapevine_lab::caches::CacheKind;
use grapevine_proto::v1::ReceiptLevel;

/// Small enough that visitors get into each other's way.
fn short(arms: &[Arm]) -> Options {
    let options = Options::new(grapevine().unwrap().to_owned());
    Options {
        steps: 600,
        visitors: 12,
        users: 40,
        items: 120,
        arms: arms.to_vec(),
        cache: CacheKind::Embedded,
        ..options
    }
}

async fn played(options: &Options) -> Vec<Figures> {
    println!("seed {}", options.seed);
    let figures = run(options, |what| println!("{what}")).await.unwrap();
    println!("{}", report::text(&figures));
    figures
}

fn failures(figures: &[Figures]) -> Vec<String> {
    figures.iter().flat_map(Figures::failures).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn g5_sessions_see_their_writes_in_a_short_auction_and_timeouts_show_old_answers() {
    let figures = played(&short(&Arm::ALL)).await;
    assert_eq!(failures(&figures), Vec::<String>::new());
    let asked = figures[0].all().reads;
    for figures in &figures {
        let all = figures.all();
        assert!(all.hits > 0 && all.oracle_hits > 0, "{}", figures.arm);
        assert_eq!(all.reads, asked, "{}", figures.arm);
        let may_be_stale = figures.arm == Arm::Timeouts;
        assert_eq!(all.stale > 0, may_be_stale, "{}", figures.arm);
    }
    for arm in [Arm::Grapevine, Arm::Lists] {
        let share = over_invalidation(&figures, arm).unwrap();
        assert!(share < 1.0, "{arm}: {share} of table-level");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g7_with_receipt_all_nobody_is_given_what_anybody_s_write_had_changed() {
    let options = Options {
        receipt: ReceiptLevel::All,
        ..short(&[Arm::Grapevine, Arm::Lists])
    };
    let figures = played(&options).await;
    assert_eq!(failures(&figures), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_rows_are_not_told_is_seen() {
    let options = Options {
        untold: Some(Table::Bids),
        ..short(&[Arm::Grapevine])
    };
    let figures = played(&options).await;
    let failures = failures(&figures);
    assert!(
        failures.iter().any(|failure| failure.contains("stale")),
        "{failures:?}"
    );
}
