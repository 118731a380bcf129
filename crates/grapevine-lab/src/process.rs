//! Child processes that end with the run: each is held by its handle, its output goes to a file whose end is shown when it fails, and
//! dropping it kills it and waits until it is gone, so that its directory can be removed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use thiserror::Error;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::Instant;

/// How much of a failed process's output is shown.
const TAIL_LINES: usize = 15;
const POLL_EVERY: Duration = Duration::from_millis(20);
/// What was killed is gone within milliseconds; a process that hangs in the kernel is left to it.
const GONE_TIMEOUT: Duration = Duration::from_secs(5);
const GONE_POLL: Duration = Duration::from_millis(1);

/// A child process that is not as it should be.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// It could not be started.
    #[error("{name}: cannot start {}: {source}", program.display())]
    Start {
        /// What the process is for.
        name: String,
        /// The executable.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It ended by itself.
    #[error("{name}: ended early with {status}; its last words:\n{tail}")]
    Ended {
        /// What the process is for.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its output.
        tail: String,
    },
    /// It did not become ready in time.
    #[error("{name}: not ready after {waited:?} ({state}); its last words:\n{tail}")]
    NotReady {
        /// What the process is for.
        name: String,
        /// How long it was waited for.
        waited: Duration,
        /// What it said of itself when last asked.
        state: String,
        /// The end of its output.
        tail: String,
    },
    /// The system failed to tell about it, or to end it.
    #[error("{name}: {source}")]
    System {
        /// What the process is for.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

/// What a process that was asked whether it is ready says.
pub(crate) enum Readiness {
    /// It is.
    Ready,
    /// It is not, and why.
    NotYet(String),
}

/// A running child.
pub(crate) struct Process {
    name: String,
    command: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `program`; what it writes is appended to `log`.
    pub(crate) fn start<A: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        arguments: &[A],
        log: &Path,
    ) -> Result<Self, ProcessError> {
        let to_log = |command: &mut Command, log: &File| {
            command.stdin(Stdio::null()).stdout(log.try_clone()?);
            Ok(())
        };
        Self::spawn(name, program, arguments, log, to_log)
    }

    /// The same, with its output connected as `connect` says; what goes elsewhere is not told when it fails.
    fn spawn<A: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        arguments: &[A],
        log: &Path,
        connect: impl FnOnce(&mut Command, &File) -> io::Result<()>,
    ) -> Result<Self, ProcessError> {
        let spawned = || {
            let output = File::options().create(true).append(true).open(log)?;
            let mut command = Command::new(program);
            command.args(arguments).kill_on_drop(true);
            connect(&mut command, &output)?;
            command.stderr(output).spawn()
        };
        let child = spawned().map_err(|source| ProcessError::Start {
            name: name.to_owned(),
            program: program.to_owned(),
            source,
        })?;
        Ok(Self {
            name: name.to_owned(),
            command: command_line(program, arguments),
            log: log.to_owned(),
            child,
        })
    }

    /// How it was started, for people.
    pub(crate) fn command(&self) -> &str {
        &self.command
    }

    /// Its process id; nothing when it has ended and was waited for.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// The end of what it wrote.
    pub(crate) fn tail(&self) -> String {
        tail(&self.log)
    }

    /// Asks `probe` until it says ready, the process ends, or the time is over.
    pub(crate) async fn wait_ready(
        &mut self,
        timeout: Duration,
        mut probe: impl AsyncFnMut() -> Readiness,
    ) -> Result<(), ProcessError> {
        let deadline = Instant::now() + timeout;
        let mut state = "never answered".to_owned();
        loop {
            if let Some(status) = self.try_wait()? {
                return Err(ProcessError::Ended {
                    name: self.name.clone(),
                    status,
                    tail: self.tail(),
                });
            }
            match tokio::time::timeout_at(deadline, probe()).await {
                Ok(Readiness::Ready) => return Ok(()),
                Ok(Readiness::NotYet(why)) => state = why,
                Err(_) => {}
            }
            if Instant::now() >= deadline {
                let (name, tail) = (self.name.clone(), self.tail());
                return Err(ProcessError::NotReady {
                    name,
                    waited: timeout,
                    state,
                    tail,
                });
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    fn try_wait(&mut self) -> Result<Option<ExitStatus>, ProcessError> {
        let name = &self.name;
        self.child
            .try_wait()
            .map_err(|source| ProcessError::System {
                name: name.clone(),
                source,
            })
    }

    /// Waits for it to end by itself; false if it has not within the time.
    pub(crate) async fn wait_end(&mut self, timeout: Duration) -> bool {
        tokio::time::timeout(timeout, self.child.wait())
            .await
            .is_ok()
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    pub(crate) async fn kill(mut self) -> Result<(), ProcessError> {
        let name = self.name.clone();
        self.child
            .kill()
            .await
            .map_err(|source| ProcessError::System { name, source })
    }
}

/// A running child whose input and output are at hand.
pub(crate) struct Piped {
    /// It ends with this.
    _process: Process,
    pub(crate) input: ChildStdin,
    /// Until somebody reads it.
    pub(crate) output: Option<ChildStdout>,
}

impl Piped {
    /// Starts `program`; what it writes as errors is appended to `log`.
    pub(crate) fn start<A: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        arguments: &[A],
        log: &Path,
    ) -> Result<Self, ProcessError> {
        let piped = |command: &mut Command, _: &File| {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            Ok(())
        };
        let mut process = Process::spawn(name, program, arguments, log, piped)?;
        let input = process.child.stdin.take();
        Ok(Self {
            input: input.expect("invariant: it was asked for"),
            output: process.child.stdout.take(),
            _process: process,
        })
    }
}

impl Drop for Process {
    /// Blocks: a run is over when its processes are dropped, and what follows is removing the directories that they write to.
    fn drop(&mut self) {
        // It may have ended, and been waited for, already.
        let _ = self.child.start_kill();
        let deadline = std::time::Instant::now() + GONE_TIMEOUT;
        while matches!(self.child.try_wait(), Ok(None)) && std::time::Instant::now() < deadline {
            std::thread::sleep(GONE_POLL);
        }
    }
}

/// The end of a log.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// How a program is started, for people.
pub(crate) fn command_line<A: AsRef<OsStr>>(program: &Path, arguments: &[A]) -> String {
    let program = program.file_name().unwrap_or(program.as_os_str());
    let words = std::iter::once(program).chain(arguments.iter().map(AsRef::as_ref));
    let words: Vec<_> = words
        .map(|word| match word.to_string_lossy() {
            word if word.is_empty() => "''".to_owned(),
            word => word.into_owned(),
        })
        .collect();
    words.join(" ")
}

/// How long a process has run on a core so far, all of its threads together; those that have ended do not count.
pub(crate) fn cpu_time(id: u32) -> io::Result<Duration> {
    let mut total_ns = 0;
    for thread in fs::read_dir(format!("/proc/{id}/task"))? {
        // A thread that ended meanwhile has none any more.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else {
            continue;
        };
        let ran_ns = text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok());
        total_ns += ran_ns.ok_or(io::ErrorKind::InvalidData)?;
    }
    Ok(Duration::from_nanos(total_ns))
}

/// The path of a program, looked up as a shell would.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use tempfile::TempDir;

    use super::*;

    fn shell(script: &str, dir: &TempDir) -> Process {
        let log = dir.path().join("log");
        Process::start("sample", Path::new("/bin/sh"), &["-c", script], &log).unwrap()
    }

    #[tokio::test]
    async fn an_early_end_is_told_with_the_last_words() {
        let dir = TempDir::new().unwrap();
        let mut process = shell("echo port 1 is in use >&2; exit 3", &dir);
        let never = async || Readiness::NotYet("no".to_owned());
        let error = process
            .wait_ready(Duration::from_secs(30), never)
            .await
            .unwrap_err();
        let ProcessError::Ended { status, tail, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(status.code(), Some(3));
        assert_eq!(tail, "port 1 is in use");
    }

    #[tokio::test]
    async fn a_process_that_never_gets_ready_is_told_with_its_state() {
        let dir = TempDir::new().unwrap();
        let mut process = shell("exec sleep 600", &dir);
        let never = async || Readiness::NotYet("catching up".to_owned());
        let error = process
            .wait_ready(Duration::from_millis(50), never)
            .await
            .unwrap_err();
        assert!(matches!(&error, ProcessError::NotReady { state, .. } if state == "catching up"));
    }

    #[tokio::test]
    async fn a_probe_that_hangs_does_not_outlast_the_timeout() {
        let dir = TempDir::new().unwrap();
        let mut process = shell("exec sleep 600", &dir);
        let hangs = async || std::future::pending().await;
        let error = process
            .wait_ready(Duration::from_millis(50), hangs)
            .await
            .unwrap_err();
        assert!(matches!(error, ProcessError::NotReady { .. }));
    }

    #[tokio::test]
    async fn a_dropped_process_is_gone_at_once() {
        let dir = TempDir::new().unwrap();
        let process = shell("exec sleep 600", &dir);
        let stat = PathBuf::from(format!("/proc/{}/stat", process.id().unwrap()));
        assert!(stat.exists());
        drop(process);
        assert!(!stat.exists());
    }

    #[tokio::test]
    async fn a_kill_returns_when_the_process_is_gone() {
        let dir = TempDir::new().unwrap();
        let process = shell("exec sleep 600", &dir);
        let stat = PathBuf::from(format!("/proc/{}/stat", process.id().unwrap()));
        process.kill().await.unwrap();
        assert!(!stat.exists());
    }

    #[test]
    fn the_time_on_a_core_grows_with_what_is_done() {
        let own = std::process::id();
        let before = cpu_time(own).unwrap();
        let mut hash = 0_u64;
        while cpu_time(own).unwrap() < before + Duration::from_millis(20) {
            hash = std::hint::black_box(hash.wrapping_mul(31).wrapping_add(7));
        }
        assert!(cpu_time(0).is_err());
    }

    #[test]
    fn a_missing_program_is_named() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _guard = runtime.enter();
        let dir = TempDir::new().unwrap();
        let missing = Path::new("no-such-program");
        let none: [&str; 0] = [];
        let error = Process::start("sample", missing, &none, &dir.path().join("log"))
            .err()
            .unwrap();
        assert!(error.to_string().contains("no-such-program"));
        assert!(find_program("no-such-program").is_none());
        assert!(find_program("sh").is_some());
    }
}
