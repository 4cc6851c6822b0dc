//! What is wrong with a definition.

/// An error in a definition, with its place and how to fix it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct DefinitionError {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: u64,
    /// The column, from 1, in characters.
    pub column: u64,
    /// Which kind of error it is, for programs.
    pub code: ErrorCode,
    /// What is wrong, and how to fix it.
    pub message: String,
}

impl DefinitionError {
    /// What is wrong, without what to do about it.
    pub fn fault(&self) -> &str {
        self.message.split_once("; ").map_or(&self.message, |(fault, _)| fault)
    }

    /// What to do about it: what stands behind the fault, or what belongs in the place.
    pub fn hint(&self) -> &str {
        if let Some((_, hint)) = self.message.split_once("; ") {
            return hint;
        }
        self.message.rsplit_once(": ").map_or(&self.message, |(_, wanted)| wanted)
    }
}

/// The kinds of errors in a definition; programs that show them may rely on the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// The text is no YAML, or has more than one document.
    InvalidYaml,
    /// The file cannot be read, or is not UTF-8.
    Unreadable,
    /// A key that does not exist.
    UnknownKey,
    /// A key that has to be there.
    MissingKey,
    /// A duplicate key.
    DuplicateKey,
    /// A value of another type, or one that is none of those that there are.
    InvalidType,
    /// A value that is not accepted.
    InvalidValue,
    /// A template that cannot be right: it reads or calls what is not there.
    InvalidTemplate,
    /// A `${NAME}` without a value.
    MissingVariable,
    /// Another file's pipeline has the same name or route, or other limits for the same dependency.
    Conflict,
}

impl ErrorCode {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidYaml => "invalid_yaml",
            Self::Unreadable => "unreadable",
            Self::UnknownKey => "unknown_key",
            Self::MissingKey => "missing_key",
            Self::DuplicateKey => "duplicate_key",
            Self::InvalidType => "invalid_type",
            Self::InvalidValue => "invalid_value",
            Self::InvalidTemplate => "invalid_template",
            Self::MissingVariable => "missing_variable",
            Self::Conflict => "conflict",
        }
    }
}
