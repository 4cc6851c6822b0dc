//! Pipelines: every key that a definition takes is described in docs/write-a-pipeline.md or a page beside it, and no other.

use std::collections::BTreeSet;

use crate::markdown::{read, spans, table_rows};

/// A table's first heading, and the structs whose fields stand in it, each behind a prefix.
const TABLES: [(&str, &[(&str, &str)]); 18] = [
    ("key", &[("", "Definition")]),
    ("key of `csv`", &[("", "CsvDefinition"), ("header.", "HeaderDefinition")]),
    ("key of a column", &[("", "ColumnDefinition")]),
    (
        "key of a dependency",
        &[
            ("", "DependencyDefinition"),
            ("rate.", "RateDefinition"),
            ("concurrency.", "ConcurrencyPerOwner"),
            ("hours.", "HoursDefinition"),
            ("breaker.", "BreakerDefinition"),
        ],
    ),
    (
        "key of `auth`",
        &[("", "AuthDefinition"), ("basic.", "BasicDefinition"), ("api_key.", "ApiKeyDefinition")],
    ),
    ("key of `oauth2`", &[("", "OAuth2Definition"), ("jwt.", "JwtDefinition")]),
    ("key of `hmac`", &[("", "HmacDefinition")]),
    ("key of `aws_sigv4`", &[("", "SigV4Definition")]),
    ("key of `tls`", &[("", "TlsDefinition")]),
    (
        "key of a step",
        &[
            ("", "StepDefinition"),
            ("request.", "RequestDefinition"),
            ("request.idempotency_key.", "KeyPlaceDefinition"),
            ("response.", "ResponseDefinition"),
        ],
    ),
    ("key of `responses`", &[("", "ResponsesDefinition"), ("error.", "ErrorDefinition")]),
    ("key of `poll`", &[("", "PollDefinition")]),
    ("key of `cache`", &[("", "CacheDefinition")]),
    ("key of `dedupe`", &[("", "DedupeDefinition")]),
    (
        "key of `bulk`",
        &[
            ("", "BulkDefinition"),
            ("match.", "PairDefinition"),
            ("errors.", "ErrorsDefinition"),
            ("response.", "ItemResponseDefinition"),
        ],
    ),
    ("key of `retry`", &[("", "RetryDefinition"), ("backoff.", "BackoffDefinition")]),
    ("key of `dispatch`", &[("", "DispatchDefinition")]),
    ("key of `canary`", &[("", "CanaryDefinition")]),
];

/// The fields of a struct, as YAML has them.
fn fields(source: &str, name: &str) -> Vec<String> {
    let body = source
        .split(&format!("struct {name} {{\n"))
        .nth(1)
        .unwrap_or_else(|| panic!("{name} is not there"))
        .split("\n}")
        .next()
        .unwrap();
    let mut renamed = None;
    let mut found = Vec::new();
    for line in body.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("#[serde(rename = \"") {
            renamed = rest.split('"').next().map(str::to_owned);
        } else if let Some((field, _)) = line.split_once(": ").filter(|_| !line.starts_with(['#', '/'])) {
            let field = field.trim_start_matches("pub ").to_owned();
            found.push(renamed.take().unwrap_or(field));
        }
    }
    assert!(!found.is_empty(), "{name}");
    found
}

#[test]
fn every_key_of_a_pipeline_is_described_and_no_other() {
    let files = [
        "definition.rs",
        "auth/definition.rs",
        "transport.rs",
        "poll.rs",
        "cache.rs",
        "dedupe.rs",
        "bulk/definition.rs",
        "rates.rs",
        "hours.rs",
        "responses/written.rs",
    ];
    let source = files.map(|file| read(&format!("crates/domain/src/pipeline/{file}"))).concat();
    let pages = [
        "write-a-pipeline.md",
        "how-to/authenticate-calls.md",
        "how-to/wait-for-a-result.md",
        "how-to/ask-once.md",
        "how-to/bulk-calls.md",
    ];
    let guide: Vec<_> = pages.iter().flat_map(|page| table_rows(&read(&format!("docs/{page}")))).collect();
    for (heading, structs) in TABLES {
        let wanted: BTreeSet<String> = structs
            .iter()
            .flat_map(|(prefix, name)| {
                fields(&source, name).into_iter().map(move |field| format!("{prefix}{field}"))
            })
            // Its keys stand in its place.
            .filter(|key| key != "request" && key != "response")
            .collect();
        let described: BTreeSet<String> = guide
            .iter()
            .filter(|row| row.heading == heading)
            .flat_map(|row| spans(&row.cells[0]).into_iter().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        assert_eq!(described, wanted, "the table `{heading}` of {pages:?}");
    }
    // No struct of the definition is left out.
    let structs = source.matches("#[serde(deny_unknown_fields)]").count();
    assert_eq!(structs, TABLES.iter().map(|(_, structs)| structs.len()).sum::<usize>());
}

#[test]
fn every_format_is_described_and_no_other() {
    let source = read("crates/domain/src/csv/formats.rs");
    let body = source.split("pub enum Format {").nth(1).unwrap().split("\n}").next().unwrap();
    let known: BTreeSet<String> = body
        .lines()
        .filter_map(|line| {
            line.trim().strip_suffix(',').filter(|name| name.chars().all(char::is_alphanumeric))
        })
        .map(str::to_lowercase)
        .collect();
    let described: BTreeSet<String> = table_rows(&read("docs/write-a-pipeline.md"))
        .iter()
        .filter(|row| row.heading == "format")
        .map(|row| spans(&row.cells[0])[0].to_owned())
        .collect();
    assert_eq!(described, known);
}

/// Codes that a failed row can have stand in both guides; those that only say why a row waits stand in neither table.
#[test]
fn every_code_of_a_failed_row_is_described() {
    let source = read("crates/domain/src/outcome.rs");
    let known: BTreeSet<&str> = source
        .lines()
        .filter(|line| line.trim().starts_with("pub const") && line.contains(": &str = \""))
        .filter_map(|line| line.split('"').nth(1))
        .collect();
    let waits = [
        "rate_limited",
        "owner_rate_limited",
        "value_rate_limited",
        "outside_hours",
        "limit_paused",
        "concurrency_limited",
        "breaker_open",
        "answer_awaited",
    ];
    let limiter = ["limiter_unavailable", "limiter_late", "credentials_unavailable"];
    let mut wanted: BTreeSet<&str> = &known - &waits.into_iter().chain(limiter).collect();
    wanted.extend(["http_<status>", "not_stored"]);
    for (page, heading) in [("docs/write-a-pipeline.md", "a failed row's code"), ("docs/rest.md", "code")] {
        let rows = table_rows(&read(page));
        let described: BTreeSet<&str> = rows
            .iter()
            .filter(|row| {
                row.heading == heading && (heading != "code" || row.section == "Answers for every line")
            })
            .flat_map(|row| spans(&row.cells[0]))
            .collect();
        assert_eq!(described, wanted, "{page}");
    }
}
