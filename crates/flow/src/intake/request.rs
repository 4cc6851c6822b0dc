//! What an upload asks for, and what becomes of it.

use std::sync::Arc;

use penstock_crypto::Fingerprinter;
use penstock_domain::ids::OwnerSeq;
use penstock_domain::ledger::Canary;
use penstock_domain::pipeline::Pipeline;
use penstock_store::batches::Batch;
use serde_json::Value;

use crate::intake::refused::UploadError;

/// Who uploads, and to what.
#[derive(Clone)]
pub struct UploadRequest {
    /// The owner.
    pub owner: OwnerSeq,
    /// Its name, for the object's key.
    pub owner_name: String,
    /// Who of it uploads, for the audit log.
    pub actor: String,
    /// The pipeline.
    pub pipeline: Arc<Pipeline>,
    /// The `Idempotency-Key` header.
    pub idempotency_key: Option<String>,
    /// Which form was sent. The same file in the same form makes one batch, however often it is sent; another file makes another.
    pub form: Option<String>,
}

impl UploadRequest {
    /// Whether it may have been sent before.
    pub(crate) fn may_be_repeated(&self) -> bool {
        self.idempotency_key.is_some() || self.form.is_some()
    }

    /// What tells it from other requests: the client's key, or the form together with what came in it.
    pub(crate) fn take_key(&mut self, print: &[u8; 32]) -> Option<String> {
        let of_form = |form: &String| {
            let print: String = print.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("form:{form}:{print}")
        };
        self.idempotency_key.take().or_else(|| self.form.as_ref().map(of_form))
    }
}

/// What comes beside the file.
#[derive(Clone, Debug, Default)]
pub struct UploadFields {
    /// What the client calls the batch.
    pub name: Option<String>,
    /// What the client marks the batch with.
    pub labels: Vec<String>,
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

/// Whether the context has what every row needs: without it each of them would fail.
pub(crate) fn check_context(pipeline: &Pipeline, fields: &UploadFields) -> Result<(), UploadError> {
    let given = fields.context.as_ref().and_then(Value::as_object);
    let lacks = |key: &&String| !given.is_some_and(|given| given.contains_key(key.as_str()));
    let missing: Vec<String> = pipeline.context_keys().iter().filter(lacks).cloned().collect();
    if missing.is_empty() { Ok(()) } else { Err(UploadError::MissingContext(missing)) }
}

/// The same file under another name is another request.
pub(crate) fn absorb_fields(fingerprint: &mut Fingerprinter, pipeline: &Pipeline, fields: &UploadFields) {
    let mut rest = serde_json::json!([
        pipeline.name,
        fields.name,
        fields.context,
        fields.allow_failures.unwrap_or(true),
        fields.callback_url,
        fields.priority.unwrap_or(0),
        fields.canary,
    ]);
    // A request that was made before there were labels keeps its fingerprint.
    if let (Some(rest), false) = (rest.as_array_mut(), fields.labels.is_empty()) {
        rest.push(serde_json::json!(fields.labels));
    }
    fingerprint.update(b"\0fields\0");
    fingerprint.update(rest.to_string().as_bytes());
}
