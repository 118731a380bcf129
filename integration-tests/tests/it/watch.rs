//! Watches: what is sent, to whom, and that a slow watcher is told what it missed.

use anyhow::{Result, bail, ensure};
use grapevine_integration_tests::{Fault, Setup};
use grapevine_proto::v1;
use grapevine_proto::v1::watch_response::Kind;
use grapevine_proto::v1::{InvalidateRequest, ReceiptLevel, WatchResponse};
use tonic::Streaming;

use crate::support::{SOON, numbered};

/// The next message, soon; nothing at the end of the stream.
async fn next(watch: &mut Streaming<WatchResponse>) -> Result<Option<Kind>> {
    let message = tokio::time::timeout(SOON, watch.message()).await??;
    Ok(message.and_then(|message| message.kind))
}

async fn next_bump(watch: &mut Streaming<WatchResponse>) -> Result<v1::WatchBump> {
    match next(watch).await? {
        Some(Kind::Bump(bump)) => Ok(bump),
        other => bail!("not a bump: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_hears_what_lies_at_below_and_above_its_classes_from_every_sidecar() {
    let cluster = Setup::of(2).start().await.unwrap();
    let api = &cluster[0].api;
    let mut some = api.watch(&["shop/carts", "prices"]).await.unwrap();
    let mut all = api.watch(&[]).await.unwrap();
    let bumped = [
        ("shop/carts", true),
        ("shop/carts/13", true),
        ("shop", true),
        ("prices/eur/13", true),
        ("shop/cart", false),
        ("shop/cartsx", false),
        ("shop/items/13", false),
        ("other", false),
        ("prices", true),
    ];
    for (position, (class, heard)) in bumped.into_iter().enumerate() {
        let by = &cluster[position % 2].api;
        let answer = by.invalidate(class, ReceiptLevel::All).await.unwrap();
        let told = next_bump(&mut all).await.unwrap();
        assert_eq!(
            (told.classes, told.event),
            (vec![class.to_owned()], answer.event.clone())
        );
        if heard {
            // Had one been sent that should not be, it would come first.
            let told = next_bump(&mut some).await.unwrap();
            assert_eq!(
                (told.classes, told.event),
                (vec![class.to_owned()], answer.event)
            );
        }
    }
    let both = InvalidateRequest {
        classes: vec!["shop/items".to_owned(), "prices/usd".to_owned()],
        r#match: v1::Match::All.into(),
        ..Default::default()
    };
    cluster[1].api.app.clone().invalidate(both).await.unwrap();
    let told = next_bump(&mut some).await.unwrap();
    assert_eq!(told.r#match(), v1::Match::All);
    assert_eq!(told.classes, ["prices/usd", "shop/items"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_watcher_is_told_how_much_it_missed() {
    const EVENTS: u64 = 400;
    let cluster = Setup::of(1)
        .flag("limits-queue-watch-max", "8")
        .start()
        .await
        .unwrap();
    let api = &cluster[0].api;
    let mut watch = api.watch(&[]).await.unwrap();
    // Large events, so that what the connection buffers is soon full; and nobody reads.
    let long = "x".repeat(150);
    for number in 0..EVENTS {
        let request = InvalidateRequest {
            classes: numbered(&format!("top/{number}/{long}"), 50),
            ..Default::default()
        };
        api.app.clone().invalidate(request).await.unwrap();
    }
    api.invalidate("last", ReceiptLevel::One).await.unwrap();
    let (mut heard, mut missed, mut resyncs) = (0, 0, 0);
    loop {
        match next(&mut watch).await.unwrap() {
            Some(Kind::Bump(bump)) => {
                heard += 1;
                if bump.classes == ["last"] {
                    break;
                }
            }
            Some(Kind::Resync(resync)) => {
                assert!(resync.missed > 0);
                missed += resync.missed;
                resyncs += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(heard + missed, EVENTS + 1, "heard {heard}, missed {missed}");
    assert!(resyncs > 0, "it was never slow: nothing was tested");
    assert!(api.counter("watch_resyncs").await.unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_of_a_sidecar_that_takes_a_snapshot_is_told_to_resync() {
    let setup = Setup::of(2).relays().flag("store-log-bytes-max", "1MiB");
    let cluster = setup.start().await.unwrap();
    let mut watch = cluster[1].api.watch(&["quiet"]).await.unwrap();
    cluster[1].hears(Fault::Cut).unwrap();
    for number in 0..40 {
        let long = || format!("{:032x}", rand::random::<u128>()).repeat(4);
        let request = InvalidateRequest {
            classes: (0..500)
                .map(|_| format!("top{}/{}", number % 4, long()))
                .collect(),
            receipt: ReceiptLevel::None.into(),
            ..Default::default()
        };
        cluster[0]
            .api
            .app
            .clone()
            .invalidate(request)
            .await
            .unwrap();
    }
    cluster[0]
        .api
        .invalidate("quiet/1", ReceiptLevel::None)
        .await
        .unwrap();
    cluster[1].hears(Fault::Nothing).unwrap();
    // The bump of its own class came in the snapshot, or as an event beside it; but it is told.
    let told = next(&mut watch).await.unwrap();
    assert!(
        matches!(told, Some(Kind::Resync(_) | Kind::Bump(_))),
        "{told:?}"
    );
    let mut resynced = matches!(told, Some(Kind::Resync(_)));
    while !resynced {
        resynced = matches!(next(&mut watch).await.unwrap(), Some(Kind::Resync(_)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_with_its_sidecar_and_the_client_is_told_to_resync() {
    use grapevine_client::{Client, WatchEvent};
    let mut cluster = Setup::of(2).start().await.unwrap();
    let client = Client::connect(cluster[0].app_tcp.to_string()).unwrap();
    let mut watch = client.watch(["class"]).unwrap();
    let first = watch.next().await.unwrap();
    assert!(matches!(first, WatchEvent::Started { .. }), "{first:?}");
    cluster[0].kill().await.unwrap();
    // While it is gone; then as soon as it is back.
    cluster[1]
        .api
        .invalidate("class", ReceiptLevel::None)
        .await
        .unwrap();
    let mut next = async || tokio::time::timeout(SOON, watch.next()).await.unwrap();
    let told = next().await.unwrap();
    assert!(matches!(told, WatchEvent::Lost { .. }), "{told:?}");
    cluster[0].start_fresh().await.unwrap();
    let told = next().await.unwrap();
    assert!(matches!(told, WatchEvent::Resync(_)), "{told:?}");
    cluster[1]
        .api
        .invalidate("class/1", ReceiptLevel::All)
        .await
        .unwrap();
    let bump = async {
        loop {
            match watch.next().await? {
                WatchEvent::Bump(bump) if bump.classes == ["class/1"] => return anyhow::Ok(()),
                WatchEvent::Started { .. } => ensure!(false, "a watch that goes on does not start"),
                _ => {}
            }
        }
    };
    tokio::time::timeout(SOON, bump).await.unwrap().unwrap();
}
