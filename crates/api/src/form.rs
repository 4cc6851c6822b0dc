//! A form with a file, read as it comes: by the REST API and by the console.

use std::collections::BTreeMap;

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
use crate::progress::Reporter;
use crate::state::ApiState;
use crate::upload_end::{finished, refusal};

/// A hidden field by which browsers report the form's charset (RFC 7578, section 4.6).
const CHARSET_FIELD: &str = "_charset_";

/// What holds a field, besides its name and its value.
const FIELD_COST: usize = 64;

/// Fields of a form, by name.
pub(crate) type Fields = BTreeMap<String, String>;

/// Whose form it is: which fields it may have, where its file goes.
pub(crate) trait Form {
    /// Whether a field may have that name, before anybody holds what it says.
    ///
    /// # Errors
    /// The refusal.
    fn expect(&self, name: &str) -> Result<(), Problem>;

    /// The file begins, and these fields stand before it.
    ///
    /// # Errors
    /// The refusal.
    async fn start(&mut self, fields: &Fields) -> Result<UploadRequest, Problem>;

    /// All fields, as the REST API takes them.
    ///
    /// # Errors
    /// The refusal.
    fn raw(&self, fields: &Fields) -> Result<RawFields, Problem>;

    /// Why there is no file.
    fn no_file(&self) -> Problem;
}

/// The form of the REST API.
struct RestForm(UploadRequest);

impl Form for RestForm {
    fn expect(&self, name: &str) -> Result<(), Problem> {
        let bad = |detail: String| Err(Problem::bad_request("bad_field", detail));
        match name {
            "upload_id" => bad("`upload_id` goes without a file, as JSON".into()),
            name if !fields::NAMES.contains(&name) => bad(format!(
                "there is no field `{}`; beside `file` there are {}",
                shown(name),
                fields::NAMES.join(", ")
            )),
            _ => Ok(()),
        }
    }

    async fn start(&mut self, _: &Fields) -> Result<UploadRequest, Problem> {
        Ok(self.0.clone())
    }

    fn raw(&self, fields: &Fields) -> Result<RawFields, Problem> {
        let fields: Map<String, Value> =
            fields.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        read_fields(fields)
    }

    fn no_file(&self) -> Problem {
        Problem::bad_request("no_file", "send the CSV as the form field `file`")
    }
}

/// Fields from their values.
///
/// # Errors
/// 400 when a value is of another kind.
pub(crate) fn read_fields(fields: Map<String, Value>) -> Result<RawFields, Problem> {
    serde_json::from_value(Value::Object(fields))
        .map_err(|error| Problem::bad_request("bad_field", error.to_string()))
}

/// The part that is being read.
#[derive(Default)]
enum Part {
    #[default]
    None,
    File(Box<Upload>),
    Field(PartHead, Vec<u8>),
}

/// What reads a form's body.
struct Reading<'a> {
    state: &'a ApiState,
    reporter: Reporter,
    parser: Parser,
    deadline: Deadline,
}

/// What has come of a form so far.
#[derive(Default)]
pub(crate) struct Taken {
    part: Part,
    /// The file, once all of it is there.
    upload: Option<Upload>,
    /// The fields that are there.
    pub fields: Fields,
    /// Bytes of all fields together.
    bytes: usize,
}

/// Makes a batch of a form of the REST API.
///
/// # Errors
/// As [`Taken::take`].
pub(crate) async fn take(
    caller: &Caller,
    state: &ApiState,
    wanted: UploadRequest,
    request: &HttpRequest,
    body: impl Stream<Item = Result<web::Bytes, Problem>> + Unpin,
    room: &UploadRoom,
) -> Result<Accepted, Problem> {
    Taken::default().take(caller, state, &mut RestForm(wanted), request, body, room).await
}

impl Taken {
    /// Makes a batch of a form.
    ///
    /// # Errors
    /// The refusal, as the client reads it. When the file is complete and has errors, these are told, whatever else is
    /// wrong: the longer list is the one that somebody fixes.
    pub async fn take(
        &mut self,
        caller: &Caller,
        state: &ApiState,
        form: &mut impl Form,
        request: &HttpRequest,
        body: impl Stream<Item = Result<web::Bytes, Problem>> + Unpin,
        room: &UploadRoom,
    ) -> Result<Accepted, Problem> {
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let boundary = multipart::boundary(content_type.unwrap_or_default()).map_err(not_multipart)?;
        let reading = Reading {
            state,
            reporter: Reporter::of(request, caller.owner)?,
            parser: Parser::new(&boundary),
            deadline: Deadline::start(state),
        };
        let read = self.read(caller, reading, form, body).await;
        let Some(upload) = self.upload.take() else {
            read?;
            return Err(form.no_file());
        };
        let fields = async {
            read?;
            let raw = form.raw(&self.fields)?;
            room.hold(raw.weight()?).await?;
            let fields = raw.checked(state)?;
            caller.still(state).await?;
            Ok(fields)
        };
        match fields.await {
            Ok(fields) => finished(caller, state, upload.finish(fields)).await,
            Err(problem) => match upload.abandon().await {
                Some(error) => Err(refusal(caller, state, error).await),
                None => Err(problem),
            },
        }
    }

    async fn read(
        &mut self,
        caller: &Caller,
        reading: Reading<'_>,
        form: &mut impl Form,
        mut body: impl Stream<Item = Result<web::Bytes, Problem>> + Unpin,
    ) -> Result<(), Problem> {
        let Reading { state, mut reporter, mut parser, deadline } = reading;
        loop {
            match parser.next_event().map_err(not_multipart)? {
                Some(Event::Part(head)) => {
                    self.end_part()?;
                    self.expect(form, &head.name)?;
                    self.part = self.begin(head, state, form).await?;
                }
                Some(Event::Content(bytes)) => {
                    self.content(caller, state, &bytes).await?;
                    if let Part::File(upload) = &self.part {
                        reporter.report(state, upload).await;
                    }
                }
                None if parser.is_done() => return self.end_part(),
                None => match deadline.next(&mut body).await? {
                    Some(bytes) => parser.push(&bytes),
                    None => parser.finish(),
                },
            }
        }
    }

    async fn begin(
        &mut self,
        head: PartHead,
        state: &ApiState,
        form: &mut impl Form,
    ) -> Result<Part, Problem> {
        if let Some((what, value)) = &head.encoding {
            let value = shown(value);
            let detail =
                format!("the field `{}` has the {what} `{value}`; send it as it is, in UTF-8", head.name);
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", detail));
        }
        if head.name != "file" {
            // What holds a field counts too: there may be very many without a value.
            self.count(head.name.len() + FIELD_COST)?;
            return Ok(Part::Field(head, Vec::new()));
        }
        let wanted = form.start(&self.fields).await?;
        if !head.charset.may_be(wanted.pipeline.schema.dialect.charset) {
            known_charset(&head.name, &head.charset)?;
        }
        Ok(Part::File(Box::new(Upload::start(&state.services, wanted).await?)))
    }

    async fn content(&mut self, caller: &Caller, state: &ApiState, bytes: &[u8]) -> Result<(), Problem> {
        if matches!(self.part, Part::Field(..)) {
            self.count(bytes.len())?;
        }
        match &mut self.part {
            Part::None => {}
            Part::File(upload) => {
                if let Err(error) = upload.push(bytes).await {
                    return Err(refusal(caller, state, error).await);
                }
            }
            Part::Field(_, value) => value.extend_from_slice(bytes),
        }
        Ok(())
    }

    /// So many bytes more beside the file.
    fn count(&mut self, bytes: usize) -> Result<(), Problem> {
        self.bytes += bytes;
        if self.bytes <= SMALL_BYTES {
            return Ok(());
        }
        let detail = format!("the fields beside the file have more than {SMALL_BYTES} bytes");
        Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "field_too_large", detail))
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
                self.fields.insert(head.name, text);
            }
        }
        Ok(())
    }

    /// A field is refused by its name: nobody has to hold what it says.
    fn expect(&self, form: &impl Form, name: &str) -> Result<(), Problem> {
        match name {
            "file" if self.upload.is_some() => {
                Err(Problem::bad_request("two_files", "send one field `file`"))
            }
            "file" | CHARSET_FIELD => Ok(()),
            name if self.fields.contains_key(name) => {
                Err(Problem::bad_request("bad_field", format!("duplicate field `{}`", shown(name))))
            }
            name => form.expect(name),
        }
    }
}

fn text(head: &PartHead, value: Vec<u8>) -> Result<String, Problem> {
    if head.charset == Charset::Latin1 {
        return Ok(multipart::latin1(&value));
    }
    known_charset(&head.name, &head.charset)?;
    String::from_utf8(value).map_err(|_| {
        Problem::bad_request("bad_field", format!("the field `{}` is not UTF-8", shown(&head.name)))
    })
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
