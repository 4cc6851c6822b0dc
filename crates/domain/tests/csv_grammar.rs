//! The parser against its grammar, and against csv-core on well-formed files.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::ops::ControlFlow;
use std::sync::Arc;

use penstock_domain::csv::{Column, Event, Limits, NoReferences, Parser, Schema, Validator, writer};
use proptest::prelude::*;

/// What a parser made of bytes that came in pieces: records with their places, or faults.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Record { values: Vec<String>, line: u64, offset: u64, end: u64 },
    Fault { code: &'static str, line: u64, field: usize },
}

fn limits() -> Limits {
    Limits { max_field_chars: 1000, max_record_bytes: 4000, max_rows: 1000 }
}

fn read(mut parser: Parser, bytes: &[u8], pieces: usize) -> (Vec<Seen>, bool) {
    let mut seen = Vec::new();
    let mut take = |event: Event<'_>| {
        seen.push(match event {
            Event::Record(record) => Seen::Record {
                values: record.values().map(|value| value.into_owned()).collect(),
                line: record.line,
                offset: record.offset,
                end: record.end,
            },
            Event::Malformed(fault) => Seen::Fault { code: fault.code, line: fault.line, field: fault.field },
        });
        ControlFlow::Continue(())
    };
    let mut whole = bytes.chunks(pieces.max(1)).try_for_each(|piece| parser.push(piece, &mut take));
    if whole.is_ok() {
        whole = parser.finish(&mut take);
    }
    (seen, whole.is_ok())
}

#[test]
fn a_record_of_a_sheet_is_one_line() {
    let file = b"a,b\n\n\"x\ny\r\nz\",1\nc,\"\"\"\n\"\nd,2\n";
    let lines = |parser: Parser, bytes: &[u8]| -> Vec<u64> {
        let seen = read(parser, bytes, 2).0;
        seen.iter().map(|one| if let Seen::Record { line, .. } = one { *line } else { 0 }).collect()
    };
    assert_eq!(lines(Parser::new(limits()).of_sheet(true), file), [1, 3, 4, 5]);
    assert_eq!(lines(Parser::new(limits()), file), [1, 3, 6, 8]);
    assert_eq!(lines(Parser::resume_at(limits(), 5, 3).of_sheet(true), &file[5..]), [3, 4, 5]);
}

fn values(seen: &[Seen]) -> Vec<Vec<String>> {
    seen.iter()
        .map(|one| match one {
            Seen::Record { values, .. } => values.clone(),
            Seen::Fault { .. } => panic!("a fault in a well-formed file: {one:?}"),
        })
        .collect()
}

fn csv_core(bytes: &[u8]) -> Vec<Vec<String>> {
    let mut reader = csv_core::Reader::new();
    let (mut output, mut ends) = (vec![0; bytes.len() + 16], vec![0; bytes.len() + 16]);
    let (mut records, mut at, mut written, mut fields) = (Vec::new(), 0, 0, 0);
    loop {
        let (result, read, wrote, ended) =
            reader.read_record(&bytes[at..], &mut output[written..], &mut ends[fields..]);
        at += read;
        written += wrote;
        fields += ended;
        match result {
            csv_core::ReadRecordResult::Record => {
                let mut start = 0;
                records.push(
                    ends[..fields]
                        .iter()
                        .map(|end| {
                            let text = String::from_utf8(output[start..*end].to_vec()).unwrap();
                            start = *end;
                            text
                        })
                        .collect(),
                );
                (written, fields) = (0, 0);
            }
            csv_core::ReadRecordResult::End => return records,
            csv_core::ReadRecordResult::InputEmpty => {}
            other => panic!("{other:?}"),
        }
    }
}

/// A record of values that are written with or without quotes, and its line end.
fn record() -> impl Strategy<Value = (Vec<String>, bool, bool)> {
    let value = prop_oneof!["[a-z ]{0,8}", "[a-z\",\n\r;é🎉]{0,8}", Just(String::new())];
    (prop::collection::vec(value, 1..5), any::<bool>(), any::<bool>())
}

fn file() -> impl Strategy<Value = (Vec<Vec<String>>, String)> {
    (prop::collection::vec(record(), 0..8), any::<bool>()).prop_map(|(records, last)| {
        let (mut text, mut expected) = (String::new(), Vec::new());
        let count = records.len();
        for (index, (values, quote_all, crlf)) in records.into_iter().enumerate() {
            for (place, value) in values.iter().enumerate() {
                if place > 0 {
                    text.push(',');
                }
                let alone = values.len() == 1 && value.is_empty();
                if quote_all || alone || value.contains(['"', ',', '\n', '\r']) {
                    text.push_str(&format!("\"{}\"", value.replace('"', "\"\"")));
                } else {
                    text.push_str(value);
                }
            }
            if index + 1 < count || last {
                text.push_str(if crlf { "\r\n" } else { "\n" });
            }
            expected.push(values);
        }
        (expected, text)
    })
}

proptest! {
    #[test]
    fn what_the_grammar_makes_is_read_back_and_as_csv_core_reads_it((expected, text) in file(), pieces in 1_usize..20) {
        let (seen, whole) = read(Parser::new(limits()), text.as_bytes(), pieces);
        prop_assert!(whole);
        prop_assert_eq!(&values(&seen), &expected);
        prop_assert_eq!(csv_core(text.as_bytes()), expected);
    }

    #[test]
    fn pieces_change_nothing(bytes in prop::collection::vec(prop_oneof![Just(b','), Just(b'"'), Just(b'\n'), Just(b'\r'), Just(0), Just(0xEF), Just(0xBB), Just(0xBF), any::<u8>()], 0..60), pieces in 1_usize..10) {
        let whole = read(Parser::new(limits()), &bytes, bytes.len().max(1));
        prop_assert_eq!(read(Parser::new(limits()), &bytes, pieces), whole);
    }

    #[test]
    fn any_record_is_a_place_to_resume_at((_, text) in file(), nth in 0_usize..8) {
        let (seen, _) = read(Parser::new(limits()), text.as_bytes(), 1000);
        if let Some(Seen::Record { end, .. }) = seen.get(nth) {
            let line = 1 + text.as_bytes()[..usize::try_from(*end).unwrap()].iter().filter(|byte| **byte == b'\n').count() as u64;
            let rest = &text.as_bytes()[usize::try_from(*end).unwrap()..];
            let (again, _) = read(Parser::resume_at(limits(), *end, line), rest, 7);
            prop_assert_eq!(&again[..], &seen[nth + 1..]);
        }
    }

    #[test]
    fn what_is_written_is_read((expected, _) in file()) {
        let mut out = Vec::new();
        for values in &expected {
            writer::encode_record(values.iter().map(String::as_str), &mut out);
            out.push(b'\n');
        }
        prop_assert_eq!(values(&read(Parser::new(limits()), &out, 1000).0), expected);
    }

    #[test]
    fn no_bytes_make_the_validator_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let schema = Schema { columns: vec![Column::named("a")], limits: limits(), ..Schema::default() };
        let mut validator = Validator::new(Arc::new(schema), Arc::new(NoReferences));
        if validator.push(&bytes).is_ok() {
            let _ = validator.finish();
        }
    }
}

#[test]
fn limits_hold_as_soon_as_they_are_passed() {
    let small = Limits { max_field_chars: 10, max_record_bytes: 50, max_rows: 5 };
    for (text, good) in [
        ("0123456789,x\n", true),
        ("\"01234\"\"6789\",x\n", true),
        ("ééééééééééx", false),
        ("01234567890", false),
        ("\"01234567890", false),
        ("a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t,u,v,w,x,y,z", false),
    ] {
        let (_, whole) = read(Parser::new(small.clone()), text.as_bytes(), 3);
        assert_eq!(whole, good, "{text}");
    }
}
