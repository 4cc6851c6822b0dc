//! The length of a field in characters.

/// How much of the field under way was counted already: each byte is counted once, however it arrives.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Measured {
    /// Bytes of the field that were counted.
    bytes: usize,
    /// Bytes among them that do not continue a character.
    chars: usize,
    quotes: usize,
}

impl Measured {
    /// Characters of the field so far: bytes that do not continue one, without the field's own quotes.
    pub(super) fn chars(&mut self, field: &[u8], quoted: bool) -> usize {
        let new = &field[self.bytes..];
        self.chars += new.iter().filter(|byte| (**byte & 0xC0) != 0x80).count();
        self.quotes += memchr::memchr_iter(b'"', new).count();
        self.bytes = field.len();
        if !quoted {
            return self.chars;
        }
        // The opening quote, and of the others one for each pair or the closing one.
        self.chars - 1 - self.quotes.saturating_sub(1).div_ceil(2)
    }
}
