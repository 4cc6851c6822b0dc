//! What is sealed under what.

use async_trait::async_trait;
use penstock_domain::ids::{BatchId, BatchSeq};
use penstock_store::batches::{Batch, SealedKey};
use penstock_store::sealing::{Epoch, KeyUsage, Sealing};
use penstock_store::{StoreError, StoreResult};
use uuid::Uuid;

use crate::{SqlStore, Tx, ledgers, sql};

#[async_trait]
impl Sealing for SqlStore {
    async fn newest_epoch(&self) -> StoreResult<Option<Epoch>> {
        let statement = sql(
            "epoch_get_newest",
            "SELECT id, sealed, created_at, erased FROM epochs ORDER BY id DESC LIMIT 1",
        );
        let Some(row) = self.db.fetch_optional(statement).await? else { return Ok(None) };
        let c = row.of("epochs");
        Ok(Some(Epoch {
            id: c.i64("id")?,
            sealed: c.bytes("sealed")?,
            created_at: c.time("created_at")?,
            erased: c.flag("erased")?,
        }))
    }

    async fn add_epoch(&self, epoch: &Epoch) -> StoreResult<bool> {
        let statement = sql(
            "epoch_insert_if_new",
            "INSERT INTO epochs (id, sealed, created_at, erased) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        );
        let statement =
            statement.bind(epoch.id).bind(&epoch.sealed).bind(epoch.created_at).bind(epoch.erased);
        Ok(self.db.execute(statement).await? == 1)
    }

    async fn drop_epochs(&self, newest: i64) -> StoreResult<u32> {
        let statement = sql(
            "epoch_delete_if_unused",
            "DELETE FROM epochs WHERE id < $1 AND NOT EXISTS (SELECT 1 FROM batch_keys k WHERE k.epoch = epochs.id)",
        );
        let dropped = match self.db.execute(statement.bind(newest)).await {
            Ok(dropped) => u32::try_from(dropped).unwrap_or(u32::MAX),
            // One that a concurrent request has just used: its foreign key keeps it, and the next drop takes it.
            Err(StoreError::InvalidData { .. }) => 0,
            Err(error) => return Err(error),
        };
        if dropped > 0 {
            self.db.engine().shred_epochs().await?;
        }
        Ok(dropped)
    }

    async fn batches_to_rewrap(&self, epoch: i64, after: BatchSeq, limit: u32) -> StoreResult<Vec<Batch>> {
        let statement = sql(
            "batch_list_if_of_other_epoch",
            "SELECT {batch_columns} FROM batches b JOIN owners o ON o.seq = b.owner JOIN batch_keys k ON k.batch = b.seq \
             WHERE k.batch > $1 AND (k.epoch IS NULL OR k.epoch <> $2) ORDER BY k.batch LIMIT $3",
        );
        let rows = self.db.fetch(statement.bind(after).bind(epoch).bind(limit)).await?;
        rows.iter().map(ledgers::batch).collect()
    }

    async fn earlier_key(&self) -> StoreResult<Option<(BatchId, SealedKey)>> {
        // Columns that every schema has.
        let statement = sql(
            "batch_key_get_any",
            "SELECT b.id, k.key_id, k.wrapped FROM batch_keys k JOIN batches b ON b.seq = k.batch LIMIT 1",
        );
        let Some(row) = self.db.fetch_optional(statement).await? else { return Ok(None) };
        let c = row.of("batch_keys");
        let key =
            SealedKey { key_id: c.text("key_id")?, wrapped: c.bytes("wrapped")?, ..SealedKey::default() };
        Ok(Some((BatchId(c.uuid("id")?), key)))
    }

    async fn rewrap_key(&self, batch: BatchSeq, old: &SealedKey, new: &SealedKey) -> StoreResult<bool> {
        let mut tx = self.db.write("rewrap_key").await?;
        let moved = replace_key(&mut tx, batch, old, new).await?;
        if old.epoch.is_none() {
            let statement = sql(
                "batch_clear_header",
                "UPDATE batches SET header = NULL WHERE seq = $1 AND header IS NOT NULL",
            );
            tx.execute(statement.bind(batch)).await?;
        }
        if moved {
            tx.commit().await?;
        }
        Ok(moved)
    }

    async fn key_usage(&self) -> StoreResult<Vec<KeyUsage>> {
        let statement = sql(
            "key_list_usage",
            "SELECT key_id, CAST(sum(data_keys) AS BIGINT) AS data_keys, CAST(sum(promises) AS BIGINT) AS promises FROM \
             (SELECT key_id, count(*) AS data_keys, 0 AS promises FROM batch_keys GROUP BY key_id UNION ALL \
              SELECT key_id, 0, count(*) FROM idempotency WHERE key_id <> '' GROUP BY key_id) AS used \
             GROUP BY key_id ORDER BY key_id",
        );
        let usage = |row: &crate::Row| {
            let c = row.of("batch_keys");
            Ok(KeyUsage {
                key_id: c.text("key_id")?,
                data_keys: c.u64("data_keys")?,
                promises: c.u64("promises")?,
            })
        };
        self.db.fetch(statement).await?.iter().map(usage).collect()
    }

    async fn secret(&self, name: &str) -> StoreResult<Option<Vec<u8>>> {
        let statement = sql("secret_get", "SELECT name, sealed FROM secrets WHERE name = $1");
        let row = self.db.fetch_optional(statement.bind(name)).await?;
        row.map(|row| row.of("secrets").bytes("sealed")).transpose()
    }

    async fn set_secret(&self, name: &str, expected: Option<&[u8]>, sealed: &[u8]) -> StoreResult<bool> {
        let statement = match expected {
            None => sql(
                "secret_insert_if_new",
                "INSERT INTO secrets (name, sealed) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            )
            .bind(name)
            .bind(sealed),
            Some(expected) => sql(
                "secret_set_if_unchanged",
                "UPDATE secrets SET sealed = $2 WHERE name = $1 AND sealed = $3",
            )
            .bind(name)
            .bind(sealed)
            .bind(expected),
        };
        Ok(self.db.execute(statement).await? == 1)
    }

    async fn definition_macs(&self) -> StoreResult<Vec<(Uuid, Option<Vec<u8>>)>> {
        let statement = sql("definition_list_macs", "SELECT version, mac FROM definitions ORDER BY version");
        let mac = |row: &crate::Row| {
            let c = row.of("definitions");
            Ok((c.uuid("version")?, c.opt_bytes("mac")?))
        };
        self.db.fetch(statement).await?.iter().map(mac).collect()
    }

    async fn set_definition_mac(
        &self,
        version: Uuid,
        expected: Option<&[u8]>,
        mac: &[u8],
    ) -> StoreResult<bool> {
        let statement = sql(
            "definition_set_mac_if_unchanged",
            "UPDATE definitions SET mac = $1 WHERE version = $2 AND mac IS NOT DISTINCT FROM $3",
        );
        Ok(self.db.execute(statement.bind(mac).bind(version).bind(expected)).await? == 1)
    }
}

/// Replaces a wrapped key by one in an epoch that is there, provided that it is still wrapped as `old`.
pub(crate) async fn replace_key(
    tx: &mut Tx,
    batch: BatchSeq,
    old: &SealedKey,
    new: &SealedKey,
) -> StoreResult<bool> {
    let statement = sql(
        "batch_key_replace_if_unchanged",
        "UPDATE batch_keys SET epoch = $1, key_id = $2, wrapped = $3, header = coalesce(header, $4) \
         WHERE batch = $5 AND wrapped = $6 AND EXISTS (SELECT 1 FROM epochs WHERE id = $1 {share})",
    );
    let statement = statement
        .bind(new.epoch)
        .bind(&new.key_id)
        .bind(&new.wrapped)
        .bind(&new.header)
        .bind(batch)
        .bind(&old.wrapped);
    Ok(tx.execute(statement).await? == 1)
}
