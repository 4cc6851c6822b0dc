//! Claims, leases, receipts and settlements, in groups.

use std::collections::BTreeMap;

use async_trait::async_trait;
use penstock_domain::ids::{BatchSeq, LeaseToken, RowRef};
use penstock_domain::ledger::Tally;
use penstock_domain::row::{Receipt, RowStatus};
use penstock_domain::time::Timestamp;
use penstock_store::StoreResult;
use penstock_store::batches::Batch;
use penstock_store::work::{Claim, ClaimedRow, SettleReport, Settled, Settlement, Trouble, Work};
use uuid::Uuid;

use crate::convert::{Columns, int, ints, small};
use crate::error::store_error;
use crate::{Connection, PostgresStore, commit, ledgers};

/// Rows by batch, batches in the order in which they are locked.
fn by_batch(rows: impl IntoIterator<Item = RowRef>) -> BTreeMap<BatchSeq, Vec<u32>> {
    let mut grouped: BTreeMap<BatchSeq, Vec<u32>> = BTreeMap::new();
    for row in rows {
        grouped.entry(row.batch).or_default().push(row.number);
    }
    grouped
}

fn count(rows: usize) -> u32 {
    u32::try_from(rows).unwrap_or(u32::MAX)
}

#[async_trait]
impl Work for PostgresStore {
    async fn claim(&self, claim: &Claim<'_>, now: Timestamp) -> StoreResult<Vec<ClaimedRow>> {
        const NAME: &str = "claim";
        let mut tx = self.write(NAME).await?;
        let mut claimed = Vec::new();
        for (seq, numbers) in by_batch(claim.rows.iter().copied()) {
            let Some(mut batch) = ledgers::read(&mut tx, seq, NAME).await? else { continue };
            let read_revision = batch.ledger.revision;
            let list = ints(&numbers);
            if claim.also_pending {
                self::wake(&mut tx, &mut batch, &list, NAME).await?;
            } else if !batch.ledger.claimable() {
                if batch.ledger.cancelled_at.is_none() {
                    let back = unqueue_rows(&mut tx, seq, &list, NAME).await?;
                    if back > 0 {
                        batch.ledger.unqueue(back);
                    }
                }
                ledgers::write(&mut tx, &batch, read_revision, &[], now, NAME).await?;
                continue;
            }
            let rows = take(&mut tx, claim, &batch, &list, now, NAME).await?;
            if !rows.is_empty() {
                batch.ledger.claim(count(rows.len()));
            }
            ledgers::write(&mut tx, &batch, read_revision, &[], now, NAME).await?;
            claimed.extend(rows);
        }
        commit(tx, NAME).await?;
        Ok(claimed)
    }

    async fn renew(&self, rows: &[(RowRef, LeaseToken)], until: Timestamp) -> StoreResult<Vec<RowRef>> {
        let batches: Vec<i64> = rows.iter().map(|(row, _)| row.batch.0).collect();
        let numbers: Vec<i32> = rows.iter().map(|(row, _)| int(row.number)).collect();
        let tokens: Vec<Uuid> = rows.iter().map(|(_, token)| token.0).collect();
        let kept = sqlx::query(
            "/* penstock:renew */ UPDATE row_state AS s SET lease_until = $4 \
             FROM unnest($1::int8[], $2::int4[], $3::uuid[]) AS j(batch, number, token) \
             WHERE s.batch = j.batch AND s.number = j.number AND s.lease_token = j.token AND s.status = 2 \
             RETURNING s.batch, s.number",
        )
        .bind(batches)
        .bind(numbers)
        .bind(tokens)
        .bind(until.millis())
        .fetch_all(&self.pool)
        .await
        .map_err(store_error("renew"))?;
        Ok(kept
            .iter()
            .map(|row| {
                let c = Columns(row);
                RowRef { batch: BatchSeq(c.i64("batch")), number: c.u32("number") }
            })
            .collect())
    }

    async fn save_receipts(&self, receipts: &[(RowRef, LeaseToken, Receipt)]) -> StoreResult<()> {
        const NAME: &str = "save_receipts";
        let mut tx = self.write(NAME).await?;
        for (row, token, receipt) in receipts {
            let held = sqlx::query(
                "/* penstock:save_receipts */ UPDATE row_state SET has_output = true \
                 WHERE batch = $1 AND number = $2 AND status = 2 AND lease_token = $3",
            )
            .bind(row.batch.0)
            .bind(int(row.number))
            .bind(token.0)
            .execute(&mut *tx)
            .await
            .map_err(store_error(NAME))?;
            if held.rows_affected() == 1 {
                put_receipts(&mut tx, *row, std::slice::from_ref(receipt), NAME).await?;
            }
        }
        commit(tx, NAME).await
    }

    async fn settle(&self, group: &[Settlement], now: Timestamp) -> StoreResult<SettleReport> {
        const NAME: &str = "settle";
        let mut tx = self.write(NAME).await?;
        let mut report = SettleReport::default();
        let mut by_batch: BTreeMap<BatchSeq, Vec<&Settlement>> = BTreeMap::new();
        for settlement in group {
            by_batch.entry(settlement.row.batch).or_default().push(settlement);
        }
        for (seq, settlements) in by_batch {
            let Some(mut batch) = ledgers::read(&mut tx, seq, NAME).await? else {
                report.lost.extend(settlements.iter().map(|settlement| settlement.row));
                continue;
            };
            let read_revision = batch.ledger.revision;
            let mut tally = Tally::default();
            let mut results: Vec<(i32, &[u8])> = Vec::new();
            let mut first_failed: Option<u32> = None;
            let settled = settle_rows(&mut tx, seq, &settlements, NAME).await?;
            for settlement in settlements {
                if !settled.contains(&settlement.row.number) {
                    report.lost.push(settlement.row);
                    continue;
                }
                match &settlement.outcome {
                    Settled::Completed { .. } => tally.completed += 1,
                    Settled::Failed(_) => {
                        tally.failed += 1;
                        let number = settlement.row.number;
                        first_failed = Some(first_failed.map_or(number, |first| first.min(number)));
                    }
                    Settled::GivenBack { .. } => tally.given_back += 1,
                }
                if let Settled::Completed { result: Some(result) } = &settlement.outcome {
                    results.push((int(settlement.row.number), result.as_slice()));
                } else {
                    put_outcome(&mut tx, settlement, NAME).await?;
                }
            }
            put_results(&mut tx, seq, &results, NAME).await?;
            if tally == Tally::default() {
                continue;
            }
            let was_finished = batch.ledger.is_finished();
            let events = batch.ledger.settle(tally, now);
            if !batch.ledger.allow_failures && batch.failure_row.is_none() {
                batch.failure_row = first_failed;
            }
            ledgers::write(&mut tx, &batch, read_revision, &events, now, NAME).await?;
            if batch.ledger.is_finished() && !was_finished {
                report.finished.push(seq);
            }
        }
        penstock_store::crash::point(penstock_store::crash::INSIDE_SETTLEMENT);
        commit(tx, NAME).await?;
        Ok(report)
    }

    async fn unqueue(&self, rows: &[RowRef], now: Timestamp) -> StoreResult<u32> {
        const NAME: &str = "unqueue";
        let mut tx = self.write(NAME).await?;
        let mut total = 0;
        for (seq, numbers) in by_batch(rows.iter().copied()) {
            let Some(mut batch) = ledgers::read(&mut tx, seq, NAME).await? else { continue };
            if batch.ledger.cancelled_at.is_some() {
                continue;
            }
            let read_revision = batch.ledger.revision;
            let back = unqueue_rows(&mut tx, seq, &ints(&numbers), NAME).await?;
            if back > 0 {
                batch.ledger.unqueue(back);
                ledgers::write(&mut tx, &batch, read_revision, &[], now, NAME).await?;
            }
            total += back;
        }
        commit(tx, NAME).await?;
        Ok(total)
    }

    async fn holder(&self, row: RowRef) -> StoreResult<Option<(String, Timestamp)>> {
        let found = sqlx::query(
            "/* penstock:holder */ SELECT lease_holder, lease_until FROM row_state \
             WHERE batch = $1 AND number = $2 AND status = 2",
        )
        .bind(row.batch.0)
        .bind(int(row.number))
        .fetch_optional(&self.pool)
        .await
        .map_err(store_error("holder"))?;
        Ok(found.map(|found| {
            let c = Columns(&found);
            (c.opt_text("lease_holder").unwrap_or_default(), c.time("lease_until"))
        }))
    }
}

/// Claims the queued ones of a batch's rows.
async fn take(
    tx: &mut Connection,
    claim: &Claim<'_>,
    batch: &Batch,
    list: &[i32],
    now: Timestamp,
    name: &'static str,
) -> StoreResult<Vec<ClaimedRow>> {
    let rows = sqlx::query(
        "/* penstock:claim */ UPDATE row_state SET status = 2, lease_token = $3, lease_holder = $4, lease_until = $5, \
         queued_until = NULL, first_claimed_at = coalesce(first_claimed_at, $6) \
         WHERE batch = $1 AND number = ANY($2) AND status = 1 \
         RETURNING number, attempts, first_claimed_at, has_output, (SELECT d.line FROM row_data d WHERE \
         d.batch = row_state.batch AND d.number = row_state.number) AS line, (SELECT d.payload FROM row_data d WHERE \
         d.batch = row_state.batch AND d.number = row_state.number) AS payload",
    )
    .bind(batch.seq.0)
    .bind(list)
    .bind(claim.token.0)
    .bind(claim.holder)
    .bind(claim.until.millis())
    .bind(now.millis())
    .fetch_all(&mut *tx)
    .await
    .map_err(store_error(name))?;
    let mut claimed = Vec::with_capacity(rows.len());
    for row in &rows {
        let c = Columns(row);
        let row = RowRef { batch: batch.seq, number: c.u32("number") };
        let first = c.opt_time("first_claimed_at").filter(|first| *first != now);
        let mut one = ClaimedRow {
            row,
            line: c.u32("line"),
            attempts: c.u16("attempts"),
            first_claimed_at: first,
            payload: c.opt_bytes("payload").unwrap_or_default(),
            receipts: Vec::new(),
            error: None,
        };
        if c.flag("has_output") {
            one.error = sqlx::query_scalar("SELECT error FROM row_output WHERE batch = $1 AND number = $2")
                .bind(row.batch.0)
                .bind(int(row.number))
                .fetch_optional(&mut *tx)
                .await
                .map_err(store_error(name))?
                .flatten();
            one.receipts = receipts(tx, row, name).await?;
        }
        claimed.push(one);
    }
    claimed.sort_by_key(|claimed| claimed.row.number);
    Ok(claimed)
}

async fn receipts(tx: &mut Connection, row: RowRef, name: &'static str) -> StoreResult<Vec<Receipt>> {
    let rows =
        sqlx::query("SELECT step, output FROM row_receipts WHERE batch = $1 AND number = $2 ORDER BY step")
            .bind(row.batch.0)
            .bind(int(row.number))
            .fetch_all(tx)
            .await
            .map_err(store_error(name))?;
    Ok(rows
        .iter()
        .map(|row| {
            let c = Columns(row);
            Receipt { step: c.u16("step"), sealed: c.bytes("output") }
        })
        .collect())
}

/// An operator's claim: pending rows are queued first, those never released included. The release cursor skips them
/// later, because they have a state by then.
async fn wake(tx: &mut Connection, batch: &mut Batch, list: &[i32], name: &'static str) -> StoreResult<()> {
    let runs = batch.ledger.extracted
        && !batch.ledger.is_finished()
        && batch.ledger.cancelled_at.is_none()
        && batch.erased_at.is_none();
    if !runs {
        return Ok(());
    }
    let woken =
        sqlx::query("UPDATE row_state SET status = 1 WHERE batch = $1 AND status = 0 AND number = ANY($2)")
            .bind(batch.seq.0)
            .bind(list)
            .execute(&mut *tx)
            .await
            .map_err(store_error(name))?
            .rows_affected();
    let fresh = sqlx::query(
        "INSERT INTO row_state (batch, number, status) SELECT $1, value, 1 FROM unnest($2::int4[]) AS value \
         WHERE value >= $3 AND value < $4 ON CONFLICT DO NOTHING",
    )
    .bind(batch.seq.0)
    .bind(list)
    .bind(int(batch.ledger.next_number))
    .bind(int(batch.ledger.release_end))
    .execute(&mut *tx)
    .await
    .map_err(store_error(name))?
    .rows_affected();
    let rows = u32::try_from(woken + fresh).unwrap_or(u32::MAX);
    if rows > 0 {
        batch.ledger.release(0, 0, rows);
    }
    Ok(())
}

async fn unqueue_rows(
    tx: &mut Connection,
    seq: BatchSeq,
    list: &[i32],
    name: &'static str,
) -> StoreResult<u32> {
    let done = sqlx::query(
        "/* penstock:unqueue */ UPDATE row_state SET status = 0, queued_until = NULL \
         WHERE batch = $1 AND status = 1 AND number = ANY($2)",
    )
    .bind(seq.0)
    .bind(list)
    .execute(tx)
    .await
    .map_err(store_error(name))?;
    Ok(u32::try_from(done.rows_affected()).unwrap_or(u32::MAX))
}

/// Moves the rows that are still held under their tokens, and tells which.
async fn settle_rows(
    tx: &mut Connection,
    seq: BatchSeq,
    settlements: &[&Settlement],
    name: &'static str,
) -> StoreResult<Vec<u32>> {
    let mut moved = Moved::default();
    for settlement in settlements {
        moved.push(settlement);
    }
    let rows = sqlx::query(
        "/* penstock:settle */ UPDATE row_state AS s SET status = j.status, attempts = s.attempts + j.attempt, \
         not_before = j.not_before, step = j.step, code = j.code, http_status = j.http_status, \
         has_output = s.has_output OR j.has_output, lease_token = NULL, lease_holder = NULL, lease_until = NULL \
         FROM unnest($2::int4[], $3::uuid[], $4::int2[], $5::int2[], $6::int8[], $7::int2[], $8::text[], $9::int2[], \
         $10::bool[]) AS j(number, token, status, attempt, not_before, step, code, http_status, has_output) \
         WHERE s.batch = $1 AND s.number = j.number AND s.status = 2 AND s.lease_token = j.token RETURNING s.number",
    )
    .bind(seq.0)
    .bind(moved.numbers)
    .bind(moved.tokens)
    .bind(moved.statuses)
    .bind(moved.attempts)
    .bind(moved.not_before)
    .bind(moved.steps)
    .bind(moved.codes)
    .bind(moved.http_statuses)
    .bind(moved.has_output)
    .fetch_all(tx)
    .await
    .map_err(store_error(name))?;
    Ok(rows.iter().map(|row| Columns(row).u32("number")).collect())
}

/// A group's settlements, column by column.
#[derive(Default)]
struct Moved {
    numbers: Vec<i32>,
    tokens: Vec<Uuid>,
    statuses: Vec<i16>,
    attempts: Vec<i16>,
    not_before: Vec<Option<i64>>,
    steps: Vec<Option<i16>>,
    codes: Vec<Option<String>>,
    http_statuses: Vec<Option<i16>>,
    has_output: Vec<bool>,
}

impl Moved {
    fn push(&mut self, settlement: &Settlement) {
        let (status, attempt, not_before, trouble) = match &settlement.outcome {
            Settled::Completed { .. } => (RowStatus::Completed, true, None, None),
            Settled::Failed(trouble) => (RowStatus::Failed, true, None, Some(trouble)),
            Settled::GivenBack { not_before, attempt, trouble, .. } => {
                (RowStatus::Pending, *attempt, Some(not_before.millis()), trouble.as_ref())
            }
        };
        self.numbers.push(int(settlement.row.number));
        self.tokens.push(settlement.token.0);
        self.statuses.push(status.code());
        self.attempts.push(i16::from(attempt));
        self.not_before.push(not_before);
        self.steps.push(trouble.and_then(|trouble| trouble.step).map(small));
        self.codes.push(trouble.map(|trouble| trouble.code.clone()));
        self.http_statuses.push(trouble.and_then(|trouble| trouble.http_status).map(small));
        self.has_output.push(leaves_output(&settlement.outcome));
    }
}

/// Whether a later claim has to read errors or receipts of the row.
fn leaves_output(outcome: &Settled) -> bool {
    match outcome {
        Settled::Completed { .. } => false,
        Settled::Failed(_) => true,
        Settled::GivenBack { trouble, receipts, .. } => {
            !receipts.is_empty() || trouble.as_ref().is_some_and(|trouble| trouble.error.is_some())
        }
    }
}

/// Results of a batch's rows, in one statement.
async fn put_results(
    tx: &mut Connection,
    seq: BatchSeq,
    results: &[(i32, &[u8])],
    name: &'static str,
) -> StoreResult<()> {
    if results.is_empty() {
        return Ok(());
    }
    let numbers: Vec<i32> = results.iter().map(|(number, _)| *number).collect();
    let values: Vec<&[u8]> = results.iter().map(|(_, result)| *result).collect();
    sqlx::query(
        "/* penstock:settle */ INSERT INTO row_output (batch, number, result) \
         SELECT $1, number, result FROM unnest($2::int4[], $3::bytea[]) AS j(number, result) \
         ON CONFLICT (batch, number) DO UPDATE SET result = excluded.result, error = NULL",
    )
    .bind(seq.0)
    .bind(numbers)
    .bind(values)
    .execute(tx)
    .await
    .map_err(store_error(name))?;
    Ok(())
}

async fn put_outcome(tx: &mut Connection, settlement: &Settlement, name: &'static str) -> StoreResult<()> {
    let row = settlement.row;
    match &settlement.outcome {
        // Results are written for a whole group at once.
        Settled::Completed { .. } => Ok(()),
        Settled::Failed(trouble) => {
            put_error(tx, row, trouble, name).await?;
            put_receipts(tx, row, &trouble.receipts, name).await
        }
        Settled::GivenBack { trouble, receipts, .. } => {
            if let Some(trouble) = trouble {
                put_error(tx, row, trouble, name).await?;
            }
            put_receipts(tx, row, receipts, name).await
        }
    }
}

async fn put_error(
    tx: &mut Connection,
    row: RowRef,
    trouble: &Trouble,
    name: &'static str,
) -> StoreResult<()> {
    let Some(error) = &trouble.error else { return Ok(()) };
    sqlx::query(
        "INSERT INTO row_output (batch, number, error) VALUES ($1, $2, $3) \
         ON CONFLICT (batch, number) DO UPDATE SET error = excluded.error",
    )
    .bind(row.batch.0)
    .bind(int(row.number))
    .bind(error)
    .execute(tx)
    .await
    .map_err(store_error(name))?;
    Ok(())
}

async fn put_receipts(
    tx: &mut Connection,
    row: RowRef,
    receipts: &[Receipt],
    name: &'static str,
) -> StoreResult<()> {
    for receipt in receipts {
        sqlx::query(
            "INSERT INTO row_receipts (batch, number, step, output) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (batch, number, step) DO UPDATE SET output = excluded.output",
        )
        .bind(row.batch.0)
        .bind(int(row.number))
        .bind(small(receipt.step))
        .bind(&receipt.sealed)
        .execute(&mut *tx)
        .await
        .map_err(store_error(name))?;
    }
    Ok(())
}
