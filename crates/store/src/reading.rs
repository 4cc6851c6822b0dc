//! Reading rows: pages in the file's order, one row, and summaries.

use async_trait::async_trait;
use penstock_domain::ids::{BatchSeq, RowNumber};
use penstock_domain::pipeline::KeptStep;
use penstock_domain::row::RowStatus;
use penstock_domain::time::Timestamp;
use serde::Serialize;

use crate::StoreResult;

/// Which rows to read. Everything that is set has to match.
#[derive(Clone, Debug, Default)]
pub struct RowFilter {
    /// In one of these states; empty: all.
    pub status: Vec<RowStatus>,
    /// Failed, or completed as a duplicate, with this code.
    pub code: Option<String>,
    /// Failed at this step.
    pub step: Option<u16>,
    /// Only numbers greater than this: the last one of the page before.
    pub after: RowNumber,
    /// At most so many.
    pub limit: u32,
    /// No more rows once those that were found have this many sealed bytes: at least one is read, and the last one may go
    /// beyond it. None: without a limit.
    pub max_bytes: Option<u64>,
    /// Whether to read payloads.
    pub payload: bool,
}

/// Numbers that one filtered page looks at, at most: rows in few states of a large batch are found in several pages, so that no
/// read costs more than what can be returned by one.
pub const LOOKED_AT: RowNumber = 10_000;

impl RowFilter {
    /// The last number that a page may look at; none: there is no filter that could leave rows out.
    pub fn last_looked_at(&self) -> Option<RowNumber> {
        let filtered = !self.status.is_empty() || self.code.is_some() || self.step.is_some();
        filtered.then(|| self.after.saturating_add(LOOKED_AT))
    }
}

/// Some rows of a batch, by number.
#[derive(Clone, Debug, Default)]
pub struct RowPage {
    /// The rows; a filtered page may have none and still be followed by others.
    pub rows: Vec<RowRecord>,
    /// What `after` gives the next page; none behind the last.
    pub next: Option<RowNumber>,
}

/// A row as it stands, still sealed.
#[derive(Clone, Debug)]
pub struct RowRecord {
    /// Its number.
    pub number: RowNumber,
    /// Its physical line in the file.
    pub line: u32,
    /// Its state, a cancelled batch taken into account.
    pub status: RowStatus,
    /// Attempts that failed or completed.
    pub attempts: u16,
    /// When it may run next, if it waits.
    pub not_before: Option<Timestamp>,
    /// The last error's code.
    pub code: Option<String>,
    /// The step where it happened.
    pub step: Option<u16>,
    /// The HTTP status of it.
    pub http_status: Option<u16>,
    /// Its record; none when not asked for, or erased.
    pub payload: Option<Vec<u8>>,
    /// Its result.
    pub result: Option<Vec<u8>>,
    /// Its error.
    pub error: Option<Vec<u8>>,
    /// Who holds it, while it is processing.
    pub holder: Option<String>,
    /// How many workers died while they held it.
    pub crashes: u16,
    /// While queued: when it counts as lost.
    pub queued_until: Option<Timestamp>,
}

impl RowRecord {
    /// Bytes of its sealed values.
    pub fn sealed_bytes(&self) -> usize {
        [&self.payload, &self.result, &self.error].into_iter().flatten().map(Vec::len).sum()
    }
}

/// Failed rows that failed alike, or rows that completed as duplicates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorGroup {
    /// The code.
    pub code: String,
    /// The step's place in the pipeline.
    pub step: Option<u16>,
    /// How many rows.
    pub count: u32,
    /// Three of them, the first ones.
    pub sample: Vec<RowNumber>,
}

/// Reading.
#[async_trait]
pub trait Reading: Send + Sync {
    /// A page of rows by number. The page is one consistent read. A page that is filtered looks at [`LOOKED_AT`] numbers.
    async fn rows(&self, batch: BatchSeq, filter: &RowFilter) -> StoreResult<RowPage>;
    /// One row, payload included.
    async fn row(&self, batch: BatchSeq, number: RowNumber) -> StoreResult<Option<RowRecord>>;
    /// The steps of which rows that have not completed keep an output or an answer.
    async fn kept_steps(&self, batch: BatchSeq) -> StoreResult<Vec<KeptStep>>;
    /// Failed rows by code and step, most frequent first; behind them those that completed as duplicates.
    async fn error_groups(&self, batch: BatchSeq) -> StoreResult<Vec<ErrorGroup>>;
    /// The sealed words of the answer that holds a batch; none when no answer does.
    async fn hold_words(&self, seq: BatchSeq) -> StoreResult<Option<Vec<u8>>>;
    /// A row that waits and has an error: of the [`LOOKED_AT`] that may run last the last one. None: no such row.
    async fn waiting_with_error(&self, batch: BatchSeq) -> StoreResult<Option<RowNumber>>;
    /// The earliest time at which a returned row of the batch may be released.
    async fn next_due(&self, batch: BatchSeq) -> StoreResult<Option<Timestamp>>;
}
