//! The size of files and functions: a file is one room (at most 400 lines), a function fits a screen (at most 60 lines).

use std::path::{Path, PathBuf};

use crate::markdown::root;

/// Lines of a file.
const FILE: usize = 400;

/// Lines of a function, of its signature too. Tests are tables of cases and may be longer.
const FUNCTION: usize = 60;

fn files(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push(path);
        }
    }
}

fn sources() -> Vec<PathBuf> {
    let mut all = Vec::new();
    for member in std::fs::read_dir(root().join("crates")).unwrap() {
        files(&member.unwrap().path(), &mut all);
    }
    for folder in ["tests", "xtask/src"] {
        files(&root().join(folder), &mut all);
    }
    all
}

/// The functions of a formatted file that are too long, with their lines.
fn long_functions(text: &str) -> Vec<(usize, String)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(name) = words.iter().position(|word| *word == "fn").and_then(|at| words.get(at + 1)) else {
            continue;
        };
        let introduces = words.iter().take_while(|word| **word != "fn").all(|word| {
            word.starts_with("pub") || matches!(*word, "async" | "const" | "unsafe" | "super)" | "crate)")
        });
        if !introduces {
            continue;
        }
        let closing = format!("{}}}", " ".repeat(indent));
        let ending = format!("{}) ", " ".repeat(indent));
        // A declaration without a body ends with a semicolon before any closing brace.
        let Some(length) = lines[start..].iter().position(|line| {
            **line == closing
                || (line.starts_with(&ending) && line.ends_with(';'))
                || is_declared(line, indent)
        }) else {
            continue;
        };
        if length + 1 > FUNCTION {
            found.push((length + 1, (*name).to_owned()));
        }
    }
    found
}

/// A signature on one line, without a body.
fn is_declared(line: &str, indent: usize) -> bool {
    line.len() - line.trim_start().len() == indent && line.contains("fn ") && line.ends_with(';')
}

#[test]
fn files_have_at_most_400_lines_and_functions_60() {
    let mut long = Vec::new();
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        let shown = path.strip_prefix(root()).unwrap().display().to_string();
        let lines = text.lines().count();
        if lines > FILE {
            long.push(format!("{shown} has {lines} lines"));
        }
        // Suites of tests, and the tests beside the code.
        if shown.contains("/tests/") || shown.starts_with("tests/") || shown.contains("conformance") {
            continue;
        }
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or(&text);
        let functions = long_functions(code).into_iter();
        long.extend(functions.map(|(lines, name)| format!("{shown}: `{name}` has {lines} lines")));
    }
    assert!(long.is_empty(), "split these by what they do:\n{}", long.join("\n"));
}

#[test]
fn a_long_function_is_found() {
    let body = "    let a = 1;\n".repeat(79);
    let text = format!(
        "fn short(a: u32) -> u32 {{\n    a\n}}\n\npub(crate) async fn long(\n    a: u32,\n) {{\n{body}}}\n"
    );
    assert_eq!(long_functions(&text), [(83, "long(".to_owned())]);
    assert_eq!(long_functions("trait T {\n    fn declared(&self);\n    fn other(&self) {\n    }\n}\n"), []);
}
