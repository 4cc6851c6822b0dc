//! Media types of what is uploaded.

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap};
use actix_web::mime::Mime;

use crate::multipart::Charset;
use crate::problem::Problem;

/// Media types of files that are no text: a workbook, what programs call a CSV file or an old workbook (which is refused by a sentence
/// that says how to save it), and what is compressed.
const OTHER_FILES: [&str; 4] = [
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "application/vnd.ms-excel",
    "application/gzip",
    "application/x-gzip",
];

/// The bodies that an upload may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// A form with a file.
    Form,
    /// The file itself: what it is, its bytes tell.
    File,
    /// The id of a file that was PUT before.
    Json,
}

impl Media {
    /// What a request says that its body is.
    ///
    /// # Errors
    /// 415 when it is none of them, or text in a charset that the pipeline does not take.
    pub fn of(headers: &HeaderMap, taken: penstock_domain::csv::Charset) -> Result<Self, Problem> {
        // Two of them contradict each other.
        let mut sent = headers.get_all(header::CONTENT_TYPE);
        let one = sent.next().filter(|_| sent.next().is_none());
        let text = one.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "multipart/form-data" => Ok(Self::Form),
            "application/json" => Ok(Self::Json),
            "text/csv" | "text/tab-separated-values"
                if text.parse::<Mime>().is_ok() && Charset::of(text).may_be(taken) =>
            {
                Ok(Self::File)
            }
            other if OTHER_FILES.contains(&other) => Ok(Self::File),
            _ => Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "send multipart/form-data with a field `file`, or the file as the body: as text/csv, in UTF-8 or a charset that the pipeline takes, or as \
                 the workbook that it is",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{CONTENT_TYPE, HeaderValue};

    #[test]
    fn a_charset_is_read_as_the_parameter_that_it_is() {
        for (text, media) in [
            ("text/csv", Some(Media::File)),
            ("Text/CSV; Charset=UTF-8", Some(Media::File)),
            ("text/csv;charset=\"utf-8\"", Some(Media::File)),
            ("text/csv; header=present; charset=utf8", Some(Media::File)),
            ("text/csv; charset=US-ASCII", Some(Media::File)),
            ("text/csv; charset=iso-8859-1", None),
            ("text/csv; charset=iso-8859-1; x=utf-8", None),
            ("text/csv; charset=\"iso-8859-1\"; x=\"charset=utf-8\"", None),
            ("text/csv; charset=utf-8; charset=utf-16", None),
            ("text/csv; charset", None),
            ("text/csv-schema", None),
            ("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", Some(Media::File)),
            ("Application/Vnd.MS-Excel", Some(Media::File)),
            ("application/gzip", Some(Media::File)),
            ("application/octet-stream", None),
            ("multipart/form-data; boundary=x", Some(Media::Form)),
            ("application/json; charset=utf-8", Some(Media::Json)),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_str(text).unwrap());
            assert_eq!(Media::of(&headers, penstock_domain::csv::Charset::Utf8).ok(), media, "{text}");
            headers.append(CONTENT_TYPE, HeaderValue::from_static("text/csv"));
            assert!(Media::of(&headers, penstock_domain::csv::Charset::Auto).is_err(), "{text}, twice");
        }
    }
}
