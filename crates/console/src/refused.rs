//! What is wrong with a file: the errors in a grid, by kind.

use askama::filters::Safe;
use penstock_domain::csv::{ErrorCount, RowError};
use serde::Deserialize;
use serde_json::Value;

use crate::show::{number, sentence};

/// Errors of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Kind {
    /// Which rule is broken.
    pub code: String,
    /// How many.
    pub count: u64,
}

/// An error of a file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FileError {
    pub(crate) line: u64,
    pub(crate) column: Option<String>,
    pub(crate) code: String,
    pub(crate) message: String,
}

impl From<&RowError> for FileError {
    fn from(error: &RowError) -> Self {
        let (column, message) = (error.column.clone(), error.message.clone());
        Self { line: error.line, column, code: error.code.to_owned(), message }
    }
}

/// Why a file was refused.
#[derive(Clone, Debug, Default)]
pub struct Refused {
    /// A sentence.
    pub detail: String,
    /// The errors that are listed.
    pub errors: Vec<FileError>,
    /// All of them by column and code; empty where they were not counted so.
    pub counts: Vec<Kind>,
    /// How many the file has.
    pub count: u64,
    /// Where all that are kept can be downloaded.
    pub download: Option<String>,
}

impl Refused {
    /// Counts by column and code, as the grid has them.
    pub fn counts_of(counts: &[ErrorCount]) -> Vec<Kind> {
        counts.iter().map(|all| Kind { code: all.code.to_owned(), count: all.count }).collect()
    }

    /// Of a batch whose file a worker has read: what the batch keeps of it. None: its errors are not listed.
    pub(crate) fn of_batch(failure: &Value, download: String) -> Option<Self> {
        let errors = Vec::deserialize(failure.get("errors")?).ok()?;
        let counts = failure.get("error_counts").and_then(|counts| Vec::deserialize(counts).ok());
        let download = failure["errors_expires_at"].is_string().then_some(download);
        let count = failure["error_count"].as_u64().unwrap_or(0);
        Some(Self { detail: String::new(), errors, counts: counts.unwrap_or_default(), count, download })
    }

    pub(crate) fn kinds(&self) -> Vec<Kind> {
        let mut kinds: Vec<Kind> = Vec::new();
        let listed = self.errors.iter().filter(|_| self.counts.is_empty()).map(|error| (&error.code, 1));
        for (code, count) in self.counts.iter().map(|all| (&all.code, all.count)).chain(listed) {
            match kinds.iter_mut().find(|kind| kind.code == *code) {
                Some(kind) => kind.count += count,
                None => kinds.push(Kind { code: code.clone(), count }),
            }
        }
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.count));
        kinds
    }

    pub(crate) fn listed(&self) -> String {
        let (all, kept) = (self.count, self.errors.len() as u64);
        if all > kept {
            format!("{} errors, the first {} of them listed", number(all), number(kept))
        } else {
            format!("{} {}", number(all), if all == 1 { "error" } else { "errors" })
        }
    }

    pub(crate) fn sentence(&self, text: &str) -> Safe<String> {
        sentence(text)
    }

    pub(crate) fn grouped(&self, count: &u64) -> String {
        number(*count)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(code: &'static str) -> FileError {
        FileError::from(&RowError { line: 2, column: None, code, message: String::new() })
    }

    #[test]
    fn errors_are_counted_by_kind() {
        let errors = vec![error("required"), error("format"), error("format")];
        let refused = Refused { count: 250, errors, ..Refused::default() };
        let kinds: Vec<(String, u64)> =
            refused.kinds().into_iter().map(|kind| (kind.code, kind.count)).collect();
        assert_eq!(kinds, [("format".to_owned(), 2), ("required".to_owned(), 1)]);
        assert_eq!(refused.listed(), "250 errors, the first 3 of them listed");
    }

    #[test]
    fn a_batch_keeps_the_errors_of_its_file() {
        let failure = json!({
            "code": "invalid_file", "error_count": 2, "errors": [{ "line": 4, "column": "email", "code": "format", "message": "no e-mail" }],
            "error_counts": [{ "column": "email", "code": "format", "count": 2 }], "errors_expires_at": "2026-11-30T10:00:00Z",
        });
        let refused = Refused::of_batch(&failure, "errors.csv".into()).unwrap();
        assert_eq!(refused.kinds(), [Kind { code: "format".into(), count: 2 }]);
        assert_eq!((refused.count, refused.errors[0].line), (2, 4));
        assert_eq!(refused.download.as_deref(), Some("errors.csv"));
        assert!(Refused::of_batch(&json!({ "code": "file_missing" }), String::new()).is_none());
    }
}
