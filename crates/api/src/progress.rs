//! How far an upload is: told to who asked for it, while the upload is under way.

use std::time::{Duration, Instant};

use actix_web::{HttpRequest, HttpResponse, web};
use penstock_domain::ids::OwnerSeq;
use penstock_domain::time::Timestamp;
use penstock_flow::intake::upload::Upload;
use penstock_store::progress::{PROGRESS_KEPT, Progress};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::auth::Caller;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::refusals;
use crate::state::ApiState;

/// The header with the id under which the progress of an upload is kept.
pub const HEADER: &str = "upload-progress";

/// How often it is kept: it costs a write.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// How far an upload is.
#[derive(Serialize, ToSchema)]
pub struct UploadProgressView {
    /// When that was.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Bytes that came, unpacked.
    pub bytes: u64,
    /// Rows that were checked; of a workbook none, because it is read later.
    pub rows: u64,
    /// Errors that were found.
    pub errors: u64,
}

impl From<Progress> for UploadProgressView {
    fn from(progress: Progress) -> Self {
        let Progress { at, bytes, rows, errors } = progress;
        Self { at, bytes, rows, errors }
    }
}

/// Reports how far an upload is, if its client asked for that.
pub(crate) struct Reporter {
    wanted: Option<Uuid>,
    owner: OwnerSeq,
    last: Option<Instant>,
}

impl Reporter {
    /// For a request of that owner.
    ///
    /// # Errors
    /// 400 when the header is not a UUID.
    pub fn of(request: &HttpRequest, owner: OwnerSeq) -> Result<Self, Problem> {
        let header = request.headers().get(HEADER);
        let bad = || Problem::bad_request("bad_upload_progress", "Upload-Progress is a UUID that you choose");
        let wanted = header
            .map(|value| value.to_str().ok().and_then(|text| Uuid::try_parse(text).ok()).ok_or_else(bad))
            .transpose()?;
        Ok(Self { wanted, owner, last: None })
    }

    /// Once a second keeps how far the upload is. That this fails is no reason to refuse the upload.
    pub async fn report(&mut self, state: &ApiState, upload: &Upload) {
        let Some(id) = self.wanted else { return };
        if self.last.is_some_and(|last| last.elapsed() < REPORT_EVERY) {
            return;
        }
        let reported = state.services.store.report_upload(self.owner, id, &upload.progress()).await;
        if let Err(error) = reported {
            tracing::warn!(%error, "the progress of an upload cannot be kept");
        }
        self.last = Some(Instant::now());
    }
}

/// Shows how far an upload is that was sent with the header `Upload-Progress`.
#[utoipa::path(get, operation_id = "show_upload_progress", path = "/v2/uploads/{id}/progress", tag = "batches",
    params(("id" = Uuid, Path, description = "What the upload's header `Upload-Progress` has")),
    responses((status = 200, description = "As it was a second ago, or so", body = UploadProgressView), refusals::Asked, refusals::Named), security(("key" = [])))]
pub async fn show(
    caller: Caller,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    _: NoQuery,
) -> Result<HttpResponse, Problem> {
    let found = known(&caller, &state, &id).await?;
    Ok(HttpResponse::Ok().json(found.ok_or_else(|| Problem::not_found("upload under way with this id"))?))
}

/// How far the caller's upload is; none when nothing is known of it.
///
/// # Errors
/// When the database fails.
pub(crate) async fn known(
    caller: &Caller,
    state: &ApiState,
    id: &str,
) -> Result<Option<UploadProgressView>, Problem> {
    let Ok(id) = Uuid::try_parse(id) else { return Ok(None) };
    let found = state.services.store.upload_progress(caller.owner, id).await?;
    // Of an upload that broke off nobody deletes the record before another one reports.
    let recent = found.filter(|progress| state.services.clock.now().since(progress.at) < PROGRESS_KEPT);
    Ok(recent.map(UploadProgressView::from))
}
