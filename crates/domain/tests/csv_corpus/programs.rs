//! Programs, by the rules that they write files by, in families.

use encoding_rs::{Encoding, MACINTOSH, SHIFT_JIS, WINDOWS_1250, WINDOWS_1251, WINDOWS_1252};

#[derive(Clone, Copy, PartialEq)]
pub enum Characters {
    Utf8 { mark: bool },
    Utf16 { big: bool },
    Other(&'static Encoding),
}

/// Which fields are put in quotes.
#[derive(Clone, Copy, PartialEq)]
pub enum Quotes {
    Needed,
    All,
}

/// A program, by the rules that it writes files by.
pub struct Program {
    pub name: &'static str,
    pub delimiter: char,
    pub characters: Characters,
    pub line_end: &'static str,
    pub quotes: Quotes,
    pub sep_line: bool,
    /// Whether the last line ends.
    pub ends: bool,
    pub ctrl_z: bool,
    /// Empty columns after the last, and empty rows after the last.
    pub spare: (usize, usize),
}

pub const USUAL: Program = Program {
    name: "",
    delimiter: ',',
    characters: Characters::Utf8 { mark: false },
    line_end: "\r\n",
    quotes: Quotes::Needed,
    sep_line: false,
    ends: true,
    ctrl_z: false,
    spare: (0, 0),
};

const MARKED: Characters = Characters::Utf8 { mark: true };
pub const ANSI: Characters = Characters::Other(WINDOWS_1252);
pub const MAC: Characters = Characters::Other(MACINTOSH);
const EASTERN: Characters = Characters::Other(WINDOWS_1250);
const CYRILLIC: Characters = Characters::Other(WINDOWS_1251);
const JAPANESE: Characters = Characters::Other(SHIFT_JIS);

impl Program {
    /// The `encoding` that a pipeline asks for to read its files: what nothing in a file shows is declared.
    pub fn encoding(&self) -> &'static str {
        match self.characters {
            Characters::Other(other) if self.characters != ANSI => other.name(),
            _ => "auto",
        }
    }
}

/// The rules are those that each program documents, or shows when it writes a file.
pub fn programs() -> Vec<Program> {
    [excel(), spreadsheets(), languages(), databases(), others()].into_iter().flatten().collect()
}

const UTF16: Characters = Characters::Utf16 { big: false };

/// Microsoft Excel.
fn excel() -> Vec<Program> {
    vec![
        Program { name: "Excel, Windows, English, CSV UTF-8", characters: MARKED, ..USUAL },
        Program { name: "Excel, Windows, German, CSV UTF-8", delimiter: ';', characters: MARKED, ..USUAL },
        Program { name: "Excel, Windows, English, CSV", characters: ANSI, ..USUAL },
        Program { name: "Excel, Windows, German, CSV", delimiter: ';', characters: ANSI, ..USUAL },
        Program {
            name: "Excel, Windows, French, CSV, empty columns",
            delimiter: ';',
            characters: ANSI,
            spare: (3, 0),
            ..USUAL
        },
        Program {
            name: "Excel, Windows, Italian, CSV, empty rows",
            delimiter: ';',
            characters: ANSI,
            spare: (0, 4),
            ..USUAL
        },
        Program {
            name: "Excel, Windows, Dutch, CSV, both",
            delimiter: ';',
            characters: ANSI,
            spare: (2, 3),
            ..USUAL
        },
        Program { name: "Excel, Windows, Unicode Text", delimiter: '\t', characters: UTF16, ..USUAL },
        Program { name: "Excel, Windows, Text", delimiter: '\t', characters: ANSI, ..USUAL },
        Program { name: "Excel, Mac, CSV (Macintosh)", characters: MAC, line_end: "\r", ..USUAL },
        Program {
            name: "Excel, Mac, German, CSV (Macintosh)",
            delimiter: ';',
            characters: MAC,
            line_end: "\r",
            ..USUAL
        },
        Program { name: "Excel, Windows, Polish, CSV", delimiter: ';', characters: EASTERN, ..USUAL },
        Program { name: "Excel, Windows, Czech, Text", delimiter: '\t', characters: EASTERN, ..USUAL },
        Program { name: "Excel, Windows, Russian, CSV", delimiter: ';', characters: CYRILLIC, ..USUAL },
        Program { name: "Excel, Windows, Japanese, CSV", characters: JAPANESE, ..USUAL },
        Program { name: "Excel, Windows, Japanese, Text", delimiter: '\t', characters: JAPANESE, ..USUAL },
        Program { name: "Excel, Mac, CSV UTF-8", characters: MARKED, ends: false, ..USUAL },
        Program { name: "Excel, Windows, MS-DOS", delimiter: ';', characters: ANSI, ctrl_z: true, ..USUAL },
    ]
}

/// Numbers, Google Sheets and LibreOffice.
fn spreadsheets() -> Vec<Program> {
    vec![
        Program { name: "Numbers, CSV", line_end: "\n", ends: false, ..USUAL },
        Program { name: "Numbers, German, CSV", delimiter: ';', line_end: "\n", ends: false, ..USUAL },
        Program { name: "Google Sheets", ends: false, ..USUAL },
        Program { name: "Google Sheets, TSV", delimiter: '\t', ends: false, ..USUAL },
        Program { name: "LibreOffice", line_end: "\n", ..USUAL },
        Program {
            name: "LibreOffice, all quoted, semicolons",
            delimiter: ';',
            line_end: "\n",
            quotes: Quotes::All,
            ..USUAL
        },
        Program { name: "LibreOffice, bars", delimiter: '|', line_end: "\n", ..USUAL },
        Program { name: "LibreOffice, UTF-16", delimiter: ';', characters: UTF16, line_end: "\n", ..USUAL },
    ]
}

/// What programmers and administrators export with.
fn languages() -> Vec<Program> {
    vec![
        Program { name: "pandas.to_csv", line_end: "\n", ..USUAL },
        Program {
            name: "pandas.to_csv(sep=';', encoding='cp1252')",
            delimiter: ';',
            characters: ANSI,
            line_end: "\n",
            ..USUAL
        },
        Program { name: "pandas.to_csv(quoting=QUOTE_ALL)", quotes: Quotes::All, line_end: "\n", ..USUAL },
        Program { name: "R, write.csv", quotes: Quotes::All, line_end: "\n", ..USUAL },
        Program { name: "R, write.csv2", delimiter: ';', quotes: Quotes::All, line_end: "\n", ..USUAL },
        Program {
            name: "PowerShell 5, Export-Csv -Encoding Unicode",
            characters: UTF16,
            quotes: Quotes::All,
            ..USUAL
        },
        Program {
            name: "PowerShell 7, Export-Csv -UseCulture",
            delimiter: ';',
            quotes: Quotes::All,
            ..USUAL
        },
    ]
}

/// SAP and databases.
fn databases() -> Vec<Program> {
    vec![
        Program { name: "SAP, list to file", delimiter: '\t', characters: ANSI, spare: (1, 0), ..USUAL },
        Program {
            name: "SAP, UTF-16 big-endian",
            delimiter: ';',
            characters: Characters::Utf16 { big: true },
            ..USUAL
        },
        Program { name: "MySQL Workbench", delimiter: ';', line_end: "\n", quotes: Quotes::All, ..USUAL },
        Program { name: "phpMyAdmin", quotes: Quotes::All, line_end: "\n", ends: false, ..USUAL },
        Program { name: "phpMyAdmin, CSV for MS Excel", delimiter: ';', quotes: Quotes::All, ..USUAL },
    ]
}

/// Web programs, and what is left of DOS.
fn others() -> Vec<Program> {
    vec![
        Program {
            name: "a web shop, with a sep= line",
            delimiter: ';',
            characters: ANSI,
            sep_line: true,
            ..USUAL
        },
        Program { name: "a CRM, with a sep= line of a comma", sep_line: true, ..USUAL },
        Program { name: "DOS, Ctrl-Z", line_end: "\r\n", ctrl_z: true, ..USUAL },
        Program { name: "dBASE, tabs, Ctrl-Z", delimiter: '\t', characters: ANSI, ctrl_z: true, ..USUAL },
    ]
}
