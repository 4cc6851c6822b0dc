//! The definitions that how-to pages show: each is one that the product takes, and where cases stand below it, they hold.

use std::path::Path;
use std::process::Command;

use penstock_tests::program;

use crate::markdown::{blocks, root};

/// Pages whose definitions have cases below them.
const WITH_CASES: [&str; 1] = ["read-answers.md"];

/// The how-to pages, by their names.
fn guides() -> Vec<String> {
    let folder = std::fs::read_dir(root().join("docs/how-to")).unwrap();
    let mut names: Vec<String> =
        folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.ends_with(".md"));
    names.sort();
    names
}

fn penstock(folder: &Path, args: &[&str]) -> (String, bool) {
    let done = Command::new(program("penstock")).args(args).current_dir(folder).output().unwrap();
    (String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned(), done.status.success())
}

/// The value of a key at the beginning of a line.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
}

#[test]
fn every_whole_definition_of_a_guide_is_taken() {
    let mut checked = 0;
    for guide in guides() {
        let folder = tempfile::tempdir().unwrap();
        for block in blocks(&format!("docs/how-to/{guide}")) {
            let Some(name) = value(&block.text, "name:").filter(|_| block.language == "yaml") else {
                continue;
            };
            let file = format!("{name}-{}.yaml", block.line);
            std::fs::write(folder.path().join(&file), &block.text).unwrap();
            let (said, good) = penstock(folder.path(), &["pipelines", "check", "--without-env", &file]);
            assert!(good, "docs/how-to/{guide}:{}: {said}", block.line);
            checked += 1;
        }
    }
    assert!(checked > 12, "{checked}");
}

#[test]
fn the_cases_below_definitions_hold() {
    for guide in WITH_CASES {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("tests")).unwrap();
        let (mut definitions, mut cases) = (Vec::new(), Vec::new());
        for block in blocks(&format!("docs/how-to/{guide}")) {
            let name = match block.language.as_str() {
                "yaml" => {
                    let name = format!("{}.yaml", value(&block.text, "name:").unwrap());
                    definitions.push(name.clone());
                    name
                }
                "yml" => {
                    let name = value(&block.text, "definition:").unwrap();
                    cases.push(name.to_owned());
                    format!("tests/{name}")
                }
                _ => continue,
            };
            std::fs::write(folder.path().join(name), &block.text).unwrap();
        }
        assert_eq!(definitions, cases, "{guide}: each definition has its cases below it");
        let (said, good) = penstock(folder.path(), &["pipelines", "test", "."]);
        assert!(good && said.contains("failed: 0"), "{guide}: {said}");
    }
}
