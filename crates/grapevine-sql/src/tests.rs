#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn in_dialect(dialect: Dialect, sql: &str, values: &[Scalar]) -> Result<Explanation, ExplainError> {
    let parameters: Vec<_> = values
        .iter()
        .map(|value| Parameter {
            name: None,
            value: value.clone(),
        })
        .collect();
    let options = Options {
        dialect,
        ..Options::default()
    };
    explain(sql, &parameters, options)
}

/// What invalidates a read in PostgreSQL, one line each.
fn by(sql: &str) -> String {
    by_in(Dialect::Postgres, sql)
}

fn by_in(dialect: Dialect, sql: &str) -> String {
    let explained = in_dialect(dialect, sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error}"));
    assert_eq!(explained.kind, Kind::Read, "{sql}");
    explained.invalidated_by.join("\n")
}

/// What a write changes, one line each.
fn changes(sql: &str) -> String {
    changes_in(Dialect::Postgres, sql)
}

fn changes_in(dialect: Dialect, sql: &str) -> String {
    let explained = in_dialect(dialect, sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error}"));
    assert_eq!(explained.kind, Kind::Write, "{sql}");
    let rows = explained.conjunctions.iter().map(ToString::to_string);
    rows.collect::<Vec<_>>().join("\n")
}

#[test]
fn conditions_on_columns_narrow_a_read() {
    for (sql, expected) in [
        ("SELECT * FROM items", "any row of items"),
        (
            "SELECT * FROM items WHERE category = 5",
            "rows of items where category = 5",
        ),
        (
            "SELECT * FROM items WHERE 5 = category",
            "rows of items where category = 5",
        ),
        (
            "SELECT * FROM public.items i WHERE i.category = '5'",
            "rows of items where category = 5",
        ),
        (
            "SELECT * FROM items WHERE category IS NULL",
            "rows of items where category IS NULL",
        ),
        (
            "SELECT * FROM items WHERE category IS NOT DISTINCT FROM NULL",
            "rows of items where category IS NULL",
        ),
        (
            "SELECT * FROM items WHERE category = 5 AND price BETWEEN 100 AND 200 AND stock",
            "rows of items where category = 5 AND price BETWEEN 100 AND 200 AND stock = 1",
        ),
        (
            "SELECT * FROM items WHERE category IN (5, 6, NULL)",
            "rows of items where category = 5\nrows of items where category = 6",
        ),
        (
            "SELECT * FROM items WHERE (category = 5 OR category = 6) AND price > 10 AND price <= 20",
            "rows of items where category = 5 AND price BETWEEN 10 AND 20\nrows of items where category = 6 AND price BETWEEN 10 AND 20",
        ),
        (
            "SELECT * FROM items WHERE NOT (category <> 5 OR price >= 10)",
            "rows of items where category = 5 AND price <= 10",
        ),
        (
            "SELECT * FROM items WHERE NOT NOT category = 5",
            "rows of items where category = 5",
        ),
        (
            "SELECT count(*), max(price) FROM items WHERE 1 = 1 AND category = 5 GROUP BY seller HAVING count(*) > 3",
            "rows of items where category = 5",
        ),
        (
            "SELECT * FROM items WHERE ends >= DATE '2026-06-10' AND ends < '2026-06-12 08:00'::timestamp",
            "rows of items where ends BETWEEN 2026-06-08 AND 2026-06-14 08:00:00",
        ),
        // What is left out makes it wider, never narrower.
        (
            "SELECT * FROM items WHERE category = 5 AND lower(name) = 'x'",
            "rows of items where category = 5",
        ),
        (
            "SELECT * FROM items WHERE category = 5 AND name LIKE 'x%'",
            "rows of items where category = 5",
        ),
        (
            "SELECT * FROM items WHERE category = 5 OR name LIKE 'x%'",
            "any row of items",
        ),
        (
            "SELECT * FROM items WHERE category = 5 AND name > 'x'",
            "rows of items where category = 5",
        ),
        (
            "SELECT * FROM items WHERE category = 5 AND price > '10'",
            "rows of items where category = 5",
        ),
        (
            "SELECT * FROM items WHERE category <> 5",
            "any row of items",
        ),
        (
            "SELECT * FROM items WHERE category NOT IN (5)",
            "any row of items",
        ),
        (
            "SELECT * FROM items WHERE category + 1 = 5",
            "any row of items",
        ),
        (
            "SELECT * FROM items WHERE category = 5 AND category = 6",
            "rows of items where category = 5",
        ),
    ] {
        assert_eq!(by(sql), expected, "{sql}");
    }
    // What can never be true needs nothing.
    for sql in [
        "SELECT * FROM items WHERE category = NULL",
        "SELECT * FROM items WHERE 1 = 0",
        "SELECT * FROM items WHERE false AND category = 5",
    ] {
        let explained = in_dialect(Dialect::Postgres, sql, &[]).unwrap();
        assert!(
            explained.classes.is_empty() && !explained.cacheable,
            "{sql}"
        );
    }
}

#[test]
fn g3_a_table_is_never_lost_wherever_it_stands() {
    for (sql, tables) in [
        ("SELECT * FROM a, b", "a b"),
        (
            "SELECT * FROM a JOIN (b JOIN c ON b.x = c.x) ON a.x = b.x",
            "a b c",
        ),
        ("SELECT * FROM (SELECT * FROM a) AS x", "a"),
        (
            "SELECT (SELECT max(y) FROM b WHERE b.x = a.x) FROM a",
            "a b",
        ),
        (
            "SELECT * FROM a WHERE x IN (SELECT x FROM b WHERE y IN (SELECT y FROM c))",
            "a b c",
        ),
        (
            "SELECT * FROM a WHERE EXISTS (SELECT 1 FROM b) OR NOT EXISTS (SELECT 1 FROM c)",
            "a b c",
        ),
        ("SELECT * FROM a ORDER BY (SELECT max(y) FROM b)", "a b"),
        ("SELECT * FROM a LIMIT (SELECT max(y) FROM b)", "a b"),
        (
            "SELECT * FROM a UNION SELECT * FROM b EXCEPT SELECT * FROM c",
            "a b c",
        ),
        ("SELECT * FROM a UNION ALL TABLE b", "a b"),
        (
            "SELECT count(*) FILTER (WHERE x IN (SELECT x FROM b)) FROM a",
            "a b",
        ),
        (
            "SELECT CASE WHEN EXISTS (SELECT 1 FROM b) THEN 1 ELSE 2 END FROM a",
            "a b",
        ),
        (
            "SELECT * FROM a, LATERAL (SELECT * FROM b WHERE b.x = a.x) AS l",
            "a b",
        ),
        (
            "SELECT coalesce((SELECT x FROM b), 1) FROM a GROUP BY (SELECT y FROM c) HAVING max(x) > (SELECT z FROM d)",
            "a b c d",
        ),
        (
            "WITH w AS (SELECT * FROM a) SELECT * FROM w JOIN b ON true",
            "a b",
        ),
        (
            "WITH w AS (SELECT * FROM a), v AS (SELECT * FROM w) SELECT * FROM v",
            "a",
        ),
        // A name of a WITH means a table outside of it, and in its own definition.
        ("WITH a AS (SELECT * FROM a) SELECT * FROM a", "a"),
        (
            "SELECT * FROM b WHERE x IN (WITH a AS (SELECT 1 AS x) SELECT x FROM a) AND y IN (SELECT y FROM a)",
            "a b",
        ),
        (
            "WITH RECURSIVE w AS (SELECT * FROM a UNION SELECT a.* FROM a JOIN w ON a.up = w.id) SELECT * FROM w",
            "a",
        ),
        ("WITH w AS (SELECT 1) SELECT * FROM other.w", "w"),
    ] {
        let explained = in_dialect(Dialect::Postgres, sql, &[]);
        let explained = explained.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(explained.tables.join(" "), tables, "{sql}");
        assert!(explained.cacheable, "{sql}: {:?}", explained.not_cacheable);
    }
    let explained = in_dialect(Dialect::Sqlite, "SELECT * FROM a WHERE x IN b", &[]).unwrap();
    assert_eq!(explained.invalidated_by, ["any row of a", "any row of b"]);
}

#[test]
fn g3_joins_carry_values_only_where_rows_need_them() {
    for (sql, expected) in [
        (
            "SELECT * FROM items i JOIN users u ON i.seller = u.id WHERE u.id = 7 AND i.category = 5",
            "rows of items where category = 5 AND seller = 7\nrows of users where id = 7",
        ),
        (
            "SELECT * FROM items i, users u, regions r WHERE i.seller = u.id AND u.region = r.id AND r.id = 3",
            "any row of items\nrows of regions where id = 3\nrows of users where region = 3",
        ),
        (
            "SELECT * FROM bids JOIN items USING (item) WHERE bids.item = 9",
            "rows of bids where item = 9\nrows of items where item = 9",
        ),
        // The side that is filled with NULL: its own part of ON, and of WHERE what NULL does not meet.
        (
            "SELECT * FROM items i LEFT JOIN bids b ON b.item = i.id AND b.kind = 1 WHERE i.id = 9",
            "rows of bids where item = 9 AND kind = 1\nrows of items where id = 9",
        ),
        (
            "SELECT * FROM items i LEFT JOIN bids b ON b.item = i.id WHERE i.id = 9 AND b.item IS NULL",
            "rows of bids where item = 9\nrows of items where id = 9",
        ),
        (
            "SELECT * FROM items i LEFT JOIN bids b ON b.item = i.id WHERE b.kind = 1 OR b.kind IS NULL",
            "any row of bids\nany row of items",
        ),
        // The other side is there whatever ON says.
        (
            "SELECT * FROM items i LEFT JOIN bids b ON b.item = i.id AND i.category = 5",
            "any row of bids\nany row of items",
        ),
        (
            "SELECT * FROM bids b RIGHT JOIN items i ON b.item = i.id AND b.kind = 1",
            "rows of bids where kind = 1\nany row of items",
        ),
        (
            "SELECT * FROM a FULL JOIN b ON a.x = b.x AND a.y = 1 AND b.y = 2",
            "any row of a\nany row of b",
        ),
        (
            "SELECT * FROM a LEFT JOIN (b JOIN c ON b.x = c.x AND c.y = 2) ON a.x = b.x AND b.y = 1 WHERE a.x = 5",
            "rows of a where x = 5\nrows of b where x = 5 AND y = 1\nrows of c where x = 5 AND y = 2",
        ),
        (
            "SELECT * FROM t AS one JOIN t AS two ON one.up = two.id WHERE one.id = 1",
            "any row of t",
        ),
    ] {
        let sorted = |text: String| {
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(by(sql)), sorted(expected.to_owned()), "{sql}");
    }
}

#[test]
fn writes_tell_their_rows_before_and_after() {
    for (sql, expected) in [
        (
            "UPDATE items SET price = 3 WHERE category = 5",
            "rows of items where category = 5",
        ),
        (
            "UPDATE items SET category = 6 WHERE category = 5 AND id = 3333",
            "rows of items where category = 5 AND id = 3333\nrows of items where category = 6 AND id = 3333",
        ),
        (
            "UPDATE items SET category = category + 1 WHERE category = 5 AND id = 1",
            "rows of items where id = 1",
        ),
        // A column may round or cut what it is given.
        (
            "UPDATE items SET price = 1.5, ends = '2026-01-05 10:00' WHERE price = 2 AND ends = '2026-01-05' AND id = 1",
            "rows of items where id = 1",
        ),
        (
            "UPDATE items SET (a, b) = (1, 2) WHERE a = 1 AND id = 2",
            "rows of items where id = 2",
        ),
        ("UPDATE items SET price = 1", "any row of items"),
        (
            "UPDATE items i SET price = 1 FROM users u WHERE i.seller = u.id AND u.id = 7",
            "rows of items where seller = 7",
        ),
        (
            "DELETE FROM items WHERE category = 5 OR id = 3",
            "rows of items where category = 5\nrows of items where id = 3",
        ),
        (
            "DELETE FROM items USING users u WHERE items.seller = u.id AND u.id = 7",
            "rows of items where seller = 7",
        ),
        (
            "INSERT INTO items (id, category, price) VALUES (1, 5, 2), (2, 6, DEFAULT)",
            "rows of items where category = 5 AND id = 1 AND price = 2\nrows of items where category = 6 AND id = 2",
        ),
        (
            "INSERT INTO items (id) VALUES (1) ON CONFLICT DO NOTHING",
            "rows of items where id = 1",
        ),
        (
            "INSERT INTO items (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET category = 5",
            "any row of items",
        ),
        ("INSERT INTO items VALUES (1, 5)", "any row of items"),
        (
            "INSERT INTO items (id) SELECT id FROM others",
            "any row of items",
        ),
        ("TRUNCATE items", "any row of items"),
        (
            "WITH gone AS (DELETE FROM items WHERE id = 1 RETURNING *) SELECT * FROM gone",
            "rows of items where id = 1",
        ),
        (
            "WITH gone AS (DELETE FROM a WHERE id = 1 RETURNING *) INSERT INTO b (id) SELECT id FROM gone",
            "rows of a where id = 1\nany row of b",
        ),
    ] {
        assert_eq!(changes(sql), expected, "{sql}");
    }
    for (sql, expected) in [
        ("REPLACE INTO items (id) VALUES (1)", "any row of items"),
        (
            "INSERT INTO items (id) VALUES (1) ON DUPLICATE KEY UPDATE n = n + 1",
            "any row of items",
        ),
        (
            "INSERT INTO items SET id = 1, category = 5",
            "rows of items where category = 5 AND id = 1",
        ),
        (
            "UPDATE a JOIN b ON a.x = b.x SET a.y = 1 WHERE b.z = 2",
            "any row of a\nany row of b",
        ),
        (
            "DELETE a FROM a JOIN b ON a.x = b.x WHERE b.z = 2",
            "any row of a\nany row of b",
        ),
    ] {
        assert_eq!(changes_in(Dialect::MySql, sql), expected, "{sql}");
    }
    assert_eq!(
        changes_in(
            Dialect::Sqlite,
            "INSERT OR REPLACE INTO items (id) VALUES (1)"
        ),
        "any row of items"
    );
}

#[test]
fn g3_a_number_in_a_column_of_text_is_ordered_as_text_in_sqlite() {
    let read = "SELECT * FROM t WHERE k BETWEEN 1 AND 2";
    for write in [
        "INSERT INTO t (k) VALUES (100)",
        "DELETE FROM t WHERE k = 100",
        "UPDATE t SET k = 100 WHERE k = 200",
    ] {
        let invalidated = |dialect| {
            let read = in_dialect(dialect, read, &[]).unwrap();
            read.is_invalidated_by(&in_dialect(dialect, write, &[]).unwrap().rows)
        };
        assert!(invalidated(Dialect::Sqlite), "{write}");
        assert!(!invalidated(Dialect::Postgres), "{write}");
    }
}

#[test]
fn dialects_differ_in_names_and_values() {
    use Dialect::{MySql, Postgres, Sqlite};
    let quoted = r#"SELECT * FROM "Items" WHERE "Category" = 'Books'"#;
    assert_eq!(
        by_in(Postgres, quoted),
        "rows of Items where Category = 'Books'"
    );
    assert_eq!(
        by_in(Sqlite, quoted),
        "rows of items where category = 'books'"
    );
    assert_eq!(
        by_in(MySql, "SELECT * FROM `Items` WHERE `Category` = \"Books \""),
        "rows of items where category = 'books'"
    );
    assert_eq!(
        by_in(Postgres, "SELECT * FROM Items WHERE ID = 5"),
        "rows of items where id = 5"
    );
    assert_eq!(
        by_in(MySql, "SELECT * FROM t WHERE c <=> NULL AND d <=> 4"),
        "rows of t where c IS NULL AND d = 4"
    );
    assert_eq!(
        by_in(Sqlite, "SELECT * FROM t WHERE c IS 4 AND d == 5"),
        "rows of t where c = 4 AND d = 5"
    );
    // Of MySQL's collations only ASCII is sure.
    assert_eq!(
        by_in(MySql, "SELECT * FROM t WHERE c = 'é' AND d = 1"),
        "rows of t where d = 1"
    );
    assert_eq!(
        by_in(MySql, "SELECT * FROM t WHERE active AND d = 1"),
        "rows of t where d = 1"
    );
}

#[test]
fn parameters_are_values_by_place_or_by_name() {
    let one = |sql, values: &[Scalar]| {
        in_dialect(Dialect::Sqlite, sql, values)
            .map(|explained| explained.invalidated_by.join("\n"))
    };
    let expected = "rows of t where a = 1 AND b = 'x'";
    let values = [Scalar::Int(1), Scalar::Text("x".into())];
    assert_eq!(
        one("SELECT * FROM t WHERE a = ? AND b = ?", &values).unwrap(),
        expected
    );
    assert_eq!(
        one("SELECT * FROM t WHERE b = ?2 AND a = ?1", &values).unwrap(),
        expected
    );
    let dollars = in_dialect(
        Dialect::Postgres,
        "SELECT * FROM t WHERE b = $2 AND a = $1",
        &values,
    );
    assert_eq!(dollars.unwrap().invalidated_by, [expected]);
    let named = ["a", "b"]
        .iter()
        .zip(&values)
        .map(|(name, value)| Parameter {
            name: Some((*name).to_owned()),
            value: value.clone(),
        });
    let named: Vec<_> = named.collect();
    for dialect in [Dialect::Postgres, Dialect::MySql, Dialect::Sqlite] {
        let options = Options {
            dialect,
            ..Options::default()
        };
        let explained = explain("SELECT * FROM t WHERE a = :a AND b = :b", &named, options);
        assert_eq!(explained.unwrap().invalidated_by, [expected], "{dialect}");
    }
    let missing = one("SELECT * FROM t WHERE a = ? AND b = ?", &values[..1]).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "parameters: the statement's ?2 has no value; 1 are given"
    );
    let unused = one("SELECT * FROM t WHERE a = ?", &values).unwrap_err();
    assert_eq!(
        unused.to_string(),
        "parameters: 2 stands nowhere in the statement"
    );
}

#[test]
fn what_changes_by_itself_is_refused_or_the_whole_table() {
    let volatile = [
        "SELECT * FROM items WHERE category = 5 AND ends >= now()",
        "SELECT * FROM items WHERE category = 5 AND ends >= CURRENT_TIMESTAMP",
        "SELECT * FROM items WHERE category = 5 AND ends >= 'today'",
        "SELECT * FROM items WHERE category = 5 AND ends >= 'today 10:00'",
        "SELECT * FROM items WHERE category = 5 AND ends >= timestamp '10:00 tomorrow EST'",
        "SELECT * FROM items WHERE category = 5 AND tenant = current_schema",
        "SELECT * FROM items WHERE category = 5 AND owner = USER",
        "SELECT random() FROM items WHERE category = 5",
        "SELECT my_function(id) FROM items WHERE category = 5",
        "SELECT * FROM items WHERE category = 5 AND owner = current_user",
        "SELECT * FROM items TABLESAMPLE SYSTEM (10) WHERE category = 5",
        "SELECT age(born) FROM items WHERE category = 5",
        "SELECT * FROM items WHERE category = 5 FOR UPDATE",
    ];
    for sql in volatile {
        let explained = in_dialect(Dialect::Postgres, sql, &[])
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert!(
            !explained.cacheable && !explained.not_cacheable.is_empty(),
            "{sql}"
        );
        let options = Options {
            volatile: Unsure::Table,
            ..Options::default()
        };
        let explained = explain(sql, &[], options).unwrap();
        assert!(explained.cacheable, "{sql}");
        assert_eq!(explained.classes, ["items/:*"], "{sql}");
    }
    for sql in [
        "SELECT date('now') FROM t",
        "SELECT datetime() FROM t",
        "SELECT date(?) FROM t",
    ] {
        let values: &[_] = if sql.contains('?') {
            &[Scalar::Text("now".into())]
        } else {
            &[]
        };
        assert!(
            !in_dialect(Dialect::Sqlite, sql, values).unwrap().cacheable,
            "{sql}"
        );
    }
    assert!(
        in_dialect(Dialect::Sqlite, "SELECT date(born) FROM t", &[])
            .unwrap()
            .cacheable
    );
    assert!(
        !in_dialect(Dialect::MySql, "SELECT @x FROM t", &[])
            .unwrap()
            .cacheable
    );
    assert!(
        !in_dialect(Dialect::MySql, "SELECT * FROM t WHERE a = @x", &[])
            .unwrap()
            .cacheable
    );
    assert!(
        !in_dialect(Dialect::Postgres, "SELECT 1", &[])
            .unwrap()
            .cacheable
    );
}

#[test]
fn g3_what_the_database_knows_of_itself_is_not_cacheable() {
    for (dialect, sql) in [
        (Dialect::Postgres, "SELECT * FROM information_schema.tables"),
        (Dialect::Postgres, "SELECT * FROM pg_class"),
        (Dialect::MySql, "SELECT * FROM mysql.user"),
        (Dialect::Sqlite, "SELECT * FROM t JOIN sqlite_master"),
    ] {
        assert!(!in_dialect(dialect, sql, &[]).unwrap().cacheable, "{sql}");
    }
    // A parameter that says now is as good as a literal.
    let now = [Scalar::Text("Now".into())];
    let explained = in_dialect(Dialect::Postgres, "SELECT * FROM t WHERE ends > $1", &now);
    assert!(!explained.unwrap().cacheable);
    for (sql, cacheable) in [
        ("SELECT strftime('%s') FROM t", false),
        ("SELECT strftime('%s', d) FROM t", true),
    ] {
        assert_eq!(
            in_dialect(Dialect::Sqlite, sql, &[]).unwrap().cacheable,
            cacheable,
            "{sql}"
        );
    }
}

#[test]
fn g3_no_write_loses_its_tables_however_it_names_them() {
    let explained = in_dialect(Dialect::Postgres, "SELECT 1 UNION TABLE \"Items\"", &[]).unwrap();
    assert_eq!(explained.tables, ["Items"]);
    for (dialect, sql, tables) in [
        (
            Dialect::MySql,
            "UPDATE (a JOIN b ON a.x = b.x) SET a.y = 1",
            "a b",
        ),
        (
            Dialect::MySql,
            "DELETE FROM a USING a JOIN b ON a.x = b.x WHERE b.z = 2",
            "a",
        ),
        (Dialect::Postgres, "DELETE FROM ONLY a WHERE x = 1", "a"),
        (
            Dialect::Postgres,
            "MERGE INTO a USING b ON a.x = b.x WHEN MATCHED THEN DELETE",
            "a",
        ),
        (Dialect::Postgres, "TRUNCATE a, b", "a b"),
        (Dialect::Postgres, "DROP TABLE a, b", "a b"),
        (Dialect::Postgres, "ALTER TABLE a DROP COLUMN x", "a"),
        (Dialect::Postgres, "COPY a (x) FROM STDIN", "a"),
        (
            Dialect::Sqlite,
            "UPDATE OR REPLACE a SET x = 1 WHERE y = 2",
            "a",
        ),
    ] {
        match in_dialect(dialect, sql, &[]) {
            Ok(explained) => {
                assert_eq!(
                    (explained.kind, explained.tables.join(" ").as_str()),
                    (Kind::Write, tables),
                    "{sql}"
                );
            }
            // What is refused loses nothing: whoever asks has to say what he changes.
            Err(error) => assert!(
                matches!(error, ExplainError::Unparsable { .. }),
                "{sql}: {error}"
            ),
        }
    }
}

#[test]
fn text_that_is_not_understood_is_refused_or_all_that_may_be_its_tables() {
    let sql = "SELECT * FROM items FROBNICATE WITHIN users WHERE id = 5 5";
    let refused = in_dialect(Dialect::Postgres, sql, &[]).unwrap_err();
    assert!(
        matches!(refused, ExplainError::Unparsable { .. }),
        "{refused}"
    );
    let behind = "SELECT * FROM a WHERE x IN (SELECT y FROM b) END AND EXISTS (SELECT 1 FROM c)";
    let refused = in_dialect(Dialect::Postgres, behind, &[]).unwrap_err();
    assert!(refused.to_string().contains("found END"), "{refused}");
    let options = Options {
        unparsable: Unsure::Table,
        ..Options::default()
    };
    let explained = explain(sql, &[], options).unwrap();
    assert!(
        explained.tables.contains(&"items".to_owned())
            && explained.tables.contains(&"users".to_owned())
    );
    assert_eq!((explained.kind, explained.cacheable), (Kind::Read, true));
    let explained = explain("UPDATE items FROBNICATE users 5 5", &[], options).unwrap();
    assert_eq!(explained.kind, Kind::Write);
    assert!(explained.tables.contains(&"items".to_owned()));
}

#[test]
fn lists_of_ids_have_an_index() {
    let index = |sql| {
        let explained = in_dialect(Dialect::Postgres, sql, &[]).unwrap();
        match (&explained.index, &explained.no_index) {
            (Some(index), None) => index.to_string(),
            (None, Some(why)) => format!("none: {why}"),
            both => panic!("{sql}: {both:?}"),
        }
    };
    assert_eq!(
        index("SELECT id FROM items WHERE category = 5"),
        "items by category: 5"
    );
    assert_eq!(
        index(
            "SELECT id, name FROM items WHERE instock AND category IN (5, 6) ORDER BY price DESC LIMIT 10"
        ),
        "items by category, instock: 5, 1; 6, 1"
    );
    assert_eq!(
        index("SELECT * FROM items WHERE category = 5 AND price > 3 ORDER BY price"),
        "items by category, a range of price: 5"
    );
    for (sql, why) in [
        (
            "SELECT id FROM items WHERE NOT category = 5",
            "NOT is refused",
        ),
        ("SELECT id FROM items WHERE category <> 5", "NOT is refused"),
        (
            "SELECT id FROM items WHERE category = 5 AND price > 3 ORDER BY ends",
            "a range is of the column",
        ),
        ("SELECT count(*) FROM items WHERE category = 5", "computes"),
        (
            "SELECT DISTINCT id FROM items WHERE category = 5",
            "DISTINCT",
        ),
        (
            "SELECT seller FROM items WHERE category = 5 GROUP BY seller",
            "grouped",
        ),
        ("SELECT 1", "no table"),
        (
            "SELECT i.id FROM items i JOIN users u ON i.seller = u.id WHERE u.region = 5",
            "more than one table",
        ),
        (
            "SELECT id FROM items WHERE category = 5 UNION SELECT id FROM items WHERE category = 6",
            "no single SELECT",
        ),
        (
            "SELECT id FROM items WHERE category = 5 OR seller = 6",
            "different columns",
        ),
        (
            "SELECT id FROM items WHERE lower(name) = 'x'",
            "no comparison",
        ),
        (
            "SELECT id FROM items WHERE category = 5 ORDER BY lower(name)",
            "ordered by something else",
        ),
    ] {
        assert!(index(sql).contains(why), "{sql}: {}", index(sql));
    }
    let explained = in_dialect(
        Dialect::MySql,
        "SELECT id FROM items WHERE category = 5 ORDER BY price DESC, id LIMIT 20, 10",
        &[],
    );
    let explained = explained.unwrap();
    let order = explained
        .order
        .iter()
        .map(|order| (order.column.as_str(), order.direction));
    assert_eq!(
        order.collect::<Vec<_>>(),
        [("price", Direction::Desc), ("id", Direction::Asc)]
    );
    assert_eq!((explained.limit, explained.offset), (Some(10), Some(20)));
}

#[test]
fn g10_past_a_bound_a_read_depends_on_more() {
    let many = |count: usize| {
        let values: Vec<_> = (0..count).map(|value| value.to_string()).collect();
        format!(
            "SELECT * FROM items WHERE category = 5 AND id IN ({})",
            values.join(", ")
        )
    };
    assert_eq!(by(&many(3)).lines().count(), 3);
    // More classes than an address may have.
    assert_eq!(by(&many(17)), "any row of items");
    // More alternatives than are looked at: the rest of the condition stays.
    assert_eq!(
        by(&many(CONJUNCTIONS_MAX + 1)),
        "rows of items where category = 5"
    );
    // More alternatives of a table in several queries together.
    let lists = |queries: usize| {
        let list = |query: usize| {
            let values: Vec<_> = (0..60).map(|value| format!("{query}{value:02}")).collect();
            format!("SELECT * FROM t WHERE a IN ({})", values.join(", "))
        };
        let all: Vec<_> = (1..=queries).map(list).collect();
        let explained = in_dialect(Dialect::Postgres, &all.join(" UNION "), &[]);
        explained.unwrap().conjunctions.len()
    };
    assert_eq!((lists(1), lists(2), lists(3)), (60, 120, 1));
    // More tables than conditions are looked at of.
    let tables = |count: usize| {
        let names: Vec<_> = (0..count).map(|at| format!("t AS x{at}")).collect();
        let conditions: Vec<_> = (0..count).map(|at| format!("x{at}.a = 1")).collect();
        let (names, conditions) = (names.join(", "), conditions.join(" AND "));
        by(&format!("SELECT 1 FROM {names} WHERE {conditions}"))
    };
    assert_eq!(tables(RELATIONS_MAX), "rows of t where a = 1");
    assert_eq!(tables(RELATIONS_MAX + 1), "any row of t");
    let facts: Vec<_> = (0..=FACTS_MAX).map(|at| format!("c{at} = {at}")).collect();
    let explained = in_dialect(
        Dialect::Postgres,
        &format!("SELECT * FROM t WHERE {}", facts.join(" AND ")),
        &[],
    );
    let explained = explained.unwrap();
    assert_eq!(explained.conjunctions[0].terms.len(), FACTS_MAX);
    assert!(
        explained.widened.len() <= WIDENED_MAX + 1 && explained.index.is_none(),
        "{explained:?}"
    );
    let tables: Vec<_> = (0..17).map(|table| format!("t{table}")).collect();
    let explained = in_dialect(
        Dialect::Postgres,
        &format!("SELECT * FROM {}", tables.join(", ")),
        &[],
    );
    let explained = explained.unwrap();
    assert!(!explained.cacheable);
    assert!(
        explained.not_cacheable[0].contains("17 tables; the limit is 16"),
        "{explained:?}"
    );
}

#[test]
fn bad_statements_are_refused_with_the_limit() {
    let refused = |sql: &str| {
        in_dialect(Dialect::Postgres, sql, &[])
            .unwrap_err()
            .to_string()
    };
    assert_eq!(refused(""), "sql has 0 statements; it must be one");
    assert_eq!(
        refused("SELECT 1; SELECT 2"),
        "sql has 2 statements; it must be one"
    );
    assert_eq!(
        refused("BEGIN"),
        "sql is a statement whose text does not tell rows that it reads or changes: BEGIN"
    );
    assert_eq!(
        refused(&" ".repeat(SQL_BYTES_MAX + 1)),
        "sql has 65537 bytes; the limit is 65536"
    );
    let long = format!("SELECT {}", "1 + ".repeat(SQL_TOKENS_MAX));
    assert_eq!(
        refused(&long),
        "sql has 4001 tokens without literals, commas and parentheses; the limit is 4000"
    );
}

#[test]
fn deep_statements_are_understood_or_refused_but_break_nothing() {
    let chains = [
        format!("SELECT * FROM t WHERE a = 1{}", " OR a = 1".repeat(900)),
        format!("SELECT * FROM t WHERE a = 1{}", " + 1".repeat(3_900)),
        format!("SELECT 1{} FROM t", "::int".repeat(1_900)),
        format!("SELECT * FROM t WHERE {}a = 1", "NOT ".repeat(3_000)),
        format!(
            "SELECT * FROM t WHERE {}a = 1{}",
            "(".repeat(20_000),
            ")".repeat(20_000)
        ),
        format!("SELECT * FROM t{}", " UNION SELECT * FROM t".repeat(780)),
        format!("SELECT * FROM t WHERE a{}", " IS NULL".repeat(1_900)),
        format!(
            "{}SELECT * FROM t{}",
            "SELECT * FROM (".repeat(600),
            ") AS x".repeat(600)
        ),
        format!("SELECT * FROM t WHERE {}", "a BETWEEN ".repeat(1_900)),
    ];
    for sql in chains {
        let beginning = &sql[..40];
        match in_dialect(Dialect::Postgres, &sql, &[]) {
            Ok(explained) => assert_eq!(explained.tables, ["t"], "{beginning}"),
            Err(error) => assert!(
                matches!(error, ExplainError::Unparsable { .. }),
                "{beginning}: {error}"
            ),
        }
    }
}

/// The parser takes so much stack for each of its steps, that it gives up at its own limit of them is not enough.
#[test]
fn g10_nested_statements_fit_the_stack_of_a_small_thread() {
    let around = [
        ("f(", ")"),
        ("(", ")"),
        ("NOT ", ""),
        ("- ", ""),
        ("ARRAY[", "]"),
        ("CAST(", " AS int)"),
        ("CASE WHEN ", " THEN 1 END"),
        ("(SELECT ", ")"),
        ("a IN (", ")"),
        ("EXISTS (SELECT 1 FROM t WHERE ", ")"),
        ("(SELECT 1 FROM (t JOIN (t JOIN t ON ", ")))"),
    ];
    let explain_all = move || {
        for (before, behind) in around {
            for depth in (1..70).step_by(5) {
                let (before, behind) = (before.repeat(depth), behind.repeat(depth));
                let sql = format!("SELECT * FROM t WHERE x = {before}1{behind}");
                for dialect in Dialect::ALL {
                    let explained = in_dialect(dialect, &sql, &[]);
                    assert!(
                        !matches!(&explained, Ok(explained) if explained.tables != ["t"]),
                        "{sql}: {explained:?}"
                    );
                }
            }
        }
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    thread.spawn(explain_all).unwrap().join().unwrap();
}

/// Words and signs of SQL, so that soup of them gets past the tokenizer and deep into the parser.
const SOUP: [&str; 72] = [
    "SELECT",
    "FROM",
    "WHERE",
    "AND",
    "OR",
    "NOT",
    "IN",
    "(",
    ")",
    ",",
    ".",
    "*",
    "=",
    "<",
    ">",
    "<=>",
    "IS",
    "NULL",
    "a",
    "b",
    "t",
    "\"q\"",
    "`q`",
    "[q]",
    "'x'",
    "1",
    "2.5",
    "?",
    "$1",
    ":n",
    "@v",
    "JOIN",
    "LEFT",
    "RIGHT",
    "FULL",
    "OUTER",
    "ON",
    "USING",
    "UNION",
    "ALL",
    "EXCEPT",
    "GROUP",
    "BY",
    "HAVING",
    "ORDER",
    "LIMIT",
    "OFFSET",
    "WITH",
    "RECURSIVE",
    "AS",
    "EXISTS",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "END",
    "BETWEEN",
    "LIKE",
    "::",
    "int",
    "CAST",
    "INSERT",
    "INTO",
    "VALUES",
    "UPDATE",
    "SET",
    "DELETE",
    "LATERAL",
    "now()",
    "count",
    ";",
    "--",
];

fn any_options() -> impl proptest::strategy::Strategy<Value = Options> {
    use proptest::prelude::*;
    let unsure = || prop::sample::select(vec![Unsure::Refuse, Unsure::Table]);
    (
        prop::sample::select(Dialect::ALL.to_vec()),
        unsure(),
        unsure(),
    )
        .prop_map(|(dialect, volatile, unparsable)| Options {
            dialect,
            volatile,
            unparsable,
        })
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(1_500))]

    #[test]
    fn arbitrary_text_breaks_nothing(sql in "\\PC{0,200}", options in any_options()) {
        let _ = explain(&sql, &[], options);
    }

    #[test]
    fn arbitrary_words_break_nothing(
        words in proptest::collection::vec(proptest::sample::select(SOUP.to_vec()), 0..60),
        options in any_options(),
    ) {
        let sql = words.join(" ");
        let given = [
            Parameter { name: None, value: Scalar::Int(1) },
            Parameter { name: Some("n".into()), value: Scalar::Null },
        ];
        let _ = explain(&sql, &given, options);
        if let Ok(explained) = explain(&sql, &[], options) {
            proptest::prop_assert!(explained.class_paths.len() <= 16 || !explained.cacheable);
        }
    }

    #[test]
    fn g3_words_more_in_a_condition_lose_no_table(
        words in proptest::collection::vec(proptest::sample::select(SOUP.to_vec()), 0..12),
        options in any_options(),
    ) {
        let sql = format!(
            "SELECT * FROM first WHERE x IN (SELECT y FROM second WHERE {}) AND EXISTS (SELECT 1 FROM third)",
            words.join(" ")
        );
        if let Ok(explained) = explain(&sql, &[], options)
            && explained.kind == Kind::Read
            && !sql.contains("--")
            && !sql.contains(';')
        {
            for table in ["first", "second", "third"] {
                let found = explained.tables.iter().any(|found| found == table);
                proptest::prop_assert!(found, "{} in {}", table, sql);
            }
        }
    }
}

#[test]
fn g3_g10_what_is_compared_with_a_long_text_is_left_out() {
    let read = |bytes: usize| {
        let text = "x".repeat(bytes);
        let sql = "SELECT * FROM t WHERE a = $1 AND b = 5";
        let given = in_dialect(Dialect::Postgres, sql, &[Scalar::Text(text.clone())]);
        let placed = by(&format!("SELECT * FROM t WHERE a = '{text}' AND b = 5"));
        let given = given.map(|told| told.invalidated_by.join("\n"));
        assert_eq!(given.unwrap(), placed);
        placed
    };
    assert!(read(VALUE_BYTES_MAX).contains("a = 'xxx"));
    assert_eq!(read(VALUE_BYTES_MAX + 1), "rows of t where b = 5");
    assert_eq!(read(60_000), "rows of t where b = 5");
    // What a write makes of a column with one is not known.
    let long = "x".repeat(VALUE_BYTES_MAX + 1);
    let changed = changes(&format!("UPDATE t SET a = '{long}' WHERE b = 5"));
    assert_eq!(changed, "rows of t where b = 5");
    let half = Scalar::Bytes(vec![0; PARAMETERS_BYTES_MAX / 2 + 1]);
    let sql = "SELECT * FROM t WHERE a = $1 AND b = $2";
    assert_eq!(
        in_dialect(Dialect::Postgres, sql, &[half.clone(), half]).unwrap_err(),
        ExplainError::ParametersTooLong {
            bytes: PARAMETERS_BYTES_MAX + 2
        }
    );
}

#[test]
fn g10_names_of_parameters_count_as_their_bytes_do() {
    let named = [Parameter {
        name: Some("n".repeat(PARAMETERS_BYTES_MAX + 1)),
        value: Scalar::Int(1),
    }];
    let error = explain("SELECT * FROM t WHERE a = 1", &named, Options::default()).unwrap_err();
    let bytes = PARAMETERS_BYTES_MAX + 1;
    assert_eq!(error, ExplainError::ParametersTooLong { bytes });
}

/// The parser reads them otherwise than the database does.
#[test]
fn g3_what_mysql_reads_otherwise_is_not_taken_for_narrow() {
    for sql in [
        "SELECT * FROM a WHERE x = 5 AND y = 'a' || z = 'b'",
        "SELECT * FROM a WHERE x = 5 AND y = 'a' XOR z = 'b'",
        "UPDATE a SET y = 1 WHERE x = 5 AND y = 'a' || z = 'b'",
    ] {
        let error = in_dialect(Dialect::MySql, sql, &[]).unwrap_err();
        assert!(matches!(error, ExplainError::Unparsable { .. }), "{error}");
        let options = Options {
            dialect: Dialect::MySql,
            unparsable: Unsure::Table,
            ..Options::default()
        };
        let explained = explain(sql, &[], options).unwrap();
        assert!(
            explained
                .classes
                .iter()
                .any(|class| ["a", "a/:*"].contains(&class.as_str())),
            "{:?}",
            explained.classes
        );
    }
    let sql = "SELECT * FROM a WHERE x = 5 /*M!100100 OR 1 = 1 */";
    let error = in_dialect(Dialect::MySql, sql, &[]).unwrap_err();
    assert!(error.to_string().contains("/*M!"), "{error}");
    let sql = "SELECT * FROM a WHERE x = 5 /* M! */";
    assert_eq!(by_in(Dialect::MySql, sql), "rows of a where x = 5");
}

#[test]
fn g3_a_placeholder_with_two_values_is_refused() {
    let parameter = |name: Option<&str>, value| Parameter {
        name: name.map(ToOwned::to_owned),
        value: Scalar::Int(value),
    };
    for (sql, twice, name) in [
        (
            "SELECT * FROM t WHERE a = :a",
            [parameter(Some("a"), 1), parameter(Some("a"), 2)],
            "a",
        ),
        (
            "SELECT * FROM t WHERE a = $1",
            [parameter(Some("1"), 1), parameter(None, 2)],
            "1",
        ),
    ] {
        let error = explain(sql, &twice, Options::default()).unwrap_err();
        let parameter = name.to_owned();
        assert_eq!(error, ExplainError::ParameterTwice { parameter });
    }
}

/// The parser takes twice as long for each.
#[test]
fn g10_many_patterns_of_sqlite_are_refused() {
    let chain = |count: usize| {
        format!(
            "SELECT * FROM t WHERE a = 5 AND b{}",
            " GLOB b".repeat(count)
        )
    };
    assert_eq!(by_in(Dialect::Sqlite, &chain(200)), "rows of t where a = 5");
    let error = in_dialect(Dialect::Sqlite, &chain(201), &[]).unwrap_err();
    let told = "REGEXP, MATCH, GLOB stands in it 201 times; the limit is 200";
    assert!(error.to_string().contains(told), "{error}");
}

#[test]
fn g10_chains_of_binary_are_refused() {
    let chain = |count: usize| format!("SELECT {}) FROM t", "BINARY - ".repeat(count));
    for count in [9, 40] {
        let error = in_dialect(Dialect::MySql, &chain(count), &[]).unwrap_err();
        let told = format!("BINARY stands in it {count} times; the limit is 8");
        assert!(error.to_string().contains(&told), "{error}");
    }
    let read = "SELECT * FROM t WHERE a = BINARY 'x' AND b = 5";
    assert_eq!(by_in(Dialect::MySql, read), "any row of t");
}
