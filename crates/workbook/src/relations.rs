//! Which part leads to which (ECMA-376-2, 6.5): the archive to the workbook, and the workbook to its sheets, texts and styles.

use std::io::{Read, Seek};

use quick_xml::events::Event;

use crate::WorkbookError;
use crate::archive::Archive;
use crate::xml::attribute;

/// Relations of a part that are looked at, and bytes of one.
const MOST: usize = 4096;
const LONGEST: usize = 1024;

/// One part that another leads to.
pub struct Relation {
    pub id: String,
    /// The last word of its type: the rest differs between the transitional and the strict form of the standard.
    kind: String,
    /// The part's name.
    pub target: String,
}

/// The relations of a part, or of the archive as a whole when none is named; there may be none.
pub fn read<R: Read + Seek>(archive: &mut Archive<R>, of: &str) -> Result<Vec<Relation>, WorkbookError> {
    let (folder, name) = of.rsplit_once('/').unwrap_or(("", of));
    let path =
        if folder.is_empty() { format!("_rels/{name}.rels") } else { format!("{folder}/_rels/{name}.rels") };
    let mut relations = Vec::new();
    let Some(mut part) = archive.part(&path)? else { return Ok(relations) };
    loop {
        match part.next()? {
            Event::Start(start) | Event::Empty(start) if start.local_name().as_ref() == b"Relationship" => {
                let Some((id, target)) = attribute(&start, "Id").zip(attribute(&start, "Target")) else {
                    continue;
                };
                let kind = attribute(&start, "Type").unwrap_or_default();
                if relations.len() >= MOST || id.len() + kind.len() + target.len() > LONGEST {
                    return Err(WorkbookError::TooLarge);
                }
                let kind = kind.rsplit('/').next().unwrap_or_default().to_owned();
                relations.push(Relation { id, kind, target: resolve(folder, &target) });
            }
            Event::Eof => return Ok(relations),
            _ => {}
        }
    }
}

/// The first part of a kind.
pub fn target_of<'a>(relations: &'a [Relation], kind: &str) -> Option<&'a str> {
    relations.iter().find(|relation| relation.kind == kind).map(|relation| relation.target.as_str())
}

/// Whether the relation of an id is of one of these kinds.
pub fn is_of_kind(relations: &[Relation], id: &str, kinds: &[&str]) -> bool {
    relations.iter().any(|relation| relation.id == id && kinds.contains(&relation.kind.as_str()))
}

/// The name of a part that is named from within a folder.
pub fn resolve(folder: &str, target: &str) -> String {
    let target = target.replace('\\', "/");
    let from = if target.starts_with('/') { "" } else { folder };
    let mut path: Vec<&str> = Vec::new();
    for step in from.split('/').chain(target.split('/')) {
        match step {
            "" | "." => {}
            ".." => drop(path.pop()),
            step => path.push(step),
        }
    }
    path.join("/")
}

#[cfg(test)]
mod tests {
    #[test]
    fn targets_are_resolved_from_their_folder() {
        for (folder, target, name) in [
            ("", "xl/workbook.xml", "xl/workbook.xml"),
            ("xl", "worksheets/sheet1.xml", "xl/worksheets/sheet1.xml"),
            ("xl", "/xl/worksheets/sheet1.xml", "xl/worksheets/sheet1.xml"),
            ("xl", "./worksheets/../a.xml", "xl/a.xml"),
            ("a/b", "../../../c.xml", "c.xml"),
            ("xl", "worksheets\\sheet1.xml", "xl/worksheets/sheet1.xml"),
        ] {
            assert_eq!(super::resolve(folder, target), name);
        }
    }
}
