//! Runs the program and reads what it says.
//!
//! A lone sidecar needs no port that anybody knows: applications reach it over its Unix socket, and the rest is drawn by the
//! system. Sidecars of a cluster must know one gossip port beforehand; it is drawn, and another one if somebody took it.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Beyond everything that a run may take on a busy machine.
const RUN_TIMEOUT: Duration = Duration::from_mins(1);

pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_grapevine"));
    // What the developer's shell says must not reach the tests.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GRAPEVINE_")) {
        command.env_remove(name);
    }
    command
}

/// What a run said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// It must have ended with this code.
    pub(crate) fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    /// Every line of standard output as JSON.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let parse =
            |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        self.out.lines().map(parse).collect()
    }

    /// The only line of it.
    pub(crate) fn json(&self) -> Value {
        let lines = self.lines();
        assert_eq!(lines.len(), 1, "{self:#?}");
        lines[0].clone()
    }

    /// The error that a run with `--json` told, its last line on standard error.
    pub(crate) fn error(&self) -> Value {
        let line = self.err.lines().last().unwrap_or_default();
        let value: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{self:#?}: {error}"));
        assert_eq!(value["error"]["exit_code"], self.code, "{self:#?}");
        value["error"].clone()
    }
}

/// A run under way.
pub(crate) struct Running {
    child: Child,
    input: Option<std::process::ChildStdin>,
    said: mpsc::Receiver<(bool, Vec<u8>)>,
    out: Vec<u8>,
    err: Vec<u8>,
    open: usize,
}

pub(crate) fn start(mut command: Command) -> Running {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (sender, said) = mpsc::sync_channel(64);
    let outputs: [(bool, Box<dyn Read + Send>); 2] = [
        (true, Box::new(child.stdout.take().unwrap())),
        (false, Box::new(child.stderr.take().unwrap())),
    ];
    for (is_out, mut output) in outputs {
        let sender = sender.clone();
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                if sender.send((is_out, buffer[..count].to_vec())).is_err() {
                    return;
                }
            }
            let _ = sender.send((is_out, Vec::new()));
        });
    }
    let input = child.stdin.take();
    Running {
        child,
        input,
        said,
        out: Vec::new(),
        err: Vec::new(),
        open: 2,
    }
}

impl Running {
    /// Writes to its standard input.
    pub(crate) fn write(&mut self, text: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        input.flush().unwrap();
    }

    /// Ends its standard input.
    pub(crate) fn end_input(&mut self) {
        self.input = None;
    }

    /// Waits until it has written so many whole lines to standard output.
    pub(crate) fn wait_lines(&mut self, lines: usize) -> Vec<String> {
        let deadline = Instant::now() + RUN_TIMEOUT;
        loop {
            let text = String::from_utf8_lossy(&self.out).into_owned();
            if text.matches('\n').count() >= lines {
                return text.lines().map(str::to_owned).collect();
            }
            assert!(
                self.open > 0 && self.hear(deadline),
                "{lines} lines did not come: {text}\n{}",
                self.errors()
            );
        }
    }

    fn errors(&self) -> String {
        String::from_utf8_lossy(&self.err).into_owned()
    }

    /// Takes what comes next; false when nothing came in time.
    fn hear(&mut self, deadline: Instant) -> bool {
        match self
            .said
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            Ok((_, bytes)) if bytes.is_empty() => self.open -= 1,
            Ok((true, bytes)) => self.out.extend(bytes),
            Ok((false, bytes)) => self.err.extend(bytes),
            Err(_) => return false,
        }
        true
    }

    /// Sends it a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill")
            .args([&format!("-{name}"), &id])
            .status()
            .unwrap();
        assert!(status.success(), "kill -{name} {id}");
    }

    /// Ends its standard input and waits for its end.
    pub(crate) fn end(mut self) -> Said {
        self.end_input();
        self.end_by_itself()
    }

    /// Waits for its end.
    pub(crate) fn end_by_itself(mut self) -> Said {
        let deadline = Instant::now() + RUN_TIMEOUT;
        while self.open > 0 {
            assert!(self.hear(deadline), "it does not end: {}", self.errors());
        }
        let status = self.child.wait().unwrap();
        Said {
            code: status.code().unwrap_or(-1),
            out: String::from_utf8(std::mem::take(&mut self.out)).unwrap(),
            err: self.errors(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something is so.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + RUN_TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not so in time");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Runs the program without a sidecar.
pub(crate) fn run(arguments: &[&str]) -> Said {
    let mut command = program();
    command.args(arguments);
    start(command).end()
}

/// A sidecar in a directory of its own, ended with the value.
pub(crate) struct Sidecar {
    dir: TempDir,
    name: String,
    extra: Vec<String>,
    process: Option<Running>,
}

impl Sidecar {
    /// A cluster of one, fresh.
    pub(crate) fn lone() -> Self {
        Self::lone_with(&[])
    }

    /// The same, with further flags.
    pub(crate) fn lone_with(extra: &[&str]) -> Self {
        let extra = [&["--gossip-listen", "127.0.0.1:0"], extra].concat();
        let sidecar = Self::start("lone", &extra);
        sidecar.ask(&["status", "--wait-fresh", "30s"]).code(0);
        sidecar
    }

    /// Started, but not waited for.
    pub(crate) fn start(name: &str, extra: &[&str]) -> Self {
        let mut sidecar = Self {
            dir: tempfile::tempdir().unwrap(),
            name: name.to_owned(),
            extra: extra.iter().map(|&flag| flag.to_owned()).collect(),
            process: None,
        };
        sidecar.restart();
        sidecar
    }

    /// Starts it again on its directory.
    pub(crate) fn restart(&mut self) {
        let mut command = program();
        command
            .args(["sidecar", "--node-id", &self.name, "--app-tcp", ""])
            .args(["--peer-listen", "127.0.0.1:0", "--log-filter", "warn"])
            .arg("--app-unix")
            .arg(self.socket())
            .arg("--data-dir")
            .arg(self.dir.path().join("data"))
            .args(&self.extra);
        self.process = Some(start(command));
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("app.sock")
    }

    /// Where tests may put files.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    /// The program, told to ask this sidecar.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command
            .args(arguments)
            .env("GRAPEVINE_ENDPOINT", self.endpoint());
        command
    }

    /// Runs it.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Said {
        start(self.command(arguments)).end()
    }

    /// Runs it with an input.
    pub(crate) fn feed(&self, input: &str, arguments: &[&str]) -> Said {
        let mut running = start(self.command(arguments));
        // It may stop reading early, at a bad line.
        let _ = running.input.as_mut().unwrap().write_all(input.as_bytes());
        running.end()
    }

    /// As `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Its process, for signals.
    pub(crate) fn process(&self) -> &Running {
        self.process.as_ref().unwrap()
    }

    /// Waits for the process's own end.
    pub(crate) fn end(&mut self) -> Said {
        self.process.take().unwrap().end()
    }
}

/// So many sidecars that know each other, all fresh.
pub(crate) fn cluster(nodes: usize) -> Vec<Sidecar> {
    const ATTEMPTS: usize = 5;
    for _ in 0..ATTEMPTS {
        // Free at this moment; if somebody takes it meanwhile, the first sidecar ends and another port is tried.
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let seed = socket.local_addr().unwrap().to_string();
        drop(socket);
        let members = nodes.to_string();
        let place = |node: usize| {
            let gossip = if node == 0 {
                seed.as_str()
            } else {
                "127.0.0.1:0"
            };
            let name = format!("n{}", node + 1);
            let extra = [
                "--gossip-listen",
                gossip,
                "--seeds",
                &seed,
                "--expected-members",
                &members,
            ];
            Sidecar::start(&name, &extra)
        };
        let sidecars: Vec<Sidecar> = (0..nodes).map(place).collect();
        let complete = |sidecar: &Sidecar| {
            let expect = ["members", "--expect", &members, "--timeout", "30s"];
            sidecar.ask(&["status", "--wait-fresh", "30s"]).code == 0
                && sidecar.ask(&expect).code == 0
        };
        if sidecars.iter().all(complete) {
            return sidecars;
        }
    }
    panic!("no cluster of {nodes} in {ATTEMPTS} attempts");
}
