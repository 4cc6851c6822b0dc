//! The documentation, held to what it says: every command of Get started and the REST guide is run, every answer that
//! they show has the fields of the real one, every YAML and JSON is read by what reads it. Whatever a page names is there
//! ([`links`], [`commands`]), and what there is has been described: settings, keys of a definition, routes, alerts.

#![allow(clippy::unwrap_used, reason = "tests")]

mod api;
mod commands;
mod contract;
mod definitions;
mod examples;
mod links;
mod map;
mod markdown;
mod operations;
mod rooms;
mod settings;
mod threats;
mod words;

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use penstock_domain::alert::AlertRules;
use penstock_domain::pipeline::Pipeline;
use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, Place};
use serde_json::Value;

use crate::markdown::{blocks, root};

/// Runs a script in a process group of its own; everything that it left running is ended. Its output.
fn bash(script: &str, folder: &Path, environment: &[(&str, String)]) -> String {
    let file = folder.join("script.sh");
    std::fs::write(&file, script).unwrap();
    let log = std::fs::File::create(folder.join("output")).unwrap();
    let mut child = Command::new("bash")
        .args(["-euo", "pipefail"])
        .arg(&file)
        .current_dir(root())
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .process_group(0)
        .spawn()
        .unwrap();
    let status = child.wait().unwrap();
    let group = format!("-{}", child.id());
    let _ = Command::new("kill").args(["-9", "--", &group]).stderr(Stdio::null()).status();
    let mut output = std::fs::read_to_string(folder.join("output")).unwrap();
    if !status.success() {
        // What commands wrote into files of their own.
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let said = std::fs::read_to_string(&path).unwrap_or_default();
                output.push_str(&format!("\n{}:\n{said}", path.display()));
            }
        }
        panic!("a command of the documentation failed:\n{output}");
    }
    output
}

#[test]
fn get_started_runs_from_its_first_to_its_last_command() {
    let folder = tempfile::tempdir().unwrap();
    let script: String = blocks("docs/get-started.md")
        .into_iter()
        .filter(|block| block.language == "sh")
        .map(|block| format!("echo '== line {}'\n{}", block.line, block.text))
        .collect();
    // Ports of the test's own, and temporary folders that go away.
    let ports = [free_port(), free_port()];
    let script = script
        .replace("127.0.0.1:8080", &format!("127.0.0.1:{}", ports[0]))
        .replace("127.0.0.1:8090", &format!("127.0.0.1:{}", ports[1]));
    let output = bash(
        &script,
        folder.path(),
        &[
            ("TMPDIR", folder.path().display().to_string()),
            ("PENSTOCK_BIND", format!("127.0.0.1:{}", ports[0])),
        ],
    );
    assert!(output.contains("chk_"), "{output}");
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn the_rest_guide_is_answered_as_it_says() {
    let sandbox = Sandbox::start(Config::default()).unwrap();
    let invite = include_str!("../../pipelines/invite.yaml");
    let place = Place::new(&[(
        "invite.yaml",
        &invite.replace("rows_per_owner: 100", "rows_per_owner: 100, spread: 0s"),
    )]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let folder = tempfile::tempdir().unwrap();
    let mut script = format!("cd '{}'\n", folder.path().display());
    let mut shown: Vec<(usize, Value)> = Vec::new();
    let mut ran = 0;
    for block in blocks("docs/rest.md") {
        match block.language.as_str() {
            "sh" => {
                ran = block.line;
                script.push_str(&format!("{{\n{}}} > answer-{ran}\necho >> answer-{ran}\n", block.text));
            }
            "json" => {
                let value = serde_json::from_str(&block.text)
                    .unwrap_or_else(|error| panic!("docs/rest.md:{}: {error}", block.line));
                // A callback's body has no command before it that answers with it.
                if !block.text.contains("\"type\": \"batch.") {
                    shown.push((ran, value));
                }
            }
            _ => {}
        }
    }
    let tools = std::env::var("PENSTOCK_TEST_TOOLS").expect("`cargo xtask test` names where generators are");
    let path = format!("{tools}:{}", std::env::var("PATH").unwrap_or_default());
    bash(&script, folder.path(), &[("API", service.base.clone()), ("KEY", key), ("PATH", path)]);
    for (name, said) in [("upload.py", "completed, 1 failed"), ("upload.mts", "completed, 1 failed")] {
        let line = blocks("docs/rest.md")
            .iter()
            .find(|block| block.text.contains(&format!("cat > {name}")))
            .map(|block| block.line)
            .expect("a client");
        let answer = std::fs::read_to_string(folder.path().join(format!("answer-{line}"))).unwrap();
        assert!(answer.contains(said), "{name}: {answer}");
    }
    assert!(shown.len() >= 8);
    for (line, wanted) in shown {
        let answer = std::fs::read_to_string(folder.path().join(format!("answer-{line}"))).unwrap();
        let answer: Value = serde_json::from_str(answer.trim().lines().last().unwrap_or_default())
            .unwrap_or_else(|error| panic!("docs/rest.md:{line}: {error}: {answer}"));
        alike(&wanted, &answer, &format!("docs/rest.md:{line}"));
    }
}

/// The real answer has every field that is shown, of the same kind; words and numbers that do not change from run to run
/// are the same.
fn alike(shown: &Value, real: &Value, place: &str) {
    match (shown, real) {
        (Value::Object(shown), Value::Object(real)) => {
            for (name, value) in shown {
                let there = real.get(name).unwrap_or_else(|| panic!("{place}: `{name}` is not in {real:?}"));
                alike(value, there, &format!("{place}.{name}"));
            }
        }
        (Value::Array(shown), Value::Array(real)) => {
            assert_eq!(shown.len(), real.len(), "{place}: {real:?}");
            shown.iter().zip(real).for_each(|(shown, real)| alike(shown, real, place));
        }
        (Value::String(shown), Value::String(real)) => {
            let own = ["id", "at", "upload_id"].iter().any(|name| place.ends_with(&format!(".{name}")));
            if !own && !place.ends_with("_at") && !place.ends_with("eta") && shown != "…" {
                assert_eq!(shown, real, "{place}");
            }
        }
        _ => assert_eq!(shown, real, "{place}"),
    }
}

#[test]
fn every_yaml_and_json_is_read_by_what_reads_it() {
    let vars = |name: &str| Some(format!("https://{}.example.com", name.to_lowercase().replace('_', "-")));
    let mut read = 0;
    for entry in std::fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.ends_with(".md") {
            continue;
        }
        for block in blocks(&format!("docs/{name}")) {
            let place = format!("{name}:{}", block.line);
            let said = |errors: Vec<penstock_domain::pipeline::DefinitionError>| {
                errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
            };
            match block.language.as_str() {
                "yaml" if block.text.contains("receivers:") => {
                    AlertRules::load(&place, &block.text, &vars).map_err(said).unwrap();
                }
                "yaml" => {
                    Pipeline::load(&place, &whole(&block.text), &vars).map_err(said).unwrap();
                }
                "json" => {
                    serde_json::from_str::<Value>(&block.text)
                        .unwrap_or_else(|error| panic!("{place}: {error}"));
                }
                _ => continue,
            }
            read += 1;
        }
    }
    assert!(read > 10, "{read}");
}

/// A part of a definition, as a whole one: what it does not show is filled in.
fn whole(part: &str) -> String {
    let mut text = part.to_owned();
    for (key, rest) in [
        ("name:", "name: example\n"),
        (
            "csv:",
            "csv: { columns: [ { name: email, required: true }, { name: postcode }, { name: amount } ] }\n",
        ),
        ("dependencies:", "dependencies: { crm: { base_url: \"${CRM_URL}\" } }\n"),
        ("steps:", "steps: []\n"),
    ] {
        if !text.lines().any(|line| line.starts_with(key)) {
            text.insert_str(0, rest);
        }
    }
    text
}

/// The guide has every route of the document, and no other; the invite pipeline's own route is among them.
#[tokio::test]
async fn the_rest_guide_has_every_route() {
    let sandbox = Sandbox::start(Config::default()).unwrap();
    let place = Place::new(&[("invite.yaml", include_str!("../../pipelines/invite.yaml"))]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    api::same_routes(&Client::new(&service, &key).get("/v2/openapi.json").await);
}
