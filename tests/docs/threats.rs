//! Each line of the table of threats names tests, and they exist.

use std::collections::HashSet;
use std::path::Path;

use crate::markdown::{read, root, spans, table_rows};

/// The line that says that nothing stops somebody.
const NOBODY_STOPS: &str = "who runs code in a worker, or has keyring and database";

#[test]
fn every_threat_names_tests_that_exist() {
    let mut tests = HashSet::new();
    for folder in ["crates", "tests", "xtask"] {
        find_tests(&root().join(folder), &mut tests);
    }
    assert!(tests.contains("every_threat_names_tests_that_exist") && tests.len() > 500, "{}", tests.len());
    let text = read("docs/security.md");
    let threats: Vec<_> = table_rows(&text).into_iter().filter(|row| row.section == "Threats").collect();
    assert!(threats.len() > 15, "{}", threats.len());
    for threat in threats {
        let [who, .., tried] = &threat.cells[..] else { panic!("{:?}", threat.cells) };
        let named = spans(tried);
        assert!(!named.is_empty() || who == NOBODY_STOPS, "no test tries: {who}");
        for name in named {
            assert!(tests.contains(name), "{who}: there is no test `{name}`");
        }
    }
}

/// The names of all tests below a folder: functions behind an attribute `test`.
fn find_tests(folder: &Path, tests: &mut HashSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find_tests(&path, tests);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                if line.starts_with("#[") {
                    is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
                } else if let Some(name) = function(line).filter(|_| std::mem::take(&mut is_test)) {
                    tests.insert(name.to_owned());
                }
            }
        }
    }
}

fn function(line: &str) -> Option<&str> {
    line.trim_start_matches("pub ").trim_start_matches("async ").strip_prefix("fn ")?.split('(').next()
}
