//! Dispatch: the sweep, owners with work, and releases.

use std::fs::File;

use async_trait::async_trait;
use penstock_domain::ids::{BatchId, BatchSeq};
use penstock_domain::ledger::Tally;
use penstock_domain::time::Timestamp;
use penstock_store::batches::Batches as _;
use penstock_store::dispatch::{
    BatchLoad, Dispatch, OwnerLoad, Released, RunLock, RunRecord, StuckRows, SweepPlan, Swept, Take,
};
use penstock_store::{StoreResult, overdrawn};
use sqlx::Row as _;

use crate::convert::Columns;
use crate::error::{inconsistent, store_error};
use crate::{SqliteStore, commit, ledgers, lock_file};

/// Rows that a sweep mends in one transaction.
const SWEEP_STEP: i64 = 2000;

/// Runs are remembered for so long.
const RUNS_KEPT_MS: i64 = 31 * 24 * 3600 * 1000;

struct DispatchLock(#[allow(dead_code, reason = "closing the file frees the lock")] File);

impl RunLock for DispatchLock {}

/// What a sweep looks for.
#[derive(Clone, Copy)]
enum Stale {
    Queued,
    Leased,
}

impl Stale {
    fn condition(self, everything: bool) -> &'static str {
        match (self, everything) {
            (Self::Queued, false) => "s.status = 1 AND s.queued_until < ?1",
            (Self::Queued, true) => "s.status = 1 AND ?1 = ?1",
            (Self::Leased, false) => "s.status = 2 AND s.lease_until < ?1",
            (Self::Leased, true) => "s.status = 2 AND ?1 = ?1",
        }
    }
}

impl SqliteStore {
    async fn sweep_rows(&self, stale: Stale, now: Timestamp, everything: bool) -> StoreResult<u32> {
        const NAME: &str = "sweep";
        let mut total = 0;
        loop {
            let mut tx = self.write(NAME).await?;
            let condition = stale.condition(everything);
            let found = sqlx::query(sqlx::AssertSqlSafe(format!(
                "/* penstock:sweep */ SELECT s.batch AS batch, json_group_array(s.number) AS numbers FROM \
                 (SELECT s.batch, s.number FROM row_state s JOIN batches b ON b.seq = s.batch WHERE {condition} \
                 AND (s.status = 2 OR b.cancelled_at IS NULL) LIMIT {SWEEP_STEP}) s GROUP BY s.batch ORDER BY s.batch"
            )))
            .bind(now.millis())
            .fetch_all(&mut *tx)
            .await
            .map_err(store_error(NAME))?;
            if found.is_empty() {
                return Ok(total);
            }
            for row in &found {
                let seq = BatchSeq(row.get("batch"));
                let Some(mut batch) = ledgers::read(&mut tx, seq, NAME).await? else { continue };
                if matches!(stale, Stale::Queued) && batch.ledger.cancelled_at.is_some() {
                    continue;
                }
                let read_revision = batch.ledger.revision;
                let done = sqlx::query(sqlx::AssertSqlSafe(format!(
                    "/* penstock:sweep */ UPDATE row_state AS s SET status = 0, not_before = ?1, lease_token = NULL, \
                     lease_holder = NULL, lease_until = NULL, queued_until = NULL \
                     WHERE s.batch = ?2 AND s.number IN (SELECT value FROM json_each(?3)) AND {condition}"
                )))
                .bind(now.millis())
                .bind(seq.0)
                .bind(row.get::<String, _>("numbers"))
                .execute(&mut *tx)
                .await
                .map_err(store_error(NAME))?;
                let rows = u32::try_from(done.rows_affected()).unwrap_or(u32::MAX);
                let events = match stale {
                    Stale::Queued => {
                        batch.ledger.unqueue(rows).map_err(overdrawn(seq))?;
                        Vec::new()
                    }
                    Stale::Leased => {
                        let tally = Tally { given_back: rows, ..Tally::default() };
                        batch.ledger.settle(tally, now).map_err(overdrawn(seq))?
                    }
                };
                ledgers::write(&mut tx, &batch, read_revision, &events, now, NAME).await?;
                total += rows;
            }
            commit(tx, NAME).await?;
        }
    }

    async fn sweep_finishes(&self, now: Timestamp) -> StoreResult<u32> {
        const NAME: &str = "sweep_finish";
        let due: Vec<i64> = sqlx::query_scalar(
            "/* penstock:sweep_finish */ SELECT seq FROM batches WHERE status = 2 AND extracted AND pending = 0 \
             AND queued = 0 AND processing = 0",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(store_error(NAME))?;
        let mut finished = 0;
        for seq in due {
            let mut tx = self.write(NAME).await?;
            let Some(mut batch) = ledgers::read(&mut tx, BatchSeq(seq), NAME).await? else { continue };
            let read_revision = batch.ledger.revision;
            let events = batch.ledger.sweep_finish(now);
            if !events.is_empty() {
                ledgers::write(&mut tx, &batch, read_revision, &events, now, NAME).await?;
                commit(tx, NAME).await?;
                finished += 1;
            }
        }
        Ok(finished)
    }

    async fn stuck_rows(&self, query: &'static str, now: Timestamp) -> StoreResult<Vec<StuckRows>> {
        let rows = sqlx::query(query)
            .bind(now.millis())
            .fetch_all(&self.readers)
            .await
            .map_err(store_error("sweep_plan"))?;
        Ok(rows
            .iter()
            .map(|row| {
                let c = Columns(row);
                StuckRows { batch: BatchId(c.uuid("id")), rows: c.u32("rows") }
            })
            .collect())
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
             AND (status = 1 OR created_at < ?2 OR ?3) ORDER BY seq LIMIT 1000",
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
        if everything {
            sqlx::query("/* penstock:sweep */ UPDATE batches SET extract_token = NULL, extract_holder = NULL, extract_until = NULL WHERE extract_token IS NOT NULL")
                .execute(&self.writer)
                .await
                .map_err(store_error("sweep"))?;
        }
        Ok(Swept {
            lost_rows: self.sweep_rows(Stale::Queued, now, everything).await?,
            expired_rows: self.sweep_rows(Stale::Leased, now, everything).await?,
            finished: self.sweep_finishes(now).await?,
            extractions: self.dead_extractions(now, extraction_grace_ms, everything).await?,
        })
    }

    async fn sweep_plan(&self, now: Timestamp, extraction_grace_ms: i64) -> StoreResult<SweepPlan> {
        const NAME: &str = "sweep_plan";
        let lost_rows = self
            .stuck_rows(
                "/* penstock:sweep_plan */ SELECT b.id, count(*) AS rows FROM row_state s JOIN batches b ON b.seq = s.batch \
                 WHERE s.status = 1 AND s.queued_until < ?1 AND b.cancelled_at IS NULL GROUP BY b.id, b.seq ORDER BY b.seq",
                now,
            )
            .await?;
        let expired_rows = self
            .stuck_rows(
                "/* penstock:sweep_plan */ SELECT b.id, count(*) AS rows FROM row_state s JOIN batches b ON b.seq = s.batch \
                 WHERE s.status = 2 AND s.lease_until < ?1 GROUP BY b.id, b.seq ORDER BY b.seq",
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
            finished: finished.iter().map(|row| BatchId(Columns(row).uuid("id"))).collect(),
            extractions: self
                .batches_by_seq(&dead)
                .await?
                .into_iter()
                .map(|batch| (batch.seq, batch.id))
                .collect(),
        })
    }

    async fn loads(&self, batches_per_owner: u32) -> StoreResult<Vec<OwnerLoad>> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "/* penstock:loads */ {} WHERE b.status = 2 ORDER BY o.served_at, o.seq, b.priority DESC, b.served_at, b.seq",
            ledgers::SELECT.replace("o.name AS owner_name", "o.name AS owner_name, o.rows AS owner_rows, o.weight AS owner_weight")
        )))
        .fetch_all(&self.readers)
        .await
        .map_err(store_error("loads"))?;
        let mut loads: Vec<OwnerLoad> = Vec::new();
        for row in &rows {
            let batch = ledgers::batch(row)?;
            let c = Columns(row);
            if loads.last().is_none_or(|load| load.owner != batch.owner) {
                loads.push(OwnerLoad {
                    owner: batch.owner,
                    name: batch.owner_name.clone(),
                    rows: c.opt_u32("owner_rows"),
                    weight: c.u32("owner_weight"),
                    in_flight: 0,
                    in_flight_by_pipeline: Vec::new(),
                    batches: Vec::new(),
                });
            }
            let Some(load) = loads.last_mut() else { continue };
            let in_flight = batch.ledger.counts.queued + batch.ledger.counts.processing;
            load.in_flight += in_flight;
            match load.in_flight_by_pipeline.iter_mut().find(|(pipeline, _)| *pipeline == batch.pipeline) {
                Some((_, rows)) => *rows += in_flight,
                None => load.in_flight_by_pipeline.push((batch.pipeline.clone(), in_flight)),
            }
            let (fresh, returned) = (batch.ledger.fresh(), batch.ledger.returned());
            let open = batch.ledger.claimable() && fresh + returned > 0;
            if open && load.batches.len() < batches_per_owner as usize {
                load.batches.push(BatchLoad {
                    batch: batch.seq,
                    id: batch.id,
                    pipeline: batch.pipeline,
                    priority: batch.priority,
                    in_flight,
                    fresh,
                    returned,
                });
            }
        }
        loads.retain(|load| !load.batches.is_empty());
        Ok(loads)
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
                 AND status = 0 AND (not_before IS NULL OR not_before <= ?2) ORDER BY not_before LIMIT ?4) \
                 RETURNING number",
            )
            .bind(take.batch.0)
            .bind(now.millis())
            .bind(lost_after.millis())
            .bind(take.rows)
            .fetch_all(&mut *tx)
            .await
            .map_err(store_error(NAME))?;
            let mut numbers: Vec<u32> = returned.iter().map(|row| Columns(row).u32("number")).collect();
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
                     WHERE true ON CONFLICT DO NOTHING RETURNING number",
                )
                .bind(take.batch.0)
                .bind(first)
                .bind(wanted)
                .bind(lost_after.millis())
                .fetch_all(&mut *tx)
                .await
                .map_err(store_error(NAME))?;
                let made: Vec<u32> = made.iter().map(|row| Columns(row).u32("number")).collect();
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
                all.push(Released { batch: take.batch, numbers });
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
