//! The contract, in this process, on paused time.

use std::sync::Arc;

use crate::contract::{Expectations, keeps_the_contract};
use crate::{MemoryCache, MemoryConfig};

#[tokio::test(start_paused = true)]
async fn the_memory_cache_keeps_the_contract() {
    let config = MemoryConfig::default();
    let cache = Arc::new(MemoryCache::new(config));
    let expect = Expectations {
        marks_stale: true,
        value_bytes_max: config.max_bytes - 112 - 250,
    };
    keeps_the_contract(cache, expect).await;
}
