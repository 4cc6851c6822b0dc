//! Tables: in every dialect a file is judged and stored the same, however it is cut, and so is the list of its errors.

use std::ops::ControlFlow;
use std::sync::Arc;

use penstock_domain::csv::{
    Charset, Column, ColumnTag, Delimiter, Dialect, ErrorListing, ErrorSheet, Event, ExtraColumns, Format,
    HeaderRules, Limits, NoReferences, Parser, ReferenceReader, ReferenceWriter, References, Refused,
    RowReference, Schema, Validator,
};
use penstock_domain::ids::BatchId;
use uuid::Uuid;

fn schema(dialect: Dialect) -> Schema {
    let limits = Limits { max_field_chars: 64, max_record_bytes: 256, max_rows: 50 };
    let columns = vec![Column::named("a"), Column::named("b")];
    Schema { columns, limits, dialect, ..Schema::default() }
}

fn lenient(delimiter: Delimiter, charset: Charset) -> Dialect {
    let header = HeaderRules { ignore_case: true, trim: true, extra_columns: ExtraColumns::Keep };
    Dialect { delimiter, charset, header, ..Dialect::default() }
}

/// What is said of a file that comes in pieces of that size, and what is stored of it.
fn outcome(schema: &Schema, bytes: &[u8], pieces: usize) -> (String, Vec<u8>) {
    let mut validator = Validator::new(Arc::new(schema.clone()), Arc::new(NoReferences));
    let mut stored = Vec::new();
    for piece in bytes.chunks(pieces) {
        if let Err(limit) = validator.push(piece) {
            return (validator.stopped(&limit).errors[0].code.to_owned(), Vec::new());
        }
        stored.extend_from_slice(validator.stored(piece));
    }
    match validator.finish() {
        Ok(validated) => {
            stored.extend_from_slice(&validated.rest);
            (format!("{} rows from {}", validated.rows, validated.body_offset), stored)
        }
        Err(Refused::Errors(rejected)) => (format!("{:?}", rejected.errors), Vec::new()),
        Err(Refused::Limit(rejected)) => (rejected.errors[0].code.to_owned(), Vec::new()),
    }
}

fn same(schema: &Schema, bytes: &[u8]) {
    let (said, stored) = outcome(schema, bytes, 1);
    assert!(std::str::from_utf8(&stored).is_ok(), "what is stored is text");
    assert_eq!((said, stored), outcome(schema, bytes, 7));
}

/// A file as every pipeline takes it.
pub fn csv(bytes: &[u8]) {
    same(&schema(Dialect::default()), bytes);
}

/// A file whose dialect is found out.
pub fn dialects(bytes: &[u8]) {
    let schema = schema(lenient(Delimiter::Auto, Charset::Auto));
    same(&Schema { unique: vec![0], ..schema }, bytes);
}

/// A file in an encoding that is declared.
pub fn encodings(bytes: &[u8]) {
    const LABELS: [&str; 9] = [
        "shift_jis",
        "utf-16le",
        "utf-16be",
        "iso-2022-jp",
        "gb18030",
        "windows-1250",
        "big5",
        "euc-kr",
        "macintosh",
    ];
    let Some((which, file)) = bytes.split_first() else { return };
    let charset = Charset::named(LABELS[usize::from(*which) % LABELS.len()]).expect("a label");
    for delimiter in [Delimiter::default(), Delimiter::Auto] {
        same(&schema(lenient(delimiter, charset)), file);
    }
}

/// A file with a delimiter that is declared.
pub fn delimiters(bytes: &[u8]) {
    let Some((which, file)) = bytes.split_first() else { return };
    let delimiter = Delimiter::Is(b";\t|,"[usize::from(*which) % 4]);
    for charset in [Charset::Utf8, Charset::Auto] {
        same(&schema(lenient(delimiter, charset)), file);
    }
}

/// References that are numbers.
#[derive(Debug)]
struct Numbers;

impl ReferenceReader for Numbers {
    fn read(&self, text: &str) -> Option<RowReference> {
        let row = text.strip_prefix('r')?.parse().ok()?;
        let batch = BatchId(Uuid::nil());
        Some(RowReference { batch, row, protected: Vec::new(), unfinished: None })
    }
}

impl ReferenceWriter for Numbers {
    fn write(&self, line: u64, _: Vec<ColumnTag>) -> String {
        format!("r{line}")
    }

    fn reads(&self, cell: &str) -> bool {
        self.read(cell).is_some()
    }
}

impl References for Numbers {
    fn cell(&self, reference: &RowReference) -> String {
        format!("r{}", reference.row)
    }
}

/// The list of a file's errors, which comes in pieces of that size; nothing when it has none.
fn list(schema: &Schema, bytes: &[u8], pieces: usize) -> Vec<u8> {
    let listing = ErrorListing { references: Arc::new(Numbers), delimiter: Some(b','), mark: false };
    let mut validator = Validator::new(Arc::new(schema.clone()), Arc::new(Numbers)).listing(listing);
    let mut list = Vec::new();
    let mut take = |next: &mut dyn FnMut() -> Vec<u8>| {
        loop {
            let piece = next();
            assert!(piece.len() < 128 * 1024, "{} bytes", piece.len());
            if piece.is_empty() {
                return;
            }
            list.extend(piece);
        }
    };
    for mut piece in bytes.chunks(pieces) {
        while !piece.is_empty() {
            match validator.push(piece) {
                Ok(taken) => piece = &piece[taken..],
                Err(limit) => {
                    let mut rejected = validator.stopped(&limit);
                    take(&mut || rejected.listing.next_piece());
                    return list;
                }
            }
            take(&mut || validator.next_piece());
        }
    }
    if let Err(Refused::Errors(mut rejected) | Refused::Limit(mut rejected)) = validator.finish() {
        take(&mut || rejected.listing.next_piece());
        assert!(!list.is_empty(), "errors are listed");
    }
    list
}

/// A list is a table with as many fields in each line, and so is what a spreadsheet gets of it.
pub fn error_lists(bytes: &[u8]) {
    let Some((which, file)) = bytes.split_first() else { return };
    let delimiter = if which % 2 == 0 { Delimiter::default() } else { Delimiter::Auto };
    let mut schema = schema(lenient(delimiter, Charset::Auto));
    schema.columns[0].required = true;
    schema.columns[1].format = Some(Format::Integer);
    let listed = list(&schema, file, 1);
    assert_eq!(String::from_utf8_lossy(&listed), String::from_utf8_lossy(&list(&schema, file, 7)));
    let schema = Arc::new(schema);
    let sheet = |pieces: usize| -> Vec<u8> {
        let mut sheet = ErrorSheet::new(BatchId(Uuid::nil()), schema.clone(), Arc::new(Numbers));
        let mut shown: Vec<u8> = listed.chunks(pieces).flat_map(|piece| sheet.push(piece)).collect();
        shown.extend(sheet.finish());
        shown
    };
    let shown = sheet(1);
    assert_eq!(shown, sheet(7));
    for table in [&listed, &shown] {
        let mut fields = None;
        let mut take = |event: Event<'_>| {
            let Event::Record(record) = event else { panic!("{event:?}") };
            assert_eq!(record.len(), *fields.get_or_insert(record.len()));
            ControlFlow::Continue(())
        };
        let mut parser = Parser::new(Limits::NONE);
        parser.push(table, &mut take).and_then(|()| parser.finish(&mut take)).expect("no limit");
    }
}
