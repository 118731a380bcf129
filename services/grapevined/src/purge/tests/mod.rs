//! The purger against a scripted cache on virtual time, and against a real memcached that is killed and stopped.

#![allow(clippy::unwrap_used, reason = "tests")]

mod real;
mod scripted;

use std::sync::Arc;
use std::time::Duration;

use grapevine_cache::Cache;
use grapevine_core::event::PurgeMode;
use grapevine_core::names::Address;

use super::{Job, Purger};
use crate::config::{Config, PurgeConfig};
use crate::telemetry::Counters;

/// `count` addresses, `{prefix}0` onward.
fn addresses(prefix: &str, count: usize) -> Vec<Address> {
    (0..count)
        .map(|number| Address::parse(&format!("{prefix}{number}")).unwrap())
        .collect()
}

fn job(addresses: Vec<Address>) -> Job {
    Job {
        addresses,
        mode: PurgeMode::Hard,
        lifetime: Duration::from_hours(1),
    }
}

/// A purger of these caches, its settings changed from the defaults.
fn purger(
    caches: Vec<Arc<dyn Cache>>,
    change: impl FnOnce(&mut PurgeConfig),
) -> (Purger, Arc<Counters>) {
    let mut config = Config::default().purge;
    change(&mut config);
    let counters = Arc::new(Counters::new());
    (Purger::start(caches, &config, counters.clone()), counters)
}

/// Waits until nothing is to be deleted any more.
async fn settled(purger: &Purger, patience: Duration) {
    let all_done = async {
        while purger.backlog() != (0, 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(patience, all_done).await.unwrap();
}
