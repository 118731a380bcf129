#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::range::{COVER_MAX, Node};
use super::*;
use crate::names::{ClassPath, covers};

fn table(name: &str) -> Table {
    Table::parse(name).unwrap()
}

fn column(name: &str) -> Column {
    Column::parse(name).unwrap()
}

fn is(raw: Raw<'_>) -> Cell {
    Cell::Is(Datum::of(Dialect::Postgres, raw).unwrap())
}

fn between(low: f64, high: f64) -> Cell {
    let end = |value| Datum::of(Dialect::Postgres, Raw::Float(value)).unwrap();
    Cell::In(Range::between(Some(&end(low)), Some(&end(high))).unwrap())
}

fn above(low: f64) -> Cell {
    let low = Datum::of(Dialect::Postgres, Raw::Float(low)).unwrap();
    Cell::In(Range::between(Some(&low), None).unwrap())
}

fn rows(cells: &[(&str, Cell)]) -> Conjunction {
    let cells = cells
        .iter()
        .map(|(name, cell)| (column(name), cell.clone()));
    Conjunction {
        table: table("items"),
        cells: cells.collect(),
    }
}

fn shown(classes: &[crate::names::ClassPath]) -> Vec<String> {
    classes.iter().map(ToString::to_string).collect()
}

fn classes(read: &Conjunction) -> Vec<String> {
    shown(&Shape::of(read).classes_of_read(read))
}

/// Whether a change of the rows bumps a class that the read names, or one above it.
fn reaches(changed: &Conjunction, read: &Conjunction) -> bool {
    let shape = Shape::of(read);
    let of_read = shape.classes_of_read(read);
    let of_write = shape.classes_of_write(changed);
    of_write.iter().any(|bumped| {
        of_read
            .iter()
            .any(|class| covers(bumped.as_str(), class.as_str()))
    })
}

#[test]
fn classes_are_what_the_documentation_says() {
    let five = ("category", is(Raw::Int(5)));
    assert_eq!(table_class(&table("items")).as_str(), "items");
    assert_eq!(classes(&rows(&[])), ["items/:*"]);
    let by_category = rows(std::slice::from_ref(&five));
    assert_eq!(Shape::of(&by_category).class().as_str(), "items/:category");
    assert_eq!(classes(&by_category), ["items/:category/5"]);
    assert_eq!(
        classes(&rows(&[five, ("price", between(100.0, 101.0))])),
        [
            "items/:category,price~n/5/20.80000000064",
            "items/:category,price~n/5/20.80000000065"
        ]
    );
}

#[test]
fn values_are_written_in_classes_by_their_normal_form() {
    let of = |raw| classes(&rows(&[("c", is(raw))])).remove(0);
    assert_eq!(of(Raw::Text("a/b c")), "items/:c/a%2Fb%20c");
    assert_eq!(of(Raw::Text("")), "items/:c/~");
    assert_eq!(of(Raw::Null), "items/:c/~null");
    assert_eq!(of(Raw::Text("null")), "items/:c/null");
    assert_eq!(of(Raw::Text("~null")), "items/:c/%7Enull");
    assert_eq!(of(Raw::Bytes(&[0, 255])), "items/:c/~x00ff");
    assert_eq!(of(Raw::Float(-0.5)), "items/:c/-0.5");
    assert_eq!(
        of(Raw::Text("2026-01-05 12:00")),
        "items/:c/~t1767614400000000"
    );
    assert_eq!(of(Raw::Text(&"x".repeat(25))).len(), "items/:c/".len() + 24);
    // Columns for which there is no room are left out.
    let long = "c".repeat(SQL_NAME_BYTES_MAX);
    let mut read = rows(&[(&long, is(Raw::Int(1)))]);
    assert_eq!(classes(&read), ["items/:*"]);
    read.narrow(column("d"), is(Raw::Int(1)));
    assert_eq!(classes(&read), ["items/:d/1"]);
    let mut longest = rows(&[]);
    longest.table = table(&"t".repeat(32));
    let text = "y".repeat(100);
    for name in ["c23456789", "e23456789", "f23456789", "g23456789"] {
        longest.narrow(column(name), is(Raw::Text(&text)));
    }
    longest.narrow(column("h"), between(-1e300, -1e300));
    let longest = classes(&longest).remove(0);
    assert!((190..=200).contains(&longest.len()), "{longest}");
}

#[test]
fn only_classes_of_reads_tell_a_shape() {
    let shape = |text: &str| Shape::parse(&ClassPath::parse(text).unwrap());
    let told = shape("items/:category,price~n/5/20.80000000064").unwrap();
    assert_eq!(told.table.as_str(), "items");
    assert_eq!(told.equal, [column("category")]);
    assert_eq!(told.range, Some((column("price"), Order::Number)));
    let all = shape("items/:*").unwrap();
    assert!(all.equal.is_empty() && all.range.is_none());
    for other in [
        "items",
        "items/category",
        "items/:",
        "items/:a,,b",
        "items/:b,a",
        "items/:a,a",
        "items/:*,a",
        "items/:a~x",
        "items/:a~n,b",
        "items/:a~n,a~n",
        "items/:a,a~n",
        "items/:a%2g",
        "items/:a%6",
        "items/:%61",
        "items/:%FF",
        "items/:a,b,c,d,e",
        "items/:a23456789b23456789c23456789d23456789e23456789fg",
    ] {
        assert_eq!(shape(other), None, "{other}");
    }
}

#[test]
fn g3_what_a_dialect_calls_equal_has_one_normal_form() {
    use Dialect::{MySql, Postgres, Sqlite};
    use Raw::{Bool, Bytes, Float, Int, Text};
    let same: [(&[Dialect], &[Raw<'_>]); 11] = [
        (
            &Dialect::ALL,
            &[
                Int(5),
                Float(5.0),
                Text("5"),
                Text("5.0"),
                Text(" +5 "),
                Text("5e0"),
            ],
        ),
        (
            &Dialect::ALL,
            &[Float(0.0), Float(-0.0), Bool(false), Text("-0")],
        ),
        (&Dialect::ALL, &[Raw::Uint(1), Bool(true), Text("1")]),
        (
            &Dialect::ALL,
            &[Text("char(n) is padded"), Text("char(n) is padded   ")],
        ),
        (
            &Dialect::ALL,
            &[
                Text("2026-01-05"),
                Text("2026-01-05 00:00:00"),
                Text("2026-01-05T00:00:00.000Z"),
                Text("2026-01-05 01:30+01:30"),
            ],
        ),
        (&[Postgres], &[Text("t"), Text("YES"), Bool(true), Int(1)]),
        (&[Postgres], &[Text("\\x00fF"), Bytes(&[0, 255])]),
        (
            &[Postgres],
            &[
                Text("12345678-1234-1234-1234-123456789012"),
                Text("12345678123412341234123456789012"),
                Text("{12345678-1234-1234-1234-123456789012}"),
            ],
        ),
        // Numbers of as many characters as a UUID, and of more, which are none.
        (
            &Dialect::ALL,
            &[
                Text("123456789012345678901234567890.5"),
                Text("123456789012345678901234567890.50"),
            ],
        ),
        (
            &Dialect::ALL,
            &[
                Text("123456789012345678901234567890123"),
                Text("123456789012345678901234567890123.0"),
            ],
        ),
        (
            &[MySql, Sqlite],
            &[Text("Books"), Text("BOOKS  "), Bytes(b"books")],
        ),
    ];
    for (dialects, values) in same {
        for dialect in dialects {
            let forms = values
                .iter()
                .map(|raw| Datum::of(*dialect, *raw).unwrap().value);
            let forms: std::collections::BTreeSet<_> = forms.collect();
            assert_eq!(forms.len(), 1, "{dialect}: {values:?} became {forms:?}");
        }
    }
    // And what it tells apart, as far as it costs nothing.
    let form = |dialect, raw| Datum::of(dialect, raw).unwrap().value;
    assert_ne!(form(Postgres, Text("Books")), form(Postgres, Text("books")));
    assert_ne!(form(Sqlite, Text("books")), form(Sqlite, Text("book")));
    assert_ne!(form(Postgres, Raw::Null), form(Postgres, Text("")));
    assert_ne!(
        form(Postgres, Text("2026-02-30")),
        form(Postgres, Text("2026-03-02"))
    );
    // MySQL calls these equal to 'e' and to nothing, respectively.
    assert_eq!(Datum::of(MySql, Text("é")), None);
    assert_eq!(Datum::of(MySql, Text("\u{1}")), None);
}

#[test]
fn g3_text_that_reads_as_a_number_is_in_no_range_for_sure_in_sqlite() {
    let read = rows(&[("c", between(0.0, 30.0))]);
    // A column of text compares '100' with 30 as text, and it is smaller.
    let hundred = Datum::of(Dialect::Sqlite, Raw::Text("100")).unwrap();
    assert!(reaches(&rows(&[("c", Cell::Is(hundred))]), &read));
    let hundred = Datum::of(Dialect::Sqlite, Raw::Int(100)).unwrap();
    assert!(!reaches(&rows(&[("c", Cell::Is(hundred))]), &read));
}

/// Two sidecars of which one writes numbers otherwise would name other classes.
#[test]
fn g3_g12_numbers_are_written_in_one_way() {
    let numbers = [
        0.0,
        -0.0,
        1.0,
        -7.0,
        0.5,
        999_999_999_999_999.0,
        1e15,
        1e16,
        -1e15,
        9_007_199_254_740_993.0,
        1e300,
        5e-324,
    ];
    for number in numbers {
        let value = Datum::of(Dialect::Sqlite, Raw::Float(number))
            .unwrap()
            .value;
        let shown = format!("{:?}", value.number().unwrap());
        let shown = shown.strip_suffix(".0").unwrap_or(&shown).to_owned();
        assert_eq!(value.to_string(), shown);
    }
}

#[test]
fn g3_large_numbers_lie_above_small_ones() {
    let edge = 2.0_f64.powi(42);
    let ascending = [
        f64::NEG_INFINITY,
        -2.0 * edge,
        -edge,
        1.0 - edge,
        -1.0,
        0.0,
        1.0,
        edge - 1.0,
        edge,
        1.5 * edge,
        f64::MAX,
        f64::INFINITY,
        f64::NAN,
    ];
    let positions = ascending.map(|number| {
        let datum = Datum::of(Dialect::Postgres, Raw::Float(number)).unwrap();
        datum.value.position().unwrap()
    });
    assert!(positions.is_sorted_by(|a, b| a < b), "{positions:x?}");
}

#[test]
fn g3_a_number_may_be_in_a_range_of_times() {
    let day = |text| Datum::of(Dialect::MySql, Raw::Text(text)).unwrap();
    let times = Range::between(Some(&day("2026-01-05")), Some(&day("2026-01-06"))).unwrap();
    let times = rows(&[("c", Cell::In(times))]);
    let number = rows(&[("c", is(Raw::Int(20_260_105)))]);
    let numbers = rows(&[("c", between(20_260_105.0, 20_260_106.0))]);
    assert!(number.may_meet(&times) && reaches(&number, &times));
    assert!(numbers.may_meet(&times) && reaches(&numbers, &times));
}

#[test]
fn times_are_compared_with_two_days_to_spare() {
    let at = |text| Datum::of(Dialect::Postgres, Raw::Text(text)).unwrap();
    let range = Range::between(Some(&at("2026-06-10")), Some(&at("2026-06-12 08:00"))).unwrap();
    let holds =
        |text| rows(&[("c", Cell::Is(at(text)))]).may_meet(&rows(&[("c", Cell::In(range))]));
    assert!(holds("2026-06-08") && holds("2026-06-14 08:00"));
    assert!(!holds("2026-06-07 23:59") && !holds("2026-06-14 08:01"));
}

#[test]
fn a_row_that_a_read_does_not_depend_on_bumps_nothing_of_it() {
    let read = rows(&[
        ("category", is(Raw::Int(5))),
        ("price", between(100.0, 200.0)),
    ]);
    let row = |category: Raw<'_>, price: Raw<'_>| {
        rows(&[
            ("category", is(category)),
            ("price", is(price)),
            ("name", is(Raw::Text("x"))),
        ])
    };
    assert!(reaches(&row(Raw::Int(5), Raw::Int(150)), &read));
    assert!(reaches(&row(Raw::Text("5"), Raw::Text("150.00")), &read));
    assert!(!reaches(&row(Raw::Int(6), Raw::Int(150)), &read));
    assert!(!reaches(&row(Raw::Int(5), Raw::Int(2_000)), &read));
    assert!(!reaches(&row(Raw::Int(5), Raw::Null), &read));
    assert!(!reaches(&row(Raw::Null, Raw::Int(150)), &read));
    // What is not known may be anything.
    assert!(reaches(&rows(&[("price", is(Raw::Int(150)))]), &read));
    assert!(reaches(&rows(&[("category", is(Raw::Int(5)))]), &read));
    assert!(!reaches(&rows(&[("category", is(Raw::Int(6)))]), &read));
    assert!(reaches(&rows(&[]), &read));
    let mut elsewhere = row(Raw::Int(5), Raw::Int(150));
    elsewhere.table = table("users");
    assert!(!reaches(&elsewhere, &read));
}

#[test]
fn a_shape_leaves_out_what_it_has_no_room_for() {
    let one = || is(Raw::Int(1));
    let read = rows(&[
        ("a", one()),
        ("b", one()),
        ("c", one()),
        ("d", one()),
        ("e", one()),
        ("f", above(1.0)),
        ("g", between(1.0, 2.0)),
    ]);
    let shape = Shape::of(&read);
    assert_eq!(shape.class().as_str(), "items/:a,b,c,d,g~n");
    let left_out: Vec<_> = shape.left_out(&read).map(Column::as_str).collect();
    assert_eq!(left_out, ["e", "f"]);
}

#[test]
fn ends_of_ranges_are_shown_as_they_were_given() {
    let ends = |dialect, low: Raw<'_>, high: Raw<'_>| {
        let of = |raw| Datum::of(dialect, raw).unwrap();
        let range = Range::between(Some(&of(low)), Some(&of(high))).unwrap();
        let shown = |end: Option<Value>| end.map(|end| end.to_string());
        (shown(range.low()).unwrap(), shown(range.high()).unwrap())
    };
    let given = ends(Dialect::MySql, Raw::Float(-100.25), Raw::Int(1 << 50));
    assert_eq!(given, ("-100.25".into(), "1125899906842624".into()));
    let given = ends(
        Dialect::Sqlite,
        Raw::Text("2024-02-29 23:59:59.25"),
        Raw::Text("2026-12-31"),
    );
    assert_eq!(
        given,
        ("2024-02-27 23:59:59.250000".into(), "2027-01-02".into())
    );
    let five = Datum::of(Dialect::Postgres, Raw::Int(5)).unwrap();
    assert_eq!(Range::between(Some(&five), None).unwrap().high(), None);
}

#[test]
fn names_that_are_no_names_are_refused_with_the_limit() {
    assert_eq!(Table::parse("").unwrap_err().to_string(), "table is empty");
    let long = "c".repeat(SQL_NAME_BYTES_MAX + 1);
    let error = Column::parse(&long).unwrap_err().to_string();
    assert!(
        error.contains("column") && error.contains("has 257 bytes; the limit is 256"),
        "{error}"
    );
}

fn arb_raw() -> impl Strategy<Value = (Raw<'static>, bool)> {
    let small = (-3_i64..4).prop_map(Raw::Int);
    let floats = prop_oneof![any::<f64>(), -4.0..4.0_f64].prop_map(Raw::Float);
    let texts = prop::sample::select(vec![
        "a",
        "A",
        "b ",
        "",
        "2",
        "-1.0",
        "2026-01-05",
        "2026-01-07 10:00",
        "t",
        "null",
        "\\x61",
        "é",
    ]);
    let texts = texts.prop_map(Raw::Text);
    let others = prop::sample::select(vec![Raw::Null, Raw::Bool(true), Raw::Bytes(b"a")]);
    (
        prop_oneof![3 => small, 1 => floats, 3 => texts, 1 => others],
        any::<bool>(),
    )
}

fn arb_cell(dialect: Dialect) -> impl Strategy<Value = Option<Cell>> {
    (arb_raw(), arb_raw(), 0..6_u8).prop_map(move |((low, _), (high, _), kind)| {
        let of = |raw| Datum::of(dialect, raw);
        match kind {
            0 => None,
            1 | 2 => Range::between(of(low).as_ref(), of(high).as_ref()).map(Cell::In),
            3 => Range::between(of(low).as_ref(), None).map(Cell::In),
            _ => of(low).map(Cell::Is),
        }
    })
}

fn arb_rows(dialect: Dialect) -> impl Strategy<Value = Conjunction> {
    prop::collection::btree_map(
        prop::sample::select(vec!["a", "b", "c", "d", "e", "f"]).prop_map(column),
        arb_cell(dialect),
        0..6,
    )
    .prop_map(|cells| Conjunction {
        table: table("items"),
        cells: cells
            .into_iter()
            .filter_map(|(name, cell)| Some((name, cell?)))
            .collect::<BTreeMap<_, _>>(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn g3_a_change_that_may_concern_a_read_bumps_a_class_of_it(
        (read, changed) in prop::sample::select(Dialect::ALL.to_vec())
            .prop_flat_map(|dialect| (arb_rows(dialect), arb_rows(dialect)))
    ) {
        prop_assert_eq!(read.may_meet(&changed), changed.may_meet(&read));
        if read.may_meet(&changed) {
            prop_assert!(reaches(&changed, &read), "{:?} of {:?}", Shape::of(&read), changed);
        }
    }

    #[test]
    fn g3_a_bump_of_the_table_reaches_every_read_of_it(
        mut read in prop::sample::select(Dialect::ALL.to_vec()).prop_flat_map(arb_rows),
        name in "[a-zA-Z_. /%]{1,120}",
        columns in prop::collection::btree_set("[a-cA-C%,~*:/ ]{1,24}", 8),
    ) {
        read.table = table(&name);
        let cells = std::mem::take(&mut read.cells).into_values();
        let named = columns.iter().map(|name| column(name)).zip(cells);
        read.cells = named.collect();
        let of_table = table_class(&read.table);
        let shape = Shape::of(&read);
        prop_assert!(of_table.covers(shape.class().as_str()));
        for class in shape.classes_of_read(&read) {
            prop_assert!(of_table.covers(class.as_str()), "{of_table} and {class}");
            prop_assert_eq!(Shape::parse(&class), Some(shape.clone()), "{}", class);
        }
        prop_assert_eq!(Shape::parse(&shape.class()), Some(shape));
    }

    #[test]
    fn g3_positions_are_in_the_order_of_numbers(a in any::<f64>(), b in any::<f64>()) {
        let of = |value| Datum::of(Dialect::Postgres, Raw::Float(value)).unwrap().value;
        if a <= b || b.is_nan() {
            prop_assert!(of(a).position() <= of(b).position());
        }
        if !a.is_nan() {
            prop_assert_eq!(of(a).number(), Some(a));
        }
    }

    #[test]
    fn a_range_is_covered_by_few_nodes(a in any::<f64>(), b in any::<f64>(), within in any::<f64>()) {
        let of = |value| Datum::of(Dialect::Postgres, Raw::Float(value)).unwrap();
        let range = Range::between(Some(&of(a.min(b))), Some(&of(a.max(b)))).unwrap();
        let cover: Vec<Node> = range.cover().collect();
        prop_assert!((1..=COVER_MAX).contains(&(cover.len() as u64)));
        let at = of(within).value.position().unwrap();
        let met = Range::nodes_of(at).any(|node| cover.contains(&node));
        if a.min(b) <= within && within <= a.max(b) {
            prop_assert!(met);
        }
    }

    #[test]
    fn two_shapes_or_values_never_share_a_class(
        one in prop::collection::btree_set("[a-c,:/~*%]{1,3}", 0..3),
        other in prop::collection::btree_set("[a-c,:/~*%]{1,3}", 0..3),
        (x, y) in ("[a-b/~%.]{0,3}", "[a-b/~%.]{0,3}"),
    ) {
        let read = |columns: &std::collections::BTreeSet<String>, value: &str| {
            let cells: Vec<_> = columns.iter().map(|name| (name.as_str(), is(Raw::Text(value)))).collect();
            rows(&cells)
        };
        let (first, second) = (read(&one, &x), read(&other, &y));
        prop_assert_eq!(classes(&first) == classes(&second), first == second);
    }
}

#[test]
fn g3_times_that_a_database_calls_equal_have_one_form() {
    let form = |dialect, text| Datum::of(dialect, Raw::Text(text)).unwrap();
    let same: [&[&str]; 10] = [
        &[
            "09:00",
            "9:00",
            "09:00:00",
            "9:00:00",
            "09:00:00.000000",
            " 9:00 ",
            "0 9:0:0",
            "08:59:60",
            "90000",
        ],
        &[
            "12:00:00+00",
            "12:00:00Z",
            "12:00:00+00:00",
            "12:00 +02:00",
            "12:00",
        ],
        &["-100:30:00", "-100:30", "-4 4:30:00", "-1003000"],
        &[
            "2024-01-05",
            "2024-1-5",
            "2024-1-05",
            "2024/01/05",
            "2024.1.5",
            "2024-01-05 00:00:00",
            "2024-1-5 0:00",
        ],
        &[
            "2024-01-05 09:00:00",
            "2024-1-5 9:00",
            "2024/01/05 9:00:00.0",
            "2024-01-05T09:00:00Z",
            "2024-01-05 9:0:0",
        ],
        &["09:00:00.5", "9:00:00.500"],
        &["09:01:02.123457", "9:1:2.1234567", "90102.123457"],
        &["09:01:00", "9:0:59.9999999"],
        &["2024-01-05 09:00:00.123457", "2024-1-5 9:0:0.1234567"],
        &["2024-01-05 09:00:01", "2024-01-05 09:00:00.9999995"],
    ];
    for dialect in [Dialect::Postgres, Dialect::MySql] {
        for texts in same {
            for text in texts {
                let (one, other) = (form(dialect, texts[0]).value, form(dialect, text).value);
                assert_eq!(one, other, "{dialect}: {} and {text}", texts[0]);
            }
        }
        // In a column of text they are in the order of their letters.
        for text in ["9:00", "2024-1-5", "2024/01/05"] {
            assert_eq!(form(dialect, text).order, None, "{text}");
        }
        for (one, other) in [
            ("09:00", "09:01"),
            ("0 9:00", "1 9:00"),
            ("a 9:00", "b 9:00"),
            ("2024-1-5", "2024-1-6"),
            ("a:b", "a:c"),
            ("1:2:3:4", "1:2:3:5"),
            ("10.0.0.1", "10.0.0.2"),
            ("1/2/3", "1/2/4"),
            ("2024-13-1", "2024-13-2"),
            ("2024-1-2-3", "2024-1-2-4"),
            ("12:00 noon", "12:00 night"),
            ("\u{e9}:1", "\u{e9}:2"),
        ] {
            let forms = [one, other].map(|text| Datum::of(dialect, Raw::Text(text)));
            assert!(
                forms[0] != forms[1] || forms[0].is_none(),
                "{dialect}: {one} and {other}"
            );
        }
    }
    // SQLite has no columns of times: there they are texts.
    let [one, other] = ["9:00", "09:00"].map(|text| form(Dialect::Sqlite, text));
    assert_ne!(one, other);
}

#[test]
fn g9_what_has_one_form_with_another_value_is_not_alone() {
    let alone = |dialect, raw: Raw<'_>| raw.is_alone(dialect);
    for dialect in Dialect::ALL {
        for text in [
            "5",
            "10.5",
            "-3",
            "books",
            "2024-01-05",
            "2024-01-05 09:00:00",
            "",
        ] {
            assert!(alone(dialect, Raw::Text(text)), "{dialect}: {text}");
        }
        for text in [
            "05",
            "5.0",
            "+5",
            " 5",
            "1e1",
            "0123",
            "12345678901234567890",
        ] {
            assert!(!alone(dialect, Raw::Text(text)), "{dialect}: {text}");
        }
        let exact = 1_u64 << 53;
        assert!(alone(dialect, Raw::Uint(exact)));
        assert!(!alone(dialect, Raw::Uint(exact + 1)));
        assert!(alone(dialect, Raw::Int(-exact.cast_signed())));
        assert!(!alone(dialect, Raw::Int(-exact.cast_signed() - 1)));
        assert!(alone(dialect, Raw::Null) && alone(dialect, Raw::Bool(true)));
    }
    for text in [
        "9:00",
        "09:00:00",
        "2024-1-5",
        "2024/01/05",
        "2024-01-05T09:00:00Z",
    ] {
        assert!(!alone(Dialect::Postgres, Raw::Text(text)), "{text}");
        assert!(!alone(Dialect::MySql, Raw::Text(text)), "{text}");
    }
    for text in [
        "true",
        "t",
        "books ",
        "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
    ] {
        assert!(!alone(Dialect::Postgres, Raw::Text(text)), "{text}");
    }
    // MySQL compares so itself.
    assert!(alone(Dialect::MySql, Raw::Text("Books ")));
    assert!(alone(Dialect::Postgres, Raw::Bytes(b"5")));
    assert!(!alone(Dialect::MySql, Raw::Bytes(b"5")));
}
