//! Batches that stand still, in a sentence each: held ones, and those that get nowhere. Nothing of a row and no words of an API are
//! in them: alerts and `penstock doctor` show them.

use penstock_store::alerts::StalledBatch;
use penstock_store::batches::Batch;
use penstock_store::operations::STALLED_AFTER;

use crate::context::error::FlowError;
use crate::context::services::Services;
use crate::read::view;

/// Whether a batch gets nowhere now, from its first minutes on.
///
/// # Errors
/// When the database fails.
pub(crate) async fn find_stalled(
    services: &Services,
    batch: &Batch,
) -> Result<Option<StalledBatch>, FlowError> {
    if batch.ledger.counts.completed > 0 {
        return Ok(None);
    }
    let began_before = services.clock.now() - STALLED_AFTER;
    Ok(services.store.stalled_batches(Some(batch.seq), began_before, 1).await?.into_iter().next())
}

/// A batch that is held.
pub fn held_batch(batch: &Batch) -> String {
    let why = view::held_reason(&batch.ledger, None)
        .unwrap_or_else(|| "too many of its rows failed: resume it, or cancel it".to_owned());
    let since = batch.ledger.hold.as_ref().map_or(String::new(), |hold| format!(" since {}", hold.since));
    format!("batch {} ({}) is held{since}: {why}", batch.id, batch.pipeline)
}

/// A batch that gets nowhere.
pub fn stalled_batch(batch: &StalledBatch) -> String {
    format!("batch {} ({}) gets nowhere: {}", batch.id, batch.pipeline, stalled(batch))
}

/// The same without the batch's name.
pub(super) fn stalled(batch: &StalledBatch) -> String {
    let StalledBatch { code, rows, since, .. } = batch;
    let tried = if *rows == 1 {
        "the row that was tried".to_owned()
    } else {
        format!("all {rows} rows looked at that were tried")
    };
    format!("none of its rows is completed since {since}, and {tried} failed or waits with `{code}`")
}
