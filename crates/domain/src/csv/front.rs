//! What stands before the parser where a file is not plain CSV in UTF-8: its characters, and the dialect that its first line shows.

use super::decode::{Decode, DecodeFault};
use super::dialect::{Delimiter, Grammar};
use super::opening::open;
use super::rules::Schema;

/// DOS marks the end of a text by this character.
const CTRL_Z: u8 = 0x1A;

/// More of them are no mark of an end: the parser bounds them as it does any text.
const MOST_CTRL_Z: usize = 4096;

/// Makes text of bytes. Memory is bounded by what is pushed, and by a header until its dialect is known.
#[derive(Debug)]
pub(super) struct Front {
    decode: Decode,
    /// The most bytes of a first line that are looked at.
    most: usize,
    state: State,
    /// Characters Ctrl-Z at the end so far, which are dropped when nothing follows.
    ctrl_z: usize,
    scratch: Vec<u8>,
}

#[derive(Debug)]
enum State {
    /// What separates columns is declared.
    Declared(u8),
    /// The text so far, until its first line shows the dialect.
    /// `looked`: how much of it was looked at last. It is looked at again when there is twice as much, so that a line that comes
    /// in many small pieces is not read once for each of them.
    Opening { text: Vec<u8>, faults: Vec<(usize, DecodeFault)>, looked: usize },
    /// The dialect is known. `auto`: it was found out.
    Open { auto: bool },
}

/// Text that the parser is to read next.
#[derive(Debug, Default)]
pub(super) struct Ready {
    /// The file's grammar, and the line where its header stands: known before the first text.
    pub opened: Option<Start>,
    pub ready: Vec<u8>,
    /// Characters that could not be read, by their places in the text.
    pub faults: Vec<(usize, DecodeFault)>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub grammar: Grammar,
    pub line: u64,
}

/// Faults of a piece that are reported one by one; what is replaced beyond them is counted no more.
const MOST_FAULTS: usize = 1000;

impl Front {
    pub fn new(schema: &Schema) -> Self {
        let state = match schema.dialect.delimiter {
            Delimiter::Is(delimiter) => State::Declared(delimiter),
            Delimiter::Auto => State::Opening { text: Vec::new(), faults: Vec::new(), looked: 0 },
        };
        Self {
            decode: Decode::new(schema.dialect.charset),
            most: schema.header_limits().max_bytes,
            state,
            ctrl_z: 0,
            scratch: Vec::new(),
        }
    }

    /// The text of the next bytes.
    pub fn read(&mut self, bytes: &[u8], last: bool, known: &dyn Fn(&[String]) -> usize) -> Ready {
        let mut text = std::mem::take(&mut self.scratch);
        text.clear();
        let mut faults = Vec::new();
        let mut note = |at, fault| {
            if faults.len() < MOST_FAULTS {
                faults.push((at, fault));
            }
        };
        self.decode.push(bytes, &mut text, &mut note);
        if last {
            self.decode.finish(&mut text, &mut note);
        }
        match &mut self.state {
            State::Declared(delimiter) => {
                let grammar = Grammar { delimiter: *delimiter, ..Grammar::default() };
                self.state = State::Open { auto: false };
                Ready { opened: Some(Start { grammar, line: 1 }), ready: text, faults }
            }
            State::Open { auto: false } => Ready { opened: None, ready: text, faults },
            State::Open { auto: true } => {
                let ready = self.without_ctrl_z(text, &mut faults);
                Ready { opened: None, ready, faults }
            }
            State::Opening { text: before, faults: earlier, looked } => {
                let start = before.len();
                let room = MOST_FAULTS - earlier.len();
                earlier.extend(faults.into_iter().take(room).map(|(at, fault)| (start + at, fault)));
                before.extend_from_slice(&text);
                let whole = last || before.len() > self.most;
                if !whole && before.len() < *looked * 2 {
                    return Ready::default();
                }
                *looked = before.len();
                let Some(opened) = open(before, whole, known) else { return Ready::default() };
                let text = before.split_off(opened.skip);
                let mut faults = std::mem::take(earlier);
                faults.iter_mut().for_each(|(at, _)| *at = at.saturating_sub(opened.skip));
                let line = if opened.skip > 0 { 2 } else { 1 };
                self.state = State::Open { auto: true };
                let ready = self.without_ctrl_z(text, &mut faults);
                Ready { opened: Some(Start { grammar: opened.grammar, line }), ready, faults }
            }
        }
    }

    /// Takes a text back, for the next one to be written in.
    pub fn give_back(&mut self, text: Vec<u8>) {
        self.scratch = text;
    }

    /// Holds back what may be the mark of the end.
    fn without_ctrl_z(&mut self, mut text: Vec<u8>, faults: &mut [(usize, DecodeFault)]) -> Vec<u8> {
        let end = text.len();
        let kept = text.iter().rposition(|byte| *byte != CTRL_Z).map_or(0, |last| last + 1);
        let kept = if self.ctrl_z + (end - kept) > MOST_CTRL_Z { end } else { kept };
        let marks = end - kept;
        text.truncate(kept);
        if self.ctrl_z > 0 && kept > 0 {
            let held = std::mem::take(&mut self.ctrl_z);
            text.splice(..0, std::iter::repeat_n(CTRL_Z, held));
            for (at, _) in faults.iter_mut() {
                *at += held;
            }
        }
        self.ctrl_z += marks;
        let end = text.len();
        faults.iter_mut().for_each(|(at, _)| *at = (*at).min(end));
        text
    }
}
