//! Servers that are down, slow, stopped, back with old entries, or no cache at all.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::servers::{Server, free_port, is_installed};
use crate::{Cache, CacheError, connect};

const MINUTE: Duration = Duration::from_mins(1);

/// What counts as "at once" on a machine that runs other tests too: less than the timeouts of the operations would add
/// up to.
const AT_ONCE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);

/// Sets until it succeeds; how long that took.
async fn until_it_works(cache: &dyn Cache) -> Duration {
    let begun = Instant::now();
    while let Err(error) = cache.set("works", "v".into(), MINUTE).await {
        assert!(begun.elapsed() < PATIENCE, "{error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    begun.elapsed()
}

/// Gets until it fails, as it does once the loss was noticed.
async fn until_it_fails(cache: &dyn Cache) -> CacheError {
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < PATIENCE, "the lost server is noticed");
        match cache.get("k").await {
            Err(error) => return error,
            Ok(_) => tokio::task::yield_now().await,
        }
    }
}

async fn fails_at_once(cache: &dyn Cache, operations: u32) {
    let begun = Instant::now();
    for _ in 0..operations {
        let error = cache.get("k").await.unwrap_err();
        assert!(matches!(error, CacheError::Unreachable { .. }), "{error}");
    }
    let outcome = cache.delete_many(&["k".to_owned()]).await;
    assert_eq!(outcome.failed, ["k"]);
    assert!(
        begun.elapsed() < AT_ONCE,
        "{operations} operations took {:?}",
        begun.elapsed()
    );
}

/// A server that accepts and reads, and answers from connection number `silent` on as `answer` says.
async fn stub(silent: usize, answer: fn(&[u8]) -> Vec<u8>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let number = count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(converse(
                stream,
                if number < silent {
                    |_| Vec::new()
                } else {
                    answer
                },
            ));
        }
    });
    (address, accepted)
}

async fn converse(mut stream: TcpStream, answer: fn(&[u8]) -> Vec<u8>) {
    let mut buffer = vec![0; 4_096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        for line in buffer[..count].split_inclusive(|byte| *byte == b'\n') {
            if stream.write_all(&answer(line)).await.is_err() {
                return;
            }
        }
    }
}

fn every_get_misses(line: &[u8]) -> Vec<u8> {
    match &line[..2] {
        b"mn" => b"MN\r\n".to_vec(),
        b"mg" => b"EN\r\n".to_vec(),
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn memcached_that_is_down_at_first_is_used_once_it_comes() {
    if !is_installed(
        "memcached",
        "memcached_that_is_down_at_first_is_used_once_it_comes",
    ) {
        return;
    }
    let port = free_port();
    let cache = connect(&format!("memcached://127.0.0.1:{port}?timeout=2s")).unwrap();
    let error = cache.get("k").await.unwrap_err();
    assert!(matches!(error, CacheError::Unreachable { .. }), "{error}");
    fails_at_once(&*cache, 20).await;
    let _server = Server::memcached_on(port);
    let took = until_it_works(&*cache).await;
    assert!(took < Duration::from_secs(4), "found after {took:?}");
}

#[tokio::test]
async fn memcached_killed_and_back_is_used_again_without_its_old_connection() {
    if !is_installed(
        "memcached",
        "memcached_killed_and_back_is_used_again_without_its_old_connection",
    ) {
        return;
    }
    let port = free_port();
    let mut server = Server::memcached_on(port);
    let cache = connect(&format!("memcached://127.0.0.1:{port}?timeout=2s")).unwrap();
    for _ in 0..3 {
        until_it_works(&*cache).await;
        server.kill();
        until_it_fails(&*cache).await;
        fails_at_once(&*cache, 20).await;
        server = Server::memcached_on(port);
    }
    until_it_works(&*cache).await;
    assert_eq!(cache.get("works").await, Ok(Some("v".into())));
}

#[tokio::test]
async fn a_stopped_memcached_times_out_once_then_fails_at_once_and_comes_back_with_old_entries() {
    if !is_installed(
        "memcached",
        "a_stopped_memcached_times_out_once_then_fails_at_once",
    ) {
        return;
    }
    let server = Server::memcached();
    let timeout = Duration::from_millis(300);
    let cache = connect(&format!(
        "memcached://{}?timeout=300ms&pool=1",
        server.address
    ))
    .unwrap();
    until_it_works(&*cache).await;
    server.pause();
    let begun = Instant::now();
    let error = cache.get("works").await.unwrap_err();
    assert!(
        matches!(error, CacheError::TimedOut { after, .. } if after == timeout),
        "{error}"
    );
    assert!(begun.elapsed() < timeout + AT_ONCE, "{:?}", begun.elapsed());
    // The connection is given up a moment after the caller's own deadline.
    until_it_fails(&*cache).await;
    fails_at_once(&*cache, 20).await;
    assert_eq!(
        cache.delete_many(&["works".to_owned()]).await.failed,
        ["works"]
    );
    server.resume();
    let begun = Instant::now();
    let value = loop {
        match cache.get("works").await {
            Ok(value) => break value,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(
        value,
        Some("v".into()),
        "the failed delete left it there: it is for the caller to try again"
    );
    assert_eq!(cache.delete_many(&["works".to_owned()]).await.deleted, 1);
}

#[tokio::test]
async fn a_server_that_never_answers_times_out_and_the_next_requests_are_fine_once_it_does() {
    let (address, accepted) = stub(1, every_get_misses).await;
    let cache = connect(&format!("memcached://{address}?timeout=200ms&pool=1")).unwrap();
    let begun = Instant::now();
    let error = cache.get("k").await.unwrap_err();
    // Its own deadline and the connection attempt's end at the same moment.
    assert!(
        matches!(
            error,
            CacheError::TimedOut { .. } | CacheError::Unreachable { .. }
        ),
        "{error}"
    );
    assert!(
        begun.elapsed() < Duration::from_millis(200) + AT_ONCE,
        "{:?}",
        begun.elapsed()
    );
    let begun = Instant::now();
    while let Err(error) = cache.get("k").await {
        assert!(begun.elapsed() < PATIENCE, "{error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 2);
}

/// A server that answers one `get` of each connection and closes it. Tells how many it accepted.
async fn hangs_up_after_each_answer(
    hello: &'static [u8],
    miss: &'static [u8],
) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut buffer = vec![0; 4_096];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    let asked = String::from_utf8_lossy(&buffer[..read]).into_owned();
                    let is_get = asked.contains("mg ") || asked.contains("GET");
                    let lines = if asked.contains("mn") {
                        1
                    } else {
                        asked.matches('*').count()
                    };
                    let answer = if is_get {
                        miss.to_vec()
                    } else {
                        hello.repeat(lines)
                    };
                    if stream.write_all(&answer).await.is_err() || is_get {
                        return;
                    }
                }
            });
        }
    });
    (address, accepted)
}

#[tokio::test]
async fn a_server_that_hangs_up_after_each_answer_is_not_hammered() {
    for (scheme, hello, miss) in [
        ("memcached", &b"MN\r\n"[..], &b"EN\r\n"[..]),
        ("redis", b"+OK\r\n", b"$-1\r\n"),
    ] {
        let (address, accepted) = hangs_up_after_each_answer(hello, miss).await;
        let pool = if scheme == "memcached" { "&pool=1" } else { "" };
        let cache = connect(&format!("{scheme}://{address}?timeout=5s{pool}")).unwrap();
        let (begun, mut answered) = (Instant::now(), 0);
        while begun.elapsed() < Duration::from_secs(1) {
            answered += usize::from(cache.get("k").await == Ok(None));
        }
        let connections = accepted.load(Ordering::SeqCst);
        assert!(answered >= 2, "{scheme}: {answered} answered");
        // At delays that double from 10 ms on there is room for 7; hundreds without them.
        assert!(connections <= 12, "{scheme}: {connections} connections");
    }
}

#[tokio::test]
async fn requests_on_a_server_that_answers_only_the_first_line_end_at_their_deadline() {
    fn only_noop(line: &[u8]) -> Vec<u8> {
        if line.starts_with(b"mn") {
            b"MN\r\n".to_vec()
        } else {
            Vec::new()
        }
    }
    let (address, _) = stub(0, only_noop).await;
    let cache = connect(&format!("memcached://{address}?timeout=200ms&pool=2")).unwrap();
    let keys: Vec<_> = (0..2_000).map(|number| format!("k{number}")).collect();
    let begun = Instant::now();
    let outcome = cache.delete_many(&keys).await;
    assert_eq!(outcome.failed, keys);
    assert!(
        matches!(outcome.cause, Some(CacheError::TimedOut { .. })),
        "{:?}",
        outcome.cause
    );
    assert!(
        begun.elapsed() < Duration::from_millis(400) + AT_ONCE,
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_server_out_of_step_is_given_up_and_nobody_gets_its_answers() {
    fn two_answers(line: &[u8]) -> Vec<u8> {
        match &line[..2] {
            b"mn" => b"MN\r\n".to_vec(),
            _ => b"VA 5\r\nwrong\r\nHD\r\n".to_vec(),
        }
    }
    let (address, accepted) = stub(0, two_answers).await;
    let cache = connect(&format!("memcached://{address}?timeout=2s&pool=1")).unwrap();
    drop(cache.get("k").await);
    let error = until_it_fails(&*cache).await;
    assert!(error.to_string().contains("reply HD"), "{error}");
    assert!(accepted.load(Ordering::SeqCst) >= 1);
}

#[tokio::test]
async fn what_is_no_memcached_of_today_is_named() {
    fn http(_: &[u8]) -> Vec<u8> {
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()
    }
    fn old_memcached(_: &[u8]) -> Vec<u8> {
        b"ERROR\r\n".to_vec()
    }
    for (answer, word) in [
        (http as fn(&[u8]) -> Vec<u8>, "HTTP"),
        (old_memcached, "ERROR"),
    ] {
        let (address, _) = stub(0, answer).await;
        let cache = connect(&format!("memcached://{address}?timeout=2s")).unwrap();
        let error = cache.get("k").await.unwrap_err().to_string();
        assert!(
            error.contains(word) && error.contains("memcached 1.6"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn redis_that_is_down_at_first_is_used_once_it_comes_and_again_after_a_restart() {
    if !is_installed(
        "redis-server",
        "redis_that_is_down_at_first_is_used_once_it_comes",
    ) {
        return;
    }
    let port = free_port();
    let cache = connect(&format!("redis://127.0.0.1:{port}?timeout=2s")).unwrap();
    until_it_fails(&*cache).await;
    fails_at_once(&*cache, 20).await;
    let mut server = Server::redis_on(port);
    for _ in 0..3 {
        until_it_works(&*cache).await;
        server.kill();
        until_it_fails(&*cache).await;
        fails_at_once(&*cache, 20).await;
        server = Server::redis_on(port);
    }
    until_it_works(&*cache).await;
    // A restart that nobody noticed costs nobody an error.
    server.kill();
    drop(server);
    let _server = Server::redis_on(port);
    assert_eq!(cache.get("works").await, Ok(None));
}

#[tokio::test]
async fn a_stopped_redis_times_out_once_then_fails_at_once_and_comes_back_with_old_entries() {
    if !is_installed(
        "redis-server",
        "a_stopped_redis_times_out_once_then_fails_at_once",
    ) {
        return;
    }
    let server = Server::redis();
    let cache = connect(&format!("redis://{}?timeout=300ms", server.address)).unwrap();
    until_it_works(&*cache).await;
    server.pause();
    let begun = Instant::now();
    let error = cache.get("works").await.unwrap_err();
    assert!(matches!(error, CacheError::TimedOut { .. }), "{error}");
    assert!(
        begun.elapsed() < Duration::from_millis(300) + AT_ONCE,
        "{:?}",
        begun.elapsed()
    );
    let refused = until_it_fails(&*cache).await;
    assert!(
        refused.to_string().contains("did not answer within 300ms"),
        "{refused}"
    );
    fails_at_once(&*cache, 20).await;
    server.resume();
    until_it_works(&*cache).await;
    assert_eq!(cache.get("works").await, Ok(Some("v".into())));
}
