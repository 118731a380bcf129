//! Local tables, against a sidecar that leases and tells as the test says.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use grapevine_client::{CachedClient, How, Session, v1};

use crate::fake::Method;
use crate::support::{Setup, setup_with, until};

/// Longer than any test.
const LEASE_MS: u64 = 600_000;
const ADDRESS: &str = "items::13";
const CLASSES: [&str; 1] = ["cart/13"];

/// A client with a table that has a lease.
async fn setup() -> Setup {
    let setup = setup_with(|builder| builder.local_table(1_000));
    setup.fake.state.tables.lock().lease_ms = LEASE_MS;
    leased(&setup, 1).await;
    setup
}

async fn leased(setup: &Setup, leases: u64) {
    let client = setup.cached.client().clone();
    until("a lease", || client.stats().local_leases >= leases).await;
}

async fn read(cached: &CachedClient, value: &'static str) -> (String, How) {
    let fill = |_| async move { Ok::<_, std::io::Error>(Bytes::from(value)) };
    let outcome = cached.get_or_fill(ADDRESS, &CLASSES, None, fill).await;
    let outcome = outcome.unwrap();
    let value = String::from_utf8(outcome.value.to_vec()).unwrap();
    (value, outcome.how)
}

fn resolves(setup: &Setup) -> u64 {
    setup.fake.state.calls(Method::Resolve)
}

/// Waits until the table has heard of all bumps.
async fn heard(setup: &Setup, position: u64) {
    let state = &setup.fake.state;
    until("an acknowledgement", || {
        state.tables.lock().acknowledged >= position
    })
    .await;
}

#[tokio::test]
async fn g3_reads_through_a_table_make_no_call_and_see_a_change_once_it_is_acknowledged() {
    let setup = setup().await;
    assert_eq!(
        read(&setup.cached, "old").await,
        ("old".into(), How::Filled)
    );
    let calls = resolves(&setup);
    for _ in 0..5 {
        assert_eq!(read(&setup.cached, "no").await, ("old".into(), How::Hit));
    }
    assert_eq!(resolves(&setup), calls);
    let stats = setup.cached.stats();
    assert_eq!((stats.hits, stats.local_hits, stats.misses), (5, 5, 1));
    // Above it, so that it is concerned as well.
    setup.fake.state.bump("cart");
    heard(&setup, 1).await;
    assert_eq!(
        read(&setup.cached, "new").await,
        ("new".into(), How::Filled)
    );
    assert_eq!(read(&setup.cached, "no").await, ("new".into(), How::Hit));
    // A neighbour makes no difference.
    setup.fake.state.bump("cart/14");
    heard(&setup, 2).await;
    let calls = resolves(&setup);
    assert_eq!(read(&setup.cached, "no").await, ("new".into(), How::Hit));
    assert_eq!(resolves(&setup), calls);
}

#[tokio::test]
async fn g7_without_a_lease_each_read_asks_the_sidecar() {
    let setup = setup_with(|builder| builder.local_table(1_000));
    setup.fake.state.tables.lock().lease_ms = 150;
    leased(&setup, 1).await;
    read(&setup.cached, "old").await;
    let calls = resolves(&setup);
    assert_eq!(read(&setup.cached, "no").await.1, How::Hit);
    // It asks in time, so the lease goes on.
    leased(&setup, 6).await;
    assert_eq!(read(&setup.cached, "no").await.1, How::Hit);
    assert_eq!(resolves(&setup), calls);
    setup.fake.state.tables.lock().lease_ms = 0;
    let asked = setup.fake.state.tables.lock().asked;
    // 150 ms later it is over.
    until("no lease", || {
        setup.fake.state.tables.lock().asked > asked + 3
    })
    .await;
    for n in 1..4 {
        assert_eq!(read(&setup.cached, "no").await.1, How::Hit);
        assert_eq!(resolves(&setup), calls + n);
    }
    let stats = setup.cached.stats();
    assert_eq!((stats.hits, stats.local_hits), (5, 2));
}

#[tokio::test]
async fn g7_a_table_that_lost_its_stream_is_empty_and_opens_another_one() {
    let setup = setup().await;
    read(&setup.cached, "old").await;
    let calls = resolves(&setup);
    setup.fake.state.tables.lock().end();
    leased(&setup, 2).await;
    assert_eq!(read(&setup.cached, "no").await.1, How::Hit);
    assert_eq!(
        resolves(&setup),
        calls + 1,
        "what it had was of another stream"
    );
    assert_eq!(read(&setup.cached, "no").await.1, How::Hit);
    assert_eq!(resolves(&setup), calls + 1);
    // One that drains is not kept waiting.
    let closing = v1::LocalTableStreamResponse {
        closing: true,
        ..Default::default()
    };
    setup.fake.state.tables.lock().say(&closing);
    let released = || setup.fake.state.tables.lock().released == 1;
    until("the table is released", released).await;
    leased(&setup, 3).await;
}

#[tokio::test]
async fn g3_a_client_s_own_writes_are_seen_through_its_table_before_it_is_told() {
    let setup = setup().await;
    setup.fake.state.tables.lock().holds = true;
    let client = setup.cached.client();
    read(&setup.cached, "old").await;
    client.invalidate(["cart/13"]).await.unwrap();
    assert_eq!(read(&setup.cached, "new").await.1, How::Filled);
    assert_eq!(read(&setup.cached, "no").await, ("new".into(), How::Hit));
    // Of rows only the sidecar knows what they mean: its notice is waited for.
    let change = v1::RowChange {
        table: "cart".to_owned(),
        ..Default::default()
    };
    let changed = client.row_changed(v1::SqlDialect::Postgresql, [change]);
    let state = std::sync::Arc::clone(&setup.fake.state);
    let bumps = state.bumps();
    let tells = tokio::spawn(async move {
        until("the change", || state.bumps() > bumps).await;
        state.tables.lock().let_go();
    });
    changed.await.unwrap();
    tells.await.unwrap();
    assert_eq!(
        read(&setup.cached, "newer").await,
        ("newer".into(), How::Filled)
    );
}

#[tokio::test]
async fn g5_sessions_and_snapshots_ask_the_sidecar_and_so_do_slices() {
    let setup = setup().await;
    read(&setup.cached, "old").await;
    let calls = resolves(&setup);
    let outcome = setup
        .cached
        .client()
        .invalidate(["elsewhere"])
        .await
        .unwrap();
    let mut session = Session::new();
    session.add(&outcome.session_token).unwrap();
    let reader = setup.cached.session(&session);
    assert_eq!(read(&reader, "no").await.1, How::Hit);
    assert_eq!(resolves(&setup), calls + 1);
    let snapshot = setup.cached.client().open_snapshot().await;
    let reader = setup.cached.in_snapshot(&snapshot.unwrap());
    assert_eq!(read(&reader, "no").await.1, How::Hit);
    assert_eq!(resolves(&setup), calls + 2);
    assert_eq!(setup.cached.stats().local_hits, 0);
}

#[tokio::test]
async fn what_a_table_points_at_and_the_cache_has_lost_is_filled_by_the_sidecar_s_word() {
    let setup = setup().await;
    read(&setup.cached, "old").await;
    let mut target = String::new();
    let client = setup.cached.client();
    let hit = client
        .local_look_up(ADDRESS, &CLASSES, &mut target)
        .unwrap();
    let resolved = client.resolve_one(ADDRESS, &CLASSES, None).await.unwrap();
    assert_eq!(resolved.resolution.token, hit.token);
    assert_eq!(resolved.resolution.targets[0].address, target);
    let gone = [target.clone()];
    let outcome = setup.cached.cache().delete_many(&gone).await;
    assert_eq!(outcome.deleted, 1);
    let calls = resolves(&setup);
    assert_eq!(
        read(&setup.cached, "again").await,
        ("again".into(), How::Filled)
    );
    assert_eq!(resolves(&setup), calls + 1);
    assert_eq!(read(&setup.cached, "no").await, ("again".into(), How::Hit));
}

#[tokio::test]
async fn answers_that_say_to_bypass_and_those_of_another_run_are_not_kept() {
    let setup = setup().await;
    let state = &setup.fake.state;
    state.bypass.store(true, Ordering::SeqCst);
    let client = setup.cached.client();
    let mut target = String::new();
    let mut known = |_: &str| {
        client
            .local_look_up(ADDRESS, &CLASSES, &mut target)
            .is_some()
    };
    client.resolve_one(ADDRESS, &CLASSES, None).await.unwrap();
    assert!(!known("a bypass"));
    state.bypass.store(false, Ordering::SeqCst);
    state.foreign.store(true, Ordering::SeqCst);
    client.resolve_one(ADDRESS, &CLASSES, None).await.unwrap();
    assert!(!known("an answer of a run that has no such table"));
    state.foreign.store(false, Ordering::SeqCst);
    client.resolve_one(ADDRESS, &CLASSES, None).await.unwrap();
    assert!(known("its own"));
}

#[tokio::test]
async fn g7_a_client_that_goes_releases_its_table() {
    let Setup { fake, cached, .. } = setup().await;
    drop(cached);
    until("the table is released", || {
        fake.state.tables.lock().released == 1
    })
    .await;
}
