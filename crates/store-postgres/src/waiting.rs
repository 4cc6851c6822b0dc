//! Rows whose time is over while they wait, and batches that no worker can process.

use async_trait::async_trait;
use penstock_domain::ids::{BatchId, BatchSeq};
use penstock_domain::outcome::code;
use penstock_domain::row::RowStatus;
use penstock_domain::time::Timestamp;
use penstock_store::StoreResult;
use penstock_store::decode::Columns as _;
use penstock_store::settling::Moved;
use penstock_store::waiting::{BatchFault, Overdue, Waiting};
use sqlx::Row as _;

use crate::convert::Columns;
use crate::error::store_error;
use crate::{PostgresStore, commit, ledgers};

/// Rows that are ended in one step.
const STEP: i64 = 2000;

/// A waiting row whose time is over.
const OVERDUE: &str = "s.status < 2 AND s.expires_at <= $1";

impl PostgresStore {
    /// Fails those of a batch's rows that still wait and are overdue. How many.
    async fn end_overdue_of(&self, seq: BatchSeq, numbers: &[i32], now: Timestamp) -> StoreResult<u32> {
        const NAME: &str = "end_overdue";
        let mut tx = self.write(NAME).await?;
        let Some(batch) = ledgers::read(&mut tx, seq, NAME).await? else { return Ok(0) };
        if !batch.ledger.claimable() {
            return Ok(0);
        }
        let mut moved = Moved::new(batch);
        let (mut counts, mut first_failed) = ([0, 0], None);
        for (status, count) in [RowStatus::Pending, RowStatus::Queued].into_iter().zip(&mut counts) {
            let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
                "/* penstock:end_overdue */ UPDATE row_state AS s SET status = 4, code = coalesce(s.expires_as, $4), \
                 not_before = NULL, queued_until = NULL, expires_at = NULL, expires_as = NULL WHERE s.batch = $2 \
                 AND s.number = ANY($3) AND s.status = $5 AND {OVERDUE} RETURNING s.number"
            )))
            .bind(now.millis())
            .bind(seq.0)
            .bind(numbers)
            .bind(code::DEADLINE_EXCEEDED)
            .bind(status.code())
            .fetch_all(&mut *tx)
            .await
            .map_err(store_error(NAME))?;
            for row in &rows {
                let number = Columns::of("row_state", row).u32("number")?;
                first_failed = first_failed.into_iter().chain([number]).min();
                *count += 1;
            }
        }
        let [pending, queued] = counts;
        if pending + queued > 0 {
            moved.fail_waiting(pending, queued, first_failed, now)?;
            ledgers::write(&mut tx, &moved.batch, moved.read_revision, &moved.events, now, NAME).await?;
            commit(tx, NAME).await?;
        }
        Ok(pending + queued)
    }
}

#[async_trait]
impl Waiting for PostgresStore {
    async fn end_overdue(&self, now: Timestamp) -> StoreResult<Overdue> {
        let mut done = Overdue::default();
        let mut passed: Vec<BatchSeq> = Vec::new();
        loop {
            let found = sqlx::query(sqlx::AssertSqlSafe(format!(
                "/* penstock:end_overdue */ SELECT s.batch AS batch, array_agg(s.number) AS numbers FROM \
                 (SELECT s.batch, s.number FROM row_state s JOIN batches b ON b.seq = s.batch WHERE {OVERDUE} \
                 AND b.status = 2 AND NOT b.paused AND NOT b.held AND b.cancelled_at IS NULL \
                 AND s.batch <> ALL($2) LIMIT {STEP}) s GROUP BY s.batch ORDER BY s.batch"
            )))
            .bind(now.millis())
            .bind(passed.iter().map(|seq| seq.0).collect::<Vec<_>>())
            .fetch_all(&self.pool)
            .await
            .map_err(store_error("end_overdue"))?;
            if found.is_empty() {
                return Ok(done);
            }
            for row in &found {
                let c = Columns::of("row_state", row);
                let seq = BatchSeq(c.i64("batch")?);
                match self.end_overdue_of(seq, &row.get::<Vec<i32>, _>("numbers"), now).await {
                    // Somebody else was faster: what is left can wait for the next run.
                    Ok(0) => passed.push(seq),
                    Ok(rows) => done.rows += rows,
                    Err(error) if error.is_one_batchs() => {
                        passed.push(seq);
                        done.leave_alone(seq, &error);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }

    async fn report_faults(
        &self,
        faults: &[(BatchSeq, String)],
        worker: &str,
        now: Timestamp,
    ) -> StoreResult<()> {
        const NAME: &str = "report_faults";
        let mut tx = self.write(NAME).await?;
        sqlx::query(
            "/* penstock:report_faults */ INSERT INTO batch_faults (batch, reason, worker, since, seen_at) \
             SELECT j.batch, j.reason, $3, $4, $4 FROM unnest($1::int8[], $2::text[]) AS j(batch, reason) ORDER BY j.batch \
             ON CONFLICT (batch) DO UPDATE SET reason = excluded.reason, worker = excluded.worker, seen_at = excluded.seen_at",
        )
        .bind(faults.iter().map(|(batch, _)| batch.0).collect::<Vec<_>>())
        .bind(faults.iter().map(|(_, reason)| reason.as_str()).collect::<Vec<_>>())
        .bind(worker)
        .bind(now.millis())
        .execute(&mut *tx)
        .await
        .map_err(store_error(NAME))?;
        sqlx::query(
            "/* penstock:report_faults */ DELETE FROM batch_faults WHERE NOT EXISTS \
             (SELECT 1 FROM batches b WHERE b.seq = batch_faults.batch AND b.status < 3)",
        )
        .execute(&mut *tx)
        .await
        .map_err(store_error(NAME))?;
        commit(tx, NAME).await
    }

    async fn clear_faults(&self, batches: &[BatchSeq]) -> StoreResult<()> {
        sqlx::query("/* penstock:clear_faults */ DELETE FROM batch_faults WHERE batch = ANY($1)")
            .bind(batches.iter().map(|seq| seq.0).collect::<Vec<_>>())
            .execute(&self.pool)
            .await
            .map_err(store_error("clear_faults"))?;
        Ok(())
    }

    async fn faults(&self) -> StoreResult<Vec<BatchFault>> {
        let rows = sqlx::query(
            "/* penstock:faults */ SELECT b.seq, b.id, b.pipeline, f.reason, f.worker, f.since, f.seen_at FROM batch_faults f \
             JOIN batches b ON b.seq = f.batch WHERE b.status < 3 AND b.cancelled_at IS NULL ORDER BY f.since, b.seq LIMIT 1000",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(store_error("faults"))?;
        rows.iter()
            .map(|row| {
                let c = Columns::of("batch_faults", row);
                Ok(BatchFault {
                    seq: BatchSeq(c.i64("seq")?),
                    batch: BatchId(c.uuid("id")?),
                    pipeline: c.text("pipeline")?,
                    reason: c.text("reason")?,
                    worker: c.text("worker")?,
                    since: c.time("since")?,
                    seen_at: c.time("seen_at")?,
                })
            })
            .collect()
    }
}
