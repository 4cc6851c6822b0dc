//! What can go wrong in a use case, apart from the results that it names.

use penstock_store::StoreError;

/// Why a use case did not get to its end.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The object store.
    #[error("the object store failed: {0}")]
    Objects(#[from] object_store::Error),
    /// Objects have no place: the bucket was not made, or was deleted.
    #[error("the bucket of OBJECT_STORE_URL does not exist: make it, or correct the URL ({0})")]
    NoBucket(Box<dyn std::error::Error + Send + Sync>),
    /// The queue.
    #[error("the queue failed: {0}")]
    Queue(#[from] penstock_queue::QueueError),
    /// A ciphertext cannot be opened: the keyring lacks its key, or it was tampered with.
    #[error("{what} cannot be opened: {source}")]
    Sealed {
        /// What it is.
        what: &'static str,
        /// Why.
        #[source]
        source: penstock_crypto::OpenError,
    },
    /// The data key is gone.
    #[error("the batch was erased; its rows can no longer be read")]
    Erased,
    /// A stored definition does not load: a variable of the environment is missing here, for example.
    #[error(
        "the definition of pipeline `{pipeline}` that this batch was uploaded under cannot be loaded: {reason}"
    )]
    Definition {
        /// The pipeline.
        pipeline: String,
        /// What is wrong.
        reason: String,
    },
    /// Others take all that there is at this moment.
    #[error(transparent)]
    Busy(#[from] crate::context::budget::Exhausted),
    /// Something stored contradicts itself.
    #[error("{0}")]
    Inconsistent(String),
}

impl FlowError {
    /// Whether the same call may succeed later without anybody repairing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store(error) => error.is_transient(),
            Self::Objects(error) => !matches!(error, object_store::Error::NotFound { .. }),
            Self::NoBucket(_) | Self::Queue(_) | Self::Busy(_) => true,
            _ => false,
        }
    }
}

/// An error with what caused it: "error sending request: … : connection refused" rather than its first half alone.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let reason = error.to_string();
        if !text.ends_with(&reason) {
            text = format!("{text}: {reason}");
        }
        cause = error.source();
    }
    text
}
