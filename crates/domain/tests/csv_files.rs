//! Whole files against a pipeline's columns: what is refused and where, and what comes back from a report.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use penstock_domain::csv::{Column, HeaderMap, Schema, Validated, Validator};

fn schema(columns: &[&str]) -> Schema {
    Schema { columns: columns.iter().map(|name| Column::named(*name)).collect(), ..Schema::default() }
}

/// A file that comes in small pieces; its errors as `line column code`.
fn judge(schema: Schema, file: &[u8]) -> Result<Validated, Vec<String>> {
    let mut validator = Validator::new(Arc::new(schema));
    for piece in file.chunks(7) {
        if let Err(limit) = validator.push(piece) {
            let error = validator.error_of(&limit);
            return Err(vec![format!("{} {} {}", error.line, error.column.unwrap_or_default(), error.code)]);
        }
    }
    validator.finish().map_err(|rejected| {
        let said = |error: penstock_domain::csv::RowError| {
            format!("{} {} {}", error.line, error.column.unwrap_or_default(), error.code)
        };
        rejected.errors.into_iter().map(said).collect()
    })
}

#[test]
fn a_header_of_ignored_columns_only_is_refused() {
    let columns = || schema(&["a", "b"]);
    assert_eq!(judge(columns(), b"_x\nfoo\n").unwrap_err(), ["1  missing_column"]);
    assert_eq!(judge(columns(), b"_row,_status\n1,failed\n").unwrap_err(), ["1  missing_column"]);
    let file = judge(columns(), b"_x,b,_y\nfoo,bar,baz\n").unwrap();
    assert_eq!(file.header.columns(), ["b"]);
}

#[test]
fn stored_headers_of_every_age_are_read() {
    let schema = schema(&["a", "b"]);
    let values = |header: &str, payload: &str| {
        let header: HeaderMap = serde_json::from_str(header).unwrap();
        header.values(payload.as_bytes(), &schema).map(|values| format!("{}|{}", values["a"], values["b"]))
    };
    assert_eq!(values(r#"{"columns":["a","b"],"fields":2}"#, "1,2").unwrap(), "1|2");
    assert_eq!(values(r#"{"columns":["b"],"kept":[1],"fields":2,"harmless":true}"#, "2").unwrap(), "|2");
    // What an older program made of a header of ignored columns only: its rows cannot be read, and are not taken for
    // rows of another shape.
    assert!(values(r#"{"columns":[],"fields":1}"#, "foo").is_err());
    let all = judge(schema.clone(), b"a,b\n1,2\n").unwrap().header;
    assert_eq!(serde_json::to_string(&all).unwrap(), r#"{"columns":["a","b"],"fields":2,"harmless":false}"#);
    let some = judge(schema.clone(), b"_n,a\n1,2\n").unwrap().header;
    let stored = serde_json::to_string(&some).unwrap();
    assert_eq!(stored, r#"{"columns":["a"],"kept":[1],"fields":2,"harmless":false}"#);
}
