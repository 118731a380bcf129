//! One question, one answer.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::kit::{Sidecar, run, start, wait_until};

fn resolve(sidecar: &Sidecar, class: &str, address: &str) -> Value {
    let said = sidecar.ask(&["resolve", "--json", "-c", class, address]);
    said.code(0).json()
}

fn target(resolved: &Value) -> String {
    resolved["targets"][0]["address"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn an_invalidation_changes_its_addresses_and_no_neighbours() {
    let sidecar = Sidecar::lone();
    let resolve = |class| target(&resolve(&sidecar, class, "items::10"));
    let before = ["cart/13", "cart/14"].map(resolve);
    assert_eq!(
        before,
        ["cart/13", "cart/14"].map(resolve),
        "the same knowledge, the same address"
    );
    let said = sidecar.ask(&["invalidate", "cart/13", "--receipt", "all", "--json"]);
    let outcome = said.code(0).json();
    assert_eq!(outcome["receipt"]["satisfied"], true);
    assert_eq!(outcome["receipt"]["holders"][0]["state"], "has");
    let after = ["cart/13", "cart/14"].map(resolve);
    assert_ne!(after[0], before[0]);
    assert_eq!(after[1], before[1]);
    // Its session token is known to the sidecar that gave it.
    let session = outcome["session_token"].as_str().unwrap();
    let said = sidecar.ask(&[
        "resolve",
        "--json",
        "-c",
        "cart/13",
        "items::10",
        "--session",
        session,
    ]);
    assert_eq!(target(&said.code(0).json()), after[0]);
}

#[test]
fn what_scripts_read_has_stable_names() {
    let sidecar = Sidecar::lone();
    assert_eq!(
        keys(&resolve(&sidecar, "c", "a")),
        [
            "address",
            "bypass",
            "commit_required",
            "elect",
            "envelope",
            "fill_forbidden",
            "freshness",
            "freshness_reason",
            "lease",
            "lease_ms",
            "read_primary",
            "stale",
            "strategy",
            "targets",
            "token",
            "ttl_ms",
        ]
    );
    let status = sidecar.ask(&["status", "--json"]).code(0).json();
    assert_eq!(
        keys(&status),
        [
            "classes",
            "classes_max",
            "cluster",
            "counters",
            "disk_bytes",
            "freshness",
            "freshness_reason",
            "incarnation",
            "missing_events",
            "node_id",
            "origins",
            "policy_digest",
            "policy_mismatch",
            "registrations",
            "seats",
            "uptime_ms",
            "version",
            "view",
        ]
    );
    assert_eq!((&status["view"], &status["seats"]), (&json!(1), &json!(1)));
    assert_eq!(
        (&status["node_id"], &status["freshness"]),
        (&json!("lone"), &json!("fresh"))
    );
    assert_eq!(status["counters"]["resolves"], 1);
    let members = sidecar.ask(&["members", "--json"]).code(0).json();
    assert_eq!(members["state"], "self");
    assert_eq!(members["incarnation"], status["incarnation"]);
}

#[test]
fn a_slice_is_planned_onto_pages() {
    let mut config = tempfile::NamedTempFile::new().unwrap();
    writeln!(config, "[[policy]]\npattern = \"list/**\"\npaging = 20").unwrap();
    let config_path = config.path().display().to_string();
    let sidecar = Sidecar::lone_with(&["--config", &config_path]);
    let ask = [
        "resolve",
        "-c",
        "list/13",
        "items::13",
        "--offset",
        "35",
        "--limit",
        "10",
    ];
    let resolved = sidecar
        .ask(&[&ask[..], &["--json"]].concat())
        .code(0)
        .json();
    let pages: Vec<&Value> = resolved["targets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|target| &target["page"])
        .collect();
    assert_eq!(
        pages,
        [
            &json!({"index": 1, "size": 20, "skip": 15, "take": 5}),
            &json!({"index": 2, "size": 20, "skip": 0, "take": 5}),
        ]
    );
    let table = sidecar.ask(&ask).code(0).out;
    assert!(table.contains("15..20 of 20"), "{table}");
}

/// The class of everything is bumped, too, and is no row: the sidecar tells of the last one by itself.
#[test]
fn classes_that_a_limit_cuts_off_stand_in_line() {
    let sidecar = Sidecar::lone();
    for class in ["a", "b/c", "c/with/a/long/name", "d"] {
        sidecar.ask(&["invalidate", class]).code(0);
    }
    for limit in 1..=4 {
        let said = sidecar.ask(&["classes", "--limit", &limit.to_string()]);
        let said = said.code(0);
        let lines: Vec<_> = said.out.lines().collect();
        assert_eq!(lines.len(), 1 + limit);
        let begins = lines[0].find("BUMPED").unwrap();
        for line in &lines[1..] {
            assert_eq!(line.find(" yes"), Some(begins - 1), "{}", said.out);
        }
    }
}

#[test]
fn registered_addresses_are_listed_page_by_page_and_gone_with_their_class() {
    let sidecar = Sidecar::lone();
    for cart in ["cart/1", "cart/2"] {
        let said = sidecar.ask(&[
            "register", "-c", cart, "--ttl", "1h", "a", "b", "c", "--json",
        ]);
        assert_eq!(said.code(0).json(), json!({"accepted": 3, "condemned": []}));
    }
    let row = |class: &str, address: &str| (json!(class), json!(address));
    let mut rows = Vec::new();
    let mut next = String::new();
    loop {
        let said = sidecar
            .ask(&[
                "addresses",
                "cart",
                "--json",
                "--limit",
                "4",
                "--after",
                &next,
            ])
            .code(0);
        let mut lines = said.lines();
        let last = lines.pop_if(|line| line.get("next").is_some());
        rows.extend(
            lines
                .iter()
                .map(|line| (line["class"].clone(), line["address"].clone())),
        );
        match last {
            Some(last) => next = last["next"].as_str().unwrap().to_owned(),
            None => break,
        }
    }
    let expected =
        ["cart/1", "cart/2"].map(|class| ["a", "b", "c"].map(|address| row(class, address)));
    assert_eq!(rows, expected.concat());
    sidecar.ask(&["invalidate", "cart/1"]).code(0);
    let left = sidecar.ask(&["classes", "cart", "--json"]).code(0).lines();
    let of = |class| left.iter().find(|line| line["class"] == class).unwrap();
    assert_eq!(
        (&of("cart/1")["addresses"], &of("cart/1")["bumped"]),
        (&json!(0), &json!(true))
    );
    assert_eq!(
        (&of("cart/2")["addresses"], &of("cart/2")["bumped"]),
        (&json!(3), &json!(false))
    );
    let table = sidecar.ask(&["addresses", "cart"]).code(0).out;
    assert!(
        table.starts_with("CLASS") && table.lines().count() == 4,
        "{table}"
    );
}

#[test]
fn g4_a_registration_that_a_bump_overtook_is_condemned_with_a_code_of_its_own() {
    let sidecar = Sidecar::lone();
    let lease = resolve(&sidecar, "cart/1", "a")["lease"]
        .as_str()
        .unwrap()
        .to_owned();
    let register = ["register", "-c", "cart/1", "--lease", &lease, "a", "--json"];
    sidecar.ask(&register).code(0);
    sidecar.ask(&["invalidate", "cart/1"]).code(0);
    let said = sidecar.ask(&register).code(3);
    assert_eq!(said.json(), json!({"accepted": 0, "condemned": ["a"]}));
    assert_eq!(said.error()["kind"], "not_reached");
}

#[test]
fn a_watcher_sees_bumps_and_learns_that_it_missed_some() {
    let mut sidecar = Sidecar::lone();
    let mut watch = start(sidecar.command(&["watch", "cart", "--json", "--count", "2"]));
    watch.wait_lines(1);
    sidecar.ask(&["invalidate", "elsewhere"]).code(0);
    sidecar.ask(&["invalidate", "cart/1", "cart/2"]).code(0);
    watch.wait_lines(2);
    sidecar.kill();
    // Said at once, and not counted.
    watch.wait_lines(3);
    sidecar.restart();
    let said = watch.end().code(0);
    let lines = said.lines();
    let kinds: Vec<&Value> = lines.iter().map(|line| &line["kind"]).collect();
    assert_eq!(kinds, ["started", "bump", "lost", "resync"]);
    assert_eq!(lines[1]["classes"], json!(["cart/1", "cart/2"]));
    assert!(lines[2]["reason"].is_string());
    assert_eq!(lines[3]["cause"], "reconnected");
    assert_ne!(lines[3]["incarnation"], lines[0]["incarnation"]);
}

#[test]
fn a_watch_ends_after_its_time() {
    let sidecar = Sidecar::lone();
    let said = sidecar.ask(&["watch", "--for", "200ms"]).code(0);
    assert!(said.out.contains("watching run"), "{said:?}");
}

#[test]
fn a_drained_sidecar_ends_by_itself() {
    let mut sidecar = Sidecar::lone();
    let said = sidecar
        .ask(&["drain", "--within", "1s", "--wait", "30s", "--json"])
        .code(0);
    assert_eq!(said.json()["ended"], true);
    sidecar.end().code(0);
    sidecar.ask(&["status"]).code(4);
}

#[test]
fn it_is_said_that_only_what_is_in_all_classes_is_stale() {
    let sidecar = Sidecar::lone();
    let said = sidecar.ask(&["invalidate", "a", "b"]).code(0);
    assert!(
        said.out.starts_with("2 classes invalidated by "),
        "{said:?}"
    );
    let said = sidecar
        .ask(&["invalidate", "a", "b", "--match", "all"])
        .code(0);
    assert!(
        said.out
            .starts_with("what is in all of a, b invalidated by "),
        "{said:?}"
    );
}

#[test]
fn g5_a_session_that_is_ahead_is_told_in_one_sentence() {
    let sidecar = Sidecar::lone();
    let answer = sidecar.ask(&["invalidate", "a", "--json"]).code(0).json();
    let token = answer["session_token"].as_str().unwrap();
    // The same run, an event that it has not issued.
    let ahead = format!("{}ff", &token[..token.len() - 2]);
    for (call, said) in [
        (&["resolve", "-c", "a", "a"][..], "behind the session: "),
        (&["addresses", "a"], "is behind the session: "),
        (&["classes"], "is behind the session: "),
        (&["register", "-c", "a", "a"], "is behind the session: "),
        (
            &["write", "begin", "a"],
            "no sidecar has caught up with the session: ",
        ),
        (
            &["invalidate", "a"],
            "no sidecar has caught up with the session: ",
        ),
    ] {
        let ask = |session: &str| sidecar.ask(&[call, &["--session", session]].concat());
        ask(token).code(0);
        let told = ask(&ahead).code(5);
        let sentence = format!("{said}this sidecar has not applied ");
        assert!(told.err.contains(&sentence), "{told:?}");
    }
}

#[test]
fn a_statement_makes_stale_what_it_may_concern() {
    let sidecar = Sidecar::lone();
    let read = "SELECT id FROM items WHERE category = $1";
    let classes = |category: &str| {
        let told = run(&["explain", "--json", "--param", category, read]);
        let told = told.code(0).json();
        told["classes"][0].as_str().unwrap().to_owned()
    };
    let token = |class: &str| {
        let answer = sidecar.ask(&["resolve", "--json", "-c", class, "list"]);
        let answer = answer.code(0).json();
        (answer["token"].clone(), answer["bypass"].clone())
    };
    let (five, six) = (classes("5"), classes("6"));
    wait_until("the sidecar knows such reads", || {
        token(&five).1 == serde_json::json!(false)
    });
    let before = (token(&five), token(&six));
    let write = "UPDATE items SET price = 3 WHERE category = $1";
    let said = sidecar.ask(&["invalidate", "--sql", write, "--param", "5"]);
    let told = "what it may concern invalidated by event ";
    assert!(said.code(0).out.starts_with(told));
    assert_ne!(token(&five), before.0);
    assert_eq!(token(&six), before.1);
    let said = sidecar
        .ask(&["invalidate", "--sql", read, "--param", "5"])
        .code(2);
    assert!(said.err.contains("it changes no rows"), "{}", said.err);
    sidecar
        .ask(&["invalidate", "items", "--sql", write])
        .code(2);
    // What belongs to a statement says nothing of classes.
    for option in [["--param", "5"], ["--named", "a=5"], ["--dialect", "mysql"]] {
        let said = sidecar.ask(&[&["invalidate", "items"], &option[..]].concat());
        assert!(said.code(2).err.contains("--sql"));
    }
}
