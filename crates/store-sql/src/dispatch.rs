//! Dispatch: owners with work, and releases. The sweep is in [`crate::sweep`].

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use penstock_domain::ids::{BatchSeq, OwnerSeq};
use penstock_domain::time::Timestamp;
use penstock_store::dispatch::{
    Dispatch, OwnerLoad, Released, RunLock, RunRecord, Running, SweepPlan, Swept, Take, by_owner,
};
use penstock_store::settling::Moved;
use penstock_store::{StoreResult, overdrawn};

use crate::ledgers::inconsistent;
use crate::work::count;
use crate::{Group, Kind, Row, SqlStore, Tx, ledgers, list, sql};

/// Runs are remembered for so long.
const RUNS_KEPT_MS: i64 = 31 * 24 * 3600 * 1000;

#[async_trait]
impl Dispatch for SqlStore {
    async fn lock_run(&self) -> StoreResult<Option<Box<dyn RunLock>>> {
        self.db.engine().lock_run().await
    }

    async fn sweep(&self, now: Timestamp, extraction_grace_ms: i64, everything: bool) -> StoreResult<Swept> {
        self.sweep_all(now, extraction_grace_ms, everything).await
    }

    async fn sweep_plan(&self, now: Timestamp, extraction_grace_ms: i64) -> StoreResult<SweepPlan> {
        self.plan_sweep(now, extraction_grace_ms).await
    }

    async fn loads(&self, rows_per_owner: u32, now: Timestamp) -> StoreResult<Vec<OwnerLoad>> {
        // Only batches of which rows came back are asked which of them are due.
        let statement = sql(
            "batch_list_running",
            "SELECT {batch_columns}, b.served_at AS served_at, o.served_at AS owner_served_at, \
             CASE WHEN b.pending > b.release_end - b.next_number AND b.extracted AND NOT b.paused AND NOT b.held \
             AND b.cancelled_at IS NULL THEN (SELECT count(*) FROM (SELECT 1 FROM row_state w WHERE w.batch = b.seq \
             AND w.status = {row pending} AND NOT w.polling AND coalesce(w.not_before, 0) <= $1 LIMIT {due_limit}) AS waiting) \
             ELSE 0 END AS due, (SELECT count(*) FROM row_state p WHERE p.batch = b.seq AND p.polling) AS polling, \
             (SELECT count(*) FROM row_state p WHERE p.batch = b.seq AND p.polling \
             AND p.status IN ({row queued}, {row processing})) AS looking \
             FROM batches b JOIN owners o ON o.seq = b.owner WHERE b.status = {batch queued} \
             ORDER BY o.served_at, o.seq, b.priority DESC, b.served_at, b.seq",
        );
        let rows = self.db.fetch(statement.bind(now).bind(rows_per_owner)).await?;
        let mut running = Vec::with_capacity(rows.len());
        for row in &rows {
            let c = row.of("batches");
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
                polling: c.u32("polling")?,
                looking: c.u32("looking")?,
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
        let statement = sql(
            "row_list_released_until",
            "SELECT batch, number, crashes FROM row_state \
             WHERE status = {row queued} AND queued_until = $1 AND batch {in $2}",
        );
        let batches = list(batches.iter().map(|seq| seq.0));
        let rows = self.db.fetch(statement.bind(lost_after).bind(batches)).await?;
        Ok(by_batch(&rows)?.into_iter().map(|(batch, rows)| Released::of(batch, rows)).collect())
    }

    async fn release(
        &self,
        takes: &[Take],
        now: Timestamp,
        lost_after: Timestamp,
    ) -> StoreResult<Vec<Released>> {
        let mut tx = self.db.begin("release", Kind::Long).await?;
        let mut wanted: BTreeMap<BatchSeq, u32> = takes.iter().map(|take| (take.batch, take.rows)).collect();
        let mut batches = ledgers::read_all(&mut tx, &wanted.keys().copied().collect()).await?;
        batches.retain(|moved| moved.batch.ledger.claimable());
        let mut released = take_returned(&mut tx, &batches, &wanted, now, lost_after).await?;
        for moved in &mut batches {
            let Some(numbers) = released.get(&moved.batch.seq) else { continue };
            let rows = count(numbers.len());
            moved.batch.ledger.release(0, 0, rows).map_err(overdrawn(moved.batch.seq))?;
            if let Some(left) = wanted.get_mut(&moved.batch.seq) {
                *left = left.saturating_sub(rows);
            }
        }
        take_fresh(&mut tx, &mut batches, &mut wanted, &mut released, lost_after).await?;
        batches.retain(Moved::is_dirty);
        ledgers::write_served(&mut tx, &batches, now).await?;
        let owners: BTreeSet<OwnerSeq> = batches.iter().map(|moved| moved.batch.owner).collect();
        let served = sql("owner_set_served", "UPDATE owners SET served_at = $1 WHERE seq {in $2}");
        tx.execute(served.bind(now).bind(list(owners.iter().map(|owner| owner.0)))).await?;
        tx.commit().await?;
        released.retain(|_, numbers| !numbers.is_empty());
        Ok(released.into_iter().map(|(batch, rows)| Released::of(batch, rows)).collect())
    }

    async fn record_run(&self, run: &RunRecord) -> StoreResult<()> {
        let body = serde_json::to_string(run).map_err(|_| inconsistent("runs", "body", run.started_at))?;
        let statement = sql(
            "run_put",
            "INSERT INTO runs (started_at, body) VALUES ($1, $2) ON CONFLICT (started_at) DO UPDATE SET body = excluded.body",
        );
        self.db.execute(statement.bind(run.started_at).bind(body)).await?;
        let statement = sql("run_delete_old", "DELETE FROM runs WHERE started_at < $1");
        self.db.execute(statement.bind(run.started_at.millis() - RUNS_KEPT_MS)).await.map(|_| ())
    }

    async fn runs(&self, limit: u32) -> StoreResult<Vec<RunRecord>> {
        let statement = sql("run_list", "SELECT body FROM runs ORDER BY started_at DESC LIMIT $1");
        let run = |row: &Row| {
            let body = row.of("runs").text("body")?;
            serde_json::from_str(&body).map_err(|_| inconsistent("runs", "body", "a run"))
        };
        self.db.fetch(statement.bind(limit)).await?.iter().map(run).collect()
    }
}

/// Rows, each with its crashes, by batch.
pub(crate) type ByBatch = BTreeMap<BatchSeq, Vec<(u32, u16)>>;

pub(crate) fn by_batch(rows: &[Row]) -> StoreResult<ByBatch> {
    let mut grouped = ByBatch::new();
    for row in rows {
        let c = row.of("row_state");
        let row = (c.u32("number")?, c.u16("crashes")?);
        grouped.entry(BatchSeq(c.i64("batch")?)).or_default().push(row);
    }
    grouped.values_mut().for_each(|numbers| numbers.sort_unstable());
    Ok(grouped)
}

/// Queues rows that were requeued and whose time has come, of every batch at most what is wanted. `+ 0` keeps the
/// planner off the partial index, by which it would scan a whole batch for each row while it has no statistics.
async fn take_returned(
    tx: &mut Tx,
    batches: &[Moved],
    wanted: &BTreeMap<BatchSeq, u32>,
    now: Timestamp,
    lost_after: Timestamp,
) -> StoreResult<ByBatch> {
    let returned = batches
        .iter()
        .filter(|moved| moved.batch.ledger.returned() > 0)
        .filter_map(|moved| Some([moved.batch.seq.into(), (*wanted.get(&moved.batch.seq)?).into()]));
    let statement = sql(
        "row_queue_if_due",
        "WITH j(row_batch, row_limit) AS ({rows}) UPDATE row_state AS s SET status = {row queued}, queued_until = $2 \
         {due_rows} AND s.status + 0 = {row pending} RETURNING batch, number, crashes",
    );
    let statement = statement.bind(now).bind(lost_after).rows(Group::of_rows(returned)).one_by_one();
    by_batch(&tx.fetch(statement).await?)
}

/// Queues rows that were never released. Numbers that have a state already (rejected at extraction, run by hand) are
/// passed over, and the next ones are taken instead.
async fn take_fresh(
    tx: &mut Tx,
    batches: &mut [Moved],
    wanted: &mut BTreeMap<BatchSeq, u32>,
    released: &mut ByBatch,
    lost_after: Timestamp,
) -> StoreResult<()> {
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
            return Ok(());
        }
        let mut made = insert_queued(tx, &ranges, lost_after).await?;
        for (seq, _, rows) in ranges {
            let numbers = made.remove(&seq).unwrap_or_default();
            let fresh = count(numbers.len());
            if let Some(moved) = batches.iter_mut().find(|moved| moved.batch.seq == seq) {
                moved.batch.ledger.release(fresh, rows - fresh, 0).map_err(overdrawn(seq))?;
            }
            if let Some(left) = wanted.get_mut(&seq) {
                *left = left.saturating_sub(fresh);
            }
            released.entry(seq).or_default().extend(numbers);
        }
    }
}

/// Queues rows that were never released, in the lock of their batches: of ranges in which no number has a state, nobody else makes one
/// meanwhile, and PostgreSQL inserts in two thirds of the time when it need not expect one.
async fn insert_queued(
    tx: &mut Tx,
    ranges: &[(BatchSeq, u32, u32)],
    lost_after: Timestamp,
) -> StoreResult<ByBatch> {
    fn group<'a>(ranges: impl Iterator<Item = &'a (BatchSeq, u32, u32)>) -> Group<'static> {
        Group::of_rows(ranges.map(|(seq, first, rows)| [(*seq).into(), (*first).into(), (*rows).into()]))
    }
    let statement = sql(
        "row_list_batches_with_state",
        "WITH j(row_batch, first, row_count) AS ({rows}) SELECT j.row_batch AS batch FROM j WHERE (SELECT s.number \
         FROM row_state s WHERE s.batch = j.row_batch AND s.number >= j.first AND s.number < j.first + j.row_count LIMIT 1) \
         IS NOT NULL",
    );
    let found = tx.fetch(statement.rows(group(ranges.iter()))).await?;
    let with_state = found.iter().map(|row| Ok(BatchSeq(row.of("row_state").i64("batch")?)));
    let with_state: BTreeSet<BatchSeq> = with_state.collect::<StoreResult<_>>()?;
    let (some, none): (Vec<_>, Vec<_>) = ranges.iter().partition(|(seq, ..)| with_state.contains(seq));
    let new = sql(
        "row_insert_queued",
        "WITH RECURSIVE j(row_batch, first, row_count) AS ({rows}), n(row_batch, row_number, last) AS ({numbers}) \
         INSERT INTO row_state (batch, number, status, queued_until) \
         SELECT row_batch, row_number, {row queued}, $1 FROM n WHERE true RETURNING batch, number, crashes",
    );
    let if_new = sql(
        "row_insert_queued_if_new",
        "WITH RECURSIVE j(row_batch, first, row_count) AS ({rows}), n(row_batch, row_number, last) AS ({numbers}) \
         INSERT INTO row_state (batch, number, status, queued_until) \
         SELECT row_batch, row_number, {row queued}, $1 FROM n WHERE true \
         ON CONFLICT DO NOTHING RETURNING batch, number, crashes",
    );
    let mut made = by_batch(&tx.fetch(new.bind(lost_after).rows(group(none.into_iter()))).await?)?;
    made.extend(by_batch(&tx.fetch(if_new.bind(lost_after).rows(group(some.into_iter()))).await?)?);
    Ok(made)
}
