//! The console's form with a file, read as it comes. Its fields stand before the file: when that begins, it is known whose form
//! it is and which pipeline checks it.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, web};
use futures::Stream;
use penstock_console::upload::Filled;
use penstock_domain::pipeline::Pipeline;
use penstock_flow::intake::upload::{Accepted, Upload, UploadRequest};
use penstock_store::owners::Scope;
use serde_json::{Map, Value, json};

use crate::body::{self, Deadline, SMALL_BYTES};
use crate::console::given;
use crate::console::visitor::Visitor;
use crate::fields::RawFields;
use crate::ingest::admit;
use crate::multipart::{self, Charset, Event, Malformed, Parser, PartHead};
use crate::pipelines::named;
use crate::problem::Problem;
use crate::state::ApiState;
use crate::upload_end::{finished, refusal};

/// A form that is being read.
pub(super) struct UploadForm<'a> {
    visitor: &'a Visitor,
    state: &'a ApiState,
    request: &'a HttpRequest,
    fields: BTreeMap<String, String>,
    /// Bytes of all fields together.
    bytes: usize,
    part: Part,
    upload: Option<(Upload, Arc<Pipeline>)>,
}

/// The part that is being read.
#[derive(Default)]
enum Part {
    #[default]
    None,
    File,
    Field(String, Vec<u8>),
}

impl<'a> UploadForm<'a> {
    pub fn new(visitor: &'a Visitor, state: &'a ApiState, request: &'a HttpRequest) -> Self {
        let fields = BTreeMap::new();
        Self { visitor, state, request, fields, bytes: 0, part: Part::None, upload: None }
    }

    /// Makes a batch of it.
    ///
    /// # Errors
    /// The refusal, as a client of the REST API gets it. A file's own errors come first, whatever else is wrong.
    pub async fn take(&mut self, payload: web::Payload) -> Result<Accepted, Problem> {
        self.visitor.needs(Scope::Upload)?;
        let content_type = self.request.headers().get(header::CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let boundary = multipart::boundary(content_type).map_err(not_multipart)?;
        let (caller, state) = (&self.visitor.caller, self.state);
        let loaded = state.services.pipelines.iter();
        let record = loaded.map(|pipeline| pipeline.schema.limits.max_record_bytes).max().unwrap_or(0);
        let announced = body::announced(self.request.headers());
        let room = state.budgets.upload(caller.owner, announced, state.services.part_bytes + record).await?;
        let read = self.read(Parser::new(&boundary), body::within(payload, &room)).await;
        let Some((upload, pipeline)) = self.upload.take() else {
            read?;
            return Err(Problem::unprocessable("no_file", "choose a file"));
        };
        let fields = async {
            read?;
            let raw = self.raw(&pipeline)?;
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

    async fn read(
        &mut self,
        mut form: Parser,
        mut body: impl Stream<Item = Result<web::Bytes, Problem>> + Unpin,
    ) -> Result<(), Problem> {
        let deadline = Deadline::start(self.state);
        loop {
            match form.next_event().map_err(not_multipart)? {
                Some(Event::Part(head)) => {
                    self.end_part()?;
                    self.begin(head).await?;
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

    async fn begin(&mut self, head: PartHead) -> Result<(), Problem> {
        if head.encoding.is_some() || head.charset != Charset::Utf8 {
            let detail = format!("the field `{}` is encoded; send it as it is, in UTF-8", head.name);
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", detail));
        }
        if head.name != "file" {
            // What holds a field counts too: there may be very many without a value.
            self.count(head.name.len() + 64)?;
            self.part = Part::Field(head.name, Vec::new());
            return Ok(());
        }
        if self.upload.is_some() {
            return Err(Problem::bad_request("two_files", "send one file"));
        }
        self.visitor.is_own_form(self.fields.get("csrf").map(String::as_str))?;
        let (caller, state) = (&self.visitor.caller, self.state);
        let name = self.fields.get("pipeline").map(String::as_str).unwrap_or_default();
        let pipeline = named(caller, state, name)?;
        state.rates.upload(&caller.key_id, caller.owner, self.request)?;
        admit(state, caller.owner, 1, self.request).await?;
        let wanted = UploadRequest {
            owner: caller.owner,
            owner_name: caller.owner_name.clone(),
            pipeline: pipeline.clone(),
            idempotency_key: None,
        };
        self.upload = Some((Upload::start(&state.services, wanted).await?, pipeline));
        self.part = Part::File;
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

    async fn content(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        if matches!(self.part, Part::Field(..)) {
            self.count(bytes.len())?;
        }
        match (&mut self.part, &mut self.upload) {
            (Part::File, Some((upload, _))) => upload.push(bytes).await.map_err(refusal)?,
            (Part::Field(_, value), _) => value.extend_from_slice(bytes),
            _ => {}
        }
        Ok(())
    }

    fn end_part(&mut self) -> Result<(), Problem> {
        if let Part::Field(name, value) = std::mem::take(&mut self.part) {
            let text = String::from_utf8(value)
                .map_err(|_| Problem::bad_request("bad_field", format!("the field `{name}` is not UTF-8")))?;
            self.fields.insert(name, text);
        }
        Ok(())
    }

    /// The fields as the REST API takes them.
    fn raw(&self, pipeline: &Pipeline) -> Result<RawFields, Problem> {
        let filled = self.filled();
        let mut fields = Map::new();
        if let Some(name) = given(&filled.name) {
            fields.insert("name".into(), name.into());
        }
        let context: Map<String, Value> = filled
            .context
            .iter()
            .filter(|(name, _, _)| *name == pipeline.name)
            .map(|(_, key, value)| (key.clone(), value.as_str().into()))
            .collect();
        if !context.is_empty() {
            fields.insert("context".into(), context.into());
        }
        fields.insert("allow_failures".into(), (!filled.stops).into());
        if let Some(rows) = given(&filled.trial_rows) {
            let rows: u32 = rows.parse().map_err(|_| {
                Problem::unprocessable("bad_field", "the rows to try first are a whole number, or nothing")
            })?;
            let share = given(&filled.trial_failures).unwrap_or_else(|| "10".into());
            let canary = json!({ "rows": rows, "max_failure": format!("{share} %") });
            fields.insert("canary".into(), canary);
        }
        serde_json::from_value(Value::Object(fields))
            .map_err(|error| Problem::bad_request("bad_field", error.to_string()))
    }

    /// What was filled in, for the page that shows the form again.
    pub fn filled(&self) -> Filled {
        let field = |name: &str| self.fields.get(name).cloned().unwrap_or_default();
        let mut context = Vec::new();
        for pipeline in self.state.services.pipelines.iter() {
            for key in pipeline.context_keys() {
                if let Some(value) = self.fields.get(&format!("context.{}.{key}", pipeline.name)) {
                    context.push((pipeline.name.clone(), key.clone(), value.clone()));
                }
            }
        }
        Filled {
            pipeline: field("pipeline"),
            name: field("name"),
            context,
            stops: self.fields.contains_key("stop"),
            trial_rows: field("trial_rows"),
            trial_failures: field("trial_failures"),
        }
    }
}

fn not_multipart(malformed: Malformed) -> Problem {
    Problem::bad_request("bad_multipart", format!("the form cannot be read: {malformed}"))
}
