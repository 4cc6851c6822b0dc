//! Answers that are the same for everybody: their bytes are shared by all connections, and compressed once.

use std::io::Write as _;

use actix_web::http::Method;
use actix_web::http::header::{self, AcceptEncoding, ContentEncoding, Encoding, Header as _};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use penstock_flow::context::budget::Reserved;
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use crate::body::nothing;
use crate::budgets::PIECE;
use crate::problem::Problem;

/// Bytes below which compressing is not worth it.
pub const WORTH_COMPRESSING: usize = 1024;

/// An answer's bytes, and the same compressed once somebody takes it so.
#[derive(Debug)]
pub struct Shared {
    content_type: String,
    plain: Bytes,
    gzip: OnceCell<Bytes>,
}

impl Shared {
    /// Of these bytes.
    pub fn new(content_type: impl Into<String>, plain: impl Into<Bytes>) -> Self {
        Self { content_type: content_type.into(), plain: plain.into(), gzip: OnceCell::new() }
    }

    /// Of these bytes, which were compressed before.
    pub fn compressed(
        content_type: impl Into<String>,
        plain: impl Into<Bytes>,
        gzip: impl Into<Bytes>,
    ) -> Self {
        Self { gzip: OnceCell::new_with(Some(gzip.into())), ..Self::new(content_type, plain) }
    }

    /// How many bytes there are, uncompressed.
    pub fn len(&self) -> usize {
        self.plain.len()
    }

    /// The bytes in a coding that the client takes. Compressed by the first who asks; the others wait for that.
    pub(crate) async fn coded(&self, request: &HttpRequest) -> (ContentEncoding, Bytes) {
        if self.plain.len() < WORTH_COMPRESSING || !takes_gzip(request) {
            return (ContentEncoding::Identity, self.plain.clone());
        }
        let plain = self.plain.clone();
        let compressed =
            self.gzip.get_or_try_init(|| async move { spawn_blocking(move || gzip(&plain)).await? }).await;
        match compressed {
            Ok(bytes) => (ContentEncoding::Gzip, bytes.clone()),
            Err(error) => {
                tracing::warn!(%error, "an answer cannot be compressed; it is sent as it is");
                (ContentEncoding::Identity, self.plain.clone())
            }
        }
    }

    /// The answer, handed over in pieces; `room` is held until the client has taken it.
    pub(crate) async fn answer(&self, request: &HttpRequest, room: Reserved) -> HttpResponse {
        let (coding, mut rest) = self.coded(request).await;
        let mut response = HttpResponse::Ok();
        response
            .content_type(self.content_type.as_str())
            // Also when it is sent as it is: it is not to be compressed on its way out.
            .insert_header((header::CONTENT_ENCODING, coding))
            .insert_header((header::VARY, "accept-encoding"))
            .no_chunking(rest.len() as u64);
        if request.method() == Method::HEAD {
            return response.streaming(nothing());
        }
        response.streaming(async_stream::stream! {
            let _room = room;
            while !rest.is_empty() {
                yield Ok::<_, Problem>(rest.split_to(rest.len().min(PIECE)));
            }
        })
    }
}

/// Whether the client takes gzip rather than an answer that is not compressed (RFC 9110, 12.5.3: `q=0` refuses a coding).
pub fn takes_gzip(request: &HttpRequest) -> bool {
    let Ok(accepted) = AcceptEncoding::parse(request) else { return false };
    let chosen = accepted.negotiate([Encoding::gzip(), Encoding::identity()].iter());
    !accepted.is_empty() && chosen == Some(Encoding::gzip())
}

fn gzip(plain: &[u8]) -> std::io::Result<Bytes> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(plain)?;
    Ok(encoder.finish()?.into())
}
