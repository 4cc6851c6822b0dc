//! The lanes of the queue.

/// A queue of its own: what waits in one never stands before what waits in another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Files that wait for their extraction.
    Extractions,
    /// Rows of which a worker died.
    Suspects,
    /// Rows of one pipeline.
    Rows(String),
}

impl std::fmt::Display for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Extractions => f.write_str("extractions"),
            Self::Suspects => f.write_str("suspects"),
            Self::Rows(pipeline) => write!(f, "rows of {pipeline}"),
        }
    }
}
