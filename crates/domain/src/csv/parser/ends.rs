//! How records end: as they should, with a fault, or at a limit.

use std::ops::ControlFlow;

use super::{Parser, State};
use crate::csv::error::{LimitExceeded, LimitKind};
use crate::csv::measure::Measured;
use crate::csv::record::{Event, Field, Malformed, Record};
use crate::csv::scan::lone_crs;

impl Parser {
    pub(super) fn end_line(&mut self, sink: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>) {
        if self.record_bytes == 0 {
            self.blank_lines += 1;
            self.next_record();
        } else {
            self.end_record(sink);
        }
    }

    pub(super) fn end_record(&mut self, sink: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>) {
        self.end_field();
        if self.grammar.lone_cr {
            self.line += lone_crs(&self.raw);
        }
        let line = self.record_line;
        let fault =
            |field, code, at_line| Event::Malformed(Malformed { line, field, code, at_line, byte: None });
        let event = match (self.fault, std::str::from_utf8(&self.raw)) {
            _ if self.surplus > 0 && (self.surplus_content || !self.grammar.spare_fields) => {
                let code = if self.header.is_some() { "too_many_columns" } else { "field_count" };
                let byte = (!self.surplus_content).then_some(self.grammar.delimiter);
                Event::Malformed(Malformed { line, field: self.place(), code, at_line: line, byte })
            }
            (Some((field, code, at_line)), _) => fault(field, code, at_line),
            (None, Err(error)) => {
                let at = error.valid_up_to();
                let field = self.fields.iter().position(|field| at < field.end).unwrap_or(0);
                let lines = memchr::memchr_iter(b'\n', &self.raw[..at]).count() as u64;
                fault(field, "invalid_utf8", line + lines)
            }
            (None, Ok(raw)) => Event::Record(Record {
                line: self.record_line,
                next_line: self.line,
                offset: self.record_offset,
                end: self.offset,
                raw,
                fields: &self.fields,
            }),
        };
        if self.header.is_some() && matches!(event, Event::Record(_)) {
            self.max_fields = self.fields.len();
        }
        let stop = sink(event).is_break();
        self.next_record();
        if stop {
            self.state = State::Done;
        }
    }

    pub(super) fn malformed(
        &mut self,
        code: &'static str,
        at_line: u64,
        byte: Option<u8>,
        sink: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) {
        let fault = Malformed { line: self.record_line, field: self.place(), code, at_line, byte };
        if sink(Event::Malformed(fault)).is_break() {
            self.state = State::Done;
        }
    }

    /// The record's structure is lost: it is reported, and skipped up to the line end.
    pub(super) fn give_up(
        &mut self,
        code: &'static str,
        at_line: u64,
        byte: u8,
        sink: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) {
        self.malformed(code, at_line, Some(byte), sink);
        self.header = None;
        self.raw.clear();
        if self.state != State::Done {
            self.state = State::Skip;
            if byte == b'\n' {
                self.next_record();
            }
        }
    }

    pub(super) fn next_record(&mut self) {
        if self.record_bytes > 0 {
            self.header = None;
        }
        self.raw.clear();
        self.fields.clear();
        self.field = Field::default();
        self.record_bytes = 0;
        self.surplus = 0;
        self.surplus_content = false;
        self.measured = Measured::default();
        self.fault = None;
        self.record_offset = self.offset;
        self.record_line = self.line;
        self.state = State::FieldStart;
    }

    pub(super) fn check_limits(&mut self) -> Result<(), LimitExceeded> {
        let header = self.header.filter(|header| self.record_bytes > header.max_bytes);
        let kind = if let Some(header) = header {
            LimitKind::HeaderBytes(header.max_bytes)
        } else if self.record_bytes > self.limits.max_record_bytes {
            LimitKind::RecordBytes(self.limits.max_record_bytes)
        } else if self.surplus == 0
            && self.raw.len() - self.field.start.min(self.raw.len()) > self.limits.max_field_chars
            && self.measured.chars(&self.raw[self.field.start..], self.field.quoted)
                > self.limits.max_field_chars
        {
            LimitKind::FieldChars(self.limits.max_field_chars)
        } else {
            return Ok(());
        };
        let quoted = self.state == State::Quoted;
        self.state = State::Done;
        let open_quote = (quoted && !matches!(kind, LimitKind::Rows(_))).then_some(self.quote_line);
        Err(LimitExceeded { kind, line: self.record_line, field: self.place(), open_quote })
    }
}
