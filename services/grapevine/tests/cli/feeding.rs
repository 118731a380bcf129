//! `invalidate --from`: order, batches, bad lines, positions, and sidecars that go away meanwhile.

use std::fmt::Write as _;
use std::fs;

use serde_json::{Value, json};

use crate::kit::{Sidecar, start, wait_until};

fn lines(from: usize, to: usize, id: bool) -> String {
    let mut feed = String::new();
    for number in from..=to {
        let id = if id {
            format!(r#","id":{number}"#)
        } else {
            String::new()
        };
        writeln!(feed, r#"{{"classes":["cart/{number}"]{id}}}"#).unwrap();
    }
    feed
}

/// How many classes were bumped.
fn bumped(sidecar: &Sidecar) -> usize {
    sidecar
        .ask(&["classes", "cart", "--json"])
        .code(0)
        .lines()
        .len()
}

fn position(sidecar: &Sidecar) -> Value {
    let text = fs::read_to_string(sidecar.path().join("position")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn with_position(sidecar: &Sidecar, more: &[&str]) -> Vec<String> {
    let path = sidecar.path().join("position").display().to_string();
    let base = ["invalidate", "--from", "-", "--json", "--position", &path];
    base.iter()
        .chain(more)
        .map(|&argument| argument.to_owned())
        .collect()
}

fn borrowed(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

#[test]
fn a_feed_is_sent_in_few_calls_and_from_a_file_too() {
    let sidecar = Sidecar::lone();
    let path = sidecar.path().join("feed");
    fs::write(
        &path,
        lines(1, 3_000, false) + "\n{\"classes\":[\"a\",\"b\"],\"match\":\"all\",\"table\":\"x\"}",
    )
    .unwrap();
    let said = sidecar
        .ask(&[
            "invalidate",
            "--from",
            &path.display().to_string(),
            "--json",
        ])
        .code(0);
    let summary = said.json();
    assert_eq!(
        (&summary["lines"], &summary["invalidated"]),
        (&json!(3_002), &json!(3_001))
    );
    assert!(summary["calls"].as_u64().unwrap() < 300, "{summary}");
    assert!(bumped(&sidecar) >= 3_000);
    assert_eq!(said.err, "", "no progress where no terminal is");
}

#[test]
fn what_a_file_holds_already_shares_a_call() {
    let sidecar = Sidecar::lone();
    let path = sidecar.path().join("feed");
    fs::write(&path, lines(1, 200, false)).unwrap();
    let path = path.display().to_string();
    for _ in 0..20 {
        let said = sidecar.ask(&["invalidate", "--from", &path, "--json"]);
        assert_eq!(said.code(0).json()["calls"], 1);
    }
}

#[test]
fn a_bad_line_stops_the_feed_before_it_and_is_named() {
    let sidecar = Sidecar::lone();
    let feed = format!(
        "{}{{\"classes\":[\"x y\"]}}\n{}",
        lines(1, 2, false),
        lines(3, 4, false)
    );
    let arguments = with_position(&sidecar, &[]);
    let said = sidecar.feed(&feed, &borrowed(&arguments)).code(2);
    let message = said.error()["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("line 3: classes[0]: "), "{message}");
    assert_eq!(said.json()["invalidated"], 2);
    assert_eq!(position(&sidecar)["lines"], 2);
    assert_eq!(bumped(&sidecar), 2);
    // Mended, it goes on where it stopped.
    let said = sidecar
        .feed(&lines(1, 4, false), &borrowed(&arguments))
        .code(0);
    assert_eq!(
        (&said.json()["resumed_behind"], &said.json()["invalidated"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(bumped(&sidecar), 4);
}

#[test]
fn bad_lines_are_told_and_skipped_where_that_is_wanted() {
    let sidecar = Sidecar::lone();
    let long = format!("{{\"classes\":[\"{}\"]}}", "x".repeat(2 << 20));
    let feed = format!(
        "nonsense\n{}{long}\n[]\n{}",
        lines(1, 1, false),
        lines(2, 2, false)
    );
    let arguments = with_position(&sidecar, &["--on-bad-line", "skip"]);
    let said = sidecar.feed(&feed, &borrowed(&arguments)).code(0);
    let summary = said.json();
    assert_eq!(
        (&summary["bad"], &summary["invalidated"]),
        (&json!(3), &json!(2))
    );
    for number in [1, 3, 4] {
        assert!(
            said.err.contains(&format!("warning: line {number}: ")),
            "{}",
            said.err
        );
    }
    assert_eq!(position(&sidecar)["lines"], 5);
}

#[test]
fn a_feed_with_ids_goes_on_at_the_last_one() {
    let sidecar = Sidecar::lone();
    let arguments = with_position(&sidecar, &[]);
    let run = |feed: &str| sidecar.feed(feed, &borrowed(&arguments)).code(0).json();
    assert_eq!(run(&lines(1, 10, true))["id"], 10);
    let anew = run(&lines(1, 12, true));
    assert_eq!(
        (&anew["resumed_behind"], &anew["invalidated"], &anew["id"]),
        (&json!(9), &json!(3), &json!(12)),
        "the line of the last id goes again"
    );
    let by_itself = run(&lines(13, 15, true));
    assert_eq!(
        (&by_itself["resumed_behind"], &by_itself["invalidated"]),
        (&json!(0), &json!(3))
    );
    assert_eq!(position(&sidecar)["id"], 15);
    let nothing_new = run(&lines(1, 15, true));
    assert_eq!(
        (&nothing_new["resumed_behind"], &nothing_new["id"]),
        (&json!(14), &json!(15))
    );
}

#[test]
fn g1_a_run_that_ended_between_lines_of_one_id_loses_none_of_them() {
    let sidecar = Sidecar::lone();
    let arguments = with_position(&sidecar, &[]);
    let line = |class: &str| format!("{{\"classes\":[\"{class}\"],\"id\":7}}\n");
    let run = |feed: &str| sidecar.feed(feed, &borrowed(&arguments)).code(0).json();
    run(&line("cart/1"));
    // The feeder was stopped there; the whole transaction is two lines.
    let anew = run(&[line("cart/1"), line("cart/2")].concat());
    assert_eq!(
        (&anew["resumed_behind"], &anew["invalidated"]),
        (&json!(0), &json!(2))
    );
    assert_eq!(bumped(&sidecar), 2);
}

#[test]
fn another_feed_at_an_old_position_is_refused() {
    let sidecar = Sidecar::lone();
    let arguments = with_position(&sidecar, &[]);
    sidecar
        .feed(&lines(1, 5, false), &borrowed(&arguments))
        .code(0);
    let said = sidecar
        .feed(&lines(2, 9, false), &borrowed(&arguments))
        .code(2);
    assert!(
        said.error()["message"]
            .as_str()
            .unwrap()
            .contains("the first 5 lines are not those"),
        "{said:?}"
    );
    assert_eq!(position(&sidecar)["lines"], 5);
}

#[test]
fn a_live_feed_is_sent_as_it_comes_and_a_signal_leaves_its_position() {
    let sidecar = Sidecar::lone();
    let mut watch = start(sidecar.command(&["watch", "--json"]));
    watch.wait_lines(1);
    let mut feed = start(sidecar.command(&borrowed(&with_position(&sidecar, &[]))));
    for number in 1..=3 {
        feed.write(&lines(number, number, true));
        // Nothing holds a line back until more arrive.
        let seen = watch.wait_lines(1 + number);
        assert!(
            seen[number].contains(&format!("cart/{number}\"")),
            "{seen:?}"
        );
    }
    // Nothing to do: what is acknowledged is noted at once.
    let noted = || fs::read_to_string(sidecar.path().join("position")).unwrap_or_default();
    wait_until("the position is noted", || noted().contains("\"id\":3"));
    feed.signal("TERM");
    let said = feed.end_by_itself().code(130);
    assert_eq!(
        (&said.json()["invalidated"], &said.error()["kind"]),
        (&json!(3), &json!("stopped"))
    );
    assert_eq!(position(&sidecar)["id"], 3);
}

#[test]
fn g1_a_feed_outlives_a_sidecar_that_is_killed() {
    let mut sidecar = Sidecar::lone();
    let mut feed = start(sidecar.command(&borrowed(&with_position(&sidecar, &[]))));
    feed.write(&lines(1, 200, true));
    sidecar.kill();
    feed.write(&lines(201, 400, true));
    sidecar.restart();
    feed.write(&lines(401, 600, true));
    let summary = feed.end().code(0).json();
    assert_eq!(
        (&summary["invalidated"], &summary["id"]),
        (&json!(600), &json!(600))
    );
    sidecar.ask(&["status", "--wait-fresh", "30s"]).code(0);
    assert_eq!(bumped(&sidecar), 600);
}

#[test]
fn without_a_sidecar_the_feed_ends_where_it_was() {
    let mut sidecar = Sidecar::lone();
    let arguments = with_position(&sidecar, &["--retry-for", "300ms"]);
    sidecar
        .feed(&lines(1, 3, false), &borrowed(&arguments))
        .code(0);
    sidecar.kill();
    let said = sidecar
        .feed(&lines(1, 6, false), &borrowed(&arguments))
        .code(4);
    assert_eq!(said.error()["kind"], "unreachable");
    assert_eq!(position(&sidecar)["lines"], 3);
}

#[test]
fn g10_the_line_that_a_limit_refuses_is_named() {
    let sidecar = Sidecar::lone_with(&["--limits-top-level-classes-max", "2"]);
    let feed = "{\"classes\":[\"a\"]}\n{\"classes\":[\"b\",\"a/1\"]}\n{\"classes\":[\"c\"]}\n{\"classes\":[\"a/2\"]}\n";
    let arguments = with_position(&sidecar, &["--on-bad-line", "skip"]);
    let said = sidecar.feed(feed, &borrowed(&arguments)).code(5);
    let message = said.error()["message"].as_str().unwrap().to_owned();
    // Several lines are on their way at once: the third may be there before the second.
    let named = (2..=3).find(|line| message.starts_with(&format!("line {line}: ")));
    assert!(
        named.is_some() && message.contains("the limit is 2"),
        "{message}"
    );
    assert_eq!(position(&sidecar)["lines"], named.unwrap() - 1);
}
