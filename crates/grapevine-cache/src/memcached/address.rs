//! Where a memcached server listens: `host:port`, `host` (port 11211), `[v6]:port` or `unix:/path`.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

const DEFAULT_PORT: u16 = 11_211;

/// The address of a memcached server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ServerAddress {
    /// TCP. The host may be a name, resolved anew for each connection, an IPv4 or an IPv6 address.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// A Unix stream socket.
    Unix(PathBuf),
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for ServerAddress {
    /// What is wrong with the text.
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.starts_with('/') {
                return Ok(Self::Unix(PathBuf::from(path)));
            }
            return Err("a Unix socket needs an absolute path, as in unix:/run/memcached.sock");
        }
        let (host, port) = split_port(text)?;
        if host.is_empty() {
            return Err("the host is missing");
        }
        if host
            .bytes()
            .any(|byte| byte.is_ascii_whitespace() || b"/@?#[]".contains(&byte))
        {
            return Err("a host has no white space and none of / @ ? # [ ]");
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => match port.parse() {
                Ok(0) | Err(_) => return Err("the port is not a number from 1 to 65535"),
                Ok(port) => port,
            },
        };
        let host = host.to_owned();
        Ok(Self::Tcp { host, port })
    }
}

fn split_port(text: &str) -> Result<(&str, Option<&str>), &'static str> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest
            .split_once(']')
            .ok_or("the bracket of the IPv6 address is not closed")?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err("after the IPv6 address in brackets comes a colon and the port"),
        };
    }
    match text.split_once(':') {
        None => Ok((text, None)),
        Some((_, rest)) if rest.contains(':') => {
            Err("an IPv6 address stands in brackets, as in [::1]:11211")
        }
        Some((host, port)) => Ok((host, Some(port))),
    }
}

/// A connection of either kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl ServerAddress {
    /// The label that Ketama hashes, as libmemcached forms it.
    pub(crate) fn ketama_label(&self) -> String {
        match self {
            Self::Tcp { host, port } if *port == DEFAULT_PORT => host.clone(),
            Self::Tcp { host, port } => format!("{host}:{port}"),
            Self::Unix(path) => format!("{}:0", path.display()),
        }
    }

    pub(crate) async fn open(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                // Requests are batched here already; waiting for more would only add latency.
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn addresses_read_back_as_written() {
        for (text, shown, label) in [
            ("cache-1:11212", "cache-1:11212", "cache-1:11212"),
            ("cache-1", "cache-1:11211", "cache-1"),
            ("[::1]:11212", "[::1]:11212", "::1:11212"),
            ("[::1]", "[::1]:11211", "::1"),
            ("unix:/run/m.sock", "unix:/run/m.sock", "/run/m.sock:0"),
        ] {
            let address: ServerAddress = text.parse().unwrap();
            assert_eq!(
                (
                    address.to_string().as_str(),
                    address.ketama_label().as_str()
                ),
                (shown, label)
            );
            assert_eq!(address.to_string().parse(), Ok(address));
        }
    }

    #[test]
    fn malformed_addresses_are_refused() {
        for text in [
            "",
            ":1",
            "a:0",
            "a:65536",
            "a:x",
            "::1",
            "[::1",
            "[::1]1",
            "unix:",
            "unix:run/x",
            "a b:1",
            "u@h:1",
        ] {
            assert!(text.parse::<ServerAddress>().is_err(), "{text}");
        }
    }
}
