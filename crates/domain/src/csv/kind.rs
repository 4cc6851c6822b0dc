//! Files that are no CSV, by their first bytes.

mod compound;
mod signatures;

pub(super) use compound::Compound;

/// What a file is instead of CSV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileKind {
    /// The code of the error.
    pub code: &'static str,
    /// What it is, and what to do.
    pub sentence: &'static str,
}

impl FileKind {
    /// The first bytes that decide: a tar archive's name for itself is the last of them.
    pub const BYTES: usize = 512;

    /// Whether it is a compound file, which may hold a document with a password.
    pub fn is_compound(self) -> bool {
        self == Self::OLD_EXCEL
    }

    /// Whether it is text in UTF-16, which some pipelines take.
    pub fn is_utf16(self) -> bool {
        [Self::UTF16, Self::UTF16_LITTLE, Self::UTF16_BIG].contains(&self)
    }

    /// The kind of a file that begins so; none when it may be CSV, or when it is not known yet. More bytes may tell more exactly.
    pub fn of(beginning: &[u8]) -> Option<Self> {
        let text = beginning.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(beginning).trim_ascii_start();
        signatures::by_bytes(beginning)
            .or_else(|| wide(beginning))
            .or_else(|| signatures::by_text(text))
            .or_else(|| json(text))
    }
}

/// Text in units of more than a byte. Without a byte order mark the other bytes of its letters are 0.
fn wide(beginning: &[u8]) -> Option<FileKind> {
    match beginning {
        [0xFF, 0xFE, 0, 0, ..]
        | [0, 0, 0xFE, 0xFF, ..]
        | [1..=0xFF, 0, 0, 0, 1..=0xFF, 0, 0, 0, ..]
        | [0, 0, 0, 1..=0xFF, 0, 0, 0, 1..=0xFF, ..] => Some(FileKind::UTF32),
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => Some(FileKind::UTF16),
        [1..=0xFF, 0, 1..=0xFF, 0, ..] => Some(FileKind::UTF16_LITTLE),
        [0, 1..=0xFF, 0, 1..=0xFF, ..] => Some(FileKind::UTF16_BIG),
        _ => None,
    }
}

/// Whether it is JSON: brackets, and then a quote, which no field of a CSV file may have in its middle.
fn json(text: &[u8]) -> Option<FileKind> {
    let is_bracket = |byte: &u8| matches!(byte, b'[' | b'{') || byte.is_ascii_whitespace();
    let brackets = text.iter().take_while(|byte| is_bracket(byte)).count();
    if !text.starts_with(b"[") && !text.starts_with(b"{") || text.get(brackets) != Some(&b'"') {
        return None;
    }
    let lines = text.windows(3).any(|three| matches!(three, b"}\n{" | b"\r\n{"));
    Some(if lines && text.starts_with(b"{") { FileKind::JSON_LINES } else { FileKind::JSON })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zip(name: &str) -> Vec<u8> {
        [b"PK\x03\x04".as_slice(), &[0; signatures::ZIP_HEAD - 4], name.as_bytes()].concat()
    }

    fn at(place: usize, bytes: &[u8]) -> Vec<u8> {
        [vec![b'x'; place].as_slice(), bytes].concat()
    }

    #[test]
    fn kinds_are_told_by_their_first_bytes() {
        for (bytes, code, sentence) in [
            (b"\xFF\xFEi\0".to_vec(), "nul_byte", "the file is UTF-16"),
            (b"\xFE\xFF".to_vec(), "nul_byte", "the file is UTF-16"),
            (b"i\0d\0".to_vec(), "nul_byte", "the file is UTF-16 without a byte order mark"),
            (b"\0i\0d".to_vec(), "nul_byte", "the file is UTF-16 without a byte order mark"),
            (b"\xFF\xFE\0\0i\0\0\0".to_vec(), "nul_byte", "the file is UTF-32"),
            (b"\0\0\xFE\xFF\0\0\0i".to_vec(), "nul_byte", "the file is UTF-32"),
            (b"i\0\0\0d\0\0\0".to_vec(), "nul_byte", "the file is UTF-32"),
            (b"\0\0\0i\0\0\0d".to_vec(), "nul_byte", "the file is UTF-32"),
            (b"\xD0\xCF\x11\xE0".to_vec(), "workbook", "the file is an old workbook (.xls)"),
            (b"\x09\x08\x10\0\0\x06".to_vec(), "workbook", "the file is an old workbook (.xls)"),
            (b"\x09\0\x04\0\x07\0\x10\0".to_vec(), "workbook", "the file is an old workbook (.xls)"),
            (b"ID;PWXL;N;E\r\n".to_vec(), "workbook", "the file is a SYLK table (.slk)"),
            (b"TABLE\r\n0,1\r\n\"EXCEL\"".to_vec(), "workbook", "the file is a DIF table (.dif)"),
            (zip("[Content_Types].xml"), "workbook", "the file is an Excel workbook (.xlsx)"),
            (zip("xl/workbook.xml"), "workbook", "the file is an Excel workbook (.xlsx)"),
            (zip("mimetypeapplication/vnd"), "workbook", "the file is an OpenDocument workbook (.ods)"),
            (zip("Index/Document.iwa"), "workbook", "the file is a Numbers spreadsheet"),
            (zip("word/numbering.xml"), "archive", "the file is a Word document (.docx)"),
            (zip("rows.csv"), "archive", "the file is a workbook (.xlsx, .ods) or a ZIP archive"),
            (b"\x1F\x8B\x08".to_vec(), "archive", "the file is compressed with gzip more than once"),
            (b"Rar!\x1A\x07\x01\0".to_vec(), "archive", "the file is a RAR archive (.rar)"),
            (b"7z\xBC\xAF\x27\x1C\0\x04".to_vec(), "archive", "the file is a 7-Zip archive (.7z)"),
            (at(257, b"ustar\0"), "archive", "the file is a tar archive (.tar, .tgz)"),
            (at(257, b"ustar  \0"), "archive", "the file is a tar archive (.tar, .tgz)"),
            (b"\x28\xB5\x2F\xFD\x04".to_vec(), "archive", "the file is compressed with Zstandard (.zst)"),
            (b"BZh91AY&SY".to_vec(), "archive", "the file is compressed with bzip2 (.bz2)"),
            (b"\xFD7zXZ\0\0\x04".to_vec(), "archive", "the file is compressed with xz (.xz)"),
            (b"{\"id\":1}".to_vec(), "not_csv", "the file is JSON:"),
            (b"\xEF\xBB\xBF[\r\n  {\r\n \"id\": 1}]".to_vec(), "not_csv", "the file is JSON:"),
            (b"[[\"id\"],[1]]".to_vec(), "not_csv", "the file is JSON:"),
            (b"{\"id\":1}\n{\"id\":2}\n".to_vec(), "not_csv", "the file is JSON Lines"),
            (b"{\"id\":1}\r\n{\"id\":2}\r\n".to_vec(), "not_csv", "the file is JSON Lines"),
            (b"{\\rtf1\\ansi".to_vec(), "not_csv", "the file is rich text (.rtf)"),
            (b"<Table border=1>".to_vec(), "not_csv", "the file is a web page"),
            (b"\xEF\xBB\xBF\r\n <HTML xmlns".to_vec(), "not_csv", "the file is a web page"),
            (b"<!DOCTYPE html>".to_vec(), "not_csv", "the file is a web page"),
            (b"<?xml version=\"1.0\"?>".to_vec(), "not_csv", "the file is XML"),
            (b"%PDF-1.7".to_vec(), "not_csv", "the file is a PDF"),
            (b"\x89PNG\r\n\x1A\n".to_vec(), "not_csv", "the file is a picture"),
            (b"\xFF\xD8\xFF\xE0".to_vec(), "not_csv", "the file is a picture"),
            (b"GIF89a".to_vec(), "not_csv", "the file is a picture"),
            (b"II*\0\x08\0".to_vec(), "not_csv", "the file is a picture"),
            (b"\0\0\0\x18ftypheic".to_vec(), "not_csv", "the file is a picture"),
            (b"\0\x05\x16\x07\0\x02".to_vec(), "not_csv", "the file is a helper file of a Mac"),
            (b"PAR1\x15\x04".to_vec(), "not_csv", "the file is a Parquet table"),
            (b"SQLite format 3\0".to_vec(), "not_csv", "the file is a database"),
            (b"\0\x01\0\0Standard ACE DB\0".to_vec(), "not_csv", "the file is a database"),
            (b"-- MySQL dump 10.13".to_vec(), "not_csv", "the file is a list of SQL commands"),
            (b"INSERT INTO `a`".to_vec(), "not_csv", "the file is a list of SQL commands"),
            (b"BEGIN:VCARD\r\n".to_vec(), "not_csv", "the file is a list of contacts (.vcf)"),
        ] {
            let kind = FileKind::of(&bytes).unwrap_or_else(|| panic!("{bytes:?}"));
            assert_eq!(kind.code, code, "{bytes:?}");
            assert!(kind.sentence.starts_with(sentence), "{bytes:?}: {}", kind.sentence);
        }
    }

    #[test]
    fn what_may_be_csv_is_read_as_csv() {
        for bytes in [
            &b"<id>,b"[..],
            b"PK\n1",
            b"\xEF\xBB\xBFi",
            b"id\0\0",
            b"",
            b"\"{\",b",
            b"{id},b\n",
            b"[id];b\n",
            b"[ ]\n\"a\"\n",
            b"ID;Plz;Name\n",
            b"TABLE,b\n",
            b"GIF,b\n",
            b"BM,b\n",
            b"7z,b\n",
            b"-- a,b\n",
            b"id1,ftyp\n",
            b"INSERT,b\n",
        ] {
            assert_eq!(FileKind::of(bytes), None, "{bytes:?}");
        }
    }
}
