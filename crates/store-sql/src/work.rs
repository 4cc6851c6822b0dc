//! Claims, leases, receipts and settlements, in groups. Rows are found by their keys.
//! `s.status + 0` keeps planners off the partial indexes: with the statistics of an empty table PostgreSQL takes them for
//! shorter, and scans all rows in flight for every row of a group.

use std::collections::{BTreeSet, HashMap, HashSet};

use async_trait::async_trait;
use penstock_domain::ids::{BatchSeq, LeaseToken, RowRef};
use penstock_domain::row::Receipt;
use penstock_domain::time::Timestamp;
use penstock_store::settling::{self, Move};
use penstock_store::work::{Claim, ClaimedRow, Held, LongRow, SettleReport, Settled, Settlement, Work};
use penstock_store::{StoreResult, overdrawn};

use crate::codes::Beyond;
use crate::{Group, Row, SqlStore, Tx, claims, codes, duplicates, holds, ledgers, sql};

/// Rows by their keys.
pub(crate) fn keys<'a>(rows: impl IntoIterator<Item = RowRef>) -> Group<'a> {
    Group::of_rows(rows.into_iter().map(|row| [row.batch.into(), row.number.into()]))
}

pub(crate) fn row_ref(row: &Row) -> StoreResult<RowRef> {
    let c = row.of("row_state");
    Ok(RowRef { batch: BatchSeq(c.i64("batch")?), number: c.u32("number")? })
}

pub(crate) fn held_row(row: &Row) -> StoreResult<Held> {
    Ok((row_ref(row)?, LeaseToken(row.of("row_state").uuid("lease_token")?)))
}

pub(crate) fn count(rows: usize) -> u32 {
    u32::try_from(rows).unwrap_or(u32::MAX)
}

#[async_trait]
impl Work for SqlStore {
    async fn claim(&self, claim: &Claim<'_>, now: Timestamp) -> StoreResult<Vec<ClaimedRow>> {
        let mut tx = self.db.write("claim").await?;
        let seqs: BTreeSet<BatchSeq> = claim.rows.iter().map(|row| row.batch).collect();
        let mut batches = ledgers::read_all(&mut tx, &seqs).await?;
        if claim.also_pending {
            for moved in batches.iter_mut().filter(|moved| moved.batch.runs()) {
                claims::wake(&mut tx, &mut moved.batch, claim.rows).await?;
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
        let back = unqueue_rows(&mut tx, claim.rows.iter().filter(|row| shut.contains(&row.batch))).await?;
        let wanted = claim.rows.iter().filter(|row| open.contains(&row.batch)).copied();
        let mut claimed = claims::take(&mut tx, claim, wanted, claim.most_crashes(), now).await?;
        claims::complete_calls(&mut tx, claim, &mut batches, &mut claimed, now).await?;
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
        ledgers::write_all(&mut tx, &batches, now).await?;
        tx.commit().await?;
        Ok(claimed)
    }

    async fn longer_than(&self, bytes: u64, rows: &[RowRef]) -> StoreResult<Vec<LongRow>> {
        // The length of a value stands beside where it is kept: none is read.
        let statement = sql(
            "row_data_list_if_longer",
            "WITH j(batch, number) AS ({rows}), \
             c AS (SELECT s.batch, s.call_id, min(s.number) AS first_number FROM j JOIN row_state s \
             ON s.batch = j.batch AND s.number = j.number WHERE s.call_id IS NOT NULL GROUP BY s.batch, s.call_id), \
             w AS (SELECT c.batch, c.call_id, sum(octet_length(d.payload)) AS bytes FROM c JOIN row_state m \
             ON m.batch = c.batch AND m.call_id = c.call_id JOIN row_data d ON d.batch = m.batch AND d.number = m.number \
             WHERE octet_length(d.payload) > $1 GROUP BY c.batch, c.call_id) \
             SELECT d.batch, d.number, d.number AS first_number, octet_length(d.payload) AS bytes FROM j \
             JOIN row_data d ON d.batch = j.batch AND d.number = j.number \
             LEFT JOIN row_state s ON s.batch = j.batch AND s.number = j.number \
             WHERE s.call_id IS NULL AND octet_length(d.payload) > $1 \
             UNION ALL SELECT s.batch, s.number, c.first_number, w.bytes FROM j \
             JOIN row_state s ON s.batch = j.batch AND s.number = j.number \
             JOIN c ON c.batch = s.batch AND c.call_id = s.call_id JOIN w ON w.batch = s.batch AND w.call_id = s.call_id",
        );
        let found = self.db.fetch(statement.bind(bytes).rows(keys(rows.iter().copied()))).await?;
        let long = |found: &Row| {
            let (row, c) = (row_ref(found)?, found.of("row_data"));
            let first = RowRef { number: c.u32("first_number")?, ..row };
            Ok(LongRow { row, first, bytes: c.u64("bytes")? })
        };
        found.iter().map(long).collect()
    }

    async fn record_intents(
        &self,
        asked: &[(RowRef, LeaseToken, u16)],
        receipts: &[(RowRef, LeaseToken, Receipt)],
    ) -> StoreResult<Vec<Held>> {
        let mut tx = self.db.write("record_intents").await?;
        ledgers::lock_all(&mut tx, asked.iter().map(|(row, ..)| row.batch)).await?;
        let kept: HashSet<Held> = receipts.iter().map(|(row, token, _)| (*row, *token)).collect();
        let statement = sql(
            "row_set_asked_if_held",
            "WITH j(row_batch, row_number, token, step, output) AS ({rows}) UPDATE row_state AS s SET asked = j.step, \
             has_output = s.has_output OR j.output FROM j WHERE s.batch = j.row_batch AND s.number = j.row_number \
             AND s.lease_token = j.token AND s.status + 0 = {row processing} RETURNING batch, number, lease_token",
        );
        let group = keys(asked.iter().map(|(row, ..)| *row))
            .column(asked.iter().map(|(_, token, _)| *token))
            .column(asked.iter().map(|(.., step)| *step))
            .column(asked.iter().map(|(row, token, _)| kept.contains(&(*row, *token))));
        let held = tx.fetch(statement.rows(group)).await?;
        let held: Vec<Held> = held.iter().map(held_row).collect::<StoreResult<_>>()?;
        let ours: HashSet<&Held> = held.iter().collect();
        let of_held = receipts.iter().filter(|(row, token, _)| ours.contains(&(*row, *token)));
        let of_held: Vec<_> = of_held.map(|(row, _, receipt)| (*row, receipt)).collect();
        put_receipts(&mut tx, &of_held).await?;
        tx.commit().await?;
        Ok(held)
    }

    async fn save_receipts(&self, receipts: &[(RowRef, LeaseToken, Receipt)]) -> StoreResult<()> {
        let mut tx = self.db.write("save_receipts").await?;
        ledgers::lock_all(&mut tx, receipts.iter().map(|(row, ..)| row.batch)).await?;
        let kept = held_receipts(&mut tx, receipts).await?;
        put_receipts(&mut tx, &kept).await?;
        tx.commit().await
    }

    async fn settle(&self, group: &[Settlement], now: Timestamp) -> StoreResult<SettleReport> {
        let mut tx = self.db.write("settle").await?;
        let report = settle_in(&mut tx, group, &[], now).await?;
        penstock_store::crash::point(penstock_store::crash::INSIDE_SETTLEMENT);
        tx.commit().await?;
        Ok(report)
    }

    async fn unqueue(&self, rows: &[RowRef], now: Timestamp) -> StoreResult<u32> {
        let mut tx = self.db.write("unqueue").await?;
        let seqs: BTreeSet<BatchSeq> = rows.iter().map(|row| row.batch).collect();
        let mut batches = ledgers::read_all(&mut tx, &seqs).await?;
        batches.retain(|moved| moved.batch.ledger.cancelled_at.is_none());
        let open: BTreeSet<BatchSeq> = batches.iter().map(|moved| moved.batch.seq).collect();
        let back = unqueue_rows(&mut tx, rows.iter().filter(|row| open.contains(&row.batch))).await?;
        for moved in &mut batches {
            let rows = count(back.iter().filter(|row| row.batch == moved.batch.seq).count());
            if rows > 0 {
                moved.batch.ledger.unqueue(rows).map_err(overdrawn(moved.batch.seq))?;
            }
        }
        ledgers::write_all(&mut tx, &batches, now).await?;
        tx.commit().await?;
        Ok(count(back.len()))
    }

    async fn holder(&self, row: RowRef) -> StoreResult<Option<(String, Timestamp)>> {
        let statement = sql(
            "row_get_holder",
            "SELECT s.lease_holder, coalesce(s.lease_until, w.beat_at + w.silence_ms, 0) AS until \
             FROM row_state s LEFT JOIN workers w ON w.name = s.lease_holder \
             WHERE s.batch = $1 AND s.number = $2 AND s.status = {row processing}",
        );
        let found = self.db.fetch_optional(statement.bind(row.batch).bind(row.number)).await?;
        let Some(found) = found else { return Ok(None) };
        let c = found.of("row_state");
        Ok(Some((c.text("lease_holder")?, c.time("until")?)))
    }
}

pub(crate) async fn unqueue_rows(
    tx: &mut Tx,
    rows: impl Iterator<Item = &RowRef>,
) -> StoreResult<Vec<RowRef>> {
    let statement = sql(
        "row_unqueue_if_queued",
        "WITH j(row_batch, row_number) AS ({rows}) UPDATE row_state AS s SET status = {row pending}, queued_until = NULL FROM j \
         WHERE s.batch = j.row_batch AND s.number = j.row_number AND s.status + 0 = {row queued} RETURNING batch, number",
    );
    tx.fetch(statement.rows(keys(rows.copied()))).await?.iter().map(row_ref).collect()
}

/// Settles a group, and keeps the outputs of rows that go on.
pub(crate) async fn settle_in(
    tx: &mut Tx,
    group: &[Settlement],
    kept: &[(RowRef, LeaseToken, Receipt)],
    now: Timestamp,
) -> StoreResult<SettleReport> {
    let seqs: BTreeSet<BatchSeq> = group.iter().map(|settlement| settlement.row.batch).collect();
    // Those of rows that go on, too: so that no two transactions lock batches in another order.
    let seqs = seqs.into_iter().chain(kept.iter().map(|(row, ..)| row.batch)).collect();
    let mut batches = ledgers::read_all(tx, &seqs).await?;
    let (mut ours, mut left) = (Vec::with_capacity(group.len()), Vec::new());
    let beyond = codes::record(tx, group).await?;
    for part in settling::apart(group) {
        let moved = settle_rows(tx, &part, &beyond).await?;
        for one in part {
            let Some(has_output) = moved.get(&one.row) else { continue };
            if *has_output && matches!(one.outcome, Settled::Completed { .. }) {
                left.push(one.row);
            }
            ours.push(one);
        }
    }
    clear_outputs(tx, &left).await?;
    put_results(tx, &ours).await?;
    put_errors(tx, &ours).await?;
    duplicates::record(tx, &ours, now).await?;
    let mut receipts: Vec<(RowRef, &Receipt)> =
        ours.iter().flat_map(|one| one.receipts().iter().map(|receipt| (one.row, receipt))).collect();
    let written = held_receipts(tx, kept).await?;
    let still_held: HashSet<RowRef> = written.iter().map(|(row, _)| *row).collect();
    receipts.extend(written);
    put_receipts(tx, &receipts).await?;
    let held: HashSet<Held> = ours.iter().map(|one| one.held()).collect();
    let mut report = settling::account(&mut batches, group, &held, now)?;
    let kept = kept.iter().map(|(row, token, _)| (*row, *token));
    report.lost.extend(kept.filter(|(row, _)| !still_held.contains(row)));
    holds::put(tx, group, &report).await?;
    ledgers::write_all(tx, &batches, now).await?;
    Ok(report)
}

/// Moves the rows that are still held under their tokens. Tells which, and whether an attempt left anything of them.
async fn settle_rows(
    tx: &mut Tx,
    part: &[&Settlement],
    beyond: &Beyond<'_>,
) -> StoreResult<HashMap<RowRef, bool>> {
    let statement = sql(
        "row_settle_if_held",
        "WITH j(row_batch, row_number, token, status, attempt, not_before, step, code, http_status, output, expires_at, \
         expires_as, polling) AS ({rows}) UPDATE row_state AS s SET status = j.status, polling = j.polling, attempts = s.attempts + j.attempt, \
         not_before = j.not_before, step = j.step, code = j.code, http_status = j.http_status, \
         expires_at = j.expires_at, expires_as = j.expires_as, has_output = s.has_output OR j.output, \
         crashes = CASE WHEN j.attempt = 1 OR j.polling THEN 0 ELSE s.crashes END, asked = NULL, lease_token = NULL, lease_holder = NULL, \
         lease_until = NULL FROM j WHERE s.batch = j.row_batch AND s.number = j.row_number \
         AND s.status + 0 = {row processing} AND s.lease_token = j.token RETURNING batch, number, has_output",
    );
    let group = Group::of_rows(part.iter().map(|one| one.moved()).map(|one: Move<'_>| {
        [
            one.row.batch.into(),
            one.row.number.into(),
            one.token.into(),
            one.status.code().into(),
            i16::from(one.attempt).into(),
            one.not_before.into(),
            one.step.into(),
            beyond.stored(&one).into(),
            one.http_status.into(),
            one.has_output.into(),
            one.expires.map(|expires| expires.at).into(),
            one.expires.map(|expires| expires.code).into(),
            one.polling.into(),
        ]
    }));
    let rows = tx.fetch(statement.rows(group)).await?;
    rows.iter().map(|row| Ok((row_ref(row)?, row.of("row_state").flag("has_output")?))).collect()
}

/// What attempts left of rows that are completed now is of no use to anybody.
async fn clear_outputs(tx: &mut Tx, rows: &[RowRef]) -> StoreResult<()> {
    let receipts = sql(
        "row_receipt_delete",
        "WITH j(batch, number) AS ({rows}) DELETE FROM row_receipts WHERE (batch, number) IN (SELECT batch, number FROM j)",
    );
    let outputs = sql(
        "row_output_delete",
        "WITH j(batch, number) AS ({rows}) DELETE FROM row_output WHERE (batch, number) IN (SELECT batch, number FROM j)",
    );
    tx.execute(receipts.rows(keys(rows.iter().copied()))).await?;
    tx.execute(outputs.rows(keys(rows.iter().copied()))).await?;
    Ok(())
}

async fn put_results(tx: &mut Tx, group: &[&Settlement]) -> StoreResult<()> {
    let results = group.iter().filter_map(|one| {
        one.result().map(|result| [one.row.batch.into(), one.row.number.into(), result.into()])
    });
    let statement = sql(
        "row_output_put_result",
        "WITH j(batch, number, result) AS ({rows}) INSERT INTO row_output (batch, number, result) \
         SELECT batch, number, result FROM j WHERE true \
         ON CONFLICT (batch, number) DO UPDATE SET result = excluded.result, error = NULL",
    );
    tx.execute(statement.rows(Group::of_rows(results))).await.map(|_| ())
}

async fn put_errors(tx: &mut Tx, group: &[&Settlement]) -> StoreResult<()> {
    let errors = group.iter().filter_map(|one| {
        one.error().map(|error| [one.row.batch.into(), one.row.number.into(), error.into()])
    });
    let statement = sql(
        "row_output_put_error",
        "WITH j(batch, number, error) AS ({rows}) INSERT INTO row_output (batch, number, error) \
         SELECT batch, number, error FROM j WHERE true \
         ON CONFLICT (batch, number) DO UPDATE SET error = excluded.error",
    );
    tx.execute(statement.rows(Group::of_rows(errors))).await.map(|_| ())
}

/// The receipts of rows that are still held; each is marked as one of which something is kept.
pub(crate) async fn held_receipts<'a>(
    tx: &mut Tx,
    receipts: &'a [(RowRef, LeaseToken, Receipt)],
) -> StoreResult<Vec<(RowRef, &'a Receipt)>> {
    let statement = sql(
        "row_set_output_if_held",
        "WITH u(row_batch, row_number, token, step) AS ({rows}), j AS (SELECT row_batch, row_number, token, \
         max(step) AS step FROM u GROUP BY 1, 2, 3) UPDATE row_state AS s SET has_output = true, \
         asked = CASE WHEN s.asked <= j.step THEN NULL ELSE s.asked END FROM j WHERE s.batch = j.row_batch \
         AND s.number = j.row_number AND s.status + 0 = {row processing} AND s.lease_token = j.token \
         RETURNING batch, number, lease_token",
    );
    let group = keys(receipts.iter().map(|(row, ..)| *row))
        .column(receipts.iter().map(|(_, token, _)| *token))
        .column(receipts.iter().map(|(.., receipt)| receipt.step));
    let held = tx.fetch(statement.rows(group)).await?;
    let held: HashSet<Held> = held.iter().map(held_row).collect::<StoreResult<_>>()?;
    Ok(receipts
        .iter()
        .filter(|(row, token, _)| held.contains(&(*row, *token)))
        .map(|(row, _, receipt)| (*row, receipt))
        .collect())
}

pub(crate) async fn put_receipts(tx: &mut Tx, receipts: &[(RowRef, &Receipt)]) -> StoreResult<()> {
    let rows = receipts.iter().map(|(row, receipt)| {
        [row.batch.into(), row.number.into(), receipt.step.into(), (&receipt.sealed).into()]
    });
    let statement = sql(
        "row_receipt_put",
        "WITH j(batch, number, step, output) AS ({rows}) INSERT INTO row_receipts (batch, number, step, output) \
         SELECT batch, number, step, output FROM j WHERE true \
         ON CONFLICT (batch, number, step) DO UPDATE SET output = excluded.output",
    );
    tx.execute(statement.rows(Group::of_rows(rows))).await.map(|_| ())
}
