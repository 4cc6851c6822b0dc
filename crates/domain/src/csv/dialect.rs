//! In which dialect a pipeline takes files: what separates columns, how characters are written, how a header is compared.

use encoding_rs::Encoding;

/// What may separate the columns of a file.
pub const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// What separates columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delimiter {
    /// This byte, one of [`DELIMITERS`].
    Is(u8),
    /// The one that the header line uses. Then a `sep=` line, line ends of a carriage return alone, Ctrl-Z at the end, and empty
    /// columns and rows at the end are taken as well.
    Auto,
}

impl Default for Delimiter {
    fn default() -> Self {
        Self::Is(b',')
    }
}

/// How characters are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Charset {
    /// UTF-8, and nothing else.
    #[default]
    Utf8,
    /// As a byte order mark says; without one UTF-8, or Windows-1252 when the file is not valid UTF-8.
    Auto,
    /// As the WHATWG Encoding Standard has it; a byte order mark takes precedence, as it does there.
    Label(&'static Encoding),
}

impl Charset {
    /// The one of that name: `auto`, or a label of the Encoding Standard.
    pub fn named(label: &str) -> Option<Self> {
        if label == "auto" {
            return Some(Self::Auto);
        }
        let found = Encoding::for_label_no_replacement(label.as_bytes())?;
        Some(if found == encoding_rs::UTF_8 { Self::Utf8 } else { Self::Label(found) })
    }

    /// Whether it is one of UTF-16's.
    pub fn is_utf16(self) -> bool {
        matches!(self, Self::Label(found) if found == encoding_rs::UTF_16LE || found == encoding_rs::UTF_16BE)
    }
}

/// What happens to columns that a pipeline does not declare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExtraColumns {
    /// The file is refused.
    #[default]
    Reject,
    /// They are left out.
    Ignore,
    /// They are stored and shown in reports; no template reads them.
    Keep,
}

/// How a header's names are compared with the pipeline's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderRules {
    /// Capital and small letters are the same.
    pub ignore_case: bool,
    /// White space around a name does not count.
    pub trim: bool,
    /// Columns that are not declared.
    pub extra_columns: ExtraColumns,
}

/// The dialect of a pipeline's files. The default is RFC 4180 in UTF-8.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dialect {
    /// Between columns.
    pub delimiter: Delimiter,
    /// Characters.
    pub charset: Charset,
    /// The header.
    pub header: HeaderRules,
    /// Whether a file may be an Excel workbook.
    pub workbook: Workbook,
    /// Whether the text was made of a sheet: each record is a line then, as it is a row there, also with line ends in its cells.
    pub of_sheet: bool,
}

/// Whether a file may be an Excel workbook (.xlsx), and which of its sheets is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Workbook {
    /// It may not.
    #[default]
    No,
    /// The first sheet.
    First,
    /// The sheet of this name.
    Named(String),
}

impl Dialect {
    /// Whether files are stored as they come: UTF-8 with commas.
    pub fn is_plain(&self) -> bool {
        self.delimiter == Delimiter::default() && self.charset == Charset::Utf8
    }

    /// What separates columns, where that is declared.
    pub fn declared_delimiter(&self) -> Option<u8> {
        match self.delimiter {
            Delimiter::Is(declared) => Some(declared),
            Delimiter::Auto => None,
        }
    }

    /// Whether reports begin with a byte order mark, without which an upload of one would be read as the pipeline's files are.
    pub fn is_marked_in_reports(&self) -> bool {
        self.charset != Charset::Utf8
    }

    /// The dialect of a workbook's rows, once they are CSV.
    pub fn of_a_workbook(&self) -> Self {
        Self { header: self.header, of_sheet: true, ..Self::default() }
    }

    /// Whether a file that begins so may be UTF-16: by its mark, where the mark decides.
    pub(super) fn takes_utf16(&self, beginning: &[u8]) -> bool {
        let marked = beginning.starts_with(&[0xFF, 0xFE]) || beginning.starts_with(&[0xFE, 0xFF]);
        self.charset.is_utf16() || (self.charset != Charset::Utf8 && marked)
    }
}

/// The grammar of one file, once its dialect is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grammar {
    /// Between columns, one of [`DELIMITERS`].
    pub delimiter: u8,
    /// Whether a carriage return alone ends a line.
    pub lone_cr: bool,
    /// Whether a record may have empty fields after those of the header.
    pub spare_fields: bool,
}

impl Default for Grammar {
    fn default() -> Self {
        Self { delimiter: b',', lone_cr: false, spare_fields: false }
    }
}

/// A delimiter's name, for a sentence.
pub(super) fn delimiter_name(delimiter: u8) -> &'static str {
    match delimiter {
        b',' => "commas",
        b';' => "semicolons",
        b'\t' => "tabs",
        _ => "vertical bars (|)",
    }
}
