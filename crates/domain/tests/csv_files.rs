//! Whole files against a pipeline's columns: what is refused and where, and what comes back from a report.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use penstock_domain::csv::{
    Column, Event, HeaderMap, Limits, OURS_BYTES, Parser, Refused, RowReference, Schema, Validator,
    encode_value, writer,
};
use penstock_domain::ids::BatchId;
use proptest::prelude::*;

use crate::common::{Untagged, judge};

fn schema(columns: &[&str]) -> Schema {
    Schema { columns: columns.iter().map(|name| Column::named(*name)).collect(), ..Schema::default() }
}

/// What a report makes of a file: every line as a failed one.
fn failed_csv(file: &[u8], header: &HeaderMap, message: &str) -> Vec<u8> {
    let mut out = Vec::new();
    writer::encode_record(header.columns().iter().map(String::as_str), &mut out);
    out.extend_from_slice(b",_row,_status,_code,_message,_ref\r\n");
    let mut parser = Parser::new(Limits::NONE);
    let (mut number, mut row) = (0_u32, Vec::new());
    let mut take = |event: Event<'_>| {
        let Event::Record(record) = event else { panic!("{event:?}") };
        if number > 0 {
            row.clear();
            header.payload(&record, &Untagged, &mut row);
            let shown = header.report_cells(&row).unwrap();
            out.extend_from_slice(&shown.cells);
            out.extend_from_slice(format!(",{number},failed,http_422,").as_bytes());
            encode_value(message, &mut out);
            let reference = RowReference {
                batch: BatchId(uuid::Uuid::nil()),
                row: number,
                protected: shown.protected,
                unfinished: None,
            };
            out.extend_from_slice(format!(",{}\r\n", Untagged::write(&reference)).as_bytes());
        }
        number += 1;
        ControlFlow::Continue(())
    };
    parser.push(file, &mut take).and_then(|()| parser.finish(&mut take)).unwrap();
    out
}

/// The values of every row of a file, as steps would read them.
fn rows(file: &[u8], header: &HeaderMap, schema: &Schema) -> Vec<BTreeMap<String, String>> {
    let mut parser = Parser::new(Limits::NONE);
    let mut rows = Vec::new();
    let mut take = |event: Event<'_>| {
        let Event::Record(record) = event else { panic!("{event:?}") };
        let mut stored = Vec::new();
        header.payload(&record, &Untagged, &mut stored);
        rows.push(header.values(&stored, schema));
        ControlFlow::Continue(())
    };
    parser.push(file, &mut take).and_then(|()| parser.finish(&mut take)).unwrap();
    rows.into_iter().skip(1).map(Result::unwrap).collect()
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
    let broken: HeaderMap = serde_json::from_str(r#"{"columns":["a","b"],"fields":2}"#).unwrap();
    for payload in ["", "1", "1,2,3", "1,\"2", "1\n2,3"] {
        assert!(broken.report_cells(payload.as_bytes()).is_err(), "{payload}");
    }
    assert_eq!(broken.empty(), b",");
    let all = judge(schema.clone(), b"a,b\n1,2\n").unwrap().header;
    assert_eq!(serde_json::to_string(&all).unwrap(), r#"{"columns":["a","b"],"fields":2}"#);
    let some = judge(schema.clone(), b"_n,a\n1,2\n").unwrap().header;
    let stored = serde_json::to_string(&some).unwrap();
    assert_eq!(stored, r#"{"columns":["a"],"kept":[1],"fields":2}"#);
}

#[test]
fn malformed_records_count_as_rows_behind_any_header() {
    let limits = Limits { max_rows: 3, ..Limits::default() };
    for header in ["a", "\"a\"x", "nonsense"] {
        let file = |rows: usize| format!("{header}\n{}", "\"x\"y\n".repeat(rows));
        let judged = |rows| {
            judge(Schema { limits: limits.clone(), ..schema(&["a"]) }, file(rows).as_bytes()).unwrap_err()
        };
        assert!(judged(3).iter().all(|error| !error.ends_with("too_many_rows")), "{header}");
        assert_eq!(judged(4), ["5  too_many_rows"], "{header}");
    }
}

#[test]
fn the_last_record_is_held_to_the_limits_though_its_line_does_not_end() {
    let limits = Limits { max_field_chars: 5, max_record_bytes: 20, max_rows: 2 };
    let judged =
        |file: &str| judge(Schema { limits: limits.clone(), ..schema(&["a", "b"]) }, file.as_bytes());
    assert_eq!(judged("a,b\n1,2\n3,4\n5,6").unwrap_err(), ["4  too_many_rows"]);
    assert_eq!(judged("a,b\n1,123456").unwrap_err(), ["2 b field_too_large"]);
    assert_eq!(judged("a,b\n1,123456\n").unwrap_err(), ["2 b field_too_large"]);
    assert_eq!(
        judged("a,b\n\"\"\"\"\"\"\"\"\"\",\"\"\"\"\"\"\"\"\"\"\n").unwrap_err(),
        ["2  record_too_large"]
    );
    assert_eq!(judged("a,b\n12345,12345\nééééé,x").unwrap().rows, 2);
}

#[test]
fn a_report_is_taken_again_though_it_added_what_passes_the_limits() {
    let schema = || {
        let limits = Limits { max_field_chars: 65_536, max_record_bytes: 131_080, max_rows: 2 };
        Schema { limits, ..schema(&["a", "b"]) }
    };
    let widest = format!("={}", "x".repeat(65_535));
    let file = format!("a,b\n{widest},{widest}\n1,-1+2\n");
    let header = judge(schema(), file.as_bytes()).unwrap().header;
    let failed = failed_csv(file.as_bytes(), &header, &"y".repeat(1000));
    assert!(failed.len() > file.len() + 2000);
    let again = judge(schema(), &failed).unwrap();
    assert_eq!(rows(&failed, &again.header, &schema()), rows(file.as_bytes(), &header, &schema()));
    // One more character of the client's own is one too many, in a report as elsewhere.
    for (from, to, wanted) in [
        ("'=", "'=x", "2 a field_too_large"),
        ("a,b,_row", "a,b,_x", "2  record_too_large"),
        ("\r\n1,", "\r\n2,2,9,failed,,,\r\n1,", "4  too_many_rows"),
    ] {
        let text = String::from_utf8(failed.clone()).unwrap();
        assert!(text.contains(from), "{from}");
        let mut text = text.replacen(from, to, 1);
        if to == "a,b,_x" {
            text = text.replacen("_status", "_y", 1).replacen("_ref", "_z", 1);
        }
        assert_eq!(judge(schema(), text.as_bytes()).unwrap_err(), [wanted]);
    }
    let beyond = String::from_utf8(failed).unwrap().replacen("failed,", &"z".repeat(2 * OURS_BYTES), 1);
    assert_eq!(judge(schema(), beyond.as_bytes()).unwrap_err(), ["2  record_too_large"]);
}

#[test]
fn a_report_may_be_longer_than_a_file_by_what_it_added() {
    let validator = |columns: &[&str]| Validator::new(Arc::new(schema(columns)), Arc::new(Untagged));
    let mut report = validator(&["a"]);
    report.push(b"a,_row,_status,_code,_message,_ref\n").unwrap();
    assert_eq!(report.allowance(), None, "its first bytes are not read yet");
    report.push(&b"1,7,failed,http_422,no,\n".repeat(30)).unwrap();
    let before = report.allowance().unwrap();
    let protected = vec![penstock_domain::csv::column_tag("a")];
    let reference = Untagged::write(&RowReference {
        batch: BatchId(uuid::Uuid::nil()),
        row: 7,
        protected,
        unfinished: None,
    });
    let added = format!(",7,failed,http_422,\"no, not this one\",{reference}");
    report.push(format!("'=1{added}\n").as_bytes()).unwrap();
    assert_eq!(report.allowance().unwrap() - before, "'".len() as u64 + added.len() as u64);
    let mut other = validator(&["a"]);
    other.push(b"a,_note\n1,xyz\n").unwrap();
    other.complete().unwrap();
    assert_eq!(other.allowance(), Some(0));
}

/// What an apostrophe before a cell means is decided by the line's reference, and by nothing else.
#[test]
fn only_apostrophes_that_a_report_put_there_are_taken_off() {
    let schema = || schema(&["a", "b"]);
    let read = |file: &str| {
        let judged = judge(schema(), file.as_bytes()).unwrap();
        let all = rows(file.as_bytes(), &judged.header, &schema());
        let shown: Vec<String> = all.iter().map(|row| format!("{}|{}", row["a"], row["b"])).collect();
        shown.join(";")
    };
    let file = "a,b\n=1+1,'=2\n-5,'tis\n";
    let header = judge(schema(), file.as_bytes()).unwrap().header;
    let report = String::from_utf8(failed_csv(file.as_bytes(), &header, "no")).unwrap();
    assert!(report.contains("\r\n'=1+1,'=2,") && report.contains("\r\n-5,'tis,"), "{report}");
    assert_eq!(read(&report), "=1+1|'=2;-5|'tis", "as it was");
    // A tidy person takes our columns out, all of them or the reference only: the cells are what they say, and never grow.
    let cut = |columns: usize| {
        let line = |line: &str| line.split(',').take(columns).collect::<Vec<_>>().join(",");
        report.lines().map(line).collect::<Vec<_>>().join("\n") + "\n"
    };
    assert_eq!(read(&cut(2)), "'=1+1|'=2;-5|'tis");
    assert_eq!(read(&cut(6)), "'=1+1|'=2;-5|'tis");
    let again = judge(schema(), cut(2).as_bytes()).unwrap().header;
    let again = String::from_utf8(failed_csv(cut(2).as_bytes(), &again, "no")).unwrap();
    assert!(again.contains("\r\n'=1+1,'=2,"), "{again}");
    // Fixed by hand: the apostrophe may be gone, the columns may have moved. With a reference of somebody else nobody knows.
    assert_eq!(read(&report.replacen("'=1+1", "=7", 1)), "=7|'=2;-5|'tis");
    assert_eq!(read(&report.replacen("'=1+1", "'-7", 1)), "-7|'=2;-5|'tis");
    let other = report.replace(",r01", ",x01");
    assert_eq!(judge(schema(), other.as_bytes()).unwrap_err(), ["2 _ref changed_reference"]);
    let reference = report.lines().nth(1).unwrap().rsplit(',').next().unwrap();
    assert_eq!(read(&format!("_ref,b,a\n{reference},'=2,'=1+1\n,'=2,'=1+1\n")), "=1+1|'=2;'=1+1|'=2");
    // A client's own column of a name that reports use makes no apostrophe vanish.
    assert_eq!(read("a,b,_row\n'=1,'=2,x\n"), "'=1|'=2");
}

#[test]
fn columns_that_are_ignored_are_named() {
    let ignored = |columns: &[&str], header: &str| {
        let file = format!("{header}\n{}\n", vec!["1"; header.split(',').count()].join(","));
        judge(schema(columns), file.as_bytes()).unwrap().ignored_columns.join(",")
    };
    assert_eq!(ignored(&["a"], "a"), "");
    assert_eq!(ignored(&["a"], "_id,a,_note"), "_id,_note");
    assert_eq!(ignored(&["a", "_id"], "_id,a,_note"), "_note", "a declared one is kept");
    assert_eq!(
        ignored(&["a"], "a,_row,_status,_code,_message,_ref,_id"),
        "_id,_ref",
        "a report's own are none of the client's, but this reference is not of a report"
    );
    assert_eq!(ignored(&["a"], "a,_status"), "_status");
    let many: Vec<String> = (0..150).map(|number| format!("_{number}")).collect();
    assert_eq!(ignored(&["a"], &format!("a,{}", many.join(","))).split(',').count(), 100);
    let kept = judge(schema(&["a", "_id"]), b"_id,a\n7,1\n").unwrap();
    let all = rows(b"_id,a\n7,1\n", &kept.header, &schema(&["a", "_id"]));
    assert_eq!(all[0]["_id"], "7");
}

fn cell() -> impl Strategy<Value = String> {
    prop_oneof!["['=+@-]{0,2}[a\",\n\r＝]{0,3}", "[0-9.+-]{0,5}", "[ab'\"]{0,6}"]
}

proptest! {
    /// "failed.csv can be uploaded again as it is": whatever a file holds that was taken once, and however often.
    #[test]
    fn what_was_taken_once_is_taken_again(
        cells in prop::collection::vec((cell(), cell()), 1..4),
        chars in 3_usize..7,
        bytes in 8_usize..24,
        message in "[a-z \",]{0,200}",
    ) {
        let limits = Limits { max_field_chars: chars, max_record_bytes: bytes, max_rows: 3 };
        let schema = || Schema { limits: limits.clone(), ..schema(&["a", "b"]) };
        let mut file = b"a,b\n".to_vec();
        for (a, b) in &cells {
            writer::encode_record([a.as_str(), b.as_str()], &mut file);
            file.push(b'\n');
        }
        if let Ok(first) = judge(schema(), &file) {
            let values = rows(&file, &first.header, &schema());
            let mut report = failed_csv(&file, &first.header, &message);
            for _ in 0..2 {
                let again = judge(schema(), &report);
                prop_assert!(again.is_ok(), "{again:?} {}", String::from_utf8_lossy(&report));
                let header = again.unwrap().header;
                prop_assert_eq!(&rows(&report, &header, &schema()), &values);
                report = failed_csv(&report, &header, &message);
            }
        }
    }
}

/// A reference that was cut or changed is an error where a cell's apostrophe depends on it; white space around it is none of it.
#[test]
fn a_reference_is_trimmed_and_one_that_was_changed_is_an_error_where_it_matters() {
    let protected = vec![penstock_domain::csv::column_tag("a")];
    let batch = penstock_domain::ids::BatchId(uuid::Uuid::from_u128(7));
    let text = Untagged::write(&RowReference { batch, row: 1, protected, unfinished: None });
    let judged = |cell: &str, reference: &str, more: &str| {
        let file = format!("a,_ref{more}\n{cell},{reference}{}\n", if more.is_empty() { "" } else { ",x" });
        judge(schema(&["a"]), file.as_bytes()).map(|validated| validated.ignored_columns)
    };
    for reference in [text.clone(), format!(" {text}  "), format!("\"{text}\n\""), String::new()] {
        assert_eq!(judged("'=X", &reference, ""), Ok(vec![]), "{reference}");
    }
    let cut = &text[..text.len() - 3];
    assert_eq!(judged("'=X", cut, ""), Err(vec!["2 _ref changed_reference".into()]));
    assert_eq!(judged("'=X", "A-17", ",_row"), Err(vec!["2 _ref changed_reference".into()]));
    assert_eq!(judged("=X", cut, ""), Ok(vec!["_ref".into()]));
    assert_eq!(judged("'tis", cut, ""), Ok(vec!["_ref".into()]));
    assert_eq!(judged("'=X", "A-17", ""), Ok(vec!["_ref".into()]), "a column of the client's own");
}

#[test]
fn files_that_are_no_csv_are_named() {
    for (file, sentence) in [
        (&b"\xFF\xFEa\0\n\0"[..], "the file is UTF-16"),
        (b"PK\x03\x04\x14\0\x06\0", "the file is a workbook (.xlsx, .ods) or a ZIP archive"),
        (b"\xD0\xCF\x11\xE0\xA1\xB1", "the file is an old workbook (.xls)"),
        (b"\x1F\x8B\x08\0", "the file is compressed with gzip"),
        (b"a\0,\0b\0\n\0", "the file is UTF-16"),
    ] {
        for size in [1, 3, 100] {
            let mut validator = Validator::new(Arc::new(schema(&["a"])), Arc::new(Untagged));
            for piece in file.chunks(size) {
                validator.push(piece).unwrap();
            }
            validator.complete().unwrap();
            assert!(validator.has_errors());
            let Err(Refused::Errors(rejected)) = validator.finish() else { panic!("{file:?} is taken") };
            assert_eq!(rejected.error_count, 1);
            assert!(rejected.errors[0].message.starts_with(sentence), "{:?}", rejected.errors);
        }
    }
}
