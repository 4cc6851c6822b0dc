//! Uploads in parts that have no end yet, as S3 and Google Cloud Storage list them (`GET /BUCKET?uploads`). The client of the
//! object store has no such listing: its credentials, its address of the bucket and its connections are used for one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Method;
use http::header::{AUTHORIZATION, HeaderValue};
use object_store::aws::{AmazonS3, AwsAuthorizer};
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector,
};
use object_store::gcp::GoogleCloudStorage;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{Error, Result};
use penstock_domain::time::Timestamp;
use penstock_flow::context::unfinished_uploads::{UnfinishedUpload, UnfinishedUploads};
use serde::Deserialize;
use url::Url;

/// The key of an object whose address shows that of its bucket.
const ANY_KEY: &str = "key";

/// The region of a client that was given none.
const USUAL_REGION: &str = "us-east-1";

/// The connections of the object store's client. The last that a client makes are those to its bucket.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedClient(Arc<Mutex<Option<HttpClient>>>);

impl HttpConnector for SharedClient {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }
}

/// Whose store it is.
enum Store {
    S3 { store: Arc<AmazonS3>, region: String },
    Google { store: Arc<GoogleCloudStorage>, bucket: Url },
}

/// Lists them under a prefix.
pub(super) struct Listing {
    store: Store,
    client: SharedClient,
    prefix: String,
}

/// A page of the answer.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    next_key_marker: String,
    #[serde(default)]
    next_upload_id_marker: String,
    #[serde(default)]
    upload: Vec<Upload>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Upload {
    key: String,
    upload_id: String,
    initiated: Timestamp,
}

impl Listing {
    pub(super) fn of_s3(
        store: Arc<AmazonS3>,
        region: Option<String>,
        client: SharedClient,
        prefix: String,
    ) -> Self {
        let region = region.unwrap_or_else(|| USUAL_REGION.to_owned());
        Self { store: Store::S3 { store, region }, client, prefix }
    }

    pub(super) fn of_google(
        store: Arc<GoogleCloudStorage>,
        bucket: Url,
        client: SharedClient,
        prefix: String,
    ) -> Self {
        Self { store: Store::Google { store, bucket }, client, prefix }
    }

    /// The address of the bucket. That of S3 depends on its style, its region and more: it is what the address of an object has
    /// before the object's key.
    async fn bucket(&self) -> Result<Url> {
        match &self.store {
            Store::S3 { store, .. } => {
                let object = Path::from(ANY_KEY);
                let mut url = store.signed_url(Method::GET, &object, Duration::from_secs(60)).await?;
                let path = url.path().trim_end_matches(ANY_KEY).to_owned();
                url.set_path(if path == "/" { "/" } else { path.trim_end_matches('/') });
                url.set_query(None);
                Ok(url)
            }
            Store::Google { bucket, .. } => Ok(bucket.clone()),
        }
    }

    /// What the object's key begins with in the bucket.
    fn in_bucket(&self) -> String {
        if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) }
    }

    async fn page(&self, key_marker: &str, id_marker: &str) -> Result<Page> {
        let mut url = self.bucket().await?;
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("uploads", "").append_pair("prefix", &format!("{}owners/", self.in_bucket()));
            if !key_marker.is_empty() {
                query.append_pair("key-marker", key_marker).append_pair("upload-id-marker", id_marker);
            }
        }
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() = url.as_str().parse().map_err(failed)?;
        self.authorize(&mut request).await?;
        let client = self.client.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let client = client.ok_or_else(|| failed("there is no client"))?;
        let answer = client.execute(request).await.map_err(failed)?;
        let status = answer.status();
        let bytes = answer.into_body().bytes().await.map_err(failed)?;
        let text = String::from_utf8_lossy(&bytes);
        if !status.is_success() {
            let what: String = text.chars().take(300).collect();
            return Err(failed(format!("its unfinished uploads are not listed: {status} {what}")));
        }
        quick_xml::de::from_str(&text).map_err(failed)
    }

    async fn authorize(&self, request: &mut HttpRequest) -> Result<()> {
        match &self.store {
            Store::S3 { store, region } => {
                let credential = store.credentials().get_credential().await?;
                AwsAuthorizer::new(&credential, "s3", region).try_authorize(request, None)?;
            }
            Store::Google { store, .. } => {
                let credential = store.credentials().get_credential().await?;
                // An emulator's account has none.
                if credential.bearer.is_empty() {
                    return Ok(());
                }
                let mut bearer =
                    HeaderValue::from_str(&format!("Bearer {}", credential.bearer)).map_err(failed)?;
                bearer.set_sensitive(true);
                request.headers_mut().insert(AUTHORIZATION, bearer);
            }
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl UnfinishedUploads for Listing {
    async fn list(&self) -> Result<Vec<UnfinishedUpload>> {
        let (mut found, mut key, mut id) = (Vec::new(), String::new(), String::new());
        loop {
            let page = self.page(&key, &id).await?;
            for upload in page.upload {
                if let Some(object) = upload.key.strip_prefix(&self.in_bucket()) {
                    found.push(UnfinishedUpload {
                        object: object.to_owned(),
                        id: upload.upload_id,
                        started_at: upload.initiated,
                    });
                }
            }
            // A store that names no next page has none, whatever else it states.
            let ended = !page.is_truncated
                || page.next_key_marker.is_empty()
                || (&page.next_key_marker, &page.next_upload_id_marker) == (&key, &id);
            if ended {
                return Ok(found);
            }
            (key, id) = (page.next_key_marker, page.next_upload_id_marker);
        }
    }

    async fn abort(&self, upload: &UnfinishedUpload) -> Result<()> {
        let path = Path::parse(format!("{}{}", self.in_bucket(), upload.object))?;
        match &self.store {
            Store::S3 { store, .. } => store.abort_multipart(&path, &upload.id).await,
            Store::Google { store, .. } => store.abort_multipart(&path, &upload.id).await,
        }
    }
}

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: "object store", source: error.into() }
}
