//! A whole sidecar but for its listeners, on a store that does as it is told.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::task::Poll;
use std::time::Instant;

use grapevine_core::criteria::Shape;
use grapevine_core::event::Floor;
use grapevine_core::id::Lane;
use grapevine_core::names::ClassPath;
use grapevine_core::store::{RecoveredClass, Taken, Write};
use grapevine_proto::v1;
use grapevine_proto::v1::application_service_server::ApplicationService as _;
use grapevine_proto::v1::exchange_request::Kind;
use grapevine_proto::v1::peer_service_client::PeerServiceClient;
use grapevine_store::{AddressRow, ClassRow, Cursor, LogRead, MemoryStore, Page, StoreError};
use tokio::sync::Semaphore;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use super::*;
use crate::engine::Call;
use crate::service::application::{Application, UNDER_WAY_MAX};

mod carried;
mod look_ups;

/// What happens at once, on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// How a disk takes commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disk {
    Well,
    Stalled,
    Panics,
}

/// A store in memory behind a disk.
pub(super) struct Scripted {
    store: MemoryStore,
    disk: Mutex<Disk>,
    changed: Condvar,
    /// Registrations that were held when the last bump was written.
    held_at_bump: AtomicU64,
}

impl Scripted {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            store: MemoryStore::default(),
            disk: Mutex::new(Disk::Well),
            changed: Condvar::new(),
            held_at_bump: AtomicU64::new(0),
        })
    }

    pub(super) fn become_(&self, disk: Disk) {
        *self.disk.lock().unwrap() = disk;
        self.changed.notify_all();
    }
}

impl Store for Scripted {
    fn commit(&self, writes: &[Write]) -> Result<Vec<Taken>, StoreError> {
        let stalled = |disk: &mut Disk| *disk == Disk::Stalled;
        let disk = self.disk.lock().unwrap();
        let disk = *self.changed.wait_while(disk, stalled).unwrap();
        assert!(
            disk != Disk::Panics,
            "the disk panics, as the test wants it"
        );
        let taken = self.store.commit(writes)?;
        if writes
            .iter()
            .any(|write| matches!(write, Write::Take { .. }))
        {
            let held = self.store.registrations();
            self.held_at_bump.store(held, Ordering::Relaxed);
        }
        Ok(taken)
    }

    fn read_log(
        &self,
        origin: Incarnation,
        lane: Lane,
        first: u64,
        last: u64,
        bytes_max: usize,
    ) -> Result<LogRead, StoreError> {
        self.store.read_log(origin, lane, first, last, bytes_max)
    }

    fn addresses(
        &self,
        below: &ClassPath,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<AddressRow>, StoreError> {
        self.store.addresses(below, after, limit)
    }

    fn classes(
        &self,
        below: Option<&ClassPath>,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<ClassRow>, StoreError> {
        self.store.classes(below, after, limit)
    }

    fn shapes(&self) -> Result<Vec<Shape>, StoreError> {
        self.store.shapes()
    }

    fn snapshot_versions(
        &self,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<RecoveredClass>, StoreError> {
        self.store.snapshot_versions(after, limit)
    }

    fn floors(&self) -> Result<Vec<Floor>, StoreError> {
        self.store.floors()
    }

    fn snapshot_directory(
        &self,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<AddressRow>, StoreError> {
        self.store.snapshot_directory(after, limit)
    }

    fn registrations(&self) -> u64 {
        self.store.registrations()
    }

    fn expiry_backlog(&self) -> bool {
        self.store.expiry_backlog()
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

/// A sidecar of a cluster of its own.
pub(super) struct Rig {
    pub(super) sidecar: Sidecar,
    app: Application,
    pub(super) disk: Arc<Scripted>,
    stop: watch::Sender<bool>,
}

impl Rig {
    pub(super) async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.gossip.listen = "127.0.0.1:0".parse().unwrap();
        change(&mut config);
        let disk = Scripted::new();
        let place = "127.0.0.1:1".to_owned();
        let sidecar = Sidecar::start(&config, disk.clone(), &Recovered::default(), place)
            .await
            .unwrap();
        let (stop, stopped) = watch::channel(false);
        let app = listen::application(&config, &sidecar.engine, &stopped);
        let rig = Self {
            sidecar,
            app,
            disk,
            stop,
        };
        // It has begun its history, and its disk answers.
        rig.invalidate("first", 0).await.unwrap();
        rig
    }

    async fn invalidate(
        &self,
        class: &str,
        timeout_ms: u32,
    ) -> Result<v1::InvalidateResponse, tonic::Status> {
        let request = v1::InvalidateRequest {
            classes: vec![class.to_owned()],
            timeout_ms,
            ..Default::default()
        };
        let answer = self.app.invalidate(Request::new(request)).await?;
        Ok(answer.into_inner())
    }
}

/// So many registrations that nobody has made yet.
fn registrations(count: usize) -> Request<v1::RegisterRequest> {
    static LAST: AtomicUsize = AtomicUsize::new(0);
    let first = LAST.fetch_add(count, Ordering::Relaxed);
    let registration = |number| v1::Registration {
        address: format!("value::{number}"),
        classes: vec!["class".to_owned()],
        ..Default::default()
    };
    Request::new(v1::RegisterRequest {
        registrations: (first..first + count).map(registration).collect(),
    })
}

fn check_retry(status: &tonic::Status, limit: &str) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains(limit), "{status}");
    let retry = status.get_details_retry_info();
    let delay = retry.and_then(|retry| retry.retry_delay);
    assert!(
        delay.is_some_and(|delay| delay > Duration::ZERO && delay <= Duration::from_mins(1)),
        "{delay:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_disk_does_not_keep_an_invalidation_beyond_its_deadline() {
    let rig = Rig::start(|_| {}).await;
    rig.disk.become_(Disk::Stalled);
    let begun = Instant::now();
    let status = rig.invalidate("class", 300).await.unwrap_err();
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(status.message().contains("not known"), "{status}");
    rig.disk.become_(Disk::Well);
    let answer = rig.invalidate("class", 0).await.unwrap();
    assert!(answer.receipt.unwrap().satisfied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_writer_ends_the_sidecar_and_what_it_had_is_called_unknown() {
    let rig = Rig::start(|_| {}).await;
    rig.disk.become_(Disk::Panics);
    let status = rig.invalidate("class", 20_000).await.unwrap_err();
    assert_eq!(status.code(), Code::Unknown, "{status}");
    assert!(status.message().contains("not known"), "{status}");
    let ended = rig.sidecar.looping.await.unwrap().unwrap_err();
    assert!(ended.to_string().contains("writer thread"), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_left_answers_that_nothing_was_done() {
    let Rig {
        sidecar,
        app,
        disk: _disk,
        stop: _stop,
    } = Rig::start(|_| {}).await;
    sidecar.leave().await.unwrap();
    let status = app.register(registrations(1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}

/// Drives a call as far as it goes by itself: to where it waits for the loop's answer.
async fn handed_over<T>(mut call: Pin<&mut impl Future<Output = T>>) -> bool {
    std::future::poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_pending())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn g10_what_is_under_way_is_bounded_also_when_callers_give_up() {
    let rig = Rig::start(|config| config.limits.queue_writes_max = 10_000).await;
    rig.disk.become_(Disk::Stalled);
    let batch = 10_000;
    let mut calls = Vec::new();
    for _ in 0..UNDER_WAY_MAX / batch {
        let mut call = Box::pin(rig.app.register(registrations(batch)));
        assert!(handed_over(call.as_mut()).await);
        calls.push(call);
    }
    // A call whose caller is gone before the loop has it is skipped, and its room is free again. Those before it are
    // with the loop by then, and now their callers give up.
    let skipped = async {
        loop {
            let room = Arc::new(Semaphore::new(1));
            let place = room.clone().acquire_owned().await.unwrap();
            let engine = &rig.sidecar.engine;
            let mut call = Box::pin(engine.call(Call::Register(Vec::new()), Some(place), SOON));
            assert!(handed_over(call.as_mut()).await);
            drop(call);
            // The loop may have been faster, and then the call waits for the disk.
            let free = tokio::time::timeout(Duration::from_millis(200), room.acquire()).await;
            if free.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, skipped).await.unwrap();
    drop(calls);
    let left = rig.app.under_way.available_permits();
    assert!(left < batch, "{left} of {UNDER_WAY_MAX} are free");
    let status = rig.app.register(registrations(batch)).await.unwrap_err();
    check_retry(&status, &UNDER_WAY_MAX.to_string());
    rig.disk.become_(Disk::Well);
    let all = u32::try_from(UNDER_WAY_MAX).unwrap();
    let freed = rig.app.under_way.acquire_many(all);
    let freed = tokio::time::timeout(SOON, freed).await;
    assert!(freed.is_ok(), "places do not come back");
}

#[tokio::test(flavor = "multi_thread")]
async fn g10_a_full_queue_of_commands_says_when_to_try_again() {
    let rig = Rig::start(|config| {
        config.limits.queue_commands_max = 32;
        config.limits.queue_writes_max = 1;
    })
    .await;
    rig.disk.become_(Disk::Stalled);
    let app = rig.app.clone();
    let status = async move {
        // Registrations stop being taken once a thousand writes wait; then their queue of one fills. Fewer than a batch
        // of them are gathered, and do not count as writes yet.
        let mut calls = JoinSet::new();
        for _ in 0..10 {
            let app = app.clone();
            calls.spawn(async move { app.register(registrations(10_000)).await });
        }
        loop {
            let ended = calls.join_next().await.unwrap().unwrap();
            if let Err(status) = ended {
                return status;
            }
        }
    };
    let status = tokio::time::timeout(SOON, status).await.unwrap();
    check_retry(&status, "limits.queue_commands_max");
    assert!(
        rig.sidecar
            .engine
            .counters
            .get(crate::telemetry::Counter::IntakeRejected)
            > 0
    );
    rig.disk.become_(Disk::Well);
}

#[tokio::test(flavor = "multi_thread")]
async fn g10_receipts_and_registrations_beyond_their_limits_say_when_to_try_again() {
    let rig = Rig::start(|config| {
        config.limits.receipts_max = 1;
        config.limits.registrations_max = 100;
    })
    .await;
    rig.app.register(registrations(100)).await.unwrap();
    let status = rig.app.register(registrations(1)).await.unwrap_err();
    check_retry(&status, "limits.registrations_max");
    // The place of the one that waits for its flush is taken.
    rig.disk.become_(Disk::Stalled);
    let waiting = rig.invalidate("a", 20_000);
    let refused = async {
        loop {
            let status = rig.invalidate("b", 100).await.unwrap_err();
            if status.code() != Code::DeadlineExceeded {
                return status;
            }
        }
    };
    tokio::select! {
        biased;
        _ = waiting => panic!("the disk has stalled"),
        status = refused => check_retry(&status, "limits.receipts_max"),
    }
    rig.disk.become_(Disk::Well);
}

#[tokio::test(flavor = "multi_thread")]
async fn g10_a_caller_that_is_gone_does_not_keep_its_place_among_the_receipts() {
    let rig = Rig::start(|config| config.limits.receipts_max = 1).await;
    // Its flush never comes, and its deadline is far.
    rig.disk.become_(Disk::Stalled);
    let mut gone = Box::pin(rig.invalidate("a", 60_000));
    assert!(handed_over(gone.as_mut()).await);
    let taken = async {
        while rig.sidecar.engine.core.read().receipt_places() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, taken).await.unwrap();
    let refused = rig.invalidate("b", 100).await.unwrap_err();
    check_retry(&refused, "limits.receipts_max");
    drop(gone);
    let admitted = async {
        loop {
            let status = rig.invalidate("b", 100).await.unwrap_err();
            if status.code() == Code::DeadlineExceeded {
                return;
            }
            check_retry(&status, "limits.receipts_max");
        }
    };
    tokio::time::timeout(SOON, admitted).await.unwrap();
    let rejected = crate::telemetry::Counter::IntakeRejected;
    assert!(rig.sidecar.engine.counters.get(rejected) > 0);
    rig.disk.become_(Disk::Well);
}

#[tokio::test(flavor = "multi_thread")]
async fn g10_waits_for_sessions_beyond_their_limit_are_refused() {
    let rig = Rig::start(|config| config.limits.session_waits_max = 2).await;
    let never = grapevine_core::id::EventId {
        origin: new_incarnation().unwrap(),
        sequence: 1,
    };
    let engine = &rig.sidecar.engine;
    let events = [never];
    let mut waits: Vec<_> = (0..2)
        .map(|_| Box::pin(engine.await_session(&events, SOON)))
        .collect();
    for wait in &mut waits {
        assert!(handed_over(wait.as_mut()).await);
    }
    let refused = engine.await_session(&events, SOON).await.unwrap_err();
    check_retry(&refused, "2 calls wait for their sessions already");
    // What is there needs no place.
    let own = rig.invalidate("class", 0).await.unwrap().event.unwrap();
    let own = grapevine_core::id::EventId {
        origin: engine.core.read().incarnation(),
        sequence: own.sequence,
    };
    engine.await_session(&[own], SOON).await.unwrap();
    waits.pop();
    let shortly = Duration::from_millis(1);
    let late = engine.await_session(&events, shortly).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
}

#[tokio::test]
async fn a_large_look_up_lets_others_in_and_is_answered_whole() {
    let rig = Rig::start(|_| {}).await;
    let deep = |top: usize| format!("{top}{}", "/s".repeat(15));
    let item = |number: usize| v1::ResolveItem {
        address: format!("value::{number}"),
        classes: (0..16).map(deep).collect(),
        page: None,
    };
    let request = v1::ResolveRequest {
        items: (0..200).map(item).collect(),
        session: None,
        snapshot: None,
        local_table: 0,
    };
    let mut large = Box::pin(rig.app.resolve(Request::new(request)));
    // 51,200 segments are 50 pieces, and there is one thread here.
    let mut turns = 0;
    while !handed_over_to_its_end(large.as_mut()).await {
        turns += 1;
        assert!(rig.sidecar.engine.core.try_write().is_some());
    }
    assert!(turns > 40, "{turns}");
}

/// Drives a call as far as it goes by itself; tells whether that is its end.
async fn handed_over_to_its_end(
    mut call: Pin<
        &mut impl Future<Output = Result<tonic::Response<v1::ResolveResponse>, tonic::Status>>,
    >,
) -> bool {
    std::future::poll_fn(|cx| {
        Poll::Ready(match call.as_mut().poll(cx) {
            Poll::Pending => false,
            Poll::Ready(answer) => {
                let results = answer.unwrap().into_inner().results;
                assert_eq!(results.len(), 200);
                let addresses = results.iter().map(|result| &result.targets[0].address);
                for (number, address) in addresses.enumerate() {
                    let name = format!("value::{number}");
                    assert!(address.contains(&name), "{address}");
                }
                true
            }
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn g10_a_bump_waits_for_a_small_part_of_what_is_registered() {
    let rig = Rig::start(|_| {}).await;
    let registration = |number| v1::Registration {
        address: format!("value:{number}"),
        classes: (0..16).map(|class| format!("class/{class}")).collect(),
        ..Default::default()
    };
    rig.disk.become_(Disk::Stalled);
    let mut calls = JoinSet::new();
    for call in 0..8 {
        let request = v1::RegisterRequest {
            registrations: (0..5_000)
                .map(|at| registration(call * 5_000 + at))
                .collect(),
        };
        let app = rig.app.clone();
        calls.spawn(async move { app.register(Request::new(request)).await });
    }
    // As much as the loop takes of it while the disk has stalled: its queue is not emptied any more.
    let bulk = &rig.sidecar.engine.bulk;
    let queued = async {
        while bulk.max_capacity() - bulk.capacity() < 5 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, queued).await.unwrap();
    let mut bump = Box::pin(rig.invalidate("urgent", 0));
    assert!(handed_over(bump.as_mut()).await);
    rig.disk.become_(Disk::Well);
    let answer = tokio::time::timeout(SOON, bump).await.unwrap().unwrap();
    assert!(answer.receipt.unwrap().satisfied);
    // 80,000 rows of 640,000 at most: what was on its way and what was gathered, each a piece or two.
    let rows = rig.disk.held_at_bump.load(Ordering::Relaxed);
    assert!(rows <= 80_000, "{rows}");
    while let Some(answer) = calls.join_next().await {
        assert_eq!(answer.unwrap().unwrap().into_inner().accepted, 5_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g10_writes_beyond_their_limit_say_when_to_try_again() {
    let rig = Rig::start(|config| config.limits.intents_max = 1).await;
    let begin = || {
        rig.app.begin_write(Request::new(v1::BeginWriteRequest {
            classes: vec!["a".to_owned()],
            ..Default::default()
        }))
    };
    let begun = begin().await.unwrap().into_inner();
    assert_eq!(begun.lease_ms, 10_000, "lease.write_duration");
    check_retry(&begin().await.unwrap_err(), "limits.intents_max");
    let abort = v1::AbortWriteRequest {
        intent: begun.intent,
    };
    let abort = rig.app.abort_write(Request::new(abort)).await;
    let outcome = abort.unwrap().into_inner().outcome();
    assert_eq!(outcome, v1::AbortOutcome::NothingBumped);
    begin().await.unwrap();
}

fn from_peer(kind: v1::exchange_request::Kind) -> v1::ExchangeRequest {
    v1::ExchangeRequest { kind: Some(kind) }
}

/// A piece of a snapshot that nobody asked for: it is handed to the loop like any other.
fn piece() -> v1::ExchangeRequest {
    from_peer(Kind::SnapshotEnd(v1::SnapshotEnd { id: 7 }))
}

fn bump(peer: Incarnation, sequence: u64) -> v1::ExchangeRequest {
    let bump = v1::Bump {
        classes: vec!["told/by/a/peer".to_owned()],
        ..Default::default()
    };
    from_peer(Kind::Bumps(v1::BumpBatch {
        origin: peer.to_bytes().to_vec().into(),
        first: sequence,
        events: vec![v1::BumpEvent {
            kind: Some(v1::bump_event::Kind::Bump(bump)),
        }],
        ..Default::default()
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn g10_bumps_are_heard_while_pieces_of_a_snapshot_wait_for_the_disk() {
    let rig = Rig::start(|config| {
        config.limits.queue_commands_max = 32;
        config.limits.queue_writes_max = 3;
    })
    .await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let peers = listen::peer_router(&Config::default(), &rig.sidecar);
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tokio::spawn(peers.serve_with_incoming(incoming));
    // One batch is with the disk, one waits for it, and one for the loop: it takes no more registrations and snapshots,
    // and everything else until sixteen times as much waits.
    rig.disk.become_(Disk::Stalled);
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut call = Box::pin(rig.app.register(registrations(10_000)));
        assert!(handed_over(call.as_mut()).await);
        waiting.push(call);
    }
    let peer = new_incarnation().unwrap();
    let hello = v1::Hello {
        cluster: "grapevine".to_owned(),
        protocol: crate::wire::peer::PROTOCOL,
        node_id: "by-hand".to_owned(),
        incarnation: peer.to_bytes().to_vec().into(),
        peer_address: "127.0.0.1:1".to_owned(),
        policy_digest: 0,
    };
    let mut client = PeerServiceClient::connect(format!("http://{address}"))
        .await
        .unwrap();
    let (says, said) = mpsc::channel(64);
    says.send(from_peer(Kind::Hello(hello))).await.unwrap();
    let mut answers = client
        .exchange(ReceiverStream::new(said))
        .await
        .unwrap()
        .into_inner();
    assert!(answers.message().await.unwrap().unwrap().welcome.is_some());
    // As many as may be under way; and behind them a bump.
    for _ in 0..16 {
        says.send(piece()).await.unwrap();
    }
    says.send(bump(peer, 1)).await.unwrap();
    let told = grapevine_core::id::EventId {
        origin: peer,
        sequence: 1,
    };
    rig.sidecar
        .engine
        .await_session(&[told], SOON)
        .await
        .unwrap();
    // One that sends more is not waited for.
    for _ in 0..20 {
        // It fails once the link is closed.
        let _ = says.send(piece()).await;
    }
    let refused = loop {
        match answers.message().await {
            Ok(taken) => assert_eq!(taken.unwrap().pieces_taken, 1),
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    rig.disk.become_(Disk::Well);
    drop(waiting);
}
