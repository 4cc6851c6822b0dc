//! Runbooks: a part for each alert, and a word for each finding of `reconcile` and `doctor`.

use std::collections::BTreeSet;

use penstock_domain::cause::Cause;
use penstock_sandbox::{Config, Sandbox};
use penstock_tests::Place;

use crate::markdown::{prose, read, spans, table_rows};

/// The parts of the runbooks that are about an alert.
fn parts() -> BTreeSet<String> {
    prose(&read("docs/runbooks.md"))
        .into_iter()
        .filter_map(|(_, line)| line.strip_prefix("## "))
        .filter(|title| title.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_alert_has_its_part_and_every_part_its_alert() {
    let mut told = BTreeSet::new();
    let rules = read("charts/penstock/files/alerts.yaml");
    for url in rules.lines().filter_map(|line| line.trim().strip_prefix("runbook_url: ")) {
        told.insert(url.split_once("runbooks.md#").expect("an anchor").1.to_owned());
    }
    let alerts = rules.matches("- alert: ").count();
    assert_eq!(rules.matches("runbook_url: ").count(), alerts);
    let hooks = read("crates/domain/src/alert.rs");
    let body = hooks.split("pub const fn name").nth(1).unwrap().split("\n    }").next().unwrap();
    told.extend(
        body.lines().filter_map(|line| line.split("=> \"").nth(1)?.split('"').next()).map(str::to_owned),
    );
    assert!(told.len() > 6, "{told:?}");
    assert_eq!(parts(), told);
    // Prometheus' names stand there too: who is woken looks for what the alert is called.
    let runbooks = read("docs/runbooks.md");
    for name in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(runbooks.contains(&format!("`{name}`")), "docs/runbooks.md does not name {name}");
    }
}

/// What `penstock reconcile` looks for is asked of the program itself.
#[test]
fn every_finding_of_reconcile_is_explained() {
    let sandbox = Sandbox::start(Config::default()).unwrap();
    let place = Place::new(&[("invite.yaml", include_str!("../../pipelines/invite.yaml"))]);
    place.key(&sandbox, "acme");
    let (plan, good) = place.operate(&sandbox, &["reconcile"]);
    assert!(good, "{plan}");
    let found: BTreeSet<&str> =
        plan["findings"].as_array().unwrap().iter().map(|one| one["what"].as_str().unwrap()).collect();
    let rows = table_rows(&read("docs/runbooks.md"));
    let explained: BTreeSet<&str> = rows
        .iter()
        .filter(|row| row.heading == "`reconcile` says")
        .map(|row| row.cells[0].trim_matches('`'))
        .collect();
    assert_eq!(explained, found);
}

#[test]
fn every_cause_of_a_failed_call_is_explained() {
    let rows = table_rows(&read("docs/runbooks.md"));
    let explained: BTreeSet<&str> =
        rows.iter().filter(|row| row.heading == "`cause`").flat_map(|row| spans(&row.cells[0])).collect();
    let causes: BTreeSet<&str> = Cause::ALL.into_iter().map(Cause::name).collect();
    assert_eq!(explained, causes);
}

/// What `penstock doctor` checks, with any services: its source has all of it.
#[test]
fn every_line_of_doctor_is_explained() {
    let (shared, own) = ("crates/flow/src/operate/health", "crates/cli/src/doctor");
    let files = [
        (shared, "activity"),
        (shared, "keys"),
        (shared, "services"),
        (own, "background"),
        (own, "dependencies"),
    ];
    let source: String = files.iter().map(|(folder, file)| read(&format!("{folder}/{file}.rs"))).collect();
    let mut looked_at = BTreeSet::new();
    for call in ["findings.ok(", "findings.warn(", "findings.fail(", "clock(findings, ", ".warn("] {
        for rest in source.split(call).skip(1) {
            if let Some(what) = rest.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next()) {
                looked_at.insert(what);
            }
        }
    }
    looked_at.extend(["disk (rows)", "disk (files)"]);
    assert!(looked_at.len() > 10, "{looked_at:?}");
    let rows = table_rows(&read("docs/runbooks.md"));
    let explained: BTreeSet<&str> = rows
        .iter()
        .filter(|row| row.heading == "`doctor` looks at")
        .flat_map(|row| spans(&row.cells[0]))
        .collect();
    assert_eq!(explained, looked_at);
}
