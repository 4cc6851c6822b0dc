//! Claims, leases, receipts and settlements, in groups.

use std::collections::{BTreeSet, HashMap, HashSet};

use async_trait::async_trait;
use penstock_domain::ids::{BatchSeq, LeaseToken, RowRef};
use penstock_domain::row::Receipt;
use penstock_domain::time::Timestamp;
use penstock_store::batches::Batch;
use penstock_store::decode::Columns as _;
use penstock_store::settling::{self, Held};
use penstock_store::work::{Claim, ClaimedRow, SettleReport, Settled, Settlement, Work};
use penstock_store::{StoreResult, overdrawn};
use serde_json::json;
use sqlx::QueryBuilder;
use sqlx::sqlite::SqliteRow;

use crate::convert::{Columns, opt_ms};
use crate::error::store_error;
use crate::{Connection, SqliteStore, commit, ledgers};

/// Rows of one statement: what a statement binds is limited.
const GROUP: usize = 500;

fn row_ref(row: &SqliteRow) -> StoreResult<RowRef> {
    let c = Columns::of("row_state", row);
    Ok(RowRef { batch: BatchSeq(c.i64("batch")?), number: c.u32("number")? })
}

fn held_row(row: &SqliteRow) -> StoreResult<Held> {
    Ok((row_ref(row)?, LeaseToken(Columns::of("row_state", row).uuid("lease_token")?)))
}

fn held_rows(rows: &[SqliteRow]) -> StoreResult<Vec<Held>> {
    rows.iter().map(held_row).collect()
}

fn count(rows: usize) -> u32 {
    u32::try_from(rows).unwrap_or(u32::MAX)
}

#[async_trait]
impl Work for SqliteStore {
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
        let mut found = Vec::new();
        for chunk in rows.chunks(GROUP) {
            let mut query = QueryBuilder::new("/* penstock:longer_than */ WITH j(batch, number) AS (");
            query.push_values(chunk, |mut values, row| {
                values.push_bind(row.batch.0).push_bind(row.number);
            });
            query
                .push(
                    ") SELECT d.batch, d.number, length(d.payload) AS bytes FROM j JOIN row_data d \
                     ON d.batch = j.batch AND d.number = j.number WHERE length(d.payload) > ",
                )
                .push_bind(i64::try_from(bytes).unwrap_or(i64::MAX));
            let query = query.build().persistent(false);
            for row in &query.fetch_all(&self.readers).await.map_err(store_error(NAME))? {
                found.push((row_ref(row)?, Columns::of("row_data", row).u64("bytes")?));
            }
        }
        Ok(found)
    }

    async fn record_intents(&self, asked: &[(RowRef, LeaseToken, u16)]) -> StoreResult<Vec<Held>> {
        const NAME: &str = "record_intents";
        let mut tx = self.write(NAME).await?;
        let mut held = Vec::with_capacity(asked.len());
        for chunk in asked.chunks(GROUP) {
            let mut query =
                QueryBuilder::new("/* penstock:record_intents */ WITH j(batch, number, token, step) AS (");
            query.push_values(chunk, |mut values, (row, token, step)| {
                values.push_bind(row.batch.0).push_bind(row.number).push_bind(token.0.to_string());
                values.push_bind(*step);
            });
            query.push(
                ") UPDATE row_state AS s SET asked = j.step FROM j WHERE s.batch = j.batch AND s.number = j.number \
                 AND s.lease_token = j.token AND +s.status = 2 RETURNING batch, number, lease_token",
            );
            let rows =
                query.build().persistent(false).fetch_all(&mut *tx).await.map_err(store_error(NAME))?;
            held.extend(held_rows(&rows)?);
        }
        commit(tx, NAME).await?;
        Ok(held)
    }

    async fn save_receipts(&self, receipts: &[(RowRef, LeaseToken, Receipt)]) -> StoreResult<()> {
        const NAME: &str = "save_receipts";
        let mut tx = self.write(NAME).await?;
        let mut held = HashSet::new();
        for chunk in receipts.chunks(GROUP) {
            let mut query =
                QueryBuilder::new("/* penstock:save_receipts */ WITH u(batch, number, token, step) AS (");
            query.push_values(chunk, |mut values, (row, token, receipt)| {
                values.push_bind(row.batch.0).push_bind(row.number).push_bind(token.0.to_string());
                values.push_bind(receipt.step);
            });
            query.push(
                "), j AS (SELECT batch, number, token, max(step) AS step FROM u GROUP BY 1, 2, 3) \
                 UPDATE row_state AS s SET has_output = 1, asked = CASE WHEN s.asked <= j.step THEN NULL ELSE s.asked END \
                 FROM j WHERE s.batch = j.batch AND s.number = j.number AND s.lease_token = j.token \
                 AND +s.status = 2 RETURNING batch, number, lease_token",
            );
            let rows =
                query.build().persistent(false).fetch_all(&mut *tx).await.map_err(store_error(NAME))?;
            held.extend(held_rows(&rows)?);
        }
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
             WHERE s.batch = ? AND s.number = ? AND s.status = 2",
        )
        .bind(row.batch.0)
        .bind(row.number)
        .fetch_optional(&self.readers)
        .await
        .map_err(store_error("holder"))?;
        let Some(found) = found else { return Ok(None) };
        let c = Columns::of("row_state", &found);
        Ok(Some((c.text("lease_holder")?, c.time("until")?)))
    }
}

/// Claims the queued ones of the rows, of batches that are open.
async fn take(
    tx: &mut Connection,
    claim: &Claim<'_>,
    open: &BTreeSet<BatchSeq>,
    now: Timestamp,
    name: &'static str,
) -> StoreResult<Vec<ClaimedRow>> {
    let wanted: Vec<&RowRef> = claim.rows.iter().filter(|row| open.contains(&row.batch)).collect();
    let mut claimed = Vec::with_capacity(wanted.len());
    for chunk in wanted.chunks(GROUP) {
        let mut query = QueryBuilder::new("/* penstock:claim */ WITH j(batch, number) AS (");
        query.push_values(chunk, |mut values, row| {
            values.push_bind(row.batch.0).push_bind(row.number);
        });
        query
            .push(") UPDATE row_state AS s SET status = 2, lease_token = ")
            .push_bind(claim.token.0.to_string());
        query.push(", lease_holder = ").push_bind(claim.holder);
        query.push(
            ", lease_until = NULL, queued_until = NULL, first_claimed_at = coalesce(s.first_claimed_at, ",
        );
        query.push_bind(now.millis());
        query.push(") FROM j WHERE EXISTS (SELECT 1 FROM workers WHERE name = ").push_bind(claim.holder);
        query.push(") AND s.crashes <= ").push_bind(claim.most_crashes()).push(
            " AND s.batch = j.batch AND s.number = j.number AND +s.status = 1 \
             RETURNING batch, number, attempts, crashes, first_claimed_at, has_output, \
             (SELECT d.line FROM row_data d WHERE d.batch = row_state.batch AND d.number = row_state.number) AS line, \
             (SELECT d.payload FROM row_data d WHERE d.batch = row_state.batch AND d.number = row_state.number) AS payload",
        );
        let rows = query.build().persistent(false).fetch_all(&mut *tx).await.map_err(store_error(name))?;
        for row in &rows {
            let c = Columns::of("row_state", row);
            let at = row_ref(row)?;
            let mut one = ClaimedRow {
                row: at,
                line: c.u32("line")?,
                attempts: c.u16("attempts")?,
                crashes: c.u16("crashes")?,
                first_claimed_at: c.opt_time("first_claimed_at")?.filter(|first| *first != now),
                payload: c.bytes("payload")?,
                receipts: Vec::new(),
                error: None,
                run: 0,
            };
            if c.flag("has_output")? {
                read_output(tx, &mut one, name).await?;
            }
            claimed.push(one);
        }
    }
    claimed.sort_by_key(|claimed| claimed.row);
    Ok(claimed)
}

/// What earlier attempts left: receipts and errors.
async fn read_output(tx: &mut Connection, one: &mut ClaimedRow, name: &'static str) -> StoreResult<()> {
    one.error = sqlx::query_scalar("SELECT error FROM row_output WHERE batch = ? AND number = ?")
        .bind(one.row.batch.0)
        .bind(one.row.number)
        .fetch_optional(&mut *tx)
        .await
        .map_err(store_error(name))?
        .flatten();
    let rows =
        sqlx::query("SELECT step, output FROM row_receipts WHERE batch = ? AND number = ? ORDER BY step")
            .bind(one.row.batch.0)
            .bind(one.row.number)
            .fetch_all(tx)
            .await
            .map_err(store_error(name))?;
    one.receipts = rows
        .iter()
        .map(|row| {
            let c = Columns::of("row_state", row);
            Ok(Receipt { step: c.u16("step")?, sealed: c.bytes("output")? })
        })
        .collect::<StoreResult<_>>()?;
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
    let list: Vec<u32> = rows.iter().filter(|row| row.batch == batch.seq).map(|row| row.number).collect();
    let list = json!(list).to_string();
    let woken = sqlx::query("UPDATE row_state SET status = 1 WHERE batch = ? AND status = 0 AND number IN (SELECT value FROM json_each(?))")
        .bind(batch.seq.0)
        .bind(&list)
        .execute(&mut *tx)
        .await
        .map_err(store_error(name))?
        .rows_affected();
    let fresh = sqlx::query(
        "INSERT INTO row_state (batch, number, status) SELECT ?1, value, 1 FROM json_each(?2) \
         WHERE value >= ?3 AND value < ?4 ON CONFLICT DO NOTHING",
    )
    .bind(batch.seq.0)
    .bind(&list)
    .bind(batch.ledger.next_number)
    .bind(batch.ledger.release_end)
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
    let rows: Vec<&RowRef> = rows.collect();
    let mut back = Vec::new();
    for chunk in rows.chunks(GROUP) {
        let mut query = QueryBuilder::new("/* penstock:unqueue */ WITH j(batch, number) AS (");
        query.push_values(chunk, |mut values, row| {
            values.push_bind(row.batch.0).push_bind(row.number);
        });
        query.push(
            ") UPDATE row_state AS s SET status = 0, queued_until = NULL FROM j \
             WHERE s.batch = j.batch AND s.number = j.number AND +s.status = 1 RETURNING batch, number",
        );
        let rows = query.build().persistent(false).fetch_all(&mut *tx).await.map_err(store_error(name))?;
        for row in &rows {
            back.push(row_ref(row)?);
        }
    }
    Ok(back)
}

/// Moves the rows that are still held under their tokens. Tells which, and whether an attempt left anything of them.
async fn settle_rows(
    tx: &mut Connection,
    part: &[&Settlement],
    name: &'static str,
) -> StoreResult<HashMap<RowRef, bool>> {
    let mut moved = HashMap::with_capacity(part.len());
    for chunk in part.chunks(GROUP) {
        let mut query = QueryBuilder::new(
            "/* penstock:settle */ WITH j(batch, number, token, status, attempt, not_before, step, code, http_status, \
             has_output, expires_at, expires_as) AS (",
        );
        query.push_values(chunk, |mut values, settlement| {
            let one = settlement.moved();
            values.push_bind(one.row.batch.0).push_bind(one.row.number).push_bind(one.token.0.to_string());
            values.push_bind(one.status.code()).push_bind(one.attempt).push_bind(opt_ms(one.not_before));
            values.push_bind(one.step).push_bind(one.code.map(str::to_owned)).push_bind(one.http_status);
            values.push_bind(one.has_output).push_bind(opt_ms(one.expires.map(|expires| expires.at)));
            values.push_bind(one.expires.map(|expires| expires.code));
        });
        query.push(
            ") UPDATE row_state AS s SET status = j.status, attempts = s.attempts + j.attempt, \
             not_before = j.not_before, step = j.step, code = j.code, http_status = j.http_status, \
             expires_at = j.expires_at, expires_as = j.expires_as, crashes = s.crashes * (1 - j.attempt), \
             has_output = max(s.has_output, j.has_output), asked = NULL, lease_token = NULL, lease_holder = NULL, \
             lease_until = NULL FROM j WHERE s.batch = j.batch AND s.number = j.number AND +s.status = 2 \
             AND s.lease_token = j.token RETURNING batch, number, has_output",
        );
        let rows = query.build().persistent(false).fetch_all(&mut *tx).await.map_err(store_error(name))?;
        for row in &rows {
            moved.insert(row_ref(row)?, Columns::of("row_state", row).flag("has_output")?);
        }
    }
    Ok(moved)
}

/// What attempts left of rows that are completed now is of no use to anybody.
async fn clear_outputs(tx: &mut Connection, rows: &[&Settlement], name: &'static str) -> StoreResult<()> {
    for one in rows {
        for statement in [
            "/* penstock:settle */ DELETE FROM row_receipts WHERE batch = ? AND number = ?",
            "/* penstock:settle */ DELETE FROM row_output WHERE batch = ? AND number = ?",
        ] {
            sqlx::query(statement)
                .bind(one.row.batch.0)
                .bind(one.row.number)
                .execute(&mut *tx)
                .await
                .map_err(store_error(name))?;
        }
    }
    Ok(())
}

async fn put_results(tx: &mut Connection, group: &[&Settlement], name: &'static str) -> StoreResult<()> {
    let results: Vec<(&RowRef, &[u8])> =
        group.iter().filter_map(|one| one.result().map(|result| (&one.row, result))).collect();
    for chunk in results.chunks(GROUP) {
        let mut query =
            QueryBuilder::new("/* penstock:settle */ INSERT INTO row_output (batch, number, result) ");
        query.push_values(chunk, |mut values, (row, result)| {
            values.push_bind(row.batch.0).push_bind(row.number).push_bind(*result);
        });
        query.push(" ON CONFLICT DO UPDATE SET result = excluded.result, error = NULL");
        query.build().persistent(false).execute(&mut *tx).await.map_err(store_error(name))?;
    }
    Ok(())
}

async fn put_errors(tx: &mut Connection, group: &[&Settlement], name: &'static str) -> StoreResult<()> {
    let errors: Vec<(&RowRef, &[u8])> =
        group.iter().filter_map(|one| one.error().map(|error| (&one.row, error))).collect();
    for chunk in errors.chunks(GROUP) {
        let mut query =
            QueryBuilder::new("/* penstock:settle */ INSERT INTO row_output (batch, number, error) ");
        query.push_values(chunk, |mut values, (row, error)| {
            values.push_bind(row.batch.0).push_bind(row.number).push_bind(*error);
        });
        query.push(" ON CONFLICT DO UPDATE SET error = excluded.error");
        query.build().persistent(false).execute(&mut *tx).await.map_err(store_error(name))?;
    }
    Ok(())
}

async fn put_receipts(
    tx: &mut Connection,
    receipts: &[(RowRef, &Receipt)],
    name: &'static str,
) -> StoreResult<()> {
    for chunk in receipts.chunks(GROUP) {
        let mut query = QueryBuilder::new(
            "/* penstock:receipts */ INSERT INTO row_receipts (batch, number, step, output) ",
        );
        query.push_values(chunk, |mut values, (row, receipt)| {
            values.push_bind(row.batch.0).push_bind(row.number);
            values.push_bind(receipt.step).push_bind(receipt.sealed.as_slice());
        });
        query.push(" ON CONFLICT DO UPDATE SET output = excluded.output");
        query.build().persistent(false).execute(&mut *tx).await.map_err(store_error(name))?;
    }
    Ok(())
}
