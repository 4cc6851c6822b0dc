//! Records from bytes that come in pieces.

mod ends;

use std::ops::ControlFlow;

use super::dialect::Grammar;
use super::error::LimitExceeded;
use super::measure::Measured;
use super::record::{Event, Field};
use super::rules::{HeaderLimits, Limits};
use super::scan::{INSIDE, LINE_END, Marks, outside, plain_run};

const BOM: [u8; 3] = [0xEF, 0xBB, 0xBF];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first byte of a field.
    FieldStart,
    /// Inside a field without quotes.
    Unquoted,
    /// Inside quotes.
    Quoted,
    /// After a quote inside quotes: it closes, or is the first of two.
    QuoteInQuoted,
    /// After a CR outside quotes.
    Cr,
    /// Inside a record that is given up.
    Skip,
    /// After a CR there, where one ends a line by itself.
    SkipCr,
    /// The sink wants no more, or a limit was passed.
    Done,
}

/// A push parser. Memory is bounded by the limits, and time is linear in the bytes that are pushed.
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    grammar: Grammar,
    /// Bytes that mean something outside of quotes.
    outside: &'static Marks,
    /// The limits of the record under way, while that is a file's first one.
    header: Option<HeaderLimits>,
    /// Fields that are kept of a record; those after them are only counted.
    max_fields: usize,
    state: State,
    /// Offset of the next byte.
    offset: u64,
    /// Physical line of the next byte.
    line: u64,
    /// Whether a record is one line, also with line ends inside its quotes.
    one_line_each: bool,
    raw: Vec<u8>,
    fields: Vec<Field>,
    field: Field,
    /// Bytes of the record under way, kept or not.
    record_bytes: usize,
    /// Fields that ended after the last one that is kept.
    surplus: usize,
    /// Whether one of them holds a byte.
    surplus_content: bool,
    measured: Measured,
    record_offset: u64,
    record_line: u64,
    quote_line: u64,
    /// The first fault of a record whose structure is still sound.
    fault: Option<(usize, &'static str, u64)>,
    blank_lines: u64,
    bom: Option<usize>,
}

impl Parser {
    /// A parser at the start of a file.
    pub fn new(limits: Limits) -> Self {
        Self { bom: Some(0), ..Self::resume_at(limits, 0, 1) }
    }

    /// A parser at the start of a file whose first record is a header: no later record may have more fields.
    pub fn with_header(limits: Limits, header: HeaderLimits) -> Self {
        Self { header: Some(header), max_fields: header.max_columns, ..Self::new(limits) }
    }

    /// A parser at a record's first byte in the middle of a file.
    pub fn resume_at(limits: Limits, offset: u64, line: u64) -> Self {
        let grammar = Grammar::default();
        Self {
            limits,
            grammar,
            outside: outside(grammar.delimiter),
            header: None,
            max_fields: usize::MAX,
            state: State::FieldStart,
            offset,
            line,
            one_line_each: false,
            raw: Vec::new(),
            fields: Vec::new(),
            field: Field::default(),
            record_bytes: 0,
            surplus: 0,
            surplus_content: false,
            measured: Measured::default(),
            record_offset: offset,
            record_line: line,
            quote_line: line,
            fault: None,
            blank_lines: 0,
            bom: (offset == 0).then_some(0),
        }
    }

    /// Of text that was made of a sheet, whose rows are lines: line ends inside quotes are not counted then.
    #[must_use]
    pub fn of_sheet(mut self, of_sheet: bool) -> Self {
        self.one_line_each = of_sheet;
        self
    }

    /// Of text in another grammar, whose next byte is in this line. It has no byte order mark any more.
    pub(super) fn read_as(&mut self, grammar: Grammar, line: u64) {
        (self.grammar, self.outside, self.bom) = (grammar, outside(grammar.delimiter), None);
        (self.line, self.record_line) = (line, line);
    }

    /// The physical line of the next byte.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// The physical line where the record under way starts.
    pub(super) fn record_line(&self) -> u64 {
        self.record_line
    }

    /// Lines without a byte, so far.
    pub fn blank_lines(&self) -> u64 {
        self.blank_lines
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// As soon as a field or a record passes its limit.
    pub fn push(
        &mut self,
        mut bytes: &[u8],
        sink: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<(), LimitExceeded> {
        while let Some(seen) = self.bom
            && let Some(byte) = bytes.first()
        {
            if *byte != BOM[seen] {
                self.bom = None;
                // What looked like a mark was the first field's beginning.
                return self.scan(&BOM[..seen], sink).and_then(|()| self.scan(bytes, sink));
            }
            bytes = &bytes[1..];
            self.bom = (seen + 1 < BOM.len()).then_some(seen + 1);
            if self.bom.is_none() {
                self.offset += BOM.len() as u64;
                self.record_offset = self.offset;
            }
        }
        self.scan(bytes, sink)
    }

    /// The file is at its end.
    ///
    /// # Errors
    /// As [`Parser::push`].
    pub fn finish(
        &mut self,
        sink: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<(), LimitExceeded> {
        if let Some(seen) = self.bom.take() {
            self.scan(&BOM[..seen], sink)?;
        }
        match self.state {
            State::FieldStart if self.record_bytes == 0 => {}
            State::FieldStart | State::Unquoted | State::QuoteInQuoted => self.end_record(sink),
            State::Quoted => self.malformed("unclosed_quote", self.quote_line, None, sink),
            State::Cr if self.grammar.lone_cr => self.end_cr(sink),
            State::Cr => self.malformed("bare_cr", self.line, None, sink),
            State::Skip | State::SkipCr | State::Done => {}
        }
        self.state = State::Done;
        Ok(())
    }

    fn scan(
        &mut self,
        bytes: &[u8],
        sink: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<(), LimitExceeded> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            if self.grammar.lone_cr && rest[0] != b'\n' && matches!(self.state, State::Cr | State::SkipCr) {
                self.end_cr(sink);
            }
            let run = match self.state {
                State::Unquoted | State::FieldStart => plain_run(rest, self.outside),
                State::Quoted => plain_run(rest, &INSIDE),
                State::Skip => plain_run(rest, &LINE_END),
                State::QuoteInQuoted | State::Cr | State::SkipCr => 0,
                State::Done => return Ok(()),
            };
            if run > 0 {
                if self.state == State::FieldStart {
                    self.state = State::Unquoted;
                }
                if self.state != State::Skip {
                    self.keep(&rest[..run]);
                    self.check_limits()?;
                }
                self.offset += run as u64;
                at += run;
                continue;
            }
            self.special(rest[0], sink);
            self.check_limits()?;
            at += 1;
        }
        Ok(())
    }

    /// One byte that means something in the present state.
    fn special(&mut self, byte: u8, sink: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>) {
        let line = self.line;
        self.offset += 1;
        if byte == b'\n' && !(self.one_line_each && self.state == State::Quoted) {
            self.line += 1;
        }
        match (self.state, byte) {
            (State::Skip | State::SkipCr, b'\n') => self.next_record(),
            (State::Skip, b'\r') if self.grammar.lone_cr => self.state = State::SkipCr,
            (State::Skip | State::SkipCr | State::Done, _) => {}
            (State::Cr, b'\n') => self.end_line(sink),
            (State::Cr, _) => self.give_up("bare_cr", line, byte, sink),
            (State::FieldStart, b'"') => {
                self.field.quoted = true;
                self.quote_line = line;
                self.keep(&[byte]);
                self.state = State::Quoted;
            }
            (State::Unquoted, b'"') => self.give_up("quote_in_unquoted_field", line, byte, sink),
            (State::Quoted, b'"') => {
                self.keep(&[byte]);
                self.state = State::QuoteInQuoted;
            }
            (State::QuoteInQuoted, b'"') => {
                self.field.doubled = true;
                self.keep(&[byte]);
                self.state = State::Quoted;
            }
            (State::Quoted, _) => {
                if byte == 0 {
                    self.note_fault("nul_byte", line);
                }
                self.keep(&[byte]);
            }
            (_, byte) if byte == self.grammar.delimiter => {
                self.end_field();
                self.keep_delimiter(byte);
                self.field.start = self.raw.len();
                self.measured = Measured::default();
                self.state = State::FieldStart;
            }
            (_, b'\n') => self.end_line(sink),
            (_, b'\r') => self.state = State::Cr,
            (State::QuoteInQuoted, _) => self.give_up("text_after_quote", line, byte, sink),
            (State::FieldStart | State::Unquoted, _) => {
                if byte == 0 {
                    self.note_fault("nul_byte", line);
                }
                self.keep(&[byte]);
                self.state = State::Unquoted;
            }
        }
    }

    /// Takes bytes of the record, as long as it has no more fields than are kept.
    fn keep(&mut self, bytes: &[u8]) {
        self.record_bytes += bytes.len();
        if self.fields.len() < self.max_fields {
            self.raw.extend_from_slice(bytes);
        } else {
            self.surplus_content = true;
        }
    }

    fn keep_delimiter(&mut self, byte: u8) {
        self.record_bytes += 1;
        if self.fields.len() < self.max_fields {
            self.raw.push(byte);
        }
    }

    /// A line ends with the CR that came last.
    fn end_cr(&mut self, sink: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>) {
        self.line += 1;
        if self.state == State::Cr {
            self.end_line(sink);
        } else {
            self.next_record();
        }
    }

    /// The place of the field under way.
    fn place(&self) -> usize {
        self.fields.len() + self.surplus
    }

    fn note_fault(&mut self, code: &'static str, line: u64) {
        self.fault.get_or_insert((self.place(), code, line));
    }

    fn end_field(&mut self) {
        let mut field = std::mem::take(&mut self.field);
        field.end = self.raw.len();
        if self.fields.len() < self.max_fields {
            self.fields.push(field);
        } else {
            self.surplus += 1;
        }
    }
}
