//! `penstock pipelines try`: the requests of a file's first rows, as they would be sent.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use penstock_app::{Settings, StartError, Variables};
use penstock_domain::pipeline::{Pipeline, Unset, utf8};
use penstock_downstream::Outgoing;
use serde_json::{Value, json};

use super::answers::Answers;
use super::rehearse::{self, Rehearsal, Rehearsed};
use crate::open::said;
use crate::output::Output;

/// Headers that hold credentials, whatever their value is.
const SECRET_HEADERS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "x-api-key"];

/// Stands for a secret.
const MASK: &str = "***";

/// Values of variables that are shorter say too little to be secrets, and stand everywhere.
const SHORTEST_SECRET: usize = 4;

/// What is tried.
pub struct Attempt<'a> {
    pub file: &'a Path,
    pub rows_csv: &'a Path,
    pub rows: u32,
    pub context: Option<Value>,
    pub answers: Option<&'a Path>,
    pub send: bool,
}

/// Values that are not shown.
#[derive(Default)]
pub struct Secrets(Mutex<BTreeSet<String>>);

impl Secrets {
    /// Remembers what a variable holds, and how it is written in a form, a path and JSON. An address is not secret.
    fn add(&self, value: &str) {
        if value.len() >= SHORTEST_SECRET && !value.contains("://") {
            let mut secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let in_form: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
            secrets.insert(in_form.replace('+', "%20"));
            secrets.insert(in_form);
            secrets.insert(Value::from(value).to_string().trim_matches('"').to_owned());
            secrets.insert(value.to_owned());
        }
    }

    /// A text without them.
    pub fn masked(&self, text: &str) -> String {
        let secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The longest first: one may be a part of another.
        let mut secrets: Vec<&String> = secrets.iter().collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), MASK))
    }

    /// A header's value without them.
    fn header(&self, name: &str, value: &str) -> String {
        if !SECRET_HEADERS.contains(&name) {
            return self.masked(value);
        }
        let scheme = value.split_once(' ').map(|(scheme, _)| scheme);
        match scheme.filter(|_| name.ends_with("authorization")) {
            Some(scheme) => format!("{scheme} {MASK}"),
            None => MASK.to_owned(),
        }
    }
}

/// Reads a definition for being tried.
pub fn definition(
    settings: &Settings,
    file: &Path,
    set: &dyn Fn(&str) -> Option<String>,
    secrets: &Secrets,
) -> Result<Pipeline, StartError> {
    let name = file.display().to_string();
    let bytes = std::fs::read(file).map_err(|error| said(format!("cannot read {name}: {error}")))?;
    let text = utf8(&name, &bytes).map_err(said)?;
    let variables = Variables::with(settings, Unset::Refused);
    let lookup = |name: &str| {
        let value = set(name).or_else(|| variables.lookup(name));
        value.inspect(|value| secrets.add(value))
    };
    Pipeline::load_with(&name, text, &lookup, Unset::Refused)
        .map_err(|errors| said(errors.iter().map(|error| format!("{error}")).collect::<Vec<_>>().join("\n")))
}

pub async fn run(settings: &Settings, attempt: Attempt<'_>, out: Output) -> Result<bool, StartError> {
    let secrets = Secrets::default();
    let pipeline = definition(settings, attempt.file, &|_| None, &secrets)?;
    let cannot = |error| said(format!("cannot read {}: {error}", attempt.rows_csv.display()));
    let csv = std::fs::read(attempt.rows_csv).map_err(cannot)?;
    let answers = match attempt.answers {
        Some(file) => Some(Answers::read(file)?),
        None if attempt.send => None,
        // Without answers each row ends at its first request.
        None => Some(Answers::default()),
    };
    let recorded = attempt.answers.is_some() || attempt.send;
    let (rows, context) = (attempt.rows, attempt.context);
    let rehearsal = Rehearsal { settings, pipeline, csv: &csv, rows, context, answers };
    let rehearsed = rehearse::run(rehearsal).await?;
    let good = rehearsed.iter().all(|row| row.outcome == "completed" || !recorded && !row.calls.is_empty());
    if out.json {
        let rows: Vec<Value> = rehearsed.iter().map(|row| as_json(row, &secrets, recorded)).collect();
        println!("{}", json!({ "rows": rows }));
    } else {
        rehearsed.iter().for_each(|row| print!("{}", as_text(row, &secrets, recorded)));
    }
    Ok(good)
}

/// A request as HTTP/1.1 writes it.
fn request_text(request: &Outgoing, secrets: &Secrets) -> String {
    let mut text = format!("{} {}\n", request.method, secrets.masked(&request.url));
    for (name, value) in &request.headers {
        let _ = writeln!(text, "{name}: {}", secrets.header(name, value));
    }
    if !request.body.is_empty() {
        let body = String::from_utf8_lossy(&request.body);
        let _ = writeln!(text, "\n{}", secrets.masked(&body));
    }
    text
}

fn as_text(row: &Rehearsed, secrets: &Secrets, recorded: bool) -> String {
    let mut text = format!("# row {}\n", row.number);
    for (request, status) in &row.calls {
        text.push_str(&request_text(request, secrets));
        match status.filter(|_| recorded) {
            Some(status) => {
                let _ = writeln!(text, "→ {status}\n");
            }
            None => text.push('\n'),
        }
    }
    if !recorded {
        text.push_str("the row goes on with `--answers FILE` or `--send`\n\n");
        return text;
    }
    let error = &row.row["error"];
    let rest = match row.outcome {
        "completed" => format!(": {}", row.row["result"]),
        "failed" => format!(
            ": {}: {}",
            error["code"].as_str().unwrap_or_default(),
            error["message"].as_str().unwrap_or_default()
        ),
        _ => row.until.map_or(String::new(), |until| format!(" until {until}")),
    };
    let _ = writeln!(text, "{}{}\n", row.outcome, secrets.masked(&rest));
    if let Some(request) = &row.unanswered {
        let _ = writeln!(text, "no answer is recorded for {}\n", secrets.masked(request));
    }
    text
}

fn as_json(row: &Rehearsed, secrets: &Secrets, recorded: bool) -> Value {
    let call = |(request, status): &(Outgoing, Option<u16>)| {
        let headers: Vec<Value> =
            request.headers.iter().map(|(name, value)| json!([name, secrets.header(name, value)])).collect();
        json!({
            "method": request.method,
            "url": secrets.masked(&request.url),
            "headers": headers,
            "body": secrets.masked(&String::from_utf8_lossy(&request.body)),
            "status": status.filter(|_| recorded),
        })
    };
    let mut value = json!({
        "row": row.number,
        "requests": row.calls.iter().map(call).collect::<Vec<_>>(),
    });
    if recorded {
        value["outcome"] = row.outcome.into();
        for field in ["result", "error"] {
            value[field] = masked_json(&row.row[field], secrets);
        }
        value["until"] = json!(row.until);
        value["unanswered"] = json!(row.unanswered.as_ref().map(|request| secrets.masked(request)));
    }
    value
}

/// A value without secrets in its texts.
fn masked_json(value: &Value, secrets: &Secrets) -> Value {
    match value {
        Value::String(text) => secrets.masked(text).into(),
        Value::Array(items) => items.iter().map(|item| masked_json(item, secrets)).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(name, field)| (name.clone(), masked_json(field, secrets))).collect()
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_and_addresses_are_not() {
        let secrets = Secrets::default();
        for value in ["sk_live_abc", "sk_live", "abc", "https://api.example"] {
            secrets.add(value);
        }
        assert_eq!(
            secrets.masked("https://api.example/?k=sk_live_abc&l=sk_live&m=abc"),
            "https://api.example/?k=***&l=***&m=abc"
        );
        secrets.add("a+b/c=\"d e");
        assert_eq!(secrets.masked("?k=a%2Bb%2Fc%3D%22d+e"), "?k=***");
        assert_eq!(secrets.masked("/a%2Bb%2Fc%3D%22d%20e/x"), "/***/x");
        assert_eq!(secrets.masked(r#"{"k":"a+b/c=\"d e"}"#), r#"{"k":"***"}"#);
        assert_eq!(secrets.header("authorization", "Basic dXNlcg=="), "Basic ***");
        assert_eq!(secrets.header("x-api-key", "other words"), "***");
        assert_eq!(secrets.header("x-token", "v sk_live_abc"), "v ***");
    }
}
