//! The schema, checks, repairs, retention and the audit log.

use async_trait::async_trait;
use penstock_domain::batch::{BatchStatus, Counts};
use penstock_domain::ids::{BatchId, BatchSeq};
use penstock_domain::row::RowStatus;
use penstock_domain::time::Timestamp;
use penstock_store::StoreResult;
use penstock_store::batches::{Batch, PendingUpload};
use penstock_store::decode::Columns as _;
use penstock_store::operations::{
    AuditEntry, CALLBACK_OVERDUE_AFTER, CountMismatch, EngineInfo, Metrics, OVERDUE_AFTER, Operations,
    RATIO_ROWS, RECENT, RECENT_CALLBACKS,
};

use crate::batches::pending_upload;
use crate::convert::{Columns, int};
use crate::error::store_error;
use crate::{Limit, PostgresStore, commit, ledgers, schema};

#[async_trait]
impl Operations for PostgresStore {
    async fn migrate_to(&self, version: i64) -> StoreResult<(i64, i64)> {
        self.bring_up_to(version).await
    }

    async fn migrate(&self) -> StoreResult<(i64, i64)> {
        self.bring_up_to(schema::needed()).await
    }

    async fn check_schema(&self) -> StoreResult<()> {
        self.schema_fits().await
    }

    async fn now(&self) -> StoreResult<Timestamp> {
        let now: i64 = sqlx::query_scalar(
            "/* penstock:now */ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8",
        )
        .fetch_one(&self.pool)
        .await
        .map_err(store_error("now"))?;
        Ok(Timestamp::from_millis(now))
    }

    async fn probe_writes(&self, now: Timestamp) -> StoreResult<()> {
        sqlx::query(
            "/* penstock:probe_writes */ INSERT INTO write_probe (id, at) VALUES (1, $1) \
             ON CONFLICT (id) DO UPDATE SET at = excluded.at",
        )
        .bind(now.millis())
        .execute(&self.pool)
        .await
        .map_err(store_error("probe_writes"))?;
        Ok(())
    }

    async fn engine(&self) -> StoreResult<EngineInfo> {
        let row = sqlx::query(
            "/* penstock:engine */ SELECT current_setting('server_version') AS version, \
             current_setting('server_version_num')::int4 >= 140000 AS supported, \
             pg_database_size(current_database()) AS bytes",
        )
        .fetch_one(&self.pool)
        .await
        .map_err(store_error("engine"))?;
        let c = Columns::of("pg_database", &row);
        Ok(EngineInfo {
            engine: "postgresql",
            version: c.text("version")?,
            needed_version: "14",
            supported: c.flag("supported")?,
            schema: self.schema_version().await?,
            needed_schema: schema::needed(),
            now: self.now().await?,
            bytes: c.u64("bytes")?,
            missing_rights: self.missing_rights().await?,
        })
    }

    async fn audit(&self, entry: &AuditEntry) -> StoreResult<()> {
        sqlx::query("/* penstock:audit */ INSERT INTO audit (at, actor, action, batch, detail) VALUES ($1, $2, $3, $4, $5)")
            .bind(entry.at.millis())
            .bind(&entry.actor)
            .bind(&entry.action)
            .bind(entry.batch.map(|batch| batch.0))
            .bind(&entry.detail)
            .execute(&self.pool)
            .await
            .map_err(store_error("audit"))?;
        Ok(())
    }

    async fn audit_log(
        &self,
        batch: Option<BatchId>,
        before: Option<i64>,
        limit: u32,
    ) -> StoreResult<Vec<AuditEntry>> {
        let rows = sqlx::query(
            "/* penstock:audit_log */ SELECT id, at, actor, action, batch, detail FROM audit WHERE ($1::uuid IS NULL OR batch = $1) \
             AND ($2::int8 IS NULL OR id < $2) ORDER BY id DESC LIMIT $3",
        )
        .bind(batch.map(|batch| batch.0))
        .bind(before)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .map_err(store_error("audit_log"))?;
        rows.iter()
            .map(|row| {
                let c = Columns::of("audit", row);
                Ok(AuditEntry {
                    id: c.i64("id")?,
                    at: c.time("at")?,
                    actor: c.text("actor")?,
                    action: c.text("action")?,
                    batch: c.opt_uuid("batch")?.map(BatchId),
                    detail: c.opt_text("detail")?,
                })
            })
            .collect()
    }

    async fn metrics(&self, now: Timestamp) -> StoreResult<Metrics> {
        let rows = sqlx::query(
            "/* penstock:metrics */ SELECT pipeline, sum(total)::int8 AS total, sum(pending)::int8 AS pending, \
             sum(queued)::int8 AS queued, sum(processing)::int8 AS processing, sum(completed)::int8 AS completed, \
             sum(failed)::int8 AS failed, sum(cancelled)::int8 AS cancelled, count(*) FILTER (WHERE status = 0) AS batches_pending, \
             count(*) FILTER (WHERE status = 1) AS batches_processing, count(*) FILTER (WHERE status = 2) AS batches_queued \
             FROM batches WHERE status IN (0, 1, 2) GROUP BY pipeline ORDER BY pipeline",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(store_error("metrics"))?;
        let mut metrics = Metrics::default();
        for row in &rows {
            let c = Columns::of("batches", row);
            let counts = Counts {
                total: c.u32("total")?,
                pending: c.u32("pending")?,
                queued: c.u32("queued")?,
                processing: c.u32("processing")?,
                completed: c.u32("completed")?,
                failed: c.u32("failed")?,
                cancelled: c.u32("cancelled")?,
            };
            metrics.by_pipeline.push((c.text("pipeline")?, counts));
            metrics.batches_pending += c.u32("batches_pending")?;
            metrics.batches_processing += c.u32("batches_processing")?;
            metrics.batches_queued += c.u32("batches_queued")?;
        }
        let callbacks = sqlx::query(
            "/* penstock:metrics */ SELECT (SELECT count(*) FROM callbacks WHERE status = 0) AS pending, \
             (SELECT count(*) FROM callbacks WHERE status = 2) AS exhausted, \
             (SELECT count(*) FROM callbacks WHERE status = 0 AND next_at < $5 AND (lease_until IS NULL OR lease_until < $5)) AS overdue, \
             (SELECT count(*) FROM callbacks WHERE status = 2 AND created_at > $1) AS exhausted_recently, \
             (SELECT count(*) FROM row_state s LEFT JOIN workers w ON w.name = s.lease_holder \
             WHERE s.status = 2 AND coalesce(s.lease_until, w.beat_at + w.silence_ms, 0) < $2) AS expired, \
             (SELECT count(*) FROM row_state s JOIN batches b ON b.seq = s.batch WHERE s.status = 1 AND s.queued_until < $2 AND b.cancelled_at IS NULL) AS lost, \
             (SELECT count(*) FROM batches WHERE finished_at > $3 AND status = $4) AS failed_batches",
        )
        .bind((now - RECENT_CALLBACKS).millis())
        .bind((now - OVERDUE_AFTER).millis())
        .bind((now - RECENT).millis())
        .bind(BatchStatus::Failed.code())
        .bind((now - CALLBACK_OVERDUE_AFTER).millis())
        .fetch_one(&self.pool)
        .await
        .map_err(store_error("metrics"))?;
        let c = Columns::of("callbacks", &callbacks);
        metrics.callbacks_pending = c.u32("pending")?;
        metrics.callbacks_exhausted = c.u32("exhausted")?;
        metrics.callbacks_overdue = c.u32("overdue")?;
        metrics.callbacks_exhausted_recently = c.u32("exhausted_recently")?;
        metrics.leases_expired = c.u32("expired")?;
        metrics.rows_lost = c.u32("lost")?;
        metrics.batches_failed_recently = c.u32("failed_batches")?;
        metrics.failure_ratio = sqlx::query_as(
            "/* penstock:metrics */ SELECT pipeline, max(failed::float8 / (completed + failed)) FROM batches \
             WHERE (status = 2 OR finished_at > $1) AND completed + failed >= $2 GROUP BY pipeline ORDER BY pipeline",
        )
        .bind((now - RECENT).millis())
        .bind(i64::from(RATIO_ROWS))
        .fetch_all(&self.pool)
        .await
        .map_err(store_error("metrics"))?;
        Ok(metrics)
    }

    async fn count_mismatches(&self, ended_after: Timestamp) -> StoreResult<Vec<CountMismatch>> {
        const NAME: &str = "count_mismatches";
        let seqs: Vec<i64> = sqlx::query_scalar(
            "/* penstock:count_mismatches */ SELECT seq FROM batches WHERE extracted AND (finished_at IS NULL OR finished_at > $1)",
        )
        .bind(ended_after.millis())
        .fetch_all(&self.pool)
        .await
        .map_err(store_error(NAME))?;
        let mut found = Vec::new();
        for seq in seqs {
            // At one moment: beside a worker both move all the time.
            let mut tx = self
                .pool
                .begin_with(
                    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = '120s'",
                    Limit::Long,
                )
                .await
                .map_err(store_error(NAME))?;
            let Some(batch) = ledgers::look(&mut tx, BatchSeq(seq), NAME).await? else { continue };
            let rows = rows_count(&mut tx, &batch, NAME).await?;
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
        const NAME: &str = "repair_counts";
        let mut tx = self.write(NAME).await?;
        let Some(mut batch) = ledgers::read(&mut tx, mismatch.seq, NAME).await? else { return Ok(false) };
        if batch.ledger.revision != mismatch.revision {
            return Ok(false);
        }
        let events = batch.ledger.correct(mismatch.rows, now);
        ledgers::write(&mut tx, &batch, mismatch.revision, &events, now, NAME).await?;
        ledgers::audit(&mut tx, now, actor, "batch.repair_counts", &batch, None, NAME).await?;
        commit(tx, NAME).await?;
        Ok(true)
    }

    async fn known_objects(&self, keys: &[String]) -> StoreResult<Vec<String>> {
        sqlx::query_scalar(
            "/* penstock:known_objects */ SELECT j FROM unnest($1::text[]) j WHERE EXISTS \
             (SELECT 1 FROM batches b WHERE b.object_key = j AND b.erased_at IS NULL) \
             OR EXISTS (SELECT 1 FROM uploads u WHERE u.object_key = j AND u.batch IS NULL)",
        )
        .bind(keys)
        .fetch_all(&self.pool)
        .await
        .map_err(store_error("known_objects"))
    }

    async fn to_erase(&self, finished_before: Timestamp, limit: u32) -> StoreResult<Vec<Batch>> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "/* penstock:to_erase */ {} WHERE b.finished_at < $1 AND b.erased_at IS NULL ORDER BY b.finished_at LIMIT $2",
            ledgers::SELECT
        )))
        .bind(finished_before.millis())
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .map_err(store_error("to_erase"))?;
        rows.iter().map(ledgers::batch).collect()
    }

    async fn delete_batches(&self, finished_before: Timestamp, limit: u32) -> StoreResult<u32> {
        const NAME: &str = "delete_batches";
        let seqs: Vec<i64> = sqlx::query_scalar(
            "/* penstock:delete_batches */ SELECT seq FROM batches WHERE finished_at < $1 AND erased_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM erasures e WHERE e.batch = batches.seq) LIMIT $2",
        )
        .bind(finished_before.millis())
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .map_err(store_error(NAME))?;
        let mut deleted = 0;
        for seq in seqs {
            let mut tx = self.long(NAME).await?;
            for (table, column) in [
                ("row_state", "batch"),
                ("row_data", "batch"),
                ("row_output", "batch"),
                ("row_receipts", "batch"),
                ("callbacks", "batch"),
                ("idempotency", "batch"),
                ("uploads", "batch"),
                ("batches", "seq"),
            ] {
                sqlx::query(sqlx::AssertSqlSafe(format!("DELETE FROM {table} WHERE {column} = $1")))
                    .bind(seq)
                    .execute(&mut *tx)
                    .await
                    .map_err(store_error(NAME))?;
            }
            commit(tx, NAME).await?;
            deleted += 1;
        }
        Ok(deleted)
    }

    async fn expire_uploads(&self, now: Timestamp, limit: u32) -> StoreResult<Vec<PendingUpload>> {
        let rows = sqlx::query(
            "/* penstock:expire_uploads */ DELETE FROM uploads WHERE id IN (SELECT u.id FROM uploads u \
             WHERE u.expires_at < $1 AND NOT EXISTS (SELECT 1 FROM batches b WHERE b.seq = u.batch \
             AND b.unsealed AND b.finished_at IS NULL) LIMIT $2) RETURNING id, owner, object_key, created_at, expires_at, batch",
        )
        .bind(now.millis())
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .map_err(store_error("expire_uploads"))?;
        rows.iter().map(pending_upload).collect()
    }
}

/// The counts that a batch's rows give.
async fn rows_count(tx: &mut crate::Connection, batch: &Batch, name: &'static str) -> StoreResult<Counts> {
    let rows = sqlx::query(
        "SELECT batch, status, count(*) AS count FROM row_state WHERE batch = $1 GROUP BY batch, status",
    )
    .bind(batch.seq.0)
    .fetch_all(&mut *tx)
    .await
    .map_err(store_error(name))?;
    let mut by_status = [0_u32; 6];
    for row in &rows {
        let c = Columns::of("row_state", row);
        by_status[c.code("status", RowStatus::from_code)? as usize] = c.u32("count")?;
    }
    let beyond = sqlx::query("SELECT count(*) AS beyond FROM row_state WHERE batch = $1 AND number >= $2")
        .bind(batch.seq.0)
        .bind(int(batch.ledger.release_end))
        .fetch_one(tx)
        .await
        .map_err(store_error(name))?;
    let beyond = Columns::of("row_state", &beyond).u32("beyond")?;
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
