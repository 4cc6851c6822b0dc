//! Why an upload does not become a batch.

use penstock_domain::csv::{Refused, Rejected, RowError, error};
use penstock_domain::ids::BatchId;

use crate::context::error::FlowError;
use crate::intake::unpack::UnpackError;

/// Why an upload did not become a batch.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// A limit was passed.
    #[error("the upload is larger than is allowed")]
    TooLarge(TooLarge),
    /// The file has errors.
    #[error("the file has {}", error::of(.0.error_count, "error"))]
    Rejected(Rejected),
    /// The pipeline's templates need these keys of the `context`, and have no default for them.
    #[error("the context has no {}", .0.join(", "))]
    MissingContext(Vec<String>),
    /// The `Idempotency-Key` was used for something else.
    #[error("this Idempotency-Key was used before with other content")]
    KeyReused,
    /// There is no presigned upload of this id, or not of this owner.
    #[error("there is no upload of this id")]
    NoSuchUpload,
    /// Nothing was PUT to the presigned upload's address yet.
    #[error("nothing was PUT to this upload's address yet")]
    NotUploaded,
    /// The presigned upload has become a batch before.
    #[error("this upload has become a batch before")]
    UploadUsed(Option<BatchId>),
    /// An engine failed.
    #[error(transparent)]
    Flow(#[from] FlowError),
}

impl From<Refused> for UploadError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Errors(rejected) => Self::Rejected(rejected),
            Refused::Limit(error) => Self::TooLarge(TooLarge::csv(error)),
        }
    }
}

impl From<UnpackError> for UploadError {
    fn from(error: UnpackError) -> Self {
        Self::Rejected(error.rejected())
    }
}

/// Which limit was passed.
#[derive(Debug)]
pub enum TooLarge {
    /// The whole body, in bytes.
    Bytes(u64),
    /// A limit on rows, fields or records.
    Csv {
        /// The limit.
        limit: RowError,
        /// The first errors before it.
        earlier: Vec<RowError>,
        /// How many there are.
        earlier_count: u64,
    },
}

impl TooLarge {
    fn csv(limit: RowError) -> Self {
        Self::Csv { limit, earlier: Vec::new(), earlier_count: 0 }
    }
}
