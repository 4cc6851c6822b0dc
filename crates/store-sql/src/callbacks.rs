//! The outbox.

use async_trait::async_trait;
use penstock_domain::batch::BatchStatus;
use penstock_domain::ids::{BatchId, BatchSeq, LeaseToken, OwnerSeq};
use penstock_domain::ledger::Event;
use penstock_domain::time::Timestamp;
use penstock_store::StoreResult;
use penstock_store::callbacks::{Callback, CallbackLease, CallbackStatus, Callbacks, Delivery};
use uuid::Uuid;

use crate::{Kind, Row, SqlStore, Tx, ledgers, sql};

fn callback(row: &Row) -> StoreResult<Callback> {
    let c = row.of("callbacks");
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
impl Callbacks for SqlStore {
    async fn lease_callbacks(&self, lease: &CallbackLease) -> StoreResult<Vec<Callback>> {
        let waits = sql(
            "callback_get_any_due",
            "SELECT 1 FROM callbacks WHERE status = {callback pending} AND next_at <= $1 LIMIT 1",
        );
        if self.db.fetch_optional(waits.bind(lease.now)).await?.is_none() {
            return Ok(Vec::new());
        }
        let passed = sql(
            "callback_delete_progress_if_finished",
            "DELETE FROM callbacks WHERE status = {callback pending} AND next_at <= $1 AND event = $2 \
             AND (lease_until IS NULL OR lease_until < $1) AND EXISTS (SELECT 1 FROM callbacks f \
             WHERE f.batch = callbacks.batch AND f.run = callbacks.run AND f.event = $3)",
        );
        let passed = passed.bind(lease.now).bind(Event::Progress.name()).bind(Event::Finished.name());
        self.db.execute(passed).await?;
        let statement = sql(
            "callback_lease_if_due",
            "WITH {callbacks_ranked}, picked AS (SELECT id FROM ranked WHERE of_owner <= $6 \
             ORDER BY of_owner, attempts > 0, next_at, position LIMIT $4) \
             UPDATE callbacks SET lease_token = $1, lease_until = $3 WHERE id IN (SELECT id FROM picked) \
             AND status = {callback pending} AND (lease_until IS NULL OR lease_until < $2) \
             RETURNING {callback_columns}, snapshot",
        );
        let statement = statement
            .bind(lease.token)
            .bind(lease.now)
            .bind(lease.until)
            .bind(lease.limit)
            .bind(lease.per_receiver)
            .bind(lease.per_owner);
        self.db.fetch_written(statement).await?.iter().map(callback).collect()
    }

    async fn settle_callback(&self, delivery: &Delivery) -> StoreResult<bool> {
        let mut tx = self.db.write("settle_callback").await?;
        let statement = sql(
            "callback_settle_if_leased",
            "UPDATE callbacks SET status = $1, attempts = attempts + 1, next_at = $2, last_status = $3, last_error = $4, \
             lease_token = NULL, lease_until = NULL WHERE id = $5 AND lease_token = $6 RETURNING owner, url",
        );
        let statement = statement
            .bind(delivery.status.code())
            .bind(delivery.next_at)
            .bind(delivery.http_status)
            .bind(&delivery.error)
            .bind(delivery.id)
            .bind(delivery.token);
        let Some(settled) = tx.fetch_optional(statement).await? else { return Ok(false) };
        let c = settled.of("callbacks");
        let (owner, url) = (OwnerSeq(c.i64("owner")?), c.text("url")?);
        match delivery.status {
            CallbackStatus::Disabled => disable(&mut tx, owner, &url, delivery.at).await?,
            CallbackStatus::Delivered => enable(&mut tx, owner, &url).await?,
            CallbackStatus::Pending | CallbackStatus::Exhausted => {}
        }
        tx.commit().await?;
        Ok(true)
    }

    async fn keep_snapshot(&self, id: Uuid, token: LeaseToken, snapshot: &str) -> StoreResult<bool> {
        let statement = sql(
            "callback_keep_snapshot_if_leased",
            "UPDATE callbacks SET snapshot = $1 WHERE id = $2 AND lease_token = $3",
        );
        let kept = self.db.execute(statement.bind(snapshot).bind(id).bind(token)).await?;
        Ok(kept > 0)
    }

    async fn delay_not_reported(&self, pipelines: &[String], limit: u32) -> StoreResult<Vec<BatchSeq>> {
        let statement = sql(
            "batch_list_if_delay_not_reported",
            "SELECT b.seq FROM batches b WHERE b.status = {batch queued} AND b.cancelled_at IS NULL \
             AND b.callback_url IS NOT NULL AND b.pipeline {in $1} AND NOT EXISTS (SELECT 1 FROM callbacks c \
             WHERE c.batch = b.seq AND c.run = b.run AND c.event = $2) ORDER BY b.seq LIMIT $3",
        );
        let statement = statement.bind(pipelines).bind(Event::Delayed.name()).bind(limit);
        let found = self.db.fetch(statement).await?;
        found.iter().map(|row| Ok(BatchSeq(row.of("batches").i64("seq")?))).collect()
    }

    async fn report_delay(&self, batches: &[BatchSeq], now: Timestamp) -> StoreResult<u32> {
        let mut said = 0;
        for seq in batches {
            let mut tx = self.db.write("report_delay").await?;
            let batch = ledgers::read(&mut tx, *seq).await?;
            // It may have ended meanwhile; another worker that is as quick says the same, and the outbox keeps it once.
            if let Some(batch) = batch.filter(|batch| batch.ledger.status == BatchStatus::Queued) {
                ledgers::say(&mut tx, &batch, &[Event::Delayed], now).await?;
                said += u32::from(batch.callback_url.is_some());
            }
            tx.commit().await?;
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
        let mut tx = self.db.begin("callbacks", Kind::Read).await?;
        let statement = sql(
            "callback_list",
            "SELECT {callback_columns}, '' AS snapshot FROM callbacks WHERE ($1 IS NULL OR owner = $1) \
             AND ($2 IS NULL OR batch = $2) AND ($3 IS NULL OR (created_at, id) < ($3, $4)) \
             ORDER BY created_at DESC, id DESC LIMIT $5",
        );
        let statement = statement
            .bind(owner)
            .bind(batch)
            .bind(before.map(|(at, _)| at))
            .bind(before.map(|(_, id)| id))
            .bind(limit);
        tx.fetch(statement).await?.iter().map(callback).collect()
    }

    async fn redeliver(
        &self,
        id: Uuid,
        owner: Option<OwnerSeq>,
        now: Timestamp,
    ) -> StoreResult<Option<Callback>> {
        let statement = sql(
            "callback_set_pending",
            "UPDATE callbacks SET status = {callback pending}, attempts = 0, next_at = $3, lease_token = NULL, \
             lease_until = NULL WHERE id = $1 AND ($2 IS NULL OR owner = $2) RETURNING {callback_columns}, snapshot",
        );
        let row = self.db.write_optional(statement.bind(id).bind(owner).bind(now)).await?;
        row.as_ref().map(callback).transpose()
    }
}

/// An address has said that it is gone: what waits for it is sent no more, and what comes is born disabled.
async fn disable(tx: &mut Tx, owner: OwnerSeq, url: &str, now: Timestamp) -> StoreResult<()> {
    let gone = sql(
        "gone_receiver_insert_if_new",
        "INSERT INTO gone_receivers (owner, url, since) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
    );
    tx.execute(gone.bind(owner).bind(url).bind(now)).await?;
    let waiting = sql(
        "callback_disable_if_not_leased",
        "UPDATE callbacks SET status = {callback disabled}, next_at = NULL WHERE owner = $1 AND url = $2 \
         AND status = {callback pending} AND (lease_until IS NULL OR lease_until < $3)",
    );
    tx.execute(waiting.bind(owner).bind(url).bind(now)).await.map(|_| ())
}

/// An address that was gone is there again.
pub(crate) async fn enable(tx: &mut Tx, owner: OwnerSeq, url: &str) -> StoreResult<()> {
    let statement = sql("gone_receiver_delete", "DELETE FROM gone_receivers WHERE owner = $1 AND url = $2");
    tx.execute(statement.bind(owner).bind(url)).await.map(|_| ())
}
