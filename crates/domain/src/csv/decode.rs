//! From the bytes of a file to UTF-8, as they come.

use std::borrow::Cow;

use encoding_rs::{Decoder, DecoderResult, Encoding, UTF_8, WINDOWS_1252};

use super::dialect::Charset;

const UTF8_BOM: &[u8] = b"\xEF\xBB\xBF";

/// Why a file's characters cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeFault {
    /// These bytes are no characters of the encoding.
    Invalid(&'static str),
    /// A file without a mark began as UTF-8, with letters beyond ASCII, and does not go on so.
    Mixed,
}

/// Reads the encoding that a pipeline asks for. Memory is bounded by what is pushed.
pub struct Decode {
    charset: Charset,
    state: State,
}

enum State {
    /// The first bytes, until it is known whether they are a byte order mark.
    Beginning(Vec<u8>),
    /// UTF-8 that is passed on as it is; the parser judges it, record by record.
    Utf8,
    /// UTF-8 until the first byte that is none. `rest` is a character that is not complete yet.
    Likely { rest: Vec<u8>, beyond_ascii: bool },
    /// Another encoding.
    Other(Decoder, &'static Encoding),
}

impl std::fmt::Debug for Decode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decode").field("charset", &self.charset).finish_non_exhaustive()
    }
}

impl Decode {
    pub fn new(charset: Charset) -> Self {
        Self { charset, state: State::Beginning(Vec::new()) }
    }

    /// Appends the characters of the next bytes, without a byte order mark. What cannot be read is replaced by U+FFFD and reported:
    /// `fault` gets where in `out` it stands.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>, fault: &mut dyn FnMut(usize, DecodeFault)) {
        if let State::Beginning(beginning) = &mut self.state {
            let missing = UTF8_BOM.len() - beginning.len();
            let (head, rest) = bytes.split_at(missing.min(bytes.len()));
            beginning.extend_from_slice(head);
            if beginning.len() < UTF8_BOM.len() {
                return;
            }
            bytes = rest;
            self.begin(out, fault);
        }
        self.decode(bytes, false, out, fault);
    }

    /// The file is at its end.
    pub fn finish(&mut self, out: &mut Vec<u8>, fault: &mut dyn FnMut(usize, DecodeFault)) {
        self.begin(out, fault);
        self.decode(&[], true, out, fault);
    }

    fn begin(&mut self, out: &mut Vec<u8>, fault: &mut dyn FnMut(usize, DecodeFault)) {
        let State::Beginning(beginning) = &mut self.state else { return };
        let beginning = std::mem::take(beginning);
        let (marked, mark) =
            Encoding::for_bom(&beginning).map_or((None, 0), |(found, mark)| (Some(found), mark));
        let other =
            |encoding: &'static Encoding| State::Other(encoding.new_decoder_without_bom_handling(), encoding);
        self.state = match (marked, self.charset) {
            (Some(found), _) if found == UTF_8 => State::Utf8,
            (None, Charset::Utf8) => State::Utf8,
            (None, Charset::Label(encoding)) if encoding == UTF_8 => State::Utf8,
            (Some(found), Charset::Auto | Charset::Label(_)) => other(found),
            (None, Charset::Label(encoding)) => other(encoding),
            (None, Charset::Auto) => State::Likely { rest: Vec::new(), beyond_ascii: false },
            // UTF-16 where UTF-8 is asked for was refused by its first bytes.
            (Some(_), Charset::Utf8) => State::Utf8,
        };
        self.decode(&beginning[mark..], false, out, fault);
    }

    fn decode(
        &mut self,
        bytes: &[u8],
        last: bool,
        out: &mut Vec<u8>,
        fault: &mut dyn FnMut(usize, DecodeFault),
    ) {
        match &mut self.state {
            State::Beginning(_) => {}
            State::Utf8 => out.extend_from_slice(bytes),
            State::Likely { .. } => self.likely(bytes, last, out, fault),
            State::Other(decoder, encoding) => convert(decoder, encoding, bytes, last, out, fault),
        }
    }

    fn likely(
        &mut self,
        bytes: &[u8],
        last: bool,
        out: &mut Vec<u8>,
        fault: &mut dyn FnMut(usize, DecodeFault),
    ) {
        let State::Likely { rest, beyond_ascii } = &mut self.state else { return };
        let mut held = std::mem::take(rest);
        let joined = if held.is_empty() {
            Cow::Borrowed(bytes)
        } else {
            held.extend_from_slice(bytes);
            Cow::Owned(held)
        };
        let (valid, wrong) = match std::str::from_utf8(&joined) {
            Ok(_) => (joined.len(), false),
            Err(error) => (error.valid_up_to(), error.error_len().is_some() || last),
        };
        *beyond_ascii = *beyond_ascii || !joined[..valid].is_ascii();
        out.extend_from_slice(&joined[..valid]);
        if !wrong {
            rest.extend_from_slice(&joined[valid..]);
            return;
        }
        if *beyond_ascii {
            // Read as Windows-1252 from here on, what came before would be other letters than were meant.
            fault(out.len(), DecodeFault::Mixed);
        }
        let mut decoder = WINDOWS_1252.new_decoder_without_bom_handling();
        convert(&mut decoder, WINDOWS_1252, &joined[valid..], last, out, fault);
        self.state = State::Other(decoder, WINDOWS_1252);
    }
}

/// Decodes without a mark. Whatever is no character is U+FFFD and a fault.
fn convert(
    decoder: &mut Decoder,
    encoding: &'static Encoding,
    mut bytes: &[u8],
    last: bool,
    out: &mut Vec<u8>,
    fault: &mut dyn FnMut(usize, DecodeFault),
) {
    // Room of one size: what is made for all that is left would be made anew for each fault.
    let mut room = [0_u8; 4096];
    loop {
        let (result, read, wrote) = decoder.decode_to_utf8_without_replacement(bytes, &mut room, last);
        out.extend_from_slice(&room[..wrote]);
        bytes = &bytes[read..];
        match result {
            DecoderResult::InputEmpty => return,
            DecoderResult::OutputFull => {}
            DecoderResult::Malformed(..) => {
                fault(out.len(), DecodeFault::Invalid(encoding.name()));
                out.extend_from_slice("\u{FFFD}".as_bytes());
            }
        }
    }
}
