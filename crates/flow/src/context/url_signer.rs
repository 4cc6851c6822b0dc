//! A port: URLs of objects that the object store signs itself.

use std::time::Duration;

/// Signs URLs of objects.
#[async_trait::async_trait]
pub trait UrlSigner: Send + Sync {
    /// A URL to which the object can be PUT (or from which it can be read) until it expires.
    ///
    /// # Errors
    /// When the object store's credentials do not allow it.
    async fn sign(&self, put: bool, key: &str, valid: Duration) -> Result<String, object_store::Error>;
}
