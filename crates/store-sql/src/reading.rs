//! Pages of rows, one row, summaries.

use async_trait::async_trait;
use penstock_domain::ids::{BatchSeq, RowNumber};
use penstock_domain::outcome::code;
use penstock_domain::pipeline::KeptStep;
use penstock_domain::row::RowStatus;
use penstock_domain::time::Timestamp;
use penstock_store::batches::Batch;
use penstock_store::reading::{ErrorGroup, LOOKED_AT, Reading, RowFilter, RowPage, RowRecord};
use penstock_store::{StoreError, StoreResult};

use crate::{Kind, Row, SqlStore, Statement, Tx, ledgers, sql};

fn record(batch: &Batch, row: &Row, payload: bool) -> StoreResult<RowRecord> {
    let c = row.of("row_state");
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
struct StateCondition {
    text: String,
    /// Whether a row without a record can meet it.
    without_record: bool,
}

impl StateCondition {
    fn of(batch: &Batch, wanted: &[RowStatus]) -> Self {
        let ledger = &batch.ledger;
        let cancelled = ledger.cancelled_at.is_some();
        let end = ledger.release_end;
        let mut without_record = false;
        let parts = wanted.iter().map(|status| {
            let (with, without) = match status {
                RowStatus::Pending | RowStatus::Queued if cancelled => ("false".to_owned(), None),
                RowStatus::Pending if ledger.extracted => {
                    ("s.status = {row pending}".to_owned(), Some(format!(" AND d.number < {end}")))
                }
                RowStatus::Pending => ("s.status = {row pending}".to_owned(), Some(String::new())),
                RowStatus::Cancelled if cancelled => {
                    let with = "s.status IN ({row pending}, {row queued}, {row cancelled})";
                    (with.to_owned(), Some(String::new()))
                }
                RowStatus::Cancelled if ledger.extracted => {
                    ("s.status = {row cancelled}".to_owned(), Some(format!(" AND d.number >= {end}")))
                }
                other => (format!("s.status = {}", other.code()), None),
            };
            without_record |= without.is_some();
            match without {
                Some(which) => format!("({with} OR (s.status IS NULL{which}))"),
                None => with,
            }
        });
        let text = format!("({})", parts.collect::<Vec<_>>().join(" OR "));
        Self { text, without_record }
    }
}

/// What is read of a row, but for its payload.
const RECORD: &str = "d.number AS number, d.line AS line, s.status AS status, coalesce(s.attempts, 0) AS attempts, \
    s.not_before AS not_before, s.code AS code, s.step AS step, s.http_status AS http_status, \
    s.lease_holder AS lease_holder, coalesce(s.crashes, 0) AS crashes, s.queued_until AS queued_until, \
    o.result AS result, o.error AS error";

/// One more row than the page may have tells whether another page follows; rows behind those with enough bytes are left out. The
/// lengths are known without the values being read.
fn page<'a>(batch: &Batch, filter: &'a RowFilter) -> Statement<'a> {
    let payload = if filter.payload { ", d.payload AS payload" } else { "" };
    let state = (!filter.status.is_empty()).then(|| StateCondition::of(batch, &filter.status));
    // Only rows with a record can be meant: few of many, found by it.
    let failed = filter.code.is_some() || filter.step.is_some();
    let recorded = failed || state.as_ref().is_some_and(|state| !state.without_record);
    let of_payload = match (filter.payload, recorded) {
        (false, _) => "0",
        (true, false) => "{payload_length}",
        (true, true) => "octet_length(d.payload)",
    };
    let statement = sql("row_list", "SELECT ").push(&format!(
        "{{beside_page {RECORD}{payload}}} FROM (SELECT p.*, sum(bytes) OVER (ORDER BY number) - bytes AS bytes_before, \
         lead(number) OVER (ORDER BY number) AS following FROM (SELECT {{in_page {RECORD}{payload}}}, \
         {of_payload} + coalesce(octet_length(o.result), 0) + coalesce(octet_length(o.error), 0) AS bytes FROM "
    ));
    let most = filter.max_bytes.map_or(u64::MAX, |bytes| bytes.max(1));
    chosen(statement.bind(batch.seq), filter, state, recorded)
        .push(if recorded { " {data_of c}" } else { " {data_of_chosen c}" })
        .push(" {state_of c} {output_of c}) p) page {joins_beside} ")
        .push_bind("WHERE page.bytes_before < $?", most)
        .push_bind(" ORDER BY page.number LIMIT $?", filter.limit)
}

/// Which rows of the batch `$1` a page is about.
fn chosen<'a>(
    mut statement: Statement<'a>,
    filter: &'a RowFilter,
    state: Option<StateCondition>,
    recorded: bool,
) -> Statement<'a> {
    let number = if recorded { "s.number" } else { "d.number" };
    statement = statement
        .push(match (recorded, &state) {
            (true, _) => "(SELECT s.batch, s.number FROM row_state s WHERE s.batch = $1",
            (false, Some(_)) => "(SELECT {chosen_columns} FROM row_data d {state_of d} WHERE d.batch = $1",
            (false, None) => "(SELECT {chosen_columns} FROM row_data d WHERE d.batch = $1",
        })
        .push_bind(&format!(" AND {number} > $?"), filter.after);
    if let Some(last) = filter.last_looked_at() {
        statement = statement.push_bind(&format!(" AND {number} <= $?"), last);
    }
    if let Some(state) = state {
        statement = statement.push(" AND ").push(&state.text);
    }
    if let Some(code) = &filter.code {
        // Duplicates complete with their code, and are few: they have an index.
        statement = if code == code::DUPLICATE {
            statement.push(" AND s.status IN ({row failed}, {row completed}) AND s.code = 'duplicate'")
        } else {
            statement.push_bind(" AND s.status = {row failed} AND s.code = $?", code)
        };
    }
    if let Some(step) = filter.step {
        statement = statement.push_bind(" AND s.status = {row failed} AND s.step = $?", i64::from(step));
    }
    statement.push_bind(&format!(" ORDER BY {number} LIMIT $?"), filter.limit + 1).push(") c")
}

/// The rows that completed without a call, because another batch had completed their key.
async fn duplicates(tx: &mut Tx, seq: BatchSeq) -> StoreResult<Option<ErrorGroup>> {
    let statement = sql(
        "row_count_duplicates",
        "SELECT count(*) AS count FROM row_state WHERE batch = $1 AND status = {row completed} AND code = 'duplicate'",
    );
    let count = tx.fetch_one(statement.bind(seq)).await?.of("row_state").u32("count")?;
    if count == 0 {
        return Ok(None);
    }
    let statement = sql(
        "row_list_duplicates",
        "SELECT batch, number FROM row_state WHERE batch = $1 AND status = {row completed} AND code = 'duplicate' \
         ORDER BY number LIMIT 3",
    );
    let sample = tx.fetch(statement.bind(seq)).await?;
    let sample = sample.iter().map(|row| row.of("row_state").u32("number")).collect::<StoreResult<_>>()?;
    Ok(Some(ErrorGroup { code: code::DUPLICATE.to_owned(), step: None, count, sample }))
}

#[async_trait]
impl Reading for SqlStore {
    async fn rows(&self, seq: BatchSeq, filter: &RowFilter) -> StoreResult<RowPage> {
        let mut tx = self.db.begin("rows", Kind::Read).await?;
        let batch = ledgers::look(&mut tx, seq).await?;
        let batch = batch.ok_or(StoreError::NotFound { what: "this batch" })?;
        let found = tx.fetch(page(&batch, filter)).await?;
        let following = found.last().map_or(Ok(None), |row| row.of("row_data").opt_u32("following"))?;
        let rows: Vec<RowRecord> =
            found.iter().map(|row| record(&batch, row, filter.payload)).collect::<StoreResult<_>>()?;
        let mut next = rows.last().filter(|_| following.is_some()).map(|last| last.number);
        if let Some(last) = filter.last_looked_at().filter(|_| next.is_none()) {
            let more =
                sql("row_get_next", "SELECT number FROM row_data WHERE batch = $1 AND number > $2 LIMIT 1");
            next = tx.fetch_optional(more.bind(seq).bind(last)).await?.map(|_| last);
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
        let mut tx = self.db.begin("kept_steps", Kind::Read).await?;
        // At the step that a row failed at, only an answer can be kept.
        let statement = sql(
            "row_receipt_list_steps",
            "SELECT r.batch, r.step, max(CASE WHEN s.step IS NULL OR r.step < s.step THEN 1 ELSE 0 END) = 1 AS finished \
             FROM row_receipts r JOIN row_state s ON s.batch = r.batch AND s.number = r.number \
             WHERE r.batch = $1 GROUP BY r.batch, r.step ORDER BY r.step",
        );
        let kept = |row: &Row| {
            let c = row.of("row_receipts");
            Ok(KeptStep { step: c.u16("step")?, finished: c.flag("finished")? })
        };
        tx.fetch(statement.bind(seq)).await?.iter().map(kept).collect()
    }

    async fn error_groups(&self, seq: BatchSeq) -> StoreResult<Vec<ErrorGroup>> {
        let mut tx = self.db.begin("error_groups", Kind::Read).await?;
        let statement = sql(
            "row_list_error_groups",
            "SELECT batch, code, step, count(*) AS count FROM row_state \
             WHERE batch = $1 AND status = {row failed} GROUP BY batch, code, step ORDER BY count DESC, code",
        );
        let mut groups = Vec::new();
        for row in &tx.fetch(statement.bind(seq)).await? {
            let c = row.of("row_state");
            let (code, step) = (c.opt_text("code")?.unwrap_or_default(), c.opt_u16("step")?);
            let statement = sql(
                "row_list_of_error_group",
                "SELECT batch, number FROM row_state WHERE batch = $1 AND status = {row failed} \
                 AND code IS NOT DISTINCT FROM $2 AND step IS NOT DISTINCT FROM $3 ORDER BY number LIMIT 3",
            );
            let sample = tx.fetch(statement.bind(seq).bind(&code).bind(step)).await?;
            let sample =
                sample.iter().map(|row| row.of("row_state").u32("number")).collect::<StoreResult<_>>()?;
            groups.push(ErrorGroup { code, step, count: c.u32("count")?, sample });
        }
        groups.extend(duplicates(&mut tx, seq).await?);
        Ok(groups)
    }

    async fn hold_words(&self, seq: BatchSeq) -> StoreResult<Option<Vec<u8>>> {
        let statement = sql("batch_hold_get", "SELECT batch, words FROM batch_holds WHERE batch = $1");
        let found = self.db.fetch_optional(statement.bind(seq)).await?;
        found.map(|row| row.of("batch_holds").bytes("words")).transpose()
    }

    async fn waiting_with_error(&self, seq: BatchSeq) -> StoreResult<Option<RowNumber>> {
        let statement = sql(
            "row_get_waiting_with_error",
            "SELECT s.batch AS batch, s.number AS number FROM (SELECT batch, number, coalesce(not_before, 0) AS due, has_output \
             FROM row_state WHERE batch = $1 AND status = {row pending} \
             ORDER BY coalesce(not_before, 0) DESC, number DESC LIMIT $2) s WHERE s.has_output AND EXISTS \
             (SELECT 1 FROM row_output o WHERE o.batch = s.batch AND o.number = s.number AND o.error IS NOT NULL) \
             ORDER BY s.due DESC, s.number DESC LIMIT 1",
        );
        let row = self.db.fetch_optional(statement.bind(seq).bind(LOOKED_AT)).await?;
        row.map(|row| row.of("row_state").u32("number")).transpose()
    }

    async fn next_due(&self, seq: BatchSeq) -> StoreResult<Option<Timestamp>> {
        let statement = sql(
            "row_get_next_due",
            "SELECT min(batch) AS batch, min(coalesce(not_before, 0)) AS due FROM row_state \
             WHERE batch = $1 AND status = {row pending}",
        );
        self.db.fetch_one(statement.bind(seq)).await?.of("row_state").opt_time("due")
    }
}
