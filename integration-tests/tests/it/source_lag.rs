//! Fills from a source that lags behind what invalidations announce (G3, race 13 of the design): real sidecars, a real client.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::ensure;
use grapevine_cache::{MemoryCache, MemoryConfig};
use grapevine_client::{CachedClient, Fill, How};
use grapevine_integration_tests::{Setup, eventually};
use grapevine_proto::v1::ReceiptLevel;

use crate::fence::client;
use crate::support::SOON;

const POLICIES: &str = "
[[policy]]
pattern = \"no_store/**\"
source_lag = \"10m\"

[[policy]]
pattern = \"primary/**\"
source_lag = \"10m\"
strategy = \"registered\"
on_source_lag = \"primary\"

[[policy]]
pattern = \"short/**\"
source_lag = \"1ms\"
";

/// What the primary has is "new"; the replica shows "old".
async fn read(cached: &CachedClient, class: &str) -> (String, How, bool) {
    let fill = |fill: Fill| async move {
        let value = if fill.read_primary() { "new" } else { "old" };
        Ok::<_, Infallible>(value.into())
    };
    let got = cached.get_or_fill("value", &[class], None, fill).await;
    let got = got.unwrap();
    let value = String::from_utf8(got.value.to_vec()).unwrap();
    (value, got.how, got.stored)
}

#[tokio::test(flavor = "multi_thread")]
async fn g3_fills_from_a_replica_are_not_stored_while_it_may_lag_behind_a_bump() {
    let cluster = Setup::of(2).toml(POLICIES).start().await.unwrap();
    let cached = CachedClient::new(
        client(&cluster[0]),
        Arc::new(MemoryCache::new(MemoryConfig::default())),
    );
    let invalidate = async |class: &str| {
        let done = cluster[1].api.invalidate(class, ReceiptLevel::All).await;
        assert!(done.unwrap().receipt.unwrap().satisfied);
    };
    let given = |value: &str, how, stored| (value.to_owned(), how, stored);
    for class in ["no_store/1", "primary/1", "short/1", "none/1"] {
        invalidate(class).await;
    }
    let unstored = given("old", How::Filled, false);
    for _ in 0..2 {
        assert_eq!(read(&cached, "no_store/1").await, unstored);
    }
    // Who waits for it shares it all the same.
    let misses = cached.stats().misses + 2;
    let slow = |_: Fill| async {
        while cached.stats().misses < misses {
            tokio::task::yield_now().await;
        }
        Ok::<_, Infallible>("old".into())
    };
    let once = || cached.get_or_fill("value", &["no_store/1"], None, slow);
    let (one, other) = tokio::join!(once(), once());
    let how = [one.unwrap().how, other.unwrap().how];
    assert!(
        how.contains(&How::Filled) && how.contains(&How::Waited),
        "{how:?}"
    );
    // The control: nobody knows that the source lags, and what it shows stays.
    let stale = read(&cached, "none/1").await;
    assert_eq!(stale, given("old", How::Filled, true));
    let filled = read(&cached, "primary/1").await;
    assert_eq!(filled, given("new", How::Filled, true));
    assert_eq!(
        read(&cached, "primary/1").await,
        given("new", How::Hit, false)
    );
    // Once the lag is over the replica will do.
    eventually("a short lag is over", SOON, async || {
        let (_, how, _) = read(&cached, "short/1").await;
        ensure!(how == How::Hit, "{how:?}");
        Ok(())
    })
    .await
    .unwrap();
    let stats = cached.stats();
    assert!(stats.fills_of_lagging_source >= 3);
    assert_eq!(stats.bypasses(), 0);
}
