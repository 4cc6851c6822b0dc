//! How far uploads under way are.

use async_trait::async_trait;
use penstock_domain::ids::OwnerSeq;
use penstock_store::StoreResult;
use penstock_store::progress::{PROGRESS_KEPT, Progress, UploadProgress};
use uuid::Uuid;

use crate::{SqlStore, sql};

#[async_trait]
impl UploadProgress for SqlStore {
    async fn report_upload(&self, owner: OwnerSeq, id: Uuid, progress: &Progress) -> StoreResult<()> {
        let mut tx = self.db.write("report_upload").await?;
        let old = sql("upload_progress_delete_old", "DELETE FROM upload_progress WHERE at < $1");
        tx.execute(old.bind(progress.at - PROGRESS_KEPT)).await?;
        let statement = sql(
            "upload_progress_put",
            "INSERT INTO upload_progress (owner, id, at, bytes, rows, errors) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (owner, id) DO UPDATE SET at = excluded.at, bytes = excluded.bytes, rows = excluded.rows, \
             errors = excluded.errors",
        );
        let statement = statement
            .bind(owner)
            .bind(id)
            .bind(progress.at)
            .bind(progress.bytes)
            .bind(progress.rows)
            .bind(progress.errors);
        tx.execute(statement).await?;
        tx.commit().await
    }

    async fn upload_progress(&self, owner: OwnerSeq, id: Uuid) -> StoreResult<Option<Progress>> {
        let statement = sql(
            "upload_progress_get",
            "SELECT at, bytes, rows, errors FROM upload_progress WHERE owner = $1 AND id = $2",
        );
        let row = self.db.fetch_optional(statement.bind(owner).bind(id)).await?;
        let Some(row) = row else { return Ok(None) };
        let c = row.of("upload_progress");
        Ok(Some(Progress {
            at: c.time("at")?,
            bytes: c.u64("bytes")?,
            rows: c.u64("rows")?,
            errors: c.u64("errors")?,
        }))
    }
}
