//! Bulk calls: recorded before they are made, settled as one.

use std::collections::HashSet;

use async_trait::async_trait;
use penstock_domain::ids::RowRef;
use penstock_domain::time::Timestamp;
use penstock_store::StoreResult;
use penstock_store::calls::{CallEnd, CallRecord, Calls};
use penstock_store::work::{Held, SettleReport};

use crate::work::{count, held_receipts, keys, put_receipts, settle_in};
use crate::{SqlStore, Tx, ledgers, sql};

#[async_trait]
impl Calls for SqlStore {
    async fn record_call(&self, record: &CallRecord<'_>) -> StoreResult<bool> {
        let mut tx = self.db.write("record_call").await?;
        ledgers::lock_all(&mut tx, record.rows.iter().map(|(row, _)| row.batch)).await?;
        let receipts = held_receipts(&mut tx, record.receipts).await?;
        put_receipts(&mut tx, &receipts).await?;
        let statement = sql(
            "row_set_call_if_held",
            "WITH j(row_batch, row_number, token) AS ({rows}) UPDATE row_state AS s SET call_id = $1, asked = $2, call_rows = $3 FROM j \
             WHERE s.batch = j.row_batch AND s.number = j.row_number AND s.lease_token = j.token \
             AND s.status + 0 = {row processing} RETURNING batch, number",
        );
        let group =
            keys(record.rows.iter().map(|(row, _)| *row)).column(record.rows.iter().map(|(_, token)| *token));
        let held = tx
            .fetch(statement.bind(record.call).bind(record.once).bind(count(record.rows.len())).rows(group))
            .await?;
        if held.len() != record.rows.len() {
            // Dropped, the transaction is rolled back: a call is recorded with all of its rows or not at all.
            return Ok(false);
        }
        penstock_store::crash::point(penstock_store::crash::INSIDE_CALL_RECORD);
        tx.commit().await?;
        Ok(true)
    }

    async fn settle_call(&self, end: &CallEnd<'_>, now: Timestamp) -> StoreResult<SettleReport> {
        let mut tx = self.db.write("settle_call").await?;
        ledgers::lock_all(&mut tx, end.rows().map(|row| row.batch)).await?;
        let report = settle_in(&mut tx, end.settled, end.kept, now).await?;
        if end.over || !end.freed.is_empty() {
            let settled = end.settled.iter().filter(|one| !report.lost.contains(&one.held()));
            let kept = end.kept.iter().map(|(row, token, _)| (*row, *token));
            let held: HashSet<_> = kept.chain(end.freed.iter().copied()).collect();
            set_free(&mut tx, settled.map(|one| one.row).collect(), held.into_iter().collect()).await?;
        }
        penstock_store::crash::point(penstock_store::crash::INSIDE_SETTLEMENT);
        tx.commit().await?;
        Ok(report)
    }
}

/// The rows may go with others from now on: those that were settled a moment ago, and those that are still held.
async fn set_free(tx: &mut Tx, settled: Vec<RowRef>, held: Vec<Held>) -> StoreResult<()> {
    let of_settled = sql(
        "row_clear_call",
        "WITH j(row_batch, row_number) AS ({rows}) UPDATE row_state AS s SET call_id = NULL, call_rows = NULL FROM j \
         WHERE s.batch = j.row_batch AND s.number = j.row_number AND s.call_id IS NOT NULL",
    );
    tx.execute(of_settled.rows(keys(settled))).await?;
    let of_held = sql(
        "row_clear_call_if_held",
        "WITH j(row_batch, row_number, token) AS ({rows}) UPDATE row_state AS s SET call_id = NULL, call_rows = NULL, asked = NULL FROM j \
         WHERE s.batch = j.row_batch AND s.number = j.row_number AND s.lease_token = j.token \
         AND s.status + 0 = {row processing}",
    );
    let group = keys(held.iter().map(|(row, _)| *row)).column(held.iter().map(|(_, token)| *token));
    tx.execute(of_held.rows(group)).await.map(|_| ())
}
