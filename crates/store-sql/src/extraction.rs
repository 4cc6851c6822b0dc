//! Extraction: the lease, chunks with their checkpoint, and the end.

use async_trait::async_trait;
use penstock_domain::batch::BatchStatus;
use penstock_domain::time::Timestamp;
use penstock_store::batches::{Batch, Checkpoint};
use penstock_store::extraction::{Extraction, ExtractionFailure, ExtractionLease, Leased, NewRow};
use penstock_store::{StoreError, StoreResult};

use crate::work::count;
use crate::{Group, SqlStore, Tx, ledgers, sql};

#[async_trait]
impl Extraction for SqlStore {
    async fn lease_extraction(
        &self,
        lease: &ExtractionLease,
        revive: bool,
        now: Timestamp,
    ) -> StoreResult<Leased> {
        let mut tx = self.db.write("lease_extraction").await?;
        let mut batch = ledgers::find(&mut tx, lease.batch).await?;
        let held =
            sql("batch_get_extraction", "SELECT extract_holder, extract_until FROM batches WHERE seq = $1");
        let held = tx.fetch_one(held.bind(lease.batch)).await?;
        let c = held.of("batches");
        if let (Some(holder), Some(until)) = (c.opt_text("extract_holder")?, c.opt_time("extract_until")?)
            && until > now
            && holder != lease.holder
        {
            return Ok(Leased::Held { holder, until });
        }
        let read_revision = batch.ledger.revision;
        let mut ended = None;
        match batch.ledger.status {
            BatchStatus::Pending | BatchStatus::Processing => {}
            BatchStatus::Failed if revive && !batch.ledger.extracted && batch.erased_at.is_none() => {
                ended = batch.ledger.finished_at.zip(batch.ledger.outcome);
                batch.ledger.extraction_revived();
                batch.failure = None;
            }
            _ => return Ok(Leased::NotExtractable(Box::new(batch))),
        }
        batch.ledger.extraction_started(now);
        let statement = sql(
            "batch_lease_extraction",
            "UPDATE batches SET extract_token = $1, extract_holder = $2, extract_until = $3, failure = $4 WHERE seq = $5",
        );
        let statement = statement
            .bind(lease.token)
            .bind(&lease.holder)
            .bind(lease.until)
            .bind(&batch.failure)
            .bind(lease.batch);
        tx.execute(statement).await?;
        ledgers::write(&mut tx, &batch, read_revision, &[], now).await?;
        if let Some((at, outcome)) = ended {
            ledgers::run_ended(&mut tx, &batch, at, outcome).await?;
        }
        tx.commit().await?;
        Ok(Leased::Yours(Box::new(batch)))
    }

    async fn renew_extraction(&self, lease: &ExtractionLease) -> StoreResult<()> {
        let statement = sql(
            "batch_renew_extraction_if_leased",
            "UPDATE batches SET extract_until = $1 WHERE seq = $2 AND extract_token = $3",
        );
        let renewed =
            self.db.execute(statement.bind(lease.until).bind(lease.batch).bind(lease.token)).await?;
        if renewed == 1 { Ok(()) } else { Err(StoreError::LeaseLost) }
    }

    async fn describe_file(
        &self,
        lease: &ExtractionLease,
        header: &[u8],
        rows: u32,
        object_key: &str,
        file_bytes: u64,
        start: Checkpoint,
    ) -> StoreResult<()> {
        let mut tx = self.db.write("describe_file").await?;
        let mut batch = leased(&mut tx, lease).await?;
        let read_revision = batch.ledger.revision;
        batch.ledger.counted(rows);
        let statement = sql(
            "batch_set_file",
            "UPDATE batches SET object_key = $1, file_bytes = $2, unsealed = false, checkpoint_offset = $3, \
             checkpoint_line = $4, checkpoint_rows = $5, extract_until = $6 WHERE seq = $7",
        );
        let statement = statement
            .bind(object_key)
            .bind(file_bytes)
            .bind(start.offset)
            .bind(start.line)
            .bind(start.rows)
            .bind(lease.until)
            .bind(lease.batch);
        tx.execute(statement).await?;
        let statement = sql("batch_key_set_header", "UPDATE batch_keys SET header = $1 WHERE batch = $2");
        tx.execute(statement.bind(header).bind(lease.batch)).await?;
        ledgers::write(&mut tx, &batch, read_revision, &[], lease.until).await?;
        tx.commit().await
    }

    async fn commit_chunk(
        &self,
        lease: &ExtractionLease,
        rows: &[NewRow],
        from: Checkpoint,
        to: Checkpoint,
        now: Timestamp,
    ) -> StoreResult<()> {
        let mut tx = self.db.write("commit_chunk").await?;
        let statement = sql(
            "batch_set_checkpoint_if_leased",
            "UPDATE batches SET checkpoint_offset = $1, checkpoint_line = $2, checkpoint_rows = $3, extract_until = $4 \
             WHERE seq = $5 AND extract_token = $6 AND checkpoint_offset = $7 AND erased_at IS NULL",
        );
        let statement = statement
            .bind(to.offset)
            .bind(to.line)
            .bind(to.rows)
            .bind(lease.until)
            .bind(lease.batch)
            .bind(lease.token)
            .bind(from.offset);
        if tx.execute(statement).await? != 1 {
            return Err(StoreError::LeaseLost);
        }
        tx.store_rows(lease.batch, rows).await?;
        let rejected: Vec<&NewRow> = rows.iter().filter(|row| row.rejected.is_some()).collect();
        if !rejected.is_empty() {
            reject(&mut tx, lease, &rejected, now).await?;
        }
        tx.commit().await
    }

    async fn finish_extraction(
        &self,
        lease: &ExtractionLease,
        rows: u32,
        now: Timestamp,
    ) -> StoreResult<Batch> {
        let mut tx = self.db.write("finish_extraction").await?;
        let mut batch = leased(&mut tx, lease).await?;
        let read_revision = batch.ledger.revision;
        let events = batch.ledger.extraction_finished(rows, now);
        end_lease(&mut tx, lease, None).await?;
        ledgers::write(&mut tx, &batch, read_revision, &events, now).await?;
        let (by, count) = (ledgers::BY_ITSELF, Some(rows.to_string()));
        ledgers::audit(&mut tx, now, by, "batch.extracted", &batch, count).await?;
        tx.commit().await?;
        Ok(batch)
    }

    async fn fail_extraction(
        &self,
        lease: &ExtractionLease,
        failure: &ExtractionFailure,
        now: Timestamp,
    ) -> StoreResult<Batch> {
        let mut tx = self.db.write("fail_extraction").await?;
        let mut batch = leased(&mut tx, lease).await?;
        let read_revision = batch.ledger.revision;
        let (events, clear) = if batch.erased_at.is_some() {
            (batch.ledger.extraction_abandoned(now), None)
        } else {
            (batch.ledger.extraction_failed(now), Some(failure.clear.as_str()))
        };
        batch.failure = clear.map(str::to_owned);
        end_lease(&mut tx, lease, clear).await?;
        // An erased batch has no such record any more.
        let statement = sql("batch_key_set_failure", "UPDATE batch_keys SET failure = $1 WHERE batch = $2");
        tx.execute(statement.bind(&failure.sealed).bind(lease.batch)).await?;
        ledgers::write(&mut tx, &batch, read_revision, &events, now).await?;
        tx.commit().await?;
        Ok(batch)
    }

    async fn release_extraction(&self, lease: &ExtractionLease) -> StoreResult<()> {
        let statement = sql(
            "batch_release_extraction_if_leased",
            "UPDATE batches SET extract_token = NULL, extract_holder = NULL, extract_until = NULL \
             WHERE seq = $1 AND extract_token = $2",
        );
        self.db.execute(statement.bind(lease.batch).bind(lease.token)).await.map(|_| ())
    }
}

/// The batch, if its extraction lease is this one.
async fn leased(tx: &mut Tx, lease: &ExtractionLease) -> StoreResult<Batch> {
    let statement = sql(
        "batch_get_extraction_locked",
        "SELECT seq, extract_token FROM batches WHERE seq = $1 {lock batches}",
    );
    let held = tx.fetch_optional(statement.bind(lease.batch)).await?.ok_or(StoreError::LeaseLost)?;
    if held.of("batches").opt_uuid("extract_token")? != Some(lease.token.0) {
        return Err(StoreError::LeaseLost);
    }
    ledgers::find(tx, lease.batch).await
}

async fn end_lease(tx: &mut Tx, lease: &ExtractionLease, failure: Option<&str>) -> StoreResult<()> {
    let statement = sql(
        "batch_end_extraction",
        "UPDATE batches SET extract_token = NULL, extract_holder = NULL, extract_until = NULL, failure = $1 WHERE seq = $2",
    );
    tx.execute(statement.bind(failure).bind(lease.batch)).await.map(|_| ())
}

/// Rows that cannot be processed are failed from the start.
async fn reject(tx: &mut Tx, lease: &ExtractionLease, rows: &[&NewRow], now: Timestamp) -> StoreResult<()> {
    let rejected = || rows.iter().filter_map(|row| Some((row.number, row.rejected.as_ref()?)));
    let states = sql(
        "row_insert_failed",
        "WITH j(number, code) AS ({rows}) INSERT INTO row_state (batch, number, status, code, has_output) \
         SELECT $1, number, {row failed}, code, true FROM j",
    );
    let group = Group::of_rows(rejected().map(|(number, (code, _))| [number.into(), code.as_str().into()]));
    tx.execute(states.bind(lease.batch).rows(group)).await?;
    let errors = sql(
        "row_output_insert_error",
        "WITH j(number, error) AS ({rows}) INSERT INTO row_output (batch, number, error) SELECT $1, number, error FROM j",
    );
    let group = Group::of_rows(rejected().map(|(number, (_, error))| [number.into(), error.into()]));
    tx.execute(errors.bind(lease.batch).rows(group)).await?;
    let mut batch = ledgers::find(tx, lease.batch).await?;
    let read_revision = batch.ledger.revision;
    let events = batch.ledger.extraction_rejected(count(rows.len()), now);
    if !batch.ledger.allow_failures && batch.failure_row.is_none() {
        batch.failure_row = rows.first().map(|row| row.number);
    }
    ledgers::write(tx, &batch, read_revision, &events, now).await
}
