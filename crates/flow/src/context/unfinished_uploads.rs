//! A port: uploads in parts that were begun in the object store and neither completed nor aborted. A process that is killed
//! leaves them, no listing of objects shows them, and they are paid for.

use penstock_domain::time::Timestamp;
use serde::Serialize;

/// An upload in parts that has no end yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnfinishedUpload {
    /// The object that it would become.
    pub object: String,
    /// The object store's id of it.
    pub id: String,
    /// When it began.
    pub started_at: Timestamp,
}

/// Lists and aborts unfinished uploads.
#[async_trait::async_trait]
pub trait UnfinishedUploads: Send + Sync {
    /// All of them under Penstock's part of the object store.
    ///
    /// # Errors
    /// When the object store fails, does not allow it, or has no such listing.
    async fn list(&self) -> Result<Vec<UnfinishedUpload>, object_store::Error>;

    /// Takes back the parts of one.
    ///
    /// # Errors
    /// When the object store fails or does not allow it. [`object_store::Error::NotFound`]: it has ended meanwhile.
    async fn abort(&self, upload: &UnfinishedUpload) -> Result<(), object_store::Error>;
}
