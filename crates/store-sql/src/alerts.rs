//! Alerts.

use async_trait::async_trait;
use penstock_domain::batch::BatchStatus;
use penstock_domain::ids::{BatchId, BatchSeq, LeaseToken};
use penstock_domain::outcome::code;
use penstock_domain::time::Timestamp;
use penstock_store::StoreResult;
use penstock_store::alerts::{Alert, Alerts, FailingBatch, Notice, STALLED_ROWS, StalledBatch};
use penstock_store::batches::Batch;

use crate::{Group, Row, SqlStore, Value, ledgers, sql};

fn failing(row: &Row) -> StoreResult<FailingBatch> {
    let c = row.of("batches");
    Ok(FailingBatch {
        id: BatchId(c.uuid("id")?),
        pipeline: c.text("pipeline")?,
        completed: c.u32("completed")?,
        failed: c.u32("failed")?,
    })
}

/// Codes of rows that wait for their turn: they show nothing about the API. Of rows that wait while the API is paused the code says
/// something only where no other row has another one.
const WAITS_ITS_TURN: [&str; 9] = [
    code::RATE_LIMITED,
    code::OWNER_RATE_LIMITED,
    code::VALUE_RATE_LIMITED,
    code::CONCURRENCY_LIMITED,
    code::OUTSIDE_HOURS,
    code::LIMIT_PAUSED,
    code::LIMITER_LATE,
    code::BREAKER_OPEN,
    code::THROTTLED,
];

/// None: its rows have several codes, or none.
fn stalled(row: &Row) -> StoreResult<Option<StalledBatch>> {
    let c = row.of("batches");
    let (code, other) = (c.opt_text("code")?, c.opt_text("other_code")?);
    let (told, paused) = (c.u32("told")?, c.u32("paused")?);
    let code = match code {
        Some(code) if other.as_ref() == Some(&code) => code,
        None if paused > 0 => code::THROTTLED.to_owned(),
        _ => return Ok(None),
    };
    Ok(Some(StalledBatch {
        seq: BatchSeq(c.i64("seq")?),
        id: BatchId(c.uuid("id")?),
        pipeline: c.text("pipeline")?,
        code,
        rows: told + paused,
        since: c.time("started_at")?,
    }))
}

fn notice(row: &Row) -> StoreResult<Notice> {
    let c = row.of("alerts");
    Ok(Notice {
        rule: c.text("rule")?,
        subject: c.text("subject")?,
        receiver: c.text("receiver")?,
        text: c.text("text")?,
        firing: c.flag("firing")?,
        since: c.time("since")?,
        attempts: c.u16("attempts")?,
    })
}

#[async_trait]
impl Alerts for SqlStore {
    async fn failing_batches(
        &self,
        since: Timestamp,
        min_rows: u32,
        share_bp: u16,
        limit: u32,
    ) -> StoreResult<Vec<FailingBatch>> {
        let statement = sql(
            "batch_list_failing",
            "SELECT id, pipeline, completed, failed FROM batches WHERE (status = {batch queued} OR finished_at > $1) \
             AND completed + failed >= $2 AND CAST(failed AS BIGINT) * 10000 > $3 * CAST(completed + failed AS BIGINT) \
             ORDER BY seq DESC LIMIT $4",
        );
        let rows = self.db.fetch(statement.bind(since).bind(min_rows).bind(share_bp).bind(limit)).await?;
        rows.iter().map(failing).collect()
    }

    async fn unextractable_batches(&self, since: Timestamp, limit: u32) -> StoreResult<Vec<FailingBatch>> {
        let statement = sql(
            "batch_list_unextractable",
            "SELECT id, pipeline, completed, failed FROM batches WHERE finished_at > $1 AND status = $2 \
             ORDER BY seq DESC LIMIT $3",
        );
        let statement = statement.bind(since).bind(BatchStatus::Failed.code()).bind(limit);
        self.db.fetch(statement).await?.iter().map(failing).collect()
    }

    async fn held_batches(&self, limit: u32) -> StoreResult<Vec<Batch>> {
        let statement = sql(
            "batch_list_held",
            "SELECT {batch_columns} FROM batches b JOIN owners o ON o.seq = b.owner \
             WHERE b.status = {batch queued} AND b.held AND b.cancelled_at IS NULL ORDER BY b.seq LIMIT $1",
        );
        self.db.fetch(statement.bind(limit)).await?.iter().map(ledgers::batch).collect()
    }

    async fn stalled_batches(
        &self,
        only: Option<BatchSeq>,
        began_before: Timestamp,
        limit: u32,
    ) -> StoreResult<Vec<StalledBatch>> {
        // The rows at the beginning are released first: of a batch of a million no more than these are read.
        let statement = sql(
            "batch_list_stalled",
            "SELECT b.seq, b.id, b.pipeline, b.started_at, \
             (SELECT min(s.code) FROM row_state s WHERE s.batch = b.seq AND s.number <= $1 AND NOT (s.code {in $2})) AS code, \
             (SELECT max(s.code) FROM row_state s WHERE s.batch = b.seq AND s.number <= $1 AND NOT (s.code {in $2})) AS other_code, \
             (SELECT count(s.code) FROM row_state s WHERE s.batch = b.seq AND s.number <= $1 AND NOT (s.code {in $2})) AS told, \
             (SELECT count(*) FROM row_state s WHERE s.batch = b.seq AND s.number <= $1 AND s.code = $6) AS paused \
             FROM batches b WHERE b.status = {batch queued} AND NOT b.paused AND NOT b.held AND b.cancelled_at IS NULL \
             AND b.completed = 0 AND b.started_at <= $3 AND ($4 IS NULL OR b.seq = $4) \
             AND NOT EXISTS (SELECT 1 FROM row_state p WHERE p.batch = b.seq AND p.polling) ORDER BY b.seq LIMIT $5",
        );
        let waits_its_turn = WAITS_ITS_TURN.map(str::to_owned);
        let statement = statement
            .bind(STALLED_ROWS)
            .bind(waits_its_turn.as_slice())
            .bind(began_before)
            .bind(only)
            .bind(limit)
            .bind(code::THROTTLED);
        let found: Vec<_> =
            self.db.fetch(statement).await?.iter().map(stalled).collect::<StoreResult<_>>()?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn firing(&self) -> StoreResult<Vec<(String, String)>> {
        let statement = sql(
            "alert_list_firing",
            "SELECT DISTINCT rule, subject FROM alerts WHERE firing ORDER BY rule, subject",
        );
        let firing = |row: &Row| {
            let c = row.of("alerts");
            Ok((c.text("rule")?, c.text("subject")?))
        };
        self.db.fetch(statement).await?.iter().map(firing).collect()
    }

    async fn note_alerts(&self, found: &[Alert], now: Timestamp) -> StoreResult<()> {
        let any = sql("alert_get_any", "SELECT 1 FROM alerts LIMIT 1");
        if found.is_empty() && self.db.fetch_optional(any).await?.is_none() {
            return Ok(());
        }
        let mut tx = self.db.write("note_alerts").await?;
        let begun = sql(
            "alert_fire_if_new",
            "WITH j(rule, subject, receiver, text, due) AS ({rows}) \
             INSERT INTO alerts (rule, subject, receiver, text, firing, said, since, attempts, next_at) \
             SELECT rule, subject, receiver, text, true, 0, $1, 0, due FROM j WHERE true ORDER BY rule, subject, receiver \
             ON CONFLICT (rule, subject, receiver) DO UPDATE SET firing = true, text = excluded.text, \
             attempts = 0, next_at = excluded.next_at, \
             since = CASE WHEN alerts.said = 0 THEN excluded.since ELSE alerts.since END WHERE NOT alerts.firing",
        );
        let rows = found.iter().map(|alert| {
            [
                (&alert.rule).into(),
                (&alert.subject).into(),
                (&alert.receiver).into(),
                (&alert.text).into(),
                (now.millis() + alert.lasting_ms).into(),
            ]
        });
        tx.execute(begun.bind(now).rows(Group::of_rows(rows))).await?;
        let firing = sql("alert_list_keys_firing", "SELECT rule, subject, receiver FROM alerts WHERE firing");
        let mut passed = Vec::new();
        for row in tx.fetch(firing).await? {
            let c = row.of("alerts");
            let key = [c.text("rule")?, c.text("subject")?, c.text("receiver")?];
            if !found.iter().any(|alert| key == [&*alert.rule, &*alert.subject, &*alert.receiver]) {
                passed.push(key.map(Value::from));
            }
        }
        let ended = sql(
            "alert_end_if_firing",
            "WITH j(rule, subject, receiver) AS ({rows}) UPDATE alerts SET firing = false, attempts = 0, next_at = $1 \
             WHERE firing AND (rule, subject, receiver) IN (SELECT rule, subject, receiver FROM j)",
        );
        tx.execute(ended.bind(now).rows(Group::of_rows(passed))).await?;
        // It passed before it had lasted: nobody heard of it, nobody needs to.
        let unheard = sql(
            "alert_delete_if_unheard",
            "DELETE FROM alerts WHERE NOT firing AND said = 0 AND lease_token IS NULL",
        );
        tx.execute(unheard).await?;
        tx.commit().await
    }

    async fn lease_notices(
        &self,
        token: LeaseToken,
        now: Timestamp,
        until: Timestamp,
        limit: u32,
    ) -> StoreResult<Vec<Notice>> {
        let statement = sql(
            "alert_lease_if_due",
            "UPDATE alerts SET lease_token = $1, lease_until = $3 \
             WHERE (rule, subject, receiver) IN (SELECT rule, subject, receiver FROM alerts \
             WHERE firing = (said = 0) AND next_at <= $2 AND (lease_until IS NULL OR lease_until < $2) \
             ORDER BY next_at LIMIT $4 {lock_free alerts}) RETURNING rule, subject, receiver, text, firing, since, attempts",
        );
        let rows = self.db.fetch_written(statement.bind(token).bind(now).bind(until).bind(limit)).await?;
        rows.iter().map(notice).collect()
    }

    async fn settle_notice(
        &self,
        notice: &Notice,
        token: LeaseToken,
        again: Option<Timestamp>,
    ) -> StoreResult<bool> {
        // It may have begun again meanwhile; then it is told anew.
        let statement = sql(
            "alert_settle_if_leased",
            "UPDATE alerts SET attempts = CASE WHEN $5 IS NULL THEN 0 ELSE attempts + 1 END, \
             next_at = coalesce($5, next_at), said = CASE WHEN $5 IS NULL THEN $6 ELSE said END, \
             lease_token = NULL, lease_until = NULL WHERE rule = $1 AND subject = $2 AND receiver = $3 AND lease_token = $4",
        );
        let statement = statement
            .bind(&notice.rule)
            .bind(&notice.subject)
            .bind(&notice.receiver)
            .bind(token)
            .bind(again)
            .bind(i16::from(notice.firing));
        Ok(self.db.execute(statement).await? == 1)
    }
}
