//! Free ports for sidecars, whose peers must know them beforehand.
//!
//! They are drawn from below the range that systems hand out to outgoing connections (32,768 on Linux), so that no client of the run takes
//! the port of a sidecar that is down for a moment; each was free for TCP and UDP when drawn, all at one time. Another program may
//! still be faster: the sidecar then says that the port is in use.

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use rand::Rng;

const PORT_MIN: u16 = 15_000;
const PORT_MAX: u16 = 32_000;
const ATTEMPTS_PER_PORT: usize = 100;

/// Draws `count` different free ports of 127.0.0.1.
pub(crate) fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let mut random = rand::rng();
    let mut held: Vec<(u16, TcpListener, UdpSocket)> = Vec::with_capacity(count);
    for _ in 0..count * ATTEMPTS_PER_PORT {
        if held.len() == count {
            break;
        }
        let port = random.random_range(PORT_MIN..PORT_MAX);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port));
        if let (Ok(listener), Ok(socket)) = (listener, socket) {
            held.push((port, listener, socket));
        }
    }
    if held.len() < count {
        let problem = format!(
            "only {} of {count} ports from {PORT_MIN} to {PORT_MAX} are free",
            held.len()
        );
        return Err(io::Error::new(io::ErrorKind::AddrInUse, problem));
    }
    Ok(held.into_iter().map(|(port, ..)| port).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_differ_and_can_be_bound() {
        let ports = free_ports(12).unwrap();
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 12);
        assert!(ports.iter().all(|port| (PORT_MIN..PORT_MAX).contains(port)));
    }
}
