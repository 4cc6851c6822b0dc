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
use crate::convert::{Columns, int};
use crate::error::store_error;
use crate::ledgers::{self, SELECT};
use crate::{Connection, PostgresStore, commit};

#[async_trait]
impl Batches for PostgresStore {
    async fn save_definition(
        &self,
        version: Uuid,
        definition: &StoredDefinition,
        now: Timestamp,
    ) -> StoreResult<()> {
        sqlx::query(
            "/* penstock:save_definition */ INSERT INTO definitions (version, name, source, mac, created_at) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (version) DO UPDATE \
             SET name = excluded.name, source = excluded.source, mac = excluded.mac \
             WHERE definitions.mac IS DISTINCT FROM excluded.mac",
        )
        .bind(version)
        .bind(&definition.name)
        .bind(&definition.source)
        .bind(&definition.mac)
        .bind(now.millis())
        .execute(&self.pool)
        .await
        .map_err(store_error("save_definition"))?;
        Ok(())
    }

    async fn definition(&self, version: Uuid) -> StoreResult<Option<StoredDefinition>> {
        let row = sqlx::query(
            "/* penstock:definition */ SELECT name, source, mac FROM definitions WHERE version = $1",
        )
        .bind(version)
        .fetch_optional(&self.pool)
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
            sqlx::query("/* penstock:idempotent */ SELECT fingerprint, batch, key_id FROM idempotency WHERE owner = $1 AND key = $2")
                .bind(owner.0)
                .bind(key)
                .fetch_optional(&self.pool)
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
        let ledger = Ledger::new(new.rows, new.allow_failures, new.canary);
        let seq: i64 = sqlx::query_scalar(
            "/* penstock:create_batch */ INSERT INTO batches (id, owner, pipeline, version, name, object_key, \
             file_bytes, unsealed, callback_url, priority, created_at, status, allow_failures, paused, held, \
             canary_rows, canary_max_failure_bp, canary_stop_after, canary_passed, total, pending, queued, processing, \
             completed, failed, cancelled, run, extracted, next_number, release_end, failure_said_run, progress_said, \
             revision, checkpoint_offset, checkpoint_line, checkpoint_rows) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, \
             $11, 0, $12, false, false, $13, $14, $15, $16, $17, $18, 0, 0, 0, 0, 0, 1, false, 1, 1, 0, 0, 1, $19, $20, $21) RETURNING seq",
        )
        .bind(new.id.0)
        .bind(new.owner.0)
        .bind(&new.pipeline)
        .bind(new.version)
        .bind(&new.name)
        .bind(&new.object_key)
        .bind(i64::try_from(new.file_bytes).unwrap_or(i64::MAX))
        .bind(new.unsealed)
        .bind(&new.callback_url)
        .bind(i32::from(new.priority))
        .bind(new.created_at.millis())
        .bind(new.allow_failures)
        .bind(new.canary.map(|canary| int(canary.rows)))
        .bind(new.canary.map(|canary| i32::from(canary.max_failure_bp)))
        .bind(new.canary.and_then(|canary| canary.stop_after).map(int))
        .bind(ledger.canary_passed)
        .bind(int(ledger.counts.total))
        .bind(int(ledger.counts.pending))
        .bind(i64::try_from(new.checkpoint.offset).unwrap_or(i64::MAX))
        .bind(i64::try_from(new.checkpoint.line).unwrap_or(i64::MAX))
        .bind(int(new.checkpoint.rows))
        .fetch_one(&mut *tx)
        .await
        .map_err(store_error(NAME))?;
        let key = sqlx::query(
            "INSERT INTO batch_keys (batch, epoch, key_id, wrapped, context, header) SELECT $1::int8, $2::int8, $3::text, $4::bytea, $5::bytea, $6::bytea \
             WHERE EXISTS (SELECT 1 FROM epochs WHERE id = $2 FOR KEY SHARE)",
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
            // Another request with this key may be about to commit: this waits for it, and yields.
            let kept = sqlx::query(
                "INSERT INTO idempotency (owner, key, key_id, fingerprint, batch) VALUES ($1, $2, $3, $4, $5) \
                 ON CONFLICT DO NOTHING",
            )
            .bind(new.owner.0)
            .bind(&promise.key)
            .bind(&promise.key_id)
            .bind(&promise.fingerprint)
            .bind(seq)
            .execute(&mut *tx)
            .await
            .map_err(store_error(NAME))?;
            if kept.rows_affected() == 0 {
                drop(tx);
                return self.existing(new.owner, &promise.key).await;
            }
        }
        if let Some(upload) = new.upload {
            let done =
                sqlx::query("UPDATE uploads SET batch = $1 WHERE id = $2 AND owner = $3 AND batch IS NULL")
                    .bind(seq)
                    .bind(upload)
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
            "/* penstock:batch */ {SELECT} WHERE b.id = $1 AND ($2::int8 IS NULL OR b.owner = $2)"
        )))
        .bind(id.0)
        .bind(owner.map(|owner| owner.0))
        .fetch_optional(&self.pool)
        .await
        .map_err(store_error("batch"))?;
        row.as_ref().map(ledgers::batch).transpose()
    }

    async fn batches_by_seq(&self, seqs: &[BatchSeq]) -> StoreResult<Vec<Batch>> {
        let list: Vec<i64> = seqs.iter().map(|seq| seq.0).collect();
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "/* penstock:batches_by_seq */ {SELECT} WHERE b.seq = ANY($1) ORDER BY b.seq"
        )))
        .bind(list)
        .fetch_all(&self.pool)
        .await
        .map_err(store_error("batches_by_seq"))?;
        rows.iter().map(ledgers::batch).collect()
    }

    async fn list_batches(&self, filter: &BatchFilter) -> StoreResult<BatchPage> {
        const NAME: &str = "list_batches";
        let mut tx = self.read(NAME).await?;
        let (floor, more) = window(&mut tx, filter, NAME).await?;
        let mut query =
            QueryBuilder::<sqlx::Postgres>::new(format!("/* penstock:{NAME} */ {SELECT} WHERE true"));
        push_filter(&mut query, filter, floor);
        // One more than the page may have tells whether another page follows.
        query.push(" ORDER BY b.seq DESC LIMIT ").push_bind(i64::from(filter.limit) + 1);
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
            "/* penstock:kept */ SELECT COUNT(*), COALESCE(SUM(file_bytes), 0)::BIGINT FROM batches \
             WHERE owner = $1 AND erased_at IS NULL",
        )
        .bind(owner.0)
        .fetch_one(&self.pool)
        .await
        .map_err(store_error("kept"))?;
        Ok(Kept { batches: batches.unsigned_abs(), bytes: bytes.unsigned_abs() })
    }

    async fn sealed_key(&self, batch: BatchSeq) -> StoreResult<Option<StoredKey>> {
        let row = sqlx::query(
            "/* penstock:sealed_key */ SELECT k.epoch, k.key_id, k.wrapped, k.context, k.header, e.sealed AS epoch_key \
             FROM batch_keys k LEFT JOIN epochs e ON e.id = k.epoch WHERE k.batch = $1",
        )
        .bind(batch.0)
        .fetch_optional(&self.pool)
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
        let row =
            sqlx::query("/* penstock:sealed_failure */ SELECT failure FROM batch_keys WHERE batch = $1")
                .bind(batch.0)
                .fetch_optional(&self.pool)
                .await
                .map_err(store_error("sealed_failure"))?;
        row.map_or(Ok(None), |row| Columns::of("batch_keys", &row).opt_bytes("failure"))
    }

    async fn create_upload(&self, upload: &PendingUpload) -> StoreResult<()> {
        sqlx::query(
            "/* penstock:create_upload */ INSERT INTO uploads (id, owner, object_key, created_at, expires_at) \
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(upload.id)
        .bind(upload.owner.0)
        .bind(&upload.object_key)
        .bind(upload.created_at.millis())
        .bind(upload.expires_at.millis())
        .execute(&self.pool)
        .await
        .map_err(store_error("create_upload"))?;
        Ok(())
    }

    async fn upload(&self, id: Uuid, owner: OwnerSeq) -> StoreResult<Option<PendingUpload>> {
        let row = sqlx::query("/* penstock:upload */ SELECT id, owner, object_key, created_at, expires_at, batch FROM uploads WHERE id = $1 AND owner = $2")
            .bind(id)
            .bind(owner.0)
            .fetch_optional(&self.pool)
            .await
            .map_err(store_error("upload"))?;
        row.as_ref().map(pending_upload).transpose()
    }

    async fn uploads_of(&self, batch: BatchSeq) -> StoreResult<Vec<PendingUpload>> {
        let rows = sqlx::query("/* penstock:uploads_of */ SELECT id, owner, object_key, created_at, expires_at, batch FROM uploads WHERE batch = $1")
            .bind(batch.0)
            .fetch_all(&self.pool)
            .await
            .map_err(store_error("uploads_of"))?;
        rows.iter().map(pending_upload).collect()
    }
}

impl PostgresStore {
    /// The batch behind an `Idempotency-Key` that was used before.
    async fn existing(&self, owner: OwnerSeq, key: &str) -> StoreResult<Created> {
        let (batch, idempotency) = self
            .idempotent(owner, key)
            .await?
            .ok_or(StoreError::NotFound { what: "the batch of this Idempotency-Key" })?;
        Ok(Created::Existing { batch, idempotency })
    }
}

pub fn pending_upload(row: &sqlx::postgres::PgRow) -> StoreResult<PendingUpload> {
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
fn push_range(query: &mut QueryBuilder<sqlx::Postgres>, filter: &BatchFilter) {
    if let Some(owner) = filter.owner {
        query.push(" AND b.owner = ").push_bind(owner.0);
    }
    if let Some(before) = filter.before {
        query.push(" AND b.seq < ").push_bind(before.0);
    }
}

fn push_filter(query: &mut QueryBuilder<sqlx::Postgres>, filter: &BatchFilter, floor: Option<BatchSeq>) {
    push_range(query, filter);
    if let Some(floor) = floor {
        query.push(" AND b.seq >= ").push_bind(floor.0);
    }
    if !filter.status.is_empty() {
        let codes: Vec<i32> = filter.status.iter().map(|status| i32::from(status.code())).collect();
        query.push(" AND b.status = ANY(").push_bind(codes).push(")");
    }
    if !filter.pipelines.is_empty() {
        query.push(" AND b.pipeline = ANY(").push_bind(filter.pipelines.clone()).push(")");
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
    let mut query = QueryBuilder::<sqlx::Postgres>::new(format!(
        "/* penstock:{name} */ SELECT min(seq), count(*) FROM (SELECT b.seq AS seq FROM batches b WHERE true"
    ));
    push_range(&mut query, filter);
    query.push(" ORDER BY b.seq DESC LIMIT ").push_bind(i64::from(looked_at)).push(") w");
    let (floor, count): (Option<i64>, i64) =
        query.build_query_as().fetch_one(&mut *tx).await.map_err(store_error(name))?;
    Ok((floor.map(BatchSeq), count >= i64::from(looked_at)))
}
