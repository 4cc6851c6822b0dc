//! Rows that wait for a result: due looks.

use std::collections::BTreeMap;

use async_trait::async_trait;
use penstock_domain::ids::{BatchSeq, OwnerSeq};
use penstock_domain::time::Timestamp;
use penstock_store::dispatch::{Released, Take};
use penstock_store::polls::{DuePolls, PollingRows, Polls};
use penstock_store::settling::Moved;
use penstock_store::{StoreResult, overdrawn};

use crate::dispatch::by_batch;
use crate::work::count;
use crate::{Group, Row, SqlStore, ledgers, sql};

#[async_trait]
impl Polls for SqlStore {
    async fn due_polls(&self, pipelines: &[String], most: u32, now: Timestamp) -> StoreResult<Vec<DuePolls>> {
        // Batches without such rows cost one look into an index that has no others.
        let statement = sql(
            "batch_list_due_polls",
            "SELECT b.seq, b.pipeline, b.owner, o.weight, b.priority, d.due, d.first_due, d.looking \
             FROM (SELECT r.seq, (SELECT count(*) FROM row_state p WHERE p.batch = r.seq AND p.polling \
             AND p.status IN ({row queued}, {row processing})) AS looking, (SELECT count(*) FROM (SELECT 1 FROM row_state w WHERE w.batch = r.seq AND w.polling \
             AND w.status = {row pending} AND coalesce(w.not_before, 0) <= $1 LIMIT $2) AS waiting) AS due, \
             (SELECT min(coalesce(w.not_before, 0)) FROM row_state w WHERE w.batch = r.seq AND w.polling AND w.status = {row pending}) AS first_due \
             FROM batches r WHERE r.status = {batch queued} AND NOT r.paused AND NOT r.held AND r.cancelled_at IS NULL) d \
             JOIN batches b ON b.seq = d.seq JOIN owners o ON o.seq = b.owner WHERE d.due > 0 OR d.looking > 0 \
             ORDER BY coalesce(d.first_due, 0), b.seq",
        );
        let due = |row: &Row| {
            let c = row.of("batches");
            Ok(DuePolls {
                batch: BatchSeq(c.i64("seq")?),
                pipeline: c.text("pipeline")?,
                owner: OwnerSeq(c.i64("owner")?),
                weight: c.u32("weight")?,
                priority: c.in_range("priority")?,
                due: c.u32("due")?,
                looking: c.u32("looking")?,
            })
        };
        let found = self.db.fetch(statement.bind(now).bind(most)).await?;
        let due: Vec<DuePolls> = found.iter().map(due).collect::<StoreResult<_>>()?;
        Ok(due.into_iter().filter(|due| pipelines.contains(&due.pipeline)).collect())
    }

    async fn polling(&self, batch: BatchSeq) -> StoreResult<Option<PollingRows>> {
        let statement = sql(
            "row_count_polling",
            "SELECT count(*) AS rows, min(CASE WHEN status = {row pending} THEN coalesce(not_before, 0) END) AS next_look \
             FROM row_state WHERE batch = $1 AND polling",
        );
        let found = self.db.fetch_one(statement.bind(batch)).await?;
        let c = found.of("row_state");
        let rows = c.u32("rows")?;
        Ok((rows > 0).then_some(PollingRows { rows, next_look: c.opt_time("next_look")? }))
    }

    async fn last_look(&self, batch: BatchSeq) -> StoreResult<Option<Timestamp>> {
        let statement = sql(
            "row_get_last_look",
            "SELECT max(coalesce(not_before, 0)) AS last_look FROM row_state WHERE batch = $1 AND polling AND status = {row pending}",
        );
        self.db.fetch_one(statement.bind(batch)).await?.of("row_state").opt_time("last_look")
    }

    async fn queue_due_polls(
        &self,
        takes: &[Take],
        now: Timestamp,
        lost_after: Timestamp,
    ) -> StoreResult<Vec<Released>> {
        let wanted: BTreeMap<BatchSeq, u32> = takes.iter().map(|take| (take.batch, take.rows)).collect();
        let mut tx = self.db.write("queue_due_polls").await?;
        let mut batches = ledgers::read_all(&mut tx, &wanted.keys().copied().collect()).await?;
        batches.retain(|moved| moved.batch.ledger.claimable());
        let takes = batches
            .iter()
            .filter_map(|moved| Some([moved.batch.seq.into(), (*wanted.get(&moved.batch.seq)?).into()]));
        let statement = sql(
            "row_queue_if_poll_due",
            "WITH j(row_batch, row_limit) AS ({rows}) UPDATE row_state AS s SET status = {row queued}, queued_until = $2 \
             {due_polls} AND s.status + 0 = {row pending} RETURNING batch, number, crashes",
        );
        let statement = statement.bind(now).bind(lost_after).rows(Group::of_rows(takes)).one_by_one();
        let queued = by_batch(&tx.fetch(statement).await?)?;
        for moved in &mut batches {
            let rows = queued.get(&moved.batch.seq).map_or(0, |numbers| count(numbers.len()));
            if rows > 0 {
                moved.batch.ledger.release(0, 0, rows).map_err(overdrawn(moved.batch.seq))?;
            }
        }
        batches.retain(Moved::is_dirty);
        ledgers::write_all(&mut tx, &batches, now).await?;
        tx.commit().await?;
        Ok(queued.into_iter().map(|(batch, rows)| Released::of(batch, rows)).collect())
    }
}
