//! Excel workbooks (.xlsx, ECMA-376) as CSV, row by row: a sheet is never in memory as a whole, only its shared strings are, and they
//! are bounded.
//!
//! [`convert`] walks the archive (`archive`) from part to part (`relations`), reads the styles (`styles`) and shared strings (`strings`), then the sheet (`sheet`), and shows
//! each cell as a person sees it (`show`). Every part is read through a limit (`xml`): whatever the file holds, memory and time are bounded.

mod archive;
mod relations;
mod sheet;
mod show;
mod strings;
mod styles;
mod xml;

use std::io::{Read, Seek};
use std::ops::ControlFlow;

/// Bytes of a workbook's shared strings.
pub const MOST_STRING_BYTES: usize = 64 * 1024 * 1024;

/// Why a workbook is not read. Holds nothing of its content.
#[derive(Debug, thiserror::Error)]
pub enum WorkbookError {
    /// It is no workbook, or a damaged one.
    #[error("the workbook is damaged ({0}): open it in Excel, save it again as .xlsx, and upload that")]
    Broken(&'static str),
    /// It is another kind of archive.
    #[error("the file is {0}")]
    Other(&'static str),
    /// It is protected by a password.
    #[error(
        "the workbook is protected by a password: remove it (File, Info, Protect Workbook) and save it again"
    )]
    Encrypted,
    /// It holds macros.
    #[error("the workbook holds macros (.xlsm): save it as `Excel Workbook (.xlsx)`")]
    Macros,
    /// It has no such sheet.
    #[error("the workbook has no sheet named `{0}`: rename the sheet")]
    NoSheet(String),
    /// The sheet has no value.
    #[error(
        "the sheet that is read (the first one that is not hidden, or the one that the pipeline names) is empty: move the sheet that \
         holds the rows to the first place, or the rows to that sheet"
    )]
    Empty,
    /// A formula's value is not in it.
    #[error(
        "the workbook has formulas without their results, the first in row {0}: open it in Excel, save it, and upload that"
    )]
    NotCalculated(u64),
    /// Its texts are too many.
    #[error(
        "the workbook holds more than 64 MiB of different texts: save the sheet as CSV UTF-8, or split it"
    )]
    TooManyStrings,
    /// It unpacks to far more than any table.
    #[error("the workbook unpacks to far more than its size: save the sheet as CSV UTF-8")]
    Bomb,
    /// A cell or a part of it is larger than any program writes.
    #[error("the workbook holds something larger than Excel writes: save the sheet as CSV UTF-8")]
    TooLarge,
    /// The file could not be read. Another attempt may succeed.
    #[error("the workbook could not be read: {0}")]
    Io(std::io::Error),
}

impl WorkbookError {
    /// The row of the sheet that it is about, if it is about one.
    pub const fn row(&self) -> Option<u64> {
        match self {
            Self::NotCalculated(row) => Some(*row),
            _ => None,
        }
    }

    /// From the list of a file's codes.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Broken(_) | Self::Io(_) => "broken_workbook",
            Self::Other(_) => "archive",
            Self::Encrypted => "encrypted_workbook",
            Self::Macros => "macro_workbook",
            Self::NoSheet(_) => "missing_sheet",
            Self::Empty => "header_missing",
            Self::NotCalculated(_) => "not_calculated",
            Self::TooManyStrings | Self::TooLarge => "workbook_too_large",
            Self::Bomb => "workbook_ratio",
        }
    }
}

/// Writes a sheet's rows as CSV in UTF-8 with commas, in pieces; the first sheet that is not hidden, when none is named. A row without a value is an empty line,
/// so that a record's place is its row's number in the sheet, also where cells hold line breaks. Breaks off when `take` does.
///
/// # Errors
/// When it is no workbook that can be read within the bounds.
pub fn convert<R: Read + Seek>(
    file: R,
    name: Option<&str>,
    take: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<(), WorkbookError> {
    let mut archive = archive::Archive::open(file)?;
    let workbook = archive.workbook(name)?;
    let styles = styles::read(&mut archive, &workbook.styles)?;
    let strings = strings::read(&mut archive, &workbook.strings)?;
    let show = show::Show { styles, since_1904: workbook.since_1904 };
    sheet::read(&mut archive, &workbook.sheet, &show, &strings, take)
}
