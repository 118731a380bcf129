//! Every table that a statement reads, wherever it stands, and the conditions on it.
//!
//! The whole tree is walked, so that no query inside an expression is missed; each SELECT is understood by itself, with the conditions
//! that stand there. Tables are counted twice, by name wherever one stands and by SELECT: a table that stands somewhere else than in
//! the FROM of a SELECT is read as a whole.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use grapevine_core::criteria::{Conjunction, Dialect, Table};
use sqlparser::ast::{
    Expr, ObjectName, ObjectNamePart, Query, Select, SetExpr, Statement, TableFactor,
    ValueWithSpan, Visit, Visitor,
};

use crate::ExplainError;
use crate::condition::{Conditions, Disjunction, of_relation};
use crate::explanation::{self, Widened};
use crate::from::{self, From, folded};
use crate::functions;
use crate::literal::Literals;

/// What a statement reads.
#[derive(Debug)]
pub(crate) struct Reads<'a> {
    literals: Literals<'a>,
    /// Queries around the place that the walk has come to, outermost first.
    around: Vec<Named>,
    /// How often each table's name stands somewhere, less how often it was understood.
    unaccounted: BTreeMap<Table, isize>,
    /// The rows of each table that it depends on: those of any of these conjunctions.
    pub(crate) rows: BTreeMap<Table, Vec<Conjunction>>,
    /// What was left out.
    pub(crate) widened: Vec<Widened>,
    /// Why its answer does not follow from its tables.
    pub(crate) unsure: Vec<String>,
    /// Statements that change rows.
    pub(crate) writes: usize,
}

/// The names that a query's WITH gives.
#[derive(Debug)]
struct Named {
    names: Vec<(String, *const Query)>,
    /// How many of them mean queries by now: in its own definition, and before, a name means a table.
    defined: usize,
}

/// Names without parentheses that are functions.
const BARE_FUNCTIONS: [&str; 8] = [
    "current_user",
    "current_role",
    "session_user",
    "localtime",
    "localtimestamp",
    "utc_date",
    "utc_time",
    "utc_timestamp",
];

/// Further ones in PostgreSQL; elsewhere columns may have these names.
const BARE_FUNCTIONS_POSTGRES: [&str; 4] =
    ["current_catalog", "current_schema", "system_user", "user"];

/// Where databases keep what they know of themselves.
const SYSTEM_SCHEMAS: [&str; 5] = [
    "information_schema",
    "pg_catalog",
    "performance_schema",
    "mysql",
    "sys",
];

impl<'a> Reads<'a> {
    pub(crate) fn of(statement: &Statement, literals: Literals<'a>) -> Result<Self, ExplainError> {
        let mut reads = Self {
            literals,
            around: Vec::new(),
            unaccounted: BTreeMap::new(),
            rows: BTreeMap::new(),
            widened: Vec::new(),
            unsure: Vec::new(),
            writes: 0,
        };
        if let ControlFlow::Break(error) = statement.visit(&mut reads) {
            return Err(error);
        }
        for (table, count) in std::mem::take(&mut reads.unaccounted) {
            if count > 0 {
                reads.whole(&table, "it stands elsewhere than in the FROM of a SELECT");
            }
        }
        Ok(reads)
    }

    fn dialect(&self) -> Dialect {
        self.literals.dialect
    }

    /// Whether a name means a table, and no query of a WITH around.
    fn is_table(&self, name: &ObjectName) -> bool {
        let [part] = name.0.as_slice() else {
            return true;
        };
        let Some(part) = part.as_ident() else {
            return true;
        };
        let name = folded(part, self.dialect());
        let mut defined = self
            .around
            .iter()
            .flat_map(|query| &query.names[..query.defined]);
        !defined.any(|(defined, _)| *defined == name)
    }

    fn whole(&mut self, table: &Table, reason: &str) {
        self.widened.push(Widened::of(table, reason));
        self.row(Conjunction::all_of(table.clone()));
    }

    fn row(&mut self, rows: Conjunction) {
        let known = self.rows.entry(rows.table.clone()).or_default();
        explanation::add(known, rows, &mut self.widened);
    }

    fn unsure(&mut self, why: String) {
        if !self.unsure.contains(&why) {
            self.unsure.push(why);
        }
    }

    fn select(&mut self, select: &Select) -> Result<(), ExplainError> {
        let is_table = |name: &ObjectName| self.is_table(name);
        let mut from = From::of(&select.from, self.dialect(), &is_table)?;
        if let Some(condition) = &select.selection {
            from.filter_all(condition);
        }
        let mut conditions = Conditions::new(&from, self.literals);
        let of_filters: Vec<_> = from
            .filters
            .iter()
            .map(|filter| conditions.of(&filter.condition))
            .collect();
        let left_out = conditions.left_out;
        for (place, relation) in from.relations.iter().enumerate() {
            let Some(table) = &relation.table else {
                continue;
            };
            *self.unaccounted.entry(table.clone()).or_default() -= 1;
            let filters = from.filters.iter().zip(&of_filters);
            let filtered = filters
                .filter(|(filter, _)| filter.of.contains(&place))
                .fold(Disjunction::always(), |all, (_, one)| all.and(one.clone()));
            // It is read, even if no row of it ever counts.
            self.rows.entry(table.clone()).or_default();
            let all = Conjunction::all_of(table.clone());
            for facts in &filtered.any {
                let rows = of_relation(facts, place, all.clone());
                if rows == all {
                    let reason = "nothing is known of its own columns in every row that counts";
                    self.widened.push(Widened::of(table, reason));
                    self.row(rows);
                    break;
                }
                self.row(rows);
            }
        }
        self.widened.extend(Widened::of_conditions(left_out));
        Ok(())
    }

    /// `TABLE name`, which reads all of it.
    fn bare_tables(&mut self, body: &SetExpr) -> Result<(), ExplainError> {
        let mut bodies = vec![body];
        while let Some(body) = bodies.pop() {
            match body {
                SetExpr::SetOperation { left, right, .. } => bodies.extend([&**left, &**right]),
                SetExpr::Table(table) => {
                    if let Some(name) = &table.table_name {
                        let table = Table::parse(&folded(name, self.dialect()))?;
                        self.whole(&table, "nothing narrows it");
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn factor(&mut self, factor: &TableFactor) {
        match factor {
            TableFactor::Table {
                name,
                args: Some(_),
                ..
            }
            | TableFactor::Function { name, .. }
                if !functions::is_plain_name(&name.to_string().to_lowercase()) =>
            {
                self.unsure(format!(
                    "{name} is not known to depend on its arguments only"
                ));
            }
            TableFactor::Table {
                sample: Some(_), ..
            }
            | TableFactor::Derived {
                sample: Some(_), ..
            } => self.unsure("a sample differs each time".into()),
            _ => {}
        }
    }

    fn expr(&mut self, expr: &Expr) {
        match expr {
            Expr::Function(function) if !functions::is_plain(function, self.dialect()) => {
                let name = &function.name;
                self.unsure(format!(
                    "{name} is not known to depend on its arguments only"
                ));
            }
            Expr::Identifier(name) if name.quote_style.is_none() => {
                let folded = name.value.to_lowercase();
                let postgres = self.dialect() == Dialect::Postgres;
                if folded.starts_with('@')
                    || BARE_FUNCTIONS.contains(&folded.as_str())
                    || postgres && BARE_FUNCTIONS_POSTGRES.contains(&folded.as_str())
                {
                    self.unsure(format!("{name} depends on the session"));
                }
            }
            Expr::CompoundIdentifier(parts) => {
                if let Some(name) = parts.first().filter(|part| part.value.starts_with('@')) {
                    self.unsure(format!("{name} depends on the session"));
                }
            }
            _ => {}
        }
    }
}

/// Whether PostgreSQL may take a text for a time that depends on when the statement runs, where a time is wanted: one of these words,
/// perhaps with a time of day and a zone.
fn may_be_now(text: &str) -> bool {
    const NOW: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];
    /// Longer ones are no times.
    const TIME_BYTES_MAX: usize = 128;
    let mut words = text.split(|c: char| !c.is_ascii_alphabetic());
    text.len() <= TIME_BYTES_MAX
        && words.any(|word| NOW.iter().any(|now| word.eq_ignore_ascii_case(now)))
}

fn flow(result: Result<(), ExplainError>) -> ControlFlow<ExplainError> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    }
}

impl Visitor for Reads<'_> {
    type Break = ExplainError;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        let mut named = Named {
            names: Vec::new(),
            defined: 0,
        };
        if let Some(with) = &query.with {
            let names = with.cte_tables.iter().map(|one| {
                let name = folded(&one.alias.name, self.dialect());
                (name, std::ptr::from_ref(&*one.query))
            });
            named.names = names.collect();
            if with.recursive {
                named.defined = named.names.len();
            }
        }
        self.around.push(named);
        if !query.locks.is_empty() {
            self.unsure("it locks rows, which a cached answer does not".into());
        }
        if !query.pipe_operators.is_empty() {
            self.unsure("pipe operators are not understood".into());
        }
        flow(self.bare_tables(&query.body))
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        self.around.pop();
        if let Some(around) = self.around.last_mut()
            && let Some((_, next)) = around.names.get(around.defined)
            && std::ptr::eq(*next, query)
        {
            around.defined += 1;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Self::Break> {
        if select.into.is_some() {
            self.writes += 1;
        }
        flow(self.select(select))
    }

    fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<Self::Break> {
        if !self.is_table(name) {
            return ControlFlow::Continue(());
        }
        let own = |part: &ObjectNamePart| {
            let name = part.as_ident().map(|name| name.value.to_lowercase());
            name.is_some_and(|name| {
                SYSTEM_SCHEMAS.contains(&name.as_str())
                    || name.starts_with("sqlite_")
                    || name.starts_with("pg_")
            })
        };
        if name.0.iter().any(own) {
            self.unsure(format!(
                "{name} is the database's own: statements that change it name other tables"
            ));
        }
        match from::table(name, self.dialect()) {
            Ok(table) => {
                *self.unaccounted.entry(table).or_default() += 1;
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        self.factor(factor);
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
        self.expr(expr);
        ControlFlow::Continue(())
    }

    fn pre_visit_value(&mut self, value: &ValueWithSpan) -> ControlFlow<Self::Break> {
        if self.dialect() == Dialect::Postgres
            && let Some(text) = self.literals.text_of(&value.value)
            && may_be_now(text)
        {
            let now = text.trim();
            self.unsure(format!("'{now}' may be the time at which it runs"));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<Self::Break> {
        if !matches!(statement, Statement::Query(_)) {
            self.writes += 1;
        }
        ControlFlow::Continue(())
    }
}
