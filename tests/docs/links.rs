//! Whatever a page names is there: files, anchors, parts of the tree, parts of the runbooks.

use std::path::Path;

use crate::markdown::{anchors, links, pages, prose, read, root, spans};

#[test]
fn links_lead_somewhere() {
    let mut followed = 0;
    for page in pages() {
        let text = read(&page);
        for (line, target) in
            prose(&text).into_iter().flat_map(|(line, text)| links(text).into_iter().map(move |t| (line, t)))
        {
            if target.starts_with("http://") || target.starts_with("https://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let folder = Path::new(&page).parent().unwrap();
            let path = if file.is_empty() { root().join(&page) } else { root().join(folder).join(file) };
            assert!(path.exists(), "{page}:{line}: there is no {target}");
            if !anchor.is_empty() {
                let known = anchors(&std::fs::read_to_string(&path).unwrap());
                assert!(known.iter().any(|one| one == anchor), "{page}:{line}: no #{anchor} in {known:?}");
            }
            followed += 1;
        }
    }
    assert!(followed > 40, "{followed}");
}

/// A path of ARCHITECTURE.md is one from the root, from `crates`, or inside one of `crates`; `*` stands for several.
#[test]
fn every_file_that_the_architecture_names_exists() {
    let text = read("docs/ARCHITECTURE.md");
    let mut named = 0;
    for (line, text) in prose(&text) {
        for span in spans(text) {
            let file =
                [".rs", ".md", ".lua", ".sql", ".yaml", ".toml"].iter().any(|ending| span.ends_with(ending));
            if span.contains(' ') || !(file || span.starts_with("crates/")) {
                continue;
            }
            assert!(file_exists(span), "docs/ARCHITECTURE.md:{line}: there is no `{span}`");
            named += 1;
        }
    }
    assert!(named > 60, "{named}");
}

fn file_exists(path: &str) -> bool {
    if let Some((before, behind)) = path.split_once('*') {
        // Every folder that the star stands for has it.
        let folders: Vec<_> = std::fs::read_dir(root().join("crates"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with(before) && name != "store-conformance")
            .collect();
        return !folders.is_empty()
            && folders.iter().all(|name| root().join(format!("crates/{name}{behind}")).exists());
    }
    root().join(path).exists() || root().join("crates").join(path).exists()
}

/// The map has every crate, and every module of `flow`, which is the story in its order.
#[test]
fn the_architecture_has_every_room() {
    let text = read("docs/ARCHITECTURE.md");
    for entry in std::fs::read_dir(root().join("crates")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(text.contains(&format!("`crates/{name}`")), "docs/ARCHITECTURE.md has no `crates/{name}`");
    }
    let flow = std::fs::read_to_string(root().join("crates/flow/src/lib.rs")).unwrap();
    for module in flow.lines().filter_map(|line| line.split("mod ").nth(1)?.strip_suffix(';')) {
        assert!(
            text.contains(&format!("`{module}`"))
                || text.contains(&format!("/{module}.rs`"))
                || text.contains(&format!("flow/src/{module}/")),
            "docs/ARCHITECTURE.md does not name `{module}` of flow"
        );
    }
}

/// Pages that code, manifests and other pages name outside of links.
#[test]
fn pages_that_the_tree_names_exist() {
    let mut named = 0;
    let mut folders = ["crates", "charts", "k8s", "deploy", "xtask", "tests", "docs"]
        .map(|name| root().join(name))
        .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
            if !["rs", "md", "yaml", "yml", "tpl", "txt", "toml", "json"].contains(&ending) {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for rest in text.split("docs/").skip(1) {
                let name: String = rest
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
                    .collect();
                let Some(name) = name.strip_suffix(".md").or_else(|| name.strip_suffix(".md.")) else {
                    continue;
                };
                let page = format!("docs/{name}.md");
                assert!(root().join(&page).exists(), "{}: there is no {page}", path.display());
                let anchor = rest[name.len() + 3..].strip_prefix('#').map(|rest| {
                    rest.chars()
                        .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
                        .collect::<String>()
                });
                if let Some(anchor) = anchor.filter(|anchor| !anchor.is_empty()) {
                    assert!(
                        anchors(&read(&page)).contains(&anchor),
                        "{}: no {page}#{anchor}",
                        path.display()
                    );
                }
                named += 1;
            }
        }
    }
    assert!(named > 20, "{named}");
}

/// Tests that docs/laravel-batches.md names as proof: `file::function`, and the model's properties in italics.
#[test]
fn tests_that_are_named_as_proof_exist() {
    let model = read("crates/domain/tests/lifecycle_model.rs");
    let text = read("docs/laravel-batches.md");
    let mut named = 0;
    for (line, text) in prose(&text) {
        for (file, name) in spans(text).into_iter().filter_map(|span| span.split_once("::")) {
            let placeholder = name == "…" || name == "tests" || file.starts_with(char::is_uppercase);
            if placeholder {
                continue;
            }
            let homes = [format!("tests/runs/{file}.rs"), format!("crates/store-conformance/src/{file}.rs")];
            let found = homes
                .iter()
                .filter_map(|home| std::fs::read_to_string(root().join(home)).ok())
                .any(|source| source.contains(&format!("fn {name}(")));
            assert!(found, "docs/laravel-batches.md:{line}: there is no test `{file}::{name}`");
            named += 1;
        }
        for property in text.split("`lifecycle_model`: *").skip(1).filter_map(|rest| rest.split('*').next()) {
            assert!(
                model.contains(&format!("\"{property}\"")),
                "docs/laravel-batches.md:{line}: *{property}*"
            );
            named += 1;
        }
    }
    assert!(named > 20, "{named}");
}
