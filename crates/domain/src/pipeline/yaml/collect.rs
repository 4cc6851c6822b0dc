//! All errors of a YAML text at once: after each one the text is read again, without the part in which it is.
//!
//! A key that was probably meant as another one is read as that one, and what cannot be missing is replaced, so that the
//! remaining checks find what they need and do not report the same error in other words.

use serde::de::DeserializeOwned;
use serde_saphyr::{Error, Location};

use super::decode::{Reader, TreeError};
use super::node::{Entry, Kind, Node};
use super::{TextPosition, code_of, sentence};
use crate::pipeline::error::{DefinitionError, ErrorCode};
use crate::pipeline::names::nearest;

/// Errors of a file at most: whoever corrects that many asks again.
const MOST: usize = 1000;

/// What stands for a value that is missing or wrong, by its key.
const REPLACEMENTS: [(&str, &str); 10] = [
    ("name", "unset"),
    ("csv", "{ columns: [ { name: unset } ] }"),
    ("columns", "[ { name: unset } ]"),
    ("request", "{ method: GET, path: / }"),
    ("method", "GET"),
    ("path", "/"),
    ("base_url", "https://unset.invalid"),
    ("limit", "1000"),
    ("period", "1s"),
    ("max_failure", "1"),
];

/// What could be read of a text that has errors.
#[derive(Debug)]
pub struct Collected<T> {
    /// What is left when all errors are taken out; none when nothing is.
    pub value: Option<T>,
    /// The errors, in the order in which they were found.
    pub errors: Vec<DefinitionError>,
    /// Keys at the top under which something was taken out: what is missing there may have been in it.
    pub damaged: Vec<String>,
}

/// Reads a text that was found to have an error: that one, when it is not YAML.
pub(crate) fn collect<T: DeserializeOwned>(file: &str, text: &str, first: DefinitionError) -> Collected<T> {
    if first.code == ErrorCode::InvalidYaml {
        return Collected { value: None, errors: vec![first], damaged: Vec::new() };
    }
    let mut collector = Collector { file, text, errors: Vec::new(), damaged: Vec::new() };
    let value = collector.read();
    if collector.errors.is_empty() {
        collector.errors.push(first);
    }
    Collected { value, errors: collector.errors, damaged: collector.damaged }
}

struct Collector<'a> {
    file: &'a str,
    text: &'a str,
    errors: Vec<DefinitionError>,
    damaged: Vec<String>,
}

impl Collector<'_> {
    fn read<T: DeserializeOwned>(&mut self) -> Option<T> {
        let (text, hidden) = self.without_duplicates()?;
        let mut root = Node::parse(&text, &hidden).ok()?;
        while self.errors.len() < MOST {
            match T::deserialize(Reader(&root)) {
                Ok(value) => return Some(value),
                Err(error) => self.repair(&mut root, error)?,
            }
        }
        None
    }

    /// The text with another name for each duplicate key, and the places of these; none when it is no YAML.
    fn without_duplicates(&mut self) -> Option<(String, Vec<(u64, u64)>)> {
        let (mut text, mut hidden) = (self.text.to_owned(), Vec::new());
        // Each letter once, so that a third key of the same name differs from the second.
        for letter in 'A'..='Z' {
            let error = match Node::parse(&text, &[]) {
                Ok(_) => return Some((text, hidden)),
                Err(error) => error,
            };
            let at = error.location()?;
            if !matches!(error.without_snippet(), Error::DuplicateMappingKey { .. }) {
                return None;
            }
            let byte = offset_of(&text, at.line(), at.column())?;
            let byte = byte + usize::from(text[byte..].starts_with(['"', '\'']));
            if !text[byte..].starts_with(|first: char| first.is_ascii_alphanumeric()) {
                return None;
            }
            self.report(at, &error);
            text.replace_range(byte..=byte, &letter.to_string());
            hidden.push((at.line(), at.column()));
        }
        None
    }

    fn report(&mut self, at: Location, error: &Error) {
        let message = sentence(error, &TextPosition::of(self.text, at.line(), at.column()));
        let (line, column) = (at.line().max(1), at.column().max(1));
        self.errors.push(DefinitionError {
            file: self.file.to_owned(),
            line,
            column,
            code: code_of(error),
            message,
        });
    }

    /// Changes the tree so that the error is not found again; none when nothing would be left.
    fn repair(&mut self, root: &mut Node<'_>, mut found: TreeError) -> Option<()> {
        found.path.reverse();
        let path = found.path;
        match (found.error.without_snippet(), found.key) {
            (Error::SerdeUnknownField { field, expected, .. }, Some(index)) => {
                let map = root.map_at(&path)?;
                let meant = nearest(field, expected)
                    .filter(|meant| map.entries.iter().all(|entry| entry.key != *meant));
                let at = map.entries.get(index)?.at;
                match meant {
                    Some(meant) => meant.clone_into(&mut map.entries.get_mut(index)?.key),
                    None => drop(map.entries.remove(index)),
                }
                self.report(at, &found.error);
            }
            (Error::SerdeMissingField { field, .. }, _) => {
                let node = root.at(&path)?;
                let at = node.referenced;
                let known = matches!(&node.kind, Kind::Map(map) if map.removed.contains(*field));
                if !known {
                    self.report(at, &found.error);
                }
                if !self.replace(root, &path, field, at) {
                    self.take_out(root, &path)?;
                }
            }
            _ => {
                let at = root.at(&path)?.referenced;
                self.report(at, &found.error);
                self.take_out(root, &path)?;
            }
        }
        Some(())
    }

    /// Puts a value where one has to be; false when there is none for it.
    fn replace(&mut self, root: &mut Node<'_>, path: &[usize], field: &str, at: Location) -> bool {
        // A column, a step and what else has a name has no other one's.
        if field == "name" && !path.is_empty() {
            return false;
        }
        let Some((_, written)) = REPLACEMENTS.iter().find(|(key, _)| *key == field) else { return false };
        let Ok(value) = Node::parse(written, &[]) else { return false };
        let lost = match path {
            [] => Some(field.to_owned()),
            _ if field == "columns" => top_key(root, path),
            _ => None,
        };
        let Some(map) = root.map_at(path) else { return false };
        map.entries.push(Entry { key: field.to_owned(), at, value: value.moved(at) });
        self.damaged.extend(lost);
        true
    }

    /// Takes the part at the end of a path out; none when that is all there is.
    fn take_out(&mut self, root: &mut Node<'_>, path: &[usize]) -> Option<()> {
        let (last, parents) = path.split_last()?;
        if loses_names(root, path) {
            self.damaged.extend(top_key(root, path));
        }
        match &mut root.at(parents)?.kind {
            Kind::List(items) if *last < items.len() => drop(items.remove(*last)),
            Kind::Map(map) if *last < map.entries.len() => {
                let entry = map.entries.remove(*last);
                map.removed.insert(entry.key);
            }
            _ => return None,
        }
        Some(())
    }
}

/// The key at the top under which a path leads.
fn top_key(root: &Node<'_>, path: &[usize]) -> Option<String> {
    match &root.kind {
        Kind::Map(map) => map.entries.get(*path.first()?).map(|entry| entry.key.clone()),
        _ => None,
    }
}

/// Whether other parts of a definition may name what a path leads to, or be meant for it: a column, a dependency, a step, an output,
/// `bulk`.
fn loses_names(root: &Node<'_>, path: &[usize]) -> bool {
    let top = top_key(root, path);
    let is_read_elsewhere = || match root.part(&path[..path.len().min(2)]).map(|step| &step.kind) {
        Some(Kind::Map(step)) => path
            .get(2)
            .and_then(|entry| step.entries.get(*entry))
            .is_some_and(|entry| ["output", "bulk"].contains(&entry.key.as_str())),
        _ => false,
    };
    match top.as_deref() {
        Some("csv") => path.len() <= 3,
        Some("steps") => path.len() <= 2 || is_read_elsewhere(),
        _ => path.len() <= 2,
    }
}

/// The byte at a line and a column, both from 1.
fn offset_of(text: &str, line: u64, column: u64) -> Option<usize> {
    let index = |number: u64| usize::try_from(number.checked_sub(1)?).ok();
    let whole = text.split_inclusive('\n').take(index(line)?).map(str::len).sum::<usize>();
    let (within, _) = text[whole..].char_indices().nth(index(column)?)?;
    Some(whole + within)
}
