//! The names of a header, compared as a pipeline asks for it.

use std::borrow::Cow;

use super::error::{COLUMN_BYTES, shortened, some_of};
use super::formula::{may_be_protected, restore};
use super::invisible;
use super::rules::Schema;
use super::spreadsheet::text_of;

/// A name of a report's header, as it was before the report put an apostrophe before it, or wrote a formula that shows it.
pub(super) fn own(name: &str) -> Cow<'_, str> {
    match text_of(name) {
        Some(text) => Cow::Owned(text),
        None if may_be_protected(name) => Cow::Borrowed(restore(name)),
        None => Cow::Borrowed(name),
    }
}

/// Finds the column that a header's name means.
pub(super) fn find(schema: &Schema, name: &str) -> Option<usize> {
    let rules = &schema.dialect.header;
    if let Some(exact) = schema.columns.iter().position(|column| column.has_name(name)) {
        return Some(exact);
    }
    if !rules.ignore_case && !rules.trim {
        return None;
    }
    let compared = schema.dialect.header.compared(name);
    schema.columns.iter().position(|column| column.names().any(|known| rules.compared(known) == compared))
}

impl super::dialect::HeaderRules {
    /// A name, without what does not count.
    pub fn compared<'n>(&self, name: &'n str) -> Cow<'n, str> {
        let name = if self.trim { name.trim_matches(invisible::is_blank) } else { name };
        if self.ignore_case { Cow::Owned(name.to_lowercase()) } else { Cow::Borrowed(name) }
    }
}

/// Why a column without a name is none; `first`: it is the first.
pub(super) fn unnamed(first: bool, schema: &Schema, hint: &str) -> String {
    let how = if first {
        " (pandas writes its index so: export with `index=False`; and R its row names: `row.names = FALSE`)"
    } else {
        ""
    };
    format!(
        "the header has a column without a name; write one of {}, or remove the column{how}{hint}",
        listed(schema)
    )
}

/// Why a name is no column, and what to do.
pub(super) fn unknown(name: &str, schema: &Schema, hint: &str) -> String {
    let shown = shortened(name, COLUMN_BYTES);
    if let Some(hidden) = invisible::first_in(name)
        && let Some(close) = closest(schema, &invisible::without(name))
    {
        return format!(
            "`{}` is not a column: it holds {hidden}; write it `{close}`",
            invisible::without(&shown)
        );
    }
    match closest(schema, name) {
        Some(close) => format!("`{shown}` is not a column; write it `{close}`"),
        None => format!(
            "`{shown}` is not a column; remove it, or give it the name of one: {}{hint}",
            listed(schema)
        ),
    }
}

/// The pipeline's own name that differs only by case and white space around it.
fn closest<'s>(schema: &'s Schema, name: &str) -> Option<&'s str> {
    let name = name.trim_matches(invisible::is_blank).to_lowercase();
    let close = schema.columns.iter().find(|column| column.names().any(|known| known.to_lowercase() == name));
    close.map(|column| column.name.as_str())
}

/// How many of these names the pipeline has, however they are written.
pub(super) fn known(schema: &Schema, names: &[String]) -> usize {
    names.iter().filter(|name| find(schema, name).is_some() || closest(schema, name).is_some()).count()
}

/// The pipeline's columns, for a sentence.
pub(super) fn listed(schema: &Schema) -> String {
    some_of(schema.columns.iter().map(|column| column.name.as_str()))
}
