//! What the operator's page lists is what there is.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::kit::Sidecar;

fn document(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::read_to_string(root.join(name)).unwrap()
}

#[test]
fn every_counter_is_explained_and_nothing_else() {
    let sidecar = Sidecar::lone();
    let status = sidecar.ask(&["status", "--json"]).code(0).json();
    let counted = status["counters"].as_object().unwrap().keys().cloned();
    let page = document("docs/operations.md");
    let section = page
        .split("### Counters")
        .nth(1)
        .unwrap()
        .split("\n## ")
        .next()
        .unwrap();
    let first_cells = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    let named = |cell: &str| -> Vec<String> {
        let names = cell.split(", ");
        names
            .map(|name| name.trim_matches('`').to_owned())
            .collect()
    };
    let explained: BTreeSet<String> = first_cells.flat_map(named).collect();
    assert_eq!(explained, counted.collect::<BTreeSet<String>>());
}
