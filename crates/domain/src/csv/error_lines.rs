//! Lines of a list of errors that wait to be written: short in memory, and written in pieces of bounded size, however many columns a line has.

use std::collections::VecDeque;

use super::error::RowError;
use super::formula::neutralise;
use super::writer::encode_separated_value;

/// Bytes of a list after which lines come without the client's own cells: however long lines are, a list has an end.
const OWN_BYTES: u64 = 64 * 1024 * 1024;

/// Bytes of a list after which no more errors are listed: a line of many columns takes a delimiter for each of them.
const LIST_BYTES: u64 = 80 * 1024 * 1024;

/// Bytes of a piece, besides the last of its lines.
const PIECE_BYTES: usize = 64 * 1024;

/// Errors in their order, each with the client's own cells or without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorLines {
    /// What is written before them.
    head: Vec<u8>,
    lines: VecDeque<Line>,
    /// What separates columns, and how many there are of the client's own.
    shape: (u8, usize),
    /// Bytes of memory that the lines take.
    held: usize,
    /// Bytes that were written.
    written: u64,
}

/// One error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub error: RowError,
    /// The client's own cells, each with the delimiter after it.
    pub own: Option<Vec<u8>>,
    /// What stands in `_ref`.
    pub reference: String,
}

impl Line {
    fn bytes(&self) -> usize {
        held(&self.error) + self.own.as_ref().map_or(0, Vec::len) + self.reference.len()
    }
}

/// Bytes of memory that an error takes as a line.
pub(super) fn held(error: &RowError) -> usize {
    size_of::<Line>() + error.message.len() + error.column.as_ref().map_or(0, String::len)
}

impl ErrorLines {
    pub(super) fn begin(&mut self, head: Vec<u8>, shape: (u8, usize)) {
        (self.head, self.shape) = (head, shape);
    }

    pub(super) fn push(&mut self, line: Line) {
        self.held += line.bytes();
        self.lines.push_back(line);
    }

    /// Bytes of memory that they take.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Whether a line may still have the client's own cells.
    pub(super) fn has_room_for_cells(&self) -> bool {
        self.written + (self.held as u64) < OWN_BYTES
    }

    /// Whether the list may have more lines.
    pub(super) fn has_room(&self) -> bool {
        self.written < LIST_BYTES
    }

    /// The next piece of the list; empty when nothing waits.
    pub fn next_piece(&mut self) -> Vec<u8> {
        let mut piece = std::mem::take(&mut self.head);
        while piece.len() < PIECE_BYTES
            && self.has_room()
            && let Some(line) = self.lines.pop_front()
        {
            self.held -= line.bytes();
            let before = piece.len();
            self.write(line, &mut piece);
            self.written += (piece.len() - before) as u64;
        }
        if !self.has_room() {
            self.lines.clear();
            self.held = 0;
        }
        piece
    }

    fn write(&self, line: Line, out: &mut Vec<u8>) {
        let (delimiter, columns) = self.shape;
        match line.own {
            Some(own) => out.extend_from_slice(&own),
            None => out.resize(out.len() + columns, delimiter),
        }
        let number = line.error.line.to_string();
        let column = neutralise(line.error.column.as_deref().unwrap_or_default());
        for cell in [&number, column.as_ref(), line.error.code, neutralise(&line.error.message).as_ref()] {
            encode_separated_value(cell, delimiter, out);
            out.push(delimiter);
        }
        out.extend_from_slice(line.reference.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}
