//! Stale while revalidate with a real memcached: what a soft invalidation replaced is given while one caller computes the
//! new value, and nothing that a hard one replaced ever is (G3, G5, G7).

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};
use grapevine_client::{CachedClient, GetOutcome, How, Session};
use grapevine_integration_tests::{CacheServer, Cluster, Setup, eventually};
use grapevine_proto::v1::ReceiptLevel;

use crate::fence::client;
use crate::support::SOON;

const POLICIES: &str = "
[[policy]]
pattern = \"registered/**\"
strategy = \"registered\"
fill = \"one\"
stale_while_revalidate = \"5m\"
[[policy]]
pattern = \"bucketed/**\"
strategy = \"bucketed(8)\"
stale_while_revalidate = \"5m\"
[[policy]]
pattern = \"versioned/**\"
fill = \"one\"
stale_while_revalidate = \"5m\"
";

/// What counts addresses that were deleted from a cache or marked stale in it.
const PURGED: [&str; 2] = ["purge_deleted", "purge_absent"];

/// What the database holds, and how often it was asked.
#[derive(Clone, Default)]
struct Source(Arc<(AtomicU64, AtomicU64)>);

impl Source {
    fn write(&self) {
        self.0.0.fetch_add(1, Ordering::SeqCst);
    }

    fn reads(&self) -> u64 {
        self.0.1.load(Ordering::SeqCst)
    }

    async fn refresh(&self, reader: &CachedClient, class: &str) -> GetOutcome {
        let source = self.clone();
        let fill = move |_| async move {
            source.0.1.fetch_add(1, Ordering::SeqCst);
            let version = source.0.0.load(Ordering::SeqCst);
            Ok::<_, Infallible>(version.to_string().into())
        };
        let address = class.replace('/', "::");
        let classes = [class];
        let read = reader.get_or_refresh(&address, &classes, None, fill);
        read.await.unwrap()
    }
}

/// Counters' sum over the sidecars.
async fn sum(cluster: &Cluster, counters: &[&str]) -> Result<u64> {
    let mut sum = 0;
    for node in cluster.nodes() {
        for counter in counters {
            sum += node.api.counter(counter).await?;
        }
    }
    Ok(sum)
}

#[tokio::test(flavor = "multi_thread")]
async fn g7_a_soft_invalidation_leaves_the_old_value_until_one_caller_has_the_new_one() {
    let Some(memcached) = CacheServer::memcached("g7_a_soft_invalidation")
        .await
        .unwrap()
    else {
        return;
    };
    let setup = Setup::of(2).toml(POLICIES).flag("cache", &memcached.url);
    let cluster = setup.start().await.unwrap();
    let readers: Vec<_> = (0..2)
        .map(|node| CachedClient::new(client(&cluster[node]), memcached.client().unwrap()))
        .collect();
    for strategy in ["versioned", "registered", "bucketed"] {
        let (class, source) = (format!("{strategy}/1"), Source::default());
        let first = source.refresh(&readers[0], &class).await;
        assert_eq!((first.how, first.stored), (How::Filled, true), "{strategy}");
        assert_eq!(source.refresh(&readers[1], &class).await.how, How::Hit);

        source.write();
        let (unelected, purged) = (
            sum(&cluster, &["fills_unelected"]).await.unwrap(),
            sum(&cluster, &PURGED).await.unwrap(),
        );
        let soft = readers[0].client().invalidate([class.clone()]).soft();
        let done = soft.receipt(ReceiptLevel::All).await.unwrap();
        if strategy == "registered" {
            eventually("the cache has heard of it", SOON, async || {
                let more = sum(&cluster, &PURGED).await? - purged;
                ensure!(more > 0, "no address was purged");
                Ok(())
            })
            .await
            .unwrap();
        }
        // A session that wrote is given what it wrote.
        let mut session = Session::default();
        session.add(&done.session_token).unwrap();
        let stale = source.refresh(&readers[0], &class).await;
        assert!(
            stale.is_stale() && stale.value == "0",
            "{strategy}: {stale:?}"
        );
        let second = source.refresh(&readers[1], &class).await;
        let value = if second.is_stale() { "0" } else { "1" };
        assert_eq!(second.value, value, "{strategy}: {second:?}");
        for reader in &readers {
            let own = source.refresh(&reader.session(&session), &class).await;
            assert!(!own.is_stale() && own.value == "1", "{strategy}: {own:?}");
            eventually("the new value is there", SOON, async || {
                let read = source.refresh(reader, &class).await;
                ensure!(read.how == How::Hit && read.value == "1", "{read:?}");
                Ok(())
            })
            .await
            .unwrap();
        }
        // The other sidecar's mark may come behind the new value of a registered one, which costs a read.
        if strategy == "versioned" {
            // An arbiter that a busy machine silences for 50 ms costs one as well, and the sidecars count it.
            let more = sum(&cluster, &["fills_unelected"]).await.unwrap() - unelected;
            let reads = source.reads();
            assert!(reads <= 2 + more, "{reads} reads of two values");
        }

        // A hard one behind a soft one: what was there before both is given to nobody.
        source.write();
        let soft = readers[0].client().invalidate([class.clone()]).soft();
        soft.receipt(ReceiptLevel::All).await.unwrap();
        let hard = readers[1].client().invalidate([class.clone()]);
        hard.receipt(ReceiptLevel::All).await.unwrap();
        for reader in &readers {
            let read = source.refresh(reader, &class).await;
            assert!(
                !read.is_stale() && read.value == "2",
                "{strategy}: {read:?}"
            );
        }
    }
}
