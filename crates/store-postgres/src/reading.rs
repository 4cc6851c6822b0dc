//! Pages of rows, one row, summaries.

use async_trait::async_trait;
use penstock_domain::ids::{BatchSeq, RowNumber};
use penstock_domain::pipeline::KeptStep;
use penstock_domain::row::RowStatus;
use penstock_domain::time::Timestamp;
use penstock_store::batches::Batch;
use penstock_store::decode::Columns as _;
use penstock_store::reading::{ErrorGroup, Reading, RowFilter, RowPage, RowRecord};
use penstock_store::{StoreError, StoreResult};
use sqlx::QueryBuilder;
use sqlx::postgres::PgRow;

use crate::convert::{Columns, int, small};
use crate::error::store_error;
use crate::{PostgresStore, ledgers};

const COLUMNS: &str = "d.number AS number, d.line AS line, s.status AS status, coalesce(s.attempts, 0::int2) AS attempts, \
    s.not_before AS not_before, s.code AS code, s.step AS step, s.http_status AS http_status, \
    s.lease_holder AS lease_holder, coalesce(s.crashes, 0) AS crashes, s.queued_until AS queued_until, \
    o.result AS result, o.error AS error";

/// What belongs to the rows that were chosen, one by one. The fence (`OFFSET 0`) keeps each a look into the primary key:
/// with statistics that are older than the batch (a server that crashed has none) the planner takes a batch for one row, and
/// joins all of its states to each of its rows.
const STATE: &str = " LEFT JOIN LATERAL (SELECT * FROM row_state WHERE batch = d.batch AND number = d.number OFFSET 0) s ON true";
const OUTPUT: &str = " LEFT JOIN LATERAL (SELECT * FROM row_output WHERE batch = d.batch AND number = d.number OFFSET 0) o ON true";

fn record(batch: &Batch, row: &PgRow, payload: bool) -> StoreResult<RowRecord> {
    let c = Columns::of("row_state", row);
    let number = c.u32("number")?;
    let recorded = c.opt_code("status", RowStatus::from_code)?;
    Ok(RowRecord {
        number,
        line: c.u32("line")?,
        status: batch.ledger.status_of(number, recorded),
        attempts: c.u16("attempts")?,
        not_before: c.opt_time("not_before")?,
        code: c.opt_text("code")?,
        step: c.opt_u16("step")?,
        http_status: c.opt_u16("http_status")?,
        payload: if payload { c.opt_bytes("payload")?.filter(|bytes| !bytes.is_empty()) } else { None },
        result: c.opt_bytes("result")?,
        error: c.opt_bytes("error")?,
        holder: c.opt_text("lease_holder")?,
        crashes: c.u16("crashes")?,
        queued_until: c.opt_time("queued_until")?,
    })
}

/// What a row's record must be for it to count as one of these states, the batch's cancellation taken into account.
fn state_condition(batch: &Batch, wanted: &[RowStatus]) -> String {
    let ledger = &batch.ledger;
    let cancelled = ledger.cancelled_at.is_some();
    let end = ledger.release_end;
    let parts: Vec<String> = wanted
        .iter()
        .map(|status| match status {
            RowStatus::Pending if cancelled => "false".to_owned(),
            RowStatus::Pending if ledger.extracted => {
                format!("(s.status = 0 OR (s.status IS NULL AND d.number < {end}))")
            }
            RowStatus::Pending => "(s.status = 0 OR s.status IS NULL)".to_owned(),
            RowStatus::Queued if cancelled => "false".to_owned(),
            RowStatus::Cancelled if cancelled => "(s.status IN (0, 1, 5) OR s.status IS NULL)".to_owned(),
            RowStatus::Cancelled if ledger.extracted => {
                format!("(s.status = 5 OR (s.status IS NULL AND d.number >= {end}))")
            }
            other => format!("s.status = {}", other.code()),
        })
        .collect();
    format!("({})", parts.join(" OR "))
}

/// One more row than the page may have tells whether another page follows; rows behind those with enough bytes are left out. The
/// lengths are known without the values being read.
fn page_query(batch: &Batch, filter: &RowFilter) -> QueryBuilder<sqlx::Postgres> {
    let payload = if filter.payload { ", d.payload AS payload" } else { "" };
    let of_payload = if filter.payload { "coalesce(octet_length(d.payload), 0) + " } else { "" };
    let condition =
        if filter.status.is_empty() { String::new() } else { state_condition(batch, &filter.status) };
    let mut query = QueryBuilder::<sqlx::Postgres>::new(format!(
        "/* penstock:rows */ SELECT * FROM (SELECT p.*, sum(bytes) OVER (ORDER BY number) - bytes AS bytes_before, \
         count(*) OVER () AS candidates FROM (SELECT {COLUMNS}{payload}, \
         {of_payload}coalesce(octet_length(o.result), 0) + coalesce(octet_length(o.error), 0) AS bytes FROM "
    ));
    let recorded = filter.code.is_some() || (!condition.is_empty() && !condition.contains("IS NULL"));
    let number = if recorded { "s.number" } else { "d.number" };
    if recorded {
        // Only rows with a record can be meant: few of many, found by it.
        query.push("(SELECT s.* FROM row_state s");
    } else {
        query.push("(SELECT d.* FROM row_data d");
        if !condition.is_empty() {
            query.push(STATE);
        }
    }
    query.push(if recorded { " WHERE s.batch = " } else { " WHERE d.batch = " }).push_bind(batch.seq.0);
    query.push(format!(" AND {number} > ")).push_bind(int(filter.after));
    if let Some(last) = filter.last_looked_at() {
        query.push(format!(" AND {number} <= ")).push_bind(int(last));
    }
    if !condition.is_empty() {
        query.push(" AND ").push(condition);
    }
    if let Some(code) = &filter.code {
        query.push(" AND s.status = 4 AND s.code = ").push_bind(code.clone());
    }
    query.push(format!(" ORDER BY {number} LIMIT ")).push_bind(i64::from(filter.limit) + 1);
    if recorded {
        query.push(
            ") s CROSS JOIN LATERAL (SELECT * FROM row_data WHERE batch = s.batch AND number = s.number OFFSET 0) d",
        );
        query.push(OUTPUT);
    } else {
        query.push(") d").push(STATE).push(OUTPUT);
    }
    query.push(") p) page WHERE bytes_before < ");
    query.push_bind(
        filter.max_bytes.map_or(i64::MAX, |bytes| i64::try_from(bytes.max(1)).unwrap_or(i64::MAX)),
    );
    query.push(" ORDER BY number LIMIT ").push_bind(i64::from(filter.limit));
    query
}

#[async_trait]
impl Reading for PostgresStore {
    async fn rows(&self, seq: BatchSeq, filter: &RowFilter) -> StoreResult<RowPage> {
        let mut tx = self.read("rows").await?;
        let batch =
            ledgers::look(&mut tx, seq, "rows").await?.ok_or(StoreError::NotFound { what: "this batch" })?;
        let found =
            page_query(&batch, filter).build().fetch_all(&mut *tx).await.map_err(store_error("rows"))?;
        let candidates = match found.first() {
            Some(row) => Columns::of("row_state", row).i64("candidates")?,
            None => 0,
        };
        let rows: Vec<RowRecord> =
            found.iter().map(|row| record(&batch, row, filter.payload)).collect::<StoreResult<_>>()?;
        let mut next = rows
            .last()
            .filter(|_| candidates > i64::try_from(rows.len()).unwrap_or(i64::MAX))
            .map(|last| last.number);
        if let Some(last) = filter.last_looked_at().filter(|_| next.is_none()) {
            let more: bool = sqlx::query_scalar(
                "/* penstock:rows */ SELECT EXISTS (SELECT 1 FROM row_data WHERE batch = $1 AND number > $2)",
            )
            .bind(seq.0)
            .bind(int(last))
            .fetch_one(&mut *tx)
            .await
            .map_err(store_error("rows"))?;
            next = more.then_some(last);
        }
        Ok(RowPage { rows, next })
    }

    async fn row(&self, seq: BatchSeq, number: RowNumber) -> StoreResult<Option<RowRecord>> {
        let Some(after) = number.checked_sub(1) else { return Ok(None) };
        let filter = RowFilter { after, limit: 1, payload: true, ..RowFilter::default() };
        let found = self.rows(seq, &filter).await?.rows.pop();
        Ok(found.filter(|record| record.number == number))
    }

    async fn kept_steps(&self, seq: BatchSeq) -> StoreResult<Vec<KeptStep>> {
        let mut tx = self.read("kept_steps").await?;
        // At the step that a row failed at, only an answer can be kept.
        let rows = sqlx::query(
            "/* penstock:kept_steps */ SELECT r.batch, r.step, bool_or(s.step IS NULL OR r.step < s.step) AS finished FROM row_receipts r \
             JOIN row_state s ON s.batch = r.batch AND s.number = r.number \
             WHERE r.batch = $1 GROUP BY r.batch, r.step ORDER BY r.step",
        )
        .bind(seq.0)
        .fetch_all(&mut *tx)
        .await
        .map_err(store_error("kept_steps"))?;
        let kept = |row| {
            let c = Columns::of("row_receipts", row);
            Ok(KeptStep { step: c.u16("step")?, finished: c.flag("finished")? })
        };
        rows.iter().map(kept).collect()
    }

    async fn error_groups(&self, seq: BatchSeq) -> StoreResult<Vec<ErrorGroup>> {
        let mut tx = self.read("error_groups").await?;
        let rows = sqlx::query(
            "/* penstock:error_groups */ SELECT batch, code, step, count(*) AS count FROM row_state \
             WHERE batch = $1 AND status = 4 GROUP BY batch, code, step ORDER BY count DESC, code",
        )
        .bind(seq.0)
        .fetch_all(&mut *tx)
        .await
        .map_err(store_error("error_groups"))?;
        let mut groups = Vec::new();
        for row in &rows {
            let c = Columns::of("row_state", row);
            let (code, step) = (c.opt_text("code")?.unwrap_or_default(), c.opt_u16("step")?);
            let sample: Vec<i32> = sqlx::query_scalar(
                "/* penstock:error_groups */ SELECT number FROM row_state WHERE batch = $1 AND status = 4 \
                 AND code IS NOT DISTINCT FROM $2 AND step IS NOT DISTINCT FROM $3 ORDER BY number LIMIT 3",
            )
            .bind(seq.0)
            .bind(&code)
            .bind(step.map(small))
            .fetch_all(&mut *tx)
            .await
            .map_err(store_error("error_groups"))?;
            let sample =
                sample.into_iter().map(|number| u32::try_from(number).map_err(|_| c.inconsistent("sample")));
            let sample = sample.collect::<StoreResult<_>>()?;
            groups.push(ErrorGroup { code, step, count: c.u32("count")?, sample });
        }
        Ok(groups)
    }

    async fn waiting_with_error(&self, seq: BatchSeq) -> StoreResult<Option<RowNumber>> {
        const NAME: &str = "waiting_with_error";
        let row = sqlx::query(
            "/* penstock:waiting_with_error */ SELECT s.batch AS batch, s.number AS number FROM (SELECT batch, number, coalesce(not_before, 0) AS due, has_output \
             FROM row_state WHERE batch = $1 AND status = 0 ORDER BY coalesce(not_before, 0) DESC, number DESC LIMIT 10000) s \
             WHERE s.has_output AND EXISTS (SELECT 1 FROM row_output o WHERE o.batch = s.batch AND o.number = s.number AND o.error IS NOT NULL) \
             ORDER BY s.due DESC, s.number DESC LIMIT 1",
        )
        .bind(seq.0)
        .fetch_optional(&self.pool)
        .await
        .map_err(store_error(NAME))?;
        row.map(|row| Columns::of("row_state", &row).u32("number")).transpose()
    }

    async fn next_due(&self, seq: BatchSeq) -> StoreResult<Option<Timestamp>> {
        let row = sqlx::query(
            "/* penstock:next_due */ SELECT min(batch) AS batch, min(coalesce(not_before, 0)) AS due FROM row_state WHERE batch = $1 AND status = 0",
        )
        .bind(seq.0)
        .fetch_one(&self.pool)
        .await
        .map_err(store_error("next_due"))?;
        Columns::of("row_state", &row).opt_time("due")
    }
}
