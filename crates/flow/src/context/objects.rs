//! Objects that nobody needs.

use object_store::ObjectStoreExt as _;

use crate::context::services::Services;

/// Deletes a file that nobody needs; false when it may still be there.
pub(crate) async fn delete(services: &Services, path: &object_store::path::Path) -> bool {
    match services.objects.delete(path).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => true,
        Err(error) => {
            tracing::warn!(%error, %path, "a file that nobody needs could not be deleted; reconcile finds it");
            false
        }
    }
}
