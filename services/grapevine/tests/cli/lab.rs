//! `demo`, `replay` and `bench` from outside: their exit codes, their errors for scripts, and what they leave behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;

use crate::kit::{Said, program, run, start, wait_until};

/// 6,000 records of 40 objects, each object in runs of four.
fn trace() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let trace = root.join("tests/cli/traces/busy.trace.xz");
    trace.display().to_string()
}

fn replay(flags: &[&str]) -> Said {
    let trace = trace();
    run(&[&["replay", "--trace", &trace, "--json"], flags].concat())
}

#[test]
fn a_replay_that_sees_what_it_must_not_tells_it_as_one_error() {
    let said = replay(&["--strategy", "none"]).code(1);
    let figures = said.json();
    assert!(figures["stale_reads"].as_u64() > Some(100), "{figures}");
    assert_eq!(figures["over_invalidations"], 0);
    let error = said.error();
    assert_eq!(error["kind"], "failed");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.starts_with("replay: ") && message.contains("stale reads"),
        "{message}"
    );
    let plain = run(&["replay", "--trace", &trace(), "--strategy", "bypass-all"]).code(1);
    assert_eq!(plain.err.matches("error: replay: hit ratio").count(), 1);
}

#[test]
fn g5_a_replay_by_session_is_right_and_its_control_is_caught() {
    // Of the default's 400 writes a few are read back too soon without sessions, and at times none is: so many more.
    let writes = ["--writes", "0.3"];
    let flags = ["--strategy", "versioned", "--receipt", "none", "--session"];
    let right = replay(&[&flags[..], &writes].concat());
    assert_eq!(right.json()["stale_reads"], 0, "{right:#?}");
    let caught = replay(&[&["--strategy", "ignore-session"][..], &writes].concat()).code(1);
    assert!(
        caught.json()["stale_reads"].as_u64() > Some(0),
        "{caught:#?}"
    );
}

#[test]
fn a_receipt_that_promises_nothing_is_refused_without_a_session() {
    for receipt in ["one", "none"] {
        let said = replay(&["--receipt", receipt]).code(2);
        let error = said.error();
        assert_eq!(error["kind"], "usage");
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains(&format!("--receipt {receipt}")) && message.contains("--session"),
            "{message}"
        );
        assert_eq!((said.out.as_str(), said.err.lines().count()), ("", 1));
    }
}

#[test]
fn a_command_line_that_cannot_be_read_is_one_line_of_json_where_asked_for() {
    for (line, problem) in [
        (&["status", "--json", "--frob"][..], "--frob"),
        (&["resolve", "x", "--json"], "--class"),
        (
            &["replay", "--trace", "t", "--nodes", "0", "--json"],
            "--nodes",
        ),
        (&["demo", "--json", "--seed", "x"], "--seed"),
        (&["sidecar", "--json"], "--json"),
        (&["--json"], "--json"),
    ] {
        let said = run(line).code(2);
        assert_eq!(said.err.lines().count(), 1, "{line:?}: {}", said.err);
        let error = said.error();
        assert_eq!(error["kind"], "usage", "{line:?}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(problem), "{line:?}: {message}");
        assert!(!message.starts_with("error"), "{line:?}: {message}");
    }
}

/// Processes whose command line names something in this directory.
fn processes_of(dir: &Path) -> Vec<PathBuf> {
    processes_that_name(dir, "cmdline")
}

/// Processes of which this file of `/proc` names something in this directory.
fn processes_that_name(dir: &Path, file: &str) -> Vec<PathBuf> {
    let names = |process: &PathBuf| {
        let text = fs::read(process.join(file)).unwrap_or_default();
        String::from_utf8_lossy(&text).contains(&dir.display().to_string())
    };
    let all = fs::read_dir("/proc").unwrap();
    all.filter_map(|entry| Some(entry.ok()?.path()))
        .filter(names)
        .collect()
}

fn left_behind(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Starts a command, lets it start its sidecars, of which it has three, stops it, and looks for what is left.
fn stopped(arguments: &[&str], signal: &str) {
    stopped_with(3, arguments, signal);
}

/// The same of a command that starts so many processes at least.
fn stopped_with(processes: usize, arguments: &[&str], signal: &str) {
    let dir = TempDir::new().unwrap();
    let mut command = program();
    command.args(arguments).env("TMPDIR", dir.path());
    let running = start(command);
    wait_until("what it starts runs", || {
        processes_of(dir.path()).len() >= processes
    });
    running.signal(signal);
    let said = running.end_by_itself().code(130);
    let told = said.err.lines().last().unwrap_or_default();
    if arguments.contains(&"--json") {
        let error: Value = serde_json::from_str(told).unwrap();
        assert_eq!(error["error"]["kind"], "stopped");
    } else {
        assert_eq!(told, "error: stopped by a signal");
    }
    // A dead process keeps its command line no longer, so these are processes that run. One that was killed is given the time
    // to die in.
    wait_until("none runs any more", || processes_of(dir.path()).is_empty());
    // Nor does one whose command line does not tell whose it is.
    wait_until("none is left that was started by it", || {
        processes_that_name(dir.path(), "environ").is_empty()
    });
    assert_eq!(left_behind(dir.path()), Vec::<PathBuf>::new(), "{signal}");
}

/// What it says goes to a disk that is full: it says why, and ends what it started.
#[test]
fn a_demo_that_cannot_be_heard_ends() {
    let dir = TempDir::new().unwrap();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = program();
    let output = command
        .arg("demo")
        .env("TMPDIR", dir.path())
        .stdin(Stdio::null())
        .stdout(full)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("error: demo: standard output: No space left"),
        "{told}"
    );
    wait_until("none runs any more", || processes_of(dir.path()).is_empty());
    assert_eq!(left_behind(dir.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_demo_that_is_stopped_ends_with_130_and_leaves_nothing() {
    stopped(&["demo", "--plain"], "INT");
    stopped(&["demo", "--json"], "TERM");
}

#[test]
fn a_replay_that_is_stopped_ends_with_130_and_leaves_nothing() {
    let trace = trace();
    stopped(&["replay", "--trace", &trace, "--json"], "INT");
    stopped(&["replay", "--trace", &trace, "--json"], "HUP");
}

/// Of a whole bench, which would go on for minutes: while it starts its peers, and while it measures.
#[test]
fn a_bench_that_is_stopped_ends_with_130_and_leaves_nothing() {
    stopped_with(1, &["bench", "resolve", "--json"], "INT");
    // A sidecar and the peer that the program brings along.
    stopped_with(2, &["bench", "resolve", "--vs", "tonic"], "INT");
    stopped_with(1, &["bench", "invalidate"], "TERM");
}

#[test]
fn a_bench_tells_its_figures_and_its_settings() {
    let said = run(&["bench", "resolve", "--short", "--runs", "2", "--json"]).code(0);
    let line = said.json();
    assert_eq!(line["bench"], "resolve");
    let rows = line["rows"].as_array().unwrap();
    let of = |what: &str| {
        let named: Vec<_> = rows.iter().filter(|row| row["what"] == what).collect();
        assert!(!named.is_empty(), "{what}: {line}");
        named
    };
    for what in [
        "one by one, p50",
        "one by one, p99",
        "100 per call",
        "stream, 32 in flight",
    ] {
        for row in of(what) {
            assert_eq!(
                (&row["runs"], row["values"].as_array().unwrap().len()),
                (&Value::from(2), 2)
            );
            assert!(row["value"].as_f64() > Some(0.0), "{row}");
            let ratio = row["ratio"].as_f64();
            assert_eq!(ratio.is_some(), row["peer"].is_string(), "{row}");
        }
    }
    // A table that never said anything would have been an error.
    for row in of("client-local, a look-up") {
        assert!(row["value"].as_f64() > Some(0.0), "{row}");
        assert_eq!(row["peer"], "hash-map");
    }
    assert_eq!(of("client-local, allocated by a look-up")[0]["value"], 0.0);
    // The program brings this peer along; others are measured where they are installed, and else named.
    assert_eq!(of("stream, 32 in flight")[0]["peer"], "tonic");
    let skipped = line["skipped"].as_array().unwrap();
    let measured = of("one by one, p50").len();
    assert_eq!(measured + skipped.len(), 3, "{line}");
    if std::env::var("GRAPEVINE_REQUIRE_PEERS").is_ok_and(|value| value == "1") {
        assert!(skipped.is_empty(), "{line}");
    }
    let settings = line["settings"].as_array().unwrap();
    let sidecar = settings.iter().filter_map(Value::as_str);
    let sidecar = sidecar.filter(|line| line.starts_with("grapevine sidecar --node-id n1"));
    assert_eq!(sidecar.count(), 1, "{line}");
}

#[test]
fn invalidations_are_measured_where_there_is_a_memcached() {
    let said = run(&["bench", "invalidate", "--short", "--runs", "1", "--json"]).code(0);
    let line = said.json();
    let rows = line["rows"].as_array().unwrap();
    let has = |what: &str| {
        rows.iter()
            .any(|row| row["what"].as_str().unwrap().starts_with(what))
    };
    // What a short one measures, and not what a whole one does.
    for quantile in ["p50", "p99"] {
        let what = format!("versioned, a class of 2,000 addresses, {quantile}");
        assert!(has(&what), "{what}: {line}");
    }
    let skipped = line["skipped"].as_array().unwrap();
    assert_eq!(
        has("registered, "),
        !skipped.iter().any(|it| it["peer"] == "memcached"),
        "{line}"
    );
}

#[test]
fn a_bench_is_held_against_whom_it_knows() {
    let nobody = run(&[
        "bench", "resolve", "--short", "--runs", "1", "--vs", "none", "--json",
    ])
    .code(0);
    let line = nobody.json();
    let rows = line["rows"].as_array().unwrap();
    assert!(
        !rows.is_empty() && rows.iter().all(|row| row["peer"].is_null()),
        "{line}"
    );
    let said = run(&["bench", "resolve", "--vs", "varnish", "--json"]).code(2);
    let error = said.error();
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("`varnish`") && message.contains("tonic, redis, memcached"),
        "{message}"
    );
    for wrong in [
        &["bench", "speed"][..],
        &["bench", "resolve", "--runs", "0"],
        &["bench", "resolve", "--wan"],
        &["bench", "resolve", "--trace", "x"],
        &["bench", "replay", "--trace", "no-such-file"],
        &["bench"],
    ] {
        run(wrong).code(2);
    }
}
