//! What files that mean harm may cost: time linear in their bytes, memory and answers bounded.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_domain::csv::{Column, NoReferences, RowError, Schema, Validator};

const PIECE: usize = 32 * 1024;

fn schema() -> Schema {
    Schema { columns: ["a", "b", "c"].map(Column::named).into(), ..Schema::default() }
}

/// The errors of a file, in pieces as a network brings them; at most `most` bytes of anything were held meanwhile.
fn errors(schema: Schema, file: impl Iterator<Item = Vec<u8>>, most: usize) -> Vec<RowError> {
    let mut validator = Validator::new(Arc::new(schema), Arc::new(NoReferences));
    for (count, piece) in file.enumerate() {
        if let Err(limit) = validator.push(&piece) {
            return common::limit(validator.stopped(&limit));
        }
        // What a parser holds is what its debug form shows, several characters for each byte.
        if count.is_multiple_of(16) {
            let held = format!("{validator:?}").len();
            assert!(held < most, "after {count} pieces the validator shows {held} characters");
        }
    }
    match validator.finish() {
        Ok(_) => Vec::new(),
        Err(refused) => common::errors(refused),
    }
}

fn pieces(file: Vec<u8>) -> impl Iterator<Item = Vec<u8>> {
    file.chunks(PIECE).map(<[u8]>::to_vec).collect::<Vec<_>>().into_iter()
}

fn codes(errors: &[RowError]) -> Vec<&str> {
    errors.iter().map(|error| error.code).collect()
}

#[test]
fn a_field_of_quotes_costs_time_linear_in_its_bytes() {
    let mut file = b"a,b,c\n1,2,\"".to_vec();
    file.extend(b"\"\"".repeat(65_536));
    file.extend(b"\"\n");
    let began = Instant::now();
    assert!(
        errors(schema(), pieces(file.clone()), usize::MAX).is_empty(),
        "65,536 quotes are as many characters"
    );
    // Byte by byte, and one character more than a field may have.
    file.splice(11..11, *b"x");
    let singly = file.iter().map(|byte| vec![*byte]).collect::<Vec<_>>();
    let mut validator = Validator::new(Arc::new(schema()), Arc::new(NoReferences));
    let limit = singly.iter().find_map(|piece| validator.push(piece).err());
    assert_eq!(limit.map(|limit| validator.stopped(&limit).errors[0].code), Some("field_too_large"));
    // It took minutes when each byte had the whole field counted.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn characters_are_counted_the_same_wherever_the_bytes_are_cut() {
    let schema = || {
        let mut schema = schema();
        schema.limits.max_field_chars = 10;
        schema
    };
    for (field, fits) in [
        ("0123456789", true),
        ("0123456789x", false),
        ("ééééé🎉🎉🎉🎉🎉", true),
        ("ééééé🎉🎉🎉🎉🎉é", false),
        ("\"012345678\"\"\"", true),
        ("\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"", true),
        ("\"0123456789\"\"\"", false),
    ] {
        let file = format!("a,b,c\n1,{field},3\n");
        for cut in 1..file.len() {
            let found = errors(schema(), file.as_bytes().chunks(cut).map(<[u8]>::to_vec), usize::MAX);
            assert_eq!(found.is_empty(), fits, "{field} in pieces of {cut}: {found:?}");
        }
    }
}

#[test]
fn a_record_of_commas_is_kept_up_to_one_field_more_than_the_header_has() {
    let mut schema = schema();
    schema.limits.max_record_bytes = 64 * 1024 * 1024;
    let commas = || std::iter::repeat_n(vec![b','; PIECE], 64);
    let file = std::iter::once(b"a,b,c\n1,2,3\n".to_vec())
        .chain(commas())
        .chain([b"\"a quoted\nline end\",\n1,2\n4,5,6\n".to_vec()]);
    let found = errors(schema, file, 20_000);
    assert_eq!(codes(&found), ["field_count", "field_count"]);
    assert_eq!(
        found[0].message,
        "the line has 2097154 fields and the header 3; put values that hold commas in quotes"
    );
    assert_eq!((found[0].line, found[1].line), (3, 5), "the record is read to its end, quotes and all");
}

#[test]
fn a_record_without_end_meets_its_limit_though_it_is_not_kept() {
    let file = std::iter::once(b"a,b,c\n".to_vec()).chain(std::iter::repeat_n(vec![b','; PIECE], 1000));
    assert_eq!(codes(&errors(schema(), file, 20_000)), ["record_too_large"]);
}

#[test]
fn a_header_is_bounded_in_columns_and_bytes() {
    let file = std::iter::repeat_n(vec![b','; 4096], 8).chain([b"\n1,2,3\n".to_vec()]);
    let found = errors(schema(), file, 400_000);
    assert_eq!(codes(&found), ["too_many_columns"]);
    assert_eq!(found[0].message, "the header has 32769 columns; the columns are: a, b, c");
    let file = std::iter::repeat_n(vec![b','; PIECE], 1000);
    assert_eq!(codes(&errors(schema(), file, 1_000_000)), ["header_too_large"]);
    let file = std::iter::repeat_n(vec![b'x'; PIECE], 1000);
    assert_eq!(codes(&errors(schema(), file, 1_000_000)), ["header_too_large"]);
}

#[test]
fn a_pipeline_may_have_many_long_columns() {
    let columns: Vec<Column> = (0..3000).map(|n| Column::named(format!("{n:0>60}"))).collect();
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    let file = format!("{}\n{}\n", names.join(","), vec!["1"; names.len()].join(","));
    let schema = Schema { columns: columns.clone(), ..Schema::default() };
    assert!(errors(schema, pieces(file.into_bytes()), usize::MAX).is_empty());
}

#[test]
fn errors_of_a_file_are_short_whatever_the_rules_and_the_names() {
    let mut schema = schema();
    schema.columns[0].one_of = (0..3000).map(|n| format!("value-{n}")).collect::<Vec<_>>().into();
    schema.columns[1].pattern = Some(regex::Regex::new(&format!("^({})$", "x|".repeat(5000))).unwrap());
    let file = format!("a,b,c\n{}", "1,y,3\n".repeat(200));
    let found = errors(schema.clone(), pieces(file.into_bytes()), usize::MAX);
    assert_eq!(found.len(), 100);
    assert!(found[0].message.starts_with("`a` must be one of: value-0, value-1, "), "{}", found[0].message);
    assert!(found[0].message.ends_with(" more"), "{}", found[0].message);
    let bytes = |found: &[RowError]| serde_json::to_vec(found).unwrap().len();
    assert!(bytes(&found) < 100_000, "{}", bytes(&found));

    let long = "🎉".repeat(10_000);
    let found = errors(schema, pieces(format!("a,b,{long}\n1,2,3\n").into_bytes()), usize::MAX);
    assert_eq!(codes(&found), ["unknown_column"]);
    assert!(bytes(&found) < 3_000, "{}", bytes(&found));
}

#[test]
fn many_choices_are_looked_up_and_not_walked_through() {
    let mut schema = schema();
    schema.columns[0].one_of = (0..20_000).map(|n| format!("value-{n}")).collect::<Vec<_>>().into();
    let file = format!("a,b,c\n{}", "value-19999,2,3\n".repeat(50_000));
    let began = Instant::now();
    assert!(errors(schema, pieces(file.into_bytes()), usize::MAX).is_empty());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}
