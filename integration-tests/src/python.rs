//! Applications in Python: `integration-tests/python/worker.py` as child processes, told line by line what to do.
//!
//! Where Python or one of its packages is missing, they are skipped loudly; with `GRAPEVINE_REQUIRE_PEERS=1`, as in CI, that fails.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::skip::skip;

const PYTHON: &str = "python3";
const PACKAGES: &str = "import grpc, grpc_tools, xxhash";

/// Stubs made from `proto/`, and the workers' program.
#[derive(Debug)]
pub struct Python {
    stubs: TempDir,
    program: PathBuf,
}

/// One worker. It is killed when dropped.
#[derive(Debug)]
pub struct PythonWorker {
    _child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Python {
    /// Makes the stubs; nothing where something is not installed and `test` may be skipped.
    pub async fn prepare(test: &str) -> Result<Option<Self>> {
        let mut probe = Command::new(PYTHON);
        let probe = probe.args(["-c", PACKAGES]).stderr(Stdio::null());
        if !probe.status().await.is_ok_and(|status| status.success()) {
            let why = "no python3 with integration-tests/python/requirements.txt";
            return skip(test, why).map(|()| None);
        }
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let proto = here.parent().context("the workspace")?.join("proto");
        let stubs = TempDir::new()?;
        let files = ["types", "explain", "application", "admin"]
            .map(|file| format!("grapevine/v1/{file}.proto"));
        let mut protoc = Command::new(PYTHON);
        protoc.args(["-m", "grpc_tools.protoc", "-I"]).arg(&proto);
        for kind in ["--python_out", "--grpc_python_out"] {
            protoc.arg(kind).arg(stubs.path());
        }
        let status = protoc.args(files).status().await?;
        ensure!(status.success(), "grpc_tools.protoc: {status}");
        let program = here.join("python/worker.py");
        Ok(Some(Self { stubs, program }))
    }

    /// Starts a worker beside the sidecar at a Unix socket; `cache` is `host:port` of a memcached, `shop` the SQLite file.
    pub fn worker(&self, socket: &Path, cache: &str, shop: &Path) -> Result<PythonWorker> {
        let mut child = Command::new(PYTHON)
            .arg(&self.program)
            .arg(socket)
            .arg(cache)
            .arg(shop)
            .env("PYTHONPATH", self.stubs.path())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start python3")?;
        let orders = child.stdin.take().context("piped")?;
        let answers = BufReader::new(child.stdout.take().context("piped")?).lines();
        Ok(PythonWorker {
            _child: child,
            orders,
            answers,
        })
    }
}

impl PythonWorker {
    /// Gives an order, and waits for what came of it.
    pub async fn ask(&mut self, order: &str) -> Result<String> {
        self.orders
            .write_all(format!("{order}\n").as_bytes())
            .await?;
        let answer = self.answers.next_line().await?;
        answer.with_context(|| format!("the worker ended at {order:?}"))
    }
}
