//! Links to reports: for a browser, a spreadsheet or a colleague who has no key.

use std::time::Duration;

use actix_web::http::header::IfNoneMatch;
use actix_web::{HttpRequest, HttpResponse, web};
use penstock_domain::ids::BatchId;
use penstock_domain::time::Timestamp;
use penstock_flow::FlowError;
use penstock_flow::context::api_keys;
use penstock_flow::read::links::Link;
use penstock_store::batches::Batch;
use penstock_store::operations::AuditEntry;
use penstock_store::owners::ApiKeyRecord;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::body;
use crate::problem::Problem;
use crate::query::{NoQuery, Query};
use crate::report_query::{For, ReportQuery};
use crate::reports::Named;
use crate::state::ApiState;
use crate::{error_files, refusals, reports};

/// How long a link is good for unless said, in seconds.
pub(crate) const VALID: u32 = 900;

/// The end of what a link names, when the report is for a spreadsheet.
const FOR_SPREADSHEET: &str = "?for=spreadsheet";

/// How long one may be good for, in seconds.
const MOST_VALID: u32 = 86_400;

/// Which report, and for how long.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DownloadBody {
    /// `results.csv`, `failed.csv`, `unprocessed.csv`, or the same with `.ndjson`; `errors.csv` of a batch whose file failed.
    #[schema(pattern = r"^((results|failed|unprocessed)\.(csv|ndjson)|errors\.csv)$")]
    report: String,
    /// `spreadsheet`: for Excel and the like, as `?for=spreadsheet` of the report.
    #[serde(rename = "for")]
    #[schema(value_type = Option<String>, pattern = "^spreadsheet$")]
    reader: Option<For>,
    /// Seconds, 1 to 86400; 900 without it.
    #[schema(minimum = 1, maximum = 86400)]
    #[serde(default, deserialize_with = "body::whole")]
    expires_in: Option<u32>,
}

/// A link to a report.
#[derive(Serialize, ToSchema)]
pub struct Download {
    /// Where the report is; no `Authorization` is needed there. Who has it can read the report.
    pub url: String,
    /// Until when.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}

/// Makes a link by which a report is downloaded without a key, for a while. It ends early when the key that made it is
/// revoked or the batch is erased.
#[utoipa::path(post, operation_id = "create_download", path = "/v2/batches/{id}/downloads", tag = "results", params(("id" = String, Path)),
    request_body = DownloadBody,
    responses((status = 201, description = "The link", body = Download), refusals::Asked, refusals::Named, refusals::Small,
        refusals::Sealed, refusals::Unprocessable), security(("key" = [])))]
pub async fn create(
    caller: Caller,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    _: NoQuery,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let batch = caller.batch(&state, &id).await?;
    let body = body::small(&state, caller.owner, request.headers(), payload).await?;
    let (body, _room) = body.json::<DownloadBody>(&state, caller.owner).await?;
    let report = match body.reader {
        Some(For::Spreadsheet) => format!("{}{FOR_SPREADSHEET}", body.report),
        None => body.report,
    };
    let download = make_link(&caller, &state, &batch, report, body.expires_in.unwrap_or(VALID)).await?;
    Ok(HttpResponse::Created().json(download))
}

/// A link to a report, good for that many seconds. A name may end in `?for=spreadsheet`.
///
/// # Errors
/// As [`create`].
pub(crate) async fn make_link(
    caller: &Caller,
    state: &ApiState,
    batch: &Batch,
    report: String,
    valid: u32,
) -> Result<Download, Problem> {
    if named(&report).find().is_none() && named(&report).name != error_files::NAME {
        let detail = "`report` is results, failed or unprocessed, with .csv or .ndjson, or errors.csv; `for` goes with those that are CSV";
        return Err(Problem::unprocessable("bad_field", detail));
    }
    if !(1..=MOST_VALID).contains(&valid) {
        return Err(Problem::unprocessable("bad_field", "`expires_in` is 1 to 86400 seconds"));
    }
    if batch.erased_at.is_some() {
        return Err(FlowError::Erased.into());
    }
    let now = state.services.clock.now();
    let expires_at = now + Duration::from_secs(u64::from(valid));
    let actor = caller.actor();
    let link = link(caller, state, batch.id, report, expires_at).await?;
    // Who gave rows of a batch away is worth knowing later; the link itself is written nowhere.
    let entry = AuditEntry {
        id: 0,
        at: now,
        actor,
        action: "batch.link".into(),
        batch: Some(batch.id),
        detail: Some(format!("{} until {expires_at}", link.report)),
    };
    state.services.store.audit(&entry).await?;
    Ok(Download { url: url_of(state, &link)?, expires_at })
}

/// A link that the caller's key stands for.
///
/// # Errors
/// When the key is no longer valid.
pub(crate) async fn link(
    caller: &Caller,
    state: &ApiState,
    batch: BatchId,
    report: String,
    expires_at: Timestamp,
) -> Result<Link, Problem> {
    let key = valid_key(state, &caller.key_id).await?.ok_or_else(no_longer_valid)?;
    let key_word = api_keys::word(&state.services, &key).await?;
    Ok(Link { batch, report, key_id: caller.key_id.clone(), key_word, expires_at })
}

/// Where a link leads.
///
/// # Errors
/// When there is no key to sign it with.
pub(crate) fn url_of(state: &ApiState, link: &Link) -> Result<String, Problem> {
    let token = link
        .token(&state.services.keyring.get())
        .map_err(|source| FlowError::Sealed { what: "a link", source })?;
    Ok(format!("{}/v2/downloads/{token}", state.base))
}

/// Streams the report behind a link, as `GET /v2/batches/{id}/{report}` does.
#[utoipa::path(get, operation_id = "follow_download", path = "/v2/downloads/{token}", tag = "results", params(("token" = String, Path), ReportQuery),
    responses((status = 200, description = "The report", content((String = "text/csv"), (String = "application/x-ndjson"))),
        (status = 206, description = "A range of a finished batch's report", content((String = "text/csv"), (String = "application/x-ndjson"))),
        (status = 304, description = "It is what If-None-Match names"),
        refusals::Opened, refusals::Linked, refusals::Sealed, refusals::Ranged))]
pub async fn follow(
    state: web::Data<ApiState>,
    token: web::Path<String>,
    query: Query<ReportQuery>,
    seen: web::Header<IfNoneMatch>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let services = &state.services;
    let link = Link::read(&services.keyring.get(), &token, services.clock.now())
        .map_err(|error| Problem::forbidden(error.to_string()))?;
    let key = valid_key(&state, &link.key_id).await?.ok_or_else(no_longer_valid)?;
    if api_keys::word(services, &key).await? != link.key_word {
        return Err(no_longer_valid());
    }
    let caller = Caller::from(key);
    state.rates.request(&caller.key_id, caller.owner, &request)?;
    let mut wanted = named(&link.report);
    wanted.reader = wanted.reader.or(query.0.reader);
    if wanted.name == error_files::OF_UPLOAD {
        return error_files::send_of_upload(&state, caller, link.batch, wanted.reader).await;
    }
    let batch = caller.batch(&state, &link.batch.to_string()).await?;
    reports::send(&state, caller, batch, wanted, seen.into_inner(), &request).await
}

/// The report that a link names.
fn named(report: &str) -> Named<'_> {
    match report.strip_suffix(FOR_SPREADSHEET) {
        Some(name) => Named { name, reader: Some(For::Spreadsheet) },
        None => Named::plain(report),
    }
}

/// A key by its public part, while it is good.
pub(crate) async fn valid_key(state: &ApiState, id: &str) -> Result<Option<ApiKeyRecord>, Problem> {
    let now = state.services.clock.now();
    Ok(state.services.store.key(id).await?.filter(|record| record.is_valid(now)))
}

fn no_longer_valid() -> Problem {
    Problem::forbidden("the key that made this link was revoked or has expired")
}
