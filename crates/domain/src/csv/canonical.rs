//! A file of another dialect as it is stored: UTF-8 with commas and line feeds, each record in the line where the client has it.

use super::record::Record;
use super::writer::encode_record;

/// Writes records; what was written since the last [`Canonical::clear`] waits to be stored.
#[derive(Debug)]
pub(super) struct Canonical {
    out: Vec<u8>,
    /// Bytes in all that were written and cleared before.
    before: u64,
    /// The physical line of the next byte.
    line: u64,
}

impl Canonical {
    pub fn new() -> Self {
        Self { out: Vec::new(), before: 0, line: 1 }
    }

    /// What waits to be stored.
    pub fn waiting(&self) -> &[u8] {
        &self.out
    }

    pub fn into_waiting(self) -> Vec<u8> {
        self.out
    }

    pub fn clear(&mut self) {
        self.before += self.out.len() as u64;
        self.out.clear();
    }

    /// The offset and the line of the next byte.
    pub fn place(&self) -> (u64, u64) {
        (self.before + self.out.len() as u64, self.line)
    }

    /// Empty lines up to that one: a record keeps its line, whatever the client's file has before it.
    pub fn move_to(&mut self, line: u64) {
        let missing = usize::try_from(line.saturating_sub(self.line)).unwrap_or(usize::MAX);
        self.out.resize(self.out.len() + missing, b'\n');
        self.line += missing as u64;
    }

    /// A record, as its first fields.
    pub fn record(&mut self, record: &Record<'_>, fields: usize, delimiter: u8) {
        self.move_to(record.line);
        let start = self.out.len();
        if delimiter == b',' && record.len() == fields {
            self.out.extend_from_slice(record.raw.as_bytes());
        } else {
            let values: Vec<_> = (0..fields).map(|field| record.get(field).unwrap_or_default()).collect();
            encode_record(values.iter().map(|value| value.as_ref()), &mut self.out);
        }
        self.end_record(start);
    }

    /// A record of empty fields.
    pub fn empty(&mut self, line: u64, fields: usize) {
        self.move_to(line);
        let start = self.out.len();
        encode_record((0..fields).map(|_| ""), &mut self.out);
        self.end_record(start);
    }

    fn end_record(&mut self, start: usize) {
        self.out.push(b'\n');
        self.line += memchr::memchr_iter(b'\n', &self.out[start..]).count() as u64;
    }
}
