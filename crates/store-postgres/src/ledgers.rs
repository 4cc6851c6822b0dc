//! Batches as records: read, lock, write back guarded by their revision, and say what happened in the outbox.

use std::collections::BTreeSet;

use penstock_domain::batch::{BatchStatus, Counts, Outcome};
use penstock_domain::ids::{BatchId, BatchSeq, OwnerSeq};
use penstock_domain::ledger::{Canary, Event, Ledger};
use penstock_domain::time::Timestamp;
use penstock_store::StoreResult;
use penstock_store::batches::{Batch, Checkpoint};
use penstock_store::callbacks::{position, receiver_of};
use penstock_store::decode::Columns as _;
use penstock_store::settling::Moved;
use serde_json::{Value, json};
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::Connection;
use crate::convert::{Columns, int, opt_ms};
use crate::error::{inconsistent, store_error};

/// What every read of a batch selects. By name, here and everywhere: a `*` would break off statements that are prepared
/// when a later migration adds a column.
pub const SELECT: &str = "SELECT b.seq, b.id, b.owner, b.pipeline, b.version, b.name, b.header, b.object_key, b.file_bytes, b.unsealed, \
    b.callback_url, b.priority, b.created_at, b.failure_row, b.failure, b.erased_at, b.status, b.outcome, \
    b.allow_failures, b.paused, b.held, b.canary_rows, b.canary_max_failure_bp, b.canary_stop_after, \
    b.canary_passed, b.total, b.pending, b.queued, b.processing, b.completed, b.failed, b.cancelled, b.run, \
    b.extracted, b.next_number, b.release_end, b.failure_said_run, b.progress_said, b.progress_said_at, \
    b.started_at, b.finished_at, b.cancelled_at, b.revision, b.checkpoint_offset, b.checkpoint_line, \
    b.checkpoint_rows, \
    o.name AS owner_name, o.rows AS owner_rows, o.weight AS owner_weight FROM batches b JOIN owners o ON o.seq = b.owner ";

/// A batch from its record.
pub fn batch(row: &PgRow) -> StoreResult<Batch> {
    let c = Columns::of("batches", row);
    let canary = match c.opt_u32("canary_rows")? {
        None => None,
        Some(rows) => Some(Canary {
            rows,
            max_failure_bp: c.u16("canary_max_failure_bp")?,
            stop_after: c.opt_u32("canary_stop_after")?,
        }),
    };
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
            canary,
            canary_passed: c.flag("canary_passed")?,
            counts: Counts {
                total: c.u32("total")?,
                pending: c.u32("pending")?,
                queued: c.u32("queued")?,
                processing: c.u32("processing")?,
                completed: c.u32("completed")?,
                failed: c.u32("failed")?,
                cancelled: c.u32("cancelled")?,
            },
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

/// The batch with that key. In a writing transaction nobody else can move it.
pub async fn read(tx: &mut Connection, seq: BatchSeq, name: &'static str) -> StoreResult<Option<Batch>> {
    let row = sqlx::query(sqlx::AssertSqlSafe(format!("{SELECT} WHERE b.seq = $1 FOR NO KEY UPDATE OF b")))
        .bind(seq.0)
        .fetch_optional(tx)
        .await
        .map_err(store_error(name))?;
    row.as_ref().map(batch).transpose()
}

/// The batch with that key, without a lock.
pub async fn look(tx: &mut Connection, seq: BatchSeq, name: &'static str) -> StoreResult<Option<Batch>> {
    let row = sqlx::query(sqlx::AssertSqlSafe(format!("{SELECT} WHERE b.seq = $1")))
        .bind(seq.0)
        .fetch_optional(tx)
        .await
        .map_err(store_error(name))?;
    row.as_ref().map(batch).transpose()
}

/// The batches with those keys, locked in the order of their keys: no two transactions wait for each other in a circle.
pub async fn read_all(
    tx: &mut Connection,
    seqs: &BTreeSet<BatchSeq>,
    name: &'static str,
) -> StoreResult<Vec<Moved>> {
    let keys: Vec<i64> = seqs.iter().map(|seq| seq.0).collect();
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "/* penstock:{name} */ {SELECT} WHERE b.seq = ANY($1) ORDER BY b.seq FOR NO KEY UPDATE OF b"
    )))
    .bind(keys)
    .fetch_all(tx)
    .await
    .map_err(store_error(name))?;
    rows.iter().map(|row| batch(row).map(Moved::new)).collect()
}

/// Writes a ledger back, guarded by the revision that was read, and the events in the outbox.
pub async fn write(
    tx: &mut Connection,
    batch: &Batch,
    read_revision: i64,
    events: &[Event],
    now: Timestamp,
    name: &'static str,
) -> StoreResult<()> {
    write_ledgers(tx, &[(batch, read_revision)], name).await?;
    say(tx, batch, events, now, name).await
}

/// Writes back what was moved, in one statement whatever the number of batches, and the events in the outbox.
pub async fn write_all(
    tx: &mut Connection,
    moved: &[Moved],
    now: Timestamp,
    name: &'static str,
) -> StoreResult<()> {
    let batches: Vec<(&Batch, i64)> = moved.iter().map(|one| (&one.batch, one.read_revision)).collect();
    write_ledgers(tx, &batches, name).await?;
    for one in moved {
        say(tx, &one.batch, &one.events, now, name).await?;
    }
    Ok(())
}

async fn write_ledgers(
    tx: &mut Connection,
    batches: &[(&Batch, i64)],
    name: &'static str,
) -> StoreResult<()> {
    let dirty: Vec<&(&Batch, i64)> =
        batches.iter().filter(|(batch, was)| batch.ledger.revision != *was).collect();
    if dirty.is_empty() {
        return Ok(());
    }
    let count = dirty.len() as u64;
    let done = sqlx::query(sqlx::AssertSqlSafe(format!(
        "/* penstock:{name} */ UPDATE batches AS b SET status = j.status, outcome = j.outcome, paused = j.paused, \
         held = j.held, canary_rows = j.canary_rows, canary_max_failure_bp = j.canary_max_failure_bp, \
         canary_stop_after = j.canary_stop_after, canary_passed = j.canary_passed, total = j.total, \
         pending = j.pending, queued = j.queued, processing = j.processing, completed = j.completed, \
         failed = j.failed, cancelled = j.cancelled, run = j.run, extracted = j.extracted, \
         next_number = j.next_number, release_end = j.release_end, failure_said_run = j.failure_said_run, \
         progress_said = j.progress_said, progress_said_at = j.progress_said_at, started_at = j.started_at, \
         finished_at = j.finished_at, cancelled_at = j.cancelled_at, failure_row = j.failure_row, \
         revision = j.revision FROM jsonb_populate_recordset(NULL::batches, $1) AS j \
         JOIN unnest($2::int8[], $3::int8[]) AS was(seq, revision) ON was.seq = j.seq \
         WHERE b.seq = j.seq AND b.revision = was.revision"
    )))
    .bind(Value::Array(dirty.iter().map(|(batch, _)| record(batch)).collect()))
    .bind(dirty.iter().map(|(batch, _)| batch.seq.0).collect::<Vec<_>>())
    .bind(dirty.iter().map(|(_, was)| *was).collect::<Vec<_>>())
    .execute(tx)
    .await
    .map_err(store_error(name))?;
    if done.rows_affected() != count {
        return Err(inconsistent("batches", "revision", dirty.first().map_or(0, |(batch, _)| batch.seq.0)));
    }
    Ok(())
}

/// A ledger as a record of its table.
fn record(batch: &Batch) -> Value {
    let ledger = &batch.ledger;
    let counts = &ledger.counts;
    let canary = ledger.canary;
    json!({
        "seq": batch.seq.0,
        "status": ledger.status.code(),
        "outcome": ledger.outcome.map(Outcome::code),
        "paused": ledger.paused,
        "held": ledger.held,
        "canary_rows": canary.map(|canary| canary.rows),
        "canary_max_failure_bp": canary.map(|canary| canary.max_failure_bp),
        "canary_stop_after": canary.and_then(|canary| canary.stop_after),
        "canary_passed": ledger.canary_passed,
        "total": counts.total,
        "pending": counts.pending,
        "queued": counts.queued,
        "processing": counts.processing,
        "completed": counts.completed,
        "failed": counts.failed,
        "cancelled": counts.cancelled,
        "run": ledger.run,
        "extracted": ledger.extracted,
        "next_number": ledger.next_number,
        "release_end": ledger.release_end,
        "failure_said_run": ledger.failure_said_run,
        "progress_said": ledger.progress_said,
        "progress_said_at": opt_ms(ledger.progress_said_at),
        "started_at": opt_ms(ledger.started_at),
        "finished_at": opt_ms(ledger.finished_at),
        "cancelled_at": opt_ms(ledger.cancelled_at),
        "failure_row": batch.failure_row,
        "revision": ledger.revision,
    })
}

/// Writes events in the outbox, when the batch has somewhere to send them. The same event of the same run is one.
pub async fn say(
    tx: &mut Connection,
    batch: &Batch,
    events: &[Event],
    now: Timestamp,
    name: &'static str,
) -> StoreResult<()> {
    let Some(url) = &batch.callback_url else { return Ok(()) };
    for (index, event) in events.iter().enumerate() {
        let ordinal = if *event == Event::Progress { i32::from(batch.ledger.progress_said) } else { 0 };
        let text = format!("{}/{}/{ordinal}", batch.ledger.run, event.name());
        let id = Uuid::new_v5(&batch.id.0, text.as_bytes());
        let snapshot =
            serde_json::to_string(batch).map_err(|_| inconsistent("batches", "ledger", batch.seq.0))?;
        sqlx::query(
            "INSERT INTO callbacks (id, owner, batch, run, event, ordinal, url, snapshot, created_at, position, \
             status, attempts, next_at, receiver) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, \
             CASE WHEN gone THEN 3 ELSE 0 END, 0, CASE WHEN gone THEN NULL ELSE $9 END, $11 \
             FROM (SELECT EXISTS (SELECT 1 FROM gone_receivers WHERE owner = $2 AND url = $7) AS gone) AS receiver \
             ON CONFLICT DO NOTHING",
        )
        .bind(id)
        .bind(batch.owner.0)
        .bind(batch.seq.0)
        .bind(int(batch.ledger.run))
        .bind(event.name())
        .bind(ordinal)
        .bind(url)
        .bind(snapshot)
        .bind(now.millis())
        .bind(position(batch.ledger.revision, index))
        .bind(receiver_of(url))
        .execute(&mut *tx)
        .await
        .map_err(store_error(name))?;
    }
    Ok(())
}

/// Writes who did what.
pub async fn audit(
    tx: &mut Connection,
    now: Timestamp,
    actor: &str,
    action: &str,
    batch: &Batch,
    detail: Option<String>,
    name: &'static str,
) -> StoreResult<()> {
    sqlx::query("INSERT INTO audit (at, actor, action, batch, detail) VALUES ($1, $2, $3, $4, $5)")
        .bind(now.millis())
        .bind(actor)
        .bind(action)
        .bind(batch.id.0)
        .bind(detail)
        .execute(tx)
        .await
        .map_err(store_error(name))?;
    Ok(())
}
