//! The end of an upload: it is carried through, and what was refused is worded.

use actix_web::http::StatusCode;
use penstock_domain::csv::error;
use penstock_flow::intake::refused::{RefusedFile, TooLarge, UploadError};
use penstock_flow::intake::upload::Accepted;

use crate::auth::Caller;
use crate::error_links;
use crate::problem::Problem;
use crate::state::ApiState;

/// Carries the last part of an upload to its end, also when its client hangs up meanwhile: a file whose batch is just being
/// made is not left lying without one.
pub(crate) async fn finished(
    caller: &Caller,
    state: &ApiState,
    end: impl Future<Output = Result<Accepted, UploadError>> + Send + 'static,
) -> Result<Accepted, Problem> {
    match tokio::spawn(end).await {
        Ok(Ok(accepted)) => Ok(accepted),
        Ok(Err(error)) => Err(refusal(caller, state, error).await),
        Err(error) => {
            tracing::error!(%error, "the end of an upload panicked");
            Err(Problem::internal())
        }
    }
}

/// Words what a use case refused; all errors of a file are linked.
pub(crate) async fn refusal(caller: &Caller, state: &ApiState, error: UploadError) -> Problem {
    let list = match &error {
        UploadError::Rejected(refused)
        | UploadError::TooLarge(TooLarge::Csv(refused) | TooLarge::Bytes(refused)) => refused.list,
        _ => None,
    };
    let url = match list {
        Some(list) => error_links::url(caller, state, list).await,
        None => None,
    };
    let problem = worded(error);
    match list.zip(url) {
        Some((list, url)) => problem.with_list(list, url),
        None => problem,
    }
}

fn worded(error: UploadError) -> Problem {
    match error {
        UploadError::Rejected(refused) => invalid_file(refused),
        UploadError::TooLarge(TooLarge::Bytes(refused)) => over_limit("file_too_large", refused),
        UploadError::TooLarge(TooLarge::Csv(refused)) => over_limit("limit_exceeded", refused),
        UploadError::MissingContext(missing) => {
            let keys = missing.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
            let detail =
                format!("every row of this pipeline reads {keys} of `context`; send it with the file");
            Problem::unprocessable("missing_context", detail)
        }
        UploadError::KeyReused => Problem::unprocessable(
            "idempotency_key_reused",
            "this Idempotency-Key was used before with other content; send a new key with new content",
        ),
        UploadError::NoSuchUpload => Problem::unprocessable(
            "no_such_upload",
            "there is no upload of this id; POST /v2/uploads gives one",
        ),
        UploadError::NotUploaded => {
            Problem::unprocessable("not_uploaded", "nothing was PUT to this upload's URL yet")
        }
        UploadError::UploadUsed(batch) => {
            let batch = batch.map_or_else(|| "a batch".to_owned(), |id| format!("batch {id}"));
            let detail = format!(
                "this upload has become {batch} before; an Idempotency-Key makes a request repeatable"
            );
            Problem::new(StatusCode::CONFLICT, "upload_used", detail)
        }
        UploadError::Flow(error) => error.into(),
    }
}

/// A limit was passed, which is the first of the file's errors.
fn over_limit(code: &'static str, refused: RefusedFile) -> Problem {
    let rejected = refused.rejected;
    let detail = rejected.errors.first().map(|limit| limit.message.clone()).unwrap_or_default();
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, code, detail).with_errors(rejected)
}

fn invalid_file(refused: RefusedFile) -> Problem {
    let rejected = refused.rejected;
    let (all, kept) = (rejected.error_count, rejected.errors.len() as u64);
    let listed = if all > kept { format!("; the first {kept} are listed") } else { String::new() };
    Problem::unprocessable("invalid_file", format!("the file has {}{listed}", error::of(all, "error")))
        .with_errors(rejected)
}
