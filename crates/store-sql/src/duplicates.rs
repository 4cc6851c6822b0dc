//! What was completed by key.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use penstock_domain::ids::{BatchId, RowRef};
use penstock_domain::time::Timestamp;
use penstock_store::StoreResult;
use penstock_store::duplicates::{CompletedBy, CompletedKey, Duplicates, KeyHash, WantedKey};
use penstock_store::work::{Settled, Settlement};

use crate::{Group, SqlStore, Tx, sql};

#[async_trait]
impl Duplicates for SqlStore {
    async fn completed_by_others(&self, wanted: &[WantedKey]) -> StoreResult<Vec<Option<CompletedBy>>> {
        let statement = sql(
            "completed_key_list_of_others",
            "WITH j(wanted_key, row_batch, since) AS ({rows}) SELECT k.key, j.row_batch AS batch, b.id, k.number, k.completed_at \
             FROM j JOIN completed_keys k ON k.key = j.wanted_key JOIN batches b ON b.seq = k.batch \
             WHERE k.batch <> j.row_batch AND k.completed_at >= j.since",
        );
        let group = Group::new()
            .column(wanted.iter().map(|one| one.key.as_slice()))
            .column(wanted.iter().map(|one| one.batch))
            .column(wanted.iter().map(|one| one.since));
        let mut found = HashMap::new();
        for row in &self.db.fetch(statement.rows(group)).await? {
            let c = row.of("completed_keys");
            let by = CompletedBy {
                batch: BatchId(c.uuid("id")?),
                number: c.u32("number")?,
                completed_at: c.time("completed_at")?,
            };
            found.insert((c.bytes("key")?, c.i64("batch")?), by);
        }
        Ok(wanted.iter().map(|one| found.get(&(one.key.to_vec(), one.batch.0)).copied()).collect())
    }

    async fn forget_key(&self, key: &KeyHash) -> StoreResult<bool> {
        let statement = sql("completed_key_delete", "DELETE FROM completed_keys WHERE key = $1");
        Ok(self.db.execute(statement.bind(key.as_slice())).await? > 0)
    }

    async fn drop_expired_keys(&self, now: Timestamp, limit: u32) -> StoreResult<u64> {
        let statement = sql(
            "completed_key_delete_if_expired",
            "DELETE FROM completed_keys WHERE key IN \
             (SELECT key FROM completed_keys WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)",
        );
        self.db.execute(statement.bind(now).bind(limit)).await
    }
}

/// Records the keys of rows that complete. The batches are locked by whoever calls; one that was erased leaves no key.
pub(crate) async fn record(tx: &mut Tx, settled: &[&Settlement], now: Timestamp) -> StoreResult<()> {
    // In the order of their keys, so that two transactions do not wait for each other; a key that is completed twice is the last one's.
    let mut keys: BTreeMap<KeyHash, (RowRef, CompletedKey)> = BTreeMap::new();
    for one in settled {
        if let Settled::Completed { key: Some(key), .. } = &one.outcome {
            keys.insert(key.key, (one.row, **key));
        }
    }
    if keys.is_empty() {
        return Ok(());
    }
    let statement = sql(
        "completed_key_put_if_not_erased",
        "WITH j(key, row_batch, number, completed_at, expires_at) AS ({rows}) \
         INSERT INTO completed_keys (key, batch, number, completed_at, expires_at) \
         SELECT j.key, j.row_batch, j.number, j.completed_at, j.expires_at FROM j JOIN batches b ON b.seq = j.row_batch \
         WHERE b.erased_at IS NULL ORDER BY j.key ON CONFLICT (key) DO UPDATE SET batch = excluded.batch, number = excluded.number, \
         completed_at = excluded.completed_at, expires_at = excluded.expires_at",
    );
    let group = Group::new()
        .column(keys.keys().map(KeyHash::as_slice))
        .column(keys.values().map(|(row, _)| row.batch))
        .column(keys.values().map(|(row, _)| row.number))
        .column(keys.values().map(|_| now))
        .column(keys.values().map(|(_, key)| key.expires_at));
    tx.execute(statement.rows(group)).await.map(|_| ())
}
