//! Dispatch: the sweep, owners with work, and releases.

use std::collections::BTreeMap;
use std::fs::File;

use async_trait::async_trait;
use penstock_domain::ids::{BatchId, BatchSeq};
use penstock_domain::time::Timestamp;
use penstock_store::batches::Batches as _;
use penstock_store::decode::Columns as _;
use penstock_store::dispatch::{
    Dispatch, OwnerLoad, Released, RunLock, RunRecord, Running, StuckRows, SweepPlan, Swept, Take, by_owner,
};
use penstock_store::{StoreResult, overdrawn};
use serde_json::json;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::convert::Columns;
use crate::error::{inconsistent, store_error};
use crate::{SqliteStore, commit, ledgers, lock_file};

/// Rows that a sweep fixes in one transaction.
const SWEEP_STEP: i64 = 2000;

/// What a run wants to know of a running batch. Only batches of which rows came back are asked which of them are due, and
/// up to the largest quota: a limit cannot name the owner's here.
const RUNNING: &str = "o.name AS owner_name, b.served_at AS served_at, o.served_at AS owner_served_at, \
    CASE WHEN b.pending > b.release_end - b.next_number AND b.extracted AND NOT b.paused AND NOT b.held \
    AND b.cancelled_at IS NULL THEN (SELECT count(*) FROM (SELECT 1 FROM row_state w WHERE w.batch = b.seq AND w.status = 0 \
    AND coalesce(w.not_before, 0) <= ?1 LIMIT max(?2, (SELECT coalesce(max(rows), 0) FROM owners))) AS waiting) ELSE 0 END AS due";

/// Runs are remembered for so long.
const RUNS_KEPT_MS: i64 = 31 * 24 * 3600 * 1000;

struct DispatchLock(#[allow(dead_code, reason = "closing the file frees the lock")] File);

impl RunLock for DispatchLock {}

/// A queued row that counts as lost.
const LOST: &str = "s.status = 1 AND s.queued_until < ?1";

impl SqliteStore {
    /// Sends queued rows that are lost back to pending, a batch a transaction: one whose counters do not bear it holds up no
    /// other.
    async fn sweep_lost(&self, now: Timestamp, everything: bool, swept: &mut Swept) -> StoreResult<()> {
        const NAME: &str = "sweep";
        let condition = if everything { "s.status = 1 AND ?1 = ?1" } else { LOST };
        let mut passed: Vec<BatchSeq> = Vec::new();
        loop {
            let found = sqlx::query(sqlx::AssertSqlSafe(format!(
                "/* penstock:sweep */ SELECT s.batch AS batch, json_group_array(s.number) AS numbers FROM \
                 (SELECT s.batch, s.number FROM row_state s JOIN batches b ON b.seq = s.batch WHERE {condition} \
                 AND b.cancelled_at IS NULL AND s.batch NOT IN (SELECT value FROM json_each(?2)) LIMIT {SWEEP_STEP}) s \
                 GROUP BY s.batch ORDER BY s.batch"
            )))
            .bind(now.millis())
            .bind(json!(passed.iter().map(|seq| seq.0).collect::<Vec<_>>()).to_string())
            .fetch_all(&self.readers)
            .await
            .map_err(store_error(NAME))?;
            if found.is_empty() {
                return Ok(());
            }
            for row in &found {
                let seq = BatchSeq(row.get("batch"));
                match self.sweep_batch(condition, seq, &row.get::<String, _>("numbers"), now).await {
                    // Somebody else was faster, with all of them: what is left can wait for the next sweep.
                    Ok(0) => passed.push(seq),
                    Ok(rows) => swept.lost_rows += rows,
                    Err(error) if error.is_one_batchs() => {
                        passed.push(seq);
                        swept.leave_alone(seq, &error);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }

    async fn sweep_batch(
        &self,
        condition: &str,
        seq: BatchSeq,
        numbers: &str,
        now: Timestamp,
    ) -> StoreResult<u32> {
        const NAME: &str = "sweep";
        let mut tx = self.write(NAME).await?;
        let Some(mut batch) = ledgers::read(&mut tx, seq, NAME).await? else { return Ok(0) };
        if batch.ledger.cancelled_at.is_some() {
            return Ok(0);
        }
        let read_revision = batch.ledger.revision;
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "/* penstock:sweep */ UPDATE row_state AS s SET status = 0, not_before = ?1, queued_until = NULL \
             WHERE s.batch = ?2 AND s.number IN (SELECT value FROM json_each(?3)) AND {condition}"
        )))
        .bind(now.millis())
        .bind(seq.0)
        .bind(numbers)
        .execute(&mut *tx)
        .await
        .map_err(store_error(NAME))?
        .rows_affected();
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        batch.ledger.unqueue(rows).map_err(overdrawn(seq))?;
        ledgers::write(&mut tx, &batch, read_revision, &[], now, NAME).await?;
        commit(tx, NAME).await?;
        Ok(rows)
    }

    /// Queued rows of cancelled batches stay as they are, and are looked at only once.
    async fn forget_cancelled(&self, now: Timestamp) -> StoreResult<()> {
        sqlx::query(
            "/* penstock:sweep */ UPDATE row_state AS s SET queued_until = NULL FROM batches b \
             WHERE s.status = 1 AND s.queued_until < ?1 AND b.seq = s.batch AND b.cancelled_at IS NOT NULL",
        )
        .bind(now.millis())
        .execute(&self.writer)
        .await
        .map_err(store_error("sweep"))?;
        Ok(())
    }

    async fn sweep_finishes(&self, now: Timestamp, swept: &mut Swept) -> StoreResult<()> {
        const NAME: &str = "sweep_finish";
        let due: Vec<i64> = sqlx::query_scalar(
            "/* penstock:sweep_finish */ SELECT seq FROM batches WHERE status = 2 AND extracted AND pending = 0 \
             AND queued = 0 AND processing = 0",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(store_error(NAME))?;
        for seq in due.into_iter().map(BatchSeq) {
            match self.finish(seq, now).await {
                Ok(finished) => swept.finished += u32::from(finished),
                Err(error) if error.is_one_batchs() => swept.leave_alone(seq, &error),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Finishes a batch, if it is done.
    async fn finish(&self, seq: BatchSeq, now: Timestamp) -> StoreResult<bool> {
        const NAME: &str = "sweep_finish";
        let mut tx = self.write(NAME).await?;
        let Some(mut batch) = ledgers::read(&mut tx, seq, NAME).await? else { return Ok(false) };
        let read_revision = batch.ledger.revision;
        let events = batch.ledger.sweep_finish(now);
        if events.is_empty() {
            return Ok(false);
        }
        ledgers::write(&mut tx, &batch, read_revision, &events, now, NAME).await?;
        commit(tx, NAME).await?;
        Ok(true)
    }

    async fn stuck_rows(&self, query: &'static str, now: Timestamp) -> StoreResult<Vec<StuckRows>> {
        let rows = sqlx::query(query)
            .bind(now.millis())
            .fetch_all(&self.readers)
            .await
            .map_err(store_error("sweep_plan"))?;
        rows.iter()
            .map(|row| {
                let c = Columns::of("batches", row);
                Ok(StuckRows {
                    batch: BatchId(c.uuid("id")?),
                    rows: c.u32("rows")?,
                    unknown: c.u32("unknown")?,
                })
            })
            .collect()
    }

    async fn dead_extractions(
        &self,
        now: Timestamp,
        grace_ms: i64,
        everything: bool,
    ) -> StoreResult<Vec<BatchSeq>> {
        let found: Vec<i64> = sqlx::query_scalar(
            "/* penstock:dead_extractions */ SELECT seq FROM batches WHERE status IN (0, 1) \
             AND (extract_until IS NULL OR extract_until < ?1 OR ?3) \
             AND (status = 1 OR created_at < ?2 OR created_at > ?1 OR ?3) ORDER BY seq LIMIT 1000",
        )
        .bind(now.millis())
        .bind(now.millis() - grace_ms)
        .bind(everything)
        .fetch_all(&self.readers)
        .await
        .map_err(store_error("dead_extractions"))?;
        Ok(found.into_iter().map(BatchSeq).collect())
    }
}

#[async_trait]
impl Dispatch for SqliteStore {
    async fn lock_run(&self) -> StoreResult<Option<Box<dyn RunLock>>> {
        let lock = lock_file(&self.file, "dispatch.lock")?;
        Ok(lock.map(|file| Box::new(DispatchLock(file)) as Box<dyn RunLock>))
    }

    async fn sweep(&self, now: Timestamp, extraction_grace_ms: i64, everything: bool) -> StoreResult<Swept> {
        self.forget_cancelled(now).await?;
        let extractions = self.dead_extractions(now, extraction_grace_ms, everything).await?;
        let mut swept = Swept { extractions, ..Swept::default() };
        self.sweep_lost(now, everything, &mut swept).await?;
        self.sweep_finishes(now, &mut swept).await?;
        Ok(swept)
    }

    async fn sweep_plan(&self, now: Timestamp, extraction_grace_ms: i64) -> StoreResult<SweepPlan> {
        const NAME: &str = "sweep_plan";
        let lost_rows = self
            .stuck_rows(
                "/* penstock:sweep_plan */ SELECT b.id, count(*) AS rows, CAST(0 AS BIGINT) AS unknown FROM row_state s JOIN batches b ON b.seq = s.batch \
                 WHERE s.status = 1 AND s.queued_until < ?1 AND b.cancelled_at IS NULL GROUP BY b.id, b.seq ORDER BY b.seq",
                now,
            )
            .await?;
        let expired_rows = self
            .stuck_rows(
                "/* penstock:sweep_plan */ SELECT b.id, count(*) AS rows, count(s.asked) AS unknown FROM row_state s \
                 JOIN batches b ON b.seq = s.batch LEFT JOIN workers w ON w.name = s.lease_holder \
                 WHERE s.status = 2 AND coalesce(s.lease_until, w.beat_at + w.silence_ms, 0) < ?1 GROUP BY b.id, b.seq ORDER BY b.seq",
                now,
            )
            .await?;
        let finished = sqlx::query(
            "/* penstock:sweep_plan */ SELECT id FROM batches WHERE status = 2 AND extracted AND pending = 0 \
             AND queued = 0 AND processing = 0 ORDER BY seq",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(store_error(NAME))?;
        let dead = self.dead_extractions(now, extraction_grace_ms, false).await?;
        Ok(SweepPlan {
            lost_rows,
            expired_rows,
            finished: finished
                .iter()
                .map(|row| Ok(BatchId(Columns::of("batches", row).uuid("id")?)))
                .collect::<StoreResult<_>>()?,
            extractions: self
                .batches_by_seq(&dead)
                .await?
                .into_iter()
                .map(|batch| (batch.seq, batch.id))
                .collect(),
        })
    }

    async fn loads(&self, rows_per_owner: u32, now: Timestamp) -> StoreResult<Vec<OwnerLoad>> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "/* penstock:loads */ {} WHERE b.status = 2 ORDER BY o.served_at, o.seq, b.priority DESC, b.served_at, b.seq",
            ledgers::SELECT.replace("o.name AS owner_name", RUNNING)
        )))
        .bind(now.millis())
        .bind(rows_per_owner)
        .fetch_all(&self.readers)
        .await
        .map_err(store_error("loads"))?;
        let mut running = Vec::with_capacity(rows.len());
        for row in &rows {
            let c = Columns::of("batches", row);
            let batch = match ledgers::batch(row) {
                Ok(batch) => batch,
                // It holds up nobody else's batches.
                Err(error) => {
                    tracing::error!(%error, "a batch cannot be read and is left out of this run");
                    continue;
                }
            };
            running.push(Running {
                batch,
                due: c.u32("due")?,
                served_at: c.time("served_at")?,
                owner_served_at: c.time("owner_served_at")?,
            });
        }
        Ok(by_owner(running))
    }

    async fn released_until(
        &self,
        batches: &[BatchSeq],
        lost_after: Timestamp,
    ) -> StoreResult<Vec<Released>> {
        let rows = sqlx::query(
            "/* penstock:released_until */ SELECT batch, number, crashes FROM row_state \
             WHERE status = 1 AND queued_until = ?1 AND batch IN (SELECT value FROM json_each(?2)) ORDER BY batch, number",
        )
        .bind(lost_after.millis())
        .bind(json!(batches.iter().map(|seq| seq.0).collect::<Vec<_>>()).to_string())
        .fetch_all(&self.readers)
        .await
        .map_err(store_error("released_until"))?;
        let mut released: BTreeMap<BatchSeq, Vec<(u32, u16)>> = BTreeMap::new();
        for row in &rows {
            let c = Columns::of("row_state", row);
            let row = (c.u32("number")?, c.u16("crashes")?);
            released.entry(BatchSeq(c.i64("batch")?)).or_default().push(row);
        }
        Ok(released.into_iter().map(|(batch, rows)| Released::of(batch, rows)).collect())
    }

    async fn release(
        &self,
        takes: &[Take],
        now: Timestamp,
        lost_after: Timestamp,
    ) -> StoreResult<Vec<Released>> {
        const NAME: &str = "release";
        let mut tx = self.write(NAME).await?;
        let mut takes = takes.to_vec();
        takes.sort_by_key(|take| take.batch);
        let mut all = Vec::new();
        for take in takes {
            let Some(mut batch) = ledgers::read(&mut tx, take.batch, NAME).await? else { continue };
            if !batch.ledger.claimable() {
                continue;
            }
            let read_revision = batch.ledger.revision;
            let returned = sqlx::query(
                "/* penstock:release */ UPDATE row_state SET status = 1, queued_until = ?3 \
                 WHERE batch = ?1 AND status = 0 AND number IN (SELECT number FROM row_state WHERE batch = ?1 \
                 AND status = 0 AND coalesce(not_before, 0) <= ?2 ORDER BY coalesce(not_before, 0), number LIMIT ?4) \
                 RETURNING number, crashes",
            )
            .bind(take.batch.0)
            .bind(now.millis())
            .bind(lost_after.millis())
            .bind(take.rows)
            .fetch_all(&mut *tx)
            .await
            .map_err(store_error(NAME))?;
            let mut numbers = numbers_of(&returned)?;
            let came_back = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
            let (mut fresh, mut skipped) = (0, 0);
            // Numbers that have a state already (rejected at extraction, run by hand) are passed over.
            while came_back + fresh < take.rows {
                let left = batch.ledger.fresh().saturating_sub(fresh + skipped);
                let wanted = (take.rows - came_back - fresh).min(left);
                if wanted == 0 {
                    break;
                }
                let first = batch.ledger.next_number + fresh + skipped;
                let made = sqlx::query(
                    "/* penstock:release */ WITH RECURSIVE n(number) AS (SELECT ?2 UNION ALL \
                     SELECT number + 1 FROM n WHERE number + 1 < ?2 + ?3) \
                     INSERT INTO row_state (batch, number, status, queued_until) SELECT ?1, number, 1, ?4 FROM n \
                     WHERE true ON CONFLICT DO NOTHING RETURNING number, crashes",
                )
                .bind(take.batch.0)
                .bind(first)
                .bind(wanted)
                .bind(lost_after.millis())
                .fetch_all(&mut *tx)
                .await
                .map_err(store_error(NAME))?;
                let made = numbers_of(&made)?;
                let count = u32::try_from(made.len()).unwrap_or(u32::MAX);
                fresh += count;
                skipped += wanted - count;
                numbers.extend(made);
            }
            if fresh + skipped + came_back > 0 {
                batch.ledger.release(fresh, skipped, came_back).map_err(overdrawn(take.batch))?;
                ledgers::write(&mut tx, &batch, read_revision, &[], now, NAME).await?;
                sqlx::query("UPDATE batches SET served_at = ? WHERE seq = ?")
                    .bind(now.millis())
                    .bind(take.batch.0)
                    .execute(&mut *tx)
                    .await
                    .map_err(store_error(NAME))?;
                sqlx::query("UPDATE owners SET served_at = ? WHERE seq = ?")
                    .bind(now.millis())
                    .bind(batch.owner.0)
                    .execute(&mut *tx)
                    .await
                    .map_err(store_error(NAME))?;
            }
            if !numbers.is_empty() {
                all.push(Released::of(take.batch, numbers));
            }
        }
        commit(tx, NAME).await?;
        Ok(all)
    }

    async fn record_run(&self, run: &RunRecord) -> StoreResult<()> {
        let body = serde_json::to_string(run).map_err(|_| inconsistent("runs", "body", run.started_at))?;
        sqlx::query("/* penstock:record_run */ INSERT OR REPLACE INTO runs (started_at, body) VALUES (?, ?)")
            .bind(run.started_at.millis())
            .bind(body)
            .execute(&self.writer)
            .await
            .map_err(store_error("record_run"))?;
        sqlx::query("/* penstock:record_run */ DELETE FROM runs WHERE started_at < ?")
            .bind(run.started_at.millis() - RUNS_KEPT_MS)
            .execute(&self.writer)
            .await
            .map_err(store_error("record_run"))?;
        Ok(())
    }

    async fn runs(&self, limit: u32) -> StoreResult<Vec<RunRecord>> {
        let bodies: Vec<String> =
            sqlx::query_scalar("/* penstock:runs */ SELECT body FROM runs ORDER BY started_at DESC LIMIT ?")
                .bind(limit)
                .fetch_all(&self.readers)
                .await
                .map_err(store_error("runs"))?;
        bodies
            .iter()
            .map(|body| serde_json::from_str(body).map_err(|_| inconsistent("runs", "body", "a run")))
            .collect()
    }
}

/// Rows, each with its crashes.
fn numbers_of(rows: &[SqliteRow]) -> StoreResult<Vec<(u32, u16)>> {
    rows.iter()
        .map(|row| {
            let c = Columns::of("row_state", row);
            Ok((c.u32("number")?, c.u16("crashes")?))
        })
        .collect()
}
