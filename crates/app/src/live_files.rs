//! Files that definitions name with `${file:PATH}`: they are read again when they change, so that the next call uses what they
//! hold now.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use penstock_domain::pipeline::Files;

use crate::variables::read_named_by_definition as read;

/// A file is not looked at more often. Calls are: they come by the hundred.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What shows that a file was changed or replaced, also through a link.
#[derive(Clone, PartialEq)]
pub(crate) struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl Stamp {
    pub(crate) fn of(path: &Path) -> std::io::Result<Self> {
        let meta = path.metadata()?;
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&meta);
        #[cfg(not(unix))]
        let inode = 0;
        Ok(Self { modified: meta.modified().ok(), bytes: meta.len(), inode })
    }
}

struct Known {
    looked: Instant,
    stamp: Stamp,
    text: Arc<str>,
    /// Whether it could not be read when it was looked at last.
    fails: bool,
}

/// The files, each as it was read last. There are as many entries as files that definitions name.
#[derive(Default)]
pub struct LiveFiles(Mutex<HashMap<PathBuf, Known>>);

impl Files for LiveFiles {
    /// A file that is being replaced may be missing or half written for a moment: what it held before is used until it can
    /// be read again.
    fn read(&self, path: &Path) -> Result<Arc<str>, String> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(known) = files.get_mut(path) {
            if now.duration_since(known.looked) < LOOK_EVERY {
                return Ok(known.text.clone());
            }
            known.looked = now;
            match Stamp::of(path) {
                Ok(stamp) if stamp == known.stamp => known.is_back(path),
                Ok(stamp) => match read(path) {
                    Ok(text) if !text.is_empty() => {
                        *known = Known { looked: now, stamp, text: text.into(), fails: false };
                        tracing::info!(file = %path.display(), "a file of a definition has changed; calls use it from now on");
                    }
                    Ok(_) => known.fails(path, "it is empty"),
                    Err(error) => known.fails(path, &error.to_string()),
                },
                Err(error) => known.fails(path, &error.to_string()),
            }
            return Ok(known.text.clone());
        }
        let stamp = Stamp::of(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let text: Arc<str> = read(path).map_err(|error| error.to_string())?.into();
        files.insert(path.to_owned(), Known { looked: now, stamp, text: text.clone(), fails: false });
        Ok(text)
    }
}

impl Known {
    /// The file cannot be read. The log has one line for each outage: files are read for each call.
    fn fails(&mut self, path: &Path, error: &str) {
        if !std::mem::replace(&mut self.fails, true) {
            tracing::warn!(file = %path.display(), error, "a file of a definition cannot be read; what it held before is used");
        }
    }

    /// The file is what it was.
    fn is_back(&mut self, path: &Path) {
        if std::mem::take(&mut self.fails) {
            tracing::info!(file = %path.display(), "a file of a definition can be read again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_when_it_changes_and_kept_while_it_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let files = LiveFiles::default();
        assert!(files.read(&file).is_err());
        std::fs::write(&file, "one\n").unwrap();
        assert_eq!(&*files.read(&file).unwrap(), "one");
        let look = || {
            std::thread::sleep(LOOK_EVERY);
            files.read(&file).unwrap()
        };
        std::fs::remove_file(&file).unwrap();
        assert_eq!(&*look(), "one");
        std::fs::write(&file, "").unwrap();
        assert_eq!(&*look(), "one");
        // As Kubernetes replaces what it mounts.
        std::fs::write(folder.path().join("new"), "two").unwrap();
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(folder.path().join("new"), &file).unwrap();
        assert_eq!(&*look(), "two");
    }
}
