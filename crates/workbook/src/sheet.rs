//! A sheet, row by row.

use std::io::{Read, Seek};
use std::ops::ControlFlow;

use quick_xml::events::{BytesStart, Event};

use crate::WorkbookError;
use crate::archive::Archive;
use crate::show::Show;
use crate::strings::Strings;
use crate::xml::{append, attribute};

/// Columns of a sheet, and rows (Excel's own limits).
const MOST_COLUMNS: usize = 16_384;
const MOST_ROWS: u64 = 1_048_576;

/// Bytes of a row as CSV.
const MOST_ROW: usize = 8 * 1024 * 1024;

/// Bytes that are given away at a time.
const PIECE: usize = 64 * 1024;

/// What a cell holds.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Number,
    Shared,
    Inline,
    Text,
    Truth,
    /// A moment in ISO form, as strict workbooks have it.
    Moment,
}

/// A cell that is being read.
struct Cell {
    column: usize,
    kind: Kind,
    style: Option<usize>,
    /// Whether a formula makes its value.
    formula: bool,
    text: String,
}

/// The row that is being read, and what of the sheet waits to be given away.
#[derive(Default)]
struct Rows {
    out: Vec<u8>,
    /// The row that is written next.
    line: u64,
    row: u64,
    /// The column of a cell that names none.
    next: usize,
    cells: Vec<(usize, String)>,
    bytes: usize,
    /// Columns of the header, once it is known.
    width: usize,
}

pub fn read<R: Read + Seek>(
    archive: &mut Archive<R>,
    name: &str,
    show: &Show,
    strings: &Strings,
    take: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<(), WorkbookError> {
    let mut part = archive.part(name)?.ok_or(WorkbookError::Broken("its sheet is missing"))?;
    let mut rows = Rows { line: 1, ..Rows::default() };
    let mut cell: Option<Cell> = None;
    let (mut in_value, mut phonetic) = (false, false);
    loop {
        let event = part.next()?;
        match &event {
            Event::Start(start) => match start.local_name().as_ref() {
                b"row" => rows.begin(start)?,
                b"c" => cell = Some(rows.cell(start)?),
                b"v" | b"t" => in_value = true,
                b"rPh" => phonetic = true,
                b"f" => mark_formula(&mut cell),
                _ => {}
            },
            Event::Empty(start) => match start.local_name().as_ref() {
                b"f" => mark_formula(&mut cell),
                b"row" => rows.begin(start)?,
                // A cell without a value has its place all the same.
                b"c" => drop(rows.cell(start)?),
                b"sheetData" => break,
                _ => {}
            },
            Event::End(end) => match end.local_name().as_ref() {
                b"row" => {
                    rows.end();
                    if rows.out.len() >= PIECE && rows.give(take).is_break() {
                        return Ok(());
                    }
                }
                b"c" => cell.take().map_or(Ok(()), |cell| rows.add(cell, show, strings))?,
                b"v" | b"t" => in_value = false,
                b"rPh" => phonetic = false,
                b"sheetData" => break,
                _ => {}
            },
            Event::Eof => return Err(WorkbookError::Broken("its sheet ends early")),
            _ if in_value && !phonetic => {
                if let Some(cell) = &mut cell {
                    append(&event, &mut cell.text)?;
                }
            }
            _ => {}
        }
    }
    if rows.width == 0 {
        return Err(WorkbookError::Empty);
    }
    let _ = rows.give(take);
    Ok(())
}

fn mark_formula(cell: &mut Option<Cell>) {
    if let Some(cell) = cell {
        cell.formula = true;
    }
}

impl Rows {
    fn begin(&mut self, start: &BytesStart<'_>) -> Result<(), WorkbookError> {
        let number = attribute(start, "r").and_then(|number| number.parse().ok()).unwrap_or(self.row + 1);
        if number <= self.row || number > MOST_ROWS {
            return Err(WorkbookError::Broken("its rows are not in order"));
        }
        self.row = number;
        self.next = 0;
        self.cells.clear();
        self.bytes = 0;
        Ok(())
    }

    fn cell(&mut self, start: &BytesStart<'_>) -> Result<Cell, WorkbookError> {
        let next = self.next;
        let column = match attribute(start, "r") {
            None => next,
            Some(place) => column_of(&place).ok_or(WorkbookError::Broken("a cell has no place"))?,
        };
        if column < next || column >= MOST_COLUMNS {
            return Err(WorkbookError::Broken("its cells are not in order"));
        }
        self.next = column + 1;
        let kind = match attribute(start, "t").as_deref() {
            Some("s") => Kind::Shared,
            Some("inlineStr") => Kind::Inline,
            Some("b") => Kind::Truth,
            Some("d") => Kind::Moment,
            Some("str" | "e") => Kind::Text,
            _ => Kind::Number,
        };
        let style = attribute(start, "s").and_then(|style| style.parse().ok());
        Ok(Cell { column, kind, style, formula: false, text: String::new() })
    }

    fn add(&mut self, cell: Cell, show: &Show, strings: &Strings) -> Result<(), WorkbookError> {
        let text = match cell.kind {
            // Programs that write formulas without working them out leave the value to Excel.
            Kind::Number if cell.text.is_empty() && cell.formula => {
                return Err(WorkbookError::NotCalculated(self.row));
            }
            // A cell that has a kind and no value is empty.
            _ if cell.text.is_empty() => String::new(),
            Kind::Text | Kind::Inline => cell.text,
            Kind::Moment => show.moment_of(&cell.text, cell.style),
            Kind::Number => show.number(&cell.text, cell.style),
            Kind::Truth => if matches!(cell.text.trim(), "1" | "true") { "TRUE" } else { "FALSE" }.to_owned(),
            Kind::Shared => {
                let index = cell.text.trim().parse().ok();
                let text = index.and_then(|index| strings.get(index));
                text.ok_or(WorkbookError::Broken("a cell's text is missing"))?.to_owned()
            }
        };
        if !text.is_empty() {
            self.bytes += text.len();
            if self.bytes > MOST_ROW {
                return Err(WorkbookError::TooLarge);
            }
            self.cells.push((cell.column, unescaped(text)));
        }
        Ok(())
    }

    /// Writes the row, if it has a value.
    fn end(&mut self) {
        let Some((last, _)) = self.cells.last() else { return };
        let width = self.width.max(last + 1);
        // The first row with a value is the header; every row has at least its columns.
        if self.width == 0 {
            self.width = width;
        }
        while self.line < self.row {
            self.out.push(b'\n');
            self.line += 1;
        }
        let mut cells = self.cells.iter().peekable();
        for column in 0..width {
            if column > 0 {
                self.out.push(b',');
            }
            if let Some((_, text)) = cells.next_if(|(at, _)| *at == column) {
                encode(text, &mut self.out);
            }
        }
        self.out.push(b'\n');
        self.line += 1;
        self.cells.clear();
    }

    fn give(&mut self, take: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> ControlFlow<()> {
        for piece in self.out.chunks(PIECE) {
            take(piece)?;
        }
        self.out.clear();
        ControlFlow::Continue(())
    }
}

/// The column of a place such as `AB12`, from 0.
fn column_of(place: &str) -> Option<usize> {
    let letters = place.bytes().take_while(u8::is_ascii_uppercase).take(4);
    let column = letters.fold(0_usize, |column, letter| column * 26 + usize::from(letter - b'A') + 1);
    column.checked_sub(1)
}

/// A field, in quotes where RFC 4180 asks for them.
fn encode(text: &str, out: &mut Vec<u8>) {
    if !text.contains(['"', ',', '\n', '\r']) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
    out.push(b'"');
}

/// Characters that XML cannot hold are written `_x000D_` (ECMA-376, 22.9.2.19).
fn unescaped(text: String) -> String {
    if !text.contains("_x") {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find("_x") {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 2..at + 6).filter(|_| rest.as_bytes().get(at + 6) == Some(&b'_'));
        let code = code.filter(|code| code.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match code.and_then(|code| u32::from_str_radix(code, 16).ok()).and_then(char::from_u32) {
            Some(character) => {
                out.push(character);
                rest = &rest[at + 7..];
            }
            None => {
                out.push_str("_x");
                rest = &rest[at + 2..];
            }
        }
    }
    out + rest
}
