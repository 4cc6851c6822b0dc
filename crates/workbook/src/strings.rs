//! Texts that cells share.

use std::io::{Read, Seek};

use quick_xml::events::Event;

use crate::archive::Archive;
use crate::xml::append;
use crate::{MOST_STRING_BYTES, WorkbookError};

/// All texts one after the other, and where each ends.
#[derive(Default)]
pub struct Strings {
    text: String,
    ends: Vec<u32>,
}

impl Strings {
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)? as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        self.text.get(start..end)
    }

    fn end(&mut self, item: &str) -> Result<(), WorkbookError> {
        let bytes = self.text.len() + item.len() + (self.ends.len() + 1) * size_of::<u32>();
        if bytes > MOST_STRING_BYTES {
            return Err(WorkbookError::TooManyStrings);
        }
        self.text.push_str(item);
        self.ends.push(u32::try_from(self.text.len()).map_err(|_| WorkbookError::TooManyStrings)?);
        Ok(())
    }
}

/// Reads them; a workbook may have none.
pub fn read<R: Read + Seek>(archive: &mut Archive<R>, name: &str) -> Result<Strings, WorkbookError> {
    let mut strings = Strings::default();
    let Some(mut part) = archive.part(name)? else { return Ok(strings) };
    let mut item = String::new();
    // Within an item's text, and not within how it is pronounced.
    let (mut in_text, mut phonetic) = (false, false);
    loop {
        let event = part.next()?;
        match &event {
            Event::Start(start) => match start.local_name().as_ref() {
                b"si" => item.clear(),
                b"t" => in_text = true,
                b"rPh" => phonetic = true,
                _ => {}
            },
            Event::Empty(start) if start.local_name().as_ref() == b"si" => strings.end("")?,
            Event::End(end) => match end.local_name().as_ref() {
                b"si" => strings.end(&item)?,
                b"t" => in_text = false,
                b"rPh" => phonetic = false,
                _ => {}
            },
            Event::Eof => return Ok(strings),
            _ if in_text && !phonetic => append(&event, &mut item)?,
            _ => {}
        }
    }
}
