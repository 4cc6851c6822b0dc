//! A file that a client has PUT somewhere becomes a batch; the extractor reads, validates and seals it.

use std::sync::Arc;

use object_store::ObjectStoreExt as _;
use penstock_crypto::DataKey;
use penstock_domain::ids::OwnerSeq;
use penstock_store::StoreError;
use penstock_store::batches::{Batch, Checkpoint, Created, Idempotency, NewBatch, PendingUpload, SealedKey};
use serde_json::Value;
use uuid::Uuid;

use crate::context::error::FlowError;
use crate::context::secrets::{SecretLocation, SecretsOf};
use crate::context::services::Services;
use crate::context::stored_definitions;
use crate::intake::create_batch::{NotMade, create_batch, enqueue_extraction};
use crate::intake::refused::UploadError;
use crate::intake::request::{absorb_fields, check_context};
use crate::intake::sealed_file::upload_key;
use crate::intake::upload::{Accepted, UploadFields, UploadRequest, fingerprinters, replay};

/// Makes the batch of a presigned upload.
///
/// # Errors
/// When there is nothing to take, or it was taken before; when an engine fails.
pub async fn adopt(
    services: &Services,
    request: UploadRequest,
    upload: Uuid,
    fields: UploadFields,
) -> Result<Accepted, UploadError> {
    let asked = Asked { services, request, upload, fields };
    // Before the upload is looked at: the request that is repeated here has used it up.
    if let Some(accepted) = asked.answered_before().await? {
        return Ok(accepted);
    }
    check_context(&asked.request.pipeline, &asked.fields)?;
    let Some(pending) = asked.pending().await? else { return Err(UploadError::NoSuchUpload) };
    if pending.batch.is_some() {
        return asked.used(&pending).await;
    }
    // An upload's file lies at an address of its own, whatever the database says.
    if pending.object_key != upload_key(&asked.request.owner_name, pending.id).as_ref() {
        return Err(
            FlowError::Inconsistent(format!("upload {} has another upload's address", pending.id)).into()
        );
    }
    let Some(bytes) = file_bytes(services, &pending).await? else { return Err(UploadError::NotUploaded) };
    match asked.make(pending, bytes).await {
        Ok(Created::New(batch)) => {
            enqueue_extraction(services, &batch).await;
            Ok(Accepted { batch, replayed: false, ignored_columns: Vec::new() })
        }
        Ok(Created::Existing { batch, idempotency }) => asked.answer(batch, &idempotency).await,
        // Another request took it between the look and the write.
        Err(NotMade { error: FlowError::Store(StoreError::NotFound { .. }), .. }) => {
            match asked.pending().await? {
                Some(pending) => asked.used(&pending).await,
                None => Err(UploadError::NoSuchUpload),
            }
        }
        Err(NotMade { error, .. }) => Err(error.into()),
    }
}

/// How long the file of a presigned upload is that has no batch yet; none when there is no such file.
///
/// # Errors
/// When an engine fails.
pub async fn waiting_bytes(
    services: &Services,
    owner: OwnerSeq,
    upload: Uuid,
) -> Result<Option<u64>, FlowError> {
    let pending = services.store.upload(upload, owner).await?.filter(|pending| pending.batch.is_none());
    let Some(pending) = pending else { return Ok(None) };
    file_bytes(services, &pending).await
}

async fn file_bytes(services: &Services, pending: &PendingUpload) -> Result<Option<u64>, FlowError> {
    match services.objects.head(&pending.object_key.as_str().into()).await {
        Ok(meta) => Ok(Some(meta.size)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

struct Asked<'a> {
    services: &'a Services,
    request: UploadRequest,
    upload: Uuid,
    fields: UploadFields,
}

impl Asked<'_> {
    async fn pending(&self) -> Result<Option<PendingUpload>, FlowError> {
        Ok(self.services.store.upload(self.upload, self.request.owner).await?)
    }

    /// What an earlier request with the same `Idempotency-Key` was answered.
    async fn answered_before(&self) -> Result<Option<Accepted>, UploadError> {
        let Some(key) = &self.request.idempotency_key else { return Ok(None) };
        let earlier =
            self.services.store.idempotent(self.request.owner, key).await.map_err(FlowError::from)?;
        let Some((batch, promise)) = earlier else { return Ok(None) };
        self.answer(batch, &promise).await.map(Some)
    }

    async fn answer(&self, batch: Batch, promise: &Idempotency) -> Result<Accepted, UploadError> {
        replay(batch, promise, &self.prints(Some(promise)).await?)
    }

    /// The same upload under another name is another request.
    async fn prints(&self, earlier: Option<&Idempotency>) -> Result<Vec<(String, [u8; 32])>, FlowError> {
        let all = fingerprinters(self.services, earlier.map(|promise| promise.key_id.as_str())).await?;
        let prints = all
            .into_iter()
            .map(|(key_id, mut fingerprint)| {
                fingerprint.update(b"\0upload\0");
                fingerprint.update(self.upload.as_bytes());
                absorb_fields(&mut fingerprint, &self.request.pipeline, &self.fields);
                (key_id, fingerprint.finish())
            })
            .collect();
        Ok(prints)
    }

    /// The upload has a batch by now: this very request's, when it was sent twice at once, or another's.
    async fn used(&self, pending: &PendingUpload) -> Result<Accepted, UploadError> {
        if let Some(accepted) = self.answered_before().await? {
            return Ok(accepted);
        }
        let seqs: Vec<_> = pending.batch.into_iter().collect();
        let batches = self.services.store.batches_by_seq(&seqs).await.map_err(FlowError::from)?;
        Err(UploadError::UploadUsed(batches.first().map(|batch| batch.id)))
    }

    async fn make(&self, pending: PendingUpload, file_bytes: u64) -> Result<Created, NotMade> {
        let (services, pipeline) = (self.services, &self.request.pipeline);
        let fields = self.fields.clone();
        let now = services.clock.now();
        let id = services.id_generator.batch_id(now);
        let key = DataKey::generate(services.random.as_ref())
            .map_err(|source| FlowError::Sealed { what: "a new data key", source })?;
        let secrets = SecretsOf::new(id, Arc::new(key), Value::Null);
        let promise = match self.request.idempotency_key.clone() {
            Some(key) => self.prints(None).await?.into_iter().next().map(|(key_id, print)| Idempotency {
                key,
                key_id,
                fingerprint: print.to_vec(),
            }),
            None => None,
        };
        stored_definitions::save(services, pipeline, now).await?;
        let batch = NewBatch {
            id,
            owner: self.request.owner,
            actor: self.request.actor.clone(),
            pipeline: pipeline.name.clone(),
            version: pipeline.version,
            name: fields.name,
            labels: fields.labels,
            object_key: pending.object_key,
            file_bytes,
            unsealed: true,
            rows: None,
            allow_failures: fields.allow_failures.unwrap_or(true),
            canary: fields.canary.or(pipeline.canary),
            callback_url: fields.callback_url,
            priority: fields.priority.unwrap_or(0),
            checkpoint: Checkpoint::default(),
            key: SealedKey {
                context: fields.context.map(|context| secrets.seal_json(SecretLocation::Context, &context)),
                ..SealedKey::default()
            },
            idempotency: promise,
            upload: Some(pending.id),
            created_at: now,
        };
        create_batch(services, &self.request.owner_name, &pipeline.source, &secrets, batch).await
    }
}
