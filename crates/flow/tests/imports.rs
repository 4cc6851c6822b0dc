//! Who imports whom. A stage imports only from stages before it, and no file imports one that imports it back, directly or
//! through others; the latter in other crates as well.
//!
//! `cargo test --package penstock-flow --test imports -- --nocapture` prints the graph.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The folders of `src`, each above those that it may import from.
const STAGES: [&str; 9] =
    ["telemetry", "context", "intake", "extract", "dispatch", "worker", "read", "callbacks", "operate"];

type Graph = BTreeMap<String, BTreeSet<String>>;

#[test]
fn a_stage_imports_only_from_stages_before_it() {
    let stage = |module: &str| STAGES.iter().position(|stage| module.split("::").next() == Some(stage));
    let mut upward = Vec::new();
    for (module, imports) in &graph() {
        println!("{module} -> {}", imports.iter().cloned().collect::<Vec<_>>().join(", "));
        let own = stage(module).unwrap_or_else(|| panic!("{module} is in no stage"));
        upward.extend(
            imports
                .iter()
                .filter(|import| stage(import) > Some(own))
                .map(|import| (module.clone(), import.clone())),
        );
    }
    assert!(upward.is_empty(), "upward: {upward:#?}");
}

#[test]
fn no_imports_go_in_a_circle() {
    no_circle("flow", graph());
}

#[test]
fn other_crates_have_no_circles_either() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (name, least) in [
        ("crates/api", 30),
        ("crates/app", 15),
        ("crates/cli", 15),
        ("crates/dispatcher", 0),
        ("crates/worker", 1),
        ("xtask", 8),
    ] {
        let mut files = BTreeMap::new();
        collect(&root.join(name).join("src"), "", &mut files);
        assert!(files.len() >= least, "{name}: only {} files were found", files.len());
        no_circle(name, imports(&files));
    }
}

fn no_circle(name: &str, mut graph: Graph) {
    // Files that import nothing of what is left are taken away, until only circles are left.
    loop {
        let done: Vec<String> = graph
            .iter()
            .filter(|(_, imports)| imports.is_empty())
            .map(|(module, _)| module.clone())
            .collect();
        if done.is_empty() {
            break;
        }
        for module in &done {
            graph.remove(module);
        }
        for imports in graph.values_mut() {
            imports.retain(|import| !done.contains(import));
        }
    }
    assert!(graph.is_empty(), "{name}: these import each other, or what does: {graph:#?}");
}

/// What each file below a stage imports of the others.
fn graph() -> Graph {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = BTreeMap::new();
    for stage in STAGES {
        collect(&src.join(stage), stage, &mut files);
    }
    assert!(files.len() > 50, "only {} files were found", files.len());
    imports(&files)
}

fn imports(files: &BTreeMap<String, PathBuf>) -> Graph {
    let modules: BTreeSet<String> = files.keys().cloned().collect();
    files
        .iter()
        .map(|(module, file)| {
            let text = std::fs::read_to_string(file).unwrap();
            // A test may use anything.
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let code: String = code
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .map(|line| format!("{line}\n"))
                .collect();
            let mut imports = BTreeSet::new();
            for path in code.split("crate::").skip(1) {
                imports.extend(paths(path).iter().filter_map(|path| module_of(path, &modules)));
            }
            imports.remove(module);
            (module.clone(), imports)
        })
        .collect()
}

fn collect(folder: &Path, module: &str, files: &mut BTreeMap<String, PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let full = if module.is_empty() { name.clone() } else { format!("{module}::{name}") };
        if path.is_dir() {
            collect(&path, &full, files);
        } else if module.is_empty() && ["lib", "main"].contains(&name.as_str()) {
            // They declare the others.
        } else if name == "mod" {
            // A stage's own is only its listing; what it declares is no import.
            if !STAGES.contains(&module) {
                files.insert(module.to_owned(), path);
            }
        } else {
            files.insert(full, path);
        }
    }
}

/// The paths that begin a text: `a::b::C`, or each of `a::b::{C, d::E}`.
fn paths(text: &str) -> Vec<String> {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let base: String = text.chars().take_while(|c| is_path(*c)).collect();
    match text[base.len()..].strip_prefix('{') {
        None => vec![base],
        Some(rest) => {
            let list = rest.split('}').next().unwrap_or_default();
            list.split(',')
                .map(|item| format!("{base}{}", item.trim().split(' ').next().unwrap_or_default()))
                .collect()
        }
    }
}

/// The longest beginning of a path that is a file.
fn module_of(path: &str, modules: &BTreeSet<String>) -> Option<String> {
    let segments: Vec<&str> = path.split("::").collect();
    (1..=segments.len()).rev().map(|n| segments[..n].join("::")).find(|module| modules.contains(module))
}
