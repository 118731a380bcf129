//! Redis as a key-value server: what an application would ask in place of a sidecar.

use anyhow::{Context, ensure};
use redis::{Connection, Pipeline};

use crate::caches::CacheProcess;

/// A connection that blocks: nothing stands between the caller and the socket.
pub(in crate::bench) fn connect(server: &CacheProcess) -> anyhow::Result<Connection> {
    let client = redis::Client::open(server.url()).context("redis")?;
    client.get_connection().context("redis")
}

/// Gives every key its value.
pub(in crate::bench) fn set(
    connection: &mut Connection,
    pairs: &[(String, String)],
) -> anyhow::Result<()> {
    for pairs in pairs.chunks(1_000) {
        let mut pipeline = Pipeline::with_capacity(pairs.len());
        for (key, value) in pairs {
            pipeline.set(key, value).ignore();
        }
        pipeline.exec(connection).context("redis: SET")?;
    }
    Ok(())
}

/// One GET, whose answer must be `value`.
pub(in crate::bench) fn get(
    connection: &mut Connection,
    key: &str,
    value: &str,
) -> anyhow::Result<()> {
    let got: String = redis::cmd("GET")
        .arg(key)
        .query(connection)
        .context("redis: GET")?;
    ensure!(got == value, "redis: GET {key}: {got:?} and not {value:?}");
    Ok(())
}

/// A GET for each pair in one pipeline.
pub(in crate::bench) fn get_all(
    connection: &mut Connection,
    pairs: &[(String, String)],
) -> anyhow::Result<()> {
    let mut pipeline = Pipeline::with_capacity(pairs.len());
    for (key, _) in pairs {
        pipeline.get(key);
    }
    let got: Vec<String> = pipeline.query(connection).context("redis: GET")?;
    let right =
        got.len() == pairs.len() && got.iter().zip(pairs).all(|(got, (_, value))| got == value);
    ensure!(right, "redis: a pipeline of GETs was answered wrongly");
    Ok(())
}
