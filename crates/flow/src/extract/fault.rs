//! Why an extraction stops: the file is at fault, or a service failed.

use penstock_domain::csv::{Rejected, error};
use penstock_domain::time::Timestamp;
use penstock_store::extraction::ExtractionFailure;
use serde_json::json;

use crate::context::error::FlowError;
use crate::context::secrets::{SecretLocation, SecretsOf};
use crate::intake::refused::{RefusedFile, TooLarge, UploadError};

/// Why an extraction stopped.
pub(crate) enum ExtractError {
    /// The file is at fault: another attempt fails the same way.
    File(FileFault),
    /// A service failed: the batch waits at its checkpoint.
    Flow(FlowError),
}

impl<E: Into<FlowError>> From<E> for ExtractError {
    fn from(error: E) -> Self {
        Self::Flow(error.into())
    }
}

impl From<UploadError> for ExtractError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Rejected(refused) => Self::File(FileFault::invalid(refused)),
            UploadError::TooLarge(TooLarge::Csv(refused) | TooLarge::Bytes(refused)) => {
                Self::File(FileFault::too_large(refused))
            }
            UploadError::Flow(error) => Self::Flow(error),
            other => Self::Flow(FlowError::Inconsistent(other.to_string())),
        }
    }
}

/// Why a file cannot be extracted.
#[derive(Debug)]
pub(crate) struct FileFault {
    pub code: &'static str,
    message: String,
    rejected: Rejected,
    /// Until when the list of all errors can be read.
    listed_until: Option<Timestamp>,
}

impl FileFault {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), rejected: Rejected::default(), listed_until: None }
    }

    /// A file that a client stored itself and that has errors: the same list as an upload's 422.
    pub fn invalid(refused: RefusedFile) -> Self {
        let message = format!("the file has {}", error::of(refused.rejected.error_count, "error"));
        Self::of(refused, "invalid_file", message)
    }

    /// The same of one that passed a limit, which is its first error.
    pub fn too_large(refused: RefusedFile) -> Self {
        let message = refused.rejected.errors.first().map(|limit| limit.message.clone()).unwrap_or_default();
        Self::of(refused, "file_too_large", message)
    }

    fn of(refused: RefusedFile, code: &'static str, message: String) -> Self {
        let listed_until = refused.list.map(|list| list.expires_at);
        Self { code, message, rejected: refused.rejected, listed_until }
    }

    /// The code in what a batch keeps of it.
    pub fn code_of(failure: &str) -> Option<String> {
        let failure: serde_json::Value = serde_json::from_str(failure).ok()?;
        failure["code"].as_str().map(str::to_owned)
    }

    /// Whether the file is at fault, whatever the services do: reading it again finds the same.
    pub fn is_the_files_own(code: &str) -> bool {
        matches!(code, "invalid_file" | "file_too_large" | "erased")
    }

    /// What the batch keeps of it: a code and a count in plain text, and what describes the file itself sealed.
    pub fn kept(&self, secrets: Option<&SecretsOf>) -> ExtractionFailure {
        let mut clear = json!({ "code": self.code, "message": sentence(self.code) });
        let mut whole = json!({ "message": self.message });
        if self.rejected.error_count > 0 {
            clear["error_count"] = self.rejected.error_count.into();
            whole["errors"] = json!(self.rejected.errors);
            whole["error_counts"] = json!(self.rejected.counts);
        }
        if let Some(until) = self.listed_until {
            whole["errors_expires_at"] = json!(until);
        }
        let sealed = secrets.map(|secrets| secrets.seal_json(SecretLocation::Failure, &whole));
        ExtractionFailure { clear: clear.to_string(), sealed }
    }
}

/// A sentence for a code that reveals nothing of the file: callbacks carry it, and the database stores it unsealed.
fn sentence(code: &str) -> &'static str {
    match code {
        "invalid_file" => "the file has errors",
        "file_too_large" => "a limit of the pipeline was passed",
        "file_missing" => "the file is not in the object store",
        "file_changed" => "the file is no longer the one that was validated",
        "file_tampered" => "the stored file is not what was sealed: it was cut or changed",
        "erased" => "the batch was erased before its file was extracted",
        _ => "a defect of this service; its operator can have the file read again",
    }
}
