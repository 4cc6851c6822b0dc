//! Why an extraction stops: the file is at fault, or a service failed.

use penstock_domain::csv::{RowError as FileError, error};
use penstock_store::extraction::ExtractionFailure;
use serde_json::json;

use crate::context::error::FlowError;
use crate::context::secrets::{SecretLocation, SecretsOf};

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

/// Why a file cannot be extracted.
#[derive(Debug)]
pub(crate) struct FileFault {
    pub code: &'static str,
    message: String,
    errors: Vec<FileError>,
    error_count: u64,
}

impl FileFault {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), errors: Vec::new(), error_count: 0 }
    }

    /// A file that a client stored itself and that has errors: the same list as an upload's 422.
    pub fn invalid(errors: Vec<FileError>, error_count: u64) -> Self {
        Self {
            code: "invalid_file",
            message: format!("the file has {}", error::of(error_count, "error")),
            errors,
            error_count,
        }
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
        if self.error_count > 0 {
            clear["error_count"] = self.error_count.into();
            whole["errors"] = json!(self.errors);
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
