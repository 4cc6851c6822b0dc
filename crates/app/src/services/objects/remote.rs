//! Object stores of clouds: S3, Google Cloud Storage and Azure Blob Storage, each set up by its clients' usual variables.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::prefix::PrefixStore;
use object_store::signer::Signer;
use object_store::{ObjectStore, RetryConfig};
use penstock_flow::context::object_writer::S3_PART_BYTES;
use penstock_flow::context::unfinished_uploads::UnfinishedUploads;
use url::Url;

use super::Objects;
use super::listing::{Listing, SharedClient};
use crate::StartError;
use crate::variables;

/// Where Google Cloud Storage is, unless `GOOGLE_BASE_URL` names an emulator.
const GOOGLE: &str = "https://storage.googleapis.com";

/// Opens the store that a URL names by its scheme.
pub(super) fn open(url: &Url) -> Result<Objects, StartError> {
    if url.host_str().is_none_or(str::is_empty) {
        return Err(StartError::misuse(format!(
            "OBJECT_STORE_URL: {}:// is followed by the name of a bucket or container.",
            url.scheme()
        )));
    }
    match url.scheme() {
        "gs" => google(url),
        "az" => azure(url),
        _ => s3(url),
    }
}

fn s3(url: &Url) -> Result<Objects, StartError> {
    let mut builder = AmazonS3Builder::from_env();
    for (name, key) in [
        ("AWS_ACCESS_KEY_ID", AmazonS3ConfigKey::AccessKeyId),
        ("AWS_SECRET_ACCESS_KEY", AmazonS3ConfigKey::SecretAccessKey),
        ("AWS_SESSION_TOKEN", AmazonS3ConfigKey::Token),
    ] {
        if let Some(value) = variables::value(name)? {
            builder = builder.with_config(key, value);
        }
    }
    let client = SharedClient::default();
    let builder = builder.with_url(url.as_str()).with_retry(retries()).with_http_connector(client.clone());
    let region = builder.get_config_value(&AmazonS3ConfigKey::Region);
    let store = Arc::new(builder.build().map_err(|error| wrong(&error))?);
    let listing = Listing::of_s3(store.clone(), region, client, prefix(url));
    Ok(remote(store.clone(), Some(store), Some(Arc::new(listing)), url))
}

fn google(url: &Url) -> Result<Objects, StartError> {
    let mut builder = GoogleCloudStorageBuilder::from_env();
    if let Some(key) = variables::value("GOOGLE_SERVICE_ACCOUNT_KEY")? {
        builder = builder.with_config(GoogleConfigKey::ServiceAccountKey, key);
    }
    let client = SharedClient::default();
    let builder = builder.with_url(url.as_str()).with_retry(retries()).with_http_connector(client.clone());
    let base = builder.get_config_value(&GoogleConfigKey::BaseUrl);
    let base = base.unwrap_or_else(|| GOOGLE.to_owned());
    let bucket = format!("{}/{}", base.trim_end_matches('/'), url.host_str().unwrap_or_default());
    let bucket =
        Url::parse(&bucket).map_err(|error| StartError::misuse(format!("GOOGLE_BASE_URL: {error}")))?;
    let store = Arc::new(builder.build().map_err(|error| wrong(&error))?);
    let listing = Listing::of_google(store.clone(), bucket, client, prefix(url));
    Ok(remote(store.clone(), Some(store), Some(Arc::new(listing)), url))
}

/// Clients PUT through the API: an address of Azure's takes only requests with a header of its own (`x-ms-blob-type`). Nor is there
/// anything to list: Azure deletes blocks that no blob was made of after a week.
fn azure(url: &Url) -> Result<Objects, StartError> {
    let mut builder = MicrosoftAzureBuilder::from_env();
    for (name, key) in [
        ("AZURE_STORAGE_ACCOUNT_KEY", AzureConfigKey::AccessKey),
        ("AZURE_STORAGE_SAS_TOKEN", AzureConfigKey::SasKey),
        ("AZURE_CLIENT_SECRET", AzureConfigKey::ClientSecret),
    ] {
        if let Some(value) = variables::value(name)? {
            builder = builder.with_config(key, value);
        }
    }
    if builder.get_config_value(&AzureConfigKey::AccountName).is_none()
        && builder.get_config_value(&AzureConfigKey::UseEmulator).is_none_or(|emulator| emulator != "true")
    {
        return Err(StartError::misuse(
            "OBJECT_STORE_URL names a container of Azure: set AZURE_STORAGE_ACCOUNT_NAME to the storage account.",
        ));
    }
    let store =
        builder.with_url(url.as_str()).with_retry(retries()).build().map_err(|error| wrong(&error))?;
    Ok(remote(Arc::new(store), None, None, url))
}

fn remote(
    store: Arc<dyn ObjectStore>,
    signer: Option<Arc<dyn Signer>>,
    unfinished: Option<Arc<dyn UnfinishedUploads>>,
    url: &Url,
) -> Objects {
    let prefix = prefix(url);
    let store =
        if prefix.is_empty() { store } else { Arc::new(PrefixStore::new(store, prefix.clone())) as _ };
    Objects { store, part_bytes: S3_PART_BYTES, signer, unfinished, prefix }
}

fn prefix(url: &Url) -> String {
    url.path().trim_matches('/').to_owned()
}

fn retries() -> RetryConfig {
    RetryConfig { max_retries: 8, retry_timeout: Duration::from_secs(45), ..RetryConfig::default() }
}

fn wrong(error: &object_store::Error) -> StartError {
    StartError::misuse(format!("OBJECT_STORE_URL: {error}"))
}
