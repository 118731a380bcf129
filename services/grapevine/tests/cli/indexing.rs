//! Lists of ids by criterion, of a real sidecar that the client library has loaded.

use grapevine_client::{Client, How, Index, IndexRow, Session, v1};
use serde_json::json;

use crate::kit::Sidecar;

fn items(sidecar: &Sidecar) -> Index {
    let client = Client::connect(sidecar.endpoint()).unwrap();
    let items = client.index("item", v1::SqlDialect::Postgresql);
    items.by("category_id", 5).order_by("price").descending()
}

/// The item as it is now, in a category.
fn change(id: i64, version: u64, category: i64, price: i64) -> v1::RowChange {
    let value = |column: &str, value: i64| v1::ColumnValue {
        column: column.to_owned(),
        value: Some(v1::SqlValue {
            value: Some(v1::sql_value::Value::Integer(value)),
        }),
    };
    v1::RowChange {
        table: "item".to_owned(),
        kind: v1::RowChangeKind::Insert.into(),
        unchanged: vec![value("id", id)],
        new: vec![value("category_id", category), value("price", price)],
        id: id.to_string(),
        version,
        ..Default::default()
    }
}

const READ: [&str; 9] = [
    "index",
    "read",
    "item",
    "--where",
    "category_id=5",
    "--order-by",
    "price",
    "--desc",
    "--json",
];

#[tokio::test]
async fn a_list_that_was_loaded_is_read_page_by_page_and_follows_changes() {
    let sidecar = Sidecar::lone();
    sidecar.ask(&["status", "--wait-fresh", "30s"]).code(0);
    let index = items(&sidecar);
    let load = async |_| {
        let row = |id: u32| IndexRow::new(id).ordered_by(id * 10).version(1);
        Ok::<_, std::convert::Infallible>((1..=3).rev().map(row).collect())
    };
    // The sidecar meets the shape of this read first: whoever comes then loads it.
    let mut page = index.ids(load).await.unwrap();
    while page.how != How::Hit {
        page = index.ids(load).await.unwrap();
    }
    let first = sidecar.ask(&[&READ[..], &["--limit", "2"]].concat());
    let first = first.code(0).json();
    assert_eq!(first["state"], "present");
    assert_eq!(
        (&first["members"][0]["id"], &first["members"][0]["version"]),
        (&json!("3"), &json!(1))
    );
    let next = first["next"].as_str().unwrap();
    let rest = sidecar.ask(&[&READ[..], &["--cursor", next]].concat());
    let rest = rest.code(0).json();
    assert_eq!(rest["members"][0]["id"], "1");
    assert_eq!(
        (&rest["more"], &rest["next"]),
        (&json!(false), &json!(null))
    );

    let client = Client::connect(sidecar.endpoint()).unwrap();
    let changes = [change(4, 1, 5, 25), change(2, 2, 6, 20)];
    let postgres = v1::SqlDialect::Postgresql;
    let written = client.row_changed(postgres, changes).await.unwrap();
    let mut session = Session::new();
    session.add(&written.session_token).unwrap();
    let token = session.to_string();
    let ids = |extra: &[&str]| -> Vec<String> {
        let said = sidecar.ask(&[&READ[..], &["--session", &token], extra].concat());
        let page = said.code(0).json();
        let members = page["members"].as_array().unwrap().iter();
        members
            .map(|member| member["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids(&[]), ["3", "4", "2", "1"]);
    assert_eq!(ids(&["--verified"]), ["3", "4", "1"]);
    assert_eq!(ids(&["--from", "25"]), ["3", "4"]);
}

#[test]
fn a_list_of_which_nothing_is_known_is_not_an_empty_one() {
    let sidecar = Sidecar::lone();
    sidecar.ask(&["status", "--wait-fresh", "30s"]).code(0);
    let said = sidecar.ask(&READ).code(3);
    assert_eq!(said.json()["state"], "absent");
    assert_eq!(said.error()["kind"], "not_reached");
    for wrong in [
        &["--where", "price"][..],
        &["--cursor", "00"],
        &["--limit", "0"],
    ] {
        sidecar.ask(&[&READ[..], wrong].concat()).code(2);
    }
}
