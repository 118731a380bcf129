//! Free ports for sidecars, whose peers must know them beforehand.
//!
//! They come from below the range that systems hand out to outgoing connections (32,768 on Linux), so that no client
//! takes the port of a sidecar that is down for a moment. Each was free for TCP and UDP when drawn, and none is handed out twice in
//! one process.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::Mutex;

use anyhow::{Result, bail};
use rand::Rng as _;

const PORT_MIN: u16 = 15_000;
const PORT_MAX: u16 = 32_000;
const ATTEMPTS: usize = 10_000;

static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Draws so many ports of 127.0.0.1.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    let mut random = rand::rng();
    let mut taken = TAKEN
        .lock()
        .expect("invariant: nothing panics while it is held");
    let mut ports = Vec::with_capacity(count);
    for _ in 0..ATTEMPTS {
        if ports.len() == count {
            return Ok(ports);
        }
        let port = random.random_range(PORT_MIN..PORT_MAX);
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
            && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if free && taken.insert(port) {
            ports.push(port);
        }
    }
    bail!("fewer than {count} ports from {PORT_MIN} to {PORT_MAX} are free")
}
