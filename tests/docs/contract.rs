//! The public contract, as one text: routes and schemas of the API, commands, settings, metrics. docs/contract.txt is what
//! was recorded. A change of it is deliberate: `cargo xtask contract` records it, and the changelog has a line.

use std::fmt::Write as _;

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, Place};
use serde_json::Value;

use crate::commands::{Help, PROGRAMS};
use crate::markdown::{read, root, table_rows};
use crate::settings::read_by_programs;

const RECORDED: &str = "docs/contract.txt";

/// Whether the contract is recorded rather than compared.
const RECORD: &str = "PENSTOCK_TEST_RECORD_CONTRACT";

/// A schema in a few words: what it refers to, its type, its values.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str() {
        return name.rsplit('/').next().unwrap_or(name).to_owned();
    }
    for (key, between) in [("oneOf", " | "), ("anyOf", " | "), ("allOf", " & ")] {
        if let Some(parts) = schema[key].as_array() {
            return parts.iter().map(kind).collect::<Vec<_>>().join(between);
        }
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(Value::to_string).collect::<Vec<_>>().join(" | ");
    }
    let of_type = |name: &str| match name {
        "array" => format!("[{}]", kind(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("{{{}}}", kind(&schema["additionalProperties"]))
        }
        _ => name.to_owned(),
    };
    let mut text = match &schema["type"] {
        Value::String(name) => of_type(name),
        Value::Array(names) => {
            names.iter().filter_map(Value::as_str).map(of_type).collect::<Vec<_>>().join(" | ")
        }
        _ => "any".to_owned(),
    };
    if let Some(format) = schema["format"].as_str() {
        let _ = write!(text, " ({format})");
    }
    text
}

/// The fields of an object, and of the objects in it that have no name.
fn fields(place: &str, schema: &Value, out: &mut Vec<String>) {
    let required =
        |name: &str| schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name));
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let optional = if required(name) { "" } else { "?" };
        out.push(format!("{place}.{name}{optional}: {}", kind(field)));
        fields(&format!("{place}.{name}"), field, out);
    }
    for part in ["oneOf", "anyOf", "allOf"].iter().filter_map(|key| schema[*key].as_array()).flatten() {
        fields(place, part, out);
    }
}

/// What the API's document promises, without its explanations: an operation a line, a field a line.
fn api(document: &Value) -> String {
    let mut lines = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in
            item.as_object().unwrap().iter().filter(|(_, one)| one["responses"].is_object())
        {
            let mut line = format!("{} {path}", method.to_uppercase());
            for one in operation["parameters"].as_array().into_iter().flatten() {
                let optional = if one["required"] == true { "" } else { "?" };
                let (place, name) = (one["in"].as_str().unwrap(), one["name"].as_str().unwrap());
                let _ = write!(line, " {place}:{name}{optional}={}", kind(&one["schema"]));
            }
            for (media, body) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
                let _ = write!(line, " <- {media} {}", kind(&body["schema"]));
            }
            for (status, answer) in operation["responses"].as_object().into_iter().flatten() {
                let _ = write!(line, " -> {status}");
                for (media, body) in answer["content"].as_object().into_iter().flatten() {
                    let _ = write!(line, " {media} {}", kind(&body["schema"]));
                }
            }
            lines.push(line);
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        lines.push(format!("{name}: {}", kind(schema)));
        fields(name, schema, &mut lines);
    }
    lines.sort();
    lines.join("\n")
}

/// A line of a help, without the present value of its variable, which clap shows too.
fn without_value(line: &str) -> String {
    match line.split_once("[env: ") {
        Some((before, rest)) => {
            let (variable, rest) = rest.split_once(']').unwrap_or((rest, ""));
            format!("{before}[env: {}]{rest}", variable.split('=').next().unwrap_or_default())
        }
        None => line.trim_end().to_owned(),
    }
}

/// The help of a command and of all below it; of those what the command above has not said.
fn help(known: &mut Help, command: &[&str], said: &[String], out: &mut String) {
    let lines: Vec<String> =
        known.of(command).lines().map(without_value).filter(|line| !line.is_empty()).collect();
    let _ = writeln!(out, "\n$ {} --help", command.join(" "));
    for line in lines.iter().filter(|line| !said.contains(line)) {
        let _ = writeln!(out, "{line}");
    }
    for name in known.subcommands(command).iter().filter(|name| *name != "help") {
        help(known, &[command, &[name.as_str()]].concat(), &lines, out);
    }
}

/// All of it.
fn contract(document: &Value) -> String {
    let mut text = format!(
        "# The public contract. `cargo xtask contract` writes this file.\n\n## API\n\n{}\n",
        api(document)
    );
    text.push_str("\n## Commands\n");
    let mut known = Help::default();
    for program in PROGRAMS {
        help(&mut known, &[program], &[], &mut text);
    }
    text.push_str("\n## Settings\n\n");
    for (name, default) in read_by_programs() {
        let _ = writeln!(text, "{name}={}", default.unwrap_or_default());
    }
    text.push_str("\n## Metrics\n\n");
    // Whole runs hold this table to what is served.
    let mut metrics: Vec<String> = table_rows(&read("docs/operate.md"))
        .iter()
        .filter(|row| row.heading == "name (OTLP)")
        .map(|row| row.cells[..5].join(" | "))
        .collect();
    assert!(metrics.len() > 20, "{}", metrics.len());
    metrics.sort();
    text.push_str(&metrics.join("\n"));
    text.push('\n');
    text
}

#[tokio::test]
async fn the_public_contract_is_the_recorded_one() {
    let sandbox = Sandbox::start(Config::default()).unwrap();
    let place = Place::new(&[("invite.yaml", include_str!("../../pipelines/invite.yaml"))]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let now = contract(&Client::new(&service, &key).get("/v2/openapi.json").await);
    if std::env::var_os(RECORD).is_some() {
        std::fs::write(root().join(RECORDED), now).unwrap();
        return;
    }
    let recorded = read(RECORDED);
    let gone = recorded.lines().find(|line| !now.lines().any(|one| one == *line));
    let new = now.lines().find(|line| !recorded.lines().any(|one| one == *line));
    assert!(
        now == recorded,
        "the public contract changed: gone {gone:?}, new {new:?}; if that is meant, run `cargo xtask contract` and write \
         a line into CHANGELOG.md"
    );
}
