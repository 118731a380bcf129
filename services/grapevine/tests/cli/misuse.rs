//! Wrong command lines and wrong input: a clear error, listed field by field, and the right exit code.

use std::io::pipe;
use std::process::Stdio;

use crate::kit::{Sidecar, program, run, start};

#[test]
fn wrong_command_lines_end_with_2_and_say_what_is_wrong() {
    for (line, problem) in [
        (&["frob"][..], "frob"),
        (&[], "Usage"),
        (&["resolve", "x"], "--class"),
        (&["resolve", "-c", "c", "x", "--offset", "3"], "--limit"),
        (&["invalidate"], "<CLASSES>"),
        (&["invalidate", "c", "--from", "-"], "cannot be used with"),
        (&["invalidate", "c", "--receipt", "most"], "quorum"),
        (&["invalidate", "c", "--position", "p"], "--position"),
        (&["invalidate", "--batch", "7"], "--from"),
        (&["invalidate", "c", "--timeout", "2m"], "from 1ms to 1m"),
        (
            &["write", "begin", "c", "--lease", "30y"],
            "'30y' for '--lease <DURATION>': it must be from 100ms to 10m",
        ),
        (&["invalidate", "c", "--session", "xyz"], "--session"),
        (&["invalidate", "--from", "/no/such/feed"], "/no/such/feed"),
        (&["invalidate", "--from", "/"], "is a directory"),
        (
            &["invalidate", "--from", "-", "--position", "/nope/p"],
            "--position /nope/p: cannot be written",
        ),
        (
            &["replay", "--trace", "/no/such/trace"],
            "--trace /no/such/trace: ",
        ),
        (&["register", "-c", "c", "a", "--ttl", "0s"], "above zero"),
        (
            &["register", "-c", "c", "a", "--ttl", "ever"],
            "write it like",
        ),
        (&["register", "-c", "c", "a", "--lease", "0"], "hexadecimal"),
        (&["addresses", "c", "--after", "next"], "--after"),
        (&["status", "--endpoint", "somewhere"], "somewhere"),
        (
            &["replay", "--trace", "t", "--writes", "1.5"],
            "from 0 to 1",
        ),
        (
            &["replay", "--trace", "t", "--strategy", "best"],
            "naive-delete",
        ),
        (
            &["replay", "--trace", "t", "--strategy", "bucketed(65536)"],
            "bucketed(65536) is outside 1 to 4096",
        ),
        (&["replay", "--trace", "t", "--nodes", "0"], "--nodes"),
        (&["completions", "cmd"], "bash"),
    ] {
        let said = run(line).code(2);
        assert!(said.err.contains(problem), "{line:?}: {}", said.err);
        assert_eq!(said.out, "", "{line:?}");
    }
}

#[test]
fn what_a_sidecar_would_refuse_is_listed_by_field() {
    let sidecar = Sidecar::lone();
    let long = "x".repeat(251);
    let decorated = "x".repeat(240);
    for (line, field) in [
        (&["resolve", "-c", "c", "a b"][..], "address: "),
        (&["resolve", "-c", "c", &long], "the limit is 250"),
        (&["resolve", "-c", "c", &decorated], "items[0].address: "),
        (&["resolve", "-c", "c//d", "a"], "classes[0]: "),
        (
            &["resolve", "-c", "c", "a", "--limit", "10001"],
            "page.limit: ",
        ),
        (
            &["register", "-c", "c", "a", "b\nc"],
            "registrations[1].address: ",
        ),
        (
            &["register", "-c", "c/", "a"],
            "registrations[0].classes[0]: ",
        ),
        (
            &["register", "-c", "c", "a", "--ttl", "11years"],
            "registrations[0].ttl_ms: ",
        ),
        (&["invalidate", "c", "d/"], "classes[1]: "),
        (&["invalidate", "c", "--match", "all"], "at least 2"),
        (
            &["invalidate", "c", "--session", "0011"],
            "session.tokens[0]: ",
        ),
        (&["addresses", "c", "--after", "0011"], "page_token: "),
        (&["watch", "c d"], "classes[0]: "),
        (&["classes", "/"], "below: "),
    ] {
        let said = sidecar.ask(line).code(2);
        assert!(
            said.err.starts_with("error: invalid request\n  ") && said.err.contains(field),
            "{line:?}: {}",
            said.err
        );
        let said = sidecar.ask(&[line, &["--json"]].concat()).code(2);
        assert_eq!(said.error()["kind"], "invalid", "{line:?}");
        assert_eq!(
            said.error()["violations"].as_array().unwrap().len(),
            1,
            "{line:?}"
        );
    }
}

#[test]
fn where_no_sidecar_is_every_command_ends_with_4() {
    let nowhere = "unix:/no/such/socket";
    for line in [
        &["status"][..],
        &["status", "--wait-fresh", "100ms"],
        &["members"],
        &["classes"],
        &["addresses", "c"],
        &["resolve", "-c", "c", "a"],
        &["register", "-c", "c", "a"],
        &["invalidate", "c"],
        &["watch"],
        &["drain"],
    ] {
        let said = run(&[line, &["--endpoint", nowhere, "--json"]].concat()).code(4);
        assert_eq!(said.error()["kind"], "unreachable", "{line:?}");
        assert!(
            said.error()["message"].as_str().unwrap().contains(nowhere),
            "{line:?}"
        );
        assert_eq!(said.err.lines().count(), 1, "{}", said.err);
    }
}

#[test]
fn a_reader_that_has_left_is_no_failure() {
    let sidecar = Sidecar::lone();
    sidecar.ask(&["register", "-c", "c", "a", "b"]).code(0);
    for line in [
        &["completions", "bash"][..],
        &["addresses", "c"],
        &["status", "--json"],
        &["resolve", "-c", "c", "a"],
        &["--help"],
    ] {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let mut command = sidecar.command(line);
        let output = command
            .stdin(Stdio::null())
            .stdout(writer)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{line:?}");
        assert!(
            output.stderr.is_empty(),
            "{line:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn every_command_explains_itself() {
    for command in [
        "sidecar",
        "status",
        "members",
        "classes",
        "addresses",
        "resolve",
        "register",
        "invalidate",
        "watch",
        "drain",
        "demo",
        "replay",
        "completions",
    ] {
        let said = run(&[command, "--help"]).code(0);
        assert!(
            said.out.contains(&format!("Usage: grapevine {command}")),
            "{}",
            said.out
        );
    }
    let said = run(&["--help"]).code(0);
    assert!(said.out.contains("Exit codes"), "{}", said.out);
    run(&["--version"]).code(0);
}

#[test]
fn completions_name_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let said = run(&["completions", shell]).code(0);
        assert!(
            said.out.contains("invalidate") && said.out.contains("print-default-config"),
            "{shell}"
        );
    }
}

#[test]
fn a_sidecar_is_configured_through_the_same_program() {
    run(&["sidecar", "--print-default-config"]).code(0);
    let said = run(&[
        "sidecar",
        "--check-config",
        "--node-id",
        "a b",
        "--drain-timeout",
        "soon",
    ])
    .code(2);
    assert!(
        said.err.contains("--node-id") && said.err.contains("--drain-timeout"),
        "{}",
        said.err
    );
    let mut command = program();
    command
        .args(["sidecar", "--check-config"])
        .env("GRAPEVINE_NODE_ID", "n7");
    let said = start(command).end().code(0);
    assert!(said.out.contains("n7"), "{}", said.out);
}
