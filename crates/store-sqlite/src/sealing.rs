//! What is sealed under what.

use async_trait::async_trait;
use penstock_domain::ids::{BatchId, BatchSeq};
use penstock_store::StoreResult;
use penstock_store::batches::{Batch, SealedKey};
use penstock_store::decode::Columns as _;
use penstock_store::sealing::{Epoch, KeyUsage, Sealing};
use uuid::Uuid;

use crate::convert::Columns;
use crate::error::store_error;
use crate::{Connection, SqliteStore, commit, ledgers};

#[async_trait]
impl Sealing for SqliteStore {
    async fn newest_epoch(&self) -> StoreResult<Option<Epoch>> {
        let row = sqlx::query(
            "/* penstock:newest_epoch */ SELECT id, sealed, created_at, erased FROM epochs ORDER BY id DESC LIMIT 1",
        )
        .fetch_optional(&self.readers)
        .await
        .map_err(store_error("newest_epoch"))?;
        let Some(row) = row else { return Ok(None) };
        let c = Columns::of("epochs", &row);
        Ok(Some(Epoch {
            id: c.i64("id")?,
            sealed: c.bytes("sealed")?,
            created_at: c.time("created_at")?,
            erased: c.flag("erased")?,
        }))
    }

    async fn add_epoch(&self, epoch: &Epoch) -> StoreResult<bool> {
        let done = sqlx::query(
            "/* penstock:add_epoch */ INSERT INTO epochs (id, sealed, created_at, erased) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        )
        .bind(epoch.id)
        .bind(&epoch.sealed)
        .bind(epoch.created_at.millis())
        .bind(epoch.erased)
        .execute(&self.writer)
        .await
        .map_err(store_error("add_epoch"))?;
        Ok(done.rows_affected() == 1)
    }

    async fn drop_epochs(&self, newest: i64) -> StoreResult<u32> {
        let done = sqlx::query(
            "/* penstock:drop_epochs */ DELETE FROM epochs WHERE id < ?1 \
             AND NOT EXISTS (SELECT 1 FROM batch_keys k WHERE k.epoch = epochs.id)",
        )
        .bind(newest)
        .execute(&self.writer)
        .await
        .map_err(store_error("drop_epochs"))?;
        let dropped = u32::try_from(done.rows_affected()).unwrap_or(u32::MAX);
        if dropped > 0 {
            self.truncate_log().await?;
        }
        Ok(dropped)
    }

    async fn batches_to_rewrap(&self, epoch: i64, after: BatchSeq, limit: u32) -> StoreResult<Vec<Batch>> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "/* penstock:batches_to_rewrap */ {} JOIN batch_keys k ON k.batch = b.seq \
             WHERE k.batch > ?1 AND (k.epoch IS NULL OR k.epoch <> ?2) ORDER BY k.batch LIMIT ?3",
            ledgers::SELECT
        )))
        .bind(after.0)
        .bind(epoch)
        .bind(limit)
        .fetch_all(&self.readers)
        .await
        .map_err(store_error("batches_to_rewrap"))?;
        rows.iter().map(ledgers::batch).collect()
    }

    async fn earlier_key(&self) -> StoreResult<Option<(BatchId, SealedKey)>> {
        // Columns that every schema has.
        let row = sqlx::query(
            "/* penstock:earlier_key */ SELECT b.id, k.key_id, k.wrapped FROM batch_keys k JOIN batches b ON b.seq = k.batch LIMIT 1",
        )
        .fetch_optional(&self.readers)
        .await
        .map_err(store_error("earlier_key"))?;
        let Some(row) = row else { return Ok(None) };
        let c = Columns::of("batch_keys", &row);
        let key =
            SealedKey { key_id: c.text("key_id")?, wrapped: c.bytes("wrapped")?, ..SealedKey::default() };
        Ok(Some((BatchId(c.uuid("id")?), key)))
    }

    async fn rewrap_key(&self, batch: BatchSeq, old: &SealedKey, new: &SealedKey) -> StoreResult<bool> {
        const NAME: &str = "rewrap_key";
        let mut tx = self.write(NAME).await?;
        let moved = replace_key(&mut tx, batch, old, new, NAME).await?;
        if old.epoch.is_none() {
            sqlx::query("UPDATE batches SET header = NULL WHERE seq = ?1 AND header IS NOT NULL")
                .bind(batch.0)
                .execute(&mut *tx)
                .await
                .map_err(store_error(NAME))?;
        }
        if !moved {
            return Ok(false);
        }
        commit(tx, NAME).await?;
        Ok(true)
    }

    async fn key_usage(&self) -> StoreResult<Vec<KeyUsage>> {
        let rows = sqlx::query(
            "/* penstock:key_usage */ SELECT key_id, sum(data_keys) AS data_keys, sum(promises) AS promises FROM \
             (SELECT key_id, count(*) AS data_keys, 0 AS promises FROM batch_keys GROUP BY key_id UNION ALL \
              SELECT key_id, 0, count(*) FROM idempotency WHERE key_id <> '' GROUP BY key_id) AS used GROUP BY key_id ORDER BY key_id",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(store_error("key_usage"))?;
        rows.iter()
            .map(|row| {
                let c = Columns::of("batch_keys", row);
                Ok(KeyUsage {
                    key_id: c.text("key_id")?,
                    data_keys: c.u64("data_keys")?,
                    promises: c.u64("promises")?,
                })
            })
            .collect()
    }

    async fn secret(&self, name: &str) -> StoreResult<Option<Vec<u8>>> {
        sqlx::query_scalar("/* penstock:secret */ SELECT sealed FROM secrets WHERE name = ?1")
            .bind(name)
            .fetch_optional(&self.readers)
            .await
            .map_err(store_error("secret"))
    }

    async fn set_secret(&self, name: &str, expected: Option<&[u8]>, sealed: &[u8]) -> StoreResult<bool> {
        let statement = match expected {
            None => {
                "/* penstock:set_secret */ INSERT INTO secrets (name, sealed) VALUES (?1, ?2) ON CONFLICT DO NOTHING"
            }
            Some(_) => {
                "/* penstock:set_secret */ UPDATE secrets SET sealed = ?2 WHERE name = ?1 AND sealed = ?3"
            }
        };
        let mut query = sqlx::query(statement).bind(name).bind(sealed);
        if let Some(expected) = expected {
            query = query.bind(expected);
        }
        let done = query.execute(&self.writer).await.map_err(store_error("set_secret"))?;
        Ok(done.rows_affected() == 1)
    }

    async fn definition_macs(&self) -> StoreResult<Vec<(Uuid, Option<Vec<u8>>)>> {
        let rows = sqlx::query(
            "/* penstock:definition_macs */ SELECT version, mac FROM definitions ORDER BY version",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(store_error("definition_macs"))?;
        rows.iter()
            .map(|row| {
                let c = Columns::of("definitions", row);
                Ok((c.uuid("version")?, c.opt_bytes("mac")?))
            })
            .collect()
    }

    async fn set_definition_mac(
        &self,
        version: Uuid,
        expected: Option<&[u8]>,
        mac: &[u8],
    ) -> StoreResult<bool> {
        let done = sqlx::query(
            "/* penstock:set_definition_mac */ UPDATE definitions SET mac = ?1 WHERE version = ?2 AND mac IS ?3",
        )
        .bind(mac)
        .bind(version.to_string())
        .bind(expected)
        .execute(&self.writer)
        .await
        .map_err(store_error("set_definition_mac"))?;
        Ok(done.rows_affected() == 1)
    }
}

/// Replaces a wrapped key by one in an epoch that is there, provided that it is still wrapped as `old`.
pub(crate) async fn replace_key(
    tx: &mut Connection,
    batch: BatchSeq,
    old: &SealedKey,
    new: &SealedKey,
    name: &'static str,
) -> StoreResult<bool> {
    let done = sqlx::query(
        "/* penstock:rewrap_key */ UPDATE batch_keys SET epoch = ?1, key_id = ?2, wrapped = ?3, header = coalesce(header, ?4) WHERE batch = ?5 AND wrapped = ?6 AND EXISTS (SELECT 1 FROM epochs WHERE id = ?1)",
    )
    .bind(new.epoch)
    .bind(&new.key_id)
    .bind(&new.wrapped)
    .bind(&new.header)
    .bind(batch.0)
    .bind(&old.wrapped)
    .execute(&mut *tx)
    .await
    .map_err(store_error(name))?;
    Ok(done.rows_affected() == 1)
}
