//! Watching: bumps in order, and a Resync whenever something may have been missed.

use grapevine_client::{ResyncCause, Watch, WatchEvent};

use crate::fake::Fake;
use crate::support::{PATIENT, patient};

async fn next(watch: &mut Watch) -> WatchEvent {
    tokio::time::timeout(PATIENT, watch.next())
        .await
        .expect("no event")
        .unwrap()
}

fn class(event: &WatchEvent) -> &str {
    match event {
        WatchEvent::Bump(bump) => &bump.classes[0],
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn g7_a_watcher_hears_bumps_and_a_resync_after_a_break() {
    let mut fake = Fake::unix();
    let client = patient(&fake.endpoint).build().unwrap();
    let mut watch = client.watch(["carts"]).unwrap();
    assert!(
        matches!(next(&mut watch).await, WatchEvent::Started { incarnation } if incarnation.len() == 16)
    );
    fake.state.bump("carts/1");
    client.invalidate(["carts/2"]).await.unwrap();
    assert_eq!(class(&next(&mut watch).await), "carts/1");
    assert_eq!(class(&next(&mut watch).await), "carts/2");

    fake.stop();
    let event = next(&mut watch).await;
    assert!(matches!(event, WatchEvent::Lost { .. }), "{event:?}");
    // Given up while it is looking for the sidecar: nothing is lost by that.
    let looking = tokio::time::timeout(std::time::Duration::from_millis(20), watch.next()).await;
    assert!(looking.is_err(), "{looking:?}");
    fake.start();
    let event = next(&mut watch).await;
    assert!(
        matches!(event, WatchEvent::Resync(ResyncCause::Reconnected { .. })),
        "{event:?}"
    );
    fake.state.bump("carts/3");
    assert_eq!(class(&next(&mut watch).await), "carts/3");
}

#[tokio::test]
async fn g7_a_watcher_that_falls_behind_is_told() {
    let fake = Fake::unix();
    let client = patient(&fake.endpoint).build().unwrap();
    let mut watch = client.watch(Vec::<String>::new()).unwrap();
    next(&mut watch).await;
    // More than the sidecar keeps and than the connection's window holds.
    let long = format!("carts/{}", "x".repeat(150));
    for _ in 0..200_000 {
        fake.state.bump(&long);
    }
    loop {
        match next(&mut watch).await {
            WatchEvent::Bump(_) => {}
            WatchEvent::Resync(ResyncCause::Missed { messages }) => {
                assert!(messages > 0);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
}
