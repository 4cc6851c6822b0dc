//! Headers that every answer has, for browsers and whatever stands in between.

use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{ConnectionType, Version};
use actix_web::middleware::Next;

use penstock_console::assets;

use crate::coding::unname_identity;
use crate::rates;

/// Data, and no page: nothing of it runs, and nobody frames it.
const NOTHING_RUNS: &str = "default-src 'none'; frame-ancestors 'none'; sandbox";

/// The pages of `/docs`: their own scripts, styles, pictures and this API, and nothing from elsewhere. Swagger UI sets
/// styles on elements, and has pictures in its styles.
const DOCS_RUN: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The console's pages: what this service itself serves, and no script or style that stands in a page.
const CONSOLE_RUNS: &str = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; \
    frame-ancestors 'none'";

/// Which answers they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An owner's, or of the moment: nobody keeps it.
    Owned,
    /// The document and its pages, the same for everybody.
    Public,
    /// A page of the console.
    Console,
    /// What pages of the console load. Its name changes with its bytes.
    Asset,
}

impl Kind {
    fn of(path: &str) -> Self {
        let public = path == "/v2/openapi.json" || path == "/docs" || path.starts_with("/docs/");
        if public {
            Self::Public
        } else if path.starts_with(assets::FOLDER) {
            Self::Asset
        } else if path == "/console" || path.starts_with("/console/") {
            Self::Console
        } else {
            Self::Owned
        }
    }
}

/// Sets them.
pub fn set(headers: &mut HeaderMap, kind: Kind) {
    let (policy, keeping) = match kind {
        Kind::Owned => (NOTHING_RUNS, "no-store"),
        Kind::Public => (DOCS_RUN, "no-cache"),
        Kind::Console => (CONSOLE_RUNS, "no-store"),
        Kind::Asset => (NOTHING_RUNS, "public, max-age=31536000, immutable"),
    };
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, policy),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (header::CACHE_CONTROL, keeping),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// A middleware that sets them on every answer.
pub async fn secured<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let kind = Kind::of(request.path());
    let mut response = next.call(request).await?;
    let kind = if kind == Kind::Asset && !response.status().is_success() { Kind::Console } else { kind };
    set(response.headers_mut(), kind);
    unname_identity(response.headers_mut());
    let request = response.request().clone();
    if request.version() < Version::HTTP_11 {
        // Such a client knows no chunks (RFC 9112, 6.1): what has no length ends with the connection.
        let head = response.response_mut().head_mut();
        head.no_chunking(true);
        head.set_connection_type(ConnectionType::Close);
    }
    rates::set_headers(&request, response.headers_mut());
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_public_is_kept_by_nobody() {
        for (path, kind) in [
            ("/docs/", Kind::Public),
            ("/docs/swagger-ui.css", Kind::Public),
            ("/v2/openapi.json", Kind::Public),
            ("/docsx", Kind::Owned),
            ("/console", Kind::Console),
            ("/console/batches", Kind::Console),
            ("/console/assets/console-0.css", Kind::Asset),
            ("/consolex", Kind::Owned),
            ("/v2/batches", Kind::Owned),
            ("/v2/downloads/docs", Kind::Owned),
            ("/metrics", Kind::Owned),
            ("/", Kind::Owned),
        ] {
            assert_eq!(Kind::of(path), kind, "{path}");
        }
    }
}
