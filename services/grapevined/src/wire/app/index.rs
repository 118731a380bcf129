//! Reads, fills and prunes of an index's leaves.

use grapevine_core::criteria::{
    Cell, Column, Conjunction, Dialect, Order, SHAPE_COLUMNS_MAX, Shape, Table,
};
use grapevine_core::index::{
    Combine, INTERSECTED_MAX, LeafKey, Ordering, PLACES_MAX, Place, RowId, SortKey, UNITED_MAX,
    Window,
};
use grapevine_core::lease::Lease;
use grapevine_core::machine::effects as core;
use grapevine_proto::v1;
use tonic::Status;

use super::explain::read_dialect;
use super::rows::{datum, folded, raw};
use super::{Session, counted, session};
use crate::wire::status::Violations;

/// Members of one answer.
const LIMIT_MAX: u32 = 10_000;
const LIMIT_DEFAULT: u32 = 100;
/// Members passed over by one read.
const OFFSET_MAX: u32 = 100_000;
/// Rows in one part of a fill.
const FILL_ROWS_MAX: usize = 10_000;

/// Checks a read of a leaf.
pub(crate) fn index_read(
    request: &v1::IndexReadRequest,
) -> Result<(core::LeafQuery, Session), Status> {
    let mut violations = Violations::default();
    let leaf = read_leaf(&mut violations, request.leaf.as_ref());
    let (combine, further) = further_leaves(&mut violations, request);
    if request.limit > LIMIT_MAX {
        let reason = format!("{}; the limit is {LIMIT_MAX}", request.limit);
        violations.add("limit", reason);
    }
    let read_together = 1 + request.any_of.len().max(request.all_of.len());
    let offset_max = OFFSET_MAX / u32::try_from(read_together).unwrap_or(u32::MAX);
    if request.offset > offset_max {
        let reason = match read_together {
            1 => format!("{}; the limit is {offset_max}", request.offset),
            leaves => format!(
                "{}; the limit is {offset_max} where {leaves} leaves are read together",
                request.offset
            ),
        };
        violations.add("offset", reason);
    }
    let limit = match request.limit {
        0 => LIMIT_DEFAULT,
        limit => limit,
    };
    let verified = match v1::IndexConsistency::try_from(request.consistency) {
        Ok(v1::IndexConsistency::Unspecified | v1::IndexConsistency::Local) => false,
        Ok(v1::IndexConsistency::Verified) => true,
        Err(_) => {
            let reason = format!("{} is not a value of IndexConsistency", request.consistency);
            violations.add("consistency", reason);
            false
        }
    };
    let after = if request.cursor.is_empty() {
        None
    } else {
        let place = Place::from_bytes(&request.cursor);
        violations.check(|| "cursor".to_owned(), place.ok_or("it is none"))
    };
    let mut ends = [None, None];
    if let Some((dialect, leaf)) = &leaf {
        let given = [("from", &request.from), ("to", &request.to)];
        for (end, (field, value)) in ends.iter_mut().zip(given) {
            if leaf.ordering.by.is_none() && value.is_some() {
                violations.add(field, "the leaf has no order_by");
            } else if value.is_some() {
                if !has_one_order(*dialect, value.as_ref()) {
                    violations.add(
                        field,
                        "a range is of numbers or times: the database orders other values by its collation, or by their type",
                    );
                }
                *end = sort_key(&mut violations, field, (*dialect, leaf), value.as_ref());
            }
        }
    }
    let [least, most] = ends;
    let past = session(&mut violations, request.session.as_ref());
    violations.finish()?;
    let (_, leaf) = leaf.ok_or_else(unchecked)?;
    let leaves = std::iter::once(leaf).chain(further).collect();
    let window = Window {
        after,
        offset: request.offset as usize,
        limit: limit as usize,
        least,
        most,
    };
    let query = core::LeafQuery {
        leaves,
        combine,
        window,
        verified,
    };
    Ok((query, past))
}

/// Checks a part of a fill.
pub(crate) fn index_fill(request: &v1::IndexFillRequest) -> Result<core::LeafFill, Status> {
    let mut violations = Violations::default();
    let leaf = read_leaf(&mut violations, request.leaf.as_ref());
    let load = core::LoadId::from_bytes(&request.load);
    let load = violations.check(
        || "load".to_owned(),
        load.map_err(|wrong| format!("a right of {wrong}")),
    );
    let count = request.rows.len();
    counted(&mut violations, "rows", count, 0..=FILL_ROWS_MAX);
    let mut members = Vec::with_capacity(count.min(FILL_ROWS_MAX));
    if let Some((dialect, leaf)) = &leaf {
        for (at, row) in request.rows.iter().take(FILL_ROWS_MAX).enumerate() {
            let field = || format!("rows[{at}].id");
            let id = violations.check(field, RowId::parse(&row.id));
            let field = format!("rows[{at}].order_value");
            let of = (*dialect, leaf);
            let key = sort_key(&mut violations, &field, of, row.order_value.as_ref());
            members.extend(
                id.zip(key)
                    .map(|(id, key)| (Place { key, id }, row.version)),
            );
        }
    }
    if request.partial {
        check_partial(&mut violations, request, leaf.as_ref());
    }
    let alone = !request.more && request.partial && request.rows.is_empty();
    if alone {
        violations.add("partial", "the first rows of a leaf are at least one");
    }
    violations.finish()?;
    let (_, leaf) = leaf.ok_or_else(unchecked)?;
    Ok(core::LeafFill {
        leaf,
        load: load.ok_or_else(unchecked)?,
        members,
        more: request.more,
        whole: !request.partial,
        keep: request.keep as usize,
    })
}

/// Whether the database's order of these rows is certain to be the sidecar's: by numbers that it tells apart, or by times.
fn check_partial(
    violations: &mut Violations,
    request: &v1::IndexFillRequest,
    leaf: Option<&(Dialect, LeafKey)>,
) {
    use v1::sql_value::Value;
    const EXACT: u64 = 1 << 53;
    let Some((dialect, leaf)) = leaf else { return };
    let exact = |row: &v1::IndexRow| match row
        .order_value
        .as_ref()
        .and_then(|value| value.value.as_ref())
    {
        None | Some(Value::Boolean(_) | Value::Float(_)) => true,
        Some(Value::Integer(value)) => value.unsigned_abs() <= EXACT,
        Some(Value::Unsigned(value)) => *value <= EXACT,
        Some(Value::Text(_)) => is_time(*dialect, row.order_value.as_ref()),
        Some(Value::Bytes(_)) => false,
    };
    let is_number = |row: &v1::IndexRow| matches!(RowId::parse(&row.id), Ok(RowId::Number(_)));
    if leaf.ordering.by.is_none() && !request.rows.iter().all(is_number) {
        let reason = "the first rows only are kept of leaves that are ordered by ids which are whole numbers; load all of this one";
        violations.add("partial", reason);
    }
    if leaf.ordering.by.is_some() && !request.rows.iter().all(exact) {
        let reason = "the first rows only are kept of leaves that are ordered by times, or by numbers below 2^53; load all of this one";
        violations.add("partial", reason);
    }
}

/// Whether a value is a text that reads as a time. Texts are in an order of their own in the database otherwise, also those that
/// compare as numbers or truth values.
fn is_time(dialect: Dialect, value: Option<&v1::SqlValue>) -> bool {
    let order = datum(dialect, value).and_then(|datum| datum.order);
    order == Some(Order::Time)
}

/// Whether the database orders it as the sidecar does, whatever the column: of numbers and times.
fn has_one_order(dialect: Dialect, value: Option<&v1::SqlValue>) -> bool {
    use v1::sql_value::Value;
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::Text(_)) => is_time(dialect, value),
        Some(Value::Bytes(_)) => false,
        _ => true,
    }
}

/// Checks a prune.
pub(crate) fn index_prune(request: &v1::IndexPruneRequest) -> Result<core::Prune, Status> {
    let mut violations = Violations::default();
    let leaf = read_leaf(&mut violations, request.leaf.as_ref());
    let evidence = Lease::from_bytes(&request.evidence);
    let evidence = evidence.ok_or("it is not what IndexRead answered");
    let evidence = violations.check(|| "evidence".to_owned(), evidence);
    counted(
        &mut violations,
        "places",
        request.places.len(),
        1..=PLACES_MAX,
    );
    let places = request.places.iter().take(PLACES_MAX).enumerate();
    let places: Vec<_> = places
        .filter_map(|(at, place)| {
            let place = Place::from_bytes(place).ok_or("it is none");
            violations.check(|| format!("places[{at}]"), place)
        })
        .collect();
    violations.finish()?;
    let (_, leaf) = leaf.ok_or_else(unchecked)?;
    Ok(core::Prune {
        leaf,
        places,
        evidence: evidence.ok_or_else(unchecked)?,
    })
}

/// A bug: something is missing although nothing was wrong.
fn unchecked() -> Status {
    Status::internal("a call was checked and is not whole")
}

/// The leaves that are read together with the first one.
fn further_leaves(
    violations: &mut Violations,
    request: &v1::IndexReadRequest,
) -> (Combine, Vec<LeafKey>) {
    let (any, all) = (&request.any_of, &request.all_of);
    if !any.is_empty() && !all.is_empty() {
        violations.add("all_of", "any_of is set, too: only one of them may be");
    }
    counted(violations, "any_of", any.len(), 0..=UNITED_MAX - 1);
    counted(violations, "all_of", all.len(), 0..=INTERSECTED_MAX - 1);
    let (combine, field, criteria) = if all.is_empty() {
        (Combine::Any, "any_of", any)
    } else {
        (Combine::All, "all_of", all)
    };
    let Some(first) = &request.leaf else {
        return (combine, Vec::new());
    };
    let criteria = criteria.iter().take(UNITED_MAX).enumerate();
    let leaves = criteria.filter_map(|(at, criteria)| {
        let field = format!("{field}[{at}]");
        let (_, leaf) = leaf_of(violations, &field, first, &criteria.equal)?;
        Some(leaf)
    });
    (combine, leaves.collect())
}

fn read_leaf(
    violations: &mut Violations,
    leaf: Option<&v1::IndexLeaf>,
) -> Option<(Dialect, LeafKey)> {
    let Some(leaf) = leaf else {
        violations.add("leaf", "it must be set");
        return None;
    };
    leaf_of(violations, "leaf", leaf, &leaf.equal)
}

/// Whether the leaves of a read may be those of other values as well, which the database tells apart: they would have each other's rows, and
/// lack their own.
pub(crate) fn index_is_shared(request: &v1::IndexReadRequest) -> bool {
    let Some(leaf) = &request.leaf else {
        return false;
    };
    let dialect = read_dialect(&mut Violations::default(), leaf.dialect);
    let further = request.any_of.iter().chain(&request.all_of);
    let criteria = further.flat_map(|criteria| &criteria.equal);
    let mut values = leaf.equal.iter().chain(criteria);
    values.any(|given| raw(given.value.as_ref()).is_none_or(|raw| !raw.is_alone(dialect)))
}

/// The leaf of these criteria, in the table and order of another one. `field` names the criteria.
fn leaf_of(
    violations: &mut Violations,
    field: &str,
    leaf: &v1::IndexLeaf,
    equal: &[v1::ColumnValue],
) -> Option<(Dialect, LeafKey)> {
    let dialect = read_dialect(violations, leaf.dialect);
    let table = Table::parse(&folded(dialect, &leaf.table));
    let table = violations.check(|| "leaf.table".to_owned(), table);
    let counted_field = format!("{field}.equal");
    counted(
        violations,
        &counted_field,
        equal.len(),
        1..=SHAPE_COLUMNS_MAX,
    );
    let mut rows = Conjunction::all_of(table?);
    for (at, given) in equal.iter().take(SHAPE_COLUMNS_MAX).enumerate() {
        let column_field = || format!("{field}.equal[{at}].column");
        let column = Column::parse(&folded(dialect, &given.column));
        let column = violations.check(column_field, column)?;
        if rows.cells.contains_key(&column) {
            violations.add(column_field(), format!("{column} is named twice"));
        }
        match datum(dialect, given.value.as_ref()) {
            Some(datum) => rows.narrow(column, Cell::Is(datum)),
            None => violations.add(
                format!("{field}.equal[{at}].value"),
                "it cannot be told what the database calls equal to it",
            ),
        }
    }
    let by = if leaf.order_by.is_empty() {
        None
    } else {
        let column = Column::parse(&folded(dialect, &leaf.order_by));
        Some(violations.check(|| "leaf.order_by".to_owned(), column)?)
    };
    let shape = Shape::of(&rows);
    if shape.left_out(&rows).next().is_some() {
        violations.add(
            counted_field,
            "the names of the columns are too long; the limit is 47 bytes for all of them",
        );
    }
    let mut classes = shape.classes_of_read(&rows);
    let ordering = Ordering {
        by,
        descending: leaf.descending,
        nulls_high: dialect == Dialect::Postgres,
    };
    let class = classes.pop()?;
    Some((dialect, LeafKey { class, ordering }))
}

/// By what a row is sorted.
fn sort_key(
    violations: &mut Violations,
    field: &str,
    (dialect, leaf): (Dialect, &LeafKey),
    value: Option<&v1::SqlValue>,
) -> Option<SortKey> {
    if leaf.ordering.by.is_none() {
        if value.is_some_and(|value| value.value.is_some()) {
            violations.add(field, "the leaf has no order_by");
        }
        return Some(SortKey::NONE);
    }
    let Some(datum) = datum(dialect, value) else {
        violations.add(field, "it cannot be told how the database orders it");
        return None;
    };
    Some(SortKey::of(&datum.value, leaf.ordering.nulls_high))
}

/// What was found of a leaf.
pub(crate) fn index_found(answer: core::LeafAnswer) -> v1::IndexReadResponse {
    let state = |state: v1::IndexState| v1::IndexReadResponse {
        state: state.into(),
        ..Default::default()
    };
    let (found, evidence) = match answer {
        core::LeafAnswer::Absent(_) => return state(v1::IndexState::Absent),
        core::LeafAnswer::Bypass => return state(v1::IndexState::Bypass),
        core::LeafAnswer::Found {
            found, evidence, ..
        } => (found, evidence),
    };
    let mut next_cursor = Vec::new();
    let members = found.members.into_iter().map(|(place, member)| {
        let bytes = place.to_bytes();
        next_cursor.clone_from(&bytes);
        v1::IndexMember {
            id: place.id.to_string(),
            version: member.version,
            place: bytes.into(),
        }
    });
    let members = members.collect();
    v1::IndexReadResponse {
        members,
        complete: found.whole,
        more: found.more,
        next_cursor: next_cursor.into(),
        evidence: evidence.to_bytes().to_vec().into(),
        filtered: u32::try_from(found.filtered).unwrap_or(u32::MAX),
        ..state(v1::IndexState::Present)
    }
}

/// Whether the caller is to load the leaf of this number.
pub(crate) fn index_turn(number: usize, turn: core::LeafTurn) -> v1::IndexTurn {
    let millis =
        |duration: std::time::Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
    let leaf = v1::IndexTurn {
        leaf: u32::try_from(number).unwrap_or(u32::MAX),
        ..Default::default()
    };
    match turn {
        core::LeafTurn::Load {
            load,
            lease,
            filling,
        } => v1::IndexTurn {
            load: load.to_bytes().to_vec().into(),
            lease_ms: millis(lease),
            read_primary: filling == core::Filling::Primary,
            ..leaf
        },
        core::LeafTurn::Wait { after } => v1::IndexTurn {
            retry_after_ms: millis(after),
            ..leaf
        },
        core::LeafTurn::Bypass => leaf,
    }
}

/// What a fill came to.
pub(crate) fn index_filled(outcome: core::FillOutcome) -> v1::IndexFillResponse {
    let outcome = match outcome {
        core::FillOutcome::Stored => v1::IndexFillOutcome::Stored,
        core::FillOutcome::More => v1::IndexFillOutcome::More,
        core::FillOutcome::Condemned => v1::IndexFillOutcome::Condemned,
        core::FillOutcome::Over => v1::IndexFillOutcome::Over,
    };
    v1::IndexFillResponse {
        outcome: outcome.into(),
    }
}
