//! The console's form with a file. Its fields stand before the file: when that begins, it is known whose form it is and which
//! pipeline checks it.

use std::sync::Arc;

use actix_web::{HttpRequest, web};
use penstock_console::upload::Filled;
use penstock_domain::pipeline::Pipeline;
use penstock_flow::intake::upload::{Accepted, UploadRequest};
use penstock_store::owners::Scope;
use serde_json::{Map, Value, json};

use crate::body;
use crate::console::given;
use crate::console::visitor::Visitor;
use crate::fields::RawFields;
use crate::form::{Fields, Form, Taken, read_fields};
use crate::ingest::{admit, upload_of};
use crate::pipelines::named;
use crate::problem::Problem;
use crate::state::ApiState;

/// Bytes of what tells one form from another.
const MOST_FORM: usize = 64;

/// Makes a batch of the form. What was filled in is kept for the page that shows the form again.
///
/// # Errors
/// The refusal, as a client of the REST API gets it. A file's own errors come first, whatever else is wrong.
pub(super) async fn take(
    visitor: &Visitor,
    state: &ApiState,
    request: &HttpRequest,
    payload: web::Payload,
) -> (Filled, Result<Accepted, Problem>) {
    let mut taken = Taken::default();
    let accepted = accept(visitor, state, request, payload, &mut taken).await;
    (filled(state, &taken.fields), accepted)
}

async fn accept(
    visitor: &Visitor,
    state: &ApiState,
    request: &HttpRequest,
    payload: web::Payload,
    taken: &mut Taken,
) -> Result<Accepted, Problem> {
    visitor.needs(Scope::Upload)?;
    // Which pipeline it is stands in the form: there is room for any of them.
    let schemas = state.services.pipelines.iter();
    let schemas =
        schemas.map(|pipeline| pipeline.schema.limits.max_record_bytes + pipeline.schema.unique_bytes());
    let most = state.services.part_bytes + schemas.max().unwrap_or(0);
    let caller = &visitor.caller;
    let room = state.budgets.upload(caller.owner, body::announced(request.headers()), most).await?;
    let mut form = ConsoleForm { visitor, state, request, pipeline: None };
    taken.take(caller, state, &mut form, request, body::within(payload, &room), &room).await
}

/// What it needs of the visitor, and which pipeline was chosen.
struct ConsoleForm<'a> {
    visitor: &'a Visitor,
    state: &'a ApiState,
    request: &'a HttpRequest,
    pipeline: Option<Arc<Pipeline>>,
}

impl Form for ConsoleForm<'_> {
    /// Fields of pipelines that were not chosen come as well.
    fn expect(&self, _: &str) -> Result<(), Problem> {
        Ok(())
    }

    async fn start(&mut self, fields: &Fields) -> Result<UploadRequest, Problem> {
        self.visitor.is_own_form(fields.get("csrf").map(String::as_str))?;
        let (caller, state) = (&self.visitor.caller, self.state);
        let name = fields.get("pipeline").map(String::as_str).unwrap_or_default();
        let pipeline = named(caller, state, name)?;
        state.rates.upload(&caller.key_id, caller.owner, self.request)?;
        admit(state, caller.owner, 1, self.request).await?;
        self.pipeline = Some(pipeline.clone());
        let form = fields.get("form").filter(|form| form.len() <= MOST_FORM).cloned();
        Ok(UploadRequest { form, ..upload_of(caller, pipeline) })
    }

    fn raw(&self, fields: &Fields) -> Result<RawFields, Problem> {
        let filled = filled(self.state, fields);
        let mut raw = Map::new();
        for (name, value) in [("name", &filled.name), ("labels", &filled.labels)] {
            if let Some(value) = given(value) {
                raw.insert(name.into(), value.into());
            }
        }
        let chosen = self.pipeline.as_ref().map(|pipeline| pipeline.name.as_str()).unwrap_or_default();
        let context: Map<String, Value> = filled
            .context
            .iter()
            .filter(|(name, _, _)| name == chosen)
            .map(|(_, key, value)| (key.clone(), value.as_str().into()))
            .collect();
        if !context.is_empty() {
            raw.insert("context".into(), context.into());
        }
        raw.insert("allow_failures".into(), (!filled.stops).into());
        if let Some(rows) = given(&filled.trial_rows) {
            let refused = |detail| Problem::unprocessable("bad_field", detail);
            let rows = rows.parse::<u32>().ok().filter(|rows| *rows > 0);
            let rows =
                rows.ok_or_else(|| refused("the rows to try first are a whole number from 1, or nothing"))?;
            let share = given(&filled.trial_failures).unwrap_or_else(|| "10".into());
            if !share.parse::<f64>().is_ok_and(|share| (0.0..=100.0).contains(&share)) {
                return Err(refused("of the rows to try first 0 to 100 percent may fail"));
            }
            let canary = json!({ "rows": rows, "max_failure": format!("{share} %") });
            raw.insert("canary".into(), canary);
        }
        read_fields(raw)
    }

    fn no_file(&self) -> Problem {
        Problem::unprocessable("no_file", "choose a file")
    }
}

/// What was filled in.
fn filled(state: &ApiState, fields: &Fields) -> Filled {
    let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
    let mut context = Vec::new();
    for pipeline in state.services.pipelines.iter() {
        for key in pipeline.context_keys() {
            if let Some(value) = fields.get(&format!("context.{}.{key}", pipeline.name)) {
                context.push((pipeline.name.clone(), key.clone(), value.clone()));
            }
        }
    }
    Filled {
        pipeline: field("pipeline"),
        name: field("name"),
        labels: field("labels"),
        context,
        stops: fields.contains_key("stop"),
        trial_rows: field("trial_rows"),
        trial_failures: field("trial_failures"),
    }
}
