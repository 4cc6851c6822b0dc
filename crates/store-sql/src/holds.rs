//! What is kept beside a batch of the answer that holds it.

use penstock_domain::ids::BatchSeq;
use penstock_domain::ledger::Hold;
use penstock_domain::time::Timestamp;
use penstock_store::StoreResult;
use penstock_store::work::{SettleReport, Settlement};

use crate::{Tx, sql};

/// Keeps the words of the answers that hold batches from now on.
pub(crate) async fn put(tx: &mut Tx, group: &[Settlement], report: &SettleReport) -> StoreResult<()> {
    for (batch, place) in &report.held {
        let Some(hold) = group.get(*place).and_then(Settlement::hold) else { continue };
        let statement = sql(
            "batch_hold_put",
            "INSERT INTO batch_holds (batch, words) VALUES ($1, $2) \
             ON CONFLICT (batch) DO UPDATE SET words = excluded.words",
        );
        tx.execute(statement.bind(*batch).bind(&hold.words)).await?;
    }
    Ok(())
}

/// A batch goes on that an answer held. Its rows lose no time: what they had of it when the batch was held, they have now.
pub(crate) async fn end(tx: &mut Tx, batch: BatchSeq, hold: &Hold, now: Timestamp) -> StoreResult<()> {
    let delete = sql("batch_hold_delete", "DELETE FROM batch_holds WHERE batch = $1");
    tx.execute(delete.bind(batch)).await?;
    let held_for = i64::try_from(now.since(hold.since).as_millis()).unwrap_or(i64::MAX);
    let shift = sql(
        "row_shift_if_waiting",
        "UPDATE row_state SET first_claimed_at = first_claimed_at + $2, expires_at = expires_at + $2 \
         WHERE batch = $1 AND status IN ({row pending}, {row queued}) AND first_claimed_at IS NOT NULL",
    );
    tx.execute(shift.bind(batch).bind(held_for)).await.map(|_| ())
}
