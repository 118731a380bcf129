//! Servers spoken to in HTTP/2's own frames, as a library's client would not.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body_util::Full;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::run::connection::IDLE_WAIT;
use crate::run::end_calls;
use crate::run::tests::{Disk, Rig};
use crate::telemetry::Counters;

/// What happens at once, on a busy machine.
const SOON: Duration = Duration::from_secs(30);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const INITIAL_WINDOW_SIZE: u16 = 4;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A call's headers: literals that no table keeps.
fn headers(path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "here"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

async fn read_frame(io: &mut (impl AsyncRead + Unpin)) -> (u8, u8, Vec<u8>) {
    let mut head = [0; 9];
    io.read_exact(&mut head).await.unwrap();
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    io.read_exact(&mut payload).await.unwrap();
    (head[3], head[4], payload)
}

#[tokio::test]
async fn calls_that_ended_while_this_process_paused_do_not_end_their_connection() {
    let (_reporter, health) = tonic_health::server::health_reporter();
    let (mut caller, io) = tokio::io::duplex(1 << 20);
    // What a client has sent by the time this process goes on.
    let mut sent = PREFACE.to_vec();
    sent.extend(frame(SETTINGS, 0, 0, &[]));
    let block = headers("/grpc.health.v1.Health/Check");
    for stream in (0..STREAMS_MAX).map(|number| 2 * number + 1) {
        sent.extend(frame(HEADERS, END_HEADERS, stream, &block));
        sent.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    sent.extend(frame(PING, 0, 0, b"are you?"));
    caller.write_all(&sent).await.unwrap();
    let incoming = tokio_stream::once(Ok::<_, std::io::Error>(io));
    let server = builder().add_service(health).serve_with_incoming(incoming);
    tokio::spawn(server);
    let answered = async {
        loop {
            match read_frame(&mut caller).await {
                (GOAWAY, _, payload) => panic!("{}", String::from_utf8_lossy(&payload[8..])),
                (PING, ACK, payload) if payload == b"are you?" => return,
                _ => {}
            }
        }
    };
    tokio::time::timeout(SOON, answered).await.unwrap();
}

/// Begins HTTP/2 and says nothing more. The server has it when this returns.
async fn begin(io: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let begun = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    io.write_all(&begun).await.unwrap();
    let (kind, ..) = read_frame(io).await;
    assert_eq!(kind, SETTINGS);
}

/// Reads until the server has closed a connection.
async fn closed(io: &mut (impl AsyncRead + Unpin)) {
    let closed = async { while !matches!(io.read(&mut [0; 1_024]).await, Ok(0) | Err(_)) {} };
    timeout(SOON, closed).await.expect("it is still open");
}

/// Listens where the callers of a test are.
struct Callers(Mutex<mpsc::Receiver<DuplexStream>>);

impl Accept for Callers {
    type Io = DuplexStream;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<std::io::Result<DuplexStream>> {
        match ready!(self.0.lock().poll_recv(cx)) {
            Some(caller) => Poll::Ready(Ok(caller)),
            None => Poll::Pending,
        }
    }
}

/// Answers calls when it is told to, with more than a caller takes who says nothing.
#[derive(Clone)]
struct Slow(Arc<Notify>);

const ANSWER_BYTES: usize = 100_000;
/// What HTTP/2 sends without a word of the caller.
const WINDOW_BYTES: usize = 65_535;

impl NamedService for Slow {
    const NAME: &'static str = "tests.Slow";
}

impl Service<http::Request<Body>> for Slow {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        let told = self.0.clone();
        Box::pin(async move {
            told.notified().await;
            let body = Body::new(Full::from(vec![7; ANSWER_BYTES]));
            Ok(http::Response::new(body))
        })
    }
}

/// Reads so many bytes of answers; whether the last frame ended one.
async fn read_answer(io: &mut DuplexStream, bytes: usize) -> bool {
    let mut read = 0;
    loop {
        let (kind, flags, payload) = read_frame(io).await;
        if kind == DATA {
            read += payload.len();
            if read >= bytes {
                assert_eq!(read, bytes);
                return flags & END_STREAM != 0;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_calls_and_all_of_their_answers_and_for_no_idle_connection() {
    let (arrive, callers) = mpsc::channel(8);
    let told = Arc::new(Notify::new());
    let router = builder().add_service(Slow(told.clone()));
    let door = Door::new("tests", 8, Arc::new(Counters::new()));
    let incoming = Incoming::new(Callers(Mutex::new(callers)), door);
    let (stop_tx, stop) = watch::channel(false);
    let mut servers = JoinSet::new();
    spawn(&mut servers, "tests", router, incoming, &stop);
    let arrive = async || {
        let (caller, io) = tokio::io::duplex(1 << 20);
        arrive.send(io).await.unwrap();
        caller
    };
    let call = headers("/tests.Slow/Call");
    let call = frame(HEADERS, END_HEADERS | END_STREAM, 1, &call);
    // None of them answers a ping.
    let (mut caller, mut late) = (arrive().await, arrive().await);
    let (mut silent, mut mute) = (arrive().await, arrive().await);
    for io in [&mut caller, &mut late, &mut silent] {
        begin(io).await;
    }
    caller.write_all(&call).await.unwrap();
    // However long they were idle before.
    sleep(10 * IDLE_WAIT).await;

    let stopped = Instant::now();
    stop_tx.send_replace(true);
    sleep(IDLE_WAIT / 2).await;
    // This one had not heard of it yet.
    late.write_all(&call).await.unwrap();
    closed(&mut silent).await;
    closed(&mut mute).await;
    let took = stopped.elapsed();
    assert!(took >= IDLE_WAIT && took < IDLE_WAIT * 11 / 10, "{took:?}");
    sleep(10 * IDLE_WAIT).await;
    told.notify_waiters();
    for io in [&mut caller, &mut late] {
        assert!(!read_answer(io, WINDOW_BYTES).await);
    }
    // The service is done with it. They read slowly.
    sleep(10 * IDLE_WAIT).await;
    for io in [&mut caller, &mut late] {
        let more = u32::try_from(ANSWER_BYTES).unwrap().to_be_bytes();
        for stream in [0, 1] {
            let more = frame(WINDOW_UPDATE, 0, stream, &more);
            io.write_all(&more).await.unwrap();
        }
        assert!(read_answer(io, ANSWER_BYTES - WINDOW_BYTES).await);
    }
    assert!(servers.try_join_next().is_none());
    let answered = Instant::now();
    servers.join_next().await.unwrap().unwrap().unwrap();
    let took = answered.elapsed();
    assert!(took < IDLE_WAIT * 11 / 10, "{took:?}");
}

/// HTTP/2 takes all of an answer as soon as its caller has room for a byte of it. It is charged all the same.
#[tokio::test]
async fn g10_answers_are_charged_until_they_are_written() {
    let counters = Arc::new(Counters::new());
    // Room for three of them, and an eighth for small ones.
    let unread = Unread::new(3 * ANSWER_BYTES * 8 / 7, counters.clone());
    let intake = Intake::new(1 << 20, counters);
    let told = Arc::new(Notify::new());
    let slow = Counted::new(Slow(told.clone()), intake, unread.clone());
    let (mut caller, io) = tokio::io::duplex(1 << 20);
    let incoming = tokio_stream::once(Ok::<_, std::io::Error>(io));
    tokio::spawn(builder().add_service(slow).serve_with_incoming(incoming));
    let window = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &1_u32.to_be_bytes()].concat();
    let begun = [PREFACE, &frame(SETTINGS, 0, 0, &window)].concat();
    caller.write_all(&begun).await.unwrap();
    let call = headers("/tests.Slow/Call");
    for stream in [1, 3] {
        let call = frame(HEADERS, END_HEADERS | END_STREAM, stream, &call);
        caller.write_all(&call).await.unwrap();
        told.notify_one();
        timeout(SOON, read_answer(&mut caller, 1)).await.unwrap();
    }
    unread.charge(ANSWER_BYTES + 1).unwrap_err();
    drop(unread.charge(ANSWER_BYTES).unwrap());
    // The caller reads them, one after the other.
    for (stream, free) in [(1, 2), (3, 3)] {
        let more = u32::try_from(ANSWER_BYTES).unwrap().to_be_bytes();
        for stream in [0, stream] {
            let more = frame(WINDOW_UPDATE, 0, stream, &more);
            caller.write_all(&more).await.unwrap();
        }
        let read = read_answer(&mut caller, ANSWER_BYTES - 1);
        assert!(timeout(SOON, read).await.unwrap());
        drop(unread.charge(free * ANSWER_BYTES).unwrap());
        // More than all of the room is possible, alone.
        let more = unread.charge(free * ANSWER_BYTES + 1);
        assert_eq!(more.is_ok(), free == 3);
    }
}

/// A configuration by its variables.
fn load(variables: &[(&str, &str)]) -> Config {
    let variables = variables
        .iter()
        .map(|(name, value)| (format!("GRAPEVINE_{name}").into(), (*value).into()));
    crate::config::load(None, variables).unwrap().config
}

/// A sidecar that listens.
struct Listening {
    rig: Rig,
    servers: JoinSet<anyhow::Result<()>>,
    stop: watch::Sender<bool>,
    _drain: mpsc::Receiver<Option<Duration>>,
    app: SocketAddr,
    health: SocketAddr,
    unix: std::path::PathBuf,
    _unix_held: Option<unix::Held>,
    _place: tempfile::TempDir,
}

impl Listening {
    /// One with so many connections at a time.
    async fn start(connections_max: usize) -> Self {
        let place = tempfile::tempdir().unwrap();
        let unix = place.path().join("app.sock");
        let config = load(&[
            ("APP_UNIX", unix.to_str().unwrap()),
            ("APP_TCP", "127.0.0.1:0"),
            ("HEALTH_LISTEN", "127.0.0.1:0"),
            ("PEER_LISTEN", "127.0.0.1:0"),
            ("LIMITS_CONNECTIONS_MAX", &connections_max.to_string()),
        ]);
        let rig = Rig::start(|_| {}).await;
        let mut listeners = Listeners::bind(&config).await.unwrap();
        let unix_held = listeners.unix_held.take();
        let bound = |listener: &Option<TcpListener>| listener.as_ref().unwrap().local_addr();
        let (app, health) = (bound(&listeners.tcp), bound(&listeners.health));
        let (drain_tx, drain) = mpsc::channel(1);
        let (stop, stopped) = watch::channel(false);
        let servers = serve(&config, &rig.sidecar, listeners, drain_tx, &stopped).unwrap();
        Self {
            rig,
            servers,
            stop,
            _drain: drain,
            app: app.unwrap(),
            health: health.unwrap(),
            unix,
            _unix_held: unix_held,
            _place: place,
        }
    }
}

async fn dial(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.timeout(SOON).connect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn g10_probes_are_answered_while_idle_connections_stand_at_their_listener() {
    const MOST: usize = 16;
    let listening = Listening::start(MOST).await;
    let mut idle = Vec::new();
    for _ in 0..3 * MOST {
        let mut io = TcpStream::connect(listening.health).await.unwrap();
        begin(&mut io).await;
        idle.push(io);
    }
    // And some that do not say a word.
    for _ in 0..3 * MOST {
        idle.push(TcpStream::connect(listening.health).await.unwrap());
    }
    for _ in 0..2 * MOST {
        let mut probe = HealthClient::new(dial(listening.health).await);
        let request = HealthCheckRequest::default();
        probe.check(request.clone()).await.unwrap();
        // As often as it likes, while nobody else comes.
        probe.check(request).await.unwrap();
        idle.push(TcpStream::connect(listening.health).await.unwrap());
    }
    // They gave way in the order in which they came.
    for io in &mut idle[..6 * MOST] {
        closed(io).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_drains_answers_what_was_asked_and_does_not_wait_for_who_asks_nothing() {
    let mut listening = Listening::start(16).await;
    let mut tcp = TcpStream::connect(listening.app).await.unwrap();
    let mut unix = UnixStream::connect(&listening.unix).await.unwrap();
    let mut probe = TcpStream::connect(listening.health).await.unwrap();
    begin(&mut tcp).await;
    begin(&mut unix).await;
    begin(&mut probe).await;
    let mut mute = TcpStream::connect(listening.app).await.unwrap();
    let disk = listening.rig.disk.clone();
    let engine = listening.rig.sidecar.engine.clone();
    let bumps = || engine.core.read().counters().bumps_own;
    let before = bumps();
    disk.become_(Disk::Stalled);
    let channel = dial(listening.app).await;
    let mut app = v1::application_service_client::ApplicationServiceClient::new(channel);
    let request = v1::InvalidateRequest {
        classes: vec!["class".to_owned()],
        ..Default::default()
    };
    let call = tokio::spawn(async move { app.invalidate(request).await });
    let waits = async {
        while bumps() == before {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, waits).await.unwrap();

    listening.stop.send_replace(true);
    for io in [&mut tcp, &mut probe, &mut mute] {
        closed(io).await;
    }
    closed(&mut unix).await;
    assert!(!call.is_finished());
    disk.become_(Disk::Well);
    let answer = timeout(SOON, call).await.unwrap().unwrap().unwrap();
    assert!(answer.into_inner().receipt.unwrap().satisfied);
    let bound = 100 * SOON;
    let ended = timeout(SOON, end_calls(&mut listening.servers, bound)).await;
    assert!(ended.is_ok(), "a connection holds it");
}
