//! Local tables, where answers, notices and leases cross each other on their ways.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use grapevine_client::{CachedClient, Client, Fill, How, LocalHit, Session, v1};
use tokio::task::JoinHandle;

use crate::fake::{Late, Method, Reply};
use crate::support::{PATIENT, Setup, patient, setup_with, until};

/// Longer than any test.
const LONG_MS: u64 = 600_000;
/// More classes than are counted in a moment.
const MANY: usize = 100_000;
const CLASS: &str = "cart/13";
const NEIGHBOUR: &str = "shelf/7";

/// A client with a table, which gets no lease yet.
fn setup() -> Setup {
    let setup = setup_with(|builder| builder.local_table(1_000));
    setup.fake.state.tables.lock().holds_leases = true;
    setup
}

async fn leased() -> Setup {
    let setup = setup();
    lease(&setup, LONG_MS).await;
    setup
}

/// Gives a lease.
async fn lease(setup: &Setup, lease_ms: u64) {
    asked(setup).await;
    let client = setup.cached.client();
    let leases = client.stats().local_leases;
    {
        let mut tables = setup.fake.state.tables.lock();
        tables.lease_ms = lease_ms;
        tables.let_lease_go();
    }
    until("a lease", || client.stats().local_leases > leases).await;
}

async fn asked(setup: &Setup) {
    let tables = &setup.fake.state.tables;
    until("a request", || tables.lock().unanswered.is_some()).await;
}

fn look_up(client: &Client, class: &str) -> Option<LocalHit> {
    client.local_look_up("items::13", &[class], &mut String::new())
}

/// Asks the sidecar until its answer is kept.
async fn keep(client: &Client, class: &str) -> u64 {
    let deadline = Instant::now() + PATIENT;
    let kept = client.stats().local_kept;
    loop {
        let answer = client.resolve_one("items::13", &[class], None).await;
        if client.stats().local_kept > kept {
            return answer.unwrap().resolution.token;
        }
        assert!(Instant::now() < deadline, "never kept");
    }
}

/// A look-up whose answer is made now, and comes when it is let go.
async fn late_look_up(setup: &Setup, class: &'static str) -> (Arc<Late>, JoinHandle<u64>) {
    let late = Late::new();
    let state = &setup.fake.state;
    state.next(Method::Resolve, Reply::Late(Arc::clone(&late)));
    let client = setup.cached.client().clone();
    let answer = tokio::spawn(async move {
        let answer = client.resolve_one("items::13", &[class], None).await;
        answer.unwrap().resolution.token
    });
    late.worked().await;
    (late, answer)
}

async fn heard(setup: &Setup, position: u64) {
    let tables = &setup.fake.state.tables;
    until("an acknowledgement", || {
        tables.lock().acknowledged >= position
    })
    .await;
}

/// Many classes, and one of them at last. The others are one and the same, so that neighbours are not taken for changed.
fn many(last: &str) -> Vec<String> {
    let mut classes = vec!["elsewhere".to_owned(); MANY];
    classes.push(last.to_owned());
    classes
}

#[tokio::test]
async fn g3_a_notice_that_overtakes_an_answer_is_not_missed() {
    let setup = leased().await;
    let client = setup.cached.client();
    let (late, answer) = late_look_up(&setup, CLASS).await;
    setup.fake.state.bump(CLASS);
    heard(&setup, 1).await;
    late.go.add_permits(1);
    let old = answer.await.unwrap();
    assert_eq!(look_up(client, CLASS), None);
    let new = keep(client, CLASS).await;
    assert_ne!(old, new);
    assert_eq!(look_up(client, CLASS).map(|hit| hit.token), Some(new));
}

#[tokio::test]
async fn g3_who_was_answered_the_new_is_not_served_the_old_by_the_table() {
    for ask in 0..3 {
        let setup = leased().await;
        let client = setup.cached.client();
        let old = keep(client, CLASS).await;
        keep(client, NEIGHBOUR).await;
        // The sidecar knows, and the notice is under way.
        let tables = &setup.fake.state.tables;
        tables.lock().holds = true;
        setup.fake.state.bump(CLASS);
        assert_eq!(look_up(client, CLASS).map(|hit| hit.token), Some(old));
        // Whatever is not kept: another list, many, or what a session sees.
        let classes = [CLASS.to_owned(), NEIGHBOUR.to_owned()];
        let asked = match ask {
            0 => client.resolve_one("a", &classes, None).await.map(|_| ()),
            1 => {
                let item = v1::ResolveItem {
                    address: "a".to_owned(),
                    classes: classes.to_vec(),
                    page: None,
                };
                client.resolve(vec![item]).await.map(|_| ())
            }
            _ => {
                let other = patient(&setup.fake.endpoint).build().unwrap();
                let write = other.invalidate(["elsewhere"]).await.unwrap();
                let mut session = Session::new();
                session.add(&write.session_token).unwrap();
                let answer = client.resolve_one_in(&session, "a", &classes, None);
                answer.await.map(|_| ())
            }
        };
        asked.unwrap();
        assert_eq!(look_up(client, CLASS), None, "{ask}");
        assert_eq!(look_up(client, NEIGHBOUR), None, "it may be old as well");
        tables.lock().let_go();
        heard(&setup, 1 + u64::from(ask == 2)).await;
        assert_eq!(look_up(client, CLASS), None);
        assert!(look_up(client, NEIGHBOUR).is_some());
        let new = keep(client, CLASS).await;
        assert_ne!(old, new);
        assert_eq!(look_up(client, CLASS).map(|hit| hit.token), Some(new));
    }
}

#[tokio::test]
async fn g3_an_answer_that_comes_behind_a_newer_one_is_not_served() {
    let setup = leased().await;
    let client = setup.cached.client();
    let (late, answer) = late_look_up(&setup, CLASS).await;
    let tables = &setup.fake.state.tables;
    tables.lock().holds = true;
    setup.fake.state.bump(CLASS);
    let new = keep(client, CLASS).await;
    late.go.add_permits(1);
    let old = answer.await.unwrap();
    assert_ne!(old, new);
    assert_eq!(look_up(client, CLASS), None);
    tables.lock().let_go();
    heard(&setup, 1).await;
    assert_eq!(look_up(client, CLASS), None);
    assert_eq!(keep(client, CLASS).await, new);
    assert_eq!(look_up(client, CLASS).map(|hit| hit.token), Some(new));
}

#[tokio::test]
async fn g3_an_answer_to_a_table_whose_stream_is_over_empties_the_next_one() {
    let setup = leased().await;
    let client = setup.cached.client();
    let (late, answer) = late_look_up(&setup, CLASS).await;
    setup.fake.state.tables.lock().end();
    until("another stream", || client.stats().local_streams == 2).await;
    lease(&setup, LONG_MS).await;
    keep(client, NEIGHBOUR).await;
    assert!(look_up(client, NEIGHBOUR).is_some());
    late.go.add_permits(1);
    answer.await.unwrap();
    // It may know of what the new stream has yet to tell, and its positions are of the old one.
    assert_eq!(look_up(client, NEIGHBOUR), None);
    assert_eq!(look_up(client, CLASS), None);
    keep(client, NEIGHBOUR).await;
    assert!(look_up(client, NEIGHBOUR).is_some());
}

#[tokio::test]
async fn g7_a_lease_counts_from_when_it_was_asked_for() {
    const LEASE_MS: u64 = 2_000;
    let setup = setup();
    let client = setup.cached.client();
    asked(&setup).await;
    keep(client, CLASS).await;
    // What is told now has been over since it was asked for.
    let (_, asked_at) = setup.fake.state.tables.lock().unanswered.unwrap();
    let request = || setup.fake.state.tables.lock().unanswered.unwrap().0;
    let first = request();
    until("it is over", || {
        asked_at.elapsed() > Duration::from_millis(LEASE_MS)
    })
    .await;
    let leases = client.stats().local_leases;
    {
        // The answer to the first request, behind which others were sent.
        let mut tables = setup.fake.state.tables.lock();
        tables.lease_ms = LEASE_MS;
        tables.unanswered = Some((first, asked_at));
        tables.let_lease_go();
    }
    until("the lease", || client.stats().local_leases > leases).await;
    assert_eq!(look_up(client, CLASS), None);
    // And one that is told in time holds.
    lease(&setup, LONG_MS).await;
    assert!(look_up(client, CLASS).is_some());
}

#[tokio::test]
async fn g7_a_table_whose_stream_is_over_has_no_lease_of_it_with_the_next_one() {
    let setup = leased().await;
    let client = setup.cached.client();
    keep(client, CLASS).await;
    assert!(look_up(client, CLASS).is_some());
    setup.fake.state.tables.lock().end();
    until("another stream", || client.stats().local_streams == 2).await;
    asked(&setup).await;
    keep(client, CLASS).await;
    assert_eq!(look_up(client, CLASS), None);
}

#[tokio::test]
async fn g7_a_table_serves_nothing_any_more_when_it_says_that_it_is_released() {
    let setup = leased().await;
    let client = setup.cached.client();
    keep(client, CLASS).await;
    let tables = &setup.fake.state.tables;
    tables.lock().lingers = true;
    let closing = v1::LocalTableStreamResponse {
        closing: true,
        ..Default::default()
    };
    tables.lock().say(&closing);
    while tables.lock().released == 0 {
        // As fast as can be: the client does not wait for long.
        tokio::task::yield_now().await;
    }
    assert_eq!(look_up(client, CLASS), None);
    tables.lock().end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g7_a_lease_that_comes_with_notices_holds_behind_all_of_them() {
    const ROUNDS: u64 = 6;
    const LEASE_MS: u64 = 500;
    let setup = setup();
    let client = setup.cached.client();
    let mut leased = 0;
    for _ in 0..ROUNDS {
        until("no lease", || look_up(client, NEIGHBOUR).is_none()).await;
        // The neighbour shows when there is a lease.
        keep(client, NEIGHBOUR).await;
        keep(client, CLASS).await;
        let stop = Arc::new(AtomicBool::new(false));
        let reader = {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    if look_up(&client, NEIGHBOUR).is_some() {
                        return Some(look_up(&client, CLASS));
                    }
                }
                None
            })
        };
        asked(&setup).await;
        let position = {
            let mut tables = setup.fake.state.tables.lock();
            // For so long from now on: it counts from its request.
            let waited = tables.unanswered.unwrap().1.elapsed();
            tables.lease_ms = LEASE_MS + u64::try_from(waited.as_millis()).unwrap();
            tables.merge(many(CLASS))
        };
        heard(&setup, position).await;
        stop.store(true, Ordering::SeqCst);
        // On a busy machine a lease may be over before anybody looks.
        if let Some(found) = reader.join().unwrap() {
            leased += 1;
            assert_eq!(found, None, "it was changed before the lease was given");
        }
    }
    assert!(leased > 0, "nobody ever saw a lease");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_what_was_acknowledged_is_served_to_no_thread() {
    let setup = leased().await;
    let client = setup.cached.client().clone();
    for _ in 0..10 {
        keep(&client, CLASS).await;
        let reader = {
            let (client, state) = (client.clone(), Arc::clone(&setup.fake.state));
            let before = state.tables.lock().acknowledged;
            std::thread::spawn(move || {
                while state.tables.lock().acknowledged == before {
                    std::thread::yield_now();
                }
                look_up(&client, CLASS)
            })
        };
        setup.fake.state.tables.lock().merge(many(CLASS));
        let found = tokio::task::spawn_blocking(|| reader.join()).await;
        assert_eq!(found.unwrap().unwrap(), None);
    }
}

#[tokio::test]
async fn g3_a_sidecar_that_reads_nothing_holds_up_no_notice() {
    let setup = leased().await;
    let (client, state) = (setup.cached.client(), &setup.fake.state);
    keep(client, CLASS).await;
    state.tables.lock().deaf = true;
    // Acknowledged one by one, they fill the way up.
    for told in 0..10_000_u64 {
        until("notices are heard", || {
            client.stats().local_notices + 32 > told
        })
        .await;
        state.bump("elsewhere");
    }
    assert!(look_up(client, CLASS).is_some());
    state.bump(CLASS);
    until("it is heard", || look_up(client, CLASS).is_none()).await;
}

#[tokio::test]
async fn g5_what_values_of_a_session_depend_on_is_asked_of_the_sidecar() {
    let setup = leased().await;
    let state = &setup.fake.state;
    let get = |cached: CachedClient, value: &'static str| async move {
        let fill = |fill: Fill| {
            fill.depends_on("prices/7");
            async move { Ok::<_, std::io::Error>(Bytes::from(value)) }
        };
        let got = cached.get_or_fill("total::13", &[CLASS], None, fill).await;
        let got = got.unwrap();
        (String::from_utf8(got.value.to_vec()).unwrap(), got.how)
    };
    get(setup.cached.clone(), "old").await;
    // What it depends on is looked up once, and known then.
    for _ in 0..2 {
        assert_eq!(get(setup.cached.clone(), "no").await.1, How::Hit);
    }
    let calls = state.calls(Method::Resolve);
    assert_eq!(get(setup.cached.clone(), "no").await.1, How::Hit);
    assert_eq!(state.calls(Method::Resolve), calls);
    // Another process's write, of which the table is told late.
    state.tables.lock().holds = true;
    let other = patient(&setup.fake.endpoint).build().unwrap();
    let write = other.invalidate(["elsewhere"]).await.unwrap();
    let mut session = Session::new();
    session.add(&write.session_token).unwrap();
    let calls = state.calls(Method::Resolve);
    let reader = setup.cached.session(&session);
    assert_eq!(get(reader, "no").await.1, How::Hit);
    assert_eq!(state.calls(Method::Resolve), calls + 2);
    let write = other.invalidate(["prices/7"]).await.unwrap();
    session.add(&write.session_token).unwrap();
    let reader = setup.cached.session(&session);
    assert_eq!(get(reader, "new").await, ("new".into(), How::Filled));
}
