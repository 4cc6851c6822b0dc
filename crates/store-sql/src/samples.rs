//! How fast batches go.

use async_trait::async_trait;
use penstock_domain::ids::BatchSeq;
use penstock_domain::time::Timestamp;
use penstock_store::StoreResult;
use penstock_store::samples::{SAMPLE_EVERY, SAMPLED, SAMPLES_KEPT, Sample, Samples};

use crate::{Row, SqlStore, sql};

/// Which period of [`SAMPLE_EVERY`] a time is in.
fn slot(at: Timestamp) -> i64 {
    let period = i64::try_from(SAMPLE_EVERY.as_millis()).unwrap_or(i64::MAX);
    at.millis().div_euclid(period)
}

#[async_trait]
impl Samples for SqlStore {
    async fn sample_batches(&self, now: Timestamp) -> StoreResult<()> {
        let mut tx = self.db.write("sample_batches").await?;
        let old = sql("batch_sample_delete_old", "DELETE FROM batch_samples WHERE slot < $1");
        tx.execute(old.bind(slot(now - SAMPLES_KEPT))).await?;
        let statement = sql(
            "batch_sample_insert_running",
            "INSERT INTO batch_samples (batch, slot, at, completed, failed) \
             SELECT seq, $1, $2, completed, failed FROM (SELECT seq, completed, failed FROM batches \
             WHERE status = {batch queued} ORDER BY served_at DESC LIMIT $3) AS latest \
             WHERE TRUE ORDER BY seq ON CONFLICT DO NOTHING",
        );
        tx.execute(statement.bind(slot(now)).bind(now).bind(SAMPLED)).await?;
        tx.commit().await
    }

    async fn samples(&self, batch: BatchSeq) -> StoreResult<Vec<Sample>> {
        let statement = sql(
            "batch_sample_list",
            "SELECT batch, at, completed, failed FROM batch_samples WHERE batch = $1 ORDER BY slot",
        );
        let sample = |row: &Row| {
            let c = row.of("batch_samples");
            Ok(Sample { at: c.time("at")?, completed: c.u32("completed")?, failed: c.u32("failed")? })
        };
        self.db.fetch(statement.bind(batch)).await?.iter().map(sample).collect()
    }
}
