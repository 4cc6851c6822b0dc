//! The schema, checks, repairs, retention and the audit log.

use async_trait::async_trait;
use penstock_domain::batch::{BatchStatus, Counts};
use penstock_domain::ids::{BatchId, BatchSeq};
use penstock_domain::row::RowStatus;
use penstock_domain::time::Timestamp;
use penstock_store::StoreResult;
use penstock_store::alerts::Alerts as _;
use penstock_store::batches::{Batch, PendingUpload};
use penstock_store::operations::{
    AuditEntry, AuditLine, CALLBACK_OVERDUE_AFTER, CountMismatch, EngineInfo, Metrics, OVERDUE_AFTER,
    Operations, RATIO_ROWS, RECENT, RECENT_CALLBACKS, STALLED_AFTER,
};

use crate::batches::pending_upload;
use crate::work::count;
use crate::{Group, Kind, Row, SqlStore, Tx, ledgers, sql};

/// Stalled batches that are counted.
const MOST_STALLED: u32 = 200;

/// What is deleted with a batch, the batch last.
const DELETE_BATCH: [&str; 12] = [
    "DELETE FROM row_state WHERE batch = $1",
    "DELETE FROM row_data WHERE batch = $1",
    "DELETE FROM row_output WHERE batch = $1",
    "DELETE FROM row_receipts WHERE batch = $1",
    "DELETE FROM callbacks WHERE batch = $1",
    "DELETE FROM idempotency WHERE batch = $1",
    "DELETE FROM uploads WHERE batch = $1",
    "DELETE FROM cached_answer_counts WHERE batch = $1",
    // Rows that were in flight when it was erased may have left these.
    "DELETE FROM cached_answers WHERE batch = $1",
    "DELETE FROM completed_keys WHERE batch = $1",
    "DELETE FROM batch_samples WHERE batch = $1",
    "DELETE FROM batches WHERE seq = $1",
];

fn audit_line(row: &Row) -> StoreResult<AuditLine> {
    let c = row.of("audit");
    let entry = AuditEntry {
        id: c.i64("id")?,
        at: c.time("at")?,
        actor: c.text("actor")?,
        action: c.text("action")?,
        batch: c.opt_uuid("batch")?.map(BatchId),
        detail: c.opt_text("detail")?,
    };
    Ok(AuditLine { entry, key_name: c.opt_text("key_name")?, key_owner: c.opt_text("key_owner")? })
}

#[async_trait]
impl Operations for SqlStore {
    async fn migrate_to(&self, version: i64) -> StoreResult<(i64, i64)> {
        self.bring_up_to(Some(version)).await
    }

    async fn migrate(&self) -> StoreResult<(i64, i64)> {
        self.bring_up_to(None).await
    }

    async fn check_schema(&self) -> StoreResult<()> {
        self.schema_fits().await
    }

    async fn now(&self) -> StoreResult<Timestamp> {
        self.db.fetch_one(sql("now", "SELECT {now} AS now")).await?.of("now").time("now")
    }

    async fn probe_writes(&self, now: Timestamp) -> StoreResult<()> {
        self.db.engine().has_room().await?;
        let statement = sql(
            "write_probe_put",
            "INSERT INTO write_probe (id, at) VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET at = excluded.at",
        );
        self.db.execute(statement.bind(now)).await.map(|_| ())
    }

    async fn installation(&self) -> StoreResult<String> {
        let row = self.db.fetch_one(sql("installation_get", "SELECT id FROM installation")).await?;
        row.of("installation").text("id")
    }

    async fn engine(&self) -> StoreResult<EngineInfo> {
        let (schema, now) = (self.schema_version().await?, self.now().await?);
        self.db.engine().info(schema, now).await
    }

    async fn audit(&self, entry: &AuditEntry) -> StoreResult<()> {
        let statement = sql(
            "audit_insert",
            "INSERT INTO audit (at, actor, action, batch, detail) VALUES ($1, $2, $3, $4, $5)",
        );
        let statement = statement
            .bind(entry.at)
            .bind(&entry.actor)
            .bind(&entry.action)
            .bind(entry.batch)
            .bind(&entry.detail);
        self.db.execute(statement).await.map(|_| ())
    }

    async fn audit_log(
        &self,
        batch: Option<BatchId>,
        before: Option<i64>,
        limit: u32,
    ) -> StoreResult<Vec<AuditLine>> {
        let statement = sql(
            "audit_list",
            "SELECT a.id, a.at, a.actor, a.action, a.batch, a.detail, k.name AS key_name, o.name AS key_owner \
             FROM (SELECT * FROM audit WHERE ($1 IS NULL OR batch = $1) AND ($2 IS NULL OR id < $2) \
             ORDER BY id DESC LIMIT $3) a LEFT JOIN api_keys k ON a.actor LIKE 'key:%' AND k.id = substr(a.actor, 5) \
             LEFT JOIN owners o ON o.seq = k.owner ORDER BY a.id DESC",
        );
        self.db.fetch(statement.bind(batch).bind(before).bind(limit)).await?.iter().map(audit_line).collect()
    }

    async fn batch_commands(&self, batch: BatchId, limit: u32) -> StoreResult<Vec<AuditLine>> {
        let statement = sql(
            "audit_list_of_commands",
            "SELECT a.id, a.at, a.actor, a.action, a.batch, a.detail, k.name AS key_name, o.name AS key_owner \
             FROM (SELECT * FROM audit WHERE batch = $1 AND action LIKE 'batch.%' AND action <> 'batch.link' \
             ORDER BY id DESC LIMIT $2) a LEFT JOIN api_keys k ON a.actor LIKE 'key:%' AND k.id = substr(a.actor, 5) \
             LEFT JOIN owners o ON o.seq = k.owner ORDER BY a.id DESC",
        );
        self.db.fetch(statement.bind(batch).bind(limit)).await?.iter().map(audit_line).collect()
    }

    async fn metrics(&self, now: Timestamp) -> StoreResult<Metrics> {
        let mut metrics = Metrics::default();
        self.count_batches(&mut metrics).await?;
        self.count_overdue(now, &mut metrics).await?;
        metrics.batches_stalled =
            count(self.stalled_batches(None, now - STALLED_AFTER, MOST_STALLED).await?.len());
        let statement = sql(
            "row_count_polling_by_pipeline",
            "SELECT b.pipeline, count(*) AS rows FROM row_state p JOIN batches b ON b.seq = p.batch \
             WHERE p.polling AND b.status = {batch queued} GROUP BY b.pipeline ORDER BY b.pipeline",
        );
        for row in self.db.fetch(statement).await? {
            let c = row.of("row_state");
            metrics.polling.push((c.text("pipeline")?, c.u32("rows")?));
        }
        let statement = sql(
            "batch_get_failure_ratios",
            "SELECT pipeline, max(CAST(failed AS DOUBLE PRECISION) / (completed + failed)) AS ratio FROM batches \
             WHERE (status = {batch queued} OR finished_at > $1) AND completed + failed >= $2 \
             GROUP BY pipeline ORDER BY pipeline",
        );
        for row in self.db.fetch(statement.bind(now - RECENT).bind(RATIO_ROWS)).await? {
            let c = row.of("batches");
            metrics.failure_ratio.push((c.text("pipeline")?, c.real("ratio")?));
        }
        Ok(metrics)
    }

    async fn count_mismatches(&self, ended_after: Timestamp) -> StoreResult<Vec<CountMismatch>> {
        let statement = sql(
            "batch_list_extracted",
            "SELECT seq FROM batches WHERE extracted AND (finished_at IS NULL OR finished_at > $1)",
        );
        let mut found = Vec::new();
        for row in self.db.fetch(statement.bind(ended_after)).await? {
            // At one moment: beside a worker both move all the time.
            let mut tx = self.db.begin("count_mismatches", Kind::Snapshot).await?;
            let seq = BatchSeq(row.of("batches").i64("seq")?);
            let Some(batch) = ledgers::look(&mut tx, seq).await? else { continue };
            let rows = rows_count(&mut tx, &batch).await?;
            if rows != batch.ledger.counts {
                found.push(CountMismatch {
                    batch: batch.id,
                    seq: batch.seq,
                    revision: batch.ledger.revision,
                    ledger: batch.ledger.counts,
                    rows,
                });
            }
        }
        Ok(found)
    }

    async fn repair_counts(
        &self,
        mismatch: &CountMismatch,
        actor: &str,
        now: Timestamp,
    ) -> StoreResult<bool> {
        let mut tx = self.db.write("repair_counts").await?;
        let Some(mut batch) = ledgers::read(&mut tx, mismatch.seq).await? else { return Ok(false) };
        if batch.ledger.revision != mismatch.revision {
            return Ok(false);
        }
        let events = batch.ledger.correct(mismatch.rows, now);
        ledgers::write(&mut tx, &batch, mismatch.revision, &events, now).await?;
        ledgers::audit(&mut tx, now, actor, "batch.repair_counts", &batch, None).await?;
        tx.commit().await?;
        Ok(true)
    }

    async fn known_objects(&self, keys: &[String]) -> StoreResult<Vec<String>> {
        let statement = sql(
            "object_list_known",
            "WITH j(object_key) AS ({rows}) SELECT j.object_key AS object_key FROM j WHERE EXISTS \
             (SELECT 1 FROM batches b WHERE b.object_key = j.object_key AND b.erased_at IS NULL) \
             OR EXISTS (SELECT 1 FROM uploads u WHERE u.object_key = j.object_key AND u.batch IS NULL)",
        );
        let rows = self.db.fetch(statement.rows(Group::new().column(keys))).await?;
        rows.iter().map(|row| row.of("batches").text("object_key")).collect()
    }

    async fn to_erase(&self, finished_before: Timestamp, limit: u32) -> StoreResult<Vec<Batch>> {
        let statement = sql(
            "batch_list_to_erase",
            "SELECT {batch_columns} FROM batches b JOIN owners o ON o.seq = b.owner \
             WHERE b.finished_at < $1 AND b.erased_at IS NULL ORDER BY b.finished_at LIMIT $2",
        );
        self.db.fetch(statement.bind(finished_before).bind(limit)).await?.iter().map(ledgers::batch).collect()
    }

    async fn delete_batches(&self, finished_before: Timestamp, limit: u32) -> StoreResult<u32> {
        let statement = sql(
            "batch_list_to_delete",
            "SELECT seq FROM batches WHERE finished_at < $1 AND erased_at IS NOT NULL \
             AND NOT EXISTS (SELECT 1 FROM erasures e WHERE e.batch = batches.seq) LIMIT $2",
        );
        let mut deleted = 0;
        for row in self.db.fetch(statement.bind(finished_before).bind(limit)).await? {
            let seq = row.of("batches").i64("seq")?;
            let mut tx = self.db.begin("delete_batches", Kind::Long).await?;
            for statement in DELETE_BATCH {
                tx.execute(sql("batch_delete", statement).bind(seq)).await?;
            }
            tx.commit().await?;
            deleted += 1;
        }
        Ok(deleted)
    }

    async fn expire_uploads(&self, now: Timestamp, limit: u32) -> StoreResult<Vec<PendingUpload>> {
        let statement = sql(
            "upload_delete_if_expired",
            "DELETE FROM uploads WHERE id IN (SELECT u.id FROM uploads u WHERE u.expires_at < $1 AND NOT EXISTS \
             (SELECT 1 FROM batches b WHERE b.seq = u.batch AND b.unsealed AND b.finished_at IS NULL) LIMIT $2) \
             RETURNING id, owner, object_key, created_at, expires_at, batch",
        );
        self.db.fetch_written(statement.bind(now).bind(limit)).await?.iter().map(pending_upload).collect()
    }
}

impl SqlStore {
    async fn count_batches(&self, metrics: &mut Metrics) -> StoreResult<()> {
        let statement = sql(
            "batch_count_by_pipeline",
            "SELECT pipeline, CAST(sum(total) AS BIGINT) AS total, CAST(sum(pending) AS BIGINT) AS pending, \
             CAST(sum(queued) AS BIGINT) AS queued, CAST(sum(processing) AS BIGINT) AS processing, \
             CAST(sum(completed) AS BIGINT) AS completed, CAST(sum(failed) AS BIGINT) AS failed, \
             CAST(sum(cancelled) AS BIGINT) AS cancelled, \
             count(*) FILTER (WHERE status = {batch pending}) AS batches_pending, \
             count(*) FILTER (WHERE status = {batch processing}) AS batches_processing, \
             count(*) FILTER (WHERE status = {batch queued}) AS batches_queued, \
             count(*) FILTER (WHERE status = {batch queued} AND held AND cancelled_at IS NULL) AS batches_held FROM batches \
             WHERE status IN ({batch pending}, {batch processing}, {batch queued}) GROUP BY pipeline ORDER BY pipeline",
        );
        for row in self.db.fetch(statement).await? {
            let c = row.of("batches");
            metrics.by_pipeline.push((c.text("pipeline")?, ledgers::counts(&c)?));
            metrics.batches_pending += c.u32("batches_pending")?;
            metrics.batches_processing += c.u32("batches_processing")?;
            metrics.batches_queued += c.u32("batches_queued")?;
            metrics.batches_held += c.u32("batches_held")?;
        }
        Ok(())
    }

    async fn count_overdue(&self, now: Timestamp, metrics: &mut Metrics) -> StoreResult<()> {
        let statement = sql(
            "callback_count",
            "SELECT (SELECT count(*) FROM callbacks WHERE status = {callback pending}) AS pending, \
             (SELECT count(*) FROM callbacks WHERE status = {callback exhausted}) AS exhausted, \
             (SELECT count(*) FROM callbacks WHERE status = {callback pending} AND next_at < $5 \
             AND (lease_until IS NULL OR lease_until < $5)) AS overdue, \
             (SELECT count(*) FROM callbacks WHERE status = {callback exhausted} AND created_at > $1) AS exhausted_recently, \
             (SELECT count(*) FROM row_state s LEFT JOIN workers w ON w.name = s.lease_holder WHERE s.status = {row processing} \
             AND coalesce(s.lease_until, w.beat_at + w.silence_ms, 0) < $2) AS expired, \
             (SELECT count(*) FROM row_state s JOIN batches b ON b.seq = s.batch WHERE s.status = {row queued} \
             AND s.queued_until < $2 AND b.cancelled_at IS NULL) AS lost, \
             (SELECT count(*) FROM batches WHERE finished_at > $3 AND status = $4) AS failed_batches",
        );
        let statement = statement
            .bind(now - RECENT_CALLBACKS)
            .bind(now - OVERDUE_AFTER)
            .bind(now - RECENT)
            .bind(BatchStatus::Failed.code())
            .bind(now - CALLBACK_OVERDUE_AFTER);
        let row = self.db.fetch_one(statement).await?;
        let c = row.of("callbacks");
        metrics.callbacks_pending = c.u32("pending")?;
        metrics.callbacks_exhausted = c.u32("exhausted")?;
        metrics.callbacks_overdue = c.u32("overdue")?;
        metrics.callbacks_exhausted_recently = c.u32("exhausted_recently")?;
        metrics.leases_expired = c.u32("expired")?;
        metrics.rows_lost = c.u32("lost")?;
        metrics.batches_failed_recently = c.u32("failed_batches")?;
        Ok(())
    }
}

/// The counts that a batch's rows give.
async fn rows_count(tx: &mut Tx, batch: &Batch) -> StoreResult<Counts> {
    let statement = sql(
        "row_count_by_status",
        "SELECT batch, status, count(*) AS count FROM row_state WHERE batch = $1 GROUP BY batch, status",
    );
    let mut by_status = [0_u32; 6];
    for row in &tx.fetch(statement.bind(batch.seq)).await? {
        let c = row.of("row_state");
        by_status[c.code("status", RowStatus::from_code)? as usize] = c.u32("count")?;
    }
    let beyond = sql(
        "row_count_not_released",
        "SELECT count(*) AS beyond FROM row_state WHERE batch = $1 AND number >= $2",
    );
    let beyond = tx.fetch_one(beyond.bind(batch.seq).bind(batch.ledger.release_end)).await?;
    let beyond = beyond.of("row_state").u32("beyond")?;
    let total = batch.ledger.counts.total;
    let known: u32 = by_status.iter().sum();
    let never = total.saturating_sub(known);
    let shut_out = (total + 1).saturating_sub(batch.ledger.release_end).saturating_sub(beyond).min(never);
    let [mut pending, mut queued, processing, completed, failed, mut cancelled] = by_status;
    pending += never - shut_out;
    cancelled += shut_out;
    if batch.ledger.cancelled_at.is_some() || batch.ledger.status == BatchStatus::Cancelled {
        cancelled += pending + queued;
        pending = 0;
        queued = 0;
    }
    Ok(Counts { total, pending, queued, processing, completed, failed, cancelled })
}
