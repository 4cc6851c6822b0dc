//! Texts of a dependency: its address, headers and credentials. Files in them are read when a call is made, and
//! what they read of an owner is filled in for each batch. They hold secrets, and are never printed.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::Value;

use super::template::Template;

/// What files hold that definitions name with `${file:PATH}`.
pub trait Files: Send + Sync {
    /// The text of a file as it is now, without the line end behind it.
    ///
    /// # Errors
    /// A sentence that names the file, when it cannot be read.
    fn read(&self, path: &Path) -> Result<Arc<str>, String>;
}

/// No files: each is reported as unreadable.
#[derive(Clone, Copy, Debug)]
pub struct NoFiles;

impl Files for NoFiles {
    fn read(&self, path: &Path) -> Result<Arc<str>, String> {
        Err(format!("{} cannot be read here", path.display()))
    }
}

/// A text of a dependency.
#[derive(Clone)]
pub struct LiveText(Arc<[Part]>);

#[derive(Clone)]
pub(super) enum Part {
    Text(String),
    File(PathBuf),
    /// Reads of the owner.
    Template(Template),
}

impl LiveText {
    pub(super) fn of(parts: Vec<Part>) -> Self {
        Self(parts.into())
    }

    /// Whether it reads something of an owner.
    pub fn reads_owner(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Template(_)))
    }

    /// The same for an owner: nothing of it reads an owner any more.
    ///
    /// # Errors
    /// When the owner lacks something.
    pub(super) fn for_owner(&self, owner: &Value) -> Result<Self, minijinja::Error> {
        if !self.reads_owner() {
            return Ok(self.clone());
        }
        let part = |part: &Part| {
            Ok(match part {
                Part::Template(template) => Part::Text(template.render_text(owner)?),
                other => other.clone(),
            })
        };
        let parts: Result<Vec<Part>, minijinja::Error> = self.0.iter().map(part).collect();
        let parts = parts?;
        // What was filled in is a secret as much as what a file holds.
        let mut whole = vec![Part::Text(String::new())];
        whole.extend(parts);
        Ok(Self::of(whole))
    }

    /// Whether it holds what a file or an owner has.
    pub fn is_secret(&self) -> bool {
        !matches!(&*self.0, [] | [Part::Text(_)])
    }

    /// The text as it is now.
    ///
    /// # Errors
    /// A sentence, when a file cannot be read.
    pub fn text(&self, files: &dyn Files) -> Result<Cow<'_, str>, String> {
        if let [Part::Text(text)] = &*self.0 {
            return Ok(Cow::Borrowed(text));
        }
        let mut whole = String::new();
        for part in self.0.iter() {
            match part {
                Part::Text(text) => whole.push_str(text),
                Part::File(path) => whole.push_str(&files.read(path)?),
                Part::Template(_) => return Err("a value of the owner is not filled in".to_owned()),
            }
        }
        Ok(Cow::Owned(whole))
    }

    /// The text, where it depends on nothing.
    pub(super) fn fixed(&self) -> Option<&str> {
        match &*self.0 {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }
}

impl From<&str> for LiveText {
    fn from(text: &str) -> Self {
        Self::of(vec![Part::Text(text.to_owned())])
    }
}

impl std::fmt::Debug for LiveText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}
