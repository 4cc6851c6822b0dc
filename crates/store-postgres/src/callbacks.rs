//! The outbox.

use async_trait::async_trait;
use penstock_domain::batch::BatchStatus;
use penstock_domain::ids::{BatchSeq, LeaseToken, OwnerSeq};
use penstock_domain::ledger::Event;
use penstock_domain::time::Timestamp;
use penstock_store::StoreResult;
use penstock_store::callbacks::{Callback, CallbackStatus, Callbacks, Delivery};
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::convert::{Columns, opt_ms, small};
use crate::error::{inconsistent, store_error};
use crate::{PostgresStore, commit, ledgers};

fn callback(row: &PgRow) -> StoreResult<Callback> {
    let c = Columns(row);
    let id = c.uuid("id");
    let status = i16::try_from(c.i64("status")).ok().and_then(CallbackStatus::from_code);
    Ok(Callback {
        id,
        owner: OwnerSeq(c.i64("owner")),
        batch: BatchSeq(c.i64("batch")),
        event: c.text("event"),
        url: c.text("url"),
        created_at: c.time("created_at"),
        snapshot: c.text("snapshot"),
        status: status.ok_or_else(|| inconsistent("callbacks", "status", id))?,
        attempts: c.u16("attempts"),
        next_at: c.opt_time("next_at"),
        last_status: c.opt_u16("last_status"),
        last_error: c.opt_text("last_error"),
    })
}

#[async_trait]
impl Callbacks for PostgresStore {
    async fn lease_callbacks(
        &self,
        token: LeaseToken,
        now: Timestamp,
        until: Timestamp,
        limit: u32,
    ) -> StoreResult<Vec<Callback>> {
        let waits: Option<i32> = sqlx::query_scalar(
            "/* penstock:lease_callbacks */ SELECT 1 FROM callbacks WHERE status = 0 AND next_at <= $1 LIMIT 1",
        )
        .bind(now.millis())
        .fetch_optional(&self.pool)
        .await
        .map_err(store_error("lease_callbacks"))?;
        if waits.is_none() {
            return Ok(Vec::new());
        }
        let rows = sqlx::query(
            "/* penstock:lease_callbacks */ UPDATE callbacks SET lease_token = $1, lease_until = $3 WHERE id IN \
             (SELECT c.id FROM callbacks c WHERE c.status = 0 AND c.next_at <= $2 \
              AND (c.lease_until IS NULL OR c.lease_until < $2) AND NOT EXISTS (SELECT 1 FROM callbacks e \
              WHERE e.batch = c.batch AND e.status = 0 AND e.attempts = 0 \
              AND (e.created_at, e.position, e.id) < (c.created_at, c.position, c.id)) \
              ORDER BY c.created_at, c.position LIMIT $4 FOR UPDATE SKIP LOCKED) RETURNING *",
        )
        .bind(token.0)
        .bind(now.millis())
        .bind(until.millis())
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .map_err(store_error("lease_callbacks"))?;
        rows.iter().map(callback).collect()
    }

    async fn settle_callback(&self, delivery: &Delivery) -> StoreResult<bool> {
        let done = sqlx::query(
            "/* penstock:settle_callback */ UPDATE callbacks SET status = $1, attempts = attempts + 1, next_at = $2, \
             last_status = $3, last_error = $4, lease_token = NULL, lease_until = NULL WHERE id = $5 AND lease_token = $6",
        )
        .bind(delivery.status.code())
        .bind(opt_ms(delivery.next_at))
        .bind(delivery.http_status.map(small))
        .bind(&delivery.error)
        .bind(delivery.id)
        .bind(delivery.token.0)
        .execute(&self.pool)
        .await
        .map_err(store_error("settle_callback"))?;
        Ok(done.rows_affected() == 1)
    }

    async fn say_delayed(&self, pipelines: &[String], limit: u32, now: Timestamp) -> StoreResult<u32> {
        const NAME: &str = "say_delayed";
        let running: Vec<i64> = sqlx::query_scalar(
            "/* penstock:say_delayed */ SELECT b.seq FROM batches b WHERE b.status = 2 AND b.cancelled_at IS NULL \
             AND b.callback_url IS NOT NULL AND b.pipeline = ANY($1) AND NOT EXISTS (SELECT 1 FROM callbacks c \
             WHERE c.batch = b.seq AND c.run = b.run AND c.event = $2) ORDER BY b.seq LIMIT $3",
        )
        .bind(pipelines)
        .bind(Event::Delayed.name())
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
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
        let rows = sqlx::query(
            "/* penstock:callbacks */ SELECT * FROM callbacks WHERE ($1::int8 IS NULL OR owner = $1) \
             AND ($2::int8 IS NULL OR batch = $2) AND ($3::int8 IS NULL OR (created_at, id) < ($3, $4)) \
             ORDER BY created_at DESC, id DESC LIMIT $5",
        )
        .bind(owner.map(|owner| owner.0))
        .bind(batch.map(|batch| batch.0))
        .bind(before.map(|(at, _)| at.millis()))
        .bind(before.map(|(_, id)| id))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
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
            "/* penstock:redeliver */ UPDATE callbacks SET status = 0, attempts = 0, next_at = $3, lease_token = NULL, \
             lease_until = NULL WHERE id = $1 AND ($2::int8 IS NULL OR owner = $2) RETURNING *",
        )
        .bind(id)
        .bind(owner.map(|owner| owner.0))
        .bind(now.millis())
        .fetch_optional(&self.pool)
        .await
        .map_err(store_error("redeliver"))?;
        row.as_ref().map(callback).transpose()
    }
}
