//! URLs of objects, signed by the object store where it can.

use std::sync::Arc;
#[cfg(feature = "cluster")]
use std::time::Duration;

use penstock_flow::context::url_signer::UrlSigner;

use crate::Chosen;

#[cfg(feature = "cluster")]
struct StoreSigner {
    store: Arc<dyn object_store::signer::Signer>,
    prefix: String,
}

#[cfg(feature = "cluster")]
#[async_trait::async_trait]
impl UrlSigner for StoreSigner {
    async fn sign(&self, put: bool, key: &str, valid: Duration) -> Result<String, object_store::Error> {
        let path = object_store::path::Path::from(format!("{}/{key}", self.prefix));
        let method = if put { http::Method::PUT } else { http::Method::GET };
        Ok(self.store.signed_url(method, &path, valid).await?.to_string())
    }
}

impl Chosen {
    /// Makes URLs to which a client can PUT a file; none when the object store has none.
    pub fn signer(&self) -> Option<Arc<dyn UrlSigner>> {
        #[cfg(feature = "cluster")]
        {
            self.signer.clone().map(|store| {
                Arc::new(StoreSigner { store, prefix: self.object_prefix.clone() }) as Arc<dyn UrlSigner>
            })
        }
        #[cfg(not(feature = "cluster"))]
        None
    }
}
