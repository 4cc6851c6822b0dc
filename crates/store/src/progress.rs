//! How far uploads under way are.

use std::time::Duration;

use async_trait::async_trait;
use penstock_domain::ids::OwnerSeq;
use penstock_domain::time::Timestamp;
use uuid::Uuid;

use crate::StoreResult;

/// How long it is known how far an upload was that nobody has reported since.
pub const PROGRESS_KEPT: Duration = Duration::from_secs(600);

/// How far an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// When that was.
    pub at: Timestamp,
    /// Bytes that came, unpacked.
    pub bytes: u64,
    /// Rows that were checked.
    pub rows: u64,
    /// Errors that were found.
    pub errors: u64,
}

/// How far uploads are.
#[async_trait]
pub trait UploadProgress: Send + Sync {
    /// Keeps how far an upload of that owner is, under an id that its client chose, and drops what is older than [`PROGRESS_KEPT`].
    async fn report_upload(&self, owner: OwnerSeq, id: Uuid, progress: &Progress) -> StoreResult<()>;
    /// How far it was when that was kept last.
    async fn upload_progress(&self, owner: OwnerSeq, id: Uuid) -> StoreResult<Option<Progress>>;
}
