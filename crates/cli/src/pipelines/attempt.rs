//! `penstock pipelines try`: the requests of a file's first rows, as they would be sent.

use std::fmt::Write as _;
use std::path::Path;

use penstock_app::live_files::LiveFiles;
use penstock_app::{Settings, StartError, Variables};
use penstock_domain::pipeline::{MASK, OwnerView, Pipeline, SecretValues, Unset, utf8};
use penstock_downstream::{Outgoing, OutgoingHeader};
use serde_json::{Value, json};

use super::answers::Answers;
use super::rehearse::{self, Rehearsal, Rehearsed};
use crate::open::said;
use crate::output::Output;

/// Headers that hold credentials, whatever their value is.
const SECRET_HEADERS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "x-api-key"];

/// What is tried.
pub struct Attempt<'a> {
    pub file: &'a Path,
    pub rows_csv: &'a Path,
    pub rows: u32,
    pub context: Option<Value>,
    pub answers: Option<&'a Path>,
    pub send: bool,
    pub owner: OwnerView,
}

/// Reads a definition for being tried.
pub fn definition(
    settings: &Settings,
    file: &Path,
    set: &dyn Fn(&str) -> Option<String>,
) -> Result<Pipeline, StartError> {
    let name = file.display().to_string();
    let bytes = std::fs::read(file).map_err(|error| said(format!("cannot read {name}: {error}")))?;
    let text = utf8(&name, &bytes).map_err(said)?;
    let variables = Variables::with(settings, Unset::Refused);
    let lookup = |name: &str| set(name).or_else(|| variables.lookup(name));
    Pipeline::load_with(&name, text, &lookup, Unset::Refused)
        .map_err(|errors| said(errors.iter().map(|error| format!("{error}")).collect::<Vec<_>>().join("\n")))
}

pub async fn run(settings: &Settings, attempt: Attempt<'_>, out: Output) -> Result<bool, StartError> {
    let pipeline = definition(settings, attempt.file, &|_| None)?;
    let mut secrets = pipeline.secret_values.with_files(&LiveFiles::default());
    attempt.owner.secrets.values().for_each(|secret| secrets.add(secret));
    let cannot = |error| said(format!("cannot read {}: {error}", attempt.rows_csv.display()));
    let csv = std::fs::read(attempt.rows_csv).map_err(cannot)?;
    let answers = match attempt.answers {
        Some(file) => Some(Answers::read(file)?),
        None if attempt.send => None,
        // Without answers each row ends at its first request.
        None => Some(Answers::default()),
    };
    let recorded = attempt.answers.is_some() || attempt.send;
    let (rows, context, owner) = (attempt.rows, attempt.context, attempt.owner);
    let rehearsal = Rehearsal { settings, pipeline, csv: &csv, rows, context, answers, owner };
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
fn request_text(request: &Outgoing, secrets: &SecretValues) -> String {
    let mut text = format!("{} {}\n", request.method, secrets.masked(&request.url));
    for header in &request.headers {
        let _ = writeln!(text, "{}: {}", header.name, shown(header, secrets));
    }
    if !request.body.is_empty() {
        let body = String::from_utf8_lossy(&request.body);
        let _ = writeln!(text, "\n{}", secrets.masked(&body));
    }
    text
}

fn as_text(row: &Rehearsed, secrets: &SecretValues, recorded: bool) -> String {
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
    if !recorded && !row.calls.is_empty() {
        text.push_str("the row goes on with `--answers FILE` or `--send`\n\n");
        return text;
    }
    let error = &row.row["error"];
    let rest = match row.outcome {
        "completed" => format!(": {}", row.row["result"]),
        "failed" | "held" => format!(
            ": {}: {}",
            error["code"].as_str().unwrap_or_default(),
            error["message"].as_str().unwrap_or_default()
        ),
        _ => {
            let until = row.until.map_or(String::new(), |until| format!(" until {until}"));
            let why = row.waits_for.as_deref().or(error["message"].as_str());
            until + &why.map_or(String::new(), |why| format!(": {why}"))
        }
    };
    let _ = writeln!(text, "{}{}\n", row.outcome, secrets.masked(&rest));
    if let Some(request) = &row.unanswered {
        let _ = writeln!(text, "no answer is recorded for {}\n", secrets.masked(request));
    }
    text
}

fn as_json(row: &Rehearsed, secrets: &SecretValues, recorded: bool) -> Value {
    let call = |(request, status): &(Outgoing, Option<u16>)| {
        let headers: Vec<Value> =
            request.headers.iter().map(|header| json!([header.name, shown(header, secrets)])).collect();
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
            value[field] = secrets.masked_json(&row.row[field]);
        }
        value["until"] = json!(row.until);
        value["waits_for"] = json!(row.waits_for.as_ref().map(|why| secrets.masked(why)));
        value["unanswered"] = json!(row.unanswered.as_ref().map(|request| secrets.masked(request)));
    }
    value
}

/// A header's value without them. What is left of a credential is the name of its scheme.
fn shown(header: &OutgoingHeader, secrets: &SecretValues) -> String {
    let name = header.name.as_str();
    if !header.is_secret && !SECRET_HEADERS.contains(&name) {
        return secrets.masked(&header.value);
    }
    let scheme = header.value.split_once(' ').map(|(scheme, _)| scheme);
    match scheme.filter(|_| name.ends_with("authorization")) {
        Some(scheme) => format!("{scheme} {MASK}"),
        None => MASK.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_masked_whatever_their_value_is() {
        let mut secrets = SecretValues::default();
        secrets.add("sk_live_abc");
        let shown = |name: &str, value: &str, is_secret| {
            let header = OutgoingHeader { name: name.into(), value: value.into(), is_secret };
            shown(&header, &secrets)
        };
        assert_eq!(shown("authorization", "Basic dXNlcg==", false), "Basic ***");
        assert_eq!(shown("x-api-key", "other words", false), "***");
        assert_eq!(shown("x-token", "v sk_live_abc", false), "v ***");
        assert_eq!(shown("x-signature", "t=1,v1=ff00", true), "***", "it is computed");
        assert_eq!(shown("x-timestamp", "1700000000", false), "1700000000");
    }
}
