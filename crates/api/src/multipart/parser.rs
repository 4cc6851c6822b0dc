//! Splits a body at its boundaries.

use actix_web::web::{Bytes, BytesMut};
use memchr::memmem::Finder;

use super::Malformed;
use super::head::PartHead;

/// Bytes of a part's head at most: names and types, of which real ones have some hundred.
const MOST_HEAD: usize = 16 * 1024;

/// White space after a boundary at most (RFC 2046 allows it, and mail gateways once added it).
const MOST_PADDING: usize = 1024;

/// What a body is made of, in this order: a part's head, its content in pieces, the next part's head, …
#[derive(Debug)]
pub enum Event {
    /// A part begins.
    Part(PartHead),
    /// The next bytes of its content.
    Content(Bytes),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first boundary, or in a part's content: up to the next boundary.
    Content { part: bool },
    /// Behind a boundary, up to the end of its line.
    Delimiter,
    /// In a part's head, up to its empty line.
    Head,
    /// Behind the last boundary: nothing counts any more.
    End,
}

/// What stands behind a place where a boundary may be.
enum Candidate {
    /// A boundary, or the last one.
    Boundary,
    /// Content that looks like the beginning of one.
    Content,
    /// More bytes are needed to tell.
    Unknown,
}

/// A push parser.
pub struct Parser {
    /// A line feed, `--` and the boundary: where content may end. The carriage return before it is optional.
    delimiter: Finder<'static>,
    buffer: BytesMut,
    state: State,
    /// Whether the buffer begins where a line does, so that a boundary needs no line break before it.
    line_start: bool,
    ended: bool,
}

impl Parser {
    /// A parser at the start of a body with this boundary.
    pub fn new(boundary: &str) -> Self {
        let delimiter = format!("\n--{boundary}");
        Self {
            delimiter: Finder::new(delimiter.as_bytes()).into_owned(),
            buffer: BytesMut::new(),
            state: State::Content { part: false },
            line_start: true,
            ended: false,
        }
    }

    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.state != State::End {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The body is at its end.
    pub fn finish(&mut self) {
        self.ended = true;
    }

    /// Whether the last boundary was read: whatever follows is not part of the form.
    pub fn is_done(&self) -> bool {
        self.state == State::End
    }

    /// The next event; none: more bytes are needed, or, once the body is at its end, there are no more.
    ///
    /// # Errors
    /// When the body breaks the grammar, or ends before its last boundary.
    pub fn next_event(&mut self) -> Result<Option<Event>, Malformed> {
        loop {
            let step = match self.state {
                State::Content { part } => self.content(part)?,
                State::Delimiter => self.end_of_delimiter()?,
                State::Head => self.head()?,
                State::End => return Ok(None),
            };
            match step {
                Step::Event(event) => return Ok(Some(event)),
                Step::Again => {}
                Step::Starved if self.ended => {
                    return Err(Malformed(
                        "it ends before its last boundary: something is missing at its end",
                    ));
                }
                Step::Starved => return Ok(None),
            }
        }
    }

    fn content(&mut self, part: bool) -> Result<Step, Malformed> {
        // A boundary at the very beginning of the body or of a part stands behind no line break of its own.
        if self.line_start {
            match self.candidate(0) {
                Candidate::Boundary => return Ok(self.at_boundary(0, part)),
                Candidate::Unknown => return Ok(Step::Starved),
                Candidate::Content => self.line_start = false,
            }
        }
        if let Some(at) = self.delimiter.find(&self.buffer) {
            return Ok(match self.candidate(at + 1) {
                Candidate::Boundary => self.at_boundary(at, part),
                Candidate::Content => self.give(at + 1, part),
                // What stands before it is content all the same.
                Candidate::Unknown if at > 1 => self.give(at - 1, part),
                Candidate::Unknown => Step::Starved,
            });
        }
        // The last bytes may be the beginning of a delimiter, with a carriage return before it.
        let kept = self.delimiter.needle().len();
        match self.buffer.len().checked_sub(kept) {
            Some(ready) if ready > 0 => Ok(self.give(ready, part)),
            _ => Ok(Step::Starved),
        }
    }

    /// What stands at a place where a line begins.
    fn candidate(&self, at: usize) -> Candidate {
        let needle = &self.delimiter.needle()[1..];
        let here = &self.buffer[at..];
        if here.len() < needle.len() {
            return if needle.starts_with(here) && !self.ended {
                Candidate::Unknown
            } else {
                Candidate::Content
            };
        }
        let Some(rest) = here.strip_prefix(needle) else { return Candidate::Content };
        match rest {
            [b' ' | b'\t' | b'\r' | b'\n', ..] | [b'-', b'-', ..] => Candidate::Boundary,
            [] | [b'-'] if !self.ended => Candidate::Unknown,
            // A longer word: another boundary's, or a text's.
            _ => Candidate::Content,
        }
    }

    /// Content ends here; what is before it is given out first.
    fn at_boundary(&mut self, at: usize, part: bool) -> Step {
        let needle = self.delimiter.needle().len();
        let (end, behind) = if self.line_start { (0, needle - 1) } else { (at, at + needle) };
        let end = if end > 0 && self.buffer[end - 1] == b'\r' { end - 1 } else { end };
        let content = self.buffer.split_to(behind).freeze().slice(..end);
        self.state = State::Delimiter;
        if part && !content.is_empty() { Step::Event(Event::Content(content)) } else { Step::Again }
    }

    fn give(&mut self, length: usize, part: bool) -> Step {
        let content = self.buffer.split_to(length);
        if part { Step::Event(Event::Content(content.freeze())) } else { Step::Again }
    }

    /// `--` and whatever follows, or white space and a line break.
    fn end_of_delimiter(&mut self) -> Result<Step, Malformed> {
        if self.buffer.starts_with(b"--") {
            self.state = State::End;
            self.buffer.clear();
            return Ok(Step::Again);
        }
        let padding = self.buffer.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let line_end = match &self.buffer[padding..] {
            [b'\n', ..] => 1,
            [b'\r', b'\n', ..] => 2,
            [] | [b'\r'] | [b'-'] if padding <= MOST_PADDING => return Ok(Step::Starved),
            _ => return Err(Malformed("a boundary is followed by something else than the end of its line")),
        };
        let _ = self.buffer.split_to(padding + line_end);
        self.state = State::Head;
        Ok(Step::Again)
    }

    fn head(&mut self) -> Result<Step, Malformed> {
        let Some(length) = head_length(&self.buffer) else {
            if self.buffer.len() > MOST_HEAD {
                return Err(Malformed("a part's head is too long"));
            }
            return Ok(Step::Starved);
        };
        let head = self.buffer.split_to(length);
        self.state = State::Content { part: true };
        self.line_start = true;
        Ok(Step::Event(Event::Part(PartHead::read(&head)?)))
    }
}

/// How many bytes a head has, its empty line included; none: it has not ended yet.
fn head_length(bytes: &[u8]) -> Option<usize> {
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', bytes) {
        if matches!(&bytes[start..end], [] | [b'\r']) {
            return Some(end + 1);
        }
        start = end + 1;
    }
    None
}

enum Step {
    Event(Event),
    Again,
    Starved,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a body says, pushed in pieces of that size: names and contents.
    fn read(boundary: &str, body: &[u8], piece: usize) -> Result<Vec<(String, Vec<u8>)>, &'static str> {
        let mut parser = Parser::new(boundary);
        let mut parts: Vec<(String, Vec<u8>)> = Vec::new();
        let mut chunks = body.chunks(piece.max(1));
        loop {
            match parser.next_event().map_err(|malformed| malformed.0)? {
                Some(Event::Part(head)) => parts.push((head.name, Vec::new())),
                Some(Event::Content(bytes)) => {
                    assert!(!bytes.is_empty(), "an empty piece tells nothing");
                    parts.last_mut().expect("a part").1.extend_from_slice(&bytes);
                }
                None if parser.is_done() => return Ok(parts),
                None => match chunks.next() {
                    Some(chunk) => parser.push(chunk),
                    None => parser.finish(),
                },
            }
        }
    }

    /// The same whatever the size of the pieces.
    fn parts(body: &str) -> Result<Vec<(String, String)>, &'static str> {
        let whole = read("b", body.as_bytes(), body.len());
        for piece in 1..body.len() {
            assert_eq!(read("b", body.as_bytes(), piece), whole, "in pieces of {piece}: {body:?}");
        }
        let text = |(name, bytes): (String, Vec<u8>)| (name, String::from_utf8(bytes).expect("text"));
        whole.map(|parts| parts.into_iter().map(text).collect())
    }

    fn named(expected: &[(&str, &str)]) -> Result<Vec<(String, String)>, &'static str> {
        Ok(expected.iter().map(|(name, content)| ((*name).to_owned(), (*content).to_owned())).collect())
    }

    const A: &str = "Content-Disposition: form-data; name=\"a\"\r\n\r\n";

    #[test]
    fn forms_as_clients_send_them() {
        let cases: [(String, &[(&str, &str)]); 16] = [
            (format!("--b\r\n{A}x\r\n--b--\r\n"), &[("a", "x")]),
            (format!("--b\r\n{A}x\r\n--b--"), &[("a", "x")]),
            (format!("--b\r\n{A}x\r\n--b\r\n{A}y\r\n--b--\r\n"), &[("a", "x"), ("a", "y")]),
            (format!("\r\n--b\r\n{A}x\r\n--b--\r\n"), &[("a", "x")]),
            (
                format!("This is a form.\r\n--b\r\n{A}x\r\n--b--\r\nand its end\r\n--b\r\n{A}z\r\n--b--"),
                &[("a", "x")],
            ),
            (format!("--b \t\r\n{A}x\r\n--b  \r\n{A}y\r\n--b-- \r\n"), &[("a", "x"), ("a", "y")]),
            (format!("--b\r\n{A}\r\n--b--\r\n"), &[("a", "")]),
            (format!("--b\r\n{A}--b--\r\n"), &[("a", "")]),
            (format!("--b\r\n{A}x\r\n\r\n--b--\r\n"), &[("a", "x\r\n")]),
            (format!("--b\r\n{A}x\n--b--\n"), &[("a", "x")]),
            (
                format!("--b\r\n{A}x\r\n--bc\r\n--b-\r\n--b-x\r\n-\r\n--b--\r\n"),
                &[("a", "x\r\n--bc\r\n--b-\r\n--b-x\r\n-")],
            ),
            (format!("--b\r\n{A}--c\r\n--b--\r\n"), &[("a", "--c")]),
            ("--b\ncontent-disposition: form-data; name=a\n\nx\ny\n--b--\n".to_owned(), &[("a", "x\ny")]),
            (format!("--b\r\nContent-Length: 1\r\n{A}1\n2\n3\n\r\n--b--\r\n"), &[("a", "1\n2\n3\n")]),
            (
                format!(
                    "--b\r\nContent-Length: 9999\r\n{A}1\r\n--b\r\nContent-Length: x\r\n{A}2\r\n--b--\r\n"
                ),
                &[("a", "1"), ("a", "2")],
            ),
            ("--b--\r\n".to_owned(), &[]),
        ];
        for (body, expected) in cases {
            assert_eq!(parts(&body), named(expected), "{body:?}");
        }
    }

    #[test]
    fn what_is_no_form_or_not_all_of_one_is_refused() {
        let cut = "it ends before its last boundary: something is missing at its end";
        let line = "a boundary is followed by something else than the end of its line";
        for (body, wanted) in [
            (String::new(), cut),
            ("x\r\n".to_owned(), cut),
            (format!("--b\r\n{A}x\r\n"), cut),
            (format!("--b\r\n{A}x\r\n--b"), cut),
            (format!("--b\r\n{A}x\r\n--b\r\n"), cut),
            (format!("--b\r\n{A}x\r\n--b-"), cut),
            ("--b\r\nContent-Disposition: form-data; name=\"a\"\r\n".to_owned(), cut),
            (format!("--b x\r\n{A}x\r\n--b--\r\n"), line),
            (format!("--b\rx\r\n{A}x\r\n--b--\r\n"), line),
            (format!("--b\r\n{A}x\r\n--b y\r\n{A}z\r\n--b--"), line),
            ("--b\r\n\r\nx\r\n--b--".to_owned(), "a part has no Content-Disposition with a name"),
        ] {
            assert_eq!(parts(&body), Err(wanted), "{body:?}");
        }
        let endless = format!("--b\r\nx: {}", "y".repeat(MOST_HEAD + 1));
        assert_eq!(read("b", endless.as_bytes(), 1000), Err("a part's head is too long"));
        let padded = format!("--b{}", " ".repeat(MOST_PADDING + 2));
        assert_eq!(read("b", padded.as_bytes(), 1000), Err(line));
    }

    proptest::proptest! {
        /// Whatever content does not hold the boundary comes out as it went in.
        #[test]
        fn content_comes_out_as_it_was(
            contents in proptest::collection::vec("[\r\n\\-bc ]{0,12}", 1..4),
            piece in 1..9_usize,
        ) {
            let boundary = "bcb";
            let free = contents.iter().all(|content| !format!("\n{content}").contains("\n--bcb"));
            proptest::prop_assume!(free);
            let mut body = String::new();
            for content in &contents {
                body.push_str(&format!("--{boundary}\r\n{A}{content}\r\n"));
            }
            body.push_str(&format!("--{boundary}--\r\n"));
            let read = read(boundary, body.as_bytes(), piece).map(|parts| parts.into_iter().map(|part| part.1).collect::<Vec<_>>());
            let expected: Vec<Vec<u8>> = contents.into_iter().map(String::into_bytes).collect();
            proptest::prop_assert_eq!(read, Ok(expected));
        }
    }
}
