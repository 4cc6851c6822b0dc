//! Media types of what is uploaded.

use actix_multipart::Field;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap};
use actix_web::mime::{self, Mime};

use crate::problem::Problem;

/// The bodies that an upload may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// A form with a file.
    Form,
    /// The file itself.
    Csv,
    /// The id of a file that was PUT before.
    Json,
}

impl Media {
    /// What a request says that its body is.
    ///
    /// # Errors
    /// 415 when it is none of them, or text in another charset than UTF-8.
    pub fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        // Two of them contradict each other.
        let mut sent = headers.get_all(header::CONTENT_TYPE);
        let one = sent.next().filter(|_| sent.next().is_none());
        let text = one.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "multipart/form-data" => Ok(Self::Form),
            "application/json" => Ok(Self::Json),
            "text/csv" if text.parse().is_ok_and(|parsed| is_utf8(&parsed)) => Ok(Self::Csv),
            _ => Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "send multipart/form-data with a field `file`, or text/csv (UTF-8) as the body",
            )),
        }
    }
}

/// Whether every charset that it names is UTF-8.
fn is_utf8(media: &Mime) -> bool {
    let known = |value: &str| value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("utf8");
    media.params().filter(|(name, _)| *name == mime::CHARSET).all(|(_, value)| known(value.as_str()))
}

/// A part of a form is bytes as they are, and text is UTF-8 (RFC 7578, section 4.7 has no transfer encodings).
///
/// # Errors
/// 415 when it says otherwise.
pub fn plain_part(part: &Field, name: &str) -> Result<(), Problem> {
    let refused = |what: &str, value: &str| {
        let detail = format!("the field `{name}` has the {what} `{value}`; send it as it is, in UTF-8");
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", detail)
    };
    for what in ["content-encoding", "content-transfer-encoding"] {
        for value in part.headers().get_all(what) {
            let value = value.to_str().unwrap_or("?").trim();
            let plain = ["", "identity", "binary", "8bit", "7bit"];
            if !plain.iter().any(|plain| value.eq_ignore_ascii_case(plain)) {
                return Err(refused(what, value));
            }
        }
    }
    match part.content_type() {
        Some(media) if !is_utf8(media) => Err(refused("content type", media.as_ref())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{CONTENT_TYPE, HeaderValue};

    #[test]
    fn a_charset_is_read_as_the_parameter_that_it_is() {
        for (text, media) in [
            ("text/csv", Some(Media::Csv)),
            ("Text/CSV; Charset=UTF-8", Some(Media::Csv)),
            ("text/csv;charset=\"utf-8\"", Some(Media::Csv)),
            ("text/csv; header=present; charset=utf8", Some(Media::Csv)),
            ("text/csv; charset=iso-8859-1", None),
            ("text/csv; charset=iso-8859-1; x=utf-8", None),
            ("text/csv; charset=\"iso-8859-1\"; x=\"charset=utf-8\"", None),
            ("text/csv; charset=utf-8; charset=utf-16", None),
            ("text/csv; charset", None),
            ("text/csv-schema", None),
            ("multipart/form-data; boundary=x", Some(Media::Form)),
            ("application/json; charset=utf-8", Some(Media::Json)),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_str(text).unwrap());
            assert_eq!(Media::of(&headers).ok(), media, "{text}");
            headers.append(CONTENT_TYPE, HeaderValue::from_static("text/csv"));
            assert!(Media::of(&headers).is_err(), "{text}, twice");
        }
    }
}
