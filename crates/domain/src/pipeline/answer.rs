//! `response`: what an answer's body is read as, and how much of it.

use serde::Deserialize;

/// Bytes of an answer's body that are read unless a step says otherwise.
pub const USUAL_BYTES: usize = 1024 * 1024;

/// The most that a step can say.
pub const MOST_BYTES: usize = 64 * 1024 * 1024;

/// What a body is read as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnswerKind {
    /// JSON.
    #[default]
    Json,
    /// A text, whatever it is.
    Text,
    /// XML, as [`crate::xml`] reads it.
    Xml,
}

/// How a step reads an answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerFormat {
    /// What it is.
    pub kind: AnswerKind,
    /// Bytes that are read at most; a longer one cannot be used.
    pub max_bytes: usize,
}

impl Default for AnswerFormat {
    fn default() -> Self {
        Self { kind: AnswerKind::default(), max_bytes: USUAL_BYTES }
    }
}
