//! A real memcached: killed and started again, and stopped and continued with its old entries.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::*;
use crate::telemetry::Counter;

const PATIENCE: Duration = Duration::from_secs(30);

/// Whether memcached is installed. When not, says so loudly, and fails where peers are required.
fn is_installed(test: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join("memcached").is_file());
    if !found {
        // Not `eprintln!`, which the test harness keeps to itself unless the test fails.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: memcached is not installed: {test}"
        );
        let required =
            std::env::var_os("GRAPEVINE_REQUIRE_PEERS").is_some_and(|value| value == "1");
        assert!(!required, "memcached is required and not installed");
    }
    found
}

/// A memcached process, killed when dropped.
struct Memcached {
    child: Child,
    port: u16,
}

impl Memcached {
    fn start(port: u16) -> Self {
        let child = Command::new("memcached")
            .args([
                "-l",
                "127.0.0.1",
                "-U",
                "0",
                "-m",
                "64",
                "-t",
                "1",
                "-u",
                "nobody",
                "-p",
            ])
            .arg(port.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, port }
    }

    fn url(&self) -> String {
        format!("memcached://127.0.0.1:{}?timeout=250ms", self.port)
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
        if signal == "-STOP" {
            self.wait_until_stopped();
        }
    }

    /// A signal is on its way when `kill` returns; on a busy machine a thread may still answer a moment longer.
    fn wait_until_stopped(&self) {
        let begun = Instant::now();
        let stat = format!("/proc/{}/stat", self.child.id());
        // The state follows the command's name in parentheses.
        while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
            assert!(begun.elapsed() < PATIENCE, "memcached does not stop");
            std::thread::yield_now();
        }
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Stores a value at each address, trying until it works.
async fn fill(cache: &dyn Cache, addresses: &[Address]) {
    let begun = Instant::now();
    for address in addresses {
        while let Err(error) = cache
            .set(address.as_str(), "old".into(), Duration::from_mins(10))
            .await
        {
            assert!(begun.elapsed() < PATIENCE, "{error}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn held(cache: &dyn Cache, addresses: &[Address]) -> usize {
    let keys: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let begun = Instant::now();
    loop {
        match cache.get_many(&keys).await {
            Ok(values) => return values.iter().flatten().count(),
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn deletes_reach_a_memcached_that_was_stopped_and_is_back_with_old_entries() {
    if !is_installed("deletes_reach_a_memcached_that_was_stopped_and_is_back_with_old_entries") {
        return;
    }
    let server = Memcached::start(free_port());
    let cache = grapevine_cache::connect(&server.url()).unwrap();
    let addresses = addresses("a", 3_000);
    fill(&*cache, &addresses).await;
    let (purger, counters) = purger(vec![cache.clone()], |_| {});
    server.signal("-STOP");
    let attempt = purger
        .submit(job(addresses.clone()))
        .first_attempt_within(Duration::from_secs(2))
        .await;
    assert!(attempt.pending > 0, "{attempt:?}");
    server.signal("-CONT");
    settled(&purger, PATIENCE).await;
    assert_eq!(held(&*cache, &addresses).await, 0);
    assert_eq!(counters.get(Counter::PurgeExpired), 0);
}

#[tokio::test]
async fn deletes_reach_a_memcached_that_was_killed_and_started_again() {
    if !is_installed("deletes_reach_a_memcached_that_was_killed_and_started_again") {
        return;
    }
    let server = Memcached::start(free_port());
    let port = server.port;
    let cache = grapevine_cache::connect(&server.url()).unwrap();
    let addresses = addresses("a", 500);
    fill(&*cache, &addresses).await;
    let (purger, counters) = purger(vec![cache.clone()], |_| {});
    let attempt = purger
        .submit(job(addresses[..100].to_vec()))
        .first_attempt()
        .await;
    assert_eq!(attempt.purged, 100);
    drop(server);
    let attempt = purger.submit(job(addresses.clone())).first_attempt().await;
    assert_eq!(attempt.pending, 500, "{attempt:?}");
    let _server = Memcached::start(port);
    settled(&purger, PATIENCE).await;
    assert_eq!(held(&*cache, &addresses).await, 0);
    assert_eq!(
        counters.get(Counter::PurgeDeleted) + counters.get(Counter::PurgeAbsent),
        600
    );
}
