//! Several sidecars: receipts and who is asked next.

use serde_json::json;

use crate::kit::{Sidecar, cluster, wait_until};

#[test]
fn g6_a_receipt_that_is_not_reached_has_a_code_of_its_own() {
    let mut sidecars = cluster(3);
    let ask = |sidecars: &[Sidecar], timeout| {
        sidecars[0].ask(&[
            "invalidate",
            "cart/1",
            "--receipt",
            "all",
            "--timeout",
            timeout,
            "--json",
        ])
    };
    let outcome = ask(&sidecars, "30s").code(0).json();
    let states = |outcome: &serde_json::Value| -> Vec<serde_json::Value> {
        let holders = outcome["receipt"]["holders"].as_array().unwrap();
        holders
            .iter()
            .map(|holder| holder["state"].clone())
            .collect()
    };
    assert_eq!(states(&outcome), ["has", "has", "has"]);
    let said = sidecars[0].ask(&["members", "--expect", "4", "--timeout", "2s", "--json"]);
    let said = said.code(3);
    assert_eq!(
        (said.lines().len(), &said.error()["kind"]),
        (3, &json!("not_reached"))
    );
    // Stopped, it still holds grants for a while: it may serve what is stale now.
    sidecars[2].process().signal("STOP");
    let said = ask(&sidecars, "1s").code(3);
    assert_eq!(said.error()["kind"], "not_reached");
    let states_then = states(&said.json());
    assert_eq!(
        (&states_then[0], &states_then[2]),
        (&json!("has"), &json!("has_not"))
    );
    // Once they have lapsed it cannot.
    let outcome = ask(&sidecars, "30s").code(0).json();
    assert_eq!(states(&outcome), ["has", "has", "cannot_serve"]);
    sidecars[2].kill();
    // What it granted the first may last a little longer than what it was granted.
    wait_until("its grant lapses", || {
        let members = sidecars[0].ask(&["members", "--json"]).code(0).lines();
        assert_eq!((members.len(), &members[0]["state"]), (3, &json!("self")));
        members[2]["grant_left_ms"] == json!(0)
    });
    wait_until("members says whom the others wait for", || {
        let members = sidecars[0].ask(&["members", "--json"]).code(0).lines();
        let reason = |at: usize| members[at]["reason"].as_str().unwrap();
        let names = |reason: &str| reason.contains("n3 is not connected; last heard ");
        names(reason(0)) && reason(1).is_empty() && names(reason(2))
    });
    let table = sidecars[0].ask(&["members"]).code(0).out;
    let row = table.lines().last().unwrap();
    assert!(row.contains("n3 is not connected"), "{table}");
}

#[test]
fn another_sidecar_is_asked_when_the_first_is_gone() {
    let mut sidecars = cluster(2);
    let endpoints = [sidecars[0].endpoint(), sidecars[1].endpoint()];
    sidecars[0].kill();
    let said = sidecars[0].ask(&[
        "invalidate",
        "a",
        "--fail-over-to",
        &endpoints[1],
        "--receipt",
        "none",
        "--json",
    ]);
    assert_eq!(said.code(0).json()["answered_by"], endpoints[1].as_str());
    let said = sidecars[0].ask(&["invalidate", "a", "--json"]).code(4);
    assert_eq!(said.error()["kind"], "unreachable");
}

#[test]
fn g11_a_part_of_a_cluster_is_not_fresh() {
    let alone = Sidecar::start(
        "alone",
        &["--gossip-listen", "127.0.0.1:0", "--expected-members", "3"],
    );
    // Not even there at first: waiting covers both.
    let said = alone
        .ask(&["status", "--wait-fresh", "3s", "--json"])
        .code(3);
    assert_eq!(said.error()["kind"], "not_reached");
    assert_ne!(said.json()["freshness"], "fresh");
    let said = alone.ask(&["resolve", "-c", "a", "a"]).code(0);
    assert!(
        said.out.contains("freshness: ") && said.out.contains("bypass"),
        "{said:?}"
    );
    // Nobody can hold a write: it has answered, and says so.
    let said = alone.ask(&["write", "begin", "a", "--json"]).code(1);
    let error = said.error();
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("no peer can hold"), "{message}");
}
