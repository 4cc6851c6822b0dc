//! Alerts.

use async_trait::async_trait;
use penstock_domain::batch::BatchStatus;
use penstock_domain::ids::{BatchId, LeaseToken};
use penstock_domain::time::Timestamp;
use penstock_store::StoreResult;
use penstock_store::alerts::{Alert, Alerts, FailingBatch, Notice};
use penstock_store::decode::Columns as _;
use sqlx::sqlite::SqliteRow;

use crate::SqliteStore;
use crate::convert::Columns;
use crate::error::store_error;

fn failing(row: &SqliteRow) -> StoreResult<FailingBatch> {
    let c = Columns::of("batches", row);
    Ok(FailingBatch {
        id: BatchId(c.uuid("id")?),
        pipeline: c.text("pipeline")?,
        completed: c.u32("completed")?,
        failed: c.u32("failed")?,
    })
}

fn notice(row: &SqliteRow) -> StoreResult<Notice> {
    let c = Columns::of("alerts", row);
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
impl Alerts for SqliteStore {
    async fn failing_batches(
        &self,
        since: Timestamp,
        min_rows: u32,
        share_bp: u16,
        limit: u32,
    ) -> StoreResult<Vec<FailingBatch>> {
        let rows = sqlx::query(
            "/* penstock:failing_batches */ SELECT id, pipeline, completed, failed FROM batches \
             WHERE (status = 2 OR finished_at > ?1) AND completed + failed >= ?2 \
             AND failed * 10000 > ?3 * (completed + failed) ORDER BY seq DESC LIMIT ?4",
        )
        .bind(since.millis())
        .bind(min_rows)
        .bind(share_bp)
        .bind(limit)
        .fetch_all(&self.readers)
        .await
        .map_err(store_error("failing_batches"))?;
        rows.iter().map(failing).collect()
    }

    async fn unextractable_batches(&self, since: Timestamp, limit: u32) -> StoreResult<Vec<FailingBatch>> {
        let rows = sqlx::query(
            "/* penstock:unextractable_batches */ SELECT id, pipeline, completed, failed FROM batches \
             WHERE finished_at > ?1 AND status = ?2 ORDER BY seq DESC LIMIT ?3",
        )
        .bind(since.millis())
        .bind(BatchStatus::Failed.code())
        .bind(limit)
        .fetch_all(&self.readers)
        .await
        .map_err(store_error("unextractable_batches"))?;
        rows.iter().map(failing).collect()
    }

    async fn firing(&self) -> StoreResult<Vec<(String, String)>> {
        sqlx::query_as("/* penstock:firing */ SELECT DISTINCT rule, subject FROM alerts WHERE firing ORDER BY rule, subject")
            .fetch_all(&self.readers)
            .await
            .map_err(store_error("firing"))
    }

    async fn note_alerts(&self, found: &[Alert], now: Timestamp) -> StoreResult<()> {
        const NAME: &str = "note_alerts";
        let found_none = found.is_empty();
        let found: Vec<serde_json::Value> = found
            .iter()
            .map(|alert| {
                serde_json::json!([
                    alert.rule,
                    alert.subject,
                    alert.receiver,
                    alert.text,
                    now.millis() + alert.lasting_ms
                ])
            })
            .collect();
        let found = serde_json::Value::Array(found).to_string();
        let noted: bool =
            sqlx::query_scalar("/* penstock:note_alerts */ SELECT EXISTS (SELECT 1 FROM alerts)")
                .fetch_one(&self.readers)
                .await
                .map_err(store_error(NAME))?;
        if found_none && !noted {
            return Ok(());
        }
        let mut tx = self.write(NAME).await?;
        sqlx::query(
            "/* penstock:note_alerts */ INSERT INTO alerts (rule, subject, receiver, text, firing, said, since, attempts, next_at) \
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, 1, 0, ?2, 0, value ->> 4 FROM json_each(?1) WHERE true \
             ON CONFLICT (rule, subject, receiver) DO UPDATE SET firing = 1, text = excluded.text, \
             attempts = 0, next_at = excluded.next_at, \
                 since = CASE WHEN alerts.said = 0 THEN excluded.since ELSE alerts.since END WHERE NOT alerts.firing",
        )
        .bind(&found)
        .bind(now.millis())
        .execute(&mut *tx)
        .await
        .map_err(store_error(NAME))?;
        sqlx::query(
            "/* penstock:note_alerts */ UPDATE alerts SET firing = 0, attempts = 0, next_at = ?2 WHERE firing \
             AND (rule, subject, receiver) NOT IN (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1))",
        )
        .bind(&found)
        .bind(now.millis())
        .execute(&mut *tx)
        .await
        .map_err(store_error(NAME))?;
        // It passed before it had lasted: nobody heard of it, nobody needs to.
        sqlx::query("/* penstock:note_alerts */ DELETE FROM alerts WHERE NOT firing AND said = 0 AND lease_token IS NULL")
            .execute(&mut *tx)
            .await
            .map_err(store_error(NAME))?;
        crate::commit(tx, NAME).await
    }

    async fn lease_notices(
        &self,
        token: LeaseToken,
        now: Timestamp,
        until: Timestamp,
        limit: u32,
    ) -> StoreResult<Vec<Notice>> {
        let rows = sqlx::query(
            "/* penstock:lease_notices */ UPDATE alerts SET lease_token = ?1, lease_until = ?3 \
             WHERE (rule, subject, receiver) IN (SELECT rule, subject, receiver FROM alerts \
             WHERE firing = (said = 0) AND next_at <= ?2 AND (lease_until IS NULL OR lease_until < ?2) \
             ORDER BY next_at LIMIT ?4) RETURNING rule, subject, receiver, text, firing, since, attempts",
        )
        .bind(token.0.to_string())
        .bind(now.millis())
        .bind(until.millis())
        .bind(limit)
        .fetch_all(&self.writer)
        .await
        .map_err(store_error("lease_notices"))?;
        rows.iter().map(notice).collect()
    }

    async fn settle_notice(
        &self,
        notice: &Notice,
        token: LeaseToken,
        again: Option<Timestamp>,
    ) -> StoreResult<bool> {
        let statement = match (again, notice.firing) {
            (Some(_), _) => {
                "/* penstock:settle_notice */ UPDATE alerts SET attempts = attempts + 1, next_at = ?5, \
                 lease_token = NULL, lease_until = NULL WHERE rule = ?1 AND subject = ?2 AND receiver = ?3 AND lease_token = ?4"
            }
            (None, true) => {
                "/* penstock:settle_notice */ UPDATE alerts SET said = 1, attempts = 0, \
                 lease_token = NULL, lease_until = NULL WHERE rule = ?1 AND subject = ?2 AND receiver = ?3 AND lease_token = ?4"
            }
            // It may have begun again meanwhile; then it is told anew.
            (None, false) => {
                "/* penstock:settle_notice */ UPDATE alerts SET said = 0, attempts = 0, \
                 lease_token = NULL, lease_until = NULL WHERE rule = ?1 AND subject = ?2 AND receiver = ?3 AND lease_token = ?4"
            }
        };
        let mut query = sqlx::query(statement)
            .bind(&notice.rule)
            .bind(&notice.subject)
            .bind(&notice.receiver)
            .bind(token.0.to_string());
        if let Some(again) = again {
            query = query.bind(again.millis());
        }
        let done = query.execute(&self.writer).await.map_err(store_error("settle_notice"))?;
        Ok(done.rows_affected() == 1)
    }
}
