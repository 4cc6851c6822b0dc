//! The ZIP archive that a workbook is, and which part is where.

use std::io::{Read, Seek, SeekFrom};

use quick_xml::events::Event;
use zip::ZipArchive;
use zip::read::ZipFile;
use zip::result::ZipError;

use crate::WorkbookError;
use crate::xml::{Part, attribute};

/// Bytes of an archive's directory: thousands of parts. It is read into memory.
const MOST_DIRECTORY: u64 = 2 * 1024 * 1024;

/// What a part may unpack to, however small the file is, and how many times the file's size beyond that.
const FREE_BYTES: u64 = 32 * 1024 * 1024;
const MOST_RATIO: u64 = 100;

/// Sheets of a workbook that are looked at.
const MOST_SHEETS: usize = 1000;

/// Bytes of a sheet's name and id; Excel takes 31 characters.
const LONGEST_NAME: usize = 1024;

/// What a workbook says of itself.
pub struct Workbook {
    /// The name of the sheet's part.
    pub sheet: String,
    /// Whether dates count from 1904.
    pub since_1904: bool,
}

/// The archive.
pub struct Archive<R> {
    zip: ZipArchive<R>,
    /// Bytes that a part may unpack to.
    most: u64,
}

impl<R: Read + Seek> Archive<R> {
    pub fn open(mut file: R) -> Result<Self, WorkbookError> {
        let size = file.seek(SeekFrom::End(0)).map_err(WorkbookError::Io)?;
        let mut start = [0_u8; 8];
        file.rewind().map_err(WorkbookError::Io)?;
        let read = file.read(&mut start).map_err(WorkbookError::Io)?;
        if start[..read].starts_with(&[0xD0, 0xCF, 0x11, 0xE0]) {
            // A workbook with a password is one encrypted stream in a file of the old format.
            return Err(WorkbookError::Encrypted);
        }
        check_directory(&mut file, size)?;
        let zip = ZipArchive::new(file).map_err(|error| refused(&error))?;
        let archive = Self { zip, most: FREE_BYTES.max(size.saturating_mul(MOST_RATIO)) };
        let is_macros = |name: &str| name.to_ascii_lowercase().ends_with("vbaproject.bin");
        if archive.zip.file_names().flatten().any(|name| is_macros(&name)) {
            return Err(WorkbookError::Macros);
        }
        Ok(archive)
    }

    /// A part, if there is one of that name.
    pub fn part(&mut self, name: &str) -> Result<Option<Part<ZipFile<'_, R>>>, WorkbookError> {
        let most = self.most;
        match self.zip.by_name(name) {
            Ok(file) if file.encrypted() => Err(WorkbookError::Encrypted),
            Ok(file) => Ok(Some(Part::new(file, most))),
            Err(ZipError::FileNotFound) => Ok(None),
            Err(error) => Err(refused(&error)),
        }
    }

    /// Where the sheet is: the first one, or the one of that name.
    pub fn workbook(&mut self, name: Option<&str>) -> Result<Workbook, WorkbookError> {
        let mut sheets: Vec<(String, String)> = Vec::new();
        let mut first_shown = None;
        let mut since_1904 = false;
        let other = self.other_kind();
        let mut part = self.part("xl/workbook.xml")?.ok_or(other)?;
        loop {
            match part.next()? {
                Event::Start(start) | Event::Empty(start) => match start.local_name().as_ref() {
                    b"workbookPr" => {
                        since_1904 = matches!(attribute(&start, "date1904").as_deref(), Some("1" | "true"));
                    }
                    b"sheet" if sheets.len() < MOST_SHEETS => {
                        let sheet = attribute(&start, "name").zip(attribute(&start, "id"));
                        if sheet.as_ref().is_some_and(|(name, id)| name.len() + id.len() > LONGEST_NAME) {
                            return Err(WorkbookError::TooLarge);
                        }
                        let shown = attribute(&start, "state").is_none_or(|state| state == "visible");
                        first_shown = first_shown.or(shown.then_some(sheets.len()));
                        sheets.extend(sheet);
                    }
                    _ => {}
                },
                Event::Eof => break,
                _ => {}
            }
        }
        drop(part);
        let found = match name {
            None => sheets.get(first_shown.unwrap_or(0)),
            Some(name) => sheets.iter().find(|(known, _)| known == name),
        };
        let Some((_, id)) = found else {
            return Err(name.map_or(WorkbookError::Broken("it has no sheet"), |name| {
                WorkbookError::NoSheet(name.to_owned())
            }));
        };
        let id = id.clone();
        let sheet = self.target(&id)?.ok_or(WorkbookError::Broken("its sheet is missing"))?;
        Ok(Workbook { sheet, since_1904 })
    }

    /// What an archive without a workbook is.
    fn other_kind(&self) -> WorkbookError {
        let has = |name: &str| self.zip.file_names().flatten().any(|known| known == name);
        WorkbookError::Other(if has("xl/workbook.bin") {
            "a binary workbook (.xlsb): open it in Excel and choose Save As, `Excel Workbook (.xlsx)`"
        } else if has("content.xml") {
            "an OpenDocument file (.ods): open it and choose Save As, `Excel 2007-365 (.xlsx)` or `Text CSV`"
        } else if has("Index/Document.iwa") {
            "a Numbers spreadsheet (.numbers): open it and choose File, Export To, Excel or CSV"
        } else if has("[Content_Types].xml") {
            "a document of another program than Excel: open its table in Excel and save it as .xlsx"
        } else {
            "a ZIP archive: unpack it and upload the file in it"
        })
    }

    /// The part that a relationship of the workbook leads to.
    fn target(&mut self, id: &str) -> Result<Option<String>, WorkbookError> {
        let Some(mut part) = self.part("xl/_rels/workbook.xml.rels")? else { return Ok(None) };
        loop {
            match part.next()? {
                Event::Start(start) | Event::Empty(start)
                    if attribute(&start, "Id").as_deref() == Some(id) =>
                {
                    let target = attribute(&start, "Target");
                    return Ok(target.map(|target| match target.strip_prefix('/') {
                        Some(whole) => whole.to_owned(),
                        None => format!("xl/{target}"),
                    }));
                }
                Event::Eof => return Ok(None),
                _ => {}
            }
        }
    }
}

/// The directory's size, before anybody reads it into memory.
fn check_directory<R: Read + Seek>(file: &mut R, size: u64) -> Result<(), WorkbookError> {
    const END: &[u8] = b"PK\x05\x06";
    const END_BYTES: usize = 22;
    let tail = size.min(u64::from(u16::MAX) + END_BYTES as u64);
    file.seek(SeekFrom::Start(size - tail)).map_err(WorkbookError::Io)?;
    let mut bytes = Vec::new();
    file.take(tail).read_to_end(&mut bytes).map_err(WorkbookError::Io)?;
    let at = bytes.windows(END.len()).rposition(|window| window == END);
    let end = at.and_then(|at| bytes.get(at..at + END_BYTES));
    let end = end.ok_or(WorkbookError::Broken("the end of the file is missing"))?;
    let length = u32::from_le_bytes([end[12], end[13], end[14], end[15]]);
    // Archives of the 64-bit form have all bits set here; no workbook needs one.
    if u64::from(length) > MOST_DIRECTORY { Err(WorkbookError::TooLarge) } else { Ok(()) }
}

fn refused(error: &ZipError) -> WorkbookError {
    match error {
        ZipError::Io(error) if is_outside(error) => {
            WorkbookError::Io(std::io::Error::new(error.kind(), error.to_string()))
        }
        ZipError::UnsupportedArchive(text) if text.to_ascii_lowercase().contains("password") => {
            WorkbookError::Encrypted
        }
        _ => WorkbookError::Broken("its archive cannot be read"),
    }
}

/// Whether an error is of whoever stores the file, and not of the file.
pub fn is_outside(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, NotFound, TimedOut};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | NotFound | TimedOut)
}
