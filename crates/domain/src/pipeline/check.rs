//! What the checks of a definition share: its lines, its variables, and the errors found so far.
#![allow(missing_docs, reason = "private to the loader")]

use std::path::{Path, PathBuf};

use serde_saphyr::{Location, Spanned};

use super::error::{DefinitionError, ErrorCode};
use super::live::{LiveText, Part};
use super::owner::OwnerReads;
use super::secret_values::SecretValues;
use super::vars::{self, Filled, Section, Unset, Unusable};
use super::written::Written;

/// Routes that are not a pipeline's to take.
const RESERVED: [&str; 12] = [
    "/v2/batches",
    "/v2/pipelines",
    "/v2/uploads",
    "/v2/callbacks",
    "/v2/audit",
    "/v2/limits",
    "/v2/operations",
    "/v2/reconcile",
    "/v2/openapi.json",
    "/console",
    "/docs",
    "/metrics",
];

/// Where an error is: a line, and the column when it is known.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    line: u64,
    column: Option<u64>,
}

impl From<u64> for Place {
    fn from(line: u64) -> Self {
        Self { line, column: None }
    }
}

impl From<Location> for Place {
    fn from(at: Location) -> Self {
        Self { line: at.line(), column: Some(at.column()).filter(|column| *column > 0) }
    }
}

/// The column, in characters from 1, of a byte of a line.
fn column_at(line: &str, byte: usize) -> u64 {
    line.get(..byte).map_or(1, |before| before.chars().count() as u64 + 1)
}

/// A definition's text, and the errors found in it.
pub struct Source<'a> {
    file: &'a str,
    text: &'a str,
    vars: &'a (dyn Fn(&str) -> Option<String> + 'a),
    unset: Unset,
    /// Whether a variable without a value was left open since somebody asked.
    left_open: bool,
    /// The values of variables and files, so far.
    pub secrets: SecretValues,
    pub errors: Vec<DefinitionError>,
    /// Keys at the top under which something could not be read: what is missing there is no error of its own.
    damaged: Vec<String>,
    /// Whether one of them leaves a hole in what is made of the text, so that it cannot run.
    pub is_broken: bool,
}

impl<'a> Source<'a> {
    pub fn new(
        file: &'a str,
        text: &'a str,
        vars: &'a (dyn Fn(&str) -> Option<String> + 'a),
        unset: Unset,
    ) -> Self {
        Self {
            file,
            text,
            vars,
            unset,
            left_open: false,
            secrets: SecretValues::default(),
            errors: Vec::new(),
            damaged: Vec::new(),
            is_broken: false,
        }
    }

    /// Whether a variable without a value was left open since the last call.
    pub fn take_left_open(&mut self) -> bool {
        std::mem::take(&mut self.left_open)
    }

    /// What was read of a text with errors: these, and where something is missing because of them.
    pub fn is_damaged_at(&mut self, errors: Vec<DefinitionError>, damaged: Vec<String>) {
        self.is_broken = true;
        self.errors = errors;
        self.damaged = damaged;
    }

    /// Whether something under a key at the top could not be read.
    pub fn is_damaged(&self, key: &str) -> bool {
        self.damaged.iter().any(|damaged| damaged == key)
    }

    /// An error that has to be fixed before anything can be made of the text.
    pub fn broken(&mut self, at: impl Into<Place>, message: String) {
        self.is_broken = true;
        self.error(at, message);
    }

    pub fn error(&mut self, at: impl Into<Place>, message: String) {
        self.error_of(ErrorCode::InvalidValue, at, message);
    }

    pub fn error_of(&mut self, code: ErrorCode, at: impl Into<Place>, message: String) {
        let Place { line, column } = at.into();
        let column = column.unwrap_or_else(|| self.column_of(&message, line));
        let error = DefinitionError { file: self.file.to_owned(), line, column, code, message };
        let known = |other: &DefinitionError| other.line == error.line && other.message == error.message;
        if !self.errors.iter().any(known) {
            self.errors.push(error);
        }
    }

    /// The column of what a message is about, as far as the line shows it: the last of the words between backticks that
    /// stands there, or of a key such as `retry.attempts`, else the beginning of what is written.
    fn column_of(&self, message: &str, line: u64) -> u64 {
        let there = self.line(line);
        let fault = message.split_once("; ").map_or(message, |(fault, _)| fault);
        let quoted = fault.split('`').skip(1).step_by(2).filter(|word| !word.is_empty());
        let keys = fault
            .split(|c: char| c.is_whitespace() || matches!(c, ':' | '`'))
            .filter_map(|word| word.rsplit_once('.').map(|(_, key)| key))
            .filter(|key| !key.is_empty());
        let byte = quoted
            .filter_map(|word| there.find(word))
            .last()
            .or_else(|| keys.filter_map(|key| there.find(key)).next_back())
            .unwrap_or_else(|| there.len() - there.trim_start_matches([' ', '-']).len());
        column_at(there, byte)
    }

    /// The place of a needle within a line; that of the line when it does not stand there.
    fn place_of(&self, needle: &str, line: u64) -> Place {
        let there = self.line(line);
        Place { line, column: there.find(needle).map(|byte| column_at(there, byte)) }
    }

    fn line(&self, number: u64) -> &'a str {
        let index = usize::try_from(number.saturating_sub(1)).unwrap_or(0);
        self.text.lines().nth(index).unwrap_or_default()
    }

    pub fn into_errors(mut self) -> Vec<DefinitionError> {
        self.errors.sort_by_key(|error| (error.line, error.column));
        self.errors
    }

    /// The line of the first place at or after `from` that holds `needle`; `from` when there is none (a folded or
    /// escaped string).
    pub fn line_of(&self, needle: &str, from: u64) -> u64 {
        let skip = usize::try_from(from.saturating_sub(1)).unwrap_or(0);
        let needle = needle.lines().next().unwrap_or_default();
        self.text
            .lines()
            .enumerate()
            .skip(skip)
            .find(|(_, line)| line.contains(needle))
            .map_or(from, |(index, _)| index as u64 + 1)
    }

    /// A value of the definition, with its numbers as they are written.
    pub fn json(&mut self, written: &Spanned<Written>) -> serde_json::Value {
        written.value.json(self.text, written.defined).unwrap_or_else(|error| {
            self.error(error.line, error.message);
            serde_json::Value::Null
        })
    }

    /// The line of a template's own line, which is its `nth`: what stands in a block is counted on, a text that is
    /// folded or quoted over several lines is reported at its first.
    pub fn line_in(&self, written: &str, first: u64, nth: u64) -> u64 {
        let index = |line: u64| usize::try_from(line.saturating_sub(1)).unwrap_or(0);
        let there = self.text.lines().nth(index(first + nth - 1)).unwrap_or_default();
        match written.lines().nth(index(nth)) {
            Some(line) if nth > 1 && !line.trim().is_empty() && there.contains(line.trim()) => {
                first + nth - 1
            }
            _ => first,
        }
    }

    /// A text that is no template, with `${NAME}` filled in; none when one is missing.
    pub fn fill(&mut self, text: &str, line: u64) -> Option<String> {
        let required = self.unset == Unset::Refused;
        let errors = self.errors.len();
        let filled = self.filled(text, line, |lookup| vars::fill(text, lookup));
        filled.filter(|_| !required || self.errors.len() == errors)
    }

    /// A template, with `${NAME}` filled in as text. One that is missing is left open: what the template reads can be
    /// checked without it.
    pub fn fill_template(&mut self, text: &str, line: u64, path: bool) -> Option<Filled> {
        self.filled(text, line, |lookup| vars::fill_template(text, path, lookup))
    }

    /// A text of a dependency; none when a variable or a file is missing. What reads like a template or a variable, and is not
    /// one here, is an error: it would be sent as it stands.
    pub fn live(&mut self, whose: &str, text: &str, line: u64) -> Option<LiveText> {
        self.live_text(whose, text, line, None)
    }

    /// The same of a text that may read the owner; what it reads is added to `reads`.
    pub fn live_of_owner(
        &mut self,
        whose: &str,
        text: &str,
        line: u64,
        reads: &mut OwnerReads,
    ) -> Option<LiveText> {
        self.live_text(whose, text, line, Some(reads))
    }

    fn live_text(
        &mut self,
        whose: &str,
        text: &str,
        line: u64,
        mut reads: Option<&mut OwnerReads>,
    ) -> Option<LiveText> {
        if let Some(name) = vars::bare(text) {
            let message =
                format!("`${name}` would be sent as it stands; write `${{{name}}}` for the variable");
            self.error(line, format!("{whose}: {message}"));
        }
        let sections = self.filled(text, line, |lookup| match vars::sections(text, lookup) {
            Ok(sections) => Ok(sections.map(Ok)),
            Err(Unusable::Unclosed) => Err(vars::Unclosed),
            Err(Unusable::FileInCode) => Ok(Some(Err(()))),
        })?;
        let Ok(sections) = sections else {
            let message = "`${file:…}` stands in an expression; write it outside of `{{ }}`";
            self.broken(line, format!("{whose}: {message}"));
            return None;
        };
        let mut parts = Vec::with_capacity(sections.len());
        for section in sections {
            parts.push(match section {
                Section::Filled(Filled::Plain(text)) => Part::Text(text),
                Section::File(path) => Part::File(self.path(&path)),
                Section::Filled(Filled::Template(text)) => {
                    let made = match &mut reads {
                        Some(reads) => reads.template(text.clone()),
                        None => Err("a template would be sent as it stands here; write a text".to_owned()),
                    };
                    match made {
                        Ok(part) => part,
                        Err(message) => {
                            self.error(line, format!("{whose}: {message}"));
                            Part::Text(text)
                        }
                    }
                }
            });
        }
        Some(LiveText::of(parts))
    }

    /// A file that the definition names; a path that is not absolute begins at its folder.
    fn path(&self, path: &str) -> PathBuf {
        Path::new(self.file).parent().unwrap_or(Path::new("")).join(path)
    }

    fn filled<T>(
        &mut self,
        text: &str,
        line: u64,
        fill: impl FnOnce(vars::Lookup<'_>) -> Result<Option<T>, vars::Unclosed>,
    ) -> Option<T> {
        let mut missing: Vec<String> = Vec::new();
        let (lookup, unset) = (self.vars, self.unset);
        let folder = Path::new(self.file).parent().unwrap_or(Path::new(""));
        let found = |name: &str| match name.strip_prefix(vars::FILE) {
            Some(path) => lookup(&format!("{}{}", vars::FILE, folder.join(path).display())),
            None => lookup(name),
        };
        let secrets = &mut self.secrets;
        let filled = fill(&mut |name| {
            let value = found(name);
            if let Some(path) = name.strip_prefix(vars::FILE) {
                secrets.add_file(folder.join(path));
            }
            value.iter().for_each(|value| secrets.add(value));
            value.or_else(|| {
                // A path of which a part is missing names no file: that part is the mistake.
                let is_incomplete = name.starts_with(vars::FILE)
                    && !text.contains(name)
                    && missing.iter().any(|other| !other.starts_with(vars::FILE));
                if !is_incomplete {
                    missing.push(name.to_owned());
                }
                // A number can stand in text, in quotes and in an expression.
                Some("0".to_owned())
            })
        });
        for name in missing {
            self.left_open = true;
            if unset == Unset::Allowed && !vars::is_own_setting(&name) {
                continue;
            }
            let written = format!("${{{name}}}");
            let at = self.place_of(&written, self.line_of(&written, line));
            self.is_broken = true;
            self.error_of(ErrorCode::MissingVariable, at, vars::why_missing(&name));
        }
        filled.unwrap_or_else(|vars::Unclosed| {
            let at = self.line_of(text, line);
            self.broken(at, "`${` has no closing `}`; write `$${` for the characters themselves".into());
            None
        })
    }

    pub fn check_name(&mut self, what: &str, name: &str, line: u64) {
        let good = !name.is_empty()
            && name.len() <= 64
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
        if !good {
            self.error(line, format!("{what} `{name}`: a name has 1 to 64 of a–z, 0–9, `_` and `-`"));
        }
    }

    pub fn check_route(&mut self, route: &str, line: u64) {
        let plain = route.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-_.~".contains(&b));
        if !route.starts_with("/v2/") || route.len() < 5 || !plain || route.ends_with('/') {
            self.error(line, format!("route `{route}` begins with `/v2/`, has letters, digits and `-_.~/`, and no `/` at its end"));
        } else if RESERVED.iter().any(|taken| route == *taken || route.starts_with(&format!("{taken}/"))) {
            self.error(line, format!("route `{route}` is one of Penstock's own; choose another"));
        }
    }
}
