//! Files as programs write them, made byte for byte: with the dialect that takes them each is read exactly, and without it each
//! is refused with the sentence that its fix needs.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../common/mod.rs"]
mod common;
mod files;
mod programs;
mod shapes;

use std::ops::ControlFlow;
use std::sync::Arc;

use encoding_rs::{
    EUC_KR, GBK, ISO_8859_2, KOI8_R, SHIFT_JIS, UTF_8, WINDOWS_1250, WINDOWS_1251, WINDOWS_1252,
};
use penstock_domain::csv::{
    Charset, Column, Delimiter, Dialect, Event, ExtraColumns, HeaderRules, Limits, NoReferences, Parser,
    RowError, Schema, Validator,
};

use crate::files::{Table, can_write, tables, write};
use crate::programs::{Characters, Program, Quotes, programs};

fn schema(dialect: Dialect) -> Schema {
    let mut columns: Vec<Column> = ["email", "name", "amount"].map(Column::named).into();
    columns[0].required = true;
    if dialect != Dialect::default() {
        columns[0].aliases = vec!["E-Mail".into()];
    }
    Schema { columns, dialect, ..Schema::default() }
}

fn lenient(charset: Charset) -> Dialect {
    let header = HeaderRules { ignore_case: true, trim: true, extra_columns: ExtraColumns::Keep };
    Dialect { delimiter: Delimiter::Auto, charset, header, ..Dialect::default() }
}

/// The rows of a file as they are read after it was stored, each with its line; or its errors.
fn read(schema: Schema, file: &[u8], pieces: usize) -> Result<Vec<(u64, [String; 3])>, Vec<RowError>> {
    let schema = Arc::new(schema);
    let mut validator = Validator::new(schema.clone(), Arc::new(NoReferences));
    let mut stored = Vec::new();
    for piece in file.chunks(pieces) {
        if let Err(limit) = validator.push(piece) {
            return Err(common::limit(validator.stopped(&limit)));
        }
        if !validator.has_errors() {
            stored.extend_from_slice(validator.stored(piece));
        }
    }
    let validated = validator.finish().map_err(common::errors)?;
    stored.extend_from_slice(&validated.rest);
    let header = validated.header;
    let from = usize::try_from(validated.body_offset).unwrap();
    let mut parser = Parser::resume_at(Limits::NONE, validated.body_offset, validated.body_line);
    let mut rows = Vec::new();
    let mut take = |event: Event<'_>| {
        let Event::Record(record) = event else { panic!("{event:?}") };
        let mut payload = Vec::new();
        header.payload(&record, &NoReferences, &mut payload);
        let values = header.values(&payload, &schema).unwrap();
        rows.push((record.line, ["email", "name", "amount"].map(|name| values[name].clone())));
        ControlFlow::Continue(())
    };
    parser.push(&stored[from..], &mut take).and_then(|()| parser.finish(&mut take)).unwrap();
    assert_eq!(rows.len() as u64, validated.rows);
    Ok(rows)
}

/// The code of the first error without the dialect, and what its sentence says; none: the file is plain.
fn refusal(program: &Program, table: &Table) -> Option<(&'static str, &'static str)> {
    let delimiter = match program.delimiter {
        ';' => "semicolons",
        '\t' => "tabs",
        '|' => "vertical bars",
        _ => "",
    };
    let beyond = table.beyond_ascii && matches!(program.characters, Characters::Other(_));
    Some(match () {
        () if matches!(program.characters, Characters::Utf16 { .. }) => ("nul_byte", "UTF-16"),
        () if program.sep_line => ("unknown_column", "only Excel reads"),
        () if program.delimiter != ',' && program.quotes == Quotes::All => ("text_after_quote", delimiter),
        () if program.line_end == "\r" => ("bare_cr", "delimiter: auto"),
        () if program.delimiter != ',' => ("unknown_column", delimiter),
        () if !table.own && table.header[0] == "E-Mail" => ("unknown_column", "is not a column"),
        () if !table.own && table.extra => ("unknown_column", "`colour` is not a column"),
        () if !table.own => ("unknown_column", "write it `email`"),
        () if beyond => ("invalid_utf8", "encoding: auto"),
        () if program.ctrl_z => ("field_count", "Ctrl-Z"),
        () => return None,
    })
}

#[test]
fn every_file_is_read_exactly_or_refused_with_the_sentence_that_helps() {
    let mut files = 0;
    for program in programs() {
        for table in tables().iter().filter(|table| can_write(&program, table)) {
            let (file, starts) = write(&program, table);
            let name = format!("{}: {:?}", program.name, String::from_utf8_lossy(&file));
            let expected: Vec<(u64, [String; 3])> = starts
                .iter()
                .zip(&table.rows)
                .map(|(line, row)| {
                    let amount = if table.extra { "" } else { row[2] };
                    (*line, [row[0], row[1], amount].map(str::to_owned))
                })
                .collect();
            for pieces in [1, 5, file.len()] {
                let charset = Charset::named(program.encoding()).unwrap_or(Charset::Auto);
                let rows = read(schema(lenient(charset)), &file, pieces);
                assert_eq!(rows.as_ref(), Ok(&expected), "{name} {pieces}");
            }
            let strict = read(schema(Dialect::default()), &file, 7);
            match refusal(&program, table) {
                None => assert_eq!(strict.as_ref(), Ok(&expected), "{name}"),
                Some((code, sentence)) => {
                    let errors = strict.expect_err(&name);
                    assert_eq!(errors[0].code, code, "{name} {errors:?}");
                    assert!(errors[0].message.contains(sentence), "{name} {errors:?}");
                }
            }
            files += 1;
        }
    }
    assert!(files >= 300, "{files}");
}

#[test]
fn encodings_of_the_standard_are_read_by_their_labels() {
    for (label, encoding, name) in [
        ("windows-1250", WINDOWS_1250, "Łódź"),
        ("iso-8859-2", ISO_8859_2, "Łódź"),
        ("windows-1251", WINDOWS_1251, "Жуков"),
        ("koi8-r", KOI8_R, "Жуков"),
        ("shift_jis", SHIFT_JIS, "表ソ能"),
        ("gb2312", GBK, "张三"),
        ("euc-kr", EUC_KR, "김철수"),
        ("latin1", WINDOWS_1252, "Jörg"),
    ] {
        let charset = Charset::named(label).unwrap();
        let text = format!("email,name,amount\na@b.co,{name},1\n");
        let (file, _, unmappable) = encoding.encode(&text);
        assert!(!unmappable, "{label}");
        let dialect = Dialect { charset, ..Dialect::default() };
        for pieces in [1, 2, 1000] {
            let rows = read(schema(dialect.clone()), &file, pieces).unwrap();
            assert_eq!(rows[0].1[1], name, "{label}");
        }
        // A mark takes precedence over what is declared: so reads every browser, and so a report is read again.
        let marked = format!("\u{FEFF}email,name,amount\na@b.co,{name},1\n");
        assert_eq!(read(schema(dialect.clone()), marked.as_bytes(), 3).unwrap()[0].1[1], name);
    }
    assert_eq!(Charset::named("utf8"), Some(Charset::Utf8));
    assert_eq!(Charset::named("hz-gb-2312"), None, "an encoding that browsers refuse as unsafe");
    assert_eq!(Charset::named("klingon"), None);
    assert_eq!(UTF_8.name(), "UTF-8");
}

#[test]
fn characters_that_cannot_be_read_are_errors_of_their_line() {
    let errors = |charset, file: &[u8]| -> Vec<(u64, &'static str)> {
        let dialect = Dialect { charset, ..Dialect::default() };
        [1, 4, 1000]
            .map(|pieces| {
                let errors = read(schema(dialect.clone()), file, pieces).unwrap_err();
                errors.iter().map(|error| (error.line, error.code)).collect::<Vec<_>>()
            })
            .into_iter()
            .reduce(|one, other| {
                assert_eq!(one, other);
                one
            })
            .unwrap()
    };
    let sjis = Charset::Label(SHIFT_JIS);
    assert_eq!(errors(sjis, b"email,name,amount\na,x,1\nb,\x81\xFF,2\n"), [(3, "invalid_encoding")]);
    assert_eq!(errors(sjis, b"email,name,amount\na,\x81"), [(2, "invalid_encoding"), (2, "field_count")]);
    let both = |file: &[u8]| -> Vec<(u64, &'static str)> {
        let errors = read(schema(lenient(sjis)), file, 1000).unwrap_err();
        errors.iter().map(|error| (error.line, error.code)).collect()
    };
    assert_eq!(both(b"sep=;\nemail;name\na;x\nb;\x81\xFF\n"), [(4, "invalid_encoding")]);
    let mixed = "email,name,amount\na,é,1\n".as_bytes();
    assert_eq!(errors(Charset::Auto, &[mixed, b"b,\xE9,2\n"].concat()), [(3, "mixed_encoding")]);
    assert_eq!(errors(Charset::Auto, &[mixed, b"b,x,2\nc,y,\xC3"].concat()), [(4, "mixed_encoding")]);
}

#[test]
fn empty_rows_are_dropped_at_the_end_and_nowhere_else() {
    let read = |file: &str| read(schema(lenient(Charset::Auto)), file.as_bytes(), 6);
    let codes = |file: &str| -> Vec<(u64, &'static str)> {
        read(file).unwrap_err().iter().map(|error| (error.line, error.code)).collect()
    };
    assert_eq!(read("email;name\na;b\n;\n\n;;\n;\n").unwrap().len(), 1);
    assert_eq!(codes("email;name\na;b\n;\n;\nc;d\n"), [(3, "required"), (4, "required")]);
    assert_eq!(codes("email;name\n;\n"), [(2, "no_rows")]);
    assert_eq!(codes("email;name\na;b;c\n"), [(2, "field_count")]);
    assert_eq!(codes("email;name;;\na;b;;c\n"), [(2, "field_count")]);
    assert_eq!(codes(&format!("email;name\n{}a;b\n", ";\n".repeat(10_001))), [(2, "empty_rows")]);
    let optional = |file: &str| {
        let mut schema = schema(lenient(Charset::Auto));
        schema.columns[0].required = false;
        self::read(schema, file.as_bytes(), 6).unwrap()
    };
    let rows = optional("email;name\na;b\n\n;\nc;d\n;\n");
    assert_eq!(rows.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 4, 5]);
}

#[test]
fn values_are_cleaned_before_they_are_judged_and_stay_as_they_were_in_reports() {
    use penstock_domain::csv::{Cleaning, LetterCase};
    let mut schema = schema(Dialect { delimiter: Delimiter::Is(b';'), ..Dialect::default() });
    schema.columns[0].cleaning =
        Cleaning { trim: true, case: Some(LetterCase::Lower), ..Cleaning::default() };
    schema.columns[1].cleaning = Cleaning { nfc: true, ..Cleaning::default() };
    schema.columns[2].cleaning = Cleaning { trim: true, default: Some("0".into()), ..Cleaning::default() };
    schema.unique = vec![0];
    let rows = read(schema.clone(), "email;name;amount\n A@B.co\u{A0};Jo\u{308}rg; \nx;y;1\n".as_bytes(), 3)
        .unwrap();
    assert_eq!(rows[0].1, ["a@b.co", "Jörg", "0"]);
    let errors = read(schema, b"email;name;amount\nA@b.co;x;1\nb;x;1\n a@B.CO;x;2\n", 3).unwrap_err();
    assert_eq!((errors[0].line, errors[0].code), (4, "not_unique"));
    assert!(errors[0].message.contains("line 2 and in line 4"), "{errors:?}");
}

#[test]
fn what_people_leave_in_files_is_named() {
    let first = |dialect: Dialect, file: &str| {
        let errors = read(schema(dialect), file.as_bytes(), 4).unwrap_err();
        (errors[0].line, errors[0].code, errors[0].message.clone())
    };
    let auto = || lenient(Charset::Auto);
    for (file, line, code, sentence) in [
        // Two files, one after the other, with their byte order marks.
        (
            "\u{FEFF}email;name\na;b\n\u{FEFF}email;name\nc;d\n",
            3,
            "header_again",
            "the line is the header again",
        ),
        ("email;name\na;b\nemail;name\n", 3, "header_again", "the line is the header again"),
        ("email;name\na;b\nEMAIL; Name\n", 3, "header_again", "the line is the header again"),
        // A title above the table, and empty rows.
        ("Customers 2026;;\n;;\nemail;name;amount\na;b;c\n", 1, "missing_column", "remove them"),
        (";;\nemail;name;amount\na;b;c\n", 1, "missing_column", "remove them"),
        // Other line ends than those of the header line.
        ("email;name\na;b\rc;d\n", 2, "bare_cr", "the first line does not end so"),
        ("email;name;amount\na;b;1;5\n", 2, "field_count", "put values that hold semicolons in quotes"),
        // Lines that a spreadsheet has put in quotes as a whole.
        ("email,name\n\"a,\"\"b\"\"\"\n", 2, "field_count", "the whole line stands in quotes"),
        ("\"email;name\"\n\"a;b\"\n", 1, "unknown_column", "the whole line stands in quotes"),
        // Totals below it.
        ("email;name;amount\na;b;1\n;total;1\n", 3, "required", "must have a value"),
    ] {
        let found = first(auto(), file);
        assert_eq!((found.0, found.1), (line, code), "{file}: {}", found.2);
        assert!(found.2.contains(sentence), "{file}: {}", found.2);
    }
    let title = first(Dialect::default(), "Customers 2026,,\nemail,name,amount\na,b,c\n");
    assert!(title.2.contains("is not a column") && title.2.contains("remove them"), "{}", title.2);
    let unnamed = first(Dialect::default(), "email,,amount\na,b,c\n");
    assert!(
        unnamed.2.contains("a column without a name") && !unnamed.2.contains("remove them"),
        "{}",
        unnamed.2
    );
    // To a machine that declares its dialect a row is a row.
    assert_eq!(read(schema(Dialect::default()), b"email,name\nemail,name\n", 4).unwrap().len(), 1);
}

#[test]
fn a_quote_that_is_not_closed_is_named_by_its_line_and_hides_no_error_before() {
    let mut schema = schema(Dialect::default());
    schema.limits.max_field_chars = 1000;
    let before = "email,name,amount\n,x,1\na,\"open,1\n";
    let errors = read(schema.clone(), format!("{before}b,c,d\n").as_bytes(), 9).unwrap_err();
    assert_eq!(errors.iter().map(|error| error.code).collect::<Vec<_>>(), ["required", "unclosed_quote"]);
    assert!(errors[1].message.contains("opens in line 3"), "{errors:?}");
    // The limit on a field ends it first: the quote is named all the same, and the errors are there to be read.
    let mut validator = Validator::new(Arc::new(schema), Arc::new(NoReferences));
    let limit = validator.push(format!("{before}{}", "b,c,d\n".repeat(20_000)).as_bytes()).unwrap_err();
    let errors = validator.stopped(&limit).errors;
    assert_eq!([errors[0].code, errors[1].code], ["field_too_large", "required"]);
    assert!(errors[0].message.contains("the quote that opens in line 3"), "{errors:?}");
}

#[test]
fn what_nobody_sees_is_named() {
    let errors = read(schema(Dialect::default()), "email\u{200B},name\na,b\n".as_bytes(), 9).unwrap_err();
    assert!(errors[0].message.contains("U+200B (a space without width) at position 6"), "{errors:?}");
    let mut schema = schema(Dialect::default());
    schema.columns[2].format = Some(penstock_domain::csv::Format::Integer);
    schema.columns[2].message = Some("write the amount in cents".into());
    schema.columns[2].example = Some("150".into());
    let errors = read(schema, "email,name,amount\na,b,1\u{A0}000\n".as_bytes(), 9).unwrap_err();
    assert_eq!(
        errors[0].message,
        "write the amount in cents, for example 150; it holds the invisible character U+00A0 (a no-break space) at position 2"
    );
}
