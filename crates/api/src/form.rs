//! A form with a file, read as it comes.

use actix_multipart::Multipart;
use actix_web::http::StatusCode;
use actix_web::{FromRequest as _, HttpRequest, web};
use futures::TryStreamExt as _;
use penstock_flow::upload::{Accepted, Upload, UploadRequest};
use serde_json::{Map, Value};

use crate::body::{Deadline, SMALL_BYTES};
use crate::fields::{self, RawFields};
use crate::ingest::{finished, refusal};
use crate::media;
use crate::problem::Problem;
use crate::state::ApiState;

/// What has come of it so far.
#[derive(Default)]
struct Taken {
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
/// wrong: the longer list is the one that somebody mends.
pub async fn take(
    state: &ApiState,
    wanted: UploadRequest,
    request: &HttpRequest,
    payload: web::Payload,
    deadline: Deadline,
) -> Result<Accepted, Problem> {
    let mut payload = payload.into_inner();
    let form = Multipart::from_request(request, &mut payload).await.map_err(|error| not_multipart(&error))?;
    let mut taken = Taken::default();
    let read = taken.read(state, wanted, form, deadline).await;
    let Some(upload) = taken.upload else {
        read?;
        return Err(Problem::bad_request("no_file", "send the CSV as the form field `file`"));
    };
    let fields = read.and_then(|()| {
        let raw: RawFields = serde_json::from_value(Value::Object(taken.fields))
            .map_err(|error| Problem::bad_request("bad_field", error.to_string()))?;
        raw.checked(state)
    });
    match fields {
        Ok(fields) => finished(upload.finish(fields)).await,
        Err(problem) => Err(upload.abandon().await.map_or(problem, refusal)),
    }
}

impl Taken {
    async fn read(
        &mut self,
        state: &ApiState,
        wanted: UploadRequest,
        mut form: Multipart,
        deadline: Deadline,
    ) -> Result<(), Problem> {
        let mut parts = (&mut form).map_err(|error| not_multipart(&error.into()));
        while let Some(mut part) = deadline.next(&mut parts).await? {
            let name = part.name().unwrap_or_default().to_owned();
            self.expect(&name)?;
            media::plain_part(&part, &name)?;
            let mut chunks = (&mut part).map_err(|error| not_multipart(&error.into()));
            if name == "file" {
                let mut upload = Upload::start(&state.engines, wanted.clone()).await?;
                while let Some(bytes) = deadline.next(&mut chunks).await? {
                    upload.push(&bytes).await.map_err(refusal)?;
                }
                self.upload = Some(upload);
                continue;
            }
            let mut value = Vec::new();
            while let Some(bytes) = deadline.next(&mut chunks).await? {
                self.bytes += bytes.len();
                if self.bytes > SMALL_BYTES {
                    let detail = format!("the fields beside the file have more than {SMALL_BYTES} bytes");
                    return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "field_too_large", detail));
                }
                value.extend_from_slice(&bytes);
            }
            let text = String::from_utf8(value)
                .map_err(|_| Problem::bad_request("bad_field", format!("the field `{name}` is not UTF-8")))?;
            self.fields.insert(name, Value::String(text));
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
            "file" => Ok(()),
            "upload_id" => bad("`upload_id` goes without a file, as JSON".into()),
            name if !fields::NAMES.contains(&name) => {
                let shown: String = name.chars().filter(|c| !c.is_control()).take(50).collect();
                bad(format!(
                    "there is no field `{shown}`; beside `file` there are {}",
                    fields::NAMES.join(", ")
                ))
            }
            name if self.fields.contains_key(name) => bad(format!("the field `{name}` stands twice")),
            _ => Ok(()),
        }
    }
}

fn not_multipart(error: &actix_web::Error) -> Problem {
    Problem::bad_request("bad_multipart", format!("the form cannot be read: {error}"))
}
