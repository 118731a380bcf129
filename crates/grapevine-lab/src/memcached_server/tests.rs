//! The client contract, transcripts, limits, and streams of rubbish.

use std::net::Ipv4Addr;

use grapevine_cache::connect;
use grapevine_cache::contract::{Expectations, keeps_the_contract};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, timeout};

use super::{MemcachedServer, MemcachedServerConfig};

const PATIENCE: Duration = Duration::from_secs(20);

async fn start(config: MemcachedServerConfig) -> MemcachedServer {
    MemcachedServer::start_with((Ipv4Addr::LOCALHOST, 0), config)
        .await
        .unwrap()
}

async fn start_default() -> MemcachedServer {
    start(MemcachedServerConfig::default()).await
}

/// Sends `requests`, ends the sending side, and reads what comes until the server closes.
async fn converse(server: &MemcachedServer, requests: &[u8]) -> String {
    let stream = TcpStream::connect(server.addr()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let mut answers = Vec::new();
    let write = async {
        // The server may have closed already, on purpose.
        drop(writer.write_all(requests).await);
        drop(writer.shutdown().await);
    };
    let read = async { drop(reader.read_to_end(&mut answers).await) };
    timeout(PATIENCE, async { tokio::join!(write, read) })
        .await
        .expect("the server answers and closes");
    String::from_utf8_lossy(&answers).into_owned()
}

async fn says(server: &MemcachedServer, requests: &str, answers: &[&str]) {
    let expected: String = answers.iter().flat_map(|line| [line, "\r\n"]).collect();
    assert_eq!(
        converse(server, requests.as_bytes()).await,
        expected,
        "to {requests:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_the_clients_contract() {
    let server = start_default().await;
    let cache = connect(&format!("memcached://{}?timeout=5s", server.addr())).unwrap();
    let expect = Expectations {
        marks_stale: true,
        value_bytes_max: (1 << 20) - 512,
    };
    keeps_the_contract(cache, expect).await;
    let stats = server.stats();
    assert!(
        stats.hits > 1_000 && stats.deletes > 500 && stats.connections == 2,
        "{stats:?}"
    );
    server.shutdown().await;
}

#[tokio::test]
async fn classic_commands_answer_as_memcached_does() {
    let server = start_default().await;
    says(
        &server,
        "set a 7 0 3\r\none\r\nget a b\r\nadd a 0 0 1\r\nx\r\nadd b 0 0 0\r\n\r\nreplace c 0 0 1\r\nx\r\nget b\r\n",
        &["STORED", "VALUE a 7 3", "one", "END", "NOT_STORED", "STORED", "NOT_STORED", "VALUE b 0 0", "", "END"],
    )
    .await;
    says(
        &server,
        "gets a\r\ncas a 0 0 1 1\r\nx\r\ncas a 0 0 1 1\r\ny\r\ncas z 0 0 1 1\r\nx\r\nget a\r\n",
        &[
            "VALUE a 7 3 1",
            "one",
            "END",
            "STORED",
            "EXISTS",
            "NOT_FOUND",
            "VALUE a 0 1",
            "x",
            "END",
        ],
    )
    .await;
    says(
        &server,
        "delete a\r\ndelete a\r\ntouch b 10\r\ntouch a 10\r\ndelete b 0\r\n",
        &["DELETED", "NOT_FOUND", "TOUCHED", "NOT_FOUND", "DELETED"],
    )
    .await;
    says(&server, "set n 3 0 2\r\n10\r\nincr n 5\r\ndecr n 100\r\nincr m 1\r\nset n 0 0 1\r\nx\r\nincr n 1\r\n", &[
        "STORED",
        "15",
        "0",
        "NOT_FOUND",
        "STORED",
        "CLIENT_ERROR cannot increment or decrement non-numeric value",
    ])
    .await;
    says(
        &server,
        "set q 0 0 1 noreply\r\nx\r\ndelete q noreply\r\nget q\r\nflush_all\r\nget n\r\nverbosity 1\r\nversion\r\nquit\r\nget a\r\n",
        &["END", "OK", "END", "OK", "VERSION 1.6.18-grapevine"],
    )
    .await;
    let stats = converse(&server, b"stats\r\n").await;
    assert!(
        stats.starts_with("STAT pid ") && stats.ends_with("END\r\n"),
        "{stats}"
    );
    assert!(
        stats.contains("STAT curr_items 0\r\n") && stats.contains("STAT curr_connections 1\r\n"),
        "{stats}"
    );
}

#[tokio::test]
async fn meta_commands_answer_as_memcached_does() {
    let server = start_default().await;
    says(&server, "ms k 2 T90 F5 c Oab k\r\nhi\r\nmg k v f s c k Oxy\r\nmg k\r\nmg none v\r\nmg none v q\r\nmn\r\n", &[
        "HD c1 Oab kk", "VA 2 f5 s2 c1 kk Oxy", "hi", "HD", "EN", "MN",
    ])
    .await;
    says(&server, "ms k 1 ME\r\nx\r\nms new 1 MR\r\nx\r\nms k 1 C99\r\nx\r\nms k 1 C1 q\r\ny\r\nms z 1 C1\r\ny\r\nmg k v\r\n", &[
        "NS", "NS", "EX", "NF", "VA 1", "y",
    ])
    .await;
    says(
        &server,
        "mg k t\r\nms k 1 T-1\r\nx\r\nmg k v\r\nms k 1 T100\r\nx\r\nmg k t T50\r\n",
        &["HD t-1", "HD", "EN", "HD", "HD t99"],
    )
    .await;
    says(
        &server,
        "md k C1\r\nmd k q\r\nmd k q\r\nmd k Oz\r\nmn\r\n",
        &["EX", "NF Oz", "MN"],
    )
    .await;
}

#[tokio::test]
async fn a_stale_mark_lets_one_reader_win_until_a_set() {
    let server = start_default().await;
    says(
        &server,
        "ms k 1\r\na\r\nmd k I T30\r\nget k\r\nmg k v\r\nmg k v\r\nms k 1\r\nb\r\nmg k v\r\nmd none I\r\n",
        &["HD", "HD", "VALUE k 0 1", "a", "END", "VA 1 X W", "a", "VA 1 Z X", "a", "HD", "VA 1", "b", "NF"],
    )
    .await;
}

#[tokio::test]
async fn malformed_requests_are_answered_and_the_next_one_is_fine() {
    let server = start_default().await;
    let long_key = "k".repeat(251);
    for (request, answer) in [
        ("", "ERROR"),
        ("nonsense", "ERROR"),
        ("GET k", "ERROR"),
        ("get", "ERROR"),
        ("append k 0 0 1", "ERROR"),
        (
            &format!("get {long_key}"),
            "CLIENT_ERROR bad command line format",
        ),
        (
            &format!("delete {long_key}"),
            "CLIENT_ERROR bad command line format",
        ),
        ("get ok bad\u{1}key", "CLIENT_ERROR bad command line format"),
        ("set k 0 0", "ERROR"),
        ("set k 0 0 -1", "CLIENT_ERROR bad command line format"),
        (
            "set k 0 0 99999999999",
            "CLIENT_ERROR bad command line format",
        ),
        ("set k x 0 1\r\nv", "CLIENT_ERROR bad command line format"),
        (
            "set k 0 0 1\r\nv\r\nset k 0 0 2\r\nab!",
            "STORED\r\nCLIENT_ERROR bad data chunk\r\nERROR",
        ),
        ("cas k 0 0 1\r\nv", "ERROR"),
        ("cas k 0 0 1 x\r\nv", "CLIENT_ERROR bad command line format"),
        ("incr k x", "CLIENT_ERROR invalid numeric delta argument"),
        ("touch k never", "CLIENT_ERROR invalid exptime argument"),
        ("flush_all soon", "CLIENT_ERROR invalid exptime argument"),
        ("mg", "ERROR"),
        ("mg k !", "CLIENT_ERROR invalid flag"),
        ("mg k Tx", "CLIENT_ERROR bad token in command line format"),
        (
            &format!("mg k O{}", "o".repeat(33)),
            "CLIENT_ERROR opaque token too long",
        ),
        ("ms k", "CLIENT_ERROR bad command line format"),
        ("ms k S100", "CLIENT_ERROR bad command line format"),
        ("ms k 1 MX\r\nv", "CLIENT_ERROR invalid mode for ms M token"),
    ] {
        let answers = converse(&server, format!("{request}\r\nmn\r\n").as_bytes()).await;
        assert_eq!(answers, format!("{answer}\r\nMN\r\n"), "to {request:?}");
    }
}

#[tokio::test]
async fn a_value_over_the_limit_is_refused_skipped_and_takes_the_old_one_with_it() {
    let server = start(MemcachedServerConfig {
        max_value_bytes: 1_000,
        ..MemcachedServerConfig::default()
    })
    .await;
    let large = "x".repeat(300_000);
    says(
        &server,
        &format!("set k 0 0 1\r\na\r\nset k 0 0 300000\r\n{large}\r\nget k\r\nmn\r\n"),
        &[
            "STORED",
            "SERVER_ERROR object too large for cache",
            "END",
            "MN",
        ],
    )
    .await;
    says(
        &server,
        &format!("ms k 1\r\na\r\nms k 300000\r\n{large}\r\nmg k v\r\n"),
        &["HD", "SERVER_ERROR object too large for cache", "EN"],
    )
    .await;
}

#[tokio::test]
async fn g10_items_lines_and_connections_stay_below_their_limits() {
    let server = start(MemcachedServerConfig {
        max_bytes: 100_000,
        max_connections: 2,
        ..MemcachedServerConfig::default()
    })
    .await;
    let set = |number| format!("ms k{number} 500\r\n{}\r\n", "v".repeat(500));
    let sets = (0..2_000).map(set).collect::<Vec<_>>().concat();
    assert_eq!(
        converse(&server, sets.as_bytes()).await,
        "HD\r\n".repeat(2_000)
    );
    let stats = server.stats();
    assert!(
        stats.bytes <= 100_000 && stats.items > 100 && stats.evictions > 1_500,
        "{stats:?}"
    );
    let too_large = format!("ms k 200000\r\n{}\r\n", "v".repeat(200_000));
    says(
        &server,
        &too_large,
        &["SERVER_ERROR out of memory storing object"],
    )
    .await;
    says(
        &server,
        &"a".repeat(200_000),
        &["CLIENT_ERROR line too long"],
    )
    .await;

    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(server.addr()).await.unwrap();
        stream.write_all(b"mn\r\n").await.unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.unwrap();
        held.push(stream);
    }
    assert_eq!(
        converse(&server, b"").await,
        "ERROR Too many open connections\r\n"
    );
    drop(held);
    timeout(PATIENCE, async {
        while converse(&server, b"mn\r\n").await != "MN\r\n" {}
    })
    .await
    .expect("there is room again");
}

#[tokio::test]
async fn a_slow_reader_of_large_answers_gets_them_all() {
    let server = start_default().await;
    let value = "v".repeat(1 << 20);
    assert_eq!(
        converse(
            &server,
            format!("set k 0 0 {}\r\n{value}\r\n", 1 << 20).as_bytes()
        )
        .await,
        "STORED\r\n"
    );
    // 64 MiB in one request: written piece by piece, at the reader's pace.
    let answers = converse(
        &server,
        format!("get{}\r\nmn\r\n", " k".repeat(64)).as_bytes(),
    )
    .await;
    assert_eq!(
        answers.len(),
        64 * ((1 << 20) + "VALUE k 0 1048576\r\n\r\n".len()) + "END\r\nMN\r\n".len()
    );
}

#[tokio::test]
async fn a_delayed_flush_comes_when_it_is_due() {
    let server = start_default().await;
    says(
        &server,
        "set k 0 0 1\r\nv\r\nflush_all 1\r\nget k\r\n",
        &["STORED", "OK", "VALUE k 0 1", "v", "END"],
    )
    .await;
    timeout(PATIENCE, async {
        while converse(&server, b"get k\r\n").await != "END\r\n" {}
    })
    .await
    .expect("it comes");
}

#[tokio::test]
async fn rubbish_neither_ends_the_server_nor_fills_it() {
    const PIECES: [&[u8]; 22] = [
        b"\r\n",
        b" ",
        b"\n",
        b"\0",
        b"\xff\xfe",
        b"set ",
        b"ms ",
        b"mg ",
        b"md ",
        b"get ",
        b"gets ",
        b"cas ",
        b"key ",
        b"0 ",
        b"-1 ",
        b"4294967295 ",
        b"18446744073709551616 ",
        b"noreply",
        b"T0 ",
        b"v ",
        b"Oxxxx ",
        b"12 ",
    ];
    let server = start_default().await;
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut requests = Vec::new();
        for _ in 0..rng.random_range(1..400) {
            requests.extend_from_slice(PIECES.choose(&mut rng).unwrap());
        }
        converse(&server, &requests).await;
    }
    assert!(server.stats().bytes < 1_000_000, "{:?}", server.stats());
    says(&server, "mn\r\n", &["MN"]).await;
}

#[tokio::test]
async fn a_server_that_was_shut_down_leaves_its_port_and_connections() {
    let server = start_default().await;
    let addr = server.addr();
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(b"mn\r\n").await.unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
    server.shutdown().await;
    let rest = timeout(PATIENCE, stream.read(&mut answer))
        .await
        .expect("the connection ends");
    assert!(rest.is_err() || rest.is_ok_and(|count| count == 0));
    let again = MemcachedServer::start(addr)
        .await
        .expect("the port is free");
    says(&again, "get k\r\n", &["END"]).await;
    again.clear();
}
