//! Making and finding batches.

use async_trait::async_trait;
use penstock_domain::ids::{BatchId, BatchSeq, OwnerSeq};
use penstock_domain::ledger::{Event, Ledger};
use penstock_domain::time::Timestamp;
use penstock_store::batches::{
    Batch, BatchFilter, BatchPage, Batches, Created, Idempotency, Kept, NewBatch, PendingUpload, SealedKey,
    StoredDefinition, StoredKey,
};
use penstock_store::{StoreError, StoreResult};
use uuid::Uuid;

use crate::{Kind, Row, SqlStore, Statement, Tx, callbacks, ledgers, list, sql};

#[async_trait]
impl Batches for SqlStore {
    async fn save_definition(
        &self,
        version: Uuid,
        definition: &StoredDefinition,
        now: Timestamp,
    ) -> StoreResult<()> {
        let statement = sql(
            "definition_put",
            "INSERT INTO definitions (version, name, source, mac, created_at) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (version) DO UPDATE \
             SET name = excluded.name, source = excluded.source, mac = excluded.mac \
             WHERE definitions.mac IS DISTINCT FROM excluded.mac",
        );
        let statement = statement
            .bind(version)
            .bind(&definition.name)
            .bind(&definition.source)
            .bind(&definition.mac)
            .bind(now);
        self.db.execute(statement).await.map(|_| ())
    }

    async fn definition(&self, version: Uuid) -> StoreResult<Option<StoredDefinition>> {
        let statement = sql("definition_get", "SELECT name, source, mac FROM definitions WHERE version = $1");
        let Some(row) = self.db.fetch_optional(statement.bind(version)).await? else { return Ok(None) };
        let c = row.of("definitions");
        Ok(Some(StoredDefinition {
            name: c.text("name")?,
            source: c.text("source")?,
            mac: c.opt_bytes("mac")?,
        }))
    }

    async fn idempotent(&self, owner: OwnerSeq, key: &str) -> StoreResult<Option<(Batch, Idempotency)>> {
        let statement = sql(
            "idempotency_get",
            "SELECT fingerprint, batch, key_id FROM idempotency WHERE owner = $1 AND key = $2",
        );
        let row = self.db.fetch_optional(statement.bind(owner).bind(key)).await?;
        let Some(row) = row else { return Ok(None) };
        let c = row.of("idempotency");
        let promise = Idempotency {
            key: key.to_owned(),
            key_id: c.text("key_id")?,
            fingerprint: c.bytes("fingerprint")?,
        };
        let batch = self.batches_by_seq(&[BatchSeq(c.i64("batch")?)]).await?.pop();
        Ok(batch.map(|batch| (batch, promise)))
    }

    async fn create_batch(&self, new: &NewBatch) -> StoreResult<Created> {
        let mut tx = self.db.write("create_batch").await?;
        let seq = insert_batch(&mut tx, new).await?;
        insert_key(&mut tx, seq, &new.key).await?;
        if let Some(promise) = &new.idempotency
            && !insert_promise(&mut tx, new.owner, seq, promise).await?
        {
            drop(tx);
            return self.existing(new.owner, &promise.key).await;
        }
        if let Some(upload) = new.upload {
            use_upload(&mut tx, upload, new.owner, seq).await?;
        }
        let batch = ledgers::read(&mut tx, seq).await?;
        let batch = batch.ok_or(StoreError::NotFound { what: "the owner of this batch" })?;
        if let Some(url) = &batch.callback_url {
            // Whoever names the address again says that it is there.
            callbacks::enable(&mut tx, batch.owner, url).await?;
        }
        ledgers::say(&mut tx, &batch, &[Event::Created], new.created_at).await?;
        let of_owner = format!("owner:{}", batch.owner_name);
        let actor = if new.actor.is_empty() { &of_owner } else { &new.actor };
        ledgers::audit(&mut tx, new.created_at, actor, "batch.create", &batch, None).await?;
        tx.commit().await?;
        Ok(Created::New(batch))
    }

    async fn batch(&self, id: BatchId, owner: Option<OwnerSeq>) -> StoreResult<Option<Batch>> {
        let statement = sql(
            "batch_get_by_id",
            "SELECT {batch_columns} FROM batches b JOIN owners o ON o.seq = b.owner \
             WHERE b.id = $1 AND ($2 IS NULL OR b.owner = $2)",
        );
        let row = self.db.fetch_optional(statement.bind(id).bind(owner)).await?;
        row.as_ref().map(ledgers::batch).transpose()
    }

    async fn batches_by_seq(&self, seqs: &[BatchSeq]) -> StoreResult<Vec<Batch>> {
        let statement = sql(
            "batch_get_many",
            "SELECT {batch_columns} FROM batches b JOIN owners o ON o.seq = b.owner WHERE b.seq {in $1} ORDER BY b.seq",
        );
        let rows = self.db.fetch(statement.bind(list(seqs.iter().map(|seq| seq.0)))).await?;
        rows.iter().map(ledgers::batch).collect()
    }

    async fn list_batches(&self, filter: &BatchFilter) -> StoreResult<BatchPage> {
        let mut tx = self.db.begin("list_batches", Kind::Read).await?;
        let (floor, more) = window(&mut tx, filter).await?;
        let statement = sql(
            "batch_list",
            "SELECT {batch_columns} FROM batches b JOIN owners o ON o.seq = b.owner WHERE true",
        );
        // One more than the page may have tells whether another page follows.
        let statement =
            filtered(statement, filter, floor).push_bind(" ORDER BY b.seq DESC LIMIT $?", filter.limit + 1);
        let rows = tx.fetch(statement).await?;
        let mut batches: Vec<Batch> = rows.iter().map(ledgers::batch).collect::<StoreResult<_>>()?;
        let full = batches.len() > filter.limit as usize;
        batches.truncate(filter.limit as usize);
        let last = batches.last().map(|batch| batch.seq);
        let next = if full { last } else { floor.filter(|_| more) };
        Ok(BatchPage { batches, next })
    }

    async fn running_batches(&self, owner: OwnerSeq, limit: u32) -> StoreResult<Vec<Batch>> {
        // The state is a constant: an index over running batches alone is not used for one that is bound.
        let statement = sql(
            "batch_list_running_of_owner",
            "SELECT {batch_columns} FROM batches b JOIN owners o ON o.seq = b.owner \
             WHERE b.owner = $1 AND b.status = {batch queued} ORDER BY b.priority DESC, b.served_at DESC LIMIT $2",
        );
        let rows = self.db.fetch(statement.bind(owner).bind(limit)).await?;
        rows.iter().map(ledgers::batch).collect()
    }

    async fn kept(&self, owner: OwnerSeq) -> StoreResult<Kept> {
        let statement = sql(
            "batch_count_kept",
            "SELECT count(*) AS batches, CAST(coalesce(sum(file_bytes), 0) AS BIGINT) AS bytes FROM batches \
             WHERE owner = $1 AND erased_at IS NULL",
        );
        let row = self.db.fetch_one(statement.bind(owner)).await?;
        let c = row.of("batches");
        Ok(Kept { batches: c.u64("batches")?, bytes: c.u64("bytes")? })
    }

    async fn sealed_key(&self, batch: BatchSeq) -> StoreResult<Option<StoredKey>> {
        let statement = sql(
            "batch_key_get",
            "SELECT k.epoch, k.key_id, k.wrapped, k.context, k.header, e.sealed AS epoch_key \
             FROM batch_keys k LEFT JOIN epochs e ON e.id = k.epoch WHERE k.batch = $1",
        );
        let Some(row) = self.db.fetch_optional(statement.bind(batch)).await? else { return Ok(None) };
        let c = row.of("batch_keys");
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
        let statement = sql("batch_key_get_failure", "SELECT failure FROM batch_keys WHERE batch = $1");
        let row = self.db.fetch_optional(statement.bind(batch)).await?;
        row.map_or(Ok(None), |row| row.of("batch_keys").opt_bytes("failure"))
    }

    async fn create_upload(&self, upload: &PendingUpload) -> StoreResult<()> {
        let statement = sql(
            "upload_insert",
            "INSERT INTO uploads (id, owner, object_key, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)",
        );
        let statement = statement
            .bind(upload.id)
            .bind(upload.owner)
            .bind(&upload.object_key)
            .bind(upload.created_at)
            .bind(upload.expires_at);
        self.db.execute(statement).await.map(|_| ())
    }

    async fn upload(&self, id: Uuid, owner: OwnerSeq) -> StoreResult<Option<PendingUpload>> {
        let statement = sql(
            "upload_get",
            "SELECT id, owner, object_key, created_at, expires_at, batch FROM uploads WHERE id = $1 AND owner = $2",
        );
        let row = self.db.fetch_optional(statement.bind(id).bind(owner)).await?;
        row.as_ref().map(pending_upload).transpose()
    }

    async fn uploads_of(&self, batch: BatchSeq) -> StoreResult<Vec<PendingUpload>> {
        let statement = sql(
            "upload_list_of_batch",
            "SELECT id, owner, object_key, created_at, expires_at, batch FROM uploads WHERE batch = $1",
        );
        self.db.fetch(statement.bind(batch)).await?.iter().map(pending_upload).collect()
    }
}

impl SqlStore {
    /// The batch behind an `Idempotency-Key` that was used before.
    async fn existing(&self, owner: OwnerSeq, key: &str) -> StoreResult<Created> {
        let known = self.idempotent(owner, key).await?;
        let (batch, idempotency) =
            known.ok_or(StoreError::NotFound { what: "the batch of this Idempotency-Key" })?;
        Ok(Created::Existing { batch, idempotency })
    }
}

async fn insert_batch(tx: &mut Tx, new: &NewBatch) -> StoreResult<BatchSeq> {
    let ledger = Ledger::new(new.rows, new.allow_failures, new.canary);
    let statement = sql(
        "batch_insert",
        "INSERT INTO batches (id, owner, pipeline, version, name, labels, object_key, \
         file_bytes, unsealed, callback_url, priority, created_at, status, allow_failures, paused, held, \
         canary_rows, canary_max_failure_bp, canary_stop_after, canary_passed, total, pending, queued, processing, \
         completed, failed, cancelled, run, extracted, next_number, release_end, failure_said_run, progress_said, \
         revision, checkpoint_offset, checkpoint_line, checkpoint_rows) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, \
         $10, $11, $12, {batch pending}, $13, false, false, $14, $15, $16, $17, $18, $19, 0, 0, 0, 0, 0, 1, false, 1, 1, 0, 0, \
         1, $20, $21, $22) RETURNING seq",
    );
    let statement = statement
        .bind(new.id)
        .bind(new.owner)
        .bind(&new.pipeline)
        .bind(new.version)
        .bind(&new.name)
        .bind(ledgers::kept_labels(&new.labels))
        .bind(&new.object_key)
        .bind(new.file_bytes)
        .bind(new.unsealed)
        .bind(&new.callback_url)
        .bind(new.priority)
        .bind(new.created_at)
        .bind(new.allow_failures)
        .bind(new.canary.map(|canary| canary.rows))
        .bind(new.canary.map(|canary| canary.max_failure_bp))
        .bind(new.canary.and_then(|canary| canary.stop_after))
        .bind(ledger.canary_passed)
        .bind(ledger.counts.total)
        .bind(ledger.counts.pending)
        .bind(new.checkpoint.offset)
        .bind(new.checkpoint.line)
        .bind(new.checkpoint.rows);
    Ok(BatchSeq(tx.fetch_one(statement).await?.of("batches").i64("seq")?))
}

async fn insert_key(tx: &mut Tx, seq: BatchSeq, key: &SealedKey) -> StoreResult<()> {
    let statement = sql(
        "batch_key_insert_if_epoch",
        "INSERT INTO batch_keys (batch, epoch, key_id, wrapped, context, header) SELECT $1, $2, $3, $4, $5, $6 \
         WHERE EXISTS (SELECT 1 FROM epochs WHERE id = $2 {share})",
    );
    let statement = statement
        .bind(seq)
        .bind(key.epoch)
        .bind(&key.key_id)
        .bind(&key.wrapped)
        .bind(&key.context)
        .bind(&key.header);
    if tx.execute(statement).await? == 1 { Ok(()) } else { Err(StoreError::EpochDropped) }
}

/// False when the key was used before. Another request with it may be about to commit: this waits for it, and yields.
async fn insert_promise(
    tx: &mut Tx,
    owner: OwnerSeq,
    seq: BatchSeq,
    promise: &Idempotency,
) -> StoreResult<bool> {
    let statement = sql(
        "idempotency_insert_if_new",
        "INSERT INTO idempotency (owner, key, key_id, fingerprint, batch) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT DO NOTHING",
    );
    let statement =
        statement.bind(owner).bind(&promise.key).bind(&promise.key_id).bind(&promise.fingerprint).bind(seq);
    Ok(tx.execute(statement).await? == 1)
}

async fn use_upload(tx: &mut Tx, upload: Uuid, owner: OwnerSeq, seq: BatchSeq) -> StoreResult<()> {
    let statement = sql(
        "upload_set_batch_if_unused",
        "UPDATE uploads SET batch = $1 WHERE id = $2 AND owner = $3 AND batch IS NULL",
    );
    let used = tx.execute(statement.bind(seq).bind(upload).bind(owner)).await?;
    if used == 1 { Ok(()) } else { Err(StoreError::NotFound { what: "this upload, unused," }) }
}

pub(crate) fn pending_upload(row: &Row) -> StoreResult<PendingUpload> {
    let c = row.of("uploads");
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
fn ranged<'a>(mut statement: Statement<'a>, filter: &BatchFilter) -> Statement<'a> {
    if let Some(owner) = filter.owner {
        statement = statement.push_bind(" AND b.owner = $?", owner);
    }
    if let Some(before) = filter.before {
        statement = statement.push_bind(" AND b.seq < $?", before);
    }
    statement
}

fn filtered<'a>(statement: Statement<'a>, filter: &'a BatchFilter, floor: Option<BatchSeq>) -> Statement<'a> {
    let mut statement = ranged(statement, filter);
    if let Some(floor) = floor {
        statement = statement.push_bind(" AND b.seq >= $?", floor);
    }
    if !filter.status.is_empty() {
        let codes = list(filter.status.iter().map(|status| status.code()));
        statement = statement.push_bind(" AND b.status {in $?}", codes);
    }
    if !filter.outcome.is_empty() {
        let codes = list(filter.outcome.iter().map(|outcome| outcome.code()));
        statement = statement.push_bind(" AND b.outcome {in $?}", codes);
    }
    if let Some(text) = &filter.search {
        statement = statement
            .push_bind(" AND (lower(b.name) LIKE lower($?)", anywhere(text))
            .push_bind(" ESCAPE '!' OR lower(b.labels) LIKE lower($?)", anywhere(text))
            .push(" ESCAPE '!')");
    }
    for label in &filter.labels {
        let whole = ledgers::kept_labels(std::slice::from_ref(label));
        // Not LIKE: for SQLite that would not distinguish the case of letters.
        statement = statement.push_bind(" AND replace(b.labels, $?, '') <> b.labels", whole);
    }
    if !filter.pipelines.is_empty() {
        statement = statement.push_bind(" AND b.pipeline {in $?}", filter.pipelines.as_slice());
    }
    if let Some(from) = filter.created_from {
        statement = statement.push_bind(" AND b.created_at >= $?", from);
    }
    if let Some(to) = filter.created_to {
        statement = statement.push_bind(" AND b.created_at < $?", to);
    }
    statement
}

/// A pattern for LIKE that matches that text anywhere.
fn anywhere(text: &str) -> String {
    let mut pattern = String::from("%");
    for c in text.chars() {
        if matches!(c, '%' | '_' | '!') {
            pattern.push('!');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

/// The last batch that a page looks at, and whether others follow it; none when it may look at all of them.
async fn window(tx: &mut Tx, filter: &BatchFilter) -> StoreResult<(Option<BatchSeq>, bool)> {
    let Some(looked_at) = filter.looked_at.filter(|_| filter.is_narrow()) else { return Ok((None, false)) };
    let statement = sql(
        "batch_get_floor",
        "SELECT min(seq) AS floor, count(*) AS batches FROM (SELECT b.seq AS seq FROM batches b WHERE true",
    );
    let statement =
        ranged(statement, filter).push_bind(" ORDER BY b.seq DESC LIMIT $?", looked_at).push(") AS w");
    let row = tx.fetch_one(statement).await?;
    let c = row.of("batches");
    Ok((c.opt_i64("floor")?.map(BatchSeq), c.u32("batches")? >= looked_at))
}
