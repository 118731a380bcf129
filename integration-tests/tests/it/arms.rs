//! One schedule, two caches: what a test does to Grapevine it does to a naive cache too, which must give the stale answer of the report.
//!
//! A schedule reads and writes a source of its own and knows nothing of the cache before it. So the naive arm fails because of what it
//! lacks, and Grapevine does not in the very same steps.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use grapevine_cache::Cache;
use grapevine_client::{CachedClient, How};
use grapevine_integration_tests::{Api, Cluster};
use grapevine_proto::v1::ReceiptLevel;

use crate::fence::client;

const TTL: Duration = Duration::from_hours(1);

/// What a reader was given.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) value: String,
    pub(crate) how: How,
    pub(crate) stored: bool,
}

impl Got {
    pub(crate) fn is(&self, value: &str, how: How) -> bool {
        self.value == value && self.how == how
    }
}

/// A cache in front of a source, at nodes that are counted from 0.
pub(crate) trait Arm {
    /// Reads the value of `class` at a node: what is cached, or else what `compute` answers. `found` are further classes that turn out to
    /// matter while it is computed.
    async fn read(
        &self,
        node: usize,
        class: &str,
        found: &[&str],
        compute: impl AsyncFnOnce() -> String,
    ) -> Got;

    /// A node has written to the source what `class` is about: every cache that is told at all has been told when this returns.
    async fn written(&self, node: usize, class: &str);
}

/// Get, compute, set; and a write deletes what is known to be cached.
pub(crate) struct Naive {
    /// One for all nodes, or one for each.
    caches: Vec<Told>,
}

struct Told {
    cache: Arc<dyn Cache>,
    /// Class and address of what was stored.
    stored: Mutex<BTreeSet<(String, String)>>,
}

impl Naive {
    pub(crate) fn new(caches: impl IntoIterator<Item = Arc<dyn Cache>>) -> Self {
        let told = |cache| Told {
            cache,
            stored: Mutex::default(),
        };
        Self {
            caches: caches.into_iter().map(told).collect(),
        }
    }
}

impl Arm for Naive {
    async fn read(
        &self,
        node: usize,
        class: &str,
        found: &[&str],
        compute: impl AsyncFnOnce() -> String,
    ) -> Got {
        let Told { cache, stored } = &self.caches[node % self.caches.len()];
        if let Some(value) = cache.get(class).await.unwrap() {
            return Got {
                value: String::from_utf8_lossy(&value).into_owned(),
                how: How::Hit,
                stored: false,
            };
        }
        let value = compute().await;
        cache.set(class, value.clone().into(), TTL).await.unwrap();
        let classes = found.iter().chain([&class]);
        let rows = classes.map(|of| ((*of).to_owned(), class.to_owned()));
        stored.lock().unwrap().extend(rows);
        Got {
            value,
            how: How::Filled,
            stored: true,
        }
    }

    async fn written(&self, _: usize, class: &str) {
        for Told { cache, stored } in &self.caches {
            let mut known = Vec::new();
            stored.lock().unwrap().retain(|(of, address)| {
                let gone = of == class;
                known.extend(gone.then(|| address.clone()));
                !gone
            });
            assert!(cache.delete_many(&known).await.is_complete());
        }
    }
}

/// Sidecars, and a reader at each of them.
pub(crate) struct Grapevine {
    readers: Vec<CachedClient>,
    writers: Vec<Api>,
}

impl Grapevine {
    /// With one cache for all nodes, or one for each.
    pub(crate) fn new(cluster: &Cluster, caches: &[Arc<dyn Cache>]) -> Self {
        let nodes = || cluster.nodes().iter();
        let caches = caches.iter().cycle().cloned();
        let readers = nodes().zip(caches);
        Self {
            readers: readers
                .map(|(node, cache)| CachedClient::new(client(node), cache))
                .collect(),
            writers: nodes().map(|node| node.api.clone()).collect(),
        }
    }
}

impl Arm for Grapevine {
    async fn read(
        &self,
        node: usize,
        class: &str,
        found: &[&str],
        compute: impl AsyncFnOnce() -> String,
    ) -> Got {
        let classes = [class];
        let read = self.readers[node].get_or_fill(class, &classes, None, |fill| async move {
            for class in found {
                fill.depends_on(*class);
            }
            Ok::<_, Infallible>(compute().await.into())
        });
        let got = read.await.unwrap();
        Got {
            value: String::from_utf8_lossy(&got.value).into_owned(),
            how: got.how,
            stored: got.stored,
        }
    }

    async fn written(&self, node: usize, class: &str) {
        let answer = self.writers[node].invalidate(class, ReceiptLevel::All);
        let receipt = answer.await.unwrap().receipt.unwrap();
        assert!(receipt.satisfied, "{receipt:?}");
    }
}
