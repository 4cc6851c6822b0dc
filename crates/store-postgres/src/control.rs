//! What people ask of a batch.

use async_trait::async_trait;
use penstock_domain::ids::BatchSeq;
use penstock_domain::ledger::{Event, Ledger, Refusal, RetryScope};
use penstock_domain::time::Timestamp;
use penstock_store::batches::Batch;
use penstock_store::control::{Control, DefinitionChange, RetrySelection};
use penstock_store::{StoreError, StoreResult};

use crate::convert::ints;
use crate::error::store_error;
use crate::sealing::replace_key;
use crate::{Connection, PostgresStore, commit, ledgers};

/// Rows that are erased in one transaction.
const ERASE_STEP: u32 = 10_000;

/// Cancelled rows run again: their time begins anew, too.
const AGAIN: &str = "status = 0, queued_until = NULL, first_claimed_at = NULL, expires_at = NULL, expires_as = NULL \
     WHERE status = 5";

/// The same in a batch that was cancelled as a whole.
const AGAIN_ALL: &str = "status = 0, queued_until = NULL, first_claimed_at = NULL, expires_at = NULL, expires_as = NULL \
     WHERE status IN (0, 1, 5)";

impl PostgresStore {
    /// A command that touches nothing but the batch.
    async fn command(
        &self,
        seq: BatchSeq,
        actor: &str,
        now: Timestamp,
        name: &'static str,
        action: &str,
        decide: impl FnOnce(&mut Ledger) -> Result<Vec<Event>, Refusal> + Send,
    ) -> StoreResult<Batch> {
        let mut tx = self.write(name).await?;
        let mut batch =
            ledgers::read(&mut tx, seq, name).await?.ok_or(StoreError::NotFound { what: "this batch" })?;
        let read_revision = batch.ledger.revision;
        let events = decide(&mut batch.ledger)?;
        if batch.ledger.revision != read_revision {
            ledgers::write(&mut tx, &batch, read_revision, &events, now, name).await?;
            ledgers::audit(&mut tx, now, actor, action, &batch, None, name).await?;
        }
        commit(tx, name).await?;
        Ok(batch)
    }
}

#[async_trait]
impl Control for PostgresStore {
    async fn cancel(&self, batch: BatchSeq, actor: &str, now: Timestamp) -> StoreResult<Batch> {
        self.command(batch, actor, now, "cancel", "batch.cancel", |ledger| ledger.cancel(now)).await
    }

    async fn pause(&self, batch: BatchSeq, actor: &str, now: Timestamp) -> StoreResult<Batch> {
        self.command(batch, actor, now, "pause", "batch.pause", |ledger| ledger.pause().map(|()| Vec::new()))
            .await
    }

    async fn resume(&self, batch: BatchSeq, actor: &str, now: Timestamp) -> StoreResult<Batch> {
        self.command(batch, actor, now, "resume", "batch.resume", |ledger| {
            ledger.resume().map(|()| Vec::new())
        })
        .await
    }

    async fn retry(
        &self,
        seq: BatchSeq,
        selection: &RetrySelection,
        actor: &str,
        now: Timestamp,
    ) -> StoreResult<(Batch, u32)> {
        const NAME: &str = "retry";
        let mut tx = self.long(NAME).await?;
        let mut batch =
            ledgers::read(&mut tx, seq, NAME).await?.ok_or(StoreError::NotFound { what: "this batch" })?;
        if batch.erased_at.is_some() {
            return Err(Refusal::Erased.into());
        }
        batch.ledger.check_retry()?;
        let read_revision = batch.ledger.revision;
        if let Some(change) = &selection.definition {
            change_definition(&mut tx, &mut batch, change, NAME).await?;
        }
        let was_cancelled = batch.ledger.cancelled_at.is_some();
        // Before any failed row is pending again: rows that were pending or queued when the batch was cancelled run
        // again on request (with those that an earlier retry left out), or stay out of the new run.
        let change = match (selection.cancelled, was_cancelled) {
            (true, true) => Some(AGAIN_ALL),
            (true, false) => Some(AGAIN),
            (false, true) => Some("status = 5, queued_until = NULL WHERE status IN (0, 1)"),
            (false, false) => None,
        };
        if let Some(change) = change {
            sqlx::query(sqlx::AssertSqlSafe(format!(
                "/* penstock:retry */ UPDATE row_state SET {change} AND batch = $1"
            )))
            .bind(seq.0)
            .execute(&mut *tx)
            .await
            .map_err(store_error(NAME))?;
        }
        let failed = if selection.failed {
            sqlx::query(
                "/* penstock:retry */ UPDATE row_state SET status = 0, attempts = 0, crashes = least(crashes, 1), not_before = $2, \
                 first_claimed_at = NULL, expires_at = NULL, expires_as = NULL, code = NULL, step = NULL, http_status = NULL \
                 WHERE batch = $1 AND status = 4 \
                 AND (cardinality($3::text[]) = 0 OR code = ANY($3)) \
                 AND (cardinality($4::int4[]) = 0 OR number = ANY($4))",
            )
            .bind(seq.0)
            .bind(now.millis())
            .bind(&selection.codes)
            .bind(ints(&selection.numbers))
            .execute(&mut *tx)
            .await
            .map_err(store_error(NAME))?
            .rows_affected()
        } else {
            0
        };
        let failed = u32::try_from(failed).unwrap_or(u32::MAX);
        let scope = RetryScope { failed: selection.failed, cancelled: selection.cancelled };
        let rows = batch.ledger.retry(scope, failed);
        if rows == 0 {
            if let Some(change) = &selection.definition {
                batch.version = change.from;
            }
            return Ok((batch, 0));
        }
        batch.failure_row = None;
        let mut detail = format!("{rows} rows");
        if let Some(change) = &selection.definition {
            detail = format!("{detail}, definition {}", change.to);
        }
        ledgers::write(&mut tx, &batch, read_revision, &[], now, NAME).await?;
        ledgers::audit(&mut tx, now, actor, "batch.retry", &batch, Some(detail), NAME).await?;
        commit(tx, NAME).await?;
        Ok((batch, rows))
    }

    async fn erase(
        &self,
        seq: BatchSeq,
        ended_before: Option<Timestamp>,
        actor: &str,
        now: Timestamp,
    ) -> StoreResult<Option<Batch>> {
        const NAME: &str = "erase";
        let mut tx = self.write(NAME).await?;
        let mut batch =
            ledgers::read(&mut tx, seq, NAME).await?.ok_or(StoreError::NotFound { what: "this batch" })?;
        let ended = batch.ledger.finished_at;
        if ended_before.is_some_and(|before| ended.is_none_or(|ended| ended >= before)) {
            return Ok(None);
        }
        let read_revision = batch.ledger.revision;
        let events = if batch.ledger.is_finished() { Vec::new() } else { batch.ledger.cancel(now)? };
        // Copies of the wrapped key may lie in freed pages and logs: its epoch is to be dropped.
        sqlx::query(
            "/* penstock:erase */ UPDATE epochs SET erased = true WHERE NOT erased \
             AND id = (SELECT epoch FROM batch_keys WHERE batch = $1)",
        )
        .bind(seq.0)
        .execute(&mut *tx)
        .await
        .map_err(store_error(NAME))?;
        sqlx::query("/* penstock:erase */ DELETE FROM batch_keys WHERE batch = $1")
            .bind(seq.0)
            .execute(&mut *tx)
            .await
            .map_err(store_error(NAME))?;
        sqlx::query("INSERT INTO erasures (batch) VALUES ($1) ON CONFLICT DO NOTHING")
            .bind(seq.0)
            .execute(&mut *tx)
            .await
            .map_err(store_error(NAME))?;
        sqlx::query("UPDATE batches SET erased_at = coalesce(erased_at, $1) WHERE seq = $2")
            .bind(now.millis())
            .bind(seq.0)
            .execute(&mut *tx)
            .await
            .map_err(store_error(NAME))?;
        ledgers::write(&mut tx, &batch, read_revision, &events, now, NAME).await?;
        if batch.erased_at.is_none() {
            ledgers::audit(&mut tx, now, actor, "batch.erase", &batch, None, NAME).await?;
        }
        commit(tx, NAME).await?;
        batch.erased_at.get_or_insert(now);
        penstock_store::crash::point(penstock_store::crash::INSIDE_ERASURE);
        // The lines stay, so that every row can still be counted; what stood in them goes.
        for statement in [
            "/* penstock:erase */ UPDATE row_data SET payload = ''::bytea WHERE batch = $1 AND number BETWEEN $2 AND $3",
            "/* penstock:erase */ DELETE FROM row_output WHERE batch = $1 AND number BETWEEN $2 AND $3",
            "/* penstock:erase */ DELETE FROM row_receipts WHERE batch = $1 AND number BETWEEN $2 AND $3",
        ] {
            for first in (1..=batch.ledger.counts.total).step_by(ERASE_STEP as usize) {
                sqlx::query(statement)
                    .bind(seq.0)
                    .bind(i64::from(first))
                    .bind(i64::from(first) + i64::from(ERASE_STEP) - 1)
                    .execute(&self.pool)
                    .await
                    .map_err(store_error(NAME))?;
            }
        }
        Ok(Some(batch))
    }

    async fn finish_erasure(&self, seq: BatchSeq) -> StoreResult<bool> {
        sqlx::query("/* penstock:finish_erasure */ DELETE FROM erasures WHERE batch = $1")
            .bind(seq.0)
            .execute(&self.pool)
            .await
            .map_err(store_error("finish_erasure"))?;
        Ok(true)
    }

    async fn unfinished_erasures(&self, after: BatchSeq, limit: u32) -> StoreResult<Vec<Batch>> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "/* penstock:unfinished_erasures */ {} JOIN erasures e ON e.batch = b.seq WHERE e.batch > $1 ORDER BY e.batch LIMIT $2",
            ledgers::SELECT
        )))
        .bind(after.0)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .map_err(store_error("unfinished_erasures"))?;
        rows.iter().map(ledgers::batch).collect()
    }
}

/// Gives a batch that has ended another definition. Its data key is bound to that one; its rows stay as they are.
async fn change_definition(
    tx: &mut Connection,
    batch: &mut Batch,
    change: &DefinitionChange,
    name: &'static str,
) -> StoreResult<()> {
    if !batch.ledger.is_finished() {
        return Err(Refusal::Runs.into());
    }
    if batch.version != change.from || batch.ledger.revision != change.revision {
        return Err(Refusal::Changed.into());
    }
    sqlx::query("/* penstock:retry */ UPDATE batches SET version = $1 WHERE seq = $2")
        .bind(change.to)
        .bind(batch.seq.0)
        .execute(&mut *tx)
        .await
        .map_err(store_error(name))?;
    // Rotation may have moved the key meanwhile.
    if !replace_key(tx, batch.seq, &change.from_key, &change.to_key, name).await? {
        return Err(Refusal::Changed.into());
    }
    batch.version = change.to;
    Ok(())
}
