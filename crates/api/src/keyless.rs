//! Answers that need no key and are the same for everybody: the OpenAPI document, the pages of `/docs`, `/metrics`.
//!
//! Anybody can ask for them as often as he likes and read them as slowly as he likes. So their bytes are shared by all
//! connections, they are compressed once and not for each request, and what is being sent counts against a budget of its
//! own, which addresses share.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use actix_web::{HttpRequest, HttpResponse, web};
use penstock_domain::ids::OwnerSeq;
use penstock_flow::context::budget::Reserved;
use penstock_flow::operate::collect_metrics::Sources;
use penstock_flow::telemetry::metrics;

use crate::addresses::network;
use crate::docs;
use crate::problem::Problem;
use crate::refusals;
use crate::shared_answer::Shared;
use crate::state::ApiState;

/// Everything of this kind that a process has.
pub struct Keyless {
    document: Shared,
    /// Files of `/docs` that somebody asked for. Only those that exist: there are about ten.
    pages: Mutex<HashMap<String, Arc<Shared>>>,
    /// The metrics as they were written last, and when that began.
    metrics: tokio::sync::Mutex<Option<(Instant, Arc<Shared>)>>,
    /// Mixes addresses, so that nobody knows whose share he has.
    shares: RandomState,
}

impl Keyless {
    /// With that OpenAPI document.
    pub fn new(document: String) -> Self {
        Self {
            document: Shared::new("application/json", document),
            pages: Mutex::default(),
            metrics: tokio::sync::Mutex::default(),
            shares: RandomState::new(),
        }
    }

    /// A file of the pages.
    fn page(&self, path: &str) -> Result<Option<Arc<Shared>>, Problem> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(page) = pages.get(path) {
            return Ok(Some(page.clone()));
        }
        let found = docs::page(path).map_err(|error| {
            tracing::error!(%error, path, "a page of the documentation cannot be unpacked");
            Problem::internal()
        })?;
        let Some(page) = found.map(Arc::new) else { return Ok(None) };
        pages.insert(path.to_owned(), page.clone());
        Ok(Some(page))
    }

    /// The metrics, written after this was asked for. They are written once at a time: who asks meanwhile shares the next.
    async fn metrics(&self, sources: &Sources) -> Arc<Shared> {
        let asked = Instant::now();
        let mut last = self.metrics.lock().await;
        if let Some((began, text)) = &*last
            && *began >= asked
        {
            return text.clone();
        }
        let began = Instant::now();
        let text = metrics::render(&sources.collect().await);
        let text = Arc::new(Shared::new("text/plain; version=0.0.4; charset=utf-8", text));
        *last = Some((began, text.clone()));
        text
    }

    /// Whose share of the budget an address has.
    fn share(&self, address: Option<IpAddr>) -> OwnerSeq {
        OwnerSeq(self.shares.hash_one(address.map(network)).cast_signed())
    }

    async fn room(&self, state: &ApiState, request: &HttpRequest, own: usize) -> Result<Reserved, Problem> {
        let share = self.share(request.peer_addr().map(|peer| peer.ip()));
        state.budgets.keyless(share, own).await
    }
}

/// Serves the OpenAPI document, with the routes that the loaded pipelines have of their own.
///
/// # Errors
/// 503 when too many others are being sent such answers.
pub async fn document(
    state: web::Data<ApiState>,
    keyless: web::Data<Keyless>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let room = keyless.room(&state, &request, 0).await?;
    Ok(keyless.document.answer(&request, room).await)
}

/// Serves the pages that show the document.
///
/// # Errors
/// 404 when there is no such page, 503 as for the document.
pub async fn page(
    state: web::Data<ApiState>,
    keyless: web::Data<Keyless>,
    path: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let page = keyless.page(&path)?.ok_or_else(|| Problem::not_found("such page"))?;
    let room = keyless.room(&state, &request, 0).await?;
    Ok(page.answer(&request, room).await)
}

/// Metrics in Prometheus' text format.
#[utoipa::path(get, operation_id = "metrics", path = "/metrics", tag = "operations",
    responses((status = 200, description = "As they are now", body = String, content_type = "text/plain"), refusals::Opened))]
pub async fn metrics(
    state: web::Data<ApiState>,
    keyless: web::Data<Keyless>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let text = keyless.metrics(&state.sources).await;
    let room = keyless.room(&state, &request, text.len()).await?;
    Ok(text.answer(&request, room).await)
}

#[cfg(test)]
mod tests {
    use actix_web::body::MessageBody as _;
    use actix_web::http::header::{self, ContentEncoding};
    use actix_web::test::TestRequest;
    use futures::future::poll_fn;

    use super::*;
    use crate::budgets::{Budgets, PIECE};

    fn taking(coding: &str) -> HttpRequest {
        TestRequest::get().insert_header((header::ACCEPT_ENCODING, coding)).to_http_request()
    }

    #[tokio::test]
    async fn bytes_are_shared_and_compressed_once() {
        let keyless = Keyless::new(String::new());
        let page = keyless.page("swagger-ui-bundle.js").unwrap().expect("the page's script");
        let again = keyless.page("swagger-ui-bundle.js").unwrap().expect("the same");
        for (accepted, coding) in [
            ("identity", ContentEncoding::Identity),
            ("gzip", ContentEncoding::Gzip),
            ("gzip, deflate, br", ContentEncoding::Gzip),
            ("deflate", ContentEncoding::Identity),
            ("gzip;q=0", ContentEncoding::Identity),
        ] {
            let request = taking(accepted);
            let (first, second) = futures::join!(page.coded(&request), again.coded(&request));
            assert_eq!((first.0, second.0), (coding, coding), "{accepted}");
            assert_eq!(first.1.as_ptr(), second.1.as_ptr(), "{accepted}: one copy for everybody");
        }
        assert!(keyless.page("no-such-page").unwrap().is_none());
        assert_eq!(keyless.pages.lock().unwrap().len(), 1, "only pages that exist are kept");
    }

    #[tokio::test]
    async fn an_answer_holds_its_room_until_it_is_taken() {
        let budgets = Budgets::new(1 << 20, 1);
        let shared = Shared::new("text/plain", vec![b'a'; 3 * PIECE]);
        let room = budgets.keyless(OwnerSeq(1), 0).await.unwrap();
        let free = budgets.keyless_free();
        let mut body = std::pin::pin!(shared.answer(&taking("identity"), room).await.into_body());
        let mut pieces = Vec::new();
        while let Some(piece) = poll_fn(|cx| body.as_mut().poll_next(cx)).await {
            assert_eq!(budgets.keyless_free(), free);
            pieces.push(piece.unwrap().len());
        }
        assert_eq!(pieces, [PIECE; 3]);
        assert_eq!(budgets.keyless_free(), free + 2 * PIECE);
    }

    #[test]
    fn addresses_have_shares() {
        let keyless = Keyless::new(String::new());
        let share = |address: &str| keyless.share(Some(address.parse().unwrap()));
        assert_eq!(share("192.0.2.1"), share("::ffff:192.0.2.1"));
        assert_ne!(share("192.0.2.1"), share("192.0.2.2"));
        assert_eq!(share("2001:db8::1"), share("2001:db8::2"));
        assert_ne!(share("2001:db8::1"), share("2001:db8:0:1::1"));
    }
}
