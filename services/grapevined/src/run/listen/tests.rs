//! Servers spoken to in HTTP/2's own frames, as a library's client would not.

#![allow(clippy::unwrap_used, reason = "tests")]

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::run::tests::Rig;

/// What happens at once, on a busy machine.
const SOON: Duration = Duration::from_secs(30);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
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

/// A configuration by its variables.
fn load(variables: &[(&str, &str)]) -> Config {
    let variables = variables
        .iter()
        .map(|(name, value)| (format!("GRAPEVINE_{name}").into(), (*value).into()));
    crate::config::load(None, variables).unwrap().config
}

/// A sidecar that listens.
struct Listening {
    _rig: Rig,
    _servers: JoinSet<anyhow::Result<()>>,
    _stop: watch::Sender<bool>,
    _drain: mpsc::Receiver<Option<Duration>>,
    health: SocketAddr,
}

impl Listening {
    /// One with so many connections at a time.
    async fn start(connections_max: usize) -> Self {
        let config = load(&[
            ("APP_TCP", "127.0.0.1:0"),
            ("HEALTH_LISTEN", "127.0.0.1:0"),
            ("PEER_LISTEN", "127.0.0.1:0"),
            ("LIMITS_CONNECTIONS_MAX", &connections_max.to_string()),
        ]);
        let rig = Rig::start(|_| {}).await;
        let listeners = Listeners::bind(&config).await.unwrap();
        let health = listeners.health.as_ref().unwrap().local_addr().unwrap();
        let (drain_tx, drain) = mpsc::channel(1);
        let (stop, stopped) = watch::channel(false);
        let servers = serve(&config, &rig.sidecar, listeners, drain_tx, &stopped).unwrap();
        Self {
            _rig: rig,
            _servers: servers,
            _stop: stop,
            _drain: drain,
            health,
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
