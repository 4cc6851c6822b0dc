//! Every error of a file says what is wrong and what to do about it, to somebody who knows nothing but a spreadsheet.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use penstock_domain::csv::{
    Charset, Column, ColumnTag, Delimiter, Dialect, ExtraColumns, HeaderRules, Limits, ReferenceReader,
    RowOrigin, RowReference, Schema, Unfinished, Validator, column_tag, error, values_digest,
};
use penstock_domain::effect::Effect;
use penstock_domain::ids::BatchId;
use uuid::Uuid;

use crate::common::Untagged;

/// References of a file for the pipeline `here`.
#[derive(Debug)]
struct Here;

impl ReferenceReader for Here {
    fn read(&self, text: &str) -> Option<RowReference> {
        Untagged.read(text)
    }

    fn pipeline(&self) -> Option<ColumnTag> {
        Some(column_tag("here"))
    }
}

/// What a sentence tells its reader to do.
const ACTIONS: &[&str] = &[
    "add ", "ask ", "choose ", "close ", "copy ", "export ", "fill ", "keep ", "move ", "must be ",
    "open it", "put ", "remove ", "save ", "shorten ", "split ", "unpack ", "upload ", "write ",
];

fn auto(charset: Charset) -> Dialect {
    let header = HeaderRules { ignore_case: true, trim: true, extra_columns: ExtraColumns::Keep };
    Dialect { delimiter: Delimiter::Auto, charset, header, ..Dialect::default() }
}

fn schema(dialect: Dialect) -> Schema {
    let mut columns: Vec<Column> = ["email", "name", "size"].map(Column::named).into();
    columns[0].required = true;
    columns[1].min_length = Some(2);
    columns[1].max_length = Some(5);
    columns[1].format = Some(penstock_domain::csv::Format::Email);
    columns[2].pattern = Some(regex::Regex::new("^[0-9]+$").unwrap());
    columns[2].one_of = vec!["1".to_owned(), "2".to_owned()].into();
    let limits = Limits { max_field_chars: 100, max_record_bytes: 300, max_rows: 20_000 };
    Schema { columns, dialect, limits, ..Schema::default() }
}

/// The errors of a file: code and sentence.
fn errors(schema: Schema, file: &[u8]) -> Vec<(u64, Option<String>, &'static str, String)> {
    let mut validator = Validator::new(Arc::new(schema), Arc::new(Here));
    let rejected = match validator.push(file) {
        Err(limit) => validator.stopped(&limit),
        Ok(_) => common::rejected(validator.finish()),
    };
    rejected.errors.into_iter().map(|error| (error.line, error.column, error.code, error.message)).collect()
}

/// A reference of a row that did not complete.
fn reference(effect: Effect, pipeline: &str) -> String {
    let origin = RowOrigin { batch: BatchId(Uuid::from_u128(5)), row: 1, effect };
    let values = values_digest(origin, [("email", "other")]);
    let unfinished = Some(Unfinished { effect, values, pipeline: Some(column_tag(pipeline)) });
    Untagged::write(&RowReference { batch: origin.batch, row: 1, protected: Vec::new(), unfinished })
}

fn files() -> Vec<(Schema, Vec<u8>)> {
    let strict = || schema(Dialect::default());
    let lenient = || schema(auto(Charset::Auto));
    let ordered = || Schema { ordered: true, ..strict() };
    let unique = || Schema { unique: vec![0, 1], ..strict() };
    let sjis = || schema(Dialect { charset: Charset::named("shift_jis").unwrap(), ..Dialect::default() });
    let one_row = || Schema { limits: Limits { max_rows: 1, ..strict().limits }, ..strict() };
    let text = |schema: Schema, file: &str| (schema, file.as_bytes().to_vec());
    let with_reference = |cell: &str| format!("email,name,size,_row,_ref\na,,,1,{}\n", cell);
    vec![
        text(strict(), ""),
        text(strict(), "mail\nx\n"),
        text(strict(), "email,,name\nx,y,z\n"),
        text(strict(), "email;name\nx;y\n"),
        text(strict(), "sep=;\nemail;name\n"),
        text(strict(), "#TYPE System.Object\nemail,name\n"),
        text(strict(), "\"email,name\"\n\"x,y\"\n"),
        text(strict(), "name,size\n,1\n"),
        text(strict(), "email,email\nx,y\n"),
        text(ordered(), "name,email\n,x\n"),
        text(strict(), &format!("email{}\n", ",".repeat(2000))),
        text(strict(), "email,name\n"),
        text(strict(), "email,name\n\"x\"y,\n5\" pipe,\n\"open"),
        text(strict(), "email\rx\r"),
        text(strict(), "email,name\nx\0,\n"),
        (strict(), b"email,name\nx\xFF,\n".to_vec()),
        (lenient(), b"\xEF\xBB\xBFemail;name\nx\xFF;\n".to_vec()),
        (sjis(), b"email,name\n\x81\xFF,\n".to_vec()),
        (lenient(), b"email;name\n\xC3\xA9;\n\xFF;\n".to_vec()),
        text(strict(), "email,name\nx\nx,,,\n\"x,y\"\n\x1A\n"),
        text(strict(), &format!("email,name\n{},\n", "x".repeat(101))),
        text(strict(), &format!("email,name\n\"{},\n", "x\n".repeat(101))),
        text(strict(), &format!("email,name,size\n{0},{0},{0}\n", "x".repeat(100))),
        text(strict(), &"x".repeat(200_000)),
        text(one_row(), "email\nx\ny\n"),
        text(unique(), "email,name\nx,\nx,\n"),
        text(strict(), "email,name,size\n,x,3\ny,xxxxxxx,x\n"),
        text(lenient(), &format!("email;name\n{}x;\n", ";\n".repeat(10_001))),
        text(lenient(), "email;name\nx;\nemail;name\n"),
        text(lenient(), "email;name\nx;\ry;\n"),
        text(strict(), "email,_row,_ref\n'=x,1,rA\n"),
        text(strict(), &with_reference(&reference(Effect::Keyed, "here"))),
        text(strict(), &with_reference(&reference(Effect::Unkeyed, "here"))),
        text(strict(), &with_reference(&reference(Effect::Keyed, "elsewhere"))),
        (strict(), b"PK\x03\x04".to_vec()),
        (strict(), b"{\"a\":1}".to_vec()),
        (strict(), [b"\xD0\xCF\x11\xE0".as_slice(), &[0; 2000]].concat()),
        (strict(), b"\xD0\xCF\x11\xE0 E\0n\0c\0r\0y\0p\0t\0e\0d\0P\0a\0c\0k\0a\0g\0e\0".to_vec()),
        (strict(), b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0xl/workbook.xml".to_vec()),
        (strict(), b"\xFF\xFEa\0".to_vec()),
    ]
}

#[test]
fn every_error_says_what_to_do() {
    let (mut seen, mut silent) = (BTreeSet::new(), Vec::new());
    for (schema, file) in files() {
        let all = errors(schema, &file);
        assert!(!all.is_empty(), "{:?}", String::from_utf8_lossy(&file));
        for (line, _, code, sentence) in all {
            assert!(line > 0 && sentence.len() <= error::MESSAGE_BYTES, "{code}: {sentence}");
            if !ACTIONS.iter().any(|action| sentence.contains(action)) {
                silent.push(format!("{code}: {sentence}"));
            }
            seen.insert(code);
        }
    }
    assert!(silent.is_empty(), "{silent:#?}");
    // All codes of the table at the head of the module.
    let table = include_str!("../src/csv/error.rs");
    let rows = table.lines().filter_map(|line| line.strip_prefix("//! | `"));
    let known: BTreeSet<&str> = rows
        .flat_map(|row| row.split(" | ").next().unwrap().split(['`', ',', ' ']))
        .filter(|code| !code.is_empty())
        .collect();
    assert_eq!(seen, known);
}

#[test]
fn sentences_name_the_column_the_line_and_the_way_out() {
    for (file, line, column, code, sentence) in [
        ("email,name\n", 2, None, "no_rows", "write the rows there"),
        (
            "email,name,size\nx,,y\n",
            2,
            Some("size"),
            "pattern",
            "`size` is not written as it must be (pattern ^[0-9]+$)",
        ),
        (
            "email,name,size\nx,abcdefg,1\n",
            2,
            Some("name"),
            "max_length",
            "at most 5 characters, and has 7; shorten it",
        ),
        ("email,name\nx,\n\"a\nb\0\",\n", 3, Some("email"), "nul_byte", "line 4 holds a NUL byte"),
        (
            "email,name,size\nx\n",
            2,
            None,
            "field_count",
            "the line has 1 field and the header 3; add the missing ones",
        ),
    ] {
        let found = errors(schema(Dialect::default()), file.as_bytes());
        let error = found.iter().find(|error| error.2 == code).unwrap_or_else(|| panic!("{found:?}"));
        assert_eq!((error.0, error.1.as_deref()), (line, column), "{found:?}");
        assert!(error.3.contains(sentence), "{error:?}");
    }
    let long = format!("email,name\nx,{}\n", "y".repeat(101));
    let found = errors(schema(Dialect::default()), long.as_bytes());
    assert_eq!(found[0].3, "line 2: the value under `name` has more than 100 characters; shorten it");
    // With an example nobody has to be asked.
    let mut with_example = schema(Dialect::default());
    with_example.columns[2].example = Some("42".into());
    let found = errors(with_example, b"email,name,size\nx,,y\n");
    assert_eq!(
        found[0].3,
        "`size` is not written as it must be (pattern ^[0-9]+$); write it in that way, for example 42"
    );
}

/// A pipeline that takes one delimiter only names the way to it.
#[test]
fn a_wrong_delimiter_names_the_way_to_the_right_one() {
    for (declared, way) in
        [(b',', "Comma delimited"), (b';', "to a semicolon"), (b'\t', "Tab delimited"), (b'|', "LibreOffice")]
    {
        let other = if declared == b',' { ";" } else { "," };
        let dialect = Dialect { delimiter: Delimiter::Is(declared), ..Dialect::default() };
        let found = errors(schema(dialect), format!("email{other}name\nx{other}\n").as_bytes());
        assert!(found[0].3.contains(way), "{found:?}");
    }
}
