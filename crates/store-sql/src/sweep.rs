//! The sweep: what a run fixes before it releases rows.

use std::collections::BTreeMap;

use penstock_domain::ids::{BatchId, BatchSeq};
use penstock_domain::time::Timestamp;
use penstock_store::batches::Batches as _;
use penstock_store::dispatch::{StuckRows, SweepPlan, Swept};
use penstock_store::{StoreError, StoreResult, overdrawn};

use crate::{Row, SqlStore, Statement, Value, ledgers, list, sql};

/// Rows that are looked for at a time; a batch's among them are fixed in one transaction.
pub(crate) const STEP: u32 = 2000;

/// Numbers of rows that were found, by their batch. As they are stored: a number that is not valid is its own batch's
/// error, and does not stop the rows of others.
pub(crate) fn numbers_by_batch(rows: &[Row]) -> StoreResult<BTreeMap<BatchSeq, Vec<i64>>> {
    let mut grouped: BTreeMap<BatchSeq, Vec<i64>> = BTreeMap::new();
    for row in rows {
        let c = row.of("row_state");
        grouped.entry(BatchSeq(c.i64("batch")?)).or_default().push(c.i64("number")?);
    }
    Ok(grouped)
}

/// What a sweep works through in steps, a batch a transaction: one with an error of its own holds up no other.
#[derive(Default)]
pub(crate) struct Steps {
    /// Batches that are left alone from now on.
    passed: Vec<BatchSeq>,
}

impl Steps {
    /// The batches that are left alone, for `{in $n}`.
    pub(crate) fn passed<'a>(&self) -> Value<'a> {
        list(self.passed.iter().map(|seq| seq.0))
    }

    /// Notes what a step did for a batch, to how many `rows`. None: somebody else was faster, with all of them, and what
    /// is left can wait for the next sweep. A batch with an error [of its own](StoreError::is_one_batchs) is given to
    /// `leave_alone`.
    pub(crate) fn note<T: Default>(
        &mut self,
        seq: BatchSeq,
        done: StoreResult<T>,
        rows: impl Fn(&T) -> u32,
        leave_alone: impl FnOnce(BatchSeq, &StoreError),
    ) -> StoreResult<T> {
        match done {
            Ok(done) => {
                if rows(&done) == 0 {
                    self.passed.push(seq);
                }
                Ok(done)
            }
            Err(error) if error.is_one_batchs() => {
                self.passed.push(seq);
                leave_alone(seq, &error);
                Ok(T::default())
            }
            Err(error) => Err(error),
        }
    }
}

impl SqlStore {
    pub(crate) async fn sweep_all(
        &self,
        now: Timestamp,
        extraction_grace_ms: i64,
        everything: bool,
    ) -> StoreResult<Swept> {
        // Queued rows of cancelled batches stay as they are, and are looked at only once.
        let cancelled = sql(
            "row_forget_if_cancelled",
            "UPDATE row_state AS s SET queued_until = NULL FROM batches b WHERE s.status = {row queued} \
             AND s.queued_until < $1 AND b.seq = s.batch AND b.cancelled_at IS NOT NULL",
        );
        let mut tx = self.db.begin("sweep", crate::Kind::Long).await?;
        tx.execute(cancelled.bind(now)).await?;
        tx.commit().await?;
        let extractions = self.dead_extractions(now, extraction_grace_ms, everything).await?;
        let mut swept = Swept { extractions, ..Swept::default() };
        self.sweep_lost(now, everything, &mut swept).await?;
        self.sweep_finishes(now, &mut swept).await?;
        Ok(swept)
    }

    pub(crate) async fn plan_sweep(
        &self,
        now: Timestamp,
        extraction_grace_ms: i64,
    ) -> StoreResult<SweepPlan> {
        let lost = sql(
            "row_count_lost",
            "SELECT b.id, count(*) AS rows, CAST(0 AS BIGINT) AS unknown FROM row_state s JOIN batches b ON b.seq = s.batch \
             WHERE s.status = {row queued} AND s.queued_until < $1 AND b.cancelled_at IS NULL \
             GROUP BY b.id, b.seq ORDER BY b.seq",
        );
        let expired = sql(
            "row_count_expired",
            "SELECT b.id, count(*) AS rows, count(s.asked) AS unknown FROM row_state s \
             JOIN batches b ON b.seq = s.batch LEFT JOIN workers w ON w.name = s.lease_holder \
             WHERE s.status = {row processing} AND coalesce(s.lease_until, w.beat_at + w.silence_ms, 0) < $1 \
             GROUP BY b.id, b.seq ORDER BY b.seq",
        );
        let dead = self.dead_extractions(now, extraction_grace_ms, false).await?;
        let finished = self.db.fetch(finished()).await?;
        Ok(SweepPlan {
            lost_rows: self.stuck_rows(lost.bind(now)).await?,
            expired_rows: self.stuck_rows(expired.bind(now)).await?,
            finished: finished
                .iter()
                .map(|row| Ok(BatchId(row.of("batches").uuid("id")?)))
                .collect::<StoreResult<_>>()?,
            extractions: self
                .batches_by_seq(&dead)
                .await?
                .into_iter()
                .map(|batch| (batch.seq, batch.id))
                .collect(),
        })
    }

    /// Sends queued rows that are lost back to pending.
    async fn sweep_lost(&self, now: Timestamp, everything: bool, swept: &mut Swept) -> StoreResult<()> {
        let mut steps = Steps::default();
        loop {
            let statement = sql(
                "row_list_lost",
                "SELECT s.batch, s.number FROM row_state s JOIN batches b ON b.seq = s.batch \
                 WHERE s.status = {row queued} AND b.cancelled_at IS NULL AND NOT (s.batch {in $2})",
            );
            let statement = statement.bind(now).bind(steps.passed());
            let statement = statement.push(lost(everything)).push_bind(" LIMIT $?", STEP);
            let found = numbers_by_batch(&self.db.fetch(statement).await?)?;
            if found.is_empty() {
                return Ok(());
            }
            for (seq, numbers) in found {
                let done = self.sweep_batch(seq, numbers, now, everything).await;
                swept.lost_rows +=
                    steps.note(seq, done, |rows| *rows, |seq, error| swept.leave_alone(seq, error))?;
            }
        }
    }

    async fn sweep_batch(
        &self,
        seq: BatchSeq,
        numbers: Vec<i64>,
        now: Timestamp,
        everything: bool,
    ) -> StoreResult<u32> {
        let mut tx = self.db.write("sweep").await?;
        let Some(mut batch) = ledgers::read(&mut tx, seq).await? else { return Ok(0) };
        if batch.ledger.cancelled_at.is_some() {
            return Ok(0);
        }
        let read_revision = batch.ledger.revision;
        let statement = sql(
            "row_unqueue_if_lost",
            "UPDATE row_state AS s SET status = {row pending}, not_before = $1, queued_until = NULL \
             WHERE s.batch = $2 AND s.number {in $3} AND s.status = {row queued}",
        );
        let statement = statement.bind(now).bind(seq).bind(list(numbers)).push(lost(everything));
        let rows = tx.execute(statement).await?;
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        batch.ledger.unqueue(rows).map_err(overdrawn(seq))?;
        ledgers::write(&mut tx, &batch, read_revision, &[], now).await?;
        tx.commit().await?;
        Ok(rows)
    }

    async fn sweep_finishes(&self, now: Timestamp, swept: &mut Swept) -> StoreResult<()> {
        for row in self.db.fetch(finished()).await? {
            let seq = BatchSeq(row.of("batches").i64("seq")?);
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
        let mut tx = self.db.write("sweep_finish").await?;
        let Some(mut batch) = ledgers::read(&mut tx, seq).await? else { return Ok(false) };
        let read_revision = batch.ledger.revision;
        let events = batch.ledger.sweep_finish(now);
        if events.is_empty() {
            return Ok(false);
        }
        ledgers::write(&mut tx, &batch, read_revision, &events, now).await?;
        tx.commit().await?;
        Ok(true)
    }

    async fn stuck_rows(&self, statement: Statement<'_>) -> StoreResult<Vec<StuckRows>> {
        let stuck = |row: &Row| {
            let c = row.of("batches");
            Ok(StuckRows { batch: BatchId(c.uuid("id")?), rows: c.u32("rows")?, unknown: c.u32("unknown")? })
        };
        self.db.fetch(statement).await?.iter().map(stuck).collect()
    }

    async fn dead_extractions(
        &self,
        now: Timestamp,
        grace_ms: i64,
        everything: bool,
    ) -> StoreResult<Vec<BatchSeq>> {
        let statement = sql(
            "batch_list_dead_extractions",
            "SELECT seq FROM batches WHERE status IN ({batch pending}, {batch processing}) \
             AND (extract_until IS NULL OR extract_until < $1 OR $3) \
             AND (status = {batch processing} OR created_at < $2 OR created_at > $1 OR $3) ORDER BY seq LIMIT 1000",
        );
        let rows = self.db.fetch(statement.bind(now).bind(now.millis() - grace_ms).bind(everything)).await?;
        rows.iter().map(|row| Ok(BatchSeq(row.of("batches").i64("seq")?))).collect()
    }
}

/// Which queued rows count as lost. Not a parameter: a prepared plan would no longer use the index.
fn lost(everything: bool) -> &'static str {
    if everything { "" } else { " AND s.queued_until < $1" }
}

/// Batches all of whose rows have ended, and which have not.
fn finished<'a>() -> Statement<'a> {
    sql(
        "batch_list_finished_unsaid",
        "SELECT seq, id FROM batches WHERE status = {batch queued} AND extracted AND pending = 0 \
         AND queued = 0 AND processing = 0 ORDER BY seq",
    )
}
