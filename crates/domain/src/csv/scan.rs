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

/// Outside quotes, by what separates columns.
pub(super) fn outside(delimiter: u8) -> &'static Marks {
    static COMMA: Marks = marks(b",\"\n\r\0");
    static SEMICOLON: Marks = marks(b";\"\n\r\0");
    static TAB: Marks = marks(b"\t\"\n\r\0");
    static BAR: Marks = marks(b"|\"\n\r\0");
    match delimiter {
        b';' => &SEMICOLON,
        b'\t' => &TAB,
        b'|' => &BAR,
        _ => &COMMA,
    }
}

/// Inside quotes.
pub(super) const INSIDE: Marks = marks(b"\"\n\0");
/// In a record that is skipped.
pub(super) const LINE_END: Marks = marks(b"\n\r");

/// How many bytes from the start mean nothing.
pub(super) fn plain_run(bytes: &[u8], marks: &Marks) -> usize {
    bytes.iter().position(|byte| marks[*byte as usize]).unwrap_or(bytes.len())
}

/// Carriage returns without a line feed.
pub(super) fn lone_crs(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\r', bytes).filter(|at| bytes.get(at + 1) != Some(&b'\n')).count() as u64
}
