//! Bodies: how long one may take to come, how it is encoded, and small ones as a whole.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap};
use actix_web::{HttpResponse, mime, web};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use penstock_domain::ids::OwnerSeq;
use penstock_domain::json;
use penstock_domain::json_size;
use penstock_flow::context::budget::Reserved;
use penstock_flow::intake::unpack::{Unpack, UnpackError};
use serde::de::DeserializeOwned;
use serde::{Deserialize as _, Serialize};
use tokio::time::Instant;
use url::form_urlencoded;

use crate::budgets::{PIECE, UploadRoom};
use crate::problem::Problem;
use crate::state::ApiState;

/// Bytes of a JSON body, or of a form's fields beside the file.
pub const SMALL_BYTES: usize = 256 * 1024;

/// Bytes that the values of such JSON may take once it is read: each object takes more than its text.
const MOST_WEIGHT: usize = 2 * 1024 * 1024;

/// How long a body may take, and how long it may stand still.
#[derive(Clone, Copy)]
pub struct Deadline {
    end: Instant,
    idle: Duration,
}

impl Deadline {
    /// From now on.
    pub fn start(state: &ApiState) -> Self {
        Self { end: Instant::now() + state.upload_time, idle: state.upload_idle }
    }

    /// Of a small body: all of it has to come in the time for which an upload may stand still.
    fn of_small(state: &ApiState) -> Self {
        Self { end: Instant::now() + state.upload_idle, idle: state.upload_idle }
    }

    /// The next part of a body.
    ///
    /// # Errors
    /// 408 when it does not come in time.
    pub async fn next<S, T>(&self, stream: &mut S) -> Result<Option<T>, Problem>
    where
        S: Stream<Item = Result<T, Problem>> + Unpin,
    {
        let until = (Instant::now() + self.idle).min(self.end);
        match tokio::time::timeout_at(until, stream.next()).await {
            Ok(next) => next.transpose(),
            Err(_) => Err(Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "upload_timeout",
                "the body stood still or took too long; send it again",
            )),
        }
    }
}

/// A body's bytes as they come.
pub fn bytes(payload: web::Payload) -> impl Stream<Item = Result<web::Bytes, Problem>> + Unpin {
    payload.map_err(|error| Problem::bad_request("broken_off", format!("the body broke off: {error}")))
}

/// The same, as far as there is room for it.
pub fn within(
    payload: web::Payload,
    room: &UploadRoom,
) -> impl Stream<Item = Result<web::Bytes, Problem>> + Unpin + use<> {
    let (mut body, room) = (bytes(payload), room.clone());
    Box::pin(async_stream::try_stream! {
        while let Some(bytes) = body.try_next().await? {
            room.take(bytes.len()).await?;
            yield bytes;
        }
    })
}

/// How long a body says that it is.
pub fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A whole number in JSON, which may be written with a fraction of zero (JSON Schema, 4.2.3).
///
/// # Errors
/// When it is not a number, has a fraction, or is out of range.
pub fn whole<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(deserializer)? else { return Ok(None) };
    let whole =
        number.as_f64().filter(|value| value.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(value));
    let whole =
        whole.ok_or_else(|| serde::de::Error::custom(format!("{number} is not a whole number from 0 on")))?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is whole and in range")]
    Ok(Some(whole as u32))
}

/// A small body as a whole, and its room.
#[derive(Debug)]
pub struct Small {
    bytes: Vec<u8>,
    room: Reserved,
}

/// Reads a small body.
///
/// # Errors
/// 413 when it is not small, 408 when it does not come in time, 415 when it is encoded, 503 when there is no room for it.
pub async fn small(
    state: &ApiState,
    owner: OwnerSeq,
    headers: &HeaderMap,
    payload: web::Payload,
) -> Result<Small, Problem> {
    let room = state.budgets.body(owner, expected(headers, SMALL_BYTES)?).await?;
    in_room(state, headers, payload, SMALL_BYTES, room).await
}

fn too_large(most: usize) -> Problem {
    let detail = format!("this body has at most {most} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
}

/// The bytes that a body may take: as many as it announces, or as it may have at most.
fn expected(headers: &HeaderMap, most: usize) -> Result<usize, Problem> {
    unencoded(headers)?;
    let announced = announced(headers).map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    if announced.is_some_and(|bytes| bytes > most) {
        return Err(too_large(most));
    }
    Ok(announced.unwrap_or(most))
}

/// Reads a body of at most that many bytes into room that was made for them.
///
/// # Errors
/// As [`small`].
pub async fn in_room(
    state: &ApiState,
    headers: &HeaderMap,
    payload: web::Payload,
    most: usize,
    room: Reserved,
) -> Result<Small, Problem> {
    expected(headers, most)?;
    let deadline = Deadline::of_small(state);
    let mut bytes = Vec::new();
    let mut chunks = self::bytes(payload);
    while let Some(chunk) = deadline.next(&mut chunks).await? {
        if bytes.len() + chunk.len() > most {
            return Err(too_large(most));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Small { bytes, room })
}

impl Small {
    /// Whether nothing was sent.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Reads the fields of a form.
    ///
    /// # Errors
    /// 400 when it is not UTF-8.
    pub fn form(&self) -> Result<Vec<(String, String)>, Problem> {
        let fields: Vec<(String, String)> = form_urlencoded::parse(&self.bytes).into_owned().collect();
        if fields.iter().any(|(_, value)| value.contains(char::REPLACEMENT_CHARACTER)) {
            return Err(Problem::bad_request("bad_form", "the form is not UTF-8"));
        }
        Ok(fields)
    }

    /// Reads JSON. The room is for the values, and is held as long as they are.
    ///
    /// # Errors
    /// 400 when it is none, or not what is asked for; 413 when it holds too many values; 503 when there is no room for them.
    pub async fn json<T: DeserializeOwned>(
        self,
        state: &ApiState,
        owner: OwnerSeq,
    ) -> Result<(T, Reserved), Problem> {
        let weight = light(&self.bytes, "the body")?;
        // In its place, not beside it: an owner that alone is here always finds room.
        drop(self.room);
        let room = state.budgets.body(owner, weight).await?;
        let value =
            json::read(&self.bytes).map_err(|error| Problem::bad_request("bad_json", error.to_string()))?;
        Ok((value, room))
    }
}

/// What the values of a JSON text take in memory.
///
/// # Errors
/// 413 when that is too much.
pub fn light(json: &[u8], what: &str) -> Result<usize, Problem> {
    let weight = json_size::of_json(json);
    if weight <= MOST_WEIGHT {
        return Ok(weight);
    }
    let detail = format!(
        "{what} holds too many values: at most about {} objects, or {} numbers and texts, have room; send fewer",
        MOST_WEIGHT / 1024,
        MOST_WEIGHT / 256
    );
    Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_values", detail))
}

/// An answer in JSON that may be long: its room is held until its client has taken it, and it is handed over in pieces.
///
/// # Errors
/// When it cannot be written, which is a fault of this program.
pub fn answer<T: Serialize>(value: &T, mut room: Reserved) -> Result<HttpResponse, Problem> {
    let mut rest = web::Bytes::from(serde_json::to_vec(value).map_err(|error| {
        tracing::error!(%error, "an answer cannot be written");
        Problem::internal()
    })?);
    room.shrink(rest.len());
    let mut response = HttpResponse::Ok();
    response.content_type(mime::APPLICATION_JSON).no_chunking(rest.len() as u64);
    Ok(response.streaming(async_stream::stream! {
        let _room = room;
        while !rest.is_empty() {
            yield Ok::<_, Problem>(rest.split_to(rest.len().min(PIECE)));
        }
    }))
}

/// The body of an answer to HEAD. A stream would be read to its end for nobody, and hold its connection until then.
pub fn nothing() -> impl Stream<Item = Result<web::Bytes, Problem>> {
    futures::stream::empty()
}

/// How the body of an upload is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    Identity,
    /// With gzip.
    Gzip,
}

/// The content coding of an upload.
///
/// # Errors
/// 415 when it is another one than gzip, or more than one.
pub fn coding(headers: &HeaderMap) -> Result<Coding, Problem> {
    let mut sent = headers.get_all(header::CONTENT_ENCODING);
    let one = sent.next().filter(|_| sent.next().is_none());
    let gzip = one.and_then(|value| value.to_str().ok()).is_some_and(|value| {
        let value = value.trim();
        value.eq_ignore_ascii_case("gzip") || value.eq_ignore_ascii_case("x-gzip")
    });
    if gzip { Ok(Coding::Gzip) } else { unencoded(headers).map(|()| Coding::Identity) }
}

/// A body's bytes as they were before they were encoded.
pub fn decoded(
    body: impl Stream<Item = Result<web::Bytes, Problem>> + Unpin,
    coding: Coding,
) -> impl Stream<Item = Result<web::Bytes, Problem>> + Unpin {
    let mut body = body;
    Box::pin(async_stream::try_stream! {
        let mut unpack = (coding == Coding::Gzip).then(Unpack::gzip);
        while let Some(bytes) = body.try_next().await? {
            let Some(unpack) = &mut unpack else {
                yield bytes;
                continue;
            };
            let mut rest = bytes.as_ref();
            while !rest.is_empty() {
                let plain = unpack.step(&mut rest).map_err(not_unpacked)?;
                if !plain.bytes().is_empty() {
                    yield web::Bytes::copy_from_slice(plain.bytes());
                }
            }
        }
        if let Some(mut unpack) = unpack {
            let rest = unpack.finish().map_err(not_unpacked)?;
            if !rest.is_empty() {
                yield web::Bytes::from(rest);
            }
        }
    })
}

fn not_unpacked(error: UnpackError) -> Problem {
    Problem::unprocessable("bad_encoding", format!("Content-Encoding is gzip: {error}"))
}

/// A body that is compressed would be taken for what it is not.
///
/// # Errors
/// 415 when it has any content coding.
pub fn unencoded(headers: &HeaderMap) -> Result<(), Problem> {
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let value = value.to_str().unwrap_or("?").trim();
        if !value.is_empty() && !value.eq_ignore_ascii_case("identity") {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_encoding",
                format!("the body has Content-Encoding `{value}`; send it as it is, without one"),
            ));
        }
    }
    Ok(())
}
