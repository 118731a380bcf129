//! Redis as a key-value server: what an application would ask in place of a sidecar.

use anyhow::{Context, ensure};
use redis::{Connection, Pipeline};

/// A connection that blocks: nothing stands between the caller and the socket.
pub(in crate::bench) fn connect(url: &str) -> anyhow::Result<Connection> {
    let client = redis::Client::open(url).context("redis")?;
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

/// Adds members to a set, a command for each in one pipeline.
pub(in crate::bench) fn add(
    connection: &mut Connection,
    set: &str,
    members: &[String],
) -> anyhow::Result<()> {
    let mut pipeline = Pipeline::with_capacity(members.len());
    for member in members {
        pipeline.sadd(set, member).ignore();
    }
    pipeline.exec(connection).context("redis: SADD")
}

/// A set's members.
pub(in crate::bench) fn members(
    connection: &mut Connection,
    set: &str,
) -> anyhow::Result<Vec<String>> {
    let members = redis::cmd("SMEMBERS").arg(set).query(connection);
    members.context("redis: SMEMBERS")
}

/// Unlinks keys in one command; tells how many were there.
pub(in crate::bench) fn unlink(
    connection: &mut Connection,
    keys: &[String],
) -> anyhow::Result<usize> {
    let there = redis::cmd("UNLINK").arg(keys).query(connection);
    there.context("redis: UNLINK")
}
