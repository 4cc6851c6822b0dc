//! Dispatch: the sweep, owners with work, and releases.

use std::collections::BTreeMap;

use async_trait::async_trait;
use penstock_domain::ids::{BatchId, BatchSeq};
use penstock_domain::time::Timestamp;
use penstock_store::batches::Batches as _;
use penstock_store::decode::Columns as _;
use penstock_store::dispatch::{
    Dispatch, OwnerLoad, Released, RunLock, RunRecord, Running, StuckRows, SweepPlan, Swept, Take, by_owner,
};
use penstock_store::settling::Moved;
use penstock_store::{StoreResult, overdrawn};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::convert::{Columns, int};
use crate::error::{inconsistent, store_error};
use crate::{Connection, PostgresStore, commit, ledgers, run_lock};

/// Rows that a sweep fixes in one transaction.
const SWEEP_STEP: i64 = 2000;

/// What a run wants to know of a running batch. Only batches of which rows came back are asked which of them are due.
const RUNNING: &str = "o.name AS owner_name, b.served_at AS served_at, o.served_at AS owner_served_at, \
    CASE WHEN b.pending > b.release_end - b.next_number AND b.extracted AND NOT b.paused AND NOT b.held \
    AND b.cancelled_at IS NULL THEN (SELECT count(*) FROM (SELECT 1 FROM row_state w WHERE w.batch = b.seq AND w.status = 0 \
    AND coalesce(w.not_before, 0) <= $1 LIMIT coalesce(o.rows, $2)) AS waiting) ELSE 0 END AS due";

/// Runs are remembered for so long.
const RUNS_KEPT_MS: i64 = 31 * 24 * 3600 * 1000;

/// A queued row that counts as lost.
const LOST: &str = "s.status = 1 AND s.queued_until < $1";

impl PostgresStore {
    /// Sends queued rows that are lost back to pending, a batch a transaction: one whose counters do not bear it holds up no
    /// other.
    async fn sweep_lost(&self, now: Timestamp, everything: bool, swept: &mut Swept) -> StoreResult<()> {
        const NAME: &str = "sweep";
        let condition = if everything { "s.status = 1 AND $1::int8 = $1" } else { LOST };
        let mut passed: Vec<BatchSeq> = Vec::new();
        loop {
            let found = sqlx::query(sqlx::AssertSqlSafe(format!(
                "/* penstock:sweep */ SELECT s.batch AS batch, array_agg(s.number) AS numbers FROM \
                 (SELECT s.batch, s.number FROM row_state s JOIN batches b ON b.seq = s.batch WHERE {condition} \
                 AND b.cancelled_at IS NULL AND s.batch <> ALL($2) LIMIT {SWEEP_STEP}) s \
                 GROUP BY s.batch ORDER BY s.batch"
            )))
            .bind(now.millis())
            .bind(passed.iter().map(|seq| seq.0).collect::<Vec<_>>())
            .fetch_all(&self.pool)
            .await
            .map_err(store_error(NAME))?;
            if found.is_empty() {
                return Ok(());
            }
            for row in &found {
                let seq = BatchSeq(row.get("batch"));
                match self.sweep_batch(condition, seq, &row.get::<Vec<i32>, _>("numbers"), now).await {
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
        numbers: &[i32],
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
            "/* penstock:sweep */ UPDATE row_state AS s SET status = 0, not_before = $1, queued_until = NULL \
             WHERE s.batch = $2 AND s.number = ANY($3) AND {condition}"
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
        let mut tx = self.long("sweep").await?;
        sqlx::query(
            "/* penstock:sweep */ UPDATE row_state AS s SET queued_until = NULL FROM batches b \
             WHERE s.status = 1 AND s.queued_until < $1 AND b.seq = s.batch AND b.cancelled_at IS NOT NULL",
        )
        .bind(now.millis())
        .execute(&mut *tx)
        .await
        .map_err(store_error("sweep"))?;
        commit(tx, "sweep").await
    }

    async fn sweep_finishes(&self, now: Timestamp, swept: &mut Swept) -> StoreResult<()> {
        const NAME: &str = "sweep_finish";
        let due: Vec<i64> = sqlx::query_scalar(
            "/* penstock:sweep_finish */ SELECT seq FROM batches WHERE status = 2 AND extracted AND pending = 0 \
             AND queued = 0 AND processing = 0",
        )
        .fetch_all(&self.pool)
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
            .fetch_all(&self.pool)
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
             AND (extract_until IS NULL OR extract_until < $1 OR $3::bool) \
             AND (status = 1 OR created_at < $2 OR created_at > $1 OR $3) ORDER BY seq LIMIT 1000",
        )
        .bind(now.millis())
        .bind(now.millis() - grace_ms)
        .bind(everything)
        .fetch_all(&self.pool)
        .await
        .map_err(store_error("dead_extractions"))?;
        Ok(found.into_iter().map(BatchSeq).collect())
    }
}

#[async_trait]
impl Dispatch for PostgresStore {
    async fn lock_run(&self) -> StoreResult<Option<Box<dyn RunLock>>> {
        run_lock::acquire(&self.pool).await.map_err(store_error("lock_run"))
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
                 WHERE s.status = 1 AND s.queued_until < $1 AND b.cancelled_at IS NULL GROUP BY b.id, b.seq ORDER BY b.seq",
                now,
            )
            .await?;
        let expired_rows = self
            .stuck_rows(
                "/* penstock:sweep_plan */ SELECT b.id, count(*) AS rows, count(s.asked) AS unknown FROM row_state s \
                 JOIN batches b ON b.seq = s.batch LEFT JOIN workers w ON w.name = s.lease_holder \
                 WHERE s.status = 2 AND coalesce(s.lease_until, w.beat_at + w.silence_ms, 0) < $1 GROUP BY b.id, b.seq ORDER BY b.seq",
                now,
            )
            .await?;
        let finished = sqlx::query(
            "/* penstock:sweep_plan */ SELECT id FROM batches WHERE status = 2 AND extracted AND pending = 0 \
             AND queued = 0 AND processing = 0 ORDER BY seq",
        )
        .fetch_all(&self.pool)
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
        .bind(i64::from(rows_per_owner))
        .fetch_all(&self.pool)
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
             WHERE status = 1 AND queued_until = $1 AND batch = ANY($2)",
        )
        .bind(lost_after.millis())
        .bind(batches.iter().map(|seq| seq.0).collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .await
        .map_err(store_error("released_until"))?;
        Ok(by_batch(&rows)?.into_iter().map(|(batch, rows)| Released::of(batch, rows)).collect())
    }

    async fn release(
        &self,
        takes: &[Take],
        now: Timestamp,
        lost_after: Timestamp,
    ) -> StoreResult<Vec<Released>> {
        const NAME: &str = "release";
        let mut tx = self.long(NAME).await?;
        let mut wanted: BTreeMap<BatchSeq, u32> = takes.iter().map(|take| (take.batch, take.rows)).collect();
        let mut batches = ledgers::read_all(&mut tx, &wanted.keys().copied().collect(), NAME).await?;
        batches.retain(|moved| moved.batch.ledger.claimable());
        let mut released: BTreeMap<BatchSeq, Vec<(u32, u16)>> = BTreeMap::new();
        let came_back = take_returned(&mut tx, &batches, &wanted, now, lost_after, NAME).await?;
        for moved in &mut batches {
            let Some(numbers) = came_back.get(&moved.batch.seq) else { continue };
            let rows = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
            moved.batch.ledger.release(0, 0, rows).map_err(overdrawn(moved.batch.seq))?;
            if let Some(left) = wanted.get_mut(&moved.batch.seq) {
                *left = left.saturating_sub(rows);
            }
        }
        released.extend(came_back);
        // Numbers that have a state already (rejected at extraction, run by hand) are passed over, and the next ones
        // are taken instead.
        loop {
            let ranges: Vec<(BatchSeq, u32, u32)> = batches
                .iter()
                .filter_map(|moved| {
                    let ledger = &moved.batch.ledger;
                    let rows = wanted.get(&moved.batch.seq).copied().unwrap_or(0).min(ledger.fresh());
                    (rows > 0).then_some((moved.batch.seq, ledger.next_number, rows))
                })
                .collect();
            if ranges.is_empty() {
                break;
            }
            let mut made = take_fresh(&mut tx, &ranges, lost_after, NAME).await?;
            for (seq, _, rows) in ranges {
                let numbers = made.remove(&seq).unwrap_or_default();
                let fresh = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
                if let Some(moved) = batches.iter_mut().find(|moved| moved.batch.seq == seq) {
                    moved.batch.ledger.release(fresh, rows - fresh, 0).map_err(overdrawn(seq))?;
                }
                if let Some(left) = wanted.get_mut(&seq) {
                    *left = left.saturating_sub(fresh);
                }
                released.entry(seq).or_default().extend(numbers);
            }
        }
        batches.retain(Moved::is_dirty);
        ledgers::write_all(&mut tx, &batches, now, NAME).await?;
        let seqs: Vec<i64> = batches.iter().map(|moved| moved.batch.seq.0).collect();
        sqlx::query(
            "/* penstock:release */ WITH served AS (UPDATE batches SET served_at = $1 WHERE seq = ANY($2) RETURNING owner) \
             UPDATE owners SET served_at = $1 WHERE seq IN (SELECT owner FROM served)",
        )
        .bind(now.millis())
        .bind(seqs)
        .execute(&mut *tx)
        .await
        .map_err(store_error(NAME))?;
        commit(tx, NAME).await?;
        released.retain(|_, numbers| !numbers.is_empty());
        Ok(released.into_iter().map(|(batch, rows)| Released::of(batch, rows)).collect())
    }

    async fn record_run(&self, run: &RunRecord) -> StoreResult<()> {
        let body = serde_json::to_string(run).map_err(|_| inconsistent("runs", "body", run.started_at))?;
        sqlx::query("/* penstock:record_run */ INSERT INTO runs (started_at, body) VALUES ($1, $2) ON CONFLICT (started_at) DO UPDATE SET body = excluded.body")
            .bind(run.started_at.millis())
            .bind(body)
            .execute(&self.pool)
            .await
            .map_err(store_error("record_run"))?;
        sqlx::query("/* penstock:record_run */ DELETE FROM runs WHERE started_at < $1")
            .bind(run.started_at.millis() - RUNS_KEPT_MS)
            .execute(&self.pool)
            .await
            .map_err(store_error("record_run"))?;
        Ok(())
    }

    async fn runs(&self, limit: u32) -> StoreResult<Vec<RunRecord>> {
        let bodies: Vec<String> =
            sqlx::query_scalar("/* penstock:runs */ SELECT body FROM runs ORDER BY started_at DESC LIMIT $1")
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
                .await
                .map_err(store_error("runs"))?;
        bodies
            .iter()
            .map(|body| serde_json::from_str(body).map_err(|_| inconsistent("runs", "body", "a run")))
            .collect()
    }
}

/// Rows, each with its crashes, by batch.
fn by_batch(rows: &[PgRow]) -> StoreResult<BTreeMap<BatchSeq, Vec<(u32, u16)>>> {
    let mut grouped: BTreeMap<BatchSeq, Vec<(u32, u16)>> = BTreeMap::new();
    for row in rows {
        let c = Columns::of("row_state", row);
        let row = (c.u32("number")?, c.u16("crashes")?);
        grouped.entry(BatchSeq(c.i64("batch")?)).or_default().push(row);
    }
    grouped.values_mut().for_each(|numbers| numbers.sort_unstable());
    Ok(grouped)
}

/// Queues rows that were requeued and whose time has come, of every batch at most what is wanted. `+ 0` keeps the
/// planner off the partial index, by which it would scan a whole batch for each row while it has no statistics.
async fn take_returned(
    tx: &mut Connection,
    batches: &[Moved],
    wanted: &BTreeMap<BatchSeq, u32>,
    now: Timestamp,
    lost_after: Timestamp,
    name: &'static str,
) -> StoreResult<BTreeMap<BatchSeq, Vec<(u32, u16)>>> {
    let (seqs, rows): (Vec<i64>, Vec<i32>) = batches
        .iter()
        .filter(|moved| moved.batch.ledger.returned() > 0)
        .filter_map(|moved| Some((moved.batch.seq.0, int(*wanted.get(&moved.batch.seq)?))))
        .unzip();
    if seqs.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows = sqlx::query(
        "/* penstock:release */ UPDATE row_state AS s SET status = 1, queued_until = $4 \
         FROM unnest($1::int8[], $2::int4[]) AS t(batch, rows) CROSS JOIN LATERAL \
         (SELECT w.number FROM row_state w WHERE w.batch = t.batch AND w.status = 0 \
          AND coalesce(w.not_before, 0) <= $3 ORDER BY coalesce(w.not_before, 0), w.number LIMIT t.rows) AS j \
         WHERE s.batch = t.batch AND s.number = j.number AND s.status + 0 = 0 \
         RETURNING s.batch, s.number, s.crashes",
    )
    .bind(seqs)
    .bind(rows)
    .bind(now.millis())
    .bind(lost_after.millis())
    .fetch_all(tx)
    .await
    .map_err(store_error(name))?;
    by_batch(&rows)
}

/// Queues rows that were never released: ranges of (batch, first number, rows).
async fn take_fresh(
    tx: &mut Connection,
    ranges: &[(BatchSeq, u32, u32)],
    lost_after: Timestamp,
    name: &'static str,
) -> StoreResult<BTreeMap<BatchSeq, Vec<(u32, u16)>>> {
    let rows = sqlx::query(
        "/* penstock:release */ INSERT INTO row_state (batch, number, status, queued_until) \
         SELECT t.batch, number, 1, $4 FROM unnest($1::int8[], $2::int4[], $3::int4[]) AS t(batch, first, rows) \
         CROSS JOIN LATERAL generate_series(t.first, t.first + t.rows - 1) AS number \
         ON CONFLICT DO NOTHING RETURNING batch, number, crashes",
    )
    .bind(ranges.iter().map(|(seq, ..)| seq.0).collect::<Vec<_>>())
    .bind(ranges.iter().map(|(_, first, _)| int(*first)).collect::<Vec<_>>())
    .bind(ranges.iter().map(|(.., rows)| int(*rows)).collect::<Vec<_>>())
    .bind(lost_after.millis())
    .fetch_all(tx)
    .await
    .map_err(store_error(name))?;
    by_batch(&rows)
}
