//! Compound files (MS-CFB), in which old Office programs store documents, and new ones those with a password.

use memchr::memmem;

/// The name of the stream that a document with a password is (MS-OFFCRYPTO, 2.1.1), as a directory has it.
const NAME: &[u8] = b"E\0n\0c\0r\0y\0p\0t\0e\0d\0P\0a\0c\0k\0a\0g\0e\0";

/// Looks for a password's stream in a file as it comes. The directory may stand anywhere; nothing is kept but what may be the name's beginning.
#[derive(Debug, Default)]
pub struct Compound {
    end: Vec<u8>,
    is_encrypted: bool,
}

impl Compound {
    /// The next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.is_encrypted {
            return;
        }
        let seam = &bytes[..bytes.len().min(NAME.len() - 1)];
        self.end.extend_from_slice(seam);
        self.is_encrypted = memmem::find(&self.end, NAME).or_else(|| memmem::find(bytes, NAME)).is_some();
        self.end
            .extend_from_slice(&bytes[seam.len()..][(bytes.len() - seam.len()).saturating_sub(NAME.len())..]);
        self.end.drain(..self.end.len().saturating_sub(NAME.len() - 1));
    }

    /// Whether it was there.
    pub fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_found_wherever_the_file_is_cut() {
        let file = [&[7; 100], NAME, &[8; 50]].concat();
        for pieces in [1, 2, 31, 32, 33, 99, 101, 1000] {
            let mut compound = Compound::default();
            file.chunks(pieces).for_each(|piece| compound.push(piece));
            assert!(compound.is_encrypted(), "{pieces}");
            assert!(compound.end.len() < NAME.len());
            let mut other = Compound::default();
            file[..130].chunks(pieces).for_each(|piece| other.push(piece));
            assert!(!other.is_encrypted(), "{pieces}");
        }
    }
}
