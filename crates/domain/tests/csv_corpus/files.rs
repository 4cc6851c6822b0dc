//! Tables, and the files that programs make of them.

use super::programs::{Characters, Program, Quotes};

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
    let beyond = |rows| Table { beyond_ascii: true, ..plain(rows) };
    vec![
        plain(vec![["a@b.co", "Ann", "1"], ["c@d.co", "Bob", "2"]]),
        plain(vec![["a@b.co", "Smith, Ann; Bob | Co\t!", "1.50"], ["c@d.co", "says \"no\"", "007"]]),
        plain(vec![["a@b.co", "two\nlines", "1"], ["c@d.co", "", ""], ["e@f.co", "x", "3"]]),
        beyond(vec![["a@b.co", "Jörg Müßig", "1,50"], ["c@d.co", "Zoë Œuvre", "2 €"]]),
        beyond(vec![["a@b.co", "naïve\ncafé", "1"], ["c@d.co", "“quoted”", "'=1+1"]]),
        Table {
            header: ["E-Mail", "NAME", " Amount "], own: false, ..beyond(vec![["a@b.co", "José", "1"]])
        },
        Table { header: ["Email", "name", "amount"], own: false, ..plain(vec![["a@b.co", "Ann", "1"]]) },
        Table {
            header: ["email", "name", "colour"],
            own: false,
            extra: true,
            ..plain(vec![["a@b.co", "Ann", "red"]])
        },
        beyond(vec![["a@b.co", "Łukasz Żółć", "1"], ["c@d.co", "Příliš\nžluťoučký; kůň", "2"]]),
        beyond(vec![["a@b.co", "Щукин, Ёж №5", "1"], ["c@d.co", "«Ы»", "2"]]),
        beyond(vec![["a@b.co", "表示ソ能, 十|予", "1"], ["c@d.co", "ﾃｽﾄ\n試験", "２"]]),
        plain(vec![["a@b.co", " spaces stay ", "1"], ["c@d.co", "trailing\\", "2"]]),
    ]
}

/// Whether a program's encoding has all of a table's letters: what it has not, the program does not write.
pub fn can_write(program: &Program, table: &Table) -> bool {
    let Characters::Other(encoding) = program.characters else { return true };
    table.rows.iter().flatten().chain(&table.header).all(|text| !encoding.encode(text).2)
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
