//! What templates read, as values of their engine.

use std::collections::BTreeMap;

use minijinja::Value;
use serde_json::Map;
use uuid::Uuid;

use super::engine;
use crate::time::Timestamp;

/// Whose a row is, and where it stands.
#[derive(Clone, Debug, Default)]
pub struct RowAbout {
    /// The owner's name.
    pub owner: String,
    /// The batch's public id.
    pub batch: Uuid,
    /// What the client calls the batch.
    pub batch_name: Option<String>,
    /// The row's number in its file, from 1 on.
    pub number: u32,
    /// The batch and row whose idempotency keys it keeps: it is a line of their report, uploaded again.
    pub keys_of: Option<(Uuid, u32)>,
}

impl RowAbout {
    /// The batch and row that idempotency keys are made of.
    pub(super) fn key_identity(&self) -> (Uuid, u32) {
        self.keys_of.unwrap_or((self.batch, self.number))
    }
}

/// What of a row stays the same at all its steps, as templates read it: made once for each row.
#[derive(Clone, Debug)]
pub struct RowValues {
    row: Value,
    context: Value,
    owner: Value,
    batch: Value,
    pub(super) about: RowAbout,
    /// Set within a bulk call.
    pub(super) call: Option<RowInCall>,
}

/// A row's place in a bulk call.
#[derive(Clone, Debug, Default)]
pub struct RowInCall {
    /// Its place among the call's rows, from 0.
    pub index: usize,
    /// The call's idempotency key, of a keyed step.
    pub key: Option<String>,
    /// The call's complete answer, once it is there and where it is read.
    pub whole: Option<WholeAnswer>,
}

/// The complete answer of a bulk call, as templates read it: made once for all of its rows.
#[derive(Clone, Debug)]
pub struct WholeAnswer(Value);

impl WholeAnswer {
    /// Of an answer's body.
    pub fn of(body: &serde_json::Value) -> Self {
        Self(engine::from_json(body))
    }
}

impl RowValues {
    /// Of the row's values by column, and of what came with the upload. Nothing is known of its owner and batch.
    pub fn new(row: &BTreeMap<String, String>, context: &serde_json::Value) -> Self {
        Self {
            row: engine::from_texts(row),
            context: engine::from_json(context),
            owner: Value::UNDEFINED,
            batch: Value::UNDEFINED,
            about: RowAbout::default(),
            call: None,
        }
        .about(RowAbout::default())
    }

    /// The same of a row of this owner and batch.
    #[must_use]
    pub fn about(self, about: RowAbout) -> Self {
        let owner = Value::from_pairs([("name", Value::from(about.owner.as_str()))]);
        // A batch without a name has none to show: null, which is nothing in text.
        let name = about.batch_name.as_deref().map_or(Value::from(()), Value::from);
        let batch = Value::from_pairs([("id", Value::from(about.batch.to_string())), ("name", name)]);
        Self { owner, batch, about, ..self }
    }

    /// The same of a row in a bulk call.
    #[must_use]
    pub fn in_call(&self, call: RowInCall) -> Self {
        Self { call: Some(call), ..self.clone() }
    }

    /// The row's number as the text by which it is known within a call.
    pub(super) fn item_id(&self) -> String {
        self.about.number.to_string()
    }
}

/// What templates may read.
#[derive(Clone, Copy)]
pub struct RowContext<'a> {
    /// The row's values and the upload's context.
    pub values: &'a RowValues,
    /// Outputs of earlier steps by name.
    pub steps: &'a Map<String, serde_json::Value>,
    /// The time of `now()`.
    pub now: Timestamp,
}

/// An answer, as `output` reads it.
#[derive(Clone, Copy)]
pub struct ResponseView<'a> {
    /// Its status.
    pub status: u16,
    /// Its headers, names in lower case.
    pub headers: &'a BTreeMap<String, String>,
    /// Its body, as JSON.
    pub body: &'a serde_json::Value,
}

/// The values that templates of a step read, by name.
#[derive(Clone)]
pub(super) struct Scope(BTreeMap<&'static str, Value>);

impl Scope {
    /// What is readable in all templates.
    pub fn of(row: &RowContext<'_>) -> Self {
        let mut values = BTreeMap::new();
        values.insert("row", row.values.row.clone());
        values.insert("context", row.values.context.clone());
        values.insert("owner", row.values.owner.clone());
        values.insert("batch", row.values.batch.clone());
        values.insert("row_number", Value::from(row.values.about.number));
        values.insert("steps", engine::from_fields(row.steps));
        values.insert(engine::NOW, Value::from(row.now.millis().div_euclid(1000)));
        if let Some(call) = &row.values.call {
            let id = Value::from(row.values.item_id());
            values.insert("item", Value::from_pairs([("index", Value::from(call.index)), ("id", id)]));
            values.extend(call.whole.as_ref().map(|whole| ("whole", whole.0.clone())));
        }
        Self(values)
    }

    /// Also one result of a bulk call's answer.
    #[must_use]
    pub fn with_result(mut self, result: &serde_json::Value) -> Self {
        self.0.insert("result", engine::from_json(result));
        self
    }

    /// Also the key of a keyed step.
    #[must_use]
    pub fn with_key(mut self, key: Option<&str>) -> Self {
        self.0.extend(key.map(|key| ("idempotency_key", Value::from(key))));
        self
    }

    /// Also an answer; its body only where it is read, because it may be long.
    #[must_use]
    pub fn with_answer(mut self, response: ResponseView<'_>, reads_body: bool) -> Self {
        self.0.insert("status", Value::from(response.status));
        self.0.insert("headers", engine::from_texts(response.headers));
        if reads_body {
            self.0.insert("body", engine::from_json(response.body));
        }
        self
    }

    /// The same for the template of an idempotency key: `batch.id` and `row_number` are those of the row whose keys it keeps.
    #[must_use]
    pub fn for_key(mut self, about: &RowAbout) -> Self {
        if let Some((batch, number)) = about.keys_of {
            let name = about.batch_name.as_deref().map_or(Value::from(()), Value::from);
            let batch = Value::from_pairs([("id", Value::from(batch.to_string())), ("name", name)]);
            self.0.insert("batch", batch);
            self.0.insert("row_number", Value::from(number));
        }
        self
    }

    /// As the engine takes it.
    pub fn into_value(self) -> Value {
        Value::from(self.0)
    }
}
