//! What an upload asks for, and what becomes of it.

use std::sync::Arc;

use penstock_domain::ids::OwnerSeq;
use penstock_domain::ledger::Canary;
use penstock_domain::pipeline::Pipeline;
use penstock_store::batches::Batch;
use serde_json::Value;

/// Who uploads, and to what.
#[derive(Clone)]
pub struct UploadRequest {
    /// The owner.
    pub owner: OwnerSeq,
    /// Its name, for the object's key.
    pub owner_name: String,
    /// The pipeline.
    pub pipeline: Arc<Pipeline>,
    /// The `Idempotency-Key` header.
    pub idempotency_key: Option<String>,
}

/// What comes beside the file.
#[derive(Clone, Debug, Default)]
pub struct UploadFields {
    /// What the client calls the batch.
    pub name: Option<String>,
    /// Values for the templates, a JSON object.
    pub context: Option<Value>,
    /// Whether rows go on after one has failed; true unless said.
    pub allow_failures: Option<bool>,
    /// Where callbacks go.
    pub callback_url: Option<String>,
    /// Its place among the owner's batches; 0 unless said.
    pub priority: Option<i16>,
    /// The trial, if not the pipeline's own.
    pub canary: Option<Canary>,
}

/// What became of an upload.
#[derive(Debug)]
pub struct Accepted {
    /// The batch.
    pub batch: Batch,
    /// Whether an earlier request with the same `Idempotency-Key` had made it.
    pub replayed: bool,
    /// Columns of the file that were ignored, at most 100 of them; of a presigned upload they are not known yet.
    pub ignored_columns: Vec<String>,
}
