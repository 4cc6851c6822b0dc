//! Processes that hold rows: heartbeats, looks, burials, and what comes back.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use penstock_domain::ids::{BatchSeq, RowRef};
use penstock_domain::outcome::code;
use penstock_domain::row::{MOST_CRASHES, RowStatus};
use penstock_domain::time::Timestamp;
use penstock_store::StoreResult;
use penstock_store::settling::Moved;
use penstock_store::work::Held;
use penstock_store::workers::{
    CallWait, ComeBack, LOOK_GAP_MS, NewWorker, Reclaimed, Requeued, SET_BACK_MS, WorkerKind, WorkerLoad,
    WorkerRecord, Workers,
};

use crate::sweep::{STEP, Steps, numbers_by_batch};
use crate::work::{count, held_row};
use crate::{Row, SqlStore, Statement, Value, ledgers, list, sql};

/// A row whose process is gone. Programs of older schemas have no record, and write `lease_until` instead.
const ORPHAN: &str = " AND (s.lease_until IS NULL OR s.lease_until < $1) \
    AND NOT EXISTS (SELECT 1 FROM workers w WHERE w.name = s.lease_holder)";

/// Moves every deadline that is stored, when the clock was set back: `?1` is what the clock shows now, `?2` by how much it was
/// set back. All that lies ahead of it was written before, but for what was written in the last moment: that is due at once.
/// Moments of the past that order owners and batches, or space callbacks, become the present.
const CLOCK_MOVES: [&str; 13] = [
    "UPDATE row_state SET not_before = not_before - $2 WHERE status = {row pending} AND not_before > $1",
    "UPDATE row_state SET queued_until = queued_until - $2 WHERE status = {row queued} AND queued_until > $1",
    "UPDATE row_state SET expires_at = expires_at - $2 WHERE status IN ({row pending}, {row queued}) AND expires_at > $1",
    "UPDATE batch_faults SET seen_at = $1 WHERE seen_at > $1",
    "UPDATE batches SET extract_until = extract_until - $2 WHERE status IN ({batch pending}, {batch processing}) AND extract_until > $1",
    "UPDATE batches SET served_at = $1 WHERE status = {batch queued} AND served_at > $1",
    "UPDATE batches SET progress_said_at = $1 WHERE status = {batch queued} AND progress_said_at > $1",
    "UPDATE owners SET served_at = $1 WHERE served_at > $1",
    "UPDATE callbacks SET next_at = next_at - $2 WHERE status = {callback pending} AND next_at > $1",
    "UPDATE callbacks SET lease_until = lease_until - $2 WHERE status = {callback pending} AND lease_until > $1",
    "UPDATE alerts SET next_at = next_at - $2 WHERE next_at > $1",
    "UPDATE alerts SET lease_until = lease_until - $2 WHERE lease_until > $1",
    "UPDATE workers SET beat_at = $1 WHERE beat_at > $1",
];

/// No calls wait.
const NO_CALL_WAITS: &str = "[]";

/// Which rows of a batch come back.
struct Back<'a> {
    numbers: Vec<i64>,
    /// Of their own process's wish: the leases that it lets go. None: of processes that are gone.
    tokens: Option<&'a [uuid::Uuid]>,
    how: ComeBack,
}

#[async_trait]
impl Workers for SqlStore {
    async fn register_worker(&self, worker: &NewWorker<'_>) -> StoreResult<()> {
        // Who takes rows back shares the lock of all records of processes, who records a process has it alone: a statement that
        // takes rows back sees the records of the moment when it began, so it could take rows from a process that is recorded
        // again meanwhile and has made sure that they are its own. So whoever is recorded waits for those that are taking,
        // and whoever takes later sees the record. It is taken before any other lock, so that nobody waits in a circle.
        let mut tx = self.db.write("register_worker").await?;
        tx.lock(sql("worker_lock_all", "SELECT {lock_workers}")).await?;
        let statement = sql(
            "worker_put",
            "INSERT INTO workers (name, kind, version, started_at, beat_at, silence_ms, looks, looked_at, in_flight, waiting) \
             SELECT $1, $2, $3, t.now, t.now, $4, 0, t.now, 0, 0 FROM (SELECT {now} AS now) AS t WHERE true \
             ON CONFLICT (name) DO UPDATE SET beat_at = excluded.beat_at, looks = 0, silence_ms = excluded.silence_ms",
        );
        let silence = i64::try_from(worker.silence.as_millis()).unwrap_or(i64::MAX);
        let statement =
            statement.bind(worker.name).bind(worker.kind.code()).bind(worker.version).bind(silence);
        tx.execute(statement).await?;
        tx.commit().await
    }

    async fn beat(&self, name: &str, load: WorkerLoad) -> StoreResult<bool> {
        let statement = sql(
            "worker_set_beat",
            "UPDATE workers SET beat_at = {now}, looks = 0, in_flight = $2, waiting = $3 WHERE name = $1",
        );
        Ok(self.db.execute(statement.bind(name).bind(load.in_flight).bind(load.waiting)).await? == 1)
    }

    async fn set_call_waits(&self, name: &str, waits: &[CallWait]) -> StoreResult<()> {
        let statement = sql("worker_set_call_waits", "UPDATE workers SET call_waits = $2 WHERE name = $1");
        let waits = serde_json::to_string(waits).unwrap_or_else(|_| NO_CALL_WAITS.to_owned());
        self.db.execute(statement.bind(name).bind(waits)).await.map(|_| ())
    }

    async fn call_waits(&self) -> StoreResult<Vec<CallWait>> {
        let statement =
            sql("worker_list_call_waits", "SELECT name, call_waits FROM workers WHERE call_waits <> $1");
        let mut waits = Vec::new();
        for row in self.db.fetch(statement.bind(NO_CALL_WAITS)).await? {
            let c = row.of("workers");
            let stored = c.text("call_waits")?;
            let of_one: Vec<CallWait> =
                serde_json::from_str(&stored).map_err(|_| c.inconsistent("call_waits"))?;
            waits.extend(of_one);
        }
        Ok(waits)
    }

    async fn look(&self) -> StoreResult<Vec<String>> {
        // Records that another process is just writing to are passed over, so that lookers never wait for each other. A clock
        // that was set back shows less than the last look, and counts at once.
        let look = sql(
            "worker_look",
            "WITH due AS (SELECT name, {now} AS now FROM workers WHERE looked_at <= {now} - $1 OR looked_at > {now} \
             {lock_free workers}) UPDATE workers AS w SET looks = w.looks + 1, looked_at = due.now FROM due \
             WHERE w.name = due.name",
        );
        self.db.execute(look.bind(LOOK_GAP_MS)).await?;
        let silent = sql(
            "worker_list_silent",
            "SELECT name FROM workers WHERE CAST(looks AS BIGINT) * 1000 > silence_ms ORDER BY name",
        );
        self.db.fetch(silent).await?.iter().map(|row| row.of("workers").text("name")).collect()
    }

    async fn bury(&self, name: &str) -> StoreResult<bool> {
        let mut tx = self.db.write("bury").await?;
        let gone = sql(
            "worker_delete_if_silent",
            "DELETE FROM workers WHERE name = $1 AND CAST(looks AS BIGINT) * 1000 > silence_ms",
        );
        if tx.execute(gone.bind(name)).await? == 0 {
            return Ok(false);
        }
        let extractions = sql(
            "batch_end_extractions_of",
            "UPDATE batches SET extract_token = NULL, extract_holder = NULL, extract_until = NULL \
             WHERE status IN ({batch pending}, {batch processing}) AND extract_holder = $1",
        );
        tx.execute(extractions.bind(name)).await?;
        tx.commit().await?;
        Ok(true)
    }

    async fn leave(&self, name: &str) -> StoreResult<()> {
        let statement = sql("worker_delete", "DELETE FROM workers WHERE name = $1");
        self.db.execute(statement.bind(name)).await.map(|_| ())
    }

    async fn bury_services(&self) -> StoreResult<()> {
        let mut tx = self.db.write("bury_services").await?;
        let services = sql("worker_delete_services", "DELETE FROM workers WHERE kind = $1");
        tx.execute(services.bind(WorkerKind::Worker.code())).await?;
        let rows = sql(
            "row_clear_lease_until",
            "UPDATE row_state SET lease_until = NULL WHERE status = {row processing} AND lease_until IS NOT NULL",
        );
        tx.execute(rows).await?;
        let extractions = sql(
            "batch_end_extractions",
            "UPDATE batches SET extract_token = NULL, extract_holder = NULL, extract_until = NULL \
             WHERE extract_token IS NOT NULL",
        );
        tx.execute(extractions).await?;
        tx.commit().await
    }

    async fn workers(&self) -> StoreResult<Vec<WorkerRecord>> {
        let statement = sql(
            "worker_list",
            "SELECT name, kind, version, started_at, beat_at, silence_ms, looks, in_flight, waiting, \
             CASE WHEN {now} > beat_at THEN {now} - beat_at ELSE 0 END AS silent_ms FROM workers ORDER BY name",
        );
        let worker = |row: &Row| {
            let c = row.of("workers");
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
        };
        self.db.fetch(statement).await?.iter().map(worker).collect()
    }

    async fn held_by(&self, name: &str) -> StoreResult<Vec<Held>> {
        let statement = sql(
            "row_list_held_by",
            "SELECT batch, number, lease_token FROM row_state WHERE status = {row processing} AND lease_holder = $1",
        );
        // A row that cannot be read is nobody's: it is left out, so that its process can go on with the others.
        let readable = |row: &Row| {
            let held = held_row(row);
            held.inspect_err(
                |error| tracing::error!(%error, "a row in flight cannot be read and is left out"),
            )
            .ok()
        };
        Ok(self.db.fetch(statement.bind(name)).await?.iter().filter_map(readable).collect())
    }

    async fn reclaim(&self, back: ComeBack, now: Timestamp) -> StoreResult<Reclaimed> {
        let (mut steps, mut total) = (Steps::default(), Reclaimed::default());
        loop {
            let statement = sql(
                "row_list_orphans",
                "SELECT s.batch, s.number FROM row_state s WHERE s.status = {row processing} AND NOT (s.batch {in $2})",
            );
            let statement = statement.bind(now).bind(steps.passed());
            let statement = statement.push(ORPHAN).push_bind(" LIMIT $?", STEP);
            let found = numbers_by_batch(&self.db.fetch(statement).await?)?;
            if found.is_empty() {
                return Ok(total);
            }
            for (seq, numbers) in found {
                let done =
                    self.take_back(seq, Back { numbers, tokens: None, how: back }, now, "reclaim").await;
                let reclaimed =
                    steps.note(seq, done, Reclaimed::rows, |seq, error| total.leave_alone(seq, error))?;
                total.add(reclaimed);
            }
        }
    }

    async fn let_go(&self, rows: &[Held], back: ComeBack, now: Timestamp) -> StoreResult<Reclaimed> {
        let tokens: Vec<uuid::Uuid> = rows.iter().map(|(_, token)| token.0).collect();
        let mut batches: BTreeMap<BatchSeq, Vec<i64>> = BTreeMap::new();
        for (row, _) in rows {
            batches.entry(row.batch).or_default().push(row.number.into());
        }
        let mut total = Reclaimed::default();
        for (seq, numbers) in batches {
            let wanted = Back { numbers, tokens: Some(&tokens), how: back };
            match self.take_back(seq, wanted, now, "let_go").await {
                Ok(reclaimed) => total.add(reclaimed),
                Err(error) if error.is_one_batchs() => total.leave_alone(seq, &error),
                Err(error) => return Err(error),
            }
        }
        Ok(total)
    }

    async fn follow_clock(&self) -> StoreResult<Option<Duration>> {
        let (latest, now) = shown(&self.db.fetch_one(sql("clock_get", CLOCK)).await?)?;
        if latest > now + SET_BACK_MS {
            return Ok(Some(millis(latest - now)));
        }
        if latest + LOOK_GAP_MS < now {
            let statement =
                sql("clock_set_if_later", "UPDATE database_clock SET latest = $1 WHERE latest < $1");
            self.db.execute(statement.bind(now)).await?;
        }
        Ok(None)
    }

    async fn move_deadlines(&self) -> StoreResult<Option<Duration>> {
        let mut tx = self.db.write("move_deadlines").await?;
        let clock = sql("clock_get_locked", CLOCK).push(" {lock database_clock}");
        let (latest, now) = shown(&tx.fetch_one(clock).await?)?;
        let back = latest - now;
        if back <= SET_BACK_MS {
            return Ok(None);
        }
        // Under the locks of all running batches, so that no other transaction is met in another order.
        let running = sql(
            "batch_lock_running",
            "SELECT seq FROM batches WHERE status IN ({batch pending}, {batch processing}, {batch queued}) \
             ORDER BY seq {lock batches}",
        );
        tx.lock(running).await?;
        for statement in CLOCK_MOVES {
            tx.execute(sql("clock_move_deadlines", statement).bind(now).bind(back)).await?;
        }
        tx.execute(sql("clock_set", "UPDATE database_clock SET latest = $1").bind(now)).await?;
        tx.commit().await?;
        Ok(Some(millis(back)))
    }
}

/// The latest time that the database's clock has shown, and what it shows now.
const CLOCK: &str = "SELECT latest, {now} AS now FROM database_clock";

fn shown(row: &Row) -> StoreResult<(i64, i64)> {
    let c = row.of("database_clock");
    Ok((c.i64("latest")?, c.i64("now")?))
}

fn millis(time: i64) -> Duration {
    Duration::from_millis(u64::try_from(time).unwrap_or(0))
}

impl SqlStore {
    /// Takes rows of a batch back, as far as they still are where they were found.
    async fn take_back(
        &self,
        seq: BatchSeq,
        back: Back<'_>,
        now: Timestamp,
        name: &'static str,
    ) -> StoreResult<Reclaimed> {
        let mut tx = self.db.write(name).await?;
        if back.tokens.is_none() {
            tx.lock(sql("worker_share_all", "SELECT {share_workers}")).await?;
        }
        let Some(batch) = ledgers::read(&mut tx, seq).await? else { return Ok(Reclaimed::default()) };
        let mut moved = Moved::new(batch);
        let lost_after = match back.how {
            ComeBack::Queued { lost_after } if moved.batch.ledger.claimable() => Some(lost_after),
            ComeBack::Queued { .. } | ComeBack::Pending => None,
        };
        let rows = tx.fetch(take_back_rows(seq, back, now, lost_after)).await?;
        let (reclaimed, first_failed) = summary(seq, &rows, lost_after.is_some())?;
        let failed = reclaimed.crashed + reclaimed.unknown;
        moved.take_back(count(reclaimed.requeued.len()), reclaimed.pending, failed, first_failed, now)?;
        ledgers::write(&mut tx, &moved.batch, moved.read_revision, &moved.events, now).await?;
        tx.commit().await?;
        Ok(reclaimed)
    }
}

fn take_back_rows<'a>(
    seq: BatchSeq,
    back: Back<'a>,
    now: Timestamp,
    lost_after: Option<Timestamp>,
) -> Statement<'a> {
    let statement = sql(
        "row_take_back_if_held",
        "UPDATE row_state AS s SET status = CASE WHEN {row_ends} THEN {row failed} ELSE $4 END, \
         code = CASE WHEN s.asked IS NOT NULL THEN $8 WHEN {row_ends} THEN $9 ELSE s.code END, \
         step = CASE WHEN {row_ends} THEN s.asked ELSE s.step END, \
         http_status = CASE WHEN {row_ends} THEN NULL ELSE s.http_status END, \
         attempts = s.attempts + CASE WHEN {row_ends} THEN 1 ELSE 0 END, \
         crashes = s.crashes + $6, asked = NULL, polling = s.polling AND NOT ({row_ends}), \
         not_before = CASE WHEN {row_ends} OR $4 = {row queued} THEN NULL ELSE $1 END, \
         queued_until = CASE WHEN {row_ends} THEN NULL ELSE $5 END, \
         lease_token = NULL, lease_holder = NULL, lease_until = NULL \
         WHERE s.batch = $2 AND s.number {in $3} AND s.status = {row processing}",
    );
    let status = if lost_after.is_some() { RowStatus::Queued } else { RowStatus::Pending };
    let statement = statement
        .bind(now)
        .bind(seq)
        .bind(list(back.numbers))
        .bind(status.code())
        .bind(lost_after)
        .bind(i16::from(back.tokens.is_none()))
        .bind(MOST_CRASHES)
        .bind(code::OUTCOME_UNKNOWN)
        .bind(code::WORKER_CRASHED);
    let statement = match back.tokens {
        None => statement.push(ORPHAN),
        Some(tokens) => statement.push_bind(" AND s.lease_token {in $?}", Value::Uuids(tokens)),
    };
    statement.push(" RETURNING number, status, code, crashes")
}

/// What became of the rows, and the lowest number of those that failed.
fn summary(seq: BatchSeq, rows: &[Row], queued: bool) -> StoreResult<(Reclaimed, Option<u32>)> {
    let mut reclaimed = Reclaimed::default();
    let mut first_failed: Option<u32> = None;
    for row in rows {
        let c = row.of("row_state");
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
    if !queued {
        reclaimed.pending = count(std::mem::take(&mut reclaimed.requeued).len());
    }
    Ok((reclaimed, first_failed))
}
