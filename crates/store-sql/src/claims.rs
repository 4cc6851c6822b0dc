//! Claims: rows that wait become a process's, those of a recorded call together.

use std::collections::{BTreeMap, BTreeSet};

use penstock_domain::ids::{BatchSeq, CallId, RowRef};
use penstock_domain::row::{Receipt, RowStatus};
use penstock_domain::time::Timestamp;
use penstock_store::batches::Batch;
use penstock_store::calls::RecordedCall;
use penstock_store::settling::Moved;
use penstock_store::work::{Claim, ClaimedRow};
use penstock_store::{StoreResult, overdrawn};

use crate::work::{count, keys, row_ref};
use crate::{Group, Tx, list, sql};

/// Rows of a call some of which somebody else holds wait this long, in milliseconds: until those are requeued, too.
const APART_MS: i64 = 1000;

/// Claims the queued ones of the rows; of no more processes than `most_crashes` it is known that they died while they held one.
pub(crate) async fn take(
    tx: &mut Tx,
    claim: &Claim<'_>,
    wanted: impl Iterator<Item = RowRef>,
    most_crashes: u16,
    now: Timestamp,
) -> StoreResult<Vec<ClaimedRow>> {
    // Whoever buries the process waits for the lock of its record, and then finds these rows.
    let statement = sql(
        "row_claim_if_queued",
        "WITH j(row_batch, row_number) AS ({rows}), alive AS MATERIALIZED (SELECT name FROM workers WHERE name = $2 {share}) \
         UPDATE row_state AS s SET status = {row processing}, lease_token = $1, lease_holder = alive.name, \
         lease_until = NULL, queued_until = NULL, first_claimed_at = coalesce(s.first_claimed_at, $3) \
         FROM alive, j {claim_data} WHERE s.batch = j.row_batch AND s.number = j.row_number \
         AND s.status + 0 = {row queued} AND s.crashes <= $4 \
         RETURNING batch, number, attempts, crashes, first_claimed_at, has_output, call_id, {claimed_data}",
    );
    let statement =
        statement.bind(claim.token).bind(claim.holder).bind(now).bind(most_crashes).rows(keys(wanted));
    let rows = tx.fetch(statement).await?;
    let mut with_output = Vec::new();
    let mut claimed = BTreeMap::new();
    for row in &rows {
        let c = row.of("row_state");
        let at = row_ref(row)?;
        if c.flag("has_output")? {
            with_output.push(at);
        }
        let call = c.opt_uuid("call_id")?;
        claimed.insert(
            at,
            ClaimedRow {
                row: at,
                line: c.u32("line")?,
                attempts: c.u16("attempts")?,
                crashes: c.u16("crashes")?,
                first_claimed_at: c.opt_time("first_claimed_at")?.filter(|first| *first != now),
                payload: c.bytes("payload")?,
                receipts: Vec::new(),
                error: None,
                // How many rows it has is found out once for all of them.
                call: call.map(|call| RecordedCall { call: CallId(call), rows: 1, complete: false }),
                run: 0,
            },
        );
    }
    read_outputs(tx, &with_output, &mut claimed).await?;
    Ok(claimed.into_values().collect())
}

/// What earlier attempts left: receipts and errors.
async fn read_outputs(
    tx: &mut Tx,
    rows: &[RowRef],
    claimed: &mut BTreeMap<RowRef, ClaimedRow>,
) -> StoreResult<()> {
    let errors = sql(
        "row_output_list_errors",
        "WITH j(batch, number) AS ({rows}) SELECT o.batch, o.number, o.error FROM j \
         JOIN row_output o ON o.batch = j.batch AND o.number = j.number",
    );
    for row in &tx.fetch(errors.rows(keys(rows.iter().copied()))).await? {
        if let Some(one) = claimed.get_mut(&row_ref(row)?) {
            one.error = row.of("row_output").opt_bytes("error")?;
        }
    }
    let receipts = sql(
        "row_receipt_list",
        "WITH j(batch, number) AS ({rows}) SELECT r.batch, r.number, r.step, r.output FROM j \
         JOIN row_receipts r ON r.batch = j.batch AND r.number = j.number ORDER BY r.batch, r.number, r.step",
    );
    for row in &tx.fetch(receipts.rows(keys(rows.iter().copied()))).await? {
        if let Some(one) = claimed.get_mut(&row_ref(row)?) {
            let c = row.of("row_receipts");
            one.receipts.push(Receipt { step: c.u16("step")?, sealed: c.bytes("output")? });
        }
    }
    Ok(())
}

/// An operator's claim: pending rows are queued first, those never released included. The release cursor skips them
/// later, because they have a state by then.
pub(crate) async fn wake(tx: &mut Tx, batch: &mut Batch, rows: &[RowRef]) -> StoreResult<()> {
    let numbers = || rows.iter().filter(|row| row.batch == batch.seq).map(|row| row.number);
    let pending = sql(
        "row_queue_if_pending",
        "UPDATE row_state SET status = {row queued} WHERE batch = $1 AND status = {row pending} AND number {in $2}",
    );
    let woken = tx.execute(pending.bind(batch.seq).bind(list(numbers()))).await?;
    let never_released = sql(
        "row_queue_if_never_released",
        "WITH j(number) AS ({rows}) INSERT INTO row_state (batch, number, status) SELECT $1, number, {row queued} FROM j \
         WHERE number >= $2 AND number < $3 ON CONFLICT DO NOTHING",
    );
    let never_released = never_released
        .bind(batch.seq)
        .bind(batch.ledger.next_number)
        .bind(batch.ledger.release_end)
        .rows(Group::new().column(numbers()));
    let fresh = tx.execute(never_released).await?;
    let rows = u32::try_from(woken + fresh).unwrap_or(u32::MAX);
    if rows > 0 {
        batch.ledger.release(0, 0, rows).map_err(overdrawn(batch.seq))?;
    }
    Ok(())
}

/// The rows of a recorded call, as they are.
#[derive(Default)]
struct CallRows {
    found: u32,
    recorded: u32,
    pending: Vec<u32>,
    queued: Vec<u32>,
    /// Somebody else holds one.
    elsewhere: bool,
    /// One has ended.
    ended: bool,
}

/// Claims the other rows of the calls that claimed rows were recorded for. Where somebody else holds one of them, those that were
/// claimed are pending again: not all rows of a process that is gone are requeued yet.
pub(crate) async fn complete_calls(
    tx: &mut Tx,
    claim: &Claim<'_>,
    batches: &mut [Moved],
    claimed: &mut Vec<ClaimedRow>,
    now: Timestamp,
) -> StoreResult<()> {
    let calls: BTreeSet<(BatchSeq, CallId)> =
        claimed.iter().filter_map(|one| Some((one.row.batch, one.call?.call))).collect();
    if calls.is_empty() || claim.also_pending {
        return Ok(());
    }
    for (seq, call) in calls {
        let rows = call_rows(tx, seq, call, claim).await?;
        let is_ours = |one: &ClaimedRow| one.row.batch == seq && one.call.is_some_and(|of| of.call == call);
        let Some(moved) = batches.iter_mut().find(|moved| moved.batch.seq == seq) else { continue };
        if rows.elsewhere {
            let back: Vec<u32> =
                claimed.iter().filter(|one| is_ours(one)).map(|one| one.row.number).collect();
            put_back(tx, seq, &back, now).await?;
            moved.batch.ledger.unqueue(count(back.len())).map_err(overdrawn(seq))?;
            claimed.retain(|one| !is_ours(one));
            continue;
        }
        if !rows.pending.is_empty() {
            queue(tx, seq, &rows.pending).await?;
            moved.batch.ledger.release(0, 0, count(rows.pending.len())).map_err(overdrawn(seq))?;
        }
        let others =
            rows.pending.iter().chain(&rows.queued).map(|number| RowRef { batch: seq, number: *number });
        let others: Vec<RowRef> = others.collect();
        if !others.is_empty() {
            claimed.extend(take(tx, claim, others.into_iter(), u16::MAX, now).await?);
        }
        let complete = !rows.ended && rows.found == rows.recorded;
        for one in claimed.iter_mut().filter(|one| is_ours(one)) {
            one.call = Some(RecordedCall { call, rows: rows.recorded, complete });
        }
    }
    Ok(())
}

/// Under the lock of the batch: no row of it moves meanwhile.
async fn call_rows(tx: &mut Tx, seq: BatchSeq, call: CallId, claim: &Claim<'_>) -> StoreResult<CallRows> {
    let statement = sql(
        "row_list_of_call",
        "SELECT number, status, lease_token, call_rows FROM row_state WHERE batch = $1 AND call_id = $2 ORDER BY number",
    );
    let mut rows = CallRows::default();
    for row in &tx.fetch(statement.bind(seq).bind(call)).await? {
        let c = row.of("row_state");
        let number = c.u32("number")?;
        rows.found += 1;
        rows.recorded = c.u32("call_rows")?;
        match c.code("status", RowStatus::from_code)? {
            RowStatus::Pending => rows.pending.push(number),
            RowStatus::Queued => rows.queued.push(number),
            RowStatus::Processing => rows.elsewhere |= c.opt_uuid("lease_token")? != Some(claim.token.0),
            RowStatus::Completed | RowStatus::Failed | RowStatus::Cancelled => rows.ended = true,
        }
    }
    Ok(rows)
}

async fn queue(tx: &mut Tx, seq: BatchSeq, numbers: &[u32]) -> StoreResult<()> {
    let statement = sql(
        "row_queue_of_call",
        "UPDATE row_state SET status = {row queued} WHERE batch = $1 AND status = {row pending} AND number {in $2}",
    );
    tx.execute(statement.bind(seq).bind(list(numbers.iter().copied()))).await.map(|_| ())
}

async fn put_back(tx: &mut Tx, seq: BatchSeq, numbers: &[u32], now: Timestamp) -> StoreResult<()> {
    let statement = sql(
        "row_put_back_of_call",
        "UPDATE row_state SET status = {row pending}, not_before = $3, queued_until = NULL, lease_token = NULL, \
         lease_holder = NULL, lease_until = NULL WHERE batch = $1 AND number {in $2} AND status = {row processing}",
    );
    let until = now.millis() + APART_MS;
    tx.execute(statement.bind(seq).bind(list(numbers.iter().copied())).bind(until)).await.map(|_| ())
}
