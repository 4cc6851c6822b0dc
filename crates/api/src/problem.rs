//! Refusals, as RFC 9457 asks for them.

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use penstock_domain::csv::{ErrorCount, Rejected, RowError};
use penstock_domain::ids::BatchId;
use penstock_domain::ledger::Refusal;
use penstock_domain::time::Timestamp;
use penstock_flow::FlowError;
use penstock_flow::intake::error_file::ErrorFile;
use penstock_store::StoreError;
use serde::Serialize;
use utoipa::ToSchema;

/// Seconds after which somebody who was refused for now tries again.
pub const RETRY_AFTER: u32 = 2;

/// One error of a file, for the document: the domain knows of none.
#[allow(dead_code, reason = "it describes `RowError`")]
#[derive(ToSchema)]
pub struct FileError {
    /// The physical line where the record starts, from 1.
    line: u64,
    /// The column, when it is known.
    column: Option<String>,
    /// Which rule is broken, for programs.
    code: String,
    /// A sentence that says how to fix it.
    message: String,
}

/// How many errors of a file are of one kind, for the document.
#[allow(dead_code, reason = "it describes `ErrorCount`")]
#[derive(ToSchema)]
pub struct FileErrorCount {
    /// The column; none: they are in no column.
    column: Option<String>,
    /// Which rule is broken.
    code: String,
    /// How many.
    count: u64,
}

/// `application/problem+json`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// A URI that names the kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// This problem in a sentence, with a hint where there is one.
    pub detail: String,
    /// The kind, for programs.
    pub code: String,
    /// The first errors of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<FileError>>)]
    pub errors: Option<Vec<RowError>>,
    /// How many errors the file has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_count: Option<u64>,
    /// The same by column and code, most frequent first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<FileErrorCount>>)]
    pub error_counts: Option<Vec<ErrorCount>>,
    /// The refused upload: `GET /v2/uploads/{upload_id}/errors.csv` gives all errors of its file to its owner's keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Uuid)]
    pub upload_id: Option<BatchId>,
    /// The same for whoever has this link, up to 100,000 errors with their lines; no `Authorization` is needed there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors_url: Option<String>,
    /// Until when they can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub errors_expires_at: Option<Timestamp>,
    /// Seconds for `Retry-After`; statuses that ask for one have one without it.
    #[serde(skip)]
    pub retry_after: Option<u32>,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.title, self.status)
    }
}

impl std::error::Error for Problem {}

impl Problem {
    /// A problem of a kind.
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:penstock:problem:{code}"),
            title: status.canonical_reason().unwrap_or("Problem").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            code: code.to_owned(),
            errors: None,
            error_count: None,
            error_counts: None,
            upload_id: None,
            errors_url: None,
            errors_expires_at: None,
            retry_after: None,
        }
    }

    /// The request is not what the contract asks for.
    pub fn bad_request(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// The key may not do this.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// There is no such thing, or not for this owner.
    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {what} here"))
    }

    /// What was sent cannot be taken.
    pub fn unprocessable(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }

    /// Something is wrong here, and was logged.
    pub fn internal() -> Self {
        let detail = "something went wrong here; it was logged";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    /// With the seconds after which the client tries again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// With a file's errors.
    #[must_use]
    pub fn with_errors(mut self, rejected: Rejected) -> Self {
        self.errors = Some(rejected.errors);
        self.error_count = Some(rejected.error_count);
        self.error_counts = Some(rejected.counts);
        self
    }

    /// With the list of all of a file's errors, and the link to it.
    #[must_use]
    pub fn with_list(mut self, list: ErrorFile, url: String) -> Self {
        self.upload_id = Some(list.id);
        self.errors_url = Some(url);
        self.errors_expires_at = Some(list.expires_at);
        self
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code()).json(self);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == 401 {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.retry_after.is_some() || self.status == 503 {
            let seconds = self.retry_after.unwrap_or(RETRY_AFTER);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refusal(Refusal::Erased) => FlowError::Erased.into(),
            StoreError::Refusal(refusal) => Self::new(StatusCode::CONFLICT, "conflict", refusal.to_string()),
            StoreError::NotFound { what } => {
                Self::new(StatusCode::NOT_FOUND, "not_found", format!("{what} does not exist"))
            }
            error if error.is_transient() => {
                tracing::warn!(%error, "a request met an engine that is away");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "unavailable",
                    "an engine is not available; try again",
                )
            }
            error => {
                tracing::error!(%error, "a request failed");
                Self::internal()
            }
        }
    }
}

impl From<FlowError> for Problem {
    fn from(error: FlowError) -> Self {
        match error {
            FlowError::Store(error) => error.into(),
            FlowError::Busy(busy) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", busy.to_string()),
            FlowError::NoBucket(_) => {
                tracing::error!(%error, "a file cannot be stored");
                let sentence =
                    "the place where files are stored does not exist; the operator has to create it";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", sentence)
            }
            FlowError::Erased => Self::new(StatusCode::GONE, "erased", error.to_string()),
            error if error.is_transient() => {
                tracing::warn!(%error, "a request met an engine that is away");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "unavailable",
                    "an engine is not available; try again",
                )
            }
            error => {
                tracing::error!(%error, "a request failed");
                Self::internal()
            }
        }
    }
}
