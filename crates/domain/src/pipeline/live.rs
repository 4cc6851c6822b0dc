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
    /// An expression, and what it reads: an owner's values; none until they are filled in.
    Template {
        template: Template,
        reads: Option<Value>,
    },
}

impl LiveText {
    pub(super) fn of(parts: Vec<Part>) -> Self {
        Self(parts.into())
    }

    /// Whether it reads something of an owner.
    pub fn reads_owner(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Template { reads: None, .. }))
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
            let Part::Template { template, reads: None } = part else { return Ok(part.clone()) };
            // Made anew for each call: it may read the time. That it can be made is known before.
            template.render_bytes(owner)?;
            Ok(Part::Template { template: template.clone(), reads: Some(owner.clone()) })
        };
        self.0.iter().map(part).collect::<Result<_, _>>().map(Self::of)
    }

    /// Whether it holds what a file or an owner has, or what an expression makes of a variable.
    pub fn is_secret(&self) -> bool {
        !matches!(&*self.0, [] | [Part::Text(_)])
    }

    /// The text as it is now.
    ///
    /// # Errors
    /// A sentence that holds no value, when a file cannot be read or an expression cannot be computed.
    pub fn text(&self, files: &dyn Files) -> Result<Cow<'_, str>, String> {
        if let [Part::Text(text)] = &*self.0 {
            return Ok(Cow::Borrowed(text));
        }
        let mut whole = String::new();
        for part in self.0.iter() {
            match part {
                Part::Text(text) => whole.push_str(text),
                Part::File(path) => whole.push_str(&files.read(path)?),
                Part::Template { template, reads } => {
                    whole.push_str(&template.render_text(filled_in(reads)?).map_err(|_| not_computed())?);
                }
            }
        }
        Ok(Cow::Owned(whole))
    }

    /// The same as bytes: those that an expression which stands alone makes need be no text.
    ///
    /// # Errors
    /// As [`LiveText::text`].
    pub fn bytes(&self, files: &dyn Files) -> Result<Cow<'_, [u8]>, String> {
        if let [Part::Template { template, reads }] = &*self.0 {
            // Nothing must never become an empty key.
            let bytes = template.render_bytes(filled_in(reads)?).ok().flatten().ok_or_else(not_computed)?;
            return Ok(Cow::Owned(bytes));
        }
        Ok(match self.text(files)? {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        })
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

fn filled_in(reads: &Option<Value>) -> Result<&Value, String> {
    reads.as_ref().ok_or_else(|| "a value of the owner is not filled in".to_owned())
}

fn not_computed() -> String {
    "an expression cannot be computed of the values that it reads, or makes no text".to_owned()
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
