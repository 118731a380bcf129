//! Literals and parameters, as values.

use grapevine_core::criteria::{Datum, Dialect, Order, Range, Raw};
use sqlparser::ast::{CastKind, DataType, Expr, UnaryOperator, Value};

use crate::VALUE_BYTES_MAX;

/// A value of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// NULL.
    Null,
    /// True or false.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// An integer above the range of the other.
    Uint(u64),
    /// A floating-point number.
    Float(f64),
    /// Text; also decimals, dates, times and UUIDs, in their usual notation.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl Scalar {
    /// How long it is, if it is text or bytes.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Text(value) => value.len(),
            Self::Bytes(value) => value.len(),
            _ => 0,
        }
    }

    /// The same, borrowed.
    pub fn raw(&self) -> Raw<'_> {
        match self {
            Self::Null => Raw::Null,
            Self::Bool(value) => Raw::Bool(*value),
            Self::Int(value) => Raw::Int(*value),
            Self::Uint(value) => Raw::Uint(*value),
            Self::Float(value) => Raw::Float(*value),
            Self::Text(value) => Raw::Text(value),
            Self::Bytes(value) => Raw::Bytes(value),
        }
    }
}

/// A parameter: by its place, counted from 1 among those without a name, or by its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its name, without the sign before it; `None`: the next one by place.
    pub name: Option<String>,
    /// Its value.
    pub value: Scalar,
}

impl Parameter {
    /// How long its name and its value are.
    pub(crate) fn bytes(&self) -> usize {
        self.name.as_ref().map_or(0, String::len) + self.value.bytes()
    }
}

/// A value as it stands in the statement.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Literal {
    pub(crate) scalar: Scalar,
    datum: Option<Datum>,
}

impl Literal {
    fn new(dialect: Dialect, scalar: Scalar) -> Self {
        let datum = Datum::of(dialect, scalar.raw());
        Self { scalar, datum }
    }

    /// What a column has that was given it, or is equal to it. SQLite makes a number text in a column of text, and then orders
    /// it as text.
    pub(crate) fn in_column(&self, dialect: Dialect) -> Option<Datum> {
        let mut datum = self.datum.clone()?;
        if dialect == Dialect::Sqlite && datum.order == Some(Order::Number) {
            datum.order = None;
        }
        Some(datum)
    }

    /// Its normal form, if it has one.
    pub(crate) fn datum(&self) -> Option<&Datum> {
        self.datum.as_ref()
    }

    pub(crate) fn is_null(&self) -> bool {
        self.scalar == Scalar::Null
    }

    /// Whether it may be an end of a range: a number, or a time. Text that reads as a number may be compared as text.
    fn is_end(&self) -> bool {
        let text = matches!(self.scalar, Scalar::Text(_) | Scalar::Bytes(_));
        let order = self.datum.as_ref().and_then(|datum| datum.order);
        order == Some(Order::Time) || (!text && order.is_some())
    }

    /// From one to the other.
    pub(crate) fn range(low: Option<&Self>, high: Option<&Self>) -> Option<Range> {
        let all_ends = [low, high].into_iter().flatten().all(Self::is_end);
        let datum = |end: Option<&Self>| end.and_then(|end| end.datum.clone());
        all_ends.then(|| Range::between(datum(low).as_ref(), datum(high).as_ref()))?
    }
}

/// The values of a statement's placeholders.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Literals<'a> {
    pub(crate) dialect: Dialect,
    pub(crate) parameters: &'a [Parameter],
}

impl Literals<'_> {
    /// The value of an expression, if it stands there.
    pub(crate) fn of(&self, expr: &Expr) -> Option<Literal> {
        let scalar = self.scalar(expr)?;
        Some(Literal::new(self.dialect, scalar))
    }

    /// A whole number that is not negative, as LIMIT takes it.
    pub(crate) fn count(&self, expr: &Expr) -> Option<u64> {
        match self.scalar(expr)? {
            Scalar::Int(value) => u64::try_from(value).ok(),
            Scalar::Uint(value) => Some(value),
            _ => None,
        }
    }

    fn scalar(&self, expr: &Expr) -> Option<Scalar> {
        match expr {
            Expr::Nested(inner) => self.scalar(inner),
            Expr::Value(value) => self.of_value(&value.value),
            Expr::UnaryOp { op, expr } => {
                let scalar = self.scalar(expr)?;
                match (op, scalar) {
                    (UnaryOperator::Plus, scalar @ (Scalar::Int(_) | Scalar::Float(_))) => {
                        Some(scalar)
                    }
                    (UnaryOperator::Minus, Scalar::Int(value)) => Some(
                        value
                            .checked_neg()
                            .map_or(Scalar::Uint(1 << 63), Scalar::Int),
                    ),
                    (UnaryOperator::Minus, Scalar::Uint(value)) if value == 1 << 63 => {
                        Some(Scalar::Int(i64::MIN))
                    }
                    (UnaryOperator::Minus, Scalar::Float(value)) => Some(Scalar::Float(-value)),
                    _ => None,
                }
            }
            Expr::TypedString(typed) => {
                let scalar = self.of_value(&typed.value.value)?;
                keeps(&typed.data_type, &scalar).then_some(scalar)
            }
            Expr::Cast {
                kind: CastKind::Cast | CastKind::DoubleColon,
                expr,
                data_type,
                format: None,
            } => {
                let scalar = self.scalar(expr)?;
                keeps(data_type, &scalar).then_some(scalar)
            }
            _ => None,
        }
    }

    /// The value that a literal or a placeholder stands for, unless it is too long to be looked at.
    fn of_value(&self, value: &Value) -> Option<Scalar> {
        if let Some(text) = self.text_of(value) {
            let fits = text.len() <= VALUE_BYTES_MAX;
            return fits.then(|| Scalar::Text(text.to_owned()));
        }
        match value {
            Value::Number(digits, _) => Some(number(digits)?),
            Value::Boolean(value) => Some(Scalar::Bool(*value)),
            Value::Null => Some(Scalar::Null),
            Value::Placeholder(name) => {
                let given = self.parameter(name);
                given
                    .filter(|given| given.bytes() <= VALUE_BYTES_MAX)
                    .cloned()
            }
            // Of these it depends on the dialect, and on modes of the server, what they are.
            _ => None,
        }
    }

    /// The text that a literal or a placeholder stands for.
    pub(crate) fn text_of<'b>(&'b self, value: &'b Value) -> Option<&'b str> {
        match value {
            Value::SingleQuotedString(text) | Value::NationalStringLiteral(text) => Some(text),
            Value::EscapedStringLiteral(text) if self.dialect == Dialect::Postgres => Some(text),
            Value::DollarQuotedString(text) => Some(&text.value),
            Value::DoubleQuotedString(text) if self.dialect == Dialect::MySql => Some(text),
            Value::Placeholder(name) => match self.parameter(name) {
                Some(Scalar::Text(text)) => Some(text),
                _ => None,
            },
            _ => None,
        }
    }

    /// The value of a placeholder, which is numbered or named here.
    fn parameter(&self, placeholder: &str) -> Option<&Scalar> {
        let name = placeholder.get(1..)?;
        let found = if let Ok(number) = name.parse::<usize>() {
            let mut by_place = self.parameters.iter().filter(|given| given.name.is_none());
            by_place.nth(number.checked_sub(1)?)
        } else {
            let mut given = self.parameters.iter();
            given.find(|given| given.name.as_deref() == Some(name))
        };
        found.map(|given| &given.value)
    }
}

fn number(digits: &str) -> Option<Scalar> {
    let of_numbers = |byte: u8| byte.is_ascii_digit() || b".eE+-".contains(&byte);
    if !digits.bytes().all(of_numbers) {
        return None;
    }
    let int = digits.parse().map(Scalar::Int).ok();
    let uint = || digits.parse().map(Scalar::Uint).ok();
    let float = || digits.parse().map(Scalar::Float).ok();
    int.or_else(uint).or_else(float)
}

/// Whether a cast to this type leaves the value what it is.
fn keeps(data_type: &DataType, scalar: &Scalar) -> bool {
    let whole = matches!(scalar, Scalar::Int(_) | Scalar::Uint(_));
    let text = match scalar {
        Scalar::Text(text) => Some(text),
        _ => None,
    };
    match data_type {
        DataType::Int(None)
        | DataType::Integer(None)
        | DataType::BigInt(None)
        | DataType::Int4(None)
        | DataType::Int8(None) => whole,
        DataType::Text
        | DataType::Varchar(None)
        | DataType::CharacterVarying(None)
        | DataType::Uuid
        | DataType::Timestamp(None, _)
        | DataType::Datetime(None) => text.is_some(),
        DataType::Date => text.is_some_and(|text| text.len() == "2026-01-01".len()),
        DataType::Boolean | DataType::Bool => matches!(scalar, Scalar::Bool(_)),
        _ => *scalar == Scalar::Null,
    }
}
