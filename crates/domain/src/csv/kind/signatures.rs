//! How each kind of file begins, and what its sentence is.

use super::FileKind;

/// Bytes before the name of a ZIP archive's first file.
pub(super) const ZIP_HEAD: usize = 30;

const fn kind(code: &'static str, sentence: &'static str) -> FileKind {
    FileKind { code, sentence }
}

impl FileKind {
    pub const UTF32: Self = kind(
        "nul_byte",
        "the file is UTF-32, which no spreadsheet writes by itself: save it as CSV in UTF-8 from the program that it comes from",
    );
    // `encoding: auto` goes by the mark, so it does not help here.
    pub const UTF16_LITTLE: Self = kind(
        "nul_byte",
        "the file is UTF-16 without a byte order mark: open it in Excel (Data, From Text/CSV, File Origin 1200: Unicode), choose Save \
         As, `CSV UTF-8 (Comma delimited)`, or ask for `encoding: utf-16le`",
    );
    pub const UTF16_BIG: Self = kind(
        "nul_byte",
        "the file is UTF-16 without a byte order mark: open it in Excel (Data, From Text/CSV, File Origin 1201: Unicode (Big-Endian)), \
         choose Save As, `CSV UTF-8 (Comma delimited)`, or ask for `encoding: utf-16be`",
    );
    // All of it is letters with a NUL byte between them.
    pub const UTF16: Self = kind(
        "nul_byte",
        "the file is UTF-16, which Excel calls `Unicode Text`: choose Save As, `CSV UTF-8 (Comma delimited)`, or ask for `encoding: \
         auto`",
    );
    pub const JSON: Self = kind(
        "not_csv",
        "the file is JSON: open it in Excel (Data, Get Data, From File, From JSON), load the table, and choose Save As, `CSV UTF-8 \
         (Comma delimited)`",
    );
    pub const JSON_LINES: Self = kind(
        "not_csv",
        "the file is JSON Lines, an object in each line: export the table as CSV in UTF-8 from the program that it comes from",
    );
    const EXCEL: Self = kind(
        "workbook",
        "the file is an Excel workbook (.xlsx), also when its name ends in .csv: open it in Excel and choose Save As, `CSV UTF-8 \
         (Comma delimited)`, or ask for `formats: [csv, xlsx]`",
    );
    pub const OLD_EXCEL: Self = kind(
        "workbook",
        "the file is an old workbook (.xls), or a workbook with a password: open it in Excel, take the password off if it has one \
         (File, Info, Protect Workbook), and choose Save As, `CSV UTF-8 (Comma delimited)`, or `Excel Workbook (.xlsx)` where the \
         pipeline takes workbooks",
    );
    pub const ENCRYPTED: Self = kind(
        "encrypted_workbook",
        "the file is a workbook with a password: open it in Excel, choose File, Info, Protect Workbook, Encrypt with Password, empty the \
         field, and choose Save As, `CSV UTF-8 (Comma delimited)`, or save it as it is where the pipeline takes workbooks",
    );
    const SYLK: Self = kind(
        "workbook",
        "the file is a SYLK table (.slk): open it in Excel and choose Save As, `CSV UTF-8 (Comma delimited)`",
    );
    const DIF: Self = kind(
        "workbook",
        "the file is a DIF table (.dif): open it in Excel and choose Save As, `CSV UTF-8 (Comma delimited)`",
    );
    const OPEN_DOCUMENT: Self = kind(
        "workbook",
        "the file is an OpenDocument workbook (.ods): open it and choose Save As, `Text CSV`, character set Unicode (UTF-8), \
         separator comma",
    );
    const NUMBERS: Self = kind(
        "workbook",
        "the file is a Numbers spreadsheet (.numbers): open it and choose File, Export To, CSV, with Unicode (UTF-8) under Advanced \
         Options",
    );
    const WORD: Self = kind(
        "archive",
        "the file is a Word document (.docx): copy its table into an empty Excel sheet and choose Save As, `CSV UTF-8 (Comma \
         delimited)`",
    );
    const ZIP: Self = kind(
        "archive",
        "the file is a workbook (.xlsx, .ods) or a ZIP archive: save the sheet as CSV in UTF-8, or unpack the archive and upload the \
         file in it",
    );
    const GZIP: Self = kind(
        "archive",
        "the file is compressed with gzip more than once: unpack it once before you upload it",
    );
    const RAR: Self = kind(
        "archive",
        "the file is a RAR archive (.rar): unpack it (with WinRAR: right-click, Extract Here) and upload the CSV file in it",
    );
    const SEVEN_ZIP: Self = kind(
        "archive",
        "the file is a 7-Zip archive (.7z): unpack it (with 7-Zip: right-click, Extract Here) and upload the CSV file in it",
    );
    const TAR: Self = kind(
        "archive",
        "the file is a tar archive (.tar, .tgz): unpack it (right-click, Extract, or `tar -xf`) and upload the CSV file in it",
    );
    const ZSTD: Self = kind(
        "archive",
        "the file is compressed with Zstandard (.zst): unpack it with `unzstd` or 7-Zip and upload the file in it; of compressed \
         files only gzip (.gz) is read",
    );
    const BZIP2: Self = kind(
        "archive",
        "the file is compressed with bzip2 (.bz2): unpack it with `bunzip2` or 7-Zip and upload the file in it; of compressed files \
         only gzip (.gz) is read",
    );
    const XZ: Self = kind(
        "archive",
        "the file is compressed with xz (.xz): unpack it with `unxz` or 7-Zip and upload the file in it; of compressed files only \
         gzip (.gz) is read",
    );
    const RTF: Self = kind(
        "not_csv",
        "the file is rich text (.rtf): open it in TextEdit or WordPad and save it as plain text in UTF-8 (TextEdit: Format, Make Plain \
         Text)",
    );
    const HTML: Self = kind(
        "not_csv",
        "the file is a web page, also when its name ends in .csv or .xls: open it in Excel and choose Save As, `CSV UTF-8 (Comma \
         delimited)`; if it shows a sign-in or an error, download the file again",
    );
    const XML: Self = kind(
        "not_csv",
        "the file is XML, also when its name ends in .csv or .xls: open it in Excel as a table and choose Save As, `CSV UTF-8 (Comma \
         delimited)`",
    );
    const PDF: Self = kind(
        "not_csv",
        "the file is a PDF: export the table as CSV in UTF-8 from the program that it comes from",
    );
    const PICTURE: Self = kind(
        "not_csv",
        "the file is a picture or a film: export the table as CSV in UTF-8 from the program that it comes from",
    );
    const MAC: Self = kind(
        "not_csv",
        "the file is a helper file of a Mac, whose name begins with `._`: upload the file of the same name without these two characters",
    );
    const PARQUET: Self = kind(
        "not_csv",
        "the file is a Parquet table: export it as CSV in UTF-8 (in pandas: `read_parquet(…).to_csv(…, index=False)`)",
    );
    const DATABASE: Self = kind(
        "not_csv",
        "the file is a database (SQLite or Access): open it in its program and export the table as CSV in UTF-8",
    );
    const SQL: Self = kind(
        "not_csv",
        "the file is a list of SQL commands: export the table again and choose the format CSV with the names of the columns in the \
         first row",
    );
    const CONTACTS: Self = kind(
        "not_csv",
        "the file is a list of contacts (.vcf): export the contacts as CSV from the program that they come from",
    );
}

/// Where bytes stand that no CSV file has there.
const BY_BYTES: &[(usize, &[u8], FileKind)] = &[
    (0, b"\xD0\xCF\x11\xE0", FileKind::OLD_EXCEL),
    // Workbooks before Excel 97 are no compound files: a record that names their version comes first.
    (0, b"\x09\x08\x10\0", FileKind::OLD_EXCEL),
    (0, b"\x09\x08\x08\0", FileKind::OLD_EXCEL),
    (0, b"\x09\x04\x06\0", FileKind::OLD_EXCEL),
    (0, b"\x09\x02\x06\0", FileKind::OLD_EXCEL),
    (0, b"\x09\0\x04\0", FileKind::OLD_EXCEL),
    // `ID;P` alone may be the header of somebody who has postcodes.
    (0, b"ID;PWXL", FileKind::SYLK),
    (0, b"ID;PCALCOOO", FileKind::SYLK),
    (0, b"TABLE\r\n0,1\r\n", FileKind::DIF),
    (0, b"TABLE\n0,1\n", FileKind::DIF),
    (0, b"\x1F\x8B", FileKind::GZIP),
    (0, b"Rar!\x1A\x07", FileKind::RAR),
    (0, b"7z\xBC\xAF\x27\x1C", FileKind::SEVEN_ZIP),
    // With what follows it: words such as `gustar` have these letters too.
    (257, b"ustar\0", FileKind::TAR),
    (257, b"ustar  \0", FileKind::TAR),
    (0, b"\x28\xB5\x2F\xFD", FileKind::ZSTD),
    (4, b"1AY&SY", FileKind::BZIP2),
    (0, b"\xFD7zXZ\0", FileKind::XZ),
    (0, b"{\\rtf", FileKind::RTF),
    (0, b"%PDF-", FileKind::PDF),
    (0, b"\x89PNG\r\n", FileKind::PICTURE),
    (0, b"\xFF\xD8\xFF", FileKind::PICTURE),
    (0, b"GIF87a", FileKind::PICTURE),
    (0, b"GIF89a", FileKind::PICTURE),
    (0, b"II*\0", FileKind::PICTURE),
    (0, b"MM\0*", FileKind::PICTURE),
    (0, b"\0\0\0\x14ftyp", FileKind::PICTURE),
    (0, b"\0\0\0\x18ftyp", FileKind::PICTURE),
    (0, b"\0\0\0\x1Cftyp", FileKind::PICTURE),
    (0, b"\0\0\0\x20ftyp", FileKind::PICTURE),
    (0, b"\0\0\0\x24ftyp", FileKind::PICTURE),
    (8, b"WEBPVP8", FileKind::PICTURE),
    (6, b"\0\0\0\0\x36\0\0\0\x28\0\0\0", FileKind::PICTURE),
    (0, b"\0\x05\x16\x07", FileKind::MAC),
    (0, b"PAR1", FileKind::PARQUET),
    (0, b"SQLite format 3\0", FileKind::DATABASE),
    (4, b"Standard Jet DB\0", FileKind::DATABASE),
    (4, b"Standard ACE DB\0", FileKind::DATABASE),
    (0, b"PK\x05\x06", FileKind::ZIP),
];

/// How text begins that is no table, in capital or small letters.
const BY_TEXT: &[(&str, FileKind)] = &[
    ("<html", FileKind::HTML),
    ("<head", FileKind::HTML),
    ("<meta", FileKind::HTML),
    ("<table", FileKind::HTML),
    ("<!doctype", FileKind::HTML),
    ("<?xml", FileKind::XML),
    ("-- MySQL dump", FileKind::SQL),
    ("-- MariaDB dump", FileKind::SQL),
    ("-- phpMyAdmin SQL", FileKind::SQL),
    ("--\n-- PostgreSQL", FileKind::SQL),
    ("INSERT INTO ", FileKind::SQL),
    ("CREATE TABLE ", FileKind::SQL),
    ("BEGIN:VCARD\r", FileKind::CONTACTS),
    ("BEGIN:VCARD\n", FileKind::CONTACTS),
];

/// The first file of a ZIP archive.
const BY_FIRST_FILE: &[(&str, FileKind)] = &[
    ("[Content_Types]", FileKind::EXCEL),
    ("xl/", FileKind::EXCEL),
    ("_rels/", FileKind::EXCEL),
    ("docProps/", FileKind::EXCEL),
    ("mimetype", FileKind::OPEN_DOCUMENT),
    ("Index/", FileKind::NUMBERS),
    ("preview.jpg", FileKind::NUMBERS),
    ("Metadata/", FileKind::NUMBERS),
    ("word/", FileKind::WORD),
];

pub(super) fn by_bytes(beginning: &[u8]) -> Option<FileKind> {
    if beginning.starts_with(b"PK\x03\x04") {
        let name = beginning.get(ZIP_HEAD..).unwrap_or_default();
        let found = BY_FIRST_FILE.iter().find(|(start, _)| name.starts_with(start.as_bytes()));
        return Some(found.map_or(FileKind::ZIP, |(_, kind)| *kind));
    }
    let is_there =
        |at: &usize, bytes: &[u8]| beginning.get(*at..).is_some_and(|rest| rest.starts_with(bytes));
    BY_BYTES.iter().find(|(at, bytes, _)| is_there(at, bytes)).map(|(.., kind)| *kind)
}

pub(super) fn by_text(text: &[u8]) -> Option<FileKind> {
    let starts = |start: &str| {
        text.get(..start.len()).is_some_and(|begins| begins.eq_ignore_ascii_case(start.as_bytes()))
    };
    BY_TEXT.iter().find(|(start, _)| starts(start)).map(|(_, kind)| *kind)
}
