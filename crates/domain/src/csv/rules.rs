//! What a pipeline asks of its columns.

use std::borrow::Cow;
use std::collections::HashSet;

use regex::Regex;
use unicode_normalization::{UnicodeNormalization as _, is_nfc};

use super::dialect::Dialect;
use super::error::{COLUMN_BYTES, ErrorList, of, shortened, some_of};
use super::formats::Format;
use super::invisible;

/// A column of a pipeline.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its name, as it stands in the header; case counts.
    pub name: String,
    /// Other names that a header may have for it.
    pub aliases: Vec<String>,
    /// How its values are changed before they are judged and read.
    pub cleaning: Cleaning,
    /// What a client reads when a value breaks a rule, in place of our own sentence.
    pub message: Option<String>,
    /// A value as it should be, for the same sentence.
    pub example: Option<String>,
    /// Whether it must be in the header and every value of it must have a character.
    pub required: bool,
    /// The shape of its values.
    pub format: Option<Format>,
    /// Values must match; the pattern says itself where they begin and end.
    pub pattern: Option<Regex>,
    /// Characters at the least.
    pub min_length: Option<usize>,
    /// Characters at most.
    pub max_length: Option<usize>,
    /// The only values there are; empty: any.
    pub one_of: Choices,
}

/// What is done to a value before it is judged and before templates read it. What is stored, and shown in reports, is the client's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleaning {
    /// White space around it is taken off.
    pub trim: bool,
    /// Its letters are made small or capital.
    pub case: Option<LetterCase>,
    /// Letters that can be written in several ways are written in one (NFC).
    pub nfc: bool,
    /// What an empty value stands for.
    pub default: Option<String>,
}

/// Small or capital letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LetterCase {
    /// Small ones.
    Lower,
    /// Capital ones.
    Upper,
}

impl Cleaning {
    /// The value that is judged and read.
    pub fn apply<'v>(&self, value: &'v str) -> Cow<'v, str> {
        let value = if self.trim { value.trim_matches(invisible::is_blank) } else { value };
        if let Some(default) = self.default.as_ref().filter(|_| value.is_empty()) {
            return Cow::Owned(default.clone());
        }
        let mut clean = Cow::Borrowed(value);
        if self.nfc && !is_nfc(&clean) {
            clean = Cow::Owned(clean.nfc().collect());
        }
        match self.case {
            Some(LetterCase::Lower) => Cow::Owned(clean.to_lowercase()),
            Some(LetterCase::Upper) => Cow::Owned(clean.to_uppercase()),
            None => clean,
        }
    }
}

/// The only values of a column, in the order of its definition.
#[derive(Clone, Debug, Default)]
pub struct Choices {
    listed: Vec<String>,
    /// The same, found without a walk through all of them.
    known: HashSet<String>,
}

impl Choices {
    /// Whether a value is among them.
    pub fn contains(&self, value: &str) -> bool {
        self.known.contains(value)
    }

    /// Whether there are none, so that any value goes.
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// Each of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.listed.iter().map(String::as_str)
    }
}

impl From<Vec<String>> for Choices {
    fn from(listed: Vec<String>) -> Self {
        Self { known: listed.iter().cloned().collect(), listed }
    }
}

/// How much a file may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Characters of a field.
    pub max_field_chars: usize,
    /// Bytes of a record.
    pub max_record_bytes: usize,
    /// Rows.
    pub max_rows: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_field_chars: 64 * 1024, max_record_bytes: 1024 * 1024, max_rows: 1_000_000 }
    }
}

impl Limits {
    /// For what was held to its limits before.
    pub const NONE: Self =
        Self { max_field_chars: usize::MAX, max_record_bytes: usize::MAX, max_rows: u64::MAX };

    /// What a record may have besides the client's own part: the columns that a report adds, and an apostrophe for each
    /// cell that a report made harmless. Bounds memory; the client's part is judged by itself.
    pub fn with_ours(&self, columns: usize) -> Self {
        Self {
            max_field_chars: self.max_field_chars.saturating_add(1).max(OURS_BYTES),
            max_record_bytes: self.max_record_bytes.saturating_add(columns).saturating_add(OURS_BYTES),
            max_rows: self.max_rows,
        }
    }
}

/// What a file's first record may have, beside what any record may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderLimits {
    /// Columns.
    pub max_columns: usize,
    /// Bytes, without the line end.
    pub max_bytes: usize,
}

/// Columns of a header beside those that the pipeline knows.
const OTHER_COLUMNS: usize = 1000;

/// Bytes of a header beside the names of the columns that the pipeline knows.
const OTHER_HEADER_BYTES: usize = 64 * 1024;

/// Bytes that the columns added by a report (`_row`, `_status`, `_code`, `_message`, `_ref`) take in a record, at most.
pub const OURS_BYTES: usize = 64 * 1024;

/// The columns and limits of a pipeline's files.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// The columns.
    pub columns: Vec<Column>,
    /// Whether the header must keep their order.
    pub ordered: bool,
    /// Columns, by their places, whose values together may stand once in a file; none: there is no such rule.
    pub unique: Vec<usize>,
    /// How files may be written.
    pub dialect: Dialect,
    /// The limits.
    pub limits: Limits,
}

impl Schema {
    /// Memory that [`Schema::unique`] takes while a file is read, at most.
    pub fn unique_bytes(&self) -> usize {
        let rows = usize::try_from(self.limits.max_rows).unwrap_or(usize::MAX);
        if self.unique.is_empty() { 0 } else { rows.saturating_mul(super::unique::ROW_BYTES) }
    }

    /// What a header may have: far more than the columns that there are, and not without end.
    pub fn header_limits(&self) -> HeaderLimits {
        let longest = |column: &Column| column.names().map(str::len).max().unwrap_or(0);
        let known: usize = self.columns.iter().map(|column| longest(column) * 2 + 3).sum();
        HeaderLimits {
            max_columns: self.columns.len() + OTHER_COLUMNS,
            max_bytes: known + OTHER_HEADER_BYTES,
        }
    }
}

impl Column {
    /// A column without rules.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            aliases: Vec::new(),
            cleaning: Cleaning::default(),
            message: None,
            example: None,
            required: false,
            format: None,
            pattern: None,
            min_length: None,
            max_length: None,
            one_of: Choices::default(),
        }
    }

    /// All names that a header may have for it.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.aliases.iter().map(String::as_str))
    }

    /// Whether this is one of them.
    pub fn has_name(&self, name: &str) -> bool {
        self.names().any(|known| known == name)
    }

    /// The sentence of an error: the definition's own, if it has one, and what shows how to do it right.
    fn sentence(&self, value: &str, usual: &dyn Fn() -> String) -> String {
        let mut sentence = self.message.clone().unwrap_or_else(usual);
        if let Some(example) = &self.example {
            sentence.push_str(&format!(", for example {example}"));
        }
        if let Some(hidden) = invisible::first_in(value) {
            sentence.push_str(&format!("; it holds {hidden}"));
        }
        sentence
    }

    /// Judges a value. An empty one that is not required passes every rule.
    pub fn judge(&self, value: &str, line: u64, errors: &mut ErrorList) {
        let mut fault = |code, message: &dyn Fn() -> String| {
            errors.push(line, Some(&self.name), code, || self.sentence(value, message));
        };
        if value.is_empty() {
            if self.required {
                fault("required", &|| {
                    format!("`{}` must have a value; fill the cell, or remove the line", self.name)
                });
            }
            return;
        }
        // Bytes bound characters, so most values need no counting.
        if let Some(most) = self.max_length
            && value.len() > most
            && value.chars().count() > most
        {
            fault("max_length", &|| {
                let has = value.chars().count();
                format!(
                    "`{}` may have at most {}, and has {has}; shorten it",
                    self.name,
                    of(most as u64, "character")
                )
            });
        }
        if let Some(least) = self.min_length
            && value.chars().take(least).count() < least
        {
            fault("min_length", &|| {
                let has = value.chars().count();
                format!(
                    "`{}` must have at least {}, and has {has}; write all of it",
                    self.name,
                    of(least as u64, "character")
                )
            });
        }
        if let Some(format) = self.format
            && !format.accepts(value)
        {
            fault("format", &|| format!("`{}` must be {}", self.name, format.described()));
        }
        if let Some(pattern) = &self.pattern
            && !pattern.is_match(value)
        {
            fault("pattern", &|| {
                let whom =
                    if self.example.is_some() { "" } else { "; whoever runs this service can say how" };
                let pattern = shortened(pattern.as_str(), COLUMN_BYTES);
                format!(
                    "`{}` is not written as it must be (pattern {pattern}); write it in that way{whom}",
                    self.name
                )
            });
        }
        if !self.one_of.is_empty() && !self.one_of.contains(value) {
            fault("enum", &|| format!("`{}` must be one of: {}", self.name, some_of(self.one_of.iter())));
        }
    }
}
