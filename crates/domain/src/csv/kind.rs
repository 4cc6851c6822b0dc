//! Files that are no CSV, by their first bytes.

/// What a file is instead of CSV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Utf16,
    Zip,
    OldWorkbook,
    Gzip,
    Html,
    Pdf,
}

/// Bytes before the name of a ZIP archive's first file.
const ZIP_HEAD: usize = 30;

impl FileKind {
    /// The first bytes that decide, and that a sentence is made of.
    pub const BYTES: usize = 64;

    /// The kind of a file that begins so; none when it may be CSV, or when it is not known yet.
    pub fn of(beginning: &[u8]) -> Option<Self> {
        match beginning {
            [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => Some(Self::Utf16),
            // Without a byte order mark: every other byte of its letters is 0.
            [1..=0xFF, 0, 1..=0xFF, 0, ..] | [0, 1..=0xFF, 0, 1..=0xFF, ..] => Some(Self::Utf16),
            [b'P', b'K', 3, 4, ..] => Some(Self::Zip),
            [0xD0, 0xCF, 0x11, 0xE0, ..] => Some(Self::OldWorkbook),
            [0x1F, 0x8B, ..] => Some(Self::Gzip),
            [b'%', b'P', b'D', b'F', b'-', ..] => Some(Self::Pdf),
            _ => is_markup(beginning).then_some(Self::Html),
        }
    }

    /// The code of the error.
    pub fn code(self, beginning: &[u8]) -> &'static str {
        match self {
            // All of it is letters with a NUL byte between them.
            Self::Utf16 => "nul_byte",
            Self::Zip if first_file(beginning) == First::Other => "archive",
            Self::Zip | Self::OldWorkbook => "workbook",
            Self::Gzip => "archive",
            Self::Html | Self::Pdf => "not_csv",
        }
    }

    /// What it is, and what to do.
    pub fn sentence(self, beginning: &[u8]) -> &'static str {
        match self {
            Self::Utf16 => {
                "the file is UTF-16, which Excel calls `Unicode Text`: choose Save As, `CSV UTF-8 (Comma delimited)`, or ask for \
                 `encoding: auto`"
            }
            Self::Zip => match first_file(beginning) {
                First::Excel => {
                    "the file is an Excel workbook (.xlsx), also when its name ends in .csv: open it in Excel and choose Save As, \
                     `CSV UTF-8 (Comma delimited)`, or ask for `formats: [csv, xlsx]`"
                }
                First::OpenDocument => {
                    "the file is an OpenDocument workbook (.ods): open it and choose Save As, `Text CSV`, character set Unicode (UTF-8), \
                     separator comma"
                }
                First::Numbers => {
                    "the file is a Numbers spreadsheet (.numbers): open it and choose File, Export To, CSV, with Unicode (UTF-8) under \
                     Advanced Options"
                }
                First::Other => {
                    "the file is a workbook (.xlsx, .ods) or a ZIP archive: save the sheet as CSV in UTF-8, or unpack the archive and \
                     upload the file in it"
                }
            },
            Self::OldWorkbook => {
                "the file is an old workbook (.xls), or a workbook with a password: open it in Excel, take the password off if it has \
                 one (File, Info, Protect Workbook), and choose Save As, `CSV UTF-8 (Comma delimited)`, or `Excel Workbook (.xlsx)` \
                 where the pipeline takes workbooks"
            }
            Self::Gzip => {
                "the file is compressed with gzip more than once: unpack it once before you upload it"
            }
            Self::Html => {
                "the file is a web page or XML, also when its name ends in .csv or .xls: open it in Excel and choose Save As, `CSV UTF-8 \
                 (Comma delimited)`"
            }
            Self::Pdf => {
                "the file is a PDF: export the table as CSV in UTF-8 from the program that it comes from"
            }
        }
    }
}

/// Whether it is a web page, or XML; what programs export as `.xls` often is.
fn is_markup(beginning: &[u8]) -> bool {
    let text = beginning.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(beginning).trim_ascii_start();
    ["<html", "<head", "<meta", "<table", "<!doctype", "<?xml"]
        .iter()
        .any(|tag| text.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag.as_bytes())))
}

/// What the first file of a ZIP archive shows.
#[derive(PartialEq, Eq)]
enum First {
    Excel,
    OpenDocument,
    Numbers,
    Other,
}

fn first_file(beginning: &[u8]) -> First {
    let name = beginning.get(ZIP_HEAD..).unwrap_or_default();
    let starts = |text: &str| name.starts_with(text.as_bytes());
    if starts("[Content_Types]") || starts("xl/") || starts("_rels/") || starts("docProps/") {
        First::Excel
    } else if starts("mimetype") {
        First::OpenDocument
    } else if starts("Index/") {
        First::Numbers
    } else {
        First::Other
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
            (b"%PDF-1.7", Some(FileKind::Pdf)),
            (b"<Table border=1>", Some(FileKind::Html)),
            (b"\xEF\xBB\xBF\r\n <HTML xmlns", Some(FileKind::Html)),
            (b"<id>,b", None),
            (b"PK\n1", None),
            (b"\xEF\xBB\xBFi", None),
            (b"id\0\0", None),
            (b"", None),
        ] {
            assert_eq!(FileKind::of(bytes), kind, "{bytes:?}");
        }
    }

    #[test]
    fn archives_are_told_by_their_first_file() {
        let zip = |name: &str| [b"PK\x03\x04".as_slice(), &[0; ZIP_HEAD - 4], name.as_bytes()].concat();
        for (name, code, sentence) in [
            ("[Content_Types].xml", "workbook", "the file is an Excel workbook (.xlsx)"),
            ("xl/workbook.xml", "workbook", "the file is an Excel workbook (.xlsx)"),
            ("mimetypeapplication/vnd", "workbook", "the file is an OpenDocument workbook (.ods)"),
            ("Index/Document.iwa", "workbook", "the file is a Numbers spreadsheet"),
            ("rows.csv", "archive", "the file is a workbook (.xlsx, .ods) or a ZIP archive"),
        ] {
            let file = zip(name);
            assert_eq!(FileKind::Zip.code(&file), code, "{name}");
            assert!(FileKind::Zip.sentence(&file).starts_with(sentence), "{name}");
        }
    }
}
