//! memcached's classic text protocol over a socket that blocks: two lines for a `get`, and nothing between the caller and the socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use anyhow::{Context, ensure};

use crate::caches::CacheProcess;

pub(in crate::bench) struct Connection {
    stream: BufReader<UnixStream>,
    line: String,
}

impl Connection {
    pub(in crate::bench) fn new(server: &CacheProcess) -> anyhow::Result<Self> {
        let socket = server.url().strip_prefix("memcached://unix:");
        let socket = socket.context("memcached: it has no Unix socket")?;
        Ok(Self {
            stream: BufReader::new(UnixStream::connect(socket).context("memcached")?),
            line: String::new(),
        })
    }

    fn send(&mut self, request: &str) -> anyhow::Result<()> {
        self.stream
            .get_mut()
            .write_all(request.as_bytes())
            .context("memcached")
    }

    fn expect(&mut self, wanted: &str) -> anyhow::Result<()> {
        self.line.clear();
        self.stream.read_line(&mut self.line).context("memcached")?;
        ensure!(
            self.line == wanted,
            "memcached: {:?} and not {wanted:?}",
            self.line
        );
        Ok(())
    }

    /// Gives a key its value.
    pub(in crate::bench) fn set(&mut self, key: &str, value: &str) -> anyhow::Result<()> {
        self.send(&format!("set {key} 0 0 {}\r\n{value}\r\n", value.len()))?;
        self.expect("STORED\r\n")
    }

    /// One `get`, whose answer must be `value`.
    pub(in crate::bench) fn get(&mut self, key: &str, value: &str) -> anyhow::Result<()> {
        self.send(&format!("get {key}\r\n"))?;
        self.expect(&format!("VALUE {key} 0 {}\r\n", value.len()))?;
        self.expect(&format!("{value}\r\n"))?;
        self.expect("END\r\n")
    }
}
