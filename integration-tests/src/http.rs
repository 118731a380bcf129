//! One HTTP request, for what is asked of a sidecar or of a tool as a browser or a scraper would.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Beyond what any answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Asks for a path, and gives the status and the body of the answer.
pub async fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    ask(address, "GET", path).await
}

/// The same, with another method and without a body.
pub async fn ask(address: SocketAddr, method: &str, path: &str) -> Result<(u16, String)> {
    let answer = async {
        let mut stream = TcpStream::connect(address).await?;
        // By 1.0 the answer ends with its connection, and has no chunks.
        let request = format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(String::from_utf8(answer)?)
    };
    let answer = tokio::time::timeout(TIMEOUT, answer).await??;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("an answer has a head")?;
    let status = head.split(' ').nth(1).context("a head has a status")?;
    Ok((status.parse()?, body.to_owned()))
}
