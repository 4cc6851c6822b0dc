//! `penstock reconcile --adopt`: batches whose uploads were accepted after the time to which the database was restored are made
//! again, from the manifests beside their files.

use std::sync::Arc;

use object_store::path::Path;
use penstock_crypto::DataKey;
use penstock_domain::effect::{self, Effect};
use penstock_domain::ids::BatchId;
use penstock_store::batches::{Batch, Created, SealedKey};
use penstock_store::operations::AuditEntry;
use serde::Serialize;
use serde_json::Value;

use crate::context::error::FlowError;
use crate::context::secrets::SecretsOf;
use crate::context::services::Services;
use crate::context::stored_definitions;
use crate::intake::create_batch::{create_batch, enqueue_extraction};
use crate::intake::manifest::{self, Manifest};
use crate::operate::reconcile::{Permission, Plan, ReconcilePolicy};

/// What became of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Adoption {
    /// Its batch runs.
    Runs,
    /// Its batch is paused: calls of it that were made after the backup may have had effects that another call repeats.
    Paused,
    /// Its `Idempotency-Key` has another batch by now: the client has sent it again.
    SentAgain,
    /// The batch is there, or the file is gone, since somebody looked.
    Overtaken,
}

/// An upload whose batch was to be made again.
#[derive(Clone, Debug, Serialize)]
pub struct Adopted {
    /// The batch.
    pub batch: BatchId,
    /// Whose.
    pub owner: String,
    /// Of which pipeline.
    pub pipeline: String,
    /// What became of it.
    pub adoption: Adoption,
}

/// Makes the batches of accepted uploads that the database does not know.
///
/// # Errors
/// When a service fails; what was made stays.
pub async fn adopt(
    services: &Services,
    policy: &ReconcilePolicy,
    plan: &Plan,
    actor: &str,
    _permission: &Permission,
) -> Result<Vec<Adopted>, FlowError> {
    let mut all = Vec::new();
    for file in &plan.files.accepted {
        let read = manifest::read(services, &Path::from(file.object.as_str())).await?;
        let adoption = match read {
            Some((manifest, key)) if services.store.batch(file.batch, None).await?.is_none() => {
                make(services, policy, manifest, key, actor).await?
            }
            _ => Adoption::Overtaken,
        };
        let (owner, pipeline) = (file.owner.clone(), file.pipeline.clone());
        all.push(Adopted { batch: file.batch, owner, pipeline, adoption });
    }
    Ok(all)
}

async fn make(
    services: &Services,
    policy: &ReconcilePolicy,
    manifest: Manifest,
    key: DataKey,
    actor: &str,
) -> Result<Adoption, FlowError> {
    let now = services.clock.now();
    let Manifest { owner, definition, mut batch } = manifest;
    batch.owner = services.store.ensure_owner(&owner, now).await?.seq;
    batch.key = SealedKey { context: batch.key.context, header: batch.key.header, ..SealedKey::default() };
    if let Some(upload) = batch.upload {
        // Asked for after the backup: the database does not know it.
        let pending = services.store.upload(upload, batch.owner).await?;
        batch.upload = pending.filter(|pending| pending.batch.is_none()).map(|pending| pending.id);
    }
    stored_definitions::save_text(services, batch.version, &batch.pipeline, &definition, now).await?;
    let secrets = SecretsOf::new(batch.id, Arc::new(key), Value::Null);
    let made = match create_batch(services, &owner, &definition, &secrets, batch).await {
        Ok(Created::New(made)) => made,
        Ok(Created::Existing { .. }) => return Ok(Adoption::SentAgain),
        Err(not_made) => return Err(not_made.error),
    };
    let paused = !may_be_repeated(services, &made).await;
    if paused {
        services.store.pause(made.seq, actor, now).await?;
    }
    record(services, &made, actor).await;
    if policy.messages_reach_workers {
        enqueue_extraction(services, &made).await;
    }
    Ok(if paused { Adoption::Paused } else { Adoption::Runs })
}

/// Whether all calls of its rows may be made again. A definition that does not load here may have others.
async fn may_be_repeated(services: &Services, batch: &Batch) -> bool {
    match services.definition_of(batch).await {
        Ok(pipeline) => effect::of_all(&pipeline.steps) < Effect::Unkeyed,
        Err(error) => {
            tracing::warn!(%error, batch = %batch.id, "a batch whose definition does not load is adopted paused");
            false
        }
    }
}

async fn record(services: &Services, batch: &Batch, actor: &str) {
    let entry = AuditEntry {
        id: 0,
        at: services.clock.now(),
        actor: actor.to_owned(),
        action: "reconcile.adopt".into(),
        batch: Some(batch.id),
        detail: None,
    };
    // What was done is done.
    if let Err(error) = services.store.audit(&entry).await {
        tracing::warn!(%error, action = entry.action, "not written to the audit log");
    }
}
