//! Making and finding batches.

use async_trait::async_trait;
use penstock_domain::ids::{BatchId, BatchSeq, OwnerSeq};
use penstock_domain::ledger::{Event, Ledger};
use penstock_domain::time::Timestamp;
use penstock_store::batches::{
    Batch, BatchFilter, BatchPage, Batches, Created, Idempotency, Kept, NewBatch, PendingUpload, SealedKey,
    StoredDefinition, StoredKey,
};
use penstock_store::decode::Columns as _;
use penstock_store::{StoreError, StoreResult};
use sqlx::QueryBuilder;
use uuid::Uuid;

use crate::callbacks;
use crate::convert::Columns;
use crate::error::store_error;
use crate::ledgers::{self, SELECT};
use crate::{Connection, SqliteStore, commit};

#[async_trait]
impl Batches for SqliteStore {
    async fn save_definition(
        &self,
        version: Uuid,
        definition: &StoredDefinition,
        now: Timestamp,
    ) -> StoreResult<()> {
        sqlx::query(
            "/* penstock:save_definition */ INSERT INTO definitions (version, name, source, mac, created_at) \
             VALUES (?, ?, ?, ?, ?) ON CONFLICT (version) DO UPDATE \
             SET name = excluded.name, source = excluded.source, mac = excluded.mac \
             WHERE definitions.mac IS NOT excluded.mac",
        )
        .bind(version.to_string())
        .bind(&definition.name)
        .bind(&definition.source)
        .bind(&definition.mac)
        .bind(now.millis())
        .execute(&self.writer)
        .await
        .map_err(store_error("save_definition"))?;
        Ok(())
    }

    async fn definition(&self, version: Uuid) -> StoreResult<Option<StoredDefinition>> {
        let row = sqlx::query(
            "/* penstock:definition */ SELECT name, source, mac FROM definitions WHERE version = ?1",
        )
        .bind(version.to_string())
        .fetch_optional(&self.readers)
        .await
        .map_err(store_error("definition"))?;
        let Some(row) = row else { return Ok(None) };
        let c = Columns::of("definitions", &row);
        Ok(Some(StoredDefinition {
            name: c.text("name")?,
            source: c.text("source")?,
            mac: c.opt_bytes("mac")?,
        }))
    }

    async fn idempotent(&self, owner: OwnerSeq, key: &str) -> StoreResult<Option<(Batch, Idempotency)>> {
        let row =
            sqlx::query("/* penstock:idempotent */ SELECT fingerprint, batch, key_id FROM idempotency WHERE owner = ? AND key = ?")
                .bind(owner.0)
                .bind(key)
                .fetch_optional(&self.readers)
                .await
                .map_err(store_error("idempotent"))?;
        let Some(row) = row else { return Ok(None) };
        let c = Columns::of("idempotency", &row);
        let promise = Idempotency {
            key: key.to_owned(),
            key_id: c.text("key_id")?,
            fingerprint: c.bytes("fingerprint")?,
        };
        let batch = self.batches_by_seq(&[BatchSeq(c.i64("batch")?)]).await?.pop();
        Ok(batch.map(|batch| (batch, promise)))
    }

    async fn create_batch(&self, new: &NewBatch) -> StoreResult<Created> {
        const NAME: &str = "create_batch";
        let mut tx = self.write(NAME).await?;
        if let Some(promise) = &new.idempotency {
            let taken: Option<i64> =
                sqlx::query_scalar("SELECT batch FROM idempotency WHERE owner = ? AND key = ?")
                    .bind(new.owner.0)
                    .bind(&promise.key)
                    .fetch_optional(&mut *tx)
                    .await
                    .map_err(store_error(NAME))?;
            if taken.is_some() {
                drop(tx);
                let (batch, idempotency) = self
                    .idempotent(new.owner, &promise.key)
                    .await?
                    .ok_or(StoreError::NotFound { what: "the batch of this Idempotency-Key" })?;
                return Ok(Created::Existing { batch, idempotency });
            }
        }
        let ledger = Ledger::new(new.rows, new.allow_failures, new.canary);
        let seq: i64 = sqlx::query_scalar(
            "/* penstock:create_batch */ INSERT INTO batches (id, owner, pipeline, version, name, object_key, \
             file_bytes, unsealed, callback_url, priority, created_at, status, allow_failures, paused, held, \
             canary_rows, canary_max_failure_bp, canary_stop_after, canary_passed, total, pending, queued, processing, \
             completed, failed, cancelled, run, extracted, next_number, release_end, failure_said_run, progress_said, \
             revision, checkpoint_offset, checkpoint_line, checkpoint_rows) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, \
             ?, 0, ?, 0, 0, ?, ?, ?, ?, ?, ?, 0, 0, 0, 0, 0, 1, 0, 1, 1, 0, 0, 1, ?, ?, ?) RETURNING seq",
        )
        .bind(new.id.to_string())
        .bind(new.owner.0)
        .bind(&new.pipeline)
        .bind(new.version.to_string())
        .bind(&new.name)
        .bind(&new.object_key)
        .bind(i64::try_from(new.file_bytes).unwrap_or(i64::MAX))
        .bind(new.unsealed)
        .bind(&new.callback_url)
        .bind(new.priority)
        .bind(new.created_at.millis())
        .bind(new.allow_failures)
        .bind(new.canary.map(|canary| canary.rows))
        .bind(new.canary.map(|canary| canary.max_failure_bp))
        .bind(new.canary.and_then(|canary| canary.stop_after))
        .bind(ledger.canary_passed)
        .bind(ledger.counts.total)
        .bind(ledger.counts.pending)
        .bind(i64::try_from(new.checkpoint.offset).unwrap_or(i64::MAX))
        .bind(i64::try_from(new.checkpoint.line).unwrap_or(i64::MAX))
        .bind(new.checkpoint.rows)
        .fetch_one(&mut *tx)
        .await
        .map_err(store_error(NAME))?;
        let key = sqlx::query(
            "INSERT INTO batch_keys (batch, epoch, key_id, wrapped, context, header) SELECT ?1, ?2, ?3, ?4, ?5, ?6 \
             WHERE EXISTS (SELECT 1 FROM epochs WHERE id = ?2)",
        )
        .bind(seq)
        .bind(new.key.epoch)
        .bind(&new.key.key_id)
        .bind(&new.key.wrapped)
        .bind(&new.key.context)
        .bind(&new.key.header)
        .execute(&mut *tx)
        .await
        .map_err(store_error(NAME))?;
        if key.rows_affected() != 1 {
            return Err(StoreError::EpochDropped);
        }
        if let Some(promise) = &new.idempotency {
            sqlx::query(
                "INSERT INTO idempotency (owner, key, key_id, fingerprint, batch) VALUES (?, ?, ?, ?, ?)",
            )
            .bind(new.owner.0)
            .bind(&promise.key)
            .bind(&promise.key_id)
            .bind(&promise.fingerprint)
            .bind(seq)
            .execute(&mut *tx)
            .await
            .map_err(store_error(NAME))?;
        }
        if let Some(upload) = new.upload {
            let done =
                sqlx::query("UPDATE uploads SET batch = ? WHERE id = ? AND owner = ? AND batch IS NULL")
                    .bind(seq)
                    .bind(upload.to_string())
                    .bind(new.owner.0)
                    .execute(&mut *tx)
                    .await
                    .map_err(store_error(NAME))?;
            if done.rows_affected() != 1 {
                return Err(StoreError::NotFound { what: "this upload, unused," });
            }
        }
        let batch = ledgers::read(&mut tx, BatchSeq(seq), NAME)
            .await?
            .ok_or(StoreError::NotFound { what: "the owner of this batch" })?;
        if let Some(url) = &batch.callback_url {
            // Whoever names the address again says that it is there.
            callbacks::enable(&mut tx, batch.owner.0, url, NAME).await?;
        }
        ledgers::say(&mut tx, &batch, &[Event::Created], new.created_at, NAME).await?;
        let actor = format!("owner:{}", batch.owner_name);
        ledgers::audit(&mut tx, new.created_at, &actor, "batch.create", &batch, None, NAME).await?;
        commit(tx, NAME).await?;
        Ok(Created::New(batch))
    }

    async fn batch(&self, id: BatchId, owner: Option<OwnerSeq>) -> StoreResult<Option<Batch>> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "/* penstock:batch */ {SELECT} WHERE b.id = ?1 AND (?2 IS NULL OR b.owner = ?2)"
        )))
        .bind(id.to_string())
        .bind(owner.map(|owner| owner.0))
        .fetch_optional(&self.readers)
        .await
        .map_err(store_error("batch"))?;
        row.as_ref().map(ledgers::batch).transpose()
    }

    async fn batches_by_seq(&self, seqs: &[BatchSeq]) -> StoreResult<Vec<Batch>> {
        let list = serde_json::json!(seqs).to_string();
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "/* penstock:batches_by_seq */ {SELECT} WHERE b.seq IN (SELECT value FROM json_each(?)) ORDER BY b.seq"
        )))
        .bind(list)
        .fetch_all(&self.readers)
        .await
        .map_err(store_error("batches_by_seq"))?;
        rows.iter().map(ledgers::batch).collect()
    }

    async fn list_batches(&self, filter: &BatchFilter) -> StoreResult<BatchPage> {
        const NAME: &str = "list_batches";
        let mut tx = self.read(NAME).await?;
        let (floor, more) = window(&mut tx, filter, NAME).await?;
        let mut query =
            QueryBuilder::<sqlx::Sqlite>::new(format!("/* penstock:{NAME} */ {SELECT} WHERE true"));
        push_filter(&mut query, filter, floor);
        // One more than the page may have tells whether another page follows.
        query.push(" ORDER BY b.seq DESC LIMIT ").push_bind(filter.limit + 1);
        let rows = query.build().fetch_all(&mut *tx).await.map_err(store_error(NAME))?;
        let mut batches: Vec<Batch> = rows.iter().map(ledgers::batch).collect::<StoreResult<_>>()?;
        let full = batches.len() > filter.limit as usize;
        batches.truncate(filter.limit as usize);
        let last = batches.last().map(|batch| batch.seq);
        let next = if full { last } else { floor.filter(|_| more) };
        Ok(BatchPage { batches, next })
    }

    async fn kept(&self, owner: OwnerSeq) -> StoreResult<Kept> {
        let (batches, bytes): (i64, i64) = sqlx::query_as(
            "/* penstock:kept */ SELECT COUNT(*), COALESCE(SUM(file_bytes), 0) FROM batches \
             WHERE owner = ? AND erased_at IS NULL",
        )
        .bind(owner.0)
        .fetch_one(&self.readers)
        .await
        .map_err(store_error("kept"))?;
        Ok(Kept { batches: batches.unsigned_abs(), bytes: bytes.unsigned_abs() })
    }

    async fn sealed_key(&self, batch: BatchSeq) -> StoreResult<Option<StoredKey>> {
        let row = sqlx::query(
            "/* penstock:sealed_key */ SELECT k.epoch, k.key_id, k.wrapped, k.context, k.header, e.sealed AS epoch_key \
             FROM batch_keys k LEFT JOIN epochs e ON e.id = k.epoch WHERE k.batch = ?1",
        )
        .bind(batch.0)
        .fetch_optional(&self.readers)
        .await
        .map_err(store_error("sealed_key"))?;
        let Some(row) = row else { return Ok(None) };
        let c = Columns::of("batch_keys", &row);
        let key = SealedKey {
            epoch: c.opt_i64("epoch")?,
            key_id: c.text("key_id")?,
            wrapped: c.bytes("wrapped")?,
            context: c.opt_bytes("context")?,
            header: c.opt_bytes("header")?,
        };
        Ok(Some(StoredKey { key, epoch_key: c.opt_bytes("epoch_key")? }))
    }

    async fn sealed_failure(&self, batch: BatchSeq) -> StoreResult<Option<Vec<u8>>> {
        let row = sqlx::query("/* penstock:sealed_failure */ SELECT failure FROM batch_keys WHERE batch = ?")
            .bind(batch.0)
            .fetch_optional(&self.readers)
            .await
            .map_err(store_error("sealed_failure"))?;
        row.map_or(Ok(None), |row| Columns::of("batch_keys", &row).opt_bytes("failure"))
    }

    async fn create_upload(&self, upload: &PendingUpload) -> StoreResult<()> {
        sqlx::query(
            "/* penstock:create_upload */ INSERT INTO uploads (id, owner, object_key, created_at, expires_at) \
             VALUES (?, ?, ?, ?, ?)",
        )
        .bind(upload.id.to_string())
        .bind(upload.owner.0)
        .bind(&upload.object_key)
        .bind(upload.created_at.millis())
        .bind(upload.expires_at.millis())
        .execute(&self.writer)
        .await
        .map_err(store_error("create_upload"))?;
        Ok(())
    }

    async fn upload(&self, id: Uuid, owner: OwnerSeq) -> StoreResult<Option<PendingUpload>> {
        let row = sqlx::query("/* penstock:upload */ SELECT id, owner, object_key, created_at, expires_at, batch FROM uploads WHERE id = ? AND owner = ?")
            .bind(id.to_string())
            .bind(owner.0)
            .fetch_optional(&self.readers)
            .await
            .map_err(store_error("upload"))?;
        row.as_ref().map(pending_upload).transpose()
    }

    async fn uploads_of(&self, batch: BatchSeq) -> StoreResult<Vec<PendingUpload>> {
        let rows = sqlx::query("/* penstock:uploads_of */ SELECT id, owner, object_key, created_at, expires_at, batch FROM uploads WHERE batch = ?")
            .bind(batch.0)
            .fetch_all(&self.readers)
            .await
            .map_err(store_error("uploads_of"))?;
        rows.iter().map(pending_upload).collect()
    }
}

pub fn pending_upload(row: &sqlx::sqlite::SqliteRow) -> StoreResult<PendingUpload> {
    let c = Columns::of("uploads", row);
    Ok(PendingUpload {
        id: c.uuid("id")?,
        owner: OwnerSeq(c.i64("owner")?),
        object_key: c.text("object_key")?,
        created_at: c.time("created_at")?,
        expires_at: c.time("expires_at")?,
        batch: c.opt_i64("batch")?.map(BatchSeq),
    })
}

/// Whose batches, from where to where.
fn push_range(query: &mut QueryBuilder<sqlx::Sqlite>, filter: &BatchFilter) {
    if let Some(owner) = filter.owner {
        query.push(" AND b.owner = ").push_bind(owner.0);
    }
    if let Some(before) = filter.before {
        query.push(" AND b.seq < ").push_bind(before.0);
    }
}

fn push_filter(query: &mut QueryBuilder<sqlx::Sqlite>, filter: &BatchFilter, floor: Option<BatchSeq>) {
    push_range(query, filter);
    if let Some(floor) = floor {
        query.push(" AND b.seq >= ").push_bind(floor.0);
    }
    if !filter.status.is_empty() {
        let codes: Vec<i16> = filter.status.iter().map(|status| status.code()).collect();
        query
            .push(" AND b.status IN (SELECT value FROM json_each(")
            .push_bind(serde_json::json!(codes).to_string());
        query.push("))");
    }
    if !filter.pipelines.is_empty() {
        query
            .push(" AND b.pipeline IN (SELECT value FROM json_each(")
            .push_bind(serde_json::json!(filter.pipelines).to_string());
        query.push("))");
    }
    if let Some(from) = filter.created_from {
        query.push(" AND b.created_at >= ").push_bind(from.millis());
    }
    if let Some(to) = filter.created_to {
        query.push(" AND b.created_at < ").push_bind(to.millis());
    }
}

/// The last batch that a page looks at, and whether others follow it; none when it may look at all of them.
async fn window(
    tx: &mut Connection,
    filter: &BatchFilter,
    name: &'static str,
) -> StoreResult<(Option<BatchSeq>, bool)> {
    let Some(looked_at) = filter.looked_at.filter(|_| filter.is_narrow()) else { return Ok((None, false)) };
    let mut query = QueryBuilder::<sqlx::Sqlite>::new(format!(
        "/* penstock:{name} */ SELECT min(seq), count(*) FROM (SELECT b.seq AS seq FROM batches b WHERE true"
    ));
    push_range(&mut query, filter);
    query.push(" ORDER BY b.seq DESC LIMIT ").push_bind(looked_at).push(") w");
    let (floor, count): (Option<i64>, i64) =
        query.build_query_as().fetch_one(&mut *tx).await.map_err(store_error(name))?;
    Ok((floor.map(BatchSeq), count >= i64::from(looked_at)))
}
