//! The outbox.

use async_trait::async_trait;
use penstock_domain::batch::BatchStatus;
use penstock_domain::ids::{BatchId, BatchSeq, OwnerSeq};
use penstock_domain::ledger::Event;
use penstock_domain::time::Timestamp;
use penstock_store::StoreResult;
use penstock_store::callbacks::{Callback, CallbackLease, CallbackStatus, Callbacks, Delivery};
use penstock_store::decode::Columns as _;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::Connection;
use crate::convert::{Columns, opt_ms};
use crate::error::store_error;
use crate::{SqliteStore, commit, ledgers};

fn callback(row: &SqliteRow) -> StoreResult<Callback> {
    let c = Columns::of("callbacks", row);
    let id = c.uuid("id")?;
    Ok(Callback {
        id,
        owner: OwnerSeq(c.i64("owner")?),
        seq: BatchSeq(c.i64("batch")?),
        batch: BatchId(c.uuid("batch_id")?),
        run: c.u32("run")?,
        event: c.text("event")?,
        url: c.text("url")?,
        created_at: c.time("created_at")?,
        snapshot: c.text("snapshot")?,
        status: c.code("status", CallbackStatus::from_code)?,
        attempts: c.u16("attempts")?,
        next_at: c.opt_time("next_at")?,
        last_status: c.opt_u16("last_status")?,
        last_error: c.opt_text("last_error")?,
    })
}

#[async_trait]
impl Callbacks for SqliteStore {
    async fn lease_callbacks(&self, lease: &CallbackLease) -> StoreResult<Vec<Callback>> {
        const NAME: &str = "lease_callbacks";
        let waits: Option<i64> = sqlx::query_scalar(
            "/* penstock:lease_callbacks */ SELECT 1 FROM callbacks WHERE status = 0 AND next_at <= ?1 LIMIT 1",
        )
        .bind(lease.now.millis())
        .fetch_optional(&self.readers)
        .await
        .map_err(store_error(NAME))?;
        if waits.is_none() {
            return Ok(Vec::new());
        }
        sqlx::query(
            "/* penstock:lease_callbacks */ DELETE FROM callbacks WHERE status = 0 AND next_at <= ?1 AND event = ?2 \
             AND (lease_until IS NULL OR lease_until < ?1) AND EXISTS (SELECT 1 FROM callbacks f \
             WHERE f.batch = callbacks.batch AND f.run = callbacks.run AND f.event = ?3)",
        )
        .bind(lease.now.millis())
        .bind(Event::Progress.name())
        .bind(Event::Finished.name())
        .execute(&self.writer)
        .await
        .map_err(store_error(NAME))?;
        let rows = sqlx::query(
            "/* penstock:lease_callbacks */ WITH due AS (SELECT c.id, c.owner, c.attempts, c.next_at, c.position, \
             coalesce(c.receiver, c.url) AS receiver, row_number() OVER (PARTITION BY c.owner, coalesce(c.receiver, c.url) \
             ORDER BY c.attempts > 0, c.next_at, c.position) AS place FROM callbacks c WHERE c.status = 0 \
             AND c.next_at <= ?2 AND (c.lease_until IS NULL OR c.lease_until < ?2) AND NOT EXISTS (SELECT 1 FROM callbacks e \
             WHERE e.batch = c.batch AND e.status = 0 AND (e.attempts = 0 OR e.lease_until >= ?2) \
             AND (e.position, e.created_at, e.id) < (c.position, c.created_at, c.id))), \
             under_way AS (SELECT owner, coalesce(receiver, url) AS receiver, count(*) AS n FROM callbacks \
             WHERE status = 0 AND lease_until >= ?2 GROUP BY 1, 2), \
             ranked AS (SELECT d.*, row_number() OVER (PARTITION BY d.owner ORDER BY d.attempts > 0, d.next_at, d.position) \
             + coalesce((SELECT sum(o.n) FROM under_way o WHERE o.owner = d.owner), 0) AS of_owner FROM due d \
             LEFT JOIN under_way u ON u.owner = d.owner AND u.receiver = d.receiver WHERE d.place <= ?5 - coalesce(u.n, 0)) \
             UPDATE callbacks SET lease_token = ?1, lease_until = ?3 WHERE id IN (SELECT id FROM ranked \
             WHERE of_owner <= ?6 ORDER BY of_owner, attempts > 0, next_at, position LIMIT ?4) \
             RETURNING id, owner, batch, run, event, url, created_at, snapshot, status, attempts, next_at, last_status, last_error, \
             (SELECT b.id FROM batches b WHERE b.seq = callbacks.batch) AS batch_id",
        )
        .bind(lease.token.0.to_string())
        .bind(lease.now.millis())
        .bind(lease.until.millis())
        .bind(i64::from(lease.limit))
        .bind(i64::from(lease.per_receiver))
        .bind(i64::from(lease.per_owner))
        .fetch_all(&self.writer)
        .await
        .map_err(store_error(NAME))?;
        rows.iter().map(callback).collect()
    }

    async fn settle_callback(&self, delivery: &Delivery) -> StoreResult<bool> {
        const NAME: &str = "settle_callback";
        let mut tx = self.write(NAME).await?;
        let settled = sqlx::query(
            "/* penstock:settle_callback */ UPDATE callbacks SET status = ?1, attempts = attempts + 1, next_at = ?2, \
             last_status = ?3, last_error = ?4, lease_token = NULL, lease_until = NULL WHERE id = ?5 AND lease_token = ?6 \
             RETURNING owner, url",
        )
        .bind(delivery.status.code())
        .bind(opt_ms(delivery.next_at))
        .bind(delivery.http_status)
        .bind(&delivery.error)
        .bind(delivery.id.to_string())
        .bind(delivery.token.0.to_string())
        .fetch_optional(&mut *tx)
        .await
        .map_err(store_error(NAME))?;
        let Some(settled) = settled else { return Ok(false) };
        let c = Columns::of("callbacks", &settled);
        let (owner, url) = (c.i64("owner")?, c.text("url")?);
        match delivery.status {
            CallbackStatus::Disabled => disable(&mut tx, owner, &url, delivery.at, NAME).await?,
            CallbackStatus::Delivered => enable(&mut tx, owner, &url, NAME).await?,
            CallbackStatus::Pending | CallbackStatus::Exhausted => {}
        }
        commit(tx, NAME).await?;
        Ok(true)
    }

    async fn say_delayed(&self, pipelines: &[String], limit: u32, now: Timestamp) -> StoreResult<u32> {
        const NAME: &str = "say_delayed";
        let running: Vec<i64> = sqlx::query_scalar(
            "/* penstock:say_delayed */ SELECT b.seq FROM batches b WHERE b.status = 2 AND b.cancelled_at IS NULL \
             AND b.callback_url IS NOT NULL AND b.pipeline IN (SELECT value FROM json_each(?1)) AND NOT EXISTS (SELECT 1 FROM callbacks c \
             WHERE c.batch = b.seq AND c.run = b.run AND c.event = ?2) ORDER BY b.seq LIMIT ?3",
        )
        .bind(serde_json::json!(pipelines).to_string())
        .bind(Event::Delayed.name())
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await
        .map_err(store_error(NAME))?;
        let mut said = 0;
        for seq in running {
            let mut tx = self.write(NAME).await?;
            let batch = ledgers::read(&mut tx, BatchSeq(seq), NAME).await?;
            // It may have ended meanwhile; another worker that is as quick says the same, and the outbox keeps it once.
            if let Some(batch) = batch.filter(|batch| batch.ledger.status == BatchStatus::Queued) {
                ledgers::say(&mut tx, &batch, &[Event::Delayed], now, NAME).await?;
                said += 1;
            }
            commit(tx, NAME).await?;
        }
        Ok(said)
    }

    async fn callbacks(
        &self,
        owner: Option<OwnerSeq>,
        batch: Option<BatchSeq>,
        before: Option<(Timestamp, Uuid)>,
        limit: u32,
    ) -> StoreResult<Vec<Callback>> {
        let mut tx = self.read("callbacks").await?;
        let rows = sqlx::query(
            "/* penstock:callbacks */ SELECT id, owner, batch, run, event, url, created_at, '' AS snapshot, status, attempts, next_at, last_status, last_error, \
             (SELECT b.id FROM batches b WHERE b.seq = callbacks.batch) AS batch_id FROM callbacks WHERE (?1 IS NULL OR owner = ?1) \
             AND (?2 IS NULL OR batch = ?2) AND (?3 IS NULL OR (created_at, id) < (?3, ?4)) \
             ORDER BY created_at DESC, id DESC LIMIT ?5",
        )
        .bind(owner.map(|owner| owner.0))
        .bind(batch.map(|batch| batch.0))
        .bind(before.map(|(at, _)| at.millis()))
        .bind(before.map(|(_, id)| id.to_string()))
        .bind(limit)
        .fetch_all(&mut *tx)
        .await
        .map_err(store_error("callbacks"))?;
        rows.iter().map(callback).collect()
    }

    async fn redeliver(
        &self,
        id: Uuid,
        owner: Option<OwnerSeq>,
        now: Timestamp,
    ) -> StoreResult<Option<Callback>> {
        let row = sqlx::query(
            "/* penstock:redeliver */ UPDATE callbacks SET status = 0, attempts = 0, next_at = ?3, lease_token = NULL, \
             lease_until = NULL WHERE id = ?1 AND (?2 IS NULL OR owner = ?2) \
             RETURNING id, owner, batch, run, event, url, created_at, snapshot, status, attempts, next_at, last_status, last_error, \
             (SELECT b.id FROM batches b WHERE b.seq = callbacks.batch) AS batch_id",
        )
        .bind(id.to_string())
        .bind(owner.map(|owner| owner.0))
        .bind(now.millis())
        .fetch_optional(&self.writer)
        .await
        .map_err(store_error("redeliver"))?;
        row.as_ref().map(callback).transpose()
    }
}

/// An address has said that it is gone: what waits for it is sent no more, and what comes is born disabled.
async fn disable(
    tx: &mut Connection,
    owner: i64,
    url: &str,
    now: Timestamp,
    name: &'static str,
) -> StoreResult<()> {
    sqlx::query(
        "/* penstock:settle_callback */ INSERT INTO gone_receivers (owner, url, since) VALUES (?1, ?2, ?3) \
         ON CONFLICT DO NOTHING",
    )
    .bind(owner)
    .bind(url)
    .bind(now.millis())
    .execute(&mut *tx)
    .await
    .map_err(store_error(name))?;
    sqlx::query(
        "/* penstock:settle_callback */ UPDATE callbacks SET status = 3, next_at = NULL WHERE owner = ?1 AND url = ?2 \
         AND status = 0 AND (lease_until IS NULL OR lease_until < ?3)",
    )
    .bind(owner)
    .bind(url)
    .bind(now.millis())
    .execute(tx)
    .await
    .map_err(store_error(name))?;
    Ok(())
}

/// An address that was gone is there again.
pub async fn enable(tx: &mut Connection, owner: i64, url: &str, name: &'static str) -> StoreResult<()> {
    sqlx::query("/* penstock:settle_callback */ DELETE FROM gone_receivers WHERE owner = ?1 AND url = ?2")
        .bind(owner)
        .bind(url)
        .execute(tx)
        .await
        .map_err(store_error(name))?;
    Ok(())
}
