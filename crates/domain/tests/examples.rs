//! The gallery of pipelines/examples: each loads, is short, and is listed.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

use penstock_domain::pipeline::Pipeline;

/// Lines of a definition at most.
const LONGEST: usize = 40;

fn value_of(name: &str) -> Option<String> {
    let pem = |what: &str| format!("-----BEGIN {what}-----\nAAAA\n-----END {what}-----\n");
    if let Some(file) = name.strip_prefix("file:") {
        let is_key = file.ends_with(".key") || file.ends_with("docusign.pem");
        return Some(pem(if is_key { "PRIVATE KEY" } else { "CERTIFICATE" }));
    }
    Some(if name.ends_with("_URL") { "https://api.example".to_owned() } else { format!("{name}-1") })
}

#[test]
fn every_example_loads_is_short_and_listed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../pipelines/examples");
    let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.extension().is_none_or(|ending| ending != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() <= LONGEST, "{file}: {}", text.lines().count());
        assert!(readme.contains(&format!("[{file}]({file})")), "{file} is not in README.md");
        let pipeline = Pipeline::load(&file, &text, &value_of).unwrap_or_else(|errors| {
            panic!("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        });
        names.push(pipeline.name);
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), readme.matches(".yaml](").count(), "{names:?}");
}
