//! The ZIP archive that a workbook is, and which part is where.

use std::io::{Error, ErrorKind, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_xml::events::Event;
use zip::ZipArchive;
use zip::read::ZipFile;
use zip::result::ZipError;

use crate::WorkbookError;
use crate::relations;
use crate::xml::{Part, attribute};

/// Bytes of an archive's directory: thousands of parts. It is read into memory.
const MOST_DIRECTORY: u64 = 1024 * 1024;

/// Bytes that are read to find the directory and in it: what the archive says of its size binds nobody who reads it.
const MOST_READ: u64 = MOST_DIRECTORY + 256 * 1024;

/// What a part may unpack to, however small the file is, and how many times the file's size beyond that.
const FREE_BYTES: u64 = 32 * 1024 * 1024;
const MOST_RATIO: u64 = 100;

/// Sheets of a workbook that are looked at.
const MOST_SHEETS: usize = 1000;

/// Bytes of a sheet's name and id; Excel takes 31 characters.
const LONGEST_NAME: usize = 1024;

/// Where a workbook has what is read, by the names of its parts.
pub struct Workbook {
    pub sheet: String,
    pub strings: String,
    pub styles: String,
    /// Whether dates count from 1904.
    pub since_1904: bool,
}

/// A sheet as the workbook lists it.
struct Sheet {
    name: String,
    id: String,
    is_hidden: bool,
}

/// The archive.
pub struct Archive<R> {
    zip: ZipArchive<Metered<R>>,
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
            return Err(WorkbookError::Other(
                "an old workbook (.xls), or one with a password: open it in Excel, take the password off if it has one, and choose Save As, \
                 `Excel Workbook (.xlsx)`",
            ));
        }
        check_directory(&mut file, size)?;
        let left = Arc::new(AtomicU64::new(MOST_READ));
        let zip = ZipArchive::new(Metered { file, left: left.clone() }).map_err(|error| refused(&error))?;
        // From now on each part has its own bound.
        left.store(u64::MAX, Ordering::Relaxed);
        let archive = Self { zip, most: FREE_BYTES.max(size.saturating_mul(MOST_RATIO)) };
        // Programs of today, and sheets of Excel 4's.
        let is_macros = |name: &str| {
            let name = name.to_ascii_lowercase().replace('\\', "/");
            name.ends_with("vbaproject.bin") || name.starts_with("xl/macrosheets/")
        };
        if archive.zip.file_names().flatten().any(|name| is_macros(&name)) {
            return Err(WorkbookError::Macros);
        }
        Ok(archive)
    }

    /// A part, if there is one of that name; capital and small letters are the same (ECMA-376-2, 6.2.2.3), and some programs write
    /// backslashes.
    pub fn part(&mut self, name: &str) -> Result<Option<Part<ZipFile<'_, Metered<R>>>>, WorkbookError> {
        let most = self.most;
        let same = |known: &str| known.replace('\\', "/").eq_ignore_ascii_case(name);
        let exact = self.zip.index_for_name(name);
        let Some(at) =
            exact.or_else(|| self.zip.file_names().position(|known| known.is_ok_and(|known| same(&known))))
        else {
            return Ok(None);
        };
        match self.zip.by_index(at) {
            Ok(file) if file.encrypted() => Err(WorkbookError::Encrypted),
            Ok(file) => Ok(Some(Part::new(file, most))),
            Err(error) => Err(refused(&error)),
        }
    }

    /// Where the sheet is: the first one, or the one of that name.
    pub fn workbook(&mut self, name: Option<&str>) -> Result<Workbook, WorkbookError> {
        let packages = relations::read(self, "")?;
        let main = relations::target_of(&packages, "officeDocument").unwrap_or("xl/workbook.xml").to_owned();
        let (sheets, since_1904) = self.sheets(&main)?;
        let parts = relations::read(self, &main)?;
        let sheet = match name {
            // Sheets of charts have no cells.
            None => {
                let rows = |sheet: &&Sheet| {
                    !relations::is_of_kind(&parts, &sheet.id, &["chartsheet", "dialogsheet"])
                };
                let shown = sheets.iter().find(|sheet| !sheet.is_hidden && rows(sheet));
                shown.or_else(|| sheets.iter().find(rows)).ok_or(WorkbookError::Broken("it has no sheet"))?
            }
            Some(name) => find(&sheets, name).ok_or_else(|| WorkbookError::NoSheet(name.to_owned()))?,
        };
        let path = parts.iter().find(|part| part.id == sheet.id).map(|part| part.target.clone());
        let folder = main.rsplit_once('/').map_or("", |(folder, _)| folder);
        let usual = |kind: &str| {
            let known = relations::target_of(&parts, kind);
            known.map_or_else(|| relations::resolve(folder, &format!("{kind}.xml")), str::to_owned)
        };
        Ok(Workbook {
            sheet: path.ok_or(WorkbookError::Broken("its sheet is missing"))?,
            strings: usual("sharedStrings"),
            styles: usual("styles"),
            since_1904,
        })
    }

    /// The sheets that the main part lists, and whether dates count from 1904.
    fn sheets(&mut self, main: &str) -> Result<(Vec<Sheet>, bool), WorkbookError> {
        let (mut sheets, mut since_1904, mut is_workbook) = (Vec::new(), false, false);
        let other = self.other_kind(main);
        let Some(mut part) = self.part(main)?.filter(|_| !main.ends_with(".bin")) else { return Err(other) };
        loop {
            match part.next()? {
                Event::Start(start) | Event::Empty(start) => match start.local_name().as_ref() {
                    b"workbook" => is_workbook = true,
                    _ if !is_workbook => return Err(other),
                    b"workbookPr" => {
                        since_1904 = matches!(attribute(&start, "date1904").as_deref(), Some("1" | "true"));
                    }
                    b"sheet" if sheets.len() < MOST_SHEETS => {
                        let Some((name, id)) = attribute(&start, "name").zip(attribute(&start, "id")) else {
                            continue;
                        };
                        if name.len() + id.len() > LONGEST_NAME {
                            return Err(WorkbookError::TooLarge);
                        }
                        let is_hidden = attribute(&start, "state").is_some_and(|state| state != "visible");
                        sheets.push(Sheet { name, id, is_hidden });
                    }
                    _ => {}
                },
                Event::Eof => return Ok((sheets, since_1904)),
                _ => {}
            }
        }
    }

    /// What an archive without a workbook is.
    fn other_kind(&self, main: &str) -> WorkbookError {
        let has = |name: &str| self.zip.file_names().flatten().any(|known| known == name);
        WorkbookError::Other(if main.ends_with(".bin") || has("xl/workbook.bin") {
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
}

/// The sheet of a name; no two of them differ only in capital letters, and blanks at the ends are not seen.
fn find<'a>(sheets: &'a [Sheet], name: &str) -> Option<&'a Sheet> {
    let folded = |name: &str| name.trim().to_lowercase();
    let exact = sheets.iter().find(|sheet| sheet.name == name);
    exact.or_else(|| sheets.iter().find(|sheet| folded(&sheet.name) == folded(name)))
}

/// The directory's size as the file says it.
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
    if u64::from(length) > MOST_DIRECTORY { Err(WorkbookError::TooLarge) } else { Ok(()) }
}

/// A file of which so many bytes may be read.
pub struct Metered<R> {
    file: R,
    left: Arc<AtomicU64>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read(buffer)?;
        let left = self.left.load(Ordering::Relaxed);
        if left == u64::MAX {
            return Ok(read);
        }
        let left = left.checked_sub(read as u64).ok_or_else(|| Error::from(ErrorKind::QuotaExceeded))?;
        self.left.store(left, Ordering::Relaxed);
        Ok(read)
    }
}

impl<R: Seek> Seek for Metered<R> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.file.seek(to)
    }
}

fn refused(error: &ZipError) -> WorkbookError {
    match error {
        ZipError::Io(error) if error.kind() == ErrorKind::QuotaExceeded => WorkbookError::TooLarge,
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
