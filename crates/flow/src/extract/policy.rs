//! How extraction is carried out.

use std::time::Duration;

/// How extraction is carried out.
#[derive(Clone, Debug)]
pub struct ExtractPolicy {
    /// Who extracts, for people to read.
    pub holder: String,
    /// How long the lease lasts; every chunk renews it.
    pub lease: Duration,
    /// Rows of a chunk at most.
    pub chunk_rows: usize,
    /// Bytes of a chunk at most (one record can pass it).
    pub chunk_bytes: usize,
}
