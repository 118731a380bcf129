//! The contract against real Redis processes.

use std::time::Duration;

use super::servers::{Server, is_installed};
use crate::contract::{Expectations, keeps_the_contract};
use crate::{CacheError, connect};

const EXPECT: Expectations = Expectations {
    marks_stale: false,
    value_bytes_max: 16 << 20,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_over_tcp_keeps_the_contract() {
    if is_installed("redis-server", "redis_over_tcp_keeps_the_contract") {
        let server = Server::redis();
        let cache = connect(&format!("redis://{}?timeout=5s", server.address)).unwrap();
        keeps_the_contract(cache, EXPECT).await;
    }
}

#[tokio::test]
async fn redis_over_a_unix_socket_keeps_the_contract() {
    if is_installed(
        "redis-server",
        "redis_over_a_unix_socket_keeps_the_contract",
    ) {
        let server = Server::redis_on_unix_socket();
        let path = server.address.strip_prefix("unix:").unwrap();
        let cache = connect(&format!("redis+unix://{path}?timeout=5s&db=3")).unwrap();
        keeps_the_contract(cache, EXPECT).await;
    }
}

#[tokio::test]
async fn what_redis_refuses_is_told_in_its_words() {
    if !is_installed("redis-server", "what_redis_refuses_is_told_in_its_words") {
        return;
    }
    let server = Server::redis();
    let client = redis::Client::open(format!("redis://{}", server.address)).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("SADD")
        .arg("a-set")
        .arg("member")
        .query_async::<()>(&mut connection)
        .await
        .unwrap();
    redis::cmd("CONFIG")
        .arg(&["SET", "maxmemory", "1"])
        .query_async::<()>(&mut connection)
        .await
        .unwrap();
    let cache = connect(&format!("redis://{}?timeout=5s", server.address)).unwrap();
    for (result, word) in [
        (cache.get("a-set").await.map(drop), "WRONGTYPE"),
        (
            cache.set("k", "v".into(), Duration::from_secs(9)).await,
            "OOM",
        ),
    ] {
        assert!(
            matches!(&result, Err(CacheError::Refused { answer, .. }) if answer.contains(word)),
            "{result:?}"
        );
    }
    assert_eq!(cache.get("k").await, Ok(None), "the connection lives on");
}

#[tokio::test]
async fn a_value_that_others_stored_is_held_to_the_limit() {
    if !is_installed(
        "redis-server",
        "a_value_that_others_stored_is_held_to_the_limit",
    ) {
        return;
    }
    let server = Server::redis();
    let others = connect(&format!("redis://{}?timeout=5s", server.address)).unwrap();
    let minute = Duration::from_mins(1);
    others
        .set("large", vec![b'x'; 2_000].into(), minute)
        .await
        .unwrap();
    others.set("small", "v".into(), minute).await.unwrap();
    let cache = connect(&format!(
        "redis://{}?timeout=5s&max_value=1999",
        server.address
    ))
    .unwrap();
    let refused = cache.get("large").await;
    assert!(
        matches!(
            refused,
            Err(CacheError::TooLarge {
                size_bytes: 2_000,
                limit_bytes: 1_999,
                ..
            })
        ),
        "{refused:?}"
    );
    let keys = ["small".to_owned(), "large".to_owned()];
    assert_eq!(
        cache.get_many(&keys).await,
        Ok(vec![Some("v".into()), None])
    );
}
