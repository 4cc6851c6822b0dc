//! What files that mean harm may cost: time linear in their bytes, memory and answers bounded.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_domain::csv::{
    Charset, Column, ColumnTag, Delimiter, Dialect, ErrorListing, NoReferences, ReferenceWriter, Rejected,
    RowError, Schema, Validator,
};

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
        if most < usize::MAX && count.is_multiple_of(16) {
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
    assert!(found[0].message.starts_with("the header has 32769 columns; "), "{}", found[0].message);
    assert!(found[0].message.ends_with("the columns are: a, b, c"), "{}", found[0].message);
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

/// A first line that does not end is looked at again when there is twice as much of it, in whatever pieces it comes, and never beyond its limit.
#[test]
fn a_first_line_that_never_ends_costs_time_linear_in_its_bytes() {
    let auto = || {
        let mut schema = schema();
        schema.dialect = Dialect { delimiter: Delimiter::Auto, charset: Charset::Auto, ..Dialect::default() };
        schema
    };
    let began = Instant::now();
    for start in ["x", "\"x", "sep=;\n\"x", "a;b;é"] {
        for piece in [1, 7, PIECE] {
            let file = || {
                let pieces = std::iter::repeat_n(vec![b'x'; piece], 40_000_000 / piece);
                std::iter::once(start.as_bytes().to_vec()).chain(pieces)
            };
            let found = errors(auto(), file(), usize::MAX);
            assert!(
                ["header_too_large", "field_too_large"].contains(&found[0].code),
                "{start} {piece}: {found:?}"
            );
        }
    }
    // Line ends in quotes are looked at as often.
    let file = std::iter::once(vec![b'"']).chain(std::iter::repeat_n(b"\n".to_vec(), 1_000_000));
    assert_eq!(codes(&errors(auto(), file, usize::MAX)), ["field_too_large"]);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[derive(Debug)]
struct NoWriter;

impl ReferenceWriter for NoWriter {
    fn write(&self, line: u64, protected: Vec<ColumnTag>) -> String {
        format!("r{line}-{}", protected.len())
    }

    fn reads(&self, _: &str) -> bool {
        false
    }
}

/// A file whose errors are listed. While it is read, and while the list is taken, at most `most` bytes are held besides a record.
fn listed_within(most: usize, schema: Schema, file: &[u8]) -> (Vec<u8>, Rejected) {
    let listing = ErrorListing { references: Arc::new(NoWriter), delimiter: None, mark: false };
    let mut validator = Validator::new(Arc::new(schema), Arc::new(NoReferences)).listing(listing);
    let shown = |validator: &Validator| format!("{validator:?}").len();
    let before = shown(&validator);
    let mut list = Vec::new();
    let mut take = |next: &mut dyn FnMut() -> Vec<u8>| {
        loop {
            let piece = next();
            assert!(piece.len() < most, "a piece has {} bytes", piece.len());
            if piece.is_empty() {
                return;
            }
            list.extend(piece);
        }
    };
    let mut rest = file;
    let mut count = 0_u32;
    while !rest.is_empty() {
        let taken = validator.push(&rest[..rest.len().min(4096)]).unwrap();
        rest = &rest[taken..];
        // A byte is shown by up to five characters.
        if count.is_multiple_of(400) || rest.is_empty() {
            let held = shown(&validator).saturating_sub(before);
            assert!(held < most * 5, "after {count} pieces the validator shows {held} characters");
        }
        take(&mut || validator.next_piece());
        count += 1;
    }
    let mut rejected = common::rejected(validator.finish());
    take(&mut || rejected.listing.next_piece());
    (list, rejected)
}

/// A mebibyte is held of a list at most, however many columns and errors a file has, and however long its lines are.
#[test]
fn a_list_of_errors_waits_in_bounded_memory() {
    const MOST: usize = 1024 * 1024;
    let columns = |count: usize| -> Vec<Column> {
        let named = |number| Column { required: true, ..Column::named(format!("c{number}")) };
        (0..count).map(named).collect()
    };
    let wide = |count| Schema { columns: columns(count), ..Schema::default() };
    let header = |count: usize| (0..count).map(|n| format!("c{n}")).collect::<Vec<_>>().join(",") + "\n";
    let lines = |list: &[u8]| list.split(|byte| *byte == b'\n').count() as u64 - 2;
    // Lines of two bytes, each of which is listed with the delimiters of three thousand columns, up to the list's end.
    let (list, rejected) = listed_within(MOST, wide(3000), (header(3000) + &"x\n".repeat(40_000)).as_bytes());
    assert_eq!(rejected.error_count, 40_000);
    let end = 80 * 1024 * 1024;
    assert!((end..end + 100_000).contains(&list.len()), "{} bytes", list.len());
    // Rows of nothing but empty values: of each row so many errors are listed as wait within the bound, and all are counted.
    let row = ",".repeat(2999) + "\n";
    let (list, rejected) = listed_within(MOST, wide(3000), (header(3000) + &row.repeat(3)).as_bytes());
    assert_eq!(rejected.error_count, 9000);
    assert!(lines(&list) > 3000, "{}", lines(&list));
    // Each value breaks several rules, whose sentences are as long as can be.
    let mut strict = wide(1000);
    let pattern = regex::Regex::new("^y+$").unwrap();
    for column in &mut strict.columns {
        column.min_length = Some(2);
        column.format = Some(penstock_domain::csv::Format::Email);
        column.pattern = Some(pattern.clone());
        column.message = Some("z".repeat(1000));
    }
    let row = vec!["x"; 1000].join(",") + "\n";
    let (list, rejected) = listed_within(MOST, strict, (header(1000) + &row.repeat(20)).as_bytes());
    assert_eq!(rejected.error_count, 60_000);
    assert!(lines(&list) > 20 * 500, "{}", lines(&list));
    // A record without end, of bytes that are no characters; and ten thousand empty rows that turn out to be rows.
    let mut schema = schema();
    schema.dialect.charset = Charset::named("shift_jis").unwrap();
    let bad = [b"a,b,c\n1,2,".as_slice(), &b"\x81\xFF".repeat(30_000), b"\n1,2\n"].concat();
    let (list, rejected) = listed_within(MOST, schema.clone(), &bad);
    assert!(
        rejected.error_count > 20_000 && lines(&list) > 1000,
        "{} {}",
        rejected.error_count,
        lines(&list)
    );
    schema.dialect = Dialect { delimiter: Delimiter::Auto, ..Dialect::default() };
    schema.columns[0].required = true;
    let holes = "a;b;c\n".to_owned() + &";;\n".repeat(10_000) + "1;2;3\n";
    let (list, rejected) = listed_within(MOST, schema.clone(), holes.as_bytes());
    assert_eq!(rejected.error_count, 10_000);
    assert!(lines(&list) > 1000, "{}", lines(&list));
    // A line is listed with its own cells as long as they are not held a second time for it.
    let long = |bytes: usize| format!("a;b;c\n;{};{}\n", "x".repeat(bytes / 2), "y".repeat(bytes / 2));
    schema.limits.max_field_chars = 100_000;
    let (list, _) = listed_within(MOST, schema.clone(), long(130_000).as_bytes());
    assert!(list.len() > 130_000);
    let (list, rejected) = listed_within(MOST, schema, long(140_000).as_bytes());
    assert_eq!((rejected.error_count, lines(&list)), (1, 1));
    assert!(list.len() < 500, "{} bytes", list.len());
}

/// Whatever names and sentences are, and however JSON writes them.
#[test]
fn an_answer_of_errors_has_less_than_a_mebibyte() {
    let hidden = "\u{1}".repeat(400);
    let columns = (0..700).map(|number| Column {
        required: true,
        message: Some(hidden.clone()),
        example: Some(hidden.clone()),
        ..Column::named(format!("{number:03}{hidden}"))
    });
    let schema = Schema { columns: columns.collect(), ..Schema::default() };
    let names: Vec<&str> = schema.columns.iter().map(|column| column.name.as_str()).collect();
    let row = ",".repeat(names.len() - 1);
    let file = format!("{}\n{row}\n{row}\n", names.join(","));
    let mut validator = Validator::new(Arc::new(schema), Arc::new(NoReferences));
    validator.push(file.as_bytes()).unwrap();
    let rejected = common::rejected(validator.finish());
    assert_eq!((rejected.error_count, rejected.errors.len()), (1400, 100));
    assert!(rejected.errors.iter().all(|error| error.message.len() > 490), "{:?}", rejected.errors[0]);
    let answer = serde_json::to_vec(&(rejected.errors, rejected.counts)).unwrap();
    assert!((500_000..1024 * 1024 - 4096).contains(&answer.len()), "{} bytes", answer.len());
}
