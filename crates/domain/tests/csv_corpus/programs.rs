//! Programs that write files, by the rules that each documents, or shows when it writes one.

use encoding_rs::{Encoding, WINDOWS_1252};

/// How characters are written.
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

pub const MARKED: Characters = Characters::Utf8 { mark: true };
pub const ANSI: Characters = Characters::Other(WINDOWS_1252);

/// The rules are those that each program documents, or shows when it writes a file.
pub fn programs() -> Vec<Program> {
    let utf16 = Characters::Utf16 { big: false };
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
        Program { name: "Excel, Windows, Unicode Text", delimiter: '\t', characters: utf16, ..USUAL },
        Program { name: "Excel, Windows, Text", delimiter: '\t', characters: ANSI, ..USUAL },
        Program { name: "Excel, Mac, CSV (Macintosh)", characters: ANSI, line_end: "\r", ..USUAL },
        Program {
            name: "Excel, Mac, German, CSV (Macintosh)",
            delimiter: ';',
            characters: ANSI,
            line_end: "\r",
            ..USUAL
        },
        Program { name: "Excel, Mac, CSV UTF-8", characters: MARKED, ends: false, ..USUAL },
        Program { name: "Excel, Windows, MS-DOS", delimiter: ';', characters: ANSI, ctrl_z: true, ..USUAL },
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
        Program { name: "LibreOffice, UTF-16", delimiter: ';', characters: utf16, line_end: "\n", ..USUAL },
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
            characters: utf16,
            quotes: Quotes::All,
            ..USUAL
        },
        Program {
            name: "PowerShell 7, Export-Csv -UseCulture",
            delimiter: ';',
            quotes: Quotes::All,
            ..USUAL
        },
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

/// A header in a client's words, and rows; some with characters that only some encodings have.
pub struct Table {
    pub header: [&'static str; 3],
    /// Whether strict reading takes the header as it is.
    pub own: bool,
    pub rows: Vec<[&'static str; 3]>,
    pub beyond_ascii: bool,
    /// Whether the header has a column that the pipeline does not have.
    pub extra: bool,
}

pub fn tables() -> Vec<Table> {
    let own = ["email", "name", "amount"];
    let plain = |rows: Vec<[&'static str; 3]>| Table {
        header: own,
        own: true,
        rows,
        beyond_ascii: false,
        extra: false,
    };
    let german = |rows| Table { beyond_ascii: true, ..plain(rows) };
    vec![
        plain(vec![["a@b.co", "Ann", "1"], ["c@d.co", "Bob", "2"]]),
        plain(vec![["a@b.co", "Smith, Ann; Bob | Co\t!", "1.50"], ["c@d.co", "says \"no\"", "007"]]),
        plain(vec![["a@b.co", "two\nlines", "1"], ["c@d.co", "", ""], ["e@f.co", "x", "3"]]),
        german(vec![["a@b.co", "Jörg Müßig", "1,50"], ["c@d.co", "Zoë Œuvre", "2 €"]]),
        german(vec![["a@b.co", "naïve\ncafé", "1"], ["c@d.co", "“quoted”", "'=1+1"]]),
        Table {
            header: ["E-Mail", "NAME", " Amount "], own: false, ..german(vec![["a@b.co", "José", "1"]])
        },
        Table { header: ["Email", "name", "amount"], own: false, ..plain(vec![["a@b.co", "Ann", "1"]]) },
        Table {
            header: ["email", "name", "colour"],
            own: false,
            extra: true,
            ..plain(vec![["a@b.co", "Ann", "red"]])
        },
        plain(vec![["a@b.co", " spaces stay ", "1"], ["c@d.co", "trailing\\", "2"]]),
    ]
}

fn field(text: &str, program: &Program) -> String {
    let needed = text.contains(['"', '\n', '\r', program.delimiter]) || program.quotes == Quotes::All;
    if needed { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

/// The file, and the line where each row starts.
pub fn write(program: &Program, table: &Table) -> (Vec<u8>, Vec<u64>) {
    let mut text = String::new();
    let delimiter = program.delimiter.to_string();
    if program.sep_line {
        text.push_str(&format!("sep={delimiter}{}", program.line_end));
    }
    let mut starts = Vec::new();
    let lines = |text: &str| 1 + text.replace("\r\n", "\n").matches(['\r', '\n']).count() as u64;
    let (columns, rows) = program.spare;
    for (index, record) in std::iter::once(&table.header).chain(&table.rows).enumerate() {
        if index > 0 {
            starts.push(lines(&text));
        }
        let fields: Vec<String> = record.iter().map(|value| field(value, program)).collect();
        text.push_str(&fields.join(&delimiter));
        text.push_str(&delimiter.repeat(columns));
        if index < table.rows.len() || program.ends {
            text.push_str(program.line_end);
        }
    }
    for _ in 0..rows {
        text.push_str(&delimiter.repeat(2 + columns));
        text.push_str(program.line_end);
    }
    let mut bytes = match program.characters {
        Characters::Utf8 { mark: false } => text.into_bytes(),
        Characters::Utf8 { mark: true } => [b"\xEF\xBB\xBF".as_slice(), text.as_bytes()].concat(),
        Characters::Utf16 { big } => {
            let mut units = vec![0xFEFF];
            units.extend(text.encode_utf16());
            units
                .into_iter()
                .flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() })
                .collect()
        }
        Characters::Other(encoding) => {
            let (bytes, _, unmappable) = encoding.encode(&text);
            assert!(!unmappable, "{}: {text}", program.name);
            bytes.into_owned()
        }
    };
    if program.ctrl_z {
        bytes.push(0x1A);
    }
    (bytes, starts)
}
