//! What people ask of a batch.

use async_trait::async_trait;
use penstock_domain::ids::BatchSeq;
use penstock_domain::ledger::{Event, Ledger, Refusal, RetryScope};
use penstock_domain::time::Timestamp;
use penstock_store::StoreResult;
use penstock_store::batches::Batch;
use penstock_store::control::{Control, DefinitionChange, RetrySelection};

use crate::sealing::replace_key;
use crate::{Kind, SqlStore, Statement, Tx, holds, ledgers, list, sql};

/// Rows that are erased in one transaction.
const ERASE_STEP: u32 = 10_000;

/// The lines stay, so that every row can still be counted; what stood in them goes.
const ERASE: [&str; 4] = [
    "UPDATE row_data SET payload = $4 WHERE batch = $1 AND number BETWEEN $2 AND $3",
    "DELETE FROM row_output WHERE batch = $1 AND number BETWEEN $2 AND $3",
    "DELETE FROM row_receipts WHERE batch = $1 AND number BETWEEN $2 AND $3",
    "DELETE FROM completed_keys WHERE batch = $1 AND number BETWEEN $2 AND $3",
];

impl SqlStore {
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
        let mut tx = self.db.write(name).await?;
        let mut batch = ledgers::find(&mut tx, seq).await?;
        let read_revision = batch.ledger.revision;
        let events = decide(&mut batch.ledger)?;
        if batch.ledger.revision != read_revision {
            ledgers::write(&mut tx, &batch, read_revision, &events, now).await?;
            ledgers::audit(&mut tx, now, actor, action, &batch, None).await?;
        }
        tx.commit().await?;
        Ok(batch)
    }

    /// Deletes what the rows of a batch hold, in steps.
    async fn erase_rows(&self, batch: &Batch) -> StoreResult<()> {
        let answers = sql("cached_answer_erase", "DELETE FROM cached_answers WHERE batch = $1");
        self.db.execute(answers.bind(batch.seq)).await?;
        for text in ERASE {
            for first in (1..=batch.ledger.counts.total).step_by(ERASE_STEP as usize) {
                let last = i64::from(first) + i64::from(ERASE_STEP) - 1;
                let statement =
                    sql("row_erase", text).bind(batch.seq).bind(first).bind(last).bind(b"".as_slice());
                self.db.execute(statement).await?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Control for SqlStore {
    async fn cancel(&self, batch: BatchSeq, actor: &str, now: Timestamp) -> StoreResult<Batch> {
        self.command(batch, actor, now, "cancel", "batch.cancel", |ledger| ledger.cancel(now)).await
    }

    async fn pause(&self, batch: BatchSeq, actor: &str, now: Timestamp) -> StoreResult<Batch> {
        self.command(batch, actor, now, "pause", "batch.pause", |ledger| ledger.pause().map(|()| Vec::new()))
            .await
    }

    async fn resume(&self, batch: BatchSeq, actor: &str, now: Timestamp) -> StoreResult<Batch> {
        let mut tx = self.db.begin("resume", Kind::Long).await?;
        let mut batch = ledgers::find(&mut tx, batch).await?;
        let (read_revision, hold) = (batch.ledger.revision, batch.ledger.hold.clone());
        batch.ledger.resume()?;
        if batch.ledger.revision != read_revision {
            if let Some(hold) = &hold {
                holds::end(&mut tx, batch.seq, hold, now).await?;
            }
            ledgers::write(&mut tx, &batch, read_revision, &[], now).await?;
            ledgers::audit(&mut tx, now, actor, "batch.resume", &batch, None).await?;
        }
        tx.commit().await?;
        Ok(batch)
    }

    async fn retry(
        &self,
        seq: BatchSeq,
        selection: &RetrySelection,
        actor: &str,
        now: Timestamp,
    ) -> StoreResult<(Batch, u32)> {
        let mut tx = self.db.begin("retry", Kind::Long).await?;
        let mut batch = ledgers::find(&mut tx, seq).await?;
        if batch.erased_at.is_some() {
            return Err(Refusal::Erased.into());
        }
        batch.ledger.check_retry()?;
        let read_revision = batch.ledger.revision;
        if let Some(change) = &selection.definition {
            change_definition(&mut tx, &mut batch, change).await?;
        }
        let was_cancelled = batch.ledger.cancelled_at.is_some();
        let ended = batch.ledger.finished_at.zip(batch.ledger.outcome);
        // Before any failed row is pending again.
        if let Some(change) = change_cancelled(selection.cancelled, was_cancelled) {
            tx.execute(change.bind(seq)).await?;
        }
        let failed = match selection.failed {
            true => tx.execute(retry_failed(seq, selection, now)).await?,
            false => 0,
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
        ledgers::write(&mut tx, &batch, read_revision, &[], now).await?;
        if let Some((at, outcome)) = ended {
            ledgers::run_ended(&mut tx, &batch, at, outcome).await?;
        }
        ledgers::audit(&mut tx, now, actor, "batch.retry", &batch, Some(detail)).await?;
        tx.commit().await?;
        Ok((batch, rows))
    }

    async fn erase(
        &self,
        seq: BatchSeq,
        ended_before: Option<Timestamp>,
        actor: &str,
        now: Timestamp,
    ) -> StoreResult<Option<Batch>> {
        let mut tx = self.db.write("erase").await?;
        let mut batch = ledgers::find(&mut tx, seq).await?;
        let ended = batch.ledger.finished_at;
        if ended_before.is_some_and(|before| ended.is_none_or(|ended| ended >= before)) {
            return Ok(None);
        }
        let read_revision = batch.ledger.revision;
        let events = if batch.ledger.is_finished() { Vec::new() } else { batch.ledger.cancel(now)? };
        erase_key(&mut tx, seq, now).await?;
        ledgers::write(&mut tx, &batch, read_revision, &events, now).await?;
        if batch.erased_at.is_none() {
            ledgers::audit(&mut tx, now, actor, "batch.erase", &batch, None).await?;
        }
        tx.commit().await?;
        batch.erased_at.get_or_insert(now);
        penstock_store::crash::point(penstock_store::crash::INSIDE_ERASURE);
        self.erase_rows(&batch).await?;
        Ok(Some(batch))
    }

    async fn finish_erasure(&self, seq: BatchSeq) -> StoreResult<bool> {
        if !self.db.engine().shred_erased().await? {
            return Ok(false);
        }
        let statement = sql("erasure_delete", "DELETE FROM erasures WHERE batch = $1");
        self.db.execute(statement.bind(seq)).await.map(|_| true)
    }

    async fn unfinished_erasures(&self, after: BatchSeq, limit: u32) -> StoreResult<Vec<Batch>> {
        let statement = sql(
            "batch_list_in_erasure",
            "SELECT {batch_columns} FROM batches b JOIN owners o ON o.seq = b.owner JOIN erasures e ON e.batch = b.seq \
             WHERE e.batch > $1 ORDER BY e.batch LIMIT $2",
        );
        self.db.fetch(statement.bind(after).bind(limit)).await?.iter().map(ledgers::batch).collect()
    }
}

/// Rows that were pending or queued when the batch was cancelled run again on request (with those that an earlier retry
/// left out), or stay out of the new run. The time of those that run again begins anew, too.
fn change_cancelled<'a>(run_again: bool, was_cancelled: bool) -> Option<Statement<'a>> {
    Some(match (run_again, was_cancelled) {
        (true, true) => sql(
            "row_retry_if_not_ended",
            "UPDATE row_state SET status = {row pending}, queued_until = NULL, first_claimed_at = NULL, expires_at = NULL, \
             expires_as = NULL WHERE status IN ({row pending}, {row queued}, {row cancelled}) AND batch = $1",
        ),
        (true, false) => sql(
            "row_retry_if_cancelled",
            "UPDATE row_state SET status = {row pending}, queued_until = NULL, first_claimed_at = NULL, expires_at = NULL, \
             expires_as = NULL WHERE status = {row cancelled} AND batch = $1",
        ),
        (false, true) => sql(
            "row_cancel_if_waiting",
            "UPDATE row_state SET status = {row cancelled}, queued_until = NULL \
             WHERE status IN ({row pending}, {row queued}) AND batch = $1",
        ),
        (false, false) => return None,
    })
}

fn retry_failed(seq: BatchSeq, selection: &RetrySelection, now: Timestamp) -> Statement<'_> {
    let mut statement = sql(
        "row_retry_if_failed",
        "UPDATE row_state SET status = {row pending}, attempts = 0, crashes = CASE WHEN crashes > 0 THEN 1 ELSE 0 END, \
         not_before = $2, first_claimed_at = NULL, expires_at = NULL, expires_as = NULL, code = NULL, step = NULL, \
         http_status = NULL WHERE batch = $1 AND status = {row failed}",
    )
    .bind(seq)
    .bind(now);
    if !selection.codes.is_empty() {
        statement = statement.push_bind(" AND code {in $?}", selection.codes.as_slice());
    }
    if !selection.steps.is_empty() {
        let steps = list(selection.steps.iter().flatten().copied());
        statement = statement.push_bind(" AND (step {in $?}", steps);
        statement = statement.push(if selection.steps.contains(&None) { " OR step IS NULL)" } else { ")" });
    }
    if let Some(from) = selection.from {
        statement = statement.push_bind(" AND number >= $?", from);
    }
    if let Some(to) = selection.to {
        statement = statement.push_bind(" AND number <= $?", to);
    }
    if !selection.numbers.is_empty() {
        statement = statement.push_bind(" AND number {in $?}", list(selection.numbers.iter().copied()));
    }
    statement
}

/// Deletes a batch's data key: from then on nothing of it can be read.
async fn erase_key(tx: &mut Tx, seq: BatchSeq, now: Timestamp) -> StoreResult<()> {
    // Copies of the wrapped key may lie in freed pages and logs: its epoch is to be dropped.
    let epoch = sql(
        "epoch_set_erased",
        "UPDATE epochs SET erased = true WHERE NOT erased AND id = (SELECT epoch FROM batch_keys WHERE batch = $1)",
    );
    tx.execute(epoch.bind(seq)).await?;
    tx.execute(sql("batch_hold_erase", "DELETE FROM batch_holds WHERE batch = $1").bind(seq)).await?;
    tx.execute(sql("batch_key_delete", "DELETE FROM batch_keys WHERE batch = $1").bind(seq)).await?;
    let erasure =
        sql("erasure_insert_if_new", "INSERT INTO erasures (batch) VALUES ($1) ON CONFLICT DO NOTHING");
    tx.execute(erasure.bind(seq)).await?;
    let erased =
        sql("batch_set_erased", "UPDATE batches SET erased_at = coalesce(erased_at, $1) WHERE seq = $2");
    tx.execute(erased.bind(now).bind(seq)).await.map(|_| ())
}

/// Gives a batch that has ended another definition. Its data key is bound to that one; its rows stay as they are.
async fn change_definition(tx: &mut Tx, batch: &mut Batch, change: &DefinitionChange) -> StoreResult<()> {
    if !batch.ledger.is_finished() {
        return Err(Refusal::Runs.into());
    }
    if batch.version != change.from || batch.ledger.revision != change.revision {
        return Err(Refusal::Changed.into());
    }
    let statement = sql("batch_set_version", "UPDATE batches SET version = $1 WHERE seq = $2");
    tx.execute(statement.bind(change.to).bind(batch.seq)).await?;
    // Rotation may have moved the key meanwhile.
    if !replace_key(tx, batch.seq, &change.from_key, &change.to_key).await? {
        return Err(Refusal::Changed.into());
    }
    batch.version = change.to;
    Ok(())
}
