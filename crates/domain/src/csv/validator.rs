//! A whole file against a pipeline's rules, as it arrives.

use std::sync::Arc;

use super::error::{LimitExceeded, Rejected, RowError};
use super::error_rows::ErrorListing;
use super::front::Front;
use super::header::{HeaderMap, MOST_REPORTED, REFERENCE};
use super::judge::Judge;
use super::kind::{Compound, FileKind};
use super::names::{known, listed};
use super::parser::Parser;
use super::reference::ReferenceReader;
use super::rules::{OURS_BYTES, Schema};
use super::sentences;

/// Bytes that are judged at a time while errors are listed: each of them may be an error.
const STEP: usize = 256;

/// A file without an error.
#[derive(Debug)]
pub struct Validated {
    /// How to read its records.
    pub header: HeaderMap,
    /// The client's own columns that were ignored, the first of them.
    pub ignored_columns: Vec<String>,
    /// Its rows.
    pub rows: u64,
    /// Lines without a byte.
    pub blank_lines: u64,
    /// The offset of the first byte after the header.
    pub body_offset: u64,
    /// The physical line there.
    pub body_line: u64,
    /// The end of what is to be stored, after what [`Validator::stored`] gave last.
    pub rest: Vec<u8>,
}

/// Why a file is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It has errors.
    Errors(Rejected),
    /// A limit was passed, which is the first of these errors; after it nothing was read.
    Limit(Rejected),
}

/// Judges a file that is pushed in pieces of any size.
#[derive(Debug)]
pub struct Validator {
    parser: Parser,
    /// What makes text of a file in another dialect; none: it is plain CSV in UTF-8.
    front: Option<Front>,
    /// The first bytes of the file, which tell its kind.
    beginning: Vec<u8>,
    /// Whether they were read.
    begun: bool,
    /// What a compound file is, as far as it was read.
    compound: Compound,
    judge: Judge,
}

impl Validator {
    /// A validator at the start of a file; `references` are those of the file's owner.
    pub fn new(schema: Arc<Schema>, references: Arc<dyn ReferenceReader>) -> Self {
        // Whether the file came from us is known after its header; until then the parser only bounds memory.
        let limits = schema.limits.with_ours(schema.columns.len());
        Self {
            parser: Parser::with_header(limits, schema.header_limits()).of_sheet(schema.dialect.of_sheet),
            front: (!schema.dialect.is_plain()).then(|| Front::new(&schema)),
            beginning: Vec::with_capacity(FileKind::BYTES),
            begun: false,
            compound: Compound::default(),
            judge: Judge::new(schema, references),
        }
    }

    /// Takes the first of these bytes, and says how many: all of them, unless errors are listed that are to be taken before.
    ///
    /// # Errors
    /// As soon as a limit is passed.
    pub fn push(&mut self, bytes: &[u8]) -> Result<usize, LimitExceeded> {
        if let Some(written) = &mut self.judge.written {
            written.clear();
        }
        let step = if self.judge.errors.is_listing() { STEP } else { usize::MAX };
        let mut taken = 0;
        while taken < bytes.len() && (taken == 0 || !self.judge.errors.is_full()) {
            let now = &bytes[taken..bytes.len().min(taken.saturating_add(step))];
            self.take(now)?;
            taken += now.len();
        }
        Ok(taken)
    }

    /// The first bytes are read when all of them are there: they tell what the file is, and nothing is judged before that is known.
    fn take(&mut self, bytes: &[u8]) -> Result<(), LimitExceeded> {
        if self.begun {
            return self.read(bytes);
        }
        let missing = FileKind::BYTES - self.beginning.len();
        let (first, rest) = bytes.split_at(bytes.len().min(missing));
        self.beginning.extend_from_slice(first);
        if self.beginning.len() < FileKind::BYTES {
            return Ok(());
        }
        self.begin()?;
        self.read(rest)
    }

    /// No more bytes come: the first ones are all that there are.
    ///
    /// # Errors
    /// As [`Validator::push`].
    pub fn complete(&mut self) -> Result<(), LimitExceeded> {
        // What was made of the bytes that were pushed last has been taken.
        if let Some(written) = &mut self.judge.written {
            written.clear();
        }
        if self.begun { Ok(()) } else { self.begin() }
    }

    /// Reads the first bytes.
    fn begin(&mut self) -> Result<(), LimitExceeded> {
        self.begun = true;
        self.look_at_kind();
        let beginning = std::mem::take(&mut self.beginning);
        let read = self.read(&beginning);
        self.beginning = beginning;
        read
    }

    fn look_at_kind(&mut self) {
        let utf16 = self.judge.schema.dialect.takes_utf16(&self.beginning);
        let kind = FileKind::of(&self.beginning);
        self.judge.other_kind = kind.filter(|kind| !utf16 || !kind.is_utf16());
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), LimitExceeded> {
        if let Some(kind) = self.judge.other_kind {
            if kind.is_compound() {
                self.compound.push(bytes);
            }
            return Ok(());
        }
        match self.front.take() {
            None => self.parse(bytes),
            Some(mut front) => {
                let parsed = self.translate(&mut front, bytes, false);
                self.front = Some(front);
                parsed
            }
        }
    }

    fn parse(&mut self, text: &[u8]) -> Result<(), LimitExceeded> {
        let parsed = self.parser.push(text, &mut |event| self.judge.take(event));
        parsed.map_err(|limit| self.judge.as_asked(limit))?;
        self.judge.limit.map_or(Ok(()), Err)
    }

    /// Reads bytes of a file in another dialect, and writes its records anew.
    fn translate(&mut self, front: &mut Front, bytes: &[u8], last: bool) -> Result<(), LimitExceeded> {
        let schema = self.judge.schema.clone();
        let text = front.read(bytes, last, &|names| known(&schema, names));
        if let Some(opened) = text.opened {
            self.parser.read_as(opened.grammar, opened.line);
            self.judge.read_as(opened.grammar);
        }
        let mut parsed = 0;
        for (at, fault) in text.faults {
            self.parse(&text.ready[parsed..at])?;
            parsed = at;
            self.judge.take_decode_fault(self.parser.line(), fault);
        }
        self.parse(&text.ready[parsed..])?;
        front.give_back(text.ready);
        self.judge.catch_up(self.parser.record_line());
        Ok(())
    }

    /// What is to be stored of the bytes that were pushed last: they themselves, or the records in them in plain CSV.
    pub fn stored<'a>(&'a self, received: &'a [u8]) -> &'a [u8] {
        self.judge.written.as_ref().map_or(received, |written| written.waiting())
    }

    /// Lists every error with its line, up to [`super::ERRORS_LISTED`]. What is written waits for [`Validator::next_piece`].
    #[must_use]
    pub fn listing(mut self, listing: ErrorListing) -> Self {
        self.judge.errors.list(listing);
        self
    }

    /// The next piece of the list of errors; empty when nothing waits.
    pub fn next_piece(&mut self) -> Vec<u8> {
        self.judge.errors.next_piece()
    }

    /// The first errors so far, and how many there are.
    pub fn errors(&self) -> (&[RowError], u64) {
        self.judge.errors.as_parts()
    }

    /// Reading stopped at a limit: that, with its column where it is known, and the errors found before.
    pub fn stopped(&mut self, limit: &LimitExceeded) -> Rejected {
        let error = self.judge.error_of(limit);
        self.broken_off(error.line, error.column.as_deref(), error.code, || error.message.clone())
    }

    /// Reading stopped for another reason: that as an error, and the errors found before.
    pub fn broken_off(
        &mut self,
        line: u64,
        column: Option<&str>,
        code: &'static str,
        message: impl FnOnce() -> String,
    ) -> Rejected {
        if !self.begun {
            self.look_at_kind();
        }
        self.name_kind();
        self.judge.errors.push_first(line, column, code, message);
        self.judge.rejected()
    }

    /// Whether the file is something else than CSV, which then is its only error.
    fn name_kind(&mut self) -> bool {
        let Some(kind) = self.judge.other_kind else { return false };
        let kind = if self.compound.is_encrypted() { FileKind::ENCRYPTED } else { kind };
        self.judge.errors.only(1, kind.code, || kind.sentence.into());
        true
    }

    /// The physical line that is read.
    pub fn line(&self) -> u64 {
        self.parser.line()
    }

    /// How many bytes more than its limit a file may have so far, because a report of ours added them; none: that is not known yet.
    pub fn allowance(&self) -> Option<u64> {
        match &self.judge.header {
            _ if !self.begun => None,
            Some(header) if header.is_report() => Some(self.judge.added + OURS_BYTES as u64),
            _ => Some(0),
        }
    }

    /// Rows that were judged so far.
    pub fn rows(&self) -> u64 {
        self.judge.rows
    }

    /// Whether the file is refused already; it is read on for its other errors.
    pub fn has_errors(&self) -> bool {
        self.judge.has_errors()
    }

    /// The file is at its end.
    ///
    /// # Errors
    /// The file's errors, when it has any; a limit, when its last record passes one.
    pub fn finish(mut self) -> Result<Validated, Refused> {
        if let Err(limit) = self.complete() {
            self.judge.limit.get_or_insert(limit);
        }
        if self.name_kind() {
            return Err(Refused::Errors(self.judge.rejected()));
        }
        if let Some(mut front) = self.front.take() {
            // As below: at most one record is left.
            if let Err(limit) = self.translate(&mut front, &[], true) {
                self.judge.limit.get_or_insert(limit);
            }
        }
        // What is left is at most one record, which passed the parser's limits when it was pushed.
        if self.parser.finish(&mut |event| self.judge.take(event)).is_err() {
            self.judge.errors.push(1, None, "record_too_large", || {
                "the last row is longer than a row may be; shorten its longest values".into()
            });
        }
        if let Some(limit) = self.judge.limit {
            return Err(Refused::Limit(self.stopped(&limit)));
        }
        let mut judge = self.judge;
        let named = judge.ignored_columns.len() >= MOST_REPORTED
            || judge.ignored_columns.iter().any(|name| name == REFERENCE);
        if judge.foreign_reference && !named {
            judge.ignored_columns.push(REFERENCE.to_owned());
        }
        if !judge.header_seen {
            judge.errors.push(1, None, "header_missing", || {
                format!(
                    "the file is empty; write the names of the columns in its first line, and the rows below it: {}",
                    listed(&judge.schema)
                )
            });
        } else if judge.errors.is_empty() && judge.rows == 0 {
            judge.errors.push(judge.body.1, None, "no_rows", || sentences::NO_ROWS.into());
        }
        match judge.header {
            Some(header) if judge.errors.is_empty() => Ok(Validated {
                header,
                ignored_columns: judge.ignored_columns,
                rows: judge.rows,
                blank_lines: self.parser.blank_lines(),
                body_offset: judge.body.0,
                body_line: judge.body.1,
                rest: judge.written.map(|written| written.into_waiting()).unwrap_or_default(),
            }),
            header => {
                judge.header = header;
                Err(Refused::Errors(judge.rejected()))
            }
        }
    }
}
