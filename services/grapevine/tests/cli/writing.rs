//! Writes declared before their commit.

use crate::kit::Sidecar;

#[test]
fn g8_a_write_is_begun_and_committed_or_aborted() {
    let sidecar = Sidecar::lone();
    let begin = |class: &str| {
        let said = sidecar.ask(&["write", "begin", class, "--lease", "5m", "--json"]);
        let begun = said.code(0).json();
        assert_eq!(begun["lease_ms"], 300_000);
        begun["intent"].as_str().unwrap().to_owned()
    };
    let token = || {
        let said = sidecar.ask(&["resolve", "--json", "-c", "cart/13", "items::10"]);
        said.code(0).json()["token"].clone()
    };
    let before = token();
    let intent = begin("cart/13");
    assert_eq!(intent.len(), 50);
    let said = sidecar.ask(&["write", "abort", &intent]);
    assert_eq!(said.code(0).out, "aborted: nothing is invalidated\n");
    assert_eq!(token(), before);

    let intent = begin("cart/13");
    let said = sidecar.ask(&[
        "write",
        "commit",
        &intent,
        "cart/13",
        "--receipt",
        "all",
        "--json",
    ]);
    let outcome = said.code(0).json();
    assert_eq!(outcome["receipt"]["satisfied"], true);
    assert_ne!(token(), before);
    let said = sidecar.ask(&["write", "abort", &intent, "--json"]);
    let late = said.code(3);
    assert_eq!(late.json()["outcome"], "bumped");
    assert_eq!(late.json()["sequence"], outcome["sequence"]);
    assert_eq!(late.error()["kind"], "not_reached");

    let status = sidecar.ask(&["status", "--json"]).code(0).json();
    let counted = |name: &str| status["counters"][name].as_u64().unwrap();
    let names = ["begun", "committed", "aborted", "expired", "open"];
    let counts = names.map(|name| counted(&format!("intents_{name}")));
    assert_eq!(counts, [2, 1, 1, 0, 0]);
}

#[test]
fn what_is_no_intent_or_no_lease_is_refused() {
    let sidecar = Sidecar::lone();
    sidecar.ask(&["write", "abort", "xyz"]).code(2);
    let said = sidecar
        .ask(&["write", "commit", "0102", "a", "--json"])
        .code(2);
    assert_eq!(said.error()["violations"][0]["field"], "intent");
    let said = sidecar.ask(&["write", "begin", "a", "--lease", "11m", "--json"]);
    let said = said.code(2);
    let message = said.error()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("from 100ms to 10m"), "{message}");
    let unknown = ["01"; 25].concat();
    let said = sidecar.ask(&["write", "abort", &unknown]).code(3);
    assert!(said.err.contains("does not know the intent"), "{said:?}");
}
