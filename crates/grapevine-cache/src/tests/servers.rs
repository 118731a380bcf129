//! memcached and Redis as child processes on free ports or Unix sockets, killed when dropped; and servers that never
//! answer.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const START_DEADLINE: Duration = Duration::from_secs(20);

/// Whether the program is installed. When not, says so loudly, and fails where peers are required.
pub(super) fn is_installed(program: &str, test: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|directory| directory.join(program).is_file()) {
        return true;
    }
    writeln!(
        std::io::stderr(),
        "SKIPPED: {program} is not installed: {test}"
    )
    .unwrap();
    assert!(
        std::env::var_os("GRAPEVINE_REQUIRE_PEERS").is_none_or(|value| value != "1"),
        "{program} is required and not installed"
    );
    false
}

/// A port that was free a moment ago.
pub(super) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// A running server process.
pub(super) struct Server {
    child: Child,
    /// `host:port` or `unix:/path`.
    pub(super) address: String,
    /// Where its socket is.
    _directory: TempDir,
}

impl Server {
    pub(super) fn memcached() -> Self {
        Self::memcached_on(free_port())
    }

    pub(super) fn memcached_on(port: u16) -> Self {
        let mut command = Command::new("memcached");
        command
            .args(["-l", "127.0.0.1", "-U", "0", "-m", "64", "-t", "2", "-p"])
            .arg(port.to_string());
        Self::start(
            command,
            format!("127.0.0.1:{port}"),
            tempfile::tempdir().unwrap(),
        )
    }

    pub(super) fn memcached_on_unix_socket() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("memcached.sock");
        let mut command = Command::new("memcached");
        command.args(["-m", "64", "-t", "2", "-s"]).arg(&path);
        Self::start(command, format!("unix:{}", path.display()), directory)
    }

    pub(super) fn redis() -> Self {
        Self::redis_on(free_port())
    }

    pub(super) fn redis_on(port: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = redis(directory.path());
        command
            .args(["--bind", "127.0.0.1", "--port"])
            .arg(port.to_string());
        Self::start(command, format!("127.0.0.1:{port}"), directory)
    }

    pub(super) fn redis_on_unix_socket() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path: PathBuf = directory.path().join("redis.sock");
        let mut command = redis(directory.path());
        command.args(["--port", "0", "--unixsocket"]).arg(&path);
        Self::start(command, format!("unix:{}", path.display()), directory)
    }

    fn start(mut command: Command, address: String, directory: TempDir) -> Self {
        if std::fs::metadata("/proc/self")
            .is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
            && command.get_program() == "memcached"
        {
            command.args(["-u", "root"]);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Self {
            child,
            address,
            _directory: directory,
        };
        server.wait_until_listening();
        server
    }

    fn wait_until_listening(&mut self) {
        let begun = Instant::now();
        while !self.accepts() {
            assert_eq!(
                self.child.try_wait().unwrap(),
                None,
                "the server at {} ended",
                self.address
            );
            assert!(
                begun.elapsed() < START_DEADLINE,
                "no server at {}",
                self.address
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn accepts(&self) -> bool {
        match self.address.strip_prefix("unix:") {
            Some(path) => std::os::unix::net::UnixStream::connect(path).is_ok(),
            None => {
                std::net::TcpStream::connect(self.address.parse::<SocketAddr>().unwrap()).is_ok()
            }
        }
    }

    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops the process without ending it, and waits until every thread of it stands still.
    pub(super) fn pause(&self) {
        self.signal("STOP");
        let begun = Instant::now();
        while !self.stands_still() {
            assert!(
                begun.elapsed() < START_DEADLINE,
                "the server at {} stops",
                self.address
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(super) fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill")
            .args(["-s", signal, &pid])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// By the state that Linux shows after the program's name in parentheses.
    fn stands_still(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        threads
            .map(|thread| thread.unwrap().path().join("stat"))
            .all(|stat| {
                let stat = std::fs::read_to_string(stat).unwrap_or_default();
                stat.rsplit(')')
                    .next()
                    .is_some_and(|rest| rest.starts_with(" T"))
            })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Best effort: it may have been killed already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn redis(directory: &Path) -> Command {
    let mut command = Command::new("redis-server");
    command
        .args([
            "--save",
            "",
            "--appendonly",
            "no",
            "--daemonize",
            "no",
            "--dir",
        ])
        .arg(directory);
    command
}
