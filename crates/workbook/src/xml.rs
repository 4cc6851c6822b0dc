//! XML of a workbook's parts, event by event, within limits.

use std::io::{BufRead, BufReader, Read};

use quick_xml::Reader;
use quick_xml::events::{BytesRef, BytesStart, Event};

use crate::WorkbookError;

/// Bytes of one event: an element with its attributes, or a text. Excel's cells have 32,767 characters at most.
const MOST_EVENT: usize = 1024 * 1024;

/// Elements within each other, and bytes of an element's name: the parser keeps the names of all that are open. Parts that programs
/// write are some ten deep.
const DEEPEST: usize = 256;
const LONGEST_NAME: usize = 1024;

/// A part's bytes, of which only so many may be read until the next event begins.
pub struct Limited<R> {
    inner: BufReader<R>,
    left: usize,
    /// Bytes that may be read in all.
    total: u64,
    pub passed: Option<Passed>,
}

/// Which limit was passed.
#[derive(Clone, Copy, Debug)]
pub enum Passed {
    Event,
    Total,
}

impl<R: Read> Limited<R> {
    pub fn new(inner: R, total: u64) -> Self {
        Self { inner: BufReader::with_capacity(32 * 1024, inner), left: MOST_EVENT, total, passed: None }
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let read = self.fill_buf()?.read(out)?;
        self.consume(read);
        Ok(read)
    }
}

impl<R: Read> BufRead for Limited<R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if self.left == 0 || self.total == 0 {
            self.passed = Some(if self.total == 0 { Passed::Total } else { Passed::Event });
            return Err(std::io::Error::other("a limit was passed"));
        }
        let most = self.left.min(usize::try_from(self.total).unwrap_or(usize::MAX));
        let bytes = self.inner.fill_buf()?;
        Ok(&bytes[..bytes.len().min(most)])
    }

    fn consume(&mut self, read: usize) {
        self.left = self.left.saturating_sub(read);
        self.total = self.total.saturating_sub(read as u64);
        self.inner.consume(read);
    }
}

/// A part that is read event by event.
pub struct Part<R> {
    reader: Reader<Limited<R>>,
    buffer: Vec<u8>,
    /// Elements that are open.
    depth: usize,
}

impl<R: Read> Part<R> {
    pub fn new(inner: R, total: u64) -> Self {
        Self { reader: Reader::from_reader(Limited::new(inner, total)), buffer: Vec::new(), depth: 0 }
    }

    /// The next event; a document type is refused, so that there are no entities but XML's own.
    pub fn next(&mut self) -> Result<Event<'_>, WorkbookError> {
        self.buffer.clear();
        self.reader.get_mut().left = MOST_EVENT;
        let event = match self.reader.read_event_into(&mut self.buffer) {
            Ok(Event::DocType(_)) => return Err(WorkbookError::Broken("it has a document type")),
            Ok(Event::Start(start)) => {
                self.depth += 1;
                if self.depth > DEEPEST || start.name().as_ref().len() > LONGEST_NAME {
                    return Err(WorkbookError::TooLarge);
                }
                Event::Start(start)
            }
            Ok(Event::End(end)) => {
                self.depth = self.depth.saturating_sub(1);
                Event::End(end)
            }
            Ok(event) => event,
            Err(quick_xml::Error::Io(error)) => {
                return Err(match self.reader.get_ref().passed {
                    Some(Passed::Event) => WorkbookError::TooLarge,
                    Some(Passed::Total) => WorkbookError::Bomb,
                    // A stored file that cannot be reached says so by its kind; everything else is the archive's own fault.
                    None if crate::archive::is_outside(&error) => {
                        WorkbookError::Io(std::io::Error::new(error.kind(), error.to_string()))
                    }
                    None => WorkbookError::Broken("a part cannot be unpacked"),
                });
            }
            Err(_) => return Err(WorkbookError::Broken("a part is not XML")),
        };
        Ok(event)
    }
}

/// An attribute's text.
pub fn attribute(start: &BytesStart<'_>, name: &str) -> Option<String> {
    let found = start.attributes().flatten().find(|one| one.key.local_name().as_ref() == name.as_bytes())?;
    let text = std::str::from_utf8(&found.value).ok()?.to_owned();
    Some(quick_xml::escape::unescape(&text).ok()?.into_owned())
}

/// The character that a reference stands for.
pub fn character(reference: &BytesRef<'_>) -> Result<char, WorkbookError> {
    let broken = || WorkbookError::Broken("it refers to an entity that XML does not have");
    if let Some(character) = reference.resolve_char_ref().map_err(|_| broken())? {
        return Ok(character);
    }
    let name: &[u8] = reference;
    Ok(match name {
        b"lt" => '<',
        b"gt" => '>',
        b"amp" => '&',
        b"apos" => '\'',
        b"quot" => '"',
        _ => return Err(broken()),
    })
}

/// Appends what an event holds of a text.
pub fn append(event: &Event<'_>, out: &mut String) -> Result<(), WorkbookError> {
    let broken = |_| WorkbookError::Broken("a text is not UTF-8");
    match event {
        Event::Text(text) => out.push_str(std::str::from_utf8(text.as_ref()).map_err(broken)?),
        Event::CData(text) => out.push_str(std::str::from_utf8(text.as_ref()).map_err(broken)?),
        Event::GeneralRef(reference) => out.push(character(reference)?),
        _ => {}
    }
    if out.len() > MOST_EVENT { Err(WorkbookError::TooLarge) } else { Ok(()) }
}
