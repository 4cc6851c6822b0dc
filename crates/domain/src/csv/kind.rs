//! Files that are no CSV, by their first bytes.

/// What a file is instead of CSV in UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Utf16,
    Zip,
    OldWorkbook,
    Gzip,
}

impl FileKind {
    /// The first bytes that decide.
    pub const BYTES: usize = 4;

    /// The kind of a file that begins so; none when it may be CSV, or when it is not known yet.
    pub fn of(beginning: &[u8]) -> Option<Self> {
        match beginning {
            [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => Some(Self::Utf16),
            // Without a byte order mark: every other byte of its letters is 0.
            [1..=0xFF, 0, 1..=0xFF, 0] | [0, 1..=0xFF, 0, 1..=0xFF] => Some(Self::Utf16),
            [b'P', b'K', 3, 4] => Some(Self::Zip),
            [0xD0, 0xCF, 0x11, 0xE0] => Some(Self::OldWorkbook),
            [0x1F, 0x8B, ..] => Some(Self::Gzip),
            _ => None,
        }
    }

    /// The code of the error.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Gzip => "invalid_utf8",
            Self::Utf16 | Self::Zip | Self::OldWorkbook => "nul_byte",
        }
    }

    /// What it is, and what to do.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Utf16 => "the file is UTF-16; save it as CSV in UTF-8",
            Self::Zip => {
                "the file is a workbook (.xlsx, .ods) or a ZIP archive; save the sheet as CSV in UTF-8, or unpack the archive"
            }
            Self::OldWorkbook => "the file is a workbook (.xls); save the sheet as CSV in UTF-8",
            Self::Gzip => "the file is compressed with gzip; unpack it before you upload it",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_their_first_bytes() {
        for (bytes, kind) in [
            (&b"\xFF\xFEi\0"[..], Some(FileKind::Utf16)),
            (b"\xFE\xFF", Some(FileKind::Utf16)),
            (b"i\0d\0", Some(FileKind::Utf16)),
            (b"\0i\0d", Some(FileKind::Utf16)),
            (b"PK\x03\x04", Some(FileKind::Zip)),
            (b"\xD0\xCF\x11\xE0", Some(FileKind::OldWorkbook)),
            (b"\x1F\x8B\x08", Some(FileKind::Gzip)),
            (b"PK\n1", None),
            (b"\xEF\xBB\xBFi", None),
            (b"id\0\0", None),
            (b"", None),
        ] {
            assert_eq!(FileKind::of(bytes), kind, "{bytes:?}");
        }
    }
}
