//! How long `explain` takes: `cargo run --release -p grapevine-sql --example speed`.

use std::time::Instant;

use grapevine_sql::{Options, explain};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let one = "SELECT * FROM items WHERE category = 5 AND price BETWEEN 100 AND 200 ORDER BY price LIMIT 10".to_owned();
    let join = |table: u32| {
        let before = table - 1;
        format!(" JOIN t{table} ON t{table}.up = t{before}.id AND t{table}.kind = {table}")
    };
    let joins = (1..10).map(join).collect::<Vec<_>>().concat();
    let ten = format!(
        "SELECT t0.*, t9.name FROM t0{joins} WHERE t0.id = 7 AND t9.kind IN (1, 2, 3) ORDER BY t9.name"
    );
    let or = vec!["category = 5"; 64].join(" OR ");
    let alternatives = format!("SELECT * FROM items WHERE ({or}) AND ({or}) AND ({or})");
    let long = format!(
        "SELECT * FROM items WHERE category = 1{}",
        " OR category = 1".repeat(900)
    );
    let list: Vec<_> = (0..64).map(|value| value.to_string()).collect();
    let list = format!("SELECT a FROM t WHERE a IN ({})", list.join(","));
    let unions = vec![list; 290].join(" UNION ");
    let names: Vec<_> = (0..400).map(|at| format!("t x{at}")).collect();
    let equal: Vec<_> = (0..300)
        .map(|at| format!("x{at}.b = x{}.b", at + 1))
        .collect();
    let either: Vec<_> = (0..64).map(|at| format!("x{at}.a = {at}")).collect();
    let (names, equal, either) = (names.join(", "), equal.join(" AND "), either.join(" OR "));
    let tables = format!("SELECT * FROM {names} WHERE ({either}) AND {equal}");
    for (what, sql) in [
        ("one table", one),
        ("ten tables joined", ten),
        ("three times 64 alternatives", alternatives),
        ("900 alternatives", long),
        ("290 lists of 64", unions),
        ("400 tables", tables),
    ] {
        let mut took = Vec::new();
        for _ in 0..500 {
            let start = Instant::now();
            std::hint::black_box(explain(&sql, &[], Options::default())?);
            took.push(start.elapsed());
        }
        took.sort_unstable();
        println!(
            "{what} ({} bytes): median {:?}, p99 {:?} of {}",
            sql.len(),
            took[took.len() / 2],
            took[took.len() * 99 / 100],
            took.len()
        );
    }
    Ok(())
}
