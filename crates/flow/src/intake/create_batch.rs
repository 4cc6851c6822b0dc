//! A batch is made: its data key is wrapped, its record is written once, also when the database's answer is lost, and then the
//! manifest beside its file.

use std::time::Duration;

use penstock_crypto::Binding;
use penstock_queue::Message;
use penstock_store::StoreError;
use penstock_store::batches::{Batch, Created, NewBatch};

use crate::context::epochs;
use crate::context::error::FlowError;
use crate::context::secrets::SecretsOf;
use crate::context::services::Services;
use crate::intake::manifest::Manifest;

/// A database whose answer to making a batch was lost is asked for it this long.
const LOOK_WITHIN: Duration = Duration::from_secs(6);

/// The pause between two questions.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Times that a new batch's key is wrapped anew because its epoch was dropped: once is rare enough.
const TRIES: u32 = 3;

/// Why there is no batch, as far as is known.
pub(crate) struct NotMade {
    /// The error.
    pub error: FlowError,
    /// Whether there is none; otherwise the database may have committed it, and its answer was lost.
    pub certainly: bool,
}

impl<E: Into<FlowError>> From<E> for NotMade {
    fn from(error: E) -> Self {
        Self { error: error.into(), certainly: true }
    }
}

/// Makes a batch. When the database's answer is lost, it is asked whether the batch is there.
async fn insert(services: &Services, batch: &NewBatch) -> Result<Created, NotMade> {
    let error = match services.store.create_batch(batch).await {
        Err(error) if error.is_transient() => error,
        made => return Ok(made?),
    };
    let look = async {
        loop {
            match services.store.batch(batch.id, Some(batch.owner)).await {
                Err(error) if error.is_transient() => tokio::time::sleep(LOOK_AGAIN).await,
                found => return found,
            }
        }
    };
    match tokio::time::timeout(LOOK_WITHIN, look).await {
        Ok(Ok(Some(made))) => {
            tracing::warn!(%error, batch = %made.id, "the answer to making a batch was lost; it was made");
            Ok(Created::New(made))
        }
        Ok(Ok(None)) => Err(error.into()),
        Ok(Err(_)) | Err(_) => Err(NotMade { error: error.into(), certainly: false }),
    }
}

/// Stores a new batch, with its data key wrapped in the newest epoch. `definition` is the text that it was uploaded under.
///
/// # Errors
/// When the database fails, or the keyring lacks the epoch's key.
pub(crate) async fn create_batch(
    services: &Services,
    owner: &str,
    definition: &str,
    secrets: &SecretsOf,
    mut batch: NewBatch,
) -> Result<Created, NotMade> {
    let pipeline = batch.pipeline.clone();
    let binding = Binding { batch: batch.id.0, owner, pipeline: &pipeline, version: batch.version };
    let mut tries = 0;
    loop {
        let (epoch, key) = epochs::newest(services).await?;
        epochs::wrap(services, &epoch, &key, binding, secrets.key(), &mut batch.key)?;
        tries += 1;
        match insert(services, &batch).await {
            Err(NotMade { error: FlowError::Store(StoreError::EpochDropped), .. }) if tries < TRIES => {}
            Ok(Created::New(made)) => {
                // The batch is there, whatever becomes of this.
                if let Err(error) =
                    Manifest::new(owner, definition, &batch).write(services, secrets.key()).await
                {
                    tracing::error!(%error, batch = %made.id, "failed to write the manifest of a batch: a restore of the database to before it would lose it");
                }
                return Ok(Created::New(made));
            }
            made => return made,
        }
    }
}

/// A queue that accepts no message is no error: the dispatcher's sweep finds the batch.
pub(crate) async fn enqueue_extraction(services: &Services, batch: &Batch) {
    if let Err(error) = services.queue.enqueue(vec![Message::Extract { batch: batch.seq }]).await {
        tracing::warn!(%error, batch = %batch.id, "failed to enqueue the extraction; the next dispatcher run enqueues it");
    }
}
