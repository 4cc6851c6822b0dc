//! Batches as records: read, lock, write back guarded by their revision, and say what happened in the outbox.

use std::collections::BTreeSet;

use penstock_domain::batch::{BatchStatus, Counts, Outcome};
use penstock_domain::ids::{BatchId, BatchSeq, OwnerSeq};
use penstock_domain::ledger::{Canary, Event, Hold, Ledger};
use penstock_domain::time::Timestamp;
use penstock_store::batches::{Batch, Checkpoint};
use penstock_store::callbacks::{position, receiver_of};
use penstock_store::settling::Moved;
use penstock_store::{StoreError, StoreResult};
use uuid::Uuid;

use crate::{Group, Row, Tx, Value, list, sql};

fn canary(c: &crate::row::Columns<'_>) -> StoreResult<Option<Canary>> {
    let Some(rows) = c.opt_u32("canary_rows")? else { return Ok(None) };
    let max_failure_bp = c.u16("canary_max_failure_bp")?;
    Ok(Some(Canary { rows, max_failure_bp, stop_after: c.opt_u32("canary_stop_after")? }))
}

/// A batch from its record.
pub(crate) fn batch(row: &Row) -> StoreResult<Batch> {
    let c = row.of("batches");
    Ok(Batch {
        seq: BatchSeq(c.i64("seq")?),
        id: BatchId(c.uuid("id")?),
        owner: OwnerSeq(c.i64("owner")?),
        owner_name: c.text("owner_name")?,
        owner_rows: c.opt_u32("owner_rows")?,
        owner_weight: c.u32("owner_weight")?,
        pipeline: c.text("pipeline")?,
        version: c.uuid("version")?,
        name: c.opt_text("name")?,
        labels: c.text("labels")?.lines().filter(|label| !label.is_empty()).map(str::to_owned).collect(),
        header: c.opt_text("header")?,
        object_key: c.text("object_key")?,
        file_bytes: c.u64("file_bytes")?,
        unsealed: c.flag("unsealed")?,
        callback_url: c.opt_text("callback_url")?,
        priority: c.in_range("priority")?,
        created_at: c.time("created_at")?,
        failure_row: c.opt_u32("failure_row")?,
        failure: c.opt_text("failure")?,
        erased_at: c.opt_time("erased_at")?,
        checkpoint: Checkpoint {
            offset: c.u64("checkpoint_offset")?,
            line: c.u64("checkpoint_line")?,
            rows: c.u32("checkpoint_rows")?,
        },
        ledger: Ledger {
            status: c.code("status", BatchStatus::from_code)?,
            outcome: c.opt_code("outcome", Outcome::from_code)?,
            allow_failures: c.flag("allow_failures")?,
            paused: c.flag("paused")?,
            held: c.flag("held")?,
            hold: hold(&c)?,
            holds: c.u32("holds")?,
            canary: canary(&c)?,
            canary_passed: c.flag("canary_passed")?,
            counts: counts(&c)?,
            run: c.u32("run")?,
            extracted: c.flag("extracted")?,
            next_number: c.u32("next_number")?,
            release_end: c.u32("release_end")?,
            failure_said_run: c.u32("failure_said_run")?,
            progress_said: c.in_range("progress_said")?,
            progress_said_at: c.opt_time("progress_said_at")?,
            started_at: c.opt_time("started_at")?,
            finished_at: c.opt_time("finished_at")?,
            cancelled_at: c.opt_time("cancelled_at")?,
            revision: c.i64("revision")?,
        },
    })
}

/// Labels as they are kept: each between line breaks, which none of them holds. So one that is looked for as a whole is found as a
/// text, and a text that has no line break is never found across two of them.
pub(crate) fn kept_labels(labels: &[String]) -> String {
    if labels.is_empty() { String::new() } else { format!("\n{}\n", labels.join("\n")) }
}

/// The answer that holds a batch. A release that knows of none may have let the batch go on: then it holds nothing.
fn hold(c: &crate::row::Columns<'_>) -> StoreResult<Option<Hold>> {
    let (code, since) = (c.opt_text("hold_code")?, c.opt_time("hold_since")?);
    let Some((code, since)) = code.zip(since) else { return Ok(None) };
    let hold = Hold { code, step: c.opt_text("hold_step")?, since };
    Ok(c.flag("held")?.then_some(hold))
}

/// Counters from a record that has them.
pub(crate) fn counts(c: &crate::row::Columns<'_>) -> StoreResult<Counts> {
    Ok(Counts {
        total: c.u32("total")?,
        pending: c.u32("pending")?,
        queued: c.u32("queued")?,
        processing: c.u32("processing")?,
        completed: c.u32("completed")?,
        failed: c.u32("failed")?,
        cancelled: c.u32("cancelled")?,
    })
}

/// The batch with that key, locked: nobody else moves it until the transaction ends.
pub(crate) async fn read(tx: &mut Tx, seq: BatchSeq) -> StoreResult<Option<Batch>> {
    let statement = sql(
        "batch_get_locked",
        "SELECT {batch_columns} FROM batches b JOIN owners o ON o.seq = b.owner WHERE b.seq = $1 {lock b}",
    );
    tx.fetch_optional(statement.bind(seq)).await?.as_ref().map(batch).transpose()
}

/// As [`read`], for a batch that has to be there.
pub(crate) async fn find(tx: &mut Tx, seq: BatchSeq) -> StoreResult<Batch> {
    read(tx, seq).await?.ok_or(StoreError::NotFound { what: "this batch" })
}

/// The batch with that key, without a lock.
pub(crate) async fn look(tx: &mut Tx, seq: BatchSeq) -> StoreResult<Option<Batch>> {
    let statement = sql(
        "batch_get",
        "SELECT {batch_columns} FROM batches b JOIN owners o ON o.seq = b.owner WHERE b.seq = $1",
    );
    tx.fetch_optional(statement.bind(seq)).await?.as_ref().map(batch).transpose()
}

/// The batches with those keys, locked in the order of their keys: no two transactions wait for each other in a circle.
pub(crate) async fn read_all(tx: &mut Tx, seqs: &BTreeSet<BatchSeq>) -> StoreResult<Vec<Moved>> {
    let statement = sql(
        "batch_get_many_locked",
        "SELECT {batch_columns} FROM batches b JOIN owners o ON o.seq = b.owner WHERE b.seq {in $1} \
         ORDER BY b.seq {lock b}",
    );
    let rows = tx.fetch(statement.bind(list(seqs.iter().map(|seq| seq.0)))).await?;
    rows.iter().map(|row| batch(row).map(Moved::new)).collect()
}

/// As [`read_all`], for a transaction that leaves the ledgers as they are.
pub(crate) async fn lock_all(tx: &mut Tx, seqs: impl IntoIterator<Item = BatchSeq>) -> StoreResult<()> {
    let seqs: BTreeSet<i64> = seqs.into_iter().map(|seq| seq.0).collect();
    let statement =
        sql("batch_lock_many", "SELECT seq FROM batches WHERE seq {in $1} ORDER BY seq {lock batches}");
    tx.lock(statement.bind(list(seqs))).await
}

/// Writes a ledger back, guarded by the revision that was read, and the events in the outbox.
pub(crate) async fn write(
    tx: &mut Tx,
    batch: &Batch,
    read_revision: i64,
    events: &[Event],
    now: Timestamp,
) -> StoreResult<()> {
    write_ledgers(tx, &[(batch, read_revision)], None).await?;
    say(tx, batch, events, now).await
}

/// Writes back what was moved, in one statement whatever the number of batches, and the events in the outbox.
pub(crate) async fn write_all(tx: &mut Tx, moved: &[Moved], now: Timestamp) -> StoreResult<()> {
    write_moved(tx, moved, None, now).await
}

/// As [`write_all`], of batches that a dispatcher run has served: each record is written once.
pub(crate) async fn write_served(tx: &mut Tx, moved: &[Moved], now: Timestamp) -> StoreResult<()> {
    write_moved(tx, moved, Some(now), now).await
}

async fn write_moved(
    tx: &mut Tx,
    moved: &[Moved],
    served_at: Option<Timestamp>,
    now: Timestamp,
) -> StoreResult<()> {
    let batches: Vec<(&Batch, i64)> = moved.iter().map(|one| (&one.batch, one.read_revision)).collect();
    write_ledgers(tx, &batches, served_at).await?;
    for one in moved {
        say(tx, &one.batch, &one.events, now).await?;
    }
    Ok(())
}

/// What a write of a ledger changes, in the order of [`ledger_values`].
pub(crate) const LEDGER_COLUMNS: &str = "status, outcome, paused, held, hold_code, hold_step, hold_since, holds, canary_rows, canary_max_failure_bp, canary_stop_after, \
    canary_passed, total, pending, queued, processing, completed, failed, cancelled, run, extracted, next_number, \
    release_end, failure_said_run, progress_said, progress_said_at, started_at, finished_at, cancelled_at, failure_row, revision";

/// The values of [`LEDGER_COLUMNS`].
fn ledger_values(batch: &Batch) -> [Value<'static>; 31] {
    let Ledger { counts, canary, .. } = &batch.ledger;
    let ledger = &batch.ledger;
    [
        ledger.status.code().into(),
        ledger.outcome.map(Outcome::code).into(),
        ledger.paused.into(),
        ledger.held.into(),
        ledger.hold.as_ref().map(|hold| hold.code.clone()).into(),
        ledger.hold.as_ref().and_then(|hold| hold.step.clone()).into(),
        ledger.hold.as_ref().map(|hold| hold.since).into(),
        ledger.holds.into(),
        canary.map(|canary| canary.rows).into(),
        canary.map(|canary| canary.max_failure_bp).into(),
        canary.and_then(|canary| canary.stop_after).into(),
        ledger.canary_passed.into(),
        counts.total.into(),
        counts.pending.into(),
        counts.queued.into(),
        counts.processing.into(),
        counts.completed.into(),
        counts.failed.into(),
        counts.cancelled.into(),
        ledger.run.into(),
        ledger.extracted.into(),
        ledger.next_number.into(),
        ledger.release_end.into(),
        ledger.failure_said_run.into(),
        u16::from(ledger.progress_said).into(),
        ledger.progress_said_at.into(),
        ledger.started_at.into(),
        ledger.finished_at.into(),
        ledger.cancelled_at.into(),
        batch.failure_row.into(),
        ledger.revision.into(),
    ]
}

async fn write_ledgers(
    tx: &mut Tx,
    batches: &[(&Batch, i64)],
    served_at: Option<Timestamp>,
) -> StoreResult<()> {
    let dirty: Vec<&(&Batch, i64)> =
        batches.iter().filter(|(batch, was)| batch.ledger.revision != *was).collect();
    let keys = dirty.iter().map(|(batch, was)| [Value::from(batch.seq), Value::from(*was)]);
    let group =
        Group::of_rows(keys).beside(Group::of_rows(dirty.iter().map(|(batch, _)| ledger_values(batch))));
    let statement = sql(
        "batch_set_ledger_if_unmoved",
        "WITH j(seq, was, {ledger_columns}) AS ({rows}) UPDATE batches AS b SET {ledger_changes}, \
         served_at = coalesce($1, b.served_at) FROM j WHERE b.seq = j.seq AND b.revision = j.was",
    );
    if tx.execute(statement.bind(served_at).rows(group)).await? != dirty.len() as u64 {
        let first = dirty.first().map_or(0, |(batch, _)| batch.seq.0);
        return Err(inconsistent("batches", "revision", first));
    }
    Ok(())
}

/// Writes events in the outbox, when the batch has somewhere to send them. The same event of the same run is one. That it is held
/// is written down as what was done to it, too: it is known afterwards.
pub(crate) async fn say(tx: &mut Tx, batch: &Batch, events: &[Event], now: Timestamp) -> StoreResult<()> {
    if events.contains(&Event::Held) {
        let code = batch.ledger.hold.as_ref().map(|hold| hold.code.clone());
        audit(tx, now, BY_ITSELF, "batch.hold", batch, code).await?;
    }
    let Some(url) = &batch.callback_url else { return Ok(()) };
    for (index, event) in events.iter().enumerate() {
        let ordinal = batch.ledger.ordinal(*event);
        let text = format!("{}/{}/{ordinal}", batch.ledger.run, event.name());
        let snapshot =
            serde_json::to_string(batch).map_err(|_| inconsistent("batches", "ledger", batch.seq.0))?;
        let statement = sql(
            "callback_insert_if_new",
            "INSERT INTO callbacks (id, owner, batch, run, event, ordinal, url, snapshot, created_at, position, \
             status, attempts, next_at, receiver) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, \
             CASE WHEN gone THEN {callback disabled} ELSE {callback pending} END, 0, CASE WHEN gone THEN NULL ELSE $9 END, \
             $11 FROM (SELECT EXISTS (SELECT 1 FROM gone_receivers WHERE owner = $2 AND url = $7) AS gone) AS receiver \
             WHERE true ON CONFLICT DO NOTHING",
        );
        let statement = statement
            .bind(Uuid::new_v5(&batch.id.0, text.as_bytes()))
            .bind(batch.owner)
            .bind(batch.seq)
            .bind(batch.ledger.run)
            .bind(event.name())
            .bind(ordinal)
            .bind(url)
            .bind(snapshot)
            .bind(now)
            .bind(position(batch.ledger.revision, index))
            .bind(receiver_of(url));
        tx.execute(statement).await?;
    }
    Ok(())
}

/// Who did what happened by itself.
pub(crate) const BY_ITSELF: &str = "penstock";

/// Writes how a run ended before the next one begins: the batch itself knows of its last run alone.
pub(crate) async fn run_ended(
    tx: &mut Tx,
    batch: &Batch,
    at: Timestamp,
    outcome: Outcome,
) -> StoreResult<()> {
    audit(tx, at, BY_ITSELF, "batch.ended", batch, Some(outcome.name().to_owned())).await
}

/// Writes who did what.
pub(crate) async fn audit(
    tx: &mut Tx,
    now: Timestamp,
    actor: &str,
    action: &str,
    batch: &Batch,
    detail: Option<String>,
) -> StoreResult<()> {
    let statement = sql(
        "audit_insert",
        "INSERT INTO audit (at, actor, action, batch, detail) VALUES ($1, $2, $3, $4, $5)",
    );
    tx.execute(statement.bind(now).bind(actor).bind(action).bind(batch.id).bind(detail)).await?;
    Ok(())
}

/// A stored value that cannot be there.
pub(crate) fn inconsistent(table: &'static str, column: &'static str, key: impl ToString) -> StoreError {
    StoreError::Inconsistent { table, column, key: key.to_string() }
}
