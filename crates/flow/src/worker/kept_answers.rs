//! The answer of a call that succeeded although `output` could not read it: it is kept sealed instead of the step's receipt. A
//! retry reads it again, perhaps with a corrected definition, without a call: the first one had its effect.

use std::collections::BTreeMap;

use penstock_domain::outcome::Repetition;
use penstock_domain::pipeline::{ResponseView, RowContext, Step};
use penstock_downstream::{Failure, Response};
use serde_json::{Map, Value, json};

/// An answer, as far as `output` reads it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KeptAnswer {
    /// Its status.
    pub status: u16,
    /// Its headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: Value,
    /// Why the body is not JSON, in a sentence for the row's owner.
    pub fault: Option<String>,
    /// The signature that its request had; it is not kept.
    pub signature: Vec<String>,
}

impl KeptAnswer {
    /// What is kept of an answer.
    pub fn of(response: &Response, failure: Option<&Failure>) -> Self {
        Self {
            status: response.status,
            headers: response.headers.clone(),
            body: (*response.body).clone(),
            fault: failure.map(|failure| failure.sentence.clone()),
            signature: response.signature.clone(),
        }
    }

    /// As it is sealed: a list, which no step's output is.
    pub fn to_json(&self) -> Value {
        json!([self.status, self.headers, self.body, self.fault])
    }

    /// Reads [`KeptAnswer::to_json`]; none when it is something else.
    pub fn from_json(sealed: Value) -> Option<Self> {
        let Value::Array(parts) = sealed else { return None };
        let [status, Value::Object(headers), body, fault] = <[Value; 4]>::try_from(parts).ok()? else {
            return None;
        };
        let text = |(name, value): (String, Value)| Some((name, value.as_str()?.to_owned()));
        Some(Self {
            status: status.as_u64().and_then(|status| u16::try_from(status).ok())?,
            headers: headers.into_iter().map(text).collect::<Option<_>>()?,
            body,
            fault: fault.as_str().map(str::to_owned),
            signature: Vec::new(),
        })
    }

    /// As templates read it.
    pub fn view(&self) -> ResponseView<'_> {
        ResponseView { status: self.status, headers: &self.headers, body: &self.body }
    }

    /// What the step's `output` makes of it today.
    ///
    /// # Errors
    /// A sentence with what it cannot read.
    pub fn output(&self, step: &Step, row: &RowContext<'_>) -> Result<Map<String, Value>, String> {
        if let Some(fault) = self.fault.as_ref().filter(|_| step.reads_body) {
            return Err(format!("step `{}`, the kept answer: {fault}", step.name));
        }
        step.output(row, self.view())
            .map_err(|error| format!("{error} (in the answer that was kept; nobody was called again)"))
    }
}

/// Whether a step whose kept answer still cannot be read may simply be called again.
pub(crate) fn is_called_again(step: &Step) -> bool {
    !step.keyed && step.repetition() == Repetition::Harmless
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_comes_back_as_it_was() {
        let body: Value = serde_json::from_str(r#"{"price": 19.90, "id": 12345678901234567890123}"#).unwrap();
        for fault in [None, Some("it is not JSON".to_owned())] {
            let headers = [("etag".to_owned(), "7".to_owned())].into();
            let kept = KeptAnswer { status: 201, headers, body: body.clone(), fault, signature: Vec::new() };
            let sealed = kept.to_json().to_string();
            assert_eq!(KeptAnswer::from_json(serde_json::from_str(&sealed).unwrap()), Some(kept));
        }
        for other in [json!({ "id": 9 }), json!([]), json!([200, {}, 1]), json!(["x", {}, 1, null]), json!(7)]
        {
            assert_eq!(KeptAnswer::from_json(other), None);
        }
    }
}
