//! Whose a connection on this machine is: Linux tells a socket's inode by its addresses, and a process's sockets by their inodes.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// The place of the inode in a line of the table.
const INODE: usize = 9;

/// Which of these processes has the socket whose own address is `local` and whose other end is `remote`; nothing if none has, or
/// no longer.
pub(super) fn of(
    local: SocketAddr,
    remote: SocketAddr,
    processes: &[u32],
) -> io::Result<Option<usize>> {
    let table = fs::read_to_string("/proc/net/tcp")?;
    let (local, remote) = (written(local)?, written(remote)?);
    let inode = table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let found = fields.get(1) == Some(&&*local) && fields.get(2) == Some(&&*remote);
        fields.get(INODE).copied().filter(|_| found)
    });
    let Some(inode) = inode else {
        return Ok(None);
    };
    let socket = format!("socket:[{inode}]");
    Ok(processes.iter().position(|id| has(*id, &socket)))
}

fn has(process: u32, socket: &str) -> bool {
    // A process that has ended has nothing.
    let files = fs::read_dir(format!("/proc/{process}/fd"));
    let mut files = files.into_iter().flatten().flatten();
    files.any(|file| fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == socket))
}

/// An address as the table has it: the bytes of the address in the machine's order, which is taken to be Intel's or ARM's.
fn written(address: SocketAddr) -> io::Result<String> {
    let IpAddr::V4(ip) = address.ip() else {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("{address} is not of IPv4"),
        ));
    };
    let ip = u32::from_le_bytes(ip.octets());
    Ok(format!("{ip:08X}:{:04X}", address.port()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_is_its_dialers() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let there = listener.local_addr().unwrap();
        let dialled = TcpStream::connect(there).unwrap();
        let (_accepted, here) = listener.accept().unwrap();
        let own = std::process::id();
        assert_eq!(of(here, there, &[1 << 30, own]).unwrap(), Some(1));
        assert_eq!(of(here, there, &[1 << 30]).unwrap(), None);
        assert_eq!(of(here, here, &[own]).unwrap(), None);
        drop(dialled);
        assert!(of("[::1]:1".parse().unwrap(), there, &[own]).is_err());
    }
}
