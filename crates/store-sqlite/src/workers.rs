//! Processes that hold rows: heartbeats, looks, burials, and what comes back.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use penstock_domain::ids::{BatchSeq, LeaseToken, RowRef};
use penstock_domain::outcome::code;
use penstock_domain::row::{MOST_CRASHES, RowStatus};
use penstock_domain::time::Timestamp;
use penstock_store::StoreResult;
use penstock_store::decode::Columns as _;
use penstock_store::settling::{Held, Moved};
use penstock_store::workers::{
    CLOCK_MOVES, ComeBack, LOOK_GAP_MS, NewWorker, Reclaimed, Requeued, SET_BACK_MS, WorkerKind, WorkerLoad,
    WorkerRecord, Workers,
};
use serde_json::json;
use sqlx::Row as _;

use crate::convert::Columns;
use crate::error::store_error;
use crate::{SqliteStore, commit, ledgers};

/// This machine's clock as the database reads it, in milliseconds.
const NOW: &str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";

/// A row whose process is gone. Programs of older schemas have no record, and write `lease_until` instead.
pub(crate) const ORPHAN: &str = "s.status = 2 AND (s.lease_until IS NULL OR s.lease_until < ?1) \
    AND NOT EXISTS (SELECT 1 FROM workers w WHERE w.name = s.lease_holder)";

/// Rows that come back in one transaction.
const STEP: i64 = 2000;

/// Which rows of a batch come back.
struct Back<'a> {
    /// A JSON list.
    numbers: &'a str,
    /// Of their own process's wish: the leases that it lets go, a JSON list. None: of processes that are gone.
    tokens: Option<&'a str>,
    how: ComeBack,
}

#[async_trait]
impl Workers for SqliteStore {
    async fn register_worker(&self, worker: &NewWorker<'_>) -> StoreResult<()> {
        // Needs no lock, unlike with PostgreSQL: there is one writer at a time, so nobody takes rows back meanwhile.
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "/* penstock:register_worker */ INSERT INTO workers (name, kind, version, started_at, beat_at, silence_ms, \
             looks, looked_at, in_flight, waiting) VALUES (?1, ?2, ?3, {NOW}, {NOW}, ?4, 0, {NOW}, 0, 0) \
             ON CONFLICT (name) DO UPDATE SET beat_at = excluded.beat_at, looks = 0, silence_ms = excluded.silence_ms"
        )))
        .bind(worker.name)
        .bind(worker.kind.code())
        .bind(worker.version)
        .bind(millis(worker.silence))
        .execute(&self.writer)
        .await
        .map_err(store_error("register_worker"))?;
        Ok(())
    }

    async fn beat(&self, name: &str, load: WorkerLoad) -> StoreResult<bool> {
        let done = sqlx::query(sqlx::AssertSqlSafe(format!(
            "/* penstock:beat */ UPDATE workers SET beat_at = {NOW}, looks = 0, in_flight = ?2, waiting = ?3 WHERE name = ?1"
        )))
        .bind(name)
        .bind(load.in_flight)
        .bind(load.waiting)
        .execute(&self.writer)
        .await
        .map_err(store_error("beat"))?;
        Ok(done.rows_affected() == 1)
    }

    async fn look(&self) -> StoreResult<Vec<String>> {
        // A clock that was set back shows less than the last look, and counts at once.
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "/* penstock:look */ UPDATE workers SET looks = looks + 1, looked_at = {NOW} \
             WHERE looked_at <= {NOW} - {LOOK_GAP_MS} OR looked_at > {NOW}"
        )))
        .execute(&self.writer)
        .await
        .map_err(store_error("look"))?;
        sqlx::query_scalar(
            "/* penstock:look */ SELECT name FROM workers WHERE looks * 1000 > silence_ms ORDER BY name",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(store_error("look"))
    }

    async fn bury(&self, name: &str) -> StoreResult<bool> {
        const NAME: &str = "bury";
        let mut tx = self.write(NAME).await?;
        let gone = sqlx::query(
            "/* penstock:bury */ DELETE FROM workers WHERE name = ?1 AND looks * 1000 > silence_ms",
        )
        .bind(name)
        .execute(&mut *tx)
        .await
        .map_err(store_error(NAME))?
        .rows_affected();
        if gone == 0 {
            return Ok(false);
        }
        sqlx::query(
            "/* penstock:bury */ UPDATE batches SET extract_token = NULL, extract_holder = NULL, extract_until = NULL \
             WHERE status IN (0, 1) AND extract_holder = ?1",
        )
        .bind(name)
        .execute(&mut *tx)
        .await
        .map_err(store_error(NAME))?;
        commit(tx, NAME).await?;
        Ok(true)
    }

    async fn leave(&self, name: &str) -> StoreResult<()> {
        sqlx::query("/* penstock:leave */ DELETE FROM workers WHERE name = ?1")
            .bind(name)
            .execute(&self.writer)
            .await
            .map_err(store_error("leave"))?;
        Ok(())
    }

    async fn bury_services(&self) -> StoreResult<()> {
        const NAME: &str = "bury_services";
        let mut tx = self.write(NAME).await?;
        for statement in [
            "/* penstock:bury_services */ DELETE FROM workers WHERE kind = 0",
            "/* penstock:bury_services */ UPDATE row_state SET lease_until = NULL WHERE status = 2 AND lease_until IS NOT NULL",
            "/* penstock:bury_services */ UPDATE batches SET extract_token = NULL, extract_holder = NULL, \
             extract_until = NULL WHERE extract_token IS NOT NULL",
        ] {
            sqlx::query(statement).execute(&mut *tx).await.map_err(store_error(NAME))?;
        }
        commit(tx, NAME).await
    }

    async fn workers(&self) -> StoreResult<Vec<WorkerRecord>> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "/* penstock:workers */ SELECT name, kind, version, started_at, beat_at, silence_ms, looks, in_flight, waiting, \
             max({NOW} - beat_at, 0) AS silent_ms FROM workers ORDER BY name"
        )))
        .fetch_all(&self.readers)
        .await
        .map_err(store_error("workers"))?;
        rows.iter()
            .map(|row| {
                let c = Columns::of("workers", row);
                Ok(WorkerRecord {
                    name: c.text("name")?,
                    kind: c.code("kind", WorkerKind::from_code)?,
                    version: c.text("version")?,
                    started_at: c.time("started_at")?,
                    beat_at: c.time("beat_at")?,
                    silence: Duration::from_millis(c.u64("silence_ms")?),
                    looks: c.u32("looks")?,
                    silent_for: Duration::from_millis(c.u64("silent_ms")?),
                    load: WorkerLoad { in_flight: c.u32("in_flight")?, waiting: c.u32("waiting")? },
                })
            })
            .collect()
    }

    async fn held_by(&self, name: &str) -> StoreResult<Vec<Held>> {
        let rows = sqlx::query(
            "/* penstock:held_by */ SELECT batch, number, lease_token FROM row_state WHERE status = 2 AND lease_holder = ?1",
        )
        .bind(name)
        .fetch_all(&self.readers)
        .await
        .map_err(store_error("held_by"))?;
        let held = rows.iter().map(|row| {
            let c = Columns::of("row_state", row);
            let row = RowRef { batch: BatchSeq(c.i64("batch")?), number: c.u32("number")? };
            Ok((row, LeaseToken(c.uuid("lease_token")?)))
        });
        Ok(held.filter_map(readable).collect())
    }

    async fn reclaim(&self, back: ComeBack, now: Timestamp) -> StoreResult<Reclaimed> {
        const NAME: &str = "reclaim";
        let mut total = Reclaimed::default();
        let mut passed: Vec<i64> = Vec::new();
        loop {
            let found = sqlx::query(sqlx::AssertSqlSafe(format!(
                "/* penstock:reclaim */ SELECT o.batch AS batch, json_group_array(o.number) AS numbers FROM \
                 (SELECT s.batch, s.number FROM row_state s WHERE {ORPHAN} AND s.batch NOT IN (SELECT value FROM json_each(?2)) LIMIT {STEP}) o \
                 GROUP BY o.batch ORDER BY o.batch"
            )))
            .bind(now.millis())
            .bind(json!(passed).to_string())
            .fetch_all(&self.readers)
            .await
            .map_err(store_error(NAME))?;
            if found.is_empty() {
                return Ok(total);
            }
            for row in &found {
                let seq = BatchSeq(row.get("batch"));
                let numbers: String = row.get("numbers");
                let wanted = Back { numbers: &numbers, tokens: None, how: back };
                match self.take_back(seq, &wanted, now, NAME).await {
                    // Somebody else was faster, with all of them.
                    Ok(reclaimed) if reclaimed.rows() == 0 => passed.push(seq.0),
                    Ok(reclaimed) => total.add(reclaimed),
                    Err(error) if error.is_one_batchs() => {
                        passed.push(seq.0);
                        total.leave_alone(seq, &error);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }

    async fn let_go(&self, rows: &[Held], back: ComeBack, now: Timestamp) -> StoreResult<Reclaimed> {
        const NAME: &str = "let_go";
        let tokens = json!(rows.iter().map(|(_, token)| token.0.to_string()).collect::<Vec<_>>()).to_string();
        let mut batches: BTreeMap<BatchSeq, Vec<u32>> = BTreeMap::new();
        for (row, _) in rows {
            batches.entry(row.batch).or_default().push(row.number);
        }
        let mut total = Reclaimed::default();
        for (seq, numbers) in batches {
            let numbers = json!(numbers).to_string();
            let wanted = Back { numbers: &numbers, tokens: Some(&tokens), how: back };
            match self.take_back(seq, &wanted, now, NAME).await {
                Ok(reclaimed) => total.add(reclaimed),
                Err(error) if error.is_one_batchs() => total.leave_alone(seq, &error),
                Err(error) => return Err(error),
            }
        }
        Ok(total)
    }

    async fn follow_clock(&self) -> StoreResult<Option<Duration>> {
        const NAME: &str = "follow_clock";
        let shown: (i64, i64) = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "/* penstock:follow_clock */ SELECT latest, {NOW} FROM database_clock"
        )))
        .fetch_one(&self.readers)
        .await
        .map_err(store_error(NAME))?;
        if shown.0 > shown.1 + SET_BACK_MS {
            return Ok(Some(Duration::from_millis(u64::try_from(shown.0 - shown.1).unwrap_or(0))));
        }
        if shown.0 + LOOK_GAP_MS < shown.1 {
            sqlx::query(
                "/* penstock:follow_clock */ UPDATE database_clock SET latest = ?1 WHERE latest < ?1",
            )
            .bind(shown.1)
            .execute(&self.writer)
            .await
            .map_err(store_error(NAME))?;
        }
        Ok(None)
    }

    async fn move_deadlines(&self) -> StoreResult<Option<Duration>> {
        // The only writer meets nobody.
        const NAME: &str = "follow_clock";
        let mut tx = self.write(NAME).await?;
        let shown: (i64, i64) = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "/* penstock:follow_clock */ SELECT latest, {NOW} FROM database_clock"
        )))
        .fetch_one(&mut *tx)
        .await
        .map_err(store_error(NAME))?;
        let back = shown.0 - shown.1;
        if back <= SET_BACK_MS {
            return Ok(None);
        }
        for statement in CLOCK_MOVES {
            sqlx::query(sqlx::AssertSqlSafe(format!("/* penstock:follow_clock */ {statement}")))
                .bind(shown.1)
                .bind(back)
                .execute(&mut *tx)
                .await
                .map_err(store_error(NAME))?;
        }
        sqlx::query("/* penstock:follow_clock */ UPDATE database_clock SET latest = ?1")
            .bind(shown.1)
            .execute(&mut *tx)
            .await
            .map_err(store_error(NAME))?;
        commit(tx, NAME).await?;
        Ok(Some(Duration::from_millis(u64::try_from(back).unwrap_or(0))))
    }
}

impl SqliteStore {
    /// Takes rows of a batch back, as far as they still are where they were found.
    async fn take_back(
        &self,
        seq: BatchSeq,
        back: &Back<'_>,
        now: Timestamp,
        name: &'static str,
    ) -> StoreResult<Reclaimed> {
        let mut tx = self.write(name).await?;
        let Some(batch) = ledgers::read(&mut tx, seq, name).await? else { return Ok(Reclaimed::default()) };
        let mut moved = Moved::new(batch);
        let lost_after = match back.how {
            ComeBack::Queued { lost_after } if moved.batch.ledger.claimable() => Some(lost_after),
            ComeBack::Queued { .. } | ComeBack::Pending => None,
        };
        let condition = match back.tokens {
            None => ORPHAN,
            Some(_) => "s.status = 2 AND s.lease_token IN (SELECT value FROM json_each(?8))",
        };
        let ends = "s.asked IS NOT NULL OR s.crashes + ?6 >= ?7";
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "/* penstock:{name} */ UPDATE row_state AS s SET status = CASE WHEN {ends} THEN 4 ELSE ?4 END, \
             code = CASE WHEN s.asked IS NOT NULL THEN '{}' WHEN {ends} THEN '{}' ELSE s.code END, \
             step = CASE WHEN {ends} THEN s.asked ELSE s.step END, \
             http_status = CASE WHEN {ends} THEN NULL ELSE s.http_status END, \
             attempts = s.attempts + CASE WHEN {ends} THEN 1 ELSE 0 END, \
             crashes = s.crashes + ?6, asked = NULL, \
             not_before = CASE WHEN {ends} OR ?4 = 1 THEN NULL ELSE ?1 END, \
             queued_until = CASE WHEN {ends} THEN NULL ELSE ?5 END, \
             lease_token = NULL, lease_holder = NULL, lease_until = NULL \
             WHERE s.batch = ?2 AND s.number IN (SELECT value FROM json_each(?3)) AND {condition} \
             RETURNING number, status, code, crashes",
            code::OUTCOME_UNKNOWN,
            code::WORKER_CRASHED
        )))
        .bind(now.millis())
        .bind(seq.0)
        .bind(back.numbers)
        .bind(if lost_after.is_some() { RowStatus::Queued.code() } else { RowStatus::Pending.code() })
        .bind(lost_after.map(Timestamp::millis))
        .bind(i16::from(back.tokens.is_none()))
        .bind(MOST_CRASHES)
        .bind(back.tokens.unwrap_or("[]"))
        .fetch_all(&mut *tx)
        .await
        .map_err(store_error(name))?;
        let mut reclaimed = Reclaimed::default();
        let mut first_failed: Option<u32> = None;
        for row in &rows {
            let c = Columns::of("row_state", row);
            let number = c.u32("number")?;
            if c.code("status", RowStatus::from_code)? != RowStatus::Failed {
                let row = RowRef { batch: seq, number };
                reclaimed.requeued.push(Requeued { row, crashes: c.u16("crashes")? });
                continue;
            }
            first_failed = first_failed.into_iter().chain([number]).min();
            if c.opt_text("code")?.as_deref() == Some(code::WORKER_CRASHED) {
                reclaimed.crashed += 1;
            } else {
                reclaimed.unknown += 1;
            }
        }
        if lost_after.is_none() {
            reclaimed.pending =
                u32::try_from(std::mem::take(&mut reclaimed.requeued).len()).unwrap_or(u32::MAX);
        }
        let requeued = u32::try_from(reclaimed.requeued.len()).unwrap_or(u32::MAX);
        let failed = reclaimed.crashed + reclaimed.unknown;
        moved.take_back(requeued, reclaimed.pending, failed, first_failed, now)?;
        ledgers::write(&mut tx, &moved.batch, moved.read_revision, &moved.events, now, name).await?;
        commit(tx, name).await?;
        Ok(reclaimed)
    }
}

/// A row that cannot be read is nobody's: it is left out, so that its process can go on with the others.
fn readable(row: StoreResult<Held>) -> Option<Held> {
    row.inspect_err(|error| tracing::error!(%error, "a row in flight cannot be read and is left out")).ok()
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
