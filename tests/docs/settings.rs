//! Settings: what the programs read and what docs/operate.md describes are the same, defaults included.

use std::collections::{BTreeMap, BTreeSet};

use crate::markdown::{pages, read, root, spans, table_rows};

/// Read by programs, and no operator's business.
const NOT_FOR_OPERATORS: [&str; 6] = [
    "CARGO_MANIFEST_DIR", // read by build scripts
    "OUT_DIR",            // read by build scripts
    "PENSTOCK_CRASH_AT",  // debug builds only: where tests kill a program
    "PENSTOCK_PANIC_AT",  // debug builds only: where tests make a task panic
    "SANDBOX_BIND",       // the sandbox's
    "USER",               // the shell's: who ran a command, for the audit log
];

/// The programs' sources, without tests and benches.
fn sources() -> Vec<String> {
    let mut texts = Vec::new();
    let mut folders = vec![root().join("crates")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() && !["tests", "benches"].contains(&name.as_str()) {
                folders.push(path);
            } else if name.ends_with(".rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                // Unit tests are the end of their file, and read what `cargo xtask test` sets.
                let program = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
                texts.push(program.to_owned());
            }
        }
    }
    assert!(texts.len() > 100, "{}", texts.len());
    texts
}

/// The string literal that `text` begins with.
fn literal(text: &str) -> Option<&str> {
    text.strip_prefix('"')?.split('"').next()
}

/// Variables that programs read, with the default where clap knows one.
pub fn read_by_programs() -> BTreeMap<String, Option<String>> {
    let mut read = BTreeMap::new();
    for text in sources() {
        for attribute in text.split("#[arg(").skip(1).filter_map(|rest| rest.split(")]").next()) {
            let Some(name) = attribute.split("env = ").nth(1).and_then(literal) else { continue };
            let default = attribute.split("default_value_t = ").nth(1).map(|rest| {
                rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>()
            });
            let default = default
                .or_else(|| attribute.split("default_value = ").nth(1).and_then(literal).map(str::to_owned));
            read.insert(name.to_owned(), default);
        }
        for name in text.split("env::var(").skip(1).filter_map(literal) {
            read.insert(name.to_owned(), None);
        }
    }
    read.retain(|name, _| !NOT_FOR_OPERATORS.contains(&name.as_str()));
    assert!(read.len() > 18, "{read:?}");
    read
}

fn is_variable(name: &str) -> bool {
    let begins = ["PENSTOCK_", "ROWS_PER_", "DATABASE_URL", "REDIS_URL", "OBJECT_STORE_URL", "RUST_LOG"];
    begins.iter().any(|beginning| name.starts_with(beginning))
        && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

#[test]
fn every_setting_is_described_and_every_described_one_is_read() {
    let known = read_by_programs();
    let mut described: BTreeMap<String, String> = BTreeMap::new();
    for row in table_rows(&read("docs/operate.md")) {
        if row.section == "Settings" && row.heading == "variable" {
            for name in spans(&row.cells[0]).into_iter().filter(|name| is_variable(name)) {
                described.insert(name.to_owned(), row.cells[1].clone());
            }
        }
    }
    for (name, default) in &known {
        let shown = described.get(name).unwrap_or_else(|| panic!("docs/operate.md does not describe {name}"));
        if let Some(default) = default {
            let words: Vec<&str> = shown.split(['`', ' ', ',']).collect();
            assert!(words.contains(&default.as_str()), "{name} is {default} by default, not {shown}");
        }
    }
    for name in described.keys() {
        assert!(known.contains_key(name), "docs/operate.md describes {name}, which nobody reads");
    }
}

/// The chart's `settings` take every variable of Penstock's own, and no other.
#[test]
fn the_chart_takes_every_setting() {
    let schema: serde_json::Value =
        serde_json::from_str(&read("charts/penstock/values.schema.json")).unwrap();
    let taken = &schema["properties"]["settings"]["propertyNames"]["then"]["enum"];
    let taken: BTreeSet<&str> = taken.as_array().unwrap().iter().filter_map(|name| name.as_str()).collect();
    let known = read_by_programs();
    let own: BTreeSet<&str> =
        known.keys().map(String::as_str).filter(|name| name.starts_with("PENSTOCK_")).collect();
    assert_eq!(taken, own);
}

/// Pages, the chart, the manifests and compose give no variable that does not exist.
#[test]
fn variables_that_are_named_exist() {
    let known = read_by_programs();
    let compose = read("docker-compose.yml");
    let installer = read("xtask/release/install.sh");
    let mut named = 0;
    let mut files = pages();
    files.extend(
        [
            "charts/penstock/values.yaml",
            "docker-compose.yml",
            ".env.example",
            "k8s/base/kustomization.yaml",
            "Dockerfile",
        ]
        .map(str::to_owned),
    );
    for file in files {
        for word in read(&file).split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            // PENSTOCK_TEST_… and the chaos run's are the tests' own.
            let tests = ["PENSTOCK_TEST_", "PENSTOCK_CHAOS_"].iter().any(|own| word.starts_with(own));
            if !is_variable(word) || word.ends_with('_') || tests {
                continue;
            }
            let of_script = [&compose, &installer].iter().any(|text| text.contains(&format!("${{{word}:")));
            assert!(known.contains_key(word) || of_script, "{file} names {word}, which nobody reads");
            named += 1;
        }
    }
    assert!(named > 50, "{named}");
}

/// OpenTelemetry's variables: those that are read stand in the guide by their names.
#[test]
fn telemetry_variables_are_described() {
    let source = read("crates/app/src/otlp/settings/mod.rs");
    let source = source.split("#[cfg(test)]").next().unwrap();
    let guide = read("docs/operate.md");
    let words = |text: &str| -> Vec<String> {
        text.split(|c: char| !c.is_ascii_uppercase() && c != '_')
            .filter(|word| word.starts_with("OTEL_") && !word.ends_with('_'))
            .map(str::to_owned)
            .collect()
    };
    let read_here = words(source);
    assert!(read_here.len() > 15, "{read_here:?}");
    for name in &read_here {
        assert!(guide.contains(&format!("`{name}`")), "docs/operate.md does not describe {name}");
    }
    for name in words(&guide) {
        // Those of the exporter are put together of a signal and a word.
        let word =
            name.strip_prefix("OTEL_EXPORTER_OTLP_").map(|rest| rest.rsplit('_').next().unwrap().to_owned());
        let made = word.is_some_and(|word| {
            source.contains(&format!("\"{word}\"")) || source.contains(&format!("_{word}\""))
        });
        let exporter = name.ends_with("_EXPORTER") && source.contains("OTEL_{signal}_EXPORTER");
        assert!(
            read_here.contains(&name) || made || exporter,
            "docs/operate.md describes {name}, which nobody reads"
        );
    }
}
