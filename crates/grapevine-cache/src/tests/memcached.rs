//! The contract against real memcached processes, in every placement; and what placements promise.

use std::time::{Duration, Instant};

use super::servers::{Server, is_installed};
use crate::contract::{Expectations, keeps_the_contract};
use crate::{Cache, connect};

const EXPECT: Expectations = Expectations {
    marks_stale: true,
    value_bytes_max: (1 << 20) - 512,
};
const MINUTE: Duration = Duration::from_mins(1);

/// Generous, because the tests of the whole workspace share the machine.
fn url(servers: &[&Server], options: &str) -> String {
    let addresses: Vec<_> = servers
        .iter()
        .map(|server| server.address.as_str())
        .collect();
    format!("memcached://{}?timeout=5s&{options}", addresses.join(","))
}

#[tokio::test]
async fn memcached_over_tcp_keeps_the_contract() {
    if is_installed("memcached", "memcached_over_tcp_keeps_the_contract") {
        let server = Server::memcached();
        keeps_the_contract(connect(&url(&[&server], "")).unwrap(), EXPECT).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memcached_over_a_unix_socket_keeps_the_contract() {
    if is_installed(
        "memcached",
        "memcached_over_a_unix_socket_keeps_the_contract",
    ) {
        let server = Server::memcached_on_unix_socket();
        keeps_the_contract(connect(&url(&[&server], "pool=1")).unwrap(), EXPECT).await;
    }
}

#[tokio::test]
async fn replicated_memcached_keeps_the_contract() {
    if is_installed("memcached", "replicated_memcached_keeps_the_contract") {
        let (one, two) = (Server::memcached(), Server::memcached());
        keeps_the_contract(
            connect(&url(&[&one, &two], "placement=all")).unwrap(),
            EXPECT,
        )
        .await;
    }
}

#[tokio::test]
async fn memcached_by_ketama_keeps_the_contract() {
    if is_installed("memcached", "memcached_by_ketama_keeps_the_contract") {
        let (one, two, three) = (
            Server::memcached(),
            Server::memcached(),
            Server::memcached(),
        );
        let cache = connect(&url(&[&one, &two, &three], "placement=ketama&pool=4")).unwrap();
        keeps_the_contract(cache, EXPECT).await;
    }
}

#[tokio::test]
async fn replicas_all_hold_what_was_set_and_all_lose_what_was_deleted() {
    if !is_installed(
        "memcached",
        "replicas_all_hold_what_was_set_and_all_lose_what_was_deleted",
    ) {
        return;
    }
    let (one, two) = (Server::memcached(), Server::memcached());
    let all = connect(&url(&[&one, &two], "placement=all")).unwrap();
    let each = [
        connect(&url(&[&one], "")).unwrap(),
        connect(&url(&[&two], "")).unwrap(),
    ];
    all.set("k", "v".into(), MINUTE).await.unwrap();
    for single in &each {
        assert_eq!(single.get("k").await, Ok(Some("v".into())));
    }
    // Only the second one has it: the key was there, and is gone everywhere.
    assert_eq!(each[0].delete_many(&["k".to_owned()]).await.deleted, 1);
    assert_eq!(all.delete_many(&["k".to_owned()]).await.deleted, 1);
    assert_eq!(each[1].get("k").await, Ok(None));
}

#[tokio::test]
async fn a_lost_replica_leaves_reads_and_sets_and_fails_deletes() {
    if !is_installed(
        "memcached",
        "a_lost_replica_leaves_reads_and_sets_and_fails_deletes",
    ) {
        return;
    }
    let (mut one, two) = (Server::memcached(), Server::memcached());
    let cache = connect(&url(&[&one, &two], "placement=all")).unwrap();
    let keys: Vec<_> = (0..300).map(|number| format!("k{number}")).collect();
    for key in &keys {
        cache.set(key, key.clone().into(), MINUTE).await.unwrap();
    }
    one.kill();
    assert_eq!(cache.get("k7").await, Ok(Some("k7".into())));
    let values = cache.get_many(&keys).await.unwrap();
    assert!(
        values.iter().all(Option::is_some),
        "the other replica answers"
    );
    cache.set("k7", "new".into(), MINUTE).await.unwrap();
    assert_eq!(cache.get("k7").await, Ok(Some("new".into())));
    let outcome = cache.delete_many(&keys).await;
    assert_eq!(
        outcome.failed, keys,
        "a delete that one replica did not confirm is to be tried again"
    );
    assert!(outcome.cause.unwrap().to_string().contains(&one.address));
    let retried = {
        one = Server::memcached_on(one.address.rsplit(':').next().unwrap().parse().unwrap());
        delete_until_complete(&*cache, &keys).await
    };
    assert!(retried, "with {} back, the deletes succeed", one.address);
    assert_eq!(cache.get_many(&keys).await.unwrap(), vec![None; keys.len()]);
}

async fn delete_until_complete(cache: &dyn Cache, keys: &[String]) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(20) {
        if cache.delete_many(keys).await.is_complete() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

#[tokio::test]
async fn a_lost_ketama_server_costs_its_own_keys_only() {
    if !is_installed("memcached", "a_lost_ketama_server_costs_its_own_keys_only") {
        return;
    }
    let (mut one, two) = (Server::memcached(), Server::memcached());
    let cache = connect(&url(&[&one, &two], "placement=ketama")).unwrap();
    let keys: Vec<_> = (0..400).map(|number| format!("k{number}")).collect();
    for key in &keys {
        cache.set(key, key.clone().into(), MINUTE).await.unwrap();
    }
    one.kill();
    let found = cache
        .get_many(&keys)
        .await
        .unwrap()
        .iter()
        .flatten()
        .count();
    assert!(
        (50..350).contains(&found),
        "{found} of 400 are on the server that is left"
    );
    let outcome = cache.delete_many(&keys).await;
    assert_eq!(
        (outcome.deleted, outcome.failed.len()),
        (found, 400 - found)
    );
}

#[tokio::test]
async fn what_another_program_stored_larger_than_the_limit_is_skipped_over() {
    if !is_installed(
        "memcached",
        "what_another_program_stored_larger_than_the_limit_is_skipped_over",
    ) {
        return;
    }
    let server = Server::memcached();
    let large = connect(&url(&[&server], "")).unwrap();
    let small = connect(&url(&[&server], "max_value=1000&pool=1")).unwrap();
    large
        .set("large", vec![b'x'; 900_000].into(), MINUTE)
        .await
        .unwrap();
    large.set("small", "v".into(), MINUTE).await.unwrap();
    let error = small.get("large").await.unwrap_err().to_string();
    assert!(
        error.contains("900000 bytes") && error.contains("limit of 1000"),
        "{error}"
    );
    assert_eq!(small.get("small").await, Ok(Some("v".into())));
    let both = small
        .get_many(&["large".to_owned(), "small".to_owned()])
        .await;
    assert_eq!(both, Ok(vec![None, Some("v".into())]));
}
