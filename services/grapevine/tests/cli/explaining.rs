//! `explain`, which asks nobody.

use crate::kit::{program, run, start};

#[test]
fn a_read_is_explained_in_one_line_of_json() {
    let said = run(&[
        "explain",
        "--json",
        "--dialect",
        "mysql",
        "--param",
        "5",
        "SELECT id FROM Items WHERE CategoryID = ? AND Stock > 0 ORDER BY Stock LIMIT 10",
    ]);
    let said = said.code(0).json();
    assert_eq!(said["tables"], serde_json::json!(["items"]));
    assert_eq!(
        said["conjunctions"],
        serde_json::json!([{"table": "items", "terms": [
            {"column": "categoryid", "is": "5"},
            {"column": "stock", "from": "0"},
        ]}])
    );
    assert_eq!(
        said["index"],
        serde_json::json!({
            "table": "items",
            "columns": ["categoryid"],
            "leaves": [{"values": ["5"]}],
            "range": "stock",
        })
    );
    assert_eq!(
        said["invalidated_by"],
        serde_json::json!(["rows of items where categoryid = 5 AND stock >= 0"])
    );
    assert_eq!(
        (&said["cacheable"], &said["limit"]),
        (&true.into(), &10.into())
    );
    for field in ["kind", "widened", "order", "classes", "offset"] {
        assert!(said.get(field).is_some(), "{field} is missing from {said}");
    }
}

#[test]
fn a_write_is_explained_to_people() {
    let said = run(&[
        "explain",
        "--named",
        "name='5'",
        "UPDATE items SET category = 6 WHERE category = 5 AND name = :name",
    ]);
    assert_eq!(
        said.code(0).out,
        "tables:\n  items\nclasses to invalidate:\n  items\nchanges:\n  rows of items where category = 5 AND name = 5\n  rows of items where category = 6 AND name = 5\n"
    );
}

#[test]
fn a_statement_may_come_from_standard_input() {
    let mut command = program();
    command.args(["explain", "--json", "-"]);
    let mut running = start(command);
    running.write("SELECT *\nFROM items -- all of them\n");
    running.end_input();
    let said = running.end_by_itself().code(0).json();
    assert_eq!(
        said["invalidated_by"],
        serde_json::json!(["any row of items"])
    );
}

/// One byte too many is read, which is half a character here.
#[test]
fn g10_a_statement_from_standard_input_that_is_too_long_is_refused_as_such() {
    let mut command = program();
    command.args(["explain", "-"]);
    let mut running = start(command);
    running.write(&format!("SELECT '{}", "ä".repeat(32_765)));
    let said = running.end_by_itself().code(2);
    let told = "sql has more than 65536 bytes, which is the limit";
    assert!(said.err.contains(told), "{}", said.err);
}

#[test]
fn statements_that_cannot_be_explained_end_with_2() {
    for (line, problem) in [
        (&["explain", "SELEC 1"][..], "sql is not understood"),
        (
            &["explain", "SELECT 1; SELECT 2"],
            "sql has 2 statements; it must be one",
        ),
        (
            &["explain", "SELECT * FROM t WHERE a = $1"],
            "$1 has no value; 0 are given",
        ),
        (
            &["explain", "SELECT * FROM t", "--param", "5"],
            "1 stands nowhere",
        ),
        (
            &["explain", "SELECT * FROM t", "--named", "5"],
            "--named 5: it must be NAME=VALUE",
        ),
        (&["explain", "SELECT 1", "--dialect", "oracle"], "sqlite"),
        (&["explain", "BEGIN"], "BEGIN"),
    ] {
        let said = run(line).code(2);
        assert!(said.err.contains(problem), "{line:?}: {}", said.err);
    }
    let said = run(&["explain", "--json", "SELEC 1"]).code(2);
    assert_eq!(said.error()["kind"], "usage");
}
