//! Short auctions, with real sidecars and the cache in this process.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use grapevine_auction::arm::Arm;
use grapevine_auction::ask::{Ask, Shape, Table};
use grapevine_auction::catalogue::{Catalogue, NOW, PAGE_ROWS};
use grapevine_auction::figures::{Figures, over_invalidation};
use grapevine_auction::report;
use grapevine_auction::run::{Options, Stage, run, sidecars};
use grapevine_auction::write::Write;
use grapevine_client::Session;
use grapevine_integration_tests::grapevine;
use grapevine_lab::caches::CacheKind;
use grapevine_proto::v1::ReceiptLevel;

/// Small enough that visitors get into each other's way.
fn short(arms: &[Arm]) -> Options {
    let options = Options::new(grapevine().unwrap().to_owned());
    Options {
        steps: 600,
        visitors: 12,
        think: Duration::from_millis(10),
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
async fn g3_no_answer_lacks_what_its_session_wrote_and_only_timeouts_show_old_ones() {
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
async fn g3_with_receipt_all_no_answer_lacks_what_anybody_wrote() {
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

/// An item that is sold out leaves its place on the first page: the second page moves up, for whoever bought it at once.
#[tokio::test(flavor = "multi_thread")]
async fn g9_the_page_behind_an_item_that_left_moves_up() {
    let options = short(&[Arm::Lists]);
    let cluster = sidecars(&options).await.unwrap();
    // One category has to have more than two pages.
    let catalogue = Arc::new(Catalogue::new(1, 40, 1_200));
    let stage = Stage::set(&options, Arm::Lists, &cluster, &catalogue)
        .await
        .unwrap();
    let page = |number: u32| {
        let values = [
            1_u32.into(),
            NOW.into(),
            PAGE_ROWS.into(),
            (number * PAGE_ROWS).into(),
        ];
        Ask::new(Shape::ItemsOfCategory, values)
    };
    let mut session = Session::new();
    for node in &*stage.nodes {
        node.read(&page(1), &session, &[]).await.unwrap();
    }
    let item = catalogue.of_category(1)[0];
    for _ in 0..3 {
        let node = &stage.nodes[0];
        let bought = Write::BuyNow { item, user: 1 };
        let written = node.database.write(bought).await.unwrap();
        let token = node.tell(&written, &session).await.unwrap().unwrap();
        session.add(&token).unwrap();
    }
    for node in &*stage.nodes {
        let read = node.read(&page(1), &session, &[]).await.unwrap();
        let truth = node.database.read(page(1)).await.unwrap();
        assert_eq!(read.list.unwrap(), truth.numbers(0));
    }
    cluster.stop().await.unwrap();
}
