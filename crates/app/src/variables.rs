//! Variables of the environment: a value, or the file that holds it (`NAME_FILE`), and which of them definitions may read.

use std::collections::{BTreeMap, hash_map::DefaultHasher};
use std::hash::{Hash as _, Hasher as _};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use penstock_domain::pipeline::{FILE, Unset, is_object_store_setting, is_own_setting};

use crate::permissions::{Writers, refuse_if_written};
use crate::{Role, Settings, StartError};

/// A secret is a line of text; a larger file is another file than was meant.
const MOST_BYTES: u64 = 64 * 1024;

/// The value of a variable, or what the file of `NAME_FILE` holds.
///
/// # Errors
/// When both are set, or the file cannot be read.
pub fn value(name: &str) -> Result<Option<String>, StartError> {
    let file = std::env::var_os(format!("{name}_FILE")).filter(|file| !file.is_empty());
    match (std::env::var(name).ok(), file) {
        (Some(_), Some(_)) => Err(both(name)),
        (value, None) => Ok(value),
        (None, Some(file)) => read_file(name, Path::new(&file)).map(Some),
    }
}

/// Two values for one variable: nobody can tell which is meant.
pub fn both(name: &str) -> StartError {
    StartError::misuse(format!("{name} and {name}_FILE are both set: keep one of them."))
}

/// What a secret's file holds, without the line end behind it.
///
/// # Errors
/// When it cannot be read, is not text, or is larger than any secret.
pub fn read_file(name: &str, file: &Path) -> Result<String, StartError> {
    read_named(&format!("{name}_FILE"), file, MOST_BYTES)
}

/// A chain of certificates or a bundle of authorities is a few hundred kilobytes; a larger file is another one than was meant.
const MOST_BYTES_OF_DEFINITION: u64 = 1024 * 1024;

/// What a file that a definition names holds, without the line end behind it.
///
/// # Errors
/// When it cannot be read, is not text, is too large, or other users can change it.
pub(crate) fn read_named_by_definition(path: &Path) -> Result<String, StartError> {
    read_named("${file:…}", path, MOST_BYTES_OF_DEFINITION)
}

/// The same of at most `most` bytes; the error begins with `whose`.
fn read_named(whose: &str, file: &Path, most: u64) -> Result<String, StartError> {
    let cannot = |why: String| StartError::new(format!("{whose}: cannot read {}: {why}", file.display()));
    let found = open(file).map_err(|error| cannot(error.to_string()))?;
    // A pipe may never end, and a device never does.
    if !found.metadata().map_err(|error| cannot(error.to_string()))?.is_file() {
        return Err(cannot("it is not a regular file".into()));
    }
    refuse_if_written(file, Writers::GroupAndOthers)
        .map_err(|error| StartError::new(format!("{whose}: {error}")))?;
    let mut text = String::new();
    found.take(most + 1).read_to_string(&mut text).map_err(|error| cannot(error.to_string()))?;
    if text.len() as u64 > most {
        return Err(cannot(format!("it has more than {most} bytes")));
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Opens a file to be read; a pipe that nobody writes to is not waited for.
fn open(file: &Path) -> std::io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default(),
    );
    options.open(file)
}

/// Tells one content of a file from another.
fn hash_of(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Where objects lie, as far as it is known.
#[derive(Clone, Debug)]
enum ObjectStoreKind {
    /// A URL that comes from a file may be any.
    Unknown,
    /// By its URL's scheme; none: a folder.
    Scheme(String),
}

/// What `${NAME}` stands for in a program.
#[derive(Clone, Debug)]
pub struct Variables {
    /// Penstock's own settings that may be read all the same.
    listed: Vec<String>,
    /// Where objects lie: what the object store's client reads (`AWS_*`, …) are Penstock's own settings too.
    object_store: ObjectStoreKind,
    /// What becomes of one without a value.
    pub unset: Unset,
    /// The files that definitions have named, each with a hash of what it held.
    files: Arc<Mutex<BTreeMap<PathBuf, u64>>>,
}

impl Variables {
    /// Those of a program. A program that makes no calls goes without the values that only calls need.
    pub fn of(settings: &Settings, role: Role) -> Self {
        Self::with(settings, if role.makes_calls() { Unset::Refused } else { Unset::Allowed })
    }

    /// Those of a program of which it is known what becomes of one without a value.
    pub fn with(settings: &Settings, unset: Unset) -> Self {
        let object_store = match &settings.object_store_url {
            Some(url) => {
                ObjectStoreKind::Scheme(url.split(':').next().unwrap_or_default().to_ascii_lowercase())
            }
            None if settings.object_store_url_file.is_some() => ObjectStoreKind::Unknown,
            None => ObjectStoreKind::Scheme(String::new()),
        };
        Self { listed: settings.pipeline_variables.clone(), object_store, unset, files: Arc::default() }
    }

    /// Those of no program: every one may stay without a value.
    #[cfg(test)]
    pub fn none() -> Self {
        let object_store = ObjectStoreKind::Scheme(String::new());
        Self { listed: Vec::new(), object_store, unset: Unset::Allowed, files: Arc::default() }
    }

    /// The value that a definition reads. A file that cannot be read is reported here, and counts as no value.
    pub fn lookup(&self, name: &str) -> Option<String> {
        if let Some(path) = name.strip_prefix(FILE) {
            return match read_named_by_definition(Path::new(path)) {
                Ok(text) => {
                    let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
                    files.insert(PathBuf::from(path), hash_of(&text));
                    Some(text)
                }
                // Of a program that makes no calls, files are kept away on purpose.
                Err(_) if self.unset == Unset::Allowed => None,
                Err(error) => {
                    tracing::error!(%error, "a file of a definition has no value");
                    None
                }
            };
        }
        if self.is_kept_back(name) {
            return None;
        }
        value(name).unwrap_or_else(|error| {
            tracing::error!(%error, "a variable of a definition has no value");
            None
        })
    }

    /// Whether a file that definitions have named holds something else than when it was read last. One that cannot be read is being
    /// replaced.
    pub(crate) fn have_files_changed(&self) -> bool {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner).clone();
        files.iter().any(|(file, hash)| {
            read_named_by_definition(file).is_ok_and(|text| !text.is_empty() && hash_of(&text) != *hash)
        })
    }

    /// Whether definitions have named files.
    pub(crate) fn names_files(&self) -> bool {
        !self.files.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Forgets the files that definitions have named: they are about to be read again.
    pub(crate) fn forget_files(&self) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn is_kept_back(&self, name: &str) -> bool {
        let of_object_store = match &self.object_store {
            ObjectStoreKind::Unknown => is_object_store_setting(name, None),
            ObjectStoreKind::Scheme(scheme) => is_object_store_setting(name, Some(scheme)),
        };
        let own = is_own_setting(name) || of_object_store;
        own && !self.listed.iter().any(|listed| listed == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_its_line_and_a_wrong_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "postgres://x\r\n").unwrap();
        assert_eq!(read_file("DATABASE_URL", &file).unwrap(), "postgres://x");
        for wrong in [&b"\xff\xfe"[..], &vec![b'x'; 70_000]] {
            std::fs::write(&file, wrong).unwrap();
            let said = read_file("DATABASE_URL", &file).unwrap_err().to_string();
            assert!(said.starts_with("DATABASE_URL_FILE: cannot read /"), "{said}");
        }
        assert!(read_file("REDIS_URL", &folder.path().join("none")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_secret_is_a_regular_file_that_nobody_else_can_change() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        for wrong in [pipe.as_path(), Path::new("/dev/zero"), folder.path()] {
            let said = read_file("DATABASE_URL", wrong).unwrap_err().to_string();
            assert!(said.contains("not a regular file"), "{said}");
        }
        let file = folder.path().join("secret");
        std::fs::write(&file, "x").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
        let said = read_file("PENSTOCK_ENCRYPTION_KEYS", &file).unwrap_err().to_string();
        assert!(said.starts_with("PENSTOCK_ENCRYPTION_KEYS_FILE: others can write"), "{said}");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(read_file("PENSTOCK_ENCRYPTION_KEYS", &file).unwrap(), "x");
    }

    #[test]
    fn own_settings_are_read_where_they_are_listed() {
        // Every test process has these.
        let all = Variables {
            listed: vec!["OTEL_TRACES_SAMPLER_ARG".into()],
            object_store: ObjectStoreKind::Scheme("s3".into()),
            unset: Unset::Refused,
            files: Arc::default(),
        };
        assert!(all.lookup("PATH").is_some());
        assert_eq!(all.lookup("OTEL_TRACES_SAMPLER_ARG"), value("OTEL_TRACES_SAMPLER_ARG").unwrap());
        assert!(!all.is_kept_back("OTEL_TRACES_SAMPLER_ARG") && all.is_kept_back("OTEL_SERVICE_NAME"));
        // Whose credentials `AWS_*` are depends on where objects lie.
        assert!(all.is_kept_back("AWS_SECRET_ACCESS_KEY") && !all.is_kept_back("AZURE_CLIENT_SECRET"));
        let azure = Variables { object_store: ObjectStoreKind::Scheme("az".into()), ..all.clone() };
        assert!(azure.is_kept_back("AZURE_CLIENT_SECRET") && !azure.is_kept_back("GOOGLE_KEY"));
        let unknown = Variables { object_store: ObjectStoreKind::Unknown, ..all.clone() };
        assert!(unknown.is_kept_back("AZURE_CLIENT_SECRET") && unknown.is_kept_back("GOOGLE_KEY"));
        let files = Variables { object_store: ObjectStoreKind::Scheme("file".into()), ..all };
        assert!(!files.is_kept_back("AWS_SECRET_ACCESS_KEY") && files.is_kept_back("DATABASE_URL"));
    }
}
