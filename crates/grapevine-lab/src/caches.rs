//! The cache servers of a run: real ones, started on a Unix socket in a directory of the run, or the one in this process.
//!
//! Unix sockets, because a free port that is looked up first may be gone when the server binds it.

use std::any::Any;
use std::fmt;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tempfile::TempDir;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::memcached_server::MemcachedServer;
use crate::process::{Process, ProcessError, Readiness, find_program};

const START_TIMEOUT: Duration = Duration::from_secs(10);
/// What a cache may hold unless told otherwise: more than any run stores.
pub const MEMORY_MIB_DEFAULT: u32 = 512;
const CONNECTIONS_MAX: u32 = 1_024;

/// A kind of cache server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheKind {
    /// The installed `memcached`.
    Memcached,
    /// The installed `redis-server`.
    Redis,
    /// A memcached-protocol server in this process.
    Embedded,
}

/// A name that no kind has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("cache: `{0}` is none of memcached, redis, embedded")]
pub struct UnknownCacheKind(String);

impl FromStr for CacheKind {
    type Err = UnknownCacheKind;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "memcached" => Ok(Self::Memcached),
            "redis" => Ok(Self::Redis),
            "embedded" => Ok(Self::Embedded),
            _ => Err(UnknownCacheKind(name.to_owned())),
        }
    }
}

impl fmt::Display for CacheKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memcached => "memcached",
            Self::Redis => "redis",
            Self::Embedded => "embedded",
        })
    }
}

/// Why there is no cache server.
#[derive(Debug, Error)]
pub enum CacheServerError {
    /// Its program is not installed.
    #[error("cache: `{0}` is not installed (not found in PATH); install it, or take `embedded`")]
    NotInstalled(&'static str),
    /// Its process failed.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The directory of the run cannot be used.
    #[error("cache: directory {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The one in this process cannot listen.
    #[error("cache: the embedded server cannot listen: {0}")]
    Embedded(std::io::Error),
}

/// A cache server in a process of its own; dropping it ends it.
pub struct CacheProcess {
    url: String,
    process: Process,
}

impl CacheProcess {
    /// Starts memcached in `dir`, which holds its socket and its log, with so many MiB for values, and waits until it answers.
    pub async fn memcached(dir: &Path, memory_mib: u32) -> Result<Self, CacheServerError> {
        let program =
            find_program("memcached").ok_or(CacheServerError::NotInstalled("memcached"))?;
        let socket = dir.join("memcached.sock");
        let mut arguments = vec![
            "-s".to_owned(),
            socket.display().to_string(),
            "-m".to_owned(),
            memory_mib.to_string(),
            "-c".to_owned(),
            CONNECTIONS_MAX.to_string(),
            "-t".to_owned(),
            "2".to_owned(),
        ];
        if runs_as_root(dir)? {
            arguments.extend(["-u".to_owned(), "root".to_owned()]);
        }
        let mut process = Process::start(
            "memcached",
            &program,
            &arguments,
            &dir.join("memcached.log"),
        )?;
        process
            .wait_ready(START_TIMEOUT, async || {
                ask(&socket, b"version\r\n", b"VERSION ").await
            })
            .await?;
        Ok(Self {
            url: format!("memcached://unix:{}", socket.display()),
            process,
        })
    }

    /// Starts Redis in `dir`, which holds its socket and its log, with so many MiB in all, and waits until it answers. It keeps
    /// nothing on disk.
    pub async fn redis(dir: &Path, memory_mib: u32) -> Result<Self, CacheServerError> {
        let name = "redis-server";
        let program = find_program(name).ok_or(CacheServerError::NotInstalled(name))?;
        let socket = dir.join("redis.sock");
        let maxmemory = format!("{memory_mib}mb");
        let options = [
            ("--port", "0"),
            ("--unixsocket", &socket.display().to_string()),
            ("--dir", &dir.display().to_string()),
            ("--save", ""),
            ("--appendonly", "no"),
            ("--maxmemory", &maxmemory),
            ("--maxmemory-policy", "allkeys-lru"),
        ];
        let arguments: Vec<&str> = options
            .iter()
            .flat_map(|(name, value)| [*name, *value])
            .collect();
        let mut process = Process::start(name, &program, &arguments, &dir.join("redis.log"))?;
        process
            .wait_ready(START_TIMEOUT, async || {
                ask(&socket, b"PING\r\n", b"+PONG").await
            })
            .await?;
        Ok(Self {
            url: format!("redis+unix://{}", socket.display()),
            process,
        })
    }

    /// Where sidecars and clients find it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its process id; nothing when it has ended.
    pub(crate) fn process_id(&self) -> Option<u32> {
        self.process.id()
    }

    /// How it was started.
    pub(crate) fn command(&self) -> String {
        self.process.command().to_owned()
    }

    /// Ends it at once and waits until it is gone.
    pub async fn kill(self) -> Result<(), CacheServerError> {
        Ok(self.process.kill().await?)
    }
}

/// The cache server of a run, of any kind; dropping it ends it.
pub struct CacheServer {
    url: String,
    /// The process or the embedded server: what ends when it is dropped.
    _running: Box<dyn Any + Send + Sync>,
    // After the process, so that it is removed once that has ended.
    _dir: Option<TempDir>,
}

impl CacheServer {
    /// Starts one and waits until it answers. The embedded one throws nothing out, whatever its memory.
    pub async fn start(kind: CacheKind, memory_mib: u32) -> Result<Self, CacheServerError> {
        if kind == CacheKind::Embedded {
            let server = MemcachedServer::start((Ipv4Addr::LOCALHOST, 0))
                .await
                .map_err(CacheServerError::Embedded)?;
            return Ok(Self {
                url: format!("memcached://{}", server.addr()),
                _running: Box::new(server),
                _dir: None,
            });
        }
        let dir = tempfile::Builder::new().prefix("grapevine-").tempdir();
        let dir = dir.map_err(|source| CacheServerError::Directory {
            path: std::env::temp_dir(),
            source,
        })?;
        let process = if kind == CacheKind::Redis {
            CacheProcess::redis(dir.path(), memory_mib).await?
        } else {
            CacheProcess::memcached(dir.path(), memory_mib).await?
        };
        Ok(Self {
            url: process.url().to_owned(),
            _running: Box::new(process),
            _dir: Some(dir),
        })
    }

    /// Where sidecars and clients find it.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// Whether this process is root's: a file that it made belongs to root. memcached refuses to run as root unless told to.
fn runs_as_root(dir: &Path) -> Result<bool, CacheServerError> {
    let error = |source| CacheServerError::Directory {
        path: dir.to_owned(),
        source,
    };
    let file = tempfile::tempfile_in(dir).map_err(error)?;
    Ok(file.metadata().map_err(error)?.uid() == 0)
}

async fn ask(socket: &Path, question: &[u8], answer: &[u8]) -> Readiness {
    let exchange = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(question).await?;
        let mut got = vec![0; answer.len()];
        stream.read_exact(&mut got).await?;
        std::io::Result::Ok(got)
    };
    match exchange.await {
        Ok(got) if got == answer => Readiness::Ready,
        Ok(got) => Readiness::NotYet(format!("answered {:?}", String::from_utf8_lossy(&got))),
        Err(error) => Readiness::NotYet(error.to_string()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::io::Write as _;

    use tempfile::TempDir;

    use super::*;

    /// Whether a test that needs `program` can run; without it the test fails where peers are required.
    pub(crate) fn installed(program: &str, test: &str) -> bool {
        let found = find_program(program).is_some();
        if !found {
            let required = std::env::var("GRAPEVINE_REQUIRE_PEERS").is_ok_and(|value| value == "1");
            assert!(
                !required,
                "{program} is not installed and GRAPEVINE_REQUIRE_PEERS=1: {test}"
            );
            // Not `eprintln!`, which the test harness captures: a skip is to be seen without --nocapture.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: {program} is not installed: {test}"
            );
        }
        found
    }

    #[tokio::test]
    async fn memcached_starts_answers_and_ends() {
        if !installed("memcached", "memcached_starts_answers_and_ends") {
            return;
        }
        let dir = TempDir::new().unwrap();
        let server = CacheProcess::memcached(dir.path(), MEMORY_MIB_DEFAULT)
            .await
            .unwrap();
        let socket = server
            .url()
            .strip_prefix("memcached://unix:")
            .unwrap()
            .to_owned();
        assert!(matches!(
            ask(Path::new(&socket), b"mn\r\n", b"MN").await,
            Readiness::Ready
        ));
        server.kill().await.unwrap();
        assert!(UnixStream::connect(&socket).await.is_err());
    }

    #[tokio::test]
    async fn redis_starts_answers_and_ends() {
        if !installed("redis-server", "redis_starts_answers_and_ends") {
            return;
        }
        let dir = TempDir::new().unwrap();
        let server = CacheProcess::redis(dir.path(), MEMORY_MIB_DEFAULT)
            .await
            .unwrap();
        let socket = server
            .url()
            .strip_prefix("redis+unix://")
            .unwrap()
            .to_owned();
        assert!(matches!(
            ask(Path::new(&socket), b"ECHO a\r\n", b"$1\r\na").await,
            Readiness::Ready
        ));
        server.kill().await.unwrap();
        assert!(UnixStream::connect(&socket).await.is_err());
    }

    #[test]
    fn kinds_have_names() {
        for name in ["memcached", "redis", "embedded"] {
            assert_eq!(name.parse::<CacheKind>().unwrap().to_string(), name);
        }
        let error = "varnish".parse::<CacheKind>().unwrap_err();
        assert!(error.to_string().contains("`varnish`"));
    }
}
