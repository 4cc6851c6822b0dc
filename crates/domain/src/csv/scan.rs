//! Bytes that mean something to the grammar, and runs of those that do not.

/// Bytes that mean something in a state.
pub(super) type Marks = [bool; 256];

const fn marks(bytes: &[u8]) -> Marks {
    let mut marks = [false; 256];
    let mut at = 0;
    while at < bytes.len() {
        marks[bytes[at] as usize] = true;
        at += 1;
    }
    marks
}

/// Outside quotes.
pub(super) const OUTSIDE: Marks = marks(b",\"\n\r\0");
/// Inside quotes.
pub(super) const INSIDE: Marks = marks(b"\"\n\0");
/// In a record that is skipped.
pub(super) const LINE_END: Marks = marks(b"\n");

/// How many bytes from the start mean nothing.
pub(super) fn plain_run(bytes: &[u8], marks: &Marks) -> usize {
    bytes.iter().position(|byte| marks[*byte as usize]).unwrap_or(bytes.len())
}
