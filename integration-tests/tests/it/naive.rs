//! What others do, as small as it can be said, on a real memcached or Redis: the arms that fail in `known_failures`.
//!
//! Each is one schedule of a public report, step by step in the order that goes wrong, and answers what a reader is given at the end. They are
//! here so that a schedule in which Grapevine passes is known to be one in which something can fail. Where the schedule needs a reader and a
//! writer only, both run the same one: see `arms`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use grapevine_cache::Cache;
use grapevine_integration_tests::{CacheServer, Fault, Relay, eventually};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::support::SOON;

const TTL: Duration = Duration::from_hours(1);

async fn text(cache: &dyn Cache, key: &str) -> Result<Option<String>> {
    let value = cache.get(key).await?;
    Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned()))
}

async fn delete(cache: &dyn Cache, keys: impl IntoIterator<Item = String>) {
    let keys: Vec<String> = keys.into_iter().collect();
    // What fails is not tried again: that is what makes it naive.
    let _ = cache.delete_many(&keys).await;
}

/// laravel#61328: the key is put into its tag's set, the tag is flushed, the value is stored. The next flush does not know it.
pub(crate) async fn tag_set_before_value(cache: &dyn Cache) -> Result<Option<String>> {
    let mut tag = BTreeSet::from(["naive::1".to_owned()]);
    delete(cache, std::mem::take(&mut tag)).await;
    cache.set("naive::1", "old".into(), TTL).await?;
    delete(cache, std::mem::take(&mut tag)).await;
    text(cache, "naive::1").await
}

/// Two memcached servers, with a link to the first that can be cut.
pub(crate) struct Pair {
    _servers: [CacheServer; 2],
    link: Relay,
    pub(crate) first: Arc<dyn Cache>,
    pub(crate) other: Arc<dyn Cache>,
    /// Both as replicas of each other.
    pub(crate) url: String,
}

impl Pair {
    pub(crate) async fn start(test: &str) -> Result<Option<Self>> {
        let Some(first) = CacheServer::memcached(test).await? else {
            return Ok(None);
        };
        let Some(other) = CacheServer::memcached(test).await? else {
            return Ok(None);
        };
        let behind = first.url.trim_start_matches("memcached://").parse()?;
        let link = Relay::start(behind).await?;
        let at = |place: String| grapevine_cache::connect(&format!("{place}?timeout=2s"));
        let place = other.url.trim_start_matches("memcached://").to_owned();
        Ok(Some(Self {
            first: at(format!("memcached://{}", link.address))?,
            other: at(other.url.clone())?,
            url: format!(
                "memcached://{},{place}?placement=all&timeout=2s",
                link.address
            ),
            link,
            _servers: [first, other],
        }))
    }

    /// From here on nothing reaches the first one.
    pub(crate) async fn cut(&self) -> Result<()> {
        self.link.set(Fault::Cut);
        eventually("the first server is out of reach", SOON, async || {
            ensure!(self.first.get("any").await.is_err());
            Ok(())
        })
        .await
    }

    /// It is back, with what it had.
    pub(crate) async fn mend(&self, key: &str) -> Result<()> {
        self.link.set(Fault::Nothing);
        eventually(
            "the first server is back with its value",
            SOON,
            async || {
                ensure!(self.first.get(key).await?.is_some());
                Ok(())
            },
        )
        .await
    }
}

/// mcrouter#190 and #202: a server is out of reach while a key is deleted and written, which gets to the other one only; it is back, and is
/// asked first again.
pub(crate) async fn first_server_is_back(pair: &Pair) -> Result<Option<String>> {
    let both = [&*pair.first, &*pair.other];
    for cache in both {
        cache.set("naive::3", "old".into(), TTL).await?;
    }
    pair.cut().await?;
    for cache in both {
        delete(cache, ["naive::3".to_owned()]).await;
    }
    pair.other.set("naive::3", "new".into(), TTL).await?;
    ensure!(text(&*pair.other, "naive::3").await?.as_deref() == Some("new"));
    pair.mend("naive::3").await?;
    text(&*pair.first, "naive::3").await
}

/// symfony#44015: a tag's version lies in the cache, none is version 0, and an item is current if it carries its tag's version.
pub(crate) async fn version_of_evicted_tag(cache: &dyn Cache) -> Result<bool> {
    let version = async || -> Result<u64> {
        Ok(match text(cache, "naive::tag").await? {
            Some(version) => version.parse()?,
            None => 0,
        })
    };
    let item = version().await?;
    let next = version().await? + 1;
    cache
        .set("naive::tag", next.to_string().into(), TTL)
        .await?;
    ensure!(version().await? != item, "invalidated");
    // The cache needs room.
    delete(cache, ["naive::tag".to_owned()]).await;
    Ok(version().await? == item)
}

/// A connection to Redis that says what it is told.
struct Redis(BufReader<TcpStream>);

impl Redis {
    async fn connect(server: &CacheServer) -> Result<Self> {
        let address = server.url.trim_start_matches("redis://");
        Ok(Self(BufReader::new(TcpStream::connect(address).await?)))
    }

    /// Sends a command of words and reads one reply, its parts separated by spaces.
    async fn ask(&mut self, command: &str) -> Result<String> {
        self.0.get_mut().write_all(command.as_bytes()).await?;
        self.0.get_mut().write_all(b"\r\n").await?;
        self.reply().await
    }

    async fn reply(&mut self) -> Result<String> {
        let mut parts = Vec::new();
        let mut wanted = 1;
        while wanted > 0 {
            let mut line = String::new();
            self.0.read_line(&mut line).await?;
            let line = line.trim_end();
            ensure!(!line.is_empty(), "the connection ended");
            let (kind, rest) = line.split_at(1);
            wanted -= 1;
            match kind {
                "*" => wanted += rest.parse::<i64>()?.max(0),
                "$" if rest == "-1" => parts.push("nil".to_owned()),
                "$" => {
                    let mut text = vec![0; rest.parse::<usize>()? + 2];
                    self.0.read_exact(&mut text).await?;
                    parts.push(String::from_utf8_lossy(&text).trim_end().to_owned());
                }
                _ => parts.push(rest.to_owned()),
            }
        }
        Ok(parts.join(" "))
    }
}

/// redis#15632: reads on one connection, news of what was read on another one; the first one ends, and so does the news, silently. Answers what
/// the local table gives after a write, and what the server holds.
pub(crate) async fn tracked_connection_is_gone(server: &CacheServer) -> Result<[String; 2]> {
    let (mut news, mut data) = (Redis::connect(server).await?, Redis::connect(server).await?);
    let mut other = Redis::connect(server).await?;
    other.ask("SET naive::5 old").await?;
    let to = news.ask("CLIENT ID").await?;
    news.ask("SUBSCRIBE __redis__:invalidate").await?;
    data.ask(&format!("CLIENT TRACKING ON REDIRECT {to}"))
        .await?;
    let local = data.ask("GET naive::5").await?;
    let gone = format!("id={} ", data.ask("CLIENT ID").await?);
    drop(data);
    eventually(
        "the server has seen the end of the connection",
        SOON,
        async || {
            let clients = other.ask("CLIENT LIST").await?;
            ensure!(!clients.contains(&gone), "{clients}");
            Ok(())
        },
    )
    .await?;
    other.ask("SET naive::5 new").await?;
    // Whatever was to be told would come before the answer to this.
    let told = news.ask("PING").await?;
    ensure!(told.starts_with("pong"), "it was told: {told}");
    Ok([local, other.ask("GET naive::5").await?])
}

/// django-cacheops#340: keys are added to a set when they are stored, and nobody takes them out when they lapse. Answers how many the set
/// has, and how many of them are there.
pub(crate) async fn set_of_lapsed_keys(server: &CacheServer, keys: usize) -> Result<[usize; 2]> {
    let mut redis = Redis::connect(server).await?;
    for key in 0..keys {
        redis.ask(&format!("SADD naive::set naive::{key}")).await?;
        redis.ask(&format!("SET naive::{key} value PX 1")).await?;
    }
    let names: Vec<String> = (0..keys).map(|key| format!("naive::{key}")).collect();
    let exist = format!("EXISTS {}", names.join(" "));
    let mut there = keys;
    eventually("all have lapsed", SOON, async || {
        there = redis.ask(&exist).await?.parse()?;
        ensure!(there == 0);
        Ok(())
    })
    .await?;
    Ok([redis.ask("SCARD naive::set").await?.parse()?, there])
}
