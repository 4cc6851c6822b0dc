//! Rows by their line in the file.

use penstock_domain::ids::RowNumber;
use penstock_store::batches::Batch;

use crate::context::error::FlowError;
use crate::context::services::Services;

/// The row that starts at that physical line, or at the last one before it. Lines rise with the rows' numbers, so a few reads
/// find it in a batch of any size. None: there is no such row, or it is not extracted yet.
///
/// # Errors
/// When the database fails.
pub async fn row_at(services: &Services, batch: &Batch, line: u32) -> Result<Option<RowNumber>, FlowError> {
    // A row takes one line at least, and the header is before all of them.
    let last = batch.ledger.counts.total.min(line);
    let (mut found, mut from, mut to) = (None, 1, last);
    while from <= to {
        let middle = from + (to - from) / 2;
        match services.store.row(batch.seq, middle).await? {
            Some(row) if row.line <= line => {
                found = Some(middle);
                from = middle + 1;
            }
            _ => to = middle - 1,
        }
    }
    Ok(found)
}
