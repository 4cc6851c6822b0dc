//! Rows whose time is over while they wait, and batches that no worker can process.

use async_trait::async_trait;
use penstock_domain::ids::{BatchId, BatchSeq};
use penstock_domain::outcome::code;
use penstock_domain::row::RowStatus;
use penstock_domain::time::Timestamp;
use penstock_store::StoreResult;
use penstock_store::settling::Moved;
use penstock_store::waiting::{BatchFault, Overdue, Waiting};

use crate::sweep::{STEP, Steps, numbers_by_batch};
use crate::work::count;
use crate::{Group, Row, SqlStore, ledgers, list, sql};

#[async_trait]
impl Waiting for SqlStore {
    async fn end_overdue(&self, now: Timestamp) -> StoreResult<Overdue> {
        let (mut steps, mut overdue) = (Steps::default(), Overdue::default());
        loop {
            let statement = sql(
                "row_list_overdue",
                "SELECT s.batch, s.number FROM row_state s JOIN batches b ON b.seq = s.batch \
                 WHERE s.status < {row processing} AND s.expires_at <= $1 AND b.status = {batch queued} AND NOT b.paused \
                 AND NOT b.held AND b.cancelled_at IS NULL AND NOT (s.batch {in $2}) LIMIT $3",
            );
            let statement = statement.bind(now).bind(steps.passed()).bind(STEP);
            let found = numbers_by_batch(&self.db.fetch(statement).await?)?;
            if found.is_empty() {
                return Ok(overdue);
            }
            for (seq, numbers) in found {
                let done = self.end_overdue_of(seq, numbers, now).await;
                overdue.rows +=
                    steps.note(seq, done, |rows| *rows, |seq, error| overdue.leave_alone(seq, error))?;
            }
        }
    }

    async fn report_faults(
        &self,
        faults: &[(BatchSeq, String)],
        worker: &str,
        now: Timestamp,
    ) -> StoreResult<()> {
        let mut tx = self.db.write("report_faults").await?;
        let statement = sql(
            "batch_fault_put",
            "WITH j(batch, reason) AS ({rows}) INSERT INTO batch_faults (batch, reason, worker, since, seen_at) \
             SELECT batch, reason, $1, $2, $2 FROM j WHERE true ORDER BY batch \
             ON CONFLICT (batch) DO UPDATE SET reason = excluded.reason, worker = excluded.worker, seen_at = excluded.seen_at",
        );
        let group = Group::of_rows(faults.iter().map(|(batch, reason)| [(*batch).into(), reason.into()]));
        tx.execute(statement.bind(worker).bind(now).rows(group)).await?;
        let ended = sql(
            "batch_fault_delete_if_ended",
            "DELETE FROM batch_faults WHERE NOT EXISTS \
             (SELECT 1 FROM batches b WHERE b.seq = batch_faults.batch AND b.status < {batch completed})",
        );
        tx.execute(ended).await?;
        tx.commit().await
    }

    async fn clear_faults(&self, batches: &[BatchSeq]) -> StoreResult<()> {
        let batches = || list(batches.iter().map(|seq| seq.0));
        // There are none as a rule, and a read is cheaper than a write.
        let known = sql("batch_fault_get_any", "SELECT 1 FROM batch_faults WHERE batch {in $1} LIMIT 1");
        if self.db.fetch_optional(known.bind(batches())).await?.is_some() {
            let statement = sql("batch_fault_delete", "DELETE FROM batch_faults WHERE batch {in $1}");
            self.db.execute(statement.bind(batches())).await?;
        }
        Ok(())
    }

    async fn faults(&self) -> StoreResult<Vec<BatchFault>> {
        let statement = sql(
            "batch_fault_list",
            "SELECT b.seq, b.id, b.pipeline, f.reason, f.worker, f.since, f.seen_at FROM batch_faults f \
             JOIN batches b ON b.seq = f.batch WHERE b.status < {batch completed} AND b.cancelled_at IS NULL \
             ORDER BY f.since, b.seq LIMIT 1000",
        );
        let fault = |row: &Row| {
            let c = row.of("batch_faults");
            Ok(BatchFault {
                seq: BatchSeq(c.i64("seq")?),
                batch: BatchId(c.uuid("id")?),
                pipeline: c.text("pipeline")?,
                reason: c.text("reason")?,
                worker: c.text("worker")?,
                since: c.time("since")?,
                seen_at: c.time("seen_at")?,
            })
        };
        self.db.fetch(statement).await?.iter().map(fault).collect()
    }
}

impl SqlStore {
    /// Fails those of a batch's rows that still wait and are overdue. How many.
    async fn end_overdue_of(&self, seq: BatchSeq, numbers: Vec<i64>, now: Timestamp) -> StoreResult<u32> {
        let mut tx = self.db.write("end_overdue").await?;
        let Some(batch) = ledgers::read(&mut tx, seq).await? else { return Ok(0) };
        if !batch.ledger.claimable() {
            return Ok(0);
        }
        let mut moved = Moved::new(batch);
        let (mut counts, mut first_failed) = ([0, 0], None);
        for (status, rows) in [RowStatus::Pending, RowStatus::Queued].into_iter().zip(&mut counts) {
            let statement = sql(
                "row_fail_if_overdue",
                "UPDATE row_state SET status = {row failed}, code = coalesce(expires_as, $4), not_before = NULL, \
                 queued_until = NULL, expires_at = NULL, expires_as = NULL, polling = false WHERE batch = $2 AND number {in $3} \
                 AND status = $5 AND status < {row processing} AND expires_at <= $1 RETURNING number",
            );
            let statement = statement
                .bind(now)
                .bind(seq)
                .bind(list(numbers.iter().copied()))
                .bind(code::DEADLINE_EXCEEDED)
                .bind(status.code());
            let failed = tx.fetch(statement).await?;
            for row in &failed {
                let number = row.of("row_state").u32("number")?;
                first_failed = first_failed.into_iter().chain([number]).min();
            }
            *rows = count(failed.len());
        }
        let [pending, queued] = counts;
        if pending + queued > 0 {
            moved.fail_waiting(pending, queued, first_failed, now)?;
            ledgers::write(&mut tx, &moved.batch, moved.read_revision, &moved.events, now).await?;
            tx.commit().await?;
        }
        Ok(pending + queued)
    }
}
