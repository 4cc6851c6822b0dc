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
use sqlx::sqlite::SqliteRow;

use crate::convert::Columns;
use crate::error::store_error;
use crate::{SqliteStore, ledgers};

const COLUMNS: &str = "d.number AS number, d.line AS line, s.status AS status, coalesce(s.attempts, 0) AS attempts, \
    s.not_before AS not_before, s.code AS code, s.step AS step, s.http_status AS http_status, \
    s.lease_holder AS lease_holder, coalesce(s.crashes, 0) AS crashes, s.queued_until AS queued_until, \
    o.result AS result, o.error AS error";

const FROM: &str = " FROM row_data d LEFT JOIN row_state s ON s.batch = d.batch AND s.number = d.number \
    LEFT JOIN row_output o ON o.batch = d.batch AND o.number = d.number";

fn record(batch: &Batch, row: &SqliteRow, payload: bool) -> StoreResult<RowRecord> {
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

/// Rows that a filter finds, up to a number.
fn page_query(
    batch: &Batch,
    filter: &RowFilter,
    columns: &str,
    last: Option<RowNumber>,
    limit: u32,
) -> QueryBuilder<sqlx::Sqlite> {
    let mut query = QueryBuilder::new(format!("/* penstock:rows */ SELECT {columns}{FROM} WHERE d.batch = "));
    query.push_bind(batch.seq.0).push(" AND d.number > ").push_bind(filter.after);
    if let Some(last) = last {
        query.push(" AND d.number <= ").push_bind(last);
    }
    if !filter.status.is_empty() {
        query.push(" AND ").push(state_condition(batch, &filter.status));
    }
    if let Some(code) = &filter.code {
        query.push(" AND s.status = 4 AND s.code = ").push_bind(code.clone());
    }
    query.push(" ORDER BY d.number LIMIT ").push_bind(limit);
    query
}

#[async_trait]
impl Reading for SqliteStore {
    async fn rows(&self, seq: BatchSeq, filter: &RowFilter) -> StoreResult<RowPage> {
        let mut tx = self.read("rows").await?;
        let batch =
            ledgers::read(&mut tx, seq, "rows").await?.ok_or(StoreError::NotFound { what: "this batch" })?;
        // Differs by necessity: a window over the rows would copy their values, which are long, into a temporary table. So
        // their lengths are read first; SQLite has them without the values.
        let of_payload = if filter.payload { "coalesce(length(d.payload), 0) + " } else { "" };
        let lengths = format!(
            "d.number AS number, {of_payload}coalesce(length(o.result), 0) + coalesce(length(o.error), 0) AS bytes"
        );
        let mut query = page_query(&batch, filter, &lengths, filter.last_looked_at(), filter.limit + 1);
        let found = query.build().fetch_all(&mut *tx).await.map_err(store_error("rows"))?;
        let (mut kept, mut bytes, mut end) = (0, 0, None);
        for row in &found {
            if kept == filter.limit || filter.max_bytes.is_some_and(|most| bytes >= most.max(1)) {
                break;
            }
            let c = Columns::of("row_data", row);
            (kept, bytes, end) = (kept + 1, bytes + c.u64("bytes")?, Some(c.u32("number")?));
        }
        let mut next = end.filter(|_| found.len() > kept as usize);
        if let Some(last) = filter.last_looked_at().filter(|_| next.is_none()) {
            let more: bool = sqlx::query_scalar(
                "/* penstock:rows */ SELECT EXISTS (SELECT 1 FROM row_data WHERE batch = ? AND number > ?)",
            )
            .bind(seq.0)
            .bind(last)
            .fetch_one(&mut *tx)
            .await
            .map_err(store_error("rows"))?;
            next = more.then_some(last);
        }
        let Some(end) = end else { return Ok(RowPage { rows: Vec::new(), next }) };
        let payload = if filter.payload { ", d.payload AS payload" } else { "" };
        let mut query = page_query(&batch, filter, &format!("{COLUMNS}{payload}"), Some(end), kept);
        let rows = query.build().fetch_all(&mut *tx).await.map_err(store_error("rows"))?;
        let rows = rows.iter().map(|row| record(&batch, row, filter.payload)).collect::<StoreResult<_>>()?;
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
            "/* penstock:kept_steps */ SELECT r.batch, r.step, max(s.step IS NULL OR r.step < s.step) AS finished FROM row_receipts r \
             JOIN row_state s ON s.batch = r.batch AND s.number = r.number \
             WHERE r.batch = ? GROUP BY r.batch, r.step ORDER BY r.step",
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
             WHERE batch = ? AND status = 4 GROUP BY batch, code, step ORDER BY count DESC, code",
        )
        .bind(seq.0)
        .fetch_all(&mut *tx)
        .await
        .map_err(store_error("error_groups"))?;
        let mut groups = Vec::new();
        for row in &rows {
            let c = Columns::of("row_state", row);
            let (code, step) = (c.opt_text("code")?.unwrap_or_default(), c.opt_u16("step")?);
            let sample: Vec<i64> = sqlx::query_scalar(
                "/* penstock:error_groups */ SELECT number FROM row_state WHERE batch = ? AND status = 4 \
                 AND code IS ? AND step IS ? ORDER BY number LIMIT 3",
            )
            .bind(seq.0)
            .bind(&code)
            .bind(step)
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
             FROM row_state WHERE batch = ?1 AND status = 0 ORDER BY coalesce(not_before, 0) DESC, number DESC LIMIT 10000) s \
             WHERE s.has_output AND EXISTS (SELECT 1 FROM row_output o WHERE o.batch = s.batch AND o.number = s.number AND o.error IS NOT NULL) \
             ORDER BY s.due DESC, s.number DESC LIMIT 1",
        )
        .bind(seq.0)
        .fetch_optional(&self.readers)
        .await
        .map_err(store_error(NAME))?;
        row.map(|row| Columns::of("row_state", &row).u32("number")).transpose()
    }

    async fn next_due(&self, seq: BatchSeq) -> StoreResult<Option<Timestamp>> {
        let row = sqlx::query(
            "/* penstock:next_due */ SELECT min(batch) AS batch, min(coalesce(not_before, 0)) AS due FROM row_state WHERE batch = ? AND status = 0",
        )
        .bind(seq.0)
        .fetch_one(&self.readers)
        .await
        .map_err(store_error("next_due"))?;
        Columns::of("row_state", &row).opt_time("due")
    }
}
