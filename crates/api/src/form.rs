//! A form with a file, read as it comes.

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, web};
use futures::Stream;
use penstock_flow::intake::upload::{Accepted, Upload, UploadRequest};
use serde_json::{Map, Value};

use crate::auth::Caller;
use crate::body::{Deadline, SMALL_BYTES};
use crate::budgets::UploadRoom;
use crate::fields::{self, RawFields};
use crate::multipart::{self, Charset, Event, Malformed, Parser, PartHead, shown};
use crate::problem::Problem;
use crate::state::ApiState;
use crate::upload_end::{finished, refusal};

/// A hidden field by which browsers report the form's charset (RFC 7578, section 4.6).
const CHARSET_FIELD: &str = "_charset_";

/// The part that is being read.
#[derive(Default)]
enum Part {
    #[default]
    None,
    File(Box<Upload>),
    Field(PartHead, Vec<u8>),
}

/// What has come of it so far.
#[derive(Default)]
struct Taken {
    part: Part,
    /// The file, once all of it is there.
    upload: Option<Upload>,
    fields: Map<String, Value>,
    /// Bytes of all fields together.
    bytes: usize,
}

/// Makes a batch of a form.
///
/// # Errors
/// The refusal, as the client reads it. When the file is complete and has errors, these are told, whatever else is
/// wrong: the longer list is the one that somebody fixes.
pub async fn take(
    caller: &Caller,
    state: &ApiState,
    wanted: UploadRequest,
    request: &HttpRequest,
    body: impl Stream<Item = Result<web::Bytes, Problem>> + Unpin,
    room: &UploadRoom,
) -> Result<Accepted, Problem> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let boundary = multipart::boundary(content_type.unwrap_or_default()).map_err(not_multipart)?;
    let deadline = Deadline::start(state);
    let mut taken = Taken::default();
    let read = taken.read(state, wanted, Parser::new(&boundary), body, deadline).await;
    let Some(upload) = taken.upload else {
        read?;
        return Err(Problem::bad_request("no_file", "send the CSV as the form field `file`"));
    };
    let fields = async {
        read?;
        let raw: RawFields = serde_json::from_value(Value::Object(taken.fields))
            .map_err(|error| Problem::bad_request("bad_field", error.to_string()))?;
        room.hold(raw.weight()?).await?;
        let fields = raw.checked(state)?;
        caller.still(state).await?;
        Ok(fields)
    };
    match fields.await {
        Ok(fields) => finished(upload.finish(fields)).await,
        Err(problem) => Err(upload.abandon().await.map_or(problem, refusal)),
    }
}

impl Taken {
    async fn read(
        &mut self,
        state: &ApiState,
        wanted: UploadRequest,
        mut form: Parser,
        mut body: impl Stream<Item = Result<web::Bytes, Problem>> + Unpin,
        deadline: Deadline,
    ) -> Result<(), Problem> {
        loop {
            match form.next_event().map_err(not_multipart)? {
                Some(Event::Part(head)) => {
                    self.end_part()?;
                    self.expect(&head.name)?;
                    self.part = begin(head, state, &wanted).await?;
                }
                Some(Event::Content(bytes)) => self.content(&bytes).await?,
                None if form.is_done() => return self.end_part(),
                None => match deadline.next(&mut body).await? {
                    Some(bytes) => form.push(&bytes),
                    None => form.finish(),
                },
            }
        }
    }

    async fn content(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        match &mut self.part {
            Part::None => {}
            Part::File(upload) => upload.push(bytes).await.map_err(refusal)?,
            Part::Field(_, value) => {
                self.bytes += bytes.len();
                if self.bytes > SMALL_BYTES {
                    let detail = format!("the fields beside the file have more than {SMALL_BYTES} bytes");
                    return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "field_too_large", detail));
                }
                value.extend_from_slice(bytes);
            }
        }
        Ok(())
    }

    /// All of a part is there.
    fn end_part(&mut self) -> Result<(), Problem> {
        match std::mem::take(&mut self.part) {
            Part::None => {}
            Part::File(upload) => self.upload = Some(*upload),
            Part::Field(head, value) => {
                let text = text(&head, value)?;
                if head.name == CHARSET_FIELD {
                    return known_charset(&head.name, &Charset::named(&text));
                }
                self.fields.insert(head.name, Value::String(text));
            }
        }
        Ok(())
    }

    /// A field is refused by its name: nobody has to hold what it says.
    fn expect(&self, name: &str) -> Result<(), Problem> {
        let bad = |detail: String| Err(Problem::bad_request("bad_field", detail));
        match name {
            "file" if self.upload.is_some() => {
                Err(Problem::bad_request("two_files", "send one field `file`"))
            }
            "file" | CHARSET_FIELD => Ok(()),
            "upload_id" => bad("`upload_id` goes without a file, as JSON".into()),
            name if !fields::NAMES.contains(&name) => bad(format!(
                "there is no field `{}`; beside `file` there are {}",
                shown(name),
                fields::NAMES.join(", ")
            )),
            name if self.fields.contains_key(name) => bad(format!("duplicate field `{name}`")),
            _ => Ok(()),
        }
    }
}

async fn begin(head: PartHead, state: &ApiState, wanted: &UploadRequest) -> Result<Part, Problem> {
    if let Some((what, value)) = &head.encoding {
        let value = shown(value);
        let detail =
            format!("the field `{}` has the {what} `{value}`; send it as it is, in UTF-8", head.name);
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", detail));
    }
    if head.name != "file" {
        return Ok(Part::Field(head, Vec::new()));
    }
    if !head.charset.may_be(wanted.pipeline.schema.dialect.charset) {
        known_charset(&head.name, &head.charset)?;
    }
    Ok(Part::File(Box::new(Upload::start(&state.services, wanted.clone()).await?)))
}

fn text(head: &PartHead, value: Vec<u8>) -> Result<String, Problem> {
    if head.charset == Charset::Latin1 {
        return Ok(multipart::latin1(&value));
    }
    known_charset(&head.name, &head.charset)?;
    String::from_utf8(value)
        .map_err(|_| Problem::bad_request("bad_field", format!("the field `{}` is not UTF-8", head.name)))
}

fn known_charset(name: &str, charset: &Charset) -> Result<(), Problem> {
    let other = match charset {
        Charset::Utf8 => return Ok(()),
        Charset::Latin1 => "ISO-8859-1",
        Charset::Other(other) => other,
    };
    let detail = format!("the field `{name}` has the charset `{other}`; send it in UTF-8");
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", detail))
}

fn not_multipart(malformed: Malformed) -> Problem {
    Problem::bad_request("bad_multipart", format!("the form cannot be read: {malformed}"))
}
