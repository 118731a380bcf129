//! Servers spoken to in HTTP/2's own frames, as a library's client would not.

#![allow(clippy::unwrap_used, reason = "tests")]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;

/// What happens at once, on a busy machine.
const SOON: Duration = Duration::from_secs(30);

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

async fn read_frame(io: &mut DuplexStream) -> (u8, u8, Vec<u8>) {
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
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
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
