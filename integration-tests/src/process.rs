//! Child processes: held by their handles, killed when dropped, their output in a file whose end is shown in errors.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::process::{Child, Command};

use crate::conditions::eventually;

const TAIL_LINES: usize = 40;
/// For what a system does at once.
const AT_ONCE: Duration = Duration::from_secs(20);

/// A running child.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

/// How a process ended, and what it wrote.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; nothing when a signal killed it.
    pub code: Option<i32>,
    /// Everything it wrote, on either stream.
    pub output: String,
}

impl Process {
    /// Starts `program`; what it writes is appended to `log`.
    pub fn start<A: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
        log: &Path,
    ) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{name}: cannot start {}", program.display()))?;
        Ok(Self {
            name: name.to_owned(),
            log: log.to_owned(),
            child,
        })
    }

    pub(crate) fn id(&self) -> Result<u32> {
        self.child
            .id()
            .with_context(|| format!("{} has ended", self.name))
    }

    /// How it ended, if it has.
    pub fn try_end(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until it ends by itself.
    pub async fn end(mut self, deadline: Duration) -> Result<Ended> {
        let Ok(status) = tokio::time::timeout(deadline, self.child.wait()).await else {
            bail!(
                "{} has not ended within {deadline:?}; its log:\n{}",
                self.name,
                tail(&self.log)
            );
        };
        Ok(Ended {
            code: status?.code(),
            output: read(&self.log),
        })
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    pub async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Sends a signal by its name without SIG.
    pub async fn signal(&self, signal: &str) -> Result<()> {
        let status = Command::new("kill")
            .args(["-s", signal, &self.id()?.to_string()])
            .status()
            .await?;
        ensure!(status.success(), "kill -s {signal} {}: {status}", self.name);
        Ok(())
    }

    /// Stops the process without ending it, and waits until every thread of it stands still.
    pub async fn pause(&self) -> Result<()> {
        self.signal("STOP").await?;
        let tasks = PathBuf::from(format!("/proc/{}/task", self.id()?));
        eventually("the process stands still", AT_ONCE, async || {
            for task in fs::read_dir(&tasks)? {
                let stat = fs::read_to_string(task?.path().join("stat"))?;
                // The state follows the program's name, which stands in parentheses.
                let state = stat.rsplit(')').next().unwrap_or_default();
                ensure!(
                    state.starts_with(" T"),
                    "a thread is in state{}",
                    &state[..2]
                );
            }
            Ok(())
        })
        .await
    }

    /// Lets a paused process go on.
    pub async fn resume(&self) -> Result<()> {
        self.signal("CONT").await
    }
}

/// Runs a program that is expected to end by itself.
pub async fn run_to_end<A: AsRef<OsStr>>(
    program: &Path,
    arguments: impl IntoIterator<Item = A>,
    deadline: Duration,
) -> Result<Ended> {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(deadline, child)
        .await
        .with_context(|| format!("{} has not ended within {deadline:?}", program.display()))??;
    let both = [output.stdout, output.stderr].concat();
    Ok(Ended {
        code: output.status.code(),
        output: String::from_utf8_lossy(&both).into_owned(),
    })
}

pub(crate) fn read(log: &Path) -> String {
    String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned()
}

/// The end of a log.
pub(crate) fn tail(log: &Path) -> String {
    let text = read(log);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}
