//! All errors of a file as a list of its wrong lines, and that list uploaded again.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::sync::Arc;

use penstock_domain::csv::{
    Column, ColumnTag, Delimiter, Dialect, ErrorListing, ErrorSheet, HeaderRules, Limits,
    ReferenceReader as _, ReferenceWriter, References, Rejected, RowReference, Schema, Validator,
};
use penstock_domain::ids::BatchId;
use uuid::Uuid;

use crate::common::Untagged;

#[derive(Debug)]
struct Writer;

impl ReferenceWriter for Writer {
    fn write(&self, line: u64, protected: Vec<ColumnTag>) -> String {
        let row = u32::try_from(line).unwrap();
        let batch = BatchId(Uuid::from_u128(5));
        Untagged::write(&RowReference { batch, row, protected, unfinished: None })
    }

    fn reads(&self, cell: &str) -> bool {
        Untagged.read(cell).is_some()
    }
}

impl References for Untagged {
    fn cell(&self, reference: &RowReference) -> String {
        Self::write(reference)
    }
}

fn schema() -> Schema {
    let mut columns: Vec<Column> = ["email", "name", "amount"].map(Column::named).into();
    columns[0].required = true;
    columns[2].format = Some(penstock_domain::csv::Format::Integer);
    Schema { columns, ..Schema::default() }
}

/// The list of a refused file, and the rest of the refusal.
fn list(schema: Schema, file: &[u8], pieces: usize) -> (String, Rejected) {
    let listing = ErrorListing { references: Arc::new(Writer), delimiter: None, mark: false };
    let validator = Validator::new(Arc::new(schema), Arc::new(Untagged)).listing(listing);
    let (listed, rejected) = common::list(validator, file, pieces);
    (String::from_utf8(listed).unwrap(), rejected)
}

#[test]
fn every_error_stands_with_its_line_whatever_the_pieces() {
    let file = b"name,email,amount\n\"a, b\",x,1\n=1+1,,many\n\n\"two\nlines\",y\nc,z,\"1\"2\n";
    for pieces in [1, 7, 1000] {
        let (listed, rejected) = list(schema(), file, pieces);
        let lines: Vec<&str> = listed.split("\r\n").collect();
        assert_eq!(lines[0], "name,email,amount,_line,_column,_code,_message,_ref");
        assert!(
            lines[1].starts_with("'=1+1,,many,3,email,required,\"`email` must have a value; "),
            "{listed}"
        );
        assert!(lines[2].starts_with(",,,3,amount,format,"), "{listed}");
        assert!(lines[3].starts_with(",,,5,,field_count,"), "{listed}");
        assert!(lines[4].starts_with(",,,7,amount,text_after_quote,"), "{listed}");
        assert_eq!((lines.len(), lines[5]), (6, ""), "{listed}");
        assert_eq!(rejected.error_count, 4);
        let counts: Vec<_> =
            rejected.counts.iter().map(|count| (count.column.as_deref(), count.code, count.count)).collect();
        assert_eq!(counts.len(), 4);
        assert!(counts.contains(&(Some("email"), "required", 1)), "{counts:?}");
    }
}

#[test]
fn a_list_that_was_put_right_is_taken_with_every_value_as_it_was() {
    let (listed, _) = list(schema(), b"email,name,amount\na,=1+1,one\nb,'x,two\n", 5);
    let fixed = listed.replace(",one,", ",1,").replace(",two,", ",2,");
    let rows = |file: &[u8]| {
        let schema = Arc::new(schema());
        let mut validator = Validator::new(schema.clone(), Arc::new(Untagged));
        validator.push(file).unwrap();
        let validated = validator.finish().unwrap();
        assert_eq!(validated.ignored_columns, Vec::<String>::new());
        let mut parser = penstock_domain::csv::Parser::new(Limits::NONE);
        let mut names = Vec::new();
        let mut take = |event: penstock_domain::csv::Event<'_>| {
            if let penstock_domain::csv::Event::Record(record) = event {
                let mut payload = Vec::new();
                validated.header.payload(&record, &Untagged, &mut payload);
                names.push(validated.header.values(&payload, &schema).unwrap()["name"].clone());
            }
            std::ops::ControlFlow::Continue(())
        };
        parser.push(file, &mut take).unwrap();
        names.split_off(1)
    };
    assert_eq!(rows(fixed.as_bytes()), ["=1+1", "'x"]);
}

#[test]
fn a_list_has_the_files_words_and_delimiter_and_an_end() {
    let mut schema = schema();
    schema.dialect = Dialect {
        delimiter: Delimiter::Auto,
        header: HeaderRules { ignore_case: true, ..HeaderRules::default() },
        ..Dialect::default()
    };
    let mut file = b"EMAIL;Name;Amount\n".to_vec();
    file.extend(b"a;b;c\n".repeat(100_500));
    let (listed, rejected) = list(schema, &file, 4096);
    assert!(
        listed.starts_with("EMAIL;Name;Amount;_line;_column;_code;_message;_ref\r\na;b;c;2;amount;format;")
    );
    assert_eq!(listed.matches("\r\n").count(), 100_001);
    assert_eq!((rejected.error_count, rejected.errors.len()), (100_500, 100));
    assert_eq!(rejected.counts[0].count, 100_500);
}

#[test]
fn a_limit_and_a_wrong_header_are_listed_too() {
    let mut small = schema();
    small.limits.max_rows = 2;
    let (listed, rejected) = list(small, b"email,name,amount\na,b,1\nc,d,x\ne,f,2\n", 3);
    assert_eq!(
        rejected.errors.iter().map(|error| error.code).collect::<Vec<_>>(),
        ["too_many_rows", "format"]
    );
    assert!(listed.contains("c,d,x,3,amount,format,"), "{listed}");
    assert!(listed.contains(",,,4,,too_many_rows,"), "{listed}");
    let (listed, _) = list(schema(), b"mail,name\na,b\n", 3);
    assert!(listed.starts_with("_line,_column,_code,_message,_ref\r\n1,mail,unknown_column,"), "{listed}");
    let (listed, _) = list(schema(), b"PK\x03\x04 a ZIP archive", 3);
    assert!(listed.contains("\r\n1,,archive,"), "{listed}");
}

/// What a column `_ref` holds that we did not write is no reason to leave a formula as it is.
#[test]
fn a_formula_beside_a_foreign_reference_gets_its_apostrophe() {
    let (listed, _) = list(schema(), b"email,name,amount,_ref\na,=1+1,x,7\n", 100);
    assert!(listed.contains("a,'=1+1,x,2,amount,format,"), "{listed}");
}

/// A list for a spreadsheet is the same, whatever its pieces, and is taken again whether one has opened and saved it or not.
#[test]
fn a_list_for_a_spreadsheet_keeps_digits_and_dates() {
    let header = HeaderRules { ignore_case: true, ..HeaderRules::default() };
    let dialect = Dialect { delimiter: Delimiter::Auto, header, ..Dialect::default() };
    let schema = Schema { dialect, ..schema() };
    let file = "Email;Name;Amount\n;=1+1;007\nx;2026-11-24;many\na;\"b; c\"\n";
    let (listed, _) = list(schema.clone(), file.as_bytes(), 1000);
    let batch = BatchId(Uuid::from_u128(5));
    for pieces in [1, 10, 5000] {
        let mut sheet = ErrorSheet::new(batch, Arc::new(schema.clone()), Arc::new(Untagged));
        let mut shown: Vec<u8> =
            listed.as_bytes().chunks(pieces).flat_map(|piece| sheet.push(piece)).collect();
        shown.extend(sheet.finish());
        let shown = String::from_utf8(shown).unwrap();
        let lines: Vec<&str> = shown.split("\r\n").collect();
        assert_eq!(lines[0], "\u{FEFF}Email;Name;Amount;_line;_column;_code;_message;_ref");
        assert!(lines[1].starts_with(";'=1+1;\"=\"\"007\"\"\";2;email;required;"), "{shown}");
        assert!(lines[2].starts_with("x;\"=\"\"2026-11-24\"\"\";many;3;amount;format;"), "{shown}");
        assert!(lines[3].starts_with(";;;4;;field_count;"), "{shown}");
        assert_eq!((lines.len(), lines[4]), (5, ""), "{shown}");
        let two = lines[..3].join("\r\n").replace("\r\n;", "\r\ny;").replace(";many;", ";5;");
        let saved = two.replace("\"=\"\"", "").replace("\"\"\"", "");
        assert_ne!(two, saved);
        for file in [two, saved] {
            let mut validator = Validator::new(Arc::new(schema.clone()), Arc::new(Untagged));
            validator.push(file.as_bytes()).unwrap();
            let mut stored = validator.stored(file.as_bytes()).to_vec();
            stored.extend(validator.finish().unwrap().rest);
            let stored = String::from_utf8(stored).unwrap();
            assert!(stored.contains("=1+1") && !stored.contains("'=1+1;"), "{stored}");
        }
    }
}
