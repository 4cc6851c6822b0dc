//! Claims, leases, receipts and settlements, in groups.
//!
//! Rows are found by their keys. `s.status + 0` keeps the planner off the partial indexes: with the statistics of an
//! empty table it takes them for shorter, and scans all rows in flight for every row of a group.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use async_trait::async_trait;
use penstock_domain::ids::{BatchSeq, LeaseToken, RowRef};
use penstock_domain::row::Receipt;
use penstock_domain::time::Timestamp;
use penstock_store::batches::Batch;
use penstock_store::decode::Columns as _;
use penstock_store::settling::{self, Held, Move};
use penstock_store::work::{Claim, ClaimedRow, SettleReport, Settled, Settlement, Work};
use penstock_store::{StoreResult, overdrawn};
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::convert::{Columns, int, opt_ms, small};
use crate::error::store_error;
use crate::{Connection, PostgresStore, commit, ledgers};

/// A group's rows, column by column, as `unnest` takes them.
fn columns<'a>(rows: impl IntoIterator<Item = &'a RowRef>) -> (Vec<i64>, Vec<i32>) {
    rows.into_iter().map(|row| (row.batch.0, int(row.number))).unzip()
}

fn row_ref(row: &PgRow) -> StoreResult<RowRef> {
    let c = Columns::of("row_state", row);
    Ok(RowRef { batch: BatchSeq(c.i64("batch")?), number: c.u32("number")? })
}

fn held_row(row: &PgRow) -> StoreResult<Held> {
    Ok((row_ref(row)?, LeaseToken(Columns::of("row_state", row).uuid("lease_token")?)))
}

fn count(rows: usize) -> u32 {
    u32::try_from(rows).unwrap_or(u32::MAX)
}

#[async_trait]
impl Work for PostgresStore {
    async fn claim(&self, claim: &Claim<'_>, now: Timestamp) -> StoreResult<Vec<ClaimedRow>> {
        const NAME: &str = "claim";
        let mut tx = self.write(NAME).await?;
        let seqs: BTreeSet<BatchSeq> = claim.rows.iter().map(|row| row.batch).collect();
        let mut batches = ledgers::read_all(&mut tx, &seqs, NAME).await?;
        if claim.also_pending {
            for moved in batches.iter_mut().filter(|moved| moved.batch.runs()) {
                wake(&mut tx, &mut moved.batch, claim.rows, NAME).await?;
            }
        }
        let mut open: BTreeSet<BatchSeq> = BTreeSet::new();
        let mut shut: BTreeSet<BatchSeq> = BTreeSet::new();
        for moved in &batches {
            let ledger = &moved.batch.ledger;
            if ledger.claimable() || (claim.also_pending && moved.batch.runs()) {
                open.insert(moved.batch.seq);
            } else if ledger.cancelled_at.is_none() {
                shut.insert(moved.batch.seq);
            }
        }
        let back =
            unqueue_rows(&mut tx, claim.rows.iter().filter(|row| shut.contains(&row.batch)), NAME).await?;
        let mut claimed = take(&mut tx, claim, &open, now, NAME).await?;
        for moved in &mut batches {
            let seq = moved.batch.seq;
            let requeued = count(back.iter().filter(|row| row.batch == seq).count());
            let mut taken = 0;
            for one in claimed.iter_mut().filter(|one| one.row.batch == seq) {
                one.run = moved.batch.ledger.run;
                taken += 1;
            }
            if requeued > 0 {
                moved.batch.ledger.unqueue(requeued).map_err(overdrawn(seq))?;
            }
            if taken > 0 {
                moved.batch.ledger.claim(taken).map_err(overdrawn(seq))?;
            }
        }
        ledgers::write_all(&mut tx, &batches, now, NAME).await?;
        commit(tx, NAME).await?;
        Ok(claimed)
    }

    async fn longer_than(&self, bytes: u64, rows: &[RowRef]) -> StoreResult<Vec<(RowRef, u64)>> {
        const NAME: &str = "longer_than";
        let (batches, numbers) = columns(rows.iter());
        // The length of a value stands beside where it is kept: none is read.
        let found = sqlx::query(
            "/* penstock:longer_than */ SELECT d.batch, d.number, octet_length(d.payload)::int8 AS bytes \
             FROM unnest($1::int8[], $2::int4[]) AS j(batch, number) \
             JOIN row_data d ON d.batch = j.batch AND d.number = j.number WHERE octet_length(d.payload) > $3",
        )
        .bind(batches)
        .bind(numbers)
        .bind(i64::try_from(bytes).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await
        .map_err(store_error(NAME))?;
        found.iter().map(|row| Ok((row_ref(row)?, Columns::of("row_data", row).u64("bytes")?))).collect()
    }

    async fn record_intents(&self, asked: &[(RowRef, LeaseToken, u16)]) -> StoreResult<Vec<Held>> {
        const NAME: &str = "record_intents";
        let mut tx = self.write(NAME).await?;
        lock_batches(&mut tx, asked.iter().map(|(row, ..)| row.batch), NAME).await?;
        let (batches, numbers) = columns(asked.iter().map(|(row, ..)| row));
        let held = sqlx::query(
            "/* penstock:record_intents */ UPDATE row_state AS s SET asked = j.step \
             FROM unnest($1::int8[], $2::int4[], $3::uuid[], $4::int2[]) AS j(batch, number, token, step) \
             WHERE s.batch = j.batch AND s.number = j.number AND s.lease_token = j.token AND s.status + 0 = 2 \
             RETURNING s.batch, s.number, s.lease_token",
        )
        .bind(batches)
        .bind(numbers)
        .bind(asked.iter().map(|(_, token, _)| token.0).collect::<Vec<_>>())
        .bind(asked.iter().map(|(.., step)| small(*step)).collect::<Vec<_>>())
        .fetch_all(&mut *tx)
        .await
        .map_err(store_error(NAME))?;
        commit(tx, NAME).await?;
        held.iter().map(held_row).collect()
    }

    async fn save_receipts(&self, receipts: &[(RowRef, LeaseToken, Receipt)]) -> StoreResult<()> {
        const NAME: &str = "save_receipts";
        let mut tx = self.write(NAME).await?;
        lock_batches(&mut tx, receipts.iter().map(|(row, ..)| row.batch), NAME).await?;
        let (batches, numbers) = columns(receipts.iter().map(|(row, ..)| row));
        let tokens: Vec<Uuid> = receipts.iter().map(|(_, token, _)| token.0).collect();
        let held = sqlx::query(
            "/* penstock:save_receipts */ UPDATE row_state AS s SET has_output = true, \
             asked = CASE WHEN s.asked <= j.step THEN NULL ELSE s.asked END \
             FROM (SELECT batch, number, token, max(step) AS step FROM unnest($1::int8[], $2::int4[], $3::uuid[], $4::int2[]) \
             AS u(batch, number, token, step) GROUP BY 1, 2, 3) AS j WHERE s.batch = j.batch AND s.number = j.number AND s.status + 0 = 2 AND s.lease_token = j.token \
             RETURNING s.batch, s.number, s.lease_token",
        )
        .bind(batches)
        .bind(numbers)
        .bind(tokens)
        .bind(receipts.iter().map(|(.., receipt)| small(receipt.step)).collect::<Vec<_>>())
        .fetch_all(&mut *tx)
        .await
        .map_err(store_error(NAME))?;
        let held: HashSet<Held> = held.iter().map(held_row).collect::<StoreResult<_>>()?;
        let kept: Vec<(RowRef, &Receipt)> = receipts
            .iter()
            .filter(|(row, token, _)| held.contains(&(*row, *token)))
            .map(|(row, _, receipt)| (*row, receipt))
            .collect();
        put_receipts(&mut tx, &kept, NAME).await?;
        commit(tx, NAME).await
    }

    async fn settle(&self, group: &[Settlement], now: Timestamp) -> StoreResult<SettleReport> {
        const NAME: &str = "settle";
        let mut tx = self.write(NAME).await?;
        let seqs: BTreeSet<BatchSeq> = group.iter().map(|settlement| settlement.row.batch).collect();
        let mut batches = ledgers::read_all(&mut tx, &seqs, NAME).await?;
        let (mut ours, mut left) = (Vec::with_capacity(group.len()), Vec::new());
        for part in settling::apart(group) {
            let moved = settle_rows(&mut tx, &part, NAME).await?;
            for one in part {
                let Some(has_output) = moved.get(&one.row) else { continue };
                if *has_output && matches!(one.outcome, Settled::Completed { .. }) {
                    left.push(one);
                }
                ours.push(one);
            }
        }
        clear_outputs(&mut tx, &left, NAME).await?;
        put_results(&mut tx, &ours, NAME).await?;
        put_errors(&mut tx, &ours, NAME).await?;
        let receipts: Vec<(RowRef, &Receipt)> =
            ours.iter().flat_map(|one| one.receipts().iter().map(|receipt| (one.row, receipt))).collect();
        put_receipts(&mut tx, &receipts, NAME).await?;
        let held: HashSet<Held> = ours.iter().map(|one| one.held()).collect();
        let report = settling::account(&mut batches, group, &held, now)?;
        ledgers::write_all(&mut tx, &batches, now, NAME).await?;
        penstock_store::crash::point(penstock_store::crash::INSIDE_SETTLEMENT);
        commit(tx, NAME).await?;
        Ok(report)
    }

    async fn unqueue(&self, rows: &[RowRef], now: Timestamp) -> StoreResult<u32> {
        const NAME: &str = "unqueue";
        let mut tx = self.write(NAME).await?;
        let seqs: BTreeSet<BatchSeq> = rows.iter().map(|row| row.batch).collect();
        let mut batches = ledgers::read_all(&mut tx, &seqs, NAME).await?;
        batches.retain(|moved| moved.batch.ledger.cancelled_at.is_none());
        let open: BTreeSet<BatchSeq> = batches.iter().map(|moved| moved.batch.seq).collect();
        let back = unqueue_rows(&mut tx, rows.iter().filter(|row| open.contains(&row.batch)), NAME).await?;
        for moved in &mut batches {
            let rows = count(back.iter().filter(|row| row.batch == moved.batch.seq).count());
            if rows > 0 {
                moved.batch.ledger.unqueue(rows).map_err(overdrawn(moved.batch.seq))?;
            }
        }
        ledgers::write_all(&mut tx, &batches, now, NAME).await?;
        commit(tx, NAME).await?;
        Ok(count(back.len()))
    }

    async fn holder(&self, row: RowRef) -> StoreResult<Option<(String, Timestamp)>> {
        let found = sqlx::query(
            "/* penstock:holder */ SELECT s.lease_holder, coalesce(s.lease_until, w.beat_at + w.silence_ms, 0) AS until \
             FROM row_state s LEFT JOIN workers w ON w.name = s.lease_holder \
             WHERE s.batch = $1 AND s.number = $2 AND s.status = 2",
        )
        .bind(row.batch.0)
        .bind(int(row.number))
        .fetch_optional(&self.pool)
        .await
        .map_err(store_error("holder"))?;
        let Some(found) = found else { return Ok(None) };
        let c = Columns::of("row_state", &found);
        Ok(Some((c.text("lease_holder")?, c.time("until")?)))
    }
}

/// Rows move only under their batches' locks, taken in the order of their keys, so that no two transactions wait for
/// each other in a circle.
async fn lock_batches(
    tx: &mut Connection,
    seqs: impl Iterator<Item = BatchSeq>,
    name: &'static str,
) -> StoreResult<()> {
    let seqs: BTreeSet<i64> = seqs.map(|seq| seq.0).collect();
    sqlx::query(sqlx::AssertSqlSafe(format!(
        "/* penstock:{name} */ SELECT seq FROM batches WHERE seq = ANY($1) ORDER BY seq FOR NO KEY UPDATE"
    )))
    .bind(seqs.into_iter().collect::<Vec<_>>())
    .execute(tx)
    .await
    .map_err(store_error(name))?;
    Ok(())
}

/// Claims the queued ones of the rows, of batches that are open.
async fn take(
    tx: &mut Connection,
    claim: &Claim<'_>,
    open: &BTreeSet<BatchSeq>,
    now: Timestamp,
    name: &'static str,
) -> StoreResult<Vec<ClaimedRow>> {
    let (batches, numbers) = columns(claim.rows.iter().filter(|row| open.contains(&row.batch)));
    let rows = sqlx::query(
        // Whoever buries the process waits for the lock of its record, and then finds these rows.
        "/* penstock:claim */ WITH alive AS MATERIALIZED (SELECT name FROM workers WHERE name = $4 FOR KEY SHARE) \
         UPDATE row_state AS s SET status = 2, lease_token = $3, lease_holder = alive.name, lease_until = NULL, \
         queued_until = NULL, first_claimed_at = coalesce(s.first_claimed_at, $5) \
         FROM alive CROSS JOIN unnest($1::int8[], $2::int4[]) AS j(batch, number) \
         JOIN row_data d ON d.batch = j.batch AND d.number = j.number \
         WHERE s.batch = j.batch AND s.number = j.number AND s.status + 0 = 1 AND s.crashes <= $6 \
         RETURNING s.batch, s.number, s.attempts, s.crashes, s.first_claimed_at, s.has_output, d.line, d.payload",
    )
    .bind(batches)
    .bind(numbers)
    .bind(claim.token.0)
    .bind(claim.holder)
    .bind(now.millis())
    .bind(small(claim.most_crashes()))
    .fetch_all(&mut *tx)
    .await
    .map_err(store_error(name))?;
    let mut with_output = Vec::new();
    let mut claimed = BTreeMap::new();
    for row in &rows {
        let c = Columns::of("row_state", row);
        let at = row_ref(row)?;
        if c.flag("has_output")? {
            with_output.push(at);
        }
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
                run: 0,
            },
        );
    }
    if !with_output.is_empty() {
        read_outputs(tx, &with_output, &mut claimed, name).await?;
    }
    Ok(claimed.into_values().collect())
}

/// What earlier attempts left: receipts and errors.
async fn read_outputs(
    tx: &mut Connection,
    rows: &[RowRef],
    claimed: &mut BTreeMap<RowRef, ClaimedRow>,
    name: &'static str,
) -> StoreResult<()> {
    let (batches, numbers) = columns(rows);
    let errors = sqlx::query(
        "/* penstock:claim */ SELECT o.batch, o.number, o.error FROM unnest($1::int8[], $2::int4[]) AS j(batch, number) \
         JOIN row_output o ON o.batch = j.batch AND o.number = j.number",
    )
    .bind(&batches)
    .bind(&numbers)
    .fetch_all(&mut *tx)
    .await
    .map_err(store_error(name))?;
    for row in &errors {
        if let Some(one) = claimed.get_mut(&row_ref(row)?) {
            one.error = Columns::of("row_state", row).opt_bytes("error")?;
        }
    }
    let receipts = sqlx::query(
        "/* penstock:claim */ SELECT r.batch, r.number, r.step, r.output \
         FROM unnest($1::int8[], $2::int4[]) AS j(batch, number) \
         JOIN row_receipts r ON r.batch = j.batch AND r.number = j.number ORDER BY r.batch, r.number, r.step",
    )
    .bind(&batches)
    .bind(&numbers)
    .fetch_all(tx)
    .await
    .map_err(store_error(name))?;
    for row in &receipts {
        if let Some(one) = claimed.get_mut(&row_ref(row)?) {
            let c = Columns::of("row_state", row);
            one.receipts.push(Receipt { step: c.u16("step")?, sealed: c.bytes("output")? });
        }
    }
    Ok(())
}

/// An operator's claim: pending rows are queued first, those never released included. The release cursor skips them
/// later, because they have a state by then.
async fn wake(
    tx: &mut Connection,
    batch: &mut Batch,
    rows: &[RowRef],
    name: &'static str,
) -> StoreResult<()> {
    let list: Vec<i32> =
        rows.iter().filter(|row| row.batch == batch.seq).map(|row| int(row.number)).collect();
    let woken =
        sqlx::query("UPDATE row_state SET status = 1 WHERE batch = $1 AND status = 0 AND number = ANY($2)")
            .bind(batch.seq.0)
            .bind(&list)
            .execute(&mut *tx)
            .await
            .map_err(store_error(name))?
            .rows_affected();
    let fresh = sqlx::query(
        "INSERT INTO row_state (batch, number, status) SELECT $1, value, 1 FROM unnest($2::int4[]) AS value \
         WHERE value >= $3 AND value < $4 ON CONFLICT DO NOTHING",
    )
    .bind(batch.seq.0)
    .bind(&list)
    .bind(int(batch.ledger.next_number))
    .bind(int(batch.ledger.release_end))
    .execute(&mut *tx)
    .await
    .map_err(store_error(name))?
    .rows_affected();
    let rows = u32::try_from(woken + fresh).unwrap_or(u32::MAX);
    if rows > 0 {
        batch.ledger.release(0, 0, rows).map_err(overdrawn(batch.seq))?;
    }
    Ok(())
}

async fn unqueue_rows(
    tx: &mut Connection,
    rows: impl Iterator<Item = &RowRef>,
    name: &'static str,
) -> StoreResult<Vec<RowRef>> {
    let (batches, numbers) = columns(rows);
    if batches.is_empty() {
        return Ok(Vec::new());
    }
    let back = sqlx::query(
        "/* penstock:unqueue */ UPDATE row_state AS s SET status = 0, queued_until = NULL \
         FROM unnest($1::int8[], $2::int4[]) AS j(batch, number) \
         WHERE s.batch = j.batch AND s.number = j.number AND s.status + 0 = 1 RETURNING s.batch, s.number",
    )
    .bind(batches)
    .bind(numbers)
    .fetch_all(tx)
    .await
    .map_err(store_error(name))?;
    back.iter().map(row_ref).collect()
}

/// Moves the rows that are still held under their tokens. Tells which, and whether an attempt left anything of them.
async fn settle_rows(
    tx: &mut Connection,
    part: &[&Settlement],
    name: &'static str,
) -> StoreResult<HashMap<RowRef, bool>> {
    let moves: Vec<Move<'_>> = part.iter().map(|one| one.moved()).collect();
    let (batches, numbers) = columns(moves.iter().map(|one| &one.row));
    let rows = sqlx::query(
        "/* penstock:settle */ UPDATE row_state AS s SET status = j.status, attempts = s.attempts + j.attempt, \
         not_before = j.not_before, step = j.step, code = j.code, http_status = j.http_status, \
         expires_at = j.expires_at, expires_as = j.expires_as, has_output = s.has_output OR j.has_output, \
         crashes = s.crashes * (1 - j.attempt), asked = NULL, lease_token = NULL, lease_holder = NULL, \
         lease_until = NULL \
         FROM unnest($1::int8[], $2::int4[], $3::uuid[], $4::int2[], $5::int2[], $6::int8[], $7::int2[], $8::text[], \
         $9::int2[], $10::bool[], $11::int8[], $12::text[]) AS j(batch, number, token, status, attempt, not_before, step, \
         code, http_status, has_output, expires_at, expires_as) WHERE s.batch = j.batch AND s.number = j.number AND s.status + 0 = 2 AND s.lease_token = j.token \
         RETURNING s.batch, s.number, s.has_output",
    )
    .bind(batches)
    .bind(numbers)
    .bind(moves.iter().map(|one| one.token.0).collect::<Vec<Uuid>>())
    .bind(moves.iter().map(|one| one.status.code()).collect::<Vec<_>>())
    .bind(moves.iter().map(|one| i16::from(one.attempt)).collect::<Vec<_>>())
    .bind(moves.iter().map(|one| opt_ms(one.not_before)).collect::<Vec<_>>())
    .bind(moves.iter().map(|one| one.step.map(small)).collect::<Vec<_>>())
    .bind(moves.iter().map(|one| one.code).collect::<Vec<_>>())
    .bind(moves.iter().map(|one| one.http_status.map(small)).collect::<Vec<_>>())
    .bind(moves.iter().map(|one| one.has_output).collect::<Vec<_>>())
    .bind(moves.iter().map(|one| opt_ms(one.expires.map(|expires| expires.at))).collect::<Vec<_>>())
    .bind(moves.iter().map(|one| one.expires.map(|expires| expires.code)).collect::<Vec<_>>())
    .fetch_all(tx)
    .await
    .map_err(store_error(name))?;
    rows.iter().map(|row| Ok((row_ref(row)?, Columns::of("row_state", row).flag("has_output")?))).collect()
}

/// What attempts left of rows that are completed now is of no use to anybody.
async fn clear_outputs(tx: &mut Connection, rows: &[&Settlement], name: &'static str) -> StoreResult<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let (batches, numbers) = columns(rows.iter().map(|one| &one.row));
    for statement in [
        "/* penstock:settle */ DELETE FROM row_receipts AS r USING unnest($1::int8[], $2::int4[]) AS j(batch, number) \
         WHERE r.batch = j.batch AND r.number = j.number",
        "/* penstock:settle */ DELETE FROM row_output AS o USING unnest($1::int8[], $2::int4[]) AS j(batch, number) \
         WHERE o.batch = j.batch AND o.number = j.number",
    ] {
        sqlx::query(statement)
            .bind(&batches)
            .bind(&numbers)
            .execute(&mut *tx)
            .await
            .map_err(store_error(name))?;
    }
    Ok(())
}

async fn put_results(tx: &mut Connection, group: &[&Settlement], name: &'static str) -> StoreResult<()> {
    let results: Vec<(&RowRef, &[u8])> =
        group.iter().filter_map(|one| one.result().map(|result| (&one.row, result))).collect();
    if results.is_empty() {
        return Ok(());
    }
    let (batches, numbers) = columns(results.iter().map(|(row, _)| *row));
    sqlx::query(
        "/* penstock:settle */ INSERT INTO row_output (batch, number, result) \
         SELECT * FROM unnest($1::int8[], $2::int4[], $3::bytea[]) \
         ON CONFLICT (batch, number) DO UPDATE SET result = excluded.result, error = NULL",
    )
    .bind(batches)
    .bind(numbers)
    .bind(results.into_iter().map(|(_, result)| result).collect::<Vec<_>>())
    .execute(tx)
    .await
    .map_err(store_error(name))?;
    Ok(())
}

async fn put_errors(tx: &mut Connection, group: &[&Settlement], name: &'static str) -> StoreResult<()> {
    let errors: Vec<(&RowRef, &[u8])> =
        group.iter().filter_map(|one| one.error().map(|error| (&one.row, error))).collect();
    if errors.is_empty() {
        return Ok(());
    }
    let (batches, numbers) = columns(errors.iter().map(|(row, _)| *row));
    sqlx::query(
        "/* penstock:settle */ INSERT INTO row_output (batch, number, error) \
         SELECT * FROM unnest($1::int8[], $2::int4[], $3::bytea[]) \
         ON CONFLICT (batch, number) DO UPDATE SET error = excluded.error",
    )
    .bind(batches)
    .bind(numbers)
    .bind(errors.into_iter().map(|(_, error)| error).collect::<Vec<_>>())
    .execute(tx)
    .await
    .map_err(store_error(name))?;
    Ok(())
}

async fn put_receipts(
    tx: &mut Connection,
    receipts: &[(RowRef, &Receipt)],
    name: &'static str,
) -> StoreResult<()> {
    if receipts.is_empty() {
        return Ok(());
    }
    let (batches, numbers) = columns(receipts.iter().map(|(row, _)| row));
    sqlx::query(sqlx::AssertSqlSafe(format!(
        "/* penstock:{name} */ INSERT INTO row_receipts (batch, number, step, output) \
         SELECT * FROM unnest($1::int8[], $2::int4[], $3::int2[], $4::bytea[]) \
         ON CONFLICT (batch, number, step) DO UPDATE SET output = excluded.output"
    )))
    .bind(batches)
    .bind(numbers)
    .bind(receipts.iter().map(|(_, receipt)| small(receipt.step)).collect::<Vec<_>>())
    .bind(receipts.iter().map(|(_, receipt)| receipt.sealed.as_slice()).collect::<Vec<_>>())
    .execute(tx)
    .await
    .map_err(store_error(name))?;
    Ok(())
}
