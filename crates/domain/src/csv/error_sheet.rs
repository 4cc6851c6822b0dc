//! A list of errors for a spreadsheet: with a byte order mark, and with cells that it shows and saves as they are. A list is stored once, as
//! `error_rows` writes it; this one is made of it while it is read.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::dialect::Grammar;
use super::error::ErrorList;
use super::error_rows::ERROR_COLUMNS;
use super::header::{HeaderMap, REFERENCE};
use super::line::LineReference;
use super::parser::Parser;
use super::record::{Event, Record};
use super::reference::{ReferenceReader, RowReference};
use super::rules::{Limits, Schema};
use super::spreadsheet::survive;
use super::writer::{encode_separated, encode_separated_value};
use crate::ids::BatchId;

const MARK: &[u8] = b"\xEF\xBB\xBF";

/// Reads the references of an owner, and writes others.
pub trait References: ReferenceReader {
    /// The cell for a reference.
    fn cell(&self, reference: &RowReference) -> String;
}

/// Rewrites a list that is pushed in pieces.
#[derive(Debug)]
pub struct ErrorSheet {
    id: BatchId,
    schema: Arc<Schema>,
    references: Arc<dyn References>,
    parser: Parser,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The list up to the end of its header, which shows what separates columns.
    Opening(Vec<u8>),
    /// Its rows, as the header has them; none: it has no columns of the client's own that the pipeline knows.
    Rows(u8, Option<HeaderMap>),
}

impl ErrorSheet {
    /// Of the list of that upload or batch, whose file was read by this schema.
    pub fn new(id: BatchId, schema: Arc<Schema>, references: Arc<dyn References>) -> Self {
        let parser = Parser::new(Limits::NONE);
        Self { id, schema, references, parser, state: State::Opening(Vec::new()) }
    }

    /// What the next bytes of the list become.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let State::Opening(head) = &mut self.state else { return self.rewrite(bytes) };
        head.extend_from_slice(bytes);
        let Some(delimiter) = delimiter_of(head) else { return Vec::new() };
        let head = std::mem::take(head);
        self.parser.read_as(Grammar { delimiter, ..Grammar::default() }, 1);
        self.state = State::Rows(delimiter, None);
        let list = head.strip_prefix(MARK).unwrap_or(&head);
        [MARK, &self.rewrite(list)].concat()
    }

    /// The list is at its end.
    pub fn finish(self) -> Vec<u8> {
        match self.state {
            State::Opening(head) => head,
            State::Rows(..) => Vec::new(),
        }
    }

    fn rewrite(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 4);
        let Self { id, schema, references, parser, state } = self;
        let State::Rows(delimiter, header) = state else { return out };
        let mut take = |event: Event<'_>| {
            let Event::Record(record) = event else { return ControlFlow::Continue(()) };
            // The first record alone begins in the first line.
            if record.line == 1 {
                let read = HeaderMap::read(&record, schema, &mut ErrorList::default());
                *header = read.map(|(header, _)| header.separated_by(*delimiter));
            }
            let line = Line { id: *id, delimiter: *delimiter, references: &**references };
            let written = header.as_ref().and_then(|header| match record.line {
                1 => names(header, &record, *delimiter, &mut out),
                _ => line.write(header, &record, &mut out),
            });
            if written.is_none() {
                out.extend_from_slice(record.raw.as_bytes());
            }
            out.extend_from_slice(b"\r\n");
            ControlFlow::Continue(())
        };
        // Nothing is limited: the list was written by this service.
        let _ = parser.push(bytes, &mut take);
        out
    }
}

/// Writes the header without its end; none, and nothing is written, where it stays as it is.
fn names(header: &HeaderMap, record: &Record<'_>, delimiter: u8, out: &mut Vec<u8>) -> Option<()> {
    let own = record.len().checked_sub(ERROR_COLUMNS.len() + 1)?;
    let names = header.written();
    if names.len() != own {
        return None;
    }
    let shown: Vec<_> = names.iter().map(|name| survive(name)).collect();
    let added = ERROR_COLUMNS.into_iter().chain([REFERENCE]);
    encode_separated(shown.iter().map(|name| name.as_ref()).chain(added), delimiter, out);
    Some(())
}

/// How a line is written.
struct Line<'a> {
    id: BatchId,
    delimiter: u8,
    references: &'a dyn References,
}

impl Line<'_> {
    /// Writes a line without its end; none, and nothing is written, where it stays as it is.
    fn write(&self, header: &HeaderMap, record: &Record<'_>, out: &mut Vec<u8>) -> Option<()> {
        let mut added: Vec<String> = Vec::with_capacity(ERROR_COLUMNS.len() + 1);
        let own = record.len().checked_sub(ERROR_COLUMNS.len() + 1)?;
        added.extend((own..record.len()).filter_map(|field| record.get(field)).map(|cell| cell.into_owned()));
        let written = added.pop()?;
        let before = match header.reference(record, self.references) {
            LineReference::Absent => None,
            LineReference::Ours(_) => Some(self.references.read(written.trim())?),
            // Nobody knows which apostrophes are whose.
            LineReference::Changed | LineReference::Foreign => return None,
        };
        let mut payload = Vec::new();
        header.payload(record, self.references, &mut payload);
        let shown = header.spreadsheet_cells(&payload).ok()?;
        let reference = match before {
            Some(before) => Some(RowReference { protected: shown.protected, ..before }),
            None if shown.protected.is_empty() => None,
            None => {
                let row = added.first().and_then(|line| line.parse().ok()).unwrap_or(u32::MAX);
                Some(RowReference { batch: self.id, row, protected: shown.protected, unfinished: None })
            }
        };
        out.extend_from_slice(&shown.cells);
        for cell in
            added.into_iter().chain([reference.map(|it| self.references.cell(&it)).unwrap_or_default()])
        {
            out.push(self.delimiter);
            encode_separated_value(&cell, self.delimiter, out);
        }
        Some(())
    }
}

/// What separates columns in a list, once its header is complete: its last columns are always the same.
fn delimiter_of(list: &[u8]) -> Option<u8> {
    let end = format!("{REFERENCE}\r\n");
    let at = list.windows(end.len()).position(|window| window == end.as_bytes())?;
    list.get(at.checked_sub(1)?).copied()
}
