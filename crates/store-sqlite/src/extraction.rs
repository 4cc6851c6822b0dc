//! Extraction: the lease, chunks with their checkpoint, and the end.

use async_trait::async_trait;
use penstock_domain::batch::BatchStatus;
use penstock_domain::row::RowStatus;
use penstock_domain::time::Timestamp;
use penstock_store::batches::{Batch, Checkpoint};
use penstock_store::decode::Columns as _;
use penstock_store::extraction::{Extraction, ExtractionFailure, ExtractionLease, Leased, NewRow};
use penstock_store::{StoreError, StoreResult};
use sqlx::QueryBuilder;

use crate::convert::Columns;
use crate::error::store_error;
use crate::{Connection, SqliteStore, commit, ledgers};

/// Rows of one INSERT: SQLite takes 32,766 values a statement, and planning costs more than it saves beyond this.
const ROWS_PER_INSERT: usize = 500;

#[async_trait]
impl Extraction for SqliteStore {
    async fn lease_extraction(
        &self,
        lease: &ExtractionLease,
        revive: bool,
        now: Timestamp,
    ) -> StoreResult<Leased> {
        const NAME: &str = "lease_extraction";
        let mut tx = self.write(NAME).await?;
        let Some(mut batch) = ledgers::read(&mut tx, lease.batch, NAME).await? else {
            return Err(StoreError::NotFound { what: "this batch" });
        };
        let held = sqlx::query("SELECT extract_holder, extract_until FROM batches WHERE seq = ?")
            .bind(lease.batch.0)
            .fetch_one(&mut *tx)
            .await
            .map_err(store_error(NAME))?;
        let c = Columns::of("batches", &held);
        if let (Some(holder), Some(until)) = (c.opt_text("extract_holder")?, c.opt_time("extract_until")?)
            && until > now
            && holder != lease.holder
        {
            return Ok(Leased::Held { holder, until });
        }
        let read_revision = batch.ledger.revision;
        match batch.ledger.status {
            BatchStatus::Pending | BatchStatus::Processing => {}
            BatchStatus::Failed if revive && !batch.ledger.extracted && batch.erased_at.is_none() => {
                batch.ledger.extraction_revived();
                batch.failure = None;
            }
            _ => return Ok(Leased::NotExtractable(Box::new(batch))),
        }
        batch.ledger.extraction_started(now);
        sqlx::query(
            "/* penstock:lease_extraction */ UPDATE batches SET extract_token = ?, extract_holder = ?, \
             extract_until = ?, failure = ? WHERE seq = ?",
        )
        .bind(lease.token.0.to_string())
        .bind(&lease.holder)
        .bind(lease.until.millis())
        .bind(&batch.failure)
        .bind(lease.batch.0)
        .execute(&mut *tx)
        .await
        .map_err(store_error(NAME))?;
        ledgers::write(&mut tx, &batch, read_revision, &[], now, NAME).await?;
        commit(tx, NAME).await?;
        Ok(Leased::Yours(Box::new(batch)))
    }

    async fn renew_extraction(&self, lease: &ExtractionLease) -> StoreResult<()> {
        let done = sqlx::query(
            "/* penstock:renew_extraction */ UPDATE batches SET extract_until = ? WHERE seq = ? AND extract_token = ?",
        )
        .bind(lease.until.millis())
        .bind(lease.batch.0)
        .bind(lease.token.0.to_string())
        .execute(&self.writer)
        .await
        .map_err(store_error("renew_extraction"))?;
        if done.rows_affected() == 1 { Ok(()) } else { Err(StoreError::LeaseLost) }
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
        const NAME: &str = "describe_file";
        let mut tx = self.write(NAME).await?;
        let mut batch = leased(&mut tx, lease, NAME).await?;
        let read_revision = batch.ledger.revision;
        batch.ledger.counted(rows);
        sqlx::query(
            "/* penstock:describe_file */ UPDATE batches SET object_key = ?, file_bytes = ?, unsealed = 0, \
             checkpoint_offset = ?, checkpoint_line = ?, checkpoint_rows = ?, extract_until = ? WHERE seq = ?",
        )
        .bind(object_key)
        .bind(i64::try_from(file_bytes).unwrap_or(i64::MAX))
        .bind(i64::try_from(start.offset).unwrap_or(i64::MAX))
        .bind(i64::try_from(start.line).unwrap_or(i64::MAX))
        .bind(start.rows)
        .bind(lease.until.millis())
        .bind(lease.batch.0)
        .execute(&mut *tx)
        .await
        .map_err(store_error(NAME))?;
        sqlx::query("UPDATE batch_keys SET header = ? WHERE batch = ?")
            .bind(header)
            .bind(lease.batch.0)
            .execute(&mut *tx)
            .await
            .map_err(store_error(NAME))?;
        ledgers::write(&mut tx, &batch, read_revision, &[], lease.until, NAME).await?;
        commit(tx, NAME).await
    }

    async fn commit_chunk(
        &self,
        lease: &ExtractionLease,
        rows: &[NewRow],
        from: Checkpoint,
        to: Checkpoint,
        now: Timestamp,
    ) -> StoreResult<()> {
        const NAME: &str = "commit_chunk";
        let mut tx = self.write(NAME).await?;
        let done = sqlx::query(
            "/* penstock:commit_chunk */ UPDATE batches SET checkpoint_offset = ?, checkpoint_line = ?, \
             checkpoint_rows = ?, extract_until = ? WHERE seq = ? AND extract_token = ? AND checkpoint_offset = ? AND erased_at IS NULL",
        )
        .bind(i64::try_from(to.offset).unwrap_or(i64::MAX))
        .bind(i64::try_from(to.line).unwrap_or(i64::MAX))
        .bind(to.rows)
        .bind(lease.until.millis())
        .bind(lease.batch.0)
        .bind(lease.token.0.to_string())
        .bind(i64::try_from(from.offset).unwrap_or(i64::MAX))
        .execute(&mut *tx)
        .await
        .map_err(store_error(NAME))?;
        if done.rows_affected() != 1 {
            return Err(StoreError::LeaseLost);
        }
        for group in rows.chunks(ROWS_PER_INSERT) {
            let mut insert = QueryBuilder::new("INSERT INTO row_data (batch, number, line, payload) ");
            insert.push_values(group, |mut values, row| {
                values
                    .push_bind(lease.batch.0)
                    .push_bind(row.number)
                    .push_bind(row.line)
                    .push_bind(row.payload.as_slice());
            });
            insert.build().execute(&mut *tx).await.map_err(store_error(NAME))?;
        }
        let rejected: Vec<&NewRow> = rows.iter().filter(|row| row.rejected.is_some()).collect();
        if !rejected.is_empty() {
            reject(&mut tx, lease, &rejected, now, NAME).await?;
        }
        commit(tx, NAME).await
    }

    async fn finish_extraction(
        &self,
        lease: &ExtractionLease,
        rows: u32,
        now: Timestamp,
    ) -> StoreResult<Batch> {
        const NAME: &str = "finish_extraction";
        let mut tx = self.write(NAME).await?;
        let mut batch = leased(&mut tx, lease, NAME).await?;
        let read_revision = batch.ledger.revision;
        let events = batch.ledger.extraction_finished(rows, now);
        end_lease(&mut tx, lease, None, NAME).await?;
        ledgers::write(&mut tx, &batch, read_revision, &events, now, NAME).await?;
        commit(tx, NAME).await?;
        Ok(batch)
    }

    async fn fail_extraction(
        &self,
        lease: &ExtractionLease,
        failure: &ExtractionFailure,
        now: Timestamp,
    ) -> StoreResult<Batch> {
        const NAME: &str = "fail_extraction";
        let mut tx = self.write(NAME).await?;
        let mut batch = leased(&mut tx, lease, NAME).await?;
        let read_revision = batch.ledger.revision;
        let (events, clear) = if batch.erased_at.is_some() {
            (batch.ledger.extraction_abandoned(now), None)
        } else {
            (batch.ledger.extraction_failed(now), Some(failure.clear.as_str()))
        };
        batch.failure = clear.map(str::to_owned);
        end_lease(&mut tx, lease, clear, NAME).await?;
        // An erased batch has no such record any more.
        sqlx::query("UPDATE batch_keys SET failure = ? WHERE batch = ?")
            .bind(&failure.sealed)
            .bind(lease.batch.0)
            .execute(&mut *tx)
            .await
            .map_err(store_error(NAME))?;
        ledgers::write(&mut tx, &batch, read_revision, &events, now, NAME).await?;
        commit(tx, NAME).await?;
        Ok(batch)
    }

    async fn release_extraction(&self, lease: &ExtractionLease) -> StoreResult<()> {
        sqlx::query(
            "/* penstock:release_extraction */ UPDATE batches SET extract_token = NULL, extract_holder = NULL, \
             extract_until = NULL WHERE seq = ? AND extract_token = ?",
        )
        .bind(lease.batch.0)
        .bind(lease.token.0.to_string())
        .execute(&self.writer)
        .await
        .map_err(store_error("release_extraction"))?;
        Ok(())
    }
}

/// The batch, if its extraction lease is this one.
async fn leased(tx: &mut Connection, lease: &ExtractionLease, name: &'static str) -> StoreResult<Batch> {
    let token: Option<String> = sqlx::query_scalar("SELECT extract_token FROM batches WHERE seq = ?")
        .bind(lease.batch.0)
        .fetch_optional(&mut *tx)
        .await
        .map_err(store_error(name))?
        .flatten();
    if token.as_deref() != Some(lease.token.0.to_string().as_str()) {
        return Err(StoreError::LeaseLost);
    }
    ledgers::read(tx, lease.batch, name).await?.ok_or(StoreError::NotFound { what: "this batch" })
}

async fn end_lease(
    tx: &mut Connection,
    lease: &ExtractionLease,
    failure: Option<&str>,
    name: &'static str,
) -> StoreResult<()> {
    sqlx::query(
        "UPDATE batches SET extract_token = NULL, extract_holder = NULL, extract_until = NULL, failure = ? WHERE seq = ?",
    )
    .bind(failure)
    .bind(lease.batch.0)
    .execute(tx)
    .await
    .map_err(store_error(name))?;
    Ok(())
}

/// Rows that cannot be processed are failed from the start.
async fn reject(
    tx: &mut Connection,
    lease: &ExtractionLease,
    rows: &[&NewRow],
    now: Timestamp,
    name: &'static str,
) -> StoreResult<()> {
    for row in rows {
        let Some((code, error)) = &row.rejected else { continue };
        sqlx::query("INSERT INTO row_state (batch, number, status, code, has_output) VALUES (?, ?, ?, ?, 1)")
            .bind(lease.batch.0)
            .bind(row.number)
            .bind(RowStatus::Failed.code())
            .bind(code)
            .execute(&mut *tx)
            .await
            .map_err(store_error(name))?;
        sqlx::query("INSERT INTO row_output (batch, number, error) VALUES (?, ?, ?)")
            .bind(lease.batch.0)
            .bind(row.number)
            .bind(error)
            .execute(&mut *tx)
            .await
            .map_err(store_error(name))?;
    }
    let mut batch =
        ledgers::read(tx, lease.batch, name).await?.ok_or(StoreError::NotFound { what: "this batch" })?;
    let read_revision = batch.ledger.revision;
    let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
    let events = batch.ledger.extraction_rejected(count, now);
    if !batch.ledger.allow_failures && batch.failure_row.is_none() {
        batch.failure_row = rows.first().map(|row| row.number);
    }
    ledgers::write(tx, &batch, read_revision, &events, now, name).await
}
