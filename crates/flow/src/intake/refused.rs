//! Why an upload does not become a batch.

use penstock_domain::csv::{Rejected, error};
use penstock_domain::ids::BatchId;

use crate::context::error::FlowError;
use crate::intake::error_file::ErrorFile;

/// Why an upload did not become a batch.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// A limit was passed.
    #[error("the upload is larger than is allowed")]
    TooLarge(TooLarge),
    /// The file has errors.
    #[error("the file has {}", error::of(.0.rejected.error_count, "error"))]
    Rejected(RefusedFile),
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

/// A file that is not taken.
#[derive(Debug)]
pub struct RefusedFile {
    /// Its errors.
    pub rejected: Rejected,
    /// All of them with their lines; none where the list could not be stored.
    pub list: Option<ErrorFile>,
}

/// Which limit was passed.
#[derive(Debug)]
pub enum TooLarge {
    /// The file's bytes, which is the first of these errors.
    Bytes(RefusedFile),
    /// A limit on rows, fields or records: the first of these errors.
    Csv(RefusedFile),
}
