//! What the YAML parser says, as sentences: what stands there, what belongs there, and a hint.

mod collect;
mod decode;
mod node;

use serde_saphyr::{Error, UserMessageFormatter};

pub(crate) use collect::{Collected, collect};
pub(super) use decode::Reader;
pub(super) use node::{Entry, Kind, Map as NodeMap, Node};

use super::error::{DefinitionError, ErrorCode};
use super::names::hint;

/// At most this many characters of a value are shown.
const SHOWN: usize = 40;

/// A definition's text, which is UTF-8.
///
/// # Errors
/// When it is not, with the line of the first byte that is none.
pub fn utf8<'a>(file: &str, bytes: &'a [u8]) -> Result<&'a str, DefinitionError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        DefinitionError {
            file: file.to_owned(),
            line: memchr::memchr_iter(b'\n', before).count() as u64 + 1,
            column: 1,
            code: ErrorCode::Unreadable,
            message: "the file is not UTF-8 from here on; save it as UTF-8".into(),
        }
    })
}

/// Reads a file's YAML; `keys` are those that it has to have.
///
/// # Errors
/// The first place that is not what belongs there.
pub(crate) fn read<'a, T: serde::Deserialize<'a>>(
    file: &str,
    text: &'a str,
    keys: &str,
) -> Result<T, DefinitionError> {
    serde_saphyr::from_str(text).map_err(|error| {
        let (line, column) = error.location().map_or((1, 1), |location| (location.line(), location.column()));
        let message = match error.without_snippet() {
            Error::Eof { .. } => format!("the file is empty; write {keys}"),
            error => sentence(error, &TextPosition::of(text, line, column)),
        };
        let code = code_of(&error);
        DefinitionError { file: file.to_owned(), line: line.max(1), column: column.max(1), code, message }
    })
}

/// Which kind of error it is.
fn code_of(error: &Error) -> ErrorCode {
    match error {
        Error::WithSnippet { error, .. } | Error::AliasError { error, .. } => code_of(error),
        Error::DuplicateMappingKey { .. } => ErrorCode::DuplicateKey,
        Error::SerdeUnknownField { .. } => ErrorCode::UnknownKey,
        Error::SerdeMissingField { .. } => ErrorCode::MissingKey,
        Error::Message { .. } => ErrorCode::InvalidValue,
        Error::SerdeUnknownVariant { .. }
        | Error::NullIntoString { .. }
        | Error::InvalidScalar { .. }
        | Error::InvalidBooleanStrict { .. }
        | Error::NonFiniteFloat { .. }
        | Error::Unexpected { .. }
        | Error::ExternallyTaggedEnumExpectedScalarOrMapping { .. }
        | Error::UnexpectedValueForUnitEnumVariant { .. }
        | Error::SerdeInvalidType { .. }
        | Error::SerdeInvalidValue { .. } => ErrorCode::InvalidType,
        _ => ErrorCode::InvalidYaml,
    }
}

/// What stands at a place: its key, if it is a value, and its own text.
struct TextPosition<'a> {
    key: Option<&'a str>,
    word: String,
}

impl<'a> TextPosition<'a> {
    fn of(text: &'a str, line: u64, column: u64) -> Self {
        let index = |number: u64| usize::try_from(number.saturating_sub(1)).unwrap_or(0);
        let line = text.lines().nth(index(line)).unwrap_or_default();
        let at = line.char_indices().nth(index(column)).map_or(line.len(), |(at, _)| at);
        let (before, after) = line.split_at(at);
        // A missing value is placed at its colon.
        let before = if after.starts_with(':') { &line[..=at] } else { before };
        let key = before.trim_end().strip_suffix(':').map(|before| {
            let name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
            before.rfind(|c| !name(c)).map_or(before, |at| before[at..].trim_start_matches(|c| !name(c)))
        });
        let word = match after.trim_start().chars().next() {
            Some('[') => "[…]".to_owned(),
            Some('{') => "{…}".to_owned(),
            _ => {
                let end = after.find([',', '}', ']', '#']).unwrap_or(after.len());
                after[..end].trim_start_matches(':').trim().chars().take(SHOWN).collect()
            }
        };
        Self { key: key.filter(|key| !key.is_empty()), word }
    }

    /// `max_rows: many`, as far as it is known.
    fn shown(&self) -> String {
        match self.key {
            Some(key) => format!("`{}`", format!("{key}: {}", self.word).trim_end()),
            None if self.word.is_empty() => "what stands here".into(),
            None => format!("`{}`", self.word),
        }
    }
}

fn sentence(error: &Error, place: &TextPosition<'_>) -> String {
    match error {
        Error::WithSnippet { error, .. } | Error::AliasError { error, .. } => sentence(error, place),
        Error::MultipleDocuments { .. } => {
            "a second YAML document begins here; keep one in a file, and take the line `---` out".into()
        }
        Error::DuplicateMappingKey { key, .. } => match key {
            Some(key) => format!("duplicate key `{key}`; remove one of them"),
            None => "duplicate key; remove one of them".into(),
        },
        Error::SerdeUnknownField { field, expected, .. } => {
            format!("unknown key `{field}`{}", hint(field, expected))
        }
        Error::SerdeMissingField { field, .. } => format!("the key `{field}` is missing here; add it"),
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("{} is unknown{}", place.shown(), hint(variant, expected))
        }
        Error::NullIntoString { .. } => {
            format!("{} has no value; write one, or take the key out", place.shown())
        }
        Error::InvalidScalar { ty, .. } => format!("{}: {}", place.shown(), wanted(ty)),
        Error::InvalidBooleanStrict { .. } => format!("{}: {}", place.shown(), wanted("boolean")),
        Error::NonFiniteFloat { .. } => {
            format!("{} is too large a number, or not a number; quote it if it is a text", place.shown())
        }
        Error::Unexpected { expected, .. } => format!("{}: {}", place.shown(), wanted(expected)),
        Error::SerdeInvalidType { expected, .. } | Error::SerdeInvalidValue { expected, .. } => {
            format!("{}: {}", place.shown(), wanted(expected))
        }
        Error::ExternallyTaggedEnumExpectedScalarOrMapping { .. }
        | Error::UnexpectedValueForUnitEnumVariant { .. } => {
            format!("{}: a single word belongs here, without brackets", place.shown())
        }
        Error::UnknownAnchor { .. } => {
            format!("{} names no anchor; quote it, if a text begins with `*`", place.shown())
        }
        Error::Message { msg, .. } => first_line(msg),
        other => format!(
            "this is no YAML that can be read: {}",
            first_line(&other.render_with_formatter(&UserMessageFormatter))
        ),
    }
}

/// Without the place, which the error has already.
fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.rsplit_once(" at line ").map_or(line, |(message, _)| message).trim().to_owned()
}

/// What belongs at a place, by the parser's or serde's name for it.
fn wanted(kind: &str) -> String {
    match kind {
        "u8" | "u16" | "u32" | "u64" | "u128" | "usize" => {
            "a whole number belongs here, not below 0 and not too large, such as 10"
        }
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => "a whole number belongs here, such as 10",
        "boolean" | "bool" => "true or false belongs here",
        "floating point" | "f32" | "f64" => "a number belongs here, such as 1.5",
        "sequence start" | "a sequence" => "a list belongs here, such as `[one, two]`; `[]` is an empty one",
        "mapping start" | "a map" => {
            "keys and values belong here, such as `{ key: value }`; `{}` is an empty set"
        }
        "string scalar" | "a string" => {
            "a text belongs here; put it in quotes when it holds `{`, `[`, `: ` or ` #`"
        }
        struct_name if struct_name.starts_with("struct ") => {
            "keys and values belong here, such as `{ key: value }`; `{}` is an empty set"
        }
        other => return format!("{other} belongs here"),
    }
    .to_owned()
}
