//! Statements and what is bound to them, before any engine sees them.

use std::borrow::Cow;

use penstock_domain::ids::{BatchId, BatchSeq, CallId, LeaseToken, OwnerSeq};
use penstock_domain::time::Timestamp;
use uuid::Uuid;

/// A value on its way into a database.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// A whole number, whatever the width of its column.
    Int(Option<i64>),
    /// A text.
    Text(Option<Cow<'a, str>>),
    /// Bytes.
    Bytes(Option<&'a [u8]>),
    /// A UUID.
    Uuid(Option<Uuid>),
    /// A truth value.
    Bool(bool),
    /// Numbers for `{in $n}`.
    Ints(Vec<i64>),
    /// Texts for `{in $n}`.
    Texts(&'a [String]),
    /// UUIDs for `{in $n}`.
    Uuids(&'a [Uuid]),
}

/// Numbers for `{in $n}`.
pub fn list<'a, T: Into<i64>>(numbers: impl IntoIterator<Item = T>) -> Value<'a> {
    Value::Ints(numbers.into_iter().map(Into::into).collect())
}

/// Conversions of a type, and of an optional one.
macro_rules! values {
    ($($type:ty => $variant:ident, |$value:ident| $convert:expr;)*) => {$(
        impl<'a> From<$type> for Value<'a> {
            fn from($value: $type) -> Self {
                Self::$variant(Some($convert))
            }
        }
        impl<'a> From<Option<$type>> for Value<'a> {
            fn from(value: Option<$type>) -> Self {
                Self::$variant(value.map(|$value| $convert))
            }
        }
    )*};
}

values! {
    i64 => Int, |value| value;
    i32 => Int, |value| i64::from(value);
    i16 => Int, |value| i64::from(value);
    u32 => Int, |value| i64::from(value);
    u16 => Int, |value| i64::from(value);
    // A file has no more bytes than that.
    u64 => Int, |value| i64::try_from(value).unwrap_or(i64::MAX);
    Timestamp => Int, |value| value.millis();
    BatchSeq => Int, |value| value.0;
    OwnerSeq => Int, |value| value.0;
    Uuid => Uuid, |value| value;
    BatchId => Uuid, |value| value.0;
    LeaseToken => Uuid, |value| value.0;
    CallId => Uuid, |value| value.0;
    &'a str => Text, |value| value.into();
    &'a String => Text, |value| value.as_str().into();
    String => Text, |value| value.into();
    &'a [u8] => Bytes, |value| value;
    &'a Vec<u8> => Bytes, |value| value.as_slice();
}

impl<'a> From<&'a Option<String>> for Value<'a> {
    fn from(value: &'a Option<String>) -> Self {
        value.as_deref().into()
    }
}

impl<'a> From<&'a Option<Vec<u8>>> for Value<'a> {
    fn from(value: &'a Option<Vec<u8>>) -> Self {
        value.as_deref().into()
    }
}

impl<'a> From<&'a [String]> for Value<'a> {
    fn from(value: &'a [String]) -> Self {
        Self::Texts(value)
    }
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

/// A group of rows, column by column: what `{rows}` stands for.
#[derive(Clone, Debug, Default)]
pub struct Group<'a> {
    columns: Vec<Vec<Value<'a>>>,
}

impl<'a> Group<'a> {
    /// A group without columns.
    pub fn new() -> Self {
        Self::default()
    }

    /// With another column. All of them have as many values, of one type.
    #[must_use]
    pub fn column<T: Into<Value<'a>>>(mut self, values: impl IntoIterator<Item = T>) -> Self {
        self.columns.push(values.into_iter().map(Into::into).collect());
        debug_assert_eq!(
            self.columns[0].len(),
            self.columns[self.columns.len() - 1].len(),
            "one value a row"
        );
        self
    }

    /// Rows of `N` values each.
    pub fn of_rows<const N: usize>(rows: impl IntoIterator<Item = [Value<'a>; N]>) -> Self {
        let mut columns: Vec<Vec<Value<'a>>> = std::iter::repeat_with(Vec::new).take(N).collect();
        for row in rows {
            columns.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
        }
        Self { columns }
    }

    /// With the columns of another group of as many rows.
    #[must_use]
    pub fn beside(mut self, other: Self) -> Self {
        self.columns.extend(other.columns);
        self
    }

    /// Its columns.
    pub fn columns(&self) -> &[Vec<Value<'a>>] {
        &self.columns
    }

    /// How many rows it has.
    pub fn len(&self) -> usize {
        self.columns.first().map_or(0, Vec::len)
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A statement with what is bound to it.
#[derive(Clone, Debug)]
pub struct Statement<'a> {
    /// Its name: entity, verb, guard.
    pub name: &'static str,
    /// Its text, with fragments.
    pub text: Cow<'static, str>,
    /// Scalars and lists, in order.
    pub values: Vec<Value<'a>>,
    /// The rows of `{rows}`; none: it has no such fragment.
    pub group: Option<Group<'a>>,
    /// Whether an engine without LATERAL runs it for each row of the group.
    pub one_by_one: bool,
}

/// A statement. See the crate's documentation for what its text may have.
pub fn sql<'a>(name: &'static str, text: &'static str) -> Statement<'a> {
    Statement { name, text: Cow::Borrowed(text), values: Vec::new(), group: None, one_by_one: false }
}

impl<'a> Statement<'a> {
    /// Binds the next scalar.
    #[must_use]
    pub fn bind(mut self, value: impl Into<Value<'a>>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Appends text, as for a filter that is set.
    #[must_use]
    pub fn push(mut self, text: &str) -> Self {
        self.text.to_mut().push_str(text);
        self
    }

    /// Appends text and its value, whose number is appended as `$n` where the text has `$?`.
    #[must_use]
    pub fn push_bind(mut self, text: &str, value: impl Into<Value<'a>>) -> Self {
        self.values.push(value.into());
        let number = format!("${}", self.values.len());
        self.push(&text.replace("$?", &number))
    }

    /// Binds the rows of `{rows}`.
    #[must_use]
    pub fn rows(mut self, group: Group<'a>) -> Self {
        self.group = Some(group);
        self
    }

    /// Its text uses `{rows}` as one row (SQLite has no LATERAL): SQLite runs it for each.
    #[must_use]
    pub fn one_by_one(mut self) -> Self {
        self.one_by_one = true;
        self
    }

    /// Whether running it would do nothing.
    pub(crate) fn is_idle(&self) -> bool {
        self.group.as_ref().is_some_and(Group::is_empty)
    }
}
