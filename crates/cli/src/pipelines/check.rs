//! `penstock pipelines check`: every mistake of every file, one line each.

use std::path::{Path, PathBuf};

use penstock_app::{Settings, StartError, Variables};
use penstock_domain::pipeline::{DefinitionError, ErrorCode, Unset, check_files, utf8};
use serde_json::json;

use crate::output::Output;

/// A file, and its text or why it has none.
type Text = (String, Result<String, DefinitionError>);

pub fn run(
    settings: &Settings,
    paths: &[PathBuf],
    without_env: bool,
    out: Output,
) -> Result<bool, StartError> {
    let files = texts(paths)?;
    let unset = if without_env { Unset::Allowed } else { Unset::Refused };
    let variables = Variables::with(settings, unset);
    let checked = check_files(&files, &|name| if without_env { None } else { variables.lookup(name) }, unset);
    let problems: usize = checked.iter().map(|(_, problems)| problems.len()).sum();
    if out.json {
        let files: Vec<_> = checked
            .iter()
            .map(|(file, problems)| {
                json!({ "file": file, "problems": problems.iter().map(as_json).collect::<Vec<_>>() })
            })
            .collect();
        println!("{}", json!({ "files": files }));
    } else {
        for problem in checked.iter().flat_map(|(_, problems)| problems) {
            println!("{}", as_line(problem));
        }
        let count =
            |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
        eprintln!("{}, {}", count(checked.len(), "file"), count(problems, "mistake"));
    }
    Ok(problems == 0)
}

fn as_line(problem: &DefinitionError) -> String {
    let DefinitionError { file, line, column, message, .. } = problem;
    // A message that quotes the file stays in its line.
    format!("{file}:{line}:{column}: {}", message.replace(['\r', '\n'], " "))
}

fn as_json(problem: &DefinitionError) -> serde_json::Value {
    json!({
        "line": problem.line,
        "column": problem.column,
        "code": problem.code.as_str(),
        "message": problem.fault(),
        "hint": problem.hint(),
    })
}

/// The files and their texts, in the order in which they are given; a folder stands for its definitions.
fn texts(paths: &[PathBuf]) -> Result<Vec<Text>, StartError> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let cannot = |error| StartError::new(format!("cannot read {}: {error}", path.display()));
            files.extend(penstock_app::boot::definitions_in(path).map_err(cannot)?);
        } else {
            files.push(path.clone());
        }
    }
    Ok(files.iter().map(|file| (file.display().to_string(), text(file))).collect())
}

fn text(file: &Path) -> Result<String, DefinitionError> {
    let name = file.display().to_string();
    let bytes = std::fs::read(file).map_err(|error| DefinitionError {
        file: name.clone(),
        line: 1,
        column: 1,
        code: ErrorCode::Unreadable,
        message: format!("the file cannot be read: {error}; check its name and who may read it"),
    })?;
    utf8(&name, &bytes).map(str::to_owned)
}
