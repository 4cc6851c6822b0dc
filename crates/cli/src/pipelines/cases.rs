//! `penstock pipelines test`: cases beside definitions, each with rows, answers, and what is to come of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use penstock_app::{Settings, StartError, boot};
use penstock_domain::pipeline::OwnerView;
use penstock_downstream::Outgoing;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answers::{Answer, Answers, matches, path_of};
use super::attempt::definition;
use super::rehearse::{self, Rehearsal, Rehearsed};
use crate::open::said;
use crate::output::Output;

/// Rows of a case at most.
const MOST_ROWS: u32 = 1000;

/// A file of cases, `tests/*.yaml` beside the definitions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    /// The definition's file, beside the folder `tests`.
    definition: PathBuf,
    /// Values of `${NAME}`; what is not here comes from the environment.
    #[serde(default)]
    env: BTreeMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// The file, header included.
    csv: String,
    context: Option<Value>,
    /// Whose the rows are.
    #[serde(default)]
    owner: CaseOwner,
    #[serde(default)]
    answers: Vec<Answer>,
    /// What is to come of each row; rows behind the last one are not looked at.
    rows: Vec<Wanted>,
}

/// An owner, with what dependencies read of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseOwner {
    name: Option<String>,
    #[serde(default)]
    vars: BTreeMap<String, String>,
    #[serde(default)]
    secrets: BTreeMap<String, String>,
}

/// What is to come of a row. What is left out is not looked at.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// All requests, in order.
    requests: Option<Vec<WantedRequest>>,
    outcome: Option<String>,
    /// The code of a row that fails.
    code: Option<String>,
    message: Option<String>,
    result: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedRequest {
    method: Option<String>,
    /// The end of the path; `*` stands for anything.
    path: Option<String>,
    /// What follows the `?`.
    query: Option<String>,
    /// Headers that are there, among others.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    json: Option<Value>,
    text: Option<String>,
}

/// Runs all cases of a folder; false when one of them does not hold.
pub async fn run(settings: &Settings, folder: &Path, out: Output) -> Result<bool, StartError> {
    let tests = if folder.join("tests").is_dir() { folder.join("tests") } else { folder.to_owned() };
    let cannot = |error| said(format!("cannot read {}: {error}", tests.display()));
    let files = boot::definitions_in(&tests).map_err(cannot)?;
    let (mut all, mut lines, mut results) = (0, Vec::new(), Vec::new());
    for file in &files {
        let text = std::fs::read_to_string(file).map_err(cannot)?;
        let cases: Cases =
            serde_saphyr::from_str(&text).map_err(|error| said(format!("{}: {error}", file.display())))?;
        let above = tests.parent().unwrap_or(Path::new("."));
        for case in &cases.cases {
            all += 1;
            let faults = faults(settings, &above.join(&cases.definition), &cases.env, case).await?;
            let file = file.display();
            lines.extend(faults.iter().map(|fault| format!("{file}: {}: {fault}", case.name)));
            results.push(json!({ "file": file.to_string(), "case": case.name, "faults": faults }));
        }
    }
    if all == 0 {
        return Err(said(format!(
            "{} has no cases: write them in {}/*.yaml",
            folder.display(),
            tests.display()
        )));
    }
    let failed = results
        .iter()
        .filter(|result| result["faults"].as_array().is_some_and(|faults| !faults.is_empty()))
        .count();
    out.say(&json!({ "cases": results }), || {
        lines.push(format!("cases: {all}, failed: {failed}"));
        lines.join("\n")
    });
    Ok(failed == 0)
}

/// What does not hold.
async fn faults(
    settings: &Settings,
    file: &Path,
    env: &BTreeMap<String, String>,
    case: &Case,
) -> Result<Vec<String>, StartError> {
    let pipeline = definition(settings, file, &|name| env.get(name).cloned())?;
    let secrets = pipeline.secret_values.clone();
    let rows = u32::try_from(case.rows.len()).unwrap_or(MOST_ROWS).min(MOST_ROWS);
    let (csv, context) = (case.csv.as_bytes(), case.context.clone());
    let answers = Some(Answers::new(case.answers.clone()));
    let CaseOwner { name, vars, secrets: of_owner } = case.owner.clone();
    let owner = OwnerView { name: name.unwrap_or_else(|| "try".to_owned()), vars, secrets: of_owner };
    let rehearsal = Rehearsal { settings, pipeline, csv, rows, context, answers, owner };
    let rehearsed = match rehearse::run(rehearsal).await {
        Ok(rehearsed) => rehearsed,
        Err(error) => return Ok(vec![error.to_string()]),
    };
    let mut faults = Vec::new();
    if rehearsed.len() < case.rows.len() {
        faults.push(format!("the file has {} rows, and not {}", rehearsed.len(), case.rows.len()));
    }
    for (row, wanted) in rehearsed.iter().zip(&case.rows) {
        let mut found = Vec::new();
        compare(row, wanted, &mut found);
        faults.extend(found.into_iter().map(|fault| secrets.masked(&format!("row {}: {fault}", row.number))));
    }
    Ok(faults)
}

fn compare(row: &Rehearsed, wanted: &Wanted, faults: &mut Vec<String>) {
    let mut equal = |what: &str, found: &Value, wanted: Option<Value>| {
        if let Some(wanted) = wanted.filter(|wanted| wanted != found) {
            faults.push(format!("{what} is {found}, and not {wanted}"));
        }
    };
    let text = |text: &Option<String>| text.clone().map(Value::from);
    equal("the outcome", &row.outcome.into(), text(&wanted.outcome));
    equal("the code", &row.row["error"]["code"], text(&wanted.code));
    equal("the message", &row.row["error"]["message"], text(&wanted.message));
    equal("the result", &row.row["result"], wanted.result.clone());
    if let Some(request) = &row.unanswered {
        faults.push(format!("no answer is recorded for {request}"));
    }
    let Some(requests) = &wanted.requests else { return };
    if requests.len() != row.calls.len() {
        let made: Vec<String> =
            row.calls.iter().map(|(call, _)| format!("{} {}", call.method, path_of(&call.url))).collect();
        faults.push(format!(
            "{} requests were made, and not {}: {}",
            made.len(),
            requests.len(),
            made.join(", ")
        ));
    }
    for (index, ((made, _), wanted)) in row.calls.iter().zip(requests).enumerate() {
        compare_request(index + 1, made, wanted, faults);
    }
}

fn compare_request(number: usize, made: &Outgoing, wanted: &WantedRequest, faults: &mut Vec<String>) {
    let mut fault = |what: String| faults.push(format!("request {number}: {what}"));
    if let Some(method) = wanted.method.as_ref().filter(|method| !method.eq_ignore_ascii_case(&made.method)) {
        fault(format!("the method is {}, and not {method}", made.method));
    }
    let path = path_of(&made.url);
    if let Some(pattern) = wanted.path.as_ref().filter(|pattern| !matches(pattern, path)) {
        fault(format!("the path is {path}, and not {pattern}"));
    }
    let query = made.url.split_once('?').map_or("", |(_, query)| query);
    // A space may be written as forms write it: a plus is `%2B`.
    if let Some(wanted) = wanted.query.as_ref().filter(|wanted| wanted.replace('+', "%20") != query) {
        fault(format!("the query is `{query}`, and not `{wanted}`"));
    }
    for (name, value) in &wanted.headers {
        let found = made.headers.iter().find(|known| known.name.eq_ignore_ascii_case(name));
        if found.is_none_or(|found| found.value != *value) {
            let found = found.map_or("not there".to_owned(), |found| format!("`{}`", found.value));
            fault(format!("the header {name} is {found}, and not `{value}`"));
        }
    }
    let body = String::from_utf8_lossy(&made.body);
    if let Some(wanted) = &wanted.json {
        let found = serde_json::from_str::<Value>(&body).ok();
        if found.as_ref() != Some(wanted) {
            fault(format!("the body is {body}, and not {wanted}"));
        }
    }
    if let Some(wanted) = wanted.text.as_ref().filter(|wanted| **wanted != body) {
        fault(format!("the body is `{body}`, and not `{wanted}`"));
    }
}
